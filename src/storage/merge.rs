//! Merges sorted runs, newest first, into one: each key once, with its newest entry, and the holes between them.
//!
//! What a table cannot give any more stands in its run as a hole, at the place of its first key. A hole hides what older
//! runs hold within it; entries of its own run and of newer ones it does not.

use std::cmp::Ordering;
use std::collections::VecDeque;
use std::ops::Range;
use std::sync::Arc;
use std::vec;

use bytes::Bytes;

use super::hole::Hole;
use super::levels::Live;
use super::table::reader::{Blocks, Cursor};
use super::table::{Entry, KeyRange, ReadError};

/// One sorted source.
#[derive(Debug)]
pub(crate) struct Run {
    source: Source,
    head: Option<Head>,
}

#[derive(Debug)]
enum Source {
    Memory(vec::IntoIter<Entry>),
    Tables(Disjoint),
}

/// Disjoint tables in key order.
#[derive(Debug)]
struct Disjoint {
    tables: Arc<[Live]>,
    /// Those that are still to come.
    rest: Range<usize>,
    /// The one before them.
    current: Option<Box<Current>>,
    start: Bytes,
}

/// A table that is being read.
#[derive(Debug)]
struct Current {
    number: u64,
    /// `None` for one that cannot be opened.
    cursor: Option<Cursor>,
    /// What the cursor gave, while holes come before it.
    ahead: Option<Head>,
    holes: VecDeque<Hole>,
}

/// A hole in a run.
#[derive(Debug)]
pub(crate) struct Gap {
    pub(crate) hole: Hole,
    /// The damage, where that was met just now.
    pub(crate) damage: Option<ReadError>,
}

/// What a run has next; what is rare stands elsewhere, since each entry is moved several times.
#[derive(Debug)]
enum Head {
    Entry(Entry),
    Gap(Box<Gap>),
    /// The system would not read it.
    Unreadable(Box<ReadError>),
}

/// What a merge gives.
#[derive(Debug)]
pub(crate) enum Item {
    /// A key's newest entry; it may lie in a hole that was given before, and is newer then.
    Entry(Entry),
    /// Keys from here on whose older entries are not given.
    Gap(Box<Gap>),
}

/// A hole that was given and has not been passed.
#[derive(Debug)]
struct Cover {
    run: usize,
    keys: KeyRange,
}

/// Runs being merged.
#[derive(Debug)]
pub(crate) struct Merge {
    /// Newest first.
    runs: Vec<Run>,
    covers: Vec<Cover>,
    /// Numbers of tables in which damage was met, and what.
    pub(crate) hidden_damage: Vec<(u64, ReadError)>,
}

impl Run {
    /// Entries in memory, ascending.
    pub(crate) fn memory(entries: Vec<Entry>) -> Self {
        Self { source: Source::Memory(entries.into_iter()), head: None }
    }

    /// The entries from `start` on of those of `tables`, which are disjoint and in key order, that `range` names.
    pub(crate) const fn tables(tables: Arc<[Live]>, range: Range<usize>, start: Bytes) -> Self {
        let source = Disjoint { tables, rest: range, current: None, start };
        Self { source: Source::Tables(source), head: None }
    }

    fn fill(&mut self, blocks: Blocks<'_>) {
        if self.head.is_none() {
            let entry = match &mut self.source {
                Source::Memory(entries) => entries.next(),
                Source::Tables(tables) => match tables.next_plain(blocks) {
                    None => return self.head = tables.next(blocks),
                    entry => entry,
                },
            };
            self.head = entry.map(Head::Entry);
        }
    }
}

impl Head {
    fn key(&self) -> &[u8] {
        match self {
            Self::Entry(entry) => &entry.key,
            Self::Gap(gap) => &gap.hole.keys.first,
            Self::Unreadable(error) => &error.keys().first,
        }
    }
}

impl Gap {
    fn damaged(number: u64, keys: KeyRange, damage: ReadError) -> Head {
        Head::Gap(Box::new(Self { hole: Hole::lost(number, keys), damage: Some(damage) }))
    }
}

impl Disjoint {
    /// The next entry where no hole is in sight and the table does not end: nearly always.
    fn next_plain(&mut self, blocks: Blocks<'_>) -> Option<Entry> {
        let current = self.current.as_mut()?;
        if !current.holes.is_empty() || current.ahead.is_some() {
            return None;
        }
        match current.cursor.as_mut()?.next(blocks) {
            Ok(entry) => entry,
            Err(error) => {
                current.ahead = Some(current.head_of(error));
                None
            }
        }
    }

    #[inline(never)]
    fn next(&mut self, blocks: Blocks<'_>) -> Option<Head> {
        loop {
            if let Some(current) = &mut self.current
                && let Some(head) = current.next(blocks)
            {
                return Some(head);
            }
            let index = self.rest.next()?;
            self.current = Some(Box::new(Current::new(self.tables.get(index)?, &self.start)));
        }
    }
}

impl Current {
    fn new(live: &Live, start: &Bytes) -> Self {
        let number = live.meta.number;
        let holes = live.meta.holes.iter().filter(|hole| *start <= hole.keys.last).cloned();
        match live.opened() {
            Ok(table) => {
                let cursor = Some(Cursor::new(Arc::clone(table), start.clone()));
                Self { number, cursor, ahead: None, holes: holes.collect() }
            }
            Err(error) => {
                let ahead = Some(Gap::damaged(number, live.meta.keys(), error));
                Self { number, cursor: None, ahead, holes: holes.collect() }
            }
        }
    }

    fn next(&mut self, blocks: Blocks<'_>) -> Option<Head> {
        let ahead = self.ahead.take().or_else(|| self.read(blocks));
        let is_hole_next = self.holes.front().is_some_and(|hole| {
            ahead.as_ref().is_none_or(|ahead| *hole.keys.first <= *ahead.key())
        });
        if is_hole_next {
            self.ahead = ahead;
            let gap = self.holes.pop_front().map(|hole| Gap { hole, damage: None });
            return gap.map(|gap| Head::Gap(Box::new(gap)));
        }
        ahead
    }

    fn read(&mut self, blocks: Blocks<'_>) -> Option<Head> {
        match self.cursor.as_mut()?.next(blocks) {
            Ok(entry) => entry.map(Head::Entry),
            Err(error) => Some(self.head_of(error)),
        }
    }

    fn head_of(&self, error: Box<ReadError>) -> Head {
        match *error {
            ReadError::Io { .. } => Head::Unreadable(error),
            ReadError::Corrupt { .. } => Gap::damaged(self.number, error.keys().clone(), *error),
        }
    }
}

impl Merge {
    /// Merges these runs, newest first.
    pub(crate) const fn new(runs: Vec<Run>) -> Self {
        Self { runs, covers: Vec::new(), hidden_damage: Vec::new() }
    }

    /// The next key's newest entry, deletes included, or the next hole; by key, a hole before what lies in it. After an
    /// error, which is never damage, the merge is over: what lies between its first and last key is not to be read here.
    pub(crate) fn next(&mut self, blocks: Blocks<'_>) -> Result<Option<Item>, Box<ReadError>> {
        loop {
            let Some(least) = self.least(blocks) else { return Ok(None) };
            let head = &mut self.runs[least].head;
            let Some(head) = head.take() else { return Ok(None) };
            match head {
                Head::Entry(entry) if self.covers.is_empty() => {
                    return Ok(Some(Item::Entry(entry)));
                }
                Head::Entry(entry) => {
                    self.covers.retain(|cover| *entry.key <= *cover.keys.last);
                    if !self.covers.iter().any(|cover| cover.run < least) {
                        return Ok(Some(Item::Entry(entry)));
                    }
                }
                Head::Gap(gap) => {
                    let keys = &gap.hole.keys;
                    let hides = |cover: &Cover| cover.run < least && cover.keys.covers(keys);
                    if self.covers.iter().any(hides) {
                        let Gap { hole, damage } = *gap;
                        self.hidden_damage.extend(damage.map(|damage| (hole.lost_with, damage)));
                    } else {
                        self.covers.push(Cover { run: least, keys: keys.clone() });
                        return Ok(Some(Item::Gap(gap)));
                    }
                }
                Head::Unreadable(error) => return Err(error),
            }
        }
    }

    /// The run with the least key next. What it hides of others, of the same key, is passed over.
    fn least(&mut self, blocks: Blocks<'_>) -> Option<usize> {
        let mut least = None;
        for index in 0..self.runs.len() {
            let (newer, rest) = self.runs.split_at_mut(index);
            let Some(run) = rest.first_mut() else { continue };
            run.fill(blocks);
            let Some(head) = &run.head else { continue };
            let mut hidden = false;
            let before = least.and_then(|index: usize| newer[index].head.as_ref());
            let is_next = before.is_none_or(|before| match head.key().cmp(before.key()) {
                Ordering::Less => true,
                Ordering::Greater => false,
                // What is no entry goes first; what is newer hides what is older.
                Ordering::Equal => match (before, head) {
                    (Head::Entry(_), Head::Gap(_) | Head::Unreadable(_)) => true,
                    (Head::Gap(_) | Head::Unreadable(_), _) => false,
                    (Head::Entry(_), Head::Entry(_)) => {
                        hidden = true;
                        false
                    }
                },
            });
            if hidden {
                run.head = None;
            }
            if is_next {
                least = Some(index);
            }
        }
        least
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(entries: &[(&'static str, Option<&'static str>)]) -> Run {
        let bytes = |text: &'static str| Bytes::from_static(text.as_bytes());
        let entry = |(key, value): &(&'static str, Option<&'static str>)| Entry {
            key: bytes(key),
            value: value.map(bytes),
        };
        Run::memory(entries.iter().map(entry).collect())
    }

    #[test]
    fn each_key_comes_once_with_its_newest_entry() {
        let newest = run(&[("b", None), ("c", Some("3"))]);
        let oldest = run(&[("a", Some("1")), ("b", Some("2")), ("c", Some("1"))]);
        let mut merge = Merge::new(vec![newest, oldest]);
        let mut merged = Vec::new();
        while let Some(item) = merge.next(Blocks::Disk).unwrap() {
            let Item::Entry(entry) = item else { panic!("{item:?}") };
            merged.push(entry);
        }
        let Source::Memory(expected) =
            run(&[("a", Some("1")), ("b", None), ("c", Some("3"))]).source
        else {
            unreachable!("a run of memory")
        };
        assert_eq!(merged, expected.collect::<Vec<_>>());
    }
}
