//! What a store's recovery tells about the puts that this replica knew.
//!
//! The log holds every state since the last flush, superseded ones too, with their request ids; replaying it rebuilds
//! the part of the memory of puts that the log covers. How far back the memory *reaches* starts anew all the same: what
//! was flushed before the stop is not in the log.

use bytes::Bytes;

use crate::cluster::Time;
use crate::replication::RequestMemory;
use crate::version::Siblings;

use super::keys;

/// Collects what [`Store::open`](crate::storage::Store::open) replays.
#[derive(Debug)]
pub struct Replayed {
    memory: RequestMemory,
    now: Time,
}

impl Replayed {
    /// Nothing replayed yet.
    pub fn new(now: Time) -> Self {
        Self { memory: RequestMemory::new(now), now }
    }

    /// One change of the log, in its order: what the store's `replay` callback gets.
    pub fn observe(&mut self, key: &[u8], value: Option<&[u8]>) {
        let (Ok((_, key)), Some(value)) = (keys::parse_data(key), value) else {
            return;
        };
        // What does not decode is met again, and reported, when the key is read.
        let Ok(state) = Siblings::decode(&Bytes::copy_from_slice(value)) else {
            return;
        };
        for (dot, version) in state.versions() {
            self.memory.learn(key, version.request, *dot, self.now);
        }
    }

    pub(super) fn into_memory(self) -> RequestMemory {
        self.memory
    }
}
