//! Holes: key ranges that were lost with a damaged table.
//!
//! A merge goes through damage. What it could not read becomes a hole of the table that takes the damaged one's place,
//! at the same age: an entry of that table or of a newer one beats the hole, and the hole hides what is older. A key that
//! lies in a hole and is found in nothing newer may have been written, so it is neither there nor absent: it cannot be
//! read, until what it held has been brought back from elsewhere and the hole is *mended*. A mended hole still hides what
//! is older, as a delete would, and like one it goes once nothing older is left under it.
//!
//! Invariants: a table's holes lie within its first and last key, in the order of their first keys; they may overlap.
//! Where a lost hole and a mended one of the same table overlap, the keys are lost.

use bytes::Bytes;
use serde::Serialize;

use super::directory::Directory;
use super::table::reader::successor;
use super::table::{BlockError, KeyRange, ReadError};

/// A key range that was lost with a table.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Hole {
    /// The number of the damaged table; its file is in `damaged/`.
    pub lost_with: u64,
    /// Whether what it held was written again from elsewhere.
    pub is_mended: bool,
    /// The keys.
    pub keys: KeyRange,
}

/// Holes gathered in the order of their first keys; pieces of one that touch are one again.
#[derive(Debug, Default)]
pub(crate) struct Holes {
    gathered: Vec<Hole>,
}

impl Hole {
    /// Keys that table `lost_with` held and that cannot be read any more.
    pub(crate) const fn lost(lost_with: u64, keys: KeyRange) -> Self {
        Self { lost_with, is_mended: false, keys }
    }

    /// What a read that ends in it says.
    pub(crate) fn error(&self, directory: &Directory) -> ReadError {
        ReadError::Corrupt {
            file: directory.set_aside(self.lost_with),
            offset: 0,
            keys: self.keys.clone(),
            source: BlockError::SetAside,
        }
    }

    fn is_of_one_with(&self, other: &Self) -> bool {
        (self.lost_with, self.is_mended) == (other.lost_with, other.is_mended)
    }
}

/// The hole that a key which the table has no entry for lies in: a lost one, if there is one.
pub(crate) fn hole_at<'a>(holes: &'a [Hole], key: &[u8]) -> Option<&'a Hole> {
    holes.iter().filter(|hole| hole.keys.holds(key)).min_by_key(|hole| hole.is_mended)
}

impl Holes {
    /// One more; none that was pushed before begins behind it.
    pub(crate) fn push(&mut self, hole: Hole) {
        let one = self.gathered.iter_mut().rev().find(|before| {
            before.is_of_one_with(&hole) && hole.keys.first <= successor(&before.keys.last)
        });
        match one {
            Some(before) if before.keys.last < hole.keys.last => before.keys.last = hole.keys.last,
            Some(_) => {}
            None => self.gathered.push(hole),
        }
    }

    pub(crate) const fn is_empty(&self) -> bool {
        self.gathered.is_empty()
    }

    /// Whether a key that was not found lies in one that is not mended.
    pub(crate) fn is_lost(&self, key: &[u8]) -> bool {
        hole_at(&self.gathered, key).is_some_and(|hole| !hole.is_mended)
    }

    /// Takes what lies up to `key`, itself included; a hole that goes on behind it is split.
    pub(crate) fn take_to(&mut self, key: &[u8]) -> Vec<Hole> {
        let (mut taken, mut left) = (Vec::new(), Vec::new());
        for mut hole in self.take() {
            if *key < *hole.keys.first {
                left.push(hole);
                continue;
            }
            if *key < *hole.keys.last {
                let keys = KeyRange { first: successor(key), last: hole.keys.last };
                left.push(Hole { keys, ..hole });
                hole.keys.last = Bytes::copy_from_slice(key);
            }
            taken.push(hole);
        }
        self.gathered = left;
        taken
    }

    /// Takes all of them.
    pub(crate) fn take(&mut self) -> Vec<Hole> {
        std::mem::take(&mut self.gathered)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `table:first-last`, `table~first-last` for a mended one.
    fn holes(text: &str) -> Vec<Hole> {
        let hole = |text: &str| {
            let is_mended = text.contains('~');
            let (table, keys) = text.split_once([':', '~']).unwrap();
            let (first, last) = keys.split_once('-').unwrap();
            let keys = KeyRange { first: first.to_owned().into(), last: last.to_owned().into() };
            Hole { lost_with: table.parse().unwrap(), is_mended, keys }
        };
        text.split_whitespace().map(hole).collect()
    }

    fn gathered(text: &str) -> Holes {
        let mut gathered = Holes::default();
        for hole in holes(text) {
            gathered.push(hole);
        }
        gathered
    }

    #[track_caller]
    fn check_pieces(pushed: &str, expected: &str) {
        assert_eq!(gathered(pushed).take(), holes(expected), "{pushed}");
    }

    #[track_caller]
    fn check_cut(pushed: &str, key: &str, taken: &str, left: &str) {
        let mut gathered = gathered(pushed);
        assert_eq!(gathered.take_to(key.as_bytes()), holes(taken), "{pushed} up to {key}");
        assert_eq!(gathered.take(), holes(left), "{pushed} behind {key}");
    }

    #[test]
    fn pieces_that_touch_are_one_again_and_others_stay_apart() {
        check_pieces("1:a-c 1:c\0-f", "1:a-f");
        check_pieces("1:a-f 1:b-c", "1:a-f");
        check_pieces("1:a-c 1:d-f", "1:a-c 1:d-f");
        check_pieces("1:a-c 2:b-d 1:c-f", "1:a-f 2:b-d");
        check_pieces("1:a-c 1~b-d", "1:a-c 1~b-d");
    }

    #[test]
    fn a_hole_is_split_behind_a_key() {
        check_cut("1:a-c 2:d-f", "c", "1:a-c", "2:d-f");
        check_cut("1:a-f 2:b-c 3:e-g", "d", "1:a-d 2:b-c", "1:d\0-f 3:e-g");
        check_cut("1:b-c", "a", "", "1:b-c");
    }

    #[test]
    fn a_lost_hole_counts_for_more_than_a_mended_one() {
        let holes = holes("1~a-e 2:c-g");
        let found = |key: &str| hole_at(&holes, key.as_bytes()).map(|hole| hole.lost_with);
        assert_eq!(["a", "d", "g", "h"].map(found), [Some(1), Some(2), Some(2), None]);
    }
}
