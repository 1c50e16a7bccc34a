//! The cut: how tombstones and dead clock entries are forgotten everywhere, or nowhere (DESIGN §7).
//!
//! A tombstone that one replica forgets while another holds what it deleted brings the value back. So a slot's first
//! owner asks every member, and only when all are up; what all *name* is forgotten. Each member keeps a durable cut
//! number a slot; a state that travels carries the number its sender held when it read it, and whoever holds a higher
//! one refuses it: what was read before a cut does not arrive behind it.
//!
//! ```text
//! first owner                          every member
//!   Ask {items}           ────────────▶  would it name them? no number is taken
//!   Take {numbers, items} ────────────▶  takes the number durably, and names in the same step what it holds exactly so
//!   Forget {items}        ────────────▶  what is unchanged goes                        (items that all named)
//!   its own goes last: whatever is lost on the way is asked about again
//! ```

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::cluster::Time;
use crate::node_id::NodeId;
use crate::ring::{Slot, Token};
use crate::version::{Actor, Dot, Siblings};

/// Most items of one question.
pub const ITEMS_MAX: usize = 256;
/// Heartbeat intervals between two rounds of a member.
const PERIOD: u32 = 5;
/// The pause of a slot after a no, in intervals, doubled each time, at most.
const SLOT_PAUSE: u32 = 10;
const SLOT_PAUSE_MAX: Duration = Duration::from_hours(1);
/// A member that says nothing for so long has said no.
const SILENCE_MAX: Duration = Duration::from_secs(5);

/// What shall be forgotten of one key.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CutItem {
    /// The key.
    pub key: Bytes,
    /// Which part of it.
    pub what: Forgettable,
}

/// The part of a key's state that is to be forgotten.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Forgettable {
    /// The whole state: tombstones with exactly these dots.
    Tombstones(Vec<Dot>),
    /// An entry of the clock, whose actor mints no more and owns no version.
    Entry(Actor, u64),
}

/// What a slot's first owner asks.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum CutQuestion {
    /// Would you name these?
    Ask {
        /// What.
        items: Vec<CutItem>,
    },
    /// Take these numbers, and name.
    Take {
        /// Each slot's new number.
        numbers: Vec<(Slot, u64)>,
        /// What.
        items: Vec<CutItem>,
    },
    /// All named these: forget them.
    Forget {
        /// What.
        items: Vec<CutItem>,
    },
    /// Your numbers of the slots from the first to the last.
    Numbers {
        /// The first.
        first: Slot,
        /// The last.
        last: Slot,
    },
}

/// The answer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CutAnswer {
    /// To `Ask` and `Take`: which items are named, in their order.
    pub named: Vec<bool>,
    /// The numbers held of the slots asked about, where they are above 0.
    pub numbers: Vec<(Slot, u64)>,
}

/// What reaches the machine.
#[derive(Clone, Debug, PartialEq)]
pub enum Event {
    /// Keys that may have something to forget, by the index, of slots whose first owner this node is.
    Due(Vec<CutItem>),
    /// A member's answer, this node's own among them.
    Answered(NodeId, CutAnswer),
    /// A member refused, or cannot be asked.
    Refused(NodeId),
    /// Time has passed.
    Tick,
}

/// What shall happen.
#[derive(Clone, Debug, PartialEq)]
pub enum Effect {
    /// Look into the index of what is due; then [`Event::Due`].
    Look,
    /// Ask a member; this node itself answers too, at once.
    Ask(NodeId, CutQuestion),
    /// All others have forgotten these: do so.
    Forget(Vec<CutItem>),
}

/// The rounds of a first owner.
#[derive(Debug)]
pub struct Cut {
    interval: Duration,
    due: Time,
    phase: Phase,
    /// Slots that somebody said no about: when they are asked about again, and the pause after that.
    pauses: BTreeMap<u16, (Time, Duration)>,
}

#[derive(Debug)]
enum Phase {
    Resting,
    Looking { since: Time },
    Asking(Round),
    Taking(Round),
    Forgetting(Round),
}

#[derive(Debug)]
struct Round {
    since: Time,
    items: Vec<CutItem>,
    named: Vec<bool>,
    numbers: BTreeMap<Slot, u64>,
    waiting: BTreeSet<NodeId>,
}

impl CutItem {
    /// The key's slot.
    pub fn slot(&self) -> Slot {
        Token::of(&self.key).slot()
    }

    /// What is to be forgotten of a state; nothing of most. An entry of an actor for which `is_dead` holds goes once the
    /// clock has more than `clock_max` of them.
    pub fn of(
        key: &Bytes,
        state: &Siblings,
        clock_max: usize,
        is_dead: impl Fn(Actor) -> bool,
    ) -> Option<Self> {
        let key = key.clone();
        if state.is_empty() {
            return None;
        }
        if !state.has_value() {
            let dots = state.versions().keys().copied().collect();
            return Some(Self { key, what: Forgettable::Tombstones(dots) });
        }
        let owns = |actor| state.versions().keys().any(|dot| dot.actor == actor);
        let mut entries =
            state.clock().iter().filter(|(actor, _)| is_dead(*actor) && !owns(*actor));
        let (actor, counter) = entries.next().filter(|_| clock_max < state.clock().len())?;
        Some(Self { key, what: Forgettable::Entry(actor, counter) })
    }

    /// Whether a member that holds `state` names it: it holds nothing, or exactly what is to be forgotten.
    pub fn is_named_by(&self, state: &Siblings) -> bool {
        match &self.what {
            Forgettable::Tombstones(dots) => {
                state.is_empty()
                    || (!state.has_value()
                        && state.versions().len() == dots.len()
                        && dots.iter().all(|dot| state.versions().contains_key(dot)))
            }
            Forgettable::Entry(actor, counter) => {
                state.is_empty()
                    || (state.clock().get(*actor) == *counter
                        && !state.versions().keys().any(|dot| dot.actor == *actor))
            }
        }
    }
}

impl Cut {
    /// The rounds of a node whose heart beats every `interval`.
    pub fn new(now: Time, interval: Duration) -> Self {
        let due = now.after(interval * PERIOD);
        Self { interval, due, phase: Phase::Resting, pauses: BTreeMap::new() }
    }

    /// When [`Event::Tick`] is wanted.
    pub fn wake_at(&self) -> Time {
        match &self.phase {
            Phase::Resting => self.due,
            Phase::Looking { since } => since.after(SILENCE_MAX),
            Phase::Asking(round) | Phase::Taking(round) | Phase::Forgetting(round) => {
                round.since.after(SILENCE_MAX)
            }
        }
    }

    /// Folds one event in; what must happen next is appended to `effects`. `members` are all of the layout, this node
    /// among them; `is_ready` when each of them is up and nothing stands in the way here.
    pub fn handle(
        &mut self,
        now: Time,
        event: Event,
        members: &[NodeId],
        is_ready: bool,
        effects: &mut Vec<Effect>,
    ) {
        match event {
            Event::Tick => self.tick(now, is_ready, effects),
            Event::Due(items) => {
                if !matches!(self.phase, Phase::Looking { .. }) {
                    return;
                }
                self.pauses.retain(|_, (until, _)| now < until.after(SLOT_PAUSE_MAX));
                let is_paused =
                    |slot: Slot| self.pauses.get(&slot.0).is_some_and(|(until, _)| now < *until);
                let mut items = items;
                items.retain(|item| !is_paused(item.slot()));
                items.truncate(ITEMS_MAX);
                if items.is_empty() || !is_ready {
                    return self.rest(now);
                }
                let round = Round::of(now, items, members);
                let question = CutQuestion::Ask { items: round.items.clone() };
                self.phase = Phase::Asking(round);
                ask_all(members, &question, effects);
            }
            Event::Answered(from, answer) => self.answered(now, from, &answer, members, effects),
            Event::Refused(_) => self.refused(now),
        }
    }

    fn tick(&mut self, now: Time, is_ready: bool, effects: &mut Vec<Effect>) {
        match &self.phase {
            Phase::Resting if self.due <= now => {
                if is_ready {
                    self.phase = Phase::Looking { since: now };
                    effects.push(Effect::Look);
                } else {
                    self.rest(now);
                }
            }
            Phase::Looking { since } if SILENCE_MAX <= now.since(*since) => self.rest(now),
            Phase::Resting | Phase::Looking { .. } => {}
            Phase::Asking(round) | Phase::Taking(round) | Phase::Forgetting(round) => {
                if SILENCE_MAX <= now.since(round.since) {
                    self.refused(now);
                }
            }
        }
    }

    fn answered(
        &mut self,
        now: Time,
        from: NodeId,
        answer: &CutAnswer,
        members: &[NodeId],
        effects: &mut Vec<Effect>,
    ) {
        let (Phase::Asking(round) | Phase::Taking(round) | Phase::Forgetting(round)) =
            &mut self.phase
        else {
            return;
        };
        if !round.waiting.remove(&from) {
            return;
        }
        for (index, named) in round.named.iter_mut().enumerate() {
            *named &= answer.named.get(index).copied().unwrap_or(false);
        }
        for (slot, number) in &answer.numbers {
            let known = round.numbers.entry(*slot).or_default();
            *known = (*known).max(*number);
        }
        if round.waiting.is_empty() {
            self.next_phase(now, members, effects);
        }
    }

    /// All have answered.
    fn next_phase(&mut self, now: Time, members: &[NodeId], effects: &mut Vec<Effect>) {
        match std::mem::replace(&mut self.phase, Phase::Resting) {
            Phase::Resting | Phase::Looking { .. } => {}
            Phase::Asking(round) => {
                let numbers = round.numbers.clone();
                let Some(items) = self.named_items(now, round) else { return self.rest(now) };
                let mut round = Round::of(now, items, members);
                let slots: BTreeSet<Slot> = round.items.iter().map(CutItem::slot).collect();
                let next = |slot: &Slot| numbers.get(slot).copied().unwrap_or(0) + 1;
                round.numbers = slots.iter().map(|slot| (*slot, next(slot))).collect();
                let numbers = round.numbers.iter().map(|(slot, number)| (*slot, *number)).collect();
                let question = CutQuestion::Take { numbers, items: round.items.clone() };
                self.phase = Phase::Taking(round);
                ask_all(members, &question, effects);
            }
            Phase::Taking(round) => {
                let Some(items) = self.named_items(now, round) else { return self.rest(now) };
                let others = &members[..members.len() - 1];
                let round = Round::of(now, items, others);
                let question = CutQuestion::Forget { items: round.items.clone() };
                if others.is_empty() {
                    effects.push(Effect::Forget(round.items));
                    return self.again(now);
                }
                self.phase = Phase::Forgetting(round);
                ask_all(others, &question, effects);
            }
            Phase::Forgetting(round) => {
                for item in &round.items {
                    self.pauses.remove(&item.slot().0);
                }
                effects.push(Effect::Forget(round.items));
                self.again(now);
            }
        }
    }

    /// What all named; the slots of the rest pause. `None` where that is nothing.
    fn named_items(&mut self, now: Time, round: Round) -> Option<Vec<CutItem>> {
        let (mut items, mut left) = (Vec::new(), Vec::new());
        for (item, named) in round.items.into_iter().zip(round.named) {
            if named { items.push(item) } else { left.push(item) }
        }
        self.pause(now, &left);
        (!items.is_empty()).then_some(items)
    }

    fn pause(&mut self, now: Time, items: &[CutItem]) {
        let slots: BTreeSet<u16> = items.iter().map(|item| item.slot().0).collect();
        for slot in slots {
            let first = self.interval * SLOT_PAUSE;
            let (until, pause) = self.pauses.entry(slot).or_insert((now, first));
            *until = now.after(*pause);
            *pause = (*pause * 2).min(SLOT_PAUSE_MAX);
        }
    }

    fn refused(&mut self, now: Time) {
        if let Phase::Asking(round) | Phase::Taking(round) | Phase::Forgetting(round) =
            std::mem::replace(&mut self.phase, Phase::Resting)
        {
            self.pause(now, &round.items);
        }
        self.rest(now);
    }

    /// The next look comes soon: there may be more.
    fn again(&mut self, now: Time) {
        (self.phase, self.due) = (Phase::Resting, now.after(self.interval / 10));
    }

    fn rest(&mut self, now: Time) {
        (self.phase, self.due) = (Phase::Resting, now.after(self.interval * PERIOD));
    }
}

impl Round {
    fn of(now: Time, items: Vec<CutItem>, members: &[NodeId]) -> Self {
        let named = vec![true; items.len()];
        let waiting = members.iter().copied().collect();
        Self { since: now, items, named, numbers: BTreeMap::new(), waiting }
    }
}

/// The last of `members` is this node: it answers at once, when the others have been asked.
fn ask_all(members: &[NodeId], question: &CutQuestion, effects: &mut Vec<Effect>) {
    effects.extend(members.iter().map(|node| Effect::Ask(*node, question.clone())));
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::version::notation::state;

    const ME: NodeId = NodeId::from_bytes([1; 16]);
    const B: NodeId = NodeId::from_bytes([2; 16]);
    /// This node comes last.
    const MEMBERS: [NodeId; 2] = [B, ME];
    const INTERVAL: Duration = Duration::from_secs(1);

    fn item(key: &'static str, text: &str) -> CutItem {
        CutItem::of(&Bytes::from_static(key.as_bytes()), &state(text), 20, |_| false).unwrap()
    }

    fn at(seconds: u64) -> Time {
        Time { monotonic: seconds * 1_000_000_000, wall: seconds * 1_000_000 }
    }

    struct Rounds(Cut);

    impl Rounds {
        fn new() -> Self {
            Self(Cut::new(at(0), INTERVAL))
        }

        fn handle(&mut self, seconds: u64, event: Event) -> Vec<Effect> {
            let mut effects = Vec::new();
            self.0.handle(at(seconds), event, &MEMBERS, true, &mut effects);
            effects
        }

        fn all_say(&mut self, seconds: u64, named: &[bool], number: u64) -> Vec<Effect> {
            let answer = |items: &CutItem| CutAnswer {
                named: named.to_vec(),
                numbers: vec![(items.slot(), number)],
            };
            let first = item("a", "a1:-");
            let mut effects = self.handle(seconds, Event::Answered(ME, answer(&first)));
            effects.extend(self.handle(seconds, Event::Answered(B, answer(&first))));
            effects
        }
    }

    #[test]
    fn only_tombstones_and_long_clocks_have_something_to_forget() {
        let key = Bytes::from_static(b"k");
        let of = |text: &str, max| CutItem::of(&key, &state(text), max, |_| true);
        assert_eq!(of("", 0), None);
        assert_eq!(of("a1:x / b2", 2), None);
        assert!(matches!(of("a1:x / b2", 1).unwrap().what, Forgettable::Entry(_, 2)));
        assert!(
            matches!(of("a1:- b2:-", 9).unwrap().what, Forgettable::Tombstones(dots) if dots.len() == 2)
        );
    }

    #[test]
    fn a_member_names_what_it_holds_exactly_so_or_not_at_all() {
        let tombstone = item("a", "a2:- / a1");
        assert!(tombstone.is_named_by(&Siblings::new()));
        assert!(tombstone.is_named_by(&state("a2:- / a1 b7")));
        for other in ["a1:x", "a2:- b1:-", "a2:- b1:x", "a3:-", "b1:-"] {
            assert!(!tombstone.is_named_by(&state(other)), "{other}");
        }
        let key = Bytes::from_static(b"k");
        let entry = CutItem::of(&key, &state("a1:x / b2"), 1, |_| true).unwrap();
        assert!(entry.is_named_by(&state("c1:y / b2")));
        for other in ["a1:x", "b2:x", "a1:x / b3", "b3:x / b2"] {
            assert!(!entry.is_named_by(&state(other)), "{other}");
        }
    }

    #[test]
    fn what_all_name_twice_is_forgotten_by_the_others_and_then_here() {
        let mut rounds = Rounds::new();
        assert_eq!(rounds.handle(5, Event::Tick), [Effect::Look]);
        let items = vec![item("a", "a1:-")];
        let asked = rounds.handle(5, Event::Due(items.clone()));
        assert_eq!(asked.len(), 2, "the others and this node: {asked:?}");
        let taken = rounds.all_say(5, &[true], 7);
        let numbers = vec![(items[0].slot(), 8)];
        let take = CutQuestion::Take { numbers, items: items.clone() };
        assert_eq!(taken, [Effect::Ask(B, take.clone()), Effect::Ask(ME, take)]);
        let forget = CutQuestion::Forget { items: items.clone() };
        assert_eq!(rounds.all_say(5, &[true], 8), [Effect::Ask(B, forget)]);
        let answer = CutAnswer { named: vec![true], numbers: Vec::new() };
        assert_eq!(rounds.handle(5, Event::Answered(B, answer)), [Effect::Forget(items)]);
    }

    #[test]
    fn a_no_pauses_the_slot_ever_longer_and_takes_no_number() {
        let mut rounds = Rounds::new();
        let items = vec![item("a", "a1:-")];
        for (seconds, is_asked) in [(5, true), (10, false), (16, true), (21, false), (40, true)] {
            assert_eq!(rounds.handle(seconds, Event::Tick), [Effect::Look], "at {seconds} s");
            let asked = rounds.handle(seconds, Event::Due(items.clone()));
            assert_eq!(!asked.is_empty(), is_asked, "at {seconds} s");
            if is_asked {
                assert_eq!(rounds.all_say(seconds, &[false], 0), []);
            }
        }
    }

    #[test]
    fn one_that_does_not_take_the_number_keeps_all_from_forgetting() {
        let mut rounds = Rounds::new();
        rounds.handle(5, Event::Tick);
        rounds.handle(5, Event::Due(vec![item("a", "a1:-")]));
        rounds.all_say(5, &[true], 0);
        let yes = CutAnswer { named: vec![true], numbers: Vec::new() };
        rounds.handle(5, Event::Answered(ME, yes));
        assert_eq!(rounds.handle(5, Event::Refused(B)), []);
        assert_eq!(rounds.handle(10, Event::Tick), [Effect::Look], "nothing was forgotten");
    }

    #[test]
    fn silence_is_a_no() {
        let mut rounds = Rounds::new();
        rounds.handle(5, Event::Tick);
        rounds.handle(5, Event::Due(vec![item("a", "a1:-")]));
        assert_eq!(rounds.handle(10, Event::Tick), []);
        assert_eq!(rounds.handle(15, Event::Tick), [Effect::Look]);
    }

    #[test]
    fn nothing_is_asked_while_somebody_is_down() {
        let mut cut = Cut::new(at(0), INTERVAL);
        let mut effects = Vec::new();
        cut.handle(at(5), Event::Tick, &MEMBERS, false, &mut effects);
        assert_eq!(effects, []);
        assert_eq!(cut.wake_at(), at(10));
    }
}
