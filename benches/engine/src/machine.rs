//! Where and with what a run was made: a table without that is worth little.

use std::fs;
use std::thread;

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};

/// Versions of what is compared are those of the lock file that this was built with.
const LOCK_FILE: &str = include_str!("../Cargo.lock");
const PACKAGES: [&str; 5] = ["kvkit", "rocksdb", "librocksdb-sys", "fjall", "lsm-tree"];
/// Up to this load the machine counts as idle.
const IDLE_LOAD_MAX: f64 = 0.5;

/// The machine, the software, and the run's sizes.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Machine {
    pub(crate) processor: String,
    pub(crate) threads: usize,
    pub(crate) memory_bytes: u64,
    pub(crate) kernel: String,
    /// Names and versions.
    pub(crate) packages: Vec<String>,
    pub(crate) scale: f64,
    pub(crate) rounds: u32,
    /// Runnable threads, averaged over the minute before the run.
    pub(crate) load: f64,
}

impl Machine {
    pub(crate) fn describe(scale: f64, rounds: u32) -> Result<Self> {
        let read = |path: &str| fs::read_to_string(path).with_context(|| format!("reading {path}"));
        let (processors, memory) = (read("/proc/cpuinfo")?, read("/proc/meminfo")?);
        let processor = processors.lines().find_map(|line| line.strip_prefix("model name"));
        let memory = memory.lines().find_map(|line| line.strip_prefix("MemTotal:"));
        let kibibytes = memory.and_then(|memory| memory.split_whitespace().next());
        Ok(Self {
            processor: processor
                .unwrap_or("unknown")
                .trim_start_matches(['\t', ' ', ':'])
                .to_owned(),
            threads: thread::available_parallelism()?.get(),
            memory_bytes: kibibytes.context("no MemTotal")?.parse::<u64>()? << 10,
            kernel: read("/proc/sys/kernel/osrelease")?.trim().to_owned(),
            packages: PACKAGES.iter().filter_map(|name| package(name)).collect(),
            scale,
            rounds,
            load: load()?,
        })
    }

    /// Whether others were at work before the run: its figures are then good for nothing but seeing that it runs.
    pub(crate) fn is_busy(&self) -> bool {
        IDLE_LOAD_MAX < self.load
    }
}

fn load() -> Result<f64> {
    let loads = fs::read_to_string("/proc/loadavg").context("reading /proc/loadavg")?;
    Ok(loads.split_whitespace().next().context("no load")?.parse()?)
}

fn package(name: &str) -> Option<String> {
    let entry = LOCK_FILE
        .split("[[package]]")
        .find(|entry| entry.contains(&format!("name = \"{name}\"\n")))?;
    let version = entry.lines().find_map(|line| line.strip_prefix("version = "))?;
    Some(format!("{name} {}", version.trim_matches('"')))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_lock_file_names_all_that_is_compared() {
        assert_eq!(PACKAGES.iter().filter_map(|name| package(name)).count(), PACKAGES.len());
    }
}
