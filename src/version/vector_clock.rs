//! Vector clocks.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::node_id::NodeId;

use super::dot::{COUNTER_MAX, actor_name};
use super::{Actor, Dot};

/// For each actor the highest counter seen; an absent actor counts as 0.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "BTreeMap<Actor, u64>")]
pub struct VectorClock(BTreeMap<Actor, u64>);

/// How two clocks stand to each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Causality {
    /// The same history.
    Equal,
    /// The left one has seen all of the right one, and more.
    After,
    /// The right one has seen all of the left one, and more.
    Before,
    /// Each has seen what the other has not.
    Concurrent,
}

/// A counter that no clock entry may have.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a clock counter of {0} (1 to 2^63 are possible)")]
pub struct ClockCounterError(u64);

impl VectorClock {
    /// The clock that has seen nothing.
    pub const fn new() -> Self {
        Self(BTreeMap::new())
    }
    /// The highest counter seen of `actor`; 0 when none.
    pub fn get(&self, actor: Actor) -> u64 {
        self.0.get(&actor).copied().unwrap_or(0)
    }
    /// Raises `dot`'s actor to at least its counter.
    pub fn observe(&mut self, dot: Dot) {
        if dot.counter > 0 {
            let seen = self.0.entry(dot.actor).or_insert(0);
            *seen = dot.counter.max(*seen);
        }
    }
    /// Whether `dot` lies in the seen past.
    pub fn covers(&self, dot: Dot) -> bool {
        self.get(dot.actor) >= dot.counter
    }
    /// Whether everything `other` has seen is seen here.
    pub fn descends(&self, other: &Self) -> bool {
        other.iter().all(|(actor, counter)| counter <= self.get(actor))
    }
    /// Pointwise maximum.
    pub fn merge(&mut self, other: &Self) {
        for (actor, counter) in other.iter() {
            self.observe(Dot { actor, counter });
        }
    }
    /// Leaves `actor` out, as if it had never been seen: see [`Siblings::forget`](super::Siblings::forget).
    pub(super) fn forget(&mut self, actor: Actor) {
        self.0.remove(&actor);
    }
    /// How `self` stands to `other`.
    pub fn compare(&self, other: &Self) -> Causality {
        match (self.descends(other), other.descends(self)) {
            (true, true) => Causality::Equal,
            (true, false) => Causality::After,
            (false, true) => Causality::Before,
            (false, false) => Causality::Concurrent,
        }
    }
    /// Entries in actor order, all above 0.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = (Actor, u64)> + '_ {
        self.0.iter().map(|(actor, counter)| (*actor, *counter))
    }
    /// Number of entries.
    pub fn len(&self) -> usize {
        self.0.len()
    }
    /// Whether nothing was seen.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
    /// Whether an entry lies past [`COUNTER_MAX`].
    pub fn is_past_counter_max(&self) -> bool {
        self.0.values().any(|counter| COUNTER_MAX < *counter)
    }
    /// The entries as people see them, in actor order (`n1`: 7, `n3.2`: 4); a node without a name is shown by its id.
    ///
    /// Two epochs of a node that share a counter are told apart by their random bits (`n1.2-0000beef`).
    pub fn named(&self, names: &BTreeMap<NodeId, String>) -> Vec<(String, u64)> {
        let twins = |actor: Actor| {
            let same = |other: &&Actor| {
                (other.node, other.epoch.counter) == (actor.node, actor.epoch.counter)
            };
            self.0.keys().filter(same).count() > 1
        };
        let shown = |actor: Actor| {
            let name = names.get(&actor.node).cloned().unwrap_or_else(|| actor.node.to_string());
            if twins(actor) {
                format!("{name}.{}", actor.epoch)
            } else {
                actor_name(&name, actor.epoch)
            }
        };
        self.iter().map(|(actor, counter)| (shown(actor), counter)).collect()
    }
}

impl TryFrom<BTreeMap<Actor, u64>> for VectorClock {
    type Error = ClockCounterError;

    fn try_from(entries: BTreeMap<Actor, u64>) -> Result<Self, ClockCounterError> {
        match entries.values().find(|counter| !(1..=COUNTER_MAX).contains(*counter)) {
            Some(counter) => Err(ClockCounterError(*counter)),
            None => Ok(Self(entries)),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::Epoch;
    use super::super::notation::{actor, clock, clocks, node};
    use super::*;

    #[track_caller]
    fn check(left: &str, right: &str, expected: Causality) {
        let [left, right] = [left, right].map(clock);
        assert_eq!(left.compare(&right), expected, "{left} against {right}");
    }

    #[test]
    fn writes_on_both_sides_of_a_partition_are_concurrent() {
        check("a2 b1", "a1 b2", Causality::Concurrent);
        check("a1", "b1", Causality::Concurrent);
    }

    #[test]
    fn a_longer_history_is_after_its_own_past() {
        check("a2 b1", "a1 b1", Causality::After);
        check("a2", "a2 b1", Causality::Before);
        check("", "a1", Causality::Before);
        check("a1 b3", "a1 b3", Causality::Equal);
        check("", "", Causality::Equal);
    }

    #[test]
    fn two_epochs_of_a_node_are_two_actors() {
        check("a7", "a.2=1", Causality::Concurrent);
    }

    #[test]
    fn people_read_names_and_epochs() {
        let names = BTreeMap::from([(node("a"), "n1".to_owned())]);
        let mut seen = clock("a2 a.2=3 b1");
        assert_eq!(
            seen.named(&names),
            [("n1".to_owned(), 2), ("n1.2".to_owned(), 3), (node("b").to_string(), 1)]
        );
        let twin = Actor { epoch: Epoch { counter: 2, random: 0xbeef }, ..actor("a") };
        seen.observe(Dot { actor: twin, counter: 9 });
        assert_eq!(
            seen.named(&names)[1..3],
            [("n1.2-00000000".to_owned(), 3), ("n1.2-0000beef".to_owned(), 9)]
        );
    }

    #[test]
    fn a_counter_that_cannot_be_is_refused() {
        for counter in [0, COUNTER_MAX + 1] {
            assert!(VectorClock::try_from(BTreeMap::from([(actor("a"), counter)])).is_err());
        }
    }

    proptest! {
        #[test]
        fn the_merge_is_the_least_clock_that_descends_from_both(left in clocks(), right in clocks(), third in clocks()) {
            let mut merged = left.clone();
            merged.merge(&right);
            prop_assert!(merged.descends(&left) && merged.descends(&right));
            if third.descends(&left) && third.descends(&right) {
                prop_assert!(third.descends(&merged));
            }
            let mut mirrored = right;
            mirrored.merge(&left);
            prop_assert_eq!(&merged, &mirrored);
        }

        #[test]
        fn comparison_is_antisymmetric(left in clocks(), right in clocks()) {
            let mirrored = match left.compare(&right) {
                Causality::Equal => Causality::Equal,
                Causality::After => Causality::Before,
                Causality::Before => Causality::After,
                Causality::Concurrent => Causality::Concurrent,
            };
            prop_assert_eq!(right.compare(&left), mirrored);
            prop_assert_eq!(left.compare(&right) == Causality::Equal, left == right);
        }
    }
}
