//! Deletes and the cut: what is forgotten is forgotten everywhere, and nothing that was on its way comes behind it.

use std::time::Duration;

use bytes::Bytes;
use kvkit::node::keys;
use kvkit::replication::cut::CutQuestion;
use kvkit::replication::{Consistency, Envelope, OpId, Request};
use kvkit::ring::Token;
use kvkit::storage::Cached;
use kvkit::storage::vfs::simulated::Unsynced;
use kvkit::version::{Content, Siblings};
use kvkit::wire::client::PutBasis;
use kvkit::wire::peer::PeerMessage;

use super::{KEY, LOOK, PATIENCE, SETTLED, Script, Setup, keep_states};
use crate::network::Node;
use crate::world::{DrawerId, Due, nanos};

/// Long enough for a cut or a comparison of a brisk cluster, with some noes before it.
const CUT: Duration = Duration::from_secs(30);
/// Long enough for a frame and what it causes.
const ARRIVED: Duration = Duration::from_millis(100);
/// A clock longer than this is due to be pruned.
const CLOCK_MAX: usize = 20;

/// A brisk cluster of so many nodes, where one acknowledgement is enough and nobody keeps hints.
fn brisk(nodes: usize) -> Script {
    Script::with(Setup { nodes, ..Setup::new(1, 1).without_hints().brisk() })
}

/// Keeps back the questions of a cut that one node asks another, where `which` says so.
fn keep_questions(
    script: &mut Script,
    from: Node,
    to: Node,
    which: impl Fn(&CutQuestion) -> bool + 'static,
) -> DrawerId {
    script.world.keep_back(move |due| {
        let Due::Frame { from: sender, to: receiver, message } = due else { return false };
        (*sender, *receiver) == (from, to) && question(message).is_some_and(&which)
    })
}

fn question(message: &PeerMessage) -> Option<&CutQuestion> {
    match message {
        PeerMessage::Request { envelope, .. } => match &envelope.body {
            Request::Cut(question) => Some(question),
            _ => None,
        },
        _ => None,
    }
}

fn takes(question: &CutQuestion) -> bool {
    matches!(question, CutQuestion::Take { .. })
}

fn is_deleted(state: &Siblings) -> bool {
    let tombstone = |content: &Content| *content == Content::Tombstone;
    !state.is_empty() && state.versions().values().all(|version| tombstone(&version.content))
}

/// Nobody holds anything of the key any more, and a while later still nobody does.
#[track_caller]
fn check_forgotten(script: &mut Script) {
    let all = 0..script.world.replicas.len();
    let is_gone = |script: &Script| all.clone().all(|node| script.held(node).is_empty());
    script.wait(CUT, "the delete is forgotten", is_gone);
    script.world.pass(CUT);
    assert!(is_gone(script), "what was deleted came back");
    script.sound();
}

/// T1: a hint is on its way to a stand-in that says, truly, that it holds nothing; the delete is forgotten; then the hint
/// arrives, and would be handed to the owner it is for.
#[test]
fn a_hint_that_was_on_its_way_does_not_arrive_behind_the_cut() {
    // With W=3 a stand-in is asked for y's acknowledgement.
    let mut script = Script::with(Setup { nodes: 4, ..Setup::new(1, 3).brisk() });
    let owners @ [_, y, z] = script.owners();
    let stand_in = (0..4).find(|node| !owners.contains(node)).unwrap();
    script.world.kill(y, Unsynced::Kept);
    script.world.pass(ARRIVED);
    let hint = keep_states(&mut script, z, stand_in, KEY);
    let body = script.write_body(KEY, Some("v"), PutBasis::Blind, Consistency::Sloppy);
    let began = script.world.now;
    script.send_patiently(z, body);
    script.world.pass(ARRIVED);
    assert_eq!(script.world.kept(hint), 1, "the state is on its way to the stand-in");
    script.world.start(y);
    script.wait(CUT, "y is connected", |script| script.world.network.connection(y, z).is_some());
    let seen = script.held(z);
    script.delete(z, KEY, &seen);
    script.wait(PATIENCE, "the delete is forgotten", |script| {
        owners.iter().all(|node| script.held(*node).is_empty())
    });
    assert!(script.world.now < began + nanos(PATIENCE), "the stand-in would still take it");
    script.world.let_go(hint);
    script.world.pass(ARRIVED);
    assert_eq!(script.hints_at(stand_in), 0, "it was read before the cut");
    check_forgotten(&mut script);
}

/// T2: that all were once found equal, one after the other, is not that they are. Between the question that names
/// nothing and the one that counts, the deleted value reaches a member that had said it holds nothing.
#[test]
fn what_a_member_named_before_does_not_count_once_it_holds_more() {
    let mut script = brisk(3);
    let [x, y, z] = script.owners();
    let value = keep_states(&mut script, z, y, KEY);
    script.write(z, KEY, Some("v"), PutBasis::Blind);
    let seen = script.held(z);
    let delete = keep_states(&mut script, x, y, KEY);
    script.delete(x, KEY, &seen);
    let take = keep_questions(&mut script, x, y, takes);
    script.wait(CUT, "all named it", |script| script.world.kept(take) == 1);
    assert!(script.held(y).is_empty() && script.world.kept(value) == 1);
    script.world.let_go(value);
    script.world.pass(ARRIVED);
    assert!(script.held(y).has_value(), "y has the value, and not its delete");
    script.world.let_go(take);
    script.world.pass(ARRIVED);
    assert!(is_deleted(&script.held(x)) && is_deleted(&script.held(z)), "y does not name it");
    script.world.lose(delete);
    check_forgotten(&mut script);
}

/// T4: a slot that is written to all the time, so that its leaves are never equal, forgets its deletes like any other.
#[test]
fn a_slot_whose_leaves_are_never_equal_forgets_its_deletes() {
    let mut script = brisk(3);
    let [x, y, z] = script.owners();
    let hot = neighbour(&KEY);
    script.write(x, KEY, Some("v"), PutBasis::Blind);
    let seen = script.held(x);
    for from in [x, y] {
        keep_states(&mut script, from, z, hot.clone());
    }
    script.write(x, hot.clone(), Some("hot"), PutBasis::Present);
    script.delete(x, KEY, &seen);
    let slot = Token::of(&KEY).slot();
    let until = script.world.now + nanos(CUT);
    while !(0..3).all(|node| script.held(node).is_empty()) {
        assert!(script.world.now < until, "the delete is not forgotten within {CUT:?}");
        script.write(x, hot.clone(), Some("hot"), PutBasis::Present);
        script.world.pass(ARRIVED);
        let leaf = |node: Node| script.life(node).store.leaf(slot.0);
        assert_ne!(leaf(x), leaf(z), "the slot is never the same at both");
    }
    script.sound();
}

/// Another key of the same slot.
fn neighbour(key: &Bytes) -> Bytes {
    let slot = Token::of(key).slot();
    let mut names = (0..).map(|number: u64| Bytes::from(format!("n{number}")));
    names.find(|name| Token::of(name).slot() == slot).unwrap()
}

/// T6: a stale value waits for a disk read; meanwhile the cut's question comes, and is answered by what memory holds by
/// then: nothing. When the word of the read comes, the value must be held against the number of now, not of then.
#[test]
fn a_state_is_held_against_the_cut_as_it_is_appended() {
    let mut script = brisk(3);
    let [x, y, z] = script.owners();
    // The key was forgotten once before: once that is in a table, y must read to know that it holds nothing.
    forget_once(&mut script, x, "old");
    let value = keep_states(&mut script, z, y, KEY);
    script.write(z, KEY, Some("v"), PutBasis::Blind);
    let seen = script.held(z);
    let delete = keep_states(&mut script, x, y, KEY);
    script.delete(x, KEY, &seen);
    let take = keep_questions(&mut script, x, y, takes);
    script.wait(CUT, "all named it", |script| script.world.kept(take) == 1);
    fill_until_on_disk(&mut script, y);
    let read = script.world.keep_back(
        move |due| matches!(due, Due::Read { node, key } if *node == y && *key == keys::data(&KEY)),
    );
    script.world.let_go(value);
    script.world.pass(ARRIVED);
    assert_eq!(script.world.kept(read), 1, "the value waits for the disk");
    assert!(script.held(y).is_empty(), "the disk has nothing");
    assert!(is_cached(&script, y), "its word is on the way, and memory knows by now");
    script.world.let_go(take);
    script.world.pass(ARRIVED);
    script.world.let_go(read);
    script.world.pass(ARRIVED);
    assert!(script.held(y).is_empty(), "the value came behind the number that y took");
    script.world.lose(delete);
    check_forgotten(&mut script);
}

/// Writes the key at `node`, deletes it, and waits until all three nodes have forgotten it; the state that was deleted.
fn forget_once(script: &mut Script, node: Node, value: &'static str) -> Siblings {
    script.write(node, KEY, Some(value), PutBasis::Blind);
    let seen = script.held(node);
    script.delete(node, KEY, &seen);
    let is_gone = |script: &Script| (0..3).all(|node| script.held(node).is_empty());
    script.wait(CUT, "the delete is forgotten", is_gone);
    seen
}

/// Whether a node knows of the key without its disk.
fn is_cached(script: &Script, node: Node) -> bool {
    match script.life(node).store.get_cached(&keys::data(&KEY)).unwrap() {
        Cached::Ready(_) => true,
        Cached::NeedsDisk => false,
    }
}

/// Writes other keys at `node` until it knows of the key through its disk alone.
fn fill_until_on_disk(script: &mut Script, node: Node) {
    let mut names = (0..200).map(|number| Bytes::from(format!("f{number}")));
    while is_cached(script, node) {
        let key = names.next().expect("the memtable is flushed in the end");
        script.write(node, key, Some(FILLER), PutBasis::Blind);
        script.world.pass(LOOK);
    }
}

const FILLER: &str = "a hundred bytes of no meaning, so that few of them fill a memtable of the smallest size there is";

/// T7: an owner that lost its disk lost its cut numbers with it. A state that was read before the cut reaches it before it
/// has taken those of the others.
#[test]
fn a_refilling_owner_takes_no_state_before_it_has_the_numbers() {
    let mut script = brisk(3);
    let [x, y, z] = script.owners();
    let seen = forget_once(&mut script, x, "v");
    script.world.wipe(y);
    let numbers = [x, z].map(|peer| {
        let asks = |question: &CutQuestion| matches!(question, CutQuestion::Numbers { .. });
        keep_questions(&mut script, y, peer, asks)
    });
    script.world.start(y);
    let asked = |script: &Script| numbers.iter().any(|drawer| script.world.kept(*drawer) > 0);
    script.wait(CUT, "y asks for numbers", asked);
    // What a coordinator at x read before the cut, and writes back now.
    let state = seen.clone();
    let (layout, op, cut) = (script.world.layout.version, OpId(1), Some(0));
    let envelope =
        Envelope { layout, op, cut, body: Request::Merge { key: KEY, state, put: None } };
    let deadline = script.world.replicas[y].time(script.world.now).after(PATIENCE).monotonic;
    script.world.say(x, y, PeerMessage::Request { deadline, envelope });
    script.world.pass(ARRIVED);
    assert!(script.held(y).is_empty(), "a value came from before the cut");
    for drawer in numbers {
        script.world.let_go(drawer);
    }
    check_forgotten(&mut script);
}

/// T8: a member does not hear the first owner's questions, and writes to the slot. Were a number taken before all named
/// something, its every write would be refused by those that took it.
#[test]
fn a_member_that_hears_no_question_writes_undisturbed() {
    let mut script = Script::with(Setup::new(2, 2).without_hints().brisk());
    let [x, y, _] = script.owners();
    let hot = neighbour(&KEY);
    script.write(x, KEY, Some("v"), PutBasis::Blind);
    let seen = script.held(x);
    let questions = keep_questions(&mut script, x, y, |_| true);
    script.delete(x, KEY, &seen);
    let until = script.world.now + nanos(CUT);
    while script.world.now < until {
        let began = script.world.now;
        script.write(y, hot.clone(), Some("hot"), PutBasis::Present);
        let took = Duration::from_nanos(script.world.now - began);
        assert!(took < ARRIVED, "a write waited {took:?}");
        script.world.pass(ARRIVED);
    }
    assert!(script.world.kept(questions) > 1, "the first owner asked, again and again");
    assert!(is_deleted(&script.held(x)), "nothing is forgotten without y's word");
    script.world.lose(questions);
    // The pause after so many noes is long.
    script.wait(CUT * 20, "the delete is forgotten", |script| {
        (0..3).all(|node| script.held(node).is_empty())
    });
    script.sound();
}

/// V7: a value that an actor of long ago wrote stands at an owner that is away; the others replaced it, and their clock
/// has grown long. Were its entry pruned by size alone, the value would come back as if nobody had seen it.
#[test]
fn a_long_clock_forgets_nothing_while_an_owner_is_away() {
    let mut script = brisk(3);
    // Entries are forgotten in the order of their actors; the first owner must be there to ask.
    let first = script.owners()[0];
    let (b, c) = (0, if first == 1 { 2 } else { 1 });
    let a = 3 - c;
    script.write(b, KEY, Some("v"), PutBasis::Blind);
    let seen = script.held(b);
    script.isolate(c);
    script.delete(a, KEY, &seen);
    for node in std::iter::once(b).chain([a; CLOCK_MAX + 2]) {
        script.world.kill(node, Unsynced::Kept);
        script.world.start(node);
        script.world.pass(SETTLED);
        let seen = script.held(node);
        script.write(node, KEY, Some("later"), PutBasis::Context(seen.clock().clone()));
    }
    script.world.pass(CUT);
    let kept = script.held(a);
    assert!(CLOCK_MAX < kept.clock().len(), "an entry was forgotten without c");
    assert!(seen.versions().keys().all(|dot| kept.clock().covers(*dot)));
    script.world.mend();
    let is_pruned = |script: &Script| {
        (0..3).all(|node| {
            let state = script.held(node);
            state.clock().len() <= CLOCK_MAX && state.versions() == kept.versions()
        })
    };
    script.wait(CUT * 4, "all hold the last version, and a short clock", is_pruned);
    script.sound();
}
