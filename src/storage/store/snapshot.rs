//! Snapshots: a second directory that is a whole store, made of hard links. It has its name only when it is whole and
//! durable: before, it is called `NAME.tmp`, and what a crash leaves of that is no store.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::{SnapshotError, Store, lock};
use crate::storage::directory::Directory;
use crate::storage::manifest::writer::ManifestWriter;
use crate::storage::vfs::{Vfs, ensure_dir, temporary};

/// Number of the manifest in a snapshot.
const MANIFEST_NUMBER: u64 = 1;

impl Store {
    /// Makes `dir`, which must not exist, a store that holds what was written before this call: tables are hard links,
    /// so it must be on the same file system. What is written meanwhile is not in it.
    /// # Errors
    /// [`SnapshotError`].
    pub fn snapshot(&self, dir: &Path) -> Result<(), SnapshotError> {
        self.flush()?;
        // While the manifest is held no table is added or removed.
        let manifest = lock(&self.manifest);
        let begun = begun(dir);
        let target = Directory::new(&begun);
        let error = |path: &Path| {
            let path = path.to_owned();
            |source| SnapshotError::Io { path, source }
        };
        if self.vfs.exists(dir).map_err(error(dir))? {
            return Err(error(dir)(io::ErrorKind::AlreadyExists.into()));
        }
        make_directories(&*self.vfs, &target)
            .and_then(|()| clear(&*self.vfs, &target))
            .map_err(error(&begun))?;
        let mut state = manifest.state().clone();
        // The files of tables that were set aside stay with the store.
        state.set_aside.clear();
        for number in state.tables.keys() {
            let (from, to) = (self.directory.table(*number), target.table(*number));
            self.vfs.link(&from, &to).map_err(error(&to))?;
        }
        self.vfs.sync_dir(&target.tables).map_err(error(&target.tables))?;
        // Its log begins where the flush ended; no segment of it exists yet.
        state.synced = state.floor.first_position;
        ManifestWriter::create(
            Arc::clone(&self.vfs),
            &target.manifest,
            MANIFEST_NUMBER,
            state,
            self.options.manifest_edits_bytes,
        )
        .map_err(error(&target.manifest))?;
        self.vfs.rename(&begun, dir).map_err(error(dir))?;
        sync_parent(&*self.vfs, dir).map_err(error(dir))
    }
}

impl Store {
    /// The file system that it is on.
    pub(in crate::storage) fn vfs(&self) -> &dyn Vfs {
        &*self.vfs
    }

    /// Its directory.
    pub(in crate::storage) fn root(&self) -> &Path {
        &self.directory.root
    }
}

/// What a snapshot is called before it is whole.
fn begun(dir: &Path) -> PathBuf {
    let name = dir.file_name().unwrap_or_default().to_string_lossy();
    temporary(dir.parent().unwrap_or(Path::new("")), &name)
}

/// Takes away what an unfinished snapshot of this name left.
fn clear(vfs: &dyn Vfs, directory: &Directory) -> io::Result<()> {
    for dir in [&directory.tables, &directory.manifest] {
        for name in vfs.list(dir)? {
            vfs.remove(&dir.join(name))?;
        }
    }
    Ok(())
}

/// Creates the directories of a store where they are missing, and makes their names durable, but for the store's own: a
/// directory that an earlier run created may not be.
pub(in crate::storage) fn make_directories(vfs: &dyn Vfs, directory: &Directory) -> io::Result<()> {
    let snapshots = directory.root.join(crate::storage::directory::SNAPSHOTS);
    ensure_dir(vfs, &directory.root)?;
    for dir in
        [&directory.log, &directory.tables, &directory.manifest, &directory.damaged, &snapshots]
    {
        ensure_dir(vfs, dir)?;
    }
    vfs.sync_dir(&directory.root)
}

/// Makes the name of a store's directory durable.
pub(in crate::storage) fn sync_parent(vfs: &dyn Vfs, dir: &Path) -> io::Result<()> {
    dir.parent().map_or(Ok(()), |parent| vfs.sync_dir(parent))
}
