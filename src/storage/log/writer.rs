//! The writing side: a buffer that takes records, and the file that they go to.
//!
//! They are two so that later writes fill the buffer while an earlier group is being synced.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::{HEADER_BYTES, Header, LogPosition, encode_record, record_bytes};
use crate::storage::directory;
use crate::storage::vfs::{Vfs, VfsFile, temporary};

/// Records that were accepted and not yet written: pieces of segments, in order.
#[derive(Debug)]
pub(crate) struct Buffer {
    pieces: Vec<Piece>,
    segment: Header,
    appended: LogPosition,
    bytes: usize,
}

/// Consecutive records of one segment.
#[derive(Debug)]
pub(crate) struct Piece {
    segment: Header,
    offset: u64,
    bytes: Vec<u8>,
}

/// The segment that is being written.
#[derive(Debug)]
pub(crate) struct Writer {
    vfs: Arc<dyn Vfs>,
    dir: PathBuf,
    /// None until the first record.
    current: Option<(u64, Arc<dyn VfsFile>)>,
}

impl Buffer {
    /// Empty; the first record opens `segment`.
    pub(crate) const fn new(segment: Header) -> Self {
        Self { pieces: Vec::new(), segment, appended: segment.first_position, bytes: 0 }
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
        self.segment = Header { segment, first_position: self.appended };
    }

    /// Everything that waits, and an empty piece that opens the present segment where nothing waits for it.
    pub(crate) fn take(&mut self) -> Vec<Piece> {
        if self.pieces.last().is_none_or(|piece| piece.segment.segment != self.segment.segment) {
            self.open_piece(self.segment_bytes());
        }
        self.bytes = 0;
        std::mem::take(&mut self.pieces)
    }

    fn open_piece(&mut self, offset: u64) {
        self.pieces.push(Piece { segment: self.segment, offset, bytes: Vec::new() });
    }
}

impl Writer {
    /// Writes into the log directory `dir`.
    pub(crate) const fn new(vfs: Arc<dyn Vfs>, dir: PathBuf) -> Self {
        Self { vfs, dir, current: None }
    }

    /// Writes a piece, opening its segment if that is a new one. After a full disk the same piece may be written again.
    pub(crate) fn write(&mut self, piece: &Piece) -> io::Result<()> {
        let number = piece.segment.segment;
        let file = match &self.current {
            Some((current, file)) if *current == number => Arc::clone(file),
            Some(_) | None => self.open_segment(piece.segment)?,
        };
        if piece.bytes.is_empty() { Ok(()) } else { file.write_at(&piece.bytes, piece.offset) }
    }

    /// Makes everything written durable. A failure is fatal.
    pub(crate) fn sync(&self) -> io::Result<()> {
        self.current.as_ref().map_or(Ok(()), |(_, file)| file.sync_data())
    }

    /// The segment before is synced to its end first, so that a segment's existence proves that.
    fn open_segment(&mut self, header: Header) -> io::Result<Arc<dyn VfsFile>> {
        self.sync()?;
        let file = create_segment(&*self.vfs, &self.dir, header)?;
        self.current = Some((header.segment, Arc::clone(&file)));
        Ok(file)
    }
}

fn create_segment(vfs: &dyn Vfs, dir: &Path, header: Header) -> io::Result<Arc<dyn VfsFile>> {
    let name = directory::log_name(header.segment);
    let temporary = temporary(dir, &name);
    let file = vfs.create(&temporary)?;
    file.write_at(&header.encode(), 0)?;
    file.sync_data()?;
    vfs.rename(&temporary, &dir.join(name))?;
    vfs.sync_dir(dir)?;
    Ok(file)
}
