//! One random run: clients at work, faults from the seed, healing, and the judgement.

use std::collections::BTreeMap;
use std::time::Duration;

use bytes::Bytes;
use kvkit::node::{Caller, keys};
use kvkit::replication::Level;
use kvkit::ring::{Mode, Partition, Preferences, Token};
use kvkit::storage::vfs::simulated::Unsynced;
use kvkit::version::Siblings;
use kvkit::wire::client::{Change, ReplyBody, Request, RequestBody, Scan};
use rand::Rng;

use crate::history::History;
use crate::network::{Node, Weather};
use crate::oracle;
use crate::workload::Client;
use crate::world::{Nanos, Seen, Shape, World, nanos};

/// How long clients work and faults happen.
const WORK: Duration = Duration::from_secs(20);
/// Longer than any deadline.
const HEAL: Duration = Duration::from_secs(8);
/// Alarm number of the faults.
const FAULTS: u64 = u64::MAX;
/// The caller that scans at the end.
const SCANNER: Caller = Caller(u64::MAX);
/// Tries to get one page of the final scan.
const SCAN_TRIES_MAX: u32 = 50;

/// What a run came to.
pub struct Report {
    pub trace: u64,
    pub broken: Vec<String>,
    /// How often the run met what it is there to meet.
    pub met: BTreeMap<&'static str, usize>,
}

/// Runs a seed.
pub fn run(seed: u64) -> Report {
    Run::new(seed).go()
}

struct Run {
    world: World,
    history: History,
    clients: Vec<Client>,
    quiet: Weather,
    faults: bool,
    broken: Vec<String>,
}

impl Run {
    fn new(seed: u64) -> Self {
        let quiet = Weather { loss: 0.0, doubled: 0.0, delay: Duration::from_millis(2), slow: 0.0 };
        let mut rng = <rand_chacha::ChaCha8Rng as rand::SeedableRng>::seed_from_u64(!seed);
        let nodes = rng.random_range(3..=7);
        // N and quorums that overlap, so that strict reads promise something; a fifth of the runs R or W of one.
        let n = if rng.random_bool(0.7) { 3 } else { rng.random_range(1..=5.min(nodes)) };
        let w = rng.random_range(1..=n);
        let r = rng.random_range(n - w + 1..=n);
        let mode = if rng.random_bool(0.5) { Mode::Available } else { Mode::Consistent };
        let [n, r, w] = [n, r, w].map(|count: usize| u8::try_from(count).expect("few"));
        let weather = Weather {
            loss: if rng.random_bool(0.5) { rng.random_range(0.0..0.1) } else { 0.0 },
            doubled: if rng.random_bool(0.5) { rng.random_range(0.0..0.2) } else { 0.0 },
            delay: Duration::from_millis(rng.random_range(1..20)),
            slow: if rng.random_bool(0.5) { 0.02 } else { 0.0 },
        };
        let shape = Shape { nodes, q: 32, n, r, w, mode };
        let mut world = World::new(seed, shape, weather);
        world.disk_delay = Duration::from_millis(rng.random_range(1..10));
        let contextual = (0..3).map(|number| format!("c{number}"));
        let plain = (0..3).map(|number| format!("p{number}"));
        let shared: Vec<_> = contextual.chain(plain).map(Bytes::from).collect();
        let clients = (0..rng.random_range(2..=5)).map(|number| {
            let own = Bytes::from(format!("po{number}"));
            let keys = shared.iter().cloned().chain([own]).collect();
            let think = Duration::from_millis(rng.random_range(20..250));
            Client::new(number, rng.random(), keys, think)
        });
        let clients = clients.collect();
        world.note(&format!("shape {shape:?} weather {weather:?}"));
        Self {
            world,
            history: History::default(),
            clients,
            quiet,
            faults: true,
            broken: Vec::new(),
        }
    }

    fn go(mut self) -> Report {
        self.world.start_all();
        self.world.alarm(Duration::from_secs(1), FAULTS);
        for client in &mut self.clients {
            client.rest(&mut self.world);
        }
        self.work_until(nanos(WORK));
        self.heal();
        self.scan_all();
        self.scan_all();
        self.world.pass(Duration::from_secs(3));
        self.judge();
        let (trace, met) = (self.world.trace(), self.met());
        Report { trace, broken: self.broken, met }
    }

    fn met(&self) -> BTreeMap<&'static str, usize> {
        let History { writes, reads, .. } = &self.history;
        let acknowledged = || writes.values().filter(|write| write.acknowledged.is_some());
        let with_siblings = reads.iter().filter(|read| read.state.versions().len() > 1);
        let starts: u64 = self.world.replicas.iter().map(|replica| replica.lives).sum();
        BTreeMap::from([
            ("puts acknowledged", acknowledged().count()),
            (
                "puts acknowledged after a retry",
                acknowledged().filter(|write| write.tries > 1).count(),
            ),
            ("puts of unknown outcome", writes.len() - acknowledged().count()),
            ("puts not applied", writes.values().filter(|write| write.is_not_applied).count()),
            ("gets", reads.len()),
            ("gets of siblings", with_siblings.count()),
            ("states held by stand-ins", self.world.witness.held),
            ("hints handed over", self.world.witness.handed_over),
            ("restarts", usize::try_from(starts).expect("few") - self.world.replicas.len()),
            ("disk reads", self.world.disk_reads),
            ("layout changes", usize::try_from(self.world.layout.version).expect("few") - 1),
        ])
    }

    fn work_until(&mut self, until: Nanos) {
        while let Some(seen) = self.world.run(until) {
            match seen {
                Seen::Alarm(FAULTS) => self.fault(),
                Seen::Alarm(number) => {
                    let client = usize::try_from(number >> 32).expect("few");
                    let moment = number & u64::from(u32::MAX);
                    self.clients[client].wake(&mut self.world, &mut self.history, moment);
                }
                Seen::Reply { caller, reply, .. } => {
                    let client = usize::try_from(caller.0).expect("few");
                    self.clients[client].reply(&mut self.world, &mut self.history, *reply);
                }
            }
        }
    }

    fn fault(&mut self) {
        if !self.faults {
            return;
        }
        let pause =
            self.world.rng.random_range(Duration::from_millis(50)..Duration::from_millis(1_200));
        self.world.alarm(pause, FAULTS);
        let nodes = self.world.replicas.len();
        let node = self.world.rng.random_range(0..nodes);
        let other = (node + self.world.rng.random_range(1..nodes)) % nodes;
        match self.world.rng.random_range(0..100) {
            0..12 => self.world.cut(node, other),
            12..20 => (0..nodes).filter(|peer| *peer != node).for_each(|peer| {
                self.world.cut(node, peer);
                self.world.cut(peer, node);
            }),
            20..40 => self.world.mend(),
            40..55 if self.world.is_running(node) => self.kill(node),
            55..62 if self.world.is_running(node) => self.world.stop(node),
            62..68 if self.world.is_running(node) => {
                let disk = &self.world.replicas[node].disk;
                disk.crash_at(disk.calls() + self.world.rng.random_range(0..30));
            }
            68..74 => self.world.disconnect(node, other),
            74..78 => self.slow_disk(node),
            78..81 => self.propose(node),
            _ => self.start_dead(),
        }
    }

    fn kill(&mut self, node: Node) {
        let unsynced = [Unsynced::Dropped, Unsynced::Kept, Unsynced::Torn];
        let unsynced = unsynced[self.world.rng.random_range(0..unsynced.len())];
        self.world.kill(node, unsynced);
        if self.world.rng.random_bool(0.3) {
            self.world.start(node);
        }
    }

    fn slow_disk(&mut self, node: Node) {
        if self.world.sync_delays.remove(&node).is_none() {
            let delay = Duration::from_millis(self.world.rng.random_range(50..900));
            self.world.sync_delays.insert(node, delay);
        }
    }

    fn propose(&mut self, node: Node) {
        let (expect, name) =
            (1 + self.world.rng.random_range(0..3), self.world.rng.random_range(0..1_000));
        let from = self.world.replicas[node].identity.name.clone();
        let change = Change::Rename { from, to: format!("m{name}") };
        let body = RequestBody::Propose { expect, change };
        self.world.request(node, Caller(0), &Request { id: 0, deadline: 0, body });
    }

    fn start_dead(&mut self) {
        for node in 0..self.world.replicas.len() {
            if !self.world.is_running(node) {
                self.world.start(node);
            }
        }
    }

    fn heal(&mut self) {
        self.faults = false;
        for client in &mut self.clients {
            client.is_done = true;
        }
        self.world.note("healing");
        self.world.mend();
        self.world.sync_delays.clear();
        self.world.network.weather = self.quiet;
        let disks: Vec<_> =
            self.world.replicas.iter().map(|replica| replica.disk.clone()).collect();
        for disk in disks {
            disk.crash_at(u64::MAX);
        }
        self.start_dead();
        self.work_until(self.world.now + nanos(HEAL));
        self.start_dead();
        self.work_until(self.world.now + nanos(HEAL));
        assert!(self.clients.iter().all(Client::is_idle), "a client waits for ever");
    }

    /// Reads every partition from all its owners; what differs is repaired.
    fn scan_all(&mut self) {
        for partition in 0..self.world.layout.now.q {
            let mut after = None;
            let mut tries = 0;
            loop {
                let scan = |layout| Scan {
                    partition: Partition(partition),
                    layout,
                    after: after.clone(),
                    prefix: Bytes::new(),
                    r: Some(Level::All),
                    bytes_max: 2_000,
                };
                match self.ask(scan) {
                    Some(ReplyBody::Scanned(scanned)) => {
                        after = scanned.entries.last().map(|entry| (entry.slot, entry.key.clone()));
                        if scanned.complete {
                            break;
                        }
                    }
                    other => {
                        tries += 1;
                        if tries > SCAN_TRIES_MAX {
                            self.broken.push(format!(
                                "a healed cluster does not answer a scan: {other:?}"
                            ));
                            return;
                        }
                        self.world.pass(Duration::from_millis(200));
                    }
                }
            }
        }
    }

    fn ask(&mut self, scan: impl Fn(u64) -> Scan) -> Option<ReplyBody> {
        let node = self.world.rng.random_range(0..self.world.replicas.len());
        let mut layout = self.world.layout.version;
        for _ in 0..3 {
            let body = RequestBody::Scan(scan(layout));
            self.world.request(node, SCANNER, &Request { id: 1, deadline: 0, body });
            let until = self.world.now + nanos(Duration::from_secs(2));
            let reply = loop {
                match self.world.run(until) {
                    Some(Seen::Reply { caller: SCANNER, reply, .. }) => break reply,
                    Some(_) => {}
                    None => return None,
                }
            };
            if reply.layout == layout {
                return Some(reply.body);
            }
            layout = reply.layout;
            self.world.layout.version = layout;
        }
        None
    }

    fn judge(&mut self) {
        let Self { world, history, broken, .. } = self;
        let preferences = Preferences::new(world.layout.now.clone().into());
        let mut ends = BTreeMap::new();
        for key in history.keys() {
            let owners = preferences.of_slot(Token::of(&key).slot()).owners();
            let states: BTreeMap<Node, Siblings> = owners
                .map(|id| world.node_of(id))
                .map(|node| (node, held(world, node, &key)))
                .collect();
            for state in states.values() {
                world.witness.state(&key, state);
            }
            let first = states.values().next().cloned().unwrap_or_default();
            if states.values().any(|state| *state != first) {
                broken.push(format!("{key:?}: owners differ after healing: {states:?}"));
            }
            ends.insert(key, first);
        }
        // A second dot is excused for puts that were tried twice, and folds of puts without a context.
        let is_tried_twice = |request: &_| {
            history
                .writes
                .get(request)
                .is_some_and(|write| write.tries > 1 || !oracle::is_contextual(&write.key))
        };
        let written_twice = world.witness.written_twice();
        for request in written_twice.keys().filter(|request| !is_tried_twice(request)) {
            broken.push(format!("{request:?} was tried once and written twice"));
        }
        history.written_twice = written_twice;
        for (key, first) in ends {
            broken.extend(oracle::judge_end(history, &key, &first));
            if key.starts_with(b"po") {
                broken.extend(oracle::judge_own_key(history, &key, &first));
            }
        }
        broken.extend(oracle::judge_reads(history));
        broken.append(&mut world.witness.broken);
        broken.append(&mut world.witness.alarms);
        broken.extend(hints_left(world));
        broken.extend(leaves_differ(world, &preferences));
    }
}

/// What a machine holds of a key.
fn held(world: &World, node: Node, key: &Bytes) -> Siblings {
    let life = world.replicas[node].life.as_ref().expect("all run after healing");
    let found = life.store.get(&keys::data(key)).expect("nothing is damaged");
    found.value.map_or_else(Siblings::new, |bytes| Siblings::decode(&bytes).expect("a state"))
}

/// Nodes that still hold hints.
fn hints_left(world: &World) -> Vec<String> {
    let (start, end) = keys::hints();
    let left = |(node, replica): (Node, &crate::replica::Replica)| {
        let life = replica.life.as_ref().expect("all run after healing");
        let hints = life.store.scan(&start, Some(&end)).count();
        (hints > 0).then(|| format!("node {node} holds {hints} hints after healing"))
    };
    world.replicas.iter().enumerate().filter_map(left).collect()
}

/// Slots whose leaves differ between owners.
fn leaves_differ(world: &World, preferences: &Preferences) -> Vec<String> {
    let leaf = |id, slot| {
        let life = world.replicas[world.node_of(id)].life.as_ref().expect("all run after healing");
        life.store.leaf(slot)
    };
    let differ = (0..=u16::MAX).filter(|slot| {
        let mut owners = preferences.of_slot(kvkit::ring::Slot(*slot)).owners();
        let first = owners.next().map(|id| leaf(id, *slot));
        owners.any(|id| Some(leaf(id, *slot)) != first)
    });
    differ.map(|slot| format!("the leaves of slot {slot} differ after healing")).collect()
}
