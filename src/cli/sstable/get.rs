//! `get`: where a key stands.

use std::ffi::OsString;
use std::io::Write;
use std::path::PathBuf;

use bytes::Bytes;
use clap::Args;

use crate::cli::exit::Exit;
use crate::cli::json::Object;
use crate::cli::keys::KeyCoding;
use crate::cli::options::{Common, Format};
use crate::node::keys;
use crate::storage::batch::Change;
use crate::storage::table::bloom::KeyHash;
use crate::storage::table::reader::{Blocks, Lookup, Table};

use super::files::{Damage, contents, of_read, open_table};
use super::log::for_each_record;
use super::stored::{Shown, record};

#[derive(Args, Clone, Debug)]
pub(super) struct GetArgs {
    /// The key
    key: OsString,
    /// SSTables, or data directories
    #[arg(required = true, value_name = "FILE|DIR")]
    paths: Vec<PathBuf>,
    #[command(flatten)]
    coding: KeyCoding,
}

/// A place where the key stands.
struct Place {
    file: String,
    block: Option<usize>,
    offset: u64,
    value: Option<Bytes>,
}

/// `get`: exit 1 where the key stands nowhere.
pub(super) fn get(args: &GetArgs, common: &Common, out: &mut dyn Write) -> anyhow::Result<Exit> {
    let key = keys::data(&args.coding.decode(&args.key)?);
    let mut damage = Damage::default();
    let mut places = Vec::new();
    for path in &args.paths {
        if path.is_dir() {
            let contents = contents(path)?;
            places.extend(in_log(&contents.segments, &key, common, &mut damage)?);
            for (_, opened) in contents.tables {
                let found = opened.and_then(|table| in_table(&table, &key));
                match found {
                    Ok(place) => places.extend(place),
                    Err(error) => damage.name(error, common)?,
                }
            }
        } else {
            match open_table(path).and_then(|table| in_table(&table, &key)) {
                Ok(place) => places.extend(place),
                Err(error) if args.paths.len() == 1 => return Err(error),
                Err(error) => damage.name(error, common)?,
            }
        }
    }
    for place in &places {
        write(&key, place, common, out)?;
    }
    Ok(damage.exit(if places.is_empty() { Exit::No } else { Exit::Done }))
}

fn in_table(table: &Table, key: &Bytes) -> anyhow::Result<Option<Place>> {
    let lookup = table.get(key, KeyHash::new(key), Blocks::Disk).map_err(of_read)?;
    let Lookup::Entry(value) = lookup else { return Ok(None) };
    let block = table.index.block_of(key);
    let offset = table.index.get(block).map_or(0, |entry| entry.handle.offset);
    let file = table.path.display().to_string();
    Ok(Some(Place { file, block: Some(block), offset, value }))
}

/// The key's last change in the log.
fn in_log(
    segments: &[PathBuf],
    key: &Bytes,
    common: &Common,
    damage: &mut Damage,
) -> anyhow::Result<Option<Place>> {
    let mut last = None;
    for path in segments {
        for_each_record(path, common, damage, &mut |record, changes| {
            for change in changes {
                let value = match change {
                    Change::Put(changed, value) if changed == *key => Some(value),
                    Change::Delete(changed) if changed == *key => None,
                    Change::Put(..) | Change::Delete(_) | Change::XorLeaf(..) => continue,
                };
                let file = path.display().to_string();
                last = Some(Place { file, block: None, offset: record.offset, value });
            }
            Ok(())
        })?;
    }
    Ok(last)
}

fn write(key: &Bytes, place: &Place, common: &Common, out: &mut dyn Write) -> std::io::Result<()> {
    let record =
        record(key, place.value.as_ref(), &std::collections::BTreeMap::new(), Shown::default());
    let block = place.block.map_or_else(|| "-".to_owned(), |block| block.to_string());
    let (file, offset) = (&place.file, place.offset);
    match common.format() {
        Format::Json => {
            let object = Object::new("found")
                .field("file", file)
                .maybe("block", place.block)
                .field("offset", offset)
                .object("record", record);
            writeln!(out, "{}", object.finish())
        }
        Format::Plain => writeln!(out, "{file}\t{block}\t{offset}\t{}", record.finish()),
        Format::Human => {
            let block = place.block.map(|block| format!(" block {block}")).unwrap_or_default();
            writeln!(out, "{file}{block} offset {offset}: {}", record.finish())
        }
    }
}
