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

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use crate::cluster::Time;
use crate::node_id::NodeId;
use crate::ring::{Preferences, Slot};

/// Slots settled or dropped at once.
const SLOTS_IN_FLIGHT: usize = 16;
/// The pause of a slot after an owner could not be settled with, doubled each time, at most.
const PAUSE: Duration = Duration::from_millis(500);
const PAUSE_MAX: Duration = Duration::from_secs(30);
/// An owner that is not settled with for so long is asked again.
const SILENCE_MAX: Duration = Duration::from_secs(20);

/// The slots that are others', and hold something.
#[derive(Debug, Default)]
pub struct Purge {
    slots: BTreeMap<u16, LeftOver>,
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
    /// Owners that could not be settled with; the others come before them.
    refused: BTreeSet<NodeId>,
    pause: Duration,
}

#[derive(Clone, Copy, Debug)]
enum Step {
    Resting { until: Time },
    Settling { with: NodeId, since: Time },
    Dropping,
}

impl Purge {
    /// Forgets everything: the layout is another.
    pub fn clear(&mut self) {
        self.slots.clear();
    }

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
        let wakes = self.slots.values().filter_map(|slot| match slot.step {
            Step::Resting { until } => Some(until),
            Step::Settling { since, .. } => Some(since.after(SILENCE_MAX)),
            Step::Dropping => None,
        });
        wakes.min().map(|at| at.max(now.after(PAUSE / 5)))
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
                    self.slots.entry(slot.0).or_insert_with(|| LeftOver::new(now));
                }
            }
            Event::Settled(owner, slot, is_settled) => {
                if let Some(left) = self.slots.get_mut(&slot.0)
                    && matches!(left.step, Step::Settling { with, .. } if with == owner)
                {
                    left.came(now, owner, is_settled);
                }
            }
            Event::Dropped(slot, true) => drop(self.slots.remove(&slot.0)),
            Event::Dropped(slot, false) => {
                if let Some(left) = self.slots.get_mut(&slot.0) {
                    left.rest(now);
                }
            }
            Event::Tick => {}
        }
        self.advance(now, preferences, reachable, effects);
    }

    fn advance(
        &mut self,
        now: Time,
        preferences: &Preferences,
        reachable: &dyn Fn(NodeId) -> bool,
        effects: &mut Vec<Effect>,
    ) {
        for left in self.slots.values_mut() {
            if let Step::Settling { with, since } = left.step
                && SILENCE_MAX <= now.since(since)
            {
                left.came(now, with, false);
            }
        }
        let is_at_rest = |left: &LeftOver| matches!(left.step, Step::Resting { .. });
        let mut in_flight = self.slots.values().filter(|left| !is_at_rest(left)).count();
        let needed = preferences.ring().effective_w();
        for (slot, left) in &mut self.slots {
            let slot = Slot(*slot);
            let is_due = matches!(left.step, Step::Resting { until } if until <= now);
            if SLOTS_IN_FLIGHT <= in_flight {
                break;
            }
            if !is_due {
                continue;
            }
            if needed <= left.settled.len() {
                left.step = Step::Dropping;
                effects.push(Effect::Drop(slot));
            } else if let Some(owner) = left.next_owner(preferences, slot, reachable) {
                left.step = Step::Settling { with: owner, since: now };
                effects.push(Effect::Settle(owner, slot));
            } else {
                left.rest(now);
                continue;
            }
            in_flight += 1;
        }
    }
}

impl LeftOver {
    const fn new(now: Time) -> Self {
        Self {
            settled: BTreeSet::new(),
            step: Step::Resting { until: now },
            refused: BTreeSet::new(),
            pause: PAUSE,
        }
    }

    fn came(&mut self, now: Time, owner: NodeId, is_settled: bool) {
        if is_settled {
            self.settled.insert(owner);
            self.pause = PAUSE;
            self.step = Step::Resting { until: now };
        } else {
            self.refused.insert(owner);
            self.rest(now);
        }
    }

    fn rest(&mut self, now: Time) {
        self.step = Step::Resting { until: now.after(self.pause) };
        self.pause = (self.pause * 2).min(PAUSE_MAX);
    }

    fn next_owner(
        &mut self,
        preferences: &Preferences,
        slot: Slot,
        reachable: &dyn Fn(NodeId) -> bool,
    ) -> Option<NodeId> {
        let owners = preferences.of_slot(slot).owners();
        let open = owners.filter(|owner| !self.settled.contains(owner) && reachable(*owner));
        let next = open.min_by_key(|owner| self.refused.contains(owner))?;
        if self.refused.contains(&next) {
            self.refused.clear();
        }
        Some(next)
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
