//! What a run is held against: one file a promise.
//!
//! Keys whose name starts with `c` are written with contexts or blind only: there the explicit causal history of every
//! write is known, and the siblings left must be exactly the writes that no other one saw. Keys that start with `p` are
//! written without contexts: what a write replaces is the coordinator's to say, so a write that is gone must have been
//! replaced by one that could still begin after it did. Keys that start with `po` are one client's own, written strictly.
//!
//! A put that was tried more than once may have been written twice, under two dots; a write that saw one of them leaves
//! the other.

mod bounds;
mod convergence;
mod dots;
mod durability;
mod forgetting;
mod honesty;
mod invention;
mod membership;
mod sessions;
mod siblings;
mod stored;
mod strict;

use std::collections::BTreeMap;
use std::fmt;

use bytes::Bytes;
use kvkit::ring::Preferences;
use kvkit::version::{Dot, RequestId, Siblings};

use crate::history::{History, KeyHistory};
use crate::world::World;

pub use bounds::quiet_is_quiet;

/// The promises, by the numbers of the reliability notes where they have one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Check {
    /// I1: an acknowledged write, or one that replaced it, is there.
    Durability,
    /// I2: all owners hold the same, leaves and views too, and nobody holds a hint.
    Convergence,
    /// I3: the siblings are exactly the writes that no other one saw.
    Siblings,
    /// I4: what was deleted stays so.
    Resurrection,
    /// I5: a strict read is not stale and none goes back.
    StrictReads,
    /// I5: one client's strict puts follow each other.
    Sessions,
    /// I6: nothing is shown that nobody wrote.
    Invention,
    /// I7: what was said to be not applied is nowhere.
    Honesty,
    /// I8: one dot, one write; and one write, one dot, where it was tried once.
    Dots,
    /// I9: what is bounded stays so, and a quiet cluster is quiet.
    Bounds,
    /// I10: who can reach a quorum is served.
    Progress,
    /// I11: the directories left are sound.
    Storage,
    /// I12: all agree on who is there.
    Membership,
    /// I13: a seed gives one trace.
    Determinism,
    /// Nothing panics, and no node raises an alarm over what is no fault.
    Alarms,
}

/// A promise that was not kept.
#[derive(Clone, Debug)]
pub struct Breach {
    pub check: Check,
    pub text: String,
}

impl Breach {
    pub const fn new(check: Check, text: String) -> Self {
        Self { check, text }
    }
}

impl fmt::Display for Breach {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "[{:?}] {}", self.check, self.text)
    }
}

/// One key after the run: what was done with it, what is left of it.
struct Judged<'a> {
    key: &'a Bytes,
    history: &'a KeyHistory,
    end: Siblings,
    /// Puts that were seen under more than one dot.
    twice: &'a BTreeMap<RequestId, Vec<Dot>>,
}

/// Whether keys are written with contexts or blind only.
pub fn is_contextual(key: &Bytes) -> bool {
    key.starts_with(b"c")
}

/// Whether one client alone writes this key.
pub fn is_own(key: &Bytes) -> bool {
    key.starts_with(b"po")
}

/// Whether all owners hold the same, and nobody a hint.
pub fn has_converged(world: &World, history: &History) -> bool {
    let preferences = Preferences::new(world.layout.now.clone().into());
    convergence::gaps(world, history, &preferences).is_empty()
}

/// Everything that is wrong with a run that is over and healed.
pub fn judge(world: &mut World, history: &History) -> Vec<Breach> {
    let mut broken = Vec::new();
    let preferences = Preferences::new(world.layout.now.clone().into());
    let ends: Vec<(Bytes, Siblings)> = history
        .names()
        .into_iter()
        .map(|key| {
            let end = convergence::end_of(world, &preferences, &key);
            (key, end)
        })
        .collect();
    convergence::judge(world, history, &preferences, &mut broken);
    let twice = dots::judge(world, history, &mut broken);
    invention::judge(world, history, &mut broken);
    honesty::judge(world, history, &mut broken);
    for (key, end) in ends {
        let judged = Judged { key: &key, history: &history.keys[&key], end, twice: &twice };
        durability::judge(&judged, &mut broken);
        siblings::judge(&judged, history, &mut broken);
        let ring = &world.layout.now;
        if ring.n < ring.w + ring.r.max(ring.w) {
            sessions::judge(&judged, &mut broken);
        }
        if ring.n < ring.w + ring.r {
            strict::judge(&judged, &mut broken);
        }
    }
    bounds::judge(world, &mut broken);
    membership::judge(world, &mut broken);
    stored::judge(world, &mut broken);
    let alarms = world.witness.alarms.iter();
    broken.extend(alarms.map(|alarm| Breach::new(Check::Alarms, alarm.clone())));
    for node in &world.rolled_back {
        let text = format!("n{} never noticed that its disk was rolled back", node + 1);
        broken.push(Breach::new(Check::Alarms, text));
    }
    broken
}
