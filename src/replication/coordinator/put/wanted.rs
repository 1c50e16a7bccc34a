//! What a client wants of a put, and what that comes to under one layout.

use std::time::Duration;

use bytes::Bytes;

use crate::node_id::NodeId;
use crate::replication::quorum::Terms;
use crate::replication::{
    Consistency, Failure, FailureKind, Level, PutBasis, Reachability, Request, WriteOutcome,
};
use crate::ring::Token;
use crate::version::{Basis, Content, RequestId, Siblings};

use super::super::panel::{Panel, Standing};
use super::super::scene::Scene;

/// What the client wants.
#[derive(Debug)]
pub(in super::super) struct Wanted {
    pub(in super::super) key: Bytes,
    pub(in super::super) aim: Aim,
    pub(in super::super) w: Option<Level>,
    pub(in super::super) r: Option<Level>,
    pub(in super::super) consistency: Option<Consistency>,
}

/// What the owners shall hold afterwards.
#[derive(Debug)]
pub(in super::super) enum Aim {
    /// A new version.
    Write(Write),
    /// All that this state from elsewhere knows; nothing is minted.
    State(Siblings),
}

/// A version to be minted.
#[derive(Debug)]
pub(in super::super) struct Write {
    pub(in super::super) content: Content,
    pub(in super::super) basis: PutBasis,
    pub(in super::super) request: RequestId,
    pub(in super::super) age: Duration,
}

/// What a put has to do with under one layout.
#[derive(Debug)]
pub(super) struct Resolved {
    pub(super) terms: Terms,
    pub(super) panel: Panel,
    pub(super) fallbacks: Vec<NodeId>,
    pub(super) stands_in_for: Option<NodeId>,
}

/// Which version of a put is minted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Minting {
    /// One that is folded once where it did not cover what was there.
    Foldable,
    /// The only one, or the fold.
    Final,
}

/// What owners said before anything was written.
#[derive(Debug)]
pub(super) struct Recalled {
    pub(super) state: Siblings,
    pub(super) known: bool,
    pub(super) memory: Duration,
}

impl Wanted {
    /// The version to be minted, if one is.
    const fn write(&self) -> Option<&Write> {
        match &self.aim {
            Aim::Write(write) => Some(write),
            Aim::State(_) => None,
        }
    }

    /// The version to be minted, where one is: a state from elsewhere goes to the owners at once.
    pub(super) fn minted(&self) -> &Write {
        self.write().expect("nothing is recalled or minted for a state from elsewhere")
    }

    /// The client's name for the version to be minted, if one is.
    pub(super) fn request(&self) -> Option<RequestId> {
        self.write().map(|write| write.request)
    }

    pub(super) fn is_plain(&self) -> bool {
        self.write().is_some_and(Write::is_plain)
    }

    /// Whether owners are asked before anything is written.
    pub(super) fn is_recalled(&self) -> bool {
        self.write().is_some_and(Write::is_recalled)
    }

    /// What became of this put before this try did anything: an earlier try may have written it.
    pub(super) fn outcome_before(&self) -> WriteOutcome {
        if self.write().is_some_and(Write::is_retry) {
            WriteOutcome::Unknown
        } else {
            WriteOutcome::NotApplied
        }
    }

    pub(super) fn resolve(&self, scene: &Scene<'_>) -> Result<Resolved, Failure> {
        let view = scene.view();
        let refused = |kind| Failure::refused(kind, Some(self.outcome_before()));
        let terms = Terms::of_put(view.rings(), self.w, self.r, self.consistency)
            .map_err(|text| refused(FailureKind::Usage(text)))?;
        let slot = Token::of(&self.key).slot();
        let walk = view.preferences.of_slot(slot);
        let fallbacks = if terms.takes_stand_ins() { view.fallbacks(slot) } else { Vec::new() };
        let mut panel = Panel::of_both(&view, slot);
        let mut stands_in_for = None;
        if !walk.owns(view.me) {
            let is_reachable = |owner| view.reachability(owner) == Reachability::Up;
            if walk.owners().any(is_reachable) || !fallbacks.contains(&view.me) {
                return Err(refused(FailureKind::NotCoordinator));
            }
            stands_in_for = walk.owners().next();
        }
        if let Some(owner) = stands_in_for {
            panel.seat(view.me, owner, Standing::Asked);
        }
        Ok(Resolved { terms, panel, fallbacks, stands_in_for })
    }

    /// Whether owners know it, asked before anything is written.
    pub(super) fn recall(&self) -> Option<Request> {
        let (key, request) = (self.key.clone(), self.request()?);
        Some(Request::Recall { key, request, plain: self.is_plain() })
    }
}

impl Write {
    fn is_plain(&self) -> bool {
        self.basis == PutBasis::Present
    }

    const fn is_retry(&self) -> bool {
        !self.age.is_zero()
    }

    pub(super) const fn is_recalled(&self) -> bool {
        self.is_retry() || matches!(self.basis, PutBasis::IfContext(_))
    }

    /// Whether a conditional put must not be done beside `state`.
    pub(super) fn is_stale_beside(&self, state: &Siblings) -> bool {
        match &self.basis {
            PutBasis::IfContext(clock) => {
                state.versions().keys().any(|version| !clock.covers(*version))
            }
            PutBasis::Present | PutBasis::Context(_) | PutBasis::Blind => false,
        }
    }

    /// The mint of a first try without a condition.
    pub(super) fn first_mint(&self) -> (Minting, Basis, Option<Siblings>) {
        match &self.basis {
            PutBasis::Present => (Minting::Foldable, Basis::Own, None),
            PutBasis::Context(clock) | PutBasis::IfContext(clock) => {
                (Minting::Final, Basis::Clock(clock.clone()), None)
            }
            PutBasis::Blind => (Minting::Final, Basis::Blind, None),
        }
    }

    /// The mint of a put that none of those recalled knows.
    pub(super) fn recalled_mint(&self, recalled: &Recalled) -> (Minting, Basis, Option<Siblings>) {
        if !self.is_plain() {
            return self.first_mint();
        }
        if recalled.memory < self.age {
            return (Minting::Final, Basis::Blind, None);
        }
        let state = recalled.state.clone();
        (Minting::Foldable, Basis::Clock(state.clock().clone()), Some(state))
    }
}
