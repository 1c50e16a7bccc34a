//! One run of a plan: clients at work under faults, then healing, then the judgement.

use std::collections::BTreeMap;
use std::time::Duration;

use bytes::Bytes;
use kvkit::wire::client::View;

use crate::faults::Faults;
use crate::history::History;
use crate::network::Weather;
use crate::oracle::{self, Breach, Check};
use crate::plan::{Kind, Plan, YEAR};
use crate::progress;
use crate::replica::options;
use crate::workload::{Client, Habits};
use crate::world::{Nanos, Seen, World, nanos};

/// Longer than any operation with all its tries.
const LAST_WORDS: Duration = Duration::from_secs(4);
/// Long enough for a node that was away to be up in every view, and for hints to go home.
const SETTLED: Duration = Duration::from_secs(15);
/// Quiet in which nothing may spin.
const QUIET_SECONDS: u64 = 5;
/// How long replicas may take to compare and to settle what differs: two rounds of 30 heartbeats, and some.
const CONVERGED: Duration = Duration::from_secs(90);
/// How long a change may take whose gainers are all up.
const AGREED: Duration = Duration::from_mins(2);
/// How often one looks whether they have.
const LOOK: Duration = Duration::from_secs(3);

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
            replica.hints.bytes_max = plan.hints_bytes_max;
            replica.options.memtable_bytes = plan.disks.memtable_bytes;
            replica.options.log_segment_bytes = plan.disks.log_segment_bytes;
            replica.options.cache_bytes = plan.disks.cache_bytes;
            assert!(replica.options.memtable_bytes >= options().memtable_bytes);
        }
        let contextual = (0..plan.keys).map(|number| format!("c{number}"));
        let unnamed = (0..plan.keys.div_ceil(2)).map(|number| format!("p{number}"));
        let shared: Vec<_> = contextual.chain(unnamed).map(Bytes::from).collect();
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
            self.world.scrub(node);
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
        self.agree();
    }

    /// Waits until every node acts on one layout, in which no change runs any more: from here on it is the one to be
    /// judged by.
    fn agree(&mut self) {
        let latest = self.world.now + nanos(AGREED);
        loop {
            let nodes = 0..self.world.replicas.len();
            let views: Vec<View> = nodes.filter_map(|node| self.world.view(node)).collect();
            let newest = views.iter().map(|view| &view.layout).max_by_key(|layout| layout.version);
            let newest = newest.expect("nodes run").clone();
            let is_agreed = newest.next.is_none() && views.iter().all(|view| view.layout == newest);
            if is_agreed || latest <= self.world.now {
                if newest.next.is_some() {
                    let text = format!("the change of layout {} does not end", newest.version);
                    self.broken.push(Breach::new(Check::Progress, text));
                }
                self.world.layout = newest;
                return;
            }
            self.work_until(self.world.now + nanos(LOOK));
        }
    }

    /// Waits until all owners hold the same, which they must come to by themselves.
    fn converge(&mut self) {
        let latest = self.world.now + nanos(CONVERGED);
        while self.world.now < latest && !oracle::has_converged(&self.world, &self.history) {
            self.work_until(self.world.now + nanos(LOOK));
        }
    }

    fn stay_quiet(&mut self) {
        let before = self.world.events.clone();
        self.work_until(self.world.now + nanos(Duration::from_secs(QUIET_SECONDS)));
        let breaches = oracle::quiet_is_quiet(&before, &self.world.events, QUIET_SECONDS);
        self.broken.extend(breaches);
    }

    /// Machines whose wall clock is far off at the end.
    fn clocks_off(&self) -> usize {
        let is_far = |skew: i64| YEAR <= skew.abs();
        self.world.replicas.iter().filter(|replica| is_far(replica.skew)).count()
    }

    fn met(&self) -> BTreeMap<&'static str, usize> {
        let acknowledged = || self.history.writes().filter(|write| write.acknowledged.is_some());
        let with_siblings =
            self.history.reads().filter(|read| read.state.versions().len() > 1).count();
        let starts: u64 = self.world.replicas.iter().map(|replica| replica.lives).sum();
        let (World { witness, .. }, fates) = (&self.world, self.world.network.fates);
        let failures = self.world.disk_failures();
        let count = |failed: u64| usize::try_from(failed).expect("few");
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
            ("states settled by comparison", witness.compared),
            ("restarts", usize::try_from(starts).expect("few") - self.world.replicas.len()),
            ("disk reads", self.world.disk_reads),
            ("disk calls that failed with EIO", count(failures.io)),
            ("disk calls that found no room", count(failures.full)),
            ("syncs that failed", count(failures.syncs)),
            ("machines that broke at a disk call", count(failures.crashes)),
            ("wall clocks off by more than a year", self.clocks_off()),
            ("frames lost", fates.lost),
            ("frames doubled", fates.doubled),
            ("frames overtaken", fates.slow),
            ("nodes that found they had stood still", self.world.clients_closed),
            ("layout changes", self.world.layout_changes),
        ]);
        let faults = Kind::ALL.into_iter();
        met.extend(
            faults.map(|kind| (kind.name(), self.faults.met.get(&kind).copied().unwrap_or(0))),
        );
        met
    }
}

/// The client of this number, if there is one.
fn client(clients: &mut [Client], number: u64) -> Option<&mut Client> {
    clients.iter_mut().find(|client| client.number() == number)
}
