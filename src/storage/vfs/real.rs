//! The machine's own file system.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read as _, Seek as _, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, FileExt as _, OpenOptionsExt as _};
use std::path::Path;
use std::sync::Arc;

use nix::errno::Errno;
use nix::fcntl::{FallocateFlags, Flock, FlockArg, fallocate};
use nix::sys::statvfs::statvfs;
use rustix::io::{ReadWriteFlags, preadv2};

use super::{LockFailure, LockGuard, Vfs, VfsFile, sync_failure};

/// Modes of what a node writes: nobody else reads its data.
const FILE_MODE: u32 = 0o600;
const DIRECTORY_MODE: u32 = 0o700;
/// Piece in which space is taken where the file system cannot preallocate, in bytes.
const ZEROS_BYTES: usize = 64 << 10;
/// Longest holder text read from a lock file, in bytes.
const HOLDER_BYTES_MAX: u64 = 64;

/// The machine's file system, through `std::fs`.
#[derive(Debug, Clone, Copy, Default)]
pub struct Real;

#[derive(Debug)]
struct RealFile(File);

#[derive(Debug)]
struct RealLock(
    #[expect(dead_code, reason = "held for its drop, which releases the lock")] Flock<File>,
);

impl LockGuard for RealLock {}

impl Vfs for Real {
    fn create(&self, path: &Path) -> io::Result<Arc<dyn VfsFile>> {
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(true)
            .mode(FILE_MODE)
            .open(path)?;
        Ok(Arc::new(RealFile(file)))
    }

    fn open(&self, path: &Path) -> io::Result<Arc<dyn VfsFile>> {
        Ok(Arc::new(RealFile(File::open(path)?)))
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        fs::rename(from, to)
    }

    fn link(&self, from: &Path, to: &Path) -> io::Result<()> {
        fs::hard_link(from, to)
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        fs::remove_file(path)
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<String>> {
        let mut names = Vec::new();
        for entry in fs::read_dir(dir)? {
            names.extend(entry?.file_name().into_string().ok());
        }
        names.sort_unstable();
        Ok(names)
    }

    fn create_dir(&self, path: &Path) -> io::Result<()> {
        fs::DirBuilder::new().mode(DIRECTORY_MODE).create(path)
    }

    fn remove_dir(&self, path: &Path) -> io::Result<()> {
        fs::remove_dir(path)
    }

    fn exists(&self, path: &Path) -> io::Result<bool> {
        path.try_exists()
    }

    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        // The parent of a relative name of one component is the empty path.
        let dir = if dir.as_os_str().is_empty() { Path::new(".") } else { dir };
        File::open(dir)?.sync_all().map_err(sync_failure)
    }

    fn lock(&self, path: &Path, holder: &str) -> Result<Box<dyn LockGuard>, LockFailure> {
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(FILE_MODE)
            .open(path)?;
        match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
            Ok(mut held) => {
                held.set_len(0)?;
                held.rewind()?;
                held.write_all(holder.as_bytes())?;
                Ok(Box::new(RealLock(held)))
            }
            Err((file, Errno::EWOULDBLOCK)) => {
                let mut holder = String::new();
                file.take(HOLDER_BYTES_MAX).read_to_string(&mut holder)?;
                Err(LockFailure::Held { holder: holder.trim().to_owned() })
            }
            Err((_, errno)) => Err(LockFailure::Io(errno.into())),
        }
    }

    fn free_space(&self, dir: &Path) -> io::Result<u64> {
        let space = statvfs(dir)?;
        Ok(space.blocks_available().saturating_mul(space.fragment_size()))
    }
}

impl VfsFile for RealFile {
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        loop {
            match self.0.read_at(buffer, offset) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                other => return other,
            }
        }
    }

    fn read_at_once(&self, buffer: &mut [u8], offset: u64) -> bool {
        let wanted = buffer.len();
        let mut parts = [io::IoSliceMut::new(buffer)];
        // Where the page cache holds less than all, it gives that, or says that it would wait.
        preadv2(&self.0, &mut parts, offset, ReadWriteFlags::NOWAIT)
            .is_ok_and(|read| read == wanted)
    }

    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        self.0.write_all_at(bytes, offset)
    }

    fn sync_data(&self) -> io::Result<()> {
        self.0.sync_data().map_err(sync_failure)
    }

    fn length(&self) -> io::Result<u64> {
        Ok(self.0.metadata()?.len())
    }

    fn preallocate(&self, bytes: u64) -> io::Result<()> {
        let length = i64::try_from(bytes).map_err(|_| io::ErrorKind::InvalidInput)?;
        match fallocate(&self.0, FallocateFlags::empty(), 0, length) {
            Ok(()) => Ok(()),
            Err(Errno::EOPNOTSUPP) => fill_with_zeros(&self.0, bytes),
            Err(errno) => Err(errno.into()),
        }
    }

    fn set_length(&self, length: u64) -> io::Result<()> {
        self.0.set_len(length)
    }
}

fn fill_with_zeros(file: &File, bytes: u64) -> io::Result<()> {
    let zeros = vec![0; ZEROS_BYTES];
    (0..bytes).step_by(ZEROS_BYTES).try_for_each(|offset| file.write_all_at(&zeros, offset))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    #[test]
    fn files_and_directories_are_the_owners_alone() {
        let dir = tempfile::tempdir().unwrap();
        let (inner, path) = (dir.path().join("d"), dir.path().join("d/f"));
        Real.create_dir(&inner).unwrap();
        let file = Real.create(&path).unwrap();
        file.write_at(b"abc", 2).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, FILE_MODE);
        assert_eq!(fs::metadata(&inner).unwrap().permissions().mode() & 0o777, DIRECTORY_MODE);
        assert_eq!(file.length().unwrap(), 5);
        let mut buffer = [0; 3];
        assert!(!file.read_at_once(&mut buffer, 3), "it would end behind the file");
        assert!(!file.read_at_once(&mut buffer, 2) || buffer == *b"abc");
        assert!(Real.free_space(dir.path()).unwrap() > 0);
        file.preallocate(100_000).unwrap();
        Real.sync_dir(&inner).unwrap();
    }

    #[test]
    fn a_lock_is_held_once_and_freed_with_its_guard() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("LOCK");
        let held = Real.lock(&path, "41").unwrap();
        assert!(
            matches!(Real.lock(&path, "42"), Err(LockFailure::Held { holder }) if holder == "41")
        );
        drop(held);
        drop(Real.lock(&path, "42").unwrap());
        assert_eq!(fs::read_to_string(&path).unwrap(), "42");
    }
}
