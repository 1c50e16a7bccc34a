//! Readers for the files of a store that is not opened: by the path of one file, or of a directory.
//!
//! Nothing here takes a lock or changes what it reads; all of it is safe beside a running node. Damage is told and passed
//! over, and memory stays bounded: a block, an index, a record at a time.

mod build;
mod directory;
mod held;
mod log_file;
mod manifest_file;
mod merge;
mod salvage;
mod table_file;
#[cfg(test)]
mod tests;

use std::io;
use std::path::PathBuf;

pub use build::{TableBuilder, TableOptions, WrittenTable};
pub use directory::{DirectoryView, Place, PlacedEntry, ViewTable, holds_store};
pub use log_file::{LogFile, LogItem, LogRecord, LogSummary};
pub use manifest_file::{ManifestEdit, ManifestFile, ManifestItem};
pub use merge::{MergedEntries, merged_age, merged_tables};
pub use salvage::{Lost, SalvagedLog, SalvagedTable, salvage_log, salvage_table, salvaged_segment};
pub use table_file::{
    BadBlock, BlockKind, BloomShape, Depth, Located, TableEntries, TableFile, TableInfo,
};

pub use super::batch::Change;
pub use super::log::reader::BadRecord;
pub use super::manifest::reader::BadEdit;
pub use super::manifest::{Edit, TableMeta};

/// Why a file cannot be read at all.
#[derive(Debug, thiserror::Error)]
pub enum OfflineError {
    /// The system's error.
    #[error("cannot read {}", file.display())]
    Io {
        /// The file.
        file: PathBuf,
        /// The cause.
        source: io::Error,
    },
    /// Nothing of it can be made sense of.
    #[error("{}: {reason}", file.display())]
    Malformed {
        /// The file.
        file: PathBuf,
        /// Why.
        reason: String,
    },
    /// A block without which nothing of it can be read.
    #[error(transparent)]
    BadBlock(Box<BadBlock>),
    /// The directory has no manifest.
    #[error("{} holds no store", dir.display())]
    NoStore {
        /// The directory.
        dir: PathBuf,
    },
    /// The output cannot be written.
    #[error("cannot write {}", file.display())]
    Write {
        /// The file or directory.
        file: PathBuf,
        /// The cause.
        source: io::Error,
    },
    /// Entries to be written are out of order.
    #[error("key {} does not come after {}", .key.escape_ascii(), .before.escape_ascii())]
    Order {
        /// The key.
        key: bytes::Bytes,
        /// The one before it.
        before: bytes::Bytes,
    },
}
