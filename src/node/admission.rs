//! How many requests may be in flight at once, by how long they take.
//!
//! Under more load than a node can bear, requests that are begun wait for each other, until all take longer than their
//! deadlines and none is of use. So the number in flight is kept to what is done soon: where requests take longer than
//! [`SOON`] on the average it shrinks, where they are done soon and it was what held others back it grows. And a
//! request that has less time left than others take at the moment is refused while it costs next to nothing.
//!
//! Only requests that succeed count: a quorum that cannot be met says nothing about load.
//! Invariant: [`IN_FLIGHT_MIN`] requests that have the time always have room, so a disk that is slow at any load is no
//! overload.

use std::time::Duration;

use crate::cluster::Time;

/// What a request should take at most on the average.
const SOON: Duration = Duration::from_millis(100);
/// Requests that have room at any load.
const IN_FLIGHT_MIN: usize = 256;
/// Requests that are let in however little time they have left: by them it shows how long requests take.
const ALWAYS: usize = 16;
/// How long latencies are gathered before the limit changes.
const WINDOW: Duration = Duration::from_millis(50);
/// By which share the limit shrinks or grows in a window.
const STEP_SHARE: usize = 4;

/// The limit, and what it is worked out from.
#[derive(Clone, Debug)]
pub(super) struct Admission {
    limit: usize,
    limit_max: usize,
    /// Of the last window in which any request succeeded.
    mean: Duration,
    began: Time,
    done: u32,
    took: Duration,
    /// Whether the limit held anybody back in this window.
    was_full: bool,
}

impl Admission {
    pub(super) const fn new(limit_max: usize, now: Time) -> Self {
        Self {
            limit: limit_max,
            limit_max,
            mean: Duration::ZERO,
            began: now,
            done: 0,
            took: Duration::ZERO,
            was_full: false,
        }
    }

    /// Whether a request with so much time left is let in beside `in_flight` others.
    pub(super) fn lets_in(&mut self, in_flight: usize, left: Duration) -> bool {
        let has_room = in_flight < self.limit;
        self.was_full |= !has_room;
        has_room && (in_flight < ALWAYS || self.mean.min(SOON) <= left)
    }

    /// A request succeeded after so long, while `in_flight` others went on.
    pub(super) fn done(&mut self, took: Duration, in_flight: usize, now: Time) {
        (self.done, self.took) = (self.done + 1, self.took + took);
        if now.since(self.began) < WINDOW {
            return;
        }
        self.mean = self.took / self.done;
        if SOON < self.mean {
            let in_flight = in_flight.min(self.limit);
            self.limit = (in_flight - in_flight / STEP_SHARE).max(IN_FLIGHT_MIN);
        } else if self.was_full {
            self.limit += self.limit / STEP_SHARE;
        }
        self.limit = self.limit.min(self.limit_max);
        (self.done, self.took) = (0, Duration::ZERO);
        (self.began, self.was_full) = (now, false);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LONG: Duration = Duration::from_secs(1);

    /// A node that does so many requests a millisecond, first come first served, for so many seconds, while `offered`
    /// come a millisecond, each with a second to live: the share of its work that was of use in the last second.
    fn share_of_use(limit_max: usize, done: usize, offered: usize, seconds: u64) -> f64 {
        let mut admission = Admission::new(limit_max, Time::default());
        let mut queue = std::collections::VecDeque::new();
        let mut useful = 0;
        for millisecond in 0..seconds * 1_000 {
            let now = Time::default().after(Duration::from_millis(millisecond));
            for _ in 0..offered {
                if admission.lets_in(queue.len(), LONG) {
                    queue.push_back(now);
                }
            }
            for _ in 0..done {
                let Some(began) = queue.pop_front() else { break };
                let took = now.since(began);
                if took <= LONG {
                    admission.done(took, queue.len(), now);
                    useful += usize::from(millisecond >= (seconds - 1) * 1_000);
                }
            }
        }
        f64::from(u32::try_from(useful).unwrap())
            / f64::from(u32::try_from(1_000 * done.min(offered)).unwrap())
    }

    #[test]
    fn under_three_times_the_load_nearly_all_work_is_of_use() {
        for done in [2, 10, 40] {
            let share = share_of_use(50_000, done, 3 * done, 20);
            assert!(0.99 < share, "{share} of {done} a millisecond");
        }
    }

    #[test]
    fn below_the_limit_nobody_is_refused() {
        let share = share_of_use(50_000, 10, 9, 10);
        assert!(0.99 < share, "{share}");
    }

    #[test]
    fn the_limit_comes_back_once_requests_are_done_soon() {
        let mut admission = Admission::new(10_000, Time::default());
        let mut now = Time::default();
        let mut pass = |admission: &mut Admission, took: Duration, windows: u32| {
            for _ in 0..windows {
                now = now.after(WINDOW);
                admission.lets_in(10_000, LONG);
                admission.done(took, 5_000, now);
            }
        };
        pass(&mut admission, LONG, 50);
        assert!(!admission.lets_in(IN_FLIGHT_MIN, LONG));
        assert!(admission.lets_in(IN_FLIGHT_MIN - 1, LONG));
        pass(&mut admission, SOON / 10, 50);
        assert!(admission.lets_in(9_999, LONG));
        assert!(!admission.lets_in(10_000, LONG));
    }

    #[test]
    fn who_has_less_time_left_than_requests_take_is_refused() {
        let mut admission = Admission::new(10_000, Time::default());
        admission.done(SOON / 2, 0, Time::default().after(WINDOW));
        assert!(admission.lets_in(IN_FLIGHT_MIN, SOON / 2));
        assert!(!admission.lets_in(ALWAYS, SOON / 3));
        assert!(admission.lets_in(ALWAYS - 1, SOON / 3), "few are always let in");
    }
}
