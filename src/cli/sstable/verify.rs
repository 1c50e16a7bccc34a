//! `verify`: every checksum, every order, every count.

use std::io::Write;
use std::path::{Path, PathBuf};

use clap::Args;

use crate::cli::exit::Exit;
use crate::cli::json::Object;
use crate::cli::options::{Common, Format};
use crate::storage::offline::{Depth, DirectoryView, TableFile, holds_store};
use crate::storage::vfs::Real;

use super::report::{Report, of_offline};
use super::target::table_paths;
use super::{log, manifest};

#[derive(Args, Clone, Debug)]
pub(super) struct VerifyArgs {
    /// Check footer, index and filter of SSTables alone
    #[arg(long)]
    quick: bool,
    /// SSTables, logs, manifests, or directories
    #[arg(required = true, value_name = "FILE|DIR")]
    paths: Vec<PathBuf>,
}

/// `verify`: goes on past what is bad, names it, and ends with 65.
pub(super) fn verify(
    args: &VerifyArgs,
    common: &Common,
    out: &mut dyn Write,
) -> anyhow::Result<Exit> {
    let mut report = Report::silent(common);
    let depth = if args.quick { Depth::Quick } else { Depth::Full };
    let mut missing = None;
    for path in &args.paths {
        let before = report.found;
        if let Err(error) = verify_path(path, depth, &mut report) {
            let exit = crate::cli::failure::exit_of(&error);
            missing = missing.or((exit != Exit::BadData).then_some(exit));
            report.error(&error);
        }
        write(path, report.found - before, common, out)?;
    }
    // A file that is not there is worse than a bad one: nothing of it was verified.
    Ok(missing.unwrap_or_else(|| report.exit(Exit::Done)))
}

fn verify_path(path: &Path, depth: Depth, report: &mut Report<'_>) -> anyhow::Result<()> {
    match path.extension().and_then(|extension| extension.to_str()) {
        _ if path.is_dir() && !holds_store(&Real, path) && !table_paths(path)?.is_empty() => {
            table_paths(path)?.iter().try_for_each(|path| table(path, depth, report))
        }
        _ if path.is_dir() => store(path, depth, report),
        Some("log") => log::verify_file(path, report).map(drop),
        Some("manifest") => manifest::verify_file(path, report).map(drop),
        Some(_) | None => table(path, depth, report),
    }
}

fn table(path: &Path, depth: Depth, report: &mut Report<'_>) -> anyhow::Result<()> {
    let bad = TableFile::verify(&Real, path, depth).map_err(of_offline)?;
    for bad in &bad {
        report.block(bad);
    }
    Ok(())
}

/// All files that a node's manifest names, held open, so that a running node may remove them meanwhile.
fn store(path: &Path, depth: Depth, report: &mut Report<'_>) -> anyhow::Result<()> {
    let view = DirectoryView::open(&Real, path).map_err(of_offline)?;
    report.log_of(&view);
    view.verify_tables(depth, &mut |bad| report.block(&bad)).map_err(of_offline)
}

fn write(path: &Path, bad: u64, common: &Common, out: &mut dyn Write) -> std::io::Result<()> {
    let path = path.display();
    match common.format() {
        Format::Json => {
            let object = Object::new("verified").field("path", path.to_string());
            let object = object.field("sound", bad == 0).field("bad", bad);
            writeln!(out, "{}", object.finish())
        }
        Format::Plain => writeln!(out, "{path}\t{bad}"),
        Format::Human if bad == 0 => writeln!(out, "{path}: sound"),
        Format::Human if bad == 1 => writeln!(out, "{path}: 1 bad place"),
        Format::Human => writeln!(out, "{path}: {bad} bad places"),
    }
}
