//! Files that are held open: whoever removes their names meanwhile, they stay readable.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::storage::vfs::{LockFailure, LockGuard, Vfs, VfsFile};

/// A file system of the files that were opened; it reads, and does nothing else.
#[derive(Debug, Clone, Default)]
pub(super) struct HeldFiles {
    files: BTreeMap<PathBuf, Arc<dyn VfsFile>>,
}

impl HeldFiles {
    /// Opens a file and holds it.
    /// # Errors
    /// The system's; `NotFound` when there is none.
    pub(super) fn hold(&mut self, vfs: &dyn Vfs, path: &Path) -> io::Result<()> {
        let file = vfs.open(path)?;
        self.files.insert(path.to_owned(), file);
        Ok(())
    }
}

fn read_only<T>() -> io::Result<T> {
    Err(io::ErrorKind::ReadOnlyFilesystem.into())
}

impl Vfs for HeldFiles {
    fn open(&self, path: &Path) -> io::Result<Arc<dyn VfsFile>> {
        self.files.get(path).cloned().ok_or_else(|| io::ErrorKind::NotFound.into())
    }

    fn exists(&self, path: &Path) -> io::Result<bool> {
        Ok(self.files.contains_key(path))
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<String>> {
        let inside = self.files.keys().filter(|path| path.parent() == Some(dir));
        Ok(inside.filter_map(|path| path.file_name()?.to_str().map(str::to_owned)).collect())
    }

    fn create(&self, _: &Path) -> io::Result<Arc<dyn VfsFile>> {
        read_only()
    }

    fn rename(&self, _: &Path, _: &Path) -> io::Result<()> {
        read_only()
    }

    fn link(&self, _: &Path, _: &Path) -> io::Result<()> {
        read_only()
    }

    fn remove(&self, _: &Path) -> io::Result<()> {
        read_only()
    }

    fn create_dir(&self, _: &Path) -> io::Result<()> {
        read_only()
    }

    fn remove_dir(&self, _: &Path) -> io::Result<()> {
        read_only()
    }

    fn sync_dir(&self, _: &Path) -> io::Result<()> {
        read_only()
    }

    fn lock(&self, _: &Path, _: &str) -> Result<Box<dyn LockGuard>, LockFailure> {
        Err(LockFailure::Io(io::ErrorKind::ReadOnlyFilesystem.into()))
    }

    fn free_space(&self, _: &Path) -> io::Result<u64> {
        Ok(0)
    }
}
