//! `dump`: entries as records.

use std::collections::BTreeMap;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use clap::Args;

use crate::cli::exit::Exit;
use crate::cli::json::Object;
use crate::cli::keys::write_key;
use crate::cli::options::{Common, Format};
use crate::cli::records::Recorder;
use crate::node_id::NodeId;
use crate::storage::table::Entry;

use super::entries::{Entries, Merged};
use super::files::{Damage, contents, of_read, open_table};
use super::log::replayed;
use super::stored::{Shown, client_key, names, record};

#[derive(Args, Clone, Debug)]
pub(super) struct DumpArgs {
    /// Print the keys of data entries alone, a line each
    #[arg(long)]
    keys_only: bool,
    /// Only keys from here on
    #[arg(long, value_name = "KEY")]
    from: Option<String>,
    /// Only keys up to here, itself included
    #[arg(long, value_name = "KEY")]
    to: Option<String>,
    /// Leave the values out and give their sizes
    #[arg(long, conflicts_with = "keys_only")]
    no_values: bool,
    /// SSTables, or data directories
    #[arg(required = true, value_name = "FILE|DIR")]
    paths: Vec<PathBuf>,
}

/// `dump`.
pub(super) fn dump(args: &DumpArgs, common: &Common, out: &mut dyn Write) -> anyhow::Result<Exit> {
    let mut damage = Damage::default();
    for path in &args.paths {
        let result = if path.is_dir() {
            dump_directory(path, args, common, out, &mut damage)
        } else {
            dump_table(path, args, common, out, &mut damage)
        };
        match result {
            Ok(()) => {}
            Err(error) if is_of_output(&error) || args.paths.len() == 1 => return Err(error),
            Err(error) => damage.name(error, common)?,
        }
    }
    Ok(damage.exit(Exit::Done))
}

/// Where the output is gone, the other files need not be read.
fn is_of_output(error: &anyhow::Error) -> bool {
    let io = error.chain().find_map(|cause| cause.downcast_ref::<std::io::Error>());
    io.is_some_and(|io| io.kind() == std::io::ErrorKind::BrokenPipe)
}

fn dump_table(
    path: &Path,
    args: &DumpArgs,
    common: &Common,
    out: &mut dyn Write,
    damage: &mut Damage,
) -> anyhow::Result<()> {
    let table = open_table(path)?;
    let file = path.display().to_string();
    let entries = Entries::of(table).map(|entry| entry.map_err(of_read));
    let names = BTreeMap::new();
    write(entries, args, common, &names, out, damage, |header| header.field("file", file))
}

fn dump_directory(
    path: &Path,
    args: &DumpArgs,
    common: &Common,
    out: &mut dyn Write,
    damage: &mut Damage,
) -> anyhow::Result<()> {
    let contents = contents(path)?;
    let names = names(&contents);
    let memory = replayed(&contents.segments, common, damage)?;
    let mut tables: Vec<Arc<_>> = Vec::new();
    for (_, opened) in contents.tables {
        match opened {
            Ok(table) => tables.push(table),
            Err(error) => damage.name(error, common)?,
        }
    }
    let live = Merged::new(memory, tables).filter_map(|entry| match entry {
        Ok(Entry { value: None, .. }) => None,
        Ok(entry) => Some(Ok(entry)),
        Err(error) => Some(Err(of_read(error))),
    });
    let identity = contents.identity;
    write(live, args, common, &names, out, damage, |header| match identity {
        None => header,
        Some(identity) => {
            header.field("cluster", identity.cluster.to_string()).field("node", identity.name)
        }
    })
}

fn write(
    entries: impl Iterator<Item = anyhow::Result<Entry>>,
    args: &DumpArgs,
    common: &Common,
    names: &BTreeMap<NodeId, String>,
    out: &mut dyn Write,
    damage: &mut Damage,
    origin: impl FnOnce(Object) -> Object,
) -> anyhow::Result<()> {
    let before = damage.found;
    let shown = Shown { no_values: args.no_values };
    if args.keys_only {
        for entry in entries {
            match entry {
                Ok(entry) if is_wanted(&entry.key, args) => {
                    write_client_key(&entry.key, common, out)?;
                }
                Ok(_) => {}
                Err(error) => damage.name(error, common)?,
            }
        }
        return Ok(());
    }
    let mut recorder = Recorder::begin(out, origin)?;
    for entry in entries {
        match entry {
            Ok(entry) if is_wanted(&entry.key, args) => {
                recorder.push(record(&entry.key, entry.value.as_ref(), names, shown))?;
            }
            Ok(_) => {}
            Err(error) => damage.name(error, common)?,
        }
    }
    // Without a footer nobody takes a dump with holes for the whole.
    if damage.found == before { Ok(recorder.end()?) } else { Ok(()) }
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

fn is_wanted(key: &Bytes, args: &DumpArgs) -> bool {
    let Some(key) = client_key(key) else { return args.from.is_none() && args.to.is_none() };
    args.from.as_ref().is_none_or(|from| from.as_bytes() <= key)
        && args.to.as_ref().is_none_or(|to| key <= to.as_bytes())
}
