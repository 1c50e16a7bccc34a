//! A cluster in one thread: machines, network, clients' messages and faults as happenings in one queue, from a seed.

mod disks;
mod kept;
mod links;
mod losses;
mod pauses;
mod queue;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::{self, Write as _};
use std::time::Duration;

use kvkit::cluster::Addresses;
use kvkit::node::{Caller, Effect, Event, ReadToken, ScanToken, Severity, found};
use kvkit::node_id::{ClusterId, NodeId};
use kvkit::ring::{Layout, Member, Mode, Weight};
use kvkit::storage::vfs::simulated::{Disk, Unsynced};
use kvkit::storage::{Identity, IdentityEpoch, KeyRange};
use kvkit::wire::client::{Reply, Request};
use kvkit::wire::peer::PeerFrame;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use xxhash_rust::xxh3::Xxh3Default;

use crate::network::{Network, Node, Weather};
use crate::replica::Replica;
use crate::witness::Witness;
use queue::Queue;

pub use kept::{DrawerId, Due};

/// Simulated nanoseconds.
pub type Nanos = u64;

/// How long a process that died by itself, or could not start, stays so.
const RESTART_AFTER: Duration = Duration::from_secs(1);
/// Happenings of one run: a few times what the largest ones take.
const HAPPENED_MAX: u64 = 10_000_000;
/// Frames on their way in one direction at which a connection breaks.
const QUEUE_MAX: usize = 10_000;

/// The shape of a cluster.
#[derive(Clone, Copy, Debug)]
pub struct Shape {
    pub nodes: usize,
    pub q: u32,
    pub n: u8,
    pub r: u8,
    pub w: u8,
    pub mode: Mode,
}

/// What will happen.
#[derive(Debug)]
enum Happening {
    Mend {
        node: Node,
        life: u64,
        keys: KeyRange,
    },
    Wake {
        node: Node,
        life: u64,
    },
    Dial {
        from: Node,
        life: u64,
    },
    Frame {
        from: Node,
        to: Node,
        connection: u64,
        frame: Box<PeerFrame>,
    },
    Broken {
        node: Node,
        life: u64,
        peer: Node,
    },
    Notice {
        a: Node,
        b: Node,
        connection: u64,
    },
    Read {
        node: Node,
        life: u64,
        token: ReadToken,
        key: bytes::Bytes,
    },
    Scan {
        node: Node,
        life: u64,
        token: ScanToken,
        start: bytes::Bytes,
        end: Option<bytes::Bytes>,
        most: (usize, usize),
    },
    Synced {
        node: Node,
        life: u64,
        upto: kvkit::storage::LogPosition,
    },
    Job {
        node: Node,
        life: u64,
    },
    Request {
        node: Node,
        life: u64,
        caller: Caller,
        request: Box<Request>,
    },
    Reply {
        caller: Caller,
        reply: Box<Reply>,
    },
    Restart {
        node: Node,
        life: u64,
    },
    Alarm(u64),
}

impl Happening {
    /// To whose process it happens, if to one.
    const fn node(&self) -> Option<Node> {
        match self {
            Self::Wake { node, .. }
            | Self::Dial { from: node, .. }
            | Self::Frame { to: node, .. }
            | Self::Broken { node, .. }
            | Self::Read { node, .. }
            | Self::Scan { node, .. }
            | Self::Synced { node, .. }
            | Self::Job { node, .. }
            | Self::Mend { node, .. }
            | Self::Request { node, .. } => Some(*node),
            Self::Notice { .. } | Self::Reply { .. } | Self::Restart { .. } | Self::Alarm(_) => {
                None
            }
        }
    }
}

/// What the driver of a run sees.
#[derive(Debug)]
pub enum Seen {
    /// A reply reached a client.
    Reply { caller: Caller, reply: Box<Reply> },
    /// A time the driver asked for.
    Alarm(u64),
}

/// A simulated cluster.
pub struct World {
    pub now: Nanos,
    pub rng: ChaCha8Rng,
    pub replicas: Vec<Replica>,
    pub network: Network,
    pub layout: Layout,
    pub witness: Witness,
    /// Reads that left a core.
    pub disk_reads: usize,
    /// Longest usual time of a disk read, a log sync, a job.
    pub disk_delay: Duration,
    /// Longest usual time of a log sync at one machine, where it differs.
    pub sync_delays: BTreeMap<Node, Duration>,
    /// Nodes that are slow, and by how much at most.
    pub slow: BTreeMap<Node, Duration>,
    /// Processes that die are started again, after this long where somebody said so.
    pub restarts: Option<BTreeMap<Node, Duration>>,
    /// Nodes whose disk was wiped and that have not begun again yet.
    pub wiped: BTreeSet<Node>,
    /// Disks as they were, to be put back.
    snapshots: BTreeMap<Node, losses::Snapshot>,
    /// Nodes whose disk was put back as it was, and that have not noticed it yet.
    pub rolled_back: BTreeSet<Node>,
    /// Disks that were wiped.
    disks_gone: Vec<Disk>,
    /// Nodes whose disk was made to fail: their complaints about it are no surprise.
    pub ailing: BTreeSet<Node>,
    /// How often a node found that it had stood still.
    pub clients_closed: usize,
    /// How often a node took another layout.
    pub layout_changes: usize,
    /// What happened so far; a run that goes on for ever spins.
    happened: u64,
    /// Events that each node was given.
    pub events: Vec<u64>,
    /// Processes that stand still, and what waits for them.
    paused: BTreeMap<Node, Vec<Happening>>,
    /// What scripts keep back.
    drawers: BTreeMap<kept::DrawerId, kept::Drawer>,
    /// Requests that a node may still reply to.
    open_calls: BTreeSet<(Node, Caller, u64)>,
    queue: Queue<Happening>,
    next: u64,
    notified: BTreeSet<(Node, Node)>,
    trace: Xxh3Default,
    pub is_traced: bool,
    /// Everything that happened, in words, where `KVKIT_SIM_LOG` is set.
    verbose: bool,
}

impl World {
    /// A founded cluster, nothing started.
    pub fn new(seed: u64, shape: Shape, weather: Weather) -> Self {
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        let cluster = ClusterId::from_bits(rng.random());
        let identities: Vec<_> = (0..shape.nodes)
            .map(|number| {
                // The first byte keeps names and ids in one order.
                let mut bytes: [u8; 16] = rng.random();
                bytes[0] = u8::try_from(number).expect("few nodes");
                Identity {
                    v: kvkit::storage::identity::VERSION,
                    node: NodeId::from_bytes(bytes),
                    name: format!("n{}", number + 1),
                    cluster,
                    cluster_name: "simulated".to_owned(),
                    epoch: IdentityEpoch { counter: 1, random: rng.random() },
                    created: "2026-01-01T00:00:00Z".to_owned(),
                }
            })
            .collect();
        let members = identities.iter().map(|identity| Member {
            id: identity.node,
            name: identity.name.clone(),
            zone: String::new(),
            weight: Weight(1_000),
        });
        let Shape { q, n, r, w, mode, .. } = shape;
        let layout = Layout::found(q, n, r, w, mode, members.collect()).expect("a sound shape");
        let replicas = identities
            .into_iter()
            .map(|identity| {
                let disk = Disk::new(rng.random());
                let (clock, skew) =
                    (rng.random_range(0..1 << 50), rng.random_range(-3_600_000_000..3_600_000_000));
                Replica::new(identity, disk, clock, skew)
            })
            .collect();
        let mut world = Self {
            now: 0,
            replicas,
            network: Network::new(weather, QUEUE_MAX),
            layout,
            witness: Witness::default(),
            disk_reads: 0,
            disk_delay: Duration::from_millis(3),
            sync_delays: BTreeMap::new(),
            slow: BTreeMap::new(),
            restarts: None,
            wiped: BTreeSet::new(),
            snapshots: BTreeMap::new(),
            rolled_back: BTreeSet::new(),
            disks_gone: Vec::new(),
            ailing: BTreeSet::new(),
            clients_closed: 0,
            layout_changes: 0,
            happened: 0,
            events: vec![0; shape.nodes],
            paused: BTreeMap::new(),
            drawers: BTreeMap::new(),
            open_calls: BTreeSet::new(),
            queue: Queue::default(),
            next: 0,
            notified: BTreeSet::new(),
            trace: Xxh3Default::new(),
            is_traced: false,
            verbose: std::env::var_os("KVKIT_SIM_LOG").is_some(),
            rng,
        };
        world.found();
        world
    }

    fn found(&mut self) {
        let addresses: BTreeMap<_, _> = self
            .replicas
            .iter()
            .map(|replica| {
                let peer = format!("{}:1", replica.identity.name);
                (replica.identity.node, Addresses { peer, ..Addresses::default() })
            })
            .collect();
        for replica in &self.replicas {
            let mut replayed = kvkit::node::Replayed::new(replica.time(0));
            let store = replica.open_store(&mut replayed).expect("an empty disk takes a store");
            found(&store, &replica.identity, self.layout.clone(), &addresses)
                .expect("it takes a layout");
        }
    }

    /// Starts a process on every machine.
    pub fn start_all(&mut self) {
        for node in 0..self.replicas.len() {
            self.start(node);
        }
    }

    /// Starts a process, which must succeed.
    #[track_caller]
    pub fn start(&mut self, node: Node) {
        if let Err(error) = self.try_start(node) {
            panic!("n{} does not start: {error}", node + 1);
        }
    }

    /// Starts a process where none is at work.
    pub fn start_if_down(&mut self, node: Node) {
        self.restart(node);
    }

    fn try_start(&mut self, node: Node) -> Result<(), String> {
        let seed = self.rng.random();
        let told = self.wiped.contains(&node).then(|| self.told_by_others(node)).flatten();
        self.replicas[node].start(self.now, seed, told)?;
        self.wiped.remove(&node);
        self.note(&format!("n{} starts", node + 1));
        let life = self.replicas[node].lives;
        self.at(Duration::ZERO, Happening::Wake { node, life });
        self.at(Duration::ZERO, Happening::Dial { from: node, life });
        Ok(())
    }

    /// Starts a process that died; a disk that was made to fail may not let it yet.
    fn restart(&mut self, node: Node) {
        if self.is_running(node) {
            return;
        }
        let Err(error) = self.try_start(node) else { return };
        if error.starts_with("Damaged") || error.starts_with("Salvaged") {
            // What the runtime does then: all is set aside, and the node begins again.
            self.wipe(node);
            self.note(&format!("n{} begins again: {error}", node + 1));
        }
        let is_excused = self.is_ailing(node) || self.replicas[node].disk.crashed();
        assert!(is_excused, "n{} does not start: {error}", node + 1);
        self.note(&format!("n{} does not start: {error}", node + 1));
        self.replicas[node].disk.power_loss(Unsynced::Torn);
        let life = self.replicas[node].lives;
        self.at(RESTART_AFTER, Happening::Restart { node, life });
    }

    /// Ends a process at once.
    pub fn kill(&mut self, node: Node, unsynced: Unsynced) {
        if !self.is_running(node) {
            return;
        }
        self.note(&format!("n{} dies, unsynced {unsynced:?}", node + 1));
        let clock = self.rng.random_range(1 << 30..1 << 40);
        self.replicas[node].kill(self.now, unsynced, clock);
        self.forget_held(node);
        self.open_calls.retain(|(at, _, _)| *at != node);
        for peer in 0..self.replicas.len() {
            self.disconnect(node, peer);
        }
        let pause = self.restarts.as_mut().map(|pauses| pauses.remove(&node));
        if let Some(pause) = pause {
            let life = self.replicas[node].lives;
            self.at(pause.unwrap_or(RESTART_AFTER), Happening::Restart { node, life });
        }
    }

    /// Whether something was done to this node's disk that it may complain of.
    pub fn is_ailing(&self, node: Node) -> bool {
        self.ailing.contains(&node)
    }

    /// Asks a process to stop in good order; it ends once it has.
    pub fn stop(&mut self, node: Node) {
        self.note(&format!("n{} is asked to stop", node + 1));
        self.feed(node, Event::Stop);
    }

    pub fn is_running(&self, node: Node) -> bool {
        self.replicas[node].life.is_some()
    }

    pub fn id(&self, node: Node) -> NodeId {
        self.replicas[node].identity.node
    }

    pub fn node_of(&self, id: NodeId) -> Node {
        self.replicas.iter().position(|replica| replica.identity.node == id).expect("a member")
    }

    /// Sends a client's request; it may never arrive.
    pub fn request(&mut self, node: Node, caller: Caller, request: &Request) {
        let life = self.replicas[node].lives;
        for delay in self.network.delays(&mut self.rng).into_iter().take(1) {
            let delay = delay + self.slowness(node);
            self.open_calls.insert((node, caller, request.id));
            let request = Box::new(request.clone());
            self.at(delay, Happening::Request { node, life, caller, request });
        }
    }

    /// The driver wants to hear of this moment.
    pub fn alarm(&mut self, after: Duration, number: u64) {
        self.at(after, Happening::Alarm(number));
    }

    /// A hash over all that happened.
    pub fn trace(&self) -> u64 {
        self.trace.digest()
    }

    /// Goes on until something reaches the driver, or `until`.
    pub fn run(&mut self, until: Nanos) -> Option<Seen> {
        loop {
            let Some((at, happening)) = self.queue.pop_until(until) else {
                self.now = self.now.max(until);
                return None;
            };
            self.now = at;
            self.trace.update(&self.now.to_le_bytes());
            self.happened += 1;
            assert!(self.happened < HAPPENED_MAX, "the cluster spins");
            let happening = self.keep(happening);
            if let Some(seen) = happening.and_then(|happening| self.happen(happening)) {
                return Some(seen);
            }
        }
    }

    /// Goes on for a while; what reaches the driver is lost.
    pub fn pass(&mut self, span: Duration) {
        let until = self.now + nanos(span);
        while self.run(until).is_some() {}
    }

    fn happen(&mut self, happening: Happening) -> Option<Seen> {
        let happening = self.hold(happening)?;
        match happening {
            Happening::Wake { node, life } => self.feed_life(node, life, Event::Tick),
            Happening::Dial { from, life } => self.dial(from, life),
            Happening::Frame { from, to, connection, frame } => {
                self.network.dequeue(from, to);
                let stands = self.network.connection(from, to) == Some(connection);
                if stands && !self.network.is_cut(from, to) {
                    self.feed(to, Event::Peer { from: self.id(from), frame: *frame });
                }
            }
            Happening::Broken { node, life, peer } => {
                self.notified.remove(&(node, peer));
                let peer = self.id(peer);
                self.feed_life(node, life, Event::PeerUnreachable(peer));
            }
            Happening::Notice { a, b, connection } => {
                if self.network.connection(a, b) == Some(connection) && !self.network.is_open(a, b)
                {
                    self.disconnect(a, b);
                }
            }
            Happening::Read { node, life, token, key } => {
                if let Some(store) = self.store(node, life) {
                    let result = store.get(&key);
                    self.feed_unless_crashed(node, Event::Read { token, result });
                }
            }
            Happening::Scan { node, life, token, start, end, most } => {
                if let Some(store) = self.store(node, life) {
                    let result = store.scan_slice(&start, end.as_deref(), most.0, most.1);
                    self.feed_unless_crashed(node, Event::Scanned { token, result });
                }
            }
            Happening::Mend { node, life, keys } => {
                if let Some(store) = self.store(node, life) {
                    let result = store.mend(&keys).map_err(|error| error.to_string());
                    self.feed_unless_crashed(node, Event::Mended { keys, result });
                }
            }
            Happening::Synced { node, life, upto } => self.synced(node, life, upto),
            Happening::Job { node, life } => self.job(node, life),
            Happening::Request { node, life, caller, request } => {
                // A connection that was closed meanwhile brings nothing.
                if self.open_calls.contains(&(node, caller, request.id)) {
                    self.feed_life(node, life, Event::Client { caller, request: *request });
                }
            }
            Happening::Reply { caller, reply } => {
                self.trace_text(format_args!("{caller:?} {reply:?}"));
                return Some(Seen::Reply { caller, reply });
            }
            Happening::Restart { node, life } => {
                if self.replicas[node].lives == life {
                    self.restart(node);
                }
            }
            Happening::Alarm(number) => return Some(Seen::Alarm(number)),
        }
        None
    }

    fn store(&self, node: Node, life: u64) -> Option<std::sync::Arc<kvkit::storage::Store>> {
        let replica = &self.replicas[node];
        let store = replica.life.as_ref().map(|life| std::sync::Arc::clone(&life.store));
        store.filter(|_| replica.lives == life)
    }

    /// A disk that broke under a read takes the process with it.
    fn feed_unless_crashed(&mut self, node: Node, event: Event) {
        if self.replicas[node].disk.crashed() {
            self.kill(node, Unsynced::Torn);
        } else {
            self.feed(node, event);
        }
    }

    fn feed_life(&mut self, node: Node, life: u64, event: Event) {
        if self.replicas[node].lives == life {
            self.feed(node, event);
        }
    }

    /// Hands an event to a Core, and carries its effects out.
    fn feed(&mut self, node: Node, event: Event) {
        let time = self.replicas[node].time(self.now);
        let Some(life) = &mut self.replicas[node].life else {
            return;
        };
        if self.verbose {
            eprintln!("{:>12} n{} <- {event:?}", self.now, node + 1);
        }
        self.events[node] += 1;
        let mut effects = Vec::new();
        life.core.handle(time, event, &mut effects);
        for effect in effects {
            self.carry_out(node, effect);
        }
        self.after_work(node);
    }

    fn carry_out(&mut self, node: Node, effect: Effect) {
        self.trace_text(format_args!("n{} {effect:?}", node + 1));
        let life = self.replicas[node].lives;
        match effect {
            Effect::Reply { caller, reply } => {
                self.witness.reply(&reply);
                if !self.open_calls.remove(&(node, caller, reply.id)) {
                    return;
                }
                let slow = self.slowness(node);
                for delay in self.network.delays(&mut self.rng).into_iter().take(1) {
                    let reply = Box::new(reply.clone());
                    self.at(delay + slow, Happening::Reply { caller, reply });
                }
            }
            Effect::Send { to, message } => {
                self.witness.message(&message);
                let sent = self.replicas[node].time(self.now).monotonic;
                self.transmit(node, self.node_of(to), &PeerFrame { sent, message });
            }
            Effect::Read { token, key } => {
                self.disk_reads += 1;
                let delay = self.disk_time(node);
                self.at(delay, Happening::Read { node, life, token, key });
            }
            Effect::Scan { token, start, end, entries_max, bytes_max } => {
                let (delay, most) = (self.disk_time(node), (entries_max, bytes_max));
                self.at(delay, Happening::Scan { node, life, token, start, end, most });
            }
            Effect::Mend(keys) => {
                let delay = self.disk_time(node);
                self.at(delay, Happening::Mend { node, life, keys });
            }
            Effect::Wake(monotonic) => {
                let ahead = monotonic.saturating_sub(self.replicas[node].time(self.now).monotonic);
                self.at(Duration::from_nanos(ahead), Happening::Wake { node, life });
            }
            Effect::Peers(peers) => {
                if let Some(life) = &mut self.replicas[node].life {
                    life.peers = peers.into_iter().map(|(id, _)| id).collect();
                }
            }
            Effect::Dropped { .. } | Effect::Introduce { .. } => {}
            Effect::Snapshot(work) => panic!("nobody here asks for {work:?}"),
            Effect::CloseClients => {
                self.note(&format!("n{} closes its clients' connections", node + 1));
                self.open_calls.retain(|(at, _, _)| *at != node);
                self.clients_closed += 1;
            }
            Effect::Log(severity, text) => {
                self.layout_changes += usize::from(text.ends_with("is in force"));
                self.note(&format!("n{} {severity:?}: {text}", node + 1));
                let is_of_damage = text.contains("cannot be read") || text.contains("damaged");
                let is_excused = self.is_ailing(node) && is_of_damage;
                if text.contains("was not that of its keys") {
                    self.witness.alarm(format!("n{}: {text}", node + 1));
                }
                if severity == Severity::Error && !is_excused {
                    self.witness.alarm(format!("n{}: {text}", node + 1));
                }
            }
            Effect::Departed | Effect::Removed => panic!("n{} is no member any more", node + 1),
            Effect::Stopped => {
                self.note(&format!("n{} stopped in good order", node + 1));
                self.kill(node, Unsynced::Kept);
            }
            Effect::RolledBack(text) => self.noticed_rollback(node, &text),
            Effect::Fatal(text) => {
                self.note(&format!("n{} ends: {text}", node + 1));
                if !self.replicas[node].disk.crashed() && !self.is_ailing(node) {
                    self.witness.alarm(format!("n{}: {text}", node + 1));
                }
                self.kill(node, Unsynced::Torn);
            }
        }
    }

    fn at(&mut self, after: Duration, happening: Happening) {
        self.queue.push(self.now + nanos(after), happening);
    }

    pub fn note(&mut self, text: &str) {
        self.trace_text(format_args!("{text}"));
    }

    /// The text is made only where somebody wants it.
    fn trace_text(&mut self, text: fmt::Arguments<'_>) {
        if self.is_traced || self.verbose {
            Hashed(&mut self.trace).write_fmt(text).expect("a hash takes all");
        }
        if self.verbose {
            eprintln!("{:>12} {text}", self.now);
        }
    }
}

/// Text on its way into the trace.
struct Hashed<'a>(&'a mut Xxh3Default);

impl fmt::Write for Hashed<'_> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        self.0.update(text.as_bytes());
        Ok(())
    }
}

/// A span in nanoseconds.
pub fn nanos(span: Duration) -> Nanos {
    u64::try_from(span.as_nanos()).expect("a short span")
}
