//! Each sync of the engine is needed: a disk that leaves out one kind of them, and only that, is found out by the crash
//! tests. So leaving the call out of the code would be, too.
//!
//! The table [`SYNCS`] is the list: what is synced, by whom, and what is lost without.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use super::super::vfs::simulated::{Disk, Unsynced};
use super::super::*;
use super::crash::{Crashes, crash_everywhere, options};
use super::history::{Activity, Script, activity};

/// Scripts that may fail to miss a kind of sync before one does.
const SEEDS: u64 = 12;

/// One sync on the script's disk or in a recovery.
#[derive(Debug, Clone)]
struct Call {
    activity: Activity,
    path: PathBuf,
    /// What was synced before it in the same activity; empty for the first.
    previous: PathBuf,
    /// What is synced next; known of the script's own alone.
    next: PathBuf,
}

/// A kind of sync.
struct Sync {
    what: &'static str,
    without: &'static str,
    mode: SyncMode,
    is: fn(&Call) -> bool,
}

impl Call {
    fn is_file(&self, suffix: &str) -> bool {
        self.path.to_string_lossy().ends_with(suffix)
    }

    fn is_dir(&self, dir: &str) -> bool {
        self.path == Path::new(dir)
    }

    fn is_in_snapshot(&self) -> bool {
        self.path.starts_with("store/snapshots") && self.activity == Activity::Snapshot
    }

    fn comes_after(&self, suffix: &str) -> bool {
        self.previous.to_string_lossy().ends_with(suffix)
    }

    fn comes_before(&self, suffix: &str) -> bool {
        self.next.to_string_lossy().ends_with(suffix)
    }

    fn recovers(&self) -> bool {
        is_start(self.activity)
    }

    fn appends_edits(&self) -> bool {
        matches!(self.activity, Activity::Flush | Activity::Compact | Activity::Close)
    }

    fn is_manifest_dir(&self) -> bool {
        self.is_dir("store/manifest")
    }
}

const fn is_start(activity: Activity) -> bool {
    matches!(activity, Activity::Restart | Activity::Recover)
}

macro_rules! sync {
    ($mode:ident, $what:literal, $without:literal, $is:expr) => {
        Sync { what: $what, without: $without, mode: SyncMode::$mode, is: $is }
    };
}

/// Every sync in the engine. `identity.rs` holds the two of `IDENTITY` in its own test, `quarantine.rs` that of `damaged/`
/// before a merge takes a damaged table away.
#[rustfmt::skip]
const SYNCS: &[Sync] = &[
    sync!(Always, "log segment: its records, before they are acknowledged", "acknowledged writes are lost",
        |call| call.is_file(".log") && !call.recovers() && !call.comes_before(".log.tmp")),
    sync!(Always, "log segment: its end, before the next one begins", "a segment stands behind a hole, which is taken for damage",
        |call| call.is_file(".log") && call.comes_before(".log.tmp")),
    sync!(Always, "log segment: its header, before it has a name", "a log that cannot be opened",
        |call| call.is_file(".log.tmp")),
    sync!(Always, "log/: a segment's name, before it takes records", "acknowledged writes are lost with the file",
        |call| call.is_dir("store/log") && !call.recovers()),
    sync!(Always, "table of a flush, before it has a name", "the log it replaces is gone",
        |call| call.is_file(".sst.tmp") && call.activity == Activity::Flush),
    sync!(Always, "table of a merge, before it has a name", "its inputs are gone",
        |call| call.is_file(".sst.tmp") && call.activity == Activity::Compact),
    sync!(Always, "table of a replay, before it has a name", "the log it replaces is gone",
        |call| call.is_file(".sst.tmp") && call.recovers()),
    sync!(Always, "sst/ in a flush, before the manifest names the table", "a table is missing",
        |call| call.is_dir("store/sst") && call.activity == Activity::Flush),
    sync!(Always, "sst/ in a merge, before the manifest names the tables", "a table is missing",
        |call| call.is_dir("store/sst") && call.activity == Activity::Compact),
    sync!(Always, "sst/ in a replay, before the manifest names the tables", "a table is missing",
        |call| call.is_dir("store/sst") && call.recovers()),
    sync!(Always, "manifest: the edit of a flush, before the log goes", "the log's records are nowhere",
        |call| call.is_file(".manifest") && call.activity == Activity::Flush),
    sync!(Always, "manifest: the edit of a merge, before its inputs go", "tables are missing",
        |call| call.is_file(".manifest") && call.activity == Activity::Compact),
    sync!(Always, "manifest: the edit of a clean stop", "a log that lost its end is taken for torn",
        |call| call.is_file(".manifest") && call.activity == Activity::Close),
    sync!(Always, "new manifest when the old one has grown", "no manifest can be read",
        |call| call.is_file(".manifest.tmp") && call.appends_edits()),
    sync!(Always, "manifest/, before CURRENT names the new one, when the old one has grown", "CURRENT leads nowhere",
        |call| call.is_manifest_dir() && call.comes_after(".manifest.tmp") && call.appends_edits()),
    sync!(Always, "CURRENT when the manifest has grown, before it has its name", "nothing leads to a manifest",
        |call| call.is_file("CURRENT.tmp") && call.appends_edits()),
    sync!(Always, "manifest/, before the old manifest goes, when it has grown", "CURRENT leads to a file that is gone",
        |call| call.is_manifest_dir() && call.comes_after("CURRENT.tmp") && call.appends_edits()),
    sync!(Always, "new manifest of a start", "no manifest can be read",
        |call| call.is_file(".manifest.tmp") && call.recovers()),
    sync!(Always, "manifest/, before CURRENT names the new one, at a start", "CURRENT leads nowhere",
        |call| call.is_manifest_dir() && call.comes_after(".manifest.tmp") && call.recovers()),
    sync!(Always, "CURRENT at a start, before it has its name", "nothing leads to a manifest",
        |call| call.is_file("CURRENT.tmp") && call.recovers()),
    sync!(Always, "manifest/, before what is older goes, at a start", "CURRENT leads to a file that is gone",
        |call| call.is_manifest_dir() && call.comes_after("CURRENT.tmp") && call.recovers()),
    sync!(Always, "the store's parent at the founding", "the store is gone",
        |call| call.is_dir("") && call.recovers()),
    sync!(Always, "the store's directory at the founding", "its directories are gone",
        |call| call.is_dir("store") && call.recovers()),
    sync!(Always, "the store's directory when the reserve is given up", "its space is not free yet",
        |call| call.is_dir("store") && !call.recovers()),
    sync!(Always, "damaged/, before a log that was cut goes", "what was cut off is gone",
        |call| call.is_dir("store/damaged")),
    sync!(Always, "snapshot: its parent", "the snapshot is gone",
        |call| call.is_dir("store/snapshots") && call.activity == Activity::Snapshot),
    sync!(Always, "snapshot: its directory", "its directories are gone",
        |call| call.is_in_snapshot() && call.path.parent() == Some(Path::new("store/snapshots"))),
    sync!(Always, "snapshot: its sst/", "tables are missing",
        |call| call.is_in_snapshot() && call.path.ends_with("sst")),
    sync!(Always, "snapshot: its manifest", "no manifest can be read",
        |call| call.is_in_snapshot() && call.is_file(".manifest.tmp")),
    sync!(Always, "snapshot: its CURRENT", "nothing leads to a manifest",
        |call| call.is_in_snapshot() && call.is_file("CURRENT.tmp")),
    sync!(Always, "snapshot: its manifest/", "it has no CURRENT",
        |call| call.is_in_snapshot() && call.path.ends_with("manifest")),
    sync!(Never, "loose log: the segment that takes records, for a durable batch", "the batch is lost",
        |call| call.is_file(".log") && !call.recovers() && !call.comes_before(".log")),
    sync!(Never, "loose log: the segments before it", "the batch stands behind a hole",
        |call| call.is_file(".log") && call.comes_before(".log")),
    sync!(Never, "loose log: log/, the segments' names", "the batch is lost with the file",
        |call| call.is_dir("store/log") && !call.recovers()),
];

/// The syncs of one script, in order, those of its starts apart.
fn trace(sync: SyncMode, seed: u64) -> Vec<(Activity, PathBuf)> {
    let disk = Disk::new(seed);
    let calls = Arc::new(Mutex::new(Vec::new()));
    let shared = Arc::clone(&calls);
    disk.lie_about_syncs(Arc::new(move |path| {
        if !is_start(activity()) {
            shared.lock().unwrap().push((activity(), path.to_owned()));
        }
        false
    }));
    let mut script = script(&disk, sync, seed);
    for _ in 0..super::crash::STEPS {
        script.step().unwrap();
    }
    std::mem::take(&mut *calls.lock().unwrap())
}

fn script(disk: &Disk, sync: SyncMode, seed: u64) -> Script {
    let mut script = Script::new(disk, options(sync), seed);
    // It would be the end of the trace.
    script.loses_power = false;
    script
}

/// Whether the crash tests miss these syncs, and how often they were left out.
fn miss(sync: &Sync, seed: u64, trace: &[(Activity, PathBuf)]) -> (Option<String>, u64) {
    let disk = Disk::new(seed);
    let left_out = Arc::new(Mutex::new(0));
    let (count, is, trace) = (Arc::clone(&left_out), sync.is, trace.to_vec());
    let place = Mutex::new((0, BTreeMap::<&'static str, PathBuf>::new()));
    disk.lie_about_syncs(Arc::new(move |path| {
        let mut place = place.lock().unwrap();
        let (index, last) = &mut *place;
        let next = if is_start(activity()) {
            PathBuf::new()
        } else {
            *index += 1;
            trace.get(*index).map(|(_, path)| path.clone()).unwrap_or_default()
        };
        // Copies are crashed and started while the script's own start is under way.
        let whose = match activity() {
            Activity::Recover => "copy",
            Activity::Restart => "start",
            Activity::Sync
            | Activity::Flush
            | Activity::Compact
            | Activity::Close
            | Activity::Snapshot => "script",
        };
        let previous = last.insert(whose, path.to_owned()).unwrap_or_default();
        let call = Call { activity: activity(), path: path.to_owned(), previous, next };
        let lies = is(&call);
        *count.lock().unwrap() += u64::from(lies);
        lies
    }));
    let crashes =
        Crashes { policies: &[Unsynced::Dropped, Unsynced::Torn], recovery_sample: u64::MAX };
    let tally = crash_everywhere(script(&disk, sync.mode, seed), crashes);
    let left_out = *left_out.lock().unwrap();
    (tally.failures.into_iter().next(), left_out)
}

#[test]
fn no_sync_can_be_left_out_unnoticed() {
    let mut unnoticed = Vec::new();
    for sync in SYNCS {
        let mut left_out = 0;
        let missed = (1..=SEEDS).any(|seed| {
            let (failure, count) = miss(sync, seed, &trace(sync.mode, seed));
            left_out += count;
            failure.is_some() && count > 0
        });
        if !missed {
            unnoticed
                .push(format!("{} ({left_out} left out; expected: {})", sync.what, sync.without));
        }
    }
    assert!(unnoticed.is_empty(), "nobody missed: {unnoticed:#?}");
}

/// The table is whole: each sync of a script is of one of its kinds.
#[test]
fn every_sync_is_in_the_table() {
    for mode in [SyncMode::Always, SyncMode::Never] {
        let trace = trace(mode, 1);
        assert!(trace.len() > 50);
        for calls in trace.windows(3) {
            let [(_, previous), (activity, path), (_, next)] = calls else { unreachable!("three") };
            let (previous, next) = (previous.clone(), next.clone());
            let call = Call { activity: *activity, path: path.clone(), previous, next };
            assert!(SYNCS.iter().any(|sync| (sync.is)(&call)), "{mode}: {call:?}");
        }
    }
}
