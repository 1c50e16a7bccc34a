//! Heavy hitters in bounded memory: the Space-Saving sketch (Metwally, Agrawal and El Abbadi, 2005).
//!
//! [`KEYS_MAX`] keys have counters. A key without one takes that of the key with the least, and inherits its count as
//! what it may have had unseen: its *error*. With N operations in all:
//! - a key's true count lies between what was counted and that plus its error;
//! - no error exceeds N / [`KEYS_MAX`], so every key with more operations than that has a counter.
//!
//! A key is told by its token. Of its bytes the first [`KEY_BYTES_MAX`] are kept, copied: a slice would keep a whole
//! frame alive. A known key costs a walk over 64 numbers that stand side by side, and no allocation.

use crate::ring::Token;

/// Keys that have counters.
pub(super) const KEYS_MAX: usize = 64;
/// Bytes of a key that are kept.
pub(super) const KEY_BYTES_MAX: usize = 256;

/// Counters of the keys that are asked for most.
#[derive(Clone, Debug, Default)]
pub(super) struct SpaceSaving {
    /// Beside `counters`, for the walk.
    tokens: Vec<Token>,
    counters: Vec<Counter>,
    /// What the key that lost its counter last may have had; none that lost one before may have had more.
    displaced: u64,
}

/// What is known of one key.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Counter {
    /// Its first bytes.
    pub(super) key: Vec<u8>,
    /// How many it has.
    pub(super) key_bytes: usize,
    /// Counted since it has a counter.
    pub(super) gets: u64,
    pub(super) puts: u64,
    /// What it may have had before, at most.
    pub(super) error: u64,
}

/// What was done with a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Use {
    Get,
    Put,
}

impl SpaceSaving {
    /// Counts one operation on the key at `token`.
    pub(super) fn note(&mut self, token: Token, key: &[u8], done: Use) {
        let known = self.tokens.iter().position(|known| *known == token);
        let index = known.unwrap_or_else(|| self.take_in(token, key));
        let counter = &mut self.counters[index];
        match done {
            Use::Get => counter.gets += 1,
            Use::Put => counter.puts += 1,
        }
    }

    /// Most operations that a key without a counter may have had.
    pub(super) const fn unseen_max(&self) -> u64 {
        self.displaced
    }

    /// Every counter with its key's token.
    pub(super) fn iter(&self) -> impl Iterator<Item = (Token, &Counter)> {
        self.tokens.iter().copied().zip(&self.counters)
    }

    /// Gives a key a counter: a new one, or that of the key with the least.
    fn take_in(&mut self, token: Token, key: &[u8]) -> usize {
        let least = || (0..self.counters.len()).min_by_key(|index| self.counters[*index].most());
        let index = match least() {
            Some(index) if self.counters.len() == KEYS_MAX => {
                self.displaced = self.counters[index].most();
                index
            }
            Some(_) | None => {
                self.tokens.push(token);
                self.counters.push(Counter::default());
                self.counters.len() - 1
            }
        };
        self.tokens[index] = token;
        self.counters[index].begin(key);
        index
    }
}

impl Counter {
    /// Most operations that the key may have had.
    pub(super) const fn most(&self) -> u64 {
        self.gets + self.puts + self.error
    }

    /// Counts for another key from now on.
    fn begin(&mut self, key: &[u8]) {
        self.error = self.most();
        (self.gets, self.puts) = (0, 0);
        self.key.clear();
        self.key.extend_from_slice(&key[..key.len().min(KEY_BYTES_MAX)]);
        self.key_bytes = key.len();
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::*;

    /// Holds the sketch of these keys, used in this order, against their true counts.
    #[track_caller]
    fn check(keys: &[u16]) {
        let mut sketch = SpaceSaving::default();
        let mut truth: BTreeMap<Token, u64> = BTreeMap::new();
        for key in keys {
            // Longer than what is kept, and alike there: the token alone tells them apart.
            let mut bytes = vec![b'k'; KEY_BYTES_MAX];
            bytes.extend(key.to_le_bytes());
            let token = Token::of(&bytes);
            let done = if key % 3 == 0 { Use::Put } else { Use::Get };
            sketch.note(token, &bytes, done);
            *truth.entry(token).or_default() += 1;
        }
        let known: BTreeMap<Token, &Counter> = sketch.iter().collect();
        assert!(known.len() <= KEYS_MAX);
        let share = keys.len() as u64 / KEYS_MAX as u64;
        assert!(sketch.unseen_max() <= share, "{} of {share}", sketch.unseen_max());
        for (token, count) in &truth {
            match known.get(token) {
                Some(counter) => {
                    assert!(counter.gets + counter.puts <= *count && *count <= counter.most());
                    assert!(counter.error <= share);
                    assert_eq!((counter.key.len(), counter.key_bytes), (KEY_BYTES_MAX, 258));
                }
                None => assert!(*count <= sketch.unseen_max(), "{count} unseen"),
            }
        }
    }

    proptest! {
        #[test]
        fn no_key_with_more_than_its_share_is_missed_and_no_count_is_outside_its_bounds(
            rare in vec(any::<u16>(), 0..2_000),
            hot in vec(0_u16..100, 0..2_000),
            order in any::<prop::sample::Index>(),
        ) {
            let mut keys = [rare, hot].concat();
            let at = order.index(keys.len() + 1);
            keys.rotate_left(at);
            check(&keys);
        }
    }

    #[test]
    fn one_hot_key_among_many_is_found_wherever_it_comes() {
        for hot_first in [false, true] {
            let rare = 1_000..9_000;
            let hot = std::iter::repeat_n(7, 1_000);
            let keys: Vec<u16> =
                if hot_first { hot.chain(rare).collect() } else { rare.chain(hot).collect() };
            check(&keys);
        }
    }

    #[test]
    fn few_keys_are_counted_exactly() {
        let mut sketch = SpaceSaving::default();
        for round in 0..10 {
            for key in 0..KEYS_MAX as u64 {
                let done = if round < 3 { Use::Put } else { Use::Get };
                sketch.note(Token::from_point(key), b"k", done);
            }
        }
        for (_, counter) in sketch.iter() {
            assert_eq!((counter.gets, counter.puts, counter.error), (7, 3, 0));
        }
        assert_eq!(sketch.unseen_max(), 0);
        sketch.note(Token::from_point(u64::MAX), b"late", Use::Get);
        assert_eq!(sketch.unseen_max(), 10, "one lost its counter");
    }
}
