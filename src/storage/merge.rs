//! Merges sorted runs, newest first, into one: each key once, with its newest entry.

use std::collections::VecDeque;
use std::sync::Arc;
use std::vec;

use bytes::Bytes;

use super::table::reader::{Blocks, Cursor, Table};
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
    /// Disjoint tables in key order, and the cursor in the one before them.
    Tables {
        rest: VecDeque<Arc<Table>>,
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

    /// The entries of disjoint tables in key order, from `start` on.
    pub(crate) fn tables(tables: impl IntoIterator<Item = Arc<Table>>, start: &[u8]) -> Self {
        let start = Bytes::copy_from_slice(start);
        Self {
            source: Source::Tables { rest: tables.into_iter().collect(), cursor: None, start },
            head: None,
        }
    }

    /// Keys that cannot be read.
    pub(crate) fn unreadable(error: ReadError) -> Self {
        Self { source: Source::Memory(Vec::new().into_iter()), head: Some(Head::Unreadable(error)) }
    }

    fn fill(&mut self, blocks: Blocks<'_>) {
        if self.head.is_none() {
            self.head = match self.source.next(blocks) {
                Ok(entry) => entry.map(Head::Entry),
                Err(error) => Some(Head::Unreadable(error)),
            };
        }
    }

    fn key(&self) -> Option<&[u8]> {
        self.head.as_ref().map(|head| match head {
            Head::Entry(entry) => &*entry.key,
            Head::Unreadable(error) => &*error.keys().first,
        })
    }

    const fn is_unreadable(&self) -> bool {
        matches!(self.head, Some(Head::Unreadable(_)))
    }
}

impl Source {
    fn next(&mut self, blocks: Blocks<'_>) -> Result<Option<Entry>, ReadError> {
        let (rest, cursor, start) = match self {
            Self::Memory(entries) => return Ok(entries.next()),
            Self::Tables { rest, cursor, start } => (rest, cursor, start),
        };
        loop {
            if let Some(entry) =
                cursor.as_mut().map(|cursor| cursor.next(blocks)).transpose()?.flatten()
            {
                return Ok(Some(entry));
            }
            let Some(table) = rest.pop_front() else { return Ok(None) };
            *cursor = Some(Cursor::new(table, start, blocks)?);
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
        self.runs.iter_mut().for_each(|run| run.fill(blocks));
        let keys = self.runs.iter().enumerate().filter_map(|(index, run)| {
            // At the same key what cannot be read goes first, then what is newer.
            run.key().map(|key| (key, !run.is_unreadable(), index))
        });
        let Some((_, _, newest)) = keys.min() else { return Ok(None) };
        match self.runs[newest].head.take() {
            Some(Head::Entry(entry)) => {
                for run in &mut self.runs {
                    run.head.take_if(
                        |head| matches!(head, Head::Entry(older) if older.key == entry.key),
                    );
                }
                Ok(Some(entry))
            }
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
