//! Requests while something is missing: a full queue, a layout, a majority.

use std::time::Duration;

use kvkit::replication::{Consistency, Level};
use kvkit::storage::vfs::simulated::Unsynced;
use kvkit::wire::client::{Change, ErrorCode, Get, PutBasis, ReplyBody, RequestBody};

use super::{KEY, Script, check_quorum_unmet};
use crate::world::nanos;

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
