//! `manifest dump` and `manifest verify`.

use std::io::Write;
use std::path::{Path, PathBuf};

use clap::{Args, Subcommand};

use crate::cli::exit::Exit;
use crate::cli::json::Object;
use crate::cli::options::{Common, Format};
use crate::storage::offline::{Edit, ManifestFile, ManifestItem, TableMeta};
use crate::storage::vfs::Real;
use crate::storage::{Hole, LogPosition};

use super::entry::key_object;
use super::report::{Report, of_offline};

#[derive(Subcommand, Debug)]
pub(super) enum ManifestCommand {
    /// Print every edit, one JSON object a line
    Dump(FileArgs),
    /// Check every edit; a torn end is told, a bad place in front of sound ones is exit 65
    Verify(FileArgs),
}

#[derive(Args, Clone, Debug)]
pub(super) struct FileArgs {
    /// The manifest
    file: PathBuf,
}

/// `manifest`.
pub(super) fn run(
    command: &ManifestCommand,
    common: &Common,
    out: &mut dyn Write,
) -> anyhow::Result<Exit> {
    let mut report = Report::silent(common);
    match command {
        ManifestCommand::Dump(args) => {
            walk(&args.file, &mut report, &mut |offset, edit| {
                Ok(writeln!(out, "{}", object(offset, edit).finish())?)
            })?;
        }
        ManifestCommand::Verify(args) => {
            let edits = verify_file(&args.file, &mut report)?;
            let file = args.file.display();
            match common.format() {
                Format::Json => {
                    let object = Object::new("verified").field("path", file.to_string());
                    writeln!(out, "{}", object.field("edits", edits).finish())?;
                }
                Format::Plain => writeln!(out, "{file}\t{edits}")?,
                Format::Human => writeln!(out, "{file}: {edits} edits")?,
            }
        }
    }
    Ok(report.exit(Exit::Done))
}

/// Checks every edit and counts them.
/// # Errors
/// Exit 65 for a file that is no manifest, 66 for a missing one.
pub(super) fn verify_file(path: &Path, report: &mut Report<'_>) -> anyhow::Result<u64> {
    walk(path, report, &mut |_, _| Ok(()))
}

fn walk(
    path: &Path,
    report: &mut Report<'_>,
    take: &mut dyn FnMut(u64, &Edit) -> anyhow::Result<()>,
) -> anyhow::Result<u64> {
    let mut file = ManifestFile::open(&Real, path).map_err(of_offline)?;
    for item in &mut file {
        match item {
            ManifestItem::Edit(located) => take(located.offset, &located.edit)?,
            ManifestItem::Bad(bad) => report.edit(path, &bad),
            // Nothing ever relied on an edit that was not finished.
            ManifestItem::Torn(_) => {}
        }
    }
    Ok(file.edits())
}

fn object(offset: u64, edit: &Edit) -> Object {
    let added = edit.added.iter().map(|meta| {
        figures(Object::bare().field("number", meta.number).field("level", meta.level), meta)
    });
    Object::new("edit")
        .field("offset", offset)
        .list("added", added)
        .field("removed", &edit.removed)
        .field("set_aside", &edit.set_aside)
        .maybe("next_number", edit.next_number)
        .maybe("floor_segment", edit.floor.map(|(segment, _)| segment))
        .maybe("floor_position", edit.floor.map(|(_, position)| position.get()))
        .maybe("synced", edit.synced.map(LogPosition::get))
}

/// What a table holds, behind what `object` says of it already.
pub(super) fn figures(object: Object, meta: &TableMeta) -> Object {
    object
        .field("bytes", meta.bytes)
        .field("entries", meta.entries)
        .field("deletes", meta.deletes)
        .object("first", key_object(&meta.first))
        .object("last", key_object(&meta.last))
        .list("holes", meta.holes.iter().map(hole))
}

fn hole(hole: &Hole) -> Object {
    Object::bare()
        .field("lost_with", hole.lost_with)
        .field("mended", hole.is_mended)
        .object("first", key_object(&hole.keys.first))
        .object("last", key_object(&hole.keys.last))
}
