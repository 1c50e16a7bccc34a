//! A put's state on its way to all owners, and what they say to it.

use crate::node_id::NodeId;
use crate::replication::{Acknowledgement, Known, PutTag, Request};
use crate::version::{Basis, Dot, Siblings, VectorClock};

use super::wanted::{Minting, Wanted};

/// A state on its way to all owners.
#[derive(Debug)]
pub(super) struct Spread {
    pub(super) state: Siblings,
    /// The version that is spread; `None` for a put that was known already.
    pub(super) minted: Option<Version>,
    /// What owners held that the version did not cover.
    pub(super) uncovered: Option<Siblings>,
    /// Whether an owner knew the put under another name.
    pub(super) known: bool,
}

#[derive(Clone, Copy, Debug)]
pub(super) struct Version {
    pub(super) dot: Dot,
    pub(super) kind: Minting,
    /// The round its mint was asked for under.
    pub(super) round: u8,
    /// In whose hint it stands; `None` in the own data.
    pub(super) held_for: Option<NodeId>,
    /// Whether the own state is durable.
    pub(super) durable: bool,
}

impl Spread {
    pub(super) fn question(&self, wanted: &Wanted) -> Request {
        let (key, state) = (wanted.key.clone(), self.state.clone());
        Request::Merge { key, state, put: self.tag(wanted) }
    }

    pub(super) fn tag(&self, wanted: &Wanted) -> Option<PutTag> {
        let (version, request) = (self.minted?, wanted.request()?);
        Some(PutTag { request, dot: version.dot, plain: version.kind == Minting::Foldable })
    }

    /// Takes note of one acknowledgement; returns the state of an owner that knew the put under another name.
    pub(super) fn acknowledged(&mut self, acknowledgement: Acknowledgement) -> Option<Siblings> {
        if let Some(state) = acknowledgement.uncovered {
            self.uncovered.get_or_insert_default().merge(&state, &mut Vec::new());
        }
        match acknowledgement.known {
            Known::No { .. } => None,
            Known::Done(state) => {
                self.known = true;
                Some(state)
            }
        }
    }

    /// The version that replaces what owners held beside the first one. Where an owner knew the put, it was done before,
    /// and what stands there may be younger: nothing is replaced then.
    pub(super) fn fold(&self) -> Option<(Minting, Basis, Option<Siblings>)> {
        let uncovered = self.uncovered.as_ref()?;
        let foldable = self.minted.is_some_and(|version| version.kind == Minting::Foldable);
        if self.known || !foldable {
            return None;
        }
        let mut seen: VectorClock = self.state.clock().clone();
        seen.merge(uncovered.clock());
        Some((Minting::Final, Basis::Clock(seen), Some(uncovered.clone())))
    }
}
