//! A key's state as bytes, as stored and sent.
//!
//! ```text
//! state   := format:u8 entries:varint entry* versions:varint version*
//! entry   := node:[u8; 16] epoch:varint random:u32 counter:varint      actors ascend; counter 1 to 2^63
//! version := entry_index:varint counter:varint timestamp:u64 session:u64 request:varint content     dots ascend
//! content := length_plus_1:varint value | 0x00 for a tombstone
//! ```
//! Why so: a version's dot is always covered by the clock, so its actor is named by the place of the clock's entry, not
//! by 24 bytes again. A value's hash is not stored: it is worked out from the value where it is needed. There is one
//! encoding of a state, and [`Siblings::decode`] refuses all other bytes.
#![warn(clippy::indexing_slicing)]

use std::collections::BTreeMap;

use bytes::Bytes;

use crate::encoding::{DecodeError, Reader, VARINT_BYTES_MAX, put_varint};
use crate::node_id::NodeId;

use super::context::read_epoch;
use super::siblings::StateError;
use super::{Actor, Content, Dot, RequestId, Siblings, Timestamp, VectorClock, Version};

/// The format's version, its first byte.
const FORMAT: u8 = 1;
/// Most bytes that an entry takes.
const ENTRY_BYTES_MAX: usize = 16 + 5 + 4 + VARINT_BYTES_MAX;
/// Most bytes that a version takes, its value aside.
const VERSION_BYTES_MAX: usize = 4 * VARINT_BYTES_MAX + 8 + 8;

impl Siblings {
    /// The state's bytes, as stored and sent.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(self.encoded_bytes_max());
        out.push(FORMAT);
        put_varint(&mut out, self.clock().len() as u64);
        for (actor, counter) in self.clock().iter() {
            out.extend_from_slice(actor.node.as_bytes());
            put_varint(&mut out, u64::from(actor.epoch.counter));
            out.extend_from_slice(&actor.epoch.random.to_le_bytes());
            put_varint(&mut out, counter);
        }
        put_varint(&mut out, self.versions().len() as u64);
        // Both are in actor order, so one pass over the clock finds each version's entry.
        let mut entries = self.clock().iter().map(|(actor, _)| actor).enumerate();
        let mut entry = entries.next();
        for (dot, version) in self.versions() {
            while entry.is_some_and(|(_, actor)| actor < dot.actor) {
                entry = entries.next();
            }
            let (index, _) = entry.expect("the clock covers each version's dot");
            put_version(&mut out, index, dot.counter, version);
        }
        out
    }

    /// Back from [`Siblings::encode`]; values are slices of `bytes`, not copies.
    /// # Errors
    /// [`StateError`] on anything [`Siblings::encode`] does not write.
    pub fn decode(bytes: &Bytes) -> Result<Self, StateError> {
        let mut reader = Reader::new(bytes);
        if reader.u8()? != FORMAT {
            return Err(DecodeError::OutOfRange("format").into());
        }
        let entries = read_entries(&mut reader)?;
        let versions = read_versions(&mut reader, &entries, bytes)?;
        reader.finish()?;
        let clock: BTreeMap<Actor, u64> = entries.into_iter().collect();
        let clock =
            VectorClock::try_from(clock).map_err(|_| DecodeError::OutOfRange("clock counter"))?;
        Self::from_parts(clock, versions)
            .ok_or_else(|| DecodeError::OutOfRange("version counter").into())
    }

    fn encoded_bytes_max(&self) -> usize {
        let values: usize = self.versions().values().map(|version| version.content.len()).sum();
        let counts = 1 + 2 * VARINT_BYTES_MAX;
        counts
            + self.clock().len() * ENTRY_BYTES_MAX
            + self.versions().len() * VERSION_BYTES_MAX
            + values
    }
}

fn put_version(out: &mut Vec<u8>, entry: usize, counter: u64, version: &Version) {
    put_varint(out, entry as u64);
    put_varint(out, counter);
    out.extend_from_slice(&version.timestamp.bits().to_le_bytes());
    out.extend_from_slice(&version.request.session.to_le_bytes());
    put_varint(out, version.request.counter);
    match &version.content {
        Content::Tombstone => out.push(0),
        Content::Value(value) => {
            put_varint(out, value.len() as u64 + 1);
            out.extend_from_slice(value);
        }
    }
}

fn read_entries(reader: &mut Reader<'_>) -> Result<Vec<(Actor, u64)>, DecodeError> {
    let mut entries: Vec<(Actor, u64)> = Vec::new();
    for _ in 0..reader.varint()? {
        let actor = Actor { node: NodeId::from_bytes(reader.array()?), epoch: read_epoch(reader)? };
        if entries.last().is_some_and(|(last, _)| *last >= actor) {
            return Err(DecodeError::OutOfRange("clock order"));
        }
        entries.push((actor, reader.varint()?));
    }
    Ok(entries)
}

fn read_versions(
    reader: &mut Reader<'_>,
    entries: &[(Actor, u64)],
    bytes: &Bytes,
) -> Result<BTreeMap<Dot, Version>, DecodeError> {
    let mut versions: Vec<(Dot, Version)> = Vec::new();
    for _ in 0..reader.varint()? {
        let (actor, _) =
            entries.get(reader.length()?).ok_or(DecodeError::OutOfRange("version actor"))?;
        let dot = Dot { actor: *actor, counter: reader.varint()? };
        if versions.last().is_some_and(|(last, _)| *last >= dot) {
            return Err(DecodeError::OutOfRange("version order"));
        }
        let timestamp = Timestamp::from_bits(reader.u64()?);
        let request = RequestId { session: reader.u64()?, counter: reader.varint()? };
        let content = match reader.length()?.checked_sub(1) {
            None => Content::Tombstone,
            Some(length) => Content::Value(bytes.slice_ref(reader.take(length)?)),
        };
        versions.push((dot, Version { timestamp, request, content }));
    }
    Ok(versions.into_iter().collect())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::notation::{actor, state, states, version};
    use super::super::{Basis, COUNTER_MAX};
    use super::*;

    /// Where the golden file of a state lies, and the state.
    const GOLDEN: &str = include_str!("../../tests/golden/version/states.txt");

    /// A state with all that the format has: two epochs, a value, an empty value, a tombstone, large numbers.
    fn rich() -> Siblings {
        let mut rich = state("a300:cart b2:- / c1");
        let mut odd = version("", COUNTER_MAX);
        odd.timestamp = Timestamp::from_bits(0x0123_4567_89ab_cdef);
        odd.request.session = 0xfeed;
        rich.write(actor("b.2"), &Basis::Blind, 7, odd).unwrap();
        rich
    }

    /// Formats are kept: what an older release wrote is read, and written the same.
    #[test]
    fn states_are_written_as_ever() {
        let examples = [Siblings::new(), state("a1:x"), state("/ a1 b2"), rich()];
        let written: Vec<String> =
            examples.iter().map(|state| data_encoding::HEXLOWER.encode(&state.encode())).collect();
        let golden: Vec<&str> = GOLDEN.lines().filter(|line| !line.starts_with('#')).collect();
        assert_eq!(written, golden);
        for (example, line) in examples.iter().zip(golden) {
            let bytes = Bytes::from(data_encoding::HEXLOWER.decode(line.as_bytes()).unwrap());
            assert_eq!(&Siblings::decode(&bytes).unwrap(), example);
        }
    }

    #[test]
    fn values_are_slices_of_the_bytes() {
        let bytes = Bytes::from(state("a1:cart").encode());
        let decoded = Siblings::decode(&bytes).unwrap();
        let Some(Content::Value(value)) = decoded.versions().values().next().map(|v| &v.content)
        else {
            panic!()
        };
        assert!(bytes.as_ptr_range().contains(&value.as_ptr()));
    }

    #[test]
    fn what_is_never_written_is_refused() {
        let entry = |name: &str, counter: u64| {
            let mut out = actor(name).node.as_bytes().to_vec();
            out.extend_from_slice(&[1, 0, 0, 0, 0]);
            put_varint(&mut out, counter);
            out
        };
        let tombstone = |index: u8, counter: u8| [&[index, counter][..], &[0; 18]].concat();
        let (a1, b1) = (entry("a", 1), entry("b", 1));
        for (bytes, why) in [
            (vec![2, 0, 0], "format"),
            ([&[1, 1][..], &entry("a", 0), &[0]].concat(), "clock counter"),
            ([&[1, 1][..], &entry("a", COUNTER_MAX + 1), &[0]].concat(), "clock counter"),
            ([&[1, 2][..], &b1, &a1, &[0]].concat(), "clock order"),
            ([&[1, 2][..], &a1, &a1, &[0]].concat(), "clock order"),
            ([&[1, 1][..], &a1, &[1], &tombstone(1, 1)].concat(), "version actor"),
            ([&[1, 1][..], &a1, &[1], &tombstone(0, 0)].concat(), "version counter"),
            ([&[1, 1][..], &a1, &[1], &tombstone(0, 2)].concat(), "version counter"),
            (
                [&[1, 1][..], &a1, &[2], &tombstone(0, 1), &tombstone(0, 1)].concat(),
                "version order",
            ),
        ] {
            let expected = Err(StateError(DecodeError::OutOfRange(why)));
            assert_eq!(Siblings::decode(&Bytes::from(bytes.clone())), expected, "{bytes:02x?}");
        }
        let sound = [&[1, 1][..], &a1, &[1], &tombstone(0, 1)].concat();
        assert!(Siblings::decode(&Bytes::from(sound.clone())).is_ok());
        let trailing = Bytes::from([sound, vec![0]].concat());
        assert_eq!(Siblings::decode(&trailing), Err(StateError(DecodeError::Trailing(1))));
    }

    #[test]
    fn a_state_cut_short_is_refused_at_every_length() {
        let bytes = Bytes::from(rich().encode());
        for length in 0..bytes.len() {
            assert!(
                Siblings::decode(&bytes.slice(..length)).is_err(),
                "the first {length} bytes were taken"
            );
        }
    }

    proptest! {
        #[test]
        fn states_round_trip(state in states()) {
            let encoded = state.encode();
            prop_assert!(encoded.len() <= state.encoded_bytes_max());
            prop_assert_eq!(Siblings::decode(&Bytes::from(encoded)), Ok(state));
        }

        /// Whatever is taken is what would be written: there is one encoding of a state.
        #[test]
        fn altered_bytes_are_refused_or_another_states_own(
            state in states(),
            edits in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..4),
        ) {
            let mut bytes = state.encode();
            for (at, byte) in edits {
                let at = at.index(bytes.len());
                bytes[at] = byte;
            }
            if let Ok(decoded) = Siblings::decode(&Bytes::from(bytes.clone())) {
                prop_assert_eq!(decoded.encode(), bytes);
            }
        }

        #[test]
        fn any_bytes_decode_without_panic(mut bytes: Vec<u8>, format in prop::bool::ANY) {
            if format {
                bytes.insert(0, FORMAT);
            }
            if let Ok(decoded) = Siblings::decode(&Bytes::from(bytes.clone())) {
                prop_assert_eq!(decoded.encode(), bytes);
            }
        }
    }
}
