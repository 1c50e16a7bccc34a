//! One LSM store per node, usable as a library on its own. Values are opaque bytes to it.
//!
//! ```text
//! write ─► log buffer ─► log/NNNNNNNN.log ─► fdatasync: durable
//!   └────► memtable ─ full ─► frozen ─ flush ─► sst/NNNNNNNN.sst, level 0 ─ merge ─► levels 1, 2, …
//! get   ─► memtable ─► frozen memtables ─► tables newest first: key range ─► bloom filter ─► index ─► block (cache, disk)
//! ```
//! What is where: formats in [`log`], [`table`], [`manifest`] and [`batch`], names in `directory`; the store and its jobs
//! in `store`, the start in `recovery`, which tables merge next in `plan`, what damage costs in `hole`; readers for files of a store that is not
//! running in [`offline`]; who owns a directory in [`identity`]; copies with a name in [`snapshots`].
//!
//! Invariants. After a crash at any instant the store holds every write at or below a position that
//! [`Store::durable`] had reached (a power loss: in the mode `always`, and up to each `durable` batch in the others), and
//! no half of a batch. Each sync that this takes stands in the table of `tests/mutation.rs`, with what is lost without it.
//! Nothing here reads a clock, starts a thread or decodes a value; every file access goes through
//! [`vfs::Vfs`].

pub mod batch;
mod cache;
mod checksum;
pub(crate) mod directory;
mod hole;
pub mod identity;
mod leaves;
mod levels;
pub mod log;
pub mod manifest;
mod memtable;
mod merge;
pub mod offline;
mod options;
mod plan;
mod recovery;
pub mod snapshots;
mod space;
mod store;
pub mod table;
#[cfg(test)]
mod tests;
pub mod vfs;

pub use batch::{BATCH_BYTES_MAX, WriteBatch};
pub use hole::Hole;
pub use identity::{DirLock, Identity, IdentityEpoch, IdentityError, LockError};
pub use log::LogPosition;
pub use options::{Compression, Options, OptionsError, ParseSyncModeError, SyncMode};
pub use plan::Plan;
pub use recovery::{Cut, DamagedFile, Observe, OpenError, Recovery};
pub use store::{
    Cached, Failed, Found, Job, JobError, Scan, ScanSlice, Scrubbed, SetAside, SnapshotError,
    Stats, Store, UnreadableKeys, WriteError,
};
pub use table::{BlockError, KeyRange, ReadError};
pub use vfs::Vfs;

/// Why a sync failed: see [`Failed`].
pub type SyncError = Failed;
