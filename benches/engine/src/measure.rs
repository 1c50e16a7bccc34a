//! What is measured about a row: latencies, and what the process cost the machine.

use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use hdrhistogram::Histogram;
use nix::sys::resource::{UsageWho, getrusage};
use serde::{Deserialize, Serialize};

use crate::engine::Name;

/// Reads are as short as some ten clock readings: one in so many is timed, in every engine. Each write is timed, for a
/// stall is one write.
const READS_PER_TIMED: u64 = 16;
const HISTOGRAM_DIGITS: u8 = 3;
/// What `st_blocks` counts in.
const SECTOR_BYTES: u64 = 512;

/// One run of one row by one engine: the line a child prints.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Measured {
    pub(crate) engine: Name,
    pub(crate) row: String,
    pub(crate) round: u32,
    pub(crate) ops: u64,
    pub(crate) seconds: f64,
    pub(crate) ops_per_second: f64,
    pub(crate) latency: Latency,
    /// Processor time of the measured phase and of settling after it, in user and in system mode.
    pub(crate) user_seconds: f64,
    pub(crate) system_seconds: f64,
    /// The largest resident size of the process, opening and warming up included.
    pub(crate) resident_bytes_peak: u64,
    /// Bytes given to `write(2)` and its kin, and bytes of pages that thus became dirty, until the store settled.
    pub(crate) written_bytes: u64,
    pub(crate) dirtied_bytes: u64,
    /// Keys and values that the row wrote.
    pub(crate) user_bytes: u64,
    /// Space the store takes on the disk once settled.
    pub(crate) disk_bytes: u64,
    /// How long the store worked on after the last operation.
    pub(crate) settle_seconds: f64,
    /// What was read; of a row that writes, by a scan of the whole store at the end, outside of everything measured.
    pub(crate) found: u64,
    pub(crate) checksum: u64,
}

/// In nanoseconds.
#[derive(Debug, Clone, Copy, Default, Serialize, Deserialize)]
pub(crate) struct Latency {
    pub(crate) p50: u64,
    pub(crate) p99: u64,
    pub(crate) p999: u64,
    pub(crate) max: u64,
}

/// Times operations, one after the other, in one thread.
pub(crate) struct Stopwatch {
    histogram: Histogram<u64>,
    ops: u64,
    last: Instant,
}

/// What the process has used so far.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Usage {
    pub(crate) user: Duration,
    pub(crate) system: Duration,
    pub(crate) written_bytes: u64,
    pub(crate) dirtied_bytes: u64,
}

impl Stopwatch {
    pub(crate) fn start() -> Result<Self> {
        Ok(Self { histogram: Histogram::new(HISTOGRAM_DIGITS)?, ops: 0, last: Instant::now() })
    }

    /// Does an operation that is timed whatever it costs.
    pub(crate) fn write<T>(&mut self, op: impl FnOnce() -> Result<T>) -> Result<T> {
        let done = op()?;
        let now = Instant::now();
        self.record(now.duration_since(self.last))?;
        self.last = now;
        self.ops += 1;
        Ok(done)
    }

    /// Does an operation of which some are timed.
    pub(crate) fn read<T>(&mut self, op: impl FnOnce() -> Result<T>) -> Result<T> {
        let is_timed = self.ops.is_multiple_of(READS_PER_TIMED);
        self.ops += 1;
        if !is_timed {
            return op();
        }
        let start = Instant::now();
        let done = op()?;
        self.record(start.elapsed())?;
        Ok(done)
    }

    /// Counts operations that nobody can tell apart in time.
    pub(crate) const fn count(&mut self, ops: u64) {
        self.ops += ops;
    }

    pub(crate) const fn ops(&self) -> u64 {
        self.ops
    }

    /// Takes over what another thread timed.
    pub(crate) fn merge(&mut self, other: &Self) -> Result<()> {
        self.ops += other.ops;
        Ok(self.histogram.add(&other.histogram)?)
    }

    pub(crate) fn latency(&self) -> Latency {
        let at = |quantile| self.histogram.value_at_quantile(quantile);
        Latency { p50: at(0.5), p99: at(0.99), p999: at(0.999), max: self.histogram.max() }
    }

    fn record(&mut self, time: Duration) -> Result<()> {
        Ok(self.histogram.record(u64::try_from(time.as_nanos())?)?)
    }
}

impl Usage {
    pub(crate) fn now() -> Result<Self> {
        let usage = getrusage(UsageWho::RUSAGE_SELF)?;
        let time = |time: nix::sys::time::TimeVal| {
            let micros = time.tv_sec() * 1_000_000 + time.tv_usec();
            Duration::from_micros(micros.unsigned_abs())
        };
        let io = fs::read_to_string("/proc/self/io").context("reading /proc/self/io")?;
        Ok(Self {
            user: time(usage.user_time()),
            system: time(usage.system_time()),
            written_bytes: field(&io, "wchar:")?,
            dirtied_bytes: field(&io, "write_bytes:")?,
        })
    }
}

/// The largest resident size of this process so far.
pub(crate) fn resident_bytes_peak() -> Result<u64> {
    let status = fs::read_to_string("/proc/self/status").context("reading /proc/self/status")?;
    Ok(field(&status, "VmHWM:")? << 10)
}

/// Disk space that the files below a directory take.
pub(crate) fn disk_bytes(dir: &Path) -> Result<u64> {
    let mut bytes = 0;
    for entry in fs::read_dir(dir).with_context(|| format!("listing {}", dir.display()))? {
        let entry = entry?;
        bytes += match entry.metadata() {
            Ok(metadata) if metadata.is_dir() => disk_bytes(&entry.path())?,
            Ok(metadata) => metadata.blocks() * SECTOR_BYTES,
            // The engine removed a file meanwhile.
            Err(error) if error.kind() == io::ErrorKind::NotFound => 0,
            Err(error) => return Err(error.into()),
        };
    }
    Ok(bytes)
}

fn field(text: &str, name: &str) -> Result<u64> {
    let value = text.lines().find_map(|line| line.strip_prefix(name));
    let number = value.and_then(|value| value.split_whitespace().next());
    let number = number.with_context(|| format!("no field {name}"))?;
    number.parse().with_context(|| format!("field {name} {number}"))
}
