//! The names on a simulated disk: what a process sees, what is synced, and the changes between.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::{Path, PathBuf};

use rand::Rng as _;
use rand_chacha::ChaCha8Rng;

use super::Unsynced;

/// What a name stands for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Node {
    File(u64),
    Directory,
}

/// One change of one directory, atomic.
#[derive(Debug, Clone)]
enum Change {
    Link(PathBuf, Node),
    Unlink(PathBuf),
    RemoveDir(PathBuf),
    Rename(PathBuf, PathBuf, Node),
}

/// All names. A rename between two directories is two changes, each durable with its own directory.
#[derive(Debug, Clone, Default)]
pub(super) struct Names {
    live: BTreeMap<PathBuf, Node>,
    synced: BTreeMap<PathBuf, Node>,
    /// In order, with the directory that must be synced.
    pending: Vec<Pending>,
}

/// A change whose directory was not synced since.
#[derive(Debug, Clone)]
struct Pending {
    dir: PathBuf,
    change: Change,
    /// A sync of the directory failed: no later one makes it durable.
    is_lost: bool,
}

impl Names {
    pub(super) fn contains(&self, path: &Path) -> bool {
        self.live.contains_key(path) || is_root(path)
    }

    pub(super) fn file(&self, path: &Path) -> io::Result<u64> {
        match self.live.get(path) {
            Some(Node::File(inode)) => Ok(*inode),
            Some(Node::Directory) => Err(io::ErrorKind::IsADirectory.into()),
            None => Err(io::ErrorKind::NotFound.into()),
        }
    }

    pub(super) fn files(&self) -> impl Iterator<Item = (&PathBuf, u64)> {
        self.live.iter().filter_map(|(path, node)| match node {
            Node::File(inode) => Some((path, *inode)),
            Node::Directory => None,
        })
    }

    /// Every inode that a name refers to, might refer to after a power loss, or would once all is synced.
    pub(super) fn inodes(&self) -> BTreeSet<u64> {
        let named = self.live.values().chain(self.synced.values());
        let changed = self.pending.iter().filter_map(|pending| match &pending.change {
            Change::Link(_, node) | Change::Rename(_, _, node) => Some(node),
            Change::Unlink(_) | Change::RemoveDir(_) => None,
        });
        let inode = |node: &Node| match node {
            Node::File(inode) => Some(*inode),
            Node::Directory => None,
        };
        named.chain(changed).filter_map(inode).collect()
    }

    pub(super) fn list(&self, dir: &Path) -> io::Result<Vec<String>> {
        if !self.contains(dir) {
            return Err(io::ErrorKind::NotFound.into());
        }
        let inside = self.live.keys().filter(|path| path.parent() == Some(dir));
        Ok(inside.filter_map(|path| path.file_name()?.to_str().map(str::to_owned)).collect())
    }

    pub(super) fn link(&mut self, path: &Path, node: Node) -> io::Result<()> {
        if !self.contains(parent(path)) {
            return Err(io::ErrorKind::NotFound.into());
        }
        self.change(parent(path).to_owned(), Change::Link(path.to_owned(), node));
        Ok(())
    }

    pub(super) fn unlink(&mut self, path: &Path) {
        self.change(parent(path).to_owned(), Change::Unlink(path.to_owned()));
    }

    pub(super) fn remove_dir(&mut self, path: &Path) -> io::Result<()> {
        match self.live.get(path) {
            None => return Err(io::ErrorKind::NotFound.into()),
            Some(Node::File(_)) => return Err(io::ErrorKind::NotADirectory.into()),
            Some(Node::Directory) => {}
        }
        if !self.list(path)?.is_empty() {
            return Err(io::ErrorKind::DirectoryNotEmpty.into());
        }
        self.change(parent(path).to_owned(), Change::RemoveDir(path.to_owned()));
        Ok(())
    }

    pub(super) fn rename(&mut self, from: &Path, to: &Path) -> io::Result<()> {
        let node = *self.live.get(from).ok_or(io::ErrorKind::NotFound)?;
        if node == Node::Directory {
            if self.contains(to) {
                return Err(io::ErrorKind::AlreadyExists.into());
            }
            assert_eq!(parent(from), parent(to), "directories stay where they are");
            for Pending { dir, change, .. } in &mut self.pending {
                if dir.starts_with(from) {
                    change.follow(from, to);
                    *dir = moved(dir, from, to);
                }
            }
        }
        if parent(from) == parent(to) {
            self.change(
                parent(from).to_owned(),
                Change::Rename(from.to_owned(), to.to_owned(), node),
            );
        } else {
            self.link(to, node)?;
            self.unlink(from);
        }
        Ok(())
    }

    /// Makes the changes of a directory durable; whether a name of a file is gone with it.
    pub(super) fn sync(&mut self, dir: &Path) -> bool {
        let Self { synced, pending, .. } = self;
        let mut is_gone = false;
        pending.retain(|pending| {
            let due = pending.dir == dir && !pending.is_lost;
            if due {
                is_gone |= match &pending.change {
                    // A file that is made anew takes the name of an older one.
                    Change::Link(path, _) => synced.contains_key(path),
                    Change::Unlink(_) | Change::RemoveDir(_) | Change::Rename(..) => true,
                };
                apply(synced, &pending.change);
            }
            !due
        });
        is_gone
    }

    /// A sync of this directory failed.
    pub(super) fn lose(&mut self, dir: &Path) {
        for pending in self.pending.iter_mut().filter(|pending| pending.dir == dir) {
            pending.is_lost = true;
        }
    }

    pub(super) fn lose_power(&mut self, unsynced: Unsynced, random: &mut ChaCha8Rng) {
        match unsynced {
            Unsynced::Kept => return,
            Unsynced::Dropped => {}
            Unsynced::Torn => self.keep_some(random),
        }
        self.pending.clear();
        self.live.clear();
        // A name in a directory that is gone is gone; parents sort before what is in them.
        for (path, node) in &self.synced {
            if self.contains(parent(path)) {
                self.live.insert(path.clone(), *node);
            }
        }
        self.synced.clone_from(&self.live);
    }

    /// No order is promised between changes that were not synced, not even within a directory.
    fn keep_some(&mut self, random: &mut ChaCha8Rng) {
        for pending in &self.pending {
            if random.random() {
                apply(&mut self.synced, &pending.change);
            }
        }
    }

    fn change(&mut self, dir: PathBuf, change: Change) {
        apply(&mut self.live, &change);
        self.pending.push(Pending { dir, change, is_lost: false });
    }
}

impl Change {
    /// What is still to be synced in a directory goes with it.
    fn follow(&mut self, from: &Path, to: &Path) {
        match self {
            Self::Link(path, _) | Self::Unlink(path) | Self::RemoveDir(path) => {
                *path = moved(path, from, to);
            }
            Self::Rename(old, new, _) => {
                *old = moved(old, from, to);
                *new = moved(new, from, to);
            }
        }
    }
}

/// The path of the directory `from`, or of what is in it, once that is called `to`.
fn moved(path: &Path, from: &Path, to: &Path) -> PathBuf {
    path.strip_prefix(from).map_or_else(
        |_| path.to_owned(),
        |inside| to.components().chain(inside.components()).collect(),
    )
}

fn apply(names: &mut BTreeMap<PathBuf, Node>, change: &Change) {
    match change {
        Change::Link(path, node) => {
            names.insert(path.clone(), *node);
        }
        Change::Unlink(path) => {
            names.remove(path);
        }
        // What was in it is gone with it, though its removal from there was never synced.
        Change::RemoveDir(path) => names.retain(|other, _| !other.starts_with(path)),
        Change::Rename(from, to, node) => {
            names.remove(from);
            if *node == Node::Directory {
                let inside = names.keys().filter(|path| path.starts_with(from)).cloned();
                for path in inside.collect::<Vec<_>>() {
                    let node = names.remove(&path);
                    names.extend(node.map(|node| (moved(&path, from, to), node)));
                }
            }
            names.insert(to.clone(), *node);
        }
    }
}

fn parent(path: &Path) -> &Path {
    path.parent().unwrap_or(Path::new(""))
}

fn is_root(path: &Path) -> bool {
    path.as_os_str().is_empty() || path == Path::new("/")
}
