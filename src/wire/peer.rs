//! What nodes send each other once the handshake is done.

use serde::{Deserialize, Serialize};

use crate::cluster::{membership, register, start};
use crate::replication::{Answer, Envelope, OpId, Request};

use super::client::{self, ReplyBody, RequestBody};

/// One message, with what every frame between nodes carries.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct PeerFrame {
    /// The sender's monotonic nanoseconds as it wrote the frame: deadlines are given in the receiver's time.
    pub sent: u64,
    /// The message.
    pub message: PeerMessage,
}

/// A message between nodes.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum PeerMessage {
    /// A coordinator asks a replica.
    Request {
        /// The receiver's monotonic nanoseconds after which the request is dropped unread.
        deadline: u64,
        /// What.
        envelope: Envelope<Request>,
    },
    /// A replica answers a coordinator.
    Answer(Envelope<Answer>),
    /// A client's request, passed on to a node that holds its key.
    Forward {
        /// The passing node's number for it.
        op: OpId,
        /// The request; its deadline is in the receiver's time.
        request: Box<client::Request>,
    },
    /// The reply to a forwarded request.
    Forwarded {
        /// The number given.
        op: OpId,
        /// The reply.
        reply: Box<client::Reply>,
    },
    /// Who is there and who is silent.
    Gossip(membership::Message),
    /// The agreement on the layout.
    Register(register::Message),
    /// Whether a start of a node is the first with its number.
    Start(start::Message),
}

/// Bytes of a message besides what [`PeerMessage::bytes_estimate`] counts one by one, roughly.
const MESSAGE_BYTES: usize = 128;

impl PeerMessage {
    /// Bytes that it takes in a queue, roughly.
    pub fn bytes_estimate(&self) -> usize {
        let carried = match self {
            Self::Request { envelope, .. } => envelope.body.bytes_estimate(),
            Self::Answer(envelope) => envelope.body.bytes_estimate(),
            Self::Forward { request, .. } => match &request.body {
                RequestBody::Put(put) => {
                    put.key.len() + put.value.as_ref().map_or(0, bytes::Bytes::len)
                }
                _ => 0,
            },
            Self::Forwarded { reply, .. } => match &reply.body {
                ReplyBody::Got(got) => got.state.bytes_estimate(),
                ReplyBody::Scanned(scanned) => {
                    let entries = scanned.entries.iter();
                    entries.map(|entry| entry.key.len() + entry.state.bytes_estimate()).sum()
                }
                _ => 0,
            },
            Self::Gossip(_) | Self::Register(_) | Self::Start(_) => 0,
        };
        MESSAGE_BYTES + carried
    }
}
