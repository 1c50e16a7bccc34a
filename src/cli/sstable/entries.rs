//! Entries in key order, past damage: of one table, or of several merged, newest first.

use std::collections::BTreeMap;
use std::iter::Peekable;
use std::sync::Arc;

use bytes::Bytes;

use crate::storage::ReadError;
use crate::storage::table::Entry;
use crate::storage::table::reader::{Blocks, Cursor, Table, successor};

/// One table's entries. After an error it goes on behind the block that cannot be read.
#[derive(Debug)]
pub(super) struct Entries {
    table: Arc<Table>,
    cursor: Option<Cursor>,
    /// Where to go on.
    start: Option<Bytes>,
}

impl Entries {
    /// All entries of a table.
    pub(super) const fn of(table: Arc<Table>) -> Self {
        Self { table, cursor: None, start: Some(Bytes::new()) }
    }

    fn step(&mut self) -> Result<Option<Entry>, ReadError> {
        if self.cursor.is_none() {
            let Some(start) = self.start.take() else { return Ok(None) };
            match Cursor::new(Arc::clone(&self.table), &start, Blocks::Disk) {
                Ok(cursor) => self.cursor = Some(cursor),
                Err(error) => return Err(self.skip(error)),
            }
        }
        match self.cursor.as_mut().map(|cursor| cursor.next(Blocks::Disk)) {
            Some(Ok(Some(entry))) => Ok(Some(entry)),
            Some(Err(error)) => Err(self.skip(error)),
            Some(Ok(None)) | None => {
                self.cursor = None;
                Ok(None)
            }
        }
    }

    fn skip(&mut self, error: ReadError) -> ReadError {
        self.cursor = None;
        self.start = Some(successor(&error.keys().last));
        error
    }
}

impl Iterator for Entries {
    type Item = Result<Entry, ReadError>;

    fn next(&mut self) -> Option<Self::Item> {
        self.step().transpose()
    }
}

type Source = Box<dyn Iterator<Item = Result<Entry, ReadError>>>;

/// Several sources, newest first: each key once, with its newest entry that can be read.
pub(super) struct Merged {
    sources: Vec<Peekable<Source>>,
}

impl Merged {
    /// `memory` is newer than all tables; the tables come newest first.
    pub(super) fn new(
        memory: BTreeMap<Bytes, Option<Bytes>>,
        tables: impl IntoIterator<Item = Arc<Table>>,
    ) -> Self {
        let memory = memory.into_iter().map(|(key, value)| Ok(Entry { key, value }));
        let tables = tables.into_iter().map(|table| Box::new(Entries::of(table)) as Source);
        let sources = std::iter::once(Box::new(memory) as Source).chain(tables);
        Self { sources: sources.map(Iterator::peekable).collect() }
    }
}

impl Iterator for Merged {
    type Item = Result<Entry, ReadError>;

    fn next(&mut self) -> Option<Self::Item> {
        let mut least: Option<Bytes> = None;
        for source in &mut self.sources {
            match source.peek() {
                // What cannot be read is told at once.
                Some(Err(_)) => return source.next(),
                Some(Ok(entry)) if least.as_ref().is_none_or(|least| entry.key < *least) => {
                    least = Some(entry.key.clone());
                }
                Some(Ok(_)) | None => {}
            }
        }
        let least = least?;
        let mut newest = None;
        for source in &mut self.sources {
            let same = |next: &Result<Entry, ReadError>| {
                next.as_ref().is_ok_and(|entry| entry.key == least)
            };
            newest = newest.or(source.next_if(same));
            // An older entry of the same key is passed over.
            source.next_if(same);
        }
        newest
    }
}
