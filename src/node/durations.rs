//! How long requests took since the start, in buckets that only rise, for those who collect such figures over time.

use crate::wire::client::{DURATION_BUCKETS, Durations};

/// Requests of one kind by how long they took.
#[derive(Clone, Debug, Default)]
pub(super) struct DurationCounts {
    counts: [u64; DURATION_BUCKETS],
    sum: u64,
}

impl DurationCounts {
    /// Notes one that took `micros`.
    pub(super) fn note(&mut self, micros: u64) {
        self.counts[bucket(micros)] += 1;
        self.sum = self.sum.saturating_add(micros);
    }

    /// All that were noted.
    pub(super) fn told(&self) -> Durations {
        Durations { counts: self.counts.to_vec(), sum: self.sum }
    }
}

/// The first bucket whose bound is not below `micros`; the last one has none.
fn bucket(micros: u64) -> usize {
    (0..DURATION_BUCKETS - 1)
        .find(|bucket| micros <= Durations::bound(*bucket))
        .unwrap_or(DURATION_BUCKETS - 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_duration_lies_within_the_bound_of_its_bucket_and_above_the_one_before() {
        for micros in (0..10_000).chain([1 << 20, (1 << 20) + 1, 1 << 40, u64::MAX]) {
            let bucket = bucket(micros);
            let is_last = bucket == DURATION_BUCKETS - 1;
            assert!(is_last || micros <= Durations::bound(bucket), "{micros}");
            assert!(bucket == 0 || Durations::bound(bucket - 1) < micros, "{micros}");
        }
    }

    #[test]
    fn what_is_noted_is_told() {
        let mut durations = DurationCounts::default();
        for micros in [1, 64, 65, u64::from(u32::MAX)] {
            durations.note(micros);
        }
        let told = durations.told();
        assert_eq!((told.counts[0], told.counts[1], told.counts[DURATION_BUCKETS - 1]), (2, 1, 1));
        assert_eq!(told.sum, 1 + 64 + 65 + u64::from(u32::MAX));
    }
}
