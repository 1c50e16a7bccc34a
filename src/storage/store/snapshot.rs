//! Snapshots: a second directory that is a whole store, made of hard links.

use std::io;
use std::path::Path;
use std::sync::Arc;

use super::{SnapshotError, Store, lock};
use crate::storage::directory::Directory;
use crate::storage::manifest::writer::ManifestWriter;
use crate::storage::vfs::{Vfs, ensure_dir};

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
        let target = Directory::new(dir);
        let error = |path: &Path| {
            let path = path.to_owned();
            |source| SnapshotError::Io { path, source }
        };
        self.vfs.create_dir(dir).map_err(error(dir))?;
        make_directories(&*self.vfs, &target).map_err(error(dir))?;
        let mut state = manifest.state().clone();
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
        .map(drop)
        .map_err(error(&target.manifest))
    }
}

/// Creates the directories of a store where they are missing, and makes their names durable: a directory that an
/// earlier run created may not be.
pub(in crate::storage) fn make_directories(vfs: &dyn Vfs, directory: &Directory) -> io::Result<()> {
    let snapshots = directory.root.join(crate::storage::directory::SNAPSHOTS);
    ensure_dir(vfs, &directory.root)?;
    for dir in
        [&directory.log, &directory.tables, &directory.manifest, &directory.damaged, &snapshots]
    {
        ensure_dir(vfs, dir)?;
    }
    vfs.sync_dir(&directory.root)?;
    directory.root.parent().map_or(Ok(()), |parent| vfs.sync_dir(parent))
}
