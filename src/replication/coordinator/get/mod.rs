//! A get: the full state from one owner, digests from the others; where they differ the states, merged.
//!
//! ```text
//! reading --enough owners agree, or the merge need not be held--> answered (repairs on the side)
//! reading --enough owners known, too few hold the merge--> writing back --held--> answered
//! ```
//! A strict get answers only with what N−r+1 owners hold durably, else a later one that meets none of them would go
//! back. A sloppy one tries the same where its label can gain by it, but is content with what it reached.
//!
//! While a change of the layout runs a strict get wants both, answers and holders, in each of the key's two sets of
//! owners; a sloppy one asks those of the ring in force.

mod asking;
mod found;

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use bytes::Bytes;

use crate::node_id::NodeId;
use crate::replication::quorum::{Tally, Terms};
use crate::replication::{
    Answer, Consistency, FailedWhy, Failure, FailureKind, Got, Level, Outcome, ReadWant, Refusal,
    Request,
};
use crate::ring::{Slot, Token};
use crate::version::Siblings;

use super::RETRY_AFTER;
use super::panel::{Panel, Standing};
use super::scene::{Happening, Machine, Progress, Scene, count};
use asking::Asked;
use found::{Found, Heard};

/// What the client wants.
#[derive(Debug)]
pub(super) struct Wanted {
    pub(super) key: Bytes,
    pub(super) r: Option<Level>,
    pub(super) consistency: Option<Consistency>,
    pub(super) compares_all: bool,
}

/// One get.
#[derive(Debug)]
pub(super) struct Get {
    wanted: Wanted,
    /// Set once it has begun.
    reading: Option<Reading>,
}

#[derive(Debug)]
struct Reading {
    slot: Slot,
    terms: Terms,
    panel: Panel,
    /// Who may stand in for an owner, nearest first; nobody in a strict get.
    fallbacks: Vec<NodeId>,
    heard: BTreeMap<NodeId, Heard>,
    /// Owners that were asked for their state.
    asked_state: BTreeSet<NodeId>,
    /// Owners that do not know yet whether they hold all they should.
    unpromised: BTreeSet<NodeId>,
    /// Who has not answered yet.
    asked: BTreeMap<NodeId, Asked>,
    /// Whether all other owners are compared, too, once the reply is there.
    compares_all: bool,
    phase: Phase,
}

#[derive(Debug)]
enum Phase {
    Reading,
    WritingBack {
        found: Found,
        panel: Panel,
    },
    /// The client has its reply.
    Answered {
        merged: Siblings,
        /// Owners that hold it, or were sent it.
        holders: BTreeSet<NodeId>,
    },
}

impl Get {
    pub(super) const fn new(wanted: Wanted) -> Self {
        Self { wanted, reading: None }
    }

    fn begin(&mut self, scene: &mut Scene<'_>) -> Progress {
        let view = scene.view();
        let Wanted { key, r, consistency, compares_all } = &self.wanted;
        let terms = match Terms::of_get(view.rings(), *r, *consistency) {
            Ok(terms) => terms,
            Err(text) => {
                return Progress::Finished(Err(Failure::refused(FailureKind::Usage(text), None)));
            }
        };
        let slot = Token::of(key).slot();
        let fallbacks = if terms.takes_stand_ins() { view.fallbacks(slot) } else { Vec::new() };
        let reading = Reading {
            slot,
            terms,
            panel: Panel::of_both(&view, slot),
            fallbacks,
            heard: BTreeMap::new(),
            asked_state: BTreeSet::new(),
            unpromised: BTreeSet::new(),
            asked: BTreeMap::new(),
            compares_all: *compares_all,
            phase: Phase::Reading,
        };
        let reading = self.reading.insert(reading);
        scene.next_round();
        if !reading.possible(scene).meets(terms.get_answers()) {
            return reading.unmet(scene);
        }
        for _ in 0..reading.ask_missing(key, scene) {
            scene.pace().asked();
        }
        reading.wake_to_hedge(scene);
        Progress::Waiting
    }
}

impl Machine for Get {
    fn handle(&mut self, scene: &mut Scene<'_>, happening: Happening) -> Progress {
        let Self { wanted: Wanted { key, .. }, reading } = self;
        let Some(reading) = reading else { return self.begin(scene) };
        match happening {
            Happening::Begun | Happening::LayoutChanged => self.begin(scene),
            Happening::Answered { .. } | Happening::Failed { .. } if !scene.is_present() => {
                Progress::Waiting
            }
            Happening::Answered { from, answer } => reading.answered(key, scene, from, answer),
            Happening::Failed { from, why } => reading.failed(key, scene, from, why),
            Happening::Unreachable(node) => {
                if reading.is_pending(node) {
                    reading.failed(key, scene, node, FailedWhy::Unreachable)
                } else {
                    Progress::Waiting
                }
            }
            Happening::Timer => reading.hedge(key, scene),
            Happening::Minted(_) | Happening::MintDurable { .. } => Progress::Waiting,
        }
    }

    fn expired(&mut self, scene: &mut Scene<'_>) -> Result<Outcome, Failure> {
        let Some(reading) = &mut self.reading else {
            return Err(Failure::refused(FailureKind::QuorumUnmet, None));
        };
        match (&reading.phase, reading.terms.consistency) {
            (Phase::WritingBack { found, .. }, Consistency::Sloppy) => {
                Ok(Outcome::Got(reading.got(found)))
            }
            (Phase::Reading | Phase::WritingBack { .. } | Phase::Answered { .. }, _) => {
                Err(reading.failure(scene))
            }
        }
    }
}

impl Reading {
    fn is_pending(&self, node: NodeId) -> bool {
        match &self.phase {
            Phase::Reading | Phase::Answered { .. } => {
                self.panel.is_pending(node)
                    || (self.asked_state.contains(&node)
                        && matches!(self.heard.get(&node), Some(Heard::Digest { .. })))
            }
            Phase::WritingBack { panel, .. } => panel.is_pending(node),
        }
    }

    fn answered(
        &mut self,
        key: &Bytes,
        scene: &mut Scene<'_>,
        from: NodeId,
        answer: Answer,
    ) -> Progress {
        if let Some(asked) = self.asked.remove(&from) {
            let now = scene.view().now;
            let at = Duration::from_nanos(now.monotonic);
            scene.pace().heard(from, now.since(asked.at), at);
        }
        match answer {
            Answer::State(state) => self.heard_of(key, scene, from, Heard::State(state)),
            Answer::Unpromised(state) => {
                self.unpromised.insert(from);
                self.heard_of(key, scene, from, Heard::State(state))
            }
            Answer::Digest { digest, absent } => {
                // The state may have come first: it says more.
                if matches!(self.heard.get(&from), Some(Heard::State(_))) {
                    return Progress::Waiting;
                }
                self.heard_of(key, scene, from, Heard::Digest { digest, absent })
            }
            Answer::Merged(_) => self.written_back(scene, from),
            Answer::Refused(Refusal::Layout { .. }) if self.panel.stands_in_for(from).is_none() => {
                self.behind(key, scene, from)
            }
            Answer::Refused(refusal) => self.failed(key, scene, from, FailedWhy::from(&refusal)),
            Answer::Recalled { .. } | Answer::Range(_) | Answer::Compared(_) | Answer::Cut(_) => {
                Progress::Waiting
            }
        }
    }

    fn heard_of(
        &mut self,
        key: &Bytes,
        scene: &mut Scene<'_>,
        from: NodeId,
        heard: Heard,
    ) -> Progress {
        self.panel.set(from, Standing::Answered);
        match &self.phase {
            Phase::Reading => {
                self.heard.insert(from, heard);
                self.advance(key, scene)
            }
            Phase::WritingBack { .. } => Progress::Waiting,
            Phase::Answered { .. } => {
                self.compare_late(key, scene, from, heard);
                self.linger()
            }
        }
    }

    /// An owner answers after the reply. Where it holds something else, its state is asked for: each side gets what it
    /// lacks.
    fn compare_late(&mut self, key: &Bytes, scene: &mut Scene<'_>, from: NodeId, heard: Heard) {
        let speaks_as_owner = self.speaks_as_owner(from);
        let Phase::Answered { merged, holders } = &mut self.phase else { return };
        if !speaks_as_owner || heard.digest() == merged.digest() {
            return;
        }
        let Heard::State(state) = heard else {
            self.panel.set(from, Standing::Asked);
            return self.ask(key, scene, from, ReadWant::State);
        };
        let before = merged.digest();
        merged.merge(&state, &mut Vec::new());
        if merged.digest() != before {
            for holder in holders.iter() {
                scene.ask_aside(*holder, repair(key, merged));
            }
        }
        if merged.digest() != state.digest() {
            scene.ask_aside(from, repair(key, merged));
        }
        holders.insert(from);
    }

    /// Goes on once enough owners are known; else asks for the states behind digests that no state explains.
    fn advance(&mut self, key: &Bytes, scene: &mut Scene<'_>) -> Progress {
        let found = self.found();
        if self.known(&found).meets(self.terms.get_answers()) {
            return self.conclude(key, scene, found);
        }
        let unexplained: Vec<NodeId> = self
            .heard
            .keys()
            .filter(|owner| !found.answered.contains(owner) && !self.asked_state.contains(owner))
            .copied()
            .collect();
        // Without any state the first one asked for explains as much as any other: one is enough to begin with.
        let begin_with = match (found.answered.is_empty(), self.state_comes()) {
            (true, true) => 0,
            (true, false) => 1,
            (false, _) => unexplained.len(),
        };
        for owner in unexplained.into_iter().take(begin_with) {
            self.ask(key, scene, owner, ReadWant::State);
        }
        if !self.possible(scene).meets(self.terms.get_answers()) {
            return self.unmet(scene);
        }
        Progress::Waiting
    }

    fn found(&self) -> Found {
        Found::of(&self.heard, |node| self.speaks_as_owner(node))
    }

    /// For how many owners the state is known, theirs or a stand-in's.
    fn known(&self, found: &Found) -> Tally {
        self.panel.count(|node, _| found.answered.contains(&node))
    }

    /// How many owners hold the merge.
    fn held(&self, found: &Found) -> Tally {
        self.panel.count_owners(|node| found.holders.contains(&node))
    }

    /// How many owners' states are part of the merge.
    fn owners_heard(&self, found: &Found) -> Tally {
        self.panel.count_owners(|node| found.owners_heard.contains(&node))
    }

    /// Whether what this node said counts as an owner's word: no stand-in's, and no owner's that may lack what it held.
    fn speaks_as_owner(&self, node: NodeId) -> bool {
        self.panel.stands_in_for(node).is_none() && !self.unpromised.contains(&node)
    }

    fn conclude(&mut self, key: &Bytes, scene: &mut Scene<'_>, found: Found) -> Progress {
        let must_hold = match self.terms.consistency {
            Consistency::Strict => true,
            Consistency::Sloppy => self.terms.can_be_strict(self.owners_heard(&found)),
        };
        if !must_hold || self.held(&found).meets(self.terms.holders()) {
            for owner in &found.stale {
                scene.ask_aside(*owner, repair(key, &found.merged));
            }
            if self.compares_all {
                let (idle, view) = (self.panel.standing(Standing::Idle), scene.view());
                for owner in idle.filter(|owner| view.can_ask(*owner)).collect::<Vec<_>>() {
                    self.panel.set(owner, Standing::Asked);
                    self.ask(key, scene, owner, ReadWant::Digest);
                }
            }
            return self.finish(found);
        }
        scene.next_round();
        let mut panel = Panel::of_both(&scene.view(), self.slot);
        for holder in &found.holders {
            panel.set(*holder, Standing::Answered);
        }
        for owner in &found.stale {
            panel.set(*owner, Standing::Asked);
            scene.ask(*owner, repair(key, &found.merged));
        }
        scene.wake_after(RETRY_AFTER);
        self.phase = Phase::WritingBack { found, panel };
        Progress::Waiting
    }

    fn written_back(&mut self, scene: &mut Scene<'_>, from: NodeId) -> Progress {
        if let Phase::WritingBack { found, panel } = &mut self.phase {
            panel.set(from, Standing::Answered);
            found.holders.insert(from);
        }
        self.write_on(scene)
    }

    /// Answers once enough owners hold the merge, or no more can.
    fn write_on(&mut self, scene: &mut Scene<'_>) -> Progress {
        let Phase::WritingBack { found, panel } = &self.phase else { return Progress::Waiting };
        let wanted = self.terms.holders();
        let held = panel.answered().meets(wanted);
        if !held && panel.possible(&scene.view()).meets(wanted) {
            return Progress::Waiting;
        }
        if !held && self.terms.consistency == Consistency::Strict {
            return self.unmet(scene);
        }
        Progress::Finished(Ok(Outcome::Got(self.got(found))))
    }

    /// Asks another owner for each that is silent, as far as there are any.
    fn hedge(&mut self, key: &Bytes, scene: &mut Scene<'_>) -> Progress {
        match &mut self.phase {
            Phase::Answered { .. } => return Progress::Waiting,
            Phase::Reading => {
                let behind: Vec<NodeId> = self.panel.standing(Standing::Behind).collect();
                for owner in behind {
                    self.panel.set(owner, Standing::Asked);
                    self.ask(key, scene, owner, ReadWant::State);
                }
                self.hedge_overdue(scene);
                self.ask_another_state(key, scene);
                self.ask_missing(key, scene);
                self.wake_to_hedge(scene);
                return Progress::Waiting;
            }
            Phase::WritingBack { found, panel } => {
                let behind = panel.standing(Standing::Behind).collect::<Vec<_>>();
                // All that were asked have been silent for a while.
                let missing = panel.answered().short_of(self.terms.holders());
                for owner in behind.into_iter().chain(panel.next_idle(&scene.view(), missing)) {
                    panel.set(owner, Standing::Asked);
                    scene.ask(owner, repair(key, &found.merged));
                }
            }
        }
        scene.wake_after(RETRY_AFTER);
        Progress::Waiting
    }

    fn behind(&mut self, key: &Bytes, scene: &mut Scene<'_>, from: NodeId) -> Progress {
        match &mut self.phase {
            Phase::Reading => {
                self.heard.remove(&from);
                self.panel.set(from, Standing::Behind);
                self.ask_missing(key, scene);
                self.wake_to_hedge(scene);
            }
            Phase::WritingBack { panel, .. } => {
                panel.set(from, Standing::Behind);
            }
            Phase::Answered { .. } => {}
        }
        Progress::Waiting
    }

    /// Replaces an owner that will not answer by the next one, at once.
    fn failed(
        &mut self,
        key: &Bytes,
        scene: &mut Scene<'_>,
        from: NodeId,
        why: FailedWhy,
    ) -> Progress {
        self.asked.remove(&from);
        match &mut self.phase {
            Phase::Reading => {
                self.heard.remove(&from);
                self.panel.set(from, Standing::Failed(why));
                self.ask_missing(key, scene);
                self.advance(key, scene)
            }
            Phase::WritingBack { found, panel } => {
                panel.set(from, Standing::Failed(why));
                let wanted = self.terms.holders();
                while let Some(owner) =
                    panel.next_idle(&scene.view(), panel.coming().short_of(wanted))
                {
                    panel.set(owner, Standing::Asked);
                    scene.ask(owner, repair(key, &found.merged));
                }
                self.write_on(scene)
            }
            Phase::Answered { .. } => {
                self.panel.set(from, Standing::Failed(why));
                self.linger()
            }
        }
    }

    fn finish(&mut self, found: Found) -> Progress {
        let result = Ok(Outcome::Got(self.got(&found)));
        let holders = found.holders.into_iter().chain(found.stale).collect();
        self.phase = Phase::Answered { merged: found.merged, holders };
        if self.awaits_late_answers() {
            Progress::Lingering(result)
        } else {
            Progress::Finished(result)
        }
    }

    fn linger(&self) -> Progress {
        if self.awaits_late_answers() { Progress::Waiting } else { Progress::Over }
    }

    fn awaits_late_answers(&self) -> bool {
        self.panel.standing(Standing::Asked).next().is_some()
    }

    fn got(&self, found: &Found) -> Got {
        Got {
            state: found.merged.clone(),
            answered: found.answered.clone(),
            stand_ins: self.panel.stood_in(),
            absent: count(found.absent),
            needed: count(self.terms.get_answers().now),
            stale: found.stale.clone(),
            guarantee: self.terms.of_answer(self.owners_heard(found), self.held(found)),
        }
    }

    fn unmet(&self, scene: &Scene<'_>) -> Progress {
        Progress::Finished(Err(self.failure(scene)))
    }

    fn failure(&self, scene: &Scene<'_>) -> Failure {
        let (needed, panel) = match &self.phase {
            Phase::Reading | Phase::Answered { .. } => (self.terms.get_answers(), &self.panel),
            Phase::WritingBack { panel, .. } => (self.terms.holders(), panel),
        };
        scene.unmet(panel, needed, panel.standing(Standing::Answered).collect(), None)
    }
}

/// Merge without a tag: it stems from no put.
fn repair(key: &Bytes, merged: &Siblings) -> Request {
    Request::Merge { key: key.clone(), state: merged.clone(), put: None }
}
