//! The side that compares: one walk down two trees for each peer, and the repair of what differs.
//!
//! ```text
//!          due            roots differ              slots found            still differ
//! resting ─────▶ asking ───────────────▶ descending ───────────▶ pausing ──▶ looking again ──▶ repairing
//!    ▲             │ roots equal                                              ▲      │             │
//!    └─────────────┴──────────────────────────────────────────────────────────│──────┤ all equal   │ a few done:
//!                                                                             └──────┴─────────────┘ the next few
//! ```
//! It looks again at a few slots and settles those, then at the next few: who is behind all others settles each slot
//! with one of them, and the others find it settled, for each pair begins elsewhere.
//!
//! Of a pair the member with the smaller id compares by itself, every [`PERIOD`] beats; anyone does when told to; where
//! both do, the smaller one goes on.
//! After a repair it compares again soon, until nothing differs.
//!
//! Pace: at most a window of slots is under repair, which grows by one for each window done and halves when the peer
//! refuses or takes much longer than it does at its best (then somebody else is being served); and what moves stays
//! below a rate. A peer that says nothing for [`SILENCE_MAX`] is left alone until the next period.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

use rand::Rng;

use crate::cluster::Time;
use crate::node_id::NodeId;
use crate::planted::{self, Bug};
use crate::ring::{Slot, Token};

use super::message::{Compare, Compared};
use super::rows::Ages;
use super::tree::{LOWEST_LEVEL, TreeHash, TreeNode};
use super::walk::{Step, Walk};

/// Heartbeat intervals between two comparisons of a pair.
const PERIOD: u32 = 30;
/// Intervals that a peer has been reachable before it is compared with: hints go first.
const SETTLE: u32 = 5;
/// The pause before slots that differ are looked at again: writes under way settle in it.
const SECOND_LOOK: Duration = Duration::from_secs(1);
/// The pause after a repair, before it is checked.
const CHECK_PAUSE: Duration = Duration::from_millis(200);
/// Comparisons in a row that repair something, before the pair rests.
const ROUNDS_MAX: u32 = 8;
/// Slots that are looked at again, and settled, before the next ones are.
const LOOK_SLOTS: usize = 64;
/// Slots under repair with one peer: at first, and at most.
const WINDOW: u32 = 8;
const WINDOW_MAX: u32 = 64;
/// The window halves where a slot takes so many times as long as at best, and longer than [`SLOW_MIN`].
const SLOW_TIMES: u32 = 8;
const SLOW_MIN: Duration = Duration::from_millis(50);
/// The pause after a refusal.
const BUSY_PAUSE: Duration = Duration::from_millis(200);
/// A question or repair that takes longer has failed.
const SILENCE_MAX: Duration = Duration::from_secs(10);

/// No time that comes.
const NEVER: Time = Time { monotonic: u64::MAX, wall: u64::MAX };

/// A question on its way.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct AskId(pub u64);

/// The own tree, as the pair sees it.
pub trait View {
    /// The hash of `node`, masked to what is shared with `peer`.
    fn hash(&mut self, peer: NodeId, node: TreeNode) -> TreeHash;
    /// The leaf of `slot`; 0 where it is not shared with `peer`.
    fn leaf(&self, peer: NodeId, slot: Slot) -> u128;
}

/// What reaches the machine.
#[derive(Clone, Debug, PartialEq)]
pub enum Event {
    /// The peer can be reached.
    Reachable(NodeId),
    /// The peer cannot be reached, or shares nothing any more.
    Unreachable(NodeId),
    /// Somebody wants every reachable peer compared with now.
    Start,
    /// To [`Effect::Ask`]; `None` when it was refused.
    Answered(AskId, Option<Compared>),
    /// To [`Effect::Repair`].
    Repaired(NodeId, Slot, Outcome),
    /// Time has passed.
    Tick,
}

/// How the repair of a slot ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// So many keys and bytes moved, both ways.
    Moved {
        /// Keys.
        keys: u64,
        /// Bytes of their states.
        bytes: u64,
    },
    /// So much moved, and the slot holds more than went at once.
    More {
        /// Keys.
        keys: u64,
        /// Bytes of their states.
        bytes: u64,
    },
    /// The peer has too much to do.
    Busy,
    /// It could not be done now.
    Failed,
}

/// What shall happen.
#[derive(Clone, Debug, PartialEq)]
pub enum Effect {
    /// Ask the peer.
    Ask(AskId, NodeId, Compare),
    /// Settle one slot with the peer, row by row.
    Repair(NodeId, Slot, Ages),
    /// The slot's leaves differ and its keys do not: work the own leaf out anew.
    Recount(Slot),
}

/// How far the comparison with one peer is, for people.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Progress {
    /// When a comparison last found both equal.
    pub equal_at: Option<Time>,
    /// Slots known to differ and not repaired yet.
    pub slots_left: u64,
    /// Whether a comparison runs.
    pub is_running: bool,
}

/// All peers and how far each is.
#[derive(Debug)]
pub struct Exchange {
    me: NodeId,
    interval: Duration,
    /// Bytes a second.
    rate: u64,
    /// When what was moved is paid for.
    paid_at: Time,
    peers: BTreeMap<NodeId, Peer>,
    asked: BTreeMap<AskId, NodeId>,
    next_ask: u64,
}

#[derive(Debug)]
struct Peer {
    is_reachable: bool,
    /// When the next comparison is due; [`NEVER`] where the peer begins it.
    due: Time,
    phase: Phase,
    rounds: u32,
    window: u32,
    taken: u32,
    best: Option<Duration>,
    pause_until: Time,
    equal_at: Option<Time>,
    /// Whether a slot was settled since the last comparison began.
    has_repaired: bool,
    /// Slots whose keys were found equal in the round before.
    unexplained: BTreeSet<u16>,
}

#[derive(Debug)]
enum Phase {
    Resting,
    Asking { since: Time },
    Descending { since: Time, level: u8, walk: Walk },
    Pausing { until: Time, slots: Vec<u16> },
    Looking { since: Time, walk: Walk, rest: VecDeque<u16> },
    Repairing { open: VecDeque<u16>, in_flight: BTreeMap<u16, Time>, rest: VecDeque<u16> },
}

impl Exchange {
    /// The machine of `me`, whose heart beats every `interval`; repairs move at most `rate` bytes a second.
    pub const fn new(me: NodeId, interval: Duration, rate: u64) -> Self {
        Self {
            me,
            interval,
            rate,
            paid_at: Time { monotonic: 0, wall: 0 },
            peers: BTreeMap::new(),
            asked: BTreeMap::new(),
            next_ask: 0,
        }
    }

    /// Repairs move at most so many bytes a second from now on.
    pub const fn set_rate(&mut self, rate: u64) {
        self.rate = rate;
    }

    /// Folds one event in; what must happen next is appended to `effects`.
    pub fn handle(
        &mut self,
        now: Time,
        event: Event,
        view: &mut impl View,
        rng: &mut impl Rng,
        effects: &mut Vec<Effect>,
    ) {
        match event {
            Event::Reachable(node) => self.reachable(now, node, rng),
            Event::Unreachable(node) => self.lose(node),
            Event::Start => {
                for peer in self.peers.values_mut() {
                    (peer.due, peer.rounds) = (now, 0);
                }
                self.tick(now, view, effects);
            }
            Event::Answered(id, compared) => self.answered(now, id, compared, view, effects),
            Event::Repaired(node, slot, outcome) => {
                self.repaired(now, node, slot, outcome, view, effects);
            }
            Event::Tick => self.tick(now, view, effects),
        }
    }

    /// When [`Event::Tick`] is wanted.
    pub fn wake_at(&self) -> Option<Time> {
        self.peers.values().filter_map(|peer| peer.wake_at(self.paid_at)).min()
    }

    /// How far the comparison with `node` is.
    pub fn progress(&self, node: NodeId) -> Progress {
        self.peers.get(&node).map(Peer::progress).unwrap_or_default()
    }

    fn reachable(&mut self, now: Time, node: NodeId, rng: &mut impl Rng) {
        let wait = self.interval * SETTLE;
        let due = self.due_after(now, node, wait + wait.mul_f64(rng.random()));
        let peer = self.peers.entry(node).or_insert_with(Peer::new);
        if !peer.is_reachable {
            (peer.is_reachable, peer.due) = (true, due);
        }
    }

    /// What was under way with this peer comes to nothing.
    fn lose(&mut self, node: NodeId) {
        if let Some(peer) = self.peers.get_mut(&node) {
            peer.is_reachable = false;
            peer.phase = Phase::Resting;
        }
        self.asked.retain(|_, asked| *asked != node);
    }

    fn tick(&mut self, now: Time, view: &mut impl View, effects: &mut Vec<Effect>) {
        let nodes: Vec<NodeId> = self.peers.keys().copied().collect();
        for node in nodes {
            if self.peers.get(&node).is_some_and(|peer| peer.is_silent(now)) {
                self.asked.retain(|_, asked| *asked != node);
                self.rest(now, node, self.interval * PERIOD);
            }
            self.advance(now, node, view, effects);
        }
    }

    /// Goes on where nothing is waited for.
    fn advance(
        &mut self,
        now: Time,
        node: NodeId,
        view: &mut impl View,
        effects: &mut Vec<Effect>,
    ) {
        let Some(peer) = self.peers.get_mut(&node) else { return };
        match &mut peer.phase {
            Phase::Resting => {
                if peer.is_reachable && peer.due <= now {
                    (peer.phase, peer.has_repaired) = (Phase::Asking { since: now }, false);
                    let root = view.hash(node, TreeNode::ROOT);
                    self.ask(node, Compare::Root(root), effects);
                }
            }
            Phase::Asking { .. } => {}
            Phase::Descending { since, level, walk } => {
                let (level, nodes) = (*level, walk.next());
                if !nodes.is_empty() {
                    *since = now;
                    self.ask(node, Compare::Children { level, nodes }, effects);
                }
            }
            Phase::Pausing { until, slots } => {
                if *until <= now {
                    let mut slots = std::mem::take(slots);
                    let first = first_slot(self.me, node);
                    let place = slots.partition_point(|slot| *slot < first);
                    slots.rotate_left(place);
                    self.look_at_next(now, node, slots.into());
                    self.advance(now, node, view, effects);
                }
            }
            Phase::Looking { since, walk, .. } => {
                let slots: Vec<Slot> = walk.next().into_iter().map(Slot).collect();
                if !slots.is_empty() {
                    *since = now;
                    self.ask(node, Compare::Leaves(slots), effects);
                }
            }
            Phase::Repairing { open, in_flight, rest } => {
                if now < peer.pause_until || now < self.paid_at {
                    return;
                }
                while in_flight.len() < peer.window as usize
                    && let Some(slot) = open.pop_front()
                {
                    in_flight.insert(slot, now);
                    let guesses = peer.rounds == 0 || planted::is_on(Bug::NewerSideAlwaysGives);
                    let ages = if guesses { Ages::Told } else { Ages::Untold };
                    effects.push(Effect::Repair(node, Slot(slot), ages));
                }
                if in_flight.is_empty() {
                    let rest = std::mem::take(rest);
                    self.settled(now, node, rest);
                    self.advance(now, node, view, effects);
                }
            }
        }
    }

    fn ask(&mut self, node: NodeId, question: Compare, effects: &mut Vec<Effect>) {
        let id = AskId(self.next_ask);
        self.next_ask += 1;
        self.asked.insert(id, node);
        effects.push(Effect::Ask(id, node, question));
    }

    fn answered(
        &mut self,
        now: Time,
        id: AskId,
        compared: Option<Compared>,
        view: &mut impl View,
        effects: &mut Vec<Effect>,
    ) {
        let Some(node) = self.asked.remove(&id) else { return };
        let Some(peer) = self.peers.get_mut(&node) else { return };
        match (&mut peer.phase, compared) {
            (Phase::Asking { .. }, Some(Compared::Root(theirs))) => {
                if theirs == view.hash(node, TreeNode::ROOT) {
                    self.equal(now, node);
                } else {
                    peer.phase = Phase::Descending { since: now, level: 0, walk: Walk::of([0]) };
                }
            }
            (Phase::Descending { level, walk, .. }, Some(Compared::Hashes(bytes))) => {
                let level = *level;
                match walk.descend(node, level, &bytes, view) {
                    Step::Stay => {}
                    Step::Found(slots) if level == LOWEST_LEVEL => {
                        peer.phase = Phase::Pausing { until: now.after(SECOND_LOOK), slots };
                    }
                    Step::Found(nodes) => {
                        let walk = Walk::of(nodes);
                        peer.phase = Phase::Descending { since: now, level: level + 1, walk };
                    }
                    // What differed has settled meanwhile.
                    Step::Equal => self.equal(now, node),
                    Step::Failed => self.rest(now, node, self.interval * SETTLE),
                }
            }
            (Phase::Looking { walk, rest, .. }, Some(Compared::Hashes(bytes))) => {
                match walk.look_again(node, &bytes, view) {
                    Step::Stay => {}
                    Step::Found(open) => {
                        let (open, rest) = (open.into(), std::mem::take(rest));
                        let in_flight = BTreeMap::new();
                        peer.phase = Phase::Repairing { open, in_flight, rest };
                        peer.has_repaired = true;
                    }
                    Step::Equal => {
                        let rest = std::mem::take(rest);
                        self.settled(now, node, rest);
                    }
                    Step::Failed => self.rest(now, node, self.interval * SETTLE),
                }
            }
            // An answer to something else, or a refusal.
            _ => self.rest(now, node, self.interval * SETTLE),
        }
        self.advance(now, node, view, effects);
    }

    fn repaired(
        &mut self,
        now: Time,
        node: NodeId,
        slot: Slot,
        outcome: Outcome,
        view: &mut impl View,
        effects: &mut Vec<Effect>,
    ) {
        let Some(peer) = self.peers.get_mut(&node) else { return };
        let Phase::Repairing { open, in_flight, .. } = &mut peer.phase else { return };
        let Some(since) = in_flight.remove(&slot.0) else { return };
        match outcome {
            Outcome::Moved { keys, bytes } | Outcome::More { keys, bytes } => {
                match outcome {
                    Outcome::More { .. } => open.push_back(slot.0),
                    _ if keys > 0 => {}
                    // The first time, what differed may have settled in between.
                    _ if peer.unexplained.insert(slot.0) => {}
                    _ => effects.push(Effect::Recount(slot)),
                }
                let cost = Duration::from_micros(bytes * 1_000_000 / self.rate.max(1));
                self.paid_at = Time::max(self.paid_at, now).after(cost);
                peer.note_pace(now.since(since));
            }
            Outcome::Busy => {
                open.push_back(slot.0);
                peer.slow_down();
                peer.pause_until = now.after(BUSY_PAUSE);
            }
            Outcome::Failed => {}
        }
        // A rate lets bursts of a tenth of a second pass.
        if self.paid_at.since(now) < Duration::from_millis(100) {
            self.paid_at = Time { monotonic: 0, wall: 0 };
        }
        self.advance(now, node, view, effects);
    }

    /// The slots looked at are settled: on to the next ones, or to a look whether all are.
    fn settled(&mut self, now: Time, node: NodeId, rest: VecDeque<u16>) {
        if !rest.is_empty() {
            return self.look_at_next(now, node, rest);
        }
        let Some(peer) = self.peers.get_mut(&node) else { return };
        if !peer.has_repaired {
            return self.equal(now, node);
        }
        peer.rounds += 1;
        let pause = if peer.rounds < ROUNDS_MAX { CHECK_PAUSE } else { self.interval * PERIOD };
        if peer.rounds >= ROUNDS_MAX {
            peer.rounds = 0;
        }
        peer.phase = Phase::Resting;
        peer.due = now.after(pause);
    }

    fn look_at_next(&mut self, now: Time, node: NodeId, mut slots: VecDeque<u16>) {
        if let Some(peer) = self.peers.get_mut(&node) {
            let rest = slots.split_off(slots.len().min(LOOK_SLOTS));
            peer.phase = Phase::Looking { since: now, walk: Walk::of(slots), rest };
        }
    }

    fn equal(&mut self, now: Time, node: NodeId) {
        if let Some(peer) = self.peers.get_mut(&node) {
            (peer.equal_at, peer.rounds) = (Some(now), 0);
            peer.unexplained.clear();
        }
        self.rest(now, node, self.interval * PERIOD);
    }

    /// Whether a comparison that `node` begins is answered. Of two that compare with each other at once, one gives way:
    /// they would find and settle the same.
    pub fn gives_way_to(&mut self, now: Time, node: NodeId) -> bool {
        let is_running = self.peers.get(&node).is_some_and(|peer| peer.progress().is_running);
        if is_running && node < self.me {
            self.asked.retain(|_, asked| *asked != node);
            self.rest(now, node, self.interval * PERIOD);
        }
        !is_running || node < self.me
    }

    /// The pair rests; the smaller id of the two begins again by itself.
    fn rest(&mut self, now: Time, node: NodeId, pause: Duration) {
        let due = self.due_after(now, node, pause);
        if let Some(peer) = self.peers.get_mut(&node) {
            (peer.phase, peer.due) = (Phase::Resting, due);
        }
    }

    fn due_after(&self, now: Time, node: NodeId, pause: Duration) -> Time {
        if self.me < node { now.after(pause) } else { NEVER }
    }
}

impl Peer {
    const fn new() -> Self {
        Self {
            is_reachable: false,
            due: NEVER,
            phase: Phase::Resting,
            rounds: 0,
            window: WINDOW,
            taken: 0,
            best: None,
            pause_until: Time { monotonic: 0, wall: 0 },
            equal_at: None,
            has_repaired: false,
            unexplained: BTreeSet::new(),
        }
    }

    /// A slot took so long.
    fn note_pace(&mut self, took: Duration) {
        // What was best once is forgotten slowly: the peer may have become slower for good.
        let best = self.best.map_or(took, |best| took.min(best + best / 50));
        self.best = Some(best);
        if SLOW_MIN < took && best * SLOW_TIMES < took {
            self.slow_down();
            return;
        }
        self.taken += 1;
        if self.window <= self.taken {
            self.taken = 0;
            self.window = (self.window + 1).min(WINDOW_MAX);
        }
    }

    fn slow_down(&mut self) {
        self.window = (self.window / 2).max(1);
        self.taken = 0;
    }

    /// Since when the peer owes an answer.
    fn waits_since(&self) -> Option<Time> {
        match &self.phase {
            Phase::Resting | Phase::Pausing { .. } => None,
            Phase::Asking { since } => Some(*since),
            Phase::Descending { since, walk, .. } | Phase::Looking { since, walk, .. } => {
                (!walk.asked.is_empty()).then_some(*since)
            }
            Phase::Repairing { in_flight, .. } => in_flight.values().min().copied(),
        }
    }

    fn is_silent(&self, now: Time) -> bool {
        self.waits_since().is_some_and(|since| SILENCE_MAX <= now.since(since))
    }

    fn wake_at(&self, paid_at: Time) -> Option<Time> {
        let silent_at = self.waits_since().map(|since| since.after(SILENCE_MAX));
        let goes_on_at = match &self.phase {
            Phase::Resting => (self.is_reachable && self.due != NEVER).then_some(self.due),
            Phase::Pausing { until, .. } => Some(*until),
            Phase::Repairing { open, in_flight, .. } => {
                let has_room = !open.is_empty() && in_flight.len() < self.window as usize;
                has_room.then(|| self.pause_until.max(paid_at))
            }
            Phase::Asking { .. } | Phase::Descending { .. } | Phase::Looking { .. } => None,
        };
        [silent_at, goes_on_at].into_iter().flatten().min()
    }

    fn progress(&self) -> Progress {
        let slots_left = match &self.phase {
            Phase::Resting | Phase::Asking { .. } | Phase::Descending { .. } => 0,
            Phase::Pausing { slots, .. } => slots.len(),
            Phase::Looking { walk, rest, .. } => walk.len() + rest.len(),
            Phase::Repairing { open, in_flight, rest } => open.len() + in_flight.len() + rest.len(),
        };
        Progress {
            equal_at: self.equal_at,
            slots_left: slots_left as u64,
            is_running: !matches!(self.phase, Phase::Resting),
        }
    }
}

/// Where a pair begins with its slots: elsewhere than the others do.
fn first_slot(me: NodeId, node: NodeId) -> u16 {
    let ids = [me.as_bytes().as_slice(), node.as_bytes().as_slice()].concat();
    Token::of(&ids).slot().0
}
