//! `compact`: SSTables merged into new ones.

use std::io::Write;
use std::path::PathBuf;
use std::sync::Arc;

use clap::Args;

use crate::cli::exit::Exit;
use crate::cli::failure::Failure;
use crate::cli::json::Object;
use crate::cli::options::Common;
use crate::storage::offline::{
    TableBuilder, TableFile, TableOptions, WrittenTable, merged_age, merged_tables,
};
use crate::storage::vfs::Real;

use super::dump::bytes;
use super::report::{ProgressArgs, Report, of_offline};
use super::target::{Output, open_table, tell_written};

#[derive(Args, Clone, Debug)]
pub(super) struct CompactArgs {
    /// SSTables
    #[arg(required = true)]
    files: Vec<PathBuf>,
    /// Write the new SSTables into this directory
    #[arg(short, long, value_name = "DIR")]
    output: PathBuf,
    /// Read and merge, say what would be written, and write nothing
    #[arg(short = 'n', long)]
    dry_run: bool,
    #[command(flatten)]
    progress: ProgressArgs,
}

/// `compact`: each key once, with its newest entry. Deletes stay: an older table elsewhere may hold what they hide.
pub(super) fn compact(
    args: &CompactArgs,
    common: &Common,
    out: &mut dyn Write,
) -> anyhow::Result<Exit> {
    let tables =
        args.files.iter().map(|path| open_table(path)).collect::<Result<Vec<TableFile>, _>>()?;
    let of = |table: &TableFile| table.properties().key_bytes + table.properties().value_bytes;
    let total = tables.iter().map(of).sum();
    let mut report = Report::begin(args.progress, common, "merged", Some(total));
    let output = Output::unless(args.dry_run, &args.output)?;
    let mut builder = match &output {
        None => None,
        Some(output) => {
            let (level, newest) = merged_age(&tables);
            Some(builder(output)?.aged(level, newest))
        }
    };
    let mut merged = merged_tables(tables);
    let mut entries = 0_u64;
    for entry in &mut merged {
        match entry {
            Ok(entry) => {
                entries += 1;
                report.entry(bytes(&entry));
                if let Some(builder) = &mut builder {
                    builder.add(&entry.key, entry.value.as_deref()).map_err(of_offline)?;
                }
            }
            Err(bad) => report.block(&bad),
        }
    }
    let shadowed = merged.shadowed();
    let written = match builder {
        Some(_) if entries == 0 => {
            return Err(Failure::bad_data("no entry could be read; nothing was written").into());
        }
        Some(builder) => builder.finish().map_err(of_offline)?,
        None => Vec::new(),
    };
    let object = Object::new(if args.dry_run { "dry_run" } else { "compacted" })
        .list("files", written.iter().map(described))
        .field("entries", entries)
        .field("superseded", shadowed);
    let verb = if args.dry_run { "would write" } else { "wrote" };
    let text = format!(
        "{verb} {entries} entries to {}; {shadowed} older ones were left out",
        names(&written, &args.output)
    );
    let exit = report.exit(Exit::Done);
    tell_written(object, &text, common, out)?;
    Ok(exit)
}

/// Builds into an output directory, under numbers that are free.
pub(super) fn builder(output: &Output) -> anyhow::Result<TableBuilder> {
    let builder = TableBuilder::new(Arc::new(Real), &output.dir, TableOptions::default());
    Ok(builder.numbered_from(output.next_number()?))
}

/// A written table for programs.
pub(super) fn described(table: &WrittenTable) -> Object {
    Object::bare()
        .field("file", table.file.display().to_string())
        .field("bytes", table.bytes)
        .field("entries", table.properties.entries)
}

/// Written tables for people.
pub(super) fn names(written: &[WrittenTable], dir: &std::path::Path) -> String {
    match written {
        [] => dir.display().to_string(),
        [only] => only.file.display().to_string(),
        [first, .., last] => {
            format!("{} to {}", first.file.display(), last.file.display())
        }
    }
}
