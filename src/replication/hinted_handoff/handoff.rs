//! Hands hints over: for each target that can be reached, page by page, a window of them in flight.
//!
//! ```text
//! idle ──target up, after a pause──▶ reading a page ──▶ sending it, a window at a time ──▶ reading on … ──▶ idle
//!   ▲                                                      │ target gone, or silent
//!   └──────────────────────────────────────────────────────┘
//! ```
//! The receiver paces it: what it refuses as too much halves the window and comes again after a pause that doubles;
//! each window that it takes whole makes the next one larger by one. A hint goes only after the target merged it
//! durably, and only if it still is what was sent; what came meanwhile is found in the next round.
//!
//! Invariants: at most a window of hints a target is in flight, at most one page of them in memory; a target that
//! cannot be reached costs nothing but its entry.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use bytes::Bytes;
use rand::Rng;

use crate::cluster::Time;
use crate::node_id::NodeId;

use super::Hint;

/// Most hints of one page.
pub const PAGE_ENTRIES: usize = 256;
/// Hints in flight to one target: at first, and at most.
const WINDOW: u32 = 16;
const WINDOW_MAX: u32 = 256;
/// How long a target must have been up before hints go, and how much chance adds: holders shall not all begin at once.
const SETTLE: Duration = Duration::from_secs(1);
/// The pause after a refusal, doubled with each in a row, at most.
const PAUSE: Duration = Duration::from_millis(20);
const PAUSE_MAX: Duration = Duration::from_secs(5);
/// The pause between two rounds over a target's hints.
const ROUND_PAUSE: Duration = Duration::from_secs(1);
/// A target that does not answer for so long is left alone until it settled again.
const SILENCE_MAX: Duration = Duration::from_secs(5);

/// One hint on its way.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct SendId(pub u64);

/// All targets and how far each is.
#[derive(Debug, Default)]
pub struct Handoff {
    targets: BTreeMap<NodeId, Target>,
    sent: BTreeMap<SendId, NodeId>,
    next_send: u64,
}

/// What reaches the machine.
#[derive(Clone, Debug, PartialEq)]
pub enum Event {
    /// A hint for this target was stored where none for its key was.
    Held(NodeId),
    /// A hint of this target is gone.
    Gone(NodeId),
    /// The target can be reached.
    Reachable(NodeId),
    /// The target cannot be reached, or is no member any more.
    Unreachable(NodeId),
    /// A page that [`Effect::Read`] asked for.
    Page {
        /// Whose.
        target: NodeId,
        /// Keys and hints; there may be none, and yet more behind.
        hints: Vec<(Bytes, Hint)>,
        /// Where the next page begins; `None` when the target's hints end here.
        next: Option<Bytes>,
    },
    /// The page could not be read.
    Unread(NodeId),
    /// To [`Effect::Send`].
    Answered {
        /// As given there.
        id: SendId,
        /// What the target said.
        reply: Reply,
    },
    /// Time has passed.
    Tick,
}

/// What a target said to a hint.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reply {
    /// It merged it durably.
    Merged,
    /// Not now: it has too much to do, or no room.
    Busy,
    /// Not this one: it does not own the key by its layout, or cannot read it. It is tried again in the next round.
    Refused,
}

/// What shall happen.
#[derive(Clone, Debug, PartialEq)]
pub enum Effect {
    /// Read a page of the target's hints, at most [`PAGE_ENTRIES`]; then [`Event::Page`].
    Read {
        /// Whose.
        target: NodeId,
        /// Where the page before said that this one begins; the first where there is none.
        from: Option<Bytes>,
    },
    /// Send the hint's state to its target, to be merged.
    Send {
        /// Comes back with the answer.
        id: SendId,
        /// Whom.
        target: NodeId,
        /// The key.
        key: Bytes,
        /// What.
        hint: Hint,
    },
    /// The target has it: forget the hint if it still is this one.
    Forget {
        /// Whose.
        target: NodeId,
        /// The key.
        key: Bytes,
        /// What was sent.
        sent: Hint,
    },
}

#[derive(Debug)]
struct Target {
    hints: u64,
    /// When hints may go: set while the target can be reached.
    from: Option<Time>,
    phase: Phase,
    /// Where the next page begins, if one was read.
    next: Option<Bytes>,
    window: u32,
    /// Merged since the window changed.
    taken: u32,
    pause: Duration,
}

#[derive(Debug)]
enum Phase {
    Idle,
    Reading,
    Sending {
        queue: VecDeque<(Bytes, Hint)>,
        in_flight: BTreeMap<SendId, InFlight>,
        complete: bool,
    },
}

#[derive(Debug)]
struct InFlight {
    key: Bytes,
    hint: Hint,
    since: Time,
}

impl Default for Target {
    fn default() -> Self {
        Self {
            hints: 0,
            from: None,
            phase: Phase::Idle,
            next: None,
            window: WINDOW,
            taken: 0,
            pause: PAUSE,
        }
    }
}

impl Handoff {
    /// Folds one event in; what must happen next is appended to `effects`.
    pub fn handle(
        &mut self,
        now: Time,
        event: Event,
        rng: &mut impl Rng,
        effects: &mut Vec<Effect>,
    ) {
        match event {
            Event::Held(target) => self.targets.entry(target).or_default().hints += 1,
            Event::Gone(target) => self.gone(target),
            Event::Reachable(target) => self.reachable(now, target, rng),
            Event::Unreachable(target) => self.lose(target),
            Event::Page { target, hints, next } => {
                self.page(now, target, hints, next, effects);
            }
            Event::Unread(target) => self.rest(now, target, ROUND_PAUSE),
            Event::Answered { id, reply } => self.answered(now, id, reply, effects),
            Event::Tick => self.tick(now, effects),
        }
    }

    /// Hints held for each target that has some.
    pub fn held(&self) -> impl Iterator<Item = (NodeId, u64)> + '_ {
        let held = self.targets.iter().filter(|(_, target)| target.hints > 0);
        held.map(|(node, target)| (*node, target.hints))
    }

    /// When [`Event::Tick`] is wanted.
    pub fn wake_at(&self) -> Option<Time> {
        self.targets.values().filter_map(Target::wake_at).min()
    }

    fn gone(&mut self, node: NodeId) {
        if let Some(target) = self.targets.get_mut(&node) {
            target.hints = target.hints.saturating_sub(1);
        }
    }

    fn reachable(&mut self, now: Time, node: NodeId, rng: &mut impl Rng) {
        let target = self.targets.entry(node).or_default();
        if target.from.is_none() {
            target.from = Some(now.after(SETTLE + SETTLE.mul_f64(rng.random())));
        }
    }

    /// What was under way to this target comes to nothing.
    fn lose(&mut self, node: NodeId) {
        if let Some(target) = self.targets.get_mut(&node) {
            target.from = None;
            target.halt();
        }
        self.sent.retain(|_, target| *target != node);
    }

    /// Leaves the target alone for a while; the next round begins with its first hint.
    fn rest(&mut self, now: Time, node: NodeId, pause: Duration) {
        if let Some(target) = self.targets.get_mut(&node) {
            target.from = target.from.map(|_| now.after(pause));
            target.halt();
        }
        self.sent.retain(|_, target| *target != node);
    }

    fn page(
        &mut self,
        now: Time,
        node: NodeId,
        hints: Vec<(Bytes, Hint)>,
        next: Option<Bytes>,
        effects: &mut Vec<Effect>,
    ) {
        let Some(target) = self.targets.get_mut(&node) else { return };
        if !matches!(target.phase, Phase::Reading) {
            return;
        }
        let complete = next.is_none();
        target.next = next;
        let (queue, in_flight) = (hints.into(), BTreeMap::new());
        target.phase = Phase::Sending { queue, in_flight, complete };
        self.advance(now, node, effects);
    }

    fn answered(&mut self, now: Time, id: SendId, reply: Reply, effects: &mut Vec<Effect>) {
        let Some(node) = self.sent.remove(&id) else { return };
        let Some(target) = self.targets.get_mut(&node) else { return };
        let Phase::Sending { queue, in_flight, .. } = &mut target.phase else { return };
        let Some(InFlight { key, hint, .. }) = in_flight.remove(&id) else { return };
        match reply {
            Reply::Merged => {
                effects.push(Effect::Forget { target: node, key, sent: hint });
                target.pause = PAUSE;
                target.taken += 1;
                if target.window <= target.taken {
                    target.taken = 0;
                    target.window = (target.window + 1).min(WINDOW_MAX);
                }
            }
            Reply::Busy => {
                queue.push_front((key, hint));
                // All that is in flight meets the same crowd: the window shrinks once.
                if target.from.is_some_and(|from| from <= now) {
                    target.window = (target.window / 2).max(1);
                    target.taken = 0;
                    target.from = Some(now.after(target.pause));
                    target.pause = (2 * target.pause).min(PAUSE_MAX);
                }
            }
            Reply::Refused => {}
        }
        self.advance(now, node, effects);
    }

    fn tick(&mut self, now: Time, effects: &mut Vec<Effect>) {
        let silent: Vec<NodeId> = self
            .targets
            .iter()
            .filter(|(_, target)| target.is_silent(now))
            .map(|(node, _)| *node)
            .collect();
        for node in silent {
            self.rest(now, node, SETTLE);
        }
        let nodes: Vec<NodeId> = self.targets.keys().copied().collect();
        for node in nodes {
            self.advance(now, node, effects);
        }
    }

    /// Sends what the window allows; reads on, or rests, where a page is done.
    fn advance(&mut self, now: Time, node: NodeId, effects: &mut Vec<Effect>) {
        let Some(target) = self.targets.get_mut(&node) else { return };
        if target.from.is_none_or(|from| from > now) {
            return;
        }
        match &mut target.phase {
            Phase::Reading => {}
            Phase::Idle if target.hints == 0 => {}
            Phase::Idle => {
                target.phase = Phase::Reading;
                effects.push(Effect::Read { target: node, from: target.next.clone() });
            }
            Phase::Sending { queue, in_flight, complete } => {
                while in_flight.len() < target.window as usize
                    && let Some((key, hint)) = queue.pop_front()
                {
                    let id = SendId(self.next_send);
                    self.next_send += 1;
                    self.sent.insert(id, node);
                    effects.push(Effect::Send {
                        id,
                        target: node,
                        key: key.clone(),
                        hint: hint.clone(),
                    });
                    in_flight.insert(id, InFlight { key, hint, since: now });
                }
                if !in_flight.is_empty() || !queue.is_empty() {
                    return;
                }
                if *complete {
                    self.rest(now, node, ROUND_PAUSE);
                } else {
                    target.phase = Phase::Reading;
                    effects.push(Effect::Read { target: node, from: target.next.clone() });
                }
            }
        }
    }
}

impl Target {
    /// Back to the beginning of its hints.
    fn halt(&mut self) {
        (self.phase, self.next) = (Phase::Idle, None);
    }

    fn is_silent(&self, now: Time) -> bool {
        self.silent_at().is_some_and(|at| at <= now)
    }

    /// When it will have been silent for too long.
    fn silent_at(&self) -> Option<Time> {
        let Phase::Sending { in_flight, .. } = &self.phase else { return None };
        in_flight.values().map(|sent| sent.since.after(SILENCE_MAX)).min()
    }

    fn wake_at(&self) -> Option<Time> {
        let from = self.from.filter(|_| match &self.phase {
            Phase::Idle => self.hints > 0,
            Phase::Reading => false,
            Phase::Sending { queue, in_flight, .. } => {
                !queue.is_empty() && in_flight.len() < self.window as usize
            }
        });
        from.into_iter().chain(self.silent_at()).min()
    }
}

#[cfg(test)]
mod tests {
    use rand::SeedableRng;
    use rand_chacha::ChaCha8Rng;

    use super::*;
    use crate::version::notation::{node, state};

    /// A holder with its hints, and a target that merges, refuses or keeps silent as it is told.
    struct Scene {
        handoff: Handoff,
        rng: ChaCha8Rng,
        now: Time,
        stored: BTreeMap<Bytes, Hint>,
        merged: Vec<Bytes>,
        in_flight: usize,
        in_flight_max: usize,
        /// Hints that the target takes in one step of 10 ms.
        takes: usize,
        is_silent: bool,
    }

    impl Scene {
        fn new(hints: usize) -> Self {
            let mut scene = Self {
                handoff: Handoff::default(),
                rng: ChaCha8Rng::seed_from_u64(7),
                now: Time::default(),
                stored: BTreeMap::new(),
                merged: Vec::new(),
                in_flight: 0,
                in_flight_max: 0,
                takes: usize::MAX,
                is_silent: false,
            };
            (0..hints).for_each(|index| scene.hold(&format!("{index:06}")));
            scene
        }

        fn hold(&mut self, key: &str) {
            let hint = Hint { w: 1, since: 0, state: state("a1:x") };
            if self.stored.insert(Bytes::copy_from_slice(key.as_bytes()), hint).is_none() {
                self.tell(Event::Held(node("t")));
            }
        }

        fn tell(&mut self, event: Event) -> Vec<(SendId, Bytes)> {
            let (mut events, mut sent) = (VecDeque::from([event]), Vec::new());
            while let Some(event) = events.pop_front() {
                let mut effects = Vec::new();
                self.handoff.handle(self.now, event, &mut self.rng, &mut effects);
                for effect in effects {
                    match effect {
                        Effect::Read { target, from } => {
                            let from = from.unwrap_or_default();
                            let mut behind = self.stored.range(from..);
                            let hints: Vec<_> = behind
                                .by_ref()
                                .take(PAGE_ENTRIES)
                                .map(|(key, hint)| (key.clone(), hint.clone()))
                                .collect();
                            let next = behind.next().map(|(key, _)| key.clone());
                            events.push_back(Event::Page { target, hints, next });
                        }
                        Effect::Send { id, key, .. } => {
                            self.in_flight += 1;
                            self.in_flight_max = self.in_flight_max.max(self.in_flight);
                            sent.push((id, key));
                        }
                        Effect::Forget { target, key, sent } => {
                            if self.stored.get(&key) == Some(&sent) {
                                self.stored.remove(&key);
                                events.push_back(Event::Gone(target));
                            }
                        }
                    }
                }
            }
            sent
        }

        /// Runs until nothing is held, at most so many steps of 10 ms; how many it took.
        fn run(&mut self, steps_max: usize) -> Option<usize> {
            let mut waiting: VecDeque<(SendId, Bytes)> = VecDeque::new();
            for step in 0..steps_max {
                if self.stored.is_empty() {
                    return Some(step);
                }
                self.now = self.now.after(Duration::from_millis(10));
                if self.handoff.wake_at().is_some_and(|at| at <= self.now) {
                    waiting.extend(self.tell(Event::Tick));
                }
                if self.is_silent {
                    continue;
                }
                for (taken, (id, key)) in std::mem::take(&mut waiting).into_iter().enumerate() {
                    self.in_flight -= 1;
                    let reply = if taken < self.takes { Reply::Merged } else { Reply::Busy };
                    if reply == Reply::Merged {
                        self.merged.push(key);
                    }
                    waiting.extend(self.tell(Event::Answered { id, reply }));
                }
            }
            None
        }
    }

    #[test]
    fn hints_go_once_their_target_is_back_each_once() {
        let mut scene = Scene::new(1_000);
        assert_eq!(scene.run(1_000), None, "a target that was never reached gets nothing");
        assert_eq!(scene.in_flight_max, 0);
        scene.tell(Event::Reachable(node("t")));
        scene.run(1_000).unwrap();
        scene.merged.sort();
        scene.merged.dedup();
        assert_eq!(scene.merged.len(), 1_000);
        assert_eq!(scene.handoff.held().count(), 0);
    }

    #[test]
    fn a_target_that_refuses_sets_the_pace_and_loses_nothing() {
        let mut scene = Scene::new(500);
        scene.takes = 4;
        scene.tell(Event::Reachable(node("t")));
        scene.run(100_000).unwrap();
        assert!(scene.in_flight_max <= 2 * WINDOW as usize, "{} at once", scene.in_flight_max);
    }

    #[test]
    fn what_comes_meanwhile_goes_in_a_later_round() {
        let mut scene = Scene::new(3);
        scene.tell(Event::Reachable(node("t")));
        scene.run(1_000).unwrap();
        scene.hold("late");
        scene.run(1_000).unwrap();
    }

    #[test]
    fn a_hint_that_changed_since_it_was_sent_stays_and_goes_again() {
        let mut scene = Scene::new(1);
        scene.tell(Event::Reachable(node("t")));
        scene.now = scene.now.after(3 * SETTLE);
        let sent = scene.tell(Event::Tick);
        let newer = Hint { w: 2, since: 0, state: state("a2:y") };
        scene.stored.insert(sent[0].1.clone(), newer);
        scene.tell(Event::Answered { id: sent[0].0, reply: Reply::Merged });
        assert_eq!((scene.stored.len(), scene.handoff.held().count()), (1, 1));
        scene.in_flight = 0;
        scene.run(1_000).unwrap();
    }

    #[test]
    fn a_silent_or_lost_target_is_tried_again_from_the_start() {
        let mut scene = Scene::new(20);
        scene.is_silent = true;
        scene.tell(Event::Reachable(node("t")));
        assert_eq!(scene.run(2_000), None);
        (scene.is_silent, scene.in_flight) = (false, 0);
        scene.tell(Event::Unreachable(node("t")));
        assert_eq!(scene.run(2_000), None);
        scene.tell(Event::Reachable(node("t")));
        scene.run(2_000).unwrap();
    }
}
