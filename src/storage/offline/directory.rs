//! A whole data directory as it is now: manifest, tables, and the log on top of them.
//!
//! Beside a running node files come and go: a view that finds one gone looks at the manifest again. What the node has not
//! written to its log yet is not seen.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::{Path, PathBuf};

use bytes::Bytes;

use super::{BadRecord, Change, LogFile, LogItem, OfflineError, TableMeta};
use crate::storage::directory::{CURRENT, Directory, log_number, manifest_name};
use crate::storage::levels::{Levels, Live};
use crate::storage::log::LogPosition;
use crate::storage::manifest::State;
use crate::storage::manifest::reader::{ReadManifestError, read_state};
use crate::storage::merge::{Merge, Run};
use crate::storage::table::bloom::KeyHash;
use crate::storage::table::reader::{Blocks, Lookup, successor};
use crate::storage::table::{Entry, ReadError};
use crate::storage::vfs::Vfs;

/// How often a view is taken anew when files vanish under it.
const ATTEMPTS: usize = 10;

/// A store's content at one moment. The log's part is in memory, as it would be in the node.
#[derive(Debug)]
pub struct DirectoryView {
    directory: Directory,
    state: State,
    manifest: u64,
    levels: Levels,
    /// What the log holds above the tables.
    recent: BTreeMap<Bytes, Recent>,
    segments: Vec<PathBuf>,
    /// Bad places in the log; the last one may be a record that is being written.
    pub bad_records: Vec<(PathBuf, BadRecord)>,
}

#[derive(Debug)]
struct Recent {
    value: Option<Bytes>,
    segment: PathBuf,
    offset: u64,
}

/// A live entry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LiveEntry {
    /// The key.
    pub key: Bytes,
    /// Its value.
    pub value: Bytes,
}

/// Where an entry stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Source {
    /// In the log.
    Log {
        /// The segment.
        file: PathBuf,
        /// The record's byte offset.
        offset: u64,
    },
    /// In a table.
    Table {
        /// The table.
        file: PathBuf,
        /// The number of the data block.
        block: usize,
        /// Its byte offset.
        offset: u64,
    },
}

/// A key's newest entry and where it stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ViewEntry {
    /// The value; `None` for a delete.
    pub value: Option<Bytes>,
    /// Where.
    pub source: Source,
}

impl DirectoryView {
    /// Looks at the store in `dir`.
    /// # Errors
    /// [`OfflineError`]. Damaged tables and log records are no error here: they show when their keys are read.
    pub fn open(vfs: &dyn Vfs, dir: &Path) -> Result<Self, OfflineError> {
        let directory = Directory::new(dir);
        for _ in 1..ATTEMPTS {
            match Self::look(vfs, &directory) {
                Ok(Some(view)) => return Ok(view),
                // A flush or merge came in between.
                Ok(None) => {}
                Err(OfflineError::Io { source, .. })
                    if source.kind() == io::ErrorKind::NotFound => {}
                Err(error) => return Err(error),
            }
        }
        let reason = "it changes faster than it can be read".to_owned();
        Self::look(vfs, &directory)?.ok_or(OfflineError::Malformed { file: directory.root, reason })
    }

    /// The tables, level by level, each level's in the order in which they are asked.
    pub fn tables(&self) -> impl Iterator<Item = &TableMeta> {
        self.levels.tables().map(|live| &live.meta)
    }

    /// The path of the table with this number.
    pub fn table_path(&self, number: u64) -> PathBuf {
        self.directory.table(number)
    }

    /// The manifest that counts.
    pub fn manifest_path(&self) -> PathBuf {
        self.directory.manifest.join(manifest_name(self.manifest))
    }

    /// The log's segments that a start would replay, in order.
    pub fn log_paths(&self) -> &[PathBuf] {
        &self.segments
    }

    /// The key's newest entry; `None` when it was never written.
    /// # Errors
    /// [`ReadError`] when the block that would hold it is damaged.
    pub fn get(&self, key: &[u8]) -> Result<Option<ViewEntry>, ReadError> {
        if let Some(Recent { value, segment, offset }) = self.recent.get(key) {
            let source = Source::Log { file: segment.clone(), offset: *offset };
            return Ok(Some(ViewEntry { value: value.clone(), source }));
        }
        for live in self.levels.candidates(key) {
            let table = live.opened()?;
            if let Lookup::Entry(value) = table.get(key, KeyHash::new(key), Blocks::Disk)? {
                let block = table.index.block_of(key);
                let offset = table.index.get(block).map_or(0, |entry| entry.handle.offset);
                let source = Source::Table { file: table.path.clone(), block, offset };
                return Ok(Some(ViewEntry { value, source }));
            }
        }
        Ok(None)
    }

    /// The live entries from `start` to before `end`, in order. After an error it goes on behind the keys that cannot be
    /// read.
    pub fn scan(
        &self,
        start: &[u8],
        end: Option<&[u8]>,
    ) -> impl Iterator<Item = Result<LiveEntry, ReadError>> {
        let end = end.map(Bytes::copy_from_slice);
        let mut merge = Some(self.merge_from(start));
        std::iter::from_fn(move || {
            loop {
                match merge.as_mut()?.next(Blocks::Disk) {
                    Ok(Some(Entry { key, .. })) if end.as_ref().is_some_and(|end| *end <= key) => {
                        return None;
                    }
                    Ok(Some(Entry { key, value: Some(value) })) => {
                        return Some(Ok(LiveEntry { key, value }));
                    }
                    Ok(Some(Entry { value: None, .. })) => {}
                    Ok(None) => return None,
                    Err(error) => {
                        merge = Some(self.merge_from(&successor(&error.keys().last)));
                        return Some(Err(error));
                    }
                }
            }
        })
    }

    fn merge_from(&self, start: &[u8]) -> Merge {
        let range = (std::ops::Bound::Included(start), std::ops::Bound::Unbounded);
        let recent = self.recent.range::<[u8], _>(range);
        let entry = |(key, recent): (&Bytes, &Recent)| Entry {
            key: key.clone(),
            value: recent.value.clone(),
        };
        let mut runs = vec![Run::memory(recent.map(entry).collect())];
        runs.extend(self.levels.runs(start));
        Merge::new(runs)
    }

    /// `None` when the log's floor moved meanwhile: what it moved over may be in neither tables nor log here.
    fn look(vfs: &dyn Vfs, directory: &Directory) -> Result<Option<Self>, OfflineError> {
        let (state, manifest) = state_of(vfs, directory)?;
        let open =
            |meta: &TableMeta| match Live::open(vfs, &directory.table(meta.number), meta.clone()) {
                Ok(live) => Ok(live),
                Err(ReadError::Io { file, source, .. }) => Err(OfflineError::Io { file, source }),
                Err(ReadError::Corrupt { file, source, .. }) => {
                    Err(OfflineError::Malformed { file, reason: source.to_string() })
                }
            };
        let levels = Levels::new(state.tables.values().map(open).collect::<Result<Vec<_>, _>>()?);
        let mut view = Self {
            directory: directory.clone(),
            state,
            manifest,
            levels,
            recent: BTreeMap::new(),
            segments: Vec::new(),
            bad_records: Vec::new(),
        };
        view.read_log(vfs)?;
        let (now, _) = state_of(vfs, directory)?;
        Ok((now.floor == view.state.floor).then_some(view))
    }

    fn read_log(&mut self, vfs: &dyn Vfs) -> Result<(), OfflineError> {
        let io = |source| OfflineError::Io { file: self.directory.log.clone(), source };
        let names = vfs.list(&self.directory.log).map_err(io)?;
        let floor = self.state.floor.segment;
        let numbers: BTreeSet<u64> = names.iter().filter_map(|name| log_number(name)).collect();
        for number in numbers.range(floor..) {
            let path = self.directory.segment(*number);
            for item in LogFile::open(vfs, &path)? {
                match item? {
                    LogItem::Record(record) => self.take(&path, record.offset, record.changes),
                    LogItem::Bad(bad) => self.bad_records.push((path.clone(), bad)),
                }
            }
            self.segments.push(path);
        }
        Ok(())
    }

    fn take(&mut self, segment: &Path, offset: u64, changes: Vec<Change>) {
        for change in changes {
            let (key, value) = match change {
                Change::Put(key, value) => (key, Some(value)),
                Change::Delete(key) => (key, None),
                Change::XorLeaf(..) => continue,
            };
            self.recent.insert(key, Recent { value, segment: segment.to_owned(), offset });
        }
    }

    /// Where the log's replay would begin.
    pub fn log_floor(&self) -> LogPosition {
        self.state.floor.first_position
    }
}

fn state_of(vfs: &dyn Vfs, directory: &Directory) -> Result<(State, u64), OfflineError> {
    match read_state(vfs, &directory.manifest) {
        Ok(Some(found)) => Ok(found),
        Ok(None) => {
            let reason = format!("no store: manifest/{CURRENT} is missing");
            Err(OfflineError::Malformed { file: directory.root.clone(), reason })
        }
        Err(ReadManifestError::Io { file, source }) => Err(OfflineError::Io { file, source }),
        Err(ReadManifestError::Damaged { file, offset, reason }) => Err(OfflineError::Malformed {
            file,
            reason: format!("damaged at byte {offset}: {reason}"),
        }),
    }
}
