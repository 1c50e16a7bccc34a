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
    let key = key_in_order_before(&cluster.preferences, "d", |_| true);
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

/// Five nodes of which `a`, `b` and `c` own the key, and only `d` and `e`, next in this order, are left.
fn two_of_five() -> (Cluster, bytes::Bytes) {
    let mut cluster = Cluster::of(5, (3, 2, 2));
    let key = key_in_order_before(&cluster.preferences, "d", |_| true);
    for owner in ["a", "b", "c"] {
        cluster.stop(owner);
    }
    (cluster, key)
}

#[test]
fn where_no_owner_can_be_reached_a_stand_in_coordinates() {
    let (mut cluster, key) = two_of_five();
    let op = cluster.begin("d", sloppy(put(&key, "x", 1), Level::Count(2)));
    cluster.run();
    let done = cluster.done(op);
    assert_eq!(done.stand_ins, [(node("a"), node("d")), (node("b"), node("e"))]);
    assert_eq!((done.acked, done.guarantee), (Vec::new(), Guarantee::Overlap));
    assert_eq!(cluster.hints("d", &key), [(node("a"), 2), (node("c"), 0)]);
    assert_eq!(cluster.hints("e", &key), [(node("b"), 2)]);

    let op = cluster.begin("e", get(&key, Some(Level::Count(2)), Consistency::Sloppy));
    cluster.run();
    assert_eq!(values(&cluster.got(op).state), "x");

    let op = cluster.begin("d", sloppy(put(&key, "y", 2), Level::Count(2)));
    cluster.run();
    cluster.done(op);
    let op = cluster.begin("d", get(&key, Some(Level::One), Consistency::Sloppy));
    cluster.run();
    assert_eq!(values(&cluster.got(op).state), "y", "a put replaces what the stand-ins hold");
}

#[test]
fn a_stand_in_does_not_coordinate_where_an_owner_can_be_reached_or_the_request_is_strict() {
    let (mut cluster, key) = two_of_five();
    let op = cluster.begin("d", put(&key, "x", 1));
    cluster.run();
    assert_eq!(cluster.failure(op).outcome, Some(WriteOutcome::NotApplied));
    let op = cluster.begin("d", sloppy(put(&key, "x", 2), Level::All));
    cluster.run();
    let failure = cluster.failure(op);
    assert_eq!(
        (failure.kind, failure.outcome),
        (FailureKind::QuorumUnmet, Some(WriteOutcome::NotApplied)),
        "two members are no three"
    );
    cluster.start("c");
    let op = cluster.begin("d", sloppy(put(&key, "x", 3), Level::One));
    cluster.run();
    assert_eq!(cluster.failure(op).kind, FailureKind::NotCoordinator);
    assert_eq!((cluster.hints("d", &key), cluster.hints("e", &key)), (vec![], vec![]));
}

#[test]
fn an_owner_that_comes_back_meanwhile_is_asked_for_itself() {
    let (mut cluster, key) = two_of_five();
    cluster.hold("dd");
    let op = cluster.begin("d", sloppy(put(&key, "x", 1), Level::Count(2)));
    cluster.start("a").release("dd").run();
    let done = cluster.done(op);
    assert!(done.acked.contains(&node("a")), "{done:?}");
    assert_eq!(values(&cluster.state("a", &key)), "x");
}

#[test]
fn a_stand_in_folds_what_another_holds() {
    let (mut cluster, key) = two_of_five();
    let first = cluster.begin("d", sloppy(put(&key, "x", 1), Level::One));
    cluster.run();
    cluster.done(first);
    let second = cluster.begin("e", sloppy(put(&key, "y", 2), Level::Count(2)));
    cluster.run();
    cluster.done(second);
    let op = cluster.begin("d", get(&key, Some(Level::Count(2)), Consistency::Sloppy));
    cluster.run();
    assert_eq!(values(&cluster.got(op).state), "y");
}

#[test]
fn a_retry_at_a_stand_in_is_known_by_what_it_holds() {
    let (mut cluster, key) = two_of_five();
    let first = cluster.begin("d", sloppy(put(&key, "x", 1), Level::Count(2)));
    cluster.run();
    let dot = cluster.done(first).dot;
    let age = std::time::Duration::from_millis(5);
    let again = cluster.begin("e", sloppy(retry(&key, "x", 1, age), Level::Count(2)));
    cluster.run();
    assert_eq!(cluster.done(again).dot, dot);
}

/// V8: put1 acknowledged by stand-ins D, E; heal; put2 by A, B; hints come home: two versions (never in strict puts).
#[test]
fn what_stand_ins_acknowledged_stays_beside_what_the_owners_took_meanwhile() {
    let (mut cluster, key) = two_of_five();
    let first = cluster.begin("d", sloppy(put(&key, "x", 1), Level::Count(2)));
    cluster.run();
    cluster.done(first);
    let kept: Vec<_> = ["d", "e"].map(|name| cluster.node(name).hints.clone()).to_vec();
    for owner in ["a", "b", "c"] {
        cluster.start(owner);
    }
    let second = cluster.begin("a", sloppy(put(&key, "y", 2), Level::Count(2)));
    cluster.run();
    cluster.done(second);
    assert_eq!(kept, ["d", "e"].map(|name| cluster.node(name).hints.clone()).to_vec());
    cluster.hand_over("d").hand_over("e").run();
    assert_eq!(values(&cluster.converged(&key)), "x y");
    assert_eq!((cluster.hints("d", &key), cluster.hints("e", &key)), (vec![], vec![]));
}

#[test]
fn an_owner_that_goes_silent_is_stood_in_for_where_its_word_is_needed() {
    let (mut cluster, key) = four();
    cluster.hold("ab ac");
    let op = cluster.begin("a", sloppy(put(&key, "x", 1), Level::Quorum));
    cluster.run();
    assert_eq!(cluster.result(op), None);
    cluster.silent.extend([node("b"), node("c")]);
    cluster.pass(std::time::Duration::from_millis(100)).run();
    assert_eq!(cluster.done(op).stand_ins, [(node("b"), node("d"))]);
}
