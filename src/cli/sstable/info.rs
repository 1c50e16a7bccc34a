//! `info`: what SSTables say of themselves.

use std::io::Write;
use std::path::PathBuf;

use clap::Args;

use crate::cli::exit::Exit;
use crate::cli::human;
use crate::cli::json::Object;
use crate::cli::options::{Common, Format};
use crate::storage::table::reader::Table;

use super::files::{Damage, open_table};

#[derive(Args, Clone, Debug)]
pub(super) struct InfoArgs {
    /// SSTables
    #[arg(required = true)]
    files: Vec<PathBuf>,
}

/// `info`.
pub(super) fn info(args: &InfoArgs, common: &Common, out: &mut dyn Write) -> anyhow::Result<Exit> {
    let mut damage = Damage::default();
    for path in &args.files {
        match open_table(path) {
            Ok(table) => write(&table, common, out)?,
            Err(error) if args.files.len() == 1 => return Err(error),
            Err(error) => damage.name(error, common)?,
        }
    }
    Ok(damage.exit(Exit::Done))
}

fn write(table: &Table, common: &Common, out: &mut dyn Write) -> std::io::Result<()> {
    let properties = &table.properties;
    let first = table.keys(0).first;
    let last = table.index.last().map(|entry| entry.last.clone()).unwrap_or_default();
    let file = table.path.display();
    let shown = |key: &bytes::Bytes| human::bytes(key, 60);
    match common.format() {
        Format::Json => {
            let object = Object::new("table")
                .field("file", file.to_string())
                .field("number", table.number)
                .field("bytes", table.length)
                .field("format", crate::storage::table::FORMAT)
                .raw("properties", &crate::cli::json::serialized(properties))
                .bytes("first", &first)
                .bytes("last", &last);
            writeln!(out, "{}", object.finish())
        }
        Format::Plain => writeln!(
            out,
            "{file}\t{}\t{}\t{}\t{}\t{}\t{}",
            table.number,
            table.length,
            properties.level,
            properties.entries,
            properties.deletes,
            properties.data_blocks
        ),
        Format::Human => {
            let lines = [
                ("table", format!("{}, level {}", table.number, properties.level)),
                ("size", common.size(table.length)),
                (
                    "entries",
                    format!("{}, {} of them deletes", properties.entries, properties.deletes),
                ),
                ("keys", common.size(properties.key_bytes)),
                ("values", common.size(properties.value_bytes)),
                (
                    "blocks",
                    format!(
                        "{}, {} before compression",
                        properties.data_blocks,
                        common.size(properties.raw_bytes)
                    ),
                ),
                ("filter", format!("{} bits a key", properties.bloom_bits_per_key)),
                ("first", shown(&first)),
                ("last", shown(&last)),
            ];
            writeln!(out, "{file}")?;
            lines.iter().try_for_each(|(name, value)| writeln!(out, "  {name:8} {value}"))
        }
    }
}
