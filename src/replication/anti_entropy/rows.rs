//! Row-level reconciliation: which of a slot's keys differ, and who gives what.
//!
//! ```text
//! rows := row*                    ascending by key, little-endian
//! row  := key:u64 digest:u64 newest:u64
//! ```
//! `key` hashes the key, `digest` its dots and value hashes, `newest` is the latest timestamp among its versions. The
//! last one only says who gives first, which saves bytes where one side is simply behind. It is a guess, made once: in
//! the rounds after the first one the side that compares tells no ages, so that the other one gives, and who keeps more
//! than it was given sends that back. Every key has a row, tombstones too; a state without versions is no key.
#![warn(clippy::indexing_slicing)]

use std::collections::BTreeMap;

use bytes::Bytes;
use xxhash_rust::xxh3::xxh3_64;

use crate::encoding::{DecodeError, Reader};
use crate::version::Siblings;

/// Bytes of a row.
const ROW_BYTES: usize = 24;

/// One key of a slot, in short.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Row {
    /// Which key.
    pub key: u64,
    /// Its versions.
    pub digest: u64,
    /// The latest timestamp among them.
    pub newest: u64,
}

/// Whether rows tell how new a key is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ages {
    /// Yes: whoever is newer gives.
    Told,
    /// No: who is asked gives.
    Untold,
}

/// What one key of the own side means to the other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Both hold the same.
    Same,
    /// The other side shall have it.
    Give,
    /// The other side shall give its own.
    Want,
}

/// The other side's rows, as the own keys are held against them one by one.
#[derive(Clone, Debug)]
pub struct Comparison {
    theirs: BTreeMap<u64, Row>,
    want: Vec<u64>,
}

impl Row {
    /// The row of a key; none for a state without versions.
    pub fn of(key: &[u8], state: &Siblings, ages: Ages) -> Option<Self> {
        let newest = state.versions().values().map(|version| version.timestamp.bits()).max()?;
        let newest = if ages == Ages::Told { newest } else { 0 };
        Some(Self { key: xxh3_64(key), digest: low_half(state.digest().0), newest })
    }
}

impl Comparison {
    /// Against these.
    pub fn new(theirs: impl IntoIterator<Item = Row>) -> Self {
        let theirs = theirs.into_iter().map(|row| (row.key, row)).collect();
        Self { theirs, want: Vec::new() }
    }

    /// Takes one own key.
    pub fn take(&mut self, own: Row) -> Verdict {
        match self.theirs.remove(&own.key) {
            None => Verdict::Give,
            Some(theirs) if theirs.digest == own.digest => Verdict::Same,
            Some(theirs) if theirs.newest <= own.newest => Verdict::Give,
            Some(_) => {
                self.want.push(own.key);
                Verdict::Want
            }
        }
    }

    /// Takes one own key, where the other side gives whatever is not the same here.
    pub fn take_from_giver(&mut self, own: Row) -> Verdict {
        match self.theirs.remove(&own.key) {
            None => Verdict::Give,
            Some(theirs) if theirs.digest == own.digest => Verdict::Same,
            Some(_) => {
                self.want.push(own.key);
                Verdict::Want
            }
        }
    }

    /// The keys that the other side shall give: those taken as such, and those that the own side lacks.
    pub fn finish(mut self) -> Vec<u64> {
        self.want.extend(self.theirs.into_keys());
        self.want
    }
}

/// The bytes of `rows`.
pub fn pack(rows: &[Row]) -> Bytes {
    let mut bytes = Vec::with_capacity(rows.len() * ROW_BYTES);
    for row in rows {
        for field in [row.key, row.digest, row.newest] {
            bytes.extend_from_slice(&field.to_le_bytes());
        }
    }
    bytes.into()
}

/// Back from [`pack`].
/// # Errors
/// Where the bytes end within a row.
pub fn unpack(bytes: &[u8]) -> Result<Vec<Row>, DecodeError> {
    bytes
        .chunks(ROW_BYTES)
        .map(|row| {
            let mut reader = Reader::new(row);
            Ok(Row { key: reader.u64()?, digest: reader.u64()?, newest: reader.u64()? })
        })
        .collect()
}

fn low_half(bits: u128) -> u64 {
    let bytes = bits.to_le_bytes();
    u64::from_le_bytes(*bytes.first_chunk().expect("8 of 16 bytes"))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const fn row(key: u64, digest: u64, newest: u64) -> Row {
        Row { key, digest, newest }
    }

    #[test]
    fn the_newer_side_gives_and_what_one_lacks_the_other_gives() {
        let theirs = [row(1, 10, 5), row(2, 20, 5), row(3, 30, 5), row(4, 40, 5)];
        let mut comparison = Comparison::new(theirs);
        assert_eq!(comparison.take(row(1, 10, 9)), Verdict::Same);
        assert_eq!(comparison.take(row(2, 21, 6)), Verdict::Give);
        assert_eq!(comparison.take(row(3, 31, 4)), Verdict::Want);
        assert_eq!(comparison.take(row(5, 50, 0)), Verdict::Give);
        assert_eq!(comparison.finish(), [3, 4]);
    }

    #[test]
    fn sides_of_one_age_both_come_out_of_it_by_the_one_that_compares() {
        assert_eq!(Comparison::new([row(1, 10, 5)]).take(row(1, 11, 5)), Verdict::Give);
    }

    proptest! {
        #[test]
        fn rows_come_back(rows: Vec<(u64, u64, u64)>, cut in 1..ROW_BYTES) {
            let rows: Vec<_> = rows.into_iter().map(|(a, b, c)| row(a, b, c)).collect();
            let bytes = pack(&rows);
            prop_assert_eq!(unpack(&bytes).unwrap(), rows.clone());
            if !rows.is_empty() {
                prop_assert!(unpack(&bytes.slice(..bytes.len() - cut)).is_err());
            }
        }
    }
}
