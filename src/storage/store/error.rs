//! What can go wrong with a store that is open.

use std::io;
use std::path::PathBuf;

use crate::storage::table::ReadError;

/// An earlier failure of the disk: the store takes no more writes, and the process should end.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the store failed: {reason}")]
pub struct Failed {
    /// What happened first.
    pub reason: String,
}

/// Why a batch was not taken. Nothing of it was applied.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum WriteError {
    /// The disk is full. Reads go on; so do batches on the reserve.
    #[error("the disk is full")]
    Full,
    /// The disk does not keep up. Try again once it did some jobs.
    #[error("too much {waiting}")]
    Overloaded {
        /// What has piled up.
        waiting: &'static str,
    },
    /// One batch cannot be as large as this.
    #[error("a batch of {bytes} bytes, more than {bytes_max}")]
    TooLarge {
        /// Its size.
        bytes: usize,
        /// The largest.
        bytes_max: usize,
    },
    /// See there.
    #[error(transparent)]
    Failed(#[from] Failed),
}

/// Why a job was not done.
#[derive(Debug, thiserror::Error)]
pub enum JobError {
    /// The disk is full; the job is due again when there is space.
    #[error("the disk is full")]
    Full,
    /// The system would not read a table that a merge needs. The merge is due again after some calls of
    /// [`Store::check_space`](super::Store::check_space), of more each time; damage is no error, a merge goes through it.
    #[error("cannot merge")]
    Read(#[from] ReadError),
    /// See there.
    #[error(transparent)]
    Failed(#[from] Failed),
}

/// Why a snapshot was not made. What there is of it may be removed.
#[derive(Debug, thiserror::Error)]
pub enum SnapshotError {
    /// The flush before it failed.
    #[error("cannot flush")]
    Flush(#[from] JobError),
    /// The system's error.
    #[error("cannot write {}", path.display())]
    Io {
        /// What could not be made.
        path: PathBuf,
        /// The cause.
        source: io::Error,
    },
}
