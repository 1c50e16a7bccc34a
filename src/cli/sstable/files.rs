//! The files named on the command line, and the ones that a data directory is made of.

use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::Context as _;

use crate::cli::exit::Exit;
use crate::cli::failure::{Failure, as_json, as_text};
use crate::cli::options::Common;
use crate::storage::directory::Directory;
use crate::storage::identity::Identity;
use crate::storage::manifest::TableMeta;
use crate::storage::manifest::reader::read_state;
use crate::storage::table::reader::Table;
use crate::storage::vfs::Real;
use crate::storage::{DirLock, LockError};

/// How often a directory is looked at anew when a running node changes it meanwhile.
const LOOKS_MAX: usize = 5;

/// What a data directory holds, as of one moment.
#[derive(Debug)]
pub(super) struct Contents {
    /// The tables with what the manifest says of them, newest first.
    pub(super) tables: Vec<(TableMeta, Opened)>,
    /// The log's segments, in order.
    pub(super) segments: Vec<PathBuf>,
    pub(super) identity: Option<Identity>,
}

/// A table, or why it is none.
pub(super) type Opened = Result<Arc<Table>, anyhow::Error>;

/// Names what was skipped, and remembers that something was.
#[derive(Debug, Default)]
pub(super) struct Damage {
    pub(super) found: usize,
}

impl Damage {
    /// Tells stderr what is bad.
    /// # Errors
    /// Those of stderr.
    pub(super) fn name(&mut self, error: anyhow::Error, common: &Common) -> io::Result<()> {
        self.found += 1;
        let failure = Failure::bad_data("skipped").code("damaged");
        let error = error.context(failure);
        let text = if common.json { as_json(&error) + "\n" } else { as_text("kvsstable", &error) };
        io::stderr().lock().write_all(text.as_bytes())
    }

    /// `otherwise`, or exit 65 where something was bad.
    pub(super) const fn exit(&self, otherwise: Exit) -> Exit {
        if self.found == 0 { otherwise } else { Exit::BadData }
    }
}

/// Opens an SSTable.
/// # Errors
/// Exit 65 for one that is none, 66 for a missing file.
pub(super) fn open_table(path: &Path) -> anyhow::Result<Arc<Table>> {
    match Table::open(&Real, path) {
        Ok(table) => Ok(Arc::new(table)),
        Err(error) => Err(of_read(error)),
    }
}

/// A read error with its exit code: damage is 65, the system's errors keep theirs.
pub(super) fn of_read(error: crate::storage::ReadError) -> anyhow::Error {
    use crate::storage::ReadError;
    match &error {
        ReadError::Io { .. } => anyhow::Error::new(error),
        ReadError::Corrupt { .. } => {
            let message = error.to_string();
            let ReadError::Corrupt { source, .. } = error else { return error.into() };
            Failure::bad_data(message).code("damaged").because(source).into()
        }
    }
}

/// Reads what a data directory is made of; a running node may change it meanwhile, then it looks again.
/// # Errors
/// Exit 65 for a damaged manifest, 66 for a directory that holds no store.
pub(super) fn contents(dir: &Path) -> anyhow::Result<Contents> {
    let mut looks = 1;
    loop {
        let contents = contents_once(dir)?;
        let gone = |(_, opened): &(TableMeta, Opened)| {
            opened.as_ref().is_err_and(|error| crate::cli::failure::exit_of(error) == Exit::NoInput)
        };
        if looks == LOOKS_MAX || !contents.tables.iter().any(gone) {
            return Ok(contents);
        }
        looks += 1;
    }
}

fn contents_once(dir: &Path) -> anyhow::Result<Contents> {
    let directory = Directory::new(dir);
    let state = read_state(&Real, &directory.manifest)
        .map_err(|error| Failure::bad_data("cannot read the manifest").because(error))?;
    let Some((state, _)) = state else {
        let message = format!("{} holds no store", dir.display());
        return Err(Failure::new(Exit::NoInput, message).into());
    };
    let mut metas: Vec<TableMeta> = state.tables.into_values().collect();
    // Of one key a lower level is newer; within level 0 the higher number.
    metas.sort_by_key(|meta| (meta.level, std::cmp::Reverse(meta.number)));
    let tables = metas
        .into_iter()
        .map(|meta| {
            let opened = open_table(&directory.table(meta.number));
            (meta, opened)
        })
        .collect();
    let mut segments: Vec<PathBuf> = std::fs::read_dir(&directory.log)
        .with_context(|| format!("reading {}", directory.log.display()))?
        .filter_map(|entry| entry.ok().map(|entry| entry.path()))
        .filter(|path| path.extension().is_some_and(|extension| extension == "log"))
        .collect();
    segments.sort();
    let floor = state.floor.segment;
    segments.retain(|path| segment_number(path).is_none_or(|number| number >= floor));
    let identity = Identity::read(&Real, dir).ok();
    Ok(Contents { tables, segments, identity })
}

fn segment_number(path: &Path) -> Option<u64> {
    path.file_stem()?.to_str()?.parse().ok()
}

/// Refuses to write into a directory that a node runs on.
/// # Errors
/// Exit 75 naming the holder; 73 where the directory cannot be used.
pub(super) fn lock_for_writing(dir: &Path) -> anyhow::Result<DirLock> {
    std::fs::create_dir_all(dir).map_err(|error| {
        let message = format!("cannot create {}", dir.display());
        Failure::new(Exit::CannotCreate, message).because(error)
    })?;
    DirLock::take(&Real, dir, std::process::id()).map_err(|error| {
        let exit = match &error {
            LockError::Held { .. } => Exit::TryAgain,
            LockError::Io { .. } => Exit::CannotCreate,
        };
        Failure::new(exit, error.to_string()).code("locked").into()
    })
}
