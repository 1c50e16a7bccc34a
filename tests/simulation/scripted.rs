//! Schedules that broke earlier drafts of the rules, one test each; the numbers are those of the list of schedules.

mod rolled_back;

use std::collections::BTreeMap;
use std::time::Duration;

use bytes::Bytes;
use kvkit::node::Caller;
use kvkit::replication::{Consistency, Level};
use kvkit::ring::{Mode, Preferences, Token};
use kvkit::storage::vfs::simulated::{Disk, Unsynced};
use kvkit::version::{Dot, RequestId, Siblings};
use kvkit::wire::client::{
    Change, ErrorCode, Get, Put, PutBasis, Reply, ReplyBody, Request, RequestBody,
};
use kvkit::wire::handshake::{RefusalCode, Role, Welcome};

use crate::network::{Node, Weather};
use crate::world::{Seen, Shape, World, nanos};

const KEY: Bytes = Bytes::from_static(b"k");
/// Longer than any test runs: a log that is not synced.
const NEVER: Duration = Duration::from_hours(1);
/// Long enough for a silent member to be down.
const DOWN: Duration = Duration::from_mins(1);
/// Long enough for connections, gossip and confirmed starts.
const SETTLED: Duration = Duration::from_secs(3);

/// Long enough for every pair of replicas to have compared twice.
const COMPARED: Duration = Duration::from_secs(90);

/// A cluster of three under control.
struct Script {
    world: World,
    next: u64,
    replies: BTreeMap<u64, Reply>,
}

impl Script {
    /// Three nodes, started and settled.
    fn new(r: u8, w: u8) -> Self {
        Self::keeping_hints(r, w, 1 << 30)
    }

    /// The same with room for so many bytes of hints.
    fn keeping_hints(r: u8, w: u8, bytes_max: u64) -> Self {
        let weather =
            Weather { loss: 0.0, doubled: 0.0, delay: Duration::from_millis(1), slow: 0.0 };
        let shape = Shape { nodes: 3, q: 32, n: 3, r, w, mode: Mode::Available };
        let mut world = World::new(7, shape, weather);
        world.disk_delay = Duration::from_micros(100);
        for replica in &mut world.replicas {
            replica.hints_bytes_max = bytes_max;
        }
        world.start_all();
        world.pass(SETTLED);
        Self { world, next: 0, replies: BTreeMap::new() }
    }

    /// The owners of the key, in preference order.
    fn owners(&self) -> [Node; 3] {
        let preferences = Preferences::new(self.world.layout.now.clone().into());
        let owners = preferences.of_slot(Token::of(&KEY).slot()).owners();
        let nodes: Vec<Node> = owners.map(|id| self.world.node_of(id)).collect();
        nodes.try_into().unwrap()
    }

    fn send(&mut self, node: Node, body: RequestBody) -> u64 {
        self.next += 1;
        let request = Request { id: self.next, deadline: 0, body };
        self.world.request(node, Caller(1), &request);
        self.next
    }

    /// The reply, where it comes within two seconds.
    fn reply(&mut self, id: u64) -> Option<ReplyBody> {
        let until = self.world.now + nanos(Duration::from_secs(2));
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
        self.reply(id).expect("a reply within two seconds")
    }

    #[track_caller]
    fn put(&mut self, node: Node, value: &'static str, basis: PutBasis) -> Dot {
        let body = self.put_body(value, basis);
        match self.call(node, body) {
            ReplyBody::Done(done) => done.dot.expect("a fresh put has a dot"),
            other => panic!("{other:?}"),
        }
    }

    fn put_body(&mut self, value: &'static str, basis: PutBasis) -> RequestBody {
        RequestBody::Put(Put {
            key: KEY,
            value: Some(Bytes::from_static(value.as_bytes())),
            basis,
            w: None,
            r: None,
            consistency: Some(Consistency::Strict),
            request: RequestId { session: 1, counter: self.next + 1 },
            age: 0,
        })
    }

    fn get(&mut self, node: Node, r: Option<Level>) -> ReplyBody {
        self.call(
            node,
            RequestBody::Get(Get { key: KEY, r, consistency: Some(Consistency::Strict) }),
        )
    }

    #[track_caller]
    fn state(&mut self, node: Node, r: Option<Level>) -> Siblings {
        match self.get(node, r) {
            ReplyBody::Got(got) => got.state,
            other => panic!("{other:?}"),
        }
    }

    fn isolate(&mut self, node: Node) {
        for peer in (0..3).filter(|peer| *peer != node) {
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

    #[track_caller]
    fn sound(&self) {
        assert_eq!(self.world.witness.broken, Vec::<String>::new());
    }
}

#[track_caller]
fn check_quorum_unmet(reply: &ReplyBody) {
    let ReplyBody::Error(error) = reply else { panic!("{reply:?}") };
    assert_eq!(error.code, ErrorCode::QuorumUnmet, "{error:?}");
}

/// D1: A has w in its memtable, unsynced; B durable; a get at A counts both; A loses power; get from {A, C} goes back.
#[test]
fn a_get_waits_until_what_it_answers_is_durable() {
    let mut script = Script::new(2, 2);
    let [a, b, c] = script.owners();
    script.isolate(c);
    script.world.sync_delays.insert(a, NEVER);
    let body = script.put_body("w", PutBasis::Present);
    let reply = script.call(b, body);
    check_quorum_unmet(&reply);
    let reply = script.get(b, None);
    check_quorum_unmet(&reply);
    let reply = script.get(a, None);
    check_quorum_unmet(&reply);
    script.world.kill(a, Unsynced::Dropped);
    script.world.start(a);
    script.heal();
    assert_eq!(script.state(a, Some(Level::All)).versions().len(), 1, "B's durable share is found");
    script.sound();
}

/// D2: a duplicate of w merges to no change and is acknowledged before the first append is synced.
#[test]
fn a_doubled_merge_is_acknowledged_only_once_durable() {
    let mut script = Script::new(2, 2);
    let [a, b, c] = script.owners();
    script.isolate(c);
    script.world.sync_delays.insert(a, NEVER);
    script.world.network.weather.doubled = 1.0;
    let body = script.put_body("w", PutBasis::Present);
    let reply = script.call(b, body);
    check_quorum_unmet(&reply);
}

/// V4: coordinator sends its state, crashes before its own fdatasync, restarts, mints the same dot.
#[test]
fn a_write_lost_in_a_crash_does_not_lend_its_dot_to_another() {
    let mut script = Script::new(1, 1);
    let [a, b, c] = script.owners();
    script.world.sync_delays.insert(a, NEVER);
    let first = script.put(a, "first", PutBasis::Blind);
    assert_eq!(first.counter, 1, "acknowledged by the others, unsynced at its coordinator");
    script.world.kill(a, Unsynced::Dropped);
    script.world.sync_delays.clear();
    script.world.start(a);
    script.world.pass(SETTLED);
    let second = script.put(a, "second", PutBasis::Blind);
    assert_ne!(first, second);
    assert!(first.actor.epoch.counter < second.actor.epoch.counter);
    script.heal();
    for node in [a, b, c] {
        assert_eq!(script.state(node, Some(Level::All)).versions().len(), 2);
    }
    script.sound();
}

/// Stops a node in good order.
fn stop(script: &mut Script, node: Node) {
    script.world.stop(node);
    script.world.pass(Duration::from_secs(1));
    assert!(!script.world.is_running(node), "it stops once its mark is durable");
}

#[test]
fn a_clean_restart_among_peers_keeps_its_epoch() {
    let mut script = Script::new(2, 2);
    let [a, ..] = script.owners();
    let first = script.put(a, "1", PutBasis::Present);
    assert_eq!(first.actor.epoch.counter, 1, "a fresh cluster mints in first epochs");
    stop(&mut script, a);
    script.world.start(a);
    script.world.pass(SETTLED);
    let second = script.put(a, "2", PutBasis::Present);
    assert_eq!((second.actor, second.counter), (first.actor, 2));
}

/// V6: directory copied after a clean stop and started where no peer answers.
#[test]
fn a_start_that_no_peer_confirms_begins_a_new_epoch() {
    let mut script = Script::new(1, 1);
    let [a, ..] = script.owners();
    let first = script.put(a, "1", PutBasis::Present);
    stop(&mut script, a);
    script.isolate(a);
    script.world.start(a);
    let copied = script.put(a, "2", PutBasis::Present);
    assert!(first.actor.epoch.counter < copied.actor.epoch.counter);
}

/// V12: clean stop, volume snapshot, start confirmed, writes, snapshot restored, the same peers asked again.
#[test]
fn a_restored_snapshot_is_not_confirmed_twice() {
    let mut script = Script::new(2, 2);
    let [a, ..] = script.owners();
    script.put(a, "1", PutBasis::Present);
    stop(&mut script, a);
    let snapshot: Disk = script.world.replicas[a].disk.fork(1);
    script.world.start(a);
    script.world.pass(SETTLED);
    let confirmed = script.put(a, "2", PutBasis::Present);
    assert_eq!(confirmed.actor.epoch.counter, 1);
    script.world.kill(a, Unsynced::Dropped);
    script.world.replicas[a].disk = snapshot;
    script.world.rolled_back.insert(a);
    // While its peers hold the start that was confirmed for alive, they refuse this one as a copy.
    script.world.pass(DOWN);
    script.world.start(a);
    script.world.pass(SETTLED);
    assert!(script.world.rolled_back.is_empty(), "its disk knows nothing of the confirmed start");
    script.world.start(a);
    script.world.pass(SETTLED);
    let restored = script.put(a, "3", PutBasis::Blind);
    assert!(confirmed.actor.epoch.counter < restored.actor.epoch.counter, "{restored:?}");
    script.heal();
    script.sound();
}

/// An unconfirmed start that stops cleanly without a write must not hand its epoch on either.
#[test]
fn a_clean_mark_of_an_unconfirmed_start_hands_on_a_new_epoch() {
    let mut script = Script::new(1, 1);
    let [a, ..] = script.owners();
    let first = script.put(a, "1", PutBasis::Present);
    stop(&mut script, a);
    script.isolate(a);
    script.world.start(a);
    script.world.pass(SETTLED);
    stop(&mut script, a);
    script.world.mend();
    script.world.start(a);
    script.world.pass(SETTLED);
    let later = script.put(a, "2", PutBasis::Present);
    assert!(first.actor.epoch.counter < later.actor.epoch.counter);
}

/// L5: a founder with a lost disk restarts as a second, empty cluster of the same name and takes writes.
#[test]
fn a_node_that_lost_its_disk_does_not_found_a_second_cluster() {
    let mut script = Script::new(2, 2);
    script.world.kill(0, Unsynced::Dropped);
    script.world.replicas[0].disk = Disk::new(9);
    let now = script.world.now;
    let error = script.world.replicas[0].start(now, 1, None).unwrap_err();
    assert!(error.contains("NotFounded"), "{error}");
}

/// G2: two cores wait on each other's full queue.
#[test]
fn a_full_queue_is_an_unreachable_peer_and_blocks_nobody() {
    let mut script = Script::new(2, 2);
    script.world.network.queue_max = 4;
    let ids: Vec<u64> = (0..200)
        .map(|number| {
            let body = script.put_body("x", PutBasis::Present);
            script.send(number % 3, body)
        })
        .collect();
    let replies: Vec<_> = ids.into_iter().map(|id| script.reply(id)).collect();
    assert!(replies.iter().all(Option::is_some), "every request is answered");
    script.world.network.queue_max = 10_000;
    script.heal();
    let [a, ..] = script.owners();
    script.put(a, "after", PutBasis::Present);
    script.sound();
}

/// Two processes with one identity, a stranger: each is told so.
#[test]
fn a_copied_identity_and_a_wrong_cluster_are_refused() {
    let mut script = Script::new(2, 2);
    let time = script.world.replicas[0].time(script.world.now);
    let hello = script.world.replicas[0].life.as_ref().unwrap().core.hello(time);
    let mut refusal = |change: &dyn Fn(&mut Role)| {
        let mut hello = hello.clone();
        change(&mut hello.role);
        match script.world.replicas[1].life.as_mut().unwrap().core.admit(time, &hello) {
            Welcome::Refused { code, .. } => Some(code),
            Welcome::Accepted { .. } => None,
        }
    };
    assert_eq!(refusal(&|_| {}), None);
    let copied = refusal(&|role| {
        if let Role::Peer { nonce, .. } = role {
            *nonce += 1;
        }
    });
    assert_eq!(copied, Some(RefusalCode::CopiedIdentity));
    let stranger = refusal(&|role| {
        if let Role::Peer { cluster, .. } = role {
            *cluster = kvkit::node_id::ClusterId::from_bits(1);
        }
    });
    assert_eq!(stranger, Some(RefusalCode::WrongCluster));
}

/// A node that missed a layout takes it before it answers, and one that is ahead teaches it.
#[test]
fn a_node_that_missed_a_layout_catches_up_and_serves() {
    let mut script = Script::new(2, 2);
    let [a, _, c] = script.owners();
    script.isolate(c);
    let from = script.world.layout.now.member(script.world.id(a)).unwrap().name.clone();
    let change = Change::Rename { from, to: "renamed".to_owned() };
    let chosen = script.call(a, RequestBody::Propose { expect: 1, change: change.clone() });
    assert_eq!(chosen, ReplyBody::Chosen { version: 2 });
    let stale = script.call(a, RequestBody::Propose { expect: 1, change });
    assert!(
        matches!(&stale, ReplyBody::Error(error) if error.code == ErrorCode::StaleContext),
        "{stale:?}"
    );
    script.put(a, "1", PutBasis::Present);
    script.heal();
    assert_eq!(script.state(c, Some(Level::All)).versions().len(), 1);
    match script.call(c, RequestBody::Layout) {
        ReplyBody::Layout(reply) => assert_eq!(reply.layout.version, 2),
        other => panic!("{other:?}"),
    }
}

/// A majority lost: the error of `UI.md`, within the timeout, and reads of one replica go on.
#[test]
fn with_two_of_three_down_quorums_fail_in_time_and_single_reads_go_on() {
    let mut script = Script::new(2, 2);
    let [a, b, c] = script.owners();
    script.put(a, "1", PutBasis::Present);
    script.world.pass(Duration::from_secs(1));
    for node in [b, c] {
        script.world.kill(node, Unsynced::Kept);
    }
    script.world.pass(Duration::from_secs(1));
    let began = script.world.now;
    let body = script.put_body("2", PutBasis::Present);
    let reply = script.call(a, body);
    check_quorum_unmet(&reply);
    assert!(script.world.now - began <= nanos(Duration::from_millis(1_500)));
    let body = RequestBody::Get(Get {
        key: KEY,
        r: Some(Level::One),
        consistency: Some(Consistency::Sloppy),
    });
    assert!(matches!(script.call(a, body), ReplyBody::Got(_)));
}

/// What an owner gives of a key is a part of what the other one holds, and both know the same newest version: whoever
/// compares, the other part must come across too.
#[test]
fn owners_settle_a_key_of_which_one_holds_a_part() {
    for third in 0..3 {
        let mut script = Script::keeping_hints(1, 1, 0);
        let owners = script.owners();
        let behind = owners[third];
        let other = owners[(third + 1) % 3];
        script.isolate(behind);
        script.put(other, "old", PutBasis::Blind);
        script.world.mend();
        script.world.pass(SETTLED);
        script.put(behind, "new", PutBasis::Blind);
        assert_eq!(held(&script, behind).versions().len(), 1, "nothing was repaired yet");
        script.world.pass(COMPARED);
        for node in owners {
            assert_eq!(held(&script, node).versions().len(), 2, "n{} of {owners:?}", node + 1);
        }
    }
}

/// R1, in part: an owner whose disk was wiped knows nothing and must not say so, until it has merged what a quorum may
/// have relied on.
#[test]
fn a_wiped_owner_answers_no_strict_get_before_it_is_refilled() {
    let mut script = Script::keeping_hints(2, 2, 0);
    let [a, b, c] = script.owners();
    script.isolate(c);
    let kept = script.put(a, "kept", PutBasis::Present);
    script.world.mend();
    script.world.wipe(a);
    script.world.start(a);
    // Only c, which missed the put, is left to give a anything.
    script.isolate(b);
    script.world.pass(SETTLED);
    for node in [a, c] {
        let reply = script.get(node, None);
        check_quorum_unmet(&reply);
    }
    script.heal();
    script.world.pass(COMPARED);
    for node in [a, b, c] {
        assert!(held(&script, node).versions().contains_key(&kept), "n{}", node + 1);
    }
    let later = script.put(a, "later", PutBasis::Present);
    assert_ne!(kept.actor, later.actor, "what was minted before the loss is not known any more");
    script.sound();
}

/// What a machine holds of the key.
fn held(script: &Script, node: Node) -> Siblings {
    let store = &script.world.replicas[node].life.as_ref().unwrap().store;
    let value = store.get(&kvkit::node::keys::data(&KEY)).unwrap().value;
    value.map_or_else(Siblings::new, |bytes| Siblings::decode(&bytes).unwrap())
}
