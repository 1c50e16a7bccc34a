//! `levels`: how a store's tables lie over each other.

use std::collections::BTreeMap;
use std::io::Write;
use std::path::PathBuf;

use clap::Args;

use crate::cli::exit::Exit;
use crate::cli::json::Object;
use crate::cli::options::{Common, Format};
use crate::cli::table::{Side, Table};
use crate::storage::offline::{DirectoryView, TableMeta, ViewTable};
use crate::storage::vfs::Real;

use super::entry::shown_key;
use super::manifest::figures;
use super::report::{Report, of_offline};

#[derive(Args, Clone, Debug)]
pub(super) struct LevelsArgs {
    /// A node's data directory
    dir: PathBuf,
}

/// A level's tables, and what a key in it may cost.
struct Level<'a> {
    number: u64,
    tables: Vec<&'a ViewTable>,
    /// Most tables of it that hold one key: what a read may have to ask.
    depth: usize,
    /// Bytes of the next deeper level under its keys: what merging it would rewrite.
    below: u64,
}

/// `levels`: exit 65 where a table cannot be opened, or was set aside and what was lost with it is not repaired.
pub(super) fn levels(
    args: &LevelsArgs,
    common: &Common,
    out: &mut dyn Write,
) -> anyhow::Result<Exit> {
    let view = DirectoryView::open(&Real, &args.dir).map_err(of_offline)?;
    let mut report = Report::silent(common);
    for bad in view.tables().filter_map(|table| table.opened().err()) {
        report.block(&bad);
    }
    view.lost_keys().for_each(|lost| report.block(&lost));
    let levels = all(&view);
    match common.format() {
        Format::Json => write_json(&levels, out)?,
        Format::Human => {
            summary(&levels, common).write(out)?;
            writeln!(out)?;
            tables(&levels, common).write(out)?;
        }
        Format::Plain => tables(&levels, common).write_plain(out)?,
    }
    Ok(report.exit(Exit::Done))
}

fn all(view: &DirectoryView) -> Vec<Level<'_>> {
    let mut by_number: BTreeMap<u64, Vec<&ViewTable>> = BTreeMap::new();
    for table in view.tables() {
        by_number.entry(table.meta.level).or_default().push(table);
    }
    let deeper = |number| by_number.range(number + 1..).next().map(|(_, tables)| tables);
    let levels = by_number.iter().map(|(number, tables)| {
        let touched = deeper(*number)
            .into_iter()
            .flatten()
            .filter(|deep| tables.iter().any(|table| overlap(&table.meta, &deep.meta)));
        Level {
            number: *number,
            depth: depth(tables),
            below: touched.map(|table| table.meta.bytes).sum(),
            tables: tables.clone(),
        }
    });
    levels.collect()
}

fn overlap(left: &TableMeta, right: &TableMeta) -> bool {
    left.first <= right.last && right.first <= left.last
}

/// Most tables that hold one key: a first key lies where most of them do.
fn depth(tables: &[&ViewTable]) -> usize {
    let over = |key: &[u8]| {
        let holds = |table: &&&ViewTable| *table.meta.first <= *key && *key <= *table.meta.last;
        tables.iter().filter(holds).count()
    };
    tables.iter().map(|table| over(&table.meta.first)).max().unwrap_or(0)
}

impl Level<'_> {
    fn sum(&self, of: impl Fn(&TableMeta) -> u64) -> u64 {
        self.tables.iter().map(|table| of(&table.meta)).sum()
    }

    fn ends(&self) -> (&[u8], &[u8]) {
        let metas = || self.tables.iter().map(|table| &table.meta);
        let first = metas().map(|meta| &*meta.first).min().unwrap_or_default();
        (first, metas().map(|meta| &*meta.last).max().unwrap_or_default())
    }
}

fn summary(levels: &[Level<'_>], common: &Common) -> Table {
    let mut table = Table::new(&[
        ("LEVEL", Side::Right),
        ("TABLES", Side::Right),
        ("BYTES", Side::Right),
        ("ENTRIES", Side::Right),
        ("DELETES", Side::Right),
        ("OVERLAP", Side::Right),
        ("BELOW", Side::Right),
        ("KEYS", Side::Left),
    ]);
    for level in levels {
        let (first, last) = level.ends();
        table.row([
            level.number.to_string(),
            level.tables.len().to_string(),
            common.size(level.sum(|meta| meta.bytes)),
            common.count(level.sum(|meta| meta.entries)),
            common.count(level.sum(|meta| meta.deletes)),
            level.depth.to_string(),
            common.size(level.below),
            format!("{} … {}", shown_key(first), shown_key(last)),
        ]);
    }
    table
}

fn tables(levels: &[Level<'_>], common: &Common) -> Table {
    let mut shown = Table::new(&[
        ("LEVEL", Side::Right),
        ("TABLE", Side::Right),
        ("BYTES", Side::Right),
        ("ENTRIES", Side::Right),
        ("DELETES", Side::Right),
        ("FIRST", Side::Left),
        ("LAST", Side::Left),
        ("HOLES", Side::Right),
    ]);
    for meta in levels.iter().flat_map(|level| &level.tables).map(|table| &table.meta) {
        shown.row([
            meta.level.to_string(),
            meta.number.to_string(),
            common.size(meta.bytes),
            common.count(meta.entries),
            common.count(meta.deletes),
            shown_key(&meta.first),
            shown_key(&meta.last),
            meta.holes.len().to_string(),
        ]);
    }
    shown
}

fn write_json(levels: &[Level<'_>], out: &mut dyn Write) -> std::io::Result<()> {
    let table = |table: &&ViewTable| {
        figures(Object::bare().field("number", table.meta.number), &table.meta)
    };
    for level in levels {
        let object = Object::new("level")
            .field("level", level.number)
            .field("bytes", level.sum(|meta| meta.bytes))
            .field("entries", level.sum(|meta| meta.entries))
            .field("deletes", level.sum(|meta| meta.deletes))
            .field("overlap", level.depth)
            .field("bytes_below", level.below)
            .list("tables", level.tables.iter().map(table));
        writeln!(out, "{}", object.finish())?;
    }
    Ok(())
}
