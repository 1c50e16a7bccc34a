//! Recovery: from what a crash left to a store that serves.
//!
//! 1. `CURRENT` leads to the manifest, the manifest to tables and to the floor of the log.
//! 2. The tables are opened. One that is damaged stays, its keys cannot be read; one that is missing is an error.
//! 3. The log is replayed from the floor: [`replay`].
//! 4. What was replayed is written to new tables, synced. Nothing of the old log is relied on any more: it may have been
//!    read from the system's cache, where a failed sync left it.
//! 5. A new manifest names old and new tables, and a floor at the end of what was replayed. From `CURRENT` naming it on,
//!    the store is the new one; before, a crash changes nothing, and the next start does all this again.
//! 6. What no longer counts is swept. A log that was cut has been linked into `damaged/` before, with what came behind,
//!    and so has a damaged table that a merge replaced right before the process died.
//!
//! Damage is found in 1 to 3, before anything on the disk is changed.

mod gathered;
mod replay;

use std::collections::BTreeSet;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::Serialize;

use super::directory::{
    Directory, keep_damaged, log_name, log_number, manifest_number, table_number,
};
use super::levels::{Levels, Live};
use super::log::writer::Order;
use super::log::{Header, LogPosition, Origin};
use super::manifest::reader::{ReadManifestError, read_state};
use super::manifest::writer::ManifestWriter;
use super::manifest::{State, TableMeta};
use super::options::{Options, OptionsError, SyncMode};
use super::space::{Space, Writes};
use super::store::{Parts, Store, make_directories, sync_parent};
use super::table::ReadError;
use super::vfs::{TEMPORARY_SUFFIX, Vfs};
use replay::{Replay, Replayed};

/// Told of each change replayed: the key, and the value or `None` for a delete.
pub type Observe<'a> = dyn FnMut(&[u8], Option<&[u8]>) + 'a;

/// What a start found and did.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Recovery {
    /// There was no store; it was founded.
    pub founded: bool,
    /// Log records replayed.
    pub records: u64,
    /// Bytes of log replayed.
    pub bytes: u64,
    /// The end of the log that was cut off, if any.
    pub cut: Option<Cut>,
    /// Where the log ends; the next write comes behind.
    pub end: LogPosition,
    /// Tables that cannot be read, and why.
    pub damaged: Vec<DamagedFile>,
}

/// The torn end of a log, of which nothing says that it was ever acknowledged.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Cut {
    /// The segment; it is kept in `damaged/`.
    pub file: PathBuf,
    /// Byte offset of the first bad record.
    pub offset: u64,
    /// Bytes from there to the file's end.
    pub bytes: u64,
    /// What is wrong there.
    pub reason: String,
}

/// A file that cannot be read.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct DamagedFile {
    /// Which.
    pub file: PathBuf,
    /// Why.
    pub reason: String,
}

/// Why a store was not opened. Nothing on the disk was changed by an error but `Io`.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The options make no sense.
    #[error("bad options")]
    Options(#[from] OptionsError),
    /// The system's error.
    #[error("cannot use {}", path.display())]
    Io {
        /// The file or directory.
        path: PathBuf,
        /// The cause.
        source: io::Error,
    },
    /// What was durable is not as it was written.
    #[error("{}: damaged at byte {offset}: {reason}; `kvsstable salvage {} -o DIR` writes what is left to DIR", file.display(), file.display())]
    Damaged {
        /// The file.
        file: PathBuf,
        /// Where.
        offset: u64,
        /// What is wrong.
        reason: String,
    },
    /// A file that the store is made of is not there.
    #[error("{} is missing", file.display())]
    Missing {
        /// The file.
        file: PathBuf,
    },
}

impl Store {
    /// Opens the store in `dir`, founding it where there is none, and brings back what was durable.
    ///
    /// `replay` is called with the key and value (`None` for a delete) of each change in the log that is in no table yet,
    /// in the order of their writes. The caller holds the directory's lock.
    /// # Errors
    /// [`OpenError`].
    pub fn open(
        vfs: Arc<dyn Vfs>,
        dir: &Path,
        options: Options,
        replay: &mut Observe<'_>,
    ) -> Result<(Self, Recovery), OpenError> {
        options.validate()?;
        let directory = Directory::new(dir);
        let at = |path: &Path| {
            let path = path.to_owned();
            move |source| OpenError::Io { path, source }
        };
        make_directories(&*vfs, &directory)
            .and_then(|()| sync_parent(&*vfs, dir))
            .map_err(at(dir))?;
        let found = read_state(&*vfs, &directory.manifest).map_err(OpenError::from)?;
        let founded = found.is_none();
        if founded {
            check_nothing_there(&*vfs, &directory)?;
        }
        let (state, manifest_number) = found.unwrap_or_else(|| (State::new(), 0));
        let tables = open_tables(&*vfs, &directory, &state)?;
        let next_number = next_number(&*vfs, &directory, &state).map_err(at(dir))?;
        let space = Space::new(Arc::clone(&vfs), &directory, options.reserve_bytes);
        let replayed =
            Replay::new(&vfs, &directory, &options, &space, next_number).run(&state, replay)?;
        let recovery = describe(founded, &replayed, &tables);
        for file in replayed.cut.iter().map(|cut| &cut.file).chain(&replayed.dropped) {
            keep_damaged(&*vfs, &directory, file).map_err(at(file))?;
        }
        keep_damaged_tables(&*vfs, &directory, &state).map_err(at(&directory.damaged))?;
        let state = after_replay(state, &replayed, options.sync);
        let next_number = state.next_number;
        let new = |number| {
            ManifestWriter::create(
                Arc::clone(&vfs),
                &directory.manifest,
                number,
                state.clone(),
                options.manifest_edits_bytes,
            )
        };
        let manifest = space
            .with_reserve(Writes::Log, || new(manifest_number + 1))
            .map_err(at(&directory.manifest))?;
        let levels = Levels::new(tables.into_iter().chain(replayed.tables));
        sweep(&*vfs, &directory, manifest.state(), manifest_number + 1).map_err(at(dir))?;
        space.check().map_err(at(dir))?;
        let parts = Parts { vfs, directory, options, space, manifest, levels, next_number };
        Ok((Self::from_parts(parts), recovery))
    }
}

impl From<ReadManifestError> for OpenError {
    fn from(error: ReadManifestError) -> Self {
        match error {
            ReadManifestError::Io { file, source } if source.kind() == io::ErrorKind::NotFound => {
                Self::Missing { file }
            }
            ReadManifestError::Io { file: path, source } => Self::Io { path, source },
            ReadManifestError::Damaged { file, offset, reason } => {
                Self::Damaged { file, offset, reason }
            }
        }
    }
}

/// Without `CURRENT` there must be nothing that a store leaves once it served: only a founding that was cut short.
fn check_nothing_there(vfs: &dyn Vfs, directory: &Directory) -> Result<(), OpenError> {
    let missing =
        || OpenError::Missing { file: directory.manifest.join(super::directory::CURRENT) };
    for dir in [&directory.log, &directory.tables, &directory.manifest] {
        let names = vfs.list(dir).map_err(|source| OpenError::Io { path: dir.clone(), source })?;
        let served = names.iter().any(|name| {
            let later = manifest_number(name).is_some_and(|number| number != 1);
            later || log_number(name).is_some() || table_number(name).is_some()
        });
        if served {
            return Err(missing());
        }
    }
    Ok(())
}

fn open_tables(
    vfs: &dyn Vfs,
    directory: &Directory,
    state: &State,
) -> Result<Vec<Live>, OpenError> {
    let open = |meta: &TableMeta| {
        let file = directory.table(meta.number);
        match Live::open(vfs, &file, meta.clone()) {
            Ok(live) => Ok(live),
            Err(ReadError::Io { source, .. }) if source.kind() == io::ErrorKind::NotFound => {
                Err(OpenError::Missing { file })
            }
            Err(ReadError::Io { file: path, source, .. }) => Err(OpenError::Io { path, source }),
            Err(ReadError::Corrupt { file, offset, source, .. }) => {
                Err(OpenError::Damaged { file, offset, reason: source.to_string() })
            }
        }
    };
    state.tables.values().map(open).collect()
}

/// Above every number ever used: files that an unfinished step left have one that no manifest knows.
fn next_number(vfs: &dyn Vfs, directory: &Directory, state: &State) -> io::Result<u64> {
    let number = |name: &String| {
        let name = name.strip_suffix(TEMPORARY_SUFFIX).unwrap_or(name);
        table_number(name).or_else(|| log_number(name))
    };
    // A log that was set aside keeps its number: its first name may have been lost.
    let dirs = [&directory.tables, &directory.log, &directory.damaged];
    let names = dirs.map(|dir| vfs.list(dir)).into_iter().collect::<io::Result<Vec<_>>>()?;
    let found =
        names.iter().flatten().filter_map(number).max().unwrap_or(0).max(state.floor.segment);
    Ok(state.next_number.max(found.saturating_add(1)))
}

fn describe(founded: bool, replayed: &Replayed, tables: &[Live]) -> Recovery {
    let damaged = tables.iter().filter_map(|live| {
        let damage = live.table.as_ref().err()?;
        Some(DamagedFile { file: damage.file.clone(), reason: damage.error.to_string() })
    });
    Recovery {
        founded,
        records: replayed.records,
        bytes: replayed.bytes,
        cut: replayed.cut.clone(),
        end: replayed.end,
        damaged: damaged.collect(),
    }
}

/// The store once the replayed tables belong to it and the log begins anew.
fn after_replay(mut state: State, replayed: &Replayed, sync: SyncMode) -> State {
    for live in &replayed.tables {
        state.tables.insert(live.meta.number, live.meta.clone());
    }
    state.leaves.xor_all(&replayed.leaves);
    state.floor = Header {
        segment: replayed.next_number,
        first_position: replayed.end,
        origin: Origin::Written,
    };
    state.next_number = replayed.next_number + 1;
    state.synced = replayed.end;
    state.is_log_loose = Order::of(sync) == Order::Loose;
    state.set_aside.clear();
    state
}

/// Sets aside the damaged tables that a merge took the place of, and could not set aside itself before the process died.
/// The new manifest no longer tells of them; their first names are swept.
fn keep_damaged_tables(vfs: &dyn Vfs, directory: &Directory, state: &State) -> io::Result<()> {
    for file in state.set_aside.iter().map(|number| directory.table(*number)) {
        if vfs.exists(&file)? {
            keep_damaged(vfs, directory, &file)?;
        }
    }
    Ok(())
}

/// Removes what does not belong to the store: unfinished files, logs below the floor, tables and manifests not named.
/// Should a name come back after a crash, the next start removes it again.
fn sweep(vfs: &dyn Vfs, directory: &Directory, state: &State, manifest: u64) -> io::Result<()> {
    let unfinished = |name: &str| name.ends_with(TEMPORARY_SUFFIX);
    for name in vfs.list(&directory.log)? {
        if unfinished(&name) || log_number(&name).is_some_and(|number| number < state.floor.segment)
        {
            vfs.remove(&directory.log.join(name))?;
        }
    }
    let live: BTreeSet<u64> = state.tables.keys().copied().collect();
    for name in vfs.list(&directory.tables)? {
        if unfinished(&name) || table_number(&name).is_some_and(|number| !live.contains(&number)) {
            vfs.remove(&directory.tables.join(name))?;
        }
    }
    for name in vfs.list(&directory.manifest)? {
        if unfinished(&name) || manifest_number(&name).is_some_and(|number| number != manifest) {
            vfs.remove(&directory.manifest.join(name))?;
        }
    }
    Ok(())
}

/// The path of the segment with this number.
fn segment_path(directory: &Directory, number: u64) -> PathBuf {
    directory.log.join(log_name(number))
}
