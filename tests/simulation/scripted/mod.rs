//! Schedules that broke earlier drafts of the rules, one test each; the numbers are those of the list of schedules.
//!
//! A [`Script`] is a small cluster on a calm network. It cuts, kills and wipes at will, and keeps single frames and disk
//! reads back until it suits the schedule (`world::kept`).

pub(crate) mod changes;
mod durability;
mod forgetting;
mod hints;
mod repair;
mod rolled_back;
mod serving;
mod starts;

use std::collections::BTreeMap;
use std::time::Duration;

use bytes::Bytes;
use kvkit::node::{Caller, keys};
use kvkit::replication::anti_entropy::Compared;
use kvkit::replication::{Answer, Consistency, Level, Request as Asked};
use kvkit::ring::{Mode, Preferences, Token};
use kvkit::version::{Dot, RequestId, Siblings};
use kvkit::wire::client::{ErrorCode, Get, Put, PutBasis, Reply, ReplyBody, Request, RequestBody};
use kvkit::wire::peer::PeerMessage;

use crate::network::{Node, Weather};
use crate::replica::Life;
use crate::world::{DrawerId, Due, Nanos, Seen, Shape, World, nanos};

const KEY: Bytes = Bytes::from_static(b"k");
/// Longer than any test runs: a log that is not synced.
const NEVER: Duration = Duration::from_hours(1);
/// Long enough for a silent member to be down.
const DOWN: Duration = Duration::from_mins(1);
/// Long enough for connections, gossip and confirmed starts.
const SETTLED: Duration = Duration::from_secs(3);
/// Long enough for every pair of replicas to have compared twice.
const COMPARED: Duration = Duration::from_secs(90);
/// How long a script waits for a reply.
const REPLIED: Duration = Duration::from_secs(2);
/// The longest deadline that a request may have: what it sent may arrive long after it was acknowledged.
const PATIENCE: Duration = kvkit::node::DEADLINE_MAX;
/// The heartbeat of clusters in which comparisons and cuts shall come soon.
const BRISK: Duration = Duration::from_millis(200);
/// How often a script looks whether what it waits for has come.
const LOOK: Duration = Duration::from_millis(10);

/// What a scripted cluster is like.
#[derive(Clone, Copy)]
struct Setup {
    nodes: usize,
    r: u8,
    w: u8,
    hints_bytes_max: u64,
    hints_ttl: Duration,
    interval: Duration,
    cache_bytes: u64,
}

impl Setup {
    /// Three nodes as they are by default.
    const fn new(r: u8, w: u8) -> Self {
        Self {
            nodes: 3,
            r,
            w,
            hints_bytes_max: 1 << 30,
            hints_ttl: Duration::from_hours(3),
            interval: Duration::from_secs(1),
            cache_bytes: 0,
        }
    }

    const fn without_hints(self) -> Self {
        Self { hints_bytes_max: 0, ..self }
    }

    /// With comparisons and cuts soon one after the other. A cut wants to know without the disk what it read before.
    const fn brisk(self) -> Self {
        Self { interval: BRISK, cache_bytes: 64 << 10, ..self }
    }
}

/// A cluster under control.
struct Script {
    world: World,
    next: u64,
    replies: BTreeMap<u64, Reply>,
}

impl Script {
    /// Three nodes, started and settled.
    fn new(r: u8, w: u8) -> Self {
        Self::with(Setup::new(r, w))
    }

    fn with(setup: Setup) -> Self {
        let Setup { nodes, r, w, .. } = setup;
        let weather =
            Weather { loss: 0.0, doubled: 0.0, delay: Duration::from_millis(1), slow: 0.0 };
        let shape = Shape { nodes, q: 32, n: 3, r, w, mode: Mode::Available };
        let mut world = World::new(7, shape, weather);
        world.disk_delay = Duration::from_micros(100);
        for replica in &mut world.replicas {
            replica.hints.bytes_max = setup.hints_bytes_max;
            replica.hints.ttl = setup.hints_ttl;
            replica.gossip_interval = setup.interval;
            replica.options.cache_bytes = setup.cache_bytes;
        }
        world.start_all();
        world.pass(SETTLED);
        Self { world, next: 0, replies: BTreeMap::new() }
    }

    /// The owners of the key, in preference order.
    fn owners(&self) -> [Node; 3] {
        self.owners_of(&KEY)
    }

    fn owners_of(&self, key: &[u8]) -> [Node; 3] {
        let preferences = Preferences::new(self.world.layout.now.clone().into());
        let owners = preferences.of_slot(Token::of(key).slot()).owners();
        let nodes: Vec<Node> = owners.map(|id| self.world.node_of(id)).collect();
        nodes.try_into().unwrap()
    }

    fn send(&mut self, node: Node, body: RequestBody) -> u64 {
        self.send_by(node, body, 0)
    }

    /// The same with the longest deadline that there is.
    fn send_patiently(&mut self, node: Node, body: RequestBody) -> u64 {
        let now = self.world.replicas[node].time(self.world.now);
        self.send_by(node, body, now.after(PATIENCE).monotonic)
    }

    fn send_by(&mut self, node: Node, body: RequestBody, deadline: u64) -> u64 {
        self.next += 1;
        let request = Request { id: self.next, deadline, body };
        self.world.request(node, Caller(1), &request);
        self.next
    }

    /// The reply, where it comes in time.
    fn reply(&mut self, id: u64) -> Option<ReplyBody> {
        let until = self.world.now + nanos(REPLIED);
        while !self.replies.contains_key(&id) {
            match self.world.run(until)? {
                Seen::Reply { reply, .. } => {
                    self.replies.insert(reply.id, *reply);
                }
                Seen::Alarm(_) => {}
            }
        }
        self.replies.remove(&id).map(|reply| reply.body)
    }

    fn call(&mut self, node: Node, body: RequestBody) -> ReplyBody {
        let id = self.send(node, body);
        self.reply(id).expect("a reply in time")
    }

    #[track_caller]
    fn put(&mut self, node: Node, value: &'static str, basis: PutBasis) -> Dot {
        let body = self.put_body(value, basis);
        done(&self.call(node, body))
    }

    fn put_body(&mut self, value: &'static str, basis: PutBasis) -> RequestBody {
        self.write_body(KEY, Some(value), basis, Consistency::Strict)
    }

    /// Writes with the longest deadline.
    #[track_caller]
    fn write(
        &mut self,
        node: Node,
        key: Bytes,
        value: Option<&'static str>,
        basis: PutBasis,
    ) -> Dot {
        let body = self.write_body(key, value, basis, Consistency::Strict);
        let id = self.send_patiently(node, body);
        done(&self.reply(id).expect("a reply in time"))
    }

    /// Deletes what a node holds of the key.
    #[track_caller]
    fn delete(&mut self, node: Node, key: Bytes, seen: &Siblings) -> Dot {
        self.write(node, key, None, PutBasis::Context(seen.clock().clone()))
    }

    fn write_body(
        &mut self,
        key: Bytes,
        value: Option<&'static str>,
        basis: PutBasis,
        consistency: Consistency,
    ) -> RequestBody {
        RequestBody::Put(Put {
            key,
            value: value.map(|value| Bytes::from_static(value.as_bytes())),
            basis,
            w: None,
            r: None,
            consistency: Some(consistency),
            request: RequestId { session: 1, counter: self.next + 1 },
            age: 0,
        })
    }

    fn get(&mut self, node: Node, r: Option<Level>) -> ReplyBody {
        self.call(node, get_body(r))
    }

    #[track_caller]
    fn state(&mut self, node: Node, r: Option<Level>) -> Siblings {
        match self.get(node, r) {
            ReplyBody::Got(got) => got.state,
            other => panic!("{other:?}"),
        }
    }

    fn isolate(&mut self, node: Node) {
        for peer in (0..self.world.replicas.len()).filter(|peer| *peer != node) {
            self.world.cut(node, peer);
            self.world.cut(peer, node);
            self.world.disconnect(node, peer);
        }
    }

    fn heal(&mut self) {
        self.world.mend();
        self.world.sync_delays.clear();
        self.world.pass(SETTLED);
    }

    /// Goes on until `is_so`, which must come within `patience`.
    #[track_caller]
    fn wait(&mut self, patience: Duration, what: &str, is_so: impl Fn(&Self) -> bool) {
        let until: Nanos = self.world.now + nanos(patience);
        while !is_so(self) {
            assert!(self.world.now < until, "{what}: not within {patience:?}");
            self.world.pass(LOOK);
        }
    }

    fn life(&self, node: Node) -> &Life {
        self.world.replicas[node].life.as_ref().expect("it runs")
    }

    /// What a machine holds of the key.
    fn held(&self, node: Node) -> Siblings {
        self.held_of(node, &KEY)
    }

    fn held_of(&self, node: Node, key: &[u8]) -> Siblings {
        let value = self.life(node).store.get(&keys::data(key)).unwrap().value;
        value.map_or_else(Siblings::new, |bytes| Siblings::decode(&bytes).unwrap())
    }

    /// How many hints a machine holds.
    fn hints_at(&self, node: Node) -> usize {
        let (start, end) = keys::hints();
        self.life(node).store.scan(&start, Some(&end)).count()
    }

    #[track_caller]
    fn sound(&self) {
        assert_eq!(self.world.witness.broken, Vec::<String>::new());
    }
}

fn get_body(r: Option<Level>) -> RequestBody {
    RequestBody::Get(Get { key: KEY, r, consistency: Some(Consistency::Strict) })
}

#[track_caller]
fn done(reply: &ReplyBody) -> Dot {
    match reply {
        ReplyBody::Done(done) => done.dot.expect("a fresh put has a dot"),
        other => panic!("{other:?}"),
    }
}

#[track_caller]
fn check_quorum_unmet(reply: &ReplyBody) {
    let ReplyBody::Error(error) = reply else { panic!("{reply:?}") };
    assert_eq!(error.code, ErrorCode::QuorumUnmet, "{error:?}");
}

/// Keeps back the states of `key` that one node sends another.
fn keep_states(script: &mut Script, from: Node, to: Node, key: Bytes) -> DrawerId {
    script.world.keep_back(move |due| {
        let Due::Frame { from: sender, to: receiver, message } = due else { return false };
        (*sender, *receiver) == (from, to) && carries(message, &key)
    })
}

/// Whether a message brings a state of `key` to be kept.
fn carries(message: &PeerMessage, key: &Bytes) -> bool {
    match message {
        PeerMessage::Request { envelope, .. } => match &envelope.body {
            Asked::Merge { key: merged, .. } | Asked::Hold { key: merged, .. } => merged == key,
            _ => false,
        },
        PeerMessage::Answer(envelope) => match &envelope.body {
            Answer::Compared(Compared::Rows { give, .. }) => {
                give.iter().any(|(given, _)| given == key)
            }
            _ => false,
        },
        _ => false,
    }
}
