//! A whole data directory as it is now: manifest, tables, and the log on top of them.
//!
//! Beside a running node files come and go. So a view opens all that the manifest names before it reads any of it, and
//! looks again when a file was removed in between, or when the log's floor moved. What it then holds is a state that the
//! store really had: the tables of one manifest, and above them the log from that manifest's floor up to some record.
//! What the node has not written to its log yet is not seen.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::io;
use std::path::{Path, PathBuf};

use bytes::Bytes;

use super::held::HeldFiles;
use super::merge::{MergedEntries, Source};
use super::{
    BadBlock, BadRecord, BlockKind, Change, Depth, LogFile, LogItem, LogSummary, OfflineError,
    TableFile, TableMeta,
};
use crate::storage::directory::{CURRENT, Directory, log_number, manifest_name};
use crate::storage::hole::{Hole, hole_at};
use crate::storage::log::LogPosition;
use crate::storage::manifest::State;
use crate::storage::manifest::reader::{ReadManifestError, read_state};
use crate::storage::table::{BlockError, BlockHandle, Entry};
use crate::storage::vfs::Vfs;

/// How often a view is taken anew when files vanish under it.
const LOOKS_MAX: usize = 20;
/// How often when something is damaged: a record or an edit may have been seen half written.
const LOOKS_AT_DAMAGE: usize = 3;

/// A store's content at one moment. The log's part is in memory, as it would be in the node.
#[derive(Debug)]
pub struct DirectoryView {
    directory: Directory,
    held: HeldFiles,
    state: State,
    manifest: u64,
    /// As the store asks them: level 0 with the newest first, the deeper ones by key.
    tables: BTreeMap<u64, Vec<ViewTable>>,
    /// What the log holds above the tables.
    recent: BTreeMap<Bytes, Recent>,
    segments: Vec<PathBuf>,
    damaged: Vec<(PathBuf, BadRecord)>,
    torn: Option<(PathBuf, BadRecord)>,
}

/// A table that the manifest names.
#[derive(Debug)]
pub struct ViewTable {
    /// What the manifest says of it.
    pub meta: TableMeta,
    /// Its path.
    pub path: PathBuf,
    opened: Result<TableFile, BlockError>,
}

#[derive(Debug)]
struct Recent {
    value: Option<Bytes>,
    /// Index into the view's segments.
    segment: usize,
    offset: u64,
}

/// What a segment was found to hold.
#[derive(Debug, Default)]
struct WalkedSegment {
    /// Where the part ends that goes on soundly.
    end: LogPosition,
    /// Where it does not.
    bad: Option<BadRecord>,
    /// Up to where it proves the log to have been synced.
    proven: LogPosition,
}

/// Where an entry stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Place {
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

/// One of a key's entries and where it stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PlacedEntry {
    /// The value; `None` for a delete.
    pub value: Option<Bytes>,
    /// Where.
    pub place: Place,
}

/// What one look at a directory came to.
enum Look {
    /// A view, and whether it should be believed at once.
    Taken(Box<DirectoryView>),
    /// Something was removed or moved on in between.
    Overtaken(OfflineError),
}

impl DirectoryView {
    /// Looks at the store in `dir`.
    /// # Errors
    /// [`OfflineError`]. Damaged or missing tables and damaged log records are no error here: see
    /// [`Self::damaged_records`], and [`Self::entries`] tells of the tables.
    pub fn open(vfs: &dyn Vfs, dir: &Path) -> Result<Self, OfflineError> {
        let directory = Directory::new(dir);
        let mut looks = 1;
        loop {
            match Self::look(vfs, &directory, looks == LOOKS_MAX) {
                Ok(Look::Taken(view)) if view.damaged.is_empty() || looks >= LOOKS_AT_DAMAGE => {
                    return Ok(*view);
                }
                Ok(Look::Overtaken(error)) if looks == LOOKS_MAX => return Err(error),
                Err(error) if looks >= LOOKS_AT_DAMAGE => return Err(error),
                Ok(Look::Taken(_) | Look::Overtaken(_)) | Err(_) => {}
            }
            looks += 1;
        }
    }

    /// The tables, level by level, each level's in the order in which they are asked.
    pub fn tables(&self) -> impl Iterator<Item = &ViewTable> {
        self.tables.values().flatten()
    }

    /// The manifest that counts.
    pub fn manifest_path(&self) -> PathBuf {
        self.directory.manifest.join(manifest_name(self.manifest))
    }

    /// The log's segments that a start would replay, in order.
    pub fn log_paths(&self) -> &[PathBuf] {
        &self.segments
    }

    /// Where the log's replay would begin.
    pub const fn log_floor(&self) -> LogPosition {
        self.state.floor.first_position
    }

    /// Places in the log that hold no sound record although later ones prove that one stood there.
    pub fn damaged_records(&self) -> &[(PathBuf, BadRecord)] {
        &self.damaged
    }

    /// Where the log ends within a record: one being written, or one that a crash cut and nobody was told of.
    pub const fn torn(&self) -> Option<&(PathBuf, BadRecord)> {
        self.torn.as_ref()
    }

    /// The key's newest entry that can be read; `None` when it was never written. Deletes are entries.
    /// # Errors
    /// [`BadBlock`] when a table that may hold a newer one cannot be read.
    pub fn get(&self, key: &[u8]) -> Result<Option<PlacedEntry>, BadBlock> {
        self.places(key).next().transpose()
    }

    /// All of the key's entries, the newest first.
    pub fn places(&self, key: &[u8]) -> impl Iterator<Item = Result<PlacedEntry, BadBlock>> {
        let recent = self.recent.get(key).map(|recent| {
            let file = self.segments.get(recent.segment).cloned().unwrap_or_default();
            let place = Place::Log { file, offset: recent.offset };
            Ok(PlacedEntry { value: recent.value.clone(), place })
        });
        let due = self.tables().filter(|table| table.meta.may_hold(key));
        let mut places = recent.into_iter().collect::<Vec<_>>();
        for table in due {
            match table.opened() {
                Ok(opened) => places.extend(opened.place(key).transpose()),
                Err(bad) => places.push(Err(bad)),
            }
            // What is older is hidden; where nothing is newer, the key may have been lost.
            if let Some(hole) = hole_at(&table.meta.holes, key) {
                if places.is_empty() && !hole.is_mended {
                    places.push(Err(self.lost(hole)));
                }
                break;
            }
        }
        places.into_iter()
    }

    /// What a hole of a table that is not mended cost.
    fn lost(&self, hole: &Hole) -> BadBlock {
        BadBlock {
            file: self.directory.set_aside(hole.lost_with),
            kind: BlockKind::Table,
            number: None,
            handle: BlockHandle::default(),
            keys: Some(Box::new(hole.keys.clone())),
            error: BlockError::SetAside,
        }
    }

    /// What was lost with tables that were set aside, and not brought back yet.
    pub fn lost_keys(&self) -> impl Iterator<Item = BadBlock> {
        let holes = self.tables().flat_map(|table| &table.meta.holes);
        holes.filter(|hole| !hole.is_mended).map(|hole| self.lost(hole))
    }

    /// The newest entry of each key, deletes included, in order; what cannot be read is told and passed over, and of
    /// its keys an older entry may then be given. Keys that were lost with tables set aside are told first, and of them
    /// no older entry is given.
    pub fn entries(&self) -> MergedEntries<'_> {
        let entry = |(key, recent): (&Bytes, &Recent)| Entry {
            key: key.clone(),
            value: recent.value.clone(),
        };
        let mut sources = vec![Source::memory(self.recent.iter().map(entry))];
        for (level, tables) in &self.tables {
            let bad = tables.iter().filter_map(|table| table.opened().err());
            sources.extend(bad.map(Source::bad));
            let open = tables.iter().filter_map(|table| table.opened.as_ref().ok().cloned());
            let holes = |table: &ViewTable| {
                table.meta.holes.iter().map(|hole| hole.keys.clone()).collect::<Vec<_>>()
            };
            match level {
                0 => sources.extend(tables.iter().map(|table| {
                    Source::tables(table.opened.as_ref().ok().cloned()).with_holes(holes(table))
                })),
                _ => sources.push(Source::tables(open).with_holes(tables.iter().flat_map(holes))),
            }
        }
        MergedEntries::new(sources, self.lost_keys().collect::<VecDeque<_>>())
    }

    /// The entries that are not deletes.
    pub fn live(&self) -> impl Iterator<Item = Result<Entry, BadBlock>> {
        self.entries().filter(|entry| entry.as_ref().map_or(true, |entry| entry.value.is_some()))
    }

    /// Every block of the tables that is not what was written, and what was lost with tables set aside; hands each to
    /// `tell`.
    /// # Errors
    /// [`OfflineError::Io`].
    pub fn verify_tables(
        &self,
        depth: Depth,
        tell: &mut dyn FnMut(BadBlock),
    ) -> Result<(), OfflineError> {
        for table in self.tables() {
            let mut sound = true;
            match TableFile::verify(&self.held, &table.path, depth) {
                Ok(bad) => {
                    sound = bad.is_empty();
                    bad.into_iter().for_each(&mut *tell);
                }
                Err(OfflineError::Io { source, .. })
                    if source.kind() == io::ErrorKind::NotFound => {}
                Err(error) => return Err(error),
            }
            // Missing, or a sound table that is not the one meant.
            if sound && let Err(bad) = table.opened() {
                tell(bad);
            }
        }
        self.lost_keys().for_each(tell);
        Ok(())
    }

    /// Reads every record of a segment of [`Self::log_paths`] again.
    /// # Errors
    /// [`OfflineError`].
    pub fn verify_segment(
        &self,
        path: &Path,
        tell: &mut dyn FnMut(BadRecord),
    ) -> Result<LogSummary, OfflineError> {
        LogFile::open(&self.held, path)?.verify(tell)
    }

    /// One look. `last` says that there will be no further one: what is gone now stays gone.
    fn look(vfs: &dyn Vfs, directory: &Directory, last: bool) -> Result<Look, OfflineError> {
        let gone = |error: &io::Error| error.kind() == io::ErrorKind::NotFound;
        let (state, manifest) = match state_of(vfs, directory) {
            Err(OfflineError::Io { file, source }) if gone(&source) => {
                return Ok(Look::Overtaken(OfflineError::Io { file, source }));
            }
            other => other?,
        };
        let mut view = Self {
            directory: directory.clone(),
            held: HeldFiles::default(),
            state,
            manifest,
            tables: BTreeMap::new(),
            recent: BTreeMap::new(),
            segments: Vec::new(),
            damaged: Vec::new(),
            torn: None,
        };
        match view.hold(vfs, last) {
            Err(OfflineError::Io { file, source }) if gone(&source) => {
                return Ok(Look::Overtaken(OfflineError::Io { file, source }));
            }
            other => other?,
        }
        // What the floor moved over meanwhile may be in neither tables nor log here.
        if state_of(vfs, directory)?.0.floor != view.state.floor {
            let reason = "it changes faster than it can be read".to_owned();
            let file = view.directory.root;
            return Ok(Look::Overtaken(OfflineError::Malformed { file, reason }));
        }
        view.open_tables()?;
        view.read_log()?;
        Ok(Look::Taken(Box::new(view)))
    }

    /// Opens every file that the view is made of.
    fn hold(&mut self, vfs: &dyn Vfs, last: bool) -> Result<(), OfflineError> {
        for number in self.state.tables.keys() {
            let path = self.directory.table(*number);
            match self.held.hold(vfs, &path) {
                Err(error) if last && error.kind() == io::ErrorKind::NotFound => {}
                other => other.map_err(|source| OfflineError::Io { file: path, source })?,
            }
        }
        let log = &self.directory.log;
        let names =
            vfs.list(log).map_err(|source| OfflineError::Io { file: log.clone(), source })?;
        let numbers: BTreeSet<u64> = names.iter().filter_map(|name| log_number(name)).collect();
        for number in numbers.range(self.state.floor.segment..) {
            let path = self.directory.segment(*number);
            let held = self.held.hold(vfs, &path);
            held.map_err(|source| OfflineError::Io { file: path.clone(), source })?;
            self.segments.push(path);
        }
        Ok(())
    }

    fn open_tables(&mut self) -> Result<(), OfflineError> {
        for meta in self.state.tables.values() {
            let path = self.directory.table(meta.number);
            let opened = match TableFile::open(&self.held, &path) {
                Ok(table) if table.is(meta) => Ok(table),
                Ok(_) => Err("another table stands here, not the one that the manifest means"),
                Err(OfflineError::Io { source, .. })
                    if source.kind() == io::ErrorKind::NotFound =>
                {
                    Err("the manifest names it, but it is not there")
                }
                Err(OfflineError::BadBlock(bad)) => {
                    let table = ViewTable { meta: meta.clone(), path, opened: Err(bad.error) };
                    self.tables.entry(meta.level).or_default().push(table);
                    continue;
                }
                Err(error) => return Err(error),
            };
            let opened = opened.map_err(|reason| BlockError::Malformed(reason.to_owned()));
            let table = ViewTable { meta: meta.clone(), path, opened };
            self.tables.entry(meta.level).or_default().push(table);
        }
        for (level, tables) in &mut self.tables {
            match level {
                0 => tables.sort_by_key(|table| std::cmp::Reverse(table.meta.number)),
                _ => tables.sort_by(|left, right| left.meta.first.cmp(&right.meta.first)),
            }
        }
        Ok(())
    }

    /// The log ends at the first place where it does not go on soundly, unless something proves that more was durable:
    /// recovery's rule (`recovery::replay`). Where it was, what there is is shown past the damage.
    fn read_log(&mut self) -> Result<(), OfflineError> {
        let mut end = self.state.floor.first_position;
        let mut proven = self.state.synced;
        let mut stop = None;
        for index in 0..self.segments.len() {
            let goes_on_at = stop.is_none().then_some(end);
            let walked = self.walk_segment(index, goes_on_at)?;
            proven = proven.max(walked.proven);
            if let Some(bad) = walked.bad.filter(|_| stop.is_none()) {
                let counting = index + usize::from(end < walked.end);
                stop = Some((self.segments[index].clone(), bad, counting));
            }
            end = end.max(walked.end);
        }
        if end < proven {
            self.recent.clear();
            return self.read_past_damage();
        }
        if let Some((file, bad, counting)) = stop {
            self.torn = Some((file, bad));
            self.segments.truncate(counting);
        }
        Ok(())
    }

    /// Reads a segment and takes its records as far as the log goes on soundly: from this position on, or not at all behind
    /// the log's end.
    fn walk_segment(
        &mut self,
        index: usize,
        goes_on_at: Option<LogPosition>,
    ) -> Result<WalkedSegment, OfflineError> {
        let path = self.segments[index].clone();
        let start = goes_on_at.unwrap_or(LogPosition::ZERO);
        let mut walked = WalkedSegment { end: start, ..WalkedSegment::default() };
        let bad = |reason| BadRecord { offset: 0, position: start, reason };
        let number = path.file_name().and_then(|name| log_number(name.to_str()?)).unwrap_or(0);
        let mut file = match LogFile::open(&self.held, &path) {
            Ok(file) => file,
            // Its records may still prove that what is before was durable.
            Err(OfflineError::Malformed { reason, .. }) => {
                walked.bad = Some(bad(reason));
                LogFile::open_headless(&self.held, &path, number)?
            }
            Err(error) => return Err(error),
        };
        let place = (file.segment(), Some(file.first_position()));
        if walked.bad.is_none() && place != (number, goes_on_at) {
            let (segment, position) = (file.segment(), file.first_position());
            walked.bad = Some(bad(format!(
                "segment {segment} begins at position {position}, but the log ended at {start} before"
            )));
        }
        // A segment of a log that is not loose has its name only with a sound header, and once all before is synced.
        if !self.state.is_log_loose {
            let is_sound = walked.bad.is_none() || goes_on_at.is_none();
            walked.proven =
                if is_sound { file.first_position() } else { LogPosition::new(u64::MAX) };
        }
        while let Some(item) = file.next_item()? {
            match item {
                LogItem::Record(record) => {
                    walked.proven = walked.proven.max(record.synced);
                    if walked.bad.is_none() {
                        walked.end = record.end;
                        self.take(index, record.offset, record.changes);
                    }
                }
                LogItem::Bad(bad) | LogItem::Torn(bad) => drop(walked.bad.get_or_insert(bad)),
            }
        }
        Ok(walked)
    }

    /// All of the log that can be read.
    fn read_past_damage(&mut self) -> Result<(), OfflineError> {
        let mut end = self.state.floor.first_position;
        for index in 0..self.segments.len() {
            let path = self.segments[index].clone();
            let mut file = match LogFile::open(&self.held, &path) {
                Ok(file) => file,
                Err(OfflineError::Malformed { reason, .. }) => {
                    self.damaged.push((path, BadRecord { offset: 0, position: end, reason }));
                    continue;
                }
                Err(error) => return Err(error),
            };
            // The torn end of a segment that another one follows is no end.
            self.damaged.extend(self.torn.take());
            if file.first_position() != end {
                let position = file.first_position();
                let reason =
                    format!("the log goes on at position {position}, but ended at {end} before");
                self.damaged.push((path.clone(), BadRecord { offset: 0, position, reason }));
            }
            while let Some(item) = file.next_item()? {
                match item {
                    LogItem::Record(record) => self.take(index, record.offset, record.changes),
                    LogItem::Bad(bad) => self.damaged.push((path.clone(), bad)),
                    LogItem::Torn(bad) => self.torn = Some((path.clone(), bad)),
                }
            }
            end = file.position();
        }
        if end < self.state.synced {
            let synced = self.state.synced;
            let reason = format!("the log ends at position {end}, but was synced up to {synced}");
            let last = self.segments.last().cloned();
            let file = last.unwrap_or_else(|| self.directory.segment(self.state.floor.segment));
            self.damaged.push((file, BadRecord { offset: 0, position: end, reason }));
        }
        Ok(())
    }

    fn take(&mut self, segment: usize, offset: u64, changes: Vec<Change>) {
        for change in changes {
            let (key, value) = match change {
                Change::Put(key, value) => (key, Some(value)),
                Change::Delete(key) => (key, None),
                Change::XorLeaf(..) => continue,
            };
            self.recent.insert(key, Recent { value, segment, offset });
        }
    }
}

impl ViewTable {
    /// The open table.
    /// # Errors
    /// Why there is none.
    pub fn opened(&self) -> Result<&TableFile, BadBlock> {
        self.opened.as_ref().map_err(|error| BadBlock {
            file: self.path.clone(),
            kind: BlockKind::Footer,
            number: None,
            handle: BlockHandle::default(),
            keys: Some(Box::new(self.meta.keys())),
            error: error.clone(),
        })
    }
}

fn state_of(vfs: &dyn Vfs, directory: &Directory) -> Result<(State, u64), OfflineError> {
    match read_state(vfs, &directory.manifest) {
        Ok(Some(found)) => Ok(found),
        Ok(None) => Err(OfflineError::NoStore { dir: directory.root.clone() }),
        Err(ReadManifestError::Io { file, source }) => Err(OfflineError::Io { file, source }),
        Err(ReadManifestError::Damaged { file, offset, reason }) => Err(OfflineError::Malformed {
            file,
            reason: format!("damaged at byte {offset}: {reason}"),
        }),
    }
}

/// Whether a store's manifest is in this directory.
pub fn holds_store(vfs: &dyn Vfs, dir: &Path) -> bool {
    vfs.exists(&Directory::new(dir).manifest.join(CURRENT)).unwrap_or(false)
}
