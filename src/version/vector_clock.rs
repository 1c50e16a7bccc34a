//! Vector clocks.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::{Actor, Dot};

/// For each actor the highest counter seen; an absent actor counts as 0.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
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
        let _ = dot;
        todo!()
    }
    /// Whether `dot` lies in the seen past.
    pub fn covers(&self, dot: Dot) -> bool {
        self.get(dot.actor) >= dot.counter
    }
    /// Whether everything `other` has seen is seen here.
    pub fn descends(&self, other: &Self) -> bool {
        let _ = other;
        todo!()
    }
    /// Pointwise maximum.
    pub fn merge(&mut self, other: &Self) {
        let _ = other;
        todo!()
    }
    /// How `self` stands to `other`.
    pub fn compare(&self, other: &Self) -> Causality {
        let _ = other;
        todo!()
    }
    /// Entries in actor order, all above 0.
    pub fn iter(&self) -> impl Iterator<Item = (Actor, u64)> + '_ {
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
}
