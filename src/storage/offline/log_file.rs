//! One segment of a commit log by its path.

use std::path::{Path, PathBuf};

use super::OfflineError;
use crate::storage::batch::{self, Change};
use crate::storage::log::LogPosition;
use crate::storage::log::reader::{BadRecord, OpenSegmentError, SegmentReader};
use crate::storage::vfs::Vfs;

/// One segment, read record by record; a bad place is told, and reading goes on at the next sound record.
#[derive(Debug)]
pub struct LogFile {
    path: PathBuf,
    reader: SegmentReader,
    /// The last place was bad: the next sound record must be looked for.
    lost: bool,
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
    /// Bytes that are none, up to the next record or the end.
    Bad(BadRecord),
}

impl LogFile {
    /// Opens the segment at `path`.
    /// # Errors
    /// [`OfflineError`].
    pub fn open(vfs: &dyn Vfs, path: &Path) -> Result<Self, OfflineError> {
        let file = path.to_owned();
        match SegmentReader::open(vfs, path) {
            Ok(reader) => Ok(Self { path: file, reader, lost: false }),
            Err(OpenSegmentError::Io(source)) => Err(OfflineError::Io { file, source }),
            Err(OpenSegmentError::Header(reason)) => Err(OfflineError::Malformed { file, reason }),
        }
    }

    /// The segment's number.
    pub const fn segment(&self) -> u64 {
        self.reader.header().segment
    }

    /// Where in the stream its first record starts.
    pub const fn first_position(&self) -> LogPosition {
        self.reader.header().first_position
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
        if std::mem::take(&mut self.lost) && !self.reader.skip_to_sound().map_err(io)? {
            return Ok(None);
        }
        let io = |source| OfflineError::Io { file: self.path.clone(), source };
        Ok(match self.reader.next().map_err(io)? {
            None => None,
            Some(Err(bad)) => {
                self.lost = true;
                Some(LogItem::Bad(bad))
            }
            Some(Ok(record)) => {
                let (offset, bytes) = (record.offset, record.bytes());
                Some(match batch::decode(&record.payload) {
                    Ok(changes) => {
                        let (end, synced) = (record.end, record.synced);
                        LogItem::Record(LogRecord { offset, bytes, end, synced, changes })
                    }
                    Err(error) => {
                        let position = LogPosition::new(record.end.get() - bytes);
                        LogItem::Bad(BadRecord { offset, position, reason: error.to_string() })
                    }
                })
            }
        })
    }
}

impl Iterator for LogFile {
    type Item = Result<LogItem, OfflineError>;

    fn next(&mut self) -> Option<Self::Item> {
        self.next_item().transpose()
    }
}
