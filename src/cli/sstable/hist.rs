//! `hist`: how sizes, ages and tombstones are spread.

use std::io::Write;
use std::path::PathBuf;

use clap::{Args, Subcommand};

use crate::cli::exit::Exit;
use crate::cli::human;
use crate::cli::json::Object;
use crate::cli::options::{Common, Format, Palette};
use crate::version::Content;

use super::dump::bytes;
use super::entry::data_state;
use super::report::{ProgressArgs, Report};
use super::target::{Target, each};

#[derive(Subcommand, Debug)]
pub(super) enum HistCommand {
    /// Bytes of keys and values together
    Sizes(HistArgs),
    /// How long ago versions were written
    Ages(HistArgs),
    /// Tombstones among the versions of each age
    Tombstones(HistArgs),
}

#[derive(Args, Clone, Debug)]
pub(super) struct HistArgs {
    /// Draw bars
    #[arg(long)]
    plot: bool,
    /// Characters of a line that the bars fill
    #[arg(long, env = "COLUMNS", default_value_t = 80, hide_env_values = true, value_parser = clap::value_parser!(u16).range(40..))]
    width: u16,
    #[command(flatten)]
    progress: ProgressArgs,
    /// SSTables, or directories of a node or of SSTables
    #[arg(required = true, value_name = "FILE|DIR")]
    paths: Vec<PathBuf>,
}

/// What is counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Measure {
    Sizes,
    Ages,
    Tombstones,
}

/// Ages at which a bucket ends, but for the last one, in seconds.
const AGE_ENDS: [u64; 12] = [
    1,
    10,
    60,
    600,
    3_600,
    6 * 3_600,
    86_400,
    7 * 86_400,
    30 * 86_400,
    90 * 86_400,
    365 * 86_400,
    5 * 365 * 86_400,
];
const MICROS: u64 = 1_000_000;
/// Buckets of sizes: one for each power of two.
const SIZE_BUCKETS: usize = 65;
/// A bar's parts of a character, from one eighth on.
const EIGHTHS: [char; 8] = ['▏', '▎', '▍', '▌', '▋', '▊', '▉', '█'];

/// Counts by bucket.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Histogram {
    measure: Measure,
    /// Values, and tombstones.
    buckets: Vec<(u64, u64)>,
    count: u64,
    least: u64,
    most: u64,
    sum: u128,
}

/// `hist`.
pub(super) fn run(
    command: &HistCommand,
    common: &Common,
    out: &mut dyn Write,
) -> anyhow::Result<Exit> {
    let (measure, args) = match command {
        HistCommand::Sizes(args) => (Measure::Sizes, args),
        HistCommand::Ages(args) => (Measure::Ages, args),
        HistCommand::Tombstones(args) => (Measure::Tombstones, args),
    };
    let mut report = Report::begin(args.progress, common, "counted", None);
    let mut histogram = Histogram::new(measure);
    let now = human::now();
    each(&args.paths, &mut report, |path, report| {
        let target = Target::open(path, report)?;
        report.expect(target.bytes());
        for entry in target.entries() {
            match entry {
                Ok(entry) => {
                    report.entry(bytes(&entry));
                    if let Some((key, state)) = data_state(&entry) {
                        let versions = state.versions().values();
                        versions.for_each(|version| histogram.add(key, version, now));
                    }
                }
                Err(bad) => report.block(&bad),
            }
        }
        Ok(())
    })?;
    let exit = report.exit(Exit::Done);
    match common.format() {
        Format::Json => histogram.write_json(out)?,
        Format::Plain => histogram.write_plain(out)?,
        Format::Human => {
            let bars = args.plot.then_some((usize::from(args.width), common.palette()));
            histogram.write(bars, common, out)?;
        }
    }
    Ok(exit)
}

impl Histogram {
    fn new(measure: Measure) -> Self {
        let buckets = match measure {
            Measure::Sizes => SIZE_BUCKETS,
            Measure::Ages | Measure::Tombstones => AGE_ENDS.len() + 1,
        };
        let buckets = vec![(0, 0); buckets];
        Self { measure, buckets, count: 0, least: u64::MAX, most: 0, sum: 0 }
    }

    fn add(&mut self, key: &[u8], version: &crate::version::Version, now: u64) {
        let value = match self.measure {
            Measure::Sizes => (key.len() + version.content.len()) as u64,
            Measure::Ages | Measure::Tombstones => {
                now.saturating_sub(version.timestamp.unix_micros())
            }
        };
        self.count += 1;
        self.least = self.least.min(value);
        self.most = self.most.max(value);
        self.sum += u128::from(value);
        let index = self.index(value);
        let bucket = &mut self.buckets[index];
        match version.content {
            Content::Value(_) => bucket.0 += 1,
            Content::Tombstone => bucket.1 += 1,
        }
    }

    fn index(&self, value: u64) -> usize {
        match self.measure {
            // 0, then 1, 2 to 3, 4 to 7, …
            Measure::Sizes => (u64::BITS - value.leading_zeros()) as usize,
            Measure::Ages | Measure::Tombstones => {
                AGE_ENDS.partition_point(|end| end * MICROS <= value)
            }
        }
    }

    /// Where a bucket begins, and where the next one does; bytes or microseconds.
    fn bounds(&self, index: usize) -> (u64, Option<u64>) {
        match self.measure {
            Measure::Sizes => {
                let power = |index: usize| 1_u64.checked_shl(u32::try_from(index).unwrap_or(64));
                let first = index.checked_sub(1).map_or(Some(0), power);
                (first.unwrap_or(u64::MAX), power(index))
            }
            Measure::Ages | Measure::Tombstones => {
                let end = |index: usize| AGE_ENDS.get(index).map(|end| end * MICROS);
                (index.checked_sub(1).and_then(end).unwrap_or(0), end(index))
            }
        }
    }

    /// From the first to the last bucket that holds anything.
    fn used(&self) -> impl Iterator<Item = (usize, (u64, u64))> {
        let holds = |bucket: &(u64, u64)| bucket.0 + bucket.1 > 0;
        let first = self.buckets.iter().position(holds).unwrap_or(0);
        let end = self.buckets.iter().rposition(holds).map_or(first, |last| last + 1);
        self.buckets.iter().copied().enumerate().take(end).skip(first)
    }

    fn label(&self, index: usize) -> String {
        let (from, to) = self.bounds(index);
        match (self.measure, to) {
            (Measure::Sizes, Some(to)) if to <= 2 => human::size(from),
            (Measure::Sizes, Some(to)) => format!("{} … {}", human::size(from), human::size(to)),
            (Measure::Sizes, None) => format!("from {}", human::size(from)),
            (_, Some(to)) if index == 0 => format!("under {}", age(to)),
            (_, Some(to)) => format!("{} … {}", age(from), age(to)),
            (_, None) => format!("over {}", age(from)),
        }
    }

    /// What a bucket's bar shows, of what: its share of all versions, or the tombstones among its own.
    const fn share(&self, (values, tombstones): (u64, u64)) -> (u64, u64) {
        match self.measure {
            Measure::Sizes | Measure::Ages => (values + tombstones, self.count),
            Measure::Tombstones => (tombstones, values + tombstones),
        }
    }

    fn tombstones(&self) -> u64 {
        self.buckets.iter().map(|bucket| bucket.1).sum()
    }

    fn mean(&self) -> u64 {
        let mean = self.sum.checked_div(u128::from(self.count)).unwrap_or(0);
        u64::try_from(mean).unwrap_or(u64::MAX)
    }

    fn heading(&self, common: &Common) -> String {
        let (count, least) = (self.count, self.least.min(self.most));
        match self.measure {
            Measure::Sizes => format!(
                "{count} versions of {} to {}, {} on average",
                common.size(least),
                common.size(self.most),
                common.size(self.mean())
            ),
            Measure::Ages => format!(
                "{count} versions, the youngest {} old, the oldest {}",
                common.span(least),
                common.span(self.most)
            ),
            Measure::Tombstones => {
                let tombstones = self.tombstones();
                format!(
                    "{tombstones} of {count} versions are tombstones ({})",
                    percent(tombstones, count)
                )
            }
        }
    }

    fn write(
        &self,
        bars: Option<(usize, Palette)>,
        common: &Common,
        out: &mut dyn Write,
    ) -> std::io::Result<()> {
        writeln!(out, "{}", self.heading(common))?;
        let labels = self.used().map(|(index, _)| self.label(index).chars().count());
        let label_width = labels.max().unwrap_or(0);
        let counts = self.used().map(|(_, bucket)| self.share(bucket).0.to_string().len());
        let count_width = counts.max().unwrap_or(0);
        let share = |bucket| {
            let (part, whole) = self.share(bucket);
            if whole == 0 { 0.0 } else { ratio(part, whole) }
        };
        let longest = self.used().map(|(_, bucket)| share(bucket)).fold(0.0, f64::max);
        for (index, bucket) in self.used() {
            let (part, whole) = self.share(bucket);
            let label = self.label(index);
            let blanks = " ".repeat(label_width - label.chars().count());
            let line =
                format!("  {blanks}{label}  {part:>count_width$}  {:>6}", percent(part, whole));
            match bars {
                None => writeln!(out, "{line}")?,
                Some((width, palette)) => {
                    let room = width.saturating_sub(line.chars().count() + 2);
                    let length = if longest > 0.0 { share(bucket) / longest } else { 0.0 };
                    let bar = palette.rgb(BAR_COLOUR, &bar(length, room));
                    writeln!(out, "{}", format!("{line}  {bar}").trim_end())?;
                }
            }
        }
        Ok(())
    }

    fn write_plain(&self, out: &mut dyn Write) -> std::io::Result<()> {
        for (index, (values, tombstones)) in self.used() {
            let (from, to) = self.bounds(index);
            let to = to.map_or_else(|| "-".to_owned(), |to| to.to_string());
            writeln!(out, "{from}\t{to}\t{values}\t{tombstones}")?;
        }
        Ok(())
    }

    fn write_json(&self, out: &mut dyn Write) -> std::io::Result<()> {
        let bucket = |(index, (values, tombstones))| {
            let (from, to) = self.bounds(index);
            Object::bare()
                .field("from", from)
                .maybe("to", to)
                .field("values", values)
                .field("tombstones", tombstones)
        };
        let (measure, unit) = match self.measure {
            Measure::Sizes => ("sizes", "bytes"),
            Measure::Ages => ("ages", "micros"),
            Measure::Tombstones => ("tombstones", "micros"),
        };
        let object = Object::new("hist")
            .field("of", measure)
            .field("unit", unit)
            .field("count", self.count)
            .field("tombstones", self.tombstones())
            .field("min", self.least.min(self.most))
            .field("max", self.most)
            .field("mean", self.mean())
            .list("buckets", self.used().map(bucket));
        writeln!(out, "{}", object.finish())
    }
}

/// A calm blue, legible on light and dark.
const BAR_COLOUR: (u8, u8, u8) = (86, 140, 214);

/// A bar of `length`, from 0 to 1, in at most `room` characters; anything above 0 shows.
#[expect(
    clippy::cast_precision_loss,
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "a drawing: few characters, the length lies in 0..=1"
)]
fn bar(length: f64, room: usize) -> String {
    let eighths = (length * (room * EIGHTHS.len()) as f64).round() as usize;
    let eighths = if length > 0.0 { eighths.max(1) } else { 0 };
    let (whole, rest) = (eighths / EIGHTHS.len(), eighths % EIGHTHS.len());
    let full = std::iter::repeat_n('█', whole);
    full.chain(rest.checked_sub(1).map(|index| EIGHTHS[index])).collect()
}

#[expect(clippy::cast_precision_loss, reason = "a share of a few digits")]
fn ratio(part: u64, whole: u64) -> f64 {
    part as f64 / whole as f64
}

fn percent(part: u64, whole: u64) -> String {
    if whole == 0 { "-".to_owned() } else { format!("{:.1}%", ratio(part, whole) * 100.0) }
}

fn age(micros: u64) -> String {
    match micros / MICROS {
        seconds @ 0..60 => format!("{seconds}s"),
        seconds @ 60..3_600 => format!("{}m", seconds / 60),
        seconds @ 3_600..86_400 => format!("{}h", seconds / 3_600),
        seconds if seconds < 365 * 86_400 => format!("{}d", seconds / 86_400),
        seconds => format!("{}y", seconds / (365 * 86_400)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::version::{RequestId, Timestamp, Version};
    use bytes::Bytes;

    fn sample(measure: Measure) -> Histogram {
        let now = 2_000_000_000 * MICROS;
        let mut histogram = Histogram::new(measure);
        for (age, size) in
            [(0, 0), (5, 3), (5, 60), (30, 100), (100_000, 100), (100_000_000, 5_000)]
        {
            let content = match size {
                0 => Content::Tombstone,
                _ => Content::Value(Bytes::from(vec![0; size])),
            };
            let timestamp = Timestamp::at(now - age * MICROS);
            let request = RequestId { session: 0, counter: age };
            histogram.add(b"key", &Version { timestamp, request, content }, now);
        }
        histogram
    }

    #[track_caller]
    fn check(measure: Measure, width: usize, expected: &str) {
        let mut out = Vec::new();
        let bars = Some((width, Palette::NONE));
        sample(measure).write(bars, &Common::default(), &mut out).unwrap();
        let text = String::from_utf8(out).unwrap();
        assert!(text.lines().all(|line| line.chars().count() <= width), "{text}");
        assert_eq!(text, expected, "{text}");
    }

    #[test]
    fn every_value_stands_in_its_bucket() {
        for measure in [Measure::Sizes, Measure::Ages] {
            let histogram = Histogram::new(measure);
            for value in [0, 1, 2, 3, 4, 1_023, 1_024, MICROS, 59 * MICROS, 1 << 40, 1 << 62] {
                let (from, to) = histogram.bounds(histogram.index(value));
                assert!(from <= value && to.is_none_or(|to| value < to), "{value}: {from} {to:?}");
            }
        }
    }

    #[test]
    fn bars_fill_the_width_and_the_smallest_shows() {
        assert_eq!(bar(1.0, 3), "███");
        assert_eq!(bar(0.5, 3), "█▌");
        assert_eq!(bar(0.0001, 3), "▏");
        assert_eq!(bar(0.0, 3), "");
    }

    #[test]
    fn a_plot_is_as_wide_as_it_may_be() {
        check(
            Measure::Sizes,
            60,
            "\
6 versions of 3 B to 4.9 KiB, 880 B on average
\x20         2 B … 4 B  1   16.7%  ██████████████
\x20         4 B … 8 B  1   16.7%  ██████████████
\x20        8 B … 16 B  0    0.0%
\x20       16 B … 32 B  0    0.0%
\x20       32 B … 64 B  1   16.7%  ██████████████
\x20      64 B … 128 B  2   33.3%  ████████████████████████████
\x20     128 B … 256 B  0    0.0%
\x20     256 B … 512 B  0    0.0%
\x20   512 B … 1.0 KiB  0    0.0%
\x20 1.0 KiB … 2.0 KiB  0    0.0%
\x20 2.0 KiB … 4.0 KiB  0    0.0%
\x20 4.0 KiB … 8.0 KiB  1   16.7%  ██████████████
",
        );
        check(
            Measure::Tombstones,
            80,
            "\
1 of 6 versions are tombstones (16.7%)
\x20  under 1s  1  100.0%  ████████████████████████████████████████████████████████
\x20  1s … 10s  0    0.0%
\x20  10s … 1m  0    0.0%
\x20  1m … 10m  0       -
\x20  10m … 1h  0       -
\x20   1h … 6h  0       -
\x20   6h … 1d  0       -
\x20   1d … 7d  0    0.0%
\x20  7d … 30d  0       -
\x20 30d … 90d  0       -
\x20  90d … 1y  0       -
\x20   1y … 5y  0    0.0%
",
        );
    }
}
