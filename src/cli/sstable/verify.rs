//! `verify`: every checksum, every order, every count.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::anyhow;
use clap::Args;

use crate::cli::exit::Exit;
use crate::cli::failure::Failure;
use crate::cli::json::Object;
use crate::cli::options::{Common, Format};
use crate::storage::table::bloom::KeyHash;
use crate::storage::table::reader::Table;

use super::entries::Entries;
use super::files::{Contents, Damage, contents, of_read, open_table};
use super::{log, manifest};

#[derive(Args, Clone, Debug)]
pub(super) struct VerifyArgs {
    /// Check footer, index and filter of SSTables alone
    #[arg(long)]
    quick: bool,
    /// SSTables, logs, manifests, or data directories
    #[arg(required = true, value_name = "FILE|DIR")]
    paths: Vec<PathBuf>,
}

/// `verify`: goes on past what is bad, names it, and ends with 65.
pub(super) fn verify(
    args: &VerifyArgs,
    common: &Common,
    out: &mut dyn Write,
) -> anyhow::Result<Exit> {
    let mut damage = Damage::default();
    for path in &args.paths {
        let before = damage.found;
        let result = match path.extension().and_then(|extension| extension.to_str()) {
            _ if path.is_dir() => directory(path, args.quick, common, &mut damage),
            Some("log") => log::verify_file(path, common, &mut damage).map(|_| ()),
            Some("manifest") => manifest::verify_file(path, common, &mut damage).map(|_| ()),
            Some(_) | None => {
                open_table(path).and_then(|opened| table(&opened, args.quick, common, &mut damage))
            }
        };
        if let Err(error) = result {
            damage.name(error, common)?;
        }
        let (file, bad) = (path.display(), damage.found - before);
        match common.format() {
            Format::Json => {
                let object = Object::new("verified").field("path", file.to_string());
                let object = object.field("sound", bad == 0).field("bad", bad);
                writeln!(out, "{}", object.finish())?;
            }
            Format::Plain => writeln!(out, "{file}\t{bad}")?,
            Format::Human if bad == 0 => writeln!(out, "{file}: sound")?,
            Format::Human => writeln!(out, "{file}: {bad} bad places")?,
        }
    }
    Ok(damage.exit(Exit::Done))
}

fn directory(path: &Path, quick: bool, common: &Common, damage: &mut Damage) -> anyhow::Result<()> {
    let Contents { tables, segments, identity: _ } = contents(path)?;
    for (meta, opened) in tables {
        match opened {
            Ok(opened) if opened.footer_checksum != meta.footer_checksum => {
                let file = opened.path.display();
                damage.name(anyhow!("{file}: not the table that the manifest means"), common)?;
            }
            Ok(opened) => table(&opened, quick, common, damage)?,
            Err(error) => damage.name(error, common)?,
        }
    }
    for segment in &segments {
        log::verify_file(segment, common, damage)?;
    }
    Ok(())
}

/// Reads every block: order and checksum, then what filter and properties say of the entries.
fn table(
    table: &Arc<Table>,
    quick: bool,
    common: &Common,
    damage: &mut Damage,
) -> anyhow::Result<()> {
    if quick {
        return Ok(());
    }
    let file = table.path.display();
    let (before, mut entries, mut deletes) = (damage.found, 0, 0);
    let mut last = None;
    for entry in Entries::of(Arc::clone(table)) {
        let entry = match entry {
            Ok(entry) => entry,
            Err(error) => {
                damage.name(of_read(error), common)?;
                continue;
            }
        };
        if last.as_ref().is_some_and(|last| entry.key <= *last) {
            damage.name(anyhow!("{file}: the keys of entry {entries} do not ascend"), common)?;
        }
        if !table.may_contain(KeyHash::new(&entry.key)) {
            damage.name(anyhow!("{file}: the filter denies the key of entry {entries}"), common)?;
        }
        entries += 1;
        deletes += u64::from(entry.value.is_none());
        last = Some(entry.key);
    }
    let said = (table.properties.entries, table.properties.deletes);
    if damage.found == before && said != (entries, deletes) {
        let message = format!(
            "{file}: {entries} entries and {deletes} deletes, but its properties say {} and {}",
            said.0, said.1
        );
        damage.name(Failure::bad_data(message).into(), common)?;
    }
    Ok(())
}
