//! `bloom check` and `bloom stats`.

use std::ffi::OsString;
use std::io::Write;
use std::path::PathBuf;

use clap::{Args, Subcommand};

use crate::cli::exit::Exit;
use crate::cli::human;
use crate::cli::json::Object;
use crate::cli::keys::KeyCoding;
use crate::cli::options::{Common, Format};
use crate::node::keys;
use crate::storage::table::bloom::{KeyHash, probes};
use crate::storage::table::reader::Table;

use super::files::open_table;

/// Keys that are certainly absent, asked for to measure a filter.
const SAMPLE: u32 = 100_000;

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
    let hash = KeyHash::new(&keys::data(&args.coding.decode(&args.key)?));
    let mut any = false;
    for path in &args.files {
        let maybe = open_table(path)?.may_contain(hash);
        any |= maybe;
        let (file, word) = (path.display(), if maybe { "maybe" } else { "absent" });
        match common.format() {
            Format::Json => {
                let object = Object::new("bloom").field("file", file.to_string());
                writeln!(out, "{}", object.field("maybe", maybe).finish())?;
            }
            Format::Plain => writeln!(out, "{file}\t{word}")?,
            Format::Human => writeln!(out, "{file}: {word}")?,
        }
    }
    Ok(if any { Exit::Done } else { Exit::No })
}

fn stats(args: &StatsArgs, common: &Common, out: &mut dyn Write) -> anyhow::Result<Exit> {
    for path in &args.files {
        let table = open_table(path)?;
        let (measured, predicted) = (measured(&table), predicted(&table));
        let bits = table.properties.bloom_bits_per_key;
        let (file, entries) = (path.display(), table.properties.entries);
        match common.format() {
            Format::Json => {
                let object = Object::new("bloom_stats")
                    .field("file", file.to_string())
                    .field("entries", entries)
                    .field("bits_per_key", bits)
                    .field("filter_bytes", table.footer.filter.length)
                    .field("false_positives", measured)
                    .field("false_positives_predicted", predicted);
                writeln!(out, "{}", object.finish())?;
            }
            Format::Plain => {
                writeln!(out, "{file}\t{entries}\t{bits}\t{measured:.6}\t{predicted:.6}")?;
            }
            Format::Human => writeln!(
                out,
                "{file}: {entries} entries, {bits} bits a key, {}; wrongly \"maybe\" {:.2}%, predicted {:.2}%",
                human::size(table.footer.filter.length),
                measured * 100.0,
                predicted * 100.0
            )?,
        }
    }
    Ok(Exit::Done)
}

/// The share of absent keys that the filter does not deny.
fn measured(table: &Table) -> f64 {
    // No storage key begins so: its first byte would name a keyspace.
    let absent = |number: u32| KeyHash::new(format!("?absent {number}").as_bytes());
    let wrong = (0..SAMPLE).filter(|number| table.may_contain(absent(*number))).count();
    f64::from(u32::try_from(wrong).unwrap_or(u32::MAX)) / f64::from(SAMPLE)
}

/// A plain bloom filter's rate for these bits and probes: (1 - e^(-kn/m))^k. Ours keeps each key within a cache line,
/// which costs it a little more.
#[expect(clippy::cast_precision_loss, reason = "a rate of two digits")]
fn predicted(table: &Table) -> f64 {
    let bits = table.footer.filter.length as f64 * 8.0;
    if bits == 0.0 {
        return 1.0;
    }
    let bits_per_key = u32::try_from(table.properties.bloom_bits_per_key).unwrap_or(u32::MAX);
    let probes = f64::from(probes(bits_per_key));
    (1.0 - (-probes * table.properties.entries as f64 / bits).exp()).powf(probes)
}
