//! Reads one segment: its records, the first bad place, and what comes after it.

#![warn(clippy::indexing_slicing)]

use std::io;
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;

use super::{
    HEADER_BYTES, Header, LogPosition, Origin, RECORD_ALIGNMENT, RECORD_HEADER_BYTES, RecordHeader,
    record_bytes,
};
use crate::planted::{self, Bug};
use crate::storage::batch::BATCH_BYTES_MAX;
use crate::storage::checksum::checksum;
use crate::storage::vfs::{Vfs, VfsFile, read_exact_at};

/// Bytes read at once.
const CHUNK_BYTES: usize = 1 << 20;
/// Zeros that are compared at once.
const ZEROS: [u8; 4 << 10] = [0; 4 << 10];
/// Bytes of a record in front of what its checksum covers.
const CHECKSUM_BYTES: usize = 8;

/// A sound record.
#[derive(Debug, Clone)]
pub(crate) struct Record {
    /// Where it starts in the file.
    pub(crate) offset: u64,
    /// Where it ends in the stream: the position of its write.
    pub(crate) end: LogPosition,
    /// Up to where the stream was known to be synced when it was written.
    pub(crate) synced: LogPosition,
    /// The batch.
    pub(crate) payload: Bytes,
}

impl Record {
    /// Bytes it takes in the log.
    pub(crate) const fn bytes(&self) -> u64 {
        record_bytes(self.payload.len()) as u64
    }
}

/// A place where no sound record stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BadRecord {
    /// Where in the file.
    pub offset: u64,
    /// Where in the stream.
    pub position: LogPosition,
    /// What is wrong.
    pub reason: String,
}

/// One segment, open for reading.
#[derive(Debug)]
pub(crate) struct SegmentReader {
    file: Arc<dyn VfsFile>,
    header: Header,
    /// The header's position is still to be learned from a record.
    is_headless: bool,
    length: u64,
    offset: u64,
    /// Bytes of the file from `chunk_start`; records are parts of it.
    chunk: Bytes,
    chunk_start: u64,
}

/// Why a segment could not be opened.
#[derive(Debug, thiserror::Error)]
pub(crate) enum OpenSegmentError {
    #[error("cannot read")]
    Io(#[from] io::Error),
    #[error("{0}")]
    Header(String),
}

impl SegmentReader {
    pub(crate) fn open(vfs: &dyn Vfs, path: &Path) -> Result<Self, OpenSegmentError> {
        let file = vfs.open(path)?;
        let length = file.length()?;
        let mut header = vec![0; usize::try_from(length).unwrap_or(usize::MAX).min(HEADER_BYTES)];
        read_exact_at(&*file, &mut header, 0)?;
        let header = Header::decode(&header).map_err(OpenSegmentError::Header)?;
        Ok(Self {
            file,
            header,
            is_headless: false,
            length,
            offset: HEADER_BYTES as u64,
            chunk: Bytes::new(),
            chunk_start: 0,
        })
    }

    /// Opens a segment whose header is lost. Its number is what its name says; where it begins is told by the first sound
    /// record, which is bound to number and place.
    pub(crate) fn open_headless(vfs: &dyn Vfs, path: &Path, segment: u64) -> io::Result<Self> {
        let file = vfs.open(path)?;
        let length = file.length()?;
        Ok(Self {
            file,
            header: Header { segment, first_position: LogPosition::ZERO, origin: Origin::Written },
            is_headless: true,
            length,
            offset: HEADER_BYTES as u64,
            chunk: Bytes::new(),
            chunk_start: 0,
        })
    }

    pub(crate) const fn header(&self) -> Header {
        self.header
    }

    /// The file's length in bytes.
    pub(crate) const fn length(&self) -> u64 {
        self.length
    }

    /// Where the next record starts in the file.
    pub(crate) const fn offset(&self) -> u64 {
        self.offset
    }

    /// Where the next record starts in the stream.
    pub(crate) const fn position(&self) -> LogPosition {
        let inside = self.offset - HEADER_BYTES as u64;
        LogPosition::new(self.header.first_position.get().saturating_add(inside))
    }

    /// Where the last byte ends that is not zero, `start` if none is behind it.
    pub(crate) fn written_end(&self, start: u64) -> io::Result<u64> {
        let (mut offset, mut end) = (start, start);
        let behind = usize::try_from(self.length.saturating_sub(start)).unwrap_or(usize::MAX);
        let mut chunk = vec![0; behind.min(CHUNK_BYTES)];
        while offset < self.length {
            let count = usize::try_from(self.length - offset).unwrap_or(usize::MAX);
            let piece = chunk.get_mut(..count.min(CHUNK_BYTES)).unwrap_or_default();
            read_exact_at(&*self.file, piece, offset)?;
            end = nonzero_end(piece).map_or(end, |inside| offset + inside as u64);
            offset += piece.len() as u64;
        }
        Ok(end)
    }

    /// The next record, a part of a chunk that was read with it; `None` where nothing but zeros follows. A bad one stays next: see [`Self::skip_to_sound`].
    pub(crate) fn next(&mut self) -> io::Result<Option<Result<Record, BadRecord>>> {
        if self.offset >= self.length {
            return Ok(None);
        }
        Ok(Some(match self.read_here()? {
            Ok(record) => {
                self.offset += record_bytes(record.payload.len()) as u64;
                Ok(record)
            }
            Err(_) if self.is_blank_from_here()? => return Ok(None),
            Err(reason) => {
                Err(BadRecord { offset: self.offset, position: self.position(), reason })
            }
        }))
    }

    /// Goes on to the next place where a sound record stands; false at the end. Its cost is a glance at each eighth byte.
    pub(crate) fn skip_to_sound(&mut self) -> io::Result<bool> {
        loop {
            self.offset += RECORD_ALIGNMENT as u64;
            if self.offset >= self.length {
                self.offset = self.length;
                return Ok(false);
            }
            if self.read_here()?.is_ok() {
                return Ok(true);
            }
        }
    }

    fn read_here(&mut self) -> io::Result<Result<Record, String>> {
        let head = self.peek(RECORD_HEADER_BYTES)?.and_then(|range| self.chunk.get(range));
        let Some(Ok(head)) = head.map(RecordHeader::decode) else {
            return Ok(Err(self.cut_short()));
        };
        let inside = self.offset - HEADER_BYTES as u64;
        let first = head.position.get().checked_sub(inside).filter(|_| self.is_headless);
        let position = first.map_or_else(|| self.position(), |_| head.position);
        if head.position != position || head.length > BATCH_BYTES_MAX {
            return Ok(Err("no record starts here".to_owned()));
        }
        let bytes = record_bytes(head.length);
        let Some(range) = self.peek(bytes)? else { return Ok(Err(self.cut_short())) };
        let record = self.chunk.slice(range);
        let computed = checksum(
            self.header.segment,
            self.offset,
            record.get(CHECKSUM_BYTES..).unwrap_or_default(),
        );
        if computed != head.checksum && !planted::is_on(Bug::LogChecksumUnread) {
            return Ok(Err(format!("checksum {:016x}, computed {computed:016x}", head.checksum)));
        }
        if let Some(first) = first {
            self.header.first_position = LogPosition::new(first);
            self.is_headless = false;
        }
        let payload = record.slice(RECORD_HEADER_BYTES..RECORD_HEADER_BYTES + head.length);
        Ok(Ok(Record {
            offset: self.offset,
            end: LogPosition::new(position.get().saturating_add(bytes as u64)),
            synced: head.synced,
            payload,
        }))
    }

    /// Whether nothing but zeros follows. Cheap where something does.
    fn is_blank_from_here(&mut self) -> io::Result<bool> {
        let left = usize::try_from(self.length - self.offset).unwrap_or(usize::MAX);
        let head = self.peek(left.min(RECORD_HEADER_BYTES))?;
        let head = head.and_then(|range| self.chunk.get(range)).unwrap_or_default();
        Ok(head.iter().all(|byte| *byte == 0) && self.written_end(self.offset)? == self.offset)
    }

    fn cut_short(&self) -> String {
        format!("cut short: the file ends at byte {}", self.length)
    }

    /// Where in the chunk the next `count` bytes are, or `None` when the file ends before.
    fn peek(&mut self, count: usize) -> io::Result<Option<Range<usize>>> {
        if self.length - self.offset < count as u64 {
            return Ok(None);
        }
        let inside = usize::try_from(self.offset - self.chunk_start).ok();
        let inside = inside.filter(|start| start + count <= self.chunk.len());
        if let Some(start) = inside {
            return Ok(Some(start..start + count));
        }
        let left = usize::try_from(self.length - self.offset).unwrap_or(usize::MAX);
        let mut chunk = vec![0; left.min(CHUNK_BYTES.max(count))];
        read_exact_at(&*self.file, &mut chunk, self.offset)?;
        (self.chunk, self.chunk_start) = (Bytes::from(chunk), self.offset);
        Ok(Some(0..count))
    }
}

/// Behind its last byte that is not zero; `None` where all are zeros.
fn nonzero_end(bytes: &[u8]) -> Option<usize> {
    let zeros =
        bytes.rchunks(ZEROS.len()).take_while(|piece| ZEROS.get(..piece.len()) == Some(*piece));
    let written = bytes.get(..bytes.len() - zeros.map(<[u8]>::len).sum::<usize>())?;
    written.iter().rposition(|byte| *byte != 0).map(|last| last + 1)
}

#[cfg(test)]
mod tests {
    use super::super::encode_record;
    use super::*;
    use crate::storage::vfs::simulated::Disk;

    /// A segment of records with these payloads, each `0` instead a gap of zeros as long as a record of one byte.
    fn segment(payloads: &[u8]) -> SegmentReader {
        let header =
            Header { segment: 7, first_position: LogPosition::new(80), origin: Origin::Written };
        let mut bytes = header.encode().to_vec();
        for payload in payloads {
            let offset = bytes.len() as u64;
            let position = header.first_position.plus(bytes.len() - HEADER_BYTES);
            match payload {
                0 => bytes.resize(bytes.len() + record_bytes(1), 0),
                byte => {
                    encode_record(&mut bytes, (7, offset), position, LogPosition::ZERO, &[*byte]);
                }
            }
        }
        let (disk, path) = (Disk::new(0), Path::new("7.log"));
        disk.create(path).unwrap().write_at(&bytes, 0).unwrap();
        SegmentReader::open(&disk, path).unwrap()
    }

    /// The payloads read, `None` for a bad place that a sound record follows.
    #[track_caller]
    fn check(payloads: &[u8], expected: &[Option<u8>]) {
        let mut reader = segment(payloads);
        let mut found = Vec::new();
        while let Some(next) = reader.next().unwrap() {
            found.push(next.ok().map(|record| record.payload[0]));
            assert!(found.last() != Some(&None) || reader.skip_to_sound().unwrap());
        }
        assert_eq!(found, expected);
    }

    #[test]
    fn a_segment_ends_where_only_zeros_follow_and_zeros_before_a_record_are_bad() {
        check(&[1, 2], &[Some(1), Some(2)]);
        check(&[1, 0, 0], &[Some(1)]);
        check(&[0], &[]);
        check(&[1, 0, 2, 0], &[Some(1), None, Some(2)]);
    }
}
