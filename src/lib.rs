//! kvkit: a Dynamo-style key-value store as a library and four programs over it.
//!
//! The layers, lowest first; imports point down, never up and never sideways (`tests/it/layers.rs` holds the
//! sources against this map, `ARCHITECTURE.md` explains it):
//!
//! ```text
//! leaves                 node_id, encoding, planted (bugs for the simulator to find; nothing without their feature)
//! ring | version         who owns a key; what happened to it
//! cluster                membership, gossip, failure detection, layout agreement          (ring)
//! replication | storage  coordinators and replicas; one LSM store                         (cluster, ring, version)
//! wire                   bytes <-> messages                                               (replication, cluster, …)
//! node                   Core: one replica as a deterministic state machine               (wire, storage, …)
//! client | runtime       tokio at the caller's rim, tokio at kvnode's rim
//! cli                    the four programs
//! ```

pub mod cli;
pub mod client;
pub mod cluster;
pub mod encoding;
pub mod node;
pub mod node_id;
#[cfg(feature = "planted-bugs")]
pub mod planted;
#[cfg(not(feature = "planted-bugs"))]
mod planted;
pub mod replication;
pub mod ring;
pub mod runtime;
pub mod storage;
pub mod version;
pub mod wire;
