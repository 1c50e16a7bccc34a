//! What nodes say to each other about keys.

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::node_id::NodeId;
use crate::ring::Slot;
use crate::version::{Digest, Dot, RequestId, Siblings};

use super::anti_entropy::{Compare, Compared};
use super::cut::{CutAnswer, CutQuestion};
use super::quorum::Consistency;

/// One operation of one coordinator, unique in the life of its process.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct OpId(pub u64);

/// A request or an answer about one slot, fenced by the sender's layout version.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Envelope<T> {
    /// The sender's layout version; the receiver answers only at its own.
    pub layout: u64,
    /// The coordinator's operation, given back with the answer.
    pub op: OpId,
    /// The cut number under which the sender read the states it sends; of an answer only where it is not the request's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cut: Option<u64>,
    /// What it is about.
    pub body: T,
}

/// What a coordinator asks of a replica.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum Request {
    /// The key's state, or its digest.
    Read {
        /// The key.
        key: Bytes,
        /// How much of it.
        want: ReadWant,
        /// That of the request it is for: what is asked strictly is answered with a promise, or refused.
        #[serde(default = "strict")]
        consistency: Consistency,
    },
    /// Merge this state durably. From a put it carries the tag; from read repair and write-back none.
    Merge {
        /// The key.
        key: Bytes,
        /// The coordinator's merged state.
        state: Siblings,
        /// The put it stems from.
        put: Option<PutTag>,
    },
    /// Keep this state durably for an owner that cannot be reached (hinted handoff); asked of members that do not own the
    /// key, and of the own node.
    Hold {
        /// The key.
        key: Bytes,
        /// The coordinator's merged state.
        state: Siblings,
        /// The put it stems from.
        put: Option<PutTag>,
        /// For whom.
        target: NodeId,
        /// Of how many acknowledgements it is one; 0 where it counts for none.
        w: u8,
    },
    /// What a member that does not own the key holds of it: left-over data, and hints for its owners.
    ReadHeld {
        /// The key.
        key: Bytes,
    },
    /// Whether the replica knows this put, and the key's state: before a retry or a conditional put is written.
    Recall {
        /// The key.
        key: Bytes,
        /// The client's name for the put.
        request: RequestId,
        /// Whether it came without a context: then a later put of its session counts as knowing it.
        plain: bool,
    },
    /// Keys and states of `slots` (inclusive), in (slot, key) order, after `after`.
    ReadRange {
        /// First and last slot.
        slots: (Slot, Slot),
        /// Continue behind this slot and key.
        after: Option<(Slot, Bytes)>,
        /// Only keys that start so.
        prefix: Bytes,
        /// Rough limit of the answer in bytes; at least one entry is given.
        bytes_max: u32,
    },
    /// A step of anti-entropy.
    Compare(Compare),
    /// A step of a cut.
    Cut(CutQuestion),
}

impl Request {
    /// Whether the answer speaks of all that the replica should hold of its slots.
    pub const fn wants_all(&self) -> bool {
        match self {
            Self::Read { .. } | Self::Recall { .. } | Self::ReadRange { .. } | Self::Compare(_) => {
                true
            }
            Self::Merge { .. } | Self::Hold { .. } | Self::ReadHeld { .. } | Self::Cut(_) => false,
        }
    }

    /// Whether it is the merge of a put without a context.
    pub const fn is_plain_put(&self) -> bool {
        match self {
            Self::Merge { put: Some(PutTag { plain, .. }), .. } => *plain,
            Self::Merge { put: None, .. }
            | Self::Read { .. }
            | Self::Hold { .. }
            | Self::ReadHeld { .. }
            | Self::Recall { .. }
            | Self::ReadRange { .. }
            | Self::Compare(_)
            | Self::Cut(_) => false,
        }
    }

    /// Whether a client waits for it.
    pub const fn is_of_a_client(&self) -> bool {
        match self {
            Self::Read { .. }
            | Self::Merge { put: Some(_), .. }
            | Self::Hold { put: Some(_), .. }
            | Self::ReadHeld { .. }
            | Self::Recall { .. } => true,
            Self::Merge { put: None, .. }
            | Self::Hold { put: None, .. }
            | Self::ReadRange { .. }
            | Self::Compare(_)
            | Self::Cut(_) => false,
        }
    }

    /// The key that it is about, where it is one.
    pub const fn key(&self) -> Option<&Bytes> {
        match self {
            Self::Read { key, .. }
            | Self::Merge { key, .. }
            | Self::Hold { key, .. }
            | Self::ReadHeld { key }
            | Self::Recall { key, .. } => Some(key),
            Self::ReadRange { .. } | Self::Compare(_) | Self::Cut(_) => None,
        }
    }

    /// Bytes that it takes on the way, roughly: of keys and states.
    pub fn bytes_estimate(&self) -> usize {
        match self {
            Self::Read { key, .. } | Self::ReadHeld { key } | Self::Recall { key, .. } => key.len(),
            Self::Merge { key, state, .. } | Self::Hold { key, state, .. } => {
                key.len() + state.bytes_estimate()
            }
            Self::ReadRange { prefix, .. } => prefix.len(),
            Self::Compare(question) => question.bytes_estimate(),
            Self::Cut(
                CutQuestion::Ask { items }
                | CutQuestion::Take { items, .. }
                | CutQuestion::Forget { items },
            ) => items.iter().map(|item| item.key.len()).sum(),
            Self::Cut(CutQuestion::Numbers { .. }) => 0,
        }
    }
}

impl Answer {
    /// Bytes that it takes on the way, roughly: of keys and states.
    pub fn bytes_estimate(&self) -> usize {
        match self {
            Self::State(state) | Self::Unpromised(state) | Self::Recalled { state, .. } => {
                state.bytes_estimate()
            }
            Self::Merged(acknowledgement) => {
                let known = match &acknowledgement.known {
                    Known::No { .. } => 0,
                    Known::Done(state) => state.bytes_estimate(),
                };
                known + acknowledgement.uncovered.as_ref().map_or(0, Siblings::bytes_estimate)
            }
            Self::Range(page) => page
                .entries
                .iter()
                .map(|entry| entry.key.len() + entry.state.bytes_estimate())
                .sum(),
            Self::Compared(compared) => compared.bytes_estimate(),
            Self::Cut(_) | Self::Digest { .. } | Self::Refused(_) => 0,
        }
    }
}

/// How much a read wants to know.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum ReadWant {
    /// The whole state.
    State,
    /// Its digest.
    Digest,
}

/// The put that a merge stems from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PutTag {
    /// The client's name for it.
    pub request: RequestId,
    /// The dot it has at this coordinator.
    pub dot: Dot,
    /// Whether it came without a context: then the replica answers with what the merged state did not cover.
    pub plain: bool,
}

/// What a replica answers, once all it speaks of is as durable as the sync mode promises.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum Answer {
    /// To a read of the state, or of what is held; the empty state for a key never written.
    State(Siblings),
    /// To a read of the digest; `absent` when no value stands.
    Digest {
        /// Over dots and value hashes.
        digest: Digest,
        /// Whether the key has no value here.
        absent: bool,
    },
    /// To a merge, or to a state to be held.
    Merged(Acknowledgement),
    /// To a recall.
    Recalled {
        /// The key's state.
        state: Siblings,
        /// Whether the put is known.
        known: bool,
        /// How far back the memory of request ids reaches, microseconds before now.
        memory: u64,
    },
    /// To a range.
    Range(RangePage),
    /// To a step of anti-entropy.
    Compared(Compared),
    /// To a step of a cut.
    Cut(CutAnswer),
    /// To a read that is not strict, of a replica that does not know yet whether its disk was rolled back: the state. It
    /// counts toward R, and for no promise.
    Unpromised(Siblings),
    /// Not done, and why; nothing changed.
    Refused(Refusal),
}

/// What a read is where it does not say: the kind that may be refused.
const fn strict() -> Consistency {
    Consistency::Strict
}

/// A durable merge.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Acknowledgement {
    /// To a plain put: this replica's state before the merge, where it held a version that the put did not cover.
    pub uncovered: Option<Siblings>,
    /// To a put: whether this replica knows it under another actor's dot, or a later put of its session.
    pub known: Known,
}

/// Whether a replica knows a put already.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum Known {
    /// No, or under this very dot: it merged.
    No {
        /// How far back its memory of request ids reaches, microseconds before now.
        memory: u64,
    },
    /// Yes: it merged nothing, the put is done; its state.
    Done(Siblings),
}

/// A stretch of a slot range.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct RangePage {
    /// In (slot, key) order.
    pub entries: Vec<RangeEntry>,
    /// Whether the range ends here; else continue behind the last entry.
    pub complete: bool,
    /// The cut numbers of its slots under which it was read, where they are above 0.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub cuts: Vec<(Slot, u64)>,
}

/// One key of a range.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct RangeEntry {
    /// Where it lies.
    pub slot: Slot,
    /// The key.
    pub key: Bytes,
    /// Its state.
    pub state: Siblings,
}

/// Why a replica did nothing.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[serde(rename_all = "snake_case")]
pub enum Refusal {
    /// Its layout is another; it sends it apart.
    #[error("layout version {have} here")]
    Layout {
        /// The replica's version.
        have: u64,
    },
    /// It is no owner of the slot.
    #[error("not an owner of the slot")]
    NotOwner,
    /// The deadline had passed.
    #[error("past its deadline")]
    Expired,
    /// Too much in flight.
    #[error("overloaded")]
    Overloaded,
    /// The block that holds the key does not match its checksum.
    #[error("the key's range is corrupt here")]
    Corrupt,
    /// The state was read before a cut that this replica took part in.
    #[error("read under an older cut number than {number}")]
    Cut {
        /// The slot.
        slot: Slot,
        /// The replica's number.
        number: u64,
    },
    /// It may hold less than it should, and is getting it back.
    #[error("refilling what was lost")]
    Refilling,
    /// It has just started, and does not know yet whether its disk was rolled back.
    #[error("starting")]
    Starting,
    /// No space to accept a write.
    #[error("disk full")]
    DiskFull,
}
