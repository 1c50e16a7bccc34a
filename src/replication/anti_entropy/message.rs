//! What two replicas say to each other as they compare.
#![warn(clippy::indexing_slicing)]

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::node_id::NodeId;
use crate::ring::Slot;
use crate::version::Siblings;

use super::exchange::View;
use super::tree::{TreeHash, TreeNode};

/// Bytes of a hash or leaf below the root, as it is sent: two that differ look the same once in 2^64 times, until the
/// next write.
pub(super) const SHORT_BYTES: usize = 8;

/// A question of the replica that compares.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum Compare {
    /// Whether the other tree has this root.
    Root(TreeHash),
    /// The hashes of the children of these nodes of one level; below the lowest, the leaves.
    Children {
        /// The nodes' level.
        level: u8,
        /// Their numbers.
        nodes: Vec<u16>,
    },
    /// The leaves of these slots, for a second look.
    Leaves(Vec<Slot>),
    /// What of one slot differs from these rows.
    Rows {
        /// The slot.
        slot: Slot,
        /// The rows are those of all keys whose hash lies between these, inclusive.
        range: (u64, u64),
        /// Packed.
        rows: Bytes,
        /// Whether the asker is no owner, and only gives: it is told no states.
        #[serde(default, skip_serializing_if = "is_false")]
        gives_only: bool,
    },
}

/// The answer to it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum Compared {
    /// The own root.
    Root(TreeHash),
    /// Hashes or leaves, of each the first 8 bytes, in the order asked for.
    Hashes(Bytes),
    /// What differs in a slot.
    Rows {
        /// Keys that the asker lacks or has an older state of.
        give: Vec<(Bytes, Siblings)>,
        /// Hashes of keys that this side lacks or has an older state of.
        want: Vec<u64>,
        /// Whether that is all; else the asker compares once more when it has merged these.
        complete: bool,
    },
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde wants it so")]
const fn is_false(flag: &bool) -> bool {
    !*flag
}

impl Compare {
    /// Bytes that it takes on the way, roughly.
    pub fn bytes_estimate(&self) -> usize {
        match self {
            Self::Root(_) => size_of::<TreeHash>(),
            Self::Children { nodes, .. } => size_of_val(nodes.as_slice()),
            Self::Leaves(slots) => size_of_val(slots.as_slice()),
            Self::Rows { rows, .. } => rows.len(),
        }
    }
}

impl Compared {
    /// Bytes that it takes on the way, roughly.
    pub fn bytes_estimate(&self) -> usize {
        match self {
            Self::Root(_) => size_of::<TreeHash>(),
            Self::Hashes(hashes) => hashes.len(),
            Self::Rows { give, want, .. } => {
                let given = give.iter().map(|(key, state)| key.len() + state.bytes_estimate());
                given.sum::<usize>() + size_of_val(want.as_slice())
            }
        }
    }
}

/// Answers all but [`Compare::Rows`], whose keys must be read first; `None` to what no tree has.
pub fn answer(view: &mut impl View, peer: NodeId, question: &Compare) -> Option<Compared> {
    match question {
        Compare::Root(_) => Some(Compared::Root(view.hash(peer, TreeNode::ROOT))),
        Compare::Children { level, nodes } => {
            let mut hashes = Vec::new();
            for index in nodes {
                let node = TreeNode::new(*level, *index)?;
                match node.children() {
                    Some(children) => {
                        for child in children {
                            hashes.extend_from_slice(&short_hash(view.hash(peer, child)));
                        }
                    }
                    None => leaves(view, peer, node.slots(), &mut hashes),
                }
            }
            Some(Compared::Hashes(hashes.into()))
        }
        Compare::Leaves(slots) => {
            let mut hashes = Vec::new();
            leaves(view, peer, slots.iter().copied(), &mut hashes);
            Some(Compared::Hashes(hashes.into()))
        }
        Compare::Rows { .. } => None,
    }
}

fn leaves(view: &impl View, peer: NodeId, slots: impl Iterator<Item = Slot>, out: &mut Vec<u8>) {
    for slot in slots {
        out.extend_from_slice(&short_leaf(view.leaf(peer, slot)));
    }
}

pub(super) fn short_hash(hash: TreeHash) -> [u8; SHORT_BYTES] {
    *hash.0.first_chunk().expect("8 of 20 bytes")
}

pub(super) fn short_leaf(leaf: u128) -> [u8; SHORT_BYTES] {
    *leaf.to_le_bytes().first_chunk().expect("8 of 16 bytes")
}
