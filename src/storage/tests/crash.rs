//! Crashes at every call of the file system, in a script and in the recovery from such a crash.
//!
//! The script writes, syncs, flushes, merges, closes, snapshots, fills the disk, starts again; it is small enough that
//! segments, manifests and levels turn over all the time. Before each call the disk is copied, and the copy loses power:
//! what is unsynced is dropped, kept, or torn. What the recovered store holds must be exactly what some prefix of the
//! writes amounts to, at least all that was promised; so must the last snapshot, its own content, and so must one that was
//! being made, as soon as it has its name.
//!
//! `KVKIT_CRASH_RECOVERIES=1000000` checks so many recoveries in each of the two log orders instead of the few thousand of
//! an ordinary run; the seeds go up from the same ones, so a failure is replayed by its seed.

use std::sync::{Arc, Mutex};

use super::super::vfs::is_full;
use super::super::vfs::simulated::{Disk, Unsynced};
use super::super::*;
use super::history::{Activity, Content, History, Script, during, open, open_in};
use super::small;

/// Operations of a script.
pub(super) const STEPS: usize = 250;
/// Recoveries checked in each of the two orders of the log, unless more are wanted.
const RECOVERIES: u64 = 12_000;
/// One in so many crashes is followed by crashes of its recovery, at one in so many of its calls.
const RECOVERY_SAMPLE: u64 = 31;
const RECOVERY_CALL_SAMPLE: u64 = 3;
/// One in so many crashes opens the last snapshot, too.
const SNAPSHOT_SAMPLE: u64 = 7;

const POLICIES: [Unsynced; 3] = [Unsynced::Dropped, Unsynced::Kept, Unsynced::Torn];

/// What a run of [`crash_everywhere`] did.
#[derive(Debug, Default)]
pub(super) struct Tally {
    calls: u64,
    recoveries: u64,
    recovery_crashes: u64,
    snapshots: u64,
    pub(super) failures: Vec<String>,
}

/// What happens at a crash.
#[derive(Debug, Clone, Copy)]
pub(super) struct Crashes<'a> {
    pub(super) policies: &'a [Unsynced],
    /// One in so many is followed by crashes of its recovery.
    pub(super) recovery_sample: u64,
}

/// Small, but not so small that a start has dozens of tables to open.
pub(super) fn options(sync: SyncMode) -> Options {
    Options {
        sync,
        memtable_bytes: 3000,
        log_segment_bytes: 2500,
        manifest_edits_bytes: 600,
        reserve_bytes: 64 << 10,
        table_bytes: 2000,
        compaction_slice_bytes: 2500,
        ..small()
    }
}

/// Runs the script, crashing a copy of the disk before each call. Stops at the first failures.
pub(super) fn crash_everywhere(mut script: Script, crashes: Crashes<'static>) -> Tally {
    let tally = Arc::new(Mutex::new(Tally::default()));
    let (history, shared, options) =
        (Arc::clone(&script.history), Arc::clone(&tally), script.options.clone());
    let disk = script.disk.clone();
    disk.observe(Some(Box::new(move |copy| {
        let mut tally = shared.lock().unwrap();
        if tally.failures.is_empty() {
            let history = history.lock().unwrap().clone();
            crash_here(&copy, &options, &history, crashes, &mut tally);
        }
        tally.calls += 1;
    })));
    for step in 0..STEPS {
        let done = script.step();
        let mut tally = tally.lock().unwrap();
        if let Err(failure) = done {
            tally.failures.push(format!("step {step}: {failure}"));
        }
        if !tally.failures.is_empty() {
            break;
        }
    }
    disk.observe(None);
    std::mem::take(&mut *tally.lock().unwrap())
}

fn crash_here(
    copy: &Disk,
    options: &Options,
    history: &History,
    crashes: Crashes<'_>,
    tally: &mut Tally,
) {
    let call = tally.calls;
    for policy in crashes.policies {
        let at_least = match policy {
            Unsynced::Kept => history.durable,
            Unsynced::Dropped | Unsynced::Torn => history.synced,
        };
        let copied = || {
            let disk = copy.fork(call);
            disk.power_loss(*policy);
            disk
        };
        let check = |disk: &Disk, tally: &mut Tally, what: &str| {
            tally.recoveries += 1;
            let found = during(Activity::Recover, || check(disk, options, history, at_least));
            if let Err(failure) = found {
                tally.failures.push(format!("call {call}, {policy:?}{what}: {failure}"));
            }
        };
        check(&copied(), tally, "");
        let finished = history.snapshot.iter().filter(|_| call.is_multiple_of(SNAPSHOT_SAMPLE));
        for (dir, content) in finished.chain(&history.begun_snapshot) {
            let disk = copied();
            let is_begun = history.begun_snapshot.as_ref().is_some_and(|(begun, _)| begun == dir);
            if is_begun && !disk.exists(dir).unwrap_or_default() {
                continue;
            }
            tally.snapshots += 1;
            disk.set_capacity(None);
            let opened = during(Activity::Recover, || open_in(&disk, dir, options));
            let found = opened.map_err(|error| error.to_string());
            if let Err(failure) = found.and_then(|(store, _)| content.check(&store)) {
                tally.failures.push(format!("call {call}, {policy:?}, snapshot: {failure}"));
            }
        }
        if !tally.failures.is_empty() || !call.is_multiple_of(crashes.recovery_sample) {
            continue;
        }
        let recovery_calls = {
            let disk = copied();
            drop(during(Activity::Recover, || open(&disk, options)));
            disk.calls()
        };
        for recovery_call in call / 7 % RECOVERY_CALL_SAMPLE..recovery_calls {
            if recovery_call % RECOVERY_CALL_SAMPLE != call / 7 % RECOVERY_CALL_SAMPLE {
                continue;
            }
            let disk = copied();
            disk.crash_at(recovery_call);
            let opened = during(Activity::Recover, || open(&disk, options));
            assert!(opened.is_err(), "recovery went on after its crash");
            // A kill and then a loss of power: what was only in memory is gone after all.
            disk.restart(*policy);
            tally.recovery_crashes += 1;
            check(&disk, tally, &format!(", call {recovery_call} of recovery"));
        }
    }
}

/// The store recovers to a promised state, and what it holds then and what is written after that survives the next power
/// loss, a cut end of the log too.
fn check(
    disk: &Disk,
    options: &Options,
    history: &History,
    at_least: LogPosition,
) -> Result<(), String> {
    let start = || open_in(disk, std::path::Path::new(super::DIR), options);
    let opened = match start() {
        // Without room for what it must write a start gives up, and harms nothing.
        Err(OpenError::Io { source, .. }) if is_full(&source) => {
            disk.set_capacity(None);
            start()
        }
        other => other,
    };
    let (store, recovery) = opened.map_err(|error| error.to_string())?;
    history.check(&store, at_least)?;
    disk.set_capacity(None);
    store.check_space().map_err(|error| error.to_string())?;
    let (end, mut held) = (store.appended(), Content::of(&store)?);
    let mut batch = WriteBatch::new();
    batch.put("after", "the crash").durable();
    let position = store.write(batch).map_err(|error| error.to_string())?;
    store.sync(position).map_err(|error| error.to_string())?;
    drop(store);
    disk.power_loss(Unsynced::Dropped);
    let store = open(disk, options).map_err(|error| format!("the next start: {error}"))?;
    if let Some(cut) = recovery.cut {
        let kept = disk.list(std::path::Path::new("store/damaged")).unwrap_or_default();
        if !kept.iter().any(|name| cut.file.ends_with(name)) {
            return Err(format!("{} was cut and not kept: {kept:?}", cut.file.display()));
        }
    }
    held.entries.insert(b"after".to_vec(), b"the crash".to_vec());
    match held.check(&store) {
        Ok(()) if store.appended() == position => Ok(()),
        lost => Err(format!("recovered to {end}, and then ends at {}: {lost:?}", store.appended())),
    }
}

#[track_caller]
fn check_everywhere(sync: SyncMode, first_seed: u64) {
    let wanted = std::env::var("KVKIT_CRASH_RECOVERIES")
        .ok()
        .map_or(RECOVERIES, |text| text.parse().expect("KVKIT_CRASH_RECOVERIES is a number"));
    let crashes = Crashes { policies: &POLICIES, recovery_sample: RECOVERY_SAMPLE };
    let (mut seed, mut recoveries, mut snapshots, mut recovery_crashes) = (first_seed, 0, 0, 0);
    while recoveries < wanted {
        let script = Script::new(&Disk::new(seed), options(sync), seed);
        let tally = crash_everywhere(script, crashes);
        assert!(tally.failures.is_empty(), "{sync}, seed {seed}: {:#?}", tally.failures);
        recoveries += tally.recoveries;
        snapshots += tally.snapshots;
        recovery_crashes += tally.recovery_crashes;
        seed += 1;
    }
    #[expect(clippy::print_stdout, reason = "how much was checked is what the run is for")]
    {
        println!(
            "sync {sync}: {recoveries} recoveries, {recovery_crashes} of them crashed before, {snapshots} snapshots; seeds {first_seed} to {}",
            seed - 1
        );
    }
    assert!(wanted <= recoveries && 0 < snapshots && wanted / 20 < recovery_crashes);
}

#[test]
fn no_crash_loses_an_acknowledged_write_or_halves_a_batch() {
    check_everywhere(SyncMode::Always, 1);
}

#[test]
fn nor_does_one_in_the_mode_that_never_syncs() {
    check_everywhere(SyncMode::Never, 1);
}
