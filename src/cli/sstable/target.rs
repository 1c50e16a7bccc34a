//! What a command line names: a stray SSTable, a node's data directory, or a directory of SSTables that `build` or
//! `compact` wrote. One way of opening them and of walking their entries.

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};

use anyhow::Context as _;

use crate::cli::exit::Exit;
use crate::cli::failure::Failure;
use crate::cli::json::Object;
use crate::cli::options::Common;
use crate::cli::records::{StoredLine, parse_stored};
use crate::node;
use crate::storage::identity::{Identity, LOCK};
use crate::storage::offline::{
    BadBlock, DirectoryView, OfflineError, PlacedEntry, TableFile, holds_store, merged_tables,
};
use crate::storage::table::Entry;
use crate::storage::vfs::Real;
use crate::storage::{DirLock, LockError};

use super::entry::Names;
use super::report::{Report, of_offline};

/// The header of the records that a directory's tables were built from: their names of nodes are known by it.
pub(super) const HEADER_FILE: &str = "header.json";
/// What SSTables are called.
const TABLE_SUFFIX: &str = "sst";

/// Something with entries.
pub(super) enum Target {
    /// One SSTable.
    Table(TableFile),
    /// SSTables without a manifest, by number, the newest entry of a key counting.
    Tables(PathBuf, Vec<TableFile>),
    /// A node's data directory.
    Store(PathBuf, Box<DirectoryView>),
}

/// Entries in order, past damage.
pub(super) type Entries<'a> = Box<dyn Iterator<Item = Result<Entry, BadBlock>> + 'a>;

impl Target {
    /// Opens what stands at `path`; `report` hears of what is damaged in a directory.
    /// # Errors
    /// Exit 65 for something else, 66 for nothing.
    pub(super) fn open(path: &Path, report: &mut Report<'_>) -> anyhow::Result<Self> {
        if !path.is_dir() {
            return Ok(Self::Table(open_table(path)?));
        }
        let tables = if holds_store(&Real, path) { Vec::new() } else { table_paths(path)? };
        if tables.is_empty() {
            let view = DirectoryView::open(&Real, path).map_err(of_offline)?;
            report.log_of(&view);
            return Ok(Self::Store(path.to_owned(), Box::new(view)));
        }
        let mut opened = Vec::new();
        for table in tables {
            match TableFile::open(&Real, &table) {
                Ok(table) => opened.push(table),
                Err(OfflineError::BadBlock(bad)) => report.block(&bad),
                Err(error) => return Err(of_offline(error)),
            }
        }
        Ok(Self::Tables(path.to_owned(), opened))
    }

    /// Its entries: of a data directory the live ones, else all, deletes included.
    pub(super) fn entries(&self) -> Entries<'_> {
        match self {
            Self::Table(table) => Box::new(merged_tables(vec![table.clone()])),
            Self::Tables(_, tables) => Box::new(merged_tables(tables.clone())),
            Self::Store(_, view) => Box::new(view.live()),
        }
    }

    /// All entries of a key that stand somewhere, the newest first.
    pub(super) fn places(&self, key: &[u8]) -> Vec<Result<PlacedEntry, BadBlock>> {
        match self {
            Self::Table(table) => table.place(key).transpose().into_iter().collect(),
            Self::Tables(_, tables) => {
                tables.iter().rev().filter_map(|table| table.place(key).transpose()).collect()
            }
            Self::Store(_, view) => view.places(key).collect(),
        }
    }

    /// Bytes of keys and values in its tables, for a progress bar.
    pub(super) fn bytes(&self) -> u64 {
        let of = |table: &TableFile| table.properties().key_bytes + table.properties().value_bytes;
        match self {
            Self::Table(table) => of(table),
            Self::Tables(_, tables) => tables.iter().map(of).sum(),
            Self::Store(_, view) => {
                view.tables().filter_map(|table| table.opened().ok()).map(of).sum()
            }
        }
    }

    /// What is known of the cluster that its entries are from.
    pub(super) fn origin(&self) -> Source {
        match self {
            Self::Table(table) => table.path().parent().map_or_else(Source::default, beside),
            Self::Tables(dir, _) => beside(dir),
            Self::Store(dir, view) => of_store(dir, view),
        }
    }
}

/// What is known of the cluster that entries are from.
#[derive(Default)]
pub(super) struct Source {
    /// Names of nodes.
    pub(super) names: Names,
    /// The node whose directory it is.
    pub(super) identity: Option<Identity>,
    /// The header of the records that the tables were built from.
    pub(super) header: Option<Vec<u8>>,
}

impl Source {
    /// A header's fields.
    pub(super) fn describe(&self, header: Object, path: &Path) -> Object {
        let header = match &self.identity {
            Some(identity) => {
                header.field("cluster", identity.cluster.to_string()).field("node", &identity.name)
            }
            None => header,
        };
        let actor = |object: Object, (id, name): (_, &String)| object.field(name, format!("{id}"));
        let actors = self.names.iter().fold(Object::bare(), actor);
        header.field("source", path.display().to_string()).object("actors", actors)
    }
}

/// Opens an SSTable.
/// # Errors
/// Exit 65 for one that is none, 66 for a missing file.
pub(super) fn open_table(path: &Path) -> anyhow::Result<TableFile> {
    TableFile::open(&Real, path).map_err(of_offline)
}

/// The SSTables in a directory, by name.
/// # Errors
/// The system's.
pub(super) fn table_paths(dir: &Path) -> anyhow::Result<Vec<PathBuf>> {
    let reading = || format!("reading {}", dir.display());
    let mut paths = Vec::new();
    for entry in fs::read_dir(dir).with_context(reading)? {
        let path = entry.with_context(reading)?.path();
        if path.extension().is_some_and(|extension| extension == TABLE_SUFFIX) {
            paths.push(path);
        }
    }
    paths.sort();
    Ok(paths)
}

/// What a table's directory says: the header that `build` left there, or the node's directory that it is part of.
fn beside(dir: &Path) -> Source {
    if let Ok(header) = fs::read(dir.join(HEADER_FILE))
        && let Ok(StoredLine::Header(names)) = parse_stored(&header)
    {
        return Source { names, identity: None, header: Some(header) };
    }
    let dir = if dir.as_os_str().is_empty() { Path::new(".") } else { dir };
    let Ok(root) = dir.join("..").canonicalize() else { return Source::default() };
    if !holds_store(&Real, &root) {
        return Source::default();
    }
    match DirectoryView::open(&Real, &root) {
        Ok(view) => of_store(&root, &view),
        // It is the table that was asked for.
        Err(_) => Source::default(),
    }
}

fn of_store(dir: &Path, view: &DirectoryView) -> Source {
    let register = view.get(&node::register_key()).ok().flatten().and_then(|found| found.value);
    let mut names = register.and_then(|bytes| node::member_names(&bytes).ok()).unwrap_or_default();
    let identity = Identity::read(&Real, dir).ok();
    if let Some(identity) = &identity {
        names.insert(identity.node, identity.name.clone());
    }
    Source { names, identity, header: None }
}

/// A directory to write into.
pub(super) struct Output {
    /// Where.
    pub(super) dir: PathBuf,
    _locks: Vec<DirLock>,
}

impl Output {
    /// [`Self::open`], or nothing for a dry run.
    /// # Errors
    /// As there.
    pub(super) fn unless(is_dry_run: bool, dir: &Path) -> anyhow::Result<Option<Self>> {
        (!is_dry_run).then(|| Self::open(dir)).transpose()
    }

    /// Creates and locks it; refuses one that a node runs on, and one inside of it.
    /// # Errors
    /// Exit 75 naming the holder; 73 where the directory cannot be used.
    pub(super) fn open(dir: &Path) -> anyhow::Result<Self> {
        fs::create_dir_all(dir).map_err(|error| cannot_create(dir, error))?;
        let whole = dir.canonicalize().map_err(|error| cannot_create(dir, error))?;
        let above = whole.ancestors().skip(1).take(2).filter(|above| above.join(LOCK).exists());
        let locks = above.chain([whole.as_path()]).map(lock).collect::<Result<_, _>>()?;
        Ok(Self { dir: dir.to_owned(), _locks: locks })
    }

    /// A name in it that is still free.
    /// # Errors
    /// Exit 73 where it is taken.
    pub(super) fn free(&self, name: &str) -> anyhow::Result<PathBuf> {
        free(&self.dir, name)
    }

    /// The number for the next table in it.
    /// # Errors
    /// Those of reading it.
    pub(super) fn next_number(&self) -> anyhow::Result<u64> {
        next_number(&self.dir)
    }
}

/// A name in a directory that is still free.
/// # Errors
/// Exit 73 where it is taken.
pub(super) fn free(dir: &Path, name: &str) -> anyhow::Result<PathBuf> {
    let path = dir.join(name);
    if path.exists() {
        let message = format!("{} is there already", path.display());
        return Err(Failure::new(Exit::CannotCreate, message).into());
    }
    Ok(path)
}

/// The number for the next table in a directory, which need not be there.
/// # Errors
/// Those of reading it.
pub(super) fn next_number(dir: &Path) -> anyhow::Result<u64> {
    let paths = if dir.exists() { table_paths(dir)? } else { Vec::new() };
    let numbers = paths.iter().filter_map(|path| path.file_stem()?.to_str()?.parse::<u64>().ok());
    Ok(numbers.max().unwrap_or(0) + 1)
}

fn lock(dir: &Path) -> anyhow::Result<DirLock> {
    DirLock::take(&Real, dir, std::process::id()).map_err(|error| {
        let exit = match &error {
            LockError::Held { .. } => Exit::TryAgain,
            LockError::Io { .. } => Exit::CannotCreate,
        };
        Failure::new(exit, error.to_string()).code("locked").into()
    })
}

fn cannot_create(dir: &Path, error: std::io::Error) -> anyhow::Error {
    let message = format!("cannot create {}", dir.display());
    Failure::new(Exit::CannotCreate, message).because(error).into()
}

/// Runs a command over several paths: one that cannot be read is named, and the others follow; a single one ends it.
/// # Errors
/// Those of `run` for a single path, and of a closed output.
pub(super) fn each(
    paths: &[PathBuf],
    report: &mut Report<'_>,
    mut run: impl FnMut(&Path, &mut Report<'_>) -> anyhow::Result<()>,
) -> anyhow::Result<()> {
    for path in paths {
        match run(path, report) {
            Ok(()) => {}
            Err(error) if paths.len() == 1 || is_of_output(&error) => return Err(error),
            Err(error) => report.error(&error),
        }
    }
    Ok(())
}

/// Where the output is gone, the other files need not be read.
fn is_of_output(error: &anyhow::Error) -> bool {
    let io = error.chain().find_map(|cause| cause.downcast_ref::<std::io::Error>());
    io.is_some_and(|io| io.kind() == std::io::ErrorKind::BrokenPipe)
}

/// Says on stderr, or as an object on stdout, what was written.
/// # Errors
/// Those of `out`.
pub(super) fn tell_written(
    object: Object,
    text: &str,
    common: &Common,
    out: &mut dyn Write,
) -> std::io::Result<()> {
    if common.json {
        writeln!(out, "{}", object.finish())
    } else if common.quiet {
        Ok(())
    } else {
        writeln!(std::io::stderr().lock(), "kvsstable: {text}")
    }
}
