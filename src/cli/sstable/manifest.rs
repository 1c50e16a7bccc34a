//! `manifest dump` and `manifest verify`.

use std::io::Write;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, anyhow};
use clap::{Args, Subcommand};

use crate::cli::exit::Exit;
use crate::cli::failure::Failure;
use crate::cli::json::Object;
use crate::cli::options::{Common, Format};
use crate::storage::LogPosition;
use crate::storage::manifest::Edit;
use crate::storage::manifest::reader::ManifestReader;
use crate::storage::vfs::Real;

use super::files::Damage;

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
    let mut damage = Damage::default();
    match command {
        ManifestCommand::Dump(args) => {
            walk(&args.file, common, &mut damage, &mut |offset, edit| {
                Ok(writeln!(out, "{}", object(offset, edit).finish())?)
            })?;
        }
        ManifestCommand::Verify(args) => {
            let edits = verify_file(&args.file, common, &mut damage)?;
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
    Ok(damage.exit(Exit::Done))
}

/// Checks every edit and counts them.
/// # Errors
/// Exit 65 for a file that is no manifest, 66 for a missing one.
pub(super) fn verify_file(
    path: &Path,
    common: &Common,
    damage: &mut Damage,
) -> anyhow::Result<u64> {
    walk(path, common, damage, &mut |_, _| Ok(()))
}

fn walk(
    path: &Path,
    common: &Common,
    damage: &mut Damage,
    take: &mut dyn FnMut(u64, &Edit) -> anyhow::Result<()>,
) -> anyhow::Result<u64> {
    let file = path.display();
    let mut reader = ManifestReader::open(&Real, path)
        .with_context(|| format!("reading {file}"))?
        .map_err(|reason| Failure::bad_data(format!("{file}: no manifest: {reason}")))?;
    let mut edits = 0;
    while let Some(next) = reader.next() {
        match next {
            Ok(located) => {
                edits += 1;
                take(located.offset, &located.edit)?;
            }
            Err(bad) => {
                let torn = !reader.skip_to_sound();
                // The first edit was synced before the file counted: without it there is nothing.
                if !torn || edits == 0 {
                    let message =
                        format!("{file}: bad edit at byte {}: {}", bad.offset, bad.reason);
                    damage.name(anyhow!(message), common)?;
                }
                if torn {
                    break;
                }
            }
        }
    }
    Ok(edits)
}

fn object(offset: u64, edit: &Edit) -> Object {
    let added = edit.added.iter().map(|meta| {
        Object::bare()
            .field("number", meta.number)
            .field("level", meta.level)
            .field("bytes", meta.bytes)
            .field("entries", meta.entries)
            .field("deletes", meta.deletes)
            .bytes("first", &meta.first)
            .bytes("last", &meta.last)
    });
    Object::new("edit")
        .field("offset", offset)
        .list("added", added)
        .field("removed", &edit.removed)
        .maybe("next_number", edit.next_number)
        .maybe("floor_segment", edit.floor.map(|(segment, _)| segment))
        .maybe("floor_position", edit.floor.map(|(_, position)| position.get()))
        .maybe("synced", edit.synced.map(LogPosition::get))
}
