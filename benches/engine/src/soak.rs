//! The soak: kvkit alone, worked for minutes, and what it does held against bounds.
//!
//! A benchmark tells how fast a store is; this tells whether it stays so: no write that takes too long, space and memory
//! within bounds, debt that is worked off when nobody writes, a cache that a scan does not empty, a start that does not
//! grow with the data. Each part has a file and gives [`Finding`]s.

mod open;
mod overwrite;
mod zipf;

use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use clap::Args;
use kvkit::runtime::Workers;
use kvkit::storage::vfs::Real;
use kvkit::storage::{Options, Store, WriteBatch, WriteError};
use serde::Serialize;
use signal_hook::consts::{SIGINT, SIGTERM};

use crate::keys::{KEY_BYTES, Values, key};
use crate::measure::Usage;

/// Shares of the minutes: overwriting without syncs, with syncs, and the reads before and after a scan.
const OVERWRITE_SHARE: f64 = 0.6;
const SYNCED_SHARE: f64 = 0.2;
const ZIPF_SHARE: f64 = 0.2;
/// How long a writer who was refused waits for a bell at once.
const PATIENCE: Duration = Duration::from_millis(10);
/// Bytes of a batch of a load.
const LOAD_BATCH_BYTES: usize = 256 << 10;
/// How often the store is looked at while it settles, and for how long it must have stood still to count as settled.
const SETTLE_LOOK: Duration = Duration::from_millis(50);
const SETTLED_AFTER: Duration = Duration::from_secs(2);

#[derive(Debug, Args)]
pub(crate) struct SoakArguments {
    /// How long, loading and opening left out.
    #[arg(long, default_value_t = 10.0, value_parser = minutes)]
    minutes: f64,
    /// Size of the store whose opening is timed; 0 leaves that out.
    #[arg(long, value_name = "N", default_value_t = 10)]
    gib: u64,
    /// Live data of the overwriting without syncs.
    #[arg(long, value_name = "N", default_value_t = 4, value_parser = clap::value_parser!(u64).range(1..))]
    live_gib: u64,
    /// Where the stores go for the time of the run: four times the live data, or a fifth more than `--gib` says.
    #[arg(long, default_value_os_t = std::env::temp_dir())]
    dir: PathBuf,
    /// Which keys are drawn.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// One JSON object a finding instead of the table.
    #[arg(long)]
    json: bool,
}

/// One figure and its bound.
#[derive(Debug, Clone, PartialEq, Serialize)]
struct Finding {
    part: &'static str,
    what: &'static str,
    value: f64,
    unit: &'static str,
    /// The most that is sound; a figure without stands there to be read.
    most: Option<f64>,
}

/// What every part gets.
#[derive(Debug)]
struct Soak<'a> {
    dir: &'a Path,
    seed: u64,
    interrupted: Arc<AtomicBool>,
}

/// An open store with the threads that work for it, as a node has them.
struct Running {
    store: Arc<Store>,
    workers: Workers,
    /// How often a write was refused, and tried again.
    refusals: AtomicU64,
}

/// Runs all parts; 1 when a bound is broken.
pub(crate) fn run(arguments: &SoakArguments, out: &mut dyn Write) -> Result<ExitCode> {
    let interrupted = Arc::new(AtomicBool::new(false));
    for signal in [SIGINT, SIGTERM] {
        signal_hook::flag::register(signal, Arc::clone(&interrupted))?;
    }
    // Removed when it goes out of scope, and so after an error or an interrupt too.
    let work = tempfile::Builder::new().prefix("engine-soak-").tempdir_in(&arguments.dir)?;
    let soak = Soak { dir: work.path(), seed: arguments.seed, interrupted };
    let span = |share: f64| Duration::from_secs_f64(arguments.minutes * 60.0 * share);
    let mut findings = overwrite::unsynced(&soak, span(OVERWRITE_SHARE), arguments.live_gib << 30)?;
    findings.extend(overwrite::synced(&soak, span(SYNCED_SHARE))?);
    findings.extend(zipf::around_a_scan(&soak, span(ZIPF_SHARE))?);
    if arguments.gib > 0 {
        findings.extend(open::opening(&soak, arguments.gib << 30)?);
    }
    print(&findings, arguments.json, out)?;
    let is_sound = findings.iter().all(Finding::holds);
    Ok(if is_sound { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

impl Finding {
    fn holds(&self) -> bool {
        self.most.is_none_or(|most| self.value <= most)
    }
}

impl Soak<'_> {
    fn check_interrupt(&self) -> Result<()> {
        ensure!(!self.interrupted.load(Ordering::Relaxed), "interrupted");
        Ok(())
    }
}

/// Says what is being done.
fn tell(text: &str) {
    // Who does not see it does not stop the work.
    let _ = writeln!(io::stderr(), "{text}");
}

impl Running {
    fn open(dir: &Path, options: Options) -> Result<Self> {
        let (store, _) = Store::open(Arc::new(Real), dir, options, &mut |_, _| {})?;
        let store = Arc::new(store);
        let workers = Workers::start(&store, |failure| {
            // The next write or the end of the run meets it as an error.
            let _ = writeln!(io::stderr(), "cannot {}: {}", failure.job, failure.error);
        })?;
        Ok(Self { store, workers, refusals: AtomicU64::new(0) })
    }

    /// Writes as a node does: it waits where the store is behind, and as long as the store asks for.
    fn write(&self, batch: &WriteBatch) -> Result<()> {
        loop {
            let heard = self.store.bell();
            match self.store.write(batch) {
                Ok(position) => {
                    self.store.sync(position)?;
                    thread::sleep(self.store.delay(batch.bytes()));
                    return Ok(());
                }
                Err(WriteError::Overloaded { .. }) => {
                    self.refusals.fetch_add(1, Ordering::Relaxed);
                    self.store.wait_for_bell(heard, PATIENCE);
                }
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// Writes entries 0 to `entries`, ascending, in large batches.
    fn load(&self, soak: &Soak<'_>, entries: u64, value_bytes: usize) -> Result<()> {
        let mut values = Values::new(value_bytes);
        let per_batch = (LOAD_BATCH_BYTES / (KEY_BYTES + value_bytes)).max(1);
        let mut number = 0;
        while number < entries {
            soak.check_interrupt()?;
            let mut batch = WriteBatch::new();
            for number in (number..entries).take(per_batch) {
                batch.put(key(number), values.of(number, 0));
            }
            number += per_batch as u64;
            self.write(&batch)?;
        }
        Ok(())
    }

    /// Waits until no flush and no merge is due or under way, with no write to help; how long that took. A store does not
    /// say that a job is due while a thread works at one, but then something is written.
    fn settle(&self, soak: &Soak<'_>, most: Duration) -> Result<Duration> {
        let start = Instant::now();
        let (mut since, mut last) = (start, Usage::now()?.written_bytes);
        loop {
            soak.check_interrupt()?;
            thread::sleep(SETTLE_LOOK);
            let now = Usage::now()?.written_bytes;
            let due = self.store.next_flush().is_some() || self.store.next_compaction().is_some();
            if due || now != last {
                (since, last) = (Instant::now(), now);
            }
            if since.elapsed() >= SETTLED_AFTER || start.elapsed() >= most {
                return Ok(since.duration_since(start));
            }
        }
    }

    fn close(self) -> Result<()> {
        self.workers.stop();
        Ok(self.store.close()?)
    }
}

fn minutes(text: &str) -> Result<f64, String> {
    let minutes: f64 = text.parse().map_err(|_| "not a number".to_owned())?;
    if minutes.is_finite() && minutes > 0.0 { Ok(minutes) } else { Err("not above 0".to_owned()) }
}

fn print(findings: &[Finding], as_json: bool, out: &mut dyn Write) -> Result<()> {
    if !as_json {
        writeln!(
            out,
            "{:<18} {:<38} {:>12} {:>12}  verdict",
            "part", "figure", "value", "at most"
        )?;
    }
    for finding in findings {
        let Finding { part, what, value, unit, most } = finding;
        if as_json {
            let mut object = serde_json::to_value(finding)?;
            let fields = object.as_object_mut().context("a finding is an object")?;
            fields.insert("v".to_owned(), 1.into());
            fields.insert("type".to_owned(), "soak".into());
            fields.insert("holds".to_owned(), finding.holds().into());
            writeln!(out, "{object}")?;
            continue;
        }
        let number = |number: f64| format!("{number:.3}{unit}");
        let (most, verdict) = match most {
            None => (String::new(), ""),
            Some(most) => (number(*most), if finding.holds() { "holds" } else { "BROKEN" }),
        };
        writeln!(out, "{part:<18} {what:<38} {:>12} {most:>12}  {verdict}", number(*value))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_broken_bound_is_said_in_both_forms() {
        let finding = |value| Finding { part: "p", what: "w", value, unit: "s", most: Some(1.0) };
        let findings = [finding(1.0), finding(1.5), Finding { most: None, ..finding(9.0) }];
        assert_eq!(findings.each_ref().map(Finding::holds), [true, false, true]);
        let text = |as_json| {
            let mut out = Vec::new();
            print(&findings, as_json, &mut out).unwrap();
            String::from_utf8(out).unwrap()
        };
        assert_eq!(text(false).matches("BROKEN").count(), 1);
        assert_eq!(text(true).matches("\"holds\":false").count(), 1);
        assert_eq!(text(true).lines().count(), 3);
    }

    #[test]
    fn every_part_runs_on_a_little() {
        let dir = tempfile::tempdir().unwrap();
        let soak = Soak { dir: dir.path(), seed: 1, interrupted: Arc::default() };
        let little = Duration::from_millis(200);
        assert!(!open::opening(&soak, 16 << 20).unwrap().is_empty());
        assert!(!zipf::around_a_scan(&soak, little).unwrap().is_empty());
        soak.interrupted.store(true, Ordering::Relaxed);
        assert!(overwrite::unsynced(&soak, little, 1 << 20).is_err());
    }
}
