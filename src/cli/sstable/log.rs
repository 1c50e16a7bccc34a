//! `log dump` and `log verify`, and what other commands read of logs.

use std::collections::BTreeMap;
use std::io::Write;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, anyhow};
use bytes::Bytes;
use clap::{Args, Subcommand};

use crate::cli::exit::Exit;
use crate::cli::failure::Failure;
use crate::cli::json::Object;
use crate::cli::options::{Common, Format};
use crate::storage::batch::{Change, decode};
use crate::storage::log::reader::{OpenSegmentError, Record, SegmentReader};
use crate::storage::vfs::Real;

use super::files::Damage;
use super::stored::{Shown, record};

#[derive(Subcommand, Debug)]
pub(super) enum LogCommand {
    /// Print every batch with its place and its changes, one JSON object a line
    Dump(FilesArgs),
    /// Check every record; a torn end is told, a bad place in front of sound ones is exit 65
    Verify(FilesArgs),
}

#[derive(Args, Clone, Debug)]
pub(super) struct FilesArgs {
    /// The log's files
    #[arg(required = true)]
    files: Vec<PathBuf>,
}

/// What a walk through a segment came to.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Walked {
    records: u64,
    /// Where the sound part ends, and how many bytes stand behind it.
    torn: Option<(u64, u64)>,
}

/// `log`.
pub(super) fn run(
    command: &LogCommand,
    common: &Common,
    out: &mut dyn Write,
) -> anyhow::Result<Exit> {
    let mut damage = Damage::default();
    let (LogCommand::Dump(args) | LogCommand::Verify(args)) = command;
    for path in &args.files {
        let result = match command {
            LogCommand::Dump(_) => dump(path, common, &mut damage, out),
            LogCommand::Verify(_) => verify_file(path, common, &mut damage)
                .and_then(|walked| Ok(write_verified(path, walked, common, out)?)),
        };
        match result {
            Ok(()) => {}
            Err(error) if args.files.len() == 1 => return Err(error),
            Err(error) => damage.name(error, common)?,
        }
    }
    Ok(damage.exit(Exit::Done))
}

/// Checks every record of a segment.
/// # Errors
/// Exit 65 for a file that is no log, 66 for a missing one.
pub(super) fn verify_file(
    path: &Path,
    common: &Common,
    damage: &mut Damage,
) -> anyhow::Result<Walked> {
    for_each_record(path, common, damage, &mut |_, _| Ok(()))
}

/// The newest change of each key in these segments.
/// # Errors
/// Those of reading.
pub(super) fn replayed(
    segments: &[PathBuf],
    common: &Common,
    damage: &mut Damage,
) -> anyhow::Result<BTreeMap<Bytes, Option<Bytes>>> {
    let mut newest = BTreeMap::new();
    for path in segments {
        for_each_record(path, common, damage, &mut |_, changes| {
            for change in changes {
                match change {
                    Change::Put(key, value) => newest.insert(key, Some(value)),
                    Change::Delete(key) => newest.insert(key, None),
                    Change::XorLeaf(..) => None,
                };
            }
            Ok(())
        })?;
    }
    Ok(newest)
}

/// Hands every sound record to `take`, past damage, which is named.
/// # Errors
/// Those of `take`; exit 65 for a file that is no log, 66 for a missing one.
pub(super) fn for_each_record(
    path: &Path,
    common: &Common,
    damage: &mut Damage,
    take: &mut dyn FnMut(&Record, Vec<Change>) -> anyhow::Result<()>,
) -> anyhow::Result<Walked> {
    let file = path.display();
    let mut reader = SegmentReader::open(&Real, path).map_err(|error| match error {
        OpenSegmentError::Io(source) => {
            anyhow::Error::new(source).context(format!("reading {file}"))
        }
        OpenSegmentError::Header(reason) => {
            Failure::bad_data(format!("{file}: no commit log: {reason}")).into()
        }
    })?;
    let mut walked = Walked::default();
    while let Some(next) = reader.next().with_context(|| format!("reading {file}"))? {
        match next {
            Ok(record) => {
                walked.records += 1;
                match decode(&record.payload) {
                    Ok(changes) => take(&record, changes)?,
                    Err(error) => {
                        let place = format!("{file}: batch at byte {}", record.offset);
                        damage.name(anyhow::Error::new(error).context(place), common)?;
                    }
                }
            }
            Err(bad) if reader.skip_to_sound().with_context(|| format!("reading {file}"))? => {
                let message = format!("{file}: bad record at byte {}: {}", bad.offset, bad.reason);
                damage.name(anyhow!(message), common)?;
            }
            Err(bad) => {
                walked.torn = Some((bad.offset, reader.length() - bad.offset));
                break;
            }
        }
    }
    Ok(walked)
}

fn dump(
    path: &Path,
    common: &Common,
    damage: &mut Damage,
    out: &mut dyn Write,
) -> anyhow::Result<()> {
    let names = BTreeMap::new();
    let file = path.display().to_string();
    for_each_record(path, common, damage, &mut |batch, changes| {
        let changes = changes.into_iter().map(|change| match change {
            Change::Put(key, value) => Object::bare()
                .field("op", "put")
                .object("entry", record(&key, Some(&value), &names, Shown::default())),
            Change::Delete(key) => Object::bare()
                .field("op", "remove")
                .object("entry", record(&key, None, &names, Shown::default())),
            Change::XorLeaf(slot, bits) => Object::bare()
                .field("op", "leaf")
                .field("slot", slot)
                .field("bits", format!("{bits:032x}")),
        });
        let object = Object::new("batch")
            .field("file", &file)
            .field("offset", batch.offset)
            .field("end", batch.end.get())
            .field("synced", batch.synced.get())
            .list("changes", changes);
        Ok(writeln!(out, "{}", object.finish())?)
    })?;
    Ok(())
}

fn write_verified(
    path: &Path,
    walked: Walked,
    common: &Common,
    out: &mut dyn Write,
) -> std::io::Result<()> {
    let (file, records) = (path.display(), walked.records);
    match common.format() {
        Format::Json => {
            let object = Object::new("verified")
                .field("path", file.to_string())
                .field("records", records)
                .maybe("torn_at", walked.torn.map(|(offset, _)| offset));
            writeln!(out, "{}", object.finish())
        }
        Format::Plain => writeln!(out, "{file}\t{records}"),
        Format::Human => match walked.torn {
            None => writeln!(out, "{file}: {records} records"),
            Some((offset, bytes)) => writeln!(
                out,
                "{file}: {records} records, then {bytes} bytes from byte {offset} that were never finished"
            ),
        },
    }
}
