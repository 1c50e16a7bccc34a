//! Requests while a change of the layout runs: two sets of owners, each with a quorum of its own (DESIGN §8). A change is
//! written `abc -> bcd`, by the owners that every key has before and after it.

use std::time::Duration;

use bytes::Bytes;

use super::harness::*;
use crate::node_id::NodeId;
use crate::replication::Consistency::{Sloppy, Strict};
use crate::replication::*;
use crate::version::notation::{dot, node, state};

const LATER: Duration = Duration::from_millis(5);
const MAJORITY: (u8, u8, u8) = (3, 2, 2);

/// Of three owners that become three others, R = W = 2.
fn changing(change: &str) -> (Cluster, Bytes) {
    let (now, next) = change.split_once(" -> ").unwrap();
    let cluster = Cluster::changing((now, MAJORITY), (next, MAJORITY));
    let key = key_in_order(&cluster.preferences);
    (cluster, key)
}

/// The same, where these nodes, one a word, hold these states: `a=a1:x`.
fn holding(change: &str, states: &str) -> (Cluster, Bytes) {
    let (mut cluster, key) = changing(change);
    for text in states.split_whitespace() {
        let (name, held) = text.split_once('=').unwrap();
        cluster.node(name).states.insert(key.clone(), state(held));
    }
    (cluster, key)
}

/// Five nodes of which `a`, `b` and `c` own the key now, `d` and `e` come next in this order, and `d` gains it for `a`.
fn with_fallbacks() -> (Cluster, Bytes) {
    let mut cluster = Cluster::of(5, MAJORITY);
    cluster.next = Some(preferences("bcde", MAJORITY));
    let key = key_in_order_before(&cluster.preferences, "d", |key| {
        let next = cluster.next.as_ref().unwrap();
        !next.of_slot(crate::ring::Token::of(key).slot()).owns(node("e"))
    });
    (cluster, key)
}

fn sloppy(mut operation: Operation, level: Level) -> Operation {
    if let Operation::Put { consistency, w, .. } = &mut operation {
        (*consistency, *w) = (Some(Sloppy), Some(level));
    }
    operation
}

fn nodes(names: &str) -> Vec<NodeId> {
    names.chars().map(|name| node(&name.to_string())).collect()
}

/// A put at `a` of which only these have acknowledged anything, the own one included, is done; or it waits.
#[track_caller]
fn check_put(change: &str, acknowledging: &str, operation: fn(&Bytes) -> Operation, done: bool) {
    let (mut cluster, key) = changing(change);
    for silent in "bcde".chars().filter(|name| !acknowledging.contains(*name)) {
        cluster.hold(&format!("{silent}a"));
    }
    let op = cluster.begin("a", operation(&key));
    cluster.run();
    assert_eq!(cluster.result(op).is_some(), done, "{change}: {acknowledging}");
    if done {
        assert_eq!(cluster.done(op).acked, nodes(acknowledging));
    }
}

fn strict_put(key: &Bytes) -> Operation {
    put(key, "x", 1)
}

#[test]
fn a_strict_put_waits_for_w_of_each_set() {
    check_put("abc -> bde", "abc", strict_put, false);
    check_put("abc -> bde", "abd", strict_put, true);
    check_put("abc -> bde", "ade", strict_put, false);
    check_put("abc -> ade", "ad", strict_put, false);
    check_put("abc -> ade", "abd", strict_put, true);
}

#[test]
fn an_owner_that_stays_counts_in_both_sets() {
    check_put("abc -> abd", "ab", strict_put, true);
    check_put("abc -> bcd", "ac", strict_put, false);
    check_put("abc -> bcd", "abc", strict_put, true);
    check_put("abc -> bcd", "acd", strict_put, true);
}

/// Each ring has its own n, r and w.
#[test]
fn a_ring_of_more_owners_wants_its_own_w() {
    let mut cluster = Cluster::changing(("abc", MAJORITY), ("abcde", (5, 3, 3)));
    let key = key_in_order(&cluster.preferences);
    cluster.hold("ca da ea");
    let op = cluster.begin("a", put(&key, "x", 1));
    cluster.run();
    assert_eq!(cluster.result(op), None, "two of five");
    cluster.release("da").run();
    let done = cluster.done(op);
    assert_eq!((done.acked, done.guarantee), (nodes("abd"), Guarantee::Strict));
}

#[test]
fn a_quorum_of_the_next_set_out_of_reach_fails_before_anything_is_written() {
    let (mut cluster, key) = changing("abc -> bde");
    let op = cluster.stop("d").stop("e").begin("a", put(&key, "x", 1));
    let failure = cluster.failure(op);
    assert_eq!(failure.kind, FailureKind::QuorumUnmet);
    assert_eq!(failure.outcome, Some(WriteOutcome::NotApplied));
    let unreachable = ["d", "e"].map(|name| (node(name), FailedWhy::Unreachable));
    assert_eq!(failure.failed, unreachable);
    assert!(cluster.queue.is_empty());
    let op = cluster.begin("a", get(&key, None, Strict));
    assert_eq!(cluster.failure(op).kind, FailureKind::QuorumUnmet);
    assert!(cluster.queue.is_empty());
}

/// L8: with all that gain the key down, a change can neither be finished nor may it keep writes from being done.
#[test]
fn a_sloppy_put_is_sent_to_those_who_gain_the_key_and_waits_for_none_of_them() {
    let sloppy_put = |key: &Bytes| sloppy(put(key, "x", 1), Level::All);
    check_put("abc -> ade", "abc", sloppy_put, true);
    let (mut cluster, key) = changing("abc -> ade");
    let op = cluster.hold("ad ae").begin("a", sloppy_put(&key));
    cluster.run();
    let done = cluster.done(op);
    assert_eq!((done.acked, done.guarantee), (nodes("abc"), Guarantee::Overlap));
    assert_eq!(cluster.merging("a"), nodes("de"));
    assert_eq!(cluster.node("a").coordinator.in_flight(), 0, "nobody is waited for");
    cluster.release("ad").run();
    assert_eq!(values(&cluster.state("d", &key)), "x");
    cluster.pass(TIMEOUT).run();
    assert_eq!(cluster.hints("a", &key), []);

    let (mut cluster, key) = changing("abc -> ade");
    let op = cluster.stop("d").stop("e").begin("a", sloppy_put(&key));
    cluster.run();
    assert_eq!(cluster.done(op).acked, nodes("abc"));
    assert_eq!(cluster.hints("a", &key), [], "what is gained is copied");
}

#[test]
fn who_gains_the_key_counts_for_no_owner_in_a_sloppy_put() {
    let (mut cluster, key) = changing("abc -> ade");
    let op = cluster.hold("ba ca").begin("a", sloppy(put(&key, "x", 1), Level::Quorum));
    cluster.run();
    assert_eq!(cluster.result(op), None, "a alone of its set");
    let done = cluster.release("ba").run().done(op);
    assert_eq!((done.acked, done.guarantee), (nodes("abde"), Guarantee::Strict));
}

/// New owners merge from as many old ones as meet every write at the layout's w: a weaker one could be missed by all.
#[test]
fn a_level_below_the_layouts_is_raised_to_it_in_a_sloppy_request_as_well() {
    let (mut cluster, key) = changing("abc -> ade");
    let op = cluster.hold("ba ca").begin("a", sloppy(put(&key, "x", 1), Level::One));
    cluster.run();
    assert_eq!(cluster.result(op), None);
    assert_eq!(cluster.release("ba").run().done(op).needed, 2);
    let op = cluster.begin("a", get(&key, Some(Level::One), Sloppy));
    assert_eq!(cluster.run().got(op).needed, 2);
}

#[test]
fn a_put_without_a_context_folds_what_any_owner_held_that_counted() {
    for (holder, late) in [("b", "ca"), ("c", "ba"), ("d", "ea"), ("e", "da")] {
        let (mut cluster, key) = holding("abc -> ade", &format!("{holder}=f7:old"));
        cluster.hold(late);
        let op = cluster.begin("a", put(&key, "new", 1));
        assert_eq!(cluster.run().done(op).dot, Some(dot("a2")), "{holder}");
        assert_eq!(values(&cluster.converged(&key)), "new", "{holder}");
    }
}

#[test]
fn owners_by_the_next_ring_alone_coordinate_no_put() {
    let (mut cluster, key) = changing("abc -> bcd");
    for operation in [put(&key, "x", 1), sloppy(put(&key, "x", 1), Level::Quorum)] {
        let op = cluster.begin("d", operation);
        assert_eq!(cluster.failure(op).kind, FailureKind::NotCoordinator);
    }
}

/// Who has just come remembers no puts: asked whether it knows one it would turn every retry into a sibling.
#[test]
fn a_sloppy_retry_asks_owners_of_the_present_ring_whether_they_know_it() {
    let (mut cluster, key) = holding("abc -> ade", "a=b2:old b=b2:old c=b2:old");
    let now = cluster.now;
    for name in ["d", "e"] {
        cluster.node(name).memory = RequestMemory::new(now);
    }
    let operation = sloppy(retry(&key, "new", 1, LATER), Level::Quorum);
    let op = cluster.hold("ba ca").begin("a", operation);
    cluster.run().release("ba ca").run().done(op);
    assert_eq!(values(&cluster.converged(&key)), "new");
}

#[test]
fn a_strict_get_asks_those_who_count_in_both_sets_first() {
    let (mut cluster, key) = holding("abc -> bcd", "a=a1:x b=a1:x c=a1:x d=a1:x");
    let op = cluster.begin("a", get(&key, None, Strict));
    let got = cluster.run().got(op);
    assert_eq!((got.answered, got.needed), (nodes("bc"), 2));
    assert_eq!(got.guarantee, Guarantee::Strict);
}

#[test]
fn a_strict_get_waits_for_answers_from_each_set() {
    let (mut cluster, key) = holding("abc -> bde", "a=a1:x b=a1:x c=a1:x d=a1:x e=a1:x");
    let op = cluster.hold("ad ae").begin("a", get(&key, None, Strict));
    cluster.run().pass(PATIENCE).run();
    assert_eq!(cluster.result(op), None, "b alone of the next set");
    let got = cluster.release("ae").run().got(op);
    assert_eq!((got.answered, got.guarantee), (nodes("abe"), Guarantee::Strict));
}

/// Agreement of those asked is not enough where the next set holds less.
#[test]
fn a_strict_get_writes_back_to_those_who_gain_the_key() {
    let (mut cluster, key) = holding("abc -> bde", "a=a1:x b=a1:x c=a1:x");
    let op = cluster.begin("a", get(&key, None, Strict));
    while cluster.merging("a").is_empty() {
        cluster.deliver(0);
    }
    assert_eq!(cluster.merging("a"), nodes("d"), "the one that was asked and lacks it");
    cluster.hold("ad").run();
    assert_eq!(cluster.result(op), None, "b alone of the next set holds it");
    let got = cluster.release("ad").run().got(op);
    assert_eq!((got.stale, got.guarantee), (nodes("d"), Guarantee::Strict));
    assert_eq!(values(&cluster.state("d", &key)), "x");
}

#[test]
fn a_write_back_goes_to_another_owner_of_the_set_that_lacks_one() {
    let (mut cluster, key) = holding("abc -> bde", "a=a1:x b=a1:x c=a1:x");
    let op = cluster.begin("a", get(&key, None, Strict));
    while cluster.merging("a").is_empty() {
        cluster.deliver(0);
    }
    let got = cluster.stop("d").run().got(op);
    assert_eq!((values(&got.state).as_str(), got.guarantee), ("x", Guarantee::Strict));
    assert_eq!(values(&cluster.state("e", &key)), "x");
}

/// An owner of both sets fails: what it leaves open in each is asked of one of each.
#[test]
fn an_owner_of_both_sets_that_fails_is_replaced_in_both() {
    let (mut cluster, key) = holding("abc -> bcd", "a=a1:x b=a1:x c=a1:x d=a1:x");
    let op = cluster.hold("ac").begin("a", get(&key, None, Strict));
    let got = cluster.run().stop("c").run().got(op);
    assert_eq!((got.answered, got.guarantee), (nodes("abd"), Guarantee::Strict));
}

#[test]
fn a_sloppy_get_asks_those_who_gain_the_key_only_where_it_compares_all() {
    for compares_all in [false, true] {
        let (mut cluster, key) = holding("abc -> bde", "a=a1:x b=a1:x c=a1:x");
        let (key_read, r, consistency) = (key.clone(), None, Some(Sloppy));
        let operation = Operation::Get { key: key_read, r, consistency, compares_all };
        let op = cluster.begin("a", operation);
        let got = cluster.run().got(op);
        assert_eq!((got.answered, got.guarantee), (nodes("ab"), Guarantee::Overlap));
        for name in ["d", "e"] {
            assert_eq!(!cluster.state(name, &key).is_empty(), compares_all, "{name}");
        }
    }
}

/// L1: A, B, C become A, B, D; a put stands at A and D only. What one get of both rings answers, a later one of the old
/// ring answers as well, whoever it asks.
#[test]
fn what_was_read_of_both_rings_is_read_of_either() {
    for unheard in ["b", "c", "d"] {
        for (now, asked) in [("abc", "bc"), ("abc", "ac"), ("abd", "bd"), ("abd", "ad")] {
            let (mut cluster, key) = holding("abc -> abd", "a=a1:x d=a1:x");
            let op = cluster.stop(unheard).begin("a", get(&key, None, Strict));
            while cluster.result(op).is_none() {
                cluster.deliver(0);
            }
            assert_eq!(values(&cluster.got(op).state), "x");
            // What it repairs on the side comes to nothing.
            cluster.queue.clear();
            cluster.start(unheard).take(preferences(now, MAJORITY), None);
            let (at, _) = asked.split_at(1);
            for name in nodes("abcd").into_iter().filter(|name| !nodes(asked).contains(name)) {
                cluster.down.insert(name);
            }
            let op = cluster.begin(at, get(&key, None, Strict));
            let got = cluster.run().got(op);
            assert_eq!(values(&got.state), "x", "without {unheard}, then of {asked}");
        }
    }
}

/// A request that goes on as a change begins starts from nothing, and wants both quorums.
#[test]
fn a_change_that_begins_asks_for_every_answer_again() {
    let (mut cluster, key) = holding("abc -> bde", "a=a1:x b=a1:x c=a1:x");
    let next = cluster.next.take();
    let written = cluster.hold("ba ca").begin("a", put(&key, "y", 1));
    let read = cluster.begin("a", get(&key, None, Strict));
    cluster.run();
    let now = cluster.preferences.clone();
    cluster.take(now, next);
    // What was said under the older layout comes first.
    cluster.hold("ab ac").release("ba ca").run();
    assert_eq!((cluster.result(written), cluster.result(read)), (None, None));
    cluster.release("ab ac").run();
    assert!(cluster.done(written).acked.contains(&node("d")));
    cluster.got(read);
}

/// What a member said as one that gains the key says nothing once it owns it, or does not.
#[test]
fn the_end_of_a_change_asks_for_every_answer_again() {
    for (ring, quorum) in [("abc", "ab"), ("ade", "ad")] {
        let (mut cluster, key) = changing("abc -> ade");
        let op = cluster.hold("ba ca").begin("a", put(&key, "x", 1));
        cluster.run();
        assert_eq!(cluster.result(op), None);
        cluster.hold("ab ac ad ae").take(preferences(ring, MAJORITY), None);
        cluster.release("ba ca").run();
        assert_eq!(cluster.result(op), None, "answers under the older layout");
        let (_, other) = quorum.split_at(1);
        cluster.release(&format!("a{other}")).run();
        assert_eq!(cluster.done(op).acked, nodes(quorum), "{ring}");
    }
}

/// One who gains the key stands in where nobody else is left, and then has this one part.
#[test]
fn who_gains_the_key_is_the_last_to_stand_in() {
    let (mut cluster, key) = with_fallbacks();
    let op = cluster.stop("c").begin("a", sloppy(put(&key, "x", 1), Level::All));
    let done = cluster.run().done(op);
    assert_eq!(done.stand_ins, [(node("c"), node("e"))]);
    assert_eq!(
        (cluster.hints("d", &key), cluster.hints("e", &key)),
        (vec![], vec![(node("c"), 3)])
    );
    assert_eq!(values(&cluster.state("d", &key)), "x");

    let (mut cluster, key) = with_fallbacks();
    cluster.stop("c").stop("e");
    let op = cluster.begin("a", sloppy(put(&key, "x", 1), Level::All));
    let done = cluster.run().done(op);
    assert_eq!(done.stand_ins, [(node("c"), node("d"))]);
    assert_eq!(cluster.hints("d", &key), [(node("c"), 3)]);
    assert!(cluster.state("d", &key).is_empty(), "asked to do one thing");
    cluster.stop("b");
    let op = cluster.begin("a", get(&key, None, Sloppy));
    assert_eq!(values(&cluster.run().got(op).state), "x", "its hints answer reads");
}

/// The answer to what it was asked as an owner to be must not count as one to what it is asked in another's stead.
#[test]
fn who_was_asked_as_one_that_gains_the_key_stands_in_for_nobody() {
    let (mut cluster, key) = with_fallbacks();
    cluster.stop("e").hold("ab ac ad");
    let op = cluster.begin("a", sloppy(put(&key, "x", 1), Level::All));
    cluster.run().stop("c").release("ab ad").run();
    assert_eq!(cluster.failure(op).outcome, Some(WriteOutcome::Unknown));
    assert_eq!(cluster.hints("d", &key), []);
}

/// DESIGN §8: a leaver takes no hints once its leaving has begun.
#[test]
fn a_leaver_stands_in_for_nobody() {
    let mut cluster = Cluster::of(5, MAJORITY);
    cluster.next = Some(preferences("abce", MAJORITY));
    let key = key_in_order_before(&cluster.preferences, "d", |_| true);
    let op = cluster.stop("c").begin("a", sloppy(put(&key, "x", 1), Level::All));
    assert_eq!(cluster.run().done(op).stand_ins, [(node("c"), node("e"))]);
    let op = cluster.stop("e").begin("a", sloppy(put(&key, "y", 2), Level::All));
    assert_eq!(cluster.run().failure(op).outcome, Some(WriteOutcome::NotApplied));
}
