//! Hybrid logical clock timestamps (Kulkarni et al., "Logical Physical Clocks"): order siblings for people, never decide.

use serde::{Deserialize, Serialize};

/// Bits of a timestamp that count events within one microsecond.
const LOGICAL_BITS: u32 = 12;
/// Largest wall clock a timestamp can hold, in microseconds: the year 2112.
const UNIX_MICROS_MAX: u64 = u64::MAX >> LOGICAL_BITS;
/// How far ahead of the own wall clock a foreign timestamp may lie and still be followed.
const AHEAD_MICROS_MAX: u64 = 3_600_000_000;

/// Microseconds since the Unix epoch in the high 52 bits, a logical counter in the low 12.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
pub struct Timestamp(u64);

/// Hands out timestamps that never go back.
#[derive(Clone, Debug, Default)]
pub struct HybridClock {
    last: Timestamp,
}

impl Timestamp {
    /// From its 64 bits.
    pub const fn from_bits(bits: u64) -> Self {
        Self(bits)
    }
    /// Its 64 bits.
    pub const fn bits(self) -> u64 {
        self.0
    }
    /// Microseconds since the Unix epoch.
    pub const fn unix_micros(self) -> u64 {
        self.0 >> LOGICAL_BITS
    }
    /// The first timestamp of a microsecond; of the last one there is when `unix_micros` lies past it.
    pub fn at(unix_micros: u64) -> Self {
        Self(unix_micros.min(UNIX_MICROS_MAX) << LOGICAL_BITS)
    }
}

impl HybridClock {
    /// The next timestamp: wall clock `unix_micros`, or just after the last one where the wall clock is behind.
    pub fn next(&mut self, unix_micros: u64) -> Timestamp {
        self.last = Timestamp::at(unix_micros).max(Timestamp(self.last.0.saturating_add(1)));
        self.last
    }
    /// Takes note of a timestamp seen elsewhere (bounded: one more than an hour ahead of `unix_micros` is ignored).
    pub fn observe(&mut self, seen: Timestamp, unix_micros: u64) {
        if seen.unix_micros() <= unix_micros.saturating_add(AHEAD_MICROS_MAX) {
            self.last = self.last.max(seen);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// 2026-11-22T00:00:00Z.
    const NOW: u64 = 1_795_305_600_000_000;

    #[test]
    fn timestamps_rise_though_the_wall_clock_stands_or_goes_back() {
        let mut clock = HybridClock::default();
        let stamps = [NOW, NOW, NOW - 5_000_000, NOW + 1].map(|wall| clock.next(wall));
        assert!(stamps.is_sorted_by(|a, b| a < b), "{stamps:?}");
        assert_eq!(stamps[0].unix_micros(), NOW);
        assert_eq!(stamps[2].bits(), stamps[0].bits() + 2);
        assert_eq!(stamps[3], Timestamp::at(NOW + 1));
    }

    #[test]
    fn what_was_seen_elsewhere_is_followed_up_to_an_hour() {
        let mut clock = HybridClock::default();
        let near = Timestamp::at(NOW + AHEAD_MICROS_MAX);
        let far = Timestamp::at(NOW + AHEAD_MICROS_MAX + 1);
        clock.observe(far, NOW);
        assert_eq!(clock.next(NOW), Timestamp::at(NOW));
        clock.observe(near, NOW);
        assert!(clock.next(NOW) > near);
    }

    #[test]
    fn the_end_of_time_is_no_panic() {
        let mut clock = HybridClock::default();
        clock.observe(Timestamp::from_bits(u64::MAX), u64::MAX);
        assert_eq!(clock.next(u64::MAX).bits(), u64::MAX);
    }
}
