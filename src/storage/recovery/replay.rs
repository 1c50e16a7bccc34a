//! Replays the log into new tables, and decides what a bad record is.
//!
//! A bad record cuts the log when nothing proves that it was durable; else it is damage. Proof is a later sound record
//! that says the log was synced beyond, a later segment (it is created only once all before was synced), and the
//! manifest's word. The first record of a segment is its own proof: a segment has its name only with a sound header.
//! Segments of a loose log prove nothing by being there: a power loss may take any of them, and any part.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

use super::gathered::Gathered;
use super::{Cut, Observe, OpenError, segment_path};
use crate::storage::batch::{self, Change};
use crate::storage::directory::{Directory, log_number};
use crate::storage::leaves::LeafChanges;
use crate::storage::levels::Live;
use crate::storage::log::LogPosition;
use crate::storage::log::reader::{BadRecord, OpenSegmentError, Record, SegmentReader};
use crate::storage::manifest::{State, TableMeta};
use crate::storage::options::Options;
use crate::storage::space::{Space, Writes};
use crate::storage::table::Entry;
use crate::storage::table::builder::{Builder, TableOptions};
use crate::storage::vfs::Vfs;

/// What the log gave.
#[derive(Debug, Default)]
pub(super) struct Replayed {
    pub(super) tables: Vec<Live>,
    pub(super) leaves: LeafChanges,
    pub(super) records: u64,
    pub(super) bytes: u64,
    pub(super) cut: Option<Cut>,
    /// Segments of a loose log behind the cut.
    pub(super) dropped: Vec<PathBuf>,
    pub(super) end: LogPosition,
    pub(super) next_number: u64,
}

/// A replay under way.
pub(super) struct Replay<'a> {
    vfs: &'a Arc<dyn Vfs>,
    directory: &'a Directory,
    options: &'a Options,
    space: &'a Space,
    gathered: Gathered,
    replayed: Replayed,
}

/// What a segment of a loose log was found to hold.
#[derive(Debug, Default)]
struct Walked {
    /// Where the part ends that goes on soundly.
    end: LogPosition,
    /// Where in the file, and why, it does not go on.
    bad: Option<(u64, String)>,
    /// Up to where its records know the log to have been synced.
    proven: LogPosition,
    /// Where its last byte ends that is not zero, if it is bad.
    written_end: u64,
}

impl<'a> Replay<'a> {
    pub(super) fn new(
        vfs: &'a Arc<dyn Vfs>,
        directory: &'a Directory,
        options: &'a Options,
        space: &'a Space,
        next_number: u64,
    ) -> Self {
        let replayed = Replayed { next_number, ..Replayed::default() };
        Self { vfs, directory, options, space, gathered: Gathered::default(), replayed }
    }

    /// Two passes: the first finds where the log ends or that it is damaged, the second applies it. So damage is found
    /// before anything is written.
    pub(super) fn run(
        mut self,
        state: &State,
        observe: &mut Observe<'_>,
    ) -> Result<Replayed, OpenError> {
        let numbers = self.numbers(state)?;
        let sound = if state.is_log_loose {
            self.find_loose_end(state, &numbers)?
        } else {
            let segments = self.segments(&numbers)?;
            self.replayed.end = self.find_end(state, &segments)?;
            segments.into_values().collect()
        };
        for number in sound {
            self.apply_segment(number, observe)?;
        }
        self.finish_table()?;
        if !self.replayed.tables.is_empty() {
            let synced = self.vfs.sync_dir(&self.directory.tables);
            synced
                .map_err(|source| OpenError::Io { path: self.directory.tables.clone(), source })?;
        }
        Ok(self.replayed)
    }

    /// The numbers of the segments from the floor on.
    fn numbers(&self, state: &State) -> Result<Vec<u64>, OpenError> {
        let names = self.vfs.list(&self.directory.log);
        let names =
            names.map_err(|source| OpenError::Io { path: self.directory.log.clone(), source })?;
        let numbers = names.iter().filter_map(|name| log_number(name));
        let mut numbers: Vec<u64> =
            numbers.filter(|number| state.floor.segment <= *number).collect();
        numbers.sort_unstable();
        Ok(numbers)
    }

    /// These segments by the position of their first record.
    fn segments(&self, numbers: &[u64]) -> Result<BTreeMap<LogPosition, u64>, OpenError> {
        let mut segments = BTreeMap::new();
        for number in numbers.iter().copied() {
            let reader = self.open(number)?;
            let header = reader.header();
            if header.segment != number {
                let reason = format!("it calls itself segment {}", header.segment);
                return Err(damaged(segment_path(self.directory, number), 0, reason));
            }
            segments.insert(header.first_position, number);
        }
        Ok(segments)
    }

    fn find_end(
        &mut self,
        state: &State,
        segments: &BTreeMap<LogPosition, u64>,
    ) -> Result<LogPosition, OpenError> {
        let mut end = state.floor.first_position;
        let mut proven = state.synced;
        for (index, (first, number)) in segments.iter().enumerate() {
            if *first != end {
                let reason =
                    format!("the log goes on at position {first}, but ended at {end} before");
                return Err(damaged(segment_path(self.directory, *number), 0, reason));
            }
            let later = segments.keys().nth(index + 1);
            proven = later.copied().unwrap_or(LogPosition::ZERO).max(proven);
            end = self.check_segment(*number, proven)?;
        }
        if end < proven {
            let last = segments.values().next_back().copied().unwrap_or(state.floor.segment);
            let file = segment_path(self.directory, last);
            if segments.is_empty() {
                return Err(OpenError::Missing { file });
            }
            let reason = format!("the log ends at position {end}, but was synced up to {proven}");
            return Err(damaged(file, 0, reason));
        }
        Ok(end)
    }

    /// Where the sound part of a segment ends, unless what comes after was durable up to `proven` or by its own word.
    fn check_segment(
        &mut self,
        number: u64,
        proven: LogPosition,
    ) -> Result<LogPosition, OpenError> {
        let file = segment_path(self.directory, number);
        let io = |source| OpenError::Io { path: file.clone(), source };
        let mut reader = self.open(number)?;
        while let Some(next) = reader.next().map_err(io)? {
            let Err(BadRecord { offset, position, reason }) = next.and_then(sound_batch) else {
                continue;
            };
            if position < proven {
                return Err(damaged(file, offset, reason));
            }
            let bytes = reader.written_end(offset).map_err(io)? - offset;
            while reader.skip_to_sound().map_err(io)? {
                if let Some(Ok(later)) = reader.next().map_err(io)?
                    && position < later.synced
                {
                    return Err(damaged(file, offset, reason));
                }
            }
            self.replayed.cut = Some(Cut { file, offset, bytes, reason });
            return Ok(position);
        }
        Ok(reader.position())
    }

    /// Where a loose log ends: at the first place where it does not go on soundly, unless a record or the manifest knows
    /// that this was durable. The segments that hold what is before.
    fn find_loose_end(&mut self, state: &State, numbers: &[u64]) -> Result<Vec<u64>, OpenError> {
        let mut end = state.floor.first_position;
        let mut sound = Vec::new();
        let mut rest = numbers.iter().copied();
        while let Some(number) = rest.next() {
            let found = self.walk_loose(number, end)?;
            if found.bad.is_none() || end < found.end {
                sound.push(number);
            }
            end = found.end;
            let Some((offset, reason)) = found.bad else { continue };
            let file = segment_path(self.directory, number);
            let later: Vec<u64> = rest.collect();
            let mut proven = found.proven.max(state.synced);
            for number in &later {
                proven = proven.max(self.walk_loose(*number, LogPosition::ZERO)?.proven);
            }
            if end < proven {
                return Err(damaged(file, offset, reason));
            }
            self.replayed.dropped =
                later.into_iter().map(|number| segment_path(self.directory, number)).collect();
            self.replayed.cut =
                Some(Cut { file, offset, bytes: found.written_end - offset, reason });
            break;
        }
        if end < state.synced {
            let file = segment_path(self.directory, state.floor.segment);
            return Err(OpenError::Missing { file });
        }
        self.replayed.end = end;
        Ok(sound)
    }

    /// Reads a segment of a loose log that should go on at `start`.
    fn walk_loose(&self, number: u64, start: LogPosition) -> Result<Walked, OpenError> {
        let file = segment_path(self.directory, number);
        let io = |source| OpenError::Io { path: file.clone(), source };
        let mut walked = Walked { end: start, ..Walked::default() };
        let mut reader = match SegmentReader::open(&**self.vfs, &file) {
            Ok(reader) => reader,
            Err(OpenSegmentError::Io(source)) => return Err(io(source)),
            // Its records may still prove that this was durable.
            Err(OpenSegmentError::Header(reason)) => {
                walked.bad = Some((0, reason));
                SegmentReader::open_headless(&**self.vfs, &file, number).map_err(io)?
            }
        };
        let header = reader.header();
        if walked.bad.is_none() && (header.segment != number || header.first_position != start) {
            let reason = format!(
                "segment {} begins at position {}, but the log ended at {start} before",
                header.segment, header.first_position
            );
            walked.bad = Some((0, reason));
        }
        if walked.bad.is_some() {
            walked.written_end = reader.written_end(0).map_err(io)?;
        }
        loop {
            match reader.next().map_err(io)?.map(|next| next.and_then(sound_batch)) {
                None => return Ok(walked),
                Some(Ok(record)) => {
                    walked.proven = walked.proven.max(record.synced);
                    if walked.bad.is_none() {
                        walked.end = record.end;
                    }
                }
                Some(Err(bad)) => {
                    if walked.bad.is_none() {
                        walked.written_end = reader.written_end(bad.offset).map_err(io)?;
                        walked.bad = Some((bad.offset, bad.reason));
                    }
                    if !reader.skip_to_sound().map_err(io)? {
                        return Ok(walked);
                    }
                }
            }
        }
    }

    fn apply_segment(&mut self, number: u64, observe: &mut Observe<'_>) -> Result<(), OpenError> {
        let file = segment_path(self.directory, number);
        let mut reader = self.open(number)?;
        while reader.position() < self.replayed.end {
            let next =
                reader.next().map_err(|source| OpenError::Io { path: file.clone(), source })?;
            let Some(next) = next else { break };
            let changed =
                |offset| damaged(file.clone(), offset, "it changed while it was read".to_owned());
            let record = next.map_err(|bad| changed(bad.offset))?;
            self.replayed.records += 1;
            self.replayed.bytes += reader.offset() - record.offset;
            for change in batch::changes(&record.payload) {
                let change = change.map_err(|_| changed(record.offset))?;
                let (key, value) = match change {
                    Change::Put(key, value) => (key, Some(value)),
                    Change::Delete(key) => (key, None),
                    Change::XorLeaf(slot, bits) => {
                        *self.replayed.leaves.entry(slot).or_default() ^= bits;
                        continue;
                    }
                };
                observe(key, value);
                let share = |bytes| record.payload.slice_ref(bytes);
                self.gathered.push(Entry { key: share(key), value: value.map(share) });
            }
            if self.options.memtable_bytes <= self.gathered.bytes() {
                self.finish_table()?;
            }
        }
        Ok(())
    }

    /// Writes what was gathered as a table of level 0; its directory is synced at the end.
    fn finish_table(&mut self) -> Result<(), OpenError> {
        let gathered = std::mem::take(&mut self.gathered);
        if gathered.bytes() == 0 {
            return Ok(());
        }
        let number = self.replayed.next_number;
        self.replayed.next_number += 1;
        let path = self.directory.table(number);
        let options = TableOptions::new(self.options, 0, self.replayed.end);
        let written = self.space.with_reserve(Writes::Job, || {
            let vfs = Arc::clone(self.vfs);
            let mut builder =
                Builder::create(vfs, &self.directory.tables, number, options.clone())?;
            for entry in gathered.sorted() {
                builder.add(&entry.key, entry.value.as_deref())?;
            }
            builder.finish()
        });
        let written = written.map_err(|source| OpenError::Io { path: path.clone(), source })?;
        let live = Live::open(&**self.vfs, &path, TableMeta::new(&written));
        let unreadable = |error| OpenError::Io { path, source: std::io::Error::other(error) };
        let live = live.map_err(unreadable.clone())?;
        live.opened().map_err(unreadable)?;
        self.replayed.tables.push(live);
        Ok(())
    }

    fn open(&self, number: u64) -> Result<SegmentReader, OpenError> {
        let file = segment_path(self.directory, number);
        SegmentReader::open(&**self.vfs, &file).map_err(|error| match error {
            OpenSegmentError::Io(source) => OpenError::Io { path: file, source },
            OpenSegmentError::Header(reason) => damaged(file, 0, reason),
        })
    }
}

/// A record that holds a batch; one whose checksum holds and that is no batch is bad, too.
fn sound_batch(record: Record) -> Result<Record, BadRecord> {
    let checked = batch::changes(&record.payload).try_for_each(|change| change.map(drop));
    match checked {
        Ok(()) => Ok(record),
        Err(error) => {
            let position = LogPosition::new(record.end.get() - record.bytes());
            Err(BadRecord { offset: record.offset, position, reason: error.to_string() })
        }
    }
}

fn damaged(file: PathBuf, offset: u64, reason: String) -> OpenError {
    OpenError::Damaged { file, offset, reason }
}
