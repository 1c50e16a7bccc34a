//! One segment of a commit log by its path.

use std::path::{Path, PathBuf};

use super::OfflineError;
use crate::storage::batch::{self, Change};
use crate::storage::log::LogPosition;
use crate::storage::log::reader::{BadRecord, OpenSegmentError, Record, SegmentReader};
use crate::storage::vfs::Vfs;

/// One segment, read record by record; a bad place is told, and reading goes on at the next sound record.
#[derive(Debug)]
pub struct LogFile {
    path: PathBuf,
    reader: SegmentReader,
}

/// A sound record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogRecord {
    /// Where it starts in the file.
    pub offset: u64,
    /// Bytes it takes.
    pub bytes: u64,
    /// The position of its write.
    pub end: LogPosition,
    /// Up to where the log was known to be synced when it was written.
    pub synced: LogPosition,
    /// What it changes.
    pub changes: Vec<Change>,
}

/// What stands at a place of a log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LogItem {
    /// A record.
    Record(LogRecord),
    /// Bytes that are none, in front of a sound record.
    Bad(BadRecord),
    /// Bytes that are none, up to the end: a record that was never finished, or damage.
    Torn(BadRecord),
}

/// What a segment holds.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct LogSummary {
    /// Sound records.
    pub records: u64,
    /// Where the sound part ends, if that is before the file's end.
    pub torn: Option<BadRecord>,
    /// Bytes of the file.
    pub bytes: u64,
}

impl LogFile {
    /// Opens the segment at `path`.
    /// # Errors
    /// [`OfflineError`].
    pub fn open(vfs: &dyn Vfs, path: &Path) -> Result<Self, OfflineError> {
        let file = path.to_owned();
        match SegmentReader::open(vfs, path) {
            Ok(reader) => Ok(Self { path: file, reader }),
            Err(OpenSegmentError::Io(source)) => Err(OfflineError::Io { file, source }),
            Err(OpenSegmentError::Header(reason)) => Err(OfflineError::Malformed { file, reason }),
        }
    }

    /// Opens a segment whose header is lost.
    pub(super) fn open_headless(
        vfs: &dyn Vfs,
        path: &Path,
        segment: u64,
    ) -> Result<Self, OfflineError> {
        let file = path.to_owned();
        match SegmentReader::open_headless(vfs, path, segment) {
            Ok(reader) => Ok(Self { path: file, reader }),
            Err(source) => Err(OfflineError::Io { file, source }),
        }
    }

    /// Its path.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The segment's number.
    pub const fn segment(&self) -> u64 {
        self.reader.header().segment
    }

    /// Where in the stream its first record starts.
    pub const fn first_position(&self) -> LogPosition {
        self.reader.header().first_position
    }

    /// Where in the stream the next record would start.
    pub const fn position(&self) -> LogPosition {
        self.reader.position()
    }

    /// Bytes of the file.
    pub const fn bytes(&self) -> u64 {
        self.reader.length()
    }

    /// What comes next; `None` at the end.
    /// # Errors
    /// [`OfflineError::Io`].
    pub fn next_item(&mut self) -> Result<Option<LogItem>, OfflineError> {
        let io = |source| OfflineError::Io { file: self.path.clone(), source };
        Ok(match self.reader.next().map_err(io)? {
            None => None,
            Some(Ok(record)) => Some(decoded(&record)),
            Some(Err(bad)) if self.reader.skip_to_sound().map_err(io)? => Some(LogItem::Bad(bad)),
            Some(Err(bad)) => Some(LogItem::Torn(bad)),
        })
    }

    /// Reads to the end; `tell` hears of damage in front of sound records.
    /// # Errors
    /// [`OfflineError::Io`].
    pub fn verify(mut self, tell: &mut dyn FnMut(BadRecord)) -> Result<LogSummary, OfflineError> {
        let mut summary = LogSummary { bytes: self.bytes(), ..LogSummary::default() };
        while let Some(item) = self.next_item()? {
            match item {
                LogItem::Record(_) => summary.records += 1,
                LogItem::Bad(bad) => tell(bad),
                LogItem::Torn(bad) => summary.torn = Some(bad),
            }
        }
        Ok(summary)
    }
}

impl Iterator for LogFile {
    type Item = Result<LogItem, OfflineError>;

    fn next(&mut self) -> Option<Self::Item> {
        self.next_item().transpose()
    }
}

fn decoded(record: &Record) -> LogItem {
    let (offset, bytes) = (record.offset, record.bytes());
    match batch::decode(&record.payload) {
        Ok(changes) => {
            let (end, synced) = (record.end, record.synced);
            LogItem::Record(LogRecord { offset, bytes, end, synced, changes })
        }
        Err(error) => {
            let position = LogPosition::new(record.end.get() - bytes);
            LogItem::Bad(BadRecord { offset, position, reason: error.to_string() })
        }
    }
}
