//! Clients' operations that this node coordinates.

use std::collections::BTreeMap;

use crate::cluster::Time;
use crate::node_id::NodeId;
use crate::replication::OpId;

use super::event::Caller;

/// Who waits for a reply.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Origin {
    /// A client of this node.
    Client {
        caller: Caller,
        /// The client's number for the request.
        id: u64,
    },
    /// A peer that passed a client's request on.
    Peer {
        node: NodeId,
        /// The peer's number for it.
        op: OpId,
        id: u64,
    },
}

impl Origin {
    /// The client's number for the request.
    pub(super) const fn id(self) -> u64 {
        match self {
            Self::Client { id, .. } | Self::Peer { id, .. } => id,
        }
    }
}

/// One operation in flight.
#[derive(Clone, Copy, Debug)]
pub(super) struct Call {
    pub(super) origin: Origin,
    pub(super) began: Time,
    pub(super) kind: CallKind,
    /// Bytes of its key and value.
    pub(super) bytes: usize,
}

/// What is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum CallKind {
    Get,
    Put,
    Merge,
    Inspect,
    Scan,
}

impl CallKind {
    /// Whether it changes what is stored.
    pub(super) const fn is_write(self) -> bool {
        match self {
            Self::Put | Self::Merge => true,
            Self::Get | Self::Inspect | Self::Scan => false,
        }
    }
}

/// All operations in flight, and how much they hold.
#[derive(Debug, Default)]
pub(super) struct Calls {
    by_op: BTreeMap<OpId, Call>,
    bytes: usize,
}

impl Calls {
    pub(super) fn begin(&mut self, op: OpId, call: Call) {
        self.bytes += call.bytes;
        self.by_op.insert(op, call);
    }

    pub(super) fn finish(&mut self, op: OpId) -> Option<Call> {
        let call = self.by_op.remove(&op)?;
        self.bytes -= call.bytes;
        Some(call)
    }

    pub(super) fn len(&self) -> usize {
        self.by_op.len()
    }

    pub(super) const fn bytes(&self) -> usize {
        self.bytes
    }
}
