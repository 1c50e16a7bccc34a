//! States from elsewhere, merged at the owners of their key: an exact import, a restore.

use bytes::Bytes;

use super::harness::*;
use crate::replication::*;
use crate::version::notation::{clock, node, state};

const STRICT: Option<Consistency> = Some(Consistency::Strict);
const SLOPPY: Option<Consistency> = Some(Consistency::Sloppy);

fn merge(key: &Bytes, text: &str, w: Option<Level>, consistency: Option<Consistency>) -> Operation {
    Operation::Merge { key: key.clone(), state: state(text), w, consistency }
}

/// What each owner holds of a key after a state was merged into what `a`, `b` and `c` held.
#[track_caller]
fn check(held: [&str; 3], merged: &str, expected: &str) {
    let mut cluster = Cluster::new(3, 2, 2);
    let key = key_in_order(&cluster.preferences);
    for (name, text) in ["a", "b", "c"].into_iter().zip(held) {
        if !text.is_empty() {
            cluster.node(name).states.insert(key.clone(), state(text));
        }
    }
    let op = cluster.begin("a", merge(&key, merged, None, STRICT));
    cluster.run();
    assert_eq!(cluster.done(op).dot, None, "nothing is minted");
    assert_eq!(cluster.converged(&key), state(expected), "{held:?} and {merged}");
}

#[test]
fn a_state_is_merged_by_its_dots_and_nothing_is_minted_or_folded() {
    check(["", "", ""], "d1:x e2:y / f7", "d1:x e2:y / f7");
    check(["", "", ""], "d3:-", "d3:-");
    check(["a2:new", "a2:new", ""], "a1:old", "a2:new");
    check(["b7:mine", "", ""], "d1:theirs", "b7:mine d1:theirs");
    check(["", "b7:mine", ""], "b7:mine d1:theirs", "b7:mine d1:theirs");
    check(["d1:x", "d1:x", "d1:x"], "d1:x", "d1:x");
}

#[test]
fn it_is_done_at_w_durable_acknowledgements_whatever_r_is() {
    let mut cluster = Cluster::new(3, 3, 2);
    let key = key_in_order(&cluster.preferences);
    let op = cluster.hold("ba ca").begin("a", merge(&key, "d1:x", None, STRICT));
    cluster.run();
    assert_eq!(cluster.result(op), None, "one owner is no quorum");
    cluster.release("ba").run();
    let done = cluster.done(op);
    assert_eq!((done.acked, done.needed), (vec![node("a"), node("b")], 2));
    assert_eq!((done.siblings, done.clock), (1, clock("d1")));
}

#[test]
fn without_a_quorum_nothing_is_sent() {
    let mut cluster = Cluster::new(3, 2, 2);
    let key = key_in_order(&cluster.preferences);
    cluster.stop("b").stop("c");
    let op = cluster.begin("a", merge(&key, "d1:x", None, STRICT));
    cluster.run();
    assert_eq!(cluster.failure(op).outcome, Some(WriteOutcome::NotApplied));
    assert!(cluster.state("a", &key).is_empty());
}

#[test]
fn who_stands_in_keeps_the_state_as_a_hint_that_counts() {
    let mut cluster = Cluster::of(4, (3, 2, 2));
    let key = key_in_order_before(&cluster.preferences, "d", |_| true);
    cluster.stop("c");
    let op = cluster.begin("a", merge(&key, "e1:x", Some(Level::All), SLOPPY));
    cluster.run();
    assert_eq!(cluster.done(op).stand_ins, [(node("c"), node("d"))]);
    assert_eq!(cluster.hints("d", &key), [(node("c"), 3)]);
    cluster.start("c").hand_over("d");
    assert_eq!(cluster.state("c", &key), state("e1:x"));
}

#[test]
fn where_no_owner_can_be_reached_a_stand_in_coordinates() {
    let mut cluster = Cluster::of(5, (3, 2, 2));
    let key = key_in_order_before(&cluster.preferences, "d", |_| true);
    for owner in ["a", "b", "c"] {
        cluster.stop(owner);
    }
    let op = cluster.begin("d", merge(&key, "a1:x", None, SLOPPY));
    cluster.run();
    assert_eq!(cluster.done(op).stand_ins.len(), 2);
    let mut held = [cluster.hints("d", &key), cluster.hints("e", &key)].concat();
    held.sort();
    // Each stands in for another owner; what is kept for the third counts for nothing.
    assert_eq!(held, [(node("a"), 2), (node("b"), 2), (node("c"), 0)]);
}

#[test]
fn while_a_change_runs_both_sets_of_owners_get_it() {
    let majority = (3, 2, 2);
    let mut cluster = Cluster::changing(("abc", majority), ("bcd", majority));
    let key = key_in_order(&cluster.preferences);
    let op = cluster.hold("ca da").begin("a", merge(&key, "e1:x", None, STRICT));
    cluster.run();
    assert_eq!(cluster.result(op), None, "one of the two who own it next is no quorum");
    cluster.release("da").run();
    cluster.done(op);
    assert_eq!(cluster.state("d", &key), state("e1:x"));
}

/// An owner that took part in a cut meanwhile refuses what was begun before it; the next try goes under the new number.
#[test]
fn what_a_cut_overtook_fails_and_may_be_tried_again() {
    let mut cluster = Cluster::new(3, 2, 2);
    let key = key_in_order(&cluster.preferences);
    let op = cluster.hold("aa ba ca").begin("a", merge(&key, "d1:x", None, STRICT));
    let answers = cluster.queue.iter().filter_map(|message| match &message.body {
        Body::Ask { op, .. } => Some((message.to, *op)),
        Body::Mint { .. } | Body::Reply(_) => None,
    });
    let answers: Vec<_> = answers.collect();
    cluster.queue.clear();
    for (from, address) in answers {
        let slot = crate::ring::Token::of(&key).slot();
        let answer = Answer::Refused(Refusal::Cut { slot, number: 1 });
        cluster.handle(node("a"), Input::Answer { from, op: address, answer });
    }
    let failure = cluster.failure(op);
    assert!(failure.retry && failure.failed.iter().any(|(_, why)| *why == FailedWhy::Cut));
}
