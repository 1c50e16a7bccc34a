//! A key's state: dotted versions under one vector clock (dotted causal container; Preguiça, Almeida, Baquero,
//! Gonçalves et al.).

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use xxhash_rust::xxh3::{Xxh3, xxh3_64, xxh3_64_with_seed};

use crate::planted::{self, Bug};

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
/// What a version takes besides its value, and an entry of the clock, roughly, bytes.
const VERSION_BYTES: usize = 96;
const CLOCK_ENTRY_BYTES: usize = 32;
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
        if planted::is_on(Bug::LastWriterWins) && self.versions.len() > 1 {
            let newest = self.versions.values().map(|version| version.timestamp).max();
            self.versions.retain(|_, version| Some(version.timestamp) == newest);
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
        let last = if planted::is_on(Bug::CounterStartsAgain) { 0 } else { last };
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
    /// Drops the clock's entry of an actor that owns no version here and stands at `counter`; whether it did. Only a cut
    /// may do so (DESIGN §7): what another replica still holds of it would come back.
    pub fn forget(&mut self, actor: Actor, counter: u64) -> bool {
        let owns = self.versions.keys().any(|dot| dot.actor == actor);
        let is_so = self.clock.get(actor) == counter && counter > 0 && !owns;
        if is_so {
            self.clock.forget(actor);
        }
        is_so
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

    /// Bytes that it takes in memory and on the way, roughly.
    pub fn bytes_estimate(&self) -> usize {
        let value = |version: &Version| match &version.content {
            Content::Value(value) => value.len(),
            Content::Tombstone => 0,
        };
        let versions = self.versions.values().map(|version| VERSION_BYTES + value(version));
        versions.sum::<usize>() + CLOCK_ENTRY_BYTES * self.clock.iter().count()
    }

    /// The state of these parts; none where the clock does not cover a version's dot, or a dot has no counter.
    pub fn from_parts(clock: VectorClock, versions: BTreeMap<Dot, Version>) -> Option<Self> {
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

impl Serialize for Siblings {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_bytes(&self.encode())
    }
}

impl<'de> Deserialize<'de> for Siblings {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let bytes = Bytes::deserialize(deserializer)?;
        Self::decode(&bytes).map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::notation::{actor, clock, dot, state, states, version};
    use super::*;

    fn merged(left: &Siblings, right: &Siblings) -> Siblings {
        let mut merged = left.clone();
        merged.merge(right, &mut Vec::new());
        merged
    }

    #[track_caller]
    fn check_merge(left: &str, right: &str, expected: &str) {
        let [left, right, expected] = [left, right, expected].map(state);
        assert_eq!(merged(&left, &right), expected);
        assert_eq!(merged(&right, &left), expected, "mirrored");
        let mut kept = expected.clone();
        assert!(
            !kept.merge(&left, &mut Vec::new()) && kept == expected,
            "merging again says it changed nothing"
        );
    }

    #[track_caller]
    fn check_write(
        before: &str,
        name: &str,
        basis: &Basis,
        floor: u64,
        expected: Result<(&str, &str), MintError>,
    ) {
        let mut kept = state(before);
        let minted = kept.write(actor(name), basis, floor, version("new", 999));
        match expected {
            Ok((minted_dot, after)) => {
                let minted = minted.unwrap();
                assert_eq!(minted.dot, dot(minted_dot));
                assert_eq!(minted.siblings, kept.siblings());
                let mut after = state(after);
                after.versions.insert(minted.dot, version("new", 999));
                assert_eq!(kept, after);
            }
            Err(error) => {
                assert_eq!(minted, Err(error));
                assert_eq!(kept, state(before), "a refused write changes nothing");
            }
        }
    }

    #[test]
    fn the_newer_version_replaces_what_it_has_seen() {
        check_merge("a1:x", "a2:y / a1", "a2:y");
        check_merge("a1:x", "b1:y / a1 b1", "b1:y / a1");
        check_merge("", "a1:x", "a1:x");
    }

    #[test]
    fn versions_that_have_not_seen_each_other_stay() {
        check_merge("a1:x", "b1:y", "a1:x b1:y");
        check_merge("a1:x b1:y", "b1:y c1:z / a1", "b1:y c1:z / a1");
    }

    #[test]
    fn a_tombstone_keeps_an_old_value_from_coming_back() {
        check_merge("a1:x", "b1:- / a1", "b1:- / a1");
        check_merge("/ a1", "a1:x", "/ a1");
    }

    #[test]
    fn a_write_replaces_what_its_basis_covers() {
        check_write("a1:x", "b", &Basis::Own, 0, Ok(("b1", "b1:new / a1")));
        check_write("a1:x", "a", &Basis::Own, 0, Ok(("a2", "a2:new")));
        check_write(
            "a1:x b1:y",
            "c",
            &Basis::Clock(clock("a1")),
            0,
            Ok(("c1", "b1:y c1:new / a1")),
        );
        check_write("a1:x", "b", &Basis::Blind, 0, Ok(("b1", "a1:x b1:new")));
        check_write("a1:x", "a", &Basis::Blind, 0, Ok(("a2", "a1:x a2:new")));
        check_write("", "a", &Basis::Clock(clock("b3")), 0, Ok(("a1", "a1:new / b3")));
    }

    #[test]
    fn a_counter_rises_above_clock_basis_and_floor() {
        check_write("/ a4", "a", &Basis::Blind, 2, Ok(("a5", "a5:new")));
        check_write("/ a4", "a", &Basis::Clock(clock("a6")), 5, Ok(("a7", "a7:new")));
        check_write("/ a4", "a", &Basis::Blind, 8, Ok(("a9", "a9:new")));
        check_write("/ a4", "a.2", &Basis::Own, 0, Ok(("a.2=1", "a.2=1:new / a4")));
    }

    #[test]
    fn a_counter_past_the_end_is_refused() {
        let mut seen = VectorClock::new();
        seen.observe(Dot { counter: COUNTER_MAX + 1, ..dot("b1") });
        check_write("a1:x", "a", &Basis::Clock(seen), 0, Err(MintError::Counter));
        check_write("a1:x", "a", &Basis::Own, COUNTER_MAX, Err(MintError::Counter));
        check_write("a1:x", "a", &Basis::Own, u64::MAX, Err(MintError::Counter));
    }

    /// A state of `count` siblings, minted blindly at one actor.
    fn crowd(count: u64) -> Siblings {
        let mut crowd = Siblings::new();
        for number in 1..=count {
            crowd.write(actor("a"), &Basis::Blind, 0, version("x", number)).unwrap();
        }
        crowd
    }

    #[test]
    fn a_write_past_a_hundred_siblings_is_refused_and_a_repair_is_not() {
        let mut full = crowd(100);
        let refused = full.write(actor("a"), &Basis::Blind, 0, version("x", 101));
        assert_eq!(refused, Err(MintError::TooManySiblings(100)));
        full.merge(&state("b107:y"), &mut Vec::new());
        assert_eq!(full.siblings(), 101);
        // Past the cap, a write that adds none is welcome.
        let fewer =
            full.write(actor("c"), &Basis::Clock(clock("a1 b107")), 0, version("x", 102)).unwrap();
        assert_eq!(fewer.siblings, 100);
        assert_eq!(full.write(actor("c"), &Basis::Own, 0, version("x", 103)).unwrap().siblings, 1);
    }

    #[test]
    fn two_versions_of_one_request_count_once() {
        let mut full = crowd(100);
        let minted = full.write(actor("b"), &Basis::Blind, 0, version("x", 7)).unwrap();
        assert_eq!((minted.siblings, full.versions().len()), (100, 101));
        assert_eq!(full.dot_of(version("x", 7).request), Some(dot("a7")));
    }

    /// V1 of the schedules: a merge that drops one of two versions of one request depends on the order.
    #[test]
    fn a_merge_never_looks_at_request_ids() {
        let one = |name: &str, seen: &str| Siblings {
            clock: clock(seen),
            versions: BTreeMap::from([(dot(name), version("x", 1))]),
        };
        let (first, second, third) = (one("a5", "a5"), one("b1", "b1"), one("a6", "a6"));
        let left = merged(&merged(&first, &second), &third);
        let right = merged(&first, &merged(&second, &third));
        assert_eq!(left, right);
        assert_eq!(left.versions().keys().copied().collect::<Vec<_>>(), [dot("a6"), dot("b1")]);
    }

    #[test]
    fn one_dot_with_two_values_is_an_alarm_and_all_agree_on_one() {
        let (left, right) = (state("a1:x b1:z"), state("a1:y"));
        let mut alarms = Vec::new();
        let mut one = left.clone();
        one.merge(&right, &mut alarms);
        assert_eq!(alarms, [dot("a1")]);
        assert_eq!(one, merged(&right, &left));
        let winner = one.versions()[&dot("a1")].content.hash();
        assert_eq!(
            winner,
            ["x", "y"].map(|value| version(value, 1).content.hash()).into_iter().max().unwrap()
        );
    }

    /// Two clients read D2 and write at Sy and at Sz: two siblings, and one write that has seen both.
    #[test]
    fn two_writes_after_one_read_are_siblings_until_reconciled() {
        let write = |on: &Siblings, node: &str, value: &str| {
            let mut after = on.clone();
            after
                .write(actor(node), &Basis::Clock(on.clock().clone()), 0, version(value, 1))
                .unwrap();
            after
        };
        let first = write(&Siblings::new(), "x", "D1");
        let second = write(&first, "x", "D2");
        let (third, fourth) = (write(&second, "y", "D3"), write(&second, "z", "D4"));
        assert_eq!(first.clock(), &clock("x1"));
        assert_eq!(second.clock(), &clock("x2"));
        assert_eq!(third.clock(), &clock("x2 y1"));
        assert_eq!(fourth.clock(), &clock("x2 z1"));
        let values = |state: &Siblings| {
            state.versions().values().map(|v| v.content.clone()).collect::<Vec<_>>()
        };
        let value = |text: &str| version(text, 1).content;
        assert_eq!(values(&second), [value("D2")]);
        let both = merged(&third, &fourth);
        assert_eq!(
            (both.clock(), values(&both)),
            (&clock("x2 y1 z1"), vec![value("D3"), value("D4")])
        );
        let reconciled = write(&both, "x", "D5");
        assert_eq!(
            (reconciled.clock(), values(&reconciled)),
            (&clock("x3 y1 z1"), vec![value("D5")])
        );
        for earlier in [&first, &second, &third, &fourth, &both] {
            assert_eq!(merged(&reconciled, earlier), reconciled);
        }
    }

    /// D1([Sx,1]), D2([Sx,2]), D3([Sx,2],[Sy,1]), D4([Sx,2],[Sy,1],[Sz,1]).
    #[test]
    fn the_textbook_sequence_holds_to_the_letter() {
        let mut kept = Siblings::new();
        for (node, seen) in [("x", "x1"), ("x", "x2"), ("y", "x2 y1"), ("z", "x2 y1 z1")] {
            kept.write(actor(node), &Basis::Own, 0, version("v", 1)).unwrap();
            assert_eq!((kept.clock(), kept.versions().len()), (&clock(seen), 1));
        }
    }

    #[test]
    fn digests_see_dots_and_values_and_not_clocks() {
        assert_eq!(state("a1:x").digest(), state("a1:x / b3").digest());
        assert_eq!(state("/ a1").digest(), Siblings::new().digest());
        let different = ["a1:x", "a1:y", "a2:x", "b1:x", "a1:-", "a1:x b1:x", "a.2=1:x", ""];
        for (at, left) in different.iter().enumerate() {
            for right in &different[..at] {
                assert_ne!(state(left).digest(), state(right).digest(), "{left} and {right}");
            }
        }
    }

    #[test]
    fn holding_is_to_have_it_or_what_supersedes_it() {
        for (held, by, expected) in [
            ("a1:x", "a1:x", true),
            ("a1:x", "a2:y", true),
            ("a1:x", "b1:- / a1", true),
            ("a1:x", "b1:y", false),
            ("/ a1", "", false),
            ("", "a1:x", true),
        ] {
            assert_eq!(state(held).is_held_by(&state(by)), expected, "{held} by {by}");
        }
    }

    proptest! {
        #[test]
        fn merging_is_commutative_associative_and_idempotent(one in states(), two in states(), three in states()) {
            prop_assert_eq!(merged(&one, &two), merged(&two, &one));
            prop_assert_eq!(merged(&merged(&one, &two), &three), merged(&one, &merged(&two, &three)));
            prop_assert_eq!(merged(&one, &one), one.clone());
            let both = merged(&one, &two);
            prop_assert_eq!(merged(&both, &one), both.clone());
            prop_assert!(one.is_held_by(&both) && two.is_held_by(&both));
            let mut again = one.clone();
            prop_assert_eq!(again.merge(&two, &mut Vec::new()), again != one);
        }
    }
}
