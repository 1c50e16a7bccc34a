//! Time as the machines below the rim see it: handed in, never read.

use std::time::Duration;

/// One instant, by two clocks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Time {
    /// Nanoseconds since an arbitrary start, never going back, counting suspension (`CLOCK_BOOTTIME`).
    pub monotonic: u64,
    /// Microseconds since the Unix epoch; may jump. Never decides anything but a timestamp for people.
    pub wall: u64,
}

impl Time {
    /// This instant, `span` later on both clocks; saturates.
    #[must_use]
    pub fn after(self, span: Duration) -> Self {
        let nanos = u64::try_from(span.as_nanos()).unwrap_or(u64::MAX);
        Self {
            monotonic: self.monotonic.saturating_add(nanos),
            wall: self.wall.saturating_add(nanos / 1_000),
        }
    }

    /// How long after `earlier` this is by the monotonic clock; zero when it is before.
    pub const fn since(self, earlier: Self) -> Duration {
        Duration::from_nanos(self.monotonic.saturating_sub(earlier.monotonic))
    }
}
