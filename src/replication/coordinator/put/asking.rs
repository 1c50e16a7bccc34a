//! Whom a put asks what: owners first, then who stands in for them, then who gains the key by a change.

use std::time::Duration;

use crate::node_id::NodeId;
use crate::replication::Request;
use crate::replication::quorum::Tally;

use super::super::panel::{Panel, Standing};
use super::super::scene::{Scene, count};
use super::wanted::Wanted;
use super::{Phase, Writing};

/// When a put looks whether owners have gone silent that others may stand in for.
const LOOK_AGAIN_AFTER: Duration = Duration::from_millis(100);

impl Writing {
    /// What this phase asks of the owners.
    pub(super) fn question(&self, wanted: &Wanted) -> Option<Request> {
        match &self.phase {
            Phase::Recalling(_) => wanted.recall(),
            Phase::Spreading(spread) => Some(spread.question(wanted)),
            Phase::Minting { .. } => None,
        }
    }

    /// Asks all that can be asked and were not, and where they are too few those who may stand in for the others.
    ///
    /// A sloppy put counts no word of those who gain the key. They are sent what is written all the same; before that they
    /// are asked nothing, as what they remember is younger than the change. They come last, so that one of them can
    /// stand in where nobody else is left.
    pub(super) fn ask_all(&mut self, wanted: &Wanted, scene: &mut Scene<'_>) {
        self.ask_idle(wanted, scene, Panel::owns_now);
        self.ask_stand_ins(wanted, scene);
        let counts_gainers = 0 < self.needed(wanted).next;
        if counts_gainers || !self.is_recalling() {
            self.ask_idle(wanted, scene, |_, _| true);
        }
    }

    fn ask_idle(
        &mut self,
        wanted: &Wanted,
        scene: &mut Scene<'_>,
        is_asked: impl Fn(&Panel, NodeId) -> bool,
    ) {
        let idle = self.panel.standing(Standing::Idle).filter(|owner| scene.view().can_ask(*owner));
        let idle: Vec<NodeId> = idle.filter(|owner| is_asked(&self.panel, *owner)).collect();
        if idle.is_empty() {
            return;
        }
        let Some(request) = self.question(wanted) else { return };
        for owner in idle {
            self.panel.set(owner, Standing::Asked);
            scene.ask(owner, request.clone());
        }
    }

    /// Has others stand in for the owners that cannot be reached or have failed, as far as the quorum wants them.
    pub(super) fn ask_stand_ins(&mut self, wanted: &Wanted, scene: &mut Scene<'_>) {
        if self.panel.likely(&scene.view()).meets(self.needed(wanted))
            || self.question(wanted).is_none()
        {
            return;
        }
        let fallbacks = self.fallbacks.iter().copied();
        for (node, _) in self.panel.seat_stand_ins(&scene.view(), fallbacks) {
            self.ask_in_stead(wanted, scene, node);
        }
    }

    /// Asks `node` what this phase asks of who stands in for an owner, if it does.
    pub(super) fn ask_in_stead(&self, wanted: &Wanted, scene: &mut Scene<'_>, node: NodeId) {
        let owner = self.panel.stands_in_for(node);
        if let Some(request) = owner.and_then(|owner| self.question_in_stead_of(wanted, owner)) {
            scene.ask(node, request);
        }
    }

    /// For how many owners an answer is there or may come, theirs or a stand-in's that could be asked.
    pub(super) fn possible(&self, scene: &Scene<'_>) -> Tally {
        let mut panel = self.panel.clone();
        panel.seat_stand_ins(&scene.view(), self.fallbacks.iter().copied());
        panel.possible(&scene.view())
    }

    /// What this phase asks of who stands in for `owner`.
    fn question_in_stead_of(&self, wanted: &Wanted, owner: NodeId) -> Option<Request> {
        let key = wanted.key.clone();
        match &self.phase {
            Phase::Recalling(_) => Some(Request::ReadHeld { key }),
            Phase::Spreading(spread) => {
                let (state, put) = (spread.state.clone(), spread.tag(wanted));
                Some(Request::Hold { key, state, put, target: owner, w: count(self.terms.now.w) })
            }
            Phase::Minting { .. } => None,
        }
    }

    /// Has a look at the owners a while later, where others may stand in for them.
    pub(super) fn look_again(&self, scene: &mut Scene<'_>) {
        if !self.fallbacks.is_empty() {
            scene.wake_after(LOOK_AGAIN_AFTER);
        }
    }
}
