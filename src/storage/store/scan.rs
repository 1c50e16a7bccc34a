//! Scans: the live entries of a key range, in order, a slice at a time.
//!
//! A slice looks at the store once, for a moment, and holds nothing when it is done; so a long scan keeps no file and no
//! memory, and sees each key that is there all the time exactly once. Keys written or deleted meanwhile may or may not
//! show.

use std::sync::Arc;
use std::vec;

use bytes::Bytes;

use super::Store;
use crate::storage::merge::{Gap, Item, Merge, Run};
use crate::storage::table::reader::{Blocks, successor};
use crate::storage::table::{Entry, ReadError};

/// Entries and bytes in one slice of a [`Scan`].
const SLICE_ENTRIES: usize = 1024;
const SLICE_BYTES: usize = 1 << 20;
/// Deletes that one slice passes over before it ends, so that a slice is bounded even where nothing is live.
const DELETES_PASSED_MAX: usize = 16 << 10;

/// A part of a range.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ScanSlice {
    /// Keys and values, ascending.
    pub entries: Vec<(Bytes, Bytes)>,
    /// Where the next slice starts; `None` at the end of the range.
    pub next: Option<Bytes>,
}

/// The live entries of a range; ends when they do. After an error it goes on behind the keys that cannot be read.
#[derive(Debug)]
pub struct Scan<'a> {
    store: &'a Store,
    entries: vec::IntoIter<(Bytes, Bytes)>,
    next: Option<Bytes>,
    end: Option<Bytes>,
}

impl Store {
    /// The live entries from `start` to before `end` (`None`: to the last key).
    pub fn scan(&self, start: &[u8], end: Option<&[u8]>) -> Scan<'_> {
        let end = end.map(Bytes::copy_from_slice);
        Scan {
            store: self,
            entries: Vec::new().into_iter(),
            next: Some(Bytes::copy_from_slice(start)),
            end,
        }
    }

    /// Some of the live entries from `start` to before `end`: at most `entries_max` of them, and no more once they have
    /// `bytes_max` bytes. A slice may be empty and yet not the last.
    /// # Errors
    /// [`ReadError`] when the very first keys cannot be read; [`ReadError::keys`] says how far.
    pub fn scan_slice(
        &self,
        start: &[u8],
        end: Option<&[u8]>,
        entries_max: usize,
        bytes_max: usize,
    ) -> Result<ScanSlice, ReadError> {
        let (mut merge, horizon) = self.merge_from(start, end, entries_max.saturating_add(1));
        let mut slice = ScanSlice::default();
        let (mut bytes, mut passed) = (0, 0);
        loop {
            let entry = match self.next_entry(&mut merge) {
                Ok(entry) => entry,
                Err(error) if *error.keys().first <= *start => {
                    return Err(*error);
                }
                // The next slice begins with what cannot be read.
                Err(error) => {
                    let first = error.keys().first.clone();
                    let first = horizon.map_or(first.clone(), |horizon| horizon.min(first));
                    slice.next = Some(first).filter(|first| end.is_none_or(|end| **first < *end));
                    return Ok(slice);
                }
            };
            // From the horizon on a memtable holds more than was taken of it.
            let whole = |key: &Bytes| horizon.as_ref().is_none_or(|horizon| key < horizon);
            let Some(Entry { key, value }) = entry.filter(|entry| whole(&entry.key)) else {
                slice.next = horizon.filter(|horizon| end.is_none_or(|end| **horizon < *end));
                return Ok(slice);
            };
            if end.is_some_and(|end| end <= &*key) {
                return Ok(slice);
            }
            let full = entries_max <= slice.entries.len()
                || bytes_max <= bytes
                || DELETES_PASSED_MAX <= passed;
            if full {
                slice.next = Some(key);
                return Ok(slice);
            }
            match value {
                Some(value) => {
                    bytes += key.len() + value.len();
                    slice.entries.push((key, value));
                }
                None => passed += 1,
            }
        }
    }

    /// The merge's next entry; an error where the next keys cannot be read.
    fn next_entry(&self, merge: &mut Merge) -> Result<Option<Entry>, Box<ReadError>> {
        loop {
            match merge.next(Blocks::Pass(&self.cache))? {
                None => return Ok(None),
                Some(Item::Entry(entry)) => return Ok(Some(entry)),
                Some(Item::Gap(gap)) => match *gap {
                    Gap { damage: Some(damage), .. } => {
                        self.bad_blocks.note(&damage);
                        return Err(Box::new(damage));
                    }
                    Gap { hole, damage: None } if hole.is_mended => {}
                    Gap { hole, damage: None } => {
                        return Err(Box::new(hole.error(&self.directory)));
                    }
                },
            }
        }
    }

    /// The merge of all sources from `start` on, and up to where it is whole: the memtables give `entries_max` each, and
    /// nothing from `end` on.
    fn merge_from(
        &self,
        start: &[u8],
        end: Option<&[u8]>,
        entries_max: usize,
    ) -> (Merge, Option<Bytes>) {
        let entries_max = entries_max.min(DELETES_PASSED_MAX);
        let (mut runs, mut horizon) = (Vec::new(), None::<Bytes>);
        let levels = {
            let memory = self.memory();
            let frozen = memory.frozen.iter().rev().map(|frozen| &frozen.table);
            for table in std::iter::once(&memory.active).chain(frozen) {
                let is_inside = |entry: &Entry| end.is_none_or(|end| &*entry.key < end);
                let entries: Vec<Entry> =
                    table.range(start).take_while(is_inside).take(entries_max).collect();
                if entries.len() == entries_max {
                    let whole_before = entries.last().map(|entry| successor(&entry.key));
                    horizon = [horizon, whole_before].into_iter().flatten().min();
                }
                runs.push(Run::memory(entries));
            }
            Arc::clone(&memory.levels)
        };
        runs.extend(levels.runs(start));
        (Merge::new(runs), horizon)
    }
}

impl Iterator for Scan<'_> {
    type Item = Result<(Bytes, Bytes), ReadError>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            if let Some(entry) = self.entries.next() {
                return Some(Ok(entry));
            }
            let start = self.next.take()?;
            match self.store.scan_slice(&start, self.end.as_deref(), SLICE_ENTRIES, SLICE_BYTES) {
                Ok(slice) => {
                    self.entries = slice.entries.into_iter();
                    self.next = slice.next;
                }
                Err(error) => {
                    self.next = Some(successor(&error.keys().last)).filter(|next| **next > *start);
                    return Some(Err(error));
                }
            }
        }
    }
}
