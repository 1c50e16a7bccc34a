//! `get`: where a key stands.

use std::ffi::OsString;
use std::io::Write;
use std::path::PathBuf;

use clap::Args;

use crate::cli::exit::Exit;
use crate::cli::json::Object;
use crate::cli::keys::KeyCoding;
use crate::cli::options::{Common, Format};
use crate::node::keys;
use crate::storage::offline::{Place, PlacedEntry};
use crate::storage::table::Entry;

use super::entry::{Names, Shown, record};
use super::report::Report;
use super::target::{Target, each};

#[derive(Args, Clone, Debug)]
pub(super) struct GetArgs {
    /// The key
    key: OsString,
    /// SSTables, or directories of a node or of SSTables
    #[arg(required = true, value_name = "FILE|DIR")]
    paths: Vec<PathBuf>,
    #[command(flatten)]
    coding: KeyCoding,
}

/// `get`: all places where the key stands, the newest of each path first; exit 1 where it stands nowhere.
pub(super) fn get(args: &GetArgs, common: &Common, out: &mut dyn Write) -> anyhow::Result<Exit> {
    let key = keys::data(&args.coding.decode(&args.key)?);
    let mut report = Report::silent(common);
    let mut found = false;
    each(&args.paths, &mut report, |path, report| {
        let target = Target::open(path, report)?;
        let places = target.places(&key);
        if places.is_empty() {
            return Ok(());
        }
        let names = target.origin().names;
        for place in places {
            match place {
                Ok(PlacedEntry { value, place }) => {
                    found = true;
                    let entry = Entry { key: key.clone(), value };
                    write(&entry, &place, &names, common, out)?;
                }
                Err(bad) => report.block(&bad),
            }
        }
        Ok(())
    })?;
    Ok(report.exit(if found { Exit::Done } else { Exit::No }))
}

fn write(
    entry: &Entry,
    place: &Place,
    names: &Names,
    common: &Common,
    out: &mut dyn Write,
) -> std::io::Result<()> {
    let record = record(entry, names, Shown::Whole, Object::new);
    let (file, block, offset) = match place {
        Place::Log { file, offset } => (file, None, offset),
        Place::Table { file, block, offset } => (file, Some(block), offset),
    };
    let file = file.display();
    match common.format() {
        Format::Json => {
            let object = Object::new("found")
                .field("file", file.to_string())
                .maybe("block", block)
                .field("offset", offset)
                .object("record", record);
            writeln!(out, "{}", object.finish())
        }
        Format::Plain => {
            let block = block.map_or_else(|| "-".to_owned(), ToString::to_string);
            writeln!(out, "{file}\t{block}\t{offset}\t{}", record.finish())
        }
        Format::Human => {
            let block = block.map(|block| format!(" block {block}")).unwrap_or_default();
            writeln!(out, "{file}{block} offset {offset}: {}", record.finish())
        }
    }
}
