//! Which puts this replica knows although their version has left its state (DESIGN §4 *Retries*).

use std::time::Duration;

use crate::cluster::Time;
use crate::version::{Actor, Dot, RequestId};

/// How long a put is remembered: twice the longest deadline.
pub const MEMORY_SPAN: Duration = Duration::from_secs(30);
/// Most puts remembered; when so many are, puts without a context are shed.
pub const MEMORY_ENTRIES_MAX: usize = 1 << 21;

/// By key and session the latest put that left this replica's state.
#[derive(Clone, Debug)]
pub struct RequestMemory {
    start: Time,
}

/// What is remembered of a put.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Remembered {
    /// Number of the session's latest put of the key.
    pub counter: u64,
    /// Who minted it.
    pub actor: Actor,
}

impl RequestMemory {
    /// An empty memory; it reaches back to `now`.
    pub fn new(now: Time) -> Self {
        Self { start: now }
    }
    /// Remembers that `request` of `key` was done under `dot`.
    pub fn learn(&mut self, key: &[u8], request: RequestId, dot: Dot, now: Time) {
        let _ = (key, request, dot, now, self.start);
        todo!()
    }
    /// The latest put of `request`'s session for `key`, where it is `request` or a later one.
    pub fn knows(&self, key: &[u8], request: RequestId, now: Time) -> Option<Remembered> {
        let _ = (key, request, now, self.start);
        todo!()
    }
    /// How far back it reaches.
    pub fn reach(&self, now: Time) -> Duration {
        let _ = (now, self.start);
        todo!()
    }
    /// Whether it takes no more.
    pub fn is_full(&self) -> bool {
        todo!()
    }
}
