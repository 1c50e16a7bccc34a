//! `compact`: SSTables merged into one new file.

use std::collections::BTreeMap;
use std::io::{self, Write};
use std::path::PathBuf;
use std::sync::Arc;

use anyhow::Context as _;
use clap::Args;

use crate::cli::exit::Exit;
use crate::cli::failure::Failure;
use crate::cli::json::Object;
use crate::cli::options::Common;
use crate::storage::table::builder::{Builder, TableOptions};
use crate::storage::table::reader::Table;
use crate::storage::vfs::Real;
use crate::storage::{LogPosition, Options};

use super::entries::Merged;
use super::files::{Damage, lock_for_writing, of_read, open_table};

#[derive(Args, Clone, Debug)]
pub(super) struct CompactArgs {
    /// SSTables
    #[arg(required = true)]
    files: Vec<PathBuf>,
    /// Write the new SSTable into this directory
    #[arg(short, long, value_name = "DIR")]
    output: PathBuf,
    /// Read and merge, say what would be written, and write nothing
    #[arg(short = 'n', long)]
    dry_run: bool,
}

/// `compact`: each key once, with its newest entry. Deletes stay: an older table elsewhere may hold what they hide.
pub(super) fn compact(
    args: &CompactArgs,
    common: &Common,
    out: &mut dyn Write,
) -> anyhow::Result<Exit> {
    let mut tables =
        args.files.iter().map(|path| open_table(path)).collect::<Result<Vec<Arc<Table>>, _>>()?;
    tables.sort_by_key(|table| {
        let properties = &table.properties;
        (properties.level, std::cmp::Reverse((properties.newest, table.number)))
    });
    let level = tables.iter().map(|table| table.properties.level).max().unwrap_or(0);
    let newest = tables.iter().map(|table| table.properties.newest).max();
    let number = tables.iter().map(|table| table.number).max().unwrap_or(0) + 1;
    let path = args.output.join(format!("{number:08}.sst"));
    let lock = if args.dry_run { None } else { Some(lock_for_writing(&args.output)?) };
    if path.exists() {
        let message = format!("{} is there already", path.display());
        return Err(Failure::new(Exit::CannotCreate, message).into());
    }
    let options =
        TableOptions::new(&Options::default(), level, newest.unwrap_or(LogPosition::ZERO));
    let mut builder = match lock {
        None => None,
        Some(_) => Some(
            Builder::create(Arc::new(Real), &args.output, number, options)
                .with_context(|| format!("writing {}", path.display()))?,
        ),
    };
    let mut damage = Damage::default();
    let mut entries = 0_u64;
    for entry in Merged::new(BTreeMap::new(), tables) {
        match entry {
            Ok(entry) => {
                entries += 1;
                if let Some(builder) = &mut builder {
                    builder.add(&entry.key, entry.value.as_deref())?;
                }
            }
            Err(error) => damage.name(of_read(error), common)?,
        }
    }
    if let Some(builder) = builder {
        if entries == 0 {
            builder.abandon()?;
            return Err(Failure::bad_data("no entry could be read; nothing was written").into());
        }
        builder.finish().with_context(|| format!("writing {}", path.display()))?;
        std::fs::File::open(&args.output).and_then(|dir| dir.sync_all())?;
    }
    let file = path.display();
    if common.json {
        let object = Object::new(if args.dry_run { "dry_run" } else { "compacted" })
            .field("file", file.to_string())
            .field("entries", entries);
        writeln!(out, "{}", object.finish())?;
    } else if args.dry_run {
        writeln!(out, "would write {entries} entries to {file}")?;
    } else if !common.quiet {
        writeln!(io::stderr().lock(), "kvsstable: wrote {entries} entries to {file}")?;
    }
    Ok(damage.exit(Exit::Done))
}
