//! One manifest by its path.

use std::path::Path;

use super::OfflineError;
use crate::storage::manifest::Edit;
use crate::storage::manifest::reader::{BadEdit, ManifestReader};
use crate::storage::vfs::Vfs;

/// One manifest, read edit by edit; a bad place is told, and reading goes on at the next sound edit.
#[derive(Debug)]
pub struct ManifestFile {
    reader: ManifestReader,
    lost: bool,
}

/// An edit and where it stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ManifestEdit {
    /// Byte offset in the file.
    pub offset: u64,
    /// What it changes.
    pub edit: Edit,
}

impl ManifestFile {
    /// Opens the manifest at `path`.
    /// # Errors
    /// [`OfflineError`].
    pub fn open(vfs: &dyn Vfs, path: &Path) -> Result<Self, OfflineError> {
        let file = path.to_owned();
        match ManifestReader::open(vfs, path) {
            Ok(Ok(reader)) => Ok(Self { reader, lost: false }),
            Ok(Err(reason)) => Err(OfflineError::Malformed { file, reason }),
            Err(source) => Err(OfflineError::Io { file, source }),
        }
    }

    /// The manifest's number.
    pub const fn number(&self) -> u64 {
        self.reader.number
    }
}

impl Iterator for ManifestFile {
    type Item = Result<ManifestEdit, BadEdit>;

    fn next(&mut self) -> Option<Self::Item> {
        if std::mem::take(&mut self.lost) && !self.reader.skip_to_sound() {
            return None;
        }
        let next = self.reader.next()?;
        self.lost = next.is_err();
        Some(next.map(|located| ManifestEdit { offset: located.offset, edit: located.edit }))
    }
}
