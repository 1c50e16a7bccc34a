//! The table: medians, how far they spread, and how kvkit stands to the better of its rivals. It is Markdown, and reads
//! well enough in a terminal.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use anyhow::{Context, Result};

use crate::engine::Name;
use crate::floor::Floors;
use crate::machine::Machine;
use crate::measure::{Latency, Measured};
use crate::run::Line;

/// The goal of half of the rows.
const RATIO_GOAL: f64 = 1.5;
/// Figures of memory and disk that differ by less than this count as equal.
const EQUAL_WITHIN: f64 = 0.05;
const MEBIBYTE: f64 = (1 << 20) as f64;

/// What is printed of a run, or of several of the same sizes.
pub(crate) struct Report {
    machine: Machine,
    floors: Vec<Floors>,
    engines: Vec<Name>,
    rows: Vec<RowReport>,
}

struct RowReport {
    name: String,
    engines: BTreeMap<Name, Cell>,
}

/// One engine's figures for one row.
struct Cell {
    ops_per_second: Spread,
    p50: f64,
    p99: f64,
    p999: f64,
    max: f64,
    cpu_microseconds_per_op: f64,
    resident_bytes: f64,
    /// Bytes written for each byte of user data; `None` where the row writes nothing.
    amplification: Option<f64>,
    dirtied: Option<f64>,
    disk_bytes: f64,
    settle_seconds: f64,
}

/// Figures of the rounds.
#[derive(Clone, Copy)]
struct Spread {
    median: f64,
    min: f64,
    max: f64,
}

/// kvkit against the better rival.
#[derive(Clone, Copy)]
struct Standing {
    ratio: f64,
    /// The spreads of the two touch: they count as equal.
    is_within_spread: bool,
}

impl Report {
    pub(crate) fn new(lines: &[Line]) -> Result<Self> {
        let (mut machine, mut floors) = (None, Vec::new());
        let mut runs: Vec<(&str, Vec<&Measured>)> = Vec::new();
        for line in lines {
            match line {
                Line::Machine(described) => machine = Some(described.clone()),
                Line::Floors(measured) => floors.push(*measured),
                Line::Run(run) => match runs.iter_mut().find(|(name, _)| *name == run.row) {
                    Some((_, of_row)) => of_row.push(run),
                    None => runs.push((&run.row, vec![run])),
                },
            }
        }
        let engines: BTreeSet<Name> =
            runs.iter().flat_map(|(_, runs)| runs).map(|run| run.engine).collect();
        let rows = runs.iter().map(|(name, runs)| RowReport::new(name, runs)).collect();
        let machine = machine.context("no description of the machine among the results")?;
        Ok(Self { machine, floors, engines: engines.into_iter().collect(), rows })
    }

    fn write_machine(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Machine { processor, threads, memory_bytes, kernel, packages, scale, rounds, load } =
            &self.machine;
        let memory = count(*memory_bytes) / MEBIBYTE / 1024.0;
        writeln!(
            f,
            "{processor}, {threads} threads, {memory:.0} GiB, Linux {kernel}; {}.",
            packages.join(", ")
        )?;
        let busy = if self.machine.is_busy() {
            " (**busy machine**: these figures prove nothing)"
        } else {
            ""
        };
        writeln!(f, "{rounds} rounds, scale {scale}; load before the run {load:.2}{busy}.\n")?;
        let floor = |of: fn(&Floors) -> f64| Spread::of(self.floors.iter().map(of));
        writeln!(f, "| floor of the machine | median | min – max |\n|---|---|---|")?;
        let lines: [(&str, Spread); 5] = [
            ("appends with fdatasync, a second", floor(|floors| floors.synced_appends_per_second)),
            (
                "overwrites with fdatasync, a second",
                floor(|floors| floors.synced_overwrites_per_second),
            ),
            ("memory copied, GB/s", floor(|floors| floors.copied_bytes_per_second / 1e9)),
            (
                "preads of a cached 4 KiB page, a second",
                floor(|floors| floors.cached_preads_per_second),
            ),
            ("one reading of the clock, ns", floor(|floors| floors.clock_nanoseconds)),
        ];
        for (name, Spread { median, min, max }) in lines {
            writeln!(f, "| {name} | {} | {} – {} |", rate(median), rate(min), rate(max))?;
        }
        Ok(())
    }

    fn write_throughput(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "\nOperations a second: median (min – max). `ratio` is kvkit's median over the better rival's; `≈` where"
        )?;
        writeln!(f, "their spreads touch, `▼` where kvkit is behind.\n")?;
        self.write_head(f, &["ratio", ""])?;
        for row in &self.rows {
            write!(f, "| {} |", row.name)?;
            self.write_cells(f, row, |cell| {
                let Spread { median, min, max } = cell.ops_per_second;
                format!("{} ({} – {})", rate(median), rate(min), rate(max))
            })?;
            match row.standing() {
                None => writeln!(f, " – | |")?,
                Some(standing) => writeln!(f, " {:.2} | {} |", standing.ratio, standing.mark())?,
            }
        }
        Ok(())
    }

    fn write_summary(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let standings: Vec<_> = self.rows.iter().filter_map(RowReport::standing).collect();
        if standings.is_empty() {
            return Ok(());
        }
        let all = standings.len();
        let number = |what: fn(&Standing) -> bool| standings.iter().filter(|row| what(row)).count();
        let (held, touching) =
            (number(Standing::holds), number(|row| row.holds() && row.ratio < 1.0));
        let far = number(|row| RATIO_GOAL <= row.ratio);
        writeln!(
            f,
            "\n- at least 1.0× the better rival: {held} of {all} rows ({touching} of them below 1.0 but within the spread)"
        )?;
        writeln!(f, "- at least {RATIO_GOAL}×: {far} of {all} rows")?;
        let behind =
            self.rows.iter().filter(|row| row.standing().is_some_and(|standing| !standing.holds()));
        let behind: Vec<&str> = behind.map(|row| row.name.as_str()).collect();
        if !behind.is_empty() {
            writeln!(f, "- behind: {}", behind.join(", "))?;
        }
        let costs: [(&str, Cost); 3] = [
            ("peak memory", |cell| Some(cell.resident_bytes)),
            ("bytes written per byte of user data", |cell| cell.amplification),
            ("size on disk", |cell| (cell.amplification.is_some()).then_some(cell.disk_bytes)),
        ];
        for (name, cost) in costs {
            let compared: Vec<_> = self.rows.iter().filter_map(|row| row.costs(cost)).collect();
            let most = |against: fn(&(f64, f64, f64)) -> bool| {
                compared.iter().filter(|row| against(row)).count()
            };
            let below_lower = most(|(own, lower, _)| *own <= lower * (1.0 + EQUAL_WITHIN));
            let below_higher = most(|(own, _, higher)| *own <= higher * (1.0 + EQUAL_WITHIN));
            let all = compared.len();
            writeln!(
                f,
                "- {name} no more than the lower rival's: {below_lower} of {all} rows; than the higher one's: {below_higher}"
            )?;
        }
        Ok(())
    }

    fn write_latencies(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "\nLatency p50 / p99 / p99.9 / max, medians over the rounds (max: the largest). Each write is timed, one"
        )?;
        writeln!(f, "read in 16; scans are not.\n")?;
        self.write_head(f, &[])?;
        for row in &self.rows {
            if row.engines.values().all(|cell| cell.max == 0.0) {
                continue;
            }
            write!(f, "| {} |", row.name)?;
            self.write_cells(f, row, |cell| {
                [cell.p50, cell.p99, cell.p999, cell.max].map(nanoseconds).join(" / ")
            })?;
            writeln!(f)?;
        }
        Ok(())
    }

    fn write_costs(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "\nCost: processor µs an operation (background work included) · peak MiB resident · bytes given to `write`,"
        )?;
        writeln!(
            f,
            "and bytes of pages made dirty, per byte of user data · MiB on disk · seconds to settle.\n"
        )?;
        self.write_head(f, &[])?;
        for row in &self.rows {
            write!(f, "| {} |", row.name)?;
            self.write_cells(f, row, Cell::cost)?;
            writeln!(f)?;
        }
        Ok(())
    }

    fn write_head(&self, f: &mut fmt::Formatter<'_>, more: &[&str]) -> fmt::Result {
        let names: Vec<String> = self.engines.iter().map(Name::to_string).collect();
        let columns: Vec<&str> =
            names.iter().map(String::as_str).chain(more.iter().copied()).collect();
        writeln!(f, "| row | {} |\n|---|{}", columns.join(" | "), "---|".repeat(columns.len()))
    }

    fn write_cells(
        &self,
        f: &mut fmt::Formatter<'_>,
        row: &RowReport,
        text: impl Fn(&Cell) -> String,
    ) -> fmt::Result {
        self.engines.iter().try_for_each(|engine| {
            write!(f, " {} |", row.engines.get(engine).map_or("–".to_owned(), &text))
        })
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.write_machine(f)?;
        self.write_throughput(f)?;
        self.write_summary(f)?;
        self.write_latencies(f)?;
        self.write_costs(f)
    }
}

type Cost = fn(&Cell) -> Option<f64>;

impl RowReport {
    fn new(name: &str, runs: &[&Measured]) -> Self {
        let engines: BTreeSet<Name> = runs.iter().map(|run| run.engine).collect();
        let cell = |engine| Cell::new(&runs.iter().copied().filter(|run| run.engine == engine));
        let engines = engines.into_iter().map(|engine| (engine, cell(engine))).collect();
        Self { name: name.to_owned(), engines }
    }

    fn rivals(&self) -> impl Iterator<Item = &Cell> {
        self.engines.iter().filter(|(engine, _)| **engine != Name::Kvkit).map(|(_, cell)| cell)
    }

    /// `None` when kvkit ran alone, or not at all.
    fn standing(&self) -> Option<Standing> {
        let own = self.engines.get(&Name::Kvkit)?.ops_per_second;
        let speeds = self.rivals().map(|cell| cell.ops_per_second);
        let better = speeds.max_by(|left, right| left.median.total_cmp(&right.median))?;
        Some(Standing { ratio: own.median / better.median, is_within_spread: own.touches(better) })
    }

    /// kvkit's cost, the lower rival's and the higher one's.
    fn costs(&self, cost: Cost) -> Option<(f64, f64, f64)> {
        let own = cost(self.engines.get(&Name::Kvkit)?)?;
        let lower = self.rivals().filter_map(cost).min_by(f64::total_cmp)?;
        let higher = self.rivals().filter_map(cost).max_by(f64::total_cmp)?;
        Some((own, lower, higher))
    }
}

impl Cell {
    fn new<'a>(runs: &(impl Iterator<Item = &'a Measured> + Clone)) -> Self {
        let median = |of: &dyn Fn(&Measured) -> f64| Spread::of(runs.clone().map(of)).median;
        let latency = |of: fn(&Latency) -> u64| median(&|run| count(of(&run.latency)));
        let writes = runs.clone().all(|run| 0 < run.user_bytes);
        let per_user_byte = |of: fn(&Measured) -> u64| {
            writes.then(|| median(&|run| count(of(run)) / count(run.user_bytes)))
        };
        Self {
            ops_per_second: Spread::of(runs.clone().map(|run| run.ops_per_second)),
            p50: latency(|latency| latency.p50),
            p99: latency(|latency| latency.p99),
            p999: latency(|latency| latency.p999),
            max: Spread::of(runs.clone().map(|run| count(run.latency.max))).max,
            cpu_microseconds_per_op: median(&|run| {
                (run.user_seconds + run.system_seconds) * 1e6 / count(run.ops)
            }),
            resident_bytes: median(&|run| count(run.resident_bytes_peak)),
            amplification: per_user_byte(|run| run.written_bytes),
            dirtied: per_user_byte(|run| run.dirtied_bytes),
            disk_bytes: median(&|run| count(run.disk_bytes)),
            settle_seconds: median(&|run| run.settle_seconds),
        }
    }

    fn cost(&self) -> String {
        let written = match (self.amplification, self.dirtied) {
            (Some(written), Some(dirtied)) => format!("{written:.2}, {dirtied:.2}"),
            _ => "–".to_owned(),
        };
        let cpu = self.cpu_microseconds_per_op;
        let (resident, disk) = (self.resident_bytes / MEBIBYTE, self.disk_bytes / MEBIBYTE);
        let settle = self.settle_seconds;
        format!("{cpu:.2} · {resident:.0} · {written} · {disk:.0} · {settle:.1}")
    }
}

impl Spread {
    fn of(figures: impl Iterator<Item = f64>) -> Self {
        let mut sorted: Vec<f64> = figures.collect();
        sorted.sort_by(f64::total_cmp);
        let at = |place: usize| sorted.get(place).copied().unwrap_or(f64::NAN);
        let last = sorted.len().saturating_sub(1);
        Self {
            median: f64::midpoint(at(last / 2), at(last.div_ceil(2))),
            min: at(0),
            max: at(last),
        }
    }

    fn touches(self, other: Self) -> bool {
        self.min <= other.max && other.min <= self.max
    }
}

impl Standing {
    fn holds(&self) -> bool {
        1.0 <= self.ratio || self.is_within_spread
    }

    fn mark(self) -> &'static str {
        match (self.is_within_spread, self.ratio < 1.0) {
            (true, _) => "≈",
            (false, true) => "▼",
            (false, false) => "",
        }
    }
}

/// Three significant digits: `1.23 M`, `456 k`, `78.9`.
fn rate(figure: f64) -> String {
    match figure {
        figure if 999_500.0 <= figure => format!("{} M", three_digits(figure / 1e6)),
        figure if 999.5 <= figure => format!("{} k", three_digits(figure / 1e3)),
        figure => three_digits(figure),
    }
}

fn nanoseconds(time: f64) -> String {
    match time {
        time if 999_500.0 <= time => format!("{} ms", three_digits(time / 1e6)),
        time if 999.5 <= time => format!("{} µs", three_digits(time / 1e3)),
        time => format!("{time:.0} ns"),
    }
}

fn three_digits(figure: f64) -> String {
    match figure {
        figure if 99.95 <= figure => format!("{figure:.0}"),
        figure if 9.995 <= figure => format!("{figure:.1}"),
        figure => format!("{figure:.2}"),
    }
}

#[expect(clippy::cast_precision_loss, reason = "counts far below 2^53")]
const fn count(count: u64) -> f64 {
    count as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spread(figures: &[f64]) -> Spread {
        Spread::of(figures.iter().copied())
    }

    #[test]
    fn a_median_stands_between_its_extremes() {
        let Spread { median, min, max } = spread(&[3.0, 1.0, 2.0]);
        assert_eq!([min, median, max].map(three_digits), ["1.00", "2.00", "3.00"]);
        assert_eq!(three_digits(spread(&[4.0, 1.0]).median), "2.50");
    }

    #[test]
    fn spreads_that_touch_count_as_equal() {
        assert!(spread(&[1.0, 3.0]).touches(spread(&[3.0, 4.0])));
        assert!(!spread(&[1.0, 3.0]).touches(spread(&[3.1, 4.0])));
        let standing = |ratio, is_within_spread| Standing { ratio, is_within_spread };
        assert_eq!(
            [standing(0.9, true), standing(0.9, false), standing(1.2, false)].map(Standing::mark),
            ["≈", "▼", ""]
        );
        assert!(standing(0.9, true).holds() && !standing(0.9, false).holds());
    }

    #[test]
    fn figures_keep_three_digits() {
        assert_eq!(
            [1_234_567.0, 456_400.0, 78.94, 1.0].map(rate),
            ["1.23 M", "456 k", "78.9", "1.00"]
        );
        assert_eq!(
            [512.0, 1_500.0, 20_000_000.0].map(nanoseconds),
            ["512 ns", "1.50 µs", "20.0 ms"]
        );
    }
}
