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

use std::collections::BTreeMap;
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

/// What the seeds of one test run met, summed.
type Met = BTreeMap<&'static str, usize>;

/// Runs a seed, and says how to run it again where something is wrong.
fn check_seed(seed: u64) -> Result<Met, String> {
    let replay =
        format!("replay: KVKIT_SIM_SEED={seed} cargo test --test simulation random_schedules");
    let outcome = std::panic::catch_unwind(|| {
        let report = run::run(seed);
        let differs = seed.is_multiple_of(TWICE_EVERY) && run::run(seed).trace != report.trace;
        (report, differs)
    });
    let Ok((report, differs)) = outcome else {
        return Err(format!("seed {seed} panicked\n{replay}"));
    };
    if differs {
        return Err(format!("seed {seed} gives another trace the second time\n{replay}"));
    }
    if report.broken.is_empty() {
        return Ok(report.met);
    }
    Err(format!("seed {seed}:\n  {}\n{replay}", report.broken.join("\n  ")))
}

fn add(sum: &mut Met, more: Met) {
    for (what, count) in more {
        *sum.entry(what).or_default() += count;
    }
}

/// Runs seeds until none is left, on one thread.
fn work(next: &AtomicU64, end: u64) -> (Met, Vec<String>) {
    let (mut met, mut failures) = (Met::new(), Vec::new());
    loop {
        let seed = next.fetch_add(1, Ordering::Relaxed);
        if seed >= end {
            return (met, failures);
        }
        match check_seed(seed) {
            Ok(of_seed) => add(&mut met, of_seed),
            Err(failure) => failures.push(failure),
        }
    }
}

#[test]
fn random_schedules_keep_every_promise() {
    if let Some(seed) = number("KVKIT_SIM_SEED") {
        match check_seed(seed) {
            Ok(met) => println!("seed {seed} met {met:#?}"),
            Err(text) => panic!("{text}"),
        }
        return;
    }
    let first = number("KVKIT_SIM_FIRST").unwrap_or(0);
    let seeds = number("KVKIT_SIM_SEEDS").unwrap_or(SEEDS);
    let next = AtomicU64::new(first);
    let (mut met, mut failures) = (Met::new(), Vec::new());
    std::thread::scope(|scope| {
        let threads: Vec<_> =
            (0..THREADS).map(|_| scope.spawn(|| work(&next, first + seeds))).collect();
        for (of_thread, failed) in threads.into_iter().map(|thread| thread.join().unwrap()) {
            add(&mut met, of_thread);
            failures.extend(failed);
        }
    });
    println!("{seeds} seeds met {met:#?}");
    assert!(failures.is_empty(), "{} seeds fail:\n{}", failures.len(), failures.join("\n"));
    let missed: Vec<_> = met.iter().filter(|(_, count)| **count == 0).collect();
    assert!(seeds < SEEDS || missed.is_empty(), "never met: {missed:?}");
}
