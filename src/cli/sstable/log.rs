//! `log dump` and `log verify`.

use std::io::Write;
use std::path::{Path, PathBuf};

use clap::{Args, Subcommand};

use crate::cli::exit::Exit;
use crate::cli::json::Object;
use crate::cli::options::{Common, Format};
use crate::storage::offline::{Change, LogFile, LogItem, LogRecord, LogSummary};
use crate::storage::table::Entry;
use crate::storage::vfs::Real;

use super::entry::{Names, Shown, record};
use super::report::{Report, of_file, of_offline};
use super::target::each;

#[derive(Subcommand, Debug)]
pub(super) enum LogCommand {
    /// Print every batch with its place and its changes, one JSON object a line
    Dump(FilesArgs),
    /// Check every record; a torn end is told, a bad place in front of sound ones is exit 65
    Verify(FilesArgs),
}

#[derive(Args, Clone, Debug)]
pub(super) struct FilesArgs {
    /// The log's files
    #[arg(required = true)]
    files: Vec<PathBuf>,
}

/// `log`.
pub(super) fn run(
    command: &LogCommand,
    common: &Common,
    out: &mut dyn Write,
) -> anyhow::Result<Exit> {
    let mut report = Report::silent(common);
    let (LogCommand::Dump(args) | LogCommand::Verify(args)) = command;
    each(&args.files, &mut report, |path, report| match command {
        LogCommand::Dump(_) => dump(path, report, out),
        LogCommand::Verify(_) => {
            let summary = verify_file(path, report)?;
            Ok(write_verified(path, &summary, common, out)?)
        }
    })?;
    Ok(report.exit(Exit::Done))
}

/// Checks every record of a segment.
/// # Errors
/// Exit 65 for a file that is no log, 66 for a missing one.
pub(super) fn verify_file(path: &Path, report: &mut Report<'_>) -> anyhow::Result<LogSummary> {
    let file = LogFile::open(&Real, path).map_err(of_offline)?;
    file.verify(&mut |bad| report.record(path, &bad)).map_err(of_offline)
}

fn dump(path: &Path, report: &mut Report<'_>, out: &mut dyn Write) -> anyhow::Result<()> {
    let mut file = LogFile::open(&Real, path).map_err(of_offline)?;
    while let Some(item) = file.next_item().map_err(of_offline)? {
        match item {
            LogItem::Record(record) => writeln!(out, "{}", batch(path, record).finish())?,
            LogItem::Bad(bad) => report.record(path, &bad),
            LogItem::Torn(bad) => {
                let object = of_file("torn", path).field("offset", bad.offset);
                writeln!(out, "{}", object.field("reason", bad.reason).finish())?;
            }
        }
    }
    Ok(())
}

fn batch(path: &Path, batch: LogRecord) -> Object {
    let names = Names::new();
    let entry = |op: &str, key, value| {
        let record = record(&Entry { key, value }, &names, Shown::Whole, Object::new);
        Object::bare().field("op", op).object("entry", record)
    };
    let changes = batch.changes.into_iter().map(|change| match change {
        Change::Put(key, value) => entry("put", key, Some(value)),
        Change::Delete(key) => entry("remove", key, None),
        Change::XorLeaf(slot, bits) => Object::bare()
            .field("op", "leaf")
            .field("slot", slot)
            .field("bits", format_args!("{bits:032x}")),
    });
    of_file("batch", path)
        .field("offset", batch.offset)
        .field("end", batch.end.get())
        .field("synced", batch.synced.get())
        .list("changes", changes)
}

fn write_verified(
    path: &Path,
    summary: &LogSummary,
    common: &Common,
    out: &mut dyn Write,
) -> std::io::Result<()> {
    let (file, records) = (path.display(), summary.records);
    match (common.format(), &summary.torn) {
        (Format::Json, torn) => {
            let object = Object::new("verified")
                .field("path", file.to_string())
                .field("records", records)
                .maybe("torn_at", torn.as_ref().map(|bad| bad.offset));
            writeln!(out, "{}", object.finish())
        }
        (Format::Plain, _) => writeln!(out, "{file}\t{records}"),
        (Format::Human, None) => writeln!(out, "{file}: {records} records"),
        (Format::Human, Some(bad)) => writeln!(
            out,
            "{file}: {records} records, then {} bytes from byte {} that were never finished",
            summary.bytes - bad.offset,
            bad.offset
        ),
    }
}
