//! Golden files: one of every format as the release that brought it wrote it. Every later one must open them.
//!
//! `KVKIT_GOLDEN=write` writes the directories that are not there yet, and touches no other: a new format or a new state
//! of one gets a directory of its own.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::super::offline::{
    LogFile, LogItem, ManifestFile, ManifestItem, TableBuilder, TableFile, TableOptions,
};
use super::super::vfs::read_whole;
use super::super::vfs::simulated::Disk;
use super::super::*;
use super::history::{Content, open};
use super::{DIR, put, run_jobs, small};
use crate::node_id::{ClusterId, NodeId};

const LZ4: &str = "store/lz4.sst";

/// The directories of golden files, and the sync mode in which each was written: a log that proves what stands before it,
/// and a loose one.
const GOLDEN: [(&str, SyncMode); 4] = [
    ("v1", SyncMode::Always),
    ("v1-loose", SyncMode::Never),
    ("v2", SyncMode::Always),
    ("v2-loose", SyncMode::Never),
];
/// The directories with a compressed table: one of codec 1, one of codec 2, which today's code writes.
const COMPRESSED: [&str; 2] = ["v1", "codec2"];
/// Those that today's code writes to the byte. The same formats stand in the others, in other tables: since `v2` tables
/// that overlap none move down whole.
const WRITTEN_TODAY: [(&str, SyncMode); 2] =
    [("v2", SyncMode::Always), ("v2-loose", SyncMode::Never)];

fn golden(dir: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/storage").join(dir)
}

fn options(sync: SyncMode) -> Options {
    Options { sync, compression: Compression::None, memtable_bytes: 1 << 20, ..small() }
}

fn identity() -> Identity {
    Identity {
        v: identity::VERSION,
        node: NodeId::from_bytes(*b"0123456789abcdef"),
        name: "n1".to_owned(),
        cluster: ClusterId::from_bits(0x7f3a),
        cluster_name: "golden".to_owned(),
        epoch: IdentityEpoch { counter: 2, random: 0xdead_beef },
        created: "2026-11-22T10:00:00Z".to_owned(),
    }
}

/// A store with a table in each of two levels, a manifest with edits and a log with records of each kind; uncompressed,
/// so that its bytes are ours alone. Beside it one compressed table.
fn write(sync: SyncMode) -> (Disk, Content) {
    let disk = Disk::new(0);
    let store = open(&disk, &options(sync)).unwrap();
    for number in 0..30 {
        put(&store, &format!("key{number:02}"), &format!("a value, of key {number}"));
        if matches!(number, 10 | 20 | 25) {
            store.flush().unwrap();
            if number == 20 {
                run_jobs(&store);
            }
        }
    }
    let mut batch = WriteBatch::new();
    batch.put(b"\x00\xff", b"").delete("key07").xor_leaf(3, 1 << 100).xor_leaf(u16::MAX, 9);
    store.write(batch).unwrap();
    let content = Content::of(&store).unwrap();
    store.close().unwrap();
    identity().write(&disk, Path::new(DIR)).unwrap();
    let mut builder =
        TableBuilder::new(Arc::new(disk.clone()), Path::new(DIR), TableOptions::default());
    for number in 0..200 {
        let value = format!("value {number} ").repeat(10);
        builder
            .add(format!("{number:03}").as_bytes(), (number % 9 > 0).then_some(value.as_bytes()))
            .unwrap();
    }
    let [table] = builder.finish().unwrap().try_into().unwrap();
    disk.rename(&table.file, Path::new(LZ4)).unwrap();
    (disk, content)
}

/// The golden files on a simulated disk.
fn read(golden: &Path) -> Disk {
    let disk = Disk::new(0);
    disk.create_dir(Path::new(DIR)).unwrap();
    for dir in ["", "log", "sst", "manifest"] {
        let target = Path::new(DIR).join(dir);
        vfs::ensure_dir(&disk, &target).unwrap();
        for entry in fs::read_dir(golden.join(dir)).unwrap() {
            let path = entry.unwrap().path();
            if path.is_file() {
                let file = disk.create(&target.join(path.file_name().unwrap())).unwrap();
                file.write_at(&fs::read(&path).unwrap(), 0).unwrap();
            }
        }
    }
    disk
}

#[test]
fn what_is_written_today_is_what_was_written_then() {
    for (dir, sync) in WRITTEN_TODAY {
        let (disk, _) = write(sync);
        for (path, _) in disk.files().into_iter().filter(|(path, _)| path != Path::new(LZ4)) {
            let written = read_whole(&disk, &path, 1 << 20).unwrap();
            let file = golden(dir).join(path.strip_prefix(DIR).unwrap());
            let then =
                fs::read(&file).unwrap_or_else(|error| panic!("{}: {error}", file.display()));
            assert!(written == then, "{} is written otherwise", file.display());
        }
    }
}

#[test]
fn the_stores_written_then_open() {
    for (dir, sync) in GOLDEN {
        let (disk, (_, expected)) = (read(&golden(dir)), write(sync));
        assert_eq!(Identity::read(&disk, Path::new(DIR)).unwrap(), identity());
        let log = disk.list(&Path::new(DIR).join("log")).unwrap().pop().unwrap();
        let log = LogFile::open(&disk, &Path::new(DIR).join("log").join(log)).unwrap();
        assert_eq!(log.filter(|item| matches!(item, Ok(LogItem::Record(_)))).count(), 5);
        let manifest =
            ManifestFile::open(&disk, Path::new("store/manifest/00000001.manifest")).unwrap();
        let edits = manifest.filter_map(|item| match item {
            ManifestItem::Edit(located) => Some(located.edit),
            ManifestItem::Bad(_) | ManifestItem::Torn(_) => None,
        });
        let is_loose = edits.collect::<Vec<_>>().iter().any(|edit| edit.is_log_loose);
        assert_eq!(is_loose, sync == SyncMode::Never, "{dir}");
        let mut replayed = 0;
        let mut observe = |_: &[u8], _: Option<&[u8]>| replayed += 1;
        let opened = Store::open(Arc::new(disk), Path::new(DIR), options(sync), &mut observe);
        let (store, recovery) = opened.unwrap();
        assert_eq!((recovery.records, replayed, recovery.cut), (5, 6, None));
        let mut found = Content::of(&store).unwrap();
        found.leaves.insert(u16::MAX, store.leaf(u16::MAX));
        assert_eq!(found.leaves.remove(&u16::MAX), Some(9));
        assert_eq!(found, expected);
    }
}

#[test]
fn the_compressed_tables_written_then_open() {
    for dir in COMPRESSED {
        let disk = Disk::new(0);
        disk.create_dir(Path::new(DIR)).unwrap();
        let file = fs::read(golden(dir).join("lz4.sst")).unwrap();
        disk.create(Path::new(LZ4)).unwrap().write_at(&file, 0).unwrap();
        let table = TableFile::open(&disk, Path::new(LZ4)).unwrap();
        assert_eq!((table.properties().entries, table.properties().deletes), (200, 23));
        assert!(table.info().bytes < table.properties().raw_bytes / 3);
        let entry = table.get(b"042").unwrap().unwrap().entry;
        assert_eq!(entry.value.unwrap(), "value 42 ".repeat(10));
        assert!(table.entries(b"").all(|entry| entry.is_ok()), "{dir}");
    }
}

/// Writes what is not there yet; what is there stays as it is.
#[test]
fn write_new_ones() {
    if std::env::var("KVKIT_GOLDEN").as_deref() != Ok("write") {
        return;
    }
    let [.., compressed] = COMPRESSED.map(golden);
    if !compressed.exists() {
        let (disk, _) = write(SyncMode::Always);
        fs::create_dir_all(&compressed).unwrap();
        let table = read_whole(&disk, Path::new(LZ4), 1 << 20).unwrap();
        fs::write(compressed.join("lz4.sst"), table).unwrap();
    }
    for (dir, sync) in WRITTEN_TODAY.into_iter().filter(|(dir, _)| !golden(dir).exists()) {
        let (disk, _) = write(sync);
        // Compressed tables stand in directories of their own.
        for (path, _) in disk.files().into_iter().filter(|(path, _)| path != Path::new(LZ4)) {
            let file = golden(dir).join(path.strip_prefix(DIR).unwrap());
            fs::create_dir_all(file.parent().unwrap()).unwrap();
            fs::write(file, read_whole(&disk, &path, 1 << 20).unwrap()).unwrap();
        }
    }
}
