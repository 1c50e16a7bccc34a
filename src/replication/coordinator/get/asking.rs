//! Whom a get asks what, and when it no longer relies on an answer.

use std::time::Duration;

use bytes::Bytes;

use crate::cluster::Time;
use crate::node_id::NodeId;
use crate::replication::quorum::Tally;
use crate::replication::{Reachability, ReadWant, Request};
use crate::version::Siblings;

use super::super::RETRY_AFTER;
use super::super::panel::Standing;
use super::super::scene::Scene;
use super::Reading;
use super::found::Heard;

/// When a hedge that could not be paid for is thought of again.
const HEDGE_AGAIN_AFTER: Duration = Duration::from_millis(10);
/// Shortest pause between two looks at who is slow.
const HEDGE_PAUSE_MIN: Duration = Duration::from_millis(1);

/// When somebody was asked, and when another one is asked too.
#[derive(Clone, Copy, Debug)]
pub(super) struct Asked {
    pub(super) at: Time,
    pub(super) hedged: Option<Time>,
}

impl Reading {
    /// Asks as many owners as the quorum lacks beside those that are relied on; where there are not as many, who may
    /// stand in for them. Returns how many questions that were.
    pub(super) fn ask_missing(&mut self, key: &Bytes, scene: &mut Scene<'_>) -> usize {
        let mut questions = 0;
        while let Some(owner) = self.panel.next_idle(&scene.view(), self.missing()) {
            let has_state = self.states().next().is_some() || self.state_is_relied_on();
            self.panel.set(owner, Standing::Asked);
            self.ask(key, scene, owner, if has_state { ReadWant::Digest } else { ReadWant::State });
            questions += 1;
        }
        let lacks = self.missing() != Tally::default();
        if lacks && !self.panel.likely(&scene.view()).meets(self.terms.get_answers()) {
            let fallbacks = self.fallbacks.iter().copied();
            for (node, _) in self.panel.seat_stand_ins(&scene.view(), fallbacks) {
                self.asked_state.insert(node);
                self.note_asked(scene, node);
                scene.ask(node, Request::ReadHeld { key: key.clone() });
                questions += 1;
            }
        }
        questions
    }

    /// How many owners the quorum lacks beside those that are relied on.
    fn missing(&self) -> Tally {
        let relied_on = self.panel.count(|node, standing| match standing {
            Standing::Asked | Standing::Answered => !self.is_hedged(node),
            Standing::Idle | Standing::Behind | Standing::Failed(_) => false,
        });
        relied_on.short_of(self.terms.get_answers())
    }

    /// Whether it has kept silent so long that another one is to be asked in its stead.
    fn is_hedged(&self, node: NodeId) -> bool {
        self.asked.get(&node).is_some_and(|asked| asked.hedged.is_none())
    }

    /// For how many owners an answer is there or may come, theirs or a stand-in's that could be asked.
    pub(super) fn possible(&self, scene: &Scene<'_>) -> Tally {
        let mut panel = self.panel.clone();
        panel.seat_stand_ins(&scene.view(), self.fallbacks.iter().copied());
        panel.possible(&scene.view())
    }

    /// Where those that were to tell their state are silent, one that told its digest is asked for its own.
    pub(super) fn ask_another_state(&mut self, key: &Bytes, scene: &mut Scene<'_>) {
        if self.states().next().is_some() || self.state_is_relied_on() {
            return;
        }
        let told_digest = self.heard.keys().find(|owner| !self.asked_state.contains(owner));
        if let Some(owner) = told_digest.copied() {
            self.ask(key, scene, owner, ReadWant::State);
        }
    }

    pub(super) fn ask(
        &mut self,
        key: &Bytes,
        scene: &mut Scene<'_>,
        owner: NodeId,
        want: ReadWant,
    ) {
        if want == ReadWant::State {
            self.asked_state.insert(owner);
        }
        self.note_asked(scene, owner);
        let consistency = self.terms.consistency;
        scene.ask(owner, Request::Read { key: key.clone(), want, consistency });
    }

    fn note_asked(&mut self, scene: &mut Scene<'_>, node: NodeId) {
        let at = scene.view().now;
        let hedged = Some(at.after(scene.pace().patience(&node)));
        self.asked.insert(node, Asked { at, hedged });
    }

    /// Asks to be woken when the first of those asked has taken long enough.
    pub(super) fn wake_to_hedge(&self, scene: &mut Scene<'_>) {
        let behind = self.panel.standing(Standing::Behind).next().map(|_| RETRY_AFTER);
        let now = scene.view().now;
        let slow = self.asked.values().filter_map(|asked| asked.hedged).map(|at| at.since(now));
        if let Some(first) = slow.chain(behind).min() {
            scene.wake_after(first.max(HEDGE_PAUSE_MIN));
        }
    }

    /// Relies no longer on those who have taken longer than they usually do, as far as each may be hedged by another
    /// question. One that has gone silent is not hedged but replaced: that costs nothing extra.
    pub(super) fn hedge_overdue(&mut self, scene: &mut Scene<'_>) {
        let view = scene.view();
        for (node, asked) in &mut self.asked {
            if asked.hedged.is_none_or(|at| view.now < at) {
                continue;
            }
            let is_silent = view.reachability(*node) != Reachability::Up;
            if is_silent || scene.pace().take_extra() {
                asked.hedged = None;
            } else {
                asked.hedged = Some(view.now.after(HEDGE_AGAIN_AFTER));
            }
        }
    }

    fn states(&self) -> impl Iterator<Item = &Siblings> {
        self.heard.values().filter_map(|heard| match heard {
            Heard::State(state) => Some(state),
            Heard::Digest { .. } => None,
        })
    }

    /// Whether a state was asked for that may still come.
    pub(super) fn state_comes(&self) -> bool {
        self.asked_state.iter().any(|asked| self.is_pending(*asked))
    }

    /// The same of one that is relied on.
    fn state_is_relied_on(&self) -> bool {
        self.asked_state.iter().any(|asked| self.is_pending(*asked) && !self.is_hedged(*asked))
    }
}
