//! Reads manifests: `CURRENT`, the edits, and where they go bad.

#![warn(clippy::indexing_slicing)]

use std::io;
use std::path::{Path, PathBuf};

use bytes::Bytes;

use super::{
    CHECKSUM_BYTES, EDIT_ALIGNMENT, EDIT_BYTES_MAX, Edit, HEADER_BYTES, State, decode_header,
    edit_bytes,
};
use crate::encoding::Reader;
use crate::storage::checksum::checksum;
use crate::storage::directory::{CURRENT, manifest_name};
use crate::storage::vfs::{Vfs, read_whole};

/// Largest manifest read: it is rewritten long before.
const MANIFEST_BYTES_MAX: u64 = 1 << 30;
/// Largest `CURRENT`.
const CURRENT_BYTES_MAX: u64 = 64;

/// A sound edit and where it stands.
#[derive(Debug, Clone)]
pub(crate) struct Located {
    pub(crate) offset: u64,
    pub(crate) edit: Edit,
}

/// A place without a sound edit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BadEdit {
    /// Byte offset in the file.
    pub offset: u64,
    /// What is wrong.
    pub reason: String,
}

/// A manifest file, its bytes in memory.
#[derive(Debug)]
pub(crate) struct ManifestReader {
    pub(crate) number: u64,
    bytes: Bytes,
    offset: usize,
    previous: u64,
}

/// Why the state of a store cannot be read.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ReadManifestError {
    #[error("cannot read {}", file.display())]
    Io { file: PathBuf, source: io::Error },
    #[error("{}: damaged at byte {offset}: {reason}", file.display())]
    Damaged { file: PathBuf, offset: u64, reason: String },
}

impl ManifestReader {
    /// Reads the file; an inner error is a header that is none.
    pub(crate) fn open(vfs: &dyn Vfs, path: &Path) -> io::Result<Result<Self, String>> {
        let bytes = Bytes::from(read_whole(vfs, path, MANIFEST_BYTES_MAX)?);
        let header = bytes.get(..HEADER_BYTES).unwrap_or(&bytes);
        Ok(decode_header(header).map(|(number, previous)| Self {
            number,
            bytes,
            offset: HEADER_BYTES,
            previous,
        }))
    }

    /// The next edit; `None` at the end. A bad one stays next: see [`Self::skip_to_sound`].
    pub(crate) fn next(&mut self) -> Option<Result<Located, BadEdit>> {
        if self.offset >= self.bytes.len() {
            return None;
        }
        let offset = self.offset as u64;
        let (edit, previous, checksum, bytes) = match self.read_here() {
            Ok(found) => found,
            Err(reason) => return Some(Err(BadEdit { offset, reason })),
        };
        if previous != self.previous {
            let reason = format!(
                "follows the edit {previous:016x}, but {:016x} stands before it",
                self.previous
            );
            return Some(Err(BadEdit { offset, reason }));
        }
        self.previous = checksum;
        self.offset += bytes;
        Some(Ok(Located { offset, edit }))
    }

    /// Goes on to the next place where a sound edit stands; false at the end.
    pub(crate) fn skip_to_sound(&mut self) -> bool {
        loop {
            self.offset += EDIT_ALIGNMENT;
            if self.offset >= self.bytes.len() {
                return false;
            }
            if let Ok((_, previous, _, _)) = self.read_here() {
                self.previous = previous;
                return true;
            }
        }
    }

    fn read_here(&self) -> Result<(Edit, u64, u64, usize), String> {
        let cut_short = |_| format!("cut short: the file ends at byte {}", self.bytes.len());
        let rest = self.bytes.get(self.offset..).unwrap_or_default();
        let mut reader = Reader::new(rest);
        let stored = reader.u64().map_err(cut_short)?;
        let previous = reader.u64().map_err(cut_short)?;
        let length = reader.u32().map_err(cut_short)? as usize;
        let _reserved = reader.u32().map_err(cut_short)?;
        if length > EDIT_BYTES_MAX {
            return Err(format!("an edit of {length} bytes"));
        }
        let payload = reader.take(length).map_err(cut_short)?;
        let covered = rest.get(CHECKSUM_BYTES..edit_bytes(length));
        let covered = covered.ok_or_else(|| cut_short(crate::encoding::DecodeError::Truncated))?;
        let computed = checksum(self.number, self.offset as u64, covered);
        if computed != stored {
            return Err(format!("checksum {stored:016x}, computed {computed:016x}"));
        }
        let edit =
            Edit::decode(&self.bytes.slice_ref(payload)).map_err(|error| error.to_string())?;
        Ok((edit, previous, stored, edit_bytes(length)))
    }
}

/// What `CURRENT` holds for this manifest.
pub(crate) fn encode_current(number: u64) -> String {
    format!("{number:08} {:016x}\n", checksum(number, 0, CURRENT.as_bytes()))
}

/// The state that `CURRENT` leads to, and the number of its manifest; `None` when there is no `CURRENT`.
pub(crate) fn read_state(
    vfs: &dyn Vfs,
    dir: &Path,
) -> Result<Option<(State, u64)>, ReadManifestError> {
    let file = dir.join(CURRENT);
    let current = match read_whole(vfs, &file, CURRENT_BYTES_MAX) {
        Ok(bytes) => String::from_utf8_lossy(&bytes).into_owned(),
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(source) => return Err(ReadManifestError::Io { file, source }),
    };
    let number = current.split(' ').next().and_then(|number| number.parse().ok());
    let Some(number) = number.filter(|number| encode_current(*number) == current) else {
        return Err(ReadManifestError::Damaged {
            file,
            offset: 0,
            reason: "names no manifest".to_owned(),
        });
    };
    let file = dir.join(manifest_name(number));
    let opened = ManifestReader::open(vfs, &file);
    let damaged =
        |offset, reason| ReadManifestError::Damaged { file: file.clone(), offset, reason };
    let mut reader = match opened {
        Ok(reader) => reader.map_err(|reason| damaged(0, reason))?,
        Err(source) => return Err(ReadManifestError::Io { file, source }),
    };
    if reader.number != number {
        return Err(damaged(0, format!("it calls itself manifest {}", reader.number)));
    }
    let mut state = State::new();
    let mut edits = 0;
    while let Some(next) = reader.next() {
        match next {
            Ok(located) => state.apply(&located.edit),
            // The first was synced before the file counted; one behind a bad one proves that it was, too.
            Err(bad) if edits == 0 || reader.skip_to_sound() => {
                return Err(damaged(bad.offset, bad.reason));
            }
            Err(_) => break,
        }
        edits += 1;
    }
    match edits {
        0 => Err(damaged(HEADER_BYTES as u64, "it holds no edit".to_owned())),
        _ => Ok(Some((state, number))),
    }
}
