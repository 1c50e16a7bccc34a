//! Rot: any byte flipped, any file cut at any length, is detected or harmless: never a wrong value, never a panic.
//!
//! Every byte and every length of a store of some KiB, in both orders of the log; of one of about 64 KiB a sample, unless
//! `KVKIT_ROT_ALL=1` asks for all of them, and for each bit of a byte instead of one.

use std::path::{Path, PathBuf};

use super::super::vfs::simulated::Disk;
use super::super::*;
use super::history::{Content, open};
use super::{DIR, put, run_jobs, small, value};

/// Of the large store one place in so many is tried.
const SAMPLE: u64 = 151;

/// A closed store with two levels of tables, a log with some records and a manifest with edits, and what it holds.
fn store(sync: SyncMode, writes: u32) -> (Disk, Content) {
    let disk = Disk::new(3);
    let store = open(&disk, &Options { sync, ..options() }).unwrap();
    for number in 0..writes {
        let value = format!("a value of some length, {number}");
        put(&store, &format!("key{:02}", number % (writes * 3 / 4)), &value);
        if number == writes * 2 / 3 {
            store.flush().unwrap();
            run_jobs(&store);
        }
        if number == writes * 5 / 6 {
            store.flush().unwrap();
        }
    }
    let mut batch = WriteBatch::new();
    batch.delete("key03").xor_leaf(5, 77);
    store.write(batch).unwrap();
    assert_eq!(value(&store, "key03"), None);
    let content = Content::of(&store).unwrap();
    store.close().unwrap();
    let stats = store.stats();
    assert!(
        stats.tables_by_level.len() > 1 && stats.tables_by_level[0] > 0 && stats.log_bytes > 500,
        "{stats:?}"
    );
    (disk, content)
}

fn options() -> Options {
    Options {
        memtable_bytes: 1 << 20,
        log_segment_bytes: 800,
        table_bytes: 2000,
        level0_tables: 1,
        ..small()
    }
}

/// Nothing but what was written is ever read; what cannot be read says so, and still does when merges went through it, and
/// after the next start. Whether the rot was noticed at all.
fn check(disk: &Disk, expected: &Content, what: &str) -> bool {
    let store = match Store::open(
        std::sync::Arc::new(disk.clone()),
        Path::new(DIR),
        options(),
        &mut |_, _| {},
    ) {
        Ok((store, recovery)) => {
            // The stop was clean: the manifest knows where the log ended, so no end of it is taken for torn.
            assert_eq!(recovery.cut, None, "{what}");
            store
        }
        Err(_) => return true,
    };
    let noticed = read_all(&store, expected, what);
    if noticed {
        while !store.scrub(1 << 20).is_round {}
        run_jobs(&store);
        let stats = store.stats();
        assert_eq!((stats.tables_damaged, stats.set_aside.is_empty()), (0, false), "{what}");
        read_all(&store, expected, &format!("{what}, then merged"));
        drop(store);
        let store = open(disk, &options()).unwrap_or_else(|error| panic!("{what}: {error}"));
        read_all(&store, expected, &format!("{what}, then merged and started"));
    }
    noticed
}

/// Reads every key both ways; whether something could not be read.
fn read_all(store: &Store, expected: &Content, what: &str) -> bool {
    let mut noticed = false;
    for (key, value) in &expected.entries {
        match store.get(key) {
            Ok(found) => {
                assert_eq!(
                    found.value.as_deref(),
                    Some(&**value),
                    "{what}: {}",
                    key.escape_ascii()
                );
            }
            Err(_) => noticed = true,
        }
    }
    let mut unreadable = Vec::new();
    let mut scanned = Vec::new();
    for entry in store.scan(b"", None) {
        match entry {
            Ok((key, value)) => {
                assert_eq!(
                    expected.entries.get(&*key).map(|value| &**value),
                    Some(&*value),
                    "{what}"
                );
                scanned.push(key);
            }
            Err(error) => unreadable.push(error.keys().clone()),
        }
    }
    for key in expected.entries.keys() {
        let covered = unreadable.iter().any(|keys| *keys.first <= **key && **key <= *keys.last);
        assert!(
            covered || scanned.iter().any(|seen| **seen == **key),
            "{what}: {} is missing",
            key.escape_ascii()
        );
    }
    assert_eq!(store.leaf(5), 77, "{what}");
    noticed || !unreadable.is_empty()
}

fn files(disk: &Disk) -> Vec<(PathBuf, u64)> {
    let files = disk.files();
    for kind in ["log", "sst", "manifest", "CURRENT"] {
        assert!(
            files.iter().any(|(path, _)| path.to_string_lossy().contains(kind)),
            "no {kind}: {files:?}"
        );
    }
    files
}

fn is_all_wanted() -> bool {
    std::env::var_os("KVKIT_ROT_ALL").is_some()
}

/// The bits of a byte to flip.
fn bits(offset: u64) -> Vec<u8> {
    if is_all_wanted() { (0..8).collect() } else { vec![(offset % 8) as u8] }
}

/// Flips a byte and cuts the file at one in `sample` of its places, from `first` on.
fn check_rot(sync: SyncMode, writes: u32, first: u64, sample: u64) {
    let (disk, expected) = store(sync, writes);
    assert!(!check(&disk.fork(0), &expected, "nothing"));
    let step = usize::try_from(sample).unwrap();
    for (path, length) in files(&disk) {
        for offset in (first.min(length - 1)..length).step_by(step) {
            for bit in bits(offset) {
                let rotten = disk.fork(0);
                rotten.flip_bit(&path, offset, bit).unwrap();
                let what = format!("{sync}, {} with byte {offset} flipped", path.display());
                check(&rotten, &expected, &what);
            }
            let rotten = disk.fork(0);
            rotten.truncate(&path, offset).unwrap();
            let what = format!("{sync}, {} cut to {offset} bytes", path.display());
            let noticed = check(&rotten, &expected, &what);
            // The last edit of the manifest only repeats what the log says of itself.
            assert!(noticed || path.ends_with("00000001.manifest"), "{what}");
        }
    }
}

#[test]
fn every_flipped_byte_and_every_cut_is_noticed_or_harmless() {
    check_rot(SyncMode::Always, 60, 0, 1);
}

#[test]
fn in_a_loose_log_too() {
    check_rot(SyncMode::Never, 60, 0, 1);
}

#[test]
fn in_a_store_of_64_kib_too() {
    const WRITES: u32 = 1900;
    let bytes: u64 =
        files(&store(SyncMode::Never, WRITES).0).iter().map(|(_, length)| length).sum();
    assert!((48 << 10..96 << 10).contains(&bytes), "{bytes} bytes");
    let sample = if is_all_wanted() { 1 } else { SAMPLE };
    let first = u64::from(std::process::id()) % sample;
    #[expect(clippy::print_stdout, reason = "what replays it")]
    {
        println!("places {first}, {}, {}, … of each file", first + sample, first + 2 * sample);
    }
    check_rot(SyncMode::Never, WRITES, first, sample);
}

#[test]
fn a_file_that_is_gone_is_noticed() {
    let (disk, expected) = store(SyncMode::Always, 60);
    for (path, _) in files(&disk) {
        let rotten = disk.fork(0);
        rotten.remove(&path).unwrap();
        assert!(
            check(&rotten, &expected, &format!("{} removed", path.display())),
            "{}",
            path.display()
        );
    }
}

#[test]
fn a_block_of_another_table_or_place_is_noticed() {
    let (disk, expected) = store(SyncMode::Always, 60);
    let tables: Vec<_> = files(&disk)
        .into_iter()
        .filter(|(path, _)| path.to_string_lossy().contains("sst"))
        .collect();
    for (path, length) in &tables {
        for (other, _) in tables.iter().filter(|(other, _)| other != path) {
            let rotten = disk.fork(0);
            let mut bytes = vec![0; usize::try_from(*length).unwrap()];
            let read = rotten.open(other).unwrap().read_at(&mut bytes, 0).unwrap();
            rotten.open(path).unwrap().write_at(&bytes[..read.min(300)], 0).unwrap();
            assert!(check(
                &rotten,
                &expected,
                &format!("{} with bytes of {}", path.display(), other.display())
            ));
            let rotten = disk.fork(0);
            rotten.remove(path).unwrap();
            rotten.link(other, path).unwrap();
            assert!(check(
                &rotten,
                &expected,
                &format!("{} in place of {}", other.display(), path.display())
            ));
        }
    }
    assert!(tables.len() > 1);
}
