//! The simulator: whole clusters of real Cores on real Stores in one thread, from a seed.
//!
//! `KVKIT_SIM_SEEDS=N` runs so many random seeds instead of [`SEEDS`], `KVKIT_SIM_FIRST=S` begins at seed S;
//! `KVKIT_SIM_SEED=S` runs one, and with `KVKIT_SIM_LOG=1` tells all that happens in it.
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::print_stdout,
    missing_docs,
    unreachable_pub,
    reason = "a test crate"
)]

mod history;
mod network;
mod oracle;
mod replica;
mod run;
mod scripted;
mod witness;
mod workload;
mod world;

use std::sync::atomic::{AtomicU64, Ordering};

/// Random seeds in a test run.
const SEEDS: u64 = 200;
/// Every so many seeds one is run twice.
const TWICE_EVERY: u64 = 25;
/// Threads that run seeds.
const THREADS: u64 = 2;

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|text| text.parse().expect("a number"))
}

/// Runs a seed, and says how to run it again where something is wrong.
fn check_seed(seed: u64) -> Result<(), String> {
    let replay =
        format!("replay: KVKIT_SIM_SEED={seed} cargo test --test simulation random_schedules");
    let outcome = std::panic::catch_unwind(|| {
        let report = run::run(seed);
        let differs = seed % TWICE_EVERY == 0 && run::run(seed).trace != report.trace;
        (report, differs)
    });
    let Ok((report, differs)) = outcome else {
        return Err(format!("seed {seed} panicked\n{replay}"));
    };
    if differs {
        return Err(format!("seed {seed} gives another trace the second time\n{replay}"));
    }
    if report.broken.is_empty() {
        return Ok(());
    }
    Err(format!("seed {seed}:\n  {}\n{replay}", report.broken.join("\n  ")))
}

#[test]
fn random_schedules_keep_every_promise() {
    if let Some(seed) = number("KVKIT_SIM_SEED") {
        check_seed(seed).unwrap_or_else(|text| panic!("{text}"));
        return;
    }
    let first = number("KVKIT_SIM_FIRST").unwrap_or(0);
    let end = first + number("KVKIT_SIM_SEEDS").unwrap_or(SEEDS);
    let next = AtomicU64::new(first);
    let work = || {
        let mut failures = Vec::new();
        loop {
            let seed = next.fetch_add(1, Ordering::Relaxed);
            if seed >= end {
                return failures;
            }
            failures.extend(check_seed(seed).err());
        }
    };
    let failures: Vec<String> = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..THREADS).map(|_| scope.spawn(work)).collect();
        threads.into_iter().flat_map(|thread| thread.join().unwrap()).collect()
    });
    assert!(failures.is_empty(), "{} seeds fail:\n{}", failures.len(), failures.join("\n"));
}
