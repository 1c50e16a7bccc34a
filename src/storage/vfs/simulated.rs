//! A disk in memory that fails on demand: deterministic from a seed.
//!
//! It keeps two states. What a running process sees is *live*; what a power loss leaves is at least what was synced:
//! bytes by [`VfsFile::sync_data`], names by [`Vfs::sync_dir`] of their directory. What happens to the rest is the
//! caller's choice ([`Unsynced`]). Every call is numbered, from 0, so that a test can crash at each of them.
//!
//! Handles and locks from before a crash are dead after it. A [`Disk`] is a cheap handle: clones are the same disk.

mod inode;
mod names;

use std::collections::BTreeMap;
use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rand::SeedableRng as _;
use rand_chacha::ChaCha8Rng;

use super::{LockFailure, LockGuard, Vfs, VfsFile, sync_failure};
use inode::Inode;
use names::{Names, Node};

/// What a power loss does to bytes and names that were not synced.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unsynced {
    /// All of it is gone.
    Dropped,
    /// All of it is there, and as little synced as before: the process died, the machine did not.
    Kept,
    /// Of each file any subset of its 512-byte sectors and any length between; of the changed names any subset.
    Torn,
}

/// What a call can be told to fail with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// `EIO`.
    Io,
    /// `ENOSPC`.
    Full,
}

/// How often a disk failed as it was told to.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Failures {
    /// Calls that failed with `EIO`.
    pub io: u64,
    /// Calls that found no room, or were told so.
    pub full: u64,
    /// Syncs that failed and took what was to be synced with them.
    pub syncs: u64,
    /// Crashes at a call.
    pub crashes: u64,
}

/// A simulated disk.
#[derive(Clone)]
pub struct Disk {
    state: Arc<Mutex<State>>,
}

/// Whether syncing this file or directory does nothing.
pub type Lies = Arc<dyn Fn(&Path) -> bool + Send + Sync>;

/// Called with a copy of the disk before each call; the copy is independent.
pub type Observer = Box<dyn FnMut(Disk) + Send>;

struct State {
    names: Names,
    inodes: BTreeMap<u64, Inode>,
    next_inode: u64,
    calls: u64,
    crash_at: Option<u64>,
    faults: BTreeMap<u64, Fault>,
    crashed: bool,
    /// Raised by each restart: handles and locks of an older one are dead.
    generation: u64,
    locks: BTreeMap<PathBuf, String>,
    capacity: Option<u64>,
    lies: Option<Lies>,
    syncs: u64,
    failing_sync: Option<u64>,
    failures: Failures,
    random: ChaCha8Rng,
    observer: Option<Observer>,
}

struct DiskFile {
    disk: Disk,
    inode: u64,
    generation: u64,
    /// Keeps the inode alive while the file is open.
    _handle: Arc<()>,
}

struct DiskLock {
    disk: Disk,
    path: PathBuf,
    generation: u64,
}

impl Disk {
    /// An empty disk of unlimited size; `seed` decides what a torn power loss keeps.
    pub fn new(seed: u64) -> Self {
        Self::from_state(State {
            names: Names::default(),
            inodes: BTreeMap::new(),
            next_inode: 0,
            calls: 0,
            crash_at: None,
            faults: BTreeMap::new(),
            crashed: false,
            generation: 0,
            locks: BTreeMap::new(),
            capacity: None,
            lies: None,
            syncs: 0,
            failing_sync: None,
            failures: Failures::default(),
            random: ChaCha8Rng::seed_from_u64(seed),
            observer: None,
        })
    }

    /// How many calls were made so far; the next one has this number.
    pub fn calls(&self) -> u64 {
        self.state().calls
    }

    /// The call of this number and all later ones fail, until [`Disk::restart`].
    pub fn crash_at(&self, call: u64) {
        self.state().crash_at = Some(call);
    }

    /// The call of this number fails with `fault`.
    pub fn fail_at(&self, call: u64, fault: Fault) {
        self.state().faults.insert(call, fault);
    }

    /// How many syncs of files and directories were tried so far.
    pub fn syncs(&self) -> u64 {
        self.state().syncs
    }

    /// The sync of this number fails, and takes with it what it should have made durable, as a kernel does that marks
    /// pages clean which it could not write: no later sync of the same brings it back.
    pub fn fail_sync(&self, sync: u64) {
        self.state().failing_sync = Some(sync);
    }

    /// No call and no sync fails any more that was told to and has not yet.
    pub fn forget_faults(&self) {
        let mut state = self.state();
        state.faults.clear();
        state.failing_sync = None;
    }

    /// How many bytes fit; `None` lifts the limit.
    pub fn set_capacity(&self, bytes: Option<u64>) {
        self.state().capacity = bytes;
    }

    /// Bytes in use.
    pub fn used(&self) -> u64 {
        self.state().used()
    }

    /// From now on files and directories for which `lies` says so are not synced, though the call succeeds.
    pub fn lie_about_syncs(&self, lies: Lies) {
        self.state().lies = Some(lies);
    }

    /// How often it failed as it was told to, since it is there.
    pub fn failures(&self) -> Failures {
        self.state().failures
    }

    /// Whether a crash told by [`Disk::crash_at`] happened.
    pub fn crashed(&self) -> bool {
        self.state().crashed
    }

    /// The machine comes back after [`Disk::crash_at`]: as [`Disk::power_loss`].
    pub fn restart(&self, unsynced: Unsynced) {
        self.power_loss(unsynced);
    }

    /// The machine loses power now and comes back: every handle and lock is dead, `unsynced` says what is left. Calls
    /// work again, planned crashes and faults are forgotten.
    pub fn power_loss(&self, unsynced: Unsynced) {
        let mut state = self.state();
        state.generation += 1;
        state.crashed = false;
        state.crash_at = None;
        state.faults.clear();
        state.failing_sync = None;
        state.locks.clear();
        let State { names, inodes, random, .. } = &mut *state;
        names.lose_power(unsynced, random);
        for inode in inodes.values_mut() {
            inode.lose_power(unsynced, random);
        }
        state.sweep();
    }

    /// An independent copy, as a restart after a kill would find it: the same bytes and names, synced or not; no open
    /// file, no lock, no plan. Its chance is drawn from `seed`.
    #[must_use]
    pub fn fork(&self, seed: u64) -> Self {
        self.state().fork(seed)
    }

    /// Calls `observer` with a copy of the disk before each call; `None` ends that.
    pub fn observe(&self, observer: Option<Observer>) {
        self.state().observer = observer;
    }

    /// Inverts one bit of a file, synced bytes included.
    /// # Errors
    /// `NotFound`, or `InvalidInput` past the end.
    pub fn flip_bit(&self, path: &Path, offset: u64, bit: u8) -> io::Result<()> {
        self.state().existing(path)?.flip_bit(offset, bit)
    }

    /// Cuts a file to `length` bytes, durably.
    /// # Errors
    /// `NotFound`.
    pub fn truncate(&self, path: &Path, length: u64) -> io::Result<()> {
        self.state().existing(path)?.truncate(length);
        Ok(())
    }

    /// Every file's path and length.
    pub fn files(&self) -> Vec<(PathBuf, u64)> {
        let state = self.state();
        let length = |inode: &u64| state.inodes.get(inode).map_or(0, Inode::length);
        state.names.files().map(|(path, inode)| (path.clone(), length(&inode))).collect()
    }

    fn from_state(state: State) -> Self {
        Self { state: Arc::new(Mutex::new(state)) }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Counts a call, and fails it if so planned.
    fn enter(&self) -> io::Result<MutexGuard<'_, State>> {
        let mut state = self.state();
        let call = state.calls;
        if let Some(mut observer) = state.observer.take() {
            let copy = state.fork(call);
            observer(copy);
            state.observer = Some(observer);
        }
        state.calls += 1;
        if !state.crashed && state.crash_at.is_some_and(|crash| crash <= call) {
            state.crashed = true;
            state.failures.crashes += 1;
        }
        if state.crashed {
            return Err(io::Error::other("simulated crash"));
        }
        match state.faults.remove(&call) {
            Some(Fault::Io) => {
                state.failures.io += 1;
                Err(io::Error::other("simulated input/output error"))
            }
            Some(Fault::Full) => {
                state.failures.full += 1;
                Err(io::ErrorKind::StorageFull.into())
            }
            None => Ok(state),
        }
    }

    /// Counts a sync; when it is to fail, `lose` says what it takes with it.
    fn enter_sync(&self, lose: impl FnOnce(&mut State)) -> io::Result<MutexGuard<'_, State>> {
        let entered = self.enter().map(drop);
        let mut state = self.state();
        let sync = state.syncs;
        state.syncs += 1;
        let planned = state.failing_sync == Some(sync);
        match entered {
            Ok(()) if !planned => Ok(state),
            // After a crash there is nobody to tell.
            Err(error) if state.crashed => Err(error),
            failed => {
                lose(&mut state);
                state.failures.syncs += 1;
                Err(failed
                    .map_or_else(sync_failure, |()| io::Error::other("simulated sync failure")))
            }
        }
    }

    fn file(&self, state: &State, inode: u64) -> io::Result<Arc<dyn VfsFile>> {
        let handle = state.inodes.get(&inode).ok_or(io::ErrorKind::NotFound)?.handle();
        Ok(Arc::new(DiskFile {
            disk: self.clone(),
            inode,
            generation: state.generation,
            _handle: handle,
        }))
    }
}

impl State {
    fn is_lied_about(&self, path: &Path) -> bool {
        self.lies.as_ref().is_some_and(|lies| lies(path))
    }

    fn used(&mut self) -> u64 {
        self.sweep();
        self.inodes.values().map(Inode::size).sum()
    }

    fn existing(&mut self, path: &Path) -> io::Result<&mut Inode> {
        let inode = self.names.file(path)?;
        self.inodes.get_mut(&inode).ok_or_else(|| io::ErrorKind::NotFound.into())
    }

    /// Forgets files that no name, no unsynced change and no handle refers to. What is in use is counted after that alone.
    fn sweep(&mut self) {
        let named = self.names.inodes();
        self.inodes.retain(|id, inode| named.contains(id) || inode.is_open());
    }

    fn fork(&self, seed: u64) -> Disk {
        Disk::from_state(State {
            names: self.names.clone(),
            inodes: self.inodes.iter().map(|(id, inode)| (*id, inode.fork())).collect(),
            next_inode: self.next_inode,
            calls: 0,
            crash_at: None,
            faults: BTreeMap::new(),
            crashed: false,
            generation: self.generation,
            locks: BTreeMap::new(),
            capacity: self.capacity,
            lies: self.lies.clone(),
            syncs: 0,
            failing_sync: None,
            failures: Failures::default(),
            random: ChaCha8Rng::seed_from_u64(seed),
            observer: None,
        })
    }
}

impl fmt::Debug for Disk {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Disk").finish_non_exhaustive()
    }
}

impl Vfs for Disk {
    fn create(&self, path: &Path) -> io::Result<Arc<dyn VfsFile>> {
        let mut state = self.enter()?;
        let inode = state.next_inode;
        state.next_inode += 1;
        // An emptied file is a new one: what its name showed before stays until the name is synced.
        state.names.link(path, Node::File(inode))?;
        state.inodes.insert(inode, Inode::default());
        self.file(&state, inode)
    }

    fn open(&self, path: &Path) -> io::Result<Arc<dyn VfsFile>> {
        let state = self.enter()?;
        self.file(&state, state.names.file(path)?)
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.enter()?.names.rename(from, to)
    }

    fn link(&self, from: &Path, to: &Path) -> io::Result<()> {
        let mut state = self.enter()?;
        if state.names.contains(to) {
            return Err(io::ErrorKind::AlreadyExists.into());
        }
        let inode = state.names.file(from)?;
        state.names.link(to, Node::File(inode))
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        let mut state = self.enter()?;
        state.names.file(path)?;
        state.names.unlink(path);
        Ok(())
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<String>> {
        self.enter()?.names.list(dir)
    }

    fn create_dir(&self, path: &Path) -> io::Result<()> {
        let mut state = self.enter()?;
        if state.names.contains(path) {
            return Err(io::ErrorKind::AlreadyExists.into());
        }
        state.names.link(path, Node::Directory)
    }

    fn remove_dir(&self, path: &Path) -> io::Result<()> {
        self.enter()?.names.remove_dir(path)
    }

    fn exists(&self, path: &Path) -> io::Result<bool> {
        Ok(self.enter()?.names.contains(path))
    }

    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        let mut state = self.enter_sync(|state| state.names.lose(dir))?;
        if !state.is_lied_about(dir) && state.names.sync(dir) {
            state.sweep();
        }
        Ok(())
    }

    fn lock(&self, path: &Path, holder: &str) -> Result<Box<dyn LockGuard>, LockFailure> {
        let mut state = self.enter()?;
        if let Some(holder) = state.locks.get(path) {
            return Err(LockFailure::Held { holder: holder.clone() });
        }
        state.locks.insert(path.to_owned(), holder.to_owned());
        Ok(Box::new(DiskLock {
            disk: self.clone(),
            path: path.to_owned(),
            generation: state.generation,
        }))
    }

    fn free_space(&self, _: &Path) -> io::Result<u64> {
        let mut state = self.enter()?;
        Ok(match state.capacity {
            Some(capacity) => capacity.saturating_sub(state.used()),
            None => u64::MAX,
        })
    }
}

impl DiskFile {
    fn enter(&self) -> io::Result<MutexGuard<'_, State>> {
        let state = self.disk.enter()?;
        self.check_generation(&state).map(|()| state)
    }

    fn check_generation(&self, state: &State) -> io::Result<()> {
        if state.generation == self.generation {
            Ok(())
        } else {
            Err(io::Error::other("a handle from before the simulated crash"))
        }
    }

    fn inode<'a>(&self, state: &'a mut State) -> io::Result<&'a mut Inode> {
        state.inodes.get_mut(&self.inode).ok_or_else(|| io::ErrorKind::NotFound.into())
    }

    /// Lets the file take up to `bytes` in all, if the disk has them.
    fn admit(&self, state: &mut State, bytes: u64) -> io::Result<()> {
        let more = bytes.saturating_sub(self.inode(state)?.size());
        let Some(capacity) = state.capacity.filter(|_| more > 0) else { return Ok(()) };
        if capacity < state.used() + more {
            state.failures.full += 1;
            return Err(io::ErrorKind::StorageFull.into());
        }
        Ok(())
    }
}

impl fmt::Debug for DiskFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DiskFile").field("inode", &self.inode).finish_non_exhaustive()
    }
}

impl VfsFile for DiskFile {
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        let mut state = self.enter()?;
        Ok(self.inode(&mut state)?.read(buffer, offset))
    }

    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        let mut state = self.enter()?;
        self.admit(&mut state, offset + bytes.len() as u64)?;
        self.inode(&mut state)?.write(bytes, offset);
        Ok(())
    }

    fn sync_data(&self) -> io::Result<()> {
        let mut state = self.disk.enter_sync(|state| {
            if let Some(inode) = state.inodes.get_mut(&self.inode) {
                inode.lose();
            }
        })?;
        self.check_generation(&state)?;
        let is_this =
            |(path, inode): (&PathBuf, u64)| inode == self.inode && state.is_lied_about(path);
        let lied_about = state.names.files().any(is_this);
        if !lied_about {
            self.inode(&mut state)?.sync();
        }
        Ok(())
    }

    fn length(&self) -> io::Result<u64> {
        let mut state = self.enter()?;
        Ok(self.inode(&mut state)?.length())
    }

    fn preallocate(&self, bytes: u64) -> io::Result<()> {
        let mut state = self.enter()?;
        self.admit(&mut state, bytes)?;
        self.inode(&mut state)?.preallocate(bytes);
        Ok(())
    }

    fn set_length(&self, length: u64) -> io::Result<()> {
        let mut state = self.enter()?;
        self.inode(&mut state)?.set_length(length);
        Ok(())
    }
}

impl LockGuard for DiskLock {}

impl Drop for DiskLock {
    fn drop(&mut self) {
        let mut state = self.disk.state();
        if state.generation == self.generation {
            state.locks.remove(&self.path);
        }
    }
}

impl fmt::Debug for DiskLock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DiskLock").field("path", &self.path).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests;
