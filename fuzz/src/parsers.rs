//! One function a file format: reads foreign bytes whole, by the public offline readers, over the simulated disk. Whatever
//! the bytes are, it returns.
//!
//! The fuzz targets call these; `tests/it/corpus.rs`, which includes this file, replays their corpora by them.

use std::path::{Path, PathBuf};

use kvkit::storage::offline::{Depth, LogFile, ManifestFile, TableFile};
use kvkit::storage::vfs::simulated::Disk;
use kvkit::storage::{Identity, Vfs as _};

/// Entries, records or edits read of one file.
const ITEMS_MAX: usize = 10_000;

/// An `SSTable`: footer, properties, index, filter and each block.
pub fn table(bytes: &[u8]) {
    let (disk, path) = disk_with("00000001.sst", bytes);
    let _ = TableFile::verify(&disk, &path, Depth::Full);
    let Ok(table) = TableFile::open(&disk, &path) else { return };
    let _ = (table.info(), table.properties(), table.may_contain(b"key"));
    for entry in table.entries(b"").take(ITEMS_MAX).flatten() {
        let _ = table.get(&entry.entry.key);
    }
}

/// A segment of the commit log: header, records and their batches.
pub fn log(bytes: &[u8]) {
    let (disk, path) = disk_with("00000001.log", bytes);
    let Ok(log) = LogFile::open(&disk, &path) else { return };
    let _ = (log.segment(), log.first_position(), log.take(ITEMS_MAX).count());
}

/// A manifest: header and edits.
pub fn manifest(bytes: &[u8]) {
    let (disk, path) = disk_with("00000001.manifest", bytes);
    let Ok(manifest) = ManifestFile::open(&disk, &path) else { return };
    let _ = (manifest.number(), manifest.take(ITEMS_MAX).count());
}

/// A node's `IDENTITY`.
pub fn identity(bytes: &[u8]) {
    let (disk, _) = disk_with("IDENTITY", bytes);
    let _ = Identity::read(&disk, Path::new(""));
}

fn disk_with(name: &str, bytes: &[u8]) -> (Disk, PathBuf) {
    let (disk, path) = (Disk::new(0), PathBuf::from(name));
    let file = disk.create(&path).expect("a new disk takes a file");
    file.write_at(bytes, 0).expect("it has room");
    (disk, path)
}
