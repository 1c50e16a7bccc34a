//! Property tests of states against explicit causal histories.
//!
//! The model writes everything down: every write ever done with the set of writes it has seen, and for each replica the
//! set of writes in its past. A version stands iff no write in that past has seen it. Clocks and dots are a compressed
//! form of that; random schedules of writes, reads, merges, and dropped states show that nothing is lost in it.

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;

use super::notation::{node, version};
use super::{Actor, AfterDrop, Basis, Content, Dot, Epoch, Floor, Siblings, VectorClock};

/// Replicas that mint, one actor each.
const REPLICAS: usize = 3;

/// A write's number in the order in which they were done.
type Write = usize;
/// A set of writes: what a replica, a version or a reader has seen.
type History = BTreeSet<Write>;

#[derive(Clone, Debug)]
enum Step {
    /// A client reads at a replica and keeps what it saw.
    Read { at: usize },
    /// A put without a context.
    Put { at: usize, tombstone: bool },
    /// A put with what the `read`-th read (modulo their number) saw, at whatever replica.
    PutWithContext { at: usize, read: usize, tombstone: bool },
    /// A put that has seen nothing.
    PutBlind { at: usize },
    /// A state travels from one replica to another.
    Merge { from: usize, into: usize },
    /// A replica hands its state to another one and drops it.
    HandOver { from: usize, into: usize },
    /// Power fails before a replica's last writes are durable, though others have them: back to the n-th state before.
    Lose { at: usize },
}

fn step() -> impl Strategy<Value = Step> {
    let at = 0..REPLICAS;
    prop_oneof![
        2 => at.clone().prop_map(|at| Step::Read { at }),
        3 => (at.clone(), prop::bool::weighted(0.2)).prop_map(|(at, tombstone)| Step::Put { at, tombstone }),
        3 => (at.clone(), 0..8_usize, prop::bool::weighted(0.2))
            .prop_map(|(at, read, tombstone)| Step::PutWithContext { at, read, tombstone }),
        2 => at.clone().prop_map(|at| Step::PutBlind { at }),
        4 => (at.clone(), at.clone()).prop_map(|(from, into)| Step::Merge { from, into }),
        2 => (at.clone(), at.clone()).prop_map(|(from, into)| Step::HandOver { from, into }),
        1 => at.prop_map(|at| Step::Lose { at }),
    ]
}

/// A replica as implemented, and as the model sees it.
struct Replica {
    state: Siblings,
    past: History,
    floor: Floor,
    /// What a power failure goes back to: the state and past at the last merge or hand-over.
    durable: (Siblings, History),
}

#[derive(Default)]
struct World {
    replicas: Vec<Replica>,
    /// For each write what it has seen, whether it is a tombstone, and its dot.
    writes: Vec<(History, bool, Dot)>,
    reads: Vec<(VectorClock, History)>,
}

impl World {
    fn new() -> Self {
        let replica = |name| Replica {
            state: Siblings::new(),
            past: History::new(),
            floor: Floor::new(Actor { node: node(name), epoch: Epoch::first(0) }),
            durable: (Siblings::new(), History::new()),
        };
        Self { replicas: ["a", "b", "c"].map(replica).into(), ..Self::default() }
    }

    fn run(&mut self, step: &Step) {
        match *step {
            Step::Read { at } => {
                let replica = &self.replicas[at];
                self.reads.push((replica.state.clock().clone(), replica.past.clone()));
            }
            Step::Put { at, tombstone } => {
                let seen = self.replicas[at].past.clone();
                self.write(at, &Basis::Own, seen, tombstone);
            }
            Step::PutWithContext { at, read, tombstone } => {
                let none = (VectorClock::new(), History::new());
                let chosen = read.checked_rem(self.reads.len());
                let (clock, seen) = chosen.map_or(none, |read| self.reads[read].clone());
                self.write(at, &Basis::Clock(clock), seen, tombstone);
            }
            Step::PutBlind { at } => self.write(at, &Basis::Blind, History::new(), false),
            Step::Merge { from, into } => self.merge(from, into),
            Step::HandOver { from, into } if from != into => {
                self.merge(from, into);
                self.drop_state(from);
            }
            Step::HandOver { .. } => {}
            Step::Lose { at } => {
                let (state, past) = self.replicas[at].durable.clone();
                (self.replicas[at].state, self.replicas[at].past) = (state, past);
                self.renew(at);
            }
        }
    }

    fn write(&mut self, at: usize, basis: &Basis, seen: History, tombstone: bool) {
        let replica = &mut self.replicas[at];
        let number = self.writes.len();
        let text = if tombstone { "-".to_owned() } else { number.to_string() };
        let version = version(&text, number as u64);
        let minted = replica
            .state
            .write(replica.floor.actor(), basis, replica.floor.counter(), version)
            .unwrap();
        replica.past.extend(seen.iter().copied().chain([number]));
        self.writes.push((seen, tombstone, minted.dot));
    }

    fn merge(&mut self, from: usize, into: usize) {
        let (state, past) = (self.replicas[from].state.clone(), self.replicas[from].past.clone());
        let replica = &mut self.replicas[into];
        // A peer that shows more of the own actor than is remembered: an epoch rises before the next write.
        assert!(
            !replica.floor.is_outrun(replica.state.clock(), state.clock()),
            "an epoch should have risen before"
        );
        let mut alarms = Vec::new();
        replica.state.merge(&state, &mut alarms);
        assert_eq!(alarms, [], "one dot, one write");
        replica.past.extend(past);
        replica.durable = (replica.state.clone(), replica.past.clone());
    }

    fn drop_state(&mut self, at: usize) {
        let replica = &mut self.replicas[at];
        let after = replica.floor.drop_state(&replica.state);
        (replica.state, replica.past) = (Siblings::new(), History::new());
        replica.durable = (Siblings::new(), History::new());
        match after {
            AfterDrop::Unchanged | AfterDrop::FloorRose => {}
            AfterDrop::EpochMustRise => self.renew(at),
        }
    }

    fn renew(&mut self, at: usize) {
        let Actor { node, epoch } = self.replicas[at].floor.actor();
        self.replicas[at].floor = Floor::new(Actor { node, epoch: epoch.next(0) });
    }

    /// The writes of `past` that no other write of it has seen.
    fn standing(&self, past: &History) -> History {
        let superseded: History =
            past.iter().flat_map(|write| self.writes[*write].0.iter().copied()).collect();
        past.difference(&superseded).copied().collect()
    }

    fn dots(&self, writes: &History) -> BTreeSet<Dot> {
        writes.iter().map(|write| self.writes[*write].2).collect()
    }

    fn no_dot_twice(&self) {
        let mut seen = BTreeMap::new();
        for (number, (_, _, dot)) in self.writes.iter().enumerate() {
            assert_eq!(
                seen.insert(*dot, number),
                None,
                "write {number} has the dot of an earlier one"
            );
        }
    }
}

fn steps(kinds: fn(&Step) -> bool) -> impl Strategy<Value = Vec<Step>> {
    prop::collection::vec(step().prop_filter("another kind of step", kinds), 1..60)
}

fn keeps_its_state(step: &Step) -> bool {
    !matches!(step, Step::HandOver { .. } | Step::Lose { .. })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1_000, ..ProptestConfig::default() })]

    /// Nothing dropped: every replica's versions are exactly the concurrent writes of its past, tombstones too, and its
    /// clock covers exactly that past.
    #[test]
    fn siblings_are_exactly_the_concurrent_writes(steps in steps(keeps_its_state)) {
        let mut world = World::new();
        for step in &steps {
            world.run(step);
            world.no_dot_twice();
            for replica in &world.replicas {
                let standing: BTreeSet<Dot> = replica.state.versions().keys().copied().collect();
                prop_assert_eq!(standing, world.dots(&world.standing(&replica.past)));
                for (number, (_, _, dot)) in world.writes.iter().enumerate() {
                    prop_assert_eq!(replica.state.clock().covers(*dot), replica.past.contains(&number));
                }
            }
        }
    }

    /// Causal order and clock order are the same thing.
    #[test]
    fn clocks_descend_where_histories_include(steps in steps(keeps_its_state)) {
        let mut world = World::new();
        for step in &steps {
            world.run(step);
        }
        for left in &world.replicas {
            for right in &world.replicas {
                let descends = left.state.clock().descends(right.state.clock());
                prop_assert_eq!(descends, left.past.is_superset(&right.past));
            }
        }
    }

    /// V3 and V4 of the schedules: states are handed over and dropped, writes are lost after they were sent. No dot is
    /// minted twice, and once all has met, the values that stand are exactly those that no write has seen.
    #[test]
    fn dropped_and_lost_states_repeat_no_dot_and_wipe_out_no_value(steps in steps(|_| true)) {
        let mut world = World::new();
        let mut survivors = History::new();
        for step in &steps {
            world.run(step);
            world.no_dot_twice();
        }
        let mut all = Siblings::new();
        for replica in &world.replicas {
            let mut alarms = Vec::new();
            all.merge(&replica.state, &mut alarms);
            prop_assert_eq!(alarms, vec![]);
            survivors.extend(replica.past.iter().copied());
        }
        let values = |writes: &History| -> History {
            writes.iter().copied().filter(|write| !world.writes[*write].1).collect()
        };
        let expected = world.dots(&values(&world.standing(&survivors)));
        let is_value = |content: &Content| matches!(content, Content::Value(_));
        let standing: BTreeSet<Dot> =
            all.versions().iter().filter(|(_, version)| is_value(&version.content)).map(|(dot, _)| *dot).collect();
        prop_assert_eq!(standing, expected);
    }
}

/// V3 of the schedules: a stand-in mints, hands over, drops, and coordinates the key again.
#[test]
fn a_stand_in_that_dropped_a_state_mints_no_dot_again() {
    for tombstone in [false, true] {
        let mut world = World::new();
        world.run(&Step::Put { at: 0, tombstone });
        world.run(&Step::HandOver { from: 0, into: 1 });
        world.run(&Step::PutBlind { at: 0 });
        world.no_dot_twice();
        // And where only its superseded entry is in the dropped clock.
        world.run(&Step::Merge { from: 0, into: 1 });
        world.run(&Step::Put { at: 1, tombstone });
        world.run(&Step::Merge { from: 1, into: 0 });
        world.run(&Step::HandOver { from: 0, into: 1 });
        world.run(&Step::PutBlind { at: 0 });
        world.no_dot_twice();
    }
}

/// V4 of the schedules: a coordinator sends its state, loses it, and comes back; a peer shows it what it forgot.
#[test]
fn a_peer_shows_an_actor_that_it_lost_writes() {
    let mut world = World::new();
    world.run(&Step::PutBlind { at: 0 });
    world.run(&Step::Merge { from: 0, into: 1 });
    let restarted = Floor::new(world.replicas[0].floor.actor());
    assert!(restarted.is_outrun(Siblings::new().clock(), world.replicas[1].state.clock()));
    world.run(&Step::Lose { at: 0 });
    let floor = world.replicas[0].floor;
    assert!(!floor.is_outrun(Siblings::new().clock(), world.replicas[1].state.clock()));
    world.run(&Step::PutBlind { at: 0 });
    world.no_dot_twice();
}
