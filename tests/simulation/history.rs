//! What clients did and saw, with the explicit causal past of every write.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use kvkit::version::{Content, Dot, RequestId, Siblings};

use crate::world::Nanos;

/// A set of writes of one key, by their numbers there.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Numbers(Vec<u64>);

impl Numbers {
    pub fn insert(&mut self, number: usize) {
        let word = number / 64;
        self.0.resize(self.0.len().max(word + 1), 0);
        self.0[word] |= 1 << (number % 64);
    }

    pub fn contains(&self, number: usize) -> bool {
        self.0.get(number / 64).is_some_and(|word| word >> (number % 64) & 1 == 1)
    }

    pub fn extend(&mut self, other: &Self) {
        self.0.resize(self.0.len().max(other.0.len()), 0);
        for (word, more) in self.0.iter_mut().zip(&other.0) {
            *word |= more;
        }
    }
}

/// What a put replaced, as its client meant it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Basis {
    /// What was there.
    Present,
    /// Exactly these writes: what a read saw, and what those had seen.
    Context(Numbers),
    /// Nothing.
    Blind,
}

/// One put or delete.
#[derive(Clone, Debug)]
pub struct Write {
    pub key: Bytes,
    pub request: RequestId,
    /// Among the writes of its key.
    pub number: usize,
    pub content: Content,
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

impl Write {
    pub fn is_delete(&self) -> bool {
        self.content == Content::Tombstone
    }
}

/// One read that met its quorum.
#[derive(Clone, Debug)]
pub struct Read {
    pub began: Nanos,
    pub ended: Nanos,
    pub state: Siblings,
    pub is_strict: bool,
}

/// All that was done with one key.
#[derive(Debug, Default)]
pub struct KeyHistory {
    /// By number.
    pub writes: Vec<Write>,
    pub reads: Vec<Read>,
}

/// All of a run.
#[derive(Debug, Default)]
pub struct History {
    pub keys: BTreeMap<Bytes, KeyHistory>,
    requests: BTreeMap<RequestId, (Bytes, usize)>,
}

impl History {
    /// Notes a write as it begins.
    pub fn begin(&mut self, mut write: Write) {
        let key = self.keys.entry(write.key.clone()).or_default();
        write.number = key.writes.len();
        self.requests.insert(write.request, (write.key.clone(), write.number));
        key.writes.push(write);
    }

    pub fn write(&self, request: RequestId) -> Option<&Write> {
        let (key, number) = self.requests.get(&request)?;
        self.keys.get(key)?.writes.get(*number)
    }

    /// A write that began.
    pub fn write_mut(&mut self, request: RequestId) -> &mut Write {
        let (key, number) = &self.requests[&request];
        &mut self.keys.get_mut(key).expect("it began").writes[*number]
    }

    pub fn read(&mut self, key: &Bytes, read: Read) {
        self.keys.entry(key.clone()).or_default().reads.push(read);
    }

    /// All writes that a read of `state` causally saw: its versions, and what those had seen.
    pub fn past_of(&self, state: &Siblings) -> Numbers {
        let mut past = Numbers::default();
        for write in self.shown(state) {
            past.insert(write.number);
            if let Basis::Context(seen) = &write.basis {
                past.extend(seen);
            }
        }
        past
    }

    /// The writes whose versions stand in `state`.
    pub fn shown<'a>(&'a self, state: &'a Siblings) -> impl Iterator<Item = &'a Write> {
        state.versions().values().filter_map(|version| self.write(version.request))
    }

    pub fn writes(&self) -> impl Iterator<Item = &Write> {
        self.keys.values().flat_map(|key| &key.writes)
    }

    pub fn reads(&self) -> impl Iterator<Item = &Read> {
        self.keys.values().flat_map(|key| &key.reads)
    }

    pub fn names(&self) -> BTreeSet<Bytes> {
        self.keys.keys().cloned().collect()
    }
}
