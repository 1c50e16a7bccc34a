//! The coordinator: one state machine for all operations that this node coordinates (DESIGN §4, §6).

use std::time::Duration;

use bytes::Bytes;

use crate::cluster::Time;
use crate::node_id::NodeId;
use crate::ring::Slot;
use crate::version::{Content, RequestId, VectorClock};

use super::{
    Answer, Consistency, FailedWhy, Failure, Level, Mint, MintAnswer, OpId, Outcome, Request, View,
};

/// Longest an asked owner may be silent before the next one is asked too.
pub const HEDGE_AFTER: Duration = Duration::from_millis(20);
/// Most operations in flight; a further one is refused as overloaded.
pub const OPERATIONS_MAX: usize = 1 << 16;

/// All operations in flight at one node.
#[derive(Debug, Default)]
pub struct Coordinator {}

/// What a client wants.
#[derive(Clone, Debug, PartialEq)]
pub enum Operation {
    /// Read a key.
    Get {
        /// The key.
        key: Bytes,
        /// Owners that must answer; the layout's r where none is named.
        r: Option<Level>,
        /// Whom to count; the layout's mode where none is named.
        consistency: Option<Consistency>,
    },
    /// Write or delete a key.
    Put {
        /// The key.
        key: Bytes,
        /// What to write.
        content: Content,
        /// What it replaces.
        basis: PutBasis,
        /// Durable acknowledgements to wait for; the layout's w where none is named.
        w: Option<Level>,
        /// Owners a put without a context asks at least; where none is named the layout's r, or w if that is named and less.
        r: Option<Level>,
        /// Whom to count; the layout's mode where none is named.
        consistency: Option<Consistency>,
        /// The client's name for it.
        request: RequestId,
        /// Time since the client first sent it, on a retry; zero on the first try.
        age: Duration,
    },
    /// Every owner's state of a key, side by side.
    Inspect {
        /// The key.
        key: Bytes,
    },
    /// A stretch of slots of one partition, merged.
    Scan {
        /// First and last slot, in one partition.
        slots: (Slot, Slot),
        /// Continue behind this slot and key.
        after: Option<(Slot, Bytes)>,
        /// Only keys that start so.
        prefix: Bytes,
        /// Owners to merge; the layout's r where none is named.
        r: Option<Level>,
        /// Rough limit of each owner's page in bytes.
        bytes_max: u32,
    },
}

/// What a put replaces.
#[derive(Clone, Debug, PartialEq)]
pub enum PutBasis {
    /// What is there (a put without a context).
    Present,
    /// Exactly what this clock covers; what was written since stays a sibling.
    Context(VectorClock),
    /// As `Context`, but refused where the quorum holds a version that it does not cover.
    IfContext(VectorClock),
    /// Nothing.
    Blind,
}

/// What reaches the coordinator.
#[derive(Clone, Debug, PartialEq)]
pub enum Input {
    /// A client's operation, at an owner of its key.
    Begin {
        /// The node's number for it, below 2^56, never used twice.
        op: OpId,
        /// What is wanted.
        operation: Operation,
        /// Past this it has failed.
        deadline: Time,
    },
    /// An owner answered [`Effect::Ask`]; `op` is the one given there.
    Answer {
        /// Who; may be this node.
        from: NodeId,
        /// As given with the question.
        op: OpId,
        /// What it said.
        answer: Answer,
    },
    /// To [`Effect::Mint`]: right after the append, not yet durable.
    Minted {
        /// As given with the mint.
        op: OpId,
        /// What became of it.
        answer: MintAnswer,
    },
    /// The state after the mint is as durable as the sync mode promises.
    MintDurable {
        /// As given with the mint.
        op: OpId,
    },
    /// A question or a mint came to nothing: it could not be sent, the disk failed, the range is corrupt.
    Failed {
        /// Whose answer will not come; may be this node.
        from: NodeId,
        /// As given with the question or mint.
        op: OpId,
        /// Why.
        why: FailedWhy,
    },
    /// No connection to this member stands any more: none of its answers will come.
    Unreachable(NodeId),
    /// The view shows another layout from now on.
    LayoutChanged,
    /// Time has passed.
    Tick,
}

/// What the coordinator wants done.
#[derive(Clone, Debug, PartialEq)]
pub enum Effect {
    /// Ask an owner. This node is asked like any other: it answers through `replica::answer`, once durable.
    Ask {
        /// Whom.
        to: NodeId,
        /// Comes back with the answer, unchanged. It is made from the operation's number, but is not that number.
        op: OpId,
        /// What.
        request: Request,
        /// Past this the answer is of no use.
        deadline: Time,
    },
    /// Write on the own state through `replica::mint`; `node` serialises per key.
    Mint {
        /// Comes back with the answer, unchanged; not the operation's number.
        op: OpId,
        /// What.
        mint: Mint,
    },
    /// An operation ended.
    Finished {
        /// The number it began under.
        op: OpId,
        /// How.
        result: Result<Outcome, Failure>,
    },
    /// [`Input::Tick`] is wanted then.
    Wake(Time),
}

impl Coordinator {
    /// A coordinator with nothing in flight.
    pub fn new() -> Self {
        Self::default()
    }

    /// Operations in flight.
    pub fn in_flight(&self) -> usize {
        todo!()
    }

    /// Folds one input in; what must happen next is appended to `effects`.
    pub fn handle(&mut self, view: &View<'_>, input: Input, effects: &mut Vec<Effect>) {
        let _ = (view, input, effects);
        todo!()
    }
}
