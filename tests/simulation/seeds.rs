//! Which runs a test makes: fresh seeds from a range, past seeds that once failed, or one that is looked at.
//!
//! ```text
//! KVKIT_SIM_SEEDS=N | A..B    so many seeds from the base on, or these
//! KVKIT_SIM_BASE=A            where fresh seeds begin
//! KVKIT_SIM_SEED=S            this one alone
//! KVKIT_SIM_KEEP=1,5/0,2      of it only these faults and clients
//! KVKIT_SIM_STANDARD=1        runs of the standard size: five nodes, five minutes, 3,000 operations, 20 faults
//! ```

use std::ops::Range;

use crate::plan::{Keep, Plan};

/// Fresh seeds in a test run.
const SEEDS: u64 = 60;
/// Where they begin, unless told.
const BASE: u64 = 0;
/// Seeds that once failed, one a line, with what is kept of them and why.
const PAST: &str = include_str!("past_seeds.txt");

/// What a test run is to do.
#[expect(clippy::large_enum_variant, reason = "there is one of it")]
pub enum Wanted {
    /// One run, looked at closely.
    One(Plan, u64, Keep),
    /// Many, and the past ones.
    Many(Range<u64>),
}

/// What the environment asks for.
pub fn wanted() -> Wanted {
    if let Some(seed) = variable("KVKIT_SIM_SEED") {
        let seed = number(&seed);
        let plan = plan_of(seed);
        let keep = variable("KVKIT_SIM_KEEP").map(|text| text.parse().expect("faults/clients"));
        let keep = keep.unwrap_or_else(|| Keep::all(&plan));
        return Wanted::One(plan, seed, keep);
    }
    let base = variable("KVKIT_SIM_BASE").map_or(BASE, |text| number(&text));
    let range = variable("KVKIT_SIM_SEEDS").map(|text| match text.split_once("..") {
        Some((first, end)) => number(first)..number(end),
        None => base..base + number(&text),
    });
    Wanted::Many(range.unwrap_or(base..base + SEEDS))
}

/// The run of a seed: a standard one where those are asked for.
pub fn plan_of(seed: u64) -> Plan {
    if variable("KVKIT_SIM_STANDARD").is_some() { Plan::standard(seed) } else { Plan::of(seed) }
}

/// The seeds that once failed, and what is kept of each.
pub fn past() -> Vec<(u64, Option<Keep>)> {
    let lines = PAST.lines().map(|line| line.split('#').next().unwrap_or_default().trim());
    let parse = |line: &str| {
        let mut fields = line.split_whitespace();
        let seed = number(fields.next().expect("a seed"));
        (seed, fields.next().map(|keep| keep.parse().expect("faults/clients")))
    };
    lines.filter(|line| !line.is_empty()).map(parse).collect()
}

fn variable(name: &str) -> Option<String> {
    std::env::var(name).ok()
}

fn number(text: &str) -> u64 {
    text.trim().parse().unwrap_or_else(|_| panic!("`{text}` is no number"))
}
