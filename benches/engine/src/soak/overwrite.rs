//! Random overwriting, each write timed; space and memory meanwhile; and what is left to do when the writers stop.

use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow};
use hdrhistogram::Histogram;
use kvkit::storage::{Compression, Options, SyncMode, WriteBatch};

use super::open::mebibytes;
use super::{Finding, Running, Soak, tell};
use crate::keys::{KEY_BYTES, Random, Values, key};
use crate::measure::{disk_bytes, resident_bytes_peak};

const VALUE_BYTES: usize = 1 << 10;
/// Live data with syncs on: there are fewer writes then, and so less to overwrite.
const LIVE_BYTES_SYNCED: u64 = 128 << 20;
const WRITERS: u64 = 2;
const WRITERS_SYNCED: u64 = 8;
/// The budget that the peak of the process is held against.
const MEMORY_BYTES: u64 = 640 << 20;
/// Longest write without syncs; with them, beyond the slowest raw one.
const WRITE_MAX: Duration = Duration::from_millis(50);
/// Most space for a byte of live data.
const SPACE_MAX: f64 = 1.6;
/// Longest that flushes and merges go on without new writes.
const SETTLE_MAX: Duration = Duration::from_mins(2);
/// What a thread sleeps that does nothing else: how much longer that takes is the machine's doing.
const NAP: Duration = Duration::from_millis(1);
/// How often space is looked at.
const SPACE_LOOK: Duration = Duration::from_millis(500);
/// Pause between two raw syncs, and bytes written before each.
const RAW_PAUSE: Duration = Duration::from_millis(20);
const RAW_BYTES: usize = 4 << 10;
const HISTOGRAM_DIGITS: u8 = 3;
/// Writing this to the file below makes the peak of the resident size begin anew.
const RESET_PEAK: &str = "5";
const CLEAR_REFS: &str = "/proc/self/clear_refs";

/// What the writers and those beside them saw.
struct Seen {
    /// Of each write, in microseconds.
    writes: Histogram<u64>,
    space_max: u64,
    raw_sync_max: Duration,
    nap_max: Duration,
}

/// Sync mode `never`: nobody waits for the disk.
pub(super) fn unsynced(soak: &Soak<'_>, span: Duration, live_bytes: u64) -> Result<Vec<Finding>> {
    const PART: &str = "overwrite";
    let dir = soak.dir.join(PART);
    let running = begin(soak, &dir, SyncMode::Never, live_bytes)?;
    fs::write(CLEAR_REFS, RESET_PEAK).context("resetting the peak of the resident size")?;
    let seen = overwrite(soak, &running, &dir, live_bytes, WRITERS, span)?;
    let resident = resident_bytes_peak()?;
    let settling = running.settle(soak, SETTLE_MAX)?;
    let settled = disk_bytes(&dir)?;
    let level0 = running.store.stats().tables_by_level.first().copied().unwrap_or(0);
    let level0_max = Options::default().level0_tables;
    let refusals = running.refusals.load(Ordering::Relaxed);
    running.close()?;
    fs::remove_dir_all(&dir)?;
    let mut findings = writes(PART, &seen, WRITE_MAX, span);
    let finding = |what, value, unit, most| Finding { part: PART, what, value, unit, most };
    let space = |bytes| mebibytes(bytes) / mebibytes(live_bytes);
    findings.extend([
        finding("refusals for overload", f64::from(u32::try_from(refusals)?), "", None),
        finding("space for live data, at most", space(seen.space_max), "", Some(SPACE_MAX)),
        finding("space for live data, settled", space(settled), "", Some(SPACE_MAX)),
        finding("peak memory", mebibytes(resident), " MiB", Some(mebibytes(MEMORY_BYTES))),
        finding(
            "work left, without new writes",
            settling.as_secs_f64(),
            " s",
            Some(SETTLE_MAX.as_secs_f64()),
        ),
        finding(
            "tables in level 0 then",
            f64::from(u32::try_from(level0)?),
            "",
            Some(f64::from(u32::try_from(level0_max)?)),
        ),
    ]);
    Ok(findings)
}

/// Sync mode `always`, beside raw syncs of a file on the same disk.
pub(super) fn synced(soak: &Soak<'_>, span: Duration) -> Result<Vec<Finding>> {
    const PART: &str = "overwrite, synced";
    let dir = soak.dir.join("synced");
    let running = begin(soak, &dir, SyncMode::Always, LIVE_BYTES_SYNCED)?;
    let seen = overwrite(soak, &running, &dir, LIVE_BYTES_SYNCED, WRITERS_SYNCED, span)?;
    running.close()?;
    fs::remove_dir_all(&dir)?;
    let raw = seen.raw_sync_max;
    let mut findings = writes(PART, &seen, WRITE_MAX + raw, span);
    let value = raw.as_secs_f64() * 1e3;
    let what = "slowest raw write and fdatasync";
    findings.push(Finding { part: PART, what, value, unit: " ms", most: None });
    Ok(findings)
}

fn begin(soak: &Soak<'_>, dir: &Path, sync: SyncMode, live_bytes: u64) -> Result<Running> {
    let options = Options {
        sync,
        // Space is held against the bytes of keys and values.
        compression: Compression::None,
        block_bytes: Compression::None.block_bytes(),
        memory_bytes: MEMORY_BYTES,
        reserve_bytes: 0,
        ..Options::default()
    };
    tell(&format!("overwrite in mode {sync}: loading"));
    let running = Running::open(dir, options)?;
    running.load(soak, entries(live_bytes), VALUE_BYTES)?;
    running.settle(soak, SETTLE_MAX)?;
    tell(&format!("overwrite in mode {sync}: writing"));
    Ok(running)
}

const fn entries(live_bytes: u64) -> u64 {
    live_bytes / (KEY_BYTES + VALUE_BYTES) as u64
}

fn overwrite(
    soak: &Soak<'_>,
    running: &Running,
    dir: &Path,
    live_bytes: u64,
    writers: u64,
    span: Duration,
) -> Result<Seen> {
    let end = Instant::now() + span;
    let is_over = AtomicBool::new(false);
    let is_due = || Instant::now() < end && !is_over.load(Ordering::Relaxed);
    let mut seen = Seen {
        writes: histogram()?,
        space_max: 0,
        raw_sync_max: Duration::ZERO,
        nap_max: Duration::ZERO,
    };
    thread::scope(|scope| {
        let writers: Vec<_> = (0..writers)
            .map(|writer| {
                scope.spawn(move || {
                    let random = Random::new(soak.seed, writer);
                    write_until(running, random, entries(live_bytes), is_due)
                })
            })
            .collect();
        let raw = scope.spawn(|| slowest_raw_sync(&soak.dir.join("raw"), is_due));
        let naps = scope.spawn(|| longest_nap(is_due));
        let space = watch_space(soak, dir, is_due);
        // Also when it failed: nobody waits for the end of the minutes.
        is_over.store(true, Ordering::Relaxed);
        let gone = || anyhow!("a thread panicked");
        for writer in writers {
            seen.writes.add(writer.join().map_err(|_| gone())??)?;
        }
        seen.nap_max = naps.join().map_err(|_| gone())?;
        seen.raw_sync_max = raw.join().map_err(|_| gone())??;
        seen.space_max = space?;
        Ok(seen)
    })
}

fn write_until(
    running: &Running,
    mut random: Random,
    entries: u64,
    is_due: impl Fn() -> bool,
) -> Result<Histogram<u64>> {
    let (mut values, mut writes, mut version) = (Values::new(VALUE_BYTES), histogram()?, 0);
    let mut batch = WriteBatch::new();
    while is_due() {
        let number = random.below(entries);
        version += 1;
        batch.clear();
        batch.put(key(number), values.of(number, version));
        let start = Instant::now();
        running.write(&batch)?;
        writes.record(u64::try_from(start.elapsed().as_micros())?)?;
    }
    Ok(writes)
}

/// The most space that the directory took, looked at now and then.
fn watch_space(soak: &Soak<'_>, dir: &Path, is_due: impl Fn() -> bool) -> Result<u64> {
    let mut most = 0;
    while is_due() {
        soak.check_interrupt()?;
        thread::sleep(SPACE_LOOK);
        most = most.max(disk_bytes(dir)?);
    }
    Ok(most)
}

fn longest_nap(is_due: impl Fn() -> bool) -> Duration {
    let mut most = Duration::ZERO;
    while is_due() {
        let start = Instant::now();
        thread::sleep(NAP);
        most = most.max(start.elapsed());
    }
    most
}

fn slowest_raw_sync(path: &Path, is_due: impl Fn() -> bool) -> Result<Duration> {
    let mut file: File = OpenOptions::new().write(true).create(true).truncate(true).open(path)?;
    let mut most = Duration::ZERO;
    while is_due() {
        let start = Instant::now();
        file.write_all(&[7; RAW_BYTES])?;
        file.sync_data()?;
        most = most.max(start.elapsed());
        thread::sleep(RAW_PAUSE);
    }
    fs::remove_file(path)?;
    Ok(most)
}

fn histogram() -> Result<Histogram<u64>> {
    Ok(Histogram::new(HISTOGRAM_DIGITS)?)
}

#[expect(clippy::cast_precision_loss, reason = "for people")]
fn writes(part: &'static str, seen: &Seen, most: Duration, span: Duration) -> Vec<Finding> {
    let finding = |what, value, unit, most| Finding { part, what, value, unit, most };
    let millis = |micros: u64| micros as f64 / 1e3;
    let writes = &seen.writes;
    let slow =
        writes.count_between(u64::try_from(WRITE_MAX.as_micros()).unwrap_or(u64::MAX), u64::MAX);
    vec![
        finding("writes a second", writes.len() as f64 / span.as_secs_f64(), "", None),
        finding("write, p99.9", millis(writes.value_at_quantile(0.999)), " ms", None),
        finding("write, slowest", millis(writes.max()), " ms", Some(most.as_secs_f64() * 1e3)),
        finding("writes of more than 50 ms", slow as f64, "", None),
        finding("a sleep of 1 ms, longest", seen.nap_max.as_secs_f64() * 1e3, " ms", None),
    ]
}
