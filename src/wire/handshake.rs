//! The first frame each side of a connection sends.

use serde::{Deserialize, Serialize};

use crate::node_id::{ClusterId, NodeId};

/// Lowest and highest protocol version this build speaks.
pub const PROTOCOL: (u16, u16) = (1, 1);

/// Who calls.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Hello {
    /// Lowest protocol version the caller speaks.
    pub protocol_min: u16,
    /// Highest.
    pub protocol_max: u16,
    /// Names of optional features the caller speaks.
    pub features: Vec<String>,
    /// What the caller is.
    pub role: Role,
    /// The caller's monotonic nanoseconds.
    pub sent: u64,
}

/// What a caller is.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum Role {
    /// A node of a cluster.
    Peer {
        /// Its cluster.
        cluster: ClusterId,
        /// Its identity.
        node: NodeId,
        /// Its name.
        name: String,
        /// Rises at each of its starts.
        incarnation: u64,
        /// 64 random bits of this start: two processes with one identity differ in it.
        nonce: u64,
        /// Its layout version, 0 for none.
        layout: u64,
        /// The layout's generation.
        generation: u64,
        /// Where peers reach it; empty where it does not say.
        #[serde(default, skip_serializing_if = "String::is_empty")]
        address: String,
    },
    /// A client or a tool.
    Client {
        /// Its program and version, for logs.
        agent: String,
    },
}

/// The called side's answer.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum Welcome {
    /// Come in.
    Accepted {
        /// The protocol version chosen.
        protocol: u16,
        /// Features both speak.
        features: Vec<String>,
        /// The called node's cluster.
        cluster: ClusterId,
        /// The called node.
        node: NodeId,
        /// Its name.
        name: String,
        /// Its incarnation.
        incarnation: u64,
        /// Its start's random bits.
        nonce: u64,
        /// Its layout version.
        layout: u64,
        /// The called side's monotonic nanoseconds.
        sent: u64,
    },
    /// Stay out; the connection is closed.
    Refused {
        /// For programs.
        code: RefusalCode,
        /// For people.
        reason: String,
    },
}

/// Why a caller is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RefusalCode {
    /// No protocol version in common.
    Protocol,
    /// It belongs to another cluster.
    WrongCluster,
    /// Its identity is in use by another process.
    CopiedIdentity,
    /// A newer start of it is known.
    OldIncarnation,
    /// It was removed from the cluster.
    RemovedMember,
    /// It is not a member, and joining is not possible yet.
    NotAMember,
    /// Too many connections.
    Overloaded,
    /// Not allowed.
    NotAuthorised,
    /// The connection leads back to the caller.
    Itself,
}
