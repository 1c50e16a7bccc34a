//! Disks that hold less than they once did: volumes put back from a snapshot, logs with a hole.

use std::path::{Path, PathBuf};
use std::time::Duration;

use kvkit::replication::{Guarantee, Level};
use kvkit::storage::Vfs;
use kvkit::storage::offline::salvage_log;
use kvkit::storage::vfs::simulated::Unsynced;
use kvkit::version::Siblings;
use kvkit::wire::client::{Change, Get, PutBasis, ReplyBody, RequestBody};

use super::{COMPARED, KEY, SETTLED, Script, Setup, check_quorum_unmet};
use crate::network::Node;
use crate::replica::DIRECTORY;

/// Long enough for gossip to go round, and for all that was seen to be kept.
const GOSSIPED: Duration = Duration::from_secs(5);
/// A value that stands out in a log.
const LOST: &str = "what the log loses";

/// A snapshot of a running node's volume, and then a write that the others hear of.
fn snapshot_and_write(script: &mut Script, node: Node) {
    script.put(node, "old", PutBasis::Present);
    script.world.pass(GOSSIPED);
    script.world.snapshot(node);
    script.put(node, "new", PutBasis::Present);
    script.world.pass(GOSSIPED);
    assert!(script.world.would_notice(node), "all others saw how far it got");
}

/// A get of one replica, without any promise.
#[track_caller]
fn loosely(script: &mut Script, node: Node) -> (Siblings, Guarantee) {
    let consistency = Some(kvkit::replication::Consistency::Sloppy);
    let get = Get { key: KEY, r: Some(Level::One), consistency };
    match script.call(node, RequestBody::Get(get)) {
        ReplyBody::Got(got) => (got.state, got.guarantee),
        other => panic!("{other:?}"),
    }
}

/// V5: snapshot of a running node's volume, more writes, crash, volume restored; its start count looks newer than any.
#[test]
fn a_restored_volume_is_noticed_and_refilled_and_repeats_no_dot() {
    let mut script = Script::new(2, 2);
    let [a, b, c] = script.owners();
    snapshot_and_write(&mut script, a);
    let newest = script.held(a);
    script.world.roll_back(a);
    script.world.start(a);
    assert_ne!(script.held(a), newest, "its disk holds what it held at the snapshot");
    script.world.pass(SETTLED);
    assert!(script.world.rolled_back.is_empty() && !script.world.is_running(a), "noticed");
    script.world.start(a);
    script.world.pass(SETTLED);
    let later = script.put(a, "later", PutBasis::Present);
    let is_older = |dot: &kvkit::version::Dot| dot.actor != later.actor;
    assert!(newest.versions().keys().all(is_older), "under an epoch of its own: {later:?}");
    script.world.pass(COMPARED);
    for node in [a, b, c] {
        assert_eq!(script.held(node).versions().keys().collect::<Vec<_>>(), [&later]);
    }
    script.sound();
}

/// V5, where nobody can be asked at first: nothing is promised until then, and starts in between change nothing.
#[test]
fn a_restored_volume_promises_nothing_before_it_is_compared_and_is_noticed_by_a_later_start() {
    let mut script = Script::new(2, 2);
    let [a, ..] = script.owners();
    snapshot_and_write(&mut script, a);
    script.world.roll_back(a);
    script.isolate(a);
    for _ in 0..3 {
        script.world.start(a);
        script.world.pass(SETTLED);
        let reply = script.get(a, Some(Level::One));
        check_quorum_unmet(&reply);
        let (state, guarantee) = loosely(&mut script, a);
        assert_eq!((state.versions().len(), guarantee), (1, Guarantee::Eventual));
        script.world.kill(a, Unsynced::Kept);
    }
    script.world.start(a);
    script.heal();
    assert!(script.world.rolled_back.is_empty(), "noticed");
    script.world.start(a);
    script.heal();
    script.sound();
}

/// A disk that is as it was is compared at once, and nobody is told otherwise.
#[test]
fn a_disk_as_it_was_is_compared_by_half_of_the_others() {
    let mut script = Script::new(2, 2);
    let [a, _, c] = script.owners();
    script.put(a, "1", PutBasis::Present);
    script.world.pass(GOSSIPED);
    for unsynced in [Unsynced::Kept, Unsynced::Dropped, Unsynced::Torn] {
        script.world.kill(a, unsynced);
        script.isolate(c);
        script.world.start(a);
        script.world.pass(SETTLED);
        assert_eq!(script.state(a, None).versions().len(), 1);
        script.heal();
    }
    script.sound();
}

/// L11: {A, X} choose v+1; X's volume is restored; {B, X} choose another v+1.
#[test]
fn a_restored_member_does_not_vote_twice() {
    let mut script = Script::new(2, 2);
    let [x, a, b] = script.owners();
    snapshot_and_write(&mut script, x);
    script.isolate(b);
    let renamed = |script: &Script, node: Node, to: &str| {
        let from = script.world.replicas[node].identity.name.clone();
        RequestBody::Propose { expect: 1, change: Change::Rename { from, to: to.to_owned() } }
    };
    let body = renamed(&script, a, "first");
    assert_eq!(script.call(a, body), ReplyBody::Chosen { version: 2 });
    script.world.roll_back(x);
    script.world.mend();
    script.isolate(a);
    script.world.start(x);
    script.world.pass(SETTLED);
    assert!(script.world.rolled_back.is_empty(), "b saw how far x got");
    script.world.start_if_down(x);
    let body = renamed(&script, b, "second");
    let reply = script.call(b, body);
    check_quorum_unmet(&reply);
    script.heal();
    script.world.pass(COMPARED);
    for node in [x, a, b] {
        match script.call(node, RequestBody::Layout) {
            ReplyBody::Layout(reply) => {
                assert_eq!(reply.layout.version, 2);
                assert!(reply.layout.now.named("first").is_some(), "the one that was chosen");
            }
            other => panic!("{other:?}"),
        }
    }
    script.sound();
}

/// Where `text` stands in a log segment of the node.
fn logged(script: &Script, node: Node, text: &str) -> (PathBuf, u64) {
    let disk = &script.world.replicas[node].disk;
    let dir = Path::new(DIRECTORY).join("log");
    let logs = disk.files().into_iter().filter(|(path, _)| path.parent() == Some(&dir));
    let mut found = logs.filter_map(|(path, length)| {
        let mut bytes = vec![0; usize::try_from(length).unwrap()];
        disk.open(&path).unwrap().read_at(&mut bytes, 0).unwrap();
        let at = bytes.windows(text.len()).position(|window| window == text.as_bytes())?;
        Some((path, u64::try_from(at).unwrap()))
    });
    found.next_back().expect("it is in the log")
}

/// R3: a salvaged log has a hole before its end; no peer notices.
#[test]
fn a_salvaged_log_makes_a_node_that_lost_its_disk() {
    let mut script = Script::with(Setup::new(2, 2).without_hints());
    let [a, b, c] = script.owners();
    script.isolate(c);
    let kept = script.put(a, LOST, PutBasis::Present);
    script.world.pass(SETTLED);
    script.world.kill(a, Unsynced::Kept);
    let (log, offset) = logged(&script, a, LOST);
    let disk = script.world.replicas[a].disk.clone();
    disk.flip_bit(&log, offset, 0).unwrap();
    let saved = Path::new("/saved");
    disk.create_dir(saved).unwrap();
    let mut lost = 0;
    let salvaged = salvage_log(&disk, &log, Some(saved), &mut |_| lost += 1).unwrap();
    assert_eq!(lost, 1, "the record of the put");
    disk.rename(&salvaged.file, &log).unwrap();
    for dir in [saved, log.parent().unwrap()] {
        disk.sync_dir(dir).unwrap();
    }
    // Only c, which missed the put, can be asked.
    script.world.mend();
    script.world.start_if_down(a);
    assert!(!script.world.is_running(a), "all it holds is set aside");
    while !script.world.is_running(a) {
        script.world.pass(Duration::from_millis(1));
    }
    script.isolate(b);
    script.world.pass(SETTLED);
    super::repair::check_refills(&mut script, [a, c], &kept);
    script.sound();
}
