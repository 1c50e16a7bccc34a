//! Snapshots as an operator asks for them, on real Cores.

use std::time::Duration;

use super::Alone;
use super::cluster::Cluster;
use crate::node::{Effect, Event, SnapshotNews, SnapshotWork};
use crate::wire::client::{
    ErrorCode, PutBasis, ReplyBody, RequestBody, SnapshotFailure, SnapshotFailureCode,
    SnapshotPart, SnapshotReply, SnapshotRequest,
};

const KEY: &[u8] = b"k";
/// Time for rounds of cuts that pause after a no.
const FORGOTTEN: Duration = Duration::from_mins(3);

fn ask(cluster: &mut Cluster, request: SnapshotRequest) -> SnapshotReply {
    match cluster.call(0, RequestBody::Snapshot(request)).0 {
        ReplyBody::Snapshot(reply) => reply,
        other => panic!("{other:?}"),
    }
}

#[track_caller]
fn check_refused(cluster: &mut Cluster, request: SnapshotRequest, expected: ErrorCode) {
    match cluster.call(0, RequestBody::Snapshot(request)).0 {
        ReplyBody::Error(error) => assert_eq!(error.code, expected, "{error:?}"),
        other => panic!("{other:?}"),
    }
}

fn create(name: &str, id: u64, layout: u64) -> SnapshotRequest {
    SnapshotRequest::Create { name: name.to_owned(), id, layout }
}

/// Begins something, and waits for its end.
fn ended(cluster: &mut Cluster, request: SnapshotRequest) -> SnapshotReply {
    let mut reply = ask(cluster, request);
    for _ in 0..10 {
        if !matches!(reply, SnapshotReply::Working { .. }) {
            break;
        }
        cluster.pass(Duration::from_millis(10));
        reply = ask(cluster, SnapshotRequest::Progress { name: "a".to_owned() });
    }
    reply
}

#[track_caller]
fn check_failed(reply: &SnapshotReply, expected: SnapshotFailureCode) {
    match reply {
        SnapshotReply::Failed(SnapshotFailure { code, .. }) => assert_eq!(*code, expected),
        other => panic!("{other:?}"),
    }
}

fn listed(cluster: &mut Cluster) -> Vec<SnapshotPart> {
    match ask(cluster, SnapshotRequest::List) {
        SnapshotReply::List(parts) => parts,
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_part_is_made_once_the_node_holds_and_found_again() {
    let mut cluster = Cluster::new(3, (3, 2, 2));
    let body = cluster.put_body(KEY, "x", PutBasis::Present, 3);
    cluster.call(0, body);
    let name = || "a".to_owned();
    assert_eq!(
        ask(&mut cluster, SnapshotRequest::Progress { name: name() }),
        SnapshotReply::Unknown
    );
    check_refused(&mut cluster, create("a", 1, 1), ErrorCode::NotReady);
    assert!(matches!(ask(&mut cluster, SnapshotRequest::Hold), SnapshotReply::Held { .. }));
    check_refused(&mut cluster, create("a", 1, 2), ErrorCode::WrongLayout);
    check_refused(&mut cluster, create(".a", 1, 1), ErrorCode::Usage);
    assert!(matches!(ask(&mut cluster, create("a", 1, 1)), SnapshotReply::Working { .. }));
    let made = ended(&mut cluster, create("a", 1, 1));
    let SnapshotReply::Done(Some(part)) = made.clone() else { panic!("{made:?}") };
    let facts = part.state.clone().unwrap();
    assert_eq!((part.name.as_str(), facts.layout, facts.keys), ("a", 1, 1));
    assert_eq!(listed(&mut cluster), [part]);

    assert_eq!(ended(&mut cluster, create("a", 1, 1)), made);
    check_failed(&ended(&mut cluster, create("a", 2, 1)), SnapshotFailureCode::Exists);
    assert_eq!(ended(&mut cluster, SnapshotRequest::Verify { name: name() }), made);
    let removed = ended(&mut cluster, SnapshotRequest::Remove { name: name() });
    assert_eq!((removed, listed(&mut cluster)), (SnapshotReply::Done(None), Vec::new()));
    let verified = ended(&mut cluster, SnapshotRequest::Verify { name: name() });
    check_failed(&verified, SnapshotFailureCode::Missing);
}

#[test]
fn one_thing_is_done_at_a_time_and_the_same_again_is_asked_about() {
    let mut alone = Alone::new(|_| {});
    let body = RequestBody::Snapshot;
    alone.call(body(SnapshotRequest::Hold));
    let working = ReplyBody::Snapshot(SnapshotReply::Working { done: 0, total: 0 });
    alone.send(0, body(create("a", 1, 1)));
    let is_asked = |effect: &Effect| matches!(effect, Effect::Snapshot(SnapshotWork::Create(_)));
    assert!(alone.effects.iter().any(is_asked));
    alone.sync();
    assert_eq!(alone.reply(), Some(working.clone()));
    alone.check_error(body(create("b", 1, 1)), ErrorCode::Overloaded);
    let name = "a".to_owned();
    alone.check_error(body(SnapshotRequest::Remove { name }), ErrorCode::Overloaded);
    alone.send(0, body(create("a", 1, 1)));
    assert!(!alone.effects.iter().any(is_asked), "it is being made already");
    assert_eq!(alone.reply(), Some(working));
    alone.feed(Event::Snapshot(SnapshotNews::Step { done: 3, total: 9 }));
    let progress = SnapshotRequest::Progress { name: "a".to_owned() };
    let step = ReplyBody::Snapshot(SnapshotReply::Working { done: 3, total: 9 });
    assert_eq!(alone.call(body(progress)), step);
}

#[test]
fn a_hold_ends_by_itself() {
    let mut cluster = Cluster::new(1, (1, 1, 1));
    ask(&mut cluster, SnapshotRequest::Hold);
    cluster.pass(Duration::from_secs(29));
    assert!(matches!(ended(&mut cluster, create("a", 1, 1)), SnapshotReply::Done(Some(_))));
    cluster.pass(Duration::from_secs(2));
    check_refused(&mut cluster, create("b", 1, 1), ErrorCode::NotReady);
}

#[test]
fn no_delete_is_forgotten_while_one_member_holds() {
    let mut cluster = Cluster::new(3, (3, 2, 2));
    let body = cluster.put_body(KEY, "x", PutBasis::Present, 3);
    cluster.call(0, body);
    let mut body = cluster.put_body(KEY, "", PutBasis::Present, 3);
    if let RequestBody::Put(put) = &mut body {
        put.value = None;
    }
    cluster.call(0, body);
    ask(&mut cluster, SnapshotRequest::Hold);
    for _ in 0..12 {
        cluster.pass(Duration::from_secs(15));
        ask(&mut cluster, SnapshotRequest::Hold);
    }
    assert!((0..3).all(|node| !cluster.stored(node, KEY).is_empty()), "forgotten all the same");
    cluster.pass(FORGOTTEN);
    assert!((0..3).all(|node| cluster.stored(node, KEY).is_empty()), "kept for ever");
}
