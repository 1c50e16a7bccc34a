//! Who a data directory belongs to, and who runs on it.
//!
//! `IDENTITY` is JSON for people to read, written once and replaced atomically when the epoch rises. `LOCK` holds the
//! process id of the daemon that has the directory; the lock itself is the system's and ends with the process.

use std::io;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::vfs::{LockFailure, LockGuard, Vfs, read_whole, write_atomically};
use crate::node_id::{ClusterId, NodeId};

/// Name of the identity's file.
pub const IDENTITY: &str = "IDENTITY";
/// Name of the lock's file.
pub const LOCK: &str = "LOCK";
/// Version of the identity's format that this code writes, and the only one it reads.
pub const VERSION: u32 = 1;
/// Largest identity read, in bytes.
const IDENTITY_BYTES_MAX: u64 = 64 << 10;

/// Who a data directory belongs to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Identity {
    /// The format's version: [`VERSION`].
    pub v: u32,
    /// The node.
    pub node: NodeId,
    /// Its name, unique in the cluster.
    pub name: String,
    /// The cluster.
    pub cluster: ClusterId,
    /// The cluster's name.
    pub cluster_name: String,
    /// The node's present epoch.
    pub epoch: IdentityEpoch,
    /// When the directory was made, RFC 3339.
    pub created: String,
}

/// An epoch as the file holds it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct IdentityEpoch {
    /// How many there were before.
    pub counter: u32,
    /// Chance, so that two of one counter differ.
    pub random: u32,
}

/// Why there is no identity.
#[derive(Debug, thiserror::Error)]
pub enum IdentityError {
    /// The directory has none: it is new, or not a node's.
    #[error("{} is missing: this directory is no node's", file.display())]
    Missing {
        /// Where it should be.
        file: PathBuf,
    },
    /// The file is not what a node wrote.
    #[error("{}: {reason}", file.display())]
    Malformed {
        /// The file.
        file: PathBuf,
        /// What is wrong.
        reason: String,
    },
    /// The system's error.
    #[error("cannot use {}", file.display())]
    Io {
        /// The file.
        file: PathBuf,
        /// The cause.
        source: io::Error,
    },
}

/// A held data directory.
#[derive(Debug)]
pub struct DirLock {
    _guard: Box<dyn LockGuard>,
}

/// Why a directory was not locked.
#[derive(Debug, thiserror::Error)]
pub enum LockError {
    /// Another process has it.
    #[error("{} is in use by process {pid}", dir.display())]
    Held {
        /// The directory.
        dir: PathBuf,
        /// What the holder wrote into `LOCK`.
        pid: String,
    },
    /// The system's error.
    #[error("cannot lock {}", dir.display())]
    Io {
        /// The directory.
        dir: PathBuf,
        /// The cause.
        source: io::Error,
    },
}

impl Identity {
    /// That of a new directory; `random` tells its first epoch from that of another one, `created` is RFC 3339.
    pub const fn first(
        node: NodeId,
        name: String,
        cluster: ClusterId,
        cluster_name: String,
        random: u32,
        created: String,
    ) -> Self {
        let epoch = IdentityEpoch { counter: 1, random };
        Self { v: VERSION, node, name, cluster, cluster_name, epoch, created }
    }

    /// The identity of the directory.
    /// # Errors
    /// [`IdentityError`].
    pub fn read(vfs: &dyn Vfs, dir: &Path) -> Result<Self, IdentityError> {
        let file = dir.join(IDENTITY);
        let bytes = match read_whole(vfs, &file, IDENTITY_BYTES_MAX) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                return Err(IdentityError::Missing { file });
            }
            Err(source) => return Err(IdentityError::Io { file, source }),
        };
        let malformed = |reason| IdentityError::Malformed { file: file.clone(), reason };
        let identity: Self =
            serde_json::from_slice(&bytes).map_err(|error| malformed(error.to_string()))?;
        match identity.v {
            VERSION => Ok(identity),
            other => {
                Err(malformed(format!("identity format {other}, but this program reads {VERSION}")))
            }
        }
    }

    /// Makes this the directory's identity, durably; a crash leaves the one before or this.
    /// # Errors
    /// [`IdentityError::Io`].
    pub fn write(&self, vfs: &dyn Vfs, dir: &Path) -> Result<(), IdentityError> {
        let file = dir.join(IDENTITY);
        let mut text = serde_json::to_vec_pretty(self).expect("plain fields");
        text.push(b'\n');
        write_atomically(vfs, dir, IDENTITY, &text)
            .map_err(|source| IdentityError::Io { file, source })
    }
}

impl DirLock {
    /// Takes the directory, which must exist, for the process `pid`.
    /// # Errors
    /// [`LockError`].
    pub fn take(vfs: &dyn Vfs, dir: &Path, pid: u32) -> Result<Self, LockError> {
        match vfs.lock(&dir.join(LOCK), &format!("{pid}\n")) {
            Ok(guard) => Ok(Self { _guard: guard }),
            Err(LockFailure::Held { holder }) => {
                Err(LockError::Held { dir: dir.to_owned(), pid: holder.trim().to_owned() })
            }
            Err(LockFailure::Io(source)) => Err(LockError::Io { dir: dir.to_owned(), source }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::vfs::simulated::{Disk, Unsynced};
    use super::*;

    const DIR: &str = "n1";

    fn identity(counter: u32) -> Identity {
        Identity {
            v: VERSION,
            node: NodeId::from_bytes([7; 16]),
            name: "n1".to_owned(),
            cluster: ClusterId::from_bits(5),
            cluster_name: "prod".to_owned(),
            epoch: IdentityEpoch { counter, random: 9 },
            created: "2026-11-22T10:00:00Z".to_owned(),
        }
    }

    fn disk() -> Disk {
        let disk = Disk::new(0);
        disk.create_dir(Path::new(DIR)).unwrap();
        disk.sync_dir(Path::new("")).unwrap();
        disk
    }

    #[test]
    fn an_identity_is_the_old_or_the_new_one_wherever_a_crash_hits() {
        for crash in 0.. {
            let disk = disk();
            identity(1).write(&disk, Path::new(DIR)).unwrap();
            disk.crash_at(disk.calls() + crash);
            let written = identity(2).write(&disk, Path::new(DIR));
            let crashed = disk.crashed();
            disk.restart(Unsynced::Dropped);
            let read = Identity::read(&disk, Path::new(DIR)).unwrap();
            assert!(
                read == identity(2) || (read == identity(1) && written.is_err()),
                "call {crash}"
            );
            if !crashed {
                break;
            }
        }
    }

    /// Both syncs are needed: of the file before it has its name, and of the directory before the caller goes on.
    #[test]
    fn an_identity_whose_syncs_are_left_out_is_lost() {
        for lie in ["IDENTITY.tmp", DIR] {
            let disk = disk();
            identity(1).write(&disk, Path::new(DIR)).unwrap();
            disk.lie_about_syncs(std::sync::Arc::new(move |path| path.ends_with(lie)));
            identity(2).write(&disk, Path::new(DIR)).unwrap();
            disk.power_loss(Unsynced::Dropped);
            assert!(Identity::read(&disk, Path::new(DIR)).ok() != Some(identity(2)), "{lie}");
        }
    }

    #[test]
    fn a_missing_or_foreign_identity_is_named() {
        let disk = disk();
        let error = Identity::read(&disk, Path::new(DIR)).unwrap_err();
        assert_eq!(error.to_string(), "n1/IDENTITY is missing: this directory is no node's");
        Identity { v: 2, ..identity(1) }.write(&disk, Path::new(DIR)).unwrap();
        let error = Identity::read(&disk, Path::new(DIR)).unwrap_err();
        assert_eq!(error.to_string(), "n1/IDENTITY: identity format 2, but this program reads 1");
        disk.truncate(Path::new("n1/IDENTITY"), 20).unwrap();
        assert!(matches!(
            Identity::read(&disk, Path::new(DIR)),
            Err(IdentityError::Malformed { .. })
        ));
    }

    #[test]
    fn a_directory_is_held_by_one_process() {
        let disk = disk();
        let held = DirLock::take(&disk, Path::new(DIR), 41).unwrap();
        let error = DirLock::take(&disk, Path::new(DIR), 42).unwrap_err();
        assert_eq!(error.to_string(), "n1 is in use by process 41");
        drop(held);
        DirLock::take(&disk, Path::new(DIR), 42).unwrap();
    }
}
