//! Gets and inspections.

use bytes::Bytes;

use super::harness::*;
use crate::replication::Consistency::{Sloppy, Strict};
use crate::replication::*;
use crate::version::notation::{node, state};

const ONE: Option<Level> = Some(Level::One);

/// A cluster whose owners `a`, `b`, … hold these states of a key.
fn holding((r, w): (u8, u8), states: &[&str]) -> (Cluster, Bytes) {
    let mut cluster = Cluster::new(u8::try_from(states.len()).unwrap(), r, w);
    let key = key_in_order(&cluster.preferences);
    for (name, held) in ["a", "b", "c", "d", "e"].into_iter().zip(states) {
        if !held.is_empty() {
            cluster.node(name).states.insert(key.clone(), state(held));
        }
    }
    (cluster, key)
}

/// A get at `a` that settles at once, and how it was answered.
#[track_caller]
fn check(
    quorum: (u8, u8),
    states: &[&str],
    level: Option<Level>,
    consistency: Consistency,
    expected: (&str, Guarantee),
) -> (Cluster, Got) {
    let (mut cluster, key) = holding(quorum, states);
    let op = cluster.begin("a", get(&key, level, consistency));
    let got = cluster.run().got(op);
    assert_eq!((values(&got.state).as_str(), got.guarantee), expected, "{got:?}");
    (cluster, got)
}

#[test]
fn owners_that_agree_answer_at_once() {
    let (_, got) = check((2, 2), &["a1:x", "a1:x", ""], None, Sloppy, ("x", Guarantee::Strict));
    assert_eq!((got.answered, got.needed), (vec![node("a"), node("b")], 2));
    assert_eq!((got.absent, got.stale), (0, vec![]));
}

#[test]
fn not_found_counts_like_any_answer_and_is_told() {
    let (_, got) = check((2, 2), &["", "", "a1:x"], None, Strict, ("", Guarantee::Strict));
    assert_eq!((got.absent, got.needed), (2, 2));
    let (_, got) = check((2, 2), &["a1:-", "a1:-", ""], None, Strict, ("-", Guarantee::Strict));
    assert_eq!(got.absent, 2);
}

#[test]
fn labels_say_what_the_answer_promises() {
    let agreed = ["a1:x", "a1:x", "a1:x"];
    check((2, 2), &agreed, ONE, Sloppy, ("x", Guarantee::Eventual));
    check((2, 3), &agreed, ONE, Sloppy, ("x", Guarantee::Overlap));
    check((1, 3), &agreed, ONE, Sloppy, ("x", Guarantee::Overlap));
    check((1, 3), &agreed, Some(Level::All), Sloppy, ("x", Guarantee::Strict));
    check((1, 3), &agreed, ONE, Strict, ("x", Guarantee::Strict));
    check((3, 1), &agreed, Some(Level::All), Sloppy, ("x", Guarantee::Strict));
    check((1, 1), &agreed, None, Sloppy, ("x", Guarantee::Eventual));
}

#[test]
fn states_that_differ_are_merged_and_written_back_before_the_answer() {
    let (mut cluster, key) = holding((2, 2), &["a1:x", "b1:y", ""]);
    let op = cluster.hold("aa").begin("a", get(&key, None, Strict));
    cluster.run().release("aa").hold("ab");
    cluster.run();
    assert_eq!(cluster.result(op), None, "the merge is held nowhere but at a");
    let got = cluster.release("ab").run().got(op);
    assert_eq!((values(&got.state).as_str(), got.guarantee), ("x y", Guarantee::Strict));
    assert_eq!(got.stale, [node("a"), node("b")]);
    for name in ["a", "b"] {
        assert_eq!(values(&cluster.state(name, &key)), "x y", "at {name}");
    }
}

/// Q1 with N=3, R=1, W=3: get1 reads A, where a put stands half-written; get2 reads B.
#[test]
fn a_half_written_put_once_read_is_read_by_every_later_strict_get() {
    let (mut cluster, key) = holding((1, 3), &["a1:x", "", ""]);
    let op = cluster.begin("a", get(&key, None, Strict));
    assert_eq!(values(&cluster.run().got(op).state), "x");
    for name in ["b", "c"] {
        let op = cluster.begin(name, get(&key, None, Strict));
        assert_eq!(values(&cluster.run().got(op).state), "x", "at {name}");
    }
    let (mut cluster, key) = holding((1, 3), &["a1:x", "", ""]);
    let op = cluster.stop("c").begin("a", get(&key, None, Strict));
    let failure = cluster.run().failure(op);
    assert_eq!((failure.kind, failure.outcome), (FailureKind::QuorumUnmet, None));
}

/// Q1 with N=4, R=2, W=3: {A, B} agree on a half-written put, then {C, D} are read.
#[test]
fn agreement_of_r_owners_is_not_enough_where_more_must_hold_the_answer() {
    let (cluster, got) =
        check((2, 3), &["a1:x", "a1:x", "", ""], None, Strict, ("x", Guarantee::Strict));
    assert_eq!(got.needed, 3);
    let key = key_in_order(&cluster.preferences);
    assert_eq!(values(&cluster.state("c", &key)), "x");
}

/// A get with R above the layout's needs no fewer holders: the next one may read as few as the layout's r.
#[test]
fn a_larger_r_does_not_lower_the_holders_that_are_needed() {
    let (mut cluster, key) = holding((2, 2), &["a1:x", "", ""]);
    let op = cluster.begin("a", get(&key, Some(Level::All), Strict));
    while cluster.result(op).is_none() {
        cluster.deliver(0);
    }
    assert_eq!(values(&cluster.got(op).state), "x");
    cluster.queue.clear();
    let op = cluster.stop("a").begin("b", get(&key, None, Strict));
    assert_eq!(values(&cluster.run().got(op).state), "x");
}

#[test]
fn an_owner_that_fails_is_replaced_at_once() {
    let (mut cluster, key) = holding((2, 2), &["a1:x", "", "a1:x"]);
    let op = cluster.hold("ab").begin("a", get(&key, None, Strict));
    cluster.run();
    let got = cluster.stop("b").run().got(op);
    assert_eq!(got.answered, [node("a"), node("c")]);
}

#[test]
fn an_owner_that_is_silent_is_hedged_and_repaired_when_it_answers_late() {
    let (mut cluster, key) = holding((2, 2), &["a1:x", "", "a1:x"]);
    let op = cluster.hold("ab").begin("a", get(&key, None, Strict));
    assert_eq!(cluster.run().result(op), None);
    let got = cluster.pass(PATIENCE).run().got(op);
    assert_eq!(got.answered, [node("a"), node("c")]);
    assert_eq!(cluster.node("a").coordinator.in_flight(), 1, "b may answer yet");
    cluster.release("ab").run();
    assert_eq!(values(&cluster.state("b", &key)), "x");
    assert_eq!(cluster.node("a").coordinator.in_flight(), 0);
}

#[test]
fn late_answers_are_waited_for_until_the_deadline_only() {
    let (mut cluster, key) = holding((2, 2), &["a1:x", "", "a1:x"]);
    let op = cluster.hold("ab").begin("a", get(&key, None, Strict));
    cluster.run().pass(PATIENCE).run().got(op);
    cluster.pass(TIMEOUT);
    assert_eq!(cluster.node("a").coordinator.in_flight(), 0);
}

/// The state is asked for where it was promised; when that owner is silent, another one is asked for its own.
#[test]
fn a_silent_first_owner_does_not_hold_up_the_state() {
    let (mut cluster, key) = holding((2, 2), &["a1:x", "a1:x", "a1:x"]);
    let op = cluster.hold("aa").begin("a", get(&key, None, Strict));
    let got = cluster.run().pass(PATIENCE).run().got(op);
    assert_eq!((values(&got.state).as_str(), got.answered), ("x", vec![node("b"), node("c")]));
}

/// Having told its digest, an owner dies before it tells its state.
#[test]
fn an_owner_that_told_its_digest_only_is_replaced() {
    let (mut cluster, key) = holding((2, 2), &["a1:x", "b1:y", "a1:x"]);
    let op = cluster.begin("a", get(&key, None, Strict));
    for _ in 0..4 {
        cluster.deliver(0);
    }
    let got = cluster.stop("b").run().got(op);
    assert_eq!((values(&got.state).as_str(), got.answered), ("x", vec![node("a"), node("c")]));
}

#[test]
fn the_merge_is_written_to_another_owner_where_a_stale_one_dies() {
    let (mut cluster, key) = holding((2, 2), &["a1:x", "", ""]);
    let op = cluster.begin("a", get(&key, None, Strict));
    while !cluster
        .queue
        .iter()
        .any(|message| matches!(message.body, Body::Ask { request: Request::Merge { .. }, .. }))
    {
        cluster.deliver(0);
    }
    let got = cluster.stop("b").run().got(op);
    assert_eq!(values(&got.state), "x");
    assert_eq!(values(&cluster.state("c", &key)), "x");
}

/// What cannot be held in time: a strict get fails, a sloppy one answers and says so.
#[test]
fn a_merge_that_cannot_be_held_is_told_as_such() {
    for consistency in [Strict, Sloppy] {
        let (mut cluster, key) = holding((2, 2), &["a1:x", "", ""]);
        let op = cluster.begin("a", get(&key, None, consistency));
        while !cluster
            .queue
            .iter()
            .any(|message| matches!(message.body, Body::Ask { request: Request::Merge { .. }, .. }))
        {
            cluster.deliver(0);
        }
        cluster.hold("ab ac").run().pass(TIMEOUT);
        match consistency {
            Strict => {
                let failure = cluster.failure(op);
                assert_eq!((failure.needed, failure.acked), (2, vec![node("a")]));
            }
            Sloppy => assert_eq!(cluster.got(op).guarantee, Guarantee::Overlap),
        }
    }
}

#[test]
fn corrupt_owners_are_named() {
    let (mut cluster, key) = holding((2, 2), &["a1:x", "a1:x", "a1:x"]);
    let op = cluster.hold("ba ca").begin("a", get(&key, None, Strict));
    for name in ["b", "c"] {
        cluster.run();
        for message in &mut cluster.queue {
            if let Body::Reply(Input::Answer { from, answer, .. }) = &mut message.body
                && *from == node(name)
            {
                *answer = Answer::Refused(Refusal::Corrupt);
            }
        }
        let link = format!("{name}a");
        cluster.release(&link).run().hold(&link);
    }
    let failure = cluster.failure(op);
    assert_eq!((failure.kind, failure.acked), (FailureKind::Corrupt, vec![node("a")]));
    assert_eq!(failure.failed.len(), 2);
}

#[test]
fn a_get_goes_on_under_a_new_layout_from_nothing() {
    let (mut cluster, key) = holding((2, 2), &["a1:x", "a1:x", "a1:x"]);
    let op = cluster.hold("ba ca").begin("a", get(&key, None, Strict));
    cluster.run().handle(node("a"), Input::LayoutChanged);
    cluster.hold("ab ac").release("ba ca").run();
    assert_eq!(cluster.result(op), None, "b answered under the older layout");
    cluster.release("ab ac").run().got(op);
}

#[test]
fn an_inspection_lists_every_owner_in_preference_order() {
    let (mut cluster, key) = holding((2, 2), &["a1:x", "", "c1:y"]);
    let op = cluster.stop("b").hold("ac").begin("a", Operation::Inspect { key });
    cluster.run().pass(TIMEOUT);
    let expected = vec![
        (node("a"), Ok(state("a1:x"))),
        (node("b"), Err(FailedWhy::Unreachable)),
        (node("c"), Err(FailedWhy::Timeout)),
    ];
    assert_eq!(cluster.result(op), Some(&Ok(Outcome::Inspected(expected))));
}

#[test]
fn a_peer_that_is_silent_while_others_answer_is_asked_last() {
    let (mut cluster, key) = holding((2, 2), &["a1:x", "a1:x", "a1:x"]);
    cluster.silent.insert(node("b"));
    let op = cluster.hold("ab").begin("a", get(&key, None, Strict));
    assert_eq!(cluster.run().got(op).answered, [node("a"), node("c")]);
    cluster.stop("c");
    let op = cluster.begin("a", get(&key, None, Strict));
    cluster.release("ab").run();
    assert_eq!(cluster.got(op).answered, [node("a"), node("b")], "better late than never");
}

#[test]
fn who_stands_in_for_a_silent_owner_answers_for_it() {
    let mut cluster = Cluster::of(4, (3, 2, 2));
    let key = key_in_order_before(&cluster.preferences, "d", |_| true);
    cluster.silent.extend([node("b"), node("c")]);
    let op = cluster.hold("ab ac").begin("a", get(&key, None, Sloppy));
    cluster.run();
    for _ in 0..4 {
        cluster.pass(PATIENCE).run();
    }
    assert_eq!(cluster.got(op).stand_ins, [(node("b"), node("d"))]);
}

/// Hedges are paid for: where every answer is slow, extra questions stay few.
#[test]
fn at_most_one_question_in_twenty_is_an_extra_one() {
    let (mut cluster, key) = holding((1, 1), &["", "", ""]);
    cluster.hold("aa ab ac");
    let gets = 400;
    for _ in 0..gets {
        cluster.begin("a", get(&key, ONE, Sloppy));
        cluster.pass(2 * PATIENCE);
    }
    let asked = cluster.queue.len();
    assert!((gets + 20..=gets + 20 + gets / 20).contains(&asked), "{asked} questions");
}

#[test]
fn a_get_that_compares_all_brings_every_owner_up_to_date() {
    let (mut cluster, key) = holding((1, 1), &["d1:x", "d2:y", ""]);
    let Operation::Get { r, consistency, .. } = get(&key, ONE, Sloppy) else { unreachable!() };
    let all = Operation::Get { key: key.clone(), r, consistency, compares_all: true };
    let op = cluster.begin("a", all);
    cluster.run();
    assert_eq!(values(&cluster.got(op).state), "x", "the reply waits for nobody");
    let expected = cluster.converged(&key);
    for name in ["a", "b", "c"] {
        assert_eq!(cluster.state(name, &key), expected, "{name}");
    }
    assert_eq!(cluster.node("a").coordinator.in_flight(), 0);
}
