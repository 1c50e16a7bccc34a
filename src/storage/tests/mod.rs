//! The store as its callers see it, on the simulated disk and on the real one.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

mod compression;
mod crash;
mod faults;
mod golden;
mod history;
mod model;
mod mutation;
mod quarantine;
mod rot;
mod snapshots;
mod threads;

use super::vfs::simulated::{Disk, Unsynced};
use super::*;

/// Where the tests' stores live.
const DIR: &str = "store";

/// Options so small that a few writes make segments, tables and levels.
fn small() -> Options {
    Options {
        memtable_bytes: 2048,
        cache_bytes: 16 << 10,
        log_segment_bytes: 1500,
        reserve_bytes: 0,
        block_bytes: 256,
        table_bytes: 1024,
        level0_tables: 2,
        level1_bytes: 3000,
        level_factor: 2,
        compaction_slice_bytes: 500,
        ..Options::default()
    }
}

fn open(
    vfs: &(impl Vfs + Clone + 'static),
    options: &Options,
) -> Result<(Store, Recovery), OpenError> {
    Store::open(Arc::new(vfs.clone()), Path::new(DIR), options.clone(), &mut |_, _| {})
}

fn put(store: &Store, key: &str, value: &str) -> LogPosition {
    let mut batch = WriteBatch::new();
    batch.put(key, value);
    store.write(batch).unwrap()
}

fn value(store: &Store, key: &str) -> Option<String> {
    store.get(key.as_bytes()).unwrap().value.map(|value| String::from_utf8(value.to_vec()).unwrap())
}

/// Where a file's last byte ends that is not zero. A log may be longer: it is given length ahead of its records.
fn written_length(disk: &Disk, path: &Path) -> u64 {
    let bytes = vfs::read_whole(disk, path, u64::MAX).unwrap();
    bytes.iter().rposition(|byte| *byte != 0).map_or(0, |last| last as u64 + 1)
}

fn run_jobs(store: &Store) {
    while let Some(job) = store.next_job() {
        store.run(job).unwrap();
    }
}

fn content(store: &Store) -> BTreeMap<String, String> {
    let text = |bytes: bytes::Bytes| String::from_utf8(bytes.to_vec()).unwrap();
    store
        .scan(b"", None)
        .map(|entry| entry.map(|(key, value)| (text(key), text(value))).unwrap())
        .collect()
}

#[test]
fn what_was_synced_is_there_after_a_power_loss_and_the_rest_is_not() {
    let disk = Disk::new(1);
    let (store, recovery) = open(&disk, &small()).unwrap();
    assert!(recovery.founded);
    let position = put(&store, "a", "1");
    assert!(store.durable() < position);
    assert_eq!(store.sync(position).unwrap(), position);
    put(&store, "b", "2");
    drop(store);
    disk.power_loss(Unsynced::Dropped);
    let (store, recovery) = open(&disk, &small()).unwrap();
    assert_eq!((recovery.founded, recovery.records, recovery.cut), (false, 1, None));
    assert_eq!((value(&store, "a").as_deref(), value(&store, "b")), (Some("1"), None));
    assert_eq!(store.appended(), position);
}

#[test]
fn flush_and_compaction_change_nothing_that_is_seen() {
    let disk = Disk::new(1);
    let (store, _) = open(&disk, &small()).unwrap();
    let mut expected = BTreeMap::new();
    for round in 0..600 {
        let (key, value) = (format!("key{:03}", round * 7 % 200), format!("value {round}"));
        put(&store, &key, &value);
        expected.insert(key, value);
        if round % 10 == 0 {
            run_jobs(&store);
        }
    }
    run_jobs(&store);
    assert_eq!(content(&store), expected);
    let stats = store.stats();
    assert!(
        stats.flushes > 5 && stats.compactions > 2 && stats.tables_by_level.len() > 2,
        "{stats:?}"
    );
    for (key, expected) in &expected {
        assert_eq!(value(&store, key).as_ref(), Some(expected));
    }
    store.close().unwrap();
    let (store, recovery) = open(&disk, &small()).unwrap();
    assert_eq!((recovery.cut, content(&store)), (None, expected));
}

#[test]
fn a_delete_stays_as_long_as_a_deeper_level_may_hold_the_key_and_no_longer() {
    let disk = Disk::new(1);
    let options = Options { level0_tables: 1, level1_bytes: 256, level_factor: 1000, ..small() };
    let (store, _) = open(&disk, &options).unwrap();
    let levels = |store: &Store| store.stats().tables_by_level;
    put(&store, "key", &(0..300).map(|number| number.to_string()).collect::<String>());
    store.flush().unwrap();
    run_jobs(&store);
    assert_eq!(levels(&store), [0, 0, 1], "the value is two levels deep");
    let delete = || {
        let mut batch = WriteBatch::new();
        batch.delete("key");
        store.write(batch).unwrap();
        store.flush().unwrap();
    };
    delete();
    store.run(store.next_compaction().unwrap()).unwrap();
    assert_eq!(levels(&store), [0, 1, 1], "the delete hides it from one level above");
    assert_eq!(value(&store, "key"), None);
    // Large enough to push the delete down to what it hides.
    put(&store, "kez", &(300..600).map(|number| number.to_string()).collect::<String>());
    store.flush().unwrap();
    run_jobs(&store);
    assert_eq!((value(&store, "key"), levels(&store)), (None, vec![0, 0, 1]));
    assert_eq!(store.keys_estimate(b'k'), 1, "neither the value nor its delete is left");
}

#[test]
fn a_position_is_told_as_long_as_a_memtable_holds_the_key() {
    let disk = Disk::new(1);
    let (store, _) = open(&disk, &small()).unwrap();
    let position = put(&store, "a", "1");
    assert_eq!(store.get(b"a").unwrap(), Found { value: Some("1".into()), position });
    let mut batch = WriteBatch::new();
    batch.delete("a");
    let position = store.write(batch).unwrap();
    assert_eq!(store.get(b"a").unwrap(), Found { value: None, position });
    store.freeze();
    assert_eq!(store.get_cached(b"a").unwrap(), Cached::Ready(Found { value: None, position }));
    store.flush().unwrap();
    assert_eq!(store.get(b"a").unwrap(), Found { value: None, position: LogPosition::ZERO });
    assert_eq!(store.get_cached(b"a").unwrap(), Cached::Ready(Found::default()));
}

#[test]
fn a_cached_read_never_touches_the_disk() {
    let disk = Disk::new(1);
    let (store, _) = open(&disk, &small()).unwrap();
    put(&store, "a", "1");
    store.flush().unwrap();
    let calls = disk.calls();
    assert_eq!(store.get_cached(b"a").unwrap(), Cached::NeedsDisk);
    assert_eq!(store.get_cached(b"b").unwrap(), Cached::Ready(Found::default()));
    assert_eq!(disk.calls(), calls);
    let found = store.get(b"a").unwrap();
    let calls = disk.calls();
    assert_eq!(store.get_cached(b"a").unwrap(), Cached::Ready(found));
    assert_eq!(disk.calls(), calls);
}

#[test]
fn leaves_follow_the_writes_through_flush_replay_and_manifest() {
    let disk = Disk::new(1);
    let mut expected = BTreeMap::new();
    for round in 0..40_u16 {
        let (store, _) = open(&disk, &small()).unwrap();
        for step in 0..10_u16 {
            let (slot, bits) = ((round * 31 + step) % 50, u128::from(round * 100 + step) << 70);
            let mut batch = WriteBatch::new();
            batch.put(format!("{slot}"), "x".repeat(40)).xor_leaf(slot, bits);
            store.write(batch).unwrap();
            *expected.entry(slot).or_insert(0) ^= bits;
        }
        if round % 3 == 0 {
            run_jobs(&store);
        }
        store.sync_all().unwrap();
        assert!(expected.iter().all(|(slot, bits)| store.leaf(*slot) == *bits), "round {round}");
    }
}

#[test]
fn the_mode_decides_what_counts_and_a_durable_batch_overrules_it() {
    let disk = Disk::new(1);
    let never = Options { sync: SyncMode::Never, ..small() };
    let (store, _) = open(&disk, &never).unwrap();
    let fsyncs = store.stats().fsyncs;
    let position = put(&store, "a", "1");
    assert_eq!(store.sync(position).unwrap(), position);
    assert_eq!(store.stats().fsyncs, fsyncs);
    let mut batch = WriteBatch::new();
    batch.put("b", "2").durable();
    let position = store.write(batch).unwrap();
    store.sync(position).unwrap();
    assert_eq!(store.stats().fsyncs, fsyncs + 1);
    let position = put(&store, "c", "3");
    store.sync(position).unwrap();
    drop(store);
    disk.power_loss(Unsynced::Dropped);
    let (store, _) = open(&disk, &never).unwrap();
    assert_eq!(content(&store).into_keys().collect::<Vec<_>>(), ["a", "b"]);
}

#[test]
fn the_real_disk_does_as_well_and_a_snapshot_is_a_store() {
    let temporary = tempfile::tempdir().unwrap();
    let (dir, copy) = (temporary.path().join("a"), temporary.path().join("b"));
    let options = Options { reserve_bytes: 1 << 20, ..small() };
    let open = |dir: &Path| {
        Store::open(Arc::new(vfs::Real), dir, options.clone(), &mut |_, _| {}).unwrap().0
    };
    let store = open(&dir);
    for number in 0..300 {
        put(&store, &format!("{number}"), "some value or other");
        run_jobs(&store);
    }
    let expected = content(&store);
    store.snapshot(&copy).unwrap();
    put(&store, "later", "not in the snapshot");
    drop(store);
    assert_eq!(content(&open(&copy)), expected);
    assert_eq!(content(&open(&dir)).len(), 300);
}

/// Found by the model: the slice took the end of what it looked at in the memtable for the end of the range, when the next
/// key it knew, of a table or an older memtable, was behind the range.
#[test]
fn a_slice_that_a_memtable_cuts_short_before_the_end_of_the_range_is_not_the_last() {
    let disk = Disk::new(0);
    let (store, _) = open(&disk, &small()).unwrap();
    put(&store, "z", "in a table, behind the range");
    store.flush().unwrap();
    for key in ["a", "b", "c", "d"] {
        let mut batch = WriteBatch::new();
        batch.delete(key);
        store.write(batch).unwrap();
    }
    put(&store, "e", "in the range");
    let slice = store.scan_slice(b"", Some(b"f"), 2, 1 << 20).unwrap();
    assert!(slice.entries.is_empty() && slice.next.is_some(), "{slice:?}");
    let mut scan = store.scan(b"", Some(b"f"));
    assert_eq!(scan.next().unwrap().unwrap().0, "e");
    assert!(scan.next().is_none());
}

#[test]
fn keys_are_counted_by_their_first_byte() {
    let disk = Disk::new(1);
    let (store, _) = open(&disk, &Options { table_bytes: 1 << 20, ..small() }).unwrap();
    let counts = |store: &Store| [b'c', b'd', b'm', b'n'].map(|first| store.keys_estimate(first));
    put(&store, "meta", "one of few");
    assert_eq!(counts(&store), [0, 0, 1, 0]);
    for number in 0..500 {
        put(&store, &format!("data{number:03}"), "some value");
        run_jobs(&store);
    }
    store.flush().unwrap();
    run_jobs(&store);
    let [none, data, meta, behind] = counts(&store);
    assert_eq!((none, behind), (0, 0));
    assert!((480..=501).contains(&data) && meta <= 20, "{data} and {meta}");
}

#[test]
fn tables_of_keys_that_came_in_order_move_down_without_being_written_again() {
    let disk = Disk::new(1);
    let (store, _) = open(&disk, &Options { level1_bytes: 1 << 20, ..small() }).unwrap();
    for number in 0..300 {
        put(&store, &format!("key{number:05}"), &format!("value {number}"));
        while let Some(job) = store.next_flush() {
            store.run(job).unwrap();
        }
    }
    store.flush().unwrap();
    let files = |disk: &Disk| -> Vec<_> {
        let is_table = |path: &std::path::Path| path.extension() == Some("sst".as_ref());
        disk.files().into_iter().map(|(path, _)| path).filter(|path| is_table(path)).collect()
    };
    let before = files(&disk);
    run_jobs(&store);
    assert!(before.len() > 5 && files(&disk) == before, "{before:?} became {:?}", files(&disk));
    assert_eq!(store.stats().tables_by_level, [0, before.len() as u64]);
    store.close().unwrap();
    let (store, _) = open(&disk, &small()).unwrap();
    assert_eq!(content(&store).len(), 300);
}
