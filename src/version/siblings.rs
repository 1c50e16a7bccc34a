//! A key's state: dotted versions under one vector clock (dotted causal container; Preguiça, Almeida, Baquero,
//! Gonçalves et al.).

use std::collections::BTreeMap;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

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
    /// Whether every version here is also in `other` or covered by its clock, and `other` has seen all this clock has.
    pub fn is_held_by(&self, other: &Self) -> bool {
        let _ = other;
        todo!()
    }
    /// Folds `other` in: a version stays iff both have it, or one has it and the other's clock does not cover its
    /// dot; clocks by pointwise maximum. Returns whether `self` changed. One dot with two value hashes: the larger
    /// hash wins and the dot is pushed to `alarms`.
    pub fn merge(&mut self, other: &Self, alarms: &mut Vec<Dot>) -> bool {
        let _ = (other, alarms);
        todo!()
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
        let _ = (actor, basis, floor, version);
        todo!()
    }
    /// The dot under which `request` stands here, if it does.
    pub fn dot_of(&self, request: RequestId) -> Option<Dot> {
        self.versions.iter().find(|(_, version)| version.request == request).map(|(dot, _)| *dot)
    }
    /// Digest over dots and value hashes; equal for states that differ in their clocks only.
    pub fn digest(&self) -> Digest {
        todo!()
    }
    /// The state's bytes, as stored and sent.
    pub fn encode(&self) -> Vec<u8> {
        todo!()
    }
    /// Back from [`Siblings::encode`]; values are slices of `bytes`, not copies.
    /// # Errors
    /// [`StateError`] on anything [`Siblings::encode`] does not write.
    pub fn decode(bytes: &Bytes) -> Result<Self, StateError> {
        let _ = bytes;
        todo!()
    }
}
