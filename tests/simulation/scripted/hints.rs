//! Hinted handoff: what stand-ins acknowledged outlives them.

use std::time::Duration;

use kvkit::replication::Consistency;
use kvkit::storage::vfs::simulated::Unsynced;
use kvkit::wire::client::PutBasis;

use super::{DOWN, KEY, Script, Setup, done};

/// How long a hint waits for its target alone.
const TTL: Duration = Duration::from_secs(5);

/// H3: both acknowledgements of a put with W=2 are stand-ins'. One owner comes back, and past their patience both hand
/// the put to it; its disk alone must not be what is left of the two.
#[test]
fn a_hint_that_counted_stays_until_as_many_owners_hold_it_as_acknowledged_it() {
    let mut script = Script::with(Setup { nodes: 5, hints_ttl: TTL, ..Setup::new(2, 2) });
    let owners = script.owners();
    // The hints are for the first two.
    let [_, y, z] = owners;
    let stand_ins: Vec<_> = (0..5).filter(|node| !owners.contains(node)).collect();
    for owner in owners {
        script.world.kill(owner, Unsynced::Kept);
    }
    script.world.pass(DOWN);
    let body = script.write_body(KEY, Some("v"), PutBasis::Blind, Consistency::Sloppy);
    let put = done(&script.call(stand_ins[0], body));
    let held = |script: &Script| stand_ins.iter().map(|node| script.hints_at(*node)).sum::<usize>();
    assert_eq!(
        held(&script),
        3,
        "one at each that acknowledged, and one for z that counts for nothing"
    );
    script.world.pass(TTL * 2);
    script.world.start(z);
    script.wait(DOWN, "z gets the put", |script| script.held(z).versions().contains_key(&put));
    script.world.pass(TTL * 4);
    assert_eq!(held(&script), 2, "one owner holds it, and that is not enough for the hints to go");
    script.world.wipe(z);
    script.world.start(y);
    script.wait(DOWN, "y gets the put", |script| script.held(y).versions().contains_key(&put));
    script.sound();
}
