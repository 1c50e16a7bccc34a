//! `dump`: entries as records.

use std::ffi::OsString;
use std::io::Write;
use std::path::{Path, PathBuf};

use bytes::Bytes;
use clap::Args;

use crate::cli::exit::Exit;
use crate::cli::json::Object;
use crate::cli::keys::{KeyCoding, write_key};
use crate::cli::options::{Common, Format};
use crate::cli::records::Recorder;
use crate::storage::table::Entry;

use super::entry::{Names, Shown, client_key, record};
use super::report::{ProgressArgs, Report};
use super::target::{Entries, Source, Target, each};

#[derive(Args, Clone, Debug)]
pub(super) struct DumpArgs {
    /// Print the keys of data entries alone, a line each
    #[arg(long)]
    keys_only: bool,
    /// Only keys from here on
    #[arg(long, value_name = "KEY")]
    from: Option<OsString>,
    /// Only keys up to here, itself included
    #[arg(long, value_name = "KEY")]
    to: Option<OsString>,
    /// Leave the values out and give their sizes
    #[arg(long, conflicts_with = "keys_only")]
    no_values: bool,
    #[command(flatten)]
    coding: KeyCoding,
    #[command(flatten)]
    progress: ProgressArgs,
    /// SSTables, or directories of a node or of SSTables
    #[arg(required = true, value_name = "FILE|DIR")]
    paths: Vec<PathBuf>,
}

/// Which keys are wanted. They sort by slot, so the whole file is read whatever they are.
struct Wanted {
    from: Option<Bytes>,
    to: Option<Bytes>,
}

/// `dump`.
pub(super) fn dump(args: &DumpArgs, common: &Common, out: &mut dyn Write) -> anyhow::Result<Exit> {
    let decode =
        |word: &Option<OsString>| word.as_ref().map(|word| args.coding.decode(word)).transpose();
    let wanted = Wanted { from: decode(&args.from)?, to: decode(&args.to)? };
    let mut report = Report::begin(args.progress, common, "dumped", None);
    each(&args.paths, &mut report, |path, report| {
        let before = report.found;
        let target = Target::open(path, report)?;
        report.expect(target.bytes());
        let entries = target.entries();
        if args.keys_only {
            return keys(entries, &wanted, common, out, report);
        }
        let source = target.origin();
        let shown = if args.no_values { Shown::Sizes } else { Shown::Whole };
        let mut recorder = begin(&source, path, out)?;
        records(entries, &wanted, &source.names, shown, &mut recorder, report)?;
        // Without a footer nobody takes a dump with holes for the whole.
        if report.found == before { Ok(recorder.end()?) } else { Ok(()) }
    })?;
    Ok(report.exit(Exit::Done))
}

/// The header: the one that the tables were built from, so that a dump of them is the same again.
fn begin<'a>(
    source: &Source,
    path: &Path,
    out: &'a mut dyn Write,
) -> std::io::Result<Recorder<'a>> {
    match &source.header {
        None => Recorder::begin(out, |header| source.describe(header, path)),
        Some(header) => {
            out.write_all(header)?;
            Ok(Recorder::behind_header(out))
        }
    }
}

fn records(
    entries: Entries<'_>,
    wanted: &Wanted,
    names: &Names,
    shown: Shown,
    recorder: &mut Recorder<'_>,
    report: &mut Report<'_>,
) -> anyhow::Result<()> {
    for entry in entries {
        match entry {
            Ok(entry) if wanted.holds(&entry) => {
                report.entry(bytes(&entry));
                let record = record(&entry, names, shown, |kind| recorder.blank(kind));
                recorder.push(record)?;
            }
            Ok(_) => {}
            Err(bad) => report.block(&bad),
        }
    }
    Ok(())
}

fn keys(
    entries: Entries<'_>,
    wanted: &Wanted,
    common: &Common,
    out: &mut dyn Write,
    report: &mut Report<'_>,
) -> anyhow::Result<()> {
    for entry in entries {
        match entry {
            Ok(entry) if wanted.holds(&entry) => {
                report.entry(bytes(&entry));
                write_client_key(&entry.key, common, out)?;
            }
            Ok(_) => {}
            Err(bad) => report.block(&bad),
        }
    }
    Ok(())
}

fn write_client_key(key: &Bytes, common: &Common, out: &mut dyn Write) -> std::io::Result<()> {
    match (client_key(key), common.format()) {
        (None, _) => Ok(()),
        (Some(key), Format::Json) => {
            writeln!(out, "{}", Object::new("key").bytes("key", key).finish())
        }
        (Some(key), Format::Human | Format::Plain) => write_key(out, key, false),
    }
}

/// Bytes of an entry's key and value.
pub(super) fn bytes(entry: &Entry) -> usize {
    entry.key.len() + entry.value.as_ref().map_or(0, Bytes::len)
}

impl Wanted {
    fn holds(&self, entry: &Entry) -> bool {
        if self.from.is_none() && self.to.is_none() {
            return true;
        }
        let Some(key) = client_key(&entry.key) else { return false };
        self.from.as_ref().is_none_or(|from| **from <= *key)
            && self.to.as_ref().is_none_or(|to| *key <= **to)
    }
}
