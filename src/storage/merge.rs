//! Merges sorted runs, newest first, into one: each key once, with its newest entry.

use std::cmp::Ordering;
use std::ops::Range;
use std::sync::Arc;
use std::vec;

use bytes::Bytes;

use super::levels::Live;
use super::table::reader::{Blocks, Cursor};
use super::table::{Entry, ReadError};

/// One sorted source.
#[derive(Debug)]
pub(crate) struct Run {
    source: Source,
    head: Option<Head>,
}

#[derive(Debug)]
enum Source {
    Memory(vec::IntoIter<Entry>),
    /// Disjoint tables in key order, those that are still to come, and the cursor in the one before them.
    Tables {
        tables: Arc<[Live]>,
        rest: Range<usize>,
        cursor: Option<Cursor>,
        start: Bytes,
    },
}

/// What a run has next. Keys that cannot be read stand where the first of them would.
#[derive(Debug)]
enum Head {
    Entry(Entry),
    Unreadable(ReadError),
}

/// Runs being merged.
#[derive(Debug)]
pub(crate) struct Merge {
    /// Newest first.
    runs: Vec<Run>,
}

impl Run {
    /// Entries in memory, ascending.
    pub(crate) fn memory(entries: Vec<Entry>) -> Self {
        Self { source: Source::Memory(entries.into_iter()), head: None }
    }

    /// The entries from `start` on of those of `tables`, which are disjoint and in key order, that `range` names.
    pub(crate) const fn tables(tables: Arc<[Live]>, range: Range<usize>, start: Bytes) -> Self {
        Self { source: Source::Tables { tables, rest: range, cursor: None, start }, head: None }
    }

    fn fill(&mut self, blocks: Blocks<'_>) {
        if self.head.is_none() {
            self.head = match self.source.next(blocks) {
                Ok(entry) => entry.map(Head::Entry),
                Err(error) => Some(Head::Unreadable(error)),
            };
        }
    }
}

impl Head {
    fn key(&self) -> &[u8] {
        match self {
            Self::Entry(entry) => &entry.key,
            Self::Unreadable(error) => &error.keys().first,
        }
    }
}

impl Source {
    fn next(&mut self, blocks: Blocks<'_>) -> Result<Option<Entry>, ReadError> {
        let (tables, rest, cursor, start) = match self {
            Self::Memory(entries) => return Ok(entries.next()),
            Self::Tables { tables, rest, cursor, start } => (tables, rest, cursor, start),
        };
        loop {
            if let Some(entry) =
                cursor.as_mut().map(|cursor| cursor.next(blocks)).transpose()?.flatten()
            {
                return Ok(Some(entry));
            }
            let Some(live) = rest.next().and_then(|index| tables.get(index)) else {
                return Ok(None);
            };
            *cursor = Some(Cursor::new(Arc::clone(live.opened()?), start, blocks)?);
        }
    }
}

impl Merge {
    /// Merges these runs, newest first.
    pub(crate) const fn new(runs: Vec<Run>) -> Self {
        Self { runs }
    }

    /// The next key's newest entry, deletes included. After an error the merge is over: what lies between the error's
    /// first and last key is not to be read from here.
    pub(crate) fn next(&mut self, blocks: Blocks<'_>) -> Result<Option<Entry>, ReadError> {
        let mut least = None;
        for index in 0..self.runs.len() {
            let (newer, rest) = self.runs.split_at_mut(index);
            let Some(run) = rest.first_mut() else { continue };
            run.fill(blocks);
            let Some(head) = &run.head else { continue };
            let mut hidden = false;
            let before = least.and_then(|index: usize| newer[index].head.as_ref());
            let is_next = before.is_none_or(|before| match head.key().cmp(before.key()) {
                Ordering::Less => true,
                Ordering::Greater => false,
                // What cannot be read goes first; what is newer hides what is older.
                Ordering::Equal => match (before, head) {
                    (Head::Entry(_), Head::Unreadable(_)) => true,
                    (Head::Unreadable(_), _) => false,
                    (Head::Entry(_), Head::Entry(_)) => {
                        hidden = true;
                        false
                    }
                },
            });
            if hidden {
                run.head = None;
            }
            if is_next {
                least = Some(index);
            }
        }
        match least.and_then(|index| self.runs[index].head.take()) {
            Some(Head::Entry(entry)) => Ok(Some(entry)),
            Some(Head::Unreadable(error)) => Err(error),
            None => Ok(None),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(entries: &[(&'static str, Option<&'static str>)]) -> Run {
        let bytes = |text: &'static str| Bytes::from_static(text.as_bytes());
        let entry = |(key, value): &(&'static str, Option<&'static str>)| Entry {
            key: bytes(key),
            value: value.map(bytes),
        };
        Run::memory(entries.iter().map(entry).collect())
    }

    #[test]
    fn each_key_comes_once_with_its_newest_entry() {
        let newest = run(&[("b", None), ("c", Some("3"))]);
        let oldest = run(&[("a", Some("1")), ("b", Some("2")), ("c", Some("1"))]);
        let mut merge = Merge::new(vec![newest, oldest]);
        let mut merged = Vec::new();
        while let Some(entry) = merge.next(Blocks::Disk).unwrap() {
            merged.push(entry);
        }
        let Source::Memory(expected) =
            run(&[("a", Some("1")), ("b", None), ("c", Some("3"))]).source
        else {
            unreachable!("a run of memory")
        };
        assert_eq!(merged, expected.collect::<Vec<_>>());
    }
}
