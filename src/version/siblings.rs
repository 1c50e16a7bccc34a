//! A key's state: dotted versions under one vector clock (dotted causal container; Preguiça, Almeida, Baquero,
//! Gonçalves et al.).

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use xxhash_rust::xxh3::{Xxh3, xxh3_64, xxh3_64_with_seed};

use super::dot::COUNTER_MAX;
use super::{Actor, Dot, RequestId, Timestamp, VectorClock};

/// All that a replica knows of a key. The default is the key that was never written.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Siblings {
    clock: VectorClock,
    versions: BTreeMap<Dot, Version>,
}

/// One write that nothing known supersedes. Immutable, named by key and dot.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Version {
    /// When, for people.
    pub timestamp: Timestamp,
    /// The client's name for the put.
    pub request: RequestId,
    /// What was written.
    pub content: Content,
}

/// What a put or a delete wrote.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Content {
    /// A value, possibly empty.
    Value(Bytes),
    /// A delete.
    Tombstone,
}

/// 128 bits over dots and value hashes of a state (its clock stays out): equal states agree, different ones differ.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
pub struct Digest(pub u128);

/// What a write replaces.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Basis {
    /// All that this replica's state holds (a put without a context).
    Own,
    /// Exactly what this clock covers.
    Clock(VectorClock),
    /// Nothing (`--blind`).
    Blind,
}

/// A write that was done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Minted {
    /// Its name.
    pub dot: Dot,
    /// How many siblings stand now.
    pub siblings: usize,
}

/// Why a write was not done; the state is untouched.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum MintError {
    /// It would stand beside too many siblings.
    #[error("the key has {0} siblings already")]
    TooManySiblings(usize),
    /// A counter past 2^63: a forged or damaged context.
    #[error("a context counter is past 2^63")]
    Counter,
}

/// Why bytes are no state.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("key state: {0}")]
pub struct StateError(#[from] pub crate::encoding::DecodeError);

/// Siblings from which on a write is accepted with a warning.
pub const SIBLINGS_WARN: usize = 25;
/// Siblings a client's write may leave at most; repair is never refused.
pub const SIBLINGS_MAX: usize = 100;
/// Seed of a tombstone's hash, which tells it from the empty value's.
const TOMBSTONE_SEED: u64 = 1;

impl Siblings {
    /// The state of a key never written.
    pub const fn new() -> Self {
        Self { clock: VectorClock::new(), versions: BTreeMap::new() }
    }
    /// All that was ever merged into this state.
    pub const fn clock(&self) -> &VectorClock {
        &self.clock
    }
    /// The versions that stand, in dot order.
    pub const fn versions(&self) -> &BTreeMap<Dot, Version> {
        &self.versions
    }
    /// Whether nothing was ever written.
    pub fn is_empty(&self) -> bool {
        self.clock.is_empty() && self.versions.is_empty()
    }
    /// Whether any version is a value (a key without one reads as absent).
    pub fn has_value(&self) -> bool {
        self.versions.values().any(|version| matches!(version.content, Content::Value(_)))
    }
    /// How many siblings people count: versions, two of one request id as one.
    pub fn siblings(&self) -> usize {
        self.versions.values().map(|version| version.request).collect::<BTreeSet<_>>().len()
    }
    /// Whether every version here is also in `other` or covered by its clock, and `other` has seen all this clock has.
    pub fn is_held_by(&self, other: &Self) -> bool {
        // The clock covers the own versions, so one that descends from it covers them too.
        other.clock.descends(&self.clock)
    }
    /// Folds `other` in: a version stays iff both have it, or one has it and the other's clock does not cover its
    /// dot; clocks by pointwise maximum. Returns whether `self` changed. One dot with two value hashes: the larger
    /// hash wins and the dot is pushed to `alarms`.
    pub fn merge(&mut self, other: &Self, alarms: &mut Vec<Dot>) -> bool {
        let before = self.versions.len();
        self.versions
            .retain(|dot, _| other.versions.contains_key(dot) || !other.clock.covers(*dot));
        let mut changed = self.versions.len() != before;
        for (dot, theirs) in &other.versions {
            match self.versions.get_mut(dot) {
                Some(ours) if ours == theirs => {}
                Some(ours) => {
                    alarms.push(*dot);
                    if ours.rank() < theirs.rank() {
                        *ours = theirs.clone();
                        changed = true;
                    }
                }
                None if self.clock.covers(*dot) => {}
                None => {
                    self.versions.insert(*dot, theirs.clone());
                    changed = true;
                }
            }
        }
        if !self.clock.descends(&other.clock) {
            self.clock.merge(&other.clock);
            changed = true;
        }
        changed
    }
    /// One write at `actor` (§4 *write*): drops what `basis` covers, then adds the version under counter
    /// max(clock, basis, floor) + 1.
    /// # Errors
    /// [`MintError`]; nothing changed then.
    pub fn write(
        &mut self,
        actor: Actor,
        basis: &Basis,
        floor: u64,
        version: Version,
    ) -> Result<Minted, MintError> {
        let nothing = VectorClock::new();
        let seen = match basis {
            Basis::Own => &self.clock,
            Basis::Clock(clock) => clock,
            Basis::Blind => &nothing,
        };
        let last = self.clock.get(actor).max(seen.get(actor)).max(floor);
        if COUNTER_MAX <= last || seen.is_past_counter_max() {
            return Err(MintError::Counter);
        }
        let before = self.siblings();
        let standing = self
            .versions
            .iter()
            .filter(|(dot, _)| !seen.covers(**dot))
            .map(|(_, version)| version.request);
        let siblings = standing.chain([version.request]).collect::<BTreeSet<_>>().len();
        if SIBLINGS_MAX < siblings && before < siblings {
            return Err(MintError::TooManySiblings(before));
        }
        let dot = Dot { actor, counter: last + 1 };
        self.versions.retain(|dot, _| !seen.covers(*dot));
        if let Basis::Clock(clock) = basis {
            self.clock.merge(clock);
        }
        self.versions.insert(dot, version);
        self.clock.observe(dot);
        Ok(Minted { dot, siblings })
    }
    /// The dot under which `request` stands here, if it does.
    pub fn dot_of(&self, request: RequestId) -> Option<Dot> {
        self.versions.iter().find(|(_, version)| version.request == request).map(|(dot, _)| *dot)
    }
    /// Digest over dots and value hashes; equal for states that differ in their clocks only. A state without versions
    /// has the default digest, as a key never written.
    pub fn digest(&self) -> Digest {
        if self.versions.is_empty() {
            return Digest::default();
        }
        let mut hasher = Xxh3::new();
        for (dot, version) in &self.versions {
            hasher.update(dot.actor.node.as_bytes());
            hasher.update(&dot.actor.epoch.counter.to_le_bytes());
            hasher.update(&dot.actor.epoch.random.to_le_bytes());
            hasher.update(&dot.counter.to_le_bytes());
            hasher.update(&version.content.hash().to_le_bytes());
        }
        Digest(hasher.digest128())
    }

    /// The state of these parts; none where the clock does not cover a version's dot, or a dot has no counter.
    pub(super) fn from_parts(clock: VectorClock, versions: BTreeMap<Dot, Version>) -> Option<Self> {
        let sound = versions.keys().all(|dot| dot.counter > 0 && clock.covers(*dot));
        sound.then_some(Self { clock, versions })
    }
}

impl Content {
    /// 64 bits of XXH3 over what was written; a tombstone differs from every value.
    pub fn hash(&self) -> u64 {
        match self {
            Self::Value(value) => xxh3_64(value),
            Self::Tombstone => xxh3_64_with_seed(&[], TOMBSTONE_SEED),
        }
    }
    /// Bytes of the value; 0 for a tombstone.
    pub fn len(&self) -> usize {
        match self {
            Self::Value(value) => value.len(),
            Self::Tombstone => 0,
        }
    }
    /// Whether there are no bytes: an empty value, or a tombstone.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

impl Version {
    /// Which of two versions under one dot wins: the larger value hash, then whatever else differs, so that every
    /// replica picks the same one.
    fn rank(&self) -> (u64, Option<&Bytes>, RequestId, Timestamp) {
        let value = match &self.content {
            Content::Value(value) => Some(value),
            Content::Tombstone => None,
        };
        (self.content.hash(), value, self.request, self.timestamp)
    }
}
