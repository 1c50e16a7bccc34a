//! Levels: the tables of a store and the order in which they are asked.
//!
//! Level 0 holds tables as flushed; they overlap, the one with the highest number is the newest. In each deeper level
//! tables are disjoint. Of one key, what a level holds is newer than what any deeper one does.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;

use super::hole::{Hole, hole_at};
use super::manifest::TableMeta;
use super::merge::Run;
use super::table::reader::Table;
use super::table::{BlockError, KeyRange, ReadError};
use super::vfs::Vfs;

/// A table of the store; where it cannot be opened its keys cannot be read, and the others can.
#[derive(Debug, Clone)]
pub(crate) struct Live {
    pub(crate) meta: TableMeta,
    pub(crate) table: Result<Arc<Table>, Damage>,
}

/// Why a table is not open.
#[derive(Debug, Clone)]
pub(crate) struct Damage {
    pub(crate) file: std::path::PathBuf,
    pub(crate) offset: u64,
    pub(crate) error: BlockError,
}

/// All tables, by level.
#[derive(Debug, Clone, Default)]
pub(crate) struct Levels {
    /// Level 0 newest first, the deeper ones by key.
    levels: BTreeMap<u64, Arc<[Live]>>,
}

impl Live {
    /// Opens the table and holds it against what the manifest says.
    pub(crate) fn open(vfs: &dyn Vfs, path: &Path, meta: TableMeta) -> Result<Self, ReadError> {
        let damage = |offset, error| Damage { file: path.to_owned(), offset, error };
        let table = match Table::open(vfs, path) {
            Ok(table)
                if table.number != meta.number || table.footer_checksum != meta.footer_checksum =>
            {
                let reason = format!(
                    "table {} stands here, not the one that the manifest means",
                    table.number
                );
                Err(damage(0, BlockError::Malformed(reason)))
            }
            Ok(table) => Ok(Arc::new(table)),
            Err(ReadError::Corrupt { offset, source, .. }) => Err(damage(offset, source)),
            Err(error @ ReadError::Io { .. }) => return Err(error),
        };
        Ok(Self { meta, table })
    }

    /// Its live keys that begin with this byte, about: by the share of its blocks that end in one, and half of the block
    /// behind them, where others begin.
    pub(crate) fn keys_estimate(&self, keyspace: u8) -> u64 {
        let Ok(table) = &self.table else { return 0 };
        let (first, last) = (self.meta.first.first().copied(), self.meta.last.first().copied());
        if Some(keyspace) < first || last < Some(keyspace) {
            return 0;
        }
        let live = self.meta.entries.saturating_sub(2 * self.meta.deletes);
        if first == last {
            return live;
        }
        let blocks = table.index.len();
        let end = keyspace.checked_add(1).map_or(blocks, |behind| table.index.block_of(&[behind]));
        let whole = end.saturating_sub(table.index.block_of(&[keyspace]));
        let half = usize::from(last != Some(keyspace));
        (live * (2 * whole + half) as u64).checked_div(2 * blocks as u64).unwrap_or_default()
    }

    /// The hole that a key lies in which the table has no entry for.
    pub(crate) fn hole_at(&self, key: &[u8]) -> Option<&Hole> {
        hole_at(&self.meta.holes, key)
    }

    /// The open table.
    pub(crate) fn opened(&self) -> Result<&Arc<Table>, ReadError> {
        self.table.as_ref().map_err(|damage| damage.for_keys(self.meta.keys()))
    }
}

impl Damage {
    fn for_keys(&self, keys: KeyRange) -> ReadError {
        ReadError::Corrupt {
            file: self.file.clone(),
            offset: self.offset,
            keys,
            source: self.error.clone(),
        }
    }
}

impl Levels {
    pub(crate) fn new(tables: impl IntoIterator<Item = Live>) -> Self {
        let mut levels = Self::default();
        levels.change(&[], tables);
        levels
    }

    /// Without the tables of these numbers, and with others.
    pub(crate) fn changed(&self, removed: &[u64], added: impl IntoIterator<Item = Live>) -> Self {
        let mut levels = self.clone();
        levels.change(removed, added);
        levels
    }

    pub(crate) fn tables(&self) -> impl Iterator<Item = &Live> {
        self.levels.values().flat_map(|tables| tables.iter())
    }

    /// Bytes of the tables' indexes and filters in memory.
    pub(crate) fn pinned_bytes(&self) -> u64 {
        let open = self.tables().filter_map(|live| live.table.as_ref().ok());
        open.map(|table| table.pinned_bytes() as u64).sum()
    }

    /// The tables of level 0, newest first.
    pub(crate) fn level0(&self) -> &[Live] {
        self.levels.get(&0).map_or(&[], |tables| tables)
    }

    pub(crate) fn find(&self, number: u64) -> Option<&Live> {
        self.tables().find(|live| live.meta.number == number)
    }

    /// The tables that may hold `key`, the newest first.
    pub(crate) fn candidates<'a>(&'a self, key: &'a [u8]) -> impl Iterator<Item = &'a Live> {
        self.levels.iter().flat_map(move |(level, tables)| {
            let tables: &[Live] = if *level == 0 {
                tables
            } else {
                let index = tables.partition_point(|live| *live.meta.last < *key);
                tables.get(index..).map_or(&[], |rest| rest.get(..1).unwrap_or_default())
            };
            tables.iter().filter(move |live| live.meta.may_hold(key))
        })
    }

    /// The tables' runs from `start` on, newest first.
    pub(crate) fn runs(&self, start: &[u8]) -> Vec<Run> {
        let mut runs = Vec::new();
        let start = Bytes::copy_from_slice(start);
        for (level, tables) in &self.levels {
            let run = |range| Run::tables(Arc::clone(tables), range, start.clone());
            if *level == 0 {
                let due = (0..tables.len()).filter(|index| start <= tables[*index].meta.last);
                runs.extend(due.map(|index| run(index..index + 1)));
            } else {
                let first = tables.partition_point(|live| live.meta.last < start);
                runs.push(run(first..tables.len()));
            }
        }
        runs
    }

    fn change(&mut self, removed: &[u64], added: impl IntoIterator<Item = Live>) {
        let mut changed: BTreeMap<u64, Vec<Live>> = BTreeMap::new();
        for (level, tables) in &self.levels {
            if tables.iter().any(|live| removed.contains(&live.meta.number)) {
                let left = tables.iter().filter(|live| !removed.contains(&live.meta.number));
                changed.insert(*level, left.cloned().collect());
            }
        }
        for live in added {
            let level = live.meta.level;
            let present =
                || self.levels.get(&level).map_or_else(Vec::new, |tables| tables.to_vec());
            changed.entry(level).or_insert_with(present).push(live);
        }
        for (level, mut tables) in changed {
            match level {
                0 => tables.sort_by_key(|live| std::cmp::Reverse(live.meta.number)),
                _ => tables.sort_by(|left, right| left.meta.first.cmp(&right.meta.first)),
            }
            self.levels.insert(level, tables.into());
        }
        self.levels.retain(|_, tables| !tables.is_empty());
    }
}
