//! Requests about keys whose state must first come from the disk.
//!
//! Why: every change of a key is serial from read to append. While a read of a key is under way, every later request
//! for that key queues behind it; once it is back they run one after the other, in the order they came.
//! Invariant: at most one read a key is under way, and no request for that key runs beside it.

use std::collections::{BTreeMap, VecDeque};

use bytes::Bytes;

use super::event::ReadToken;

/// Requests of type `J` behind disk reads.
#[derive(Debug)]
pub(super) struct KeyQueue<J> {
    queues: BTreeMap<Bytes, VecDeque<J>>,
    reads: BTreeMap<ReadToken, Bytes>,
    next_token: u64,
    queued: usize,
}

impl<J> Default for KeyQueue<J> {
    fn default() -> Self {
        Self { queues: BTreeMap::new(), reads: BTreeMap::new(), next_token: 0, queued: 0 }
    }
}

impl<J> KeyQueue<J> {
    /// Whether a read of `key` (a storage key) is under way.
    pub(super) fn is_reading(&self, key: &[u8]) -> bool {
        self.queues.contains_key(key)
    }

    /// Queues `job` behind the read of `key`; a token comes back when that read must be started.
    pub(super) fn push(&mut self, key: &Bytes, job: J) -> Option<ReadToken> {
        self.queued += 1;
        if let Some(queue) = self.queues.get_mut(key) {
            queue.push_back(job);
            return None;
        }
        self.queues.insert(key.clone(), VecDeque::from([job]));
        let token = ReadToken(self.next_token);
        self.next_token += 1;
        self.reads.insert(token, key.clone());
        Some(token)
    }

    /// The read is back: its key, and all that queued for it, in the order it came. `None` for an unknown token.
    pub(super) fn finish(&mut self, token: ReadToken) -> Option<(Bytes, VecDeque<J>)> {
        let key = self.reads.remove(&token)?;
        let jobs = self.queues.remove(&key).unwrap_or_default();
        self.queued -= jobs.len();
        Some((key, jobs))
    }

    /// How many requests queue.
    pub(super) const fn len(&self) -> usize {
        self.queued
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_read_serves_all_that_queue_for_its_key_in_order() {
        let (k, other) = (Bytes::from_static(b"k"), Bytes::from_static(b"other"));
        let mut queue = KeyQueue::default();
        let read = queue.push(&k, 1).unwrap();
        assert_eq!(queue.push(&k, 2), None);
        let second = queue.push(&other, 3).unwrap();
        assert_ne!(read, second);
        assert!(queue.is_reading(&k));
        assert_eq!(queue.finish(read), Some((k.clone(), VecDeque::from([1, 2]))));
        assert_eq!(queue.finish(read), None, "a token serves once");
        assert!(!queue.is_reading(&k) && queue.is_reading(&other));
        assert_eq!(queue.len(), 1);
    }
}
