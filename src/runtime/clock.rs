//! The clock: the one place where a node reads the time.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use nix::time::{ClockId, clock_gettime};

use crate::cluster::Time;

/// This instant. The monotonic part counts suspension, so that a deadline passes while a laptop sleeps.
#[expect(clippy::disallowed_methods, reason = "the runtime is the rim: it reads the clock")]
pub(super) fn now() -> Time {
    let wall = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    Time {
        monotonic: u64::try_from(since_boot().as_nanos()).unwrap_or(u64::MAX),
        wall: u64::try_from(wall.as_micros()).unwrap_or(u64::MAX),
    }
}

/// How long until `monotonic`; nothing when it is past.
pub(super) fn until(monotonic: u64) -> Duration {
    Duration::from_nanos(monotonic.saturating_sub(now().monotonic))
}

/// How long ago `monotonic` was.
pub(super) fn since(monotonic: u64) -> Duration {
    Duration::from_nanos(now().monotonic.saturating_sub(monotonic))
}

fn since_boot() -> Duration {
    // The call fails for an unknown clock alone, and CLOCK_BOOTTIME is as old as Linux 2.6.39.
    clock_gettime(ClockId::CLOCK_BOOTTIME).map(Duration::from).unwrap_or_default()
}
