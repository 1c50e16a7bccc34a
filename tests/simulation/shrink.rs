//! Thins a failing run: fewer faults, fewer clients, as long as the same promise is broken.
//!
//! Delta debugging (Zeller): leave out half, a quarter, … down to single ones, and start over whenever something could
//! go. A run is deterministic, so each try is told apart by its outcome alone.

use std::panic::{self, AssertUnwindSafe};

use crate::oracle::{Breach, Check};
use crate::plan::{Keep, Plan};
use crate::run::{self, Report};

/// Most runs that thinning one seed may take.
const RUNS_MAX: usize = 120;

/// Runs a plan; a panic is a breach.
pub fn run_caught(plan: &Plan, is_traced: bool) -> Result<Report, Breach> {
    panic::catch_unwind(AssertUnwindSafe(|| run::run(plan, is_traced))).map_err(|cause| {
        let text = cause.downcast_ref::<String>().cloned();
        let text = text.or_else(|| cause.downcast_ref::<&str>().map(|text| (*text).to_owned()));
        Breach::new(Check::Alarms, format!("panicked: {}", text.unwrap_or_default()))
    })
}

/// All that is wrong with a run.
pub fn breaches(plan: &Plan) -> Vec<Breach> {
    run_caught(plan, false).map_or_else(|breach| vec![breach], |report| report.broken)
}

/// The smallest part found of a failing plan that breaks what `check` says.
pub fn shrink(plan: &Plan, check: Check) -> Keep {
    let mut keep = Keep::all(plan);
    let (mut runs, mut parts) = (0, 2);
    while keep.len() > 1 && runs < RUNS_MAX {
        let size = keep.len().div_ceil(parts);
        let smaller = (0..parts).map(|part| without(&keep, part * size, size)).find(|smaller| {
            runs += 1;
            runs <= RUNS_MAX
                && *smaller != keep
                && breaches(&plan.keeping(smaller)).iter().any(|breach| breach.check == check)
        });
        match smaller {
            Some(smaller) => {
                parts = (parts - 1).max(2);
                keep = smaller;
            }
            None if size == 1 => break,
            None => parts = (2 * parts).min(keep.len()),
        }
    }
    keep
}

/// `keep` without `count` of its parts from `first` on, faults before clients.
fn without(keep: &Keep, first: usize, count: usize) -> Keep {
    let gone = first..first + count;
    let faults = keep.faults.iter().enumerate().filter(|(place, _)| !gone.contains(place));
    let clients = keep.clients.iter().enumerate();
    let clients = clients.filter(|(place, _)| !gone.contains(&(place + keep.faults.len())));
    Keep {
        faults: faults.map(|(_, number)| *number).collect(),
        clients: clients.map(|(_, number)| *number).collect(),
    }
}
