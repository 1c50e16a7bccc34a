//! How much is sent to a node that has too much to do.
//!
//! A node that refuses a request spends time on it that its accepted ones lack, and with enough of them does nothing
//! else. So after a refusal requests are paced by what the node does: each one that it does not refuse admits a little
//! more than one other, and a few are let through whatever it does, by which it is found to be well again. The rest is
//! refused here, at once and at no cost to the node (adaptive throttling; Beyer et al., *Site Reliability Engineering*,
//! chapter 21).

use std::time::Duration;

/// How long after a refusal requests are paced.
const MEMORY: Duration = Duration::from_secs(1);
/// How many permits a request costs, and one that is not refused gives.
const COST: u32 = 10;
const GAIN: u32 = 12;
/// Most permits that are saved up, and those at the first refusal.
const SAVED_MAX: u32 = 64 * COST;
/// How often a request is let through whatever the node does.
const TRICKLE: Duration = Duration::from_millis(10);

/// What one node lets through. Times count from any one moment.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Throttle {
    refused: Option<Duration>,
    trickled: Duration,
    permits: u32,
}

impl Throttle {
    /// The node refused a request for want of room.
    pub(super) fn refused(&mut self, now: Duration) {
        if !self.is_pacing(now) {
            (self.permits, self.trickled) = (SAVED_MAX, now);
        }
        self.refused = Some(now);
    }

    /// The node took a request on and replied to it.
    pub(super) fn done(&mut self) {
        self.permits = (self.permits + GAIN).min(SAVED_MAX);
    }

    /// Whether a request may be sent; if so it is paid for.
    pub(super) fn lets_through(&mut self, now: Duration) -> bool {
        if !self.is_pacing(now) {
            return true;
        }
        if let Some(left) = self.permits.checked_sub(COST) {
            self.permits = left;
            return true;
        }
        let is_due = TRICKLE <= now.saturating_sub(self.trickled);
        if is_due {
            self.trickled = now;
        }
        is_due
    }

    fn is_pacing(&self, now: Duration) -> bool {
        self.refused.is_some_and(|refused| now.saturating_sub(refused) < MEMORY)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Requests that the node of [`run`] lets wait.
    const QUEUE: u32 = 100;

    /// A node that does `room` requests a millisecond while `offered` are wanted: how many it refuses and does in the
    /// last second.
    fn run(room: u32, offered: u32) -> (u32, u32) {
        let mut throttle = Throttle::default();
        let (mut refused, mut done, mut waiting) = (0, 0, 0);
        for millisecond in 0..3_000 {
            if millisecond == 2_000 {
                (refused, done) = (0, 0);
            }
            let now = Duration::from_millis(millisecond);
            for _ in 0..offered {
                match throttle.lets_through(now) {
                    true if room > 0 && waiting < QUEUE => waiting += 1,
                    true => {
                        refused += 1;
                        throttle.refused(now);
                    }
                    false => {}
                }
            }
            for _ in 0..room.min(waiting) {
                (done, waiting) = (done + 1, waiting - 1);
                throttle.done();
            }
        }
        (refused, done)
    }

    #[test]
    fn a_node_refuses_little_beside_what_it_does_however_much_is_wanted() {
        for offered in [30, 100, 1_000] {
            let (refused, done) = run(10, offered);
            assert_eq!(done, 10_000, "{offered}");
            assert!(refused <= done / 4, "{refused} of {offered}");
        }
    }

    #[test]
    fn who_is_refused_nothing_is_never_paced() {
        assert_eq!(run(10, 9), (0, 9_000));
    }

    #[test]
    fn a_node_that_does_nothing_is_still_asked_and_found_well_again() {
        let (refused, _) = run(0, 100);
        assert!((50..=110).contains(&refused), "{refused}");
        let mut throttle = Throttle::default();
        throttle.refused(Duration::ZERO);
        let well = |at: u64, throttle: &mut Throttle| {
            (0..100).filter(|_| throttle.lets_through(Duration::from_millis(at))).count()
        };
        assert_eq!(well(1, &mut throttle), 64);
        assert_eq!(well(1_000, &mut throttle), 100);
    }
}
