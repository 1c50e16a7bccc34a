//! Merges tables that stand alone into new ones.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::{
    BadBlock, OfflineError, TableBuilder, TableEntries, TableFile, TableOptions, WrittenTable,
};
use crate::storage::log::LogPosition;
use crate::storage::table::Entry;
use crate::storage::vfs::{Vfs, ensure_dir};

/// What a merge did.
#[derive(Debug)]
pub struct MergeReport {
    /// The tables written.
    pub written: Vec<WrittenTable>,
    /// Entries read.
    pub entries_read: u64,
    /// Entries left out since a newer one of their key exists.
    pub entries_shadowed: u64,
    /// Blocks that could not be read. Of their keys an older entry may have been taken.
    pub bad_blocks: Vec<BadBlock>,
}

struct Input {
    entries: TableEntries,
    head: Option<Entry>,
}

/// Merges the tables at `inputs` into tables in `dir`, which is created. Of a key the newest entry stays: tables of a
/// lower level are newer, in level 0 those written later (see [`crate::storage::table::Properties`]). Deletes stay: what
/// they hide may be elsewhere.
/// # Errors
/// [`OfflineError`] when an input cannot be opened or the output cannot be written.
pub fn merge_tables(
    vfs: &Arc<dyn Vfs>,
    inputs: &[PathBuf],
    dir: &Path,
    options: TableOptions,
) -> Result<MergeReport, OfflineError> {
    let mut tables =
        inputs.iter().map(|path| TableFile::open(&**vfs, path)).collect::<Result<Vec<_>, _>>()?;
    tables.sort_by_key(|table| {
        let properties = table.properties();
        (
            properties.level,
            std::cmp::Reverse(properties.newest),
            std::cmp::Reverse(table.info().number),
        )
    });
    ensure_dir(&**vfs, dir)
        .map_err(|source| OfflineError::Write { file: dir.to_owned(), source })?;
    let level = tables.iter().map(|table| table.properties().level).max().unwrap_or(0);
    let newest =
        tables.iter().map(|table| table.properties().newest).max().unwrap_or(LogPosition::ZERO);
    let mut builder = TableBuilder::new(Arc::clone(vfs), dir, options).aged(level, newest);
    let mut report = MergeReport {
        written: Vec::new(),
        entries_read: 0,
        entries_shadowed: 0,
        bad_blocks: Vec::new(),
    };
    let mut inputs: Vec<Input> =
        tables.iter().map(|table| Input { entries: table.entries(b""), head: None }).collect();
    while let Some(entry) = next(&mut inputs, &mut report) {
        builder.add(&entry.key, entry.value.as_deref())?;
    }
    report.written = builder.finish()?;
    Ok(report)
}

/// The least key's newest entry.
fn next(inputs: &mut [Input], report: &mut MergeReport) -> Option<Entry> {
    for input in &mut *inputs {
        input.fill(report);
    }
    let heads = inputs.iter().enumerate();
    let (_, newest) =
        heads.filter_map(|(index, input)| Some((input.head.as_ref()?.key.clone(), index))).min()?;
    let entry = inputs[newest].head.take()?;
    for input in inputs {
        if input.head.take_if(|head| head.key == entry.key).is_some() {
            report.entries_shadowed += 1;
        }
    }
    Some(entry)
}

impl Input {
    fn fill(&mut self, report: &mut MergeReport) {
        while self.head.is_none() {
            match self.entries.next() {
                Some(Ok(located)) => {
                    report.entries_read += 1;
                    self.head = Some(located.entry);
                }
                Some(Err(bad)) => report.bad_blocks.push(bad),
                None => return,
            }
        }
    }
}
