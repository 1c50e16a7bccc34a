//! The file system as the store sees it: a small trait, so that a test can tear a write or lose a sync.
//!
//! [`Real`] is the machine's; [`simulated::Disk`] keeps everything in memory, counts the calls, and forgets at a power
//! loss what was not synced. Nothing else in `storage` touches a file.
//!
//! What a caller may rely on, and no more: bytes are durable once [`VfsFile::sync_data`] returned, names (creations,
//! renames, links, removals) once [`Vfs::sync_dir`] of their directory returned. A rename within a directory is atomic.

mod real;
pub mod simulated;

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

pub use real::Real;

/// What the names of files end in while they are being written; such files are swept at the next start.
pub const TEMPORARY_SUFFIX: &str = ".tmp";

/// A file system.
pub trait Vfs: Send + Sync + fmt::Debug {
    /// Creates a file of mode 0600, or empties the one that is there; open for reading and writing.
    /// # Errors
    /// The system's.
    fn create(&self, path: &Path) -> io::Result<Arc<dyn VfsFile>>;

    /// Opens a file for reading.
    /// # Errors
    /// The system's; `NotFound` when there is none.
    fn open(&self, path: &Path) -> io::Result<Arc<dyn VfsFile>>;

    /// Gives the file `from` the name `to`, replacing what had it; or the directory `from`, where `to` is no name yet.
    /// # Errors
    /// The system's.
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()>;

    /// Gives the file `from` the second name `to`.
    /// # Errors
    /// The system's; `AlreadyExists` when the name is taken.
    fn link(&self, from: &Path, to: &Path) -> io::Result<()>;

    /// Removes a file's name; open handles go on working.
    /// # Errors
    /// The system's.
    fn remove(&self, path: &Path) -> io::Result<()>;

    /// The names in a directory, sorted. Names that are not UTF-8 are left out: none of ours is.
    /// # Errors
    /// The system's.
    fn list(&self, dir: &Path) -> io::Result<Vec<String>>;

    /// Creates a directory of mode 0700. The parent must exist.
    /// # Errors
    /// The system's; `AlreadyExists` when it is there.
    fn create_dir(&self, path: &Path) -> io::Result<()>;

    /// Removes an empty directory.
    /// # Errors
    /// The system's; `DirectoryNotEmpty` when something is in it.
    fn remove_dir(&self, path: &Path) -> io::Result<()>;

    /// Whether the name exists.
    /// # Errors
    /// The system's.
    fn exists(&self, path: &Path) -> io::Result<bool>;

    /// Makes the names in a directory durable.
    /// # Errors
    /// The system's, never `StorageFull`. Fatal: what was lost will not be reported again.
    fn sync_dir(&self, dir: &Path) -> io::Result<()>;

    /// Takes an exclusive advisory lock on a file and writes `holder` into it; released when the guard is dropped or
    /// the process ends, however it ends.
    /// # Errors
    /// [`LockFailure`].
    fn lock(&self, path: &Path, holder: &str) -> Result<Box<dyn LockGuard>, LockFailure>;

    /// Bytes an unprivileged process may still write to the file system of `dir`.
    /// # Errors
    /// The system's.
    fn free_space(&self, dir: &Path) -> io::Result<u64>;
}

/// An open file.
pub trait VfsFile: Send + Sync + fmt::Debug {
    /// Reads at most `buffer.len()` bytes at `offset`; 0 at the end.
    /// # Errors
    /// The system's.
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize>;

    /// Fills `buffer` from `offset` if that takes no wait for the disk, and says so; else what it then holds is nothing.
    fn read_at_once(&self, buffer: &mut [u8], offset: u64) -> bool {
        let _ = (buffer, offset);
        false
    }

    /// Writes all of `bytes` at `offset`. After a failure any part of them may be there: writing them again is safe.
    /// # Errors
    /// The system's; `StorageFull` when the disk is full.
    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()>;

    /// Makes what was written durable, and the length.
    /// # Errors
    /// The system's, never `StorageFull`. Fatal: a second try may succeed although the bytes are gone.
    fn sync_data(&self) -> io::Result<()>;

    /// The length in bytes.
    /// # Errors
    /// The system's.
    fn length(&self) -> io::Result<u64>;

    /// Takes `bytes` of disk space for this file, from its start.
    /// # Errors
    /// The system's; `StorageFull` when they are not there.
    fn preallocate(&self, bytes: u64) -> io::Result<()>;

    /// Makes the file `length` bytes long. What was never written reads as zeros and takes no space; what is behind the
    /// new end is gone.
    /// # Errors
    /// The system's.
    fn set_length(&self, length: u64) -> io::Result<()>;
}

/// A held lock.
pub trait LockGuard: Send + Sync + fmt::Debug {}

/// Why a lock was not taken.
#[derive(Debug, thiserror::Error)]
pub enum LockFailure {
    /// Another holds it; `holder` is what that one wrote into the file.
    #[error("held by {holder}")]
    Held {
        /// The file's text.
        holder: String,
    },
    /// The file could not be opened, locked or written.
    #[error("cannot lock")]
    Io(#[from] io::Error),
}

/// Whether this error says that the disk is full.
pub(crate) fn is_full(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
}

/// A sync's failure, never told as a full disk: what a sync lost does not come back with space, so it is not tried again.
pub(crate) fn sync_failure(error: io::Error) -> io::Error {
    if is_full(&error) { io::Error::other(error) } else { error }
}

/// Fills `buffer` from `offset`.
/// # Errors
/// `UnexpectedEof` when the file ends before the buffer is full.
pub(crate) fn read_exact_at(
    file: &dyn VfsFile,
    mut buffer: &mut [u8],
    mut offset: u64,
) -> io::Result<()> {
    while !buffer.is_empty() {
        let taken = file.read_at(buffer, offset)?;
        if taken == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        buffer = buffer.get_mut(taken..).unwrap_or_default();
        offset += taken as u64;
    }
    Ok(())
}

/// Reads a small file whole; one longer than `bytes_max` is `InvalidData`.
pub(crate) fn read_whole(vfs: &dyn Vfs, path: &Path, bytes_max: u64) -> io::Result<Vec<u8>> {
    let file = vfs.open(path)?;
    let length = file.length()?;
    if bytes_max < length {
        let message = format!("{length} bytes where at most {bytes_max} are sound");
        return Err(io::Error::new(io::ErrorKind::InvalidData, message));
    }
    let mut bytes = vec![0; usize::try_from(length).map_err(|_| io::ErrorKind::InvalidData)?];
    read_exact_at(&*file, &mut bytes, 0)?;
    Ok(bytes)
}

/// Writes a file so that its name shows either nothing, what it showed before, or all of `bytes`, durably: temporary
/// file, sync, rename, sync of the directory.
pub(crate) fn write_atomically(
    vfs: &dyn Vfs,
    dir: &Path,
    name: &str,
    bytes: &[u8],
) -> io::Result<()> {
    let (temporary, path) = (temporary(dir, name), dir.join(name));
    let file = vfs.create(&temporary)?;
    file.write_at(bytes, 0)?;
    file.sync_data()?;
    vfs.rename(&temporary, &path)?;
    vfs.sync_dir(dir)
}

/// The name a file has while it is being written.
pub(crate) fn temporary(dir: &Path, name: &str) -> PathBuf {
    dir.join(format!("{name}{TEMPORARY_SUFFIX}"))
}

/// Creates the directory unless it exists. Its name is not durable yet.
pub(crate) fn ensure_dir(vfs: &dyn Vfs, dir: &Path) -> io::Result<()> {
    match vfs.create_dir(dir) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => Err(error),
        Ok(()) | Err(_) => Ok(()),
    }
}
