//! The layout: the one thing that the cluster agrees on.

use serde::{Deserialize, Serialize};

use crate::node_id::NodeId;

use super::Partition;

/// Whether requests count owners only unless they say otherwise.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Mode {
    /// Sloppy by default (AP): healthy members stand in for unreachable owners.
    Available,
    /// Strict by default (CP).
    Consistent,
}

/// A member's share of the ring, in thousandths; 0 owns nothing. Written as a decimal number (`1.0`) in JSON and TOML.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Weight(pub u32);

/// One member.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Member {
    /// Its identity.
    pub id: NodeId,
    /// Its name, unique in the ring.
    pub name: String,
    /// Its failure zone; empty when zones are not used.
    pub zone: String,
    /// Its share.
    pub weight: Weight,
}

/// Members, who owns which partition, and the quorum.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Ring {
    /// Partitions, a power of two up to 65,536.
    pub q: u32,
    /// Replicas a key has.
    pub n: u8,
    /// Replies a read waits for.
    pub r: u8,
    /// Durable acknowledgements a write waits for.
    pub w: u8,
    /// Sloppy or strict by default.
    pub mode: Mode,
    /// In the order of their ids.
    pub members: Vec<Member>,
    /// For each partition its owner, an index into `members`.
    pub owner: Vec<u16>,
}

/// What the cluster agrees on, version by version.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Layout {
    /// Rises when a cluster is recovered after the loss of a majority.
    pub generation: u64,
    /// Rises by one with each agreed change, from 1.
    pub version: u64,
    /// The ring in force.
    pub now: Ring,
    /// The ring that a change in progress leads to.
    pub next: Option<Ring>,
}

/// 64 bits of SHA-1 over a layout's canonical bytes: one version with two hashes is an alarm.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct LayoutHash(pub u64);

/// Why a layout cannot be.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LayoutError {
    /// Q is no power of two, or past the maximum.
    #[error("{0} partitions: the number must be a power of two up to 65536")]
    Partitions(u32),
    /// `owner` does not name an existing member for each partition.
    #[error("partition {0} has no owner among the members")]
    Owner(u32),
    /// Members out of order, or one id twice.
    #[error("member {0} stands twice or out of order")]
    Members(NodeId),
    /// One name for two members, or a malformed one.
    #[error("name `{0}` is taken twice or malformed")]
    Name(String),
    /// n, r or w is 0, or r or w is above n.
    #[error("n={n} r={r} w={w}: each must be at least 1, r and w at most n")]
    Quorum {
        /// Replicas.
        n: u8,
        /// Read quorum.
        r: u8,
        /// Write quorum.
        w: u8,
    },
    /// No member.
    #[error("a ring needs at least one member of weight above 0")]
    Empty,
}

impl Ring {
    /// Members with a weight above 0.
    pub fn active(&self) -> usize {
        self.members.iter().filter(|member| member.weight.0 > 0).count()
    }
    /// n, or the number of active members while that is smaller.
    pub fn effective_n(&self) -> usize {
        usize::from(self.n).min(self.active())
    }
    /// r, at most [`Ring::effective_n`].
    pub fn effective_r(&self) -> usize {
        usize::from(self.r).min(self.effective_n())
    }
    /// w, at most [`Ring::effective_n`].
    pub fn effective_w(&self) -> usize {
        usize::from(self.w).min(self.effective_n())
    }
    /// The member with this id.
    pub fn member(&self, id: NodeId) -> Option<&Member> {
        self.members
            .binary_search_by_key(&id, |member| member.id)
            .ok()
            .map(|index| &self.members[index])
    }
    /// The member with this name.
    pub fn named(&self, name: &str) -> Option<&Member> {
        self.members.iter().find(|member| member.name == name)
    }
    /// Who owns `partition`.
    pub fn owner_of(&self, partition: Partition) -> &Member {
        &self.members[usize::from(self.owner[partition.0 as usize])]
    }
    /// Checks all that the fields' docs promise.
    /// # Errors
    /// The first promise that does not hold.
    pub fn validate(&self) -> Result<(), LayoutError> {
        todo!()
    }
}

impl Layout {
    /// Layout 1 of a new cluster: `members` placed over `q` partitions by the solver.
    /// # Errors
    /// [`LayoutError`] when the numbers cannot be.
    pub fn found(
        q: u32,
        n: u8,
        r: u8,
        w: u8,
        mode: Mode,
        members: Vec<Member>,
    ) -> Result<Self, LayoutError> {
        let _ = (q, n, r, w, mode, members);
        todo!()
    }
    /// The hash over the canonical bytes.
    pub fn hash(&self) -> LayoutHash {
        todo!()
    }
    /// Checks both rings and the version.
    /// # Errors
    /// The first promise that does not hold.
    pub fn validate(&self) -> Result<(), LayoutError> {
        todo!()
    }
}
