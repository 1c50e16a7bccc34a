//! How fast long work goes, by its last while, and when it is expected to end.
//!
//! ```text
//!  began ·· mark ─── mark ─ … ─ mark ──── now        a mark a second at most, as many as the window takes
//!           └──────── the last while ──────┘
//! ```
//! Steps are counted to a whole that is known: they tell the end. Bytes tell how fast it goes. What was done longer ago
//! than `WINDOW` says nothing: work that stands still has no end in sight soon after.

use std::collections::VecDeque;
use std::time::Duration;

use crate::cluster::Time;

/// What the pace is taken from.
const WINDOW: Duration = Duration::from_secs(10);
/// Least time between two marks.
const MARK_PAUSE: Duration = Duration::from_secs(1);

/// How far work was, now and then.
#[derive(Clone, Debug)]
pub struct Headway {
    /// Ascending in time; the first one is at least as old as the window while any other is in it.
    marks: VecDeque<(Time, Done)>,
    /// When something was done last, marked or not.
    went_on: Time,
}

/// What is done since the work began: neither ever falls.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Done {
    /// Parts of a whole that is known.
    pub steps: u64,
    /// Bytes.
    pub bytes: u64,
}

impl Default for Headway {
    fn default() -> Self {
        Self::begin(Time::default(), Done::default())
    }
}

impl Headway {
    /// Work that begins, or goes on, with so much done.
    pub fn begin(now: Time, done: Done) -> Self {
        Self { marks: VecDeque::from([(now, done)]), went_on: now }
    }

    /// Something was done: whether [`Headway::note`] is wanted now.
    pub fn goes_on(&mut self, now: Time) -> bool {
        self.went_on = now;
        self.marks.back().is_none_or(|(at, _)| MARK_PAUSE <= now.since(*at))
    }

    /// So much is done by now.
    pub fn note(&mut self, now: Time, done: Done) {
        self.marks.push_back((now, done));
        while self.marks.get(1).is_some_and(|(at, _)| WINDOW <= now.since(*at)) {
            self.marks.pop_front();
        }
    }

    /// Bytes a second of the last while, where so much is done by now.
    pub fn bytes_per_second(&self, now: Time, done: Done) -> u64 {
        let (passed, lately) = self.lately(now, done);
        let rate = u128::from(lately.bytes) * 1_000_000 / passed.as_micros().max(1);
        u64::try_from(rate).unwrap_or(u64::MAX)
    }

    /// When all is done, at the pace of the last while; `None` where nothing was done in it.
    pub fn left(&self, now: Time, done: Done, steps_left: u64) -> Option<Duration> {
        if steps_left == 0 {
            return Some(Duration::ZERO);
        }
        let (passed, lately) = self.lately(now, done);
        let micros = (u128::from(steps_left) * passed.as_micros()).checked_div(lately.steps.into());
        micros.map(|micros| Duration::from_micros(u64::try_from(micros).unwrap_or(u64::MAX)))
    }

    /// How long the last while is, and what was done in it.
    fn lately(&self, now: Time, done: Done) -> (Duration, Done) {
        if WINDOW <= now.since(self.went_on) {
            return (WINDOW, Done::default());
        }
        let is_old = |(at, _): &&(Time, Done)| WINDOW <= now.since(*at);
        let from = self.marks.iter().rfind(is_old).or(self.marks.front());
        let (at, before) = from.copied().unwrap_or((now, done));
        let lately = Done {
            steps: done.steps.saturating_sub(before.steps),
            bytes: done.bytes.saturating_sub(before.bytes),
        };
        (now.since(at), lately)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(millis: u64) -> Time {
        Time { monotonic: millis * 1_000_000, wall: 0 }
    }

    const fn done(steps: u64) -> Done {
        Done { steps, bytes: steps * 1_000 }
    }

    /// The rate, and the time left in milliseconds, of work of 100 steps whose notes are (milliseconds, steps).
    #[track_caller]
    fn check(notes: &[(u64, u64)], now: u64, steps: u64, expected: (u64, Option<u64>)) {
        let mut headway = Headway::begin(at(0), done(0));
        for (millis, steps) in notes {
            if headway.goes_on(at(*millis)) {
                headway.note(at(*millis), done(*steps));
            }
        }
        let left = headway.left(at(now), done(steps), 100 - steps);
        let left = left.map(|left| u64::try_from(left.as_millis()).unwrap());
        let rate = headway.bytes_per_second(at(now), done(steps));
        assert_eq!((rate, left), expected, "{notes:?} at {now} ms");
        assert!(headway.marks.len() < 14, "{} marks", headway.marks.len());
    }

    #[test]
    fn the_beginning_is_all_there_is_at_first() {
        check(&[], 0, 0, (0, None));
        check(&[], 500, 0, (0, None));
        check(&[], 500, 10, (20_000, Some(4_500)));
        check(&[(200, 4), (400, 8)], 500, 10, (20_000, Some(4_500)));
    }

    #[test]
    fn later_the_last_while_counts() {
        // One step a second for 40 s, then five.
        let mut notes: Vec<(u64, u64)> = (1..=40).map(|second| (second * 1_000, second)).collect();
        check(&notes, 40_000, 40, (1_000, Some(60_000)));
        notes.extend((41..=51).map(|second| (second * 1_000, 40 + 5 * (second - 40))));
        check(&notes, 51_000, 95, (5_000, Some(1_000)));
    }

    #[test]
    fn what_stands_still_has_no_end_in_sight() {
        let notes: Vec<(u64, u64)> = (1..=20).map(|second| (second * 1_000, second)).collect();
        check(&notes, 25_000, 20, (500, Some(160_000)));
        check(&notes, 30_000, 20, (0, None));
        check(&notes, 3_600_000, 20, (0, None));
        check(&[(200, 10)], 40_000, 10, (0, None));
    }

    #[test]
    fn what_is_done_is_done() {
        check(&[(1_000, 100)], 90_000, 100, (0, Some(0)));
    }
}
