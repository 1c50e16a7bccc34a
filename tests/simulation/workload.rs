//! Clients: they read, write, delete, retry with the same request id at other nodes, and write down what they saw.

use std::collections::BTreeMap;
use std::time::Duration;

use bytes::Bytes;
use kvkit::node::Caller;
use kvkit::replication::Consistency;
use kvkit::version::{RequestId, VectorClock};
use kvkit::wire::client::{
    Done, ErrorReply, Get, Got, Outcome, Put, PutBasis, Reply, ReplyBody, Request, RequestBody,
};
use rand::Rng;

use crate::history::{Basis, History, Read, Write};
use crate::network::Node;
use crate::oracle::is_contextual;
use crate::world::{Nanos, World, nanos};

/// How long a try may take.
const TIMEOUT: Duration = Duration::from_secs(1);
/// Tries of one operation.
const TRIES_MAX: u32 = 3;

/// One client: one operation at a time.
pub struct Client {
    number: u64,
    session: u64,
    counter: u64,
    keys: Vec<Bytes>,
    think: Duration,
    /// By key, the last read's clock and what it saw.
    contexts: BTreeMap<Bytes, (VectorClock, std::collections::BTreeSet<RequestId>)>,
    /// By node and life, how far its clock is ahead of simulated time, at least.
    clocks: BTreeMap<(Node, u64), i128>,
    running: Option<Running>,
    next_id: u64,
    /// Counts moments this client waits for; older alarms are stale.
    moment: u64,
    pub is_done: bool,
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
    pub fn new(number: u64, session: u64, keys: Vec<Bytes>, think: Duration) -> Self {
        Self {
            number,
            session,
            counter: 0,
            keys,
            think,
            contexts: BTreeMap::new(),
            clocks: BTreeMap::new(),
            running: None,
            next_id: 0,
            moment: 0,
            is_done: false,
        }
    }

    /// Waits for a moment, then [`Client::wake`].
    pub fn rest(&mut self, world: &mut World) {
        let pause = world.rng.random_range(Duration::ZERO..=self.think);
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
                self.try_again(world, history, running);
            }
        }
    }

    fn begin(&mut self, world: &mut World, history: &mut History) {
        let key = self.keys[world.rng.random_range(0..self.keys.len())].clone();
        let body = if world.rng.random_bool(0.45) {
            let consistency = Some(consistency_of(world, &key));
            RequestBody::Get(Get { key, r: None, consistency })
        } else {
            self.put(world, history, key)
        };
        let running =
            Running { id: 0, body, began: world.now, tried: 0, deadline: 0, all_not_applied: true };
        self.try_again(world, history, running);
    }

    fn put(&mut self, world: &mut World, history: &mut History, key: Bytes) -> RequestBody {
        self.counter += 1;
        let request = RequestId { session: self.session, counter: self.counter };
        let seen = self.contexts.get(&key).cloned().filter(|_| is_contextual(&key));
        let (wire, basis) = match seen {
            Some((clock, seen)) if world.rng.random_bool(0.8) => {
                (PutBasis::Context(clock), Basis::Context(seen))
            }
            _ if is_contextual(&key) => (PutBasis::Blind, Basis::Blind),
            _ => (PutBasis::Present, Basis::Present),
        };
        let consistency = consistency_of(world, &key);
        let is_delete = world.rng.random_bool(0.15);
        let value = format!(
            "{}-{}-{}",
            self.number,
            self.counter,
            "x".repeat(world.rng.random_range(0..200))
        );
        let write = Write {
            key: key.clone(),
            request,
            basis,
            began: world.now,
            over: None,
            tries: 0,
            acknowledged: None,
            is_not_applied: false,
            is_strict: consistency == Consistency::Strict,
        };
        history.writes.insert(request, write);
        RequestBody::Put(Put {
            key,
            value: (!is_delete).then(|| Bytes::from(value)),
            basis: wire,
            w: None,
            r: None,
            consistency: Some(consistency),
            request,
            age: 0,
        })
    }

    /// Sends the request, to whichever node; gives up after some tries.
    fn try_again(&mut self, world: &mut World, history: &mut History, mut running: Running) {
        let up: Vec<Node> =
            (0..world.replicas.len()).filter(|node| world.is_running(*node)).collect();
        if running.tried == TRIES_MAX || up.is_empty() {
            Self::give_up(world, history, &running);
            return self.rest(world);
        }
        let node = up[world.rng.random_range(0..up.len())];
        running.tried += 1;
        self.next_id += 1;
        running.id = self.next_id;
        running.deadline = world.now + nanos(TIMEOUT);
        if let RequestBody::Put(put) = &mut running.body {
            put.age = (world.now - running.began) / 1_000;
            let write = history.writes.get_mut(&put.request).expect("it began");
            write.tries = running.tried;
        }
        let request = Request {
            id: running.id,
            deadline: self.deadline_at(world, node, running.deadline),
            body: running.body.clone(),
        };
        world.request(node, Caller(self.number), &request);
        self.running = Some(running);
        // Some clients lose patience early: a put's next try then meets the one before.
        let patience = if world.rng.random_bool(0.9) { TIMEOUT } else { TIMEOUT / 20 };
        self.wake_after(world, patience + Duration::from_millis(1));
    }

    /// A deadline in a node's time, as the handshake with this life of it allows to tell: never too late.
    fn deadline_at(&mut self, world: &mut World, node: Node, deadline: Nanos) -> u64 {
        let life = world.replicas[node].lives;
        let exact =
            i128::from(world.replicas[node].time(world.now).monotonic) - i128::from(world.now);
        let delay = world.network.delay(&mut world.rng);
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
        let seen = history.past_of(&got.state);
        self.contexts.insert(key.clone(), (got.state.clock().clone(), seen));
        world.witness.state(key, &got.state);
        history.reads.push(Read {
            key: key.clone(),
            began: running.began,
            ended: world.now,
            state: got.state,
            is_strict: *consistency == Some(Consistency::Strict),
        });
    }

    fn done(world: &World, history: &mut History, running: &Running, done: &Done) {
        let RequestBody::Put(put) = &running.body else { panic!("a get is {done:?}") };
        let write = history.writes.get_mut(&put.request).expect("it began");
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
            self.try_again(world, history, running);
        } else {
            Self::give_up(world, history, &running);
            self.rest(world);
        }
    }

    fn give_up(world: &World, history: &mut History, running: &Running) {
        if let RequestBody::Put(put) = &running.body {
            let write = history.writes.get_mut(&put.request).expect("it began");
            write.over = Some(running.deadline.max(world.now));
            write.is_not_applied = running.all_not_applied && running.tried > 0;
        }
    }

    /// Whether it waits for nothing.
    pub fn is_idle(&self) -> bool {
        self.running.is_none()
    }
}

/// Clients' own keys are for strict requests alone: only those promise a client its own order.
fn consistency_of(world: &mut World, key: &Bytes) -> Consistency {
    if !key.starts_with(b"po") && world.rng.random_bool(0.4) {
        Consistency::Sloppy
    } else {
        Consistency::Strict
    }
}
