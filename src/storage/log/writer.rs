//! The writing side: a buffer that takes records, and the file that they go to.
//!
//! They are two so that later writes fill the buffer while an earlier group is being synced.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::{HEADER_BYTES, Header, LogPosition, Origin, encode_record, record_bytes};
use crate::planted::{self, Bug};
use crate::storage::directory;
use crate::storage::options::SyncMode;
use crate::storage::vfs::{Vfs, VfsFile, temporary};

/// Bytes of memory kept from one group of records to the next.
const SPENT_BYTES_MAX: usize = 1 << 20;

/// By how much a segment is made longer ahead of its records, in bytes: a sync that finds the length as it was needs not
/// write it. Measured with one writer: 1.3 times the syncs a second.
const EXTENSION_BYTES: u64 = 1 << 20;

/// Records that were accepted and not yet written: pieces of segments, in order.
#[derive(Debug)]
pub(crate) struct Buffer {
    pieces: Vec<Piece>,
    segment: Header,
    appended: LogPosition,
    bytes: usize,
    /// The memory of a piece that was written, for the next one.
    spent: Vec<u8>,
}

/// Consecutive records of one segment.
#[derive(Debug)]
pub(crate) struct Piece {
    segment: Header,
    offset: u64,
    bytes: Vec<u8>,
}

/// Whether a new segment waits until all before it is synced.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Order {
    /// It does, and is synced itself, name and header: its existence proves that what stands before was durable.
    Proven,
    /// It does not: a power loss may take any part of what was not synced. No writer ever waits for the disk.
    Loose,
}

/// The segment that is being written.
#[derive(Debug)]
pub(crate) struct Writer {
    vfs: Arc<dyn Vfs>,
    dir: PathBuf,
    order: Order,
    /// None until the first record.
    current: Option<(u64, Arc<dyn VfsFile>)>,
    /// Where the present segment's last record ends.
    written_end: u64,
    /// The length that the present segment was given ahead of its records.
    length: u64,
    /// Segments before the present one that are not synced to their end, oldest first.
    behind: Vec<Arc<dyn VfsFile>>,
    /// A segment's name may not be durable.
    is_dir_behind: bool,
    /// The memory of a piece that was written.
    spent: Vec<u8>,
}

/// What must be synced so that all that was written so far is durable.
#[derive(Debug)]
pub(crate) struct Unsynced {
    vfs: Arc<dyn Vfs>,
    files: Vec<Arc<dyn VfsFile>>,
    dir: Option<PathBuf>,
}

impl Buffer {
    /// Empty; the first record opens `segment`.
    pub(crate) const fn new(segment: Header) -> Self {
        Self {
            pieces: Vec::new(),
            segment,
            appended: segment.first_position,
            bytes: 0,
            spent: Vec::new(),
        }
    }

    /// Where the stream ends.
    pub(crate) const fn appended(&self) -> LogPosition {
        self.appended
    }

    /// Bytes waiting to be written.
    pub(crate) const fn bytes(&self) -> usize {
        self.bytes
    }

    /// The segment that takes the next record.
    pub(crate) const fn segment(&self) -> Header {
        self.segment
    }

    /// Bytes in the segment that takes the next record.
    pub(crate) const fn segment_bytes(&self) -> u64 {
        self.appended.get() - self.segment.first_position.get() + HEADER_BYTES as u64
    }

    /// Takes a record; its write's position.
    pub(crate) fn append(&mut self, synced: LogPosition, payload: &[u8]) -> LogPosition {
        let offset = self.segment_bytes();
        if self.pieces.last().is_none_or(|piece| piece.segment.segment != self.segment.segment) {
            self.open_piece(offset);
        }
        let piece = self.pieces.last_mut().expect("opened above");
        encode_record(
            &mut piece.bytes,
            (self.segment.segment, offset),
            self.appended,
            synced,
            payload,
        );
        let bytes = record_bytes(payload.len());
        self.bytes += bytes;
        self.appended = self.appended.plus(bytes);
        self.appended
    }

    /// The next record goes to a new segment of this number.
    pub(crate) fn rotate(&mut self, segment: u64) {
        self.segment = Header { segment, first_position: self.appended, origin: Origin::Written };
    }

    /// Everything that waits, and an empty piece that opens the present segment where nothing waits for it. `spent` is
    /// memory to be used again.
    pub(crate) fn take(&mut self, spent: Vec<u8>) -> Vec<Piece> {
        self.spent = spent;
        if self.pieces.last().is_none_or(|piece| piece.segment.segment != self.segment.segment) {
            self.open_piece(self.segment_bytes());
        }
        self.bytes = 0;
        std::mem::take(&mut self.pieces)
    }

    fn open_piece(&mut self, offset: u64) {
        let bytes = std::mem::take(&mut self.spent);
        self.pieces.push(Piece { segment: self.segment, offset, bytes });
    }
}

impl Order {
    /// The order that this mode needs.
    pub(crate) const fn of(mode: SyncMode) -> Self {
        match mode {
            SyncMode::Always => Self::Proven,
            SyncMode::Interval(_) | SyncMode::Never => Self::Loose,
        }
    }
}

impl Writer {
    /// Writes into the log directory `dir`.
    pub(crate) const fn new(vfs: Arc<dyn Vfs>, dir: PathBuf, order: Order) -> Self {
        Self {
            vfs,
            dir,
            order,
            current: None,
            written_end: 0,
            length: 0,
            behind: Vec::new(),
            is_dir_behind: false,
            spent: Vec::new(),
        }
    }

    /// Writes a piece, opening its segment if that is a new one. After a full disk the same piece may be written again.
    pub(crate) fn write(&mut self, piece: &Piece) -> io::Result<()> {
        let number = piece.segment.segment;
        let file = match &self.current {
            Some((current, file)) if *current == number => Arc::clone(file),
            Some(_) | None => self.open_segment(piece.segment)?,
        };
        if piece.bytes.is_empty() {
            return Ok(());
        }
        let end = piece.offset + piece.bytes.len() as u64;
        if self.order == Order::Proven && self.length < end {
            let length = end.next_multiple_of(EXTENSION_BYTES);
            file.set_length(length)?;
            self.length = length;
        }
        file.write_at(&piece.bytes, piece.offset)?;
        self.written_end = end;
        Ok(())
    }

    /// Takes back the length that the present segment was given ahead. Not synced: with it the segment ends where it ends.
    pub(crate) fn trim(&mut self) -> io::Result<()> {
        if let Some((_, file)) = &self.current
            && self.written_end < self.length
        {
            file.set_length(self.written_end)?;
            self.length = self.written_end;
        }
        Ok(())
    }

    /// Takes the memory of a piece that was written, to use it again.
    pub(crate) fn retire(&mut self, piece: Piece) {
        let mut bytes = piece.bytes;
        bytes.clear();
        bytes.shrink_to(SPENT_BYTES_MAX);
        self.spent = bytes;
    }

    /// Memory of pieces that were written.
    pub(crate) fn take_spent(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.spent)
    }

    /// What to sync for all that was written. Whoever takes it must sync it, and a failure is fatal: nobody else will.
    pub(crate) fn take_unsynced(&mut self) -> Unsynced {
        let mut files = std::mem::take(&mut self.behind);
        files.extend(self.current.as_ref().map(|(_, file)| Arc::clone(file)));
        let dir = std::mem::take(&mut self.is_dir_behind).then(|| self.dir.clone());
        Unsynced { vfs: Arc::clone(&self.vfs), files, dir }
    }

    fn open_segment(&mut self, header: Header) -> io::Result<Arc<dyn VfsFile>> {
        let file = match self.order {
            Order::Proven => {
                self.trim()?;
                self.take_unsynced().sync()?;
                create_segment(&*self.vfs, &self.dir, header, Order::Proven)?
            }
            Order::Loose => {
                let file = create_segment(&*self.vfs, &self.dir, header, Order::Loose)?;
                self.behind.extend(self.current.take().map(|(_, file)| file));
                self.is_dir_behind = true;
                file
            }
        };
        self.current = Some((header.segment, Arc::clone(&file)));
        (self.written_end, self.length) = (0, 0);
        Ok(file)
    }
}

impl Unsynced {
    /// Makes it durable. A failure is fatal.
    pub(crate) fn sync(&self) -> io::Result<()> {
        if planted::is_on(Bug::LogSyncSkipped) {
            return Ok(());
        }
        self.files.iter().try_for_each(|file| file.sync_data())?;
        self.dir.as_ref().map_or(Ok(()), |dir| self.vfs.sync_dir(dir))
    }
}

fn create_segment(
    vfs: &dyn Vfs,
    dir: &Path,
    header: Header,
    order: Order,
) -> io::Result<Arc<dyn VfsFile>> {
    let name = directory::log_name(header.segment);
    let temporary = temporary(dir, &name);
    let file = vfs.create(&temporary)?;
    file.write_at(&header.encode(), 0)?;
    match order {
        Order::Proven => {
            file.sync_data()?;
            vfs.rename(&temporary, &dir.join(name))?;
            vfs.sync_dir(dir)?;
        }
        Order::Loose => vfs.rename(&temporary, &dir.join(name))?,
    }
    Ok(file)
}
