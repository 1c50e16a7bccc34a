//! Planted bugs (`kvkit::planted`): each must be caught, and by which check is on record.
//!
//! ```text
//! cargo test --features planted-bugs --test simulation planted       each by its recorded seed
//! KVKIT_WRITE_PLANTED=1 …                                            searches all seeds anew and writes the record
//! KVKIT_WRITE_PLANTED=LastWriterWins …                               searches for one, and tells
//! ```
//! The record is `planted_seeds.txt`, a line a bug: `BUG SEED CHECK`; `docs/testing.md` shows the same as a table. What a
//! seed draws changes with the generator and with all that nodes draw: a bug that its seed misses since is searched for,
//! which takes minutes, until the record is written anew.

use std::fmt::Write as _;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

use kvkit::planted::{self, Bug};

use crate::oracle::Check;
use crate::plan::Plan;
use crate::scripted;
use crate::shrink;

/// Within so many seeds each bug must be caught.
const SEEDS_MAX: u64 = 2_000;
/// How many seeds behind a recorded one may stand in for it.
const SPARE: u64 = 10;
/// Threads that search.
const THREADS: usize = 2;
/// Where the record is, and what it says.
const RECORD_PATH: &str =
    concat!(env!("CARGO_MANIFEST_DIR"), "/tests/simulation/planted_seeds.txt");
const RECORD: &str = include_str!("planted_seeds.txt");
const TABLE_PATH: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/testing.md");
const TABLE: &str = include_str!("../../docs/testing.md");
/// What stands above the rows of the table.
const TABLE_HEAD: &str = "| bug | seed | caught by |\n|---|---|---|\n";

/// What a run of `seed` with `bug` breaks first.
fn caught(bug: Bug, seed: u64) -> Option<Check> {
    planted::plant(Some(bug));
    let broken = shrink::breaches(&Plan::of(seed));
    planted::plant(None);
    broken.first().map(|breach| breach.check)
}

/// The first seed that catches `bug`, and by what.
fn search(bug: Bug) -> Option<(u64, Check)> {
    let (next, found) = (AtomicU64::new(0), Mutex::new(None::<(u64, Check)>));
    let first = || *found.lock().unwrap_or_else(PoisonError::into_inner);
    std::thread::scope(|scope| {
        for _ in 0..THREADS {
            scope.spawn(|| {
                loop {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed >= SEEDS_MAX || first().is_some_and(|(found, _)| found < seed) {
                        return;
                    }
                    if let Some(check) = caught(bug, seed) {
                        let mut found = found.lock().unwrap_or_else(PoisonError::into_inner);
                        let is_first = found.is_none_or(|(first, _)| seed < first);
                        *found = if is_first { Some((seed, check)) } else { *found };
                    }
                }
            });
        }
    });
    first()
}

/// Searches, and writes the record where all of it was searched for.
fn write(which: &str) {
    let (mut record, mut missed) = (String::new(), Vec::new());
    let wanted = |bug: &Bug| which == "1" || which == format!("{bug:?}");
    for bug in Bug::ALL.into_iter().filter(wanted) {
        match search(bug) {
            Some((seed, check)) => {
                println!("{bug:?} {seed} {check:?}");
                writeln!(record, "{bug:?} {seed} {check:?}").expect("a text takes all");
            }
            None => missed.push(bug),
        }
    }
    if which == "1" {
        std::fs::write(TABLE_PATH, with_rows(&record)).expect("the table can be written");
        std::fs::write(RECORD_PATH, record).expect("the record can be written");
    }
    assert!(missed.is_empty(), "not caught within {SEEDS_MAX} seeds: {missed:?}");
}

/// The page with the record's rows in its table.
fn with_rows(record: &str) -> String {
    let (before, rest) = TABLE.split_once(TABLE_HEAD).expect("the page has the table");
    let (_, behind) = rest.split_once("\n\n").expect("something follows the table");
    let rows: Vec<String> = record.lines().map(row).collect();
    format!("{before}{TABLE_HEAD}{}\n\n{behind}", rows.join("\n"))
}

/// A line of the record as a row of the table.
fn row(line: &str) -> String {
    let fields: Vec<&str> = line.split_whitespace().collect();
    let [name, seed, check] = fields.try_into().expect("BUG SEED CHECK");
    format!("| `{name}` | {seed} | {check} |")
}

#[test]
fn each_planted_bug_is_caught_by_its_recorded_seed() {
    if let Ok(which) = std::env::var("KVKIT_WRITE_PLANTED") {
        return write(&which);
    }
    let mut recorded = RECORD.lines();
    for bug in Bug::ALL {
        let line = recorded.next().expect("a line a bug");
        let fields: Vec<&str> = line.split_whitespace().collect();
        let [name, seed, check] = fields.try_into().expect("BUG SEED CHECK");
        assert_eq!(name, format!("{bug:?}"), "the record is in the order of `Bug::ALL`");
        let first: u64 = seed.parse().expect("a seed");
        let near = (first..=first + SPARE).find_map(|seed| Some((seed, caught(bug, seed)?)));
        let found = near.or_else(|| {
            println!("{name}: not caught near seed {first}; searching, and the record is to be written anew");
            search(bug)
        });
        let Some((seed, by)) = found else {
            panic!("{name} is not caught within {SEEDS_MAX} seeds")
        };
        println!("{name}: on record {first} {check}, caught by {seed} {by:?}");
        let row = row(line);
        assert!(TABLE.contains(&row), "docs/testing.md lacks the row {row}");
    }
}

#[test]
fn gainers_that_do_not_count_are_caught_by_a_script() {
    planted::plant(Some(Bug::GainersUncounted));
    let run = std::panic::catch_unwind(scripted::changes::strict_writes_need_the_gainers_too);
    planted::plant(None);
    assert!(run.is_err(), "the script does not notice the bug");
}
