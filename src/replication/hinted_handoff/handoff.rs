//! Hands hints over: a round over a target's hints, page by page, a window of them in flight.
//!
//! ```text
//! idle ──target up, or hints overdue──▶ reading a page ──▶ sending it, a window at a time ──▶ reading on … ──▶ idle
//!   ▲                                                      │ target gone, or silent; another layout
//!   └──────────────────────────────────────────────────────┘
//! ```
//! While the target can be reached its hints go to it. Those it does not fetch within the patience, and those of keys
//! that it owns no more, go the way that `plan` says, in rounds that are paced, however many hints there are: a target
//! that stays away costs one reading of its hints a pause, and only while one of them is overdue.
//!
//! The receiver paces it: what it refuses as too much halves the window and comes again after a pause that doubles;
//! each window that it takes whole makes the next one larger by one. While clients ask anything of this node, hints go
//! in small bursts, each followed by a pause that grows with what it took (`ForegroundLoad`). A hint goes only after its target, or enough
//! owners, merged it durably, and only if it still is what was sent; what came meanwhile is found in the next round.
//!
//! Invariants: at most a window of hints a target is in flight, at most one page of them in memory.

use std::collections::BTreeMap;
use std::time::Duration;

use bytes::Bytes;
use rand::Rng;

use crate::cluster::Time;
use crate::node_id::NodeId;
use crate::replication::View;
use crate::version::Siblings;

use super::Hint;
use super::plan::{Plan, age, plan};
use super::target::{InFlight, Page, Round, Target};

/// Most hints of one page.
pub const PAGE_ENTRIES: usize = 256;
/// How long a target must have been up before hints go, and how much chance adds: holders shall not all begin at once.
const SETTLE: Duration = Duration::from_secs(1);
/// The pause between two rounds over overdue hints: this part of their patience, within bounds.
const OVERDUE_PAUSE_SHARE: u32 = 8;
const OVERDUE_PAUSE_MIN: Duration = Duration::from_secs(1);
const OVERDUE_PAUSE_MAX: Duration = Duration::from_mins(10);
/// The pause before the next page of hints that cannot go to their target.
const PAGE_PAUSE: Duration = Duration::from_millis(20);

/// One hint on its way.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct SendId(pub u64);

/// All targets and how far each is.
#[derive(Debug)]
pub struct Handoff {
    ttl: Duration,
    targets: BTreeMap<NodeId, Target>,
    sent: BTreeMap<SendId, NodeId>,
    next_send: u64,
}

/// What reaches the machine.
#[derive(Clone, Debug, PartialEq)]
pub enum Event {
    /// A hint was stored where none for its target and key was, or found as the node started.
    Held {
        /// Whose.
        target: NodeId,
        /// Since when it waits, wall microseconds.
        since: u64,
    },
    /// A hint of this target is gone.
    Gone(NodeId),
    /// The target can be reached.
    Reachable(NodeId),
    /// The target cannot be reached, or is no member any more.
    Unreachable(NodeId),
    /// The view shows another layout from now on.
    LayoutChanged,
    /// Hints wait so long for their target from now on.
    Ttl(Duration),
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
        /// Who.
        from: NodeId,
        /// What it said.
        reply: Reply,
    },
    /// Time has passed.
    Tick,
}

/// What a node said to a hint.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reply {
    /// It merged it durably.
    Merged,
    /// Not now: it has too much to do, or no room.
    Busy,
    /// Not this one: it does not own the key by its layout, or cannot read it. It is tried again in a later round.
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
    /// Send a hint's state to be merged: to its target, or to an owner; may be this node.
    Send {
        /// Comes back with the answer.
        id: SendId,
        /// Whom.
        to: NodeId,
        /// The key.
        key: Bytes,
        /// What.
        state: Siblings,
    },
    /// The hint has done its work: forget it if it still is this one.
    Forget {
        /// Whose.
        target: NodeId,
        /// The key.
        key: Bytes,
        /// What was sent.
        sent: Hint,
    },
}

impl Handoff {
    /// A machine without hints, which wait for so long.
    pub const fn new(ttl: Duration) -> Self {
        Self { ttl, targets: BTreeMap::new(), sent: BTreeMap::new(), next_send: 0 }
    }

    /// Folds one event in; what must happen next is appended to `effects`.
    pub fn handle(
        &mut self,
        view: &View<'_>,
        event: Event,
        rng: &mut impl Rng,
        effects: &mut Vec<Effect>,
    ) {
        match event {
            Event::Held { target, since } => self.hold(view.now, target, since),
            Event::Gone(target) => self.gone(target),
            Event::Reachable(target) => self.reachable(view.now, target, rng),
            Event::Unreachable(target) => self.lose(view, target, effects),
            Event::LayoutChanged => self.look_through_all(view.now),
            Event::Ttl(ttl) => {
                self.ttl = ttl;
                self.look_through_all(view.now);
            }
            Event::Page { target, hints, next } => self.page(view, target, hints, next, effects),
            Event::Unread(target) => self.rest(view.now, target),
            Event::Answered { id, from, reply } => self.answered(view, id, from, reply, effects),
            Event::Tick => self.tick(view, effects),
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

    fn hold(&mut self, now: Time, node: NodeId, since: u64) {
        let left = self.ttl.saturating_sub(age(since, now.wall));
        let target = self.targets.entry(node).or_default();
        target.hints += 1;
        target.look_by(now.after(left));
    }

    fn gone(&mut self, node: NodeId) {
        if let Some(target) = self.targets.get_mut(&node) {
            target.hints = target.hints.saturating_sub(1);
        }
    }

    fn reachable(&mut self, now: Time, node: NodeId, rng: &mut impl Rng) {
        let target = self.targets.entry(node).or_default();
        if target.ready.is_none() {
            target.rise(now.after(SETTLE + SETTLE.mul_f64(rng.random())));
        }
    }

    /// Whatever was asked of this node comes to nothing.
    fn lose(&mut self, view: &View<'_>, node: NodeId, effects: &mut Vec<Effect>) {
        if let Some(target) = self.targets.get_mut(&node) {
            target.ready = None;
            if !target.is_due(view.now) {
                self.halt(node);
            }
        }
        let rounds = self.targets.values().filter_map(|target| target.round.as_ref());
        let asked: Vec<_> = rounds.flat_map(|round| round.asked_of(node)).collect();
        for (id, node) in asked {
            self.answered(view, id, node, Reply::Refused, effects);
        }
    }

    /// Every hint is to be planned anew: what was under way comes to nothing.
    fn look_through_all(&mut self, now: Time) {
        self.sent.clear();
        for target in self.targets.values_mut() {
            target.halt();
            target.look_by(now);
            target.resting = target.resting.max(now.after(SETTLE));
        }
    }

    fn halt(&mut self, node: NodeId) {
        if let Some(target) = self.targets.get_mut(&node) {
            target.halt();
        }
        self.sent.retain(|_, target| *target != node);
    }

    /// Leaves the target alone for a while; the next round begins with its first hint.
    fn rest(&mut self, now: Time, node: NodeId) {
        self.halt(node);
        if let Some(target) = self.targets.get_mut(&node) {
            target.rest(now);
        }
    }

    fn page(
        &mut self,
        view: &View<'_>,
        node: NodeId,
        hints: Vec<(Bytes, Hint)>,
        next: Option<Bytes>,
        effects: &mut Vec<Effect>,
    ) {
        let round = self.targets.get_mut(&node).and_then(|target| target.round.as_mut());
        let Some(round) = round.filter(|round| matches!(round.page, Page::Reading)) else { return };
        let complete = next.is_none();
        round.next = next;
        let (queue, in_flight) = (hints.into(), BTreeMap::new());
        round.page = Page::Sending { queue, in_flight, complete };
        self.advance(view, node, effects);
    }

    fn answered(
        &mut self,
        view: &View<'_>,
        id: SendId,
        from: NodeId,
        reply: Reply,
        effects: &mut Vec<Effect>,
    ) {
        let Some(node) = self.sent.get(&id).copied() else { return };
        let again = self.again_after();
        let Some(target) = self.targets.get_mut(&node) else { return };
        let Some(Round { page: Page::Sending { queue, in_flight, .. }, due, .. }) =
            &mut target.round
        else {
            return;
        };
        let Some(sent) = in_flight.get_mut(&id) else { return };
        let Some(place) = sent.asked.iter().position(|asked| *asked == from) else { return };
        sent.asked.swap_remove(place);
        if reply == Reply::Merged {
            sent.missing = if from == node { 0 } else { sent.missing - 1 };
        }
        if sent.missing == 0 || sent.asked.is_empty() {
            self.sent.remove(&id);
            let Some(InFlight { key, hint, missing, .. }) = in_flight.remove(&id) else { return };
            match (missing, reply) {
                (0, _) => {
                    target.progress();
                    effects.push(Effect::Forget { target: node, key, sent: hint });
                }
                (_, Reply::Busy) => queue.push_front((key, hint)),
                (_, Reply::Merged | Reply::Refused) => {
                    let left = self.ttl.saturating_sub(age(hint.since, view.now.wall));
                    let at = view.now.after(left.max(again));
                    *due = Some(due.map_or(at, |due| due.min(at)));
                }
            }
        }
        match reply {
            Reply::Merged if from == node => target.widen(),
            Reply::Merged | Reply::Refused => {}
            Reply::Busy => target.narrow(view.now),
        }
        target.end_burst(view.now, view.foreground);
        self.advance(view, node, effects);
    }

    fn tick(&mut self, view: &View<'_>, effects: &mut Vec<Effect>) {
        let nodes: Vec<NodeId> = self.targets.keys().copied().collect();
        for node in nodes {
            let round = self.targets.get(&node).and_then(|target| target.round.as_ref());
            let silent = round.map_or_else(Vec::new, |round| round.silent(view.now));
            if silent.iter().any(|(_, asked)| *asked == node) {
                self.rest(view.now, node);
            }
            for (id, asked) in silent {
                self.answered(view, id, asked, Reply::Refused, effects);
            }
            self.advance(view, node, effects);
        }
    }

    /// Begins a round where one is wanted; sends what the window allows; reads on, or rests, where a page is done.
    fn advance(&mut self, view: &View<'_>, node: NodeId, effects: &mut Vec<Effect>) {
        let Some(target) = self.targets.get_mut(&node) else { return };
        if view.now < target.resting {
            return;
        }
        let is_wanted = target.hints > 0 && (target.is_ready(view.now) || target.is_due(view.now));
        match &mut target.round {
            None if !is_wanted => {}
            None => {
                target.round = Some(Round::begun());
                effects.push(Effect::Read { target: node, from: None });
            }
            Some(Round { page: Page::Reading, .. }) => {}
            Some(round @ Round { page: Page::Awaited, .. }) => {
                round.page = Page::Reading;
                effects.push(Effect::Read { target: node, from: round.next.clone() });
            }
            Some(Round { page: Page::Sending { .. }, .. }) => self.send_on(view, node, effects),
        }
    }

    fn send_on(&mut self, view: &View<'_>, node: NodeId, effects: &mut Vec<Effect>) {
        let (ttl, again) = (self.ttl, self.again_after());
        let Some(target) = self.targets.get_mut(&node) else { return };
        let (is_ready, window) =
            (target.is_ready(view.now), target.room(view.now, view.foreground));
        let Some(Round { page, due, .. }) = &mut target.round else { return };
        let Page::Sending { queue, in_flight, complete } = page else { return };
        let mut leave = |span| {
            let at = view.now.after(span);
            *due = Some(due.map_or(at, |due| due.min(at)));
        };
        while in_flight.len() < window
            && let Some((key, hint)) = queue.pop_front()
        {
            let (asked, missing) = match plan(view, ttl, (node, is_ready), &key, &hint) {
                Plan::Deliver => (vec![node], 1),
                Plan::Relay { owners, needed } if !owners.is_empty() => (owners, needed),
                Plan::Relay { .. } => {
                    leave(again);
                    continue;
                }
                Plan::Keep(left) => {
                    leave(left);
                    continue;
                }
                Plan::Drop => {
                    effects.push(Effect::Forget { target: node, key, sent: hint });
                    continue;
                }
            };
            let id = SendId(self.next_send);
            self.next_send += 1;
            self.sent.insert(id, node);
            for to in asked.iter().copied() {
                let (key, state) = (key.clone(), hint.state.clone());
                effects.push(Effect::Send { id, to, key, state });
            }
            in_flight.insert(id, InFlight { key, hint, since: view.now, asked, missing });
        }
        if !in_flight.is_empty() || !queue.is_empty() {
            return;
        }
        match (*complete, is_ready) {
            (true, _) => {
                // Whatever was not forgotten as it had changed wants to be looked at, too.
                let due = due.unwrap_or(view.now.after(ttl)).max(view.now.after(again));
                target.due = Some(due);
                target.rest(view.now);
            }
            (false, true) => {
                *page = Page::Awaited;
                self.advance(view, node, effects);
            }
            (false, false) => {
                *page = Page::Awaited;
                target.resting = view.now.after(PAGE_PAUSE);
            }
        }
    }

    /// How long overdue hints that could not go are left alone.
    fn again_after(&self) -> Duration {
        (self.ttl / OVERDUE_PAUSE_SHARE).clamp(OVERDUE_PAUSE_MIN, OVERDUE_PAUSE_MAX)
    }
}
