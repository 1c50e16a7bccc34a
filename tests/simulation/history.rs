//! What clients did and saw, with the explicit causal past of every write.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use kvkit::version::{Dot, RequestId, Siblings};

use crate::world::Nanos;

/// What a put replaced, as its client meant it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Basis {
    /// What was there.
    Present,
    /// Exactly these writes: what a read saw, and what those had seen.
    Context(BTreeSet<RequestId>),
    /// Nothing.
    Blind,
}

/// One put or delete.
#[derive(Clone, Debug)]
pub struct Write {
    pub key: Bytes,
    pub request: RequestId,
    pub basis: Basis,
    pub began: Nanos,
    /// After this no try of it changes anything; `None` while its client is at it.
    pub over: Option<Nanos>,
    pub tries: u32,
    /// When its acknowledgement reached the client, and the dot it named.
    pub acknowledged: Option<(Nanos, Option<Dot>)>,
    /// Every try was answered with the word that nothing was written.
    pub is_not_applied: bool,
    pub is_strict: bool,
}

/// One read that met its quorum.
#[derive(Clone, Debug)]
pub struct Read {
    pub key: Bytes,
    pub began: Nanos,
    pub ended: Nanos,
    pub state: Siblings,
    pub is_strict: bool,
}

/// All of a run.
#[derive(Debug, Default)]
pub struct History {
    pub writes: BTreeMap<RequestId, Write>,
    pub reads: Vec<Read>,
    /// Puts tried more than once that were seen under more than one dot.
    pub written_twice: BTreeMap<RequestId, Vec<Dot>>,
}

impl History {
    /// All writes that a read of `state` causally saw: its versions, and what those had seen.
    pub fn past_of(&self, state: &Siblings) -> BTreeSet<RequestId> {
        let mut past = BTreeSet::new();
        for version in state.versions().values() {
            past.insert(version.request);
            if let Some(Write { basis: Basis::Context(seen), .. }) =
                self.writes.get(&version.request)
            {
                past.extend(seen);
            }
        }
        past
    }

    pub fn writes_of<'a>(&'a self, key: &'a Bytes) -> impl Iterator<Item = &'a Write> {
        self.writes.values().filter(move |write| write.key == *key)
    }

    pub fn keys(&self) -> BTreeSet<Bytes> {
        let written = self.writes.values().map(|write| write.key.clone());
        written.chain(self.reads.iter().map(|read| read.key.clone())).collect()
    }
}
