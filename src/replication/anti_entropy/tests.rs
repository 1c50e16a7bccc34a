//! Two replicas compare, in one thread.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use proptest::prelude::*;
use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;

use super::*;
use crate::cluster::Time;
use crate::node_id::NodeId;
use crate::ring::{Layout, Member, Mode, Preferences, Slot, Weight};

const A: NodeId = NodeId::from_bytes([1; 16]);
const B: NodeId = NodeId::from_bytes([2; 16]);
const C: NodeId = NodeId::from_bytes([3; 16]);
const INTERVAL: Duration = Duration::from_secs(1);

/// One replica's leaves, as the other sees them.
#[derive(Clone)]
struct Side {
    leaves: BTreeMap<u16, u128>,
    mask: Mask,
    tree: Tree,
}

impl Side {
    fn set(&mut self, slot: u16, bits: u128) {
        self.leaves.insert(slot, bits);
        self.tree.changed(Slot(slot));
    }
}

impl View for Side {
    fn hash(&mut self, _: NodeId, node: TreeNode) -> TreeHash {
        let leaves = &self.leaves;
        self.tree.hash(node, &self.mask, &|slot| leaves.get(&slot.0).copied().unwrap_or(0))
    }

    fn leaf(&self, _: NodeId, slot: Slot) -> u128 {
        let leaf = self.leaves.get(&slot.0).copied().unwrap_or(0);
        if self.mask.holds(slot) { leaf } else { 0 }
    }
}

/// A compares with B.
struct Pair {
    now: Time,
    exchange: Exchange,
    a: Side,
    b: Side,
    rng: ChaCha8Rng,
    asked: Vec<Compare>,
    bytes: usize,
    repaired: BTreeSet<u16>,
    recounted: Vec<Slot>,
    /// What each repair comes to.
    outcome: Outcome,
    /// Whether a third replica settles all slots as the first repair begins.
    third_settles: bool,
}

fn mask() -> Mask {
    let member =
        |id| Member { id, name: format!("{id}"), zone: String::new(), weight: Weight(1_000) };
    let members = [A, B, C].map(member).to_vec();
    let layout = Layout::found(64, 2, 1, 1, Mode::Available, members).unwrap();
    Mask::of(&Preferences::new(Arc::new(layout.now)), A, B)
}

impl Pair {
    fn new(me: NodeId) -> Self {
        let side = Side { leaves: BTreeMap::new(), mask: mask(), tree: Tree::default() };
        Self {
            now: Time { monotonic: 1, wall: 1 },
            exchange: Exchange::new(me, INTERVAL, 1 << 30),
            a: side.clone(),
            b: side,
            rng: ChaCha8Rng::seed_from_u64(1),
            asked: Vec::new(),
            bytes: 0,
            repaired: BTreeSet::new(),
            recounted: Vec::new(),
            outcome: Outcome::Moved { keys: 1, bytes: 100 },
            third_settles: false,
        }
    }

    /// A slot that both own.
    fn shared(&self) -> u16 {
        (0..=u16::MAX).find(|slot| self.a.mask.holds(Slot(*slot))).unwrap()
    }

    fn handle(&mut self, event: Event) {
        let mut events = vec![event];
        while let Some(event) = events.pop() {
            let mut effects = Vec::new();
            self.exchange.handle(self.now, event, &mut self.a, &mut self.rng, &mut effects);
            for effect in effects {
                match effect {
                    Effect::Ask(id, _, question) => {
                        let answer = answer(&mut self.b, A, &question);
                        if let Some(Compared::Hashes(bytes)) = &answer {
                            self.bytes += bytes.len();
                        }
                        self.asked.push(question);
                        events.push(Event::Answered(id, answer));
                    }
                    Effect::Repair(node, slot, _) => {
                        if let Outcome::Moved { keys: 1.., .. } = self.outcome {
                            let merged = self.a.leaf(B, slot) | self.b.leaf(B, slot);
                            self.a.set(slot.0, merged);
                            self.b.set(slot.0, merged);
                        }
                        if self.third_settles {
                            let leaves = self.a.leaves.clone();
                            for (slot, bits) in leaves {
                                self.b.set(slot, bits);
                            }
                        }
                        self.repaired.insert(slot.0);
                        events.push(Event::Repaired(node, slot, self.outcome));
                    }
                    Effect::Recount(slot) => self.recounted.push(slot),
                }
            }
        }
    }

    /// Lets time pass.
    fn pass(&mut self, time: Duration) {
        let end = self.now.after(time);
        while let Some(at) = self.exchange.wake_at().filter(|at| *at <= end) {
            self.now = at.max(self.now);
            self.handle(Event::Tick);
        }
        self.now = end;
    }
}

#[test]
fn equal_replicas_exchange_one_hash() {
    let mut pair = Pair::new(A);
    for slot in 0..=u16::MAX {
        pair.a.set(slot, u128::from(slot) + 1);
        // What is not shared may differ.
        let shared = if pair.a.mask.holds(Slot(slot)) { u128::from(slot) + 1 } else { 7 };
        pair.b.set(slot, shared);
    }
    pair.handle(Event::Reachable(B));
    pair.pass(INTERVAL * 12);
    assert!(matches!(pair.asked[..], [Compare::Root(_)]), "{:?}", pair.asked);
    pair.pass(INTERVAL * 60);
    assert_eq!(pair.asked.len(), 3, "and again every period");
    assert!(pair.exchange.progress(B).equal_at.is_some());
}

#[test]
fn the_larger_id_waits_to_be_asked_or_told() {
    let mut pair = Pair::new(C);
    pair.handle(Event::Reachable(B));
    pair.pass(INTERVAL * 100);
    assert!(pair.asked.is_empty());
    pair.handle(Event::Start);
    assert_eq!(pair.asked.len(), 1);
}

#[test]
fn what_another_replica_settles_meanwhile_is_not_repaired_again() {
    let mut pair = Pair::new(A);
    pair.third_settles = true;
    for slot in 0..=u16::MAX {
        pair.a.set(slot, 1);
    }
    pair.handle(Event::Reachable(B));
    pair.pass(INTERVAL * 20);
    assert_eq!(pair.a.leaves, pair.b.leaves);
    assert!((1..=64).contains(&pair.repaired.len()), "{} slots", pair.repaired.len());
}

#[test]
fn of_two_that_compare_at_once_the_smaller_goes_on() {
    for (me, peer, gives_way) in [(A, B, false), (B, A, true)] {
        let mut pair = Pair::new(me);
        pair.handle(Event::Reachable(peer));
        assert!(pair.exchange.gives_way_to(pair.now, peer), "nothing runs yet");
        let mut effects = Vec::new();
        pair.exchange.handle(pair.now, Event::Start, &mut pair.a, &mut pair.rng, &mut effects);
        assert!(matches!(effects[..], [Effect::Ask(_, _, Compare::Root(_))]));
        assert_eq!(pair.exchange.gives_way_to(pair.now, peer), gives_way);
        assert_eq!(pair.exchange.progress(peer).is_running, !gives_way);
    }
}

#[test]
fn what_settles_by_itself_is_not_repaired() {
    let mut pair = Pair::new(A);
    pair.handle(Event::Reachable(B));
    let slot = pair.shared();
    pair.a.set(slot, 1);
    pair.handle(Event::Start);
    assert!(pair.asked.len() > 1, "the difference was seen");
    pair.b.set(slot, 1);
    pair.pass(INTERVAL * 20);
    assert!(pair.repaired.is_empty());
    assert!(matches!(pair.asked.last(), Some(Compare::Leaves(_))));
}

#[test]
fn leaves_that_differ_over_equal_keys_are_worked_out_anew() {
    let mut pair = Pair::new(A);
    pair.outcome = Outcome::Moved { keys: 0, bytes: 0 };
    let slot = pair.shared();
    pair.a.set(slot, 1);
    pair.handle(Event::Reachable(B));
    pair.pass(INTERVAL * 20);
    assert_eq!(pair.recounted.first(), Some(&Slot(slot)));
}

#[test]
fn a_silent_peer_is_left_alone_until_the_next_period() {
    let mut pair = Pair::new(A);
    pair.handle(Event::Reachable(B));
    let mut effects = Vec::new();
    pair.exchange.handle(pair.now, Event::Start, &mut pair.a, &mut pair.rng, &mut effects);
    assert_eq!(effects.len(), 1);
    pair.pass(INTERVAL * 11);
    assert!(!pair.exchange.progress(B).is_running);
    pair.pass(INTERVAL * 40);
    assert!(!pair.asked.is_empty());
}

#[test]
fn what_is_refused_is_tried_again_with_a_smaller_window() {
    let mut pair = Pair::new(A);
    pair.outcome = Outcome::Busy;
    let slot = pair.shared();
    pair.a.set(slot, 1);
    pair.handle(Event::Reachable(B));
    pair.pass(INTERVAL * 12);
    pair.outcome = Outcome::Moved { keys: 1, bytes: 10 };
    pair.pass(INTERVAL * 2);
    assert_eq!(pair.a.leaves, pair.b.leaves);
}

#[test]
fn the_cost_follows_the_difference() {
    let mut pair = Pair::new(A);
    for slot in 0..=u16::MAX {
        pair.a.set(slot, 1);
        pair.b.set(slot, 1);
    }
    let shared: Vec<u16> = (0..=u16::MAX).filter(|slot| pair.a.mask.holds(Slot(*slot))).collect();
    let different: Vec<u16> = shared.into_iter().step_by(997).collect();
    for slot in &different {
        pair.a.set(*slot, 3);
    }
    pair.handle(Event::Reachable(B));
    pair.pass(INTERVAL * 20);
    assert_eq!(pair.repaired, different.iter().copied().collect());
    assert_eq!(pair.a.leaves, pair.b.leaves);
    // Down the tree once, and a second look: at most the children of the nodes above each slot, 8 bytes each.
    let most = different.len() * (4 * FANOUT * 8 + 8);
    assert!(pair.bytes <= most, "{} bytes for {} slots", pair.bytes, different.len());
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(32))]
    #[test]
    fn whatever_differs_is_found_and_settled(
        left in prop::collection::btree_map(any::<u16>(), 0..16_u128, 0..200),
        right in prop::collection::btree_map(any::<u16>(), 0..16_u128, 0..200),
    ) {
        let mut pair = Pair::new(A);
        for (slot, bits) in &left {
            pair.a.set(*slot, *bits);
        }
        for (slot, bits) in &right {
            pair.b.set(*slot, *bits);
        }
        let differs = |slot: &u16| pair.a.leaf(B, Slot(*slot)) != pair.b.leaf(B, Slot(*slot));
        let different: BTreeSet<u16> =
            left.keys().chain(right.keys()).copied().filter(differs).collect();
        pair.handle(Event::Reachable(B));
        pair.pass(INTERVAL * 40);
        prop_assert_eq!(&pair.repaired, &different);
        for slot in 0..=u16::MAX {
            prop_assert_eq!(pair.a.leaf(B, Slot(slot)), pair.b.leaf(B, Slot(slot)));
        }
    }
}
