//! Purging: what a node holds of slots that are others' goes, once they have it (DESIGN §8).
//!
//! A change of the layout leaves data with those that lost a slot. It is dropped once each of its states, tombstones too, is
//! durable at w of the present owners, which is found out, and brought about, slot by slot:
//! ```text
//! found ──▶ settled with one owner ──▶ … with w of them ──▶ dropped
//!                │ it cannot now
//!                └──▶ the next one, or later
//! ```
//! Invariant: nothing goes before w owners hold it durably.

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use crate::cluster::Time;
use crate::node_id::NodeId;
use crate::ring::{Preferences, Slot};

use super::turns::{PAUSE, Turns};

/// Slots settled or dropped at once.
const SLOTS_IN_FLIGHT: usize = 16;
/// An owner that is not settled with for so long is asked again.
const SILENCE_MAX: Duration = Duration::from_secs(20);

/// The slots that are others', and hold something.
#[derive(Debug, Default)]
pub struct Purge {
    slots: BTreeMap<u16, LeftOver>,
    /// The slots at rest, by when they are due.
    resting: BTreeSet<(Time, u16)>,
    /// The others.
    busy: BTreeSet<u16>,
}

/// What reaches the machine.
#[derive(Clone, Debug, PartialEq)]
pub enum Event {
    /// These slots hold something.
    Found(Vec<Slot>),
    /// To [`Effect::Settle`]: whether the owner holds, durably, all that this node does.
    Settled(NodeId, Slot, bool),
    /// To [`Effect::Drop`]: whether all of it is gone.
    Dropped(Slot, bool),
    /// Time has passed, or an owner can be reached again.
    Tick,
}

/// What shall happen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Effect {
    /// Give the owner what it lacks of a slot.
    Settle(NodeId, Slot),
    /// Drop all of a slot.
    Drop(Slot),
}

#[derive(Debug)]
struct LeftOver {
    /// Owners that have all of it.
    settled: BTreeSet<NodeId>,
    step: Step,
    turns: Turns,
}

#[derive(Clone, Copy, Debug)]
enum Step {
    Resting { until: Time },
    Settling { with: NodeId, since: Time },
    Dropping,
}

impl Purge {
    /// How many slots are left.
    pub fn len(&self) -> usize {
        self.slots.len()
    }

    /// Whether nothing is left.
    pub fn is_empty(&self) -> bool {
        self.slots.is_empty()
    }

    /// Whether a slot from the first to the last is left.
    pub fn holds_any(&self, (first, last): (Slot, Slot)) -> bool {
        self.slots.range(first.0..=last.0).next().is_some()
    }

    /// When [`Event::Tick`] is wanted.
    pub fn wake_at(&self, now: Time) -> Option<Time> {
        let silent = self.busy.iter().filter_map(|slot| match self.slots.get(slot)?.step {
            Step::Settling { since, .. } => Some(since.after(SILENCE_MAX)),
            Step::Resting { .. } | Step::Dropping => None,
        });
        let due = self.resting.first().map(|(until, _)| *until);
        silent.chain(due).min().map(|at| at.max(now.after(PAUSE / 5)))
    }

    /// Folds one event in; what must happen next is appended to `effects`.
    pub fn handle(
        &mut self,
        now: Time,
        event: Event,
        preferences: &Preferences,
        reachable: &dyn Fn(NodeId) -> bool,
        effects: &mut Vec<Effect>,
    ) {
        match event {
            Event::Found(slots) => {
                for slot in slots {
                    if let Entry::Vacant(place) = self.slots.entry(slot.0) {
                        place.insert(LeftOver::new(now));
                        self.resting.insert((now, slot.0));
                    }
                }
            }
            Event::Settled(owner, slot, is_settled) => self.settled(now, owner, slot, is_settled),
            Event::Dropped(slot, true) => {
                self.forget_step(slot);
                self.slots.remove(&slot.0);
            }
            Event::Dropped(slot, false) => self.refused(now, None, slot),
            Event::Tick => {}
        }
        self.advance(now, preferences, reachable, effects);
    }

    fn settled(&mut self, now: Time, owner: NodeId, slot: Slot, is_settled: bool) {
        let Some(left) = self.slots.get_mut(&slot.0) else { return };
        if !matches!(left.step, Step::Settling { with, .. } if with == owner) {
            return;
        }
        if is_settled {
            left.settled.insert(owner);
            left.turns.gave();
            self.take_step(slot, Step::Resting { until: now });
        } else {
            self.refused(now, Some(owner), slot);
        }
    }

    /// Nothing came of a slot's step: later again.
    fn refused(&mut self, now: Time, owner: Option<NodeId>, slot: Slot) {
        if let Some(left) = self.slots.get_mut(&slot.0) {
            let until = now.after(left.turns.refused(owner));
            self.take_step(slot, Step::Resting { until });
        }
    }

    fn advance(
        &mut self,
        now: Time,
        preferences: &Preferences,
        reachable: &dyn Fn(NodeId) -> bool,
        effects: &mut Vec<Effect>,
    ) {
        for slot in self.busy.clone() {
            if let Some(LeftOver { step: Step::Settling { with, since }, .. }) =
                self.slots.get(&slot)
                && SILENCE_MAX <= now.since(*since)
            {
                self.refused(now, Some(*with), Slot(slot));
            }
        }
        let needed = preferences.ring().effective_w();
        while self.busy.len() < SLOTS_IN_FLIGHT {
            let due = self.resting.first().filter(|(until, _)| *until <= now);
            let Some(slot) = due.map(|(_, slot)| Slot(*slot)) else { return };
            let Some(left) = self.slots.get_mut(&slot.0) else { return };
            if needed <= left.settled.len() {
                self.take_step(slot, Step::Dropping);
                effects.push(Effect::Drop(slot));
            } else if let Some(with) = left.next_owner(preferences, slot, reachable) {
                self.take_step(slot, Step::Settling { with, since: now });
                effects.push(Effect::Settle(with, slot));
            } else {
                self.refused(now, None, slot);
            }
        }
    }

    fn take_step(&mut self, slot: Slot, step: Step) {
        self.forget_step(slot);
        if let Some(left) = self.slots.get_mut(&slot.0) {
            left.step = step;
            match step {
                Step::Resting { until } => drop(self.resting.insert((until, slot.0))),
                Step::Settling { .. } | Step::Dropping => drop(self.busy.insert(slot.0)),
            }
        }
    }

    fn forget_step(&mut self, slot: Slot) {
        self.busy.remove(&slot.0);
        if let Some(LeftOver { step: Step::Resting { until }, .. }) = self.slots.get(&slot.0) {
            self.resting.remove(&(*until, slot.0));
        }
    }
}

impl LeftOver {
    const fn new(now: Time) -> Self {
        Self { settled: BTreeSet::new(), step: Step::Resting { until: now }, turns: Turns::new() }
    }

    fn next_owner(
        &mut self,
        preferences: &Preferences,
        slot: Slot,
        reachable: &dyn Fn(NodeId) -> bool,
    ) -> Option<NodeId> {
        let settled = &self.settled;
        let owners = preferences.of_slot(slot).owners();
        let open = owners.filter(|owner| !settled.contains(owner) && reachable(*owner));
        self.turns.next(open, None)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::ring::{Layout, Member, Mode, Weight};

    const B: NodeId = NodeId::from_bytes([2; 16]);
    const C: NodeId = NodeId::from_bytes([3; 16]);
    const SLOT: Slot = Slot(7);

    fn preferences(w: u8) -> Preferences {
        let member = |id: NodeId| Member {
            id,
            name: id.to_string(),
            zone: String::new(),
            weight: Weight(1_000),
        };
        let members = vec![member(B), member(C)];
        Preferences::new(Arc::new(
            Layout::found(64, 2, 1, w, Mode::Available, members).unwrap().now,
        ))
    }

    fn at(seconds: u64) -> Time {
        Time { monotonic: seconds * 1_000_000_000, wall: seconds * 1_000_000 }
    }

    /// What the machine wants after `event`, where `down` cannot be reached and w owners must hold a state.
    fn handle(
        purge: &mut Purge,
        seconds: u64,
        event: Event,
        w: u8,
        down: &[NodeId],
    ) -> Vec<Effect> {
        let mut effects = Vec::new();
        let reachable = |node| !down.contains(&node);
        purge.handle(at(seconds), event, &preferences(w), &reachable, &mut effects);
        effects
    }

    fn settling(effects: &[Effect]) -> NodeId {
        let [Effect::Settle(owner, SLOT)] = effects else { panic!("{effects:?}") };
        *owner
    }

    #[test]
    fn a_slot_is_dropped_once_w_owners_hold_all_of_it() {
        let mut purge = Purge::default();
        let first = settling(&handle(&mut purge, 1, Event::Found(vec![SLOT]), 2, &[]));
        let second = settling(&handle(&mut purge, 2, Event::Settled(first, SLOT, true), 2, &[]));
        assert_ne!(first, second);
        let wanted = handle(&mut purge, 3, Event::Settled(second, SLOT, true), 2, &[]);
        assert_eq!(wanted, [Effect::Drop(SLOT)]);
        assert!(purge.holds_any((SLOT, SLOT)), "it is there until it is gone");
        assert_eq!(handle(&mut purge, 4, Event::Dropped(SLOT, true), 2, &[]), []);
        assert!(purge.is_empty());
    }

    #[test]
    fn with_too_few_owners_it_stays() {
        let mut purge = Purge::default();
        let wanted = handle(&mut purge, 1, Event::Found(vec![SLOT]), 2, &[C]);
        assert_eq!(settling(&wanted), B);
        assert_eq!(handle(&mut purge, 2, Event::Settled(B, SLOT, true), 2, &[C]), []);
        assert_eq!(handle(&mut purge, 60, Event::Tick, 2, &[C]), []);
        assert_eq!(settling(&handle(&mut purge, 120, Event::Tick, 2, &[])), C);
    }

    #[test]
    fn an_owner_that_cannot_be_settled_with_comes_behind_the_others() {
        let mut purge = Purge::default();
        let first = settling(&handle(&mut purge, 1, Event::Found(vec![SLOT]), 1, &[]));
        assert_eq!(handle(&mut purge, 1, Event::Settled(first, SLOT, false), 1, &[]), []);
        let second = settling(&handle(&mut purge, 9, Event::Tick, 1, &[]));
        assert_ne!(first, second);
        // It says nothing.
        assert_eq!(handle(&mut purge, 30, Event::Tick, 1, &[]), []);
        assert_eq!(settling(&handle(&mut purge, 40, Event::Tick, 1, &[])), first);
        assert_eq!(
            handle(&mut purge, 41, Event::Settled(second, SLOT, true), 1, &[]),
            [],
            "too late"
        );
    }
}
