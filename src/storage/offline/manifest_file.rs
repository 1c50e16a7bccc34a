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
    edits: u64,
}

/// An edit and where it stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ManifestEdit {
    /// Byte offset in the file.
    pub offset: u64,
    /// What it changes.
    pub edit: Edit,
}

/// What stands at a place of a manifest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ManifestItem {
    /// An edit.
    Edit(Box<ManifestEdit>),
    /// Bytes that are none, in front of a sound edit; or where the first one should stand, without which the others
    /// are nothing.
    Bad(BadEdit),
    /// Bytes that are none, up to the end: an edit that was never finished.
    Torn(BadEdit),
}

impl ManifestFile {
    /// Opens the manifest at `path`.
    /// # Errors
    /// [`OfflineError`].
    pub fn open(vfs: &dyn Vfs, path: &Path) -> Result<Self, OfflineError> {
        let file = path.to_owned();
        match ManifestReader::open(vfs, path) {
            Ok(Ok(reader)) => Ok(Self { reader, edits: 0 }),
            Ok(Err(reason)) => Err(OfflineError::Malformed { file, reason }),
            Err(source) => Err(OfflineError::Io { file, source }),
        }
    }

    /// The manifest's number.
    pub const fn number(&self) -> u64 {
        self.reader.number
    }

    /// How many sound edits were read.
    pub const fn edits(&self) -> u64 {
        self.edits
    }
}

impl Iterator for ManifestFile {
    type Item = ManifestItem;

    fn next(&mut self) -> Option<Self::Item> {
        Some(match self.reader.next()? {
            Ok(located) => {
                self.edits += 1;
                let edit = ManifestEdit { offset: located.offset, edit: located.edit };
                ManifestItem::Edit(Box::new(edit))
            }
            Err(bad) if self.reader.skip_to_sound() || self.edits == 0 => ManifestItem::Bad(bad),
            Err(bad) => ManifestItem::Torn(bad),
        })
    }
}
