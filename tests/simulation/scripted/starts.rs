//! Starts: a dot names one write, whatever became of the directory that it was minted in.

use std::time::Duration;

use kvkit::replication::Level;
use kvkit::storage::vfs::simulated::{Disk, Unsynced};
use kvkit::wire::client::PutBasis;
use kvkit::wire::handshake::{RefusalCode, Role, Welcome};

use super::{DOWN, NEVER, SETTLED, Script};
use crate::network::Node;

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
