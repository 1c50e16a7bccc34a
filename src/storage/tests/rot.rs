//! Rot: any byte flipped, any file cut at any length, is detected or harmless: never a wrong value, never a panic.
//!
//! `KVKIT_ROT_ALL=1` flips each bit of a byte instead of one.

use std::path::{Path, PathBuf};

use super::super::vfs::simulated::Disk;
use super::super::*;
use super::history::{Content, open};
use super::{DIR, put, run_jobs, small};

/// A closed store with two levels of tables, a log with some records and a manifest with edits, and what it holds.
fn store() -> (Disk, Content) {
    let disk = Disk::new(3);
    let store = open(&disk, &options()).unwrap();
    for number in 0..60 {
        put(
            &store,
            &format!("key{:02}", number % 45),
            &format!("a value of some length, {number}"),
        );
        if number == 40 {
            store.flush().unwrap();
            run_jobs(&store);
        }
        if number == 50 {
            store.flush().unwrap();
        }
    }
    let mut batch = WriteBatch::new();
    batch.delete("key03").xor_leaf(5, 77);
    store.write(batch).unwrap();
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

/// Nothing but what was written is ever read; what cannot be read says so. Whether the rot was noticed at all.
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

/// The bits of a byte to flip.
fn bits(offset: u64) -> Vec<u8> {
    if std::env::var_os("KVKIT_ROT_ALL").is_some() {
        (0..8).collect()
    } else {
        vec![(offset % 8) as u8]
    }
}

#[test]
fn a_flipped_bit_is_noticed_or_harmless() {
    let (disk, expected) = store();
    assert!(!check(&disk.fork(0), &expected, "nothing"));
    for (path, length) in files(&disk) {
        for (offset, bit) in
            (0..length).flat_map(|offset| bits(offset).into_iter().map(move |bit| (offset, bit)))
        {
            let rotten = disk.fork(0);
            rotten.flip_bit(&path, offset, bit).unwrap();
            check(&rotten, &expected, &format!("{} with byte {offset} flipped", path.display()));
        }
    }
}

#[test]
fn a_file_cut_short_is_noticed_or_harmless() {
    let (disk, expected) = store();
    for (path, length) in files(&disk) {
        for length in 0..length {
            let rotten = disk.fork(0);
            rotten.truncate(&path, length).unwrap();
            let noticed =
                check(&rotten, &expected, &format!("{} cut to {length} bytes", path.display()));
            // The last edit of the manifest only repeats what the log says of itself.
            assert!(
                noticed || path.ends_with("00000001.manifest"),
                "{} cut to {length} bytes",
                path.display()
            );
        }
    }
}

#[test]
fn a_file_that_is_gone_is_noticed() {
    let (disk, expected) = store();
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
    let (disk, expected) = store();
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
