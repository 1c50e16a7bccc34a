//! A data directory: which file is where, and what it is called.
//!
//! ```text
//! IDENTITY  LOCK                            this node, who runs on it
//! RESERVE-LOG  RESERVE-JOBS                 disk space kept back
//! log/NNNNNNNN.log                          the commit log's segments
//! sst/NNNNNNNN.sst                          the SSTables
//! manifest/CURRENT                          the number of the manifest that counts
//! manifest/NNNNNNNN.manifest                which tables and segments make up the store
//! snapshots/                                hard-linked copies, see `storage::snapshots`
//! damaged/                                  logs and tables set aside, under their names; nothing deletes them
//! ```
//! Numbers of tables and segments come from one counter and are never used twice.

use std::io;
use std::path::{Path, PathBuf};

use super::vfs::Vfs;

/// Names in a data directory.
pub(crate) const LOG: &str = "log";
pub(crate) const TABLES: &str = "sst";
pub(crate) const MANIFEST: &str = "manifest";
pub(crate) const SNAPSHOTS: &str = "snapshots";
pub(crate) const DAMAGED: &str = "damaged";
pub(crate) const RESERVE_LOG: &str = "RESERVE-LOG";
pub(crate) const RESERVE_JOBS: &str = "RESERVE-JOBS";
pub(crate) const CURRENT: &str = "CURRENT";

const LOG_SUFFIX: &str = ".log";
const TABLE_SUFFIX: &str = ".sst";
const MANIFEST_SUFFIX: &str = ".manifest";

/// The paths in one data directory.
#[derive(Debug, Clone)]
pub(crate) struct Directory {
    pub(crate) root: PathBuf,
    pub(crate) log: PathBuf,
    pub(crate) tables: PathBuf,
    pub(crate) manifest: PathBuf,
    pub(crate) damaged: PathBuf,
}

impl Directory {
    pub(crate) fn new(root: &Path) -> Self {
        Self {
            root: root.to_owned(),
            log: root.join(LOG),
            tables: root.join(TABLES),
            manifest: root.join(MANIFEST),
            damaged: root.join(DAMAGED),
        }
    }

    pub(crate) fn table(&self, number: u64) -> PathBuf {
        self.tables.join(table_name(number))
    }

    /// Where a damaged table is kept.
    pub(crate) fn set_aside(&self, number: u64) -> PathBuf {
        self.damaged.join(table_name(number))
    }

    pub(crate) fn segment(&self, number: u64) -> PathBuf {
        self.log.join(log_name(number))
    }
}

/// Gives a damaged file a second name in `damaged/`, durably; the caller takes the first one away, then or later.
pub(crate) fn keep_damaged(vfs: &dyn Vfs, directory: &Directory, file: &Path) -> io::Result<()> {
    let name = file.file_name().unwrap_or_default();
    match vfs.link(file, &directory.damaged.join(name)) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
        Ok(()) | Err(_) => {}
    }
    vfs.sync_dir(&directory.damaged)
}

pub(crate) fn log_name(number: u64) -> String {
    format!("{number:08}{LOG_SUFFIX}")
}

pub(crate) fn table_name(number: u64) -> String {
    format!("{number:08}{TABLE_SUFFIX}")
}

pub(crate) fn manifest_name(number: u64) -> String {
    format!("{number:08}{MANIFEST_SUFFIX}")
}

/// The number in the name of a segment.
pub(crate) fn log_number(name: &str) -> Option<u64> {
    number(name, LOG_SUFFIX)
}

/// The number in the name of an SSTable.
pub(crate) fn table_number(name: &str) -> Option<u64> {
    number(name, TABLE_SUFFIX)
}

/// The number in the name of a manifest.
pub(crate) fn manifest_number(name: &str) -> Option<u64> {
    number(name, MANIFEST_SUFFIX)
}

/// Only the spelling that we write counts.
fn number(name: &str, suffix: &str) -> Option<u64> {
    let number = name.strip_suffix(suffix)?.parse().ok()?;
    (format!("{number:08}{suffix}") == name).then_some(number)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_numbers_go_both_ways() {
        assert_eq!(table_name(42), "00000042.sst");
        assert_eq!(table_number("00000042.sst"), Some(42));
        assert_eq!(log_number(&log_name(123_456_789)), Some(123_456_789));
        for name in ["42.sst", "+0000042.sst", "00000042.sst.tmp", "00000042.log"] {
            assert_eq!(table_number(name), None, "{name}");
        }
    }
}
