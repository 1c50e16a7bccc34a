//! What an owner does with one request about one key: pure functions of its own state.

use bytes::Bytes;

use crate::cluster::Time;
use crate::version::{Actor, Basis, Content, Dot, HybridClock, MintError, RequestId, Siblings};

use super::{Answer, Request, RequestMemory};

/// What a replica brings along besides the key's state.
#[derive(Debug)]
pub struct Local<'a> {
    /// The present.
    pub now: Time,
    /// Under which actor it mints.
    pub actor: Actor,
    /// The actor's floor for this key.
    pub floor: u64,
    /// The puts it knows.
    pub memory: &'a mut RequestMemory,
    /// Its timestamps.
    pub clock: &'a mut HybridClock,
}

/// What one request leads to.
#[derive(Clone, Debug, PartialEq)]
pub struct Step<A> {
    /// The key's new state, to be appended; `None` when it did not change.
    pub state: Option<Siblings>,
    /// The answer, to be sent once the state it speaks of is durable.
    pub answer: A,
    /// Dots met with two value hashes.
    pub alarms: Vec<Dot>,
    /// A peer's state shows this replica's present actor above all it minted itself: its epoch must rise before the
    /// next mint.
    pub actor_ahead: bool,
}

/// One write to be done at the coordinator.
#[derive(Clone, Debug, PartialEq)]
pub struct Mint {
    /// The key.
    pub key: Bytes,
    /// States heard of other owners, merged into the own one first (a fold).
    pub merge: Option<Siblings>,
    /// What the write replaces.
    pub basis: Basis,
    /// Whether it is refused where a version stands that `basis` does not cover.
    pub exact: bool,
    /// What is written.
    pub content: Content,
    /// The client's name for it.
    pub request: RequestId,
    /// Whether it is the first mint of this put by its coordinator.
    pub kind: MintKind,
    /// Past this nothing is minted.
    pub deadline: Time,
}

/// How a mint treats puts that the replica knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MintKind {
    /// A put without a context: known by its id or a later one of its session.
    Plain,
    /// A put with a context, or blind: known by its id alone.
    Exact,
    /// The second version of a put that its coordinator minted already.
    Fold,
}

/// What became of a [`Mint`].
#[derive(Clone, Debug, PartialEq)]
pub enum MintAnswer {
    /// Written.
    Minted {
        /// The state after it.
        state: Siblings,
        /// Its name.
        dot: Dot,
        /// How many siblings stand now.
        siblings: usize,
    },
    /// The put is known here: nothing was minted.
    Known {
        /// The state.
        state: Siblings,
    },
    /// A version stands that the context does not cover: nothing was minted.
    Stale,
    /// The deadline had passed: nothing was minted.
    Expired,
    /// The memory of puts is full: nothing was minted.
    Overloaded,
    /// Nothing was minted.
    Refused(MintError),
}

/// Answers a read or a merge of one key. (A range is `node`'s to answer: it has no single state.)
pub fn answer(key: &[u8], own: &Siblings, request: &Request, local: Local<'_>) -> Step<Answer> {
    let _ = (key, own, request, local);
    todo!()
}

/// Does one write on the own state.
pub fn mint(own: &Siblings, mint: &Mint, local: Local<'_>) -> Step<MintAnswer> {
    let _ = (own, mint, local);
    todo!()
}
