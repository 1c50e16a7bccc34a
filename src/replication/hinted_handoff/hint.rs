//! A hint: a key's state, held for an owner.
//!
//! ```text
//! hint := format:u8 w:u8 since:u64 state        since: wall microseconds; state: as in `version`
//! ```
//! For whom, and which key, stands in the key it is stored under. There is one hint a target and key: later ones merge
//! into it.
#![warn(clippy::indexing_slicing)]

use bytes::Bytes;

use crate::encoding::{DecodeError, Reader};
use crate::version::{Dot, Siblings, StateError};

/// The format's version, its first byte.
const FORMAT: u8 = 1;
/// Bytes in front of the state.
const HEAD_BYTES: usize = 1 + 1 + 8;

/// A state held for an owner that could not be reached.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hint {
    /// Of how many durable acknowledgements it was one; 0 when it counted for none. Nothing but the target's word, or
    /// that of so many owners, lets such a hint go.
    pub w: u8,
    /// Wall microseconds when the first of it was stored: only its patience hangs on it, never what is kept.
    pub since: u64,
    /// What the target has to merge.
    pub state: Siblings,
}

/// Bytes that are no hint.
#[derive(Debug, thiserror::Error)]
pub enum HintError {
    /// The head is malformed.
    #[error("a hint: {0}")]
    Head(#[from] DecodeError),
    /// The state is malformed.
    #[error("a hint's state")]
    State(#[from] StateError),
}

impl Hint {
    /// The bytes stored.
    pub fn encode(&self) -> Vec<u8> {
        let state = self.state.encode();
        let mut out = Vec::with_capacity(HEAD_BYTES + state.len());
        out.extend_from_slice(&[FORMAT, self.w]);
        out.extend_from_slice(&self.since.to_le_bytes());
        out.extend_from_slice(&state);
        out
    }

    /// Back from [`Hint::encode`].
    /// # Errors
    /// [`HintError`] on any other bytes.
    pub fn decode(bytes: &Bytes) -> Result<Self, HintError> {
        let mut reader = Reader::new(bytes);
        let (w, since) = read_head(&mut reader)?;
        let state = Siblings::decode(&bytes.slice_ref(reader.rest()))?;
        Ok(Self { w, since, state })
    }

    /// When the first of the hint in `bytes` was stored; its state is not looked at.
    /// # Errors
    /// [`DecodeError`] when they do not begin as a hint does.
    pub fn since_of(bytes: &[u8]) -> Result<u64, DecodeError> {
        read_head(&mut Reader::new(bytes)).map(|(_, since)| since)
    }

    /// Takes a further hint for the same target and key: the states merge, the larger w and the earlier time stay.
    /// Returns whether anything changed.
    pub fn merge(&mut self, other: &Self, alarms: &mut Vec<Dot>) -> bool {
        let changed = self.state.merge(&other.state, alarms);
        let (w, since) = (self.w.max(other.w), self.since.min(other.since));
        let grew = (self.w, self.since) != (w, since);
        (self.w, self.since) = (w, since);
        changed || grew
    }
}

fn read_head(reader: &mut Reader<'_>) -> Result<(u8, u64), DecodeError> {
    if reader.u8()? != FORMAT {
        return Err(DecodeError::OutOfRange("format"));
    }
    Ok((reader.u8()?, reader.u64()?))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::version::notation::state;

    fn hint(w: u8, since: u64, text: &str) -> Hint {
        Hint { w, since, state: state(text) }
    }

    #[test]
    fn a_hint_comes_back_as_it_was_and_its_format_stays() {
        let held = hint(2, 0x0102_0304_0506_0708, "a2:x");
        let bytes = Bytes::from(held.encode());
        assert_eq!(bytes[..HEAD_BYTES], [1, 2, 8, 7, 6, 5, 4, 3, 2, 1]);
        assert_eq!(Hint::since_of(&bytes), Ok(held.since));
        assert_eq!(Hint::decode(&bytes).unwrap(), held);
        assert!(Hint::decode(&Bytes::from_static(b"\x02\x00")).is_err());
    }

    #[test]
    fn hints_of_one_key_become_one() {
        let mut held = hint(0, 9, "a1:x");
        assert!(held.merge(&hint(2, 7, "b1:y"), &mut Vec::new()));
        assert_eq!(held, hint(2, 7, "a1:x b1:y"));
        assert!(!held.merge(&hint(1, 8, "b1:y"), &mut Vec::new()));
    }

    proptest! {
        #[test]
        fn any_bytes_decode_without_panic(bytes: Vec<u8>) {
            let _ = (Hint::since_of(&bytes), Hint::decode(&bytes.into()));
        }
    }
}
