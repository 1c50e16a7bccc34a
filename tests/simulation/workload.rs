//! Clients: they read, write, delete, retry with the same request id at other nodes, and write down what they saw.
//!
//! Each has chance of its own, so that leaving another one out leaves it as it is.

use std::collections::BTreeMap;
use std::time::Duration;

use bytes::Bytes;
use kvkit::node::Caller;
use kvkit::replication::{Consistency, Level};
use kvkit::version::{Content, RequestId, VectorClock};
use kvkit::wire::client::{
    Done, ErrorReply, Get, Got, Outcome, Put, PutBasis, Reply, ReplyBody, Request, RequestBody,
};
use rand::seq::IndexedRandom;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

use crate::history::{Basis, History, Numbers, Read, Write};
use crate::network::Node;
use crate::oracle::{is_contextual, is_own};
use crate::world::{Nanos, World, nanos};

/// How long a try may take.
pub const TIMEOUT: Duration = Duration::from_secs(1);
/// Tries of one operation.
const TRIES_MAX: u32 = 3;
/// Most bytes of padding in a value.
const PADDING_MAX: usize = 120;

/// How one client behaves.
#[derive(Clone, Debug)]
pub struct Habits {
    pub keys: Vec<Bytes>,
    /// Longest pause between two operations.
    pub think: Duration,
    /// Share of requests that are sloppy, on keys that are for both.
    pub sloppy: f64,
    /// Nodes it sends its requests to.
    pub nodes: Vec<Node>,
    /// Whether it now and then wants other numbers of replicas than the layout's, or loses patience early.
    pub is_moody: bool,
}

/// One client: one operation at a time.
pub struct Client {
    number: u64,
    rng: ChaCha8Rng,
    session: u64,
    counter: u64,
    pub habits: Habits,
    /// By key, the last read's clock and what it saw.
    contexts: BTreeMap<Bytes, (VectorClock, Numbers)>,
    /// By node and life, how far its clock is ahead of simulated time, at least.
    clocks: BTreeMap<(Node, u64), i128>,
    running: Option<Running>,
    next_id: u64,
    /// Counts moments this client waits for; older alarms are stale.
    moment: u64,
    pub is_done: bool,
    /// Operations it gave up, with the last reason.
    pub failures: Vec<String>,
}

struct Running {
    id: u64,
    body: RequestBody,
    began: Nanos,
    tried: u32,
    deadline: Nanos,
    all_not_applied: bool,
}

impl Client {
    pub fn new(number: u64, seed: u64, habits: Habits) -> Self {
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        Self {
            number,
            session: rng.random(),
            rng,
            counter: 0,
            habits,
            contexts: BTreeMap::new(),
            clocks: BTreeMap::new(),
            running: None,
            next_id: 0,
            moment: 0,
            is_done: false,
            failures: Vec::new(),
        }
    }

    pub const fn number(&self) -> u64 {
        self.number
    }

    /// Waits for a moment, then [`Client::wake`].
    pub fn rest(&mut self, world: &mut World) {
        let pause = self.rng.random_range(Duration::ZERO..=self.habits.think);
        self.wake_after(world, pause);
    }

    fn wake_after(&mut self, world: &mut World, pause: Duration) {
        self.moment += 1;
        world.alarm(pause, self.number << 32 | self.moment);
    }

    /// An alarm of this client.
    pub fn wake(&mut self, world: &mut World, history: &mut History, moment: u64) {
        if moment != self.moment || self.is_done && self.running.is_none() {
            return;
        }
        match self.running.take() {
            None => self.begin(world, history),
            Some(mut running) => {
                running.all_not_applied = false;
                self.try_again(world, history, running, "no reply in time");
            }
        }
    }

    fn begin(&mut self, world: &mut World, history: &mut History) {
        let key = self.habits.keys.choose(&mut self.rng).expect("a key").clone();
        let body = if self.rng.random_bool(0.45) {
            let consistency = self.consistency_of(&key);
            let r = self.level_of(consistency);
            RequestBody::Get(Get { key, r, consistency: Some(consistency) })
        } else {
            self.put(world, history, key)
        };
        let running =
            Running { id: 0, body, began: world.now, tried: 0, deadline: 0, all_not_applied: true };
        self.try_again(world, history, running, "nothing was tried");
    }

    fn put(&mut self, world: &World, history: &mut History, key: Bytes) -> RequestBody {
        self.counter += 1;
        let request = RequestId { session: self.session, counter: self.counter };
        let (wire, basis) = self.basis_of(&key);
        let consistency = self.consistency_of(&key);
        let is_delete = self.rng.random_bool(0.15);
        let padding = "x".repeat(self.rng.random_range(0..PADDING_MAX));
        let value = format!("{}-{}-{padding}", self.number, self.counter);
        let value = (!is_delete).then(|| Bytes::from(value));
        history.begin(Write {
            key: key.clone(),
            request,
            number: 0,
            content: value.clone().map_or(Content::Tombstone, Content::Value),
            basis,
            began: world.now,
            over: None,
            tries: 0,
            acknowledged: None,
            is_not_applied: false,
            is_strict: consistency == Consistency::Strict,
        });
        RequestBody::Put(Put {
            key,
            value,
            basis: wire,
            w: None,
            r: self.level_of(consistency),
            consistency: Some(consistency),
            request,
            age: 0,
        })
    }

    /// What a put shall replace, on the wire and as it is meant.
    fn basis_of(&mut self, key: &Bytes) -> (PutBasis, Basis) {
        if !is_contextual(key) {
            return (PutBasis::Present, Basis::Present);
        }
        match self.contexts.get(key).cloned() {
            Some((clock, seen)) if self.rng.random_bool(0.85) => {
                let is_conditional = self.habits.is_moody && self.rng.random_bool(0.1);
                let wire = if is_conditional {
                    PutBasis::IfContext(clock)
                } else {
                    PutBasis::Context(clock)
                };
                (wire, Basis::Context(seen))
            }
            Some(_) | None => (PutBasis::Blind, Basis::Blind),
        }
    }

    /// Clients' own keys are for strict requests alone: only those promise a client its own order.
    fn consistency_of(&mut self, key: &Bytes) -> Consistency {
        if !is_own(key) && self.rng.random_bool(self.habits.sloppy) {
            Consistency::Sloppy
        } else {
            Consistency::Strict
        }
    }

    /// How many must answer, where that is not the layout's.
    fn level_of(&mut self, consistency: Consistency) -> Option<Level> {
        let may_be_weak = consistency == Consistency::Sloppy;
        match self.rng.random_range(0..20) {
            _ if !self.habits.is_moody => None,
            0 => Some(Level::All),
            1 => Some(Level::Quorum),
            2 if may_be_weak => Some(Level::One),
            _ => None,
        }
    }

    /// Sends the request, to whichever node; gives up after some tries.
    fn try_again(
        &mut self,
        world: &mut World,
        history: &mut History,
        mut running: Running,
        why: &str,
    ) {
        let is_up = |node: &&Node| world.is_running(**node);
        let up: Vec<Node> = self.habits.nodes.iter().filter(is_up).copied().collect();
        if running.tried == TRIES_MAX || up.is_empty() {
            self.give_up(world, history, &running, why);
            return self.rest(world);
        }
        let node = up[self.rng.random_range(0..up.len())];
        running.tried += 1;
        self.next_id += 1;
        running.id = self.next_id;
        running.deadline = world.now + nanos(TIMEOUT);
        if let RequestBody::Put(put) = &mut running.body {
            put.age = (world.now - running.began) / 1_000;
            history.write_mut(put.request).tries = running.tried;
        }
        let request = Request {
            id: running.id,
            deadline: self.deadline_at(world, node, running.deadline),
            body: running.body.clone(),
        };
        world.request(node, Caller(self.number), &request);
        self.running = Some(running);
        // Some clients lose patience early: a put's next try then meets the one before.
        let is_hasty = self.habits.is_moody && self.rng.random_bool(0.1);
        let patience = if is_hasty { TIMEOUT / 20 } else { TIMEOUT };
        self.wake_after(world, patience + Duration::from_millis(1));
    }

    /// A deadline in a node's time, as the handshake with this life of it allows to tell: never too late.
    fn deadline_at(&mut self, world: &mut World, node: Node, deadline: Nanos) -> u64 {
        let life = world.replicas[node].lives;
        let exact =
            i128::from(world.replicas[node].time(world.now).monotonic) - i128::from(world.now);
        let delay = self.rng.random_range(Duration::ZERO..Duration::from_millis(20));
        let told = *self.clocks.entry((node, life)).or_insert(exact - i128::from(nanos(delay)));
        u64::try_from(i128::from(deadline) + told).unwrap_or(1).max(1)
    }

    /// A reply, maybe to an older try.
    pub fn reply(&mut self, world: &mut World, history: &mut History, reply: Reply) {
        let Some(running) = self.running.take() else { return };
        if running.id != reply.id {
            self.running = Some(running);
            return;
        }
        match reply.body {
            ReplyBody::Got(got) => self.got(world, history, &running, got),
            ReplyBody::Done(done) => Self::done(world, history, &running, &done),
            ReplyBody::Error(error) => return self.failed(world, history, running, &error),
            other => panic!("{:?} was answered with {other:?}", running.body),
        }
        self.rest(world);
    }

    fn got(&mut self, world: &mut World, history: &mut History, running: &Running, got: Got) {
        let RequestBody::Get(Get { key, consistency, .. }) = &running.body else {
            panic!("a put got {got:?}")
        };
        if is_contextual(key) {
            let seen = history.past_of(&got.state);
            self.contexts.insert(key.clone(), (got.state.clock().clone(), seen));
        }
        world.witness.state(key, &got.state);
        let is_strict = *consistency == Some(Consistency::Strict);
        let (began, ended) = (running.began, world.now);
        history.read(key, Read { began, ended, state: got.state, is_strict });
    }

    fn done(world: &World, history: &mut History, running: &Running, done: &Done) {
        let RequestBody::Put(put) = &running.body else { panic!("a get is {done:?}") };
        let write = history.write_mut(put.request);
        write.acknowledged = Some((world.now, done.dot));
        // Earlier tries may still be at work until their own deadlines.
        write.over = Some(if running.tried == 1 { world.now } else { running.deadline });
    }

    fn failed(
        &mut self,
        world: &mut World,
        history: &mut History,
        mut running: Running,
        error: &ErrorReply,
    ) {
        running.all_not_applied &= error.outcome == Some(Outcome::NotApplied);
        if error.retry {
            self.try_again(world, history, running, &error.message);
        } else {
            self.give_up(world, history, &running, &error.message);
            self.rest(world);
        }
    }

    fn give_up(&mut self, world: &World, history: &mut History, running: &Running, why: &str) {
        if let RequestBody::Put(put) = &running.body {
            let write = history.write_mut(put.request);
            write.over = Some(running.deadline.max(world.now));
            write.is_not_applied = running.all_not_applied && running.tried > 0;
        }
        self.failures.push(why.to_owned());
    }

    /// Whether it waits for nothing.
    pub fn is_idle(&self) -> bool {
        self.running.is_none()
    }
}
