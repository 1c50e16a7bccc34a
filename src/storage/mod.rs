//! Storage: one LSM store per node. (Placeholder shapes; the storage branch replaces this file.)

use bytes::Bytes;

/// Where in the log a write ends.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LogPosition(pub u64);
/// What a read found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Found {
    /// The value, if any.
    pub value: Option<Bytes>,
    /// The log position of a memtable entry; the default from tables or nowhere.
    pub position: LogPosition,
}
/// One slice of a scan.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ScanSlice {
    /// Ascending.
    pub entries: Vec<(Bytes, Bytes)>,
    /// Where to go on; `None` at the end.
    pub next: Option<Bytes>,
}
/// Why a read failed.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// A block does not match its checksum.
    #[error("corrupt")]
    Corrupt,
}
