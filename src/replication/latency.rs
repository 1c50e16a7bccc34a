//! Recent latencies in a small fixed histogram: for the p99 that a node tells of itself, and for the patience with peers.
//!
//! Two windows of [`WINDOW`] take turns, so an answer speaks of the last one to two windows. Buckets grow by a quarter
//! of a power of two: a figure is at most a fifth too high.

use std::time::Duration;

use crate::cluster::Time;

/// How long one window collects.
const WINDOW: Duration = Duration::from_secs(30);
/// Buckets: four for each power of two of microseconds.
const BUCKETS: usize = 4 * 36;

/// Latencies of one kind of request.
#[derive(Clone, Debug)]
pub struct Latencies {
    current: [u32; BUCKETS],
    previous: [u32; BUCKETS],
    turned: Time,
}

impl Default for Latencies {
    fn default() -> Self {
        Self { current: [0; BUCKETS], previous: [0; BUCKETS], turned: Time::default() }
    }
}

impl Latencies {
    /// Notes one request that took `micros`.
    pub fn note(&mut self, micros: u64, now: Time) {
        self.turn(now);
        let count = &mut self.current[bucket(micros)];
        *count = count.saturating_add(1);
    }

    /// The 99th percentile in microseconds (the upper end of its bucket); `None` without any request.
    pub fn p99(&mut self, now: Time) -> Option<u64> {
        self.turn(now);
        let counts =
            || self.current.iter().zip(&self.previous).map(|(a, b)| u64::from(*a) + u64::from(*b));
        let total: u64 = counts().sum();
        let mut above = total / 100;
        for (index, count) in counts().enumerate().collect::<Vec<_>>().into_iter().rev() {
            if count > above {
                return Some(upper_end(index));
            }
            above -= count;
        }
        None
    }

    fn turn(&mut self, now: Time) {
        let age = now.since(self.turned);
        if age < WINDOW {
            return;
        }
        let fresh = age < 2 * WINDOW;
        self.previous = if fresh { self.current } else { [0; BUCKETS] };
        self.current = [0; BUCKETS];
        self.turned = now;
    }
}

/// The bucket of a latency: its highest bit, then the two bits behind it.
fn bucket(micros: u64) -> usize {
    let micros = micros.max(4);
    let power = micros.ilog2();
    let quarter = (micros >> (power - 2)) & 3;
    ((power - 2) as usize * 4 + quarter as usize).min(BUCKETS - 1)
}

/// The largest latency of a bucket.
fn upper_end(bucket: usize) -> u64 {
    let (power, quarter) = (bucket / 4, (bucket % 4) as u64);
    ((5 + quarter) << power) - 1
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_p99_is_within_a_quarter_of_the_truth() {
        let mut latencies = Latencies::default();
        let now = Time::default().after(WINDOW);
        assert_eq!(latencies.p99(now), None);
        for micros in 1..=10_000 {
            latencies.note(micros, now);
        }
        let p99 = latencies.p99(now).unwrap();
        assert!((9_900..9_900 * 5 / 4).contains(&p99), "{p99}");
    }

    #[test]
    fn old_latencies_are_forgotten() {
        let mut latencies = Latencies::default();
        let now = Time::default().after(WINDOW);
        latencies.note(1_000_000, now);
        assert!(latencies.p99(now.after(WINDOW)).is_some());
        assert_eq!(latencies.p99(now.after(4 * WINDOW)), None);
    }

    #[test]
    fn every_latency_lies_in_its_bucket() {
        for micros in (4..100_000).chain([1 << 36, u64::MAX / 2]) {
            let bucket = bucket(micros);
            assert!(bucket == BUCKETS - 1 || micros <= upper_end(bucket), "{micros}");
            assert!(bucket == 0 || upper_end(bucket - 1) < micros, "{micros}");
        }
    }
}
