//! Disks that fail or fill up: nothing acknowledged is lost, and what fails says so.

use std::path::Path;

use super::super::vfs::simulated::{Disk, Fault, Unsynced};
use super::super::*;
use super::history::{open, open_in};
use super::{put, small, value, written_length};

/// No run syncs as often as this.
const SYNCS_MAX: u64 = 10_000;
/// Writes of one run.
const WRITES: u32 = 60;

fn options() -> Options {
    Options { reserve_bytes: 64 << 10, manifest_edits_bytes: 400, ..small() }
}

fn key(number: u32) -> String {
    format!("key{number:03}")
}

/// Writes, syncs and runs jobs, and goes on past what fails; the numbers acknowledged.
fn write_all(store: &Store) -> Vec<u32> {
    let mut acknowledged = Vec::new();
    for number in 0..WRITES {
        let mut batch = WriteBatch::new();
        batch.put(key(number), format!("value {number}").repeat(8));
        let written = store.write(batch).map_err(|error| error.to_string());
        if written
            .and_then(|position| store.sync(position).map_err(|error| error.to_string()))
            .is_ok()
        {
            acknowledged.push(number);
        }
        // A read may fail; it never gives what was not written.
        if let Ok(found) = store.get(key(number / 2).as_bytes())
            && acknowledged.contains(&(number / 2))
        {
            let expected = format!("value {}", number / 2).repeat(8);
            assert_eq!(found.value.as_deref(), Some(expected.as_bytes()));
        }
        if number % 3 == 0 {
            for job in [store.next_flush(), store.next_compaction()].into_iter().flatten() {
                let _ = store.run(job);
            }
        }
    }
    acknowledged
}

fn check_acknowledged(disk: &Disk, acknowledged: &[u32], what: &str) {
    let store = open(disk, &options()).unwrap_or_else(|error| panic!("{what}: {error}"));
    for number in acknowledged {
        let expected = format!("value {number}").repeat(8);
        assert_eq!(value(&store, &key(*number)), Some(expected), "{what}: write {number}");
    }
}

fn check_fault_everywhere(fault: Fault, unsynced: Unsynced) {
    for call in 0.. {
        let disk = Disk::new(call);
        disk.fail_at(call, fault);
        let what = format!("{fault:?} at call {call}, then {unsynced:?}");
        let Ok(store) = open(&disk, &options()) else {
            disk.power_loss(unsynced);
            open(&disk, &options()).unwrap_or_else(|error| panic!("{what}: {error}"));
            continue;
        };
        let acknowledged = write_all(&store);
        let failed = store.check_failure().is_err();
        if fault == Fault::Io && failed {
            let mut batch = WriteBatch::new();
            batch.put("late", "");
            assert!(matches!(store.write(batch), Err(WriteError::Failed(_))), "{what}");
            assert!(store.sync_all().is_err(), "{what}: a failed store synced");
        }
        let calls = disk.calls();
        drop(store);
        disk.power_loss(unsynced);
        check_acknowledged(&disk, &acknowledged, &what);
        if calls <= call {
            assert_eq!(u32::try_from(acknowledged.len()), Ok(WRITES));
            return;
        }
    }
}

#[test]
fn an_input_output_error_at_any_call_loses_nothing_acknowledged() {
    check_fault_everywhere(Fault::Io, Unsynced::Dropped);
    check_fault_everywhere(Fault::Io, Unsynced::Kept);
}

#[test]
fn nor_does_a_moment_of_full_disk() {
    check_fault_everywhere(Fault::Full, Unsynced::Dropped);
}

#[test]
fn a_failed_sync_is_not_tried_again_and_recovery_does_not_trust_the_file() {
    let disk = Disk::new(0);
    let store = open(&disk, &options()).unwrap();
    put(&store, "a", "1");
    store.sync_all().unwrap();
    put(&store, "b", "2");
    // The write, then the sync.
    disk.fail_at(disk.calls() + 1, Fault::Io);
    store.sync_all().unwrap_err();
    let calls = disk.calls();
    store.sync_all().unwrap_err();
    assert_eq!(disk.calls(), calls, "it was tried again");
    assert!(store.durable() < store.appended());
    drop(store);
    // The process starts again and reads the bytes back from the system's cache; then the power fails.
    disk.power_loss(Unsynced::Kept);
    drop(open(&disk, &options()).unwrap());
    disk.power_loss(Unsynced::Dropped);
    let store = open(&disk, &options()).unwrap();
    assert_eq!(value(&store, "b").as_deref(), Some("2"), "what a start served was lost");
}

/// The sync of this number fails, and takes with it what it should have made durable. False when there is none.
fn check_failed_sync(number: u64, mode: SyncMode) -> bool {
    let what = format!("{mode}, sync {number} failed");
    let options = Options { sync: mode, ..options() };
    let disk = Disk::new(number);
    disk.fail_sync(number);
    let Ok(store) = open(&disk, &options) else {
        disk.power_loss(Unsynced::Dropped);
        open(&disk, &options).unwrap_or_else(|error| panic!("{what}: {error}"));
        return true;
    };
    let (mut acknowledged, mut synced) = (Vec::new(), 0);
    let mut failed_at = None;
    for index in 0..WRITES {
        let mut batch = WriteBatch::new();
        batch.put(key(index), format!("value {index}").repeat(8));
        if index % 4 == 0 {
            batch.durable();
        }
        if store.write(batch).is_ok_and(|position| store.sync(position).is_ok()) {
            acknowledged.push(index);
        }
        for job in [store.next_flush(), store.next_compaction()].into_iter().flatten() {
            let _ = store.run(job);
        }
        if store.check_failure().is_ok() {
            synced = if store.synced() == store.appended() { acknowledged.len() } else { synced };
            continue;
        }
        // From here on nothing is synced, nothing is acknowledged, and no position moves.
        let state = (disk.syncs(), store.durable(), store.synced(), acknowledged.len());
        assert_eq!(*failed_at.get_or_insert(state), state, "{what}");
        assert!(store.flush().is_err() && store.close().is_err(), "{what}");
    }
    drop(store);
    let lost = disk.fork(0);
    lost.power_loss(Unsynced::Dropped);
    let store = open(&lost, &options).unwrap_or_else(|error| panic!("{what}: {error}"));
    for index in &acknowledged[..synced] {
        assert!(value(&store, &key(*index)).is_some(), "{what}: write {index} is lost");
    }
    // The process starts again and finds in the system's cache what is not on the disk: what it serves, it has written
    // anew.
    disk.power_loss(Unsynced::Kept);
    check_acknowledged(&disk, &acknowledged, &what);
    disk.power_loss(Unsynced::Dropped);
    check_acknowledged(&disk, &acknowledged, &format!("{what}, then a power loss"));
    failed_at.is_some()
}

#[test]
fn after_any_failed_sync_nothing_is_acknowledged_or_tried_again_and_recovery_does_not_trust_the_file()
 {
    for mode in [SyncMode::Always, SyncMode::Never] {
        let syncs = (0..SYNCS_MAX).find(|number| !check_failed_sync(*number, mode));
        assert!(syncs.is_some_and(|syncs| 30 < syncs), "{mode}: {syncs:?} syncs");
    }
}

/// A loose log proves nothing by its segments, but its records know what was synced before them.
#[test]
fn rot_in_a_loose_log_before_what_a_later_record_knows_to_be_synced_is_damage() {
    let options = Options { sync: SyncMode::Never, log_segment_bytes: 256, ..options() };
    let disk = Disk::new(0);
    let store = open(&disk, &options).unwrap();
    let mut synced = LogPosition::ZERO;
    for number in 0..12 {
        let mut batch = WriteBatch::new();
        batch.put(key(number), "x".repeat(20)).durable();
        synced = store.synced();
        store.sync(store.write(batch).unwrap()).unwrap();
    }
    drop(store);
    disk.power_loss(Unsynced::Dropped);
    let mut position = 0;
    let logs = disk.files().into_iter().filter(|(path, _)| path.starts_with("store/log"));
    for (path, length) in logs {
        for offset in 0..length {
            let rotten = disk.fork(0);
            rotten.flip_bit(&path, offset, (offset % 8) as u8).unwrap();
            let inside = offset.saturating_sub(log::HEADER_BYTES as u64);
            let is_known = position + inside < synced.get();
            let opened = open(&rotten, &options);
            assert_eq!(
                matches!(opened, Err(OpenError::Damaged { .. })),
                is_known,
                "{} with byte {offset} flipped, synced to {synced}: {opened:?}",
                path.display()
            );
        }
        position += length - log::HEADER_BYTES as u64;
    }
    assert!(synced.get() < position);
}

/// The edit stood in the new manifest when the old one could not be removed for want of space: it was appended again, and
/// leaves that are combined twice are lost.
#[test]
fn a_manifest_that_has_grown_takes_its_edit_once_wherever_the_disk_is_full() {
    let options = Options { manifest_edits_bytes: 1, memtable_bytes: 1 << 20, ..options() };
    for call in 0.. {
        let disk = Disk::new(call);
        let store = open(&disk, &options).unwrap();
        for slot in [5, 6] {
            let mut batch = WriteBatch::new();
            batch.put("key", "value").xor_leaf(slot, 77);
            store.write(batch).unwrap();
            if slot == 5 {
                store.flush().unwrap();
            }
        }
        store.sync_all().unwrap();
        let before = disk.calls();
        disk.fail_at(before + call, Fault::Full);
        let _ = store.flush();
        let calls = disk.calls() - before;
        drop(store);
        disk.power_loss(Unsynced::Dropped);
        let store = open(&disk, &options).unwrap();
        assert_eq!((store.leaf(5), store.leaf(6)), (77, 77), "call {call}");
        if calls <= call {
            assert!(10 < calls, "{calls} calls");
            return;
        }
    }
}

/// A flush that a full disk puts off is no flush: a snapshot that took it for one would lack what was written.
#[test]
fn a_flush_or_snapshot_on_a_full_disk_says_so() {
    let disk = Disk::new(0);
    let options = Options {
        reserve_bytes: 4 << 10,
        memtable_bytes: 64 << 10,
        compression: Compression::None,
        ..options()
    };
    let store = open(&disk, &options).unwrap();
    for number in 0..40 {
        put(&store, &key(number), &"x".repeat(200));
        store.sync_all().unwrap();
    }
    disk.set_capacity(Some(disk.used()));
    for _ in 0..2 {
        assert!(matches!(store.flush(), Err(JobError::Full)));
    }
    let copy = Path::new("store/snapshots/1");
    assert!(matches!(store.snapshot(copy), Err(SnapshotError::Flush(JobError::Full))));
    disk.set_capacity(None);
    store.check_space().unwrap();
    store.snapshot(copy).unwrap();
    let (snapshot, _) = open_in(&disk, copy, &options).unwrap();
    assert_eq!(snapshot.scan(b"", None).count(), 40);
}

fn flush_if_there_is_room(store: &Store) {
    if let Some(job) = store.next_flush() {
        let done = store.run(job);
        assert!(matches!(done, Ok(()) | Err(JobError::Full)), "{done:?}");
    }
}

#[test]
fn a_full_disk_refuses_writes_serves_reads_takes_deletes_and_recovers_by_itself() {
    let disk = Disk::new(0);
    let options = Options { memtable_bytes: 8 << 10, ..options() };
    let store = open(&disk, &options).unwrap();
    disk.set_capacity(Some(disk.used() + (24 << 10)));
    let mut written = 0;
    let refused = loop {
        let mut batch = WriteBatch::new();
        batch.put(key(written), "x".repeat(500));
        match store.write(batch) {
            Ok(position) => store.sync(position).unwrap(),
            Err(error) => break error,
        };
        flush_if_there_is_room(&store);
        written += 1;
    };
    assert_eq!(refused, WriteError::Full);
    assert!(written > 30 && store.stats().disk_full);
    assert_eq!(value(&store, &key(written - 1)), Some("x".repeat(500)));
    let mut batch = WriteBatch::new();
    batch.delete(key(0)).on_reserve();
    store.sync(store.write(batch).unwrap()).unwrap();
    store.check_space().unwrap();
    assert!(store.stats().disk_full, "there is still no space");
    flush_if_there_is_room(&store);
    disk.set_capacity(None);
    store.check_space().unwrap();
    assert!(!store.stats().disk_full);
    put(&store, "late", "1");
    store.sync_all().unwrap();
    drop(store);
    disk.power_loss(Unsynced::Dropped);
    let store = open(&disk, &options).unwrap();
    assert_eq!(u32::try_from(store.scan(b"", None).count()), Ok(written));
    assert_eq!((value(&store, &key(0)), value(&store, "late").as_deref()), (None, Some("1")));
}

#[test]
fn whatever_the_disks_size_a_full_one_never_fails_the_store() {
    for spare in (0..60_000).step_by(997) {
        let disk = Disk::new(spare);
        let store = open(&disk, &options()).unwrap();
        disk.set_capacity(Some(disk.used() + spare));
        let acknowledged = write_all(&store);
        assert_eq!(store.check_failure(), Ok(()), "{spare} bytes free");
        drop(store);
        disk.power_loss(Unsynced::Dropped);
        check_acknowledged(&disk, &acknowledged, &format!("{spare} bytes free"));
    }
}

#[test]
fn a_torn_end_of_the_log_is_cut_reported_and_kept() {
    let disk = Disk::new(0);
    let store = open(&disk, &options()).unwrap();
    put(&store, "a", "1");
    let end = store.sync_all().unwrap();
    put(&store, "b", "2");
    store.sync_all().unwrap();
    drop(store);
    let (log, _) =
        disk.files().into_iter().find(|(path, _)| path.starts_with("store/log")).unwrap();
    disk.power_loss(Unsynced::Kept);
    let length = written_length(&disk, &log);
    disk.truncate(&log, length - 1).unwrap();
    let (store, recovery) = Store::open(
        std::sync::Arc::new(disk.clone()),
        Path::new("store"),
        options(),
        &mut |_, _| {},
    )
    .unwrap();
    let cut = recovery.cut.unwrap();
    assert_eq!((&cut.file, cut.offset + cut.bytes, recovery.end), (&log, length - 1, end));
    assert_eq!((value(&store, "a").as_deref(), value(&store, "b")), (Some("1"), None));
    assert_eq!(
        disk.list(Path::new("store/damaged")).unwrap(),
        [log.file_name().unwrap().to_str().unwrap()]
    );
    disk.power_loss(Unsynced::Dropped);
    assert_eq!(disk.list(Path::new("store/damaged")).unwrap().len(), 1);
}

#[test]
fn a_bad_record_before_one_that_knows_it_was_durable_is_damage_and_nothing_is_changed() {
    let disk = Disk::new(0);
    let store = open(&disk, &options()).unwrap();
    for key in ["a", "b", "c"] {
        put(&store, key, "1");
        store.sync_all().unwrap();
    }
    drop(store);
    let (log, _) =
        disk.files().into_iter().find(|(path, _)| path.starts_with("store/log")).unwrap();
    disk.power_loss(Unsynced::Kept);
    disk.flip_bit(&log, log::HEADER_BYTES as u64 + 34, 0).unwrap();
    let files = disk.files();
    let error = open(&disk, &options()).unwrap_err();
    let message = error.to_string();
    assert!(message.contains("00000001.log: damaged at byte 40: checksum"), "{message}");
    assert!(message.contains("kvsstable salvage store/log/00000001.log"), "{message}");
    assert_eq!(disk.files(), files);
}

#[test]
fn one_bad_block_costs_its_keys_and_no_others() {
    let disk = Disk::new(0);
    let store =
        open(&disk, &Options { cache_bytes: 0, memtable_bytes: 1 << 20, ..options() }).unwrap();
    for number in 0..40 {
        put(&store, &key(number), &"x".repeat(30));
        store.sync_all().unwrap();
    }
    store.flush().unwrap();
    let (table, _) =
        disk.files().into_iter().find(|(path, _)| path.starts_with("store/sst")).unwrap();
    disk.flip_bit(&table, 5, 1).unwrap();
    let error = store.get(key(0).as_bytes()).unwrap_err();
    let ReadError::Corrupt { file, offset: 0, keys, source: BlockError::Checksum { .. } } = error
    else {
        panic!("{error:?}")
    };
    assert_eq!(file, table);
    let lost = (0..40).filter(|number| key(*number).as_bytes() <= &*keys.last).count();
    assert!((2..10).contains(&lost), "{keys:?}");
    let scanned: Vec<_> = store.scan(b"", None).collect();
    assert_eq!(scanned.iter().filter(|entry| entry.is_err()).count(), 1);
    assert_eq!(scanned.iter().filter(|entry| entry.is_ok()).count(), 40 - lost);
    let unreadable = store.stats().unreadable;
    let [bad] = &*unreadable else { panic!("{unreadable:?}") };
    assert_eq!((&bad.file, bad.offset, &bad.last), (&table, 0, &keys.last));
    // A merge is due at once, and goes through: the keys stay lost, the rest moves on, the file is kept.
    while let Some(job) = store.next_compaction() {
        store.run(job).unwrap();
    }
    let kept = Path::new("store/damaged").join(table.file_name().unwrap());
    assert!(disk.exists(&kept).unwrap() && !disk.exists(&table).unwrap());
    let stats = store.stats();
    assert_eq!((&stats.tables_by_level[..], stats.tables_damaged), (&[0, 1][..], 0));
    let [set_aside] = &stats.set_aside[..] else { panic!("{stats:?}") };
    assert_eq!((&set_aside.file, &set_aside.lost[..]), (&kept, std::slice::from_ref(&keys)));
    let ReadError::Corrupt { file, source, .. } = store.get(key(0).as_bytes()).unwrap_err() else {
        panic!("the system does not read holes")
    };
    assert_eq!((file, source), (kept.clone(), BlockError::SetAside));
    let [bad] = &stats.unreadable[..] else { panic!("{stats:?}") };
    assert_eq!((&bad.file, &bad.first, &bad.last), (&kept, &keys.first, &keys.last));
    assert!(value(&store, &key(39)).is_some());
    assert_eq!(store.scan(b"", None).flatten().count(), 40 - lost);
}

/// An input/output error is no damage: nothing is lost, the merge is tried again, and nobody waits for it meanwhile.
#[test]
fn a_merge_that_the_disk_fails_is_tried_again_and_makes_no_hole() {
    let disk = Disk::new(0);
    let options = Options { memtable_bytes: 1 << 20, level0_tables: 2, ..options() };
    let store = open(&disk, &options).unwrap();
    for round in 0..2 {
        for number in 0..40 {
            put(&store, &key(number), &format!("{round}"));
        }
        store.flush().unwrap();
    }
    for failures in 0..3 {
        let job = store.next_compaction().unwrap();
        // A block is read twice before it counts as not to be read.
        disk.fail_at(disk.calls(), Fault::Io);
        disk.fail_at(disk.calls() + 1, Fault::Io);
        let failed = store.run(job);
        assert!(matches!(failed, Err(JobError::Read(ReadError::Io { .. }))), "{failed:?}");
        for _ in 0..1 << failures {
            assert_eq!(store.next_compaction(), None, "after {failures} failures");
            store.check_space().unwrap();
        }
    }
    for _ in 0..30 {
        put(&store, &key(39), "once more");
        store.flush().unwrap();
    }
    assert_eq!(store.delay(1 << 30), std::time::Duration::ZERO);
    while let Some(job) = store.next_compaction() {
        store.run(job).unwrap();
    }
    let stats = store.stats();
    assert!(stats.unreadable.is_empty() && stats.set_aside.is_empty(), "{stats:?}");
    assert_eq!(stats.tables_by_level[0], 0);
    assert_eq!((value(&store, &key(7)).as_deref(), store.scan(b"", None).count()), (Some("1"), 40));
}

#[test]
fn the_scrub_finds_what_nobody_reads_and_goes_round() {
    let disk = Disk::new(0);
    let compression = Compression::None;
    let options = Options { memtable_bytes: 1 << 20, compression, ..options() };
    let store = open(&disk, &options).unwrap();
    for round in 0..2 {
        for number in 0..40 {
            put(&store, &key(number), &format!("{round}"));
        }
        store.flush().unwrap();
    }
    let round = |store: &Store| {
        let (mut damaged, mut bytes) = (Vec::new(), 0);
        loop {
            let slice = store.scrub(100);
            assert!(slice.bytes < 1_000, "a slice of {} bytes", slice.bytes);
            damaged.extend(slice.damaged);
            bytes += slice.bytes;
            if slice.is_round {
                return (damaged, bytes);
            }
        }
    };
    let (damaged, bytes) = round(&store);
    assert!(damaged.is_empty() && bytes > 500, "{damaged:?}, {bytes}");
    let (table, _) =
        disk.files().into_iter().rfind(|(path, _)| path.starts_with("store/sst")).unwrap();
    disk.flip_bit(&table, 5, 1).unwrap();
    for _ in 0..2 {
        let (damaged, _) = round(&store);
        assert!(
            matches!(&damaged[..], [ReadError::Corrupt { file, offset: 0, .. }] if *file == table),
            "{damaged:?}"
        );
    }
    assert_eq!(store.stats().unreadable.len(), 1, "the figures tell of it, too");
}
