//! Pages of a slot range, read slice by slice from the store.
//!
//! A slice comes without log positions, so a page waits until all that was appended when its last slice came is
//! durable.

use std::collections::BTreeMap;

use bytes::Bytes;

use crate::replication::{Answer, RangeEntry, RangePage, Refusal};
use crate::ring::Slot;
use crate::storage::{ReadError, ScanSlice};
use crate::version::Siblings;

use super::core::Core;
use super::event::{Effect, ScanToken};
use super::key_work::Asker;
use super::keys;

/// Most entries that one slice reads.
const SLICE_ENTRIES_MAX: usize = 1_024;
/// Most bytes that one page holds, whatever is asked for: it must fit a frame, with one largest state on top.
const PAGE_BYTES_MAX: u32 = 4 << 20;
/// Most ranges that are read at once.
const RANGES_MAX: usize = 1_024;

/// Ranges being read.
#[derive(Debug, Default)]
pub(super) struct Ranges {
    by_token: BTreeMap<ScanToken, Range>,
    next_token: u64,
}

/// What is asked for.
#[derive(Debug)]
pub(super) struct RangeRequest {
    pub(super) slots: (Slot, Slot),
    pub(super) after: Option<(Slot, Bytes)>,
    pub(super) prefix: Bytes,
    pub(super) bytes_max: u32,
}

#[derive(Debug)]
struct Range {
    asker: Asker,
    deadline: u64,
    prefix: Bytes,
    bytes_max: usize,
    end: Bytes,
    entries: Vec<RangeEntry>,
    bytes: usize,
}

/// How far a slice brought a page.
#[derive(Debug, PartialEq, Eq)]
enum Progress {
    /// It is full; more stands in the range.
    Full,
    /// It takes more.
    Open,
}

impl Ranges {
    /// A number for a further slice.
    pub(super) const fn next_token(&mut self) -> ScanToken {
        self.next_token += 1;
        ScanToken(self.next_token)
    }
}

impl Core {
    /// Starts to read a page.
    pub(super) fn read_range(
        &mut self,
        asker: Asker,
        request: RangeRequest,
        deadline: u64,
        effects: &mut Vec<Effect>,
    ) {
        if self.ranges.by_token.len() >= RANGES_MAX {
            self.figures.counters.overloads += 1;
            let answer = Answer::Refused(Refusal::Overloaded);
            self.answer(asker, answer, self.store.durable(), effects);
            return;
        }
        let (start, end) = keys::data_range(request.slots, request.after.as_ref());
        let range = Range {
            asker,
            deadline,
            prefix: request.prefix,
            bytes_max: request.bytes_max.min(PAGE_BYTES_MAX) as usize,
            end,
            entries: Vec::new(),
            bytes: 0,
        };
        self.read_slice(range, start, effects);
    }

    /// A slice is read.
    pub(super) fn slice_done(
        &mut self,
        token: ScanToken,
        result: Result<ScanSlice, ReadError>,
        effects: &mut Vec<Effect>,
    ) {
        let Some(mut range) = self.ranges.by_token.remove(&token) else {
            return self.walked(token, result, effects);
        };
        if range.deadline <= self.now.monotonic {
            self.figures.counters.expired += 1;
            return;
        }
        let progress = result
            .map_err(|error| error.to_string())
            .and_then(|slice| range.take(slice.entries).map(|filled| (filled, slice.next)));
        let complete = match progress {
            Ok((Progress::Open, Some(next))) => return self.read_slice(range, next, effects),
            Ok((Progress::Open, None)) => true,
            Ok((Progress::Full, _)) => false,
            Err(error) => {
                self.alarm(format!("a range cannot be read here: {error}"), effects);
                let answer = Answer::Refused(Refusal::Corrupt);
                return self.answer(range.asker, answer, self.store.durable(), effects);
            }
        };
        let whole = RangePage { entries: range.entries, complete };
        let position = self.store.appended();
        let answer = match self.check_layout(range.asker) {
            Ok(()) => Answer::Range(whole),
            Err(refusal) => Answer::Refused(refusal),
        };
        self.answer(range.asker, answer, position, effects);
    }

    fn read_slice(&mut self, range: Range, start: Bytes, effects: &mut Vec<Effect>) {
        let token = self.ranges.next_token();
        effects.push(Effect::Scan {
            token,
            start,
            end: Some(range.end.clone()),
            entries_max: SLICE_ENTRIES_MAX,
            bytes_max: range.bytes_max,
        });
        self.ranges.by_token.insert(token, range);
    }
}

impl Range {
    /// Adds what of `entries` carries the prefix, until the page is full; a page holds one entry at least.
    fn take(&mut self, entries: Vec<(Bytes, Bytes)>) -> Result<Progress, String> {
        for (stored, value) in entries {
            if self.bytes_max <= self.bytes && !self.entries.is_empty() {
                return Ok(Progress::Full);
            }
            let (slot, key) = keys::parse_data(&stored).map_err(|error| error.to_string())?;
            if !key.starts_with(&self.prefix) {
                continue;
            }
            let key = stored.slice_ref(key);
            let state = Siblings::decode(&value).map_err(|error| error.to_string())?;
            self.bytes += key.len() + value.len();
            self.entries.push(RangeEntry { slot, key, state });
        }
        Ok(if self.bytes_max <= self.bytes { Progress::Full } else { Progress::Open })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::replication::OpId;

    fn range(prefix: &'static [u8], bytes_max: usize) -> Range {
        Range {
            asker: Asker::Own { op: OpId(0) },
            deadline: 0,
            prefix: Bytes::from_static(prefix),
            bytes_max,
            end: Bytes::new(),
            entries: Vec::new(),
            bytes: 0,
        }
    }

    fn entries(keys: &[&'static str]) -> Vec<(Bytes, Bytes)> {
        let value = Bytes::from(Siblings::new().encode());
        keys.iter().map(|key| (keys::data(key.as_bytes()), value.clone())).collect()
    }

    #[track_caller]
    fn check(prefix: &'static [u8], bytes_max: usize, expected: &[&str], progress: Progress) {
        let mut range = range(prefix, bytes_max);
        assert_eq!(range.take(entries(&["a1", "b1", "a2"])), Ok(progress));
        let keys: Vec<_> = range.entries.iter().map(|entry| entry.key.as_ref()).collect();
        assert_eq!(keys, expected.iter().map(|key| key.as_bytes()).collect::<Vec<_>>());
    }

    #[test]
    fn a_page_holds_its_prefix_up_to_its_limit_and_one_entry_at_least() {
        check(b"", 1_000, &["a1", "b1", "a2"], Progress::Open);
        check(b"a", 1_000, &["a1", "a2"], Progress::Open);
        check(b"c", 1_000, &[], Progress::Open);
        check(b"", 1, &["a1"], Progress::Full);
        check(b"a", 0, &["a1"], Progress::Full);
    }

    #[test]
    fn a_damaged_state_fails_the_page() {
        let damaged = vec![(keys::data(b"k"), Bytes::from_static(b"\xff\xff"))];
        assert!(range(b"", 1_000).take(damaged).is_err());
    }
}
