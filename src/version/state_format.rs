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
