//! What clients ask of a node, and how what can wait yields to it: hints, and data that moves.
//!
//! Work that took a while is followed by a pause, the longer the more is asked: with nothing to do for clients there is
//! none, and from [`YIELDS_ALL_AT`] requests a second on, what can wait has a tenth of the time. How long a step took is
//! measured at whoever asked for it, so that a busy receiver, or a slow disk, stretches the pauses by itself.

use std::time::Duration;

use crate::cluster::Time;

/// Requests a second from which on what can wait has the least time.
const YIELDS_ALL_AT: u32 = 450;
/// The longest pause is so many times what the work took.
const PAUSE_TIMES_MAX: u32 = 9;
/// No pause is longer, however long the work took.
const PAUSE_MAX: Duration = Duration::from_secs(5);

const SECOND: u64 = 1_000_000_000;

/// Counts what is asked, second by second.
#[derive(Clone, Copy, Debug, Default)]
pub struct Foreground {
    second: u64,
    in_this_second: u32,
    in_last_second: u32,
}

/// What is asked of a node: requests a second.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ForegroundLoad(u32);

impl Foreground {
    /// Something was asked.
    pub const fn note(&mut self, now: Time) {
        self.turn(now);
        self.in_this_second = self.in_this_second.saturating_add(1);
    }

    /// What was asked in the last full second, or already in this one if that is more.
    pub fn load(mut self, now: Time) -> ForegroundLoad {
        self.turn(now);
        ForegroundLoad(self.in_last_second.max(self.in_this_second))
    }

    const fn turn(&mut self, now: Time) {
        let second = now.monotonic / SECOND;
        if self.second < second {
            self.in_last_second = if self.second + 1 == second { self.in_this_second } else { 0 };
            (self.second, self.in_this_second) = (second, 0);
        }
    }
}

impl ForegroundLoad {
    /// So many requests a second.
    #[cfg(test)]
    pub(crate) const fn per_second(requests: u32) -> Self {
        Self(requests)
    }

    /// Whether there is anything to yield to.
    pub const fn is_any(self) -> bool {
        self.0 > 0
    }

    /// The pause behind work that took so long.
    pub fn pause_after(self, took: Duration) -> Duration {
        (took * PAUSE_TIMES_MAX * self.0.min(YIELDS_ALL_AT) / YIELDS_ALL_AT).min(PAUSE_MAX)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn after_millis(millis: u64) -> Time {
        Time::default().after(Duration::from_millis(millis))
    }

    #[test]
    fn the_load_is_that_of_the_last_second() {
        let mut foreground = Foreground::default();
        for millis in 1_000..1_200 {
            foreground.note(after_millis(millis));
        }
        for (millis, expected) in [(1_200, 200), (2_000, 200), (2_999, 200), (3_000, 0), (9_000, 0)]
        {
            assert_eq!(foreground.load(after_millis(millis)).0, expected, "at {millis} ms");
        }
        foreground.note(after_millis(9_000));
        assert_eq!(foreground.load(after_millis(9_500)).0, 1);
    }

    #[test]
    fn the_pause_grows_with_the_load_and_with_what_the_work_took() {
        let check = |requests, took, expected| {
            let pause = ForegroundLoad(requests).pause_after(Duration::from_millis(took));
            assert_eq!(pause, Duration::from_millis(expected), "{requests}/s, {took} ms");
        };
        check(0, 10, 0);
        check(50, 10, 10);
        check(450, 10, 90);
        check(100_000, 10, 90);
        check(450, 60_000, 5_000);
    }
}
