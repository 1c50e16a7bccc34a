//! What a node keeps about itself, in keyspace `m`.
//!
//! ```text
//! key                        value
//! 'm' "register"             1 register state, MessagePack with field names: layout, vote, accepted recovery
//! 'm' "start"                1 count:u64 nonce:u64                      this directory's latest start
//! 'm' "clean"                1 count:u64                                the start that ended cleanly; the next one consumes it
//! 'm' "actor"                1 epoch:u32 random:u32 floor:u64           under whom this node mints
//! 'm' "start/" node:16       1 count:u64 nonce:u64                      another member's start, the first seen with its count
//! 'm' "uncompared"           1 count:u64 position:u64                   what the disk gave back at the first start since it was compared
//! 'm' "seen/" node:16        1 count:u64 nonce:u64 position:u64         how far another member was seen to get at its latest start,
//!                              count:u64 position:u64                   and at any other
//! 'm' "address/" node:16     1 peer client http                         where another member listens: bytes behind varint lengths
//! 'm' "unsound/" block:2     1 slots:u64                                of 64 slots, those whose data may be incomplete here, a bit each
//! 'm' "cut/" slot:2          1 number:u64                               the slot's cut number
//! 'm' "gained/" partition:4  1 version:u64 step:u8                       how far a gained partition is in that layout: 0 clear, 1 copied
//! 'm' "names"                1 (node:16 name)*                          names of nodes that are no members: bytes behind varint lengths
//! 'm' "leaving"              1                                          this node gave its share away, and goes when it holds nothing more
//! 'm' "staged"               1 staged changes, MessagePack with field names
//! 'm' "due/" slot:2 key      1                                          a key of which a cut may forget something; slot big-endian
//! ```
//! The first byte of each value is the version of its format; another one is refused, never guessed at. Every batch
//! that holds such a record is durable in each sync mode, but for addresses and what was seen.
#![warn(clippy::indexing_slicing)]

use std::collections::BTreeMap;

use bytes::Bytes;

use crate::cluster::register::RegisterState;
use crate::cluster::start::Reached;
use crate::cluster::{Addresses, Incarnation, Sighting, Start};
use crate::encoding::{DecodeError, Reader, put_bytes};
use crate::node_id::NodeId;
use crate::ring::{Partition, Slot};
use crate::version::Epoch;
use crate::wire::client::StagedAt;

use super::keys;

/// Version of every record's format.
const FORMAT: u8 = 1;

/// Under whom a node mints, and above which counter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct ActorRecord {
    /// The epoch.
    pub(super) epoch: Epoch,
    /// The floor of that epoch's actor.
    pub(super) floor: u64,
}

/// Key of the layout register's record.
pub fn register_key() -> Bytes {
    keys::meta(b"register")
}

/// Key of this directory's latest [`Start`].
pub(super) fn start_key() -> Bytes {
    keys::meta(b"start")
}

/// Key of the clean mark.
pub(super) fn clean_key() -> Bytes {
    keys::meta(b"clean")
}

/// Key of the [`ActorRecord`].
pub(super) fn actor_key() -> Bytes {
    keys::meta(b"actor")
}

/// Key of what is on record about the starts of `node`.
pub(super) fn other_start_key(node: NodeId) -> Bytes {
    keys::meta(&[&b"start/"[..], node.as_bytes()].concat())
}

/// Key of what the disk gave back at the first start since it was compared with what others saw.
pub(super) fn uncompared_key() -> Bytes {
    keys::meta(b"uncompared")
}

/// Key of how far `node` was seen to get.
pub(super) fn seen_key(node: NodeId) -> Bytes {
    keys::meta(&[&b"seen/"[..], node.as_bytes()].concat())
}

/// The first key of where members listen, and the first that is none.
pub(super) fn address_range() -> (Bytes, Bytes) {
    (keys::meta(b"address/"), keys::meta(b"address0"))
}

/// Key of where `node` listens.
pub(super) fn address_key(node: NodeId) -> Bytes {
    keys::meta(&[&b"address/"[..], node.as_bytes()].concat())
}

/// Slots of one record of unsound ones.
pub(super) const UNSOUND_SLOTS: u16 = 64;

/// The first key of the records of unsound slots, and the first that is none.
pub(super) fn unsound_range() -> (Bytes, Bytes) {
    (keys::meta(b"unsound/"), keys::meta(b"unsound0"))
}

/// The slots that share a record with `slot`.
pub(super) fn unsound_block(slot: Slot) -> impl Iterator<Item = Slot> {
    let first = slot.0 - slot.0 % UNSOUND_SLOTS;
    (first..=first + (UNSOUND_SLOTS - 1)).map(Slot)
}

/// The record that `slot` stands in: `unsound` are the slots of it that are.
pub(super) fn encode_unsound(slot: Slot, unsound: impl Iterator<Item = Slot>) -> (Bytes, Vec<u8>) {
    let block = slot.0 / UNSOUND_SLOTS;
    let bits = unsound.fold(0_u64, |bits, other| bits | 1 << (other.0 % UNSOUND_SLOTS));
    let mut value = vec![FORMAT];
    value.extend_from_slice(&bits.to_le_bytes());
    (keys::meta(&[&b"unsound/"[..], &block.to_le_bytes()].concat()), value)
}

/// The unsound slots of a record.
pub(super) fn decode_unsound(key: &[u8], value: &[u8]) -> Result<Vec<Slot>, DecodeError> {
    let (prefix, _) = unsound_range();
    let block = key.strip_prefix(&*prefix).ok_or(DecodeError::OutOfRange("unsound slots"))?;
    let mut block = Reader::new(block);
    let first = u16::from_le_bytes(block.array()?)
        .checked_mul(UNSOUND_SLOTS)
        .ok_or(DecodeError::OutOfRange("block"))?;
    block.finish()?;
    let mut reader = open(value)?;
    let bits = reader.u64()?;
    reader.finish()?;
    let is_set = |place: &u16| bits & (1 << *place) != 0;
    Ok((0..UNSOUND_SLOTS).filter(is_set).map(|place| Slot(first + place)).collect())
}

/// The first key of the cut numbers, and the first that is none.
pub(super) fn cut_range() -> (Bytes, Bytes) {
    (keys::meta(b"cut/"), keys::meta(b"cut0"))
}

pub(super) fn encode_cut(slot: Slot, number: u64) -> (Bytes, Vec<u8>) {
    let mut value = vec![FORMAT];
    value.extend_from_slice(&number.to_le_bytes());
    (keys::meta(&[&b"cut/"[..], &slot.0.to_le_bytes()].concat()), value)
}

/// The slot and number of a record.
pub(super) fn decode_cut(key: &[u8], value: &[u8]) -> Result<(Slot, u64), DecodeError> {
    let (prefix, _) = cut_range();
    let slot = key.strip_prefix(&*prefix).ok_or(DecodeError::OutOfRange("cut"))?;
    let mut slot = Reader::new(slot);
    let bytes = slot.array()?;
    slot.finish()?;
    let mut reader = open(value)?;
    let number = reader.u64()?;
    reader.finish()?;
    Ok((Slot(u16::from_le_bytes(bytes)), number))
}

/// How far a partition is that this node gains.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Gained {
    /// Nothing left over was held of it when the change began to fill it.
    Clear,
    /// All of it is here.
    Copied,
}

/// Key of how far a partition is that is gained.
pub(super) fn gained_key(partition: Partition) -> Bytes {
    keys::meta(&[&b"gained/"[..], &partition.0.to_le_bytes()].concat())
}

/// The first key of the records of gained partitions, and the first that is none.
pub(super) fn gained_range() -> (Bytes, Bytes) {
    (keys::meta(b"gained/"), keys::meta(b"gained0"))
}

/// The partition of a key of [`gained_key`].
pub(super) fn parse_gained(key: &[u8]) -> Result<Partition, DecodeError> {
    let (prefix, _) = gained_range();
    let rest = key.strip_prefix(&*prefix).ok_or(DecodeError::OutOfRange("gained"))?;
    let mut reader = Reader::new(rest);
    let partition = u32::from_le_bytes(reader.array()?);
    reader.finish()?;
    Ok(Partition(partition))
}

/// The layout version that it is gained by, and how far it is.
pub(super) fn encode_gained(version: u64, step: Gained) -> Vec<u8> {
    let mut value = vec![FORMAT];
    value.extend_from_slice(&version.to_le_bytes());
    value.push(match step {
        Gained::Clear => 0,
        Gained::Copied => 1,
    });
    value
}

/// Back from [`encode_gained`].
pub(super) fn decode_gained(value: &[u8]) -> Result<(u64, Gained), DecodeError> {
    let mut reader = open(value)?;
    let version = reader.u64()?;
    let step = match reader.u8()? {
        0 => Gained::Clear,
        1 => Gained::Copied,
        _ => return Err(DecodeError::OutOfRange("step of a gained partition")),
    };
    reader.finish()?;
    Ok((version, step))
}

/// Key of the mark that this node leaves.
pub(super) fn leaving_key() -> Bytes {
    keys::meta(b"leaving")
}

/// What that holds.
pub(super) const LEAVING: &[u8] = &[FORMAT];

/// Key of the names of nodes that are no members.
pub(super) fn names_key() -> Bytes {
    keys::meta(b"names")
}

pub(super) fn encode_names(names: &BTreeMap<NodeId, String>) -> Vec<u8> {
    let mut bytes = vec![FORMAT];
    for (node, name) in names {
        bytes.extend_from_slice(node.as_bytes());
        put_bytes(&mut bytes, name.as_bytes());
    }
    bytes
}

pub(super) fn decode_names(bytes: &[u8]) -> Result<BTreeMap<NodeId, String>, DecodeError> {
    let mut reader = open(bytes)?;
    let mut names = BTreeMap::new();
    while !reader.rest().is_empty() {
        let node = NodeId::from_bytes(reader.array()?);
        let name = std::str::from_utf8(reader.bytes()?);
        names.insert(node, name.map_err(|_| DecodeError::OutOfRange("name"))?.to_owned());
    }
    Ok(names)
}

/// Key of the staged changes.
pub(super) fn staged_key() -> Bytes {
    keys::meta(b"staged")
}

pub(super) fn encode_staged(staged: &[StagedAt]) -> Vec<u8> {
    let mut bytes = vec![FORMAT];
    let body = rmp_serde::to_vec_named(staged).expect("staged changes have no map with odd keys");
    bytes.extend_from_slice(&body);
    bytes
}

pub(super) fn decode_staged(bytes: &[u8]) -> Result<Vec<StagedAt>, DecodeError> {
    rmp_serde::from_slice(open(bytes)?.rest()).map_err(|_| DecodeError::OutOfRange("staged"))
}

/// The first key of the index of what a cut may forget, and the first that is none.
pub(super) fn due_range() -> (Bytes, Bytes) {
    (keys::meta(b"due/"), keys::meta(b"due0"))
}

/// The index's record of `key`.
pub(super) fn due_key(key: &[u8]) -> Bytes {
    let data = keys::data(key);
    keys::meta(&[&b"due/"[..], data.get(1..).unwrap_or_default()].concat())
}

/// What a record of the index holds.
pub(super) const DUE: &[u8] = &[FORMAT];

/// The slot and key of a record of the index.
pub(super) fn parse_due(stored: &[u8]) -> Result<(Slot, &[u8]), DecodeError> {
    let (prefix, _) = due_range();
    let rest = stored.strip_prefix(&*prefix).ok_or(DecodeError::OutOfRange("due"))?;
    keys::parse_slot_and_key(rest)
}

pub(super) fn encode_register(state: &RegisterState) -> Vec<u8> {
    let mut bytes = vec![FORMAT];
    let body = rmp_serde::to_vec_named(state).expect("a register state has no map with odd keys");
    bytes.extend_from_slice(&body);
    bytes
}

pub(super) fn decode_register(bytes: &[u8]) -> Result<RegisterState, DecodeError> {
    let state: RegisterState = rmp_serde::from_slice(open(bytes)?.rest())
        .map_err(|_| DecodeError::OutOfRange("register"))?;
    let is_sound = state.chosen.validate().is_ok()
        && state.recovery.as_ref().is_none_or(|layout| layout.validate().is_ok())
        && Some(state.vote.version) == state.chosen.version.checked_add(1);
    if is_sound { Ok(state) } else { Err(DecodeError::OutOfRange("layout")) }
}

/// The names of the members that a register's record knows, those of a change in progress too.
/// # Errors
/// [`DecodeError`] on anything that is no register's record.
pub fn member_names(register: &[u8]) -> Result<BTreeMap<NodeId, String>, DecodeError> {
    let layout = decode_register(register)?.chosen;
    Ok(layout.members().map(|member| (member.id, member.name.clone())).collect())
}

pub(super) fn encode_start(start: Start) -> Vec<u8> {
    let mut bytes = vec![FORMAT];
    bytes.extend_from_slice(&start.count.0.to_le_bytes());
    bytes.extend_from_slice(&start.nonce.to_le_bytes());
    bytes
}

pub(super) fn decode_start(bytes: &[u8]) -> Result<Start, DecodeError> {
    let mut reader = open(bytes)?;
    let start = Start { count: Incarnation(reader.u64()?), nonce: reader.u64()? };
    reader.finish()?;
    Ok(start)
}

pub(super) fn encode_clean(count: Incarnation) -> Vec<u8> {
    let mut bytes = vec![FORMAT];
    bytes.extend_from_slice(&count.0.to_le_bytes());
    bytes
}

pub(super) fn decode_clean(bytes: &[u8]) -> Result<Incarnation, DecodeError> {
    let mut reader = open(bytes)?;
    let count = Incarnation(reader.u64()?);
    reader.finish()?;
    Ok(count)
}

pub(super) fn encode_reached(reached: Reached) -> Vec<u8> {
    let mut bytes = vec![FORMAT];
    put_reached(&mut bytes, reached);
    bytes
}

pub(super) fn decode_reached(bytes: &[u8]) -> Result<Reached, DecodeError> {
    let mut reader = open(bytes)?;
    let reached = take_reached(&mut reader)?;
    reader.finish()?;
    Ok(reached)
}

pub(super) fn encode_sighting(sighting: Sighting) -> Vec<u8> {
    let mut bytes = encode_start(sighting.start);
    bytes.extend_from_slice(&sighting.position.to_le_bytes());
    put_reached(&mut bytes, sighting.before);
    bytes
}

pub(super) fn decode_sighting(bytes: &[u8]) -> Result<Sighting, DecodeError> {
    let mut reader = open(bytes)?;
    let start = Start { count: Incarnation(reader.u64()?), nonce: reader.u64()? };
    let position = reader.u64()?;
    let before = take_reached(&mut reader)?;
    reader.finish()?;
    Ok(Sighting { start, position, before })
}

fn put_reached(bytes: &mut Vec<u8>, Reached { count, position }: Reached) {
    bytes.extend_from_slice(&count.0.to_le_bytes());
    bytes.extend_from_slice(&position.to_le_bytes());
}

fn take_reached(reader: &mut Reader<'_>) -> Result<Reached, DecodeError> {
    Ok(Reached { count: Incarnation(reader.u64()?), position: reader.u64()? })
}

pub(super) fn encode_actor(record: ActorRecord) -> Vec<u8> {
    let mut bytes = vec![FORMAT];
    bytes.extend_from_slice(&record.epoch.counter.to_le_bytes());
    bytes.extend_from_slice(&record.epoch.random.to_le_bytes());
    bytes.extend_from_slice(&record.floor.to_le_bytes());
    bytes
}

pub(super) fn decode_actor(bytes: &[u8]) -> Result<ActorRecord, DecodeError> {
    let mut reader = open(bytes)?;
    let epoch = Epoch { counter: reader.u32()?, random: reader.u32()? };
    let floor = reader.u64()?;
    reader.finish()?;
    Ok(ActorRecord { epoch, floor })
}

pub(super) fn encode_addresses(addresses: &Addresses) -> Vec<u8> {
    let mut bytes = vec![FORMAT];
    for address in [&addresses.peer, &addresses.client, &addresses.http] {
        put_bytes(&mut bytes, address.as_bytes());
    }
    bytes
}

pub(super) fn decode_addresses(bytes: &[u8]) -> Result<Addresses, DecodeError> {
    let mut reader = open(bytes)?;
    let mut text = || {
        let bytes = reader.bytes()?;
        std::str::from_utf8(bytes)
            .map(str::to_owned)
            .map_err(|_| DecodeError::OutOfRange("address"))
    };
    let addresses = Addresses { peer: text()?, client: text()?, http: text()? };
    reader.finish()?;
    Ok(addresses)
}

fn open(bytes: &[u8]) -> Result<Reader<'_>, DecodeError> {
    let mut reader = Reader::new(bytes);
    match reader.u8()? {
        FORMAT => Ok(reader),
        _ => Err(DecodeError::OutOfRange("format")),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use proptest::prelude::*;

    use super::*;
    use crate::ring::{Layout, Member, Mode, Weight};

    #[test]
    fn records_are_drawn_as_documented() {
        let start = Start { count: Incarnation(3), nonce: 9 };
        assert_eq!(encode_start(start), b"\x01\x03\0\0\0\0\0\0\0\x09\0\0\0\0\0\0\0");
        assert_eq!(decode_start(&encode_start(start)), Ok(start));
        assert_eq!(encode_clean(Incarnation(3)), b"\x01\x03\0\0\0\0\0\0\0");
        assert_eq!(decode_clean(&encode_clean(Incarnation(3))), Ok(Incarnation(3)));
        let before = Reached { count: Incarnation(2), position: 4 };
        assert_eq!(encode_reached(before), b"\x01\x02\0\0\0\0\0\0\0\x04\0\0\0\0\0\0\0");
        assert_eq!(decode_reached(&encode_reached(before)), Ok(before));
        let sighting = Sighting { start, position: 5, before };
        let expected =
            [&encode_start(start)[..], b"\x05\0\0\0\0\0\0\0", &encode_reached(before)[1..]];
        assert_eq!(encode_sighting(sighting), expected.concat());
        assert_eq!(decode_sighting(&encode_sighting(sighting)), Ok(sighting));
        let record = ActorRecord { epoch: Epoch { counter: 2, random: 7 }, floor: 5 };
        assert_eq!(encode_actor(record), b"\x01\x02\0\0\0\x07\0\0\0\x05\0\0\0\0\0\0\0");
        assert_eq!(decode_actor(&encode_actor(record)), Ok(record));
        let addresses =
            Addresses { peer: "a:1".to_owned(), client: "b:2".to_owned(), http: String::new() };
        assert_eq!(encode_addresses(&addresses), b"\x01\x03a:1\x03b:2\0");
        assert_eq!(decode_addresses(&encode_addresses(&addresses)), Ok(addresses));
        let names = BTreeMap::from([(NodeId::from_bytes([b'x'; 16]), "n1".to_owned())]);
        assert_eq!(encode_names(&names), b"\x01xxxxxxxxxxxxxxxx\x02n1");
        assert_eq!(decode_names(&encode_names(&names)), Ok(names));
        assert_eq!(
            other_start_key(NodeId::from_bytes([b'x'; 16])).as_ref(),
            b"mstart/xxxxxxxxxxxxxxxx"
        );
    }

    #[test]
    fn a_register_state_survives_and_a_newer_format_is_refused() {
        let member = |byte| Member {
            id: NodeId::from_bytes([byte; 16]),
            name: format!("n{byte}"),
            zone: String::new(),
            weight: Weight(1_000),
        };
        let layout =
            Layout::found(32, 3, 2, 2, Mode::Available, vec![member(1), member(2)]).unwrap();
        let state = RegisterState::new(Arc::new(layout));
        let mut bytes = encode_register(&state);
        assert_eq!(decode_register(&bytes), Ok(state));
        let names = member_names(&bytes).unwrap();
        assert_eq!(names.into_values().collect::<Vec<_>>(), ["n1", "n2"]);
        bytes[0] = 2;
        assert_eq!(decode_register(&bytes), Err(DecodeError::OutOfRange("format")));
    }

    #[test]
    fn unsound_slots_come_back_by_their_block() {
        let unsound = [Slot(65_472), Slot(65_480), Slot(u16::MAX)];
        let (key, value) = encode_unsound(Slot(65_490), unsound.into_iter());
        assert_eq!(key.as_ref(), b"munsound/\xff\x03");
        assert_eq!(value, [&[1, 1, 1][..], &[0; 5], &[0x80]].concat());
        assert_eq!(decode_unsound(&key, &value), Ok(unsound.to_vec()));
        assert_eq!(
            unsound_block(Slot(65)).collect::<Vec<_>>(),
            (64..128).map(Slot).collect::<Vec<_>>()
        );
        assert!(decode_unsound(b"munsound/\xff\xff", &value).is_err(), "no such block");
    }

    proptest! {
        #[test]
        fn any_bytes_decode_without_panic(bytes: Vec<u8>) {
            let _ = decode_unsound(&bytes, &bytes);
            let _ = (decode_register(&bytes), decode_start(&bytes), decode_clean(&bytes));
            let _ = (decode_actor(&bytes), decode_addresses(&bytes));
            let _ = (decode_reached(&bytes), decode_sighting(&bytes), decode_names(&bytes));
        }
    }
}
