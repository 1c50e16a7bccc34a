//! Tables rot under a store that goes on: every key is right, or cannot be read because its newest entry may have stood
//! in a bad place. Never an older value, never a lost newer one, whatever is merged, mended, crashed and started in between;
//! and what was damaged is kept.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use rand::seq::IndexedRandom as _;
use rand::{Rng as _, SeedableRng as _};
use rand_chacha::ChaCha8Rng;

use super::super::offline::{Depth, DirectoryView, Place, TableFile};
use super::super::vfs::simulated::{Disk, Unsynced};
use super::super::*;
use super::history::open;
use super::{DIR, put, run_jobs, small, value};

/// Scripts in an ordinary run, and operations of each.
const SEEDS: u64 = 25;
const STEPS: usize = 160;
/// Keys of a script.
const KEYS: u32 = 60;
/// One in so many operations is followed by a look at the directory from outside.
const VIEW_SAMPLE: u32 = 8;
/// One in so many calls of a job or a start is crashed at.
const CRASH_SAMPLE: u64 = 5;

/// What the keys must hold, and which of them may be unreadable.
#[derive(Debug, Clone, Default)]
struct Expected {
    values: BTreeMap<String, String>,
    /// Keys whose newest entry, or whose absence, may have stood where something was damaged.
    doubtful: BTreeSet<String>,
    /// Tables with a damaged data block: whoever merges them notices.
    damaged: BTreeSet<PathBuf>,
}

/// What a run came to, so that one in which nothing happens fails.
#[derive(Debug, Default)]
struct Tally {
    unreadable: u64,
    set_aside: u64,
    mended: u64,
    crashes: u64,
    /// Files that a start set aside, since a crash kept the merge from it.
    finished_by_start: u64,
}

struct Script {
    disk: Disk,
    options: Options,
    store: Store,
    expected: Expected,
    random: ChaCha8Rng,
    tally: Arc<Mutex<Tally>>,
    what: String,
}

fn key(number: u32) -> String {
    format!("key{number:02}")
}

fn keys() -> impl Iterator<Item = String> {
    (0..KEYS).map(key)
}

fn is_corrupt(error: &ReadError) -> bool {
    matches!(error, ReadError::Corrupt { .. })
}

impl Expected {
    /// Holds the store against this; how many keys could not be read.
    fn check(&self, store: &Store) -> Result<u64, String> {
        let mut unreadable = 0;
        for key in keys() {
            let expected = self.values.get(&key).map(String::as_bytes);
            let cached = store.get_cached(key.as_bytes());
            let found = store.get(key.as_bytes()).map(Cached::Ready);
            for found in [cached, found] {
                match found {
                    Ok(Cached::NeedsDisk) => {}
                    Ok(Cached::Ready(found)) if found.value.as_deref() == expected => {}
                    Err(error) if is_corrupt(&error) && self.doubtful.contains(&key) => {
                        unreadable += 1;
                    }
                    other => return Err(format!("{key}: {other:?}, expected {expected:?}")),
                }
            }
        }
        self.check_scan(store).map(|()| unreadable)
    }

    fn check_scan(&self, store: &Store) -> Result<(), String> {
        let (mut seen, mut lost) = (BTreeSet::new(), Vec::new());
        for entry in store.scan(b"", None) {
            match entry {
                Ok((key, value)) => {
                    let key = String::from_utf8(key.to_vec()).unwrap();
                    if self.values.get(&key).map(String::as_bytes) != Some(&*value) {
                        return Err(format!("scan: {key} is {}", value.escape_ascii()));
                    }
                    seen.insert(key);
                }
                Err(error) => lost.push(error.keys().clone()),
            }
        }
        let is_told =
            |key: &String| seen.contains(key) || lost.iter().any(|keys| keys.holds(key.as_bytes()));
        match self.values.keys().find(|key| !is_told(key)) {
            Some(key) => Err(format!("scan: {key} is missing")),
            None => Ok(()),
        }
    }

    /// Beside the store, from its files: the same, but that a bad block of which no merge knows lets what is older through
    /// where all entries are listed, and is told.
    fn check_view(&self, disk: &Disk) -> Result<(), String> {
        let view = DirectoryView::open(disk, Path::new(DIR)).map_err(|error| error.to_string())?;
        for key in keys() {
            let expected = self.values.get(&key).map(String::as_bytes);
            match view.get(key.as_bytes()) {
                Ok(found)
                    if found.as_ref().and_then(|found| found.value.as_deref()) == expected => {}
                Err(_) if self.doubtful.contains(&key) => {}
                other => return Err(format!("view: {key}: {other:?}, expected {expected:?}")),
            }
        }
        let (entries, bad): (Vec<_>, Vec<_>) = view.live().partition(Result::is_ok);
        let bad: Vec<_> = bad.into_iter().filter_map(Result::err).collect();
        let is_told = |key: &[u8]| {
            let holds = |keys: &KeyRange| keys.holds(key);
            bad.iter().any(|bad| {
                bad.error != BlockError::SetAside && bad.keys.as_deref().is_none_or(holds)
            })
        };
        for entry in entries.into_iter().flatten() {
            let key = String::from_utf8(entry.key.to_vec()).unwrap();
            let expected = self.values.get(&key).map(String::as_bytes);
            if entry.value.as_deref() != expected && !is_told(key.as_bytes()) {
                return Err(format!("view: {key} is listed as {:?}", entry.value));
            }
        }
        Ok(())
    }

    /// Every damaged table is still part of the store, or kept.
    fn check_kept(&self, disk: &Disk) -> Result<(), String> {
        let kept = |table: &PathBuf| {
            let kept = Path::new(DIR).join("damaged").join(table.file_name().unwrap());
            disk.exists(table).unwrap() || disk.exists(&kept).unwrap()
        };
        match self.damaged.iter().find(|table| !kept(table)) {
            Some(table) => Err(format!("{} is gone", table.display())),
            None => Ok(()),
        }
    }
}

impl Script {
    fn new(seed: u64, tally: &Arc<Mutex<Tally>>) -> Self {
        let mut random = ChaCha8Rng::seed_from_u64(seed);
        let options = Options {
            memtable_bytes: random.random_range(400..2000),
            table_bytes: random.random_range(300..1500),
            block_bytes: random.random_range(64..400),
            level0_tables: random.random_range(1..4),
            cache_bytes: random.random_range(0..4000),
            bloom_bits_per_key: random.random_range(0..12),
            compaction_slice_bytes: random.random_range(1..1000),
            manifest_edits_bytes: random.random_range(100..3000),
            frozen_max: 64,
            ..small()
        };
        let disk = Disk::new(seed);
        let store = open(&disk, &options).unwrap();
        let (expected, tally) = (Expected::default(), Arc::clone(tally));
        Self { disk, options, store, expected, random, tally, what: format!("seed {seed}") }
    }

    fn step(&mut self) {
        match self.random.random_range(0..100) {
            0..45 => self.write(),
            45..55 => self.crashing(|script| script.store.flush().unwrap()),
            55..75 => self.crashing(|script| {
                if let Some(job) = script.store.next_job() {
                    script.store.run(job).unwrap();
                }
            }),
            75..83 => self.damage(),
            83..87 => drop(self.store.scrub(2000)),
            87..91 => self.mend(),
            _ => self.start(),
        }
        let unreadable = self.expected.check(&self.store);
        let unreadable = unreadable.unwrap_or_else(|failure| panic!("{}: {failure}", self.what));
        self.tally.lock().unwrap().unreadable += unreadable;
        if self.random.random_ratio(1, VIEW_SAMPLE) {
            let viewed = self.expected.check_view(&self.disk);
            viewed.unwrap_or_else(|failure| panic!("{}: {failure}", self.what));
        }
    }

    fn write(&mut self) {
        let mut batch = WriteBatch::new();
        for _ in 0..self.random.random_range(1..6) {
            let key = key(self.random.random_range(0..KEYS));
            self.expected.doubtful.remove(&key);
            if self.random.random_ratio(1, 4) {
                batch.delete(&key);
                self.expected.values.remove(&key);
            } else {
                let value = format!("{}", self.random.random::<u64>()).repeat(3);
                batch.put(&key, &value);
                self.expected.values.insert(key, value);
            }
        }
        self.store.write(batch).unwrap();
        self.store.sync_all().unwrap();
    }

    /// Flips a bit of a table. What it may cost: the keys of the block, or of the whole table, unless something newer
    /// holds them.
    fn damage(&mut self) {
        let view = DirectoryView::open(&self.disk.fork(0), Path::new(DIR)).unwrap();
        let tables: Vec<_> = view.tables().collect();
        let Some(table) = tables.choose(&mut self.random) else { return };
        let offset = self.random.random_range(0..table.meta.bytes);
        let bit = self.random.random_range(0..8);
        let blocks = TableFile::verify(&self.disk, &table.path, Depth::Full).unwrap().len();
        self.disk.flip_bit(&table.path, offset, bit).unwrap();
        let bad = TableFile::verify(&self.disk, &table.path, Depth::Full).unwrap();
        let is_whole = bad.iter().any(|bad| bad.number.is_none());
        // A merge under way may have passed the place.
        let number = table.meta.number;
        let is_being_merged = matches!(self.store.next_compaction(), Some(Job::Compact(plan)) if plan.inputs.contains(&number));
        if !is_whole && blocks < bad.len() && !is_being_merged {
            self.expected.damaged.insert(table.path.clone());
        }
        let rank = |file: &Path| tables.iter().position(|table| *table.path == *file);
        let own = rank(&table.path);
        for key in keys() {
            let in_doubt = bad.iter().any(|bad| match &bad.keys {
                Some(keys) if !is_whole => keys.holds(key.as_bytes()),
                Some(_) | None => table.meta.keys().holds(key.as_bytes()),
            });
            let is_newer = match view.places(key.as_bytes()).next() {
                Some(Ok(place)) => match place.place {
                    Place::Log { .. } => true,
                    Place::Table { file, .. } => rank(&file) < own,
                },
                Some(Err(_)) | None => false,
            };
            if in_doubt && !is_newer {
                self.expected.doubtful.insert(key);
            }
        }
    }

    /// Brings back what was lost in one hole, and says so.
    fn mend(&mut self) {
        let lost = self.store.stats().unreadable;
        let lost: Vec<_> =
            lost.iter().filter(|lost| lost.file.starts_with("store/damaged")).collect();
        let Some(hole) = lost.choose(&mut self.random) else { return };
        let range = KeyRange { first: hole.first.clone(), last: hole.last.clone() };
        let mut batch = WriteBatch::new();
        for key in keys().filter(|key| range.holds(key.as_bytes())) {
            // What was deleted need not be written: the hole goes on hiding what is older.
            if let Some(value) = self.expected.values.get(&key) {
                batch.put(&key, value);
                self.expected.doubtful.remove(&key);
            }
        }
        self.store.write(batch).unwrap();
        self.store.sync_all().unwrap();
        self.crashing(|script| {
            let mended = script.store.mend(&range).unwrap();
            assert!(mended > 0, "{}", script.what);
        });
        self.tally.lock().unwrap().mended += 1;
    }

    fn start(&mut self) {
        if self.random.random() {
            self.store.close().unwrap();
        }
        if self.random.random() {
            self.disk.power_loss(Unsynced::Torn);
        }
        self.count_set_aside();
        self.crashing(|script| script.store = open(&script.disk, &script.options).unwrap());
    }

    fn count_set_aside(&self) {
        self.tally.lock().unwrap().set_aside += self.store.set_aside().len() as u64;
    }

    /// Does this, with copies of the disk crashed and started at some of its calls.
    fn crashing(&mut self, operation: impl FnOnce(&mut Self)) {
        let (expected, options) = (self.expected.clone(), self.options.clone());
        let (tally, what) = (Arc::clone(&self.tally), self.what.clone());
        let mut call = self.random.random_range(0..CRASH_SAMPLE);
        self.disk.observe(Some(Box::new(move |copy| {
            call += 1;
            if !call.is_multiple_of(CRASH_SAMPLE) {
                return;
            }
            for policy in [Unsynced::Dropped, Unsynced::Kept, Unsynced::Torn] {
                let disk = copy.fork(call);
                disk.power_loss(policy);
                let what = format!("{what}, crashed, {policy:?}");
                check_crashed(&disk, &options, &expected, &mut tally.lock().unwrap(), &what);
            }
        })));
        operation(self);
        self.disk.observe(None);
    }

    /// All damage is found and merged away: what is left is sound, and what was damaged is kept.
    fn finish(mut self) {
        self.store.flush().unwrap();
        while !self.store.scrub(1 << 20).is_round {}
        run_jobs(&self.store);
        self.expected.damaged.retain(|table| self.disk.exists(table).unwrap());
        assert!(self.expected.damaged.is_empty(), "{}: {:?}", self.what, self.expected.damaged);
        self.count_set_aside();
        self.store = open(&self.disk, &self.options).unwrap();
        self.expected
            .check(&self.store)
            .unwrap_or_else(|failure| panic!("{}: {failure}", self.what));
        let view = DirectoryView::open(&self.disk, Path::new(DIR)).unwrap();
        for table in view.tables() {
            let bad = TableFile::verify(&self.disk, &table.path, Depth::Full).unwrap();
            assert!(bad.is_empty(), "{}: {bad:?}", self.what);
        }
        let stats = self.store.stats();
        assert_eq!(stats.tables_damaged, 0, "{}", self.what);
        assert!(
            stats.unreadable.iter().all(|lost| self.disk.exists(&lost.file).unwrap()),
            "{}: {:?}",
            self.what,
            stats.unreadable
        );
    }
}

fn check_crashed(
    disk: &Disk,
    options: &Options,
    expected: &Expected,
    tally: &mut Tally,
    what: &str,
) {
    let kept = || disk.list(&Path::new(DIR).join("damaged")).unwrap_or_default().len() as u64;
    let before = kept();
    let store = open(disk, options).unwrap_or_else(|error| panic!("{what}: {error}"));
    let checked = expected.check(&store).and_then(|_| expected.check_kept(disk));
    checked.unwrap_or_else(|failure| panic!("{what}: {failure}"));
    tally.crashes += 1;
    tally.finished_by_start += kept() - before;
}

/// A value two levels deep, and a newer one of the same key above it whose block rots.
fn newer_value_rots() -> (Disk, Options, Store) {
    let disk = Disk::new(1);
    let options = Options { level0_tables: 1, level1_bytes: 400, level_factor: 1000, ..small() };
    let store = open(&disk, &options).unwrap();
    let digits = |numbers: std::ops::Range<u32>| numbers.map(|number| number.to_string()).collect();
    let values: [String; 2] = [digits(0..300), "newer".to_owned()];
    for (level, value) in [2, 1].into_iter().zip(values) {
        put(&store, "key", &value);
        store.flush().unwrap();
        run_jobs(&store);
        assert_eq!(store.stats().tables_by_level[level], 1);
    }
    let mut newer = disk.files().into_iter().map(|(path, _)| path);
    let newer = newer.rfind(|path| path.starts_with("store/sst")).unwrap();
    disk.flip_bit(&newer, 5, 0).unwrap();
    (disk, options, store)
}

fn everything() -> KeyRange {
    KeyRange { first: "a".into(), last: "z".into() }
}

#[track_caller]
fn check_key(disk: &Disk, store: &Store, expected: Result<Option<&str>, ()>) {
    let text = |value: Option<bytes::Bytes>| value.map(|value| value.escape_ascii().to_string());
    let expected = expected.map(|value| value.map(str::to_owned));
    let found = store.get(b"key").map(|found| text(found.value)).map_err(drop);
    assert_eq!(found, expected, "get");
    let scanned: Result<Option<String>, ()> =
        store.scan(b"", None).next().map_or(Ok(None), |next| match next {
            Ok((_, value)) => Ok(text(Some(value))),
            Err(_) => Err(()),
        });
    assert_eq!(scanned, expected, "scan");
    let view = DirectoryView::open(disk, Path::new(DIR)).unwrap();
    let viewed = view.get(b"key").map(|found| text(found.and_then(|found| found.value)));
    assert_eq!(viewed.map_err(drop), expected, "view");
    let live = view.live().next().map_or(Ok(None), |next| match next {
        Ok(entry) => Ok(text(entry.value)),
        Err(_) => Err(()),
    });
    assert_eq!(live, expected, "listed");
}

#[test]
fn a_hole_hides_what_is_older_until_it_is_written_again_and_a_mended_one_until_nothing_is() {
    let (disk, options, store) = newer_value_rots();
    assert!(store.scrub(1 << 20).is_round);
    run_jobs(&store);
    assert_eq!(store.stats().tables_by_level, [0, 1, 1], "written anew where it was");
    check_key(&disk, &store, Err(()));
    let store = open(&disk, &options).unwrap();
    check_key(&disk, &store, Err(()));
    // Only what lies inside is mended.
    let others = KeyRange { first: "".into(), last: "kex".into() };
    assert_eq!(store.mend(&others).unwrap(), 0);
    assert_eq!(store.mend(&everything()).unwrap(), 1);
    check_key(&disk, &store, Ok(None));
    assert!(store.stats().unreadable.is_empty());
    let store = open(&disk, &options).unwrap();
    check_key(&disk, &store, Ok(None));
    // A merge takes it along as long as something older may be under it, and no longer.
    let around = |length: usize| {
        put(&store, "kea", &"0123456789".repeat(length));
        put(&store, "kez", &"0123456789".repeat(length));
        store.flush().unwrap();
        run_jobs(&store);
        let view = DirectoryView::open(&disk, Path::new(DIR)).unwrap();
        view.tables().map(|table| table.meta.holes.len()).sum::<usize>()
    };
    assert_eq!(around(1), 1);
    assert_eq!((value(&store, "key"), store.stats().tables_by_level), (None, vec![0, 1, 1]));
    assert_eq!(around(100), 0);
    assert_eq!(value(&store, "key"), None);
}

#[test]
fn what_was_brought_back_is_durable_when_its_hole_is_mended() {
    let (disk, options, store) = newer_value_rots();
    assert!(store.scrub(1 << 20).is_round);
    run_jobs(&store);
    put(&store, "key", "again");
    assert_eq!(store.mend(&everything()).unwrap(), 1);
    disk.power_loss(Unsynced::Dropped);
    let store = open(&disk, &options).unwrap();
    check_key(&disk, &store, Ok(Some("again")));
}

#[test]
fn a_merge_under_way_does_not_undo_the_mending() {
    let (disk, options, store) = newer_value_rots();
    assert!(store.scrub(1 << 20).is_round);
    run_jobs(&store);
    drop(store);
    let store = open(&disk, &Options { compaction_slice_bytes: 1, ..options }).unwrap();
    put(&store, "kea", "1");
    put(&store, "kez", "1");
    store.flush().unwrap();
    let job = store.next_compaction().unwrap();
    store.run(job.clone()).unwrap();
    assert_eq!(store.next_compaction(), Some(job), "it is under way");
    assert_eq!(store.mend(&everything()).unwrap(), 1);
    run_jobs(&store);
    assert_eq!(store.stats().tables_by_level, [0, 1, 1]);
    assert_eq!(value(&store, "key"), None);
}

/// The blocks could be read all the time; a start would have found a table that it cannot open.
#[test]
fn a_table_whose_index_rots_is_written_anew_and_nothing_is_lost() {
    let disk = Disk::new(1);
    let store = open(&disk, &small()).unwrap();
    for key in keys() {
        put(&store, &key, "value");
    }
    store.flush().unwrap();
    let (table, length) =
        disk.files().into_iter().find(|(path, _)| path.starts_with("store/sst")).unwrap();
    disk.flip_bit(&table, length - 20, 0).unwrap();
    assert_eq!(store.scrub(1 << 20).damaged.len(), 1);
    run_jobs(&store);
    let set_aside = store.set_aside();
    let [SetAside { file, lost }] = &set_aside[..] else { panic!("{set_aside:?}") };
    assert!(lost.is_empty() && disk.exists(file).unwrap());
    let store = open(&disk, &small()).unwrap();
    assert!(keys().all(|key| value(&store, &key).as_deref() == Some("value")));
}

#[test]
fn a_store_whose_tables_rot_gives_what_was_written_last_or_says_that_it_cannot() {
    let tally = Arc::new(Mutex::new(Tally::default()));
    for seed in 0..SEEDS {
        let mut script = Script::new(seed, &tally);
        for step in 0..STEPS {
            script.what = format!("seed {seed}, step {step}");
            script.step();
            let kept = script.expected.check_kept(&script.disk);
            kept.unwrap_or_else(|failure| panic!("{}: {failure}", script.what));
        }
        script.finish();
    }
    let tally = tally.lock().unwrap();
    let seen =
        [tally.unreadable / 100, tally.set_aside / 50, tally.mended / 10, tally.crashes / 500];
    assert!(seen.iter().all(|count| *count > 0) && tally.finished_by_start > 10, "{tally:?}");
}
