//! Where and with what a run was made: a table without that is worth little.

use std::fmt;
use std::fs;
use std::path::Path;
use std::process::Command;
use std::thread;

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};

use crate::system::Programs;
use crate::work::{Scale, VALUE_BYTES};

/// Up to this load the machine counts as idle.
const IDLE_LOAD_MAX: f64 = 0.5;

/// The machine, the software, and the run's sizes.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Machine {
    processor: String,
    threads: usize,
    kernel: String,
    /// Each program's first line of `--version`.
    versions: Vec<String>,
    keys: u64,
    seconds: f64,
    rounds: u32,
    /// Runnable threads, averaged over the minute before the run.
    load: f64,
}

impl Machine {
    pub(crate) fn describe(programs: &Programs, scale: Scale, rounds: u32) -> Result<Self> {
        let read = |path: &str| fs::read_to_string(path).with_context(|| format!("reading {path}"));
        let (processors, loads) = (read("/proc/cpuinfo")?, read("/proc/loadavg")?);
        let processor = processors.lines().find_map(|line| line.strip_prefix("model name"));
        Ok(Self {
            processor: processor.unwrap_or("unknown").trim_start_matches(['\t', ' ', ':']).into(),
            threads: thread::available_parallelism()?.get(),
            kernel: read("/proc/sys/kernel/osrelease")?.trim().to_owned(),
            versions: vec![version(&programs.kvnode)?, version(&programs.etcd)?],
            keys: scale.keys,
            seconds: scale.time.as_secs_f64(),
            rounds,
            load: loads.split_whitespace().next().context("no load")?.parse()?,
        })
    }
}

impl fmt::Display for Machine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { processor, threads, kernel, versions, keys, seconds, rounds, load } = self;
        let busy = if IDLE_LOAD_MAX < *load {
            " (**busy machine**: these figures prove nothing)"
        } else {
            ""
        };
        write!(
            f,
            "{processor}, {threads} threads, Linux {kernel}; {}.\n{keys} keys, values of {VALUE_BYTES} bytes, {rounds} rounds \
             of {seconds} s a row; load before the run {load:.2}{busy}.",
            versions.join(", ")
        )
    }
}

fn version(program: &Path) -> Result<String> {
    let shown = program.display();
    let output = Command::new(program).arg("--version").output();
    let output = output.with_context(|| format!("asking {shown} for its version"))?;
    let text = String::from_utf8_lossy(&output.stdout);
    Ok(text.lines().next().with_context(|| format!("{shown} tells no version"))?.to_owned())
}
