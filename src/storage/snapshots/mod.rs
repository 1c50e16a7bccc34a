//! Named snapshots of a store: each is a directory that is a store of its own, and a note that makes it a snapshot.
//!
//! ```text
//! snapshots/NAME.tmp/        being made, no store yet (`Store::snapshot`)
//! snapshots/NAME/            a whole store, its tables hard links; without a note it is incomplete
//! snapshots/NAME/SNAPSHOT    the note, written last: whose it is, and each file with its length and SHA-1
//! ```
//! The note is JSON for people to read; `sha1sum` finds the same digests. Its own `sha1` is that of its text with an empty
//! one, so that a byte that rots in it is found, too. A table whose blocks are not what was written is not taken into a
//! snapshot: what is found bad when it is needed is no snapshot.
//! Invariant: a directory with a sound note is whole and durable, whatever crashed when.

mod work;

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use data_encoding::HEXLOWER;
use serde::{Deserialize, Serialize};
use sha1::{Digest as _, Sha1};

use super::directory::{DAMAGED, LOG, MANIFEST, SNAPSHOTS, TABLES};
use super::store::SnapshotError;
use super::vfs::{TEMPORARY_SUFFIX, Vfs, read_whole};
use crate::node_id::{ClusterId, NodeId};

pub use work::{SnapshotOrder, Step, verify_files};

/// Name of a snapshot's note.
pub const SNAPSHOT: &str = "SNAPSHOT";
/// The format of notes that this code writes, and the only one that it reads.
pub const FORMAT: &str = "kvkit-snapshot/1";
/// Longest name of a snapshot, in bytes.
const NAME_BYTES_MAX: usize = 64;
/// Largest note read, in bytes: that of 100,000 files takes a tenth.
const NOTE_BYTES_MAX: u64 = 128 << 20;
/// What a snapshot's files lie in.
const PARTS: [&str; 3] = [LOG, MANIFEST, TABLES];

/// What a snapshot is called: letters, digits, `.`, `_` and `-`, 1 to 64 of them, no dot in front, and not the name of one
/// that is being made.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct SnapshotName(String);

/// A text that names no snapshot.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "`{0}` names no snapshot: 1 to 64 letters, digits, `.`, `_` or `-`, no dot in front and no `.tmp` behind"
)]
pub struct SnapshotNameError(String);

/// Whose a snapshot is, of when, and what it is made of.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SnapshotNote {
    /// [`FORMAT`].
    pub format: String,
    /// Its name.
    pub name: String,
    /// What the nodes' parts of one snapshot share: 16 hexadecimal digits.
    pub id: String,
    /// The cluster.
    pub cluster: ClusterId,
    /// The cluster's name.
    pub cluster_name: String,
    /// The node.
    pub node: NodeId,
    /// The node's name.
    pub node_name: String,
    /// The layout version that it is of.
    pub layout: u64,
    /// When the node began it, RFC 3339.
    pub created: String,
    /// Up to which position of the node's log it holds all writes.
    pub position: u64,
    /// Keys in it, an estimate where tables overlap.
    pub keys: u64,
    /// Bytes of its files.
    pub bytes: u64,
    /// Its files, by path.
    pub files: Vec<SnapshotFile>,
    /// SHA-1 of the note with nothing here.
    pub sha1: String,
}

/// One file of a snapshot.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SnapshotFile {
    /// Where it lies in the snapshot.
    pub path: String,
    /// Its length.
    pub bytes: u64,
    /// Its SHA-1, in hexadecimal.
    pub sha1: String,
}

/// A snapshot in a node's directory.
#[derive(Debug)]
pub struct FoundSnapshot {
    /// Its name.
    pub name: SnapshotName,
    /// Its note, or why it has none that counts.
    pub note: Result<SnapshotNote, NoteError>,
}

/// Why a directory is no snapshot.
#[derive(Debug, thiserror::Error)]
pub enum NoteError {
    /// It has no note: it was interrupted as it was made or removed, or it is something else.
    #[error("{} has no {SNAPSHOT}: it is incomplete", dir.display())]
    Incomplete {
        /// The directory.
        dir: PathBuf,
    },
    /// The note is not what was written.
    #[error("{}: {reason}", file.display())]
    Malformed {
        /// The note.
        file: PathBuf,
        /// What is wrong.
        reason: String,
    },
    /// The system's error.
    #[error("cannot read {}", file.display())]
    Io {
        /// The note.
        file: PathBuf,
        /// The cause.
        source: io::Error,
    },
}

/// A file that is not what it was.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DamagedSnapshotFile {
    /// Where it is.
    pub file: PathBuf,
    /// What is wrong.
    pub reason: String,
}

/// Why something was not done with a snapshot.
#[derive(Debug, thiserror::Error)]
pub enum SnapshotWorkError {
    /// Another one has this name.
    #[error("there is a snapshot `{name}` already")]
    Exists {
        /// The name.
        name: SnapshotName,
    },
    /// There is none of this name.
    #[error("there is no snapshot `{name}`")]
    Missing {
        /// The name.
        name: SnapshotName,
    },
    /// It is none that counts.
    #[error(transparent)]
    Note(#[from] NoteError),
    /// The store did not make it.
    #[error("cannot make the snapshot")]
    NotMade(#[from] SnapshotError),
    /// What was made is not what was wanted.
    #[error("{reason}")]
    Refused {
        /// Why.
        reason: String,
    },
    /// Files that are not what was written.
    #[error("{} files are damaged", .0.len())]
    Damaged(Vec<DamagedSnapshotFile>),
    /// The system's error.
    #[error("cannot use {}", path.display())]
    Io {
        /// The file or directory.
        path: PathBuf,
        /// The cause.
        source: io::Error,
    },
    /// Whoever asked for it gave up.
    #[error("given up half-way")]
    GivenUp,
}

impl SnapshotName {
    /// The name.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for SnapshotName {
    type Err = SnapshotNameError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let is_allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
        let is_name = (1..=NAME_BYTES_MAX).contains(&text.len())
            && text.bytes().all(is_allowed)
            && !text.starts_with('.')
            && !text.ends_with(TEMPORARY_SUFFIX);
        if is_name { Ok(Self(text.to_owned())) } else { Err(SnapshotNameError(text.to_owned())) }
    }
}

impl fmt::Display for SnapshotName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl SnapshotNote {
    /// The note of the snapshot in `dir`. Its files are not looked at.
    /// # Errors
    /// [`NoteError`].
    pub fn read(vfs: &dyn Vfs, dir: &Path) -> Result<Self, NoteError> {
        let file = dir.join(SNAPSHOT);
        let bytes = match read_whole(vfs, &file, NOTE_BYTES_MAX) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                return Err(NoteError::Incomplete { dir: dir.to_owned() });
            }
            Err(source) => return Err(NoteError::Io { file, source }),
        };
        Self::decode(&bytes).map_err(|reason| NoteError::Malformed { file, reason })
    }

    /// The note's text, sealed by its own SHA-1.
    fn encode(mut self) -> (Self, Vec<u8>) {
        self.sha1 = self.seal();
        let mut text = self.text();
        text.push(b'\n');
        (self, text)
    }

    fn decode(bytes: &[u8]) -> Result<Self, String> {
        let note: Self = serde_json::from_slice(bytes).map_err(|error| error.to_string())?;
        if note.format != FORMAT {
            return Err(format!("format {}, but this program reads {FORMAT}", note.format));
        }
        if note.sha1 != note.seal() {
            return Err("its SHA-1 is another one".to_owned());
        }
        let is_inside = |file: &SnapshotFile| {
            file.path.split_once('/').is_some_and(|(part, name)| {
                PARTS.contains(&part) && !name.is_empty() && !name.contains('/') && name != ".."
            })
        };
        match note.files.iter().find(|file| !is_inside(file)) {
            Some(outside) => Err(format!("`{}` is no file of a snapshot", outside.path)),
            None => Ok(note),
        }
    }

    fn seal(&self) -> String {
        let unsealed = Self { sha1: String::new(), ..self.clone() };
        HEXLOWER.encode(&Sha1::digest(unsealed.text()))
    }

    fn text(&self) -> Vec<u8> {
        serde_json::to_vec_pretty(self).expect("a note has no map with odd keys")
    }
}

/// The snapshots of the store in `root`, by name, those too that are none yet or no more.
/// # Errors
/// The system's.
pub(super) fn found_in(vfs: &dyn Vfs, root: &Path) -> io::Result<Vec<FoundSnapshot>> {
    let dir = root.join(SNAPSHOTS);
    let names = match vfs.list(&dir) {
        Ok(names) => names,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(error),
    };
    let mut found: Vec<FoundSnapshot> = Vec::new();
    for name in names {
        let whole = name.strip_suffix(TEMPORARY_SUFFIX).unwrap_or(&name);
        // What nobody here has made is nobody's here.
        let Ok(parsed) = whole.parse::<SnapshotName>() else { continue };
        // `NAME` sorts before `NAME.tmp`, and says more.
        if found.iter().all(|found| found.name != parsed) {
            let note = SnapshotNote::read(vfs, &dir.join(&name));
            found.push(FoundSnapshot { name: parsed, note });
        }
    }
    Ok(found)
}

/// Takes a snapshot's directory away, if there is one; its note first and then its manifest, so that what a crash leaves of
/// it is neither a snapshot nor a store.
fn remove_tree(vfs: &dyn Vfs, dir: &Path) -> io::Result<()> {
    if !vfs.exists(dir)? {
        return Ok(());
    }
    let note = dir.join(SNAPSHOT);
    if vfs.exists(&note)? {
        vfs.remove(&note)?;
        vfs.sync_dir(dir)?;
    }
    for part in [MANIFEST, TABLES, LOG, DAMAGED, SNAPSHOTS] {
        let part = dir.join(part);
        if vfs.exists(&part)? {
            for name in vfs.list(&part)? {
                vfs.remove(&part.join(name))?;
            }
            vfs.remove_dir(&part)?;
        }
    }
    for name in vfs.list(dir)? {
        vfs.remove(&dir.join(name))?;
    }
    vfs.remove_dir(dir)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[track_caller]
    fn check_name(text: &str, is_name: bool) {
        assert_eq!(text.parse::<SnapshotName>().is_ok(), is_name, "{text}");
    }

    #[test]
    fn a_name_is_a_plain_file_name_that_no_unfinished_snapshot_has() {
        for name in ["a", "2026-11-22", "Nightly_1.2", "-", "_", "a..b", "tmp", "a.tmpx"] {
            check_name(name, true);
        }
        for name in ["", ".", "..", ".a", "a/b", "/a", "a b", "é", "a\n", "a\0", "a.tmp", ".tmp"] {
            check_name(name, false);
        }
        check_name(&"x".repeat(64), true);
        check_name(&"x".repeat(65), false);
    }

    fn note() -> SnapshotNote {
        let file = |path: &str| SnapshotFile {
            path: path.to_owned(),
            bytes: 7,
            sha1: HEXLOWER.encode(&[0xab; 20]),
        };
        SnapshotNote {
            format: FORMAT.to_owned(),
            name: "nightly".to_owned(),
            id: "00000000000000ff".to_owned(),
            cluster: ClusterId::from_bits(0x7f3a),
            cluster_name: "prod".to_owned(),
            node: NodeId::from_bytes([7; 16]),
            node_name: "n1".to_owned(),
            layout: 12,
            created: "2026-11-22T10:00:00Z".to_owned(),
            position: 99,
            keys: 3,
            bytes: 14,
            files: vec![file("manifest/CURRENT"), file("sst/00000001.sst")],
            sha1: String::new(),
        }
    }

    #[test]
    fn a_note_comes_back_and_every_flipped_bit_of_it_is_noticed() {
        let (sealed, text) = note().encode();
        assert_eq!(SnapshotNote::decode(&text), Ok(sealed.clone()));
        for at in 0..text.len() {
            for bit in 0..8 {
                let mut altered = text.clone();
                altered[at] ^= 1 << bit;
                // A blank that becomes another kind of blank says the same.
                let same = SnapshotNote::decode(&altered).is_ok_and(|read| {
                    assert_eq!(read, sealed, "bit {bit} of byte {at}");
                    true
                });
                assert!(!same || altered[at].is_ascii_whitespace(), "bit {bit} of byte {at}");
            }
        }
    }

    /// Notes lie in backups: a later release reads them, and writes the same. `KVKIT_GOLDEN=write` writes a missing one.
    #[test]
    fn a_note_is_written_as_ever() {
        let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/storage/snapshot.json");
        let (sealed, text) = note().encode();
        if !file.exists() && std::env::var_os("KVKIT_GOLDEN").is_some() {
            std::fs::write(&file, &text).unwrap();
        }
        let golden = std::fs::read(&file).unwrap();
        assert_eq!(SnapshotNote::decode(&golden), Ok(sealed));
        assert_eq!(text, golden);
    }

    #[test]
    fn a_cut_note_and_one_of_another_format_are_refused() {
        let (_, text) = note().encode();
        for length in 0..text.len() - 1 {
            assert!(SnapshotNote::decode(&text[..length]).is_err(), "{length} bytes");
        }
        let newer = SnapshotNote { format: "kvkit-snapshot/2".to_owned(), ..note() };
        let refused = SnapshotNote::decode(&newer.encode().1).unwrap_err();
        assert!(refused.contains("kvkit-snapshot/2"), "{refused}");
    }

    #[test]
    fn a_note_names_no_file_outside_its_directory() {
        for path in ["../x", "/etc/passwd", "sst/../x", "sst/", "sst", "sst/..", "LOCK", "x/y"] {
            let mut forged = note();
            path.clone_into(&mut forged.files[0].path);
            assert!(SnapshotNote::decode(&forged.encode().1).is_err(), "{path}");
        }
    }

    proptest! {
        #[test]
        fn any_bytes_decode_without_panic(bytes: Vec<u8>) {
            let _ = SnapshotNote::decode(&bytes);
        }
    }
}
