//! Changes of the layout that move data (DESIGN §8).

use std::time::Duration;

use kvkit::cluster::staged::{Staged, plan};
use kvkit::replication::Consistency;
use kvkit::ring::{PARTITIONS_MAX, Preferences, Ring, Token, Weight};
use kvkit::wire::client::{Change, Info, PutBasis, ReplyBody, RequestBody};
use kvkit::wire::peer::PeerMessage;

use super::{KEY, SETTLED, Script, Setup, done, get_body};
use crate::network::Node;
use crate::world::Due;

/// Long enough for what came before to say nothing about the pace.
const STOOD_STILL: Duration = Duration::from_secs(40);
/// How long a change may take once all are there.
const CHANGED: Duration = Duration::from_mins(2);

/// Four nodes, three of them owners.
fn four(r: u8, w: u8) -> Script {
    Script::with(Setup { nodes: 4, ..Setup::new(r, w).brisk() })
}

/// The owners of the key by a ring.
fn owners_by(script: &Script, ring: &Ring) -> Vec<Node> {
    let preferences = Preferences::new(ring.clone().into());
    let owners = preferences.of_slot(Token::of(&KEY).slot()).owners();
    owners.map(|id| script.world.node_of(id)).collect()
}

/// A ring in which the fourth node owns the key in the place of one that does; who loses it and who gains it.
fn moving(script: &Script) -> (Ring, Node, Node) {
    let now = &script.world.layout.now;
    let old = owners_by(script, now);
    let gainer = (0..4).find(|node| !old.contains(node)).expect("three of four own it");
    let found = old.iter().find_map(|loser| {
        let staged = Staged::Weight(script.world.id(*loser), Weight(1));
        let ring = plan(now, &[staged]).expect("a sound plan").ring;
        let new = owners_by(script, &ring);
        (!new.contains(loser) && new.contains(&gainer)).then_some((ring, *loser))
    });
    let (ring, loser) = found.expect("who owns next to nothing owns no key");
    (ring, loser, gainer)
}

impl Script {
    fn propose(&mut self, node: Node, expect: u64, change: Change) -> u64 {
        match self.call(node, RequestBody::Propose { expect, change }) {
            ReplyBody::Chosen { version } => version,
            other => panic!("{other:?}"),
        }
    }

    /// Waits until every node acts on this version.
    #[track_caller]
    fn take(&mut self, version: u64) {
        let until = self.world.now + crate::world::nanos(CHANGED);
        let nodes = 0..self.world.replicas.len();
        while !nodes
            .clone()
            .all(|node| self.world.view(node).is_some_and(|view| view.layout.version == version))
        {
            assert!(self.world.now < until, "layout {version} is not in force everywhere");
            self.world.pass(super::LOOK);
        }
        self.world.layout = self.world.view(0).expect("it runs").layout;
    }

    /// Waits until a node holds nothing of the key any more.
    #[track_caller]
    fn purged(&mut self, node: Node) {
        self.wait(CHANGED, "what is left over is dropped", |script| script.held(node).is_empty());
    }

    fn info(&mut self, node: Node) -> Info {
        let ReplyBody::Info(info) = self.call(node, RequestBody::Info) else {
            panic!("no figures")
        };
        *info
    }
}

/// L10: the only copy of an acknowledged write is with the owner that loses the key, and was cut off: it comes to the new
/// owner, and back again, and what is left over goes only then.
#[test]
fn a_write_that_only_the_loser_holds_moves_with_the_key_and_back() {
    let mut script = four(1, 1);
    let (ring, loser, gainer) = moving(&script);
    script.isolate(loser);
    let kept = script.put(loser, "only here", PutBasis::Blind);
    let before = script.world.layout.now.clone();
    script.propose(gainer, 1, Change::To(Box::new(ring)));
    script.world.pass(SETTLED);
    assert!(script.held(gainer).is_empty(), "nobody else has it");
    script.heal();
    script.take(3);
    assert!(script.held(gainer).versions().contains_key(&kept));
    script.purged(loser);
    script.propose(gainer, 3, Change::To(Box::new(before)));
    script.take(5);
    assert!(script.held(loser).versions().contains_key(&kept));
    script.purged(gainer);
    assert!(script.state(loser, None).versions().contains_key(&kept));
    script.sound();
}

/// L6: the new owners write on while who lost the key is away: what it still holds is never what they hold, and goes all
/// the same.
#[test]
fn what_is_left_over_goes_though_its_owners_have_moved_on() {
    let mut script = four(2, 2);
    let (ring, loser, gainer) = moving(&script);
    script.put(loser, "before", PutBasis::Present);
    script.propose(gainer, 1, Change::To(Box::new(ring)));
    script.take(3);
    script.isolate(loser);
    let later = script.put(gainer, "later", PutBasis::Present);
    script.heal();
    script.purged(loser);
    let state = script.state(gainer, None);
    assert_eq!(state.versions().keys().collect::<Vec<_>>(), [&later]);
    script.sound();
}

/// How much is to be copied, what came, and when it ends, is told: with no end in sight where it waits for somebody.
#[test]
fn how_far_a_change_is_is_told() {
    let mut script = four(1, 1);
    let (ring, loser, gainer) = moving(&script);
    script.put(loser, "v", PutBasis::Present);
    let change = |script: &mut Script| script.world.view(gainer).expect("it runs").change;
    assert_eq!(change(&mut script), None);
    script.isolate(loser);
    script.propose(gainer, 1, Change::To(Box::new(ring)));
    script.world.pass(STOOD_STILL);
    let Info { moving, .. } = script.info(gainer);
    assert!(moving.gains > moving.gained && moving.slots > moving.slots_gained, "{moving:?}");
    assert_eq!(moving.slots, PARTITIONS_MAX / script.world.layout.now.q * moving.gains);
    assert_eq!((moving.rate, moving.left), (0, None));
    let told = change(&mut script).expect("it runs");
    assert!(
        told.ready < told.gainers && Duration::from_micros(told.since) >= STOOD_STILL / 2,
        "{told:?}"
    );

    script.heal();
    script.take(3);
    let Info { counters, moving, .. } = script.info(gainer);
    assert!(counters["gained_keys"] > 0 && counters["gained_bytes"] > 0, "{counters:?}");
    assert!(counters["gained_partitions"] > 0, "{counters:?}");
    assert_eq!((moving.gains, moving.slots, moving.left), (0, 0, Some(0)));
    assert_eq!(change(&mut script), None);
    script.purged(loser);
    let Info { counters, moving, .. } = script.info(loser);
    assert!(counters["purged_slots"] > 0, "{counters:?}");
    assert_eq!((moving.left_over, moving.left_over_found, moving.left_over_left), (0, 0, Some(0)));
    script.sound();
}

/// L8: who gains the key is gone. Sloppy writes need the owners that were, and the change can be given up without it.
#[test]
fn a_change_whose_gainer_is_gone_is_written_through_and_given_up() {
    let mut script = four(2, 2);
    let (ring, loser, gainer) = moving(&script);
    script.isolate(gainer);
    script.propose(loser, 1, Change::To(Box::new(ring)));
    script.world.pass(SETTLED);
    let body = script.write_body(KEY, Some("sloppy"), PutBasis::Present, Consistency::Sloppy);
    let kept = done(&script.call(loser, body));
    let view = script.world.view(loser).expect("it runs");
    assert!(view.layout.version == 2 && view.layout.next.is_some(), "it waits for the gainer");
    script.propose(loser, 2, Change::Abort);
    script.heal();
    script.take(3);
    assert!(script.held(loser).versions().contains_key(&kept));
    script.purged(gainer);
    let reply = script.call(loser, get_body(None));
    assert!(matches!(reply, ReplyBody::Got(got) if got.state.versions().contains_key(&kept)));
    script.sound();
}

/// While a change runs a strict write needs its quorum among the new owners, too: with w = 3 that is the gainer.
#[test]
pub(crate) fn strict_writes_need_the_gainers_too() {
    let mut script = four(1, 3);
    let (ring, loser, gainer) = moving(&script);
    script.isolate(gainer);
    script.propose(loser, 1, Change::To(Box::new(ring)));
    script.world.pass(SETTLED);
    let body = script.write_body(KEY, Some("strict"), PutBasis::Present, Consistency::Strict);
    let reply = script.call(loser, body);
    assert!(matches!(reply, ReplyBody::Error(_)), "the gainer cannot be reached: {reply:?}");
    script.heal();
    script.take(3);
    script.sound();
}

/// A gainer, and whoever else takes part, may be killed in the middle: the change goes on.
#[test]
fn a_change_goes_on_after_the_death_of_anyone() {
    for victim in 0..4 {
        let mut script = four(2, 2);
        let (ring, loser, gainer) = moving(&script);
        let kept = script.put(loser, "v", PutBasis::Present);
        script.propose(gainer, 1, Change::To(Box::new(ring)));
        script.world.kill(victim, kvkit::storage::vfs::simulated::Unsynced::Dropped);
        script.world.pass(SETTLED);
        script.world.start(victim);
        script.take(3);
        assert!(script.held(gainer).versions().contains_key(&kept), "n{} was killed", victim + 1);
        script.purged(loser);
        script.sound();
    }
}

/// L3: no owner's list changes, but what a quorum may know of an owner does: a get of one owner must find what two of
/// three held before.
#[test]
fn other_quorums_are_in_force_once_every_owner_holds_what_they_rely_on() {
    let mut script = Script::with(Setup::new(2, 2).without_hints());
    let [a, _, c] = script.owners();
    script.isolate(c);
    let kept = script.put(a, "missed by c", PutBasis::Present);
    script.heal();
    assert!(script.held(c).is_empty(), "nobody has compared yet");
    let quorum = Staged::Quorum { n: 3, r: 1, w: 3 };
    let ring = plan(&script.world.layout.now, &[quorum]).expect("a sound plan").ring;
    script.propose(a, 1, Change::To(Box::new(ring)));
    script.take(3);
    assert!(script.held(c).versions().contains_key(&kept));
    assert!(script.state(c, None).versions().contains_key(&kept));
    script.sound();
}

/// L9: a write of the ones who know of the change reaches a gainer that does not: it answers nothing before it does, and
/// what it then copies has the write.
#[test]
fn who_does_not_know_of_a_change_answers_nothing_of_it() {
    let mut script = four(2, 2);
    let (ring, loser, gainer) = moving(&script);
    let kept_back = script.world.keep_back(move |due| {
        let Due::Frame { to, message, .. } = due else { return false };
        *to == gainer && matches!(message, PeerMessage::Register(_))
    });
    script.propose(loser, 1, Change::To(Box::new(ring)));
    let kept = script.put(loser, "w", PutBasis::Present);
    script.world.pass(SETTLED);
    assert!(script.held(gainer).is_empty(), "it knows layout 1 alone");
    script.world.let_go(kept_back);
    script.take(3);
    assert!(script.held(gainer).versions().contains_key(&kept));
    script.purged(loser);
    script.sound();
}
