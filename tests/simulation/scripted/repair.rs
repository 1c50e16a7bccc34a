//! Anti-entropy and refilling: what owners have lost, or hold differently.

use kvkit::version::Dot;
use kvkit::wire::client::{PutBasis, ReplyBody, RequestBody};

use super::{COMPARED, KEY, SETTLED, Script, Setup, check_quorum_unmet, keep_states};
use crate::network::Node;

/// What an owner gives of a key is a part of what the other one holds, and both know the same newest version: whoever
/// compares, the other part must come across too.
#[test]
fn owners_settle_a_key_of_which_one_holds_a_part() {
    for third in 0..3 {
        let mut script = Script::with(Setup::new(1, 1).without_hints());
        let owners = script.owners();
        let behind = owners[third];
        let other = owners[(third + 1) % 3];
        script.isolate(behind);
        script.put(other, "old", PutBasis::Blind);
        script.world.mend();
        script.world.pass(SETTLED);
        script.put(behind, "new", PutBasis::Blind);
        assert_eq!(script.held(behind).versions().len(), 1, "nothing was repaired yet");
        script.world.pass(COMPARED);
        for node in owners {
            assert_eq!(script.held(node).versions().len(), 2, "n{} of {owners:?}", node + 1);
        }
    }
}

/// R2, with r=2 and w=3: a half-written version that a strict get answered; one of its two holders loses its disk. What
/// it refills from must be as many owners as a strict get may have relied on, not only as a put leaves out.
#[test]
fn an_owner_that_lost_a_half_written_version_refills_from_those_a_get_relied_on() {
    let mut script = Script::with(Setup::new(2, 3).without_hints());
    let [x, y, z] = script.owners();
    let lost = [x, y].map(|from| keep_states(&mut script, from, z, KEY));
    let body = script.put_body("half", PutBasis::Present);
    let reply = script.call(x, body);
    check_quorum_unmet(&reply);
    let read = script.state(x, None);
    assert_eq!(read.versions().len(), 1, "two owners hold it: that is enough for a strict get");
    script.world.wipe(x);
    script.world.start(x);
    // Only z, which missed it, is left to give x anything.
    script.isolate(y);
    script.world.pass(COMPARED);
    for node in [x, z] {
        let reply = script.get(node, None);
        check_quorum_unmet(&reply);
    }
    for drawer in lost {
        script.world.lose(drawer);
    }
    script.heal();
    script.world.pass(COMPARED);
    for node in [x, y, z] {
        assert_eq!(script.held(node).versions(), read.versions(), "n{}", node + 1);
    }
    script.sound();
}

/// These two, cut off from the owner that can give what one of them lost, answer no strict get; once healed, every owner
/// holds the version that was kept.
pub(super) fn check_refills(script: &mut Script, cut_off: [Node; 2], kept: &Dot) {
    for node in cut_off {
        let reply = script.get(node, None);
        check_quorum_unmet(&reply);
    }
    script.heal();
    script.world.pass(COMPARED);
    for node in script.owners() {
        assert!(script.held(node).versions().contains_key(kept), "n{}", node + 1);
    }
}

/// R1, in part: an owner whose disk was wiped knows nothing and must not say so, until it has merged what a quorum may
/// have relied on.
#[test]
fn a_wiped_owner_answers_no_strict_get_before_it_is_refilled() {
    let mut script = Script::with(Setup::new(2, 2).without_hints());
    let [a, b, c] = script.owners();
    script.isolate(c);
    let kept = script.put(a, "kept", PutBasis::Present);
    script.world.mend();
    script.world.wipe(a);
    script.world.start(a);
    // Only c, which missed the put, is left to give a anything.
    script.isolate(b);
    script.world.pass(SETTLED);
    check_refills(&mut script, [a, c], &kept);
    let later = script.put(a, "later", PutBasis::Present);
    assert_ne!(kept.actor, later.actor, "what was minted before the loss is not known any more");
    script.sound();
}

/// An owner of some of the ring lost its disk: it refills what it owns, and is done. (It wanted the rest too, which the
/// others gave and it refused, for ever; until then it compared with nobody.)
#[test]
fn an_owner_that_lost_its_disk_refills_what_it_owns_and_is_done() {
    let mut script = Script::with(Setup { nodes: 5, ..Setup::new(2, 2).without_hints() });
    let owners = script.owners();
    script.put(owners[0], "kept", PutBasis::Present);
    let stranger = (0..5).find(|node| !owners.contains(node)).unwrap();
    script.world.wipe(stranger);
    script.world.start(stranger);
    script.world.pass(COMPARED);
    match script.call(stranger, RequestBody::RepairStatus) {
        ReplyBody::Repair(repair) => assert_eq!(repair.unsound, 0, "{repair:?}"),
        other => panic!("{other:?}"),
    }
    script.sound();
}
