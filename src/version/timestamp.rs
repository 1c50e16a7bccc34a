//! Hybrid logical clock timestamps (Kulkarni et al., "Logical Physical Clocks"): order siblings for people, never decide.

use serde::{Deserialize, Serialize};

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
        self.0 >> 12
    }
}

impl HybridClock {
    /// The next timestamp: wall clock `unix_micros`, or just after the last one where the wall clock is behind.
    pub fn next(&mut self, unix_micros: u64) -> Timestamp {
        let _ = (unix_micros, self.last);
        todo!()
    }
    /// Takes note of a timestamp seen elsewhere (bounded: one more than an hour ahead of `unix_micros` is ignored).
    pub fn observe(&mut self, seen: Timestamp, unix_micros: u64) {
        let _ = (seen, unix_micros);
        todo!()
    }
}
