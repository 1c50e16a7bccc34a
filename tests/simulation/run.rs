//! One run of a plan: clients at work under faults, then healing, then the judgement.

use std::collections::BTreeMap;
use std::time::Duration;

use bytes::Bytes;
use kvkit::node::Caller;
use kvkit::replication::Level;
use kvkit::ring::Partition;
use kvkit::wire::client::{ReplyBody, Request, RequestBody, Scan};

use crate::faults::Faults;
use crate::history::History;
use crate::network::Weather;
use crate::oracle::{self, Breach, Check};
use crate::plan::{Kind, Plan};
use crate::progress;
use crate::replica::options;
use crate::workload::{Client, Habits};
use crate::world::{Nanos, Seen, World, nanos};

/// Whether owners come to hold the same by themselves. Until they do, the run reads everything from all of them.
const CONVERGES_BY_ITSELF: bool = false;
/// Longer than any operation with all its tries.
const LAST_WORDS: Duration = Duration::from_secs(4);
/// Long enough for a node that was away to be up in every view, and for hints to go home.
const SETTLED: Duration = Duration::from_secs(15);
/// Quiet in which nothing may spin.
const QUIET_SECONDS: u64 = 5;
/// The caller that scans at the end.
const SCANNER: Caller = Caller(u64::MAX);
/// Tries to get one page of the final scan.
const SCAN_TRIES_MAX: u32 = 50;

/// The network once nothing goes wrong any more.
pub const CALM: Weather =
    Weather { loss: 0.0, doubled: 0.0, delay: Duration::from_millis(2), slow: 0.0 };

/// What a run came to.
pub struct Report {
    pub trace: u64,
    pub broken: Vec<Breach>,
    /// How often the run met what it is there to meet.
    pub met: BTreeMap<&'static str, usize>,
}

/// Runs a plan. A trace covers all that every node wanted done where `is_traced`, else the times of all happenings.
pub fn run(plan: &Plan, is_traced: bool) -> Report {
    Run::new(plan, is_traced).go(plan)
}

/// A run under way.
pub struct Run {
    pub world: World,
    pub history: History,
    clients: Vec<Client>,
    faults: Faults,
    pub broken: Vec<Breach>,
}

impl Run {
    fn new(plan: &Plan, is_traced: bool) -> Self {
        let mut world = World::new(plan.seed, plan.shape, plan.weather);
        world.is_traced = is_traced;
        world.restarts = Some(BTreeMap::new());
        world.disk_delay = plan.disks.delay;
        for (replica, skew) in world.replicas.iter_mut().zip(&plan.skews) {
            replica.skew = *skew;
            replica.hints_bytes_max = plan.hints_bytes_max;
            replica.options.memtable_bytes = plan.disks.memtable_bytes;
            replica.options.log_segment_bytes = plan.disks.log_segment_bytes;
            assert!(replica.options.memtable_bytes >= options().memtable_bytes);
        }
        let contextual = (0..plan.keys).map(|number| format!("c{number}"));
        let plain = (0..plan.keys.div_ceil(2)).map(|number| format!("p{number}"));
        let shared: Vec<_> = contextual.chain(plain).map(Bytes::from).collect();
        let clients = plan.clients.iter().map(|client| {
            let own = Bytes::from(format!("po{}", client.number));
            let habits = Habits {
                keys: shared.iter().cloned().chain([own]).collect(),
                think: client.think,
                sloppy: plan.sloppy,
                nodes: (0..plan.shape.nodes).collect(),
                is_moody: true,
            };
            Client::new(client.number, client.seed, habits)
        });
        let clients = clients.collect();
        world.note(&format!("{plan:?}"));
        let faults = Faults::new(plan.faults.clone(), plan.weather);
        Self { world, history: History::default(), clients, faults, broken: Vec::new() }
    }

    fn go(mut self, plan: &Plan) -> Report {
        self.world.start_all();
        self.faults.arm(&mut self.world);
        for client in &mut self.clients {
            client.rest(&mut self.world);
        }
        self.work_until(nanos(plan.work));
        self.heal();
        if !plan.minority.is_empty() {
            progress::check(&mut self, plan);
        }
        self.converge();
        self.stay_quiet();
        self.broken.extend(oracle::judge(&mut self.world, &self.history));
        let (trace, met) = (self.world.trace(), self.met());
        Report { trace, broken: self.broken, met }
    }

    /// Goes on until then; clients and faults get what is theirs.
    pub fn work_until(&mut self, until: Nanos) {
        while let Some(seen) = self.world.run(until) {
            match seen {
                Seen::Alarm(number) if self.faults.alarm(&mut self.world, number) => {}
                Seen::Alarm(number) => {
                    let moment = number & u64::from(u32::MAX);
                    if let Some(client) = client(&mut self.clients, number >> 32) {
                        client.wake(&mut self.world, &mut self.history, moment);
                    }
                }
                Seen::Reply { caller, reply, .. } => {
                    if let Some(client) = client(&mut self.clients, caller.0) {
                        client.reply(&mut self.world, &mut self.history, *reply);
                    }
                }
            }
        }
    }

    /// Lets a client take part from now on.
    pub fn hire(&mut self, mut client: Client) {
        client.rest(&mut self.world);
        self.clients.push(client);
    }

    /// Lets all clients finish; what those of this number or above failed at.
    pub fn dismiss(&mut self, number: u64) -> Vec<String> {
        for client in &mut self.clients {
            client.is_done = true;
        }
        self.work_until(self.world.now + nanos(LAST_WORDS));
        assert!(self.clients.iter().all(Client::is_idle), "a client waits for ever");
        let hired = self.clients.iter().filter(|client| number <= client.number());
        hired.flat_map(|client| client.failures.iter().cloned()).collect()
    }

    /// Ends all faults and waits until every node runs and is settled.
    pub fn heal(&mut self) {
        self.faults.end(&mut self.world, CALM);
        self.dismiss(u64::MAX);
        if let Some(pauses) = &mut self.world.restarts {
            pauses.clear();
        }
        for node in 0..self.world.replicas.len() {
            self.world.start_if_down(node);
            self.world.look_around(node);
        }
        self.work_until(self.world.now + nanos(SETTLED));
        for node in 0..self.world.replicas.len() {
            if !self.world.is_running(node) {
                let text = format!("n{} does not stay up after healing", node + 1);
                self.broken.push(Breach::new(Check::Progress, text));
                self.world.start_if_down(node);
            }
        }
    }

    fn converge(&mut self) {
        self.work_until(self.world.now + nanos(SETTLED));
        if !CONVERGES_BY_ITSELF {
            self.scan_all();
            self.scan_all();
        }
    }

    fn stay_quiet(&mut self) {
        let before = self.world.events.clone();
        self.work_until(self.world.now + nanos(Duration::from_secs(QUIET_SECONDS)));
        let breaches = oracle::quiet_is_quiet(&before, &self.world.events, QUIET_SECONDS);
        self.broken.extend(breaches);
    }

    fn met(&self) -> BTreeMap<&'static str, usize> {
        let acknowledged = || self.history.writes().filter(|write| write.acknowledged.is_some());
        let with_siblings =
            self.history.reads().filter(|read| read.state.versions().len() > 1).count();
        let starts: u64 = self.world.replicas.iter().map(|replica| replica.lives).sum();
        let (World { witness, .. }, fates) = (&self.world, self.world.network.fates);
        let puts = self.history.writes().count();
        let retried = acknowledged().filter(|write| write.tries > 1).count();
        let mut met = BTreeMap::from([
            ("puts acknowledged", acknowledged().count()),
            ("puts acknowledged after a retry", retried),
            ("puts of unknown outcome", puts - acknowledged().count()),
            (
                "puts not applied",
                self.history.writes().filter(|write| write.is_not_applied).count(),
            ),
            ("deletes acknowledged", acknowledged().filter(|write| write.is_delete()).count()),
            ("gets", self.history.reads().count()),
            ("gets of siblings", with_siblings),
            ("states held by stand-ins", witness.held),
            ("hints handed over", witness.handed_over),
            ("restarts", usize::try_from(starts).expect("few") - self.world.replicas.len()),
            ("disk reads", self.world.disk_reads),
            ("frames lost", fates.lost),
            ("frames doubled", fates.doubled),
            ("frames overtaken", fates.slow),
            ("nodes that found they had stood still", self.world.clients_closed),
            (
                "layout changes",
                usize::try_from(self.world.layout.version).expect("few").saturating_sub(1),
            ),
        ]);
        let faults = Kind::ALL.into_iter();
        met.extend(
            faults.map(|kind| (kind.name(), self.faults.met.get(&kind).copied().unwrap_or(0))),
        );
        met
    }

    /// Reads every partition from all its owners; what differs is repaired.
    fn scan_all(&mut self) {
        for partition in 0..self.world.layout.now.q {
            if let Err(text) = self.scan_partition(Partition(partition)) {
                self.broken.push(Breach::new(Check::Progress, text));
                return;
            }
        }
    }

    fn scan_partition(&mut self, partition: Partition) -> Result<(), String> {
        let (mut after, mut tries) = (None, 0);
        loop {
            let scan = |layout| Scan {
                partition,
                layout,
                after: after.clone(),
                prefix: Bytes::new(),
                r: Some(Level::All),
                bytes_max: 100_000,
            };
            match self.ask(scan) {
                Some(ReplyBody::Scanned(scanned)) => {
                    after = scanned.entries.last().map(|entry| (entry.slot, entry.key.clone()));
                    if scanned.complete {
                        return Ok(());
                    }
                }
                other => {
                    tries += 1;
                    if tries > SCAN_TRIES_MAX {
                        return Err(format!("a healed cluster does not answer a scan: {other:?}"));
                    }
                    self.work_until(self.world.now + nanos(Duration::from_millis(200)));
                }
            }
        }
    }

    fn ask(&mut self, scan: impl Fn(u64) -> Scan) -> Option<ReplyBody> {
        let node = rand::Rng::random_range(&mut self.world.rng, 0..self.world.replicas.len());
        let mut layout = self.world.layout.version;
        for _ in 0..3 {
            let body = RequestBody::Scan(scan(layout));
            self.world.request(node, SCANNER, &Request { id: 1, deadline: 0, body });
            let until = self.world.now + nanos(Duration::from_secs(2));
            let reply = loop {
                match self.world.run(until)? {
                    Seen::Reply { caller: SCANNER, reply } => break reply,
                    Seen::Reply { .. } | Seen::Alarm(_) => {}
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
}

/// The client of this number, if there is one.
fn client(clients: &mut [Client], number: u64) -> Option<&mut Client> {
    clients.iter_mut().find(|client| client.number() == number)
}
