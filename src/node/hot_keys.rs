//! Hot keys: what single keys are asked for, of the gets and puts that this node coordinates.
//!
//! Two sketches take turns every [`WINDOW`], so that an answer speaks of the last one to two windows, and what was hot
//! yesterday is forgotten. Whatever keys come, they take less than 64 KiB.
//!
//! Why: more nodes do not help a key that one node is busy with, and nothing else shows it.

use std::collections::BTreeMap;
use std::mem;
use std::time::Duration;

use bytes::Bytes;

use crate::cluster::Time;
use crate::replication::Operation;
use crate::ring::Token;
use crate::wire::client::{HotKey, HotKeysReply, ReplyBody};

use super::core::Core;
use super::space_saving::{KEY_BYTES_MAX, KEYS_MAX, SpaceSaving, Use};

/// How long one sketch counts.
const WINDOW: Duration = Duration::from_secs(10);

const _: () = assert!(2 * KEYS_MAX * (KEY_BYTES_MAX + 128) < 64 << 10);

/// What single keys were asked for lately.
#[derive(Clone, Debug)]
pub(super) struct HotKeys {
    current: Counted,
    previous: Counted,
    /// How long `previous` counted.
    span: Duration,
    turned: Time,
}

/// One window.
#[derive(Clone, Debug, Default)]
struct Counted {
    sketch: SpaceSaving,
    gets: u64,
    puts: u64,
}

impl HotKeys {
    pub(super) fn new(now: Time) -> Self {
        let (current, previous) = (Counted::default(), Counted::default());
        Self { current, previous, span: Duration::ZERO, turned: now }
    }

    /// Counts one operation.
    pub(super) fn note(&mut self, token: Token, key: &[u8], done: Use, now: Time) {
        self.turn(now);
        self.current.sketch.note(token, key, done);
        match done {
            Use::Get => self.current.gets += 1,
            Use::Put => self.current.puts += 1,
        }
    }

    /// What both windows know of each key that either counts.
    fn report(&mut self, now: Time) -> HotKeysReply {
        self.turn(now);
        let windows = [&self.current, &self.previous];
        let unseen_max = windows.iter().map(|window| window.sketch.unseen_max()).sum();
        let mut keys: BTreeMap<Token, HotKey> = BTreeMap::new();
        for window in windows {
            for (token, counter) in window.sketch.iter() {
                let hot = keys.entry(token).or_insert_with(|| HotKey {
                    key: Bytes::copy_from_slice(&counter.key),
                    key_bytes: u32::try_from(counter.key_bytes).unwrap_or(u32::MAX),
                    token: token.point(),
                    gets: 0,
                    puts: 0,
                    error: unseen_max,
                });
                hot.gets += counter.gets;
                hot.puts += counter.puts;
                hot.error = hot.error - window.sketch.unseen_max() + counter.error;
            }
        }
        let span = self.span + now.since(self.turned);
        HotKeysReply {
            window: u64::try_from(span.as_micros()).unwrap_or(u64::MAX),
            gets: self.current.gets + self.previous.gets,
            puts: self.current.puts + self.previous.puts,
            unseen_max,
            keys: keys.into_values().collect(),
        }
    }

    fn turn(&mut self, now: Time) {
        let age = now.since(self.turned);
        if age < WINDOW {
            return;
        }
        // Nothing was noted since the first window's end, or it would have turned then.
        let ended = mem::take(&mut self.current);
        (self.previous, self.span) =
            if age < 2 * WINDOW { (ended, age) } else { (Counted::default(), WINDOW) };
        self.turned = now;
    }
}

impl Core {
    /// A client's operation on the key at `token` begins.
    pub(super) fn note_use(&mut self, token: Token, operation: &Operation) {
        match operation {
            Operation::Get { key, .. } => {
                self.figures.hot_keys.note(token, key, Use::Get, self.now);
            }
            Operation::Put { key, .. } => {
                self.figures.hot_keys.note(token, key, Use::Put, self.now);
            }
            Operation::Merge { .. } | Operation::Inspect { .. } | Operation::Scan { .. } => {}
        }
    }

    pub(super) fn hot_keys_reply(&mut self) -> ReplyBody {
        ReplyBody::HotKeys(self.figures.hot_keys.report(self.now))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const START: Time = Time { monotonic: 1 << 40, wall: 0 };

    /// Notes `uses` of a key at each of these moments; what is known of it at the last one.
    #[track_caller]
    fn check(moments: &[(Duration, u64)], at: Duration, expected: Option<(u64, Duration)>) {
        let mut hot = HotKeys::new(START);
        for (moment, uses) in moments {
            for _ in 0..*uses {
                hot.note(Token::of(b"k"), b"k", Use::Get, START.after(*moment));
            }
        }
        let report = hot.report(START.after(at));
        let found = report.keys.first().map(|key| key.gets);
        let window = Duration::from_micros(report.window);
        assert_eq!(found.map(|gets| (gets, window)), expected, "{report:?}");
        assert_eq!(report.gets, found.unwrap_or(0));
    }

    #[test]
    fn two_windows_count_and_what_is_older_is_forgotten() {
        let seconds = Duration::from_secs;
        check(&[(seconds(1), 5)], seconds(2), Some((5, seconds(2))));
        check(&[(seconds(1), 5), (seconds(11), 7)], seconds(12), Some((12, seconds(12))));
        check(&[(seconds(1), 5), (seconds(11), 7)], seconds(22), Some((7, seconds(11))));
        check(&[(seconds(1), 5)], seconds(19), Some((5, seconds(19))));
        check(&[(seconds(1), 5)], seconds(20), None);
        check(&[(seconds(1), 5), (seconds(40), 3)], seconds(41), Some((3, seconds(11))));
    }

    #[test]
    fn a_key_that_one_window_alone_counts_may_have_had_what_the_other_overlooked() {
        let mut hot = HotKeys::new(START);
        let note = |hot: &mut HotKeys, key: u64, times: u64, at: Time| {
            for _ in 0..times {
                hot.note(Token::from_point(key), &key.to_le_bytes(), Use::Put, at);
            }
        };
        for key in 0..2 * KEYS_MAX as u64 {
            note(&mut hot, key, 3, START);
        }
        let later = START.after(WINDOW);
        note(&mut hot, 0, 9, later);
        note(&mut hot, u64::MAX, 1, later);
        let report = hot.report(later);
        let of = |key: u64| report.keys.iter().find(|hot| hot.token == key).unwrap();
        assert_eq!((of(0).puts, of(0).error), (9, 3), "its three are overlooked by now");
        assert_eq!((of(u64::MAX).puts, of(u64::MAX).error), (1, 3));
        assert_eq!((of(127).puts, of(127).error), (3, 3), "it took another key's counter");
        assert_eq!((report.unseen_max, report.puts), (3, 6 * KEYS_MAX as u64 + 10));
    }
}
