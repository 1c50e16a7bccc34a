//! A cluster in one thread: machines, network, clients' messages and faults as happenings in one queue, from a seed.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use kvkit::cluster::Addresses;
use kvkit::node::{Caller, Effect, Event, ReadToken, ScanToken, Severity, found};
use kvkit::node_id::{ClusterId, NodeId};
use kvkit::ring::{Layout, Member, Mode, Weight};
use kvkit::storage::vfs::simulated::{Disk, Unsynced};
use kvkit::storage::{Identity, IdentityEpoch, Job, KeyRange};
use kvkit::wire::client::{Reply, Request};
use kvkit::wire::handshake::Welcome;
use kvkit::wire::peer::PeerFrame;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use xxhash_rust::xxh3::Xxh3Default;

use crate::network::{Network, Node, Weather};
use crate::replica::Replica;
use crate::witness::Witness;

/// Simulated nanoseconds.
pub type Nanos = u64;

/// How often an unconnected peer is dialled.
const REDIAL: Duration = Duration::from_millis(200);
/// How long a cut goes unnoticed at most.
const KEEPALIVE: Duration = Duration::from_secs(3);

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
    Alarm(u64),
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
    queue: BTreeMap<(Nanos, u64), Happening>,
    next: u64,
    notified: BTreeSet<(Node, Node)>,
    trace: Xxh3Default,
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
            network: Network::new(weather, 10_000),
            layout,
            witness: Witness::default(),
            disk_reads: 0,
            disk_delay: Duration::from_millis(3),
            sync_delays: BTreeMap::new(),
            queue: BTreeMap::new(),
            next: 0,
            notified: BTreeSet::new(),
            trace: Xxh3Default::new(),
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

    /// Starts a process.
    pub fn start(&mut self, node: Node) {
        let seed = self.rng.random();
        if let Err(error) = self.replicas[node].start(self.now, seed) {
            panic!("n{} does not start: {error}", node + 1);
        }
        self.note(&format!("n{} starts", node + 1));
        let life = self.replicas[node].lives;
        self.at(Duration::ZERO, Happening::Wake { node, life });
        self.at(Duration::ZERO, Happening::Dial { from: node, life });
    }

    /// Ends a process at once.
    pub fn kill(&mut self, node: Node, unsynced: Unsynced) {
        self.note(&format!("n{} dies, unsynced {unsynced:?}", node + 1));
        let clock = self.rng.random_range(1 << 30..1 << 40);
        self.replicas[node].kill(self.now, unsynced, clock);
        for peer in 0..self.replicas.len() {
            self.disconnect(node, peer);
        }
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

    /// Cuts a direction, silently; the connection breaks some time later.
    pub fn cut(&mut self, from: Node, to: Node) {
        self.note(&format!("cut n{} -> n{}", from + 1, to + 1));
        self.network.cut(from, to);
        if let Some(connection) = self.network.connection(from, to) {
            let delay = self.rng.random_range(Duration::from_millis(10)..KEEPALIVE);
            self.at(delay, Happening::Notice { a: from, b: to, connection });
        }
    }

    /// Mends every cut.
    pub fn mend(&mut self) {
        self.note("all cuts mended");
        self.network.mend_all();
    }

    /// Breaks a connection; both sides hear of it.
    pub fn disconnect(&mut self, a: Node, b: Node) {
        if !self.network.disconnect(a, b) {
            return;
        }
        for (node, peer) in [(a, b), (b, a)] {
            if self.is_running(node) {
                self.notified.insert((node, peer));
                let (delay, life) = (self.network.delay(&mut self.rng), self.replicas[node].lives);
                self.at(delay, Happening::Broken { node, life, peer });
            }
        }
    }

    /// Sends a client's request; it may never arrive.
    pub fn request(&mut self, node: Node, caller: Caller, request: &Request) {
        let life = self.replicas[node].lives;
        for delay in self.network.delays(&mut self.rng).into_iter().take(1) {
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
            let entry = self.queue.first_entry().filter(|entry| entry.key().0 <= until);
            let Some(entry) = entry else {
                self.now = self.now.max(until);
                return None;
            };
            self.now = entry.key().0;
            let happening = entry.remove();
            self.trace.update(&self.now.to_le_bytes());
            if let Some(seen) = self.happen(happening) {
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
                self.feed_life(node, life, Event::Client { caller, request: *request });
            }
            Happening::Reply { caller, reply } => {
                self.trace_text(&format!("{caller:?} {reply:?}"));
                return Some(Seen::Reply { caller, reply });
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
        let mut effects = Vec::new();
        life.core.handle(time, event, &mut effects);
        for effect in effects {
            self.carry_out(node, effect);
        }
        self.after_work(node);
    }

    fn carry_out(&mut self, node: Node, effect: Effect) {
        self.trace_text(&format!("n{} {effect:?}", node + 1));
        let life = self.replicas[node].lives;
        match effect {
            Effect::Reply { caller, reply } => {
                self.witness.reply(&reply);
                for delay in self.network.delays(&mut self.rng).into_iter().take(1) {
                    let reply = Box::new(reply.clone());
                    self.at(delay, Happening::Reply { caller, reply });
                }
            }
            Effect::Send { to, message } => {
                self.witness.message(&message);
                let sent = self.replicas[node].time(self.now).monotonic;
                self.transmit(node, self.node_of(to), &PeerFrame { sent, message });
            }
            Effect::Read { token, key } => {
                self.disk_reads += 1;
                let delay = self.disk_time();
                self.at(delay, Happening::Read { node, life, token, key });
            }
            Effect::Scan { token, start, end, entries_max, bytes_max } => {
                let (delay, most) = (self.disk_time(), (entries_max, bytes_max));
                self.at(delay, Happening::Scan { node, life, token, start, end, most });
            }
            Effect::Mend(keys) => {
                let delay = self.disk_time();
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
            Effect::Introduce { .. } | Effect::CloseClients => {}
            Effect::Log(severity, text) => {
                self.note(&format!("n{} {severity:?}: {text}", node + 1));
                if severity == Severity::Error {
                    self.witness.alarm(format!("n{}: {text}", node + 1));
                }
            }
            Effect::Stopped => {
                self.note(&format!("n{} stopped in good order", node + 1));
                self.kill(node, Unsynced::Kept);
            }
            Effect::Fatal(text) => {
                self.note(&format!("n{} ends: {text}", node + 1));
                if !self.replicas[node].disk.crashed() {
                    self.witness.alarm(format!("n{}: {text}", node + 1));
                }
                self.kill(node, Unsynced::Torn);
            }
        }
    }

    fn transmit(&mut self, from: Node, to: Node, frame: &PeerFrame) {
        let Some(connection) = self.network.connection(from, to) else {
            return;
        };
        for delay in self.network.delays(&mut self.rng) {
            if !self.network.enqueue(from, to) {
                self.disconnect(from, to);
                return;
            }
            let frame = Box::new(frame.clone());
            self.at(delay, Happening::Frame { from, to, connection, frame });
        }
    }

    /// What a Core left to do for the disk, and a disk that broke under it.
    fn after_work(&mut self, node: Node) {
        if self.replicas[node].disk.crashed() {
            self.kill(node, Unsynced::Torn);
            return;
        }
        let (sync_time, job_time) = (self.sync_time(node), self.disk_time() * 3);
        let number = self.replicas[node].lives;
        let Some(life) = &mut self.replicas[node].life else {
            return;
        };
        let upto = life.store.appended();
        let wants_sync = !life.is_syncing && life.store.durable() < upto;
        life.is_syncing |= wants_sync;
        let wants_job = !life.is_at_job && next_job(&life.store).is_some();
        life.is_at_job |= wants_job;
        if wants_sync {
            self.at(sync_time, Happening::Synced { node, life: number, upto });
        }
        if wants_job {
            self.at(job_time, Happening::Job { node, life: number });
        }
    }

    fn synced(&mut self, node: Node, number: u64, upto: kvkit::storage::LogPosition) {
        if self.store(node, number).is_none() {
            return;
        }
        let Some(life) = &mut self.replicas[node].life else {
            return;
        };
        life.is_syncing = false;
        match life.store.sync(upto) {
            Ok(durable) => self.feed(node, Event::Durable(durable)),
            Err(_) => self.kill(node, Unsynced::Torn),
        }
    }

    fn job(&mut self, node: Node, number: u64) {
        let Some(store) = self.store(node, number) else {
            return;
        };
        let done = next_job(&store).map_or(Ok(()), |job| store.run(job));
        if let Some(life) = &mut self.replicas[node].life {
            life.is_at_job = false;
        }
        match done {
            Ok(()) => self.after_work(node),
            Err(_) => self.kill(node, Unsynced::Torn),
        }
    }

    fn dial(&mut self, from: Node, life: u64) {
        if self.replicas[from].lives != life || !self.is_running(from) {
            return;
        }
        let pause = self.rng.random_range(REDIAL / 2..REDIAL);
        self.at(pause, Happening::Dial { from, life });
        let peers = self.replicas[from].life.as_ref().map(|life| life.peers.clone());
        for peer in peers.unwrap_or_default() {
            self.handshake(from, self.node_of(peer));
        }
    }

    /// The first exchange between two nodes; both learn of the connection, or neither.
    fn handshake(&mut self, from: Node, to: Node) {
        let is_noticed =
            !self.notified.contains(&(from, to)) && !self.notified.contains(&(to, from));
        let stands = self.network.connection(from, to).is_some();
        if stands || !is_noticed || !self.network.is_open(from, to) {
            return;
        }
        let times = [from, to].map(|node| self.replicas[node].time(self.now));
        let Some(caller) = &self.replicas[from].life else { return };
        let hello = caller.core.hello(times[0]);
        let Some(answerer) = &mut self.replicas[to].life else { return };
        let welcome = answerer.core.admit(times[1], &hello);
        let Some(caller) = &mut self.replicas[from].life else { return };
        let welcomed = caller.core.welcomed(&welcome);
        match (&welcome, welcomed) {
            (Welcome::Accepted { sent, .. }, Ok(peer)) => {
                assert_eq!(peer, self.id(to), "who answers is who was dialled");
                self.network.connect(from, to);
                let (sent, id) = (*sent, self.id(from));
                self.feed(to, Event::PeerConnected { peer: id, sent: hello.sent });
                self.feed(from, Event::PeerConnected { peer, sent });
            }
            (welcome, welcomed) => {
                self.note(&format!("n{} at n{}: {welcome:?} {welcomed:?}", from + 1, to + 1));
                self.witness.refused(from, to);
            }
        }
    }

    fn disk_time(&mut self) -> Duration {
        let usual = self.rng.random_range(Duration::from_micros(20)..=self.disk_delay);
        if self.rng.random_bool(0.02) { usual * 50 } else { usual }
    }

    fn sync_time(&mut self, node: Node) -> Duration {
        let usual = self.disk_time();
        self.sync_delays.get(&node).copied().unwrap_or(usual)
    }

    fn at(&mut self, after: Duration, happening: Happening) {
        self.next += 1;
        self.queue.insert((self.now + nanos(after), self.next), happening);
    }

    pub fn note(&mut self, text: &str) {
        self.trace_text(text);
        if self.verbose {
            eprintln!("{:>12} {text}", self.now);
        }
    }

    fn trace_text(&mut self, text: &str) {
        self.trace.update(text.as_bytes());
        if self.verbose && text.starts_with('n') {
            eprintln!("{:>12} {text}", self.now);
        }
    }
}

/// What a store wants done besides its log.
fn next_job(store: &kvkit::storage::Store) -> Option<Job> {
    store.next_flush().or_else(|| store.next_compaction())
}

/// A span in nanoseconds.
pub fn nanos(span: Duration) -> Nanos {
    u64::try_from(span.as_nanos()).expect("a short span")
}
