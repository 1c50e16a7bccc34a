//! What a node is told when it starts.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use crate::cluster::Addresses;
use crate::cluster::membership::HEARTBEAT_INTERVAL;
use crate::storage::identity::Identity;

/// The deadline of a request that names none, unless configured.
pub const TIMEOUT: Duration = Duration::from_secs(1);
/// Longest deadline a request may name; a later one is cut to this. Half of what a replica remembers of puts.
pub const DEADLINE_MAX: Duration = Duration::from_secs(15);
/// Key and value together, bytes, unless configured.
pub const PAIR_BYTES_MAX: u32 = 10_240;
/// Bytes a second that anti-entropy may move, unless configured.
const REPAIR_RATE: u64 = 32 << 20;

const _: () = assert!(
    2 * DEADLINE_MAX.as_secs() <= crate::replication::MEMORY_SPAN.as_secs(),
    "a put must be known for twice the longest deadline"
);

/// What a node is told when it starts.
#[derive(Clone)]
pub struct CoreConfig {
    /// From the data directory's `IDENTITY`.
    pub identity: Identity,
    /// Where this node listens, as others shall dial it.
    pub addresses: Addresses,
    /// Peer addresses to find members at whose address is not known.
    pub seeds: Vec<String>,
    /// The deadline of a request that names none.
    pub timeout: Duration,
    /// Longest key and value together, bytes.
    pub pair_max: u32,
    /// How often the heartbeat rises.
    pub gossip_interval: Duration,
    /// What may be in flight.
    pub limits: Limits,
    /// What is kept for other nodes, and for how long.
    pub hints: HintLimits,
    /// Bytes a second that anti-entropy may move.
    pub repair_rate: u64,
    /// Bytes free and total where the data lies; asked when somebody asks for [`Info`](crate::wire::client::Info).
    pub disk_space: DiskSpace,
    /// Processor time that the process has used; asked once a second.
    pub cpu_time: CpuTime,
}

/// Bounds of what waits inside a Core. What is past them is refused as overload.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Clients' requests in flight, forwarded ones included.
    pub requests: usize,
    /// Bytes of their keys and values, roughly.
    pub request_bytes: usize,
    /// Peers' requests that wait for the disk or the log.
    pub peer_requests: usize,
}

/// Bounds of what is kept for other nodes. They may change while a node runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HintLimits {
    /// How long a hint waits for its target alone.
    pub ttl: Duration,
    /// Bytes of hints; past them none is taken.
    pub bytes_max: u64,
}

/// How much space the disk has.
pub type DiskSpace = Arc<dyn Fn() -> (u64, u64) + Send + Sync>;

/// How much processor time the process has used.
pub type CpuTime = Arc<dyn Fn() -> Duration + Send + Sync>;

impl CoreConfig {
    /// A configuration with the defaults of `UI.md` for all that a directory and its listeners do not say.
    pub fn new(identity: Identity, addresses: Addresses) -> Self {
        Self {
            identity,
            addresses,
            seeds: Vec::new(),
            timeout: TIMEOUT,
            pair_max: PAIR_BYTES_MAX,
            gossip_interval: HEARTBEAT_INTERVAL,
            limits: Limits::default(),
            hints: HintLimits::default(),
            repair_rate: REPAIR_RATE,
            disk_space: Arc::new(|| (0, 0)),
            cpu_time: Arc::new(|| Duration::ZERO),
        }
    }
}

impl Default for Limits {
    fn default() -> Self {
        Self { requests: 50_000, request_bytes: 256 << 20, peer_requests: 100_000 }
    }
}

impl Default for HintLimits {
    fn default() -> Self {
        Self { ttl: Duration::from_hours(3), bytes_max: 1 << 30 }
    }
}

impl fmt::Debug for CoreConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CoreConfig")
            .field("identity", &self.identity)
            .field("addresses", &self.addresses)
            .field("seeds", &self.seeds)
            .field("timeout", &self.timeout)
            .field("pair_max", &self.pair_max)
            .field("gossip_interval", &self.gossip_interval)
            .field("limits", &self.limits)
            .field("hints", &self.hints)
            .field("repair_rate", &self.repair_rate)
            .finish_non_exhaustive()
    }
}
