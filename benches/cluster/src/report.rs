//! The table of a run.

use std::collections::BTreeMap;
use std::fmt;

use crate::machine::Machine;
use crate::system::Name;
use crate::work::{Outcome, Row};

/// Bytes of a mebibyte.
const MEBIBYTE: f64 = 1_048_576.0;

/// What the rounds of each row and system came to.
pub(crate) struct Report<'a> {
    machine: &'a Machine,
    rows: BTreeMap<Row, BTreeMap<Name, Vec<&'a Outcome>>>,
}

/// Median, smallest, largest.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Spread {
    median: f64,
    min: f64,
    max: f64,
}

impl<'a> Report<'a> {
    pub(crate) fn new(machine: &'a Machine, outcomes: &'a [Outcome]) -> Self {
        let mut rows: BTreeMap<Row, BTreeMap<Name, Vec<&Outcome>>> = BTreeMap::new();
        for outcome in outcomes {
            rows.entry(outcome.row).or_default().entry(outcome.system).or_default().push(outcome);
        }
        Self { machine, rows }
    }
}

impl fmt::Display for Report<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}\n", self.machine)?;
        writeln!(
            f,
            "Medians of the rounds (operations a second: median, min – max). `×` is kvkit over etcd: throughput, and p99 as \
             a part of etcd's. CPU is seconds a million operations: of the three servers, and (in parentheses) of the load. \
             Memory is the peak of the three servers together.\n"
        )?;
        writeln!(f, "| row | system | operations/s | × | p50 | p99 | × | CPU s/M | memory MiB |")?;
        writeln!(f, "|---|---|---|---|---|---|---|---|---|")?;
        for (row, systems) in &self.rows {
            for (system, outcomes) in systems {
                writeln!(f, "{}", line(*row, *system, outcomes, systems.get(&Name::Etcd)))?;
            }
        }
        Ok(())
    }
}

fn line(row: Row, system: Name, outcomes: &[&Outcome], etcd: Option<&Vec<&Outcome>>) -> String {
    let spread = |outcomes: &[&Outcome], figure: fn(&Outcome) -> f64| {
        Spread::of(outcomes.iter().map(|outcome| figure(outcome)))
    };
    let median = |figure| spread(outcomes, figure).median;
    let rate = spread(outcomes, rate);
    let beside = |figure: fn(&Outcome) -> f64| match (system, etcd) {
        (Name::Kvkit, Some(etcd)) => {
            format!("{:.2}", spread(outcomes, figure).median / spread(etcd, figure).median)
        }
        (Name::Kvkit | Name::Etcd, _) => String::new(),
    };
    format!(
        "| {} | {} | {:.0} ({:.0} – {:.0}) | {} | {} | {} | {} | {:.0} ({:.0}) | {:.0} |",
        row.name(),
        system.shown(),
        rate.median,
        rate.min,
        rate.max,
        beside(self::rate),
        micros(median(|outcome| outcome.p50_micros)),
        micros(median(|outcome| outcome.p99_micros)),
        beside(|outcome| outcome.p99_micros),
        median(|outcome| a_million(outcome, outcome.server_cpu_seconds)),
        median(|outcome| a_million(outcome, outcome.client_cpu_seconds)),
        median(|outcome| count(outcome.resident_peak_bytes) / MEBIBYTE),
    )
}

fn rate(outcome: &Outcome) -> f64 {
    count(outcome.operations) / outcome.seconds
}

fn a_million(outcome: &Outcome, seconds: f64) -> f64 {
    seconds / count(outcome.operations.max(1)) * 1e6
}

fn micros(micros: f64) -> String {
    if micros < 1_000.0 { format!("{micros:.0} µs") } else { format!("{:.2} ms", micros / 1e3) }
}

impl Spread {
    fn of(figures: impl Iterator<Item = f64>) -> Self {
        let mut sorted: Vec<f64> = figures.collect();
        sorted.sort_by(f64::total_cmp);
        let at = |place: usize| sorted.get(place).copied().unwrap_or(f64::NAN);
        let last = sorted.len().saturating_sub(1);
        let median = f64::midpoint(at(last / 2), at(last.div_ceil(2)));
        Self { median, min: at(0), max: at(last) }
    }
}

#[expect(clippy::cast_precision_loss, reason = "counts far below 2^53")]
const fn count(count: u64) -> f64 {
    count as f64
}

#[cfg(test)]
mod tests {
    use crate::work::Mix;

    use super::*;

    fn outcome(system: Name, operations: u64) -> Outcome {
        Outcome {
            system,
            row: Row { mix: Mix::Put, clients: 32 },
            round: 0,
            operations,
            seconds: 2.0,
            p50_micros: 500.0,
            p99_micros: if system == Name::Kvkit { 2_000.0 } else { 8_000.0 },
            server_cpu_seconds: 0.5,
            client_cpu_seconds: 0.25,
            resident_peak_bytes: 100 << 20,
        }
    }

    #[test]
    fn a_line_holds_medians_and_ratios() {
        let ours = [3_000, 1_000, 2_000].map(|operations| outcome(Name::Kvkit, operations));
        let theirs = [outcome(Name::Etcd, 500)];
        let (ours, theirs): (Vec<_>, Vec<_>) = (ours.iter().collect(), theirs.iter().collect());
        let row = Row { mix: Mix::Put, clients: 32 };
        assert_eq!(
            line(row, Name::Kvkit, &ours, Some(&theirs)),
            "| put/32 | kvkit | 1000 (500 – 1500) | 4.00 | 500 µs | 2.00 ms | 0.25 | 250 (125) | 100 |"
        );
        assert_eq!(
            line(row, Name::Etcd, &theirs, Some(&theirs)),
            "| put/32 | etcd | 250 (250 – 250) |  | 500 µs | 8.00 ms |  | 1000 (500) | 100 |"
        );
    }
}
