//! How likely a silence is, from the gaps that came before it.
//!
//! Phi-accrual (Hayashibara, Défago, Yared, Katayama: The φ Accrual Failure Detector, 2004): the gaps between two rises
//! of a heartbeat are taken as normally distributed, and φ(t) = −log10 P(a gap longer than t). φ = 8 says that one gap
//! in a hundred million is as long as this silence.

use std::collections::VecDeque;
use std::time::Duration;

/// Gaps that are remembered of one member.
const WINDOW: usize = 100;
/// Gaps longer than this many intervals say nothing about the next one: the member, or we, were away.
const GAP_INTERVALS_MAX: u32 = 10;
/// Least standard deviation, as a share of the interval: three lost messages in a row are not yet a failure.
const DEVIATION_MIN: f64 = 0.5;

/// The last gaps between two rises of one member's heartbeat.
#[derive(Clone, Debug)]
pub(super) struct GapHistory {
    gaps: VecDeque<f64>,
    interval: Duration,
}

impl GapHistory {
    /// A history of a member that has shown no gap yet; it is expected to rise once each `interval`.
    pub(super) fn new(interval: Duration) -> Self {
        Self { gaps: VecDeque::new(), interval }
    }

    /// Remembers a gap between two rises.
    pub(super) fn record(&mut self, gap: Duration) {
        if gap > self.interval * GAP_INTERVALS_MAX {
            return;
        }
        if self.gaps.len() == WINDOW {
            self.gaps.pop_front();
        }
        self.gaps.push_back(gap.as_secs_f64());
    }

    /// φ of a silence.
    pub(super) fn phi(&self, silence: Duration) -> f64 {
        let (mean, deviation) = self.mean_and_deviation();
        let y = (silence.as_secs_f64() - mean) / deviation;
        // The logistic approximation of the normal distribution's tail; its error is below 1.5e-4.
        let e = (-y * (1.5976 + 0.070_566 * y * y)).exp();
        if y > 0.0 { -(e / (1.0 + e)).log10() } else { -(1.0 - 1.0 / (1.0 + e)).log10() }
    }

    /// The expectation from the interval weighs as one gap, so that the first few do not decide alone.
    fn mean_and_deviation(&self) -> (f64, f64) {
        let expected = self.interval.as_secs_f64();
        let count = f64::from(u32::try_from(self.gaps.len()).unwrap_or(u32::MAX)) + 1.0;
        let mean = (expected + self.gaps.iter().sum::<f64>()) / count;
        let squares =
            self.gaps.iter().chain([&expected]).map(|gap| (gap - mean).powi(2)).sum::<f64>();
        (mean, (squares / count).sqrt().max(DEVIATION_MIN * expected))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(gaps_ms: &[u64], silence_ms: u64, suspected: bool) {
        let mut history = GapHistory::new(Duration::from_secs(1));
        for gap in gaps_ms {
            history.record(Duration::from_millis(*gap));
        }
        let phi = history.phi(Duration::from_millis(silence_ms));
        assert_eq!(phi >= 8.0, suspected, "phi {phi:.2} after {silence_ms} ms");
    }

    #[test]
    fn a_steady_member_is_suspected_after_three_and_a_half_intervals_of_silence() {
        check(&[1000; 50], 3400, false);
        check(&[1000; 50], 3700, true);
    }

    #[test]
    fn a_member_that_was_never_heard_is_given_the_same_patience() {
        check(&[], 3400, false);
        check(&[], 3700, true);
    }

    #[test]
    fn an_uneven_member_is_given_more_time() {
        check(&[300, 2900, 400, 2400, 500, 2700, 300, 2600], 6000, false);
        check(&[300, 2900, 400, 2400, 500, 2700, 300, 2600], 9000, true);
    }

    #[test]
    fn an_absence_does_not_count_as_a_gap() {
        check(&[1000, 1000, 3_600_000, 1000], 3700, true);
    }

    #[test]
    fn phi_stays_a_number_for_any_silence() {
        let history = GapHistory::new(Duration::from_secs(1));
        assert!(history.phi(Duration::ZERO) >= 0.0);
        assert!(history.phi(Duration::from_secs(1_000_000)) >= 8.0);
    }
}
