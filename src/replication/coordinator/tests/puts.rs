//! Puts: the schedules that broke earlier rules, and what a client is told.

use std::time::Duration;

use super::harness::*;
use crate::replication::*;
use crate::version::SIBLINGS_MAX;
use crate::version::notation::{clock, dot, node, state};

const LATER: Duration = Duration::from_millis(1_500);

fn cluster(r: u8, w: u8) -> (Cluster, bytes::Bytes) {
    let cluster = Cluster::new(3, r, w);
    let key = key_in_order(&cluster.preferences);
    (cluster, key)
}

/// Puts which settles at once, at the layout's levels.
#[track_caller]
fn settle(cluster: &mut Cluster, at: &str, operation: Operation) -> Done {
    let op = cluster.begin(at, operation);
    cluster.run();
    cluster.done(op)
}

#[test]
fn a_put_is_done_at_w_durable_acknowledgements_and_no_sooner() {
    let (mut cluster, key) = cluster(2, 2);
    let op = cluster.hold("ba ca").begin("a", put(&key, "x", 1));
    cluster.run();
    assert_eq!(cluster.result(op), None, "one owner is no quorum");
    cluster.release("ba").run();
    let done = cluster.done(op);
    assert_eq!((done.acked, done.needed), (vec![node("a"), node("b")], 2));
    assert_eq!((done.dot, done.siblings), (Some(dot("a1")), 1));
    assert_eq!((done.clock, done.guarantee), (clock("a1"), Guarantee::Strict));
}

/// D1, D2: the own append counts once it is durable, not before.
#[test]
fn an_own_write_that_is_not_durable_does_not_count() {
    let (mut cluster, key) = cluster(2, 2);
    let op = cluster.hold("ca").begin("a", put(&key, "x", 1));
    let mint = cluster.next_deliverable().unwrap();
    cluster.deliver(mint);
    cluster.hold("aa").run();
    assert_eq!(cluster.result(op), None, "b alone holds it durably");
    cluster.release("aa").run();
    assert_eq!(cluster.done(op).acked, [node("a"), node("b")]);
}

#[test]
fn a_put_replaces_what_another_owner_held() {
    let (mut cluster, key) = cluster(2, 2);
    cluster.stop("a");
    settle(&mut cluster, "b", put(&key, "old", 1));
    cluster.start("a").stop("c");
    let done = settle(&mut cluster, "a", put(&key, "new", 2));
    assert_eq!((done.dot, done.siblings), (Some(dot("a2")), 1), "folded");
    assert_eq!(values(&cluster.converged(&key)), "new");
}

/// V8, strict: put1 by one pair of owners, put2 by another; never two versions.
#[test]
fn puts_on_two_sides_of_an_outage_leave_one_version() {
    for (first, second) in [("a", "b"), ("b", "a"), ("c", "b")] {
        for down in ["a", "b", "c"] {
            let (mut cluster, key) = cluster(2, 2);
            if down != first {
                cluster.stop(down);
            }
            settle(&mut cluster, first, put(&key, "1", 1));
            cluster.start(down);
            settle(&mut cluster, second, put(&key, "2", 2));
            assert_eq!(values(&cluster.converged(&key)), "2", "{first} {second}, {down} down");
        }
    }
}

/// An answer to the first version of a put never counts for the second.
#[test]
fn an_acknowledgement_of_the_version_before_the_fold_does_not_count_for_it() {
    let (mut cluster, key) = cluster(2, 2);
    cluster.hold("ba ca ac").node("b").states.insert(key.clone(), state("b7:old"));
    let op = cluster.begin("a", put(&key, "new", 1));
    cluster.run();
    // c's acknowledgement of the first version is on its way when the fold is sent to b and c.
    cluster.release("ac").run().release("ba").hold("ab ac");
    cluster.run().release("ca").run();
    assert_eq!(dots(&cluster.state("a", &key)), dots(&state("a2:new / b7")), "folded");
    assert_eq!(cluster.result(op), None, "neither b nor c holds the fold");
    cluster.release("ab").run();
    assert_eq!(cluster.done(op).acked, [node("a"), node("b")]);
}

/// V2: put1 to A hangs, its failover to B and put2 to B are acknowledged; A wakes and must not replace put2.
#[test]
fn a_first_try_that_wakes_late_replaces_nothing() {
    let (mut cluster, key) = cluster(2, 2);
    let first = cluster.hold("aa").begin("a", put(&key, "1", 1));
    settle(&mut cluster, "b", retry(&key, "1", 1, LATER));
    settle(&mut cluster, "b", put(&key, "2", 2));
    cluster.release("aa").run();
    assert_eq!(cluster.done(first).dot, None, "A merged put2: it knows put1 as done");
    assert_eq!(values(&cluster.converged(&key)), "2");
}

/// V2, where A has heard nothing: the others know put1, and A folds nothing over put2.
#[test]
fn a_first_try_that_others_know_is_done_without_a_fold() {
    let (mut cluster, key) = cluster(2, 2);
    let first = cluster.hold("aa ba ca").begin("a", put(&key, "1", 1));
    settle(&mut cluster, "b", retry(&key, "1", 1, LATER));
    settle(&mut cluster, "b", put(&key, "2", 2));
    // What B sent to A is lost.
    cluster.queue.retain(|message| message.from == node("a"));
    cluster.release("aa ba ca").run();
    cluster.done(first);
    let left = cluster.converged(&key);
    assert_eq!(
        values(&left),
        "1 2",
        "a put tried twice may add a sibling, never replace a later put"
    );
    assert_eq!(values(&cluster.state("a", &key)), "1 2", "A took over what the others know");
}

/// V2, where only one of two owners knows more: what the other one holds may be younger than this put.
#[test]
fn nothing_is_folded_once_an_owner_knows_the_put() {
    let (mut cluster, key) = cluster(3, 3);
    let now = cluster.now;
    cluster.node("b").memory.learn(&key, request(2), dot("b2"), now);
    cluster.node("c").states.insert(key.clone(), state("d7:younger"));
    settle(&mut cluster, "a", put(&key, "1", 1));
    assert_eq!(values(&cluster.converged(&key)), "1 younger");
}

/// What another client writes here between the first version and the fold was never seen by this put.
#[test]
fn a_fold_covers_what_the_put_has_seen_and_no_more() {
    let (mut cluster, key) = cluster(2, 2);
    cluster.node("b").states.insert(key.clone(), state("d7:old"));
    let first = cluster.hold("ba ca").begin("a", put(&key, "1", 1));
    cluster.run();
    let second = cluster.begin("a", put_on(&key, "2", 2, PutBasis::Blind));
    cluster.run().release("ba ca").run();
    assert_eq!(cluster.done(first).dot, Some(dot("a3")));
    cluster.done(second);
    assert_eq!(values(&cluster.converged(&key)), "1 2");
}

/// V2, past the deadline: nothing is minted at all.
#[test]
fn no_write_starts_after_its_deadline() {
    let (mut cluster, key) = cluster(2, 2);
    let op = cluster.hold("aa").begin("a", put(&key, "x", 1));
    cluster.pass(TIMEOUT).release("aa").run();
    let failure = cluster.failure(op);
    assert_eq!(failure.kind, FailureKind::QuorumUnmet);
    assert_eq!(values(&cluster.converged(&key)), "");
}

/// The fold, too, is a write.
#[test]
fn no_fold_starts_after_the_deadline() {
    let (mut cluster, key) = cluster(2, 2);
    cluster.node("b").states.insert(key.clone(), state("b7:old"));
    let op = cluster.hold("ba ca").begin("a", put(&key, "new", 1));
    cluster.run();
    cluster.now = cluster.now.after(TIMEOUT);
    cluster.release("ba").run();
    assert_eq!(cluster.failure(op).outcome, Some(WriteOutcome::Unknown));
    assert_eq!(values(&cluster.converged(&key)), "new old");
}

/// V9: C holds {C:1}; A:1 is acknowledged at A, B; put3 at C mints C:2, hears A:1 from B and folds as C:3. B knows the
/// put under C:2 and must take C:3 all the same.
#[test]
fn a_fold_is_merged_by_those_who_know_its_first_version() {
    let (mut cluster, key) = cluster(2, 2);
    cluster.node("c").states.insert(key.clone(), state("c1:1"));
    for name in ["a", "b"] {
        cluster.node(name).states.insert(key.clone(), state("a1:2"));
    }
    cluster.stop("a");
    let done = settle(&mut cluster, "c", put(&key, "3", 30));
    assert_eq!(done.dot, Some(dot("c3")));
    for name in ["b", "c"] {
        assert_eq!(values(&cluster.state(name, &key)), "3", "at {name}");
    }
    assert_eq!(values(&cluster.converged(&key)), "3");
}

/// Found by the simulator (seed 983): an owner that refills took its own empty state for one of the max(r, w) answers
/// that must say what stands.
#[test]
fn a_refilling_coordinator_does_not_vouch_for_what_stands() {
    for holder in ["b", "c"] {
        let (mut cluster, key) = cluster(1, 2);
        cluster.node(holder).states.insert(key.clone(), state("d1:1"));
        cluster.unsound.insert(node("a"));
        let done = settle(&mut cluster, "a", put(&key, "2", 30));
        assert_eq!(done.dot, Some(dot("a2")), "with {holder}: it was folded");
        assert_eq!(values(&cluster.converged(&key)), "2", "with {holder}");
    }
}

/// V10: put2's first try hangs on its way to B; put2 and put3 are acknowledged elsewhere and put3 merged at B.
#[test]
fn a_put_whose_session_went_on_mints_nothing() {
    let (mut cluster, key) = cluster(2, 2);
    settle(&mut cluster, "c", put(&key, "2", 2));
    settle(&mut cluster, "c", put(&key, "3", 3));
    let late = settle(&mut cluster, "b", put(&key, "2", 2));
    assert_eq!(late.dot, None);
    assert_eq!(values(&cluster.converged(&key)), "3");
    for name in ["a", "b", "c"] {
        assert_eq!(cluster.state(name, &key).clock(), &clock("c2"), "at {name}");
    }
}

/// V10 after another client's put replaced put3: its ids live on in the replicas' memory.
#[test]
fn a_session_is_known_after_its_versions_left_the_state() {
    let (mut cluster, key) = cluster(2, 2);
    settle(&mut cluster, "c", put(&key, "2", 2));
    settle(&mut cluster, "c", put(&key, "3", 3));
    let mut other = put(&key, "other", 1);
    if let Operation::Put { request, .. } = &mut other {
        request.session = 99;
    }
    settle(&mut cluster, "c", other);
    settle(&mut cluster, "b", put(&key, "2", 2));
    settle(&mut cluster, "b", retry(&key, "3", 3, LATER));
    assert_eq!(values(&cluster.converged(&key)), "other");
}

/// V11: put1 sat for a minute in a socket buffer; put1 and put2 were acknowledged elsewhere and their ids forgotten.
#[test]
fn an_old_retry_that_nobody_knows_is_written_beside_what_is_there() {
    let (mut cluster, key) = cluster(2, 2);
    for name in ["a", "b", "c"] {
        cluster.node(name).states.insert(key.clone(), state("b2:2"));
    }
    let old = Duration::from_mins(1);
    settle(&mut cluster, "a", retry(&key, "1", 1_000, old));
    assert_eq!(values(&cluster.converged(&key)), "1 2");
}

#[test]
fn a_young_retry_that_nobody_knows_is_an_ordinary_put() {
    let (mut cluster, key) = cluster(2, 2);
    for (name, held) in [("a", "b2:2"), ("b", "b2:2 d3:3"), ("c", "b2:2")] {
        cluster.node(name).states.insert(key.clone(), state(held));
    }
    settle(&mut cluster, "a", retry(&key, "new", 1_000, LATER));
    assert_eq!(values(&cluster.converged(&key)), "new");
}

/// An owner that started a moment ago cannot say that it does not know the put.
#[test]
fn a_retry_is_no_ordinary_put_where_a_memory_is_younger() {
    let (mut cluster, key) = cluster(2, 2);
    let now = cluster.now;
    for name in ["a", "b", "c"] {
        cluster.node(name).states.insert(key.clone(), state("b2:2"));
    }
    cluster.node("b").memory = RequestMemory::new(now);
    cluster.stop("c");
    settle(&mut cluster, "a", retry(&key, "1", 1_000, LATER));
    assert_eq!(values(&cluster.converged(&key)), "1 2");
}

#[test]
fn a_retry_that_one_owner_knows_is_sent_and_not_minted_again() {
    let (mut cluster, key) = cluster(2, 2);
    let first = cluster.hold("ba ca ac").begin("a", put(&key, "x", 1));
    cluster.run().pass(TIMEOUT);
    let failure = cluster.failure(first);
    assert_eq!((failure.outcome, failure.needed), (Some(WriteOutcome::Unknown), 2));
    assert_eq!(failure.acked, [node("a")]);
    let late = [node("b"), node("c")].map(|node| (node, FailedWhy::Timeout));
    assert_eq!(failure.failed, late);
    cluster.queue.clear();
    let done = settle(cluster.release("ba ca ac"), "c", retry(&key, "x", 1, LATER));
    assert_eq!((done.dot, done.siblings), (Some(dot("a1")), 1));
    for name in ["a", "b", "c"] {
        assert_eq!(cluster.state(name, &key).clock(), &clock("a1"), "at {name}");
    }
}

#[test]
fn two_blind_puts_of_one_session_in_flight_at_once_both_stand() {
    let (mut cluster, key) = cluster(2, 2);
    let first = cluster.hold("ab ac").begin("a", put_on(&key, "1", 1, PutBasis::Blind));
    cluster.run();
    settle(&mut cluster, "b", put_on(&key, "2", 2, PutBasis::Blind));
    cluster.release("ab ac").run();
    cluster.done(first);
    for name in ["b", "c"] {
        assert_eq!(values(&cluster.state(name, &key)), "1 2", "at {name}");
    }
}

#[test]
fn a_context_replaces_what_it_covers_and_nothing_else() {
    let (mut cluster, key) = cluster(2, 2);
    for name in ["a", "b", "c"] {
        cluster.node(name).states.insert(key.clone(), state("a1:x b1:y"));
    }
    let done = settle(&mut cluster, "c", put_on(&key, "z", 9, PutBasis::Context(clock("a1"))));
    assert_eq!((values(&cluster.converged(&key)).as_str(), done.siblings), ("y z", 2));
}

#[test]
fn a_conditional_put_is_refused_where_the_quorum_holds_more() {
    let (mut cluster, key) = cluster(2, 2);
    for (name, held) in [("a", "a1:x"), ("b", "a1:x b1:y"), ("c", "a1:x")] {
        cluster.node(name).states.insert(key.clone(), state(held));
    }
    let conditional = |seen: &str| put_on(&key, "z", 9, PutBasis::IfContext(clock(seen)));
    let op = cluster.stop("c").begin("a", conditional("a1"));
    let failure = cluster.run().failure(op);
    assert_eq!(failure.kind, FailureKind::StaleContext);
    assert_eq!((failure.outcome, failure.retry), (Some(WriteOutcome::NotApplied), false));
    assert_eq!(values(&cluster.converged(&key)), "x y");
    settle(&mut cluster, "a", conditional("a1 b1"));
    assert_eq!(values(&cluster.converged(&key)), "z");
}

/// Between the reading and the writing another put may come: the own state is looked at again.
#[test]
fn a_conditional_put_meets_a_put_that_came_after_it_read() {
    let (mut cluster, key) = cluster(2, 2);
    let first = put_on(&key, "1", 1, PutBasis::IfContext(clock("")));
    let first = cluster.begin("a", first);
    let second = cluster.begin("a", put_on(&key, "2", 2, PutBasis::IfContext(clock(""))));
    cluster.run();
    cluster.done(first);
    assert_eq!(cluster.failure(second).kind, FailureKind::StaleContext);
    assert_eq!(values(&cluster.converged(&key)), "1");
}

#[test]
fn a_quorum_out_of_reach_fails_before_anything_is_written() {
    let (mut cluster, key) = cluster(2, 2);
    let op = cluster.stop("b").stop("c").begin("a", put(&key, "x", 1));
    let failure = cluster.run().failure(op);
    assert_eq!((failure.kind, failure.retry), (FailureKind::QuorumUnmet, true));
    assert_eq!((failure.needed, failure.outcome), (2, Some(WriteOutcome::NotApplied)));
    let unreachable = [node("b"), node("c")].map(|node| (node, FailedWhy::Unreachable));
    assert_eq!(failure.failed, unreachable);
    assert!(cluster.queue.is_empty() && cluster.converged(&key).is_empty());
    let mut one = put(&key, "x", 1);
    if let Operation::Put { w, consistency, .. } = &mut one {
        (*w, *consistency) = (Some(Level::One), Some(Consistency::Sloppy));
    }
    let done = settle(&mut cluster, "a", one);
    assert_eq!((done.acked, done.guarantee), (vec![node("a")], Guarantee::Eventual));
}

#[test]
fn a_quorum_lost_on_the_way_is_told_at_once_and_unknown() {
    let (mut cluster, key) = cluster(2, 2);
    let op = cluster.hold("ba ca").begin("a", put(&key, "x", 1));
    cluster.run().stop("b");
    assert_eq!(cluster.result(op), None, "c may still answer");
    let failure = cluster.stop("c").failure(op);
    assert_eq!((failure.outcome, failure.acked), (Some(WriteOutcome::Unknown), vec![node("a")]));
}

#[test]
fn more_than_n_is_a_usage_error() {
    let (mut cluster, key) = cluster(2, 2);
    let mut all = put(&key, "x", 1);
    if let Operation::Put { w, .. } = &mut all {
        *w = Some(Level::Count(4));
    }
    let op = cluster.begin("a", all);
    let failure = cluster.failure(op);
    assert!(matches!(failure.kind, FailureKind::Usage(_)), "{failure:?}");
    assert_eq!((failure.retry, failure.outcome), (false, Some(WriteOutcome::NotApplied)));
}

#[test]
fn a_node_that_owns_no_replica_does_not_coordinate() {
    let mut cluster = Cluster::of(4, (3, 2, 2));
    let owns = |key: &bytes::Bytes| {
        cluster.preferences.of_slot(crate::ring::Token::of(key).slot()).owns(node("d"))
    };
    let mut keys = (0..).map(|number| bytes::Bytes::from(format!("{number}")));
    let key = keys.find(|key| !owns(key)).unwrap();
    let op = cluster.begin("d", put(&key, "x", 1));
    assert_eq!(cluster.failure(op).kind, FailureKind::NotCoordinator);
}

#[test]
fn a_write_past_the_sibling_cap_is_refused_before_it_is_applied() {
    let (mut cluster, key) = cluster(2, 2);
    for counter in 1..=SIBLINGS_MAX as u64 {
        settle(&mut cluster, "a", put_on(&key, "x", counter, PutBasis::Blind));
    }
    let op = cluster.begin("a", put_on(&key, "x", 1_000, PutBasis::Blind));
    let failure = cluster.run().failure(op);
    assert_eq!(failure.kind, FailureKind::TooManySiblings);
    assert_eq!(failure.outcome, Some(WriteOutcome::NotApplied));
    settle(&mut cluster, "a", put(&key, "one", 1_001));
    assert_eq!(values(&cluster.converged(&key)), "one");
}

#[test]
fn a_full_disk_at_the_coordinator_is_named() {
    let (mut cluster, key) = cluster(2, 2);
    let op = cluster.begin("a", put(&key, "x", 1));
    let Some(Message { body: Body::Mint { op: mint, .. }, .. }) = cluster.queue.pop() else {
        panic!("no mint")
    };
    cluster
        .handle(node("a"), Input::Failed { from: node("a"), op: mint, why: FailedWhy::DiskFull });
    let failure = cluster.failure(op);
    assert_eq!(
        (failure.kind, failure.outcome),
        (FailureKind::DiskFull, Some(WriteOutcome::NotApplied))
    );
}

/// A request that goes on under a newer layout starts from nothing: no answer given under the older one counts.
#[test]
fn a_new_layout_asks_for_every_acknowledgement_again() {
    let (mut cluster, key) = cluster(2, 2);
    let op = cluster.hold("ba ca").begin("a", put(&key, "x", 1));
    cluster.run().handle(node("a"), Input::LayoutChanged);
    // The answers under the older layout come first.
    cluster.hold("ab ac").release("ba ca").run();
    assert_eq!(cluster.result(op), None);
    cluster.release("ab").run();
    let done = cluster.done(op);
    assert_eq!((done.dot, done.acked), (Some(dot("a1")), vec![node("a"), node("b")]));
}

/// A mint on its way when the layout changes is not asked for twice.
#[test]
fn a_new_layout_waits_for_the_mint_under_way() {
    let (mut cluster, key) = cluster(2, 2);
    cluster.node("b").states.insert(key.clone(), state("b7:old"));
    let op = cluster.begin("a", put(&key, "new", 1));
    cluster.handle(node("a"), Input::LayoutChanged);
    cluster.run();
    assert_eq!(cluster.done(op).dot, Some(dot("a2")));
    assert_eq!(values(&cluster.converged(&key)), "new");
}

#[test]
fn an_owner_of_an_older_layout_is_asked_again() {
    let (mut cluster, key) = cluster(2, 2);
    let op = cluster.stop("c").hold("ba").begin("a", put(&key, "x", 1));
    cluster.run();
    for message in &mut cluster.queue {
        if let Body::Reply(Input::Answer { answer, .. }) = &mut message.body {
            *answer = Answer::Refused(Refusal::Layout { have: 1 });
        }
    }
    cluster.release("ba").run();
    assert_eq!(cluster.result(op), None, "it may catch up");
    cluster.pass(Duration::from_millis(60)).run();
    assert_eq!(cluster.done(op).acked, [node("a"), node("b")]);
}

#[test]
fn nothing_is_kept_of_a_finished_put() {
    let (mut cluster, key) = cluster(2, 2);
    settle(&mut cluster, "a", put(&key, "x", 1));
    assert_eq!(cluster.node("a").coordinator.in_flight(), 0);
}

#[test]
fn past_the_cap_a_further_operation_is_refused() {
    let (mut cluster, key) = cluster(2, 2);
    cluster.hold("aa");
    for counter in 0..OPERATIONS_MAX as u64 {
        cluster.begin("a", put(&key, "x", counter));
    }
    let op = cluster.begin("a", put(&key, "x", 1 << 40));
    assert_eq!(cluster.failure(op).kind, FailureKind::Overloaded);
}
