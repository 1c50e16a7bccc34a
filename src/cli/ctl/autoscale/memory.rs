//! What is remembered from look to look: in a file, so that `--once` from a timer goes on where the last one was, and
//! whoever starts after a crash finishes what was begun.
//!
//! The file is locked for as long as an autoscaler goes by it: by one policy one acts at a time.

use std::fs::File;
use std::io::{Read as _, Seek as _, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};
use serde::{Deserialize, Serialize};

use crate::cli::exit::Exit;
use crate::cli::failure::Failure;

/// Version of what is written.
const VERSION: u32 = 1;
/// Behind a policy's file name: where it is remembered, unless `--state` says otherwise.
const SUFFIX: &str = ".state";

/// What earlier looks showed, and what is under way.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Memory {
    /// Looks in a row that asked for more nodes.
    #[serde(default)]
    pub(super) high_looks: u32,
    /// Looks in a row that fewer would have done for.
    #[serde(default)]
    pub(super) low_looks: u32,
    /// When the last change ended, microseconds since the Unix epoch.
    #[serde(default)]
    pub(super) changed: Option<u64>,
    /// What is under way.
    #[serde(default)]
    pub(super) pending: Option<Pending>,
}

/// A node that is being added, or taken away.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Pending {
    pub(super) node: String,
    /// Where it is to stand; empty: where its own configuration says.
    #[serde(default)]
    pub(super) zone: String,
    pub(super) doing: Doing,
    /// When that began, microseconds since the Unix epoch.
    pub(super) since: u64,
    /// Members with an older layout know nothing of it yet.
    #[serde(default)]
    pub(super) layout: u64,
    /// Times that it could not be committed.
    #[serde(default)]
    pub(super) failures: u32,
}

/// How far a node is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Doing {
    /// The start command is about to be run, or was by somebody who died over it.
    Starting,
    /// It was started, and is to become a member.
    Joining,
    /// It is to give its data away.
    Leaving,
    /// It is no member: the stop command is to be run.
    Stopping,
}

/// A memory and its file.
pub(super) struct Kept {
    pub(super) memory: Memory,
    /// `None` where nothing is to be written.
    file: Option<Flock<File>>,
    path: PathBuf,
}

#[derive(Serialize, Deserialize)]
struct Written {
    v: u32,
    #[serde(flatten)]
    memory: Memory,
}

impl Kept {
    /// Where a policy's memory is.
    pub(super) fn path(policy: &Path, given: Option<&PathBuf>) -> PathBuf {
        given.cloned().unwrap_or_else(|| {
            let mut name = policy.as_os_str().to_owned();
            name.push(SUFFIX);
            name.into()
        })
    }

    /// Takes the file for this process.
    /// # Errors
    /// Exit 75 where another process has it, 73 and 74 where it cannot be made or read, 65 for what is no memory.
    pub(super) fn take(path: PathBuf) -> Result<Self, Failure> {
        let shown = path.display().to_string();
        let mut options = File::options();
        let options = options.read(true).write(true).create(true).truncate(false).mode(0o600);
        let file = options.open(&path).map_err(|error| Failure::not_written(&shown, error))?;
        let mut file = Flock::lock(file, FlockArg::LockExclusiveNonblock).map_err(
            |(_, error)| match error {
                Errno::EWOULDBLOCK => {
                    let text = format!("another kvctl autoscale goes by {shown}");
                    Failure::new(Exit::TryAgain, text).code("locked")
                }
                error => Failure::new(Exit::Io, format!("cannot lock {shown}")).because(error),
            },
        )?;
        let mut text = String::new();
        file.read_to_string(&mut text).map_err(|error| {
            Failure::new(Exit::Io, format!("cannot read {shown}")).because(error)
        })?;
        Ok(Self { memory: decode(&text, &shown)?, file: Some(file), path })
    }

    /// What is in the file; nothing is written to it. Where there is none, nothing is remembered.
    /// # Errors
    /// Exit 65 for what is no memory; what reading the file meets.
    pub(super) fn peek(path: PathBuf) -> Result<Self, Failure> {
        let shown = path.display().to_string();
        let memory = match std::fs::read_to_string(&path) {
            Ok(text) => decode(&text, &shown)?,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Memory::default(),
            Err(error) => {
                let text = format!("cannot read {shown}");
                return Err(Failure::new(Exit::of_io(&error), text).because(error));
            }
        };
        Ok(Self { memory, file: None, path })
    }

    /// Remembers this from now on.
    /// # Errors
    /// Those of writing: then nothing may be done that is to be remembered.
    pub(super) fn keep(&mut self, memory: Memory) -> Result<(), Failure> {
        let written = Written { v: VERSION, memory };
        if let Some(file) = &mut self.file
            && self.memory != written.memory
        {
            let text = serde_json::to_string(&written).expect("plain fields") + "\n";
            write(file, &text)
                .map_err(|error| Failure::not_written(&self.path.display().to_string(), error))?;
        }
        self.memory = written.memory;
        Ok(())
    }
}

/// In place, since the lock is the file's. A text that a crash cut short is none: see [`decode`].
fn write(file: &mut File, text: &str) -> std::io::Result<()> {
    file.set_len(0)?;
    file.rewind()?;
    file.write_all(text.as_bytes())?;
    file.sync_data()
}

/// An empty file, or one that a crash cut short before its line feed, remembers nothing.
fn decode(text: &str, shown: &str) -> Result<Memory, Failure> {
    if !text.ends_with('\n') {
        return Ok(Memory::default());
    }
    let bad = || Failure::bad_data(format!("{shown} is no memory of kvctl autoscale"));
    let written: Written = serde_json::from_str(text).map_err(|error| bad().because(error))?;
    if written.v == VERSION { Ok(written.memory) } else { Err(bad()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn memory() -> Memory {
        let pending = Pending {
            node: "n4".to_owned(),
            zone: "a".to_owned(),
            doing: Doing::Leaving,
            since: 7,
            layout: 3,
            failures: 1,
        };
        Memory { high_looks: 2, low_looks: 0, changed: Some(9), pending: Some(pending) }
    }

    #[test]
    fn what_was_kept_is_there_for_the_next_one_and_one_at_a_time_has_it() {
        let dir = tempfile::tempdir().unwrap();
        let path = Kept::path(&dir.path().join("policy.toml"), None);
        assert_eq!(path, dir.path().join("policy.toml.state"));
        assert_eq!(Kept::peek(path.clone()).unwrap().memory, Memory::default());
        let mut kept = Kept::take(path.clone()).unwrap();
        assert_eq!(kept.memory, Memory::default());
        kept.keep(memory()).unwrap();
        assert_eq!(kept.memory, memory());
        let refused = Kept::take(path.clone()).map(drop).unwrap_err();
        assert_eq!(refused.exit(), Exit::TryAgain);
        let mut peeked = Kept::peek(path.clone()).unwrap();
        assert_eq!(peeked.memory, memory());
        peeked.keep(Memory::default()).unwrap();
        drop(kept);
        let mut kept = Kept::take(path.clone()).unwrap();
        assert_eq!(kept.memory, memory(), "who peeks writes nothing");
        kept.keep(Memory::default()).unwrap();
        drop(kept);
        assert_eq!(Kept::take(path).unwrap().memory, Memory::default());
    }

    #[test]
    fn a_cut_file_remembers_nothing_and_another_file_is_refused() {
        assert_eq!(decode("", "x").unwrap(), Memory::default());
        assert_eq!(decode("{\"v\":1,\"high_lo", "x").unwrap(), Memory::default());
        assert_eq!(decode("{\"v\":1}\n", "x").unwrap(), Memory::default());
        for text in ["{\"v\":2}\n", "name = \"n1\"\n"] {
            assert_eq!(decode(text, "x").unwrap_err().exit(), Exit::BadData, "{text}");
        }
    }
}
