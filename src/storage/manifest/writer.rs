//! Writes manifests: a new one at each start and when the old one has grown, edits appended in between.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::{Edit, State, encode_header, seal_edit};
use crate::storage::directory::{CURRENT, manifest_name};
use crate::storage::vfs::{Vfs, VfsFile, is_full, temporary, write_atomically};

use super::reader::encode_current;

/// The manifest that counts, open for edits, and what it says.
#[derive(Debug)]
pub(crate) struct ManifestWriter {
    vfs: Arc<dyn Vfs>,
    dir: PathBuf,
    number: u64,
    file: Arc<dyn VfsFile>,
    offset: u64,
    previous: u64,
    edits_bytes_max: u64,
    rewrite_at: u64,
    state: State,
}

impl ManifestWriter {
    /// Writes `state` to a new manifest and makes it the one that counts, durably. Once so many bytes of edits stand behind
    /// it, the next edit goes to a newer one.
    pub(crate) fn create(
        vfs: Arc<dyn Vfs>,
        dir: &Path,
        number: u64,
        state: State,
        edits_bytes_max: u64,
    ) -> io::Result<Self> {
        let (mut bytes, header_checksum) = encode_header(number);
        let (edit, previous) =
            seal_edit(&state.as_edit(), header_checksum, (number, bytes.len() as u64));
        bytes.extend_from_slice(&edit);
        let name = manifest_name(number);
        let temporary = temporary(dir, &name);
        let file = vfs.create(&temporary)?;
        file.write_at(&bytes, 0)?;
        file.sync_data()?;
        vfs.rename(&temporary, &dir.join(name))?;
        vfs.sync_dir(dir)?;
        write_atomically(&*vfs, dir, CURRENT, encode_current(number).as_bytes())?;
        let offset = bytes.len() as u64;
        Ok(Self {
            vfs,
            dir: dir.to_owned(),
            number,
            file,
            offset,
            previous,
            edits_bytes_max,
            rewrite_at: offset + edits_bytes_max,
            state,
        })
    }

    pub(crate) const fn state(&self) -> &State {
        &self.state
    }

    /// Appends an edit, durably. After a full disk it may be appended again; any other failure is fatal.
    pub(crate) fn append(&mut self, edit: &Edit) -> io::Result<()> {
        if self.offset >= self.rewrite_at {
            return self.rewrite(edit);
        }
        let (bytes, checksum) = seal_edit(edit, self.previous, (self.number, self.offset));
        self.file.write_at(&bytes, self.offset)?;
        self.file.sync_data()?;
        self.offset += bytes.len() as u64;
        self.previous = checksum;
        self.state.apply(edit);
        Ok(())
    }

    /// Goes on in a new manifest that starts with all edits so far and this one.
    fn rewrite(&mut self, edit: &Edit) -> io::Result<()> {
        let old = self.dir.join(manifest_name(self.number));
        let mut state = self.state.clone();
        state.apply(edit);
        let (vfs, number) = (Arc::clone(&self.vfs), self.number + 1);
        *self = Self::create(vfs, &self.dir, number, state, self.edits_bytes_max)?;
        // It no longer counts: should it stay, or come back after a crash, the next start sweeps it. A full disk is no
        // reason to append the same edit again.
        match self.vfs.remove(&old) {
            Err(error) if !is_full(&error) => Err(error),
            Ok(()) | Err(_) => Ok(()),
        }
    }
}
