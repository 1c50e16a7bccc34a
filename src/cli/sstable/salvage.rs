//! `salvage`: what is left of a damaged SSTable or commit log, in a new file.

use std::fs::File;
use std::io::{Read, Write};
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use clap::Args;

use crate::cli::exit::Exit;
use crate::cli::failure::Failure;
use crate::cli::json::Object;
use crate::cli::options::Common;
use crate::storage::directory::{log_number, table_number};
use crate::storage::log;
use crate::storage::offline::{Lost, TableBuilder, salvage_log, salvage_table};
use crate::storage::table::Entry;
use crate::storage::vfs::Real;

use super::compact::{builder, described, names};
use super::report::{Report, of_offline};
use super::target::{Output, free, tell_written};

#[derive(Args, Clone, Debug)]
pub(super) struct SalvageArgs {
    /// The damaged SSTable or log; it stays as it is. A node started on a salvaged log gets all its data from the others
    file: PathBuf,
    /// Write what is left into this directory
    #[arg(short, long, value_name = "DIR")]
    output: PathBuf,
    /// Say what could be saved and what is lost, and write nothing
    #[arg(short = 'n', long)]
    dry_run: bool,
}

/// `salvage`: names what is lost and ends with 65 where anything is.
pub(super) fn salvage(
    args: &SalvageArgs,
    common: &Common,
    out: &mut dyn Write,
) -> anyhow::Result<Exit> {
    let mut report = Report::silent(common);
    if is_log(&args.file)? {
        of_log(args, common, &mut report, out)?;
    } else {
        of_table(args, common, &mut report, out)?;
    }
    Ok(report.exit(Exit::Done))
}

/// By its first bytes, and where those are damaged by its name.
fn is_log(path: &Path) -> anyhow::Result<bool> {
    let reading = || format!("reading {}", path.display());
    let mut magic = Vec::new();
    let file = File::open(path).with_context(reading)?;
    file.take(log::MAGIC.len() as u64).read_to_end(&mut magic).with_context(reading)?;
    let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
    let named = log_number(name).is_some() && table_number(name).is_none();
    Ok(magic == log::MAGIC || named)
}

fn of_table(
    args: &SalvageArgs,
    common: &Common,
    report: &mut Report<'_>,
    out: &mut dyn Write,
) -> anyhow::Result<()> {
    let output = Output::unless(args.dry_run, &args.output)?;
    let mut builder: Option<TableBuilder> = output.as_ref().map(builder).transpose()?;
    let mut take = |entry: &Entry| match &mut builder {
        Some(builder) => builder.add(&entry.key, entry.value.as_deref()),
        None => Ok(()),
    };
    let mut tell = |lost: Lost| report.lost(&args.file, &lost);
    let salvaged = salvage_table(&Real, &args.file, &mut take, &mut tell).map_err(of_offline)?;
    if salvaged.entries == 0 {
        let message =
            format!("{}: no entry could be read; nothing was written", args.file.display());
        return Err(Failure::bad_data(message).into());
    }
    let written = match builder {
        None => Vec::new(),
        Some(builder) => match &salvaged.properties {
            Some(properties) => builder.aged(properties.level, properties.newest),
            None => builder,
        }
        .finish()
        .map_err(of_offline)?,
    };
    let entries = salvaged.entries;
    let object = Object::new(if args.dry_run { "dry_run" } else { "salvaged" })
        .list("files", written.iter().map(described))
        .field("entries", entries)
        .field("lost", report.found);
    let verb = if args.dry_run { "could save" } else { "saved" };
    let text = format!("{verb} {entries} entries to {}", names(&written, &args.output));
    Ok(tell_written(object, &text, common, out)?)
}

fn of_log(
    args: &SalvageArgs,
    common: &Common,
    report: &mut Report<'_>,
    out: &mut dyn Write,
) -> anyhow::Result<()> {
    let output = Output::unless(args.dry_run, &args.output)?;
    if let Some(name) = args.file.file_name().and_then(|name| name.to_str()) {
        free(&args.output, name)?;
    }
    let dir = output.as_ref().map(|output| output.dir.as_path());
    let mut tell = |lost: Lost| report.lost(&args.file, &lost);
    let salvaged = salvage_log(&Real, &args.file, dir, &mut tell).map_err(of_offline)?;
    let records = salvaged.records;
    let object = Object::new(if args.dry_run { "dry_run" } else { "salvaged" })
        .maybe("file", dir.map(|_| salvaged.file.display().to_string()))
        .field("records", records)
        .field("lost", report.found);
    let text = if args.dry_run {
        format!("could save {records} records")
    } else {
        let (file, old) = (salvaged.file.display(), args.file.display());
        format!("saved {records} records to {file}, which can take the place of {old}")
    };
    Ok(tell_written(object, &text, common, out)?)
}
