//! One Core alone, on a simulated disk: what clients are told, and how a node begins and ends.

mod cluster;
mod copied;
mod hung;
mod recovery;
mod snapshots;
mod stand_ins;

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;

use super::*;
use crate::cluster::{Addresses, Time};
use crate::node_id::{ClusterId, NodeId};
use crate::ring::{Layout, Member, Mode, Partition, Weight};
use crate::storage::vfs::simulated::{Disk, Unsynced};
use crate::storage::{Identity, IdentityEpoch, Options, Store, identity};
use crate::version::{
    Actor, Content, Dot, Epoch, RequestId, Siblings, Timestamp, VectorClock, Version,
};
use crate::wire::client::{
    Done, ErrorCode, Get, Merge, Put, PutBasis, ReplyBody, Request, RequestBody, Scan,
};

const CALLER: Caller = Caller(5);

struct Alone {
    core: Core,
    store: Arc<Store>,
    disk: Disk,
    now: Time,
    next: u64,
    effects: Vec<Effect>,
}

fn identity() -> Identity {
    Identity {
        v: identity::VERSION,
        node: NodeId::from_bytes([1; 16]),
        name: "n1".to_owned(),
        cluster: ClusterId::from_bits(1),
        cluster_name: "test".to_owned(),
        epoch: IdentityEpoch { counter: 1, random: 7 },
        created: "2026-01-01T00:00:00Z".to_owned(),
    }
}

fn open_store(disk: &Disk, replayed: &mut Replayed) -> Store {
    let options = Options { reserve_bytes: 0, ..Options::default() };
    let mut replay = |key: &[u8], value: Option<&[u8]>| replayed.observe(key, value);
    Store::open(Arc::new(disk.clone()), Path::new("/n"), options, &mut replay).unwrap().0
}

fn layout() -> Layout {
    let member = Member {
        id: identity().node,
        name: "n1".to_owned(),
        zone: String::new(),
        weight: Weight(1_000),
    };
    Layout::found(32, 3, 2, 2, Mode::Available, vec![member]).unwrap()
}

impl Alone {
    fn new(change: impl FnOnce(&mut CoreConfig)) -> Self {
        let disk = Disk::new(1);
        let now = Time { monotonic: 1 << 40, wall: 1 << 50 };
        let store = open_store(&disk, &mut Replayed::new(now));
        found(&store, &identity(), layout(), &BTreeMap::new()).unwrap();
        let again = found(&store, &identity(), layout(), &BTreeMap::new());
        assert!(matches!(again, Err(StartError::AlreadyFounded)));
        drop(store);
        Self::start(disk, now, change)
    }

    fn start(disk: Disk, now: Time, change: impl FnOnce(&mut CoreConfig)) -> Self {
        let mut replayed = Replayed::new(now);
        let store = Arc::new(open_store(&disk, &mut replayed));
        let mut config = CoreConfig::new(identity(), Addresses::default());
        change(&mut config);
        let rng = ChaCha8Rng::seed_from_u64(1);
        let core = Core::open(config, Arc::clone(&store), replayed, now, rng).unwrap();
        let mut alone = Self { core, store, disk, now, next: 0, effects: Vec::new() };
        alone.feed(Event::Tick);
        alone
    }

    /// The machine loses power, and comes back.
    fn crash(self) -> Self {
        let Self { disk, now, core, store, .. } = self;
        drop((core, store));
        disk.power_loss(Unsynced::Dropped);
        Self::start(disk, now, |_| {})
    }

    fn feed(&mut self, event: Event) {
        self.core.handle(self.now, event, &mut self.effects);
    }

    fn pass(&mut self, span: Duration) {
        self.now = self.now.after(span);
        self.feed(Event::Tick);
    }

    fn sync(&mut self) {
        let durable = self.store.sync_all().unwrap();
        self.feed(Event::Durable(durable));
    }

    fn send(&mut self, deadline: u64, body: RequestBody) {
        self.next += 1;
        let request = Request { id: self.next, deadline, body };
        self.feed(Event::Client { caller: CALLER, request });
    }

    /// The reply to the latest request, if it is there.
    fn reply(&mut self) -> Option<ReplyBody> {
        let mut found = None;
        for effect in self.effects.drain(..) {
            if let Effect::Reply { reply, .. } = effect
                && reply.id == self.next
            {
                found = Some(reply.body);
            }
        }
        found
    }

    fn call(&mut self, body: RequestBody) -> ReplyBody {
        self.send(0, body);
        self.sync();
        self.reply().unwrap()
    }

    #[track_caller]
    fn done(&mut self, body: RequestBody) -> Done {
        match self.call(body) {
            ReplyBody::Done(done) => done,
            other => panic!("{other:?}"),
        }
    }

    #[track_caller]
    fn check_error(&mut self, body: RequestBody, expected: ErrorCode) {
        match self.call(body) {
            ReplyBody::Error(error) => assert_eq!(error.code, expected, "{error:?}"),
            other => panic!("{other:?}"),
        }
    }

    fn put(&self, value: &[u8], basis: PutBasis) -> RequestBody {
        put(b"k", value, basis, self.next + 1)
    }
}

fn put(key: &[u8], value: &[u8], basis: PutBasis, counter: u64) -> RequestBody {
    RequestBody::Put(Put {
        key: Bytes::copy_from_slice(key),
        value: Some(Bytes::copy_from_slice(value)),
        basis,
        w: None,
        r: None,
        consistency: None,
        request: RequestId { session: 1, counter },
        age: 0,
    })
}

/// A state of one value that `actor` wrote as its `counter`-th of the key.
fn merge(key: &[u8], actor: Actor, counter: u64, value: &'static [u8]) -> RequestBody {
    let dot = Dot { actor, counter };
    let (timestamp, request) = (Timestamp::default(), RequestId { session: 9, counter });
    let content = Content::Value(Bytes::from_static(value));
    let mut clock = VectorClock::new();
    clock.observe(dot);
    let versions = BTreeMap::from([(dot, Version { timestamp, request, content })]);
    let state = Siblings::from_parts(clock, versions).unwrap();
    let (w, consistency) = (None, None);
    RequestBody::Merge(Merge { key: Bytes::copy_from_slice(key), state, w, consistency })
}

fn get(key: &[u8]) -> RequestBody {
    RequestBody::Get(Get { key: Bytes::copy_from_slice(key), r: None, consistency: None })
}

#[test]
fn a_put_is_acknowledged_once_durable_and_read_back() {
    let mut alone = Alone::new(|_| {});
    let body = alone.put(b"v", PutBasis::Present);
    alone.send(0, body);
    assert_eq!(alone.reply(), None, "nothing is synced yet");
    alone.send(0, get(b"k"));
    assert_eq!(alone.reply(), None, "a get waits for what it speaks of");
    alone.sync();
    assert!(matches!(alone.reply(), Some(ReplyBody::Got(got)) if got.state.has_value()));
    assert!(matches!(alone.call(get(b"other")), ReplyBody::Got(got) if got.state.is_empty()));
}

#[test]
fn requests_that_cannot_be_are_told_why() {
    let mut alone = Alone::new(|config| config.pair_max = 8);
    alone.check_error(get(b""), ErrorCode::Usage);
    alone.check_error(put(b"key", b"123456", PutBasis::Blind, 1), ErrorCode::TooLarge);
    alone.done(put(b"key", b"12345", PutBasis::Blind, 2));
    let actor = Actor { node: identity().node, epoch: Epoch { counter: 1, random: 7 } };
    let mut forged = VectorClock::new();
    forged.observe(Dot { actor, counter: (1 << 63) + 1 });
    alone.check_error(put(b"key", b"1", PutBasis::Context(forged), 3), ErrorCode::Usage);
    let scan = |partition, layout| {
        RequestBody::Scan(Scan {
            partition: Partition(partition),
            layout,
            after: None,
            prefix: Bytes::new(),
            r: None,
            bytes_max: 100,
        })
    };
    alone.check_error(scan(0, 2), ErrorCode::WrongLayout);
    alone.check_error(scan(32, 1), ErrorCode::Usage);
}

#[test]
fn a_request_past_its_deadline_is_dropped_unread() {
    let mut alone = Alone::new(|_| {});
    let deadline = alone.now.monotonic;
    alone.send(deadline, get(b"k"));
    assert_eq!(alone.reply(), None);
    alone.send(deadline + 1, get(b"k"));
    assert!(matches!(alone.reply(), Some(ReplyBody::Got(_))));
}

#[test]
fn what_is_past_the_limits_is_refused_as_overload() {
    let mut alone = Alone::new(|config| config.limits.requests = 1);
    let body = alone.put(b"1", PutBasis::Present);
    alone.send(0, body);
    alone.check_error(get(b"k"), ErrorCode::Overloaded);
    alone.check_error(get(b""), ErrorCode::Usage);
    assert!(matches!(alone.call(get(b"k")), ReplyBody::Got(_)), "the first one is done");
}

#[test]
fn a_node_tells_of_itself() {
    let mut alone = Alone::new(|config| config.disk_space = Arc::new(|| (3, 4)));
    let empty = alone.call(RequestBody::Leaves);
    let body = alone.put(b"v", PutBasis::Present);
    alone.done(body);
    let ReplyBody::Leaves(leaves) = alone.call(RequestBody::Leaves) else { panic!("no leaves") };
    let ReplyBody::Leaves(before) = empty else { panic!("no leaves") };
    assert_eq!(leaves.iter().zip(&before).filter(|(now, before)| now != before).count(), 1);
    let ReplyBody::Info(info) = alone.call(RequestBody::Info) else { panic!("no info") };
    assert_eq!((info.name.as_str(), info.sync.as_str(), info.disk), ("n1", "always", (3, 4)));
    assert_eq!((info.epoch, info.counters["puts"]), (1, 1));
    assert!(info.put_p99.is_some() && info.get_p99.is_none());
    let ReplyBody::View(view) = alone.call(RequestBody::View) else { panic!("no view") };
    assert!(view.members[0].reachable && view.alarms.is_empty());
}

#[test]
fn a_clean_stop_keeps_the_epoch_and_a_crash_does_not() {
    let mut alone = Alone::new(|_| {});
    let body = alone.put(b"1", PutBasis::Present);
    let first = alone.done(body).dot.unwrap();
    assert_eq!(first.actor.epoch, Epoch { counter: 1, random: 7 });
    alone.feed(Event::Stop);
    assert!(!alone.effects.iter().any(|effect| matches!(effect, Effect::Stopped)));
    alone.check_error(get(b"k"), ErrorCode::NotReady);
    let Alone { disk, now, store, core, .. } = {
        alone.feed(Event::Stop);
        alone
    };
    drop((core, store));
    disk.power_loss(Unsynced::Dropped);
    let mut clean = Alone::start(disk, now, |_| {});
    // Another request than the first one, which the log still knows.
    clean.next = 10;
    let body = clean.put(b"2", PutBasis::Present);
    let second = clean.done(body).dot.unwrap();
    assert_eq!((second.actor, second.counter), (first.actor, 2));
    let mut crashed = clean.crash();
    crashed.next = 20;
    let body = crashed.put(b"3", PutBasis::Present);
    let third = crashed.done(body).dot.unwrap();
    assert_eq!(third.actor.epoch.counter, 2);
}

fn elsewhere() -> Actor {
    Actor { node: NodeId::from_bytes([9; 16]), epoch: Epoch { counter: 3, random: 5 } }
}

#[test]
fn a_state_from_elsewhere_is_there_once_durable_and_again_changes_nothing() {
    let mut alone = Alone::new(|config| config.pair_max = 8);
    let body = merge(b"key", elsewhere(), 4, b"12345");
    alone.send(0, body.clone());
    assert_eq!(alone.reply(), None, "nothing is synced yet");
    alone.sync();
    assert!(matches!(alone.reply(), Some(ReplyBody::Done(done)) if done.dot.is_none()));
    let ReplyBody::Got(before) = alone.call(get(b"key")) else { panic!("not read") };
    let written = alone.store.appended();
    alone.done(body);
    assert_eq!(alone.store.appended(), written, "the second time nothing is written");
    let ReplyBody::Got(after) = alone.call(get(b"key")) else { panic!("not read") };
    assert_eq!((after.state.versions().len(), after.state), (1, before.state));

    alone.check_error(merge(b"key", elsewhere(), 5, b"123456"), ErrorCode::TooLarge);
    alone.check_error(merge(b"", elsewhere(), 5, b"1"), ErrorCode::Usage);
    let (key, state) = (Bytes::from_static(b"key"), Siblings::new());
    let nothing = Merge { key, state, w: None, consistency: None };
    alone.check_error(RequestBody::Merge(nothing), ErrorCode::Usage);
}

/// A state that shows this node's present actor above all that it knows it minted: those dots may name other writes.
#[test]
fn a_state_that_shows_the_own_actor_ahead_begins_an_epoch_before_the_next_write() {
    let mut alone = Alone::new(|_| {});
    let body = alone.put(b"1", PutBasis::Present);
    let own = alone.done(body).dot.unwrap().actor;
    alone.done(merge(b"k", own, 1, b"of the own past"));
    let body = alone.put(b"2", PutBasis::Present);
    assert_eq!(alone.done(body).dot.unwrap().actor, own, "it wrote that much itself");

    alone.done(merge(b"k", own, 7, b"from a life that it does not know"));
    let body = alone.put(b"3", PutBasis::Blind);
    let next = alone.done(body).dot.unwrap();
    assert_eq!((next.actor.epoch.counter, next.counter), (own.epoch.counter + 1, 1));
    let mut again = alone.crash();
    again.next = 20;
    let body = again.put(b"4", PutBasis::Blind);
    let last = again.done(body).dot.unwrap();
    assert_eq!(last.actor.epoch.counter, own.epoch.counter + 2, "the epoch was durable");
}

#[test]
fn a_process_that_stood_still_closes_its_clients() {
    let mut alone = Alone::new(|_| {});
    alone.pass(Duration::from_secs(1));
    alone.effects.clear();
    alone.pass(DEADLINE_MAX / 2);
    assert!(!alone.effects.iter().any(|effect| matches!(effect, Effect::CloseClients)));
    alone.pass(DEADLINE_MAX + Duration::from_secs(1));
    assert!(alone.effects.iter().any(|effect| matches!(effect, Effect::CloseClients)));
}

#[test]
fn a_leaf_is_a_format() {
    let state = crate::version::Siblings::new();
    assert_eq!(key_work::leaf_bits(b"k", &state), 0, "a key without a value adds nothing");
    let mut alone = Alone::new(|_| {});
    let body = alone.put(b"v", PutBasis::Present);
    alone.done(body);
    let found = alone.store.get(&keys::data(b"k")).unwrap().value.unwrap();
    let state = crate::version::Siblings::decode(&found).unwrap();
    let slot = crate::ring::Token::of(b"k").slot().0;
    assert_eq!(alone.store.leaf(slot), key_work::leaf_bits(b"k", &state));
}
