//! One target: how many hints it has, when they are looked through, and the round over them that is under way.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use bytes::Bytes;

use crate::cluster::Time;
use crate::node_id::NodeId;
use crate::replication::ForegroundLoad;

use super::Hint;
use super::handoff::SendId;

/// Hints in flight to one target: at first, and at most.
const WINDOW: u32 = 16;
const WINDOW_MAX: u32 = 256;
/// Hints in flight to one target at most while clients ask anything of this node.
const BURST: u32 = 16;
/// The pause after a refusal, doubled with each in a row, at most.
const PAUSE: Duration = Duration::from_millis(20);
const PAUSE_MAX: Duration = Duration::from_secs(5);
/// The pause between two rounds over a target's hints, doubled while they bring nothing, at most.
const ROUND_PAUSE: Duration = Duration::from_secs(1);
const ROUND_PAUSE_MAX: Duration = Duration::from_mins(1);
/// A node that does not answer for so long is not waited for.
const SILENCE_MAX: Duration = Duration::from_secs(5);

/// Whose hints, and how far they are.
#[derive(Debug)]
pub(super) struct Target {
    pub(super) hints: u64,
    /// When hints may go to it: set while it can be reached.
    pub(super) ready: Option<Time>,
    /// When they are looked through though they cannot go to it: one has waited long enough, or the layout moved.
    pub(super) due: Option<Time>,
    /// Nothing is sent before.
    pub(super) resting: Time,
    pub(super) round: Option<Round>,
    pub(super) window: u32,
    /// Since when the burst in flight is, where hints go in bursts.
    burst: Option<Time>,
    /// Merged since the window changed.
    taken: u32,
    pause: Duration,
    round_pause: Duration,
}

/// One walk over a target's hints, page by page.
#[derive(Debug)]
pub(super) struct Round {
    pub(super) page: Page,
    /// Where the next page begins, if one was read.
    pub(super) next: Option<Bytes>,
    /// When the first hint that it leaves wants to be looked at again.
    pub(super) due: Option<Time>,
}

/// The page of a round.
#[derive(Debug)]
pub(super) enum Page {
    /// Being read.
    Reading,
    /// To be read after a pause.
    Awaited,
    /// On its way.
    Sending {
        queue: VecDeque<(Bytes, Hint)>,
        in_flight: BTreeMap<SendId, InFlight>,
        /// Whether the target's hints end with it.
        complete: bool,
    },
}

/// One hint on its way to one node or several.
#[derive(Debug)]
pub(super) struct InFlight {
    pub(super) key: Bytes,
    pub(super) hint: Hint,
    pub(super) since: Time,
    /// Who has not answered.
    pub(super) asked: Vec<NodeId>,
    /// How many more owners must have it before it may go; the target's word alone is always enough.
    pub(super) missing: usize,
}

impl Default for Target {
    fn default() -> Self {
        Self {
            hints: 0,
            ready: None,
            due: None,
            resting: Time::default(),
            round: None,
            window: WINDOW,
            burst: None,
            taken: 0,
            pause: PAUSE,
            round_pause: ROUND_PAUSE,
        }
    }
}

impl Target {
    /// Looks through its hints at `at`, or before.
    pub(super) fn look_by(&mut self, at: Time) {
        self.due = Some(earlier(self.due, at));
        if let Some(round) = &mut self.round {
            round.due = Some(earlier(round.due, at));
        }
    }

    pub(super) fn is_ready(&self, now: Time) -> bool {
        self.ready.is_some_and(|ready| ready <= now)
    }

    pub(super) fn is_due(&self, now: Time) -> bool {
        self.due.is_some_and(|due| due <= now)
    }

    /// What was under way comes to nothing; the next round begins with the first hint.
    pub(super) fn halt(&mut self) {
        (self.round, self.burst) = (None, None);
    }

    /// How many hints may be in flight, those that are among them. While clients are served a burst begins, if none is
    /// in flight; else nothing is added to it.
    pub(super) fn room(&mut self, now: Time, foreground: ForegroundLoad) -> usize {
        if !foreground.is_any() {
            self.burst = None;
            return self.window as usize;
        }
        if !self.round.as_ref().is_some_and(Round::is_idle) {
            // What went before clients came is the first burst.
            self.burst.get_or_insert(now);
            return 0;
        }
        self.burst = Some(now);
        self.window.min(BURST) as usize
    }

    /// Where the last of a burst was answered: the pause behind it.
    pub(super) fn end_burst(&mut self, now: Time, foreground: ForegroundLoad) {
        if self.round.as_ref().is_some_and(Round::is_idle)
            && let Some(since) = self.burst.take()
        {
            self.resting = self.resting.max(now.after(foreground.pause_after(now.since(since))));
        }
    }

    /// Hints may go to it from `at` on.
    pub(super) fn rise(&mut self, at: Time) {
        (self.ready, self.round_pause) = (Some(at), ROUND_PAUSE);
        self.resting = self.resting.min(at);
    }

    /// Leaves it alone until the next round.
    pub(super) fn rest(&mut self, now: Time) {
        self.halt();
        self.resting = now.after(self.round_pause);
        self.round_pause = (2 * self.round_pause).min(ROUND_PAUSE_MAX);
    }

    /// A hint has done its work.
    pub(super) const fn progress(&mut self) {
        self.round_pause = ROUND_PAUSE;
    }

    /// The target took a hint: the next one may find more under way.
    pub(super) fn widen(&mut self) {
        self.pause = PAUSE;
        self.taken += 1;
        if self.window <= self.taken {
            self.taken = 0;
            self.window = (self.window + 1).min(WINDOW_MAX);
        }
    }

    /// A node has too much to do. All that is in flight meets the same crowd: the window shrinks once.
    pub(super) fn narrow(&mut self, now: Time) {
        if self.resting <= now {
            self.window = (self.window / 2).max(1);
            self.taken = 0;
            self.resting = now.after(self.pause);
            self.pause = (2 * self.pause).min(PAUSE_MAX);
        }
    }

    /// When it wants to be looked at.
    pub(super) fn wake_at(&self) -> Option<Time> {
        let Some(round) = &self.round else {
            let first = self.ready.into_iter().chain(self.due).min().filter(|_| self.hints > 0);
            return first.map(|at| at.max(self.resting));
        };
        match &round.page {
            Page::Reading => None,
            Page::Awaited => Some(self.resting),
            Page::Sending { queue, in_flight, .. } => {
                let has_room = match self.burst {
                    Some(_) => in_flight.is_empty(),
                    None => !queue.is_empty() && in_flight.len() < self.window as usize,
                };
                let has_room = has_room || (queue.is_empty() && in_flight.is_empty());
                has_room.then_some(self.resting).into_iter().chain(round.silent_at()).min()
            }
        }
    }
}

impl Round {
    /// Whether nothing of its page is in flight.
    fn is_idle(&self) -> bool {
        matches!(&self.page, Page::Sending { in_flight, .. } if in_flight.is_empty())
    }

    pub(super) const fn begun() -> Self {
        Self { page: Page::Reading, next: None, due: None }
    }

    /// When the first hint in flight has been so for too long.
    fn silent_at(&self) -> Option<Time> {
        let Page::Sending { in_flight, .. } = &self.page else { return None };
        in_flight.values().map(|sent| sent.since.after(SILENCE_MAX)).min()
    }

    /// Hints in flight that have been so for too long, and who has not answered.
    pub(super) fn silent(&self, now: Time) -> Vec<(SendId, NodeId)> {
        self.asked(|sent, _| sent.since.after(SILENCE_MAX) <= now)
    }

    /// Hints in flight that `node` has not answered.
    pub(super) fn asked_of(&self, node: NodeId) -> Vec<(SendId, NodeId)> {
        self.asked(|_, asked| asked == node)
    }

    fn asked(&self, which: impl Fn(&InFlight, NodeId) -> bool) -> Vec<(SendId, NodeId)> {
        let Page::Sending { in_flight, .. } = &self.page else { return Vec::new() };
        let asked = in_flight
            .iter()
            .flat_map(|(id, sent)| sent.asked.iter().map(move |node| (*id, sent, *node)));
        asked.filter(|(_, sent, node)| which(sent, *node)).map(|(id, _, node)| (id, node)).collect()
    }
}

fn earlier(known: Option<Time>, at: Time) -> Time {
    known.map_or(at, |known| known.min(at))
}
