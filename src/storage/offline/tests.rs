use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use rand::seq::IteratorRandom as _;
use rand::{Rng as _, SeedableRng as _};
use rand_chacha::ChaCha8Rng;

use super::*;
use crate::storage::table::Entry;
use crate::storage::vfs::Vfs;
use crate::storage::vfs::simulated::{Disk, Unsynced};
use crate::storage::{BlockError, OpenError, Options, Store, SyncMode, WriteBatch};

const DIR: &str = "store";

fn options() -> Options {
    Options {
        memtable_bytes: 3000,
        block_bytes: 256,
        table_bytes: 1000,
        level0_tables: 2,
        level1_bytes: 5000,
        reserve_bytes: 0,
        ..Options::default()
    }
}

/// A running store with tables, a log, and deletes; and what it holds.
fn store() -> (Disk, Store, BTreeMap<Vec<u8>, Vec<u8>>) {
    let disk = Disk::new(0);
    let (store, _) =
        Store::open(Arc::new(disk.clone()), Path::new(DIR), options(), &mut |_, _| {}).unwrap();
    let mut content = BTreeMap::new();
    for number in 0..300_u32 {
        let (key, value) = (
            format!("key{:03}", number * 7 % 120).into_bytes(),
            vec![b'v'; 20 + number as usize % 30],
        );
        let mut batch = WriteBatch::new();
        if number % 5 == 0 {
            batch.delete(&key);
            content.remove(&key);
        } else {
            batch.put(&key, &value);
            content.insert(key, value);
        }
        store.write(batch).unwrap();
        if number % 3 == 0 {
            while let Some(job) = store.next_job() {
                store.run(job).unwrap();
            }
        }
    }
    store.sync_all().unwrap();
    (disk, store, content)
}

fn table_paths(disk: &Disk) -> Vec<PathBuf> {
    disk.files()
        .into_iter()
        .map(|(path, _)| path)
        .filter(|path| path.extension() == Some("sst".as_ref()))
        .collect()
}

fn build(
    disk: &Disk,
    dir: &str,
    entries: impl Iterator<Item = (String, Option<String>)>,
) -> PathBuf {
    disk.create_dir(Path::new(dir)).unwrap();
    let options = TableOptions { block_bytes: 200, ..TableOptions::default() };
    let mut builder = TableBuilder::new(Arc::new(disk.clone()), Path::new(dir), options);
    for (key, value) in entries {
        builder.add(key.as_bytes(), value.as_deref().map(str::as_bytes)).unwrap();
    }
    let [table] = builder.finish().unwrap().try_into().unwrap();
    table.file
}

#[test]
fn a_directory_beside_a_running_store_shows_the_same_and_is_left_alone() {
    let (disk, store, expected) = store();
    let files = disk.files();
    let view = DirectoryView::open(&disk, Path::new(DIR)).unwrap();
    let seen: BTreeMap<_, _> = view
        .live()
        .map(Result::unwrap)
        .map(|live| (live.key.to_vec(), live.value.unwrap().to_vec()))
        .collect();
    assert_eq!(seen, expected);
    for number in 0..120 {
        let key = format!("key{number:03}");
        let entry = view.get(key.as_bytes()).unwrap();
        let value = entry.as_ref().and_then(|entry| entry.value.clone());
        assert_eq!(value, store.get(key.as_bytes()).unwrap().value, "{key}");
        if let Some(PlacedEntry { place: Place::Table { file, block, offset }, .. }) = entry {
            let located =
                TableFile::open(&disk, &file).unwrap().get(key.as_bytes()).unwrap().unwrap();
            assert_eq!(
                (located.block, located.offset, located.entry.value),
                (block, offset, value)
            );
        }
    }
    assert!(
        view.tables().count() > 1
            && !view.log_paths().is_empty()
            && view.damaged_records().is_empty()
    );
    assert_eq!(disk.files(), files);
    // The log's end and a merge that happens meanwhile change nothing that the view holds.
    store.flush().unwrap();
    while let Some(job) = store.next_job() {
        store.run(job).unwrap();
    }
    assert_eq!(view.live().count(), expected.len());
}

#[test]
fn tables_merge_to_what_the_store_holds() {
    let (disk, store, expected) = store();
    store.flush().unwrap();
    let vfs: Arc<dyn Vfs> = Arc::new(disk.clone());
    let tables: Vec<_> =
        table_paths(&disk).iter().map(|path| TableFile::open(&disk, path).unwrap()).collect();
    disk.create_dir(Path::new("merged")).unwrap();
    let (level, newest) = merged_age(&tables);
    let mut builder = TableBuilder::new(vfs, Path::new("merged"), TableOptions::default())
        .aged(level, newest)
        .numbered_from(7);
    let all: u64 = tables.iter().map(|table| table.properties().entries).sum();
    let mut merged = merged_tables(tables);
    for entry in &mut merged {
        let entry = entry.unwrap();
        builder.add(&entry.key, entry.value.as_deref()).unwrap();
    }
    let shadowed = merged.shadowed();
    let [written] = builder.finish().unwrap().try_into().unwrap();
    assert_eq!((written.number, written.properties.level), (7, level));
    let table = TableFile::open(&disk, &written.file).unwrap();
    let entries: Vec<_> = table.entries(b"").map(|entry| entry.unwrap().entry).collect();
    let live: BTreeMap<_, _> = entries
        .iter()
        .filter_map(|entry| Some((entry.key.to_vec(), entry.value.as_ref()?.to_vec())))
        .collect();
    assert_eq!(live, expected);
    assert!(shadowed > 0 && all == entries.len() as u64 + shadowed);
    assert!(TableFile::verify(&disk, &written.file, Depth::Full).unwrap().is_empty());
}

#[test]
fn damage_is_listed_and_the_rest_of_the_table_is_read() {
    let disk = Disk::new(0);
    let entries = || (0..100).map(|number| (format!("{number:03}"), Some("value".repeat(4))));
    let path = build(&disk, "t", entries());
    let info = TableFile::open(&disk, &path).unwrap().info();
    assert_eq!(
        (info.properties.entries, &*info.first, &*info.last),
        (100, &b"000"[..], &b"099"[..])
    );
    let second = TableFile::open(&disk, &path)
        .unwrap()
        .entries(b"")
        .flatten()
        .find(|found| found.block == 1)
        .unwrap();
    disk.flip_bit(&path, second.offset + 3, 4).unwrap();
    let bad = TableFile::verify(&disk, &path, Depth::Full).unwrap();
    let [
        BadBlock {
            kind: BlockKind::Data, number: Some(1), handle, keys: Some(keys), error, ..
        },
    ] = &*bad
    else {
        panic!("{bad:?}")
    };
    assert_eq!((handle.offset, keys.first < keys.last), (second.offset, true));
    assert!(keys.first <= second.entry.key && second.entry.key <= keys.last);
    assert!(matches!(error, BlockError::Checksum { stored, computed } if stored != computed));
    let table = TableFile::open(&disk, &path).unwrap();
    let (read, lost): (Vec<_>, Vec<_>) = table.entries(b"").partition(Result::is_ok);
    assert!(lost.len() == 1 && (80..100).contains(&read.len()), "{} read", read.len());
    assert!(table.get(&second.entry.key).is_err());
    assert_eq!(&*table.get(b"099").unwrap().unwrap().entry.key, b"099");
    assert!(table.may_contain(b"042") && !(0..100).all(|number: u8| table.may_contain(&[number])));
    // Footer, index, filter and properties too.
    let footer = disk.fork(0);
    footer.flip_bit(&path, info.bytes - 30, 0).unwrap();
    assert_eq!(TableFile::verify(&footer, &path, Depth::Quick).unwrap()[0].kind, BlockKind::Footer);
    assert!(TableFile::open(&footer, &path).is_err());
}

#[test]
fn a_log_is_read_past_its_damage() {
    let disk = Disk::new(0);
    let options = Options { memtable_bytes: 1 << 20, ..options() };
    let (store, _) =
        Store::open(Arc::new(disk.clone()), Path::new(DIR), options, &mut |_, _| {}).unwrap();
    for number in 0..5_u16 {
        let mut batch = WriteBatch::new();
        batch.put(number.to_string(), "value").delete("x").xor_leaf(number, 1);
        store.write(batch).unwrap();
        store.sync_all().unwrap();
    }
    let path = Path::new("store/log/00000001.log");
    let items =
        |disk: &Disk| LogFile::open(disk, path).unwrap().map(Result::unwrap).collect::<Vec<_>>();
    let sound = items(&disk);
    let [LogItem::Record(first), LogItem::Record(second), ..] = &*sound else {
        panic!("{sound:?}")
    };
    assert_eq!((sound.len(), first.changes.len(), first.end), (5, 3, second.synced));
    disk.flip_bit(path, second.offset + 40, 0).unwrap();
    let damaged = items(&disk);
    assert!(
        matches!(&damaged[1], LogItem::Bad(bad) if bad.offset == second.offset && bad.reason.contains("checksum"))
    );
    assert_eq!((damaged.len(), &damaged[0], &damaged[2..]), (5, &sound[0], &sound[2..]));
    let view = DirectoryView::open(&disk, Path::new(DIR)).unwrap();
    assert_eq!((view.damaged_records().len(), view.live().count()), (1, 4));
}

/// After a loss of power, and with rot on top of it, a view of the log is what a start makes of it: the same entries, or
/// damage where a start refuses.
#[test]
fn a_view_takes_of_a_torn_log_what_a_start_does() {
    let (mut cut, mut refused) = (0, 0);
    for seed in 0..400 {
        let mut random = ChaCha8Rng::seed_from_u64(seed);
        let sync = if seed % 2 == 0 { SyncMode::Never } else { SyncMode::Always };
        let (disk, options) = torn_log(sync, &mut random);
        let what = format!("seed {seed}, {sync}");
        let view = DirectoryView::open(&disk, Path::new(DIR)).unwrap();
        let vfs = Arc::new(disk.clone());
        match Store::open(vfs, Path::new(DIR), options, &mut |_, _| {}) {
            Ok((store, recovery)) => {
                let held: Vec<_> = store.scan(b"", None).map(Result::unwrap).collect();
                let seen = view.live().map(Result::unwrap);
                let seen: Vec<_> = seen.map(|entry| (entry.key, entry.value.unwrap())).collect();
                assert_eq!(seen, held, "{what}");
                assert!(view.damaged_records().is_empty(), "{what}: {view:?}");
                let place = view.torn().map(|(file, bad)| (file.clone(), bad.offset));
                assert_eq!(place, recovery.cut.map(|cut| (cut.file, cut.offset)), "{what}");
                cut += u32::from(place.is_some());
            }
            Err(OpenError::Damaged { .. } | OpenError::Missing { .. }) => {
                assert!(!view.damaged_records().is_empty(), "{what}");
                refused += 1;
            }
            Err(error) => panic!("{what}: {error}"),
        }
    }
    assert!(cut > 50 && refused > 20, "{cut} cut, {refused} refused");
}

/// A store that lost power with a log of several segments, and in half of all cases a bit of it.
fn torn_log(sync: SyncMode, random: &mut ChaCha8Rng) -> (Disk, Options) {
    let options = Options { sync, log_segment_bytes: 300, memtable_bytes: 1 << 20, ..options() };
    let disk = Disk::new(random.random());
    let vfs = Arc::new(disk.clone());
    let (store, _) = Store::open(vfs, Path::new(DIR), options.clone(), &mut |_, _| {}).unwrap();
    for _ in 0..random.random_range(1..40) {
        let mut batch = WriteBatch::new();
        let key = random.random_range(0..30).to_string();
        batch.put(key, vec![0; random.random_range(0..90)]);
        if random.random_ratio(1, 20) {
            batch.durable();
        }
        store.write(batch).unwrap();
        if random.random_ratio(1, 3) {
            store.sync(store.appended()).unwrap();
        }
    }
    if random.random() {
        // Handed to the system, and perhaps no further.
        disk.fail_sync(disk.syncs());
        let _ = store.sync_all();
    }
    drop(store);
    disk.power_loss(Unsynced::Torn);
    let logs = disk.files().into_iter().filter(|(path, _)| path.starts_with("store/log"));
    if let Some((log, length)) = logs.choose(random)
        && length > 0
        && random.random()
    {
        disk.flip_bit(&log, random.random_range(0..length), 3).unwrap();
    }
    (disk, options)
}

#[test]
fn a_manifest_shows_its_edits_past_damage() {
    let (disk, _, _) = store();
    let path = DirectoryView::open(&disk, Path::new(DIR)).unwrap().manifest_path();
    let items = |disk: &Disk| ManifestFile::open(disk, &path).unwrap().collect::<Vec<_>>();
    let sound = items(&disk);
    let edits: Vec<_> = sound
        .iter()
        .map(|item| match item {
            ManifestItem::Edit(edit) => edit,
            other => panic!("{other:?}"),
        })
        .collect();
    assert!(edits.len() > 5 && edits.iter().any(|located| !located.edit.removed.is_empty()));
    disk.flip_bit(&path, edits[2].offset + 30, 0).unwrap();
    let damaged = items(&disk);
    assert!(matches!(&damaged[2], ManifestItem::Bad(bad) if bad.offset == edits[2].offset));
    assert_eq!(
        (damaged.len(), &damaged[..2], &damaged[3..]),
        (edits.len(), &sound[..2], &sound[3..])
    );
}

#[test]
fn entries_out_of_order_are_refused() {
    let disk = Disk::new(0);
    let mut builder = TableBuilder::new(Arc::new(disk), Path::new(""), TableOptions::default());
    builder.add(b"b", None).unwrap();
    let error = builder.add(b"a", None).unwrap_err();
    assert_eq!(error.to_string(), "key a does not come after b");
}

/// What salvaging a table gives: the entries' keys, and what was lost.
fn salvaged(disk: &Disk, path: &Path) -> (Vec<Bytes>, Vec<Lost>) {
    let (mut keys, mut lost) = (Vec::new(), Vec::new());
    let mut take = |entry: &Entry| {
        keys.push(entry.key.clone());
        Ok(())
    };
    let report = salvage_table(disk, path, &mut take, &mut |gone| lost.push(gone)).unwrap();
    assert_eq!(report.entries, keys.len() as u64);
    (keys, lost)
}

#[test]
fn the_sound_blocks_of_a_table_are_salvaged_with_and_without_its_index() {
    let disk = Disk::new(0);
    let value = |number: u32| Some(format!("{number}-").repeat(number as usize % 17));
    let path = build(&disk, "t", (0..400).map(|number| (format!("{number:03}"), value(number))));
    let table = TableFile::open(&disk, &path).unwrap();
    let all: Vec<_> = table.entries(b"").map(|found| found.unwrap().entry.key).collect();
    let third = table.entries(b"").flatten().find(|found| found.block == 3).unwrap();
    let gone: Vec<_> = table
        .entries(b"")
        .flatten()
        .filter(|found| found.block == 3)
        .map(|f| f.entry.key)
        .collect();
    assert_eq!(salvaged(&disk, &path), (all.clone(), vec![]));
    disk.flip_bit(&path, third.offset + 3, 4).unwrap();
    let rest: Vec<_> = all.iter().filter(|key| !gone.contains(key)).cloned().collect();
    let with_index = salvaged(&disk, &path);
    disk.flip_bit(&path, table.info().bytes - 30, 0).unwrap();
    let without = salvaged(&disk, &path);
    for (keys, lost) in [with_index, without] {
        assert_eq!(keys, rest);
        assert_eq!(lost[0].offset, third.offset);
        let range = lost[0].keys.as_ref().unwrap();
        assert!(gone.iter().all(|key| range.first <= *key && *key <= range.last), "{range:?}");
    }
}

#[test]
fn a_salvaged_log_takes_the_place_of_the_damaged_one() {
    for hit in [0, 3, 4] {
        let disk = Disk::new(0);
        let options = Options { memtable_bytes: 1 << 20, ..options() };
        let open = |disk: &Disk| {
            Store::open(Arc::new(disk.clone()), Path::new(DIR), options.clone(), &mut |_, _| {})
        };
        let (store, _) = open(&disk).unwrap();
        for number in 0..5_usize {
            let mut batch = WriteBatch::new();
            batch.put(number.to_string(), "v".repeat(number * 7));
            store.write(batch).unwrap();
            store.sync_all().unwrap();
        }
        drop(store);
        let path = Path::new("store/log/00000001.log");
        let records: Vec<_> = LogFile::open(&disk, path).unwrap().map(Result::unwrap).collect();
        let LogItem::Record(record) = &records[hit] else { panic!("{records:?}") };
        disk.flip_bit(path, record.offset + 33, 0).unwrap();
        // A start that succeeds makes tables of the log: not of ours.
        let start = open(&disk.fork(0));
        assert_eq!(start.is_err(), hit < 4, "only the last may never have been durable");
        disk.create_dir(Path::new("out")).unwrap();
        let mut lost = Vec::new();
        let salvaged =
            salvage_log(&disk, path, Some(Path::new("out")), &mut |gone| lost.push(gone)).unwrap();
        assert_eq!((salvaged.records, lost.len()), (4, 1));
        assert_eq!((lost[0].offset, lost[0].bytes), (record.offset, record.bytes));
        disk.rename(&salvaged.file, path).unwrap();
        let (store, recovery) = open(&disk).unwrap();
        assert_eq!(recovery.cut, None);
        for number in 0..5_usize {
            let value = store.get(number.to_string().as_bytes()).unwrap().value;
            let expected = (number != hit).then(|| Bytes::from("v".repeat(number * 7)));
            assert_eq!(value, expected, "key {number} after damage of {hit}");
        }
    }
}
