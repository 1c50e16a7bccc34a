//! The simulator: whole clusters of real Cores on real Stores in one thread, from a seed (`docs/testing.md`).
//!
//! ```text
//! plan      what a run will be, drawn from its seed           faults    what goes wrong, as it happens
//! world     machines, network, clocks as one queue            workload  clients, and history: what they saw
//! run       work, heal, judge                                 oracle    one file a promise
//! seeds     which runs a test makes                           shrink    the smallest part that still fails
//! scripted  schedules that broke earlier drafts            planted   bugs on purpose, and what catches them
//! ```
//! `seeds` lists the variables that choose runs; `KVKIT_SIM_LOG=1` tells all that happens in one.
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::print_stdout,
    missing_docs,
    unreachable_pub,
    reason = "a test crate"
)]

mod faults;
mod history;
mod network;
mod oracle;
mod plan;
#[cfg(feature = "planted-bugs")]
mod planted;
mod progress;
mod replica;
mod run;
mod scripted;
mod seeds;
mod shrink;
mod witness;
mod workload;
mod world;

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicUsize, Ordering};

use nix::sys::resource::{UsageWho, getrusage};

use oracle::{Breach, Check};
use plan::{Keep, Plan};
use seeds::Wanted;

/// Every so many seeds one is run twice, with all that the nodes wanted done in its trace.
const TWICE_EVERY: u64 = 20;
/// Threads that run seeds.
const THREADS: usize = 2;
/// Failing seeds that are thinned; the others are named only.
const SHRUNK_MAX: usize = 3;
/// Breaches told of one seed.
const TOLD_MAX: usize = 10;
/// From so many seeds on, each thing that runs are there to meet must have been met.
const COVERED_FROM: usize = 500;
/// How often, in a thousand seeds.
const COVERED_PER_THOUSAND: usize = 100;

/// What the seeds of one test run met, summed.
type Met = BTreeMap<&'static str, usize>;

/// A run, by how it is replayed.
#[derive(Clone, Debug)]
struct Job {
    seed: u64,
    plan: Plan,
    keep: Option<Keep>,
}

impl Job {
    fn of(seed: u64, keep: Option<Keep>) -> Self {
        let plan = seeds::plan_of(seed);
        let plan = keep.as_ref().map_or_else(|| plan.clone(), |keep| plan.keeping(keep));
        Self { seed, plan, keep }
    }

    fn replay(&self, keep: &Keep) -> String {
        let standard = if std::env::var_os("KVKIT_SIM_STANDARD").is_some() {
            "KVKIT_SIM_STANDARD=1 "
        } else {
            ""
        };
        format!(
            "replay: {standard}KVKIT_SIM_SEED={} KVKIT_SIM_KEEP={keep} cargo test --test simulation random_schedules",
            self.seed
        )
    }
}

/// Runs it; now and then twice.
fn check(job: &Job) -> Result<Met, Vec<Breach>> {
    let is_twice = job.seed.is_multiple_of(TWICE_EVERY);
    let report = shrink::run_caught(&job.plan, is_twice).map_err(|breach| vec![breach])?;
    if !report.broken.is_empty() {
        return Err(report.broken);
    }
    if is_twice && run::run(&job.plan, true).trace != report.trace {
        let text = "another trace the second time".to_owned();
        return Err(vec![Breach::new(Check::Determinism, text)]);
    }
    Ok(report.met)
}

/// Runs jobs until none is left, on one thread.
fn work(jobs: &[Job], next: &AtomicUsize) -> (Met, Vec<(Job, Vec<Breach>)>) {
    let (mut met, mut failed) = (Met::new(), Vec::new());
    while let Some(job) = jobs.get(next.fetch_add(1, Ordering::Relaxed)) {
        match check(job) {
            Ok(of_run) => add(&mut met, of_run),
            Err(broken) => failed.push((job.clone(), broken)),
        }
    }
    (met, failed)
}

fn add(sum: &mut Met, more: Met) {
    for (what, count) in more {
        *sum.entry(what).or_default() += count;
    }
}

/// What failed in words, the first few thinned.
fn told(failed: &[(Job, Vec<Breach>)]) -> String {
    let texts = failed.iter().enumerate().map(|(index, (job, broken))| {
        let lines: Vec<String> = broken.iter().take(TOLD_MAX).map(ToString::to_string).collect();
        let keep = match &job.keep {
            None if index < SHRUNK_MAX => shrink::shrink(&job.plan, broken[0].check),
            Some(keep) => keep.clone(),
            None => Keep::all(&job.plan),
        };
        format!("seed {}:\n  {}\n{}", job.seed, lines.join("\n  "), job.replay(&keep))
    });
    texts.collect::<Vec<_>>().join("\n")
}

/// Processor seconds of this process so far.
fn processor_seconds() -> f64 {
    let usage = getrusage(UsageWho::RUSAGE_SELF).expect("the system tells");
    let seconds = |time: nix::sys::time::TimeVal| {
        std::time::Duration::new(
            u64::try_from(time.tv_sec()).unwrap_or(0),
            u32::try_from(time.tv_usec() * 1_000).unwrap_or(0),
        )
        .as_secs_f64()
    };
    seconds(usage.user_time()) + seconds(usage.system_time())
}

#[test]
fn random_schedules_keep_every_promise() {
    let range = match seeds::wanted() {
        Wanted::One(plan, seed, keep) => {
            let job = Job { seed, plan: plan.keeping(&keep), keep: Some(keep) };
            match check(&job) {
                Ok(met) => println!("seed {seed} met {met:#?}"),
                Err(broken) => panic!("{}", told(&[(job, broken)])),
            }
            return;
        }
        Wanted::Many(range) => range,
    };
    let past = seeds::past().into_iter().map(|(seed, keep)| Job::of(seed, keep));
    let jobs: Vec<Job> = past.chain(range.clone().map(|seed| Job::of(seed, None))).collect();
    let (next, began) = (AtomicUsize::new(0), processor_seconds());
    let (mut met, mut failed) = (Met::new(), Vec::new());
    std::thread::scope(|scope| {
        let threads: Vec<_> = (0..THREADS).map(|_| scope.spawn(|| work(&jobs, &next))).collect();
        for (of_thread, failures) in threads.into_iter().map(|thread| thread.join().unwrap()) {
            add(&mut met, of_thread);
            failed.extend(failures);
        }
    });
    #[expect(clippy::cast_precision_loss, reason = "a figure for people")]
    let each = (processor_seconds() - began) / jobs.len().max(1) as f64;
    println!(
        "seeds {range:?} and {} past ones, {each:.3} s of CPU each, met {met:#?}",
        seeds::past().len()
    );
    failed.sort_by_key(|(job, _)| job.seed);
    assert!(failed.is_empty(), "{} of {} runs fail:\n{}", failed.len(), jobs.len(), told(&failed));
    let floor = COVERED_PER_THOUSAND * jobs.len() / 1_000;
    let missed: Vec<_> = met.iter().filter(|(_, count)| **count < floor).collect();
    assert!(jobs.len() < COVERED_FROM || missed.is_empty(), "met too seldom: {missed:?}");
}
