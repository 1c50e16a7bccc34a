//! What is left of a damaged file: the sound blocks of a table, the sound records of a log.
//!
//! A table whose footer or index is gone is searched for blocks. They follow each other without gaps, and a trailer says
//! nothing about where its block starts; but a checksum is bound to table and offset, so a stretch of bytes that ends in
//! something like a trailer and passes is a block that was written there.
//!
//! A salvaged log takes the place of the damaged one, so its sound records stay at their positions: holes are filled
//! with records that change nothing.

#![warn(clippy::indexing_slicing)]

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;

use super::{OfflineError, TableFile};
use crate::storage::batch::WriteBatch;
use crate::storage::directory::{Directory, log_name, log_number, table_number};
use crate::storage::log::reader::{OpenSegmentError, SegmentReader};
use crate::storage::log::{
    HEADER_BYTES, Header, LogPosition, Origin, RECORD_ALIGNMENT, RECORD_HEADER_BYTES, encode_record,
};
use crate::storage::table::block::{self, DataBlock, Kind, TRAILER_BYTES};
use crate::storage::table::reader::{read_footer, successor};
use crate::storage::table::{BlockError, Entry, KeyRange, Properties};
use crate::storage::vfs::{Vfs, VfsFile, read_exact_at, temporary};

/// Largest block that a search finds, trailer included: twice the largest that a store aims at, and some.
const SEARCHED_BLOCK_BYTES_MAX: usize = 5 << 19;
/// Bytes of a salvaged log gathered before they are written.
const WRITE_BYTES: usize = 1 << 20;
/// First byte of the keys that fillers delete: no keyspace has it.
const FILLER: u8 = 0xff;

/// What could not be read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Lost {
    /// Where it starts in the file.
    pub offset: u64,
    /// How many bytes it takes.
    pub bytes: u64,
    /// Keys that it may have held; `None` where that is not known.
    pub keys: Option<KeyRange>,
    /// What is wrong.
    pub reason: String,
}

/// What was left of a table.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct SalvagedTable {
    /// Entries that were read.
    pub entries: u64,
    /// The table's account of itself, where it was found.
    pub properties: Option<Properties>,
}

/// What was left of a log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SalvagedLog {
    /// The new segment; none was written where that was not asked for.
    pub file: PathBuf,
    /// Records that were read.
    pub records: u64,
}

/// Hands every entry of the table at `path` that can be read to `take`, in order, and what is lost to `tell`.
/// # Errors
/// [`OfflineError::Malformed`] where not even the table's number is known; [`OfflineError::Io`]; those of `take`.
pub fn salvage_table(
    vfs: &dyn Vfs,
    path: &Path,
    take: &mut dyn FnMut(&Entry) -> Result<(), OfflineError>,
    tell: &mut dyn FnMut(Lost),
) -> Result<SalvagedTable, OfflineError> {
    let table = match TableFile::open(vfs, path) {
        Ok(table) => table,
        Err(OfflineError::BadBlock(_)) => return Search::new(vfs, path)?.run(take, tell),
        Err(error) => return Err(error),
    };
    let mut entries = 0;
    let mut walk = table.entries(b"");
    while let Some(entry) = walk.next_entry() {
        match entry {
            Ok(entry) => {
                entries += 1;
                take(&entry)?;
            }
            Err(bad) => tell(Lost {
                offset: bad.handle.offset,
                bytes: bad.handle.length + TRAILER_BYTES as u64,
                keys: bad.keys.map(|keys| *keys),
                reason: bad.error.to_string(),
            }),
        }
    }
    Ok(SalvagedTable { entries, properties: Some(table.properties().clone()) })
}

/// A search for blocks through a table without an index.
struct Search {
    path: PathBuf,
    file: Arc<dyn VfsFile>,
    length: u64,
    table: u64,
    last: Option<Bytes>,
    lost: Option<(u64, u64)>,
    found: SalvagedTable,
}

impl Search {
    fn new(vfs: &dyn Vfs, path: &Path) -> Result<Self, OfflineError> {
        let io = |source| OfflineError::Io { file: path.to_owned(), source };
        let file = vfs.open(path).map_err(io)?;
        let length = file.length().map_err(io)?;
        let footer = read_footer(&*file, length).map_err(io)?.ok().map(|(footer, _)| footer.table);
        let name = path.file_name().and_then(|name| name.to_str());
        let Some(table) = footer.or_else(|| name.and_then(table_number)) else {
            let reason = "its footer is damaged, and its name is not the NNNNNNNN.sst that it had, \
                without which no checksum can be told";
            return Err(OfflineError::Malformed {
                file: path.to_owned(),
                reason: reason.to_owned(),
            });
        };
        let found = SalvagedTable::default();
        Ok(Self { path: path.to_owned(), file, length, table, last: None, lost: None, found })
    }

    fn run(
        mut self,
        take: &mut dyn FnMut(&Entry) -> Result<(), OfflineError>,
        tell: &mut dyn FnMut(Lost),
    ) -> Result<SalvagedTable, OfflineError> {
        let mut offset = 0;
        while offset < self.length {
            let window = self.window(offset)?;
            let Some((start, end)) = first_block(&window, self.table, offset) else {
                // Nothing starts in the first half, whatever follows: look on behind it.
                let skipped = (window.len() / 2).max(1) as u64;
                self.lose(offset, skipped);
                offset += skipped;
                continue;
            };
            if start > 0 {
                self.lose(offset, start as u64);
            }
            let block = window.slice(start..end);
            self.take_block(&block, offset + start as u64, take, tell)?;
            offset += end as u64;
        }
        self.tell_lost(None, tell);
        Ok(self.found)
    }

    fn window(&self, offset: u64) -> Result<Bytes, OfflineError> {
        let left = usize::try_from(self.length - offset).unwrap_or(usize::MAX);
        let mut window = vec![0; left.min(2 * SEARCHED_BLOCK_BYTES_MAX)];
        let read = read_exact_at(&*self.file, &mut window, offset);
        read.map_err(|source| OfflineError::Io { file: self.path.clone(), source })?;
        Ok(window.into())
    }

    fn take_block(
        &mut self,
        block: &Bytes,
        offset: u64,
        take: &mut dyn FnMut(&Entry) -> Result<(), OfflineError>,
        tell: &mut dyn FnMut(Lost),
    ) -> Result<(), OfflineError> {
        let place = (self.table, offset);
        if let Ok(payload) = block::open(block, Kind::Properties, place) {
            self.found.properties = Properties::decode(&payload).ok();
        }
        let Ok(block) = block::open(block, Kind::Data, place).and_then(DataBlock::new) else {
            return Ok(());
        };
        for index in 0..block.count() {
            let Ok(entry) = block.entry(index) else { continue };
            if self.last.as_ref().is_some_and(|last| entry.key <= *last) {
                continue;
            }
            self.tell_lost(Some(&entry.key), tell);
            take(&entry)?;
            self.found.entries += 1;
            self.last = Some(entry.key);
        }
        Ok(())
    }

    fn lose(&mut self, offset: u64, bytes: u64) {
        let (start, before) = self.lost.unwrap_or((offset, 0));
        self.lost = Some((start, before + bytes));
    }

    /// What lies in front of the entry `next`, or the file's end, is lost.
    fn tell_lost(&mut self, next: Option<&Bytes>, tell: &mut dyn FnMut(Lost)) {
        let Some((offset, bytes)) = self.lost.take() else { return };
        let first = self.last.as_ref().map_or_else(Bytes::new, |last| successor(last));
        let keys = next.map(|next| KeyRange { first, last: next.clone() });
        tell(Lost { offset, bytes, keys, reason: "no sound block stands here".to_owned() });
    }
}

/// Start and end of the first sound block that begins in a window at `offset` of the file.
fn first_block(window: &[u8], table: u64, offset: u64) -> Option<(usize, usize)> {
    let ends: Vec<usize> =
        (TRAILER_BYTES..=window.len()).filter(|end| trailer(window, *end).is_some()).collect();
    // A block starts where the one before it ended, be that one sound or not.
    std::iter::once(0).chain(ends.iter().copied()).find_map(|start| {
        let from = ends.partition_point(|end| *end < start + TRAILER_BYTES);
        let due = ends.get(from..).unwrap_or_default().iter().copied();
        let mut due = due.take_while(|end| end - start <= SEARCHED_BLOCK_BYTES_MAX);
        let end = due.find(|end| is_block(window, start, *end, (table, offset + start as u64)))?;
        Some((start, end))
    })
}

/// Codec and raw length of what may be the trailer that ends at `end`.
fn trailer(window: &[u8], end: usize) -> Option<(u8, usize)> {
    let trailer = window.get(end.checked_sub(TRAILER_BYTES)?..end)?;
    match *trailer.first_chunk::<8>()? {
        [codec @ 0..=block::CODEC_MAX, 1..=4, 0, 0, a, b, c, d] => {
            Some((codec, u32::from_le_bytes([a, b, c, d]) as usize))
        }
        _ => None,
    }
}

fn is_block(window: &[u8], start: usize, end: usize, place: (u64, u64)) -> bool {
    let payload = end - start - TRAILER_BYTES;
    let fits = trailer(window, end).is_some_and(|(codec, raw)| match codec {
        0 => raw == payload,
        _ => payload < raw,
    });
    let block = || Bytes::copy_from_slice(window.get(start..end).unwrap_or_default());
    // Of another kind than asked for is sound, too.
    fits && !matches!(block::open(&block(), Kind::Data, place), Err(BlockError::Checksum { .. }))
}

/// Writes what is left of the log segment at `path` into `dir`, under the name it had in its store; with no `dir` it
/// only looks. What is lost is handed to `tell`.
/// # Errors
/// [`OfflineError`].
pub fn salvage_log(
    vfs: &dyn Vfs,
    path: &Path,
    dir: Option<&Path>,
    tell: &mut dyn FnMut(Lost),
) -> Result<SalvagedLog, OfflineError> {
    let io = |source| OfflineError::Io { file: path.to_owned(), source };
    let mut reader = match SegmentReader::open(vfs, path) {
        Ok(reader) => reader,
        Err(OpenSegmentError::Io(source)) => return Err(io(source)),
        Err(OpenSegmentError::Header(reason)) => {
            return Err(OfflineError::Malformed { file: path.to_owned(), reason });
        }
    };
    let header = Header { origin: Origin::Salvaged, ..reader.header() };
    let name = log_name(header.segment);
    let mut output = match dir {
        None => None,
        Some(dir) => Some(SegmentCopy::create(vfs, dir, &name, header)?),
    };
    let (mut records, mut synced) = (0, LogPosition::ZERO);
    while let Some(next) = reader.next().map_err(io)? {
        match next {
            Ok(record) => {
                records += 1;
                synced = record.synced;
                if let Some(output) = &mut output {
                    output.put(synced, &record.payload)?;
                }
            }
            Err(bad) => {
                let on = reader.skip_to_sound().map_err(io)?;
                let end = if on {
                    reader.offset()
                } else {
                    let written = reader.written_end(bad.offset).map_err(io)?;
                    written.next_multiple_of(RECORD_ALIGNMENT as u64)
                };
                let bytes = end.saturating_sub(bad.offset);
                if let Some(output) = &mut output {
                    output.fill(synced, bytes)?;
                }
                if bytes > 0 {
                    tell(Lost { offset: bad.offset, bytes, keys: None, reason: bad.reason });
                }
            }
        }
    }
    let file = dir.map_or_else(PathBuf::new, |dir| dir.join(name));
    output.map_or(Ok(()), SegmentCopy::finish)?;
    Ok(SalvagedLog { file, records })
}

/// A segment in the log of the store in `dir` that was salvaged, if there is one: writes in between may be lost there, and
/// nothing else tells so. The next opening of the store replays it and removes it.
/// # Errors
/// The system's. A segment that is none is not this function's affair.
pub fn salvaged_segment(vfs: &dyn Vfs, dir: &Path) -> io::Result<Option<PathBuf>> {
    let log = Directory::new(dir).log;
    if !vfs.exists(&log)? {
        return Ok(None);
    }
    for name in vfs.list(&log)?.into_iter().filter(|name| log_number(name).is_some()) {
        let path = log.join(name);
        match SegmentReader::open(vfs, &path) {
            Ok(reader) if reader.header().origin == Origin::Salvaged => return Ok(Some(path)),
            Ok(_) | Err(OpenSegmentError::Header(_)) => {}
            Err(OpenSegmentError::Io(source)) => return Err(source),
        }
    }
    Ok(None)
}

/// A segment being written whose records stand where they stood.
struct SegmentCopy<'a> {
    vfs: &'a dyn Vfs,
    dir: PathBuf,
    name: String,
    file: Arc<dyn VfsFile>,
    header: Header,
    out: Vec<u8>,
    written: u64,
}

impl<'a> SegmentCopy<'a> {
    fn create(
        vfs: &'a dyn Vfs,
        dir: &Path,
        name: &str,
        header: Header,
    ) -> Result<Self, OfflineError> {
        let path = temporary(dir, name);
        let file =
            vfs.create(&path).map_err(|source| OfflineError::Write { file: path, source })?;
        let (dir, name) = (dir.to_owned(), name.to_owned());
        Ok(Self { vfs, dir, name, file, header, out: header.encode().to_vec(), written: 0 })
    }

    fn put(&mut self, synced: LogPosition, payload: &[u8]) -> Result<(), OfflineError> {
        let offset = self.written + self.out.len() as u64;
        let position = self.header.first_position.get() + offset - HEADER_BYTES as u64;
        let place = (self.header.segment, offset);
        encode_record(&mut self.out, place, LogPosition::new(position), synced, payload);
        if self.out.len() < WRITE_BYTES { Ok(()) } else { self.write_out() }
    }

    /// Records that change nothing and take this many bytes, so that the next one stands where it stood. What is too
    /// short for a record is left out: nothing follows it.
    fn fill(&mut self, synced: LogPosition, mut bytes: u64) -> Result<(), OfflineError> {
        const EMPTY: u64 = RECORD_HEADER_BYTES as u64;
        while bytes >= 2 * EMPTY || bytes == EMPTY {
            self.put(synced, &[])?;
            bytes -= EMPTY;
        }
        if bytes > EMPTY {
            // A tag and a length stand in front of the key.
            let key = usize::try_from(bytes - EMPTY).unwrap_or(0).saturating_sub(2);
            let mut batch = WriteBatch::new();
            batch.delete(vec![FILLER; key]);
            self.put(synced, batch.encoded())?;
        }
        Ok(())
    }

    fn write_out(&mut self) -> Result<(), OfflineError> {
        let written = self.file.write_at(&self.out, self.written);
        written.map_err(|source| self.failed(source))?;
        self.written += self.out.len() as u64;
        self.out.clear();
        Ok(())
    }

    fn finish(mut self) -> Result<(), OfflineError> {
        self.write_out()?;
        let (from, to) = (temporary(&self.dir, &self.name), self.dir.join(&self.name));
        let done = self
            .file
            .sync_data()
            .and_then(|()| self.vfs.rename(&from, &to))
            .and_then(|()| self.vfs.sync_dir(&self.dir));
        done.map_err(|source| self.failed(source))
    }

    fn failed(&self, source: io::Error) -> OfflineError {
        OfflineError::Write { file: self.dir.join(&self.name), source }
    }
}
