//! Runtime: kvnode's rim. Here alone are sockets, threads, clocks and signals; what they mean is `node::Core`'s affair.
//!
//! ```text
//! core thread   one current-thread tokio runtime: the core loop, a task or two for each connection, HTTP, signals
//! log-sync      group commit: one sync in flight, as long as something waits for it
//! disk-N        reads and scan slices that need the disk
//! flush         memtables into tables
//! compaction    tables into fewer tables, a slice at a time
//! scrub         all tables, again and again, a little at a time
//! snapshot      snapshots, one after the other, made, read again and removed
//! ```
//! Connections collect what they read and the core loop takes all of it at once; what it answers is collected too and
//! leaves with one write for each connection. Nothing waits for room: a client past its limit is not read, a peer whose
//! queue is full is unreachable.

mod asking;
mod bootstrap;
mod clients;
mod clock;
mod core_loop;
mod disk;
mod handshake;
mod http;
mod hub;
mod joining;
mod link;
mod listen;
mod metrics;
mod peers;
mod signals;
mod takeover;
mod workers;

use std::path::PathBuf;
use std::time::Duration;

use crate::node::HintLimits;

pub use core_loop::run;
pub use listen::{AdminSocketError, admin_socket};
pub use workers::{JobFailure, Workers};

/// What a node is started with.
pub struct Options {
    /// Where it keeps everything; `IDENTITY` is there.
    pub data_dir: PathBuf,
    /// The name that the configuration gives this node; another one in `IDENTITY` is an error.
    pub name: String,
    /// The cluster's name by the configuration; likewise.
    pub cluster: String,
    /// Peer addresses to find members at.
    pub seeds: Vec<String>,
    /// As what it joins, where its directory is empty.
    pub joining: Joining,
    /// Where peers are taken.
    pub listen_peer: String,
    /// Where clients are taken.
    pub listen_client: String,
    /// Where HTTP is answered, if anywhere.
    pub listen_http: Option<String>,
    /// What other nodes are told to dial, where it is not `listen_peer`.
    pub advertise_peer: Option<String>,
    /// What clients are told to dial, where it is not `listen_client`.
    pub advertise_client: Option<String>,
    /// How the store is set up.
    pub store: crate::storage::Options,
    /// The deadline of a request that names none.
    pub timeout: Duration,
    /// Longest key and value together, bytes.
    pub pair_max: u32,
    /// How often the heartbeat rises.
    pub gossip_interval: Duration,
    /// What is kept for other nodes, and for how long.
    pub hints: HintLimits,
    /// Bytes a second that anti-entropy may move.
    pub repair_rate: u64,
    /// Most clients at once.
    pub connections: usize,
    /// Largest frame, bytes.
    pub frame_bytes_max: usize,
    /// Most bytes of requests in flight.
    pub request_bytes: usize,
    /// Called at SIGHUP: reads the configuration again, applies what it can, tells the log about the rest, and returns what
    /// the running node shall keep to; nothing where the configuration is bad.
    pub reload: Box<dyn Fn() -> Option<HintLimits>>,
}

/// As what a node wants to join.
#[derive(Clone, Debug)]
pub struct Joining {
    /// Its failure zone.
    pub zone: String,
    /// Its share.
    pub weight: crate::ring::Weight,
    /// Whether an operator commits it; else it does so itself.
    pub is_staged: bool,
}

/// How a node ended in good order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ended {
    /// All that was in flight is finished, the log is durable.
    Drained,
    /// A second SIGINT ended it at once.
    Interrupted,
    /// A second SIGTERM ended it at once.
    Terminated,
}

/// Why a node could not run, or ran no further.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// The data directory holds no node.
    #[error("{} is no data directory of a node: `kvnode init` founds a cluster, `kvnode dev` starts one", .dir.display())]
    NotFounded {
        /// The directory.
        dir: PathBuf,
    },
    /// The data directory holds an identity and nothing else, and nobody is known to ask.
    #[error("{} holds an identity and no data: name other members in node.seeds, and the node gets its data back from them", .dir.display())]
    Lost {
        /// The directory.
        dir: PathBuf,
    },
    /// The directory is another node's or another cluster's.
    #[error("{} belongs to {found}, not to {expected}", .dir.display())]
    WrongIdentity {
        /// The directory.
        dir: PathBuf,
        /// By `IDENTITY`.
        found: String,
        /// By the configuration.
        expected: String,
    },
    /// Another process has the directory.
    #[error(transparent)]
    Lock(#[from] crate::storage::LockError),
    /// `IDENTITY` cannot be used.
    #[error(transparent)]
    Identity(#[from] crate::storage::IdentityError),
    /// The store does not open.
    #[error("cannot open the store in {}", .dir.display())]
    Store {
        /// The directory.
        dir: PathBuf,
        /// Why.
        source: Box<crate::storage::OpenError>,
    },
    /// The node cannot start on what the store holds.
    #[error("cannot start on {}", .dir.display())]
    Start {
        /// The directory.
        dir: PathBuf,
        /// Why.
        source: Box<crate::node::StartError>,
    },
    /// An address cannot be listened on.
    #[error("cannot listen on {address} for {what}")]
    Listen {
        /// The address.
        address: String,
        /// For whom.
        what: &'static str,
        /// Why.
        source: std::io::Error,
    },
    /// The members of the cluster will not have this node.
    #[error("refused by {by}: {reason}")]
    Refused {
        /// Who said so.
        by: String,
        /// For programs.
        code: crate::wire::handshake::RefusalCode,
        /// For people.
        reason: String,
    },
    /// The members removed this node.
    #[error("this node is no member any more: {} must be wiped before it can join anew", .dir.display())]
    Removed {
        /// The directory.
        dir: PathBuf,
    },
    /// A thread, a signal handler or the like could not be had.
    #[error("cannot {what}")]
    System {
        /// What.
        what: &'static str,
        /// Why.
        source: std::io::Error,
    },
    /// The disk failed, or a promise of ours is broken.
    #[error("{0}")]
    Fatal(String),
}
