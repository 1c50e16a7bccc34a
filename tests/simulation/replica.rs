//! One simulated machine: the real Core on the real Store over a simulated disk, with a clock of its own.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use kvkit::cluster::{Addresses, Incarnation, Time};
use kvkit::node::{Core, CoreConfig, HintLimits, Replayed, begin_again, is_founded};
use kvkit::node_id::NodeId;
use kvkit::ring::Layout;
use kvkit::storage::offline::salvaged_segment;
use kvkit::storage::vfs::simulated::{Disk, Unsynced};
use kvkit::storage::{Compression, Identity, Options, Store, SyncMode};
use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;

/// Where each machine keeps its store.
pub const DIRECTORY: &str = "/n";

/// A process at work.
pub struct Life {
    pub core: Core,
    pub store: Arc<Store>,
    /// A sync of the log is under way.
    pub is_syncing: bool,
    /// A flush or compaction is under way.
    pub is_at_job: bool,
    /// Rings of the store's bell after which there was nothing to do; `None` where that is to be looked for anyway.
    pub heard: Option<u64>,
    /// When the workers looked last whether there is something to do, whatever the bell said.
    pub looked: u64,
    /// Whom it wants to be connected to.
    pub peers: Vec<NodeId>,
}

impl Life {
    const fn new(core: Core, store: Arc<Store>) -> Self {
        let (is_syncing, is_at_job) = (false, false);
        Self { core, store, is_syncing, is_at_job, heard: None, looked: 0, peers: Vec::new() }
    }
}

/// A machine.
pub struct Replica {
    pub identity: Identity,
    pub disk: Disk,
    pub life: Option<Life>,
    /// Counts processes: what was under way in an older one goes nowhere.
    pub lives: u64,
    /// Monotonic nanoseconds of this machine's clock at simulated time 0 since its last boot; signed.
    clock: i128,
    /// How far its wall clock is off, microseconds.
    pub skew: i64,
    pub gossip_interval: Duration,
    pub options: Options,
    pub hints: HintLimits,
}

/// Options under which a few kilobytes already flush, compact and miss the cache.
pub fn options() -> Options {
    Options {
        sync: SyncMode::Always,
        memtable_bytes: 4 << 10,
        cache_bytes: 0,
        compression: Compression::None,
        log_segment_bytes: 8 << 10,
        reserve_bytes: 1 << 20,
        block_bytes: 256,
        table_bytes: 4 << 10,
        level1_bytes: 16 << 10,
        ..Options::default()
    }
}

impl Replica {
    pub fn new(identity: Identity, disk: Disk, clock: u64, skew: i64) -> Self {
        Self {
            identity,
            disk,
            life: None,
            lives: 0,
            clock: i128::from(clock),
            skew,
            gossip_interval: Duration::from_secs(1),
            options: options(),
            hints: HintLimits::default(),
        }
    }

    /// The machine's clocks at simulated nanoseconds `now`.
    pub fn time(&self, now: u64) -> Time {
        let monotonic = u64::try_from(i128::from(now) + self.clock).expect("clocks start above 0");
        // 2026-01-01, in microseconds.
        let wall = 1_767_225_600_000_000 + now / 1_000;
        Time { monotonic, wall: wall.saturating_add_signed(self.skew) }
    }

    /// Opens the store, or founds it.
    pub fn open_store(&self, replayed: &mut Replayed) -> Result<Store, String> {
        let vfs = Arc::new(self.disk.clone());
        let mut replay = |key: &[u8], value: Option<&[u8]>| replayed.observe(key, value);
        let opened = Store::open(vfs, Path::new(DIRECTORY), self.options.clone(), &mut replay);
        opened.map(|(store, _)| store).map_err(|error| format!("{error:?}"))
    }

    /// Starts a process. On an empty disk it begins again with what the others told, if they did.
    pub fn start(
        &mut self,
        now: u64,
        seed: u64,
        told: Option<(Layout, Incarnation)>,
    ) -> Result<(), String> {
        assert!(self.life.is_none(), "a process is at work here");
        if let Ok(Some(file)) = salvaged_segment(&self.disk, Path::new(DIRECTORY)) {
            return Err(format!("Salvaged: {}", file.display()));
        }
        let time = self.time(now);
        let mut replayed = Replayed::new(time);
        let store = Arc::new(self.open_store(&mut replayed)?);
        let is_founded = is_founded(&store).map_err(|error| format!("{error:?}"))?;
        if let Some((layout, last)) = told.filter(|_| !is_founded) {
            begin_again(&store, &self.identity, layout, last)
                .map_err(|error| format!("{error:?}"))?;
        }
        let name = &self.identity.name;
        let addresses = Addresses {
            peer: format!("{name}:1"),
            client: format!("{name}:2"),
            http: String::new(),
        };
        let mut config = CoreConfig::new(self.identity.clone(), addresses);
        config.gossip_interval = self.gossip_interval;
        config.hints = self.hints;
        let rng = ChaCha8Rng::seed_from_u64(seed);
        let core = Core::open(config, Arc::clone(&store), replayed, time, rng)
            .map_err(|error| format!("{error:?}"))?;
        self.lives += 1;
        self.life = Some(Life::new(core, store));
        Ok(())
    }

    /// Ends the process, and with it what the disk had not synced as `unsynced` says. A power loss also resets the
    /// monotonic clock.
    pub fn kill(&mut self, now: u64, unsynced: Unsynced, clock: u64) {
        self.life = None;
        self.disk.power_loss(unsynced);
        if unsynced != Unsynced::Kept {
            self.clock = i128::from(clock) - i128::from(now);
        }
    }
}
