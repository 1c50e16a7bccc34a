//! What takes long with snapshots: making one, and reading one again. Whoever does it says after each piece how far it is,
//! and is told whether to go on; there the pace is kept.

use std::io;
use std::path::{Path, PathBuf};

use data_encoding::HEXLOWER;
use sha1::{Digest as _, Sha1};

use super::{
    DamagedSnapshotFile, FORMAT, FoundSnapshot, PARTS, SNAPSHOT, SnapshotFile, SnapshotName,
    SnapshotNote, SnapshotWorkError, found_in, remove_tree,
};
use crate::node_id::{ClusterId, NodeId};
use crate::storage::Store;
use crate::storage::directory::{SNAPSHOTS, TABLES};
use crate::storage::offline::{Depth, DirectoryView, OfflineError, TableFile};
use crate::storage::vfs::{TEMPORARY_SUFFIX, Vfs, temporary, write_atomically};

/// Bytes read at once.
const PIECE_BYTES: usize = 1 << 20;

/// Told how many bytes were read, of how many; says whether to go on.
pub type Step<'a> = dyn FnMut(u64, u64) -> bool + 'a;

/// What is told of a snapshot to be made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SnapshotOrder {
    /// Its name.
    pub name: SnapshotName,
    /// What the nodes' parts share.
    pub id: u64,
    /// The cluster.
    pub cluster: ClusterId,
    /// The cluster's name.
    pub cluster_name: String,
    /// The node.
    pub node: NodeId,
    /// The node's name.
    pub node_name: String,
    /// The layout version that it shall be of.
    pub layout: u64,
    /// Keys that the node holds.
    pub keys: u64,
}

impl Store {
    /// Makes a snapshot, or finds the one that was made of this order before. What an interrupted one left is taken away
    /// first. `judge` looks at what was made before it counts.
    /// # Errors
    /// [`SnapshotWorkError`]; nothing is left then but what a crash would leave.
    pub fn make_snapshot(
        &self,
        order: &SnapshotOrder,
        created: String,
        judge: &dyn Fn(&DirectoryView) -> Result<(), String>,
        step: &mut Step<'_>,
    ) -> Result<SnapshotNote, SnapshotWorkError> {
        let name = &order.name;
        let dir = self.snapshot_dir(name);
        match self.found_snapshot(name)?.map(|found| found.note) {
            Some(Ok(note)) if note.id == id_text(order.id) => return Ok(note),
            Some(Ok(_) | Err(super::NoteError::Malformed { .. })) => {
                return Err(SnapshotWorkError::Exists { name: name.clone() });
            }
            Some(Err(super::NoteError::Incomplete { .. })) => {
                self.remove_snapshot(name)?;
            }
            Some(Err(error @ super::NoteError::Io { .. })) => return Err(error.into()),
            None => {}
        }
        self.snapshot(&dir)?;
        let made = self.describe(order, created, judge, step);
        let (note, text) = match made {
            Ok(note) => note.encode(),
            Err(error) => {
                remove_tree(self.vfs(), &dir).map_err(io_error(&dir))?;
                return Err(error);
            }
        };
        write_atomically(self.vfs(), &dir, SNAPSHOT, &text).map_err(io_error(&dir))?;
        Ok(note)
    }

    /// The snapshots, by name, those too that are none yet or no more.
    /// # Errors
    /// The system's.
    pub fn snapshots(&self) -> io::Result<Vec<FoundSnapshot>> {
        found_in(self.vfs(), self.root())
    }

    /// Reads a snapshot again, and holds it against its note.
    /// # Errors
    /// [`SnapshotWorkError`]: without a sound note there is nothing to hold it against; damaged files are named.
    pub fn verify_snapshot(
        &self,
        name: &SnapshotName,
        step: &mut Step<'_>,
    ) -> Result<SnapshotNote, SnapshotWorkError> {
        let missing = || SnapshotWorkError::Missing { name: name.clone() };
        let note = self.found_snapshot(name)?.ok_or_else(missing)?.note?;
        verify_files(self.vfs(), &self.snapshot_dir(name), &note, step)?;
        Ok(note)
    }

    /// Takes a snapshot away, or what is left of one.
    /// # Errors
    /// [`SnapshotWorkError::Missing`], [`SnapshotWorkError::Io`].
    pub fn remove_snapshot(&self, name: &SnapshotName) -> Result<(), SnapshotWorkError> {
        if self.found_snapshot(name)?.is_none() {
            return Err(SnapshotWorkError::Missing { name: name.clone() });
        }
        let (dir, all) = (self.snapshot_dir(name), self.root().join(SNAPSHOTS));
        for dir in [&dir, &temporary(&all, name.as_str())] {
            remove_tree(self.vfs(), dir).map_err(io_error(dir))?;
        }
        self.vfs().sync_dir(&all).map_err(io_error(&all))
    }

    fn snapshot_dir(&self, name: &SnapshotName) -> PathBuf {
        self.root().join(SNAPSHOTS).join(name.as_str())
    }

    fn found_snapshot(
        &self,
        name: &SnapshotName,
    ) -> Result<Option<FoundSnapshot>, SnapshotWorkError> {
        let all = self.root().join(SNAPSHOTS);
        let found = self.snapshots().map_err(io_error(&all))?;
        Ok(found.into_iter().find(|found| found.name == *name))
    }

    /// Judges a snapshot that was just made, and reads all of it for its note.
    fn describe(
        &self,
        order: &SnapshotOrder,
        created: String,
        judge: &dyn Fn(&DirectoryView) -> Result<(), String>,
        step: &mut Step<'_>,
    ) -> Result<SnapshotNote, SnapshotWorkError> {
        let dir = self.snapshot_dir(&order.name);
        let view =
            DirectoryView::open(self.vfs(), &dir).map_err(|error| of_offline(error, &dir))?;
        judge(&view).map_err(|reason| SnapshotWorkError::Refused { reason })?;
        let mut files = listed(self.vfs(), &dir)?;
        let bytes = files.iter().map(|file| file.bytes).sum();
        let (mut done, mut damaged) = (0, Vec::new());
        for file in &mut files {
            let path = dir.join(&file.path);
            file.sha1 = digest(self.vfs(), &path, &mut |read| step(done + read, bytes))?;
            done += file.bytes;
            if path.parent().is_some_and(|part| part.ends_with(TABLES)) {
                damaged.extend(damaged_blocks(self.vfs(), &path)?);
            }
        }
        if !damaged.is_empty() {
            return Err(SnapshotWorkError::Damaged(damaged));
        }
        let SnapshotOrder { name, id, cluster, cluster_name, node, node_name, layout, keys } =
            order;
        Ok(SnapshotNote {
            format: FORMAT.to_owned(),
            name: name.to_string(),
            id: id_text(*id),
            cluster: *cluster,
            cluster_name: cluster_name.clone(),
            node: *node,
            node_name: node_name.clone(),
            layout: *layout,
            created,
            position: view.log_floor().get(),
            keys: *keys,
            bytes,
            files,
            sha1: String::new(),
        })
    }
}

/// Holds the files of a snapshot in `dir` against its note.
/// # Errors
/// [`SnapshotWorkError::Damaged`] with all that are not what they were, missing ones too; [`SnapshotWorkError::Io`],
/// [`SnapshotWorkError::GivenUp`].
pub fn verify_files(
    vfs: &dyn Vfs,
    dir: &Path,
    note: &SnapshotNote,
    step: &mut Step<'_>,
) -> Result<(), SnapshotWorkError> {
    let (mut done, mut damaged) = (0, Vec::new());
    for file in &note.files {
        let path = dir.join(&file.path);
        let found = match vfs.open(&path).and_then(|opened| opened.length()) {
            Ok(bytes) if bytes != file.bytes => Some(format!("{bytes} bytes, not {}", file.bytes)),
            Ok(_) => {
                let sha1 = digest(vfs, &path, &mut |read| step(done + read, note.bytes))?;
                (sha1 != file.sha1).then(|| format!("its SHA-1 is {sha1}, not {}", file.sha1))
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => Some("it is gone".to_owned()),
            Err(source) => return Err(SnapshotWorkError::Io { path, source }),
        };
        done += file.bytes;
        damaged.extend(found.map(|reason| DamagedSnapshotFile { file: path, reason }));
    }
    if damaged.is_empty() { Ok(()) } else { Err(SnapshotWorkError::Damaged(damaged)) }
}

fn id_text(id: u64) -> String {
    format!("{id:016x}")
}

fn io_error(path: &Path) -> impl Fn(io::Error) -> SnapshotWorkError + '_ {
    move |source| SnapshotWorkError::Io { path: path.to_owned(), source }
}

fn of_offline(error: OfflineError, dir: &Path) -> SnapshotWorkError {
    match error {
        OfflineError::Io { file, source } => SnapshotWorkError::Io { path: file, source },
        error => SnapshotWorkError::Damaged(vec![DamagedSnapshotFile {
            file: dir.to_owned(),
            reason: error.to_string(),
        }]),
    }
}

/// The files of a snapshot, with their lengths.
fn listed(vfs: &dyn Vfs, dir: &Path) -> Result<Vec<SnapshotFile>, SnapshotWorkError> {
    let mut files = Vec::new();
    for part in PARTS {
        let names = vfs.list(&dir.join(part)).map_err(io_error(&dir.join(part)))?;
        for name in names.into_iter().filter(|name| !name.ends_with(TEMPORARY_SUFFIX)) {
            let path = format!("{part}/{name}");
            let opened = vfs.open(&dir.join(&path)).and_then(|file| file.length());
            let bytes = opened.map_err(io_error(&dir.join(&path)))?;
            files.push(SnapshotFile { path, bytes, sha1: String::new() });
        }
    }
    Ok(files)
}

/// The SHA-1 of a file, read in pieces.
fn digest(
    vfs: &dyn Vfs,
    path: &Path,
    step: &mut dyn FnMut(u64) -> bool,
) -> Result<String, SnapshotWorkError> {
    let file = vfs.open(path).map_err(io_error(path))?;
    let (mut sha1, mut piece, mut read) = (Sha1::new(), vec![0; PIECE_BYTES], 0);
    loop {
        let taken = file.read_at(&mut piece, read).map_err(io_error(path))?;
        if taken == 0 {
            return Ok(HEXLOWER.encode(&sha1.finalize()));
        }
        sha1.update(piece.get(..taken).unwrap_or_default());
        read += taken as u64;
        if !step(read) {
            return Err(SnapshotWorkError::GivenUp);
        }
    }
}

/// The blocks of a table that are not what was written: their SHA-1 would call them sound for ever.
fn damaged_blocks(
    vfs: &dyn Vfs,
    path: &Path,
) -> Result<Option<DamagedSnapshotFile>, SnapshotWorkError> {
    match TableFile::verify(vfs, path, Depth::Full) {
        Ok(bad) => Ok(bad.first().map(|first| DamagedSnapshotFile {
            file: path.to_owned(),
            reason: format!(
                "{} blocks are damaged, the first at byte {}",
                bad.len(),
                first.handle.offset
            ),
        })),
        Err(OfflineError::Io { file, source }) => Err(SnapshotWorkError::Io { path: file, source }),
        Err(error) => {
            let (file, reason) = (path.to_owned(), error.to_string());
            Ok(Some(DamagedSnapshotFile { file, reason }))
        }
    }
}
