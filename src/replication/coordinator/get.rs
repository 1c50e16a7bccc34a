//! A get: the full state from one owner, digests from the others; where they differ the states, merged.
//!
//! ```text
//! reading --enough owners agree, or the merge need not be held--> answered (repairs on the side)
//! reading --enough owners known, too few hold the merge--> writing back --held--> answered
//! ```
//! A strict get answers only with what N−r+1 owners hold durably, else a later one that meets none of them would go
//! back. A sloppy one tries the same where its label can gain by it, but is content with what it reached.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use bytes::Bytes;

use crate::cluster::Time;
use crate::node_id::NodeId;
use crate::replication::quorum::Terms;
use crate::replication::{
    Answer, Consistency, FailedWhy, Failure, FailureKind, Got, Level, Outcome, Reachability,
    ReadWant, Refusal, Request,
};
use crate::version::{Digest, Siblings};

use super::RETRY_AFTER;
use super::panel::{Panel, Standing};
use super::scene::{Happening, Machine, Progress, Scene, count};

/// When a hedge that could not be paid for is thought of again.
const HEDGE_AGAIN_AFTER: Duration = Duration::from_millis(10);
/// Shortest pause between two looks at who is slow.
const HEDGE_PAUSE_MIN: Duration = Duration::from_millis(1);

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

/// When somebody was asked, and when another one is asked too.
#[derive(Clone, Copy, Debug)]
struct Asked {
    at: Time,
    hedged: Option<Time>,
}

/// What an owner said.
#[derive(Debug)]
enum Heard {
    State(Siblings),
    Digest { digest: Digest, absent: bool },
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

/// What enough owners hold between them.
#[derive(Debug)]
struct Found {
    merged: Siblings,
    answered: Vec<NodeId>,
    absent: usize,
    /// Owners whose state is part of `merged`: an owner that takes the merge afterwards told nothing of its own.
    owners_heard: usize,
    holders: BTreeSet<NodeId>,
    stale: Vec<NodeId>,
}

impl Get {
    pub(super) const fn new(wanted: Wanted) -> Self {
        Self { wanted, reading: None }
    }

    fn begin(&mut self, scene: &mut Scene<'_>) -> Progress {
        let preferences = scene.view().preferences;
        let Wanted { key, r, consistency, compares_all } = &self.wanted;
        let terms = match Terms::of_get(preferences.ring(), *r, *consistency) {
            Ok(terms) => terms,
            Err(text) => {
                return Progress::Finished(Err(Failure::refused(FailureKind::Usage(text), None)));
            }
        };
        let walk = preferences.of_slot(crate::ring::Token::of(key).slot());
        let panel = Panel::new(&scene.view(), walk.owners());
        let fallbacks =
            if terms.takes_stand_ins() { walk.fallbacks().collect() } else { Vec::new() };
        let reading = Reading {
            terms,
            panel,
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
        if reading.possible(scene) < terms.get_answers() {
            return reading.unmet(scene);
        }
        for _ in 0..terms.get_answers() {
            scene.pace().asked();
            reading.ask_next(key, scene);
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
    /// Asks the next owner, for its state while no other was asked for one that may still come.
    fn ask_next(&mut self, key: &Bytes, scene: &mut Scene<'_>) {
        let has_state = self.states().next().is_some() || self.state_comes();
        self.ask_next_for(key, scene, if has_state { ReadWant::Digest } else { ReadWant::State });
    }

    fn ask_next_for(&mut self, key: &Bytes, scene: &mut Scene<'_>, want: ReadWant) {
        if let Some(owner) = self.panel.next_idle(&scene.view()) {
            self.panel.set(owner, Standing::Asked);
            self.ask(key, scene, owner, want);
        } else if self.panel.likely(&scene.view()) < self.terms.get_answers() {
            let fallbacks = self.fallbacks.iter().copied();
            for (node, _) in self.panel.seat_stand_ins(&scene.view(), fallbacks) {
                self.asked_state.insert(node);
                self.note_asked(scene, node);
                scene.ask(node, Request::ReadHeld { key: key.clone() });
            }
        }
    }

    /// For how many owners an answer is there or may come, theirs or a stand-in's that could be asked.
    fn possible(&self, scene: &Scene<'_>) -> usize {
        let mut panel = self.panel.clone();
        panel.seat_stand_ins(&scene.view(), self.fallbacks.iter().copied());
        panel.possible(&scene.view())
    }

    /// Asks another owner for its state where the one that was to tell it is silent; returns whether that owner was not
    /// asked anything before.
    fn ask_another_state(&mut self, key: &Bytes, scene: &mut Scene<'_>) -> bool {
        if self.states().next().is_some() {
            return false;
        }
        let told_digest = self.heard.keys().find(|owner| !self.asked_state.contains(owner));
        let told_digest = told_digest.copied();
        match told_digest {
            Some(owner) => self.ask(key, scene, owner, ReadWant::State),
            None => self.ask_next_for(key, scene, ReadWant::State),
        }
        told_digest.is_none()
    }

    fn ask(&mut self, key: &Bytes, scene: &mut Scene<'_>, owner: NodeId, want: ReadWant) {
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
    fn wake_to_hedge(&self, scene: &mut Scene<'_>) {
        let behind = self.panel.standing(Standing::Behind).next().map(|_| RETRY_AFTER);
        let now = scene.view().now;
        let slow = self.asked.values().filter_map(|asked| asked.hedged).map(|at| at.since(now));
        if let Some(first) = slow.chain(behind).min() {
            scene.wake_after(first.max(HEDGE_PAUSE_MIN));
        }
    }

    /// How many of those asked have taken longer than they usually do, and may each be hedged by another question. One
    /// that has gone silent is not hedged but replaced: that costs nothing extra.
    fn overdue(&mut self, scene: &mut Scene<'_>) -> usize {
        let view = scene.view();
        let mut overdue = 0;
        for (node, asked) in &mut self.asked {
            if asked.hedged.is_none_or(|at| view.now < at) {
                continue;
            }
            let is_silent = view.reachability(*node) != Reachability::Up;
            if is_silent || scene.pace().take_extra() {
                asked.hedged = None;
                overdue += 1;
            } else {
                asked.hedged = Some(view.now.after(HEDGE_AGAIN_AFTER));
            }
        }
        overdue
    }

    fn states(&self) -> impl Iterator<Item = &Siblings> {
        self.heard.values().filter_map(|heard| match heard {
            Heard::State(state) => Some(state),
            Heard::Digest { .. } => None,
        })
    }

    /// Whether a state was asked for that may still come.
    fn state_comes(&self) -> bool {
        self.asked_state.iter().any(|asked| self.is_pending(*asked))
    }

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
            let at = std::time::Duration::from_nanos(now.monotonic);
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
        if self.terms.get_answers() <= found.answered.len() {
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
        if self.possible(scene) < self.terms.get_answers() {
            return self.unmet(scene);
        }
        Progress::Waiting
    }

    /// What the owners hold whose state is known: told, or explained by its digest.
    fn found(&self) -> Found {
        let mut merged = Siblings::new();
        let mut known = BTreeSet::new();
        for state in self.states() {
            // Two values under one dot are noticed, and reported, where they are appended.
            merged.merge(state, &mut Vec::new());
            known.insert(state.digest());
        }
        let mut found = Found {
            answered: Vec::new(),
            absent: 0,
            owners_heard: 0,
            holders: BTreeSet::new(),
            stale: Vec::new(),
            merged,
        };
        let digest = found.merged.digest();
        for (owner, heard) in self.heard.iter().filter(|(_, heard)| known.contains(&heard.digest()))
        {
            found.answered.push(*owner);
            found.absent += usize::from(heard.is_absent());
            // A stand-in answers for an owner; it is no holder, and never repaired.
            match (self.speaks_as_owner(*owner), heard.digest() == digest) {
                (false, _) => {}
                (true, true) => drop(found.holders.insert(*owner)),
                (true, false) => found.stale.push(*owner),
            }
        }
        found.owners_heard = found.holders.len() + found.stale.len();
        found
    }

    /// Whether what this node said counts as an owner's word: no stand-in's, and no owner's that may lack what it held.
    fn speaks_as_owner(&self, node: NodeId) -> bool {
        self.panel.stands_in_for(node).is_none() && !self.unpromised.contains(&node)
    }

    fn conclude(&mut self, key: &Bytes, scene: &mut Scene<'_>, found: Found) -> Progress {
        let must_hold = match self.terms.consistency {
            Consistency::Strict => true,
            Consistency::Sloppy => self.terms.can_be_strict(found.owners_heard),
        };
        if !must_hold || self.terms.holders() <= found.holders.len() {
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
        let mut panel = Panel::new(&scene.view(), self.panel.owners());
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
        let held = wanted <= found.holders.len();
        if !held && wanted <= panel.possible(&scene.view()) {
            return Progress::Waiting;
        }
        if !held && self.terms.consistency == Consistency::Strict {
            return self.unmet(scene);
        }
        Progress::Finished(Ok(Outcome::Got(self.got(found))))
    }

    /// Asks one more owner for each that is silent, as far as there are any.
    fn hedge(&mut self, key: &Bytes, scene: &mut Scene<'_>) -> Progress {
        match &mut self.phase {
            Phase::Answered { .. } => return Progress::Waiting,
            Phase::Reading => {
                let behind: Vec<NodeId> = self.panel.standing(Standing::Behind).collect();
                for owner in behind {
                    self.panel.set(owner, Standing::Asked);
                    self.ask(key, scene, owner, ReadWant::State);
                }
                let mut overdue = self.overdue(scene);
                if overdue > 0 && self.ask_another_state(key, scene) {
                    overdue -= 1;
                }
                let missing = self.terms.get_answers().saturating_sub(self.found().answered.len());
                for _ in 0..missing.min(overdue) {
                    self.ask_next(key, scene);
                }
                self.wake_to_hedge(scene);
                return Progress::Waiting;
            }
            Phase::WritingBack { found, panel } => {
                let behind = panel.standing(Standing::Behind).collect::<Vec<_>>();
                for owner in behind.into_iter().chain(panel.next_idle(&scene.view())) {
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
                self.ask_next(key, scene);
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
                self.ask_next(key, scene);
                self.advance(key, scene)
            }
            Phase::WritingBack { found, panel } => {
                panel.set(from, Standing::Failed(why));
                if let Some(owner) = panel.next_idle(&scene.view()) {
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
            needed: count(self.terms.get_answers()),
            stale: found.stale.clone(),
            guarantee: self.terms.of_answer(found.owners_heard, found.holders.len()),
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

impl Heard {
    fn digest(&self) -> Digest {
        match self {
            Self::State(state) => state.digest(),
            Self::Digest { digest, .. } => *digest,
        }
    }

    fn is_absent(&self) -> bool {
        match self {
            Self::State(state) => !state.has_value(),
            Self::Digest { absent, .. } => *absent,
        }
    }
}

/// Merge without a tag: it stems from no put.
fn repair(key: &Bytes, merged: &Siblings) -> Request {
    Request::Merge { key: key.clone(), state: merged.clone(), put: None }
}
