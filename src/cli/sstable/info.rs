//! `info`: what SSTables say of themselves.

use std::io::Write;
use std::path::PathBuf;

use clap::Args;

use crate::cli::exit::Exit;
use crate::cli::json::serialized;
use crate::cli::options::{Common, Format};
use crate::storage::offline::{TableFile, TableInfo};

use super::entry::{key_object, shown_key};
use super::report::{Report, of_file};
use super::target::{each, open_table};

#[derive(Args, Clone, Debug)]
pub(super) struct InfoArgs {
    /// SSTables
    #[arg(required = true)]
    files: Vec<PathBuf>,
}

/// `info`.
pub(super) fn info(args: &InfoArgs, common: &Common, out: &mut dyn Write) -> anyhow::Result<Exit> {
    let mut report = Report::silent(common);
    each(&args.files, &mut report, |path, _| Ok(write(&open_table(path)?, common, out)?))?;
    Ok(report.exit(Exit::Done))
}

fn write(table: &TableFile, common: &Common, out: &mut dyn Write) -> std::io::Result<()> {
    let info = table.info();
    let properties = &info.properties;
    let file = info.file.display();
    match common.format() {
        Format::Json => {
            let object = of_file("table", &info.file)
                .field("number", info.number)
                .field("bytes", info.bytes)
                .field("format", info.format)
                .field("index_bytes", info.index_bytes)
                .field("filter_bytes", info.filter_bytes)
                .raw("properties", &serialized(properties))
                .object("first", key_object(&info.first))
                .object("last", key_object(&info.last));
            writeln!(out, "{}", object.finish())
        }
        Format::Plain => writeln!(
            out,
            "{file}\t{}\t{}\t{}\t{}\t{}\t{}",
            info.number,
            info.bytes,
            properties.level,
            properties.entries,
            properties.deletes,
            properties.data_blocks
        ),
        Format::Human => {
            writeln!(out, "{file}")?;
            lines(&info, common)
                .iter()
                .try_for_each(|(name, value)| writeln!(out, "  {name:8} {value}"))
        }
    }
}

fn lines(info: &TableInfo, common: &Common) -> [(&'static str, String); 9] {
    let properties = &info.properties;
    let (blocks, raw) = (properties.data_blocks, common.size(properties.raw_bytes));
    let (bits, filter) = (properties.bloom_bits_per_key, common.size(info.filter_bytes));
    [
        ("table", format!("{}, level {}, format {}", info.number, properties.level, info.format)),
        ("size", common.size(info.bytes)),
        ("entries", format!("{}, {} of them deletes", properties.entries, properties.deletes)),
        ("keys", common.size(properties.key_bytes)),
        ("values", common.size(properties.value_bytes)),
        ("blocks", format!("{blocks}, {raw} before compression")),
        ("filter", format!("{bits} bits a key, {filter}")),
        ("first", shown_key(&info.first)),
        ("last", shown_key(&info.last)),
    ]
}
