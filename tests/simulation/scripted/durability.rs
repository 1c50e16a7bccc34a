//! Answers and the disk: what is said is durable first.

use kvkit::replication::Level;
use kvkit::storage::vfs::simulated::Unsynced;
use kvkit::wire::client::PutBasis;

use super::{NEVER, Script, check_quorum_unmet};

/// D1: A has w in its memtable, unsynced; B durable; a get at A counts both; A loses power; get from {A, C} goes back.
#[test]
fn a_get_waits_until_what_it_answers_is_durable() {
    let mut script = Script::new(2, 2);
    let [a, b, c] = script.owners();
    script.isolate(c);
    script.world.sync_delays.insert(a, NEVER);
    let body = script.put_body("w", PutBasis::Present);
    let reply = script.call(b, body);
    check_quorum_unmet(&reply);
    let reply = script.get(b, None);
    check_quorum_unmet(&reply);
    let reply = script.get(a, None);
    check_quorum_unmet(&reply);
    script.world.kill(a, Unsynced::Dropped);
    script.world.start(a);
    script.heal();
    assert_eq!(script.state(a, Some(Level::All)).versions().len(), 1, "B's durable share is found");
    script.sound();
}

/// D2: a duplicate of w merges to no change and is acknowledged before the first append is synced.
#[test]
fn a_doubled_merge_is_acknowledged_only_once_durable() {
    let mut script = Script::new(2, 2);
    let [a, b, c] = script.owners();
    script.isolate(c);
    script.world.sync_delays.insert(a, NEVER);
    script.world.network.weather.doubled = 1.0;
    let body = script.put_body("w", PutBasis::Present);
    let reply = script.call(b, body);
    check_quorum_unmet(&reply);
}
