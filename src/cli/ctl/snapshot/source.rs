//! The parts of a snapshot, copied to this machine: checked, and read as one stream of keys with their states.
//!
//! Every part is sorted by storage key, so that one pass over all of them at once meets each key once, in constant memory:
//! ```text
//! d slot key    the states of all parts, merged           h target slot key    what is held for others, a state of its key
//! ```
//! Parts are not of the same moment. What is deleted is forgotten by no node while a snapshot is made, but a part that was
//! made by a later run may come behind a cut, and then knows nothing of a key of which an older part still has a value. The
//! numbers of the cuts tell: where enough owners' parts have the highest number of a slot, the others do not count.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread;

use anyhow::Context as _;
use bytes::Bytes;
use tokio::sync::mpsc::{Sender, channel};

use crate::cli::ctl::import_source::{Batch, Entry, Item, Source, State};
use crate::cli::ctl::resume::Checkpoint;
use crate::cli::exit::Exit;
use crate::cli::failure::Failure;
use crate::cli::records::Digest;
use crate::cluster::change::owners_to_copy_from;
use crate::node::{OnRecord, keys};
use crate::node_id::NodeId;
use crate::ring::{Layout, Preferences, Slot};
use crate::storage::offline::{BadBlock, DirectoryView, OfflineError, TableFile};
use crate::storage::snapshots::{NoteError, SnapshotNote, SnapshotWorkError, verify_files};
use crate::storage::vfs::Real;
use crate::storage::{BlockError, table};
use crate::version::Siblings;

/// Keys of a batch.
const BATCH_KEYS: usize = 256;
/// Batches read ahead.
const BATCHES_AHEAD: usize = 4;

/// The parts of one snapshot.
#[derive(Debug)]
pub(super) struct Copies {
    /// By the node's name.
    parts: Vec<Copied>,
}

/// A part, and what its node had on record.
#[derive(Debug)]
struct Copied {
    dir: PathBuf,
    note: SnapshotNote,
    view: DirectoryView,
    record: OnRecord,
}

/// What is missing of a snapshot.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Lacking {
    /// Members without a part.
    pub(super) members: Vec<String>,
    /// Partitions of which too few owners' parts are there, and how many partitions there are.
    pub(super) partitions: (usize, u32),
}

/// Which parts count for which slot.
struct Judge {
    preferences: Preferences,
    parts: Vec<Word>,
    /// Owners that together know whatever was acknowledged.
    needed: usize,
}

/// What one part can say.
struct Word {
    node: NodeId,
    unsound: BTreeSet<Slot>,
    cuts: BTreeMap<Slot, u64>,
}

impl Copies {
    /// Opens the parts, and sees that they belong together. Their files are not checked yet.
    /// # Errors
    /// Exit 66 for a missing directory, 65 for one that is no part or one of another snapshot.
    pub(super) fn open(dirs: &[PathBuf]) -> anyhow::Result<Self> {
        let mut parts = Vec::new();
        for dir in dirs {
            parts.push(open_part(dir)?);
        }
        parts.sort_by(|left, right| left.note.node_name.cmp(&right.note.node_name));
        for pair in parts.windows(2) {
            let [left, right] = pair else { continue };
            let (one, other) = (left.dir.display(), right.dir.display());
            if left.note.id != right.note.id || left.note.cluster != right.note.cluster {
                let message = format!("{one} and {other} are parts of different snapshots");
                return Err(Failure::bad_data(message).into());
            }
            if left.note.node == right.note.node {
                let message = format!("{one} and {other} are the same part");
                return Err(Failure::usage(message).into());
            }
        }
        Ok(Self { parts })
    }

    /// What the snapshot is called, and where it is from.
    pub(super) fn title(&self) -> String {
        let first = self.parts.first().map(|part| &part.note);
        first.map_or_else(String::new, |note| {
            format!("{} of cluster {} ({})", note.name, note.cluster_name, note.created)
        })
    }

    /// Bytes of all files.
    pub(super) fn bytes(&self) -> u64 {
        self.parts.iter().map(|part| part.note.bytes).sum()
    }

    /// Reads every file, and holds it against the notes. `tell` hears how many bytes were read.
    /// # Errors
    /// Exit 65 with all files that are damaged.
    pub(super) fn verify(&self, tell: &mut dyn FnMut(u64)) -> anyhow::Result<()> {
        let (mut before, mut damaged) = (0, Vec::new());
        for part in &self.parts {
            let mut step = |done: u64, _| {
                tell(before + done);
                true
            };
            match verify_files(&Real, &part.dir, &part.note, &mut step) {
                Ok(()) => {}
                Err(SnapshotWorkError::Damaged(files)) => damaged.extend(files),
                Err(error) => return Err(anyhow::Error::new(error)),
            }
            before += part.note.bytes;
        }
        if damaged.is_empty() {
            return Ok(());
        }
        let names: Vec<String> =
            damaged.iter().map(|damaged| damaged.file.display().to_string()).collect();
        let message = format!("{} files are not what they were; nothing was restored", names.len());
        let failure = Failure::bad_data(message).code("damaged").detail("files", &names);
        let told = damaged.iter().fold(failure, |failure, damaged| {
            failure.note(format!("{}: {}", damaged.file.display(), damaged.reason))
        });
        Err(told.into())
    }

    /// What is missing.
    pub(super) fn lacking(&self) -> Lacking {
        let Some(layout) = self.layout() else {
            return Lacking { members: Vec::new(), partitions: (0, 0) };
        };
        let has_part = |node| self.parts.iter().any(|part| part.note.node == node);
        let members = layout.members().filter(|member| !has_part(member.id));
        let judge = self.judge(layout);
        let q = layout.now.q;
        let lacking: BTreeSet<u32> = (0..=u16::MAX)
            .map(Slot)
            .filter(|slot| !judge.is_covered(*slot))
            .map(|slot| slot.partition(q).0)
            .collect();
        Lacking {
            members: members.map(|member| member.name.clone()).collect(),
            partitions: (lacking.len(), q),
        }
    }

    /// What the nodes are called whose versions are in it.
    pub(super) fn names(&self) -> BTreeMap<NodeId, String> {
        self.parts.iter().flat_map(|part| part.record.names.clone()).collect()
    }

    /// Reads all of it, from behind what `from` says is in already.
    /// # Errors
    /// Exit 65 where `from` is of another set of parts.
    pub(super) fn stream(self, from: Option<Checkpoint>) -> anyhow::Result<Source> {
        let (fingerprint, bytes_total) = (self.fingerprint(), self.data_bytes());
        if from.as_ref().is_some_and(|from| from.sha1 != fingerprint) {
            let message = "the note tells of other directories than were named now";
            return Err(Failure::bad_data(message).into());
        }
        let (sender, batches) = channel(BATCHES_AHEAD);
        let behind = from.map_or(0, |from| from.lines);
        thread::Builder::new()
            .name("snapshot-read".to_owned())
            .spawn(move || self.run(&fingerprint, behind, &sender))?;
        Ok(Source { batches, bytes_total: Some(bytes_total) })
    }

    fn run(&self, fingerprint: &str, behind: u64, sender: &Sender<anyhow::Result<Batch>>) {
        let mut merged = Merged::new(self);
        let mut number = 0;
        loop {
            let mut items = Vec::new();
            let mut ended = false;
            while items.len() < BATCH_KEYS {
                match merged.next_state() {
                    Ok(Some(state)) => {
                        number += 1;
                        if behind < number {
                            items.push((number, Item::Entry(Entry::Merge(state))));
                        }
                    }
                    Ok(None) => {
                        ended = true;
                        break;
                    }
                    Err(failure) => {
                        // A receiver that is gone needs no more.
                        let _ = sender.blocking_send(Err(failure.into()));
                        return;
                    }
                }
            }
            let (bytes, sha1) = (merged.bytes, fingerprint.to_owned());
            let checkpoint = Checkpoint { lines: number, bytes, sha1, open: false };
            let batch = Batch { items, checkpoint, cut: false };
            if sender.blocking_send(Ok(batch)).is_err() || ended {
                return;
            }
        }
    }

    /// The layout, which is the same in all parts.
    fn layout(&self) -> Option<&Layout> {
        self.parts.first().map(|part| &part.record.layout)
    }

    fn judge(&self, layout: &Layout) -> Judge {
        let word = |part: &Copied| Word {
            node: part.note.node,
            unsound: part.record.unsound.clone(),
            cuts: part.record.cuts.clone(),
        };
        Judge {
            preferences: Preferences::new(Arc::new(layout.now.clone())),
            parts: self.parts.iter().map(word).collect(),
            needed: owners_to_copy_from(&layout.now),
        }
    }

    /// What tells these parts from any others.
    fn fingerprint(&self) -> String {
        let mut digest = Digest::default();
        for part in &self.parts {
            digest.update(part.note.sha1.as_bytes());
        }
        digest.hex()
    }

    fn data_bytes(&self) -> u64 {
        let tables = self.parts.iter().flat_map(|part| part.view.tables());
        let properties = tables.filter_map(|table| table.opened().ok()).map(TableFile::properties);
        properties.map(|properties| properties.key_bytes + properties.value_bytes).sum()
    }
}

impl Judge {
    /// Whether so many owners' parts are there that they know whatever was acknowledged.
    fn is_covered(&self, slot: Slot) -> bool {
        self.needed <= self.owners(slot, |_| true)
    }

    /// Which parts count for the data of a slot.
    fn counting(&self, slot: Slot) -> Vec<bool> {
        let number = |word: &Word| word.cuts.get(&slot).copied().unwrap_or(0);
        let highest = self.parts.iter().map(number).max().unwrap_or(0);
        let is_enough = self.needed <= self.owners(slot, |word| number(word) == highest);
        self.parts.iter().map(|word| !is_enough || number(word) == highest).collect()
    }

    /// How many owners of a slot have a part that holds all it should of it, and of which this holds.
    fn owners(&self, slot: Slot, holds: impl Fn(&Word) -> bool) -> usize {
        let walk = self.preferences.of_slot(slot);
        let is_owner = |word: &&Word| walk.owns(word.node) && !word.unsound.contains(&slot);
        self.parts.iter().filter(is_owner).filter(|word| holds(word)).count()
    }
}

/// The entries of one part, and the next one of them.
struct Head<'a> {
    entries: Box<dyn Iterator<Item = Result<table::Entry, BadBlock>> + 'a>,
    next: Option<table::Entry>,
}

/// All parts as one.
struct Merged<'a> {
    judge: Option<Judge>,
    heads: Vec<Head<'a>>,
    /// The slot that was looked at last, and which parts count for it.
    slot: Option<(Slot, Vec<bool>)>,
    is_begun: bool,
    /// Bytes of keys and values that were read.
    bytes: u64,
}

impl<'a> Merged<'a> {
    fn new(copies: &'a Copies) -> Self {
        let heads = copies
            .parts
            .iter()
            .map(|part| Head { entries: Box::new(part.view.live()), next: None });
        Self {
            judge: copies.layout().map(|layout| copies.judge(layout)),
            heads: heads.collect(),
            slot: None,
            is_begun: false,
            bytes: 0,
        }
    }

    /// The next key and its state; nothing behind the last one.
    fn next_state(&mut self) -> Result<Option<State>, Failure> {
        if !std::mem::replace(&mut self.is_begun, true) {
            (0..self.heads.len()).try_for_each(|part| self.advance(part))?;
        }
        loop {
            let keys = self.heads.iter().filter_map(|head| Some(&head.next.as_ref()?.key));
            let Some(stored) = keys.min().cloned() else { return Ok(None) };
            let Some((slot, key)) = place(&stored)? else { return Ok(None) };
            let counting = slot.map(|slot| self.counting(slot));
            let mut merged = Siblings::new();
            for part in 0..self.heads.len() {
                let Some(entry) = self.heads[part].next.take_if(|next| next.key == stored) else {
                    continue;
                };
                if counting.as_ref().is_none_or(|counting| counting[part]) {
                    let state = entry.value.as_ref().map_or(Ok(Siblings::new()), Siblings::decode);
                    let state = state.map_err(|error| {
                        Failure::bad_data(format!("key {}: {error}", key.escape_ascii()))
                    })?;
                    // Two writes under one dot are told by the nodes that get them.
                    merged.merge(&state, &mut Vec::new());
                }
                self.advance(part)?;
            }
            if !merged.versions().is_empty() {
                let names = BTreeMap::new();
                return Ok(Some(State { key, siblings: merged, names }));
            }
        }
    }

    fn advance(&mut self, part: usize) -> Result<(), Failure> {
        let head = &mut self.heads[part];
        head.next = loop {
            match head.entries.next().transpose() {
                Ok(next) => break next,
                // It was lost before the snapshot was made: the part counts as none for those slots.
                Err(BadBlock { error: BlockError::SetAside, .. }) => {}
                Err(bad) => {
                    let message = format!("{bad}: {}", bad.error);
                    return Err(Failure::bad_data(message).code("damaged"));
                }
            }
        };
        let length =
            |entry: &table::Entry| entry.key.len() + entry.value.as_ref().map_or(0, Bytes::len);
        self.bytes += head.next.as_ref().map_or(0, length) as u64;
        Ok(())
    }

    fn counting(&mut self, slot: Slot) -> Vec<bool> {
        if let Some((known, counting)) = &self.slot
            && *known == slot
        {
            return counting.clone();
        }
        let all = vec![true; self.heads.len()];
        let counting = self.judge.as_ref().map_or(all, |judge| judge.counting(slot));
        self.slot = Some((slot, counting.clone()));
        counting
    }
}

/// The client's key in a storage key, and the slot where it is data; nothing of a node's own notes, which come behind all
/// data. Of what is held for another node every part counts: who holds such a thing takes part in no cut.
fn place(stored: &Bytes) -> Result<Option<(Option<Slot>, Bytes)>, Failure> {
    let found = match stored.first() {
        Some(&keys::META) => return Ok(None),
        Some(&keys::HINT) => keys::parse_hint(stored).map(|(_, key)| (None, key)),
        Some(_) | None => keys::parse_data(stored).map(|(slot, key)| (Some(slot), key)),
    };
    match found {
        Ok((slot, key)) => Ok(Some((slot, stored.slice_ref(key)))),
        Err(error) => {
            let message = format!("storage key {}: {error}", stored.escape_ascii());
            Err(Failure::bad_data(message).code("damaged"))
        }
    }
}

fn open_part(dir: &Path) -> anyhow::Result<Copied> {
    if !dir.is_dir() {
        let message = format!("{} is no directory", dir.display());
        return Err(Failure::new(Exit::NoInput, message).into());
    }
    let note = match SnapshotNote::read(&Real, dir) {
        Ok(note) => note,
        Err(NoteError::Io { file, source }) => {
            return Err(source).with_context(|| format!("reading {}", file.display()));
        }
        Err(error @ (NoteError::Incomplete { .. } | NoteError::Malformed { .. })) => {
            return Err(Failure::bad_data(error.to_string()).code("damaged").into());
        }
    };
    let damaged = |error: &dyn std::fmt::Display| {
        Failure::bad_data(format!("{}: {error}", dir.display())).code("damaged")
    };
    let view = match DirectoryView::open(&Real, dir) {
        Ok(view) => view,
        Err(OfflineError::Io { file, source }) => {
            return Err(source).with_context(|| format!("reading {}", file.display()));
        }
        Err(error) => return Err(damaged(&error).into()),
    };
    let record = OnRecord::read(&view).map_err(|error| damaged(&error))?;
    if record.layout.version != note.layout {
        return Err(damaged(&"its note is of another layout than it is").into());
    }
    Ok(Copied { dir: dir.to_owned(), note, view, record })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ring::{Member, Mode, Weight};

    const SLOT: Slot = Slot(7);

    fn id(number: u8) -> NodeId {
        NodeId::from_bytes([number; 16])
    }

    /// Three owners of every key, n = 3; `1=5 2=? 3=4`: parts of nodes 1 to 3 with their cut numbers, `?` is unsound.
    fn judge(parts: &str, (r, w): (u8, u8)) -> Judge {
        let member = |number| Member {
            id: id(number),
            name: format!("n{number}"),
            zone: String::new(),
            weight: Weight::ONE,
        };
        let members = (1..=3).map(member).collect();
        let layout = Layout::found(32, 3, r, w, Mode::Available, members).unwrap();
        let word = |text: &str| {
            let (node, part) = text.split_once('=').unwrap();
            let number: Option<u64> = (part != "?").then(|| part.parse().unwrap());
            Word {
                node: id(node.parse().unwrap()),
                unsound: if number.is_none() { BTreeSet::from([SLOT]) } else { BTreeSet::new() },
                cuts: number.map(|number| (SLOT, number)).into_iter().collect(),
            }
        };
        Judge {
            preferences: Preferences::new(Arc::new(layout.now.clone())),
            parts: parts.split_whitespace().map(word).collect(),
            needed: owners_to_copy_from(&layout.now),
        }
    }

    #[track_caller]
    fn check_covered(parts: &str, quorum: (u8, u8), expected: bool) {
        assert_eq!(judge(parts, quorum).is_covered(SLOT), expected, "{parts}, r and w {quorum:?}");
    }

    #[test]
    fn so_many_owners_are_needed_as_know_whatever_was_acknowledged() {
        check_covered("1=0 2=0 3=0", (2, 2), true);
        check_covered("1=0 2=0", (2, 2), true);
        check_covered("1=0", (2, 2), false);
        check_covered("1=0 2=?", (2, 2), false);
        check_covered("1=0 2=0", (1, 1), false);
        check_covered("1=0", (1, 3), true);
        check_covered("1=0 9=0", (2, 2), false);
    }

    #[test]
    fn data_and_hints_are_of_their_key_and_notes_of_none() {
        let key = Bytes::from_static(b"k");
        let slot = crate::ring::Token::of(&key).slot();
        assert_eq!(place(&keys::data(&key)).unwrap(), Some((Some(slot), key.clone())));
        assert_eq!(place(&keys::hint(id(1), &key)).unwrap(), Some((None, key)));
        assert_eq!(place(&keys::meta(b"register")).unwrap(), None);
        for other in [&b"d\0\0not there"[..], b"x", b""] {
            assert_eq!(place(&Bytes::from_static(other)).unwrap_err().exit(), Exit::BadData);
        }
    }

    #[track_caller]
    fn check_counting(parts: &str, expected: &str) {
        let counting = judge(parts, (2, 2)).counting(SLOT);
        let shown: String = counting.iter().map(|counts| if *counts { '+' } else { '-' }).collect();
        assert_eq!(shown, expected, "{parts}");
    }

    #[test]
    fn parts_of_before_a_cut_do_not_count_where_enough_are_of_after_it() {
        check_counting("1=0 2=0 3=0", "+++");
        check_counting("1=4 2=5 3=5", "-++");
        check_counting("1=5 2=4 3=4", "+++");
        check_counting("1=5 2=? 3=4", "+++");
        check_counting("1=5 2=5 9=4", "++-");
    }
}
