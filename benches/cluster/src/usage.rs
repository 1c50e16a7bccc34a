//! Processor time and memory of processes, as Linux counts them.

use std::fs;
use std::iter::Sum;
use std::time::Duration;

use anyhow::{Context, Result};

/// Clock ticks a second in `/proc`: `USER_HZ`, a part of Linux's interface to programs.
const TICKS_A_SECOND: u64 = 100;
/// What is written to `clear_refs` to begin a new peak.
const RESET_PEAK: &str = "5";
/// Fields of `stat` behind the program's name: the user's and the system's ticks are the 12th and the 13th.
const TICK_FIELDS: [usize; 2] = [11, 12];

/// What processes used.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct Usage {
    /// Of the user and of the system.
    pub(crate) cpu: Duration,
    /// Most memory they held, each at its own moment, added up.
    pub(crate) resident_peak_bytes: u64,
}

impl Usage {
    /// What a process used up to now.
    pub(crate) fn of(pid: u32) -> Result<Self> {
        let read = |name: &str| {
            let path = format!("/proc/{pid}/{name}");
            fs::read_to_string(&path).with_context(|| format!("reading {path}"))
        };
        Self::parse(&read("stat")?, &read("status")?).with_context(|| format!("process {pid}"))
    }

    /// Begins a new peak of a process's memory.
    pub(crate) fn forget_peak(pid: u32) -> Result<()> {
        let path = format!("/proc/{pid}/clear_refs");
        fs::write(&path, RESET_PEAK).with_context(|| format!("writing {path}"))
    }

    fn parse(stat: &str, status: &str) -> Result<Self> {
        // The name is in parentheses and may hold anything.
        let (_, fields) = stat.rsplit_once(')').context("no name in stat")?;
        let fields: Vec<&str> = fields.split_whitespace().collect();
        let ticks = TICK_FIELDS.iter().map(|place| {
            let field = fields.get(*place).context("stat is too short")?;
            Ok(field.parse::<u64>()?)
        });
        let ticks: u64 = ticks.sum::<Result<u64>>()?;
        let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
        let kibibytes = peak.and_then(|peak| peak.split_whitespace().next()).context("no VmHWM")?;
        Ok(Self {
            cpu: Duration::from_millis(ticks * 1_000 / TICKS_A_SECOND),
            resident_peak_bytes: kibibytes.parse::<u64>()? << 10,
        })
    }
}

impl Sum for Usage {
    fn sum<I: Iterator<Item = Self>>(usages: I) -> Self {
        usages.fold(Self::default(), |sum, usage| Self {
            cpu: sum.cpu + usage.cpu,
            resident_peak_bytes: sum.resident_peak_bytes + usage.resident_peak_bytes,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ticks_and_peak_are_read_behind_any_name() {
        let stat = "7 (a) b) S 1 7 7 0 -1 4 1 0 0 0 250 150 0 0 20 0 9 0 1 2 3";
        let usage = Usage::parse(stat, "Name:\tx\nVmHWM:\t   2048 kB\nVmRSS:\t1 kB\n").unwrap();
        assert_eq!(usage, Usage { cpu: Duration::from_secs(4), resident_peak_bytes: 2 << 20 });
    }

    #[test]
    fn this_process_has_used_memory() {
        assert!(Usage::of(std::process::id()).unwrap().resident_peak_bytes > 0);
    }
}
