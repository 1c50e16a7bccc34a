//! Crashes at every call of the file system, in a script and in the recovery from such a crash.
//!
//! Before each call the disk is copied, and the copy loses power: what is unsynced is dropped, kept, or torn. What the
//! recovered store holds must be exactly what some prefix of the writes amounts to, at least all that was promised.
//!
//! `KVKIT_CRASH_ALL=1` crashes recovery at each of its calls after each crash, instead of a sample.

use std::sync::{Arc, Mutex};

use super::super::vfs::simulated::{Disk, Unsynced};
use super::super::*;
use super::history::{History, Script, open};
use super::small;

/// Operations of a script.
const STEPS: usize = 500;
/// One in so many crashes is followed by crashes of its recovery, at one in so many of its calls, unless all are wanted.
const RECOVERY_SAMPLE: u64 = 61;
const RECOVERY_CALL_SAMPLE: usize = 3;

const POLICIES: [Unsynced; 3] = [Unsynced::Dropped, Unsynced::Kept, Unsynced::Torn];

/// What a run of [`crash_everywhere`] did.
#[derive(Debug, Default)]
struct Tally {
    calls: u64,
    recovery_crashes: u64,
    failures: Vec<String>,
}

fn all_wanted() -> bool {
    std::env::var_os("KVKIT_CRASH_ALL").is_some()
}

/// Runs the script, crashing a copy of the disk before each call. Stops at the first failures.
fn crash_everywhere(options: &Options, seed: u64, prepare: impl Fn(&Disk)) -> Tally {
    let disk = Disk::new(seed);
    prepare(&disk);
    let mut script = Script::new(&disk, options.clone(), seed);
    let tally = Arc::new(Mutex::new(Tally::default()));
    let (history, shared, watched) =
        (Arc::clone(&script.history), Arc::clone(&tally), options.clone());
    disk.observe(Some(Box::new(move |copy| {
        let mut tally = shared.lock().unwrap();
        if tally.failures.len() < 3 {
            let history = history.lock().unwrap().clone();
            crash_here(&copy, &watched, &history, &mut tally);
        }
        tally.calls += 1;
    })));
    for _ in 0..STEPS {
        script.step();
        if !tally.lock().unwrap().failures.is_empty() {
            break;
        }
    }
    disk.observe(None);
    std::mem::take(&mut *tally.lock().unwrap())
}

fn crash_here(copy: &Disk, options: &Options, history: &History, tally: &mut Tally) {
    for policy in POLICIES {
        let at_least = match policy {
            Unsynced::Kept => history.durable,
            Unsynced::Dropped | Unsynced::Torn => history.synced,
        };
        let crashed = || {
            let disk = copy.fork(tally.calls);
            disk.power_loss(policy);
            disk
        };
        let disk = crashed();
        if let Err(failure) = check(&disk, options, history, at_least) {
            tally.failures.push(format!("call {}, {policy:?}: {failure}", tally.calls));
            return;
        }
        if !all_wanted() && !tally.calls.is_multiple_of(RECOVERY_SAMPLE) {
            continue;
        }
        let step = if all_wanted() { 1 } else { RECOVERY_CALL_SAMPLE };
        let first = if all_wanted() { 0 } else { tally.calls as usize / 7 % step };
        let recovery_calls = {
            let disk = crashed();
            drop(open(&disk, options));
            disk.calls()
        };
        for call in (first as u64..recovery_calls).step_by(step) {
            let disk = crashed();
            disk.crash_at(call);
            assert!(open(&disk, options).is_err(), "recovery went on after its crash");
            disk.restart(policy);
            tally.recovery_crashes += 1;
            if let Err(failure) = check(&disk, options, history, at_least) {
                let calls = tally.calls;
                tally
                    .failures
                    .push(format!("call {calls}, {policy:?}, call {call} of recovery: {failure}"));
                return;
            }
        }
    }
}

/// The store recovers to a promised state, and what is written after that survives the next power loss.
fn check(
    disk: &Disk,
    options: &Options,
    history: &History,
    at_least: LogPosition,
) -> Result<(), String> {
    let store = open(disk, options).map_err(|error| error.to_string())?;
    history.check(&store, at_least)?;
    let end = store.appended();
    let mut batch = WriteBatch::new();
    batch.put("after", "the crash").durable();
    let position = store.write(batch).map_err(|error| error.to_string())?;
    store.sync(position).map_err(|error| error.to_string())?;
    drop(store);
    disk.power_loss(Unsynced::Dropped);
    let store = open(disk, options).map_err(|error| format!("the next start: {error}"))?;
    match store.get(b"after").map_err(|error| error.to_string())?.value {
        Some(value) if value == "the crash" && store.appended() == position => Ok(()),
        other => Err(format!(
            "after recovery to {end} a write was lost: {other:?}, ends at {}",
            store.appended()
        )),
    }
}

#[track_caller]
fn check_everywhere(sync: SyncMode, seed: u64) {
    let options = Options { sync, reserve_bytes: 64 << 10, ..small() };
    let tally = crash_everywhere(&options, seed, |_| {});
    assert!(tally.failures.is_empty(), "seed {seed}: {:#?}", tally.failures);
    assert!(tally.calls > 1000 && tally.recovery_crashes > 100, "{tally:?}");
}

#[test]
fn no_crash_loses_an_acknowledged_write_or_halves_a_batch() {
    check_everywhere(SyncMode::Always, 1);
}

#[test]
fn nor_does_one_in_the_mode_that_never_syncs() {
    check_everywhere(SyncMode::Never, 2);
}

/// The test above can fail: a disk that lies about one kind of sync is found out.
#[test]
fn a_disk_that_does_not_sync_is_found_out() {
    let options = Options { reserve_bytes: 64 << 10, ..small() };
    for place in ["log", "sst", "manifest"] {
        let path = std::path::Path::new(super::DIR).join(place);
        let found = crash_everywhere(&options, 1, |disk| disk.ignore_syncs_of(&path));
        assert!(!found.failures.is_empty(), "syncs of {place} were not missed");
    }
}
