//! What one member says of itself, and gossip carries on.

use serde::{Deserialize, Serialize};

use crate::node_id::NodeId;
use crate::ring::{Layout, LayoutHash};

/// Most members that one gossip message may name.
pub const MEMBERS_MAX: usize = 1_024;
/// Longest address in bytes: a DNS name of 255, a colon, a port.
pub const ADDRESS_BYTES_MAX: usize = 261;
/// Counters from a peer above this are no counters but an attempt to end counting.
pub const COUNTER_MAX: u64 = 1 << 62;

/// Which life of a node this is: the durable count of its starts.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
pub struct Incarnation(pub u64);

/// One start of a node: its number, and 64 random bits that tell it from the same start of a copied directory.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
pub struct Start {
    /// The number of this start; durable in the node's directory before anything is sent.
    pub count: Incarnation,
    /// Drawn at this start.
    pub nonce: u64,
}

/// How fresh a word about a member is: the larger one wins.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
pub struct Pulse {
    /// The life it speaks of.
    pub incarnation: Incarnation,
    /// The heartbeat counter in that life.
    pub heartbeat: u64,
}

/// Where a member listens, as `host:port`; empty where it does not.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Addresses {
    /// For other nodes.
    pub peer: String,
    /// For native clients.
    pub client: String,
    /// For HTTP.
    pub http: String,
}

/// Names one layout in a few bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct LayoutTag {
    /// The layout's generation.
    pub generation: u64,
    /// The layout's version.
    pub version: u64,
    /// The layout's hash: one version with two hashes is an alarm.
    pub hash: LayoutHash,
}

/// A member as gossip carries it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MemberEntry {
    /// Who.
    pub id: NodeId,
    /// In which life.
    pub start: Start,
    /// Raised once an interval.
    pub heartbeat: u64,
    /// Where it listens.
    pub addresses: Addresses,
    /// The layout it acts on.
    pub layout: LayoutTag,
    /// How far its commit log is synced; 0 until its disk was compared with what others saw of it.
    pub log_position: u64,
    /// The version of the layout in which a change runs and by which it holds all that it gains; 0 while it does not.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub ready: u64,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde wants it so")]
const fn is_zero(number: &u64) -> bool {
    *number == 0
}

/// Why an entry from a peer is not taken.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum MalformedEntry {
    /// An address longer than any can be.
    #[error("an address of {bytes} bytes for {id}: at most {ADDRESS_BYTES_MAX} are allowed")]
    Address {
        /// Whose.
        id: NodeId,
        /// How long.
        bytes: usize,
    },
    /// A counter near the end of its range.
    #[error("a counter of {value} for {id} is out of range")]
    Counter {
        /// Whose.
        id: NodeId,
        /// The counter.
        value: u64,
    },
}

impl LayoutTag {
    /// The tag of `layout`; hashes it.
    pub fn of(layout: &Layout) -> Self {
        Self { generation: layout.generation, version: layout.version, hash: layout.hash() }
    }
}

impl MemberEntry {
    /// How fresh this entry is.
    pub const fn pulse(&self) -> Pulse {
        Pulse { incarnation: self.start.count, heartbeat: self.heartbeat }
    }

    /// Checks what a peer might have made up.
    /// # Errors
    /// The first field out of bounds.
    pub fn validate(&self) -> Result<(), MalformedEntry> {
        let Self { id, addresses: Addresses { peer, client, http }, .. } = self;
        for address in [peer, client, http] {
            if address.len() > ADDRESS_BYTES_MAX {
                return Err(MalformedEntry::Address { id: *id, bytes: address.len() });
            }
        }
        for value in [self.start.count.0, self.heartbeat, self.log_position, self.ready] {
            if value > COUNTER_MAX {
                return Err(MalformedEntry::Counter { id: *id, value });
            }
        }
        Ok(())
    }
}
