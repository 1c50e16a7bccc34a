//! Several sorted sources as one: each key once, with its newest entry.

use std::collections::VecDeque;

use super::{BadBlock, TableEntries, TableFile};
use crate::storage::log::LogPosition;
use crate::storage::table::{Entry, KeyRange};

/// Sources merged. What cannot be read is told and passed over; of its keys an older entry may then be given. Not so
/// where a store knows of a hole: that is told, and hides what is older.
pub struct MergedEntries<'a> {
    /// Newest first.
    sources: Vec<Source<'a>>,
    /// The sources' holes, by their first key, the next one last, with the number of the source.
    holes: Vec<(KeyRange, usize)>,
    /// Those that the entries have reached and not passed.
    covers: Vec<(KeyRange, usize)>,
    /// Lost keys that are still to be told.
    lost: VecDeque<BadBlock>,
    shadowed: u64,
}

/// One sorted source.
pub(super) struct Source<'a> {
    kind: Kind<'a>,
    head: Option<Entry>,
    ended: bool,
    holes: Vec<KeyRange>,
}

enum Kind<'a> {
    Memory(Box<dyn Iterator<Item = Entry> + 'a>),
    /// Disjoint tables in key order, and the entries of the one before them.
    Tables {
        rest: VecDeque<TableFile>,
        entries: Option<Box<TableEntries>>,
    },
    Bad(Option<Box<BadBlock>>),
}

impl<'a> Source<'a> {
    pub(super) fn memory(entries: impl Iterator<Item = Entry> + 'a) -> Self {
        Self::new(Kind::Memory(Box::new(entries)))
    }

    pub(super) fn tables(tables: impl IntoIterator<Item = TableFile>) -> Self {
        Self::new(Kind::Tables { rest: tables.into_iter().collect(), entries: None })
    }

    /// A table that cannot be read at all.
    pub(super) fn bad(bad: BadBlock) -> Self {
        Self::new(Kind::Bad(Some(Box::new(bad))))
    }

    const fn new(kind: Kind<'a>) -> Self {
        Self { kind, head: None, ended: false, holes: Vec::new() }
    }

    /// With key ranges of which what is older than the source is not to be given.
    pub(super) fn with_holes(self, holes: impl IntoIterator<Item = KeyRange>) -> Self {
        Self { holes: holes.into_iter().collect(), ..self }
    }

    /// Makes sure that the head is the next entry, unless there is none.
    fn fill(&mut self) -> Result<(), BadBlock> {
        if self.head.is_some() || self.ended {
            return Ok(());
        }
        self.head = self.kind.next()?;
        self.ended = self.head.is_none();
        Ok(())
    }
}

impl Kind<'_> {
    fn next(&mut self) -> Result<Option<Entry>, BadBlock> {
        match self {
            Self::Memory(entries) => Ok(entries.next()),
            Self::Tables { rest, entries } => loop {
                if let Some(entry) = entries.as_mut().and_then(|entries| entries.next_entry()) {
                    return entry.map(Some);
                }
                let Some(table) = rest.pop_front() else { return Ok(None) };
                *entries = Some(Box::new(table.entries(b"")));
            },
            Self::Bad(bad) => bad.take().map_or(Ok(None), |bad| Err(*bad)),
        }
    }
}

impl<'a> MergedEntries<'a> {
    /// Merges these, newest first; `lost` is told before the first entry.
    pub(super) fn new(mut sources: Vec<Source<'a>>, lost: VecDeque<BadBlock>) -> Self {
        let holes = sources.iter_mut().enumerate().flat_map(|(index, source)| {
            std::mem::take(&mut source.holes).into_iter().map(move |keys| (keys, index))
        });
        let mut holes: Vec<_> = holes.collect();
        holes.sort_by(|(left, _), (right, _)| right.first.cmp(&left.first));
        Self { sources, holes, covers: Vec::new(), lost, shadowed: 0 }
    }

    /// Entries passed over since a newer one of their key exists.
    pub const fn shadowed(&self) -> u64 {
        self.shadowed
    }

    /// Whether a hole of a newer source hides this key of source `index`.
    fn is_hidden(&mut self, key: &[u8], index: usize) -> bool {
        while let Some(reached) = self.holes.pop_if(|(keys, _)| *keys.first <= *key) {
            self.covers.push(reached);
        }
        self.covers.retain(|(keys, _)| *key <= *keys.last);
        self.covers.iter().any(|(_, newer)| *newer < index)
    }
}

impl Iterator for MergedEntries<'_> {
    type Item = Result<Entry, BadBlock>;

    fn next(&mut self) -> Option<Self::Item> {
        if let Some(lost) = self.lost.pop_front() {
            return Some(Err(lost));
        }
        loop {
            for source in &mut self.sources {
                if let Err(bad) = source.fill() {
                    return Some(Err(bad));
                }
            }
            let heads = self.sources.iter().enumerate();
            let heads =
                heads.filter_map(|(index, source)| Some((&source.head.as_ref()?.key, index)));
            let (_, newest) = heads.min()?;
            let entry = self.sources[newest].head.take()?;
            for older in &mut self.sources[newest + 1..] {
                if older.head.take_if(|head| head.key == entry.key).is_some() {
                    self.shadowed += 1;
                }
            }
            if !self.is_hidden(&entry.key, newest) {
                return Some(Ok(entry));
            }
        }
    }
}

/// The entries of tables that stand alone, as one. Of a key the newest stays: tables of a lower level are newer, in
/// level 0 those written later (see [`crate::storage::table::Properties`]). Deletes stay: what they hide may be
/// elsewhere.
pub fn merged_tables(mut tables: Vec<TableFile>) -> MergedEntries<'static> {
    tables.sort_by_key(|table| {
        let properties = table.properties();
        let (newest, number) = (properties.newest, table.number());
        (properties.level, std::cmp::Reverse((newest, number)))
    });
    let sources = tables.into_iter().map(|table| Source::tables([table])).collect();
    MergedEntries::new(sources, VecDeque::new())
}

/// What a table that holds all of these says of its age.
pub fn merged_age(tables: &[TableFile]) -> (u64, LogPosition) {
    let properties = || tables.iter().map(TableFile::properties);
    let level = properties().map(|properties| properties.level).max().unwrap_or(0);
    let newest = properties().map(|properties| properties.newest).max();
    (level, newest.unwrap_or(LogPosition::ZERO))
}
