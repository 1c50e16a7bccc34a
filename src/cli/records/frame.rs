//! Header and footer of a stream of records, held against what stands between them.

use super::digest::Digest;
use super::stored::StoredLine;

/// How much of a frame a stream must have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum FrameWanted {
    /// A header wants its footer; both may be missing.
    AsFar,
    /// All of it, and nothing in front or behind: a stream that was cut at any byte, or put together, is refused.
    Whole,
}

/// The frame of a stream, as far as it was read.
#[derive(Debug)]
pub(crate) struct Frame {
    wanted: FrameWanted,
    header: Option<Vec<u8>>,
    records: u64,
    digest: Digest,
    is_ended: bool,
}

/// Why a stream is not what its writer wrote.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum FrameError {
    /// Records without a header before them.
    #[error("no header stands before the records")]
    NoHeader,
    /// Two streams in a row.
    #[error("a second header: one stream at a time is taken")]
    SecondHeader,
    /// Count or SHA-1 differ.
    #[error("the footer tells of other records than stand before it")]
    OtherRecords,
    /// Something behind the end.
    #[error("something stands behind the footer")]
    BehindFooter,
    /// No footer.
    #[error("the records are cut: their header went without its footer")]
    Cut,
}

impl Frame {
    /// That of a stream of which nothing was read yet.
    pub(crate) fn new(wanted: FrameWanted) -> Self {
        Self { wanted, header: None, records: 0, digest: Digest::default(), is_ended: false }
    }

    /// Takes note of the next line: its bytes, line feed included, and what it holds.
    /// # Errors
    /// [`FrameError`], all but [`FrameError::Cut`].
    pub(crate) fn note(&mut self, bytes: &[u8], parsed: &StoredLine) -> Result<(), FrameError> {
        let wants_all = self.wanted == FrameWanted::Whole;
        match parsed {
            StoredLine::Blank => return Ok(()),
            StoredLine::Entry(_) | StoredLine::Header(_) | StoredLine::Footer(..)
                if wants_all && self.is_ended =>
            {
                return Err(FrameError::BehindFooter);
            }
            StoredLine::Entry(_) | StoredLine::Footer(..) if wants_all && self.header.is_none() => {
                return Err(FrameError::NoHeader);
            }
            StoredLine::Entry(_) => {
                self.records += 1;
                self.digest.update(bytes);
            }
            StoredLine::Header(_) if self.header.is_some() || self.records > 0 => {
                return Err(FrameError::SecondHeader);
            }
            StoredLine::Header(_) => self.header = Some(bytes.to_vec()),
            StoredLine::Footer(records, sha1) => {
                if (*records, sha1) != (self.records, &self.digest.hex()) {
                    return Err(FrameError::OtherRecords);
                }
                // A footer without its line feed is a stream that lacks a byte.
                self.is_ended = !wants_all || bytes.ends_with(b"\n");
            }
        }
        Ok(())
    }

    /// The stream is at its end.
    /// # Errors
    /// [`FrameError::NoHeader`], [`FrameError::Cut`].
    pub(crate) const fn end(&self) -> Result<(), FrameError> {
        match (&self.header, self.wanted) {
            (None, FrameWanted::AsFar) => Ok(()),
            (None, FrameWanted::Whole) => Err(FrameError::NoHeader),
            (Some(_), _) if self.is_ended => Ok(()),
            (Some(_), _) => Err(FrameError::Cut),
        }
    }

    /// The header's line.
    pub(crate) fn header(&self) -> Option<&[u8]> {
        self.header.as_deref()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use bytes::Bytes;

    use super::super::{Recorder, parse_stored, record};
    use super::*;
    use crate::node_id::NodeId;
    use crate::version::{Actor, Basis, Content, Epoch, RequestId, Siblings, Timestamp, Version};

    /// A small export: a value, two siblings, a tombstone.
    fn export() -> Vec<u8> {
        let node = NodeId::from_bytes([7; 16]);
        let actor = |counter| Actor { node, epoch: Epoch { counter, random: 9 } };
        let names = BTreeMap::from([(node, "n1".to_owned())]);
        let write = |state: &mut Siblings, counter: u32, content| {
            let version = Version {
                timestamp: Timestamp::from_bits(1_795_341_598_123_456 << 12 | u64::from(counter)),
                request: RequestId { session: 5, counter: counter.into() },
                content,
            };
            state.write(actor(counter), &Basis::Blind, 0, version).unwrap();
        };
        let value = |text: &'static str| Content::Value(Bytes::from_static(text.as_bytes()));
        let mut states = [Siblings::new(), Siblings::new(), Siblings::new()];
        write(&mut states[0], 1, value("one"));
        write(&mut states[1], 1, value("left"));
        write(&mut states[1], 2, value("right"));
        write(&mut states[2], 3, Content::Tombstone);
        let mut out = Vec::new();
        let mut recorder = Recorder::begin(&mut out, |header| header.field("layout", 1)).unwrap();
        for (key, state) in [b"a", b"b", b"c"].into_iter().zip(&states) {
            let blank = recorder.blank("kv");
            recorder.push(record(blank, key, state, &names)).unwrap();
        }
        recorder.end().unwrap();
        out
    }

    /// What becomes of a stream: how many records, or why it is refused.
    fn read(input: &[u8], wanted: FrameWanted) -> Result<u64, String> {
        let mut frame = Frame::new(wanted);
        for line in input.split_inclusive(|byte| *byte == b'\n') {
            let parsed = parse_stored(line).map_err(|error| error.to_string())?;
            frame.note(line, &parsed).map_err(|error| error.to_string())?;
        }
        frame.end().map_err(|error| error.to_string())?;
        Ok(frame.records)
    }

    #[track_caller]
    fn check(input: &[u8], wanted: FrameWanted, expected: Result<u64, FrameError>) {
        let expected = expected.map_err(|error| error.to_string());
        assert_eq!(read(input, wanted), expected, "{}", String::from_utf8_lossy(input));
    }

    #[test]
    fn a_stream_cut_at_any_byte_is_refused() {
        let whole = export();
        check(&whole, FrameWanted::Whole, Ok(3));
        for length in 0..whole.len() {
            assert!(read(&whole[..length], FrameWanted::Whole).is_err(), "cut at byte {length}");
        }
    }

    #[test]
    fn a_stream_that_lost_a_byte_in_a_record_is_refused() {
        let whole = export();
        let lines: Vec<&[u8]> = whole.split_inclusive(|byte| *byte == b'\n').collect();
        let (header, footer) = (lines[0].len(), lines[4].len());
        for at in header..whole.len() - footer {
            let rest = [&whole[..at], &whole[at + 1..]].concat();
            assert!(read(&rest, FrameWanted::Whole).is_err(), "without byte {at}");
        }
    }

    #[test]
    fn streams_put_together_or_without_their_frame_are_refused_where_all_is_wanted() {
        let whole = export();
        let lines: Vec<&[u8]> = whole.split_inclusive(|byte| *byte == b'\n').collect();
        let (records, footer) = (lines[1..4].concat(), lines[4]);
        let twice = [&whole[..], &whole].concat();
        check(&twice, FrameWanted::Whole, Err(FrameError::BehindFooter));
        check(&twice, FrameWanted::AsFar, Err(FrameError::SecondHeader));
        check(&records, FrameWanted::Whole, Err(FrameError::NoHeader));
        check(&records, FrameWanted::AsFar, Ok(3));
        check(&[&records[..], footer].concat(), FrameWanted::Whole, Err(FrameError::NoHeader));
        check(&whole[..whole.len() - footer.len()], FrameWanted::Whole, Err(FrameError::Cut));
        check(b"", FrameWanted::Whole, Err(FrameError::NoHeader));
        check(b"", FrameWanted::AsFar, Ok(0));
        check(&[&whole[..], b"\n"].concat(), FrameWanted::Whole, Ok(3));
        let other = [lines[0], lines[1], lines[2], footer].concat();
        check(&other, FrameWanted::Whole, Err(FrameError::OtherRecords));
    }
}
