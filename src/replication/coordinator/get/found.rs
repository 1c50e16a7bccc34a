//! What a get has heard, and what that comes to.

use std::collections::{BTreeMap, BTreeSet};

use crate::node_id::NodeId;
use crate::version::{Digest, Siblings};

/// What an owner, or who stands in for one, said.
#[derive(Debug)]
pub(super) enum Heard {
    State(Siblings),
    Digest { digest: Digest, absent: bool },
}

/// What those hold between them whose state is known: told, or explained by its digest.
#[derive(Debug)]
pub(super) struct Found {
    pub(super) merged: Siblings,
    /// Whose state is known.
    pub(super) answered: Vec<NodeId>,
    /// How many of them hold no value.
    pub(super) absent: usize,
    /// Owners whose state is part of `merged`: one that takes the merge afterwards told nothing of its own.
    pub(super) owners_heard: BTreeSet<NodeId>,
    /// Owners that hold `merged`.
    pub(super) holders: BTreeSet<NodeId>,
    /// Owners that hold less.
    pub(super) stale: Vec<NodeId>,
}

impl Found {
    /// A stand-in answers for an owner; it is no holder, and never repaired: only who `speaks_as_owner` is.
    pub(super) fn of(
        heard: &BTreeMap<NodeId, Heard>,
        speaks_as_owner: impl Fn(NodeId) -> bool,
    ) -> Self {
        let mut merged = Siblings::new();
        let mut known = BTreeSet::new();
        for heard in heard.values() {
            if let Heard::State(state) = heard {
                // Two values under one dot are noticed, and reported, where they are appended.
                merged.merge(state, &mut Vec::new());
                known.insert(state.digest());
            }
        }
        let digest = merged.digest();
        let mut found = Self {
            merged,
            answered: Vec::new(),
            absent: 0,
            owners_heard: BTreeSet::new(),
            holders: BTreeSet::new(),
            stale: Vec::new(),
        };
        for (node, heard) in heard.iter().filter(|(_, heard)| known.contains(&heard.digest())) {
            found.answered.push(*node);
            found.absent += usize::from(heard.is_absent());
            if !speaks_as_owner(*node) {
                continue;
            }
            found.owners_heard.insert(*node);
            if heard.digest() == digest {
                found.holders.insert(*node);
            } else {
                found.stale.push(*node);
            }
        }
        found
    }
}

impl Heard {
    pub(super) fn digest(&self) -> Digest {
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
