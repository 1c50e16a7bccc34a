//! Sloppy quorum: who stands in for an owner that cannot be reached, and what is kept for it.

use super::harness::*;
use crate::replication::*;
use crate::version::notation::node;

fn sloppy(mut operation: Operation, level: Level) -> Operation {
    if let Operation::Put { consistency, w, .. } = &mut operation {
        (*consistency, *w) = (Some(Consistency::Sloppy), Some(level));
    }
    operation
}

/// Four nodes of which `a`, `b` and `c` own the key, in this order, and `d` is next.
fn four() -> (Cluster, bytes::Bytes) {
    let cluster = Cluster::of(4, (3, 2, 2));
    let key = key_in_order_before(&cluster.preferences, "d");
    (cluster, key)
}

#[test]
fn one_of_four_is_down_and_all_three_acknowledge() {
    let (mut cluster, key) = four();
    cluster.stop("c");
    let op = cluster.begin("a", sloppy(put(&key, "x", 1), Level::All));
    cluster.run();
    let done = cluster.done(op);
    assert_eq!(done.stand_ins, [(node("c"), node("d"))]);
    assert_eq!((done.acked, done.guarantee), (vec![node("a"), node("b")], Guarantee::Overlap));
    assert_eq!(cluster.hints("d", &key), [(node("c"), 3)]);
    assert_eq!(cluster.hints("a", &key), [], "who is stood in for needs no further hint");

    let op = cluster.begin("b", get(&key, Some(Level::All), Consistency::Sloppy));
    cluster.run();
    let got = cluster.got(op);
    assert_eq!((values(&got.state), got.stand_ins), ("x".to_owned(), vec![(node("c"), node("d"))]));
    assert_eq!(
        got.guarantee,
        Guarantee::Strict,
        "two owners hold it, which meet every strict read"
    );
}

#[test]
fn a_strict_put_takes_no_stand_in() {
    let (mut cluster, key) = four();
    cluster.stop("c");
    let Operation::Put { content, basis, r, request, age, .. } = put(&key, "x", 1) else {
        unreachable!("a put")
    };
    let (w, consistency) = (Some(Level::All), Some(Consistency::Strict));
    let operation =
        Operation::Put { key: key.clone(), content, basis, w, r, consistency, request, age };
    let op = cluster.begin("a", operation);
    cluster.run();
    assert_eq!(cluster.failure(op).outcome, Some(WriteOutcome::NotApplied));
    assert!(cluster.hints("d", &key).is_empty());
}

#[test]
fn where_nobody_is_left_to_stand_in_the_coordinator_keeps_a_hint_that_counts_for_nothing() {
    let mut cluster = Cluster::new(3, 2, 2);
    let key = key_in_order(&cluster.preferences);
    cluster.stop("c");
    let op = cluster.begin("a", sloppy(put(&key, "x", 1), Level::Quorum));
    cluster.run();
    assert_eq!(cluster.done(op).stand_ins, []);
    assert_eq!(cluster.hints("a", &key), [(node("c"), 0)]);
}

#[test]
fn an_owner_that_keeps_silent_gets_a_hint_at_the_deadline() {
    let mut cluster = Cluster::new(3, 2, 2);
    let key = key_in_order(&cluster.preferences);
    cluster.hold("ac");
    let op = cluster.begin("a", sloppy(put(&key, "x", 1), Level::Quorum));
    cluster.run();
    assert_eq!(cluster.done(op).acked.len(), 2);
    assert_eq!(cluster.hints("a", &key), []);
    cluster.pass(TIMEOUT).run();
    assert_eq!(cluster.hints("a", &key), [(node("c"), 0)]);
    assert_eq!(cluster.node("a").coordinator.in_flight(), 0);
}

#[test]
fn an_owner_that_breaks_away_meanwhile_is_stood_in_for() {
    let (mut cluster, key) = four();
    cluster.hold("ab ac");
    let op = cluster.begin("a", sloppy(put(&key, "x", 1), Level::All));
    cluster.run();
    assert_eq!(cluster.result(op), None);
    cluster.stop("c").release("ab").run();
    assert_eq!(cluster.done(op).stand_ins, [(node("c"), node("d"))]);
}

#[test]
fn a_retry_is_known_by_what_a_stand_in_holds() {
    let (mut cluster, key) = four();
    cluster.stop("c");
    let first = cluster.begin("a", sloppy(put(&key, "x", 1), Level::All));
    cluster.run();
    let dot = cluster.done(first).dot;
    let age = std::time::Duration::from_millis(5);
    let again = cluster.begin("b", sloppy(retry(&key, "x", 1, age), Level::All));
    cluster.run();
    assert_eq!(cluster.done(again).dot, dot);
    assert_eq!(values(&cluster.converged(&key)), "x");
}
