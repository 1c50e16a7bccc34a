//! Several Cores on simulated disks, in one thread: every message takes a millisecond, and nothing is left to chance.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;

use crate::cluster::{Addresses, Time};
use crate::node::{
    Caller, Core, CoreConfig, Effect, Event, HintLimits, Replayed, do_snapshot_work, found, keys,
};
use crate::node_id::{ClusterId, NodeId};
use crate::replication::{Consistency, Level};
use crate::ring::{Layout, Member, Mode, Preferences, Token, Weight};
use crate::storage::vfs::simulated::{Disk, Unsynced};
use crate::storage::{Identity, IdentityEpoch, Options, Store, identity};
use crate::version::{Content, RequestId, Siblings};
use crate::wire::client::{Get, Put, PutBasis, ReplyBody, Request, RequestBody};
use crate::wire::handshake::{Hello, Role, Welcome};
use crate::wire::peer::{PeerFrame, PeerMessage};

/// How long a message takes.
const MESSAGE: Duration = Duration::from_millis(1);
/// How long the disk takes.
const DISK: Duration = Duration::from_micros(100);

pub(super) struct Cluster {
    machines: Vec<Machine>,
    now: Time,
    queue: BTreeMap<(u64, u64), Delivery>,
    next: u64,
    hung: BTreeSet<usize>,
    frozen: Vec<Delivery>,
    replies: BTreeMap<u64, ReplyBody>,
    requests: u64,
    preferences: Preferences,
    hints: HintLimits,
}

struct Machine {
    identity: Identity,
    disk: Disk,
    life: Option<(Core, Arc<Store>)>,
    lives: u64,
}

struct Delivery {
    to: usize,
    /// The process that it was meant for.
    life: u64,
    event: Event,
}

impl Cluster {
    /// So many nodes with (n, r, w), started and connected.
    pub(super) fn new(nodes: u8, (n, r, w): (u8, u8, u8)) -> Self {
        Self::with_hints(nodes, (n, r, w), HintLimits::default())
    }

    pub(super) fn with_hints(nodes: u8, (n, r, w): (u8, u8, u8), hints: HintLimits) -> Self {
        let machines: Vec<Machine> = (1..=nodes).map(machine).collect();
        let member = |machine: &Machine| Member {
            id: machine.identity.node,
            name: machine.identity.name.clone(),
            zone: String::new(),
            weight: Weight::ONE,
        };
        let members = machines.iter().map(member).collect();
        let layout = Layout::found(32, n, r, w, Mode::Available, members).unwrap();
        let preferences = Preferences::new(Arc::new(layout.now.clone()));
        let now = Time { monotonic: 1 << 40, wall: 1 << 50 };
        for machine in &machines {
            let store = open_store(&machine.disk, &mut Replayed::new(now));
            found(&store, &machine.identity, layout.clone(), &BTreeMap::new()).unwrap();
        }
        let mut cluster = Self {
            machines,
            now,
            queue: BTreeMap::new(),
            next: 0,
            hung: BTreeSet::new(),
            frozen: Vec::new(),
            replies: BTreeMap::new(),
            requests: 0,
            preferences,
            hints,
        };
        (0..usize::from(nodes)).for_each(|node| cluster.start(node));
        cluster.pass(Duration::from_secs(2));
        cluster
    }

    /// Owners, then fallbacks of a key, by number.
    pub(super) fn walk(&self, key: &[u8]) -> Vec<usize> {
        let walk = self.preferences.of_slot(Token::of(key).slot());
        walk.owners().chain(walk.fallbacks()).map(|id| self.number(id)).collect()
    }

    pub(super) fn start(&mut self, node: usize) {
        let machine = &mut self.machines[node];
        let mut replayed = Replayed::new(self.now);
        let store = Arc::new(open_store(&machine.disk, &mut replayed));
        let mut config = CoreConfig::new(machine.identity.clone(), Addresses::default());
        config.hints = self.hints;
        machine.lives += 1;
        let rng = ChaCha8Rng::seed_from_u64(machine.lives << 8 | node as u64);
        let core = Core::open(config, Arc::clone(&store), replayed, self.now, rng).unwrap();
        machine.life = Some((core, store));
        self.post(Duration::ZERO, node, Event::Tick);
        for peer in self.running().filter(|peer| *peer != node).collect::<Vec<_>>() {
            self.connect(node, peer);
            self.connect(peer, node);
        }
    }

    /// What a copy of the directory of `node`, started beside it, says as it connects.
    pub(super) fn hello_of_a_copy(&mut self, node: usize) -> Hello {
        let now = self.now;
        let mut hello = self.core(node).hello(now);
        if let Role::Peer { nonce, .. } = &mut hello.role {
            *nonce ^= 1;
        }
        hello
    }

    /// The machine loses power.
    pub(super) fn kill(&mut self, node: usize) {
        self.machines[node].life = None;
        self.machines[node].disk.power_loss(Unsynced::Dropped);
        let id = self.machines[node].identity.node;
        for peer in self.running().collect::<Vec<_>>() {
            self.post(MESSAGE, peer, Event::PeerUnreachable(id));
        }
        self.pass(2 * MESSAGE);
    }

    pub(super) fn kill_all(&mut self, nodes: [usize; 3]) {
        for node in nodes {
            self.kill(node);
        }
    }

    pub(super) fn start_all(&mut self, nodes: [usize; 3]) {
        for node in nodes {
            self.start(node);
        }
    }

    /// The process stands still; what is sent to it waits.
    pub(super) fn hang(&mut self, node: usize) {
        self.hung.insert(node);
    }

    pub(super) fn go_on(&mut self, node: usize) {
        self.hung.remove(&node);
        let (thawed, frozen) =
            std::mem::take(&mut self.frozen).into_iter().partition(|waits| waits.to == node);
        self.frozen = frozen;
        for Delivery { to, event, .. } in thawed {
            self.post(Duration::ZERO, to, event);
        }
    }

    pub(super) fn pass(&mut self, span: Duration) {
        let until = self.now.after(span).monotonic;
        while let Some(entry) = self.queue.first_entry().filter(|entry| entry.key().0 <= until) {
            let at = entry.key().0;
            let delivery = entry.remove();
            self.advance(at);
            self.deliver(delivery);
        }
        self.advance(until);
    }

    fn advance(&mut self, monotonic: u64) {
        let passed = monotonic.saturating_sub(self.now.monotonic);
        self.now = self.now.after(Duration::from_nanos(passed));
    }

    /// A request; its number.
    pub(super) fn send(&mut self, node: usize, body: RequestBody) -> u64 {
        self.requests += 1;
        let request = Request { id: self.requests, deadline: 0, body };
        self.post(Duration::ZERO, node, Event::Client { caller: Caller(1), request });
        self.requests
    }

    /// The reply, and how long it took.
    pub(super) fn call(&mut self, node: usize, body: RequestBody) -> (ReplyBody, Duration) {
        let (id, began) = (self.send(node, body), self.now);
        while !self.replies.contains_key(&id) {
            assert!(self.now.since(began) < Duration::from_secs(5), "no reply in five seconds");
            self.pass(DISK);
        }
        (self.replies.remove(&id).unwrap(), self.now.since(began))
    }

    pub(super) fn put_body(
        &mut self,
        key: &[u8],
        text: &str,
        basis: PutBasis,
        w: u8,
    ) -> RequestBody {
        RequestBody::Put(Put {
            key: Bytes::copy_from_slice(key),
            value: Some(Bytes::copy_from_slice(text.as_bytes())),
            basis,
            w: Some(Level::Count(w)),
            r: Some(Level::One),
            consistency: Some(Consistency::Sloppy),
            request: RequestId { session: 1, counter: self.requests + 1 },
            age: 0,
        })
    }

    /// What all that is stored for a key in data, and in hints, comes to; without any node's help.
    pub(super) fn stored(&self, node: usize, key: &[u8]) -> Siblings {
        let Some((_, store)) = &self.machines[node].life else { return Siblings::new() };
        let found = store.get(&keys::data(key)).unwrap().value;
        found.map_or_else(Siblings::new, |bytes| Siblings::decode(&bytes).unwrap())
    }

    /// How many hints a node holds.
    pub(super) fn hints(&self, node: usize) -> usize {
        let Some((_, store)) = &self.machines[node].life else { return 0 };
        let (start, end) = keys::hints();
        store.scan(&start, Some(&end)).count()
    }

    pub(super) fn id(&self, node: usize) -> NodeId {
        self.machines[node].identity.node
    }

    pub(super) const fn now(&self) -> Time {
        self.now
    }

    /// A running node.
    pub(super) fn core(&mut self, node: usize) -> &mut Core {
        &mut self.machines[node].life.as_mut().expect("it runs").0
    }

    /// A frame that `from` wrote long ago, on a connection that still stands.
    pub(super) fn late_frame(&mut self, from: usize, to: usize, message: PeerMessage) {
        let (from, frame) = (self.id(from), PeerFrame { sent: self.now.monotonic, message });
        self.post(Duration::ZERO, to, Event::Peer { from, frame });
        self.pass(2 * MESSAGE);
    }

    pub(super) fn number(&self, id: NodeId) -> usize {
        self.machines.iter().position(|machine| machine.identity.node == id).unwrap()
    }

    fn running(&self) -> impl Iterator<Item = usize> + '_ {
        (0..self.machines.len()).filter(|node| self.machines[*node].life.is_some())
    }

    /// `node` dials `peer`.
    fn connect(&mut self, node: usize, peer: usize) {
        let (now, id) = (self.now, self.id(peer));
        let hello = self.core(node).hello(now);
        if let Welcome::Accepted { sent, .. } = self.core(peer).admit(now, &hello) {
            self.post(Duration::ZERO, node, Event::PeerConnected { peer: id, sent });
        }
    }

    fn post(&mut self, after: Duration, to: usize, event: Event) {
        self.next += 1;
        let life = self.machines[to].lives;
        let at = self.now.after(after).monotonic;
        self.queue.insert((at, self.next), Delivery { to, life, event });
    }

    fn deliver(&mut self, delivery: Delivery) {
        let Delivery { to, life, .. } = delivery;
        if self.machines[to].lives != life {
            return;
        }
        if self.hung.contains(&to) {
            return self.frozen.push(delivery);
        }
        let Some((core, store)) = &mut self.machines[to].life else { return };
        let mut effects = Vec::new();
        core.handle(self.now, delivery.event, &mut effects);
        let unsynced = store.durable() < store.appended();
        let durable = unsynced.then(|| store.sync_all().unwrap());
        if let Some(durable) = durable {
            self.post(DISK, to, Event::Durable(durable));
        }
        for effect in effects {
            self.carry_out(to, effect);
        }
    }

    fn carry_out(&mut self, node: usize, effect: Effect) {
        let store = self.machines[node].life.as_ref().map(|(_, store)| Arc::clone(store)).unwrap();
        match effect {
            Effect::Reply { reply, .. } => {
                self.replies.insert(reply.id, reply.body);
            }
            Effect::Send { to, message } => {
                let from = self.machines[node].identity.node;
                let frame = PeerFrame { sent: self.now.monotonic, message };
                self.post(MESSAGE, self.number(to), Event::Peer { from, frame });
            }
            Effect::Read { token, key } => {
                let result = store.get(&key);
                self.post(DISK, node, Event::Read { token, result });
            }
            Effect::Scan { token, start, end, entries_max, bytes_max } => {
                let result = store.scan_slice(&start, end.as_deref(), entries_max, bytes_max);
                self.post(DISK, node, Event::Scanned { token, result });
            }
            Effect::Mend(keys) => {
                let result = store.mend(&keys).map_err(|error| error.to_string());
                self.post(DISK, node, Event::Mended { keys, result });
            }
            Effect::Snapshot(work) => {
                let created = "2026-01-01T00:00:00Z".to_owned();
                let news = do_snapshot_work(&store, work, created, &mut |_, _| true);
                self.post(DISK, node, Event::Snapshot(news));
            }
            Effect::Wake(at) => {
                let after = Duration::from_nanos(at.saturating_sub(self.now.monotonic));
                self.post(after, node, Event::Tick);
            }
            Effect::Fatal(why) | Effect::RolledBack(why) => panic!("node {node}: {why}"),
            Effect::Departed | Effect::Removed => panic!("node {node} is no member any more"),
            Effect::Peers(_)
            | Effect::Dropped { .. }
            | Effect::Introduce { .. }
            | Effect::CloseClients
            | Effect::Log(..)
            | Effect::Stopped => {}
        }
    }
}

fn machine(number: u8) -> Machine {
    let identity = Identity {
        v: identity::VERSION,
        node: NodeId::from_bytes([number; 16]),
        name: format!("n{number}"),
        cluster: ClusterId::from_bits(1),
        cluster_name: "test".to_owned(),
        epoch: IdentityEpoch { counter: 1, random: u32::from(number) },
        created: "2026-01-01T00:00:00Z".to_owned(),
    };
    Machine { identity, disk: Disk::new(u64::from(number)), life: None, lives: 0 }
}

fn open_store(disk: &Disk, replayed: &mut Replayed) -> Store {
    let options = Options { reserve_bytes: 0, ..Options::default() };
    let mut replay = |key: &[u8], value: Option<&[u8]>| replayed.observe(key, value);
    Store::open(Arc::new(disk.clone()), Path::new("/n"), options, &mut replay).unwrap().0
}

pub(super) fn get_body(key: &[u8], r: u8) -> RequestBody {
    let (r, consistency) = (Some(Level::Count(r)), Some(Consistency::Sloppy));
    RequestBody::Get(Get { key: Bytes::copy_from_slice(key), r, consistency })
}

/// The values of a state, in order.
pub(super) fn values(state: &Siblings) -> String {
    let show = |content: &Content| match content {
        Content::Value(value) => String::from_utf8_lossy(value).into_owned(),
        Content::Tombstone => "-".to_owned(),
    };
    let mut values: Vec<_> =
        state.versions().values().map(|version| show(&version.content)).collect();
    values.sort();
    values.join(" ")
}
