//! `bloom check` and `bloom stats`.

use std::ffi::OsString;
use std::io::Write;
use std::path::PathBuf;

use clap::{Args, Subcommand};
use rand::{RngCore as _, SeedableRng as _};
use rand_chacha::ChaCha8Rng;

use crate::cli::exit::Exit;
use crate::cli::keys::KeyCoding;
use crate::cli::options::{Common, Format};
use crate::node::keys;
use crate::storage::offline::{BloomShape, TableFile};

use super::report::{Report, of_file};
use super::target::{each, open_table};

/// Random keys asked for to measure a filter.
const SAMPLE: u32 = 200_000;
/// Their seed: a file's figure is the same each time.
const SAMPLE_SEED: u64 = 0xB100;
/// Bytes of such a key.
const SAMPLE_KEY_BYTES: usize = 16;

#[derive(Subcommand, Debug)]
pub(super) enum BloomCommand {
    /// Ask whether files may hold a key: exit 0 for maybe, 1 for certainly not
    Check(CheckArgs),
    /// Compare how often a filter is wrong with how often it should be
    Stats(StatsArgs),
}

#[derive(Args, Clone, Debug)]
pub(super) struct CheckArgs {
    /// The key
    key: OsString,
    /// SSTables
    #[arg(required = true)]
    files: Vec<PathBuf>,
    #[command(flatten)]
    coding: KeyCoding,
}

#[derive(Args, Clone, Debug)]
pub(super) struct StatsArgs {
    /// SSTables
    #[arg(required = true)]
    files: Vec<PathBuf>,
}

/// `bloom`.
pub(super) fn run(
    command: &BloomCommand,
    common: &Common,
    out: &mut dyn Write,
) -> anyhow::Result<Exit> {
    match command {
        BloomCommand::Check(args) => check(args, common, out),
        BloomCommand::Stats(args) => stats(args, common, out),
    }
}

fn check(args: &CheckArgs, common: &Common, out: &mut dyn Write) -> anyhow::Result<Exit> {
    let key = keys::data(&args.coding.decode(&args.key)?);
    let mut report = Report::silent(common);
    let mut any = false;
    each(&args.files, &mut report, |path, _| {
        let maybe = open_table(path)?.may_contain(&key);
        any |= maybe;
        let (file, word) = (path.display(), if maybe { "maybe" } else { "absent" });
        match common.format() {
            Format::Json => {
                let object = of_file("bloom", path).field("maybe", maybe);
                writeln!(out, "{}", object.finish())?;
            }
            Format::Plain => writeln!(out, "{file}\t{word}")?,
            Format::Human => writeln!(out, "{file}: {word}")?,
        }
        Ok(())
    })?;
    Ok(report.exit(if any { Exit::Done } else { Exit::No }))
}

fn stats(args: &StatsArgs, common: &Common, out: &mut dyn Write) -> anyhow::Result<Exit> {
    let mut report = Report::silent(common);
    each(&args.files, &mut report, |path, _| {
        let table = open_table(path)?;
        let measured = measured(&table);
        let entries = table.properties().entries;
        let predicted = table.bloom().map_or(1.0, |shape| predicted(shape, entries));
        let bits = table.properties().bloom_bits_per_key;
        let bytes = table.bloom().map_or(0, |shape| shape.bytes);
        let file = path.display();
        match common.format() {
            Format::Json => {
                let object = of_file("bloom_stats", path)
                    .field("entries", entries)
                    .field("bits_per_key", bits)
                    .field("filter_bytes", bytes)
                    .field("sample", SAMPLE)
                    .field("false_positives", measured)
                    .field("false_positives_predicted", predicted);
                writeln!(out, "{}", object.finish())?;
            }
            Format::Plain => {
                writeln!(out, "{file}\t{entries}\t{bits}\t{measured:.6}\t{predicted:.6}")?;
            }
            Format::Human => writeln!(
                out,
                "{file}: {entries} entries, {bits} bits a key, {}; false positives {:.3}%, predicted {:.3}%",
                common.size(bytes),
                measured * 100.0,
                predicted * 100.0
            )?,
        }
        Ok(())
    })?;
    Ok(report.exit(Exit::Done))
}

/// The share of random absent keys that the filter does not deny.
fn measured(table: &TableFile) -> f64 {
    let mut random = ChaCha8Rng::seed_from_u64(SAMPLE_SEED);
    // No storage key begins so: its first byte would name a keyspace.
    let mut key = [b'?'; 1 + SAMPLE_KEY_BYTES];
    let mut wrong = 0_u32;
    for _ in 0..SAMPLE {
        random.fill_bytes(&mut key[1..]);
        wrong += u32::from(table.may_contain(&key));
    }
    f64::from(wrong) / f64::from(SAMPLE)
}

/// The rate of a filter whose keys each keep to one line (Putze, Sanders, Singler, 2007): lines hold a Poisson-distributed
/// number of keys, and one that holds `n` denies a key unless all its probes meet set bits.
#[expect(clippy::cast_precision_loss, reason = "a rate of a few digits")]
fn predicted(shape: BloomShape, entries: u64) -> f64 {
    let bits = shape.line_bits as f64;
    let lines = shape.bytes as f64 * 8.0 / bits;
    let mean = entries as f64 / lines;
    let probes = f64::from(shape.probes);
    let most = (mean + 10.0 * mean.sqrt() + 10.0).ceil();
    let (mut keys, mut chance, mut rate) = (0.0, (-mean).exp(), 0.0);
    while keys <= most {
        let set = 1.0 - (1.0 - 1.0 / bits).powf(probes * keys);
        rate += chance * set.powf(probes);
        keys += 1.0;
        chance *= mean / keys;
    }
    rate
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_prediction_is_a_little_above_the_plain_filters() {
        let shape = BloomShape { bytes: 64 * 2_000, line_bits: 512, probes: 6 };
        let entries = shape.bytes * 8 / 10;
        let plain = (1.0_f64 - (-0.6_f64).exp()).powf(6.0);
        let rate = predicted(shape, entries);
        assert!(plain < rate && rate < plain * 1.5, "{rate} against {plain}");
        assert!(predicted(shape, 0) < 1e-9);
    }
}
