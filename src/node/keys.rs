//! The keys under which a node keeps things in its store.
//!
//! Why here: the store sorts opaque bytes; what they mean is the node's business. Data sorts by slot, so that a slot
//! comparison, a range transfer or a rebuild is one sequential scan. A key never written needs no entry.
//! ```text
//! data := 'd' slot:u16 key                       slot big-endian: it must sort
//! hint := 'h' target:[u8; 16] slot:u16 key       a state held for another node (hinted handoff)
//! meta := 'm' name                               names in `meta.rs`
//! ```
//! Invariant: a data key's slot is the slot of its key's token; [`parse_data`] refuses any other.
#![warn(clippy::indexing_slicing)]

use bytes::{BufMut, Bytes, BytesMut};

use crate::encoding::{DecodeError, Reader};
use crate::node_id::NodeId;
use crate::ring::{Slot, Token};

/// First byte of every data key.
pub const DATA: u8 = b'd';
/// First byte of every hint key.
pub const HINT: u8 = b'h';
/// First byte of every meta key.
pub const META: u8 = b'm';
/// Bytes of a data key in front of the client's key.
const DATA_HEAD_BYTES: usize = 3;

/// The storage key of `key`'s state.
pub fn data(key: &[u8]) -> Bytes {
    data_at(Token::of(key).slot(), key)
}

/// The client's key and its slot in a data key.
/// # Errors
/// [`DecodeError`] when `bytes` is no data key, or its slot is not its key's.
pub fn parse_data(bytes: &[u8]) -> Result<(Slot, &[u8]), DecodeError> {
    let mut reader = Reader::new(bytes);
    if reader.u8()? != DATA {
        return Err(DecodeError::OutOfRange("keyspace"));
    }
    let slot = sorting_slot(reader.array()?);
    let key = reader.rest();
    if Token::of(key).slot() != slot {
        return Err(DecodeError::OutOfRange("slot"));
    }
    Ok((slot, key))
}

/// The storage key of the state of `key` held for `target`.
pub fn hint(target: NodeId, key: &[u8]) -> Bytes {
    let mut bytes = BytesMut::with_capacity(1 + 16 + 2 + key.len());
    bytes.put_u8(HINT);
    bytes.put_slice(target.as_bytes());
    bytes.put_slice(&sorting(Token::of(key).slot()));
    bytes.put_slice(key);
    bytes.freeze()
}

/// For whom a hint is held, and the client's key.
/// # Errors
/// [`DecodeError`] when `bytes` is no hint's key, or its slot is not its key's.
pub fn parse_hint(bytes: &[u8]) -> Result<(NodeId, &[u8]), DecodeError> {
    let mut reader = Reader::new(bytes);
    if reader.u8()? != HINT {
        return Err(DecodeError::OutOfRange("keyspace"));
    }
    let target = NodeId::from_bytes(reader.array()?);
    let slot = sorting_slot(reader.array()?);
    let key = reader.rest();
    if Token::of(key).slot() != slot {
        return Err(DecodeError::OutOfRange("slot"));
    }
    Ok((target, key))
}

/// The first storage key of all hints, and the one behind the last.
pub fn hints() -> (Bytes, Bytes) {
    (Bytes::from_static(&[HINT]), Bytes::from_static(&[HINT + 1]))
}

/// The first storage key of the hints held for `target`, and the first that is none of them.
pub fn hints_of(target: NodeId) -> (Bytes, Bytes) {
    let start = [&[HINT], &target.as_bytes()[..]].concat();
    let mut end = start.clone();
    // The keyspace's byte is no 0xff: the carry ends there at the latest.
    for byte in end.iter_mut().rev() {
        *byte = byte.wrapping_add(1);
        if *byte != 0 {
            break;
        }
    }
    (start.into(), end.into())
}

/// The storage key of the meta entry `name`.
pub fn meta(name: &[u8]) -> Bytes {
    let mut bytes = BytesMut::with_capacity(1 + name.len());
    bytes.put_u8(META);
    bytes.put_slice(name);
    bytes.freeze()
}

/// First data key of `slots` (inclusive), and the storage key behind the last one. With `after`, the start is behind
/// that slot and key; with a `prefix` the start skips what sorts before it in the first slot.
pub fn data_range(slots: (Slot, Slot), after: Option<&(Slot, Bytes)>) -> (Bytes, Bytes) {
    let start = match after {
        // The smallest key behind K is K followed by a zero byte.
        Some((slot, key)) => {
            let mut bytes = BytesMut::from(data_at(*slot, key).as_ref());
            bytes.put_u8(0);
            bytes.freeze()
        }
        None => data_at(slots.0, b""),
    };
    let end = match slots.1.0.checked_add(1) {
        Some(next) => data_at(Slot(next), b""),
        None => Bytes::from_static(&[DATA + 1]),
    };
    (start, end)
}

/// The first and the last slot of which there are data keys between two storage keys, inclusive; `None` without any.
pub fn slots_between(first: &[u8], last: &[u8]) -> Option<(Slot, Slot)> {
    let slot = |key: &[u8]| {
        let at = |place: usize| key.get(place).copied().unwrap_or(0);
        sorting_slot([at(1), at(2)])
    };
    let low = match first.first() {
        Some(&keyspace) if keyspace > DATA => return None,
        Some(&DATA) => slot(first),
        Some(_) | None => Slot(0),
    };
    let high = match last.first() {
        Some(&keyspace) if keyspace > DATA => Slot(u16::MAX),
        Some(&DATA) => slot(last),
        Some(_) | None => return None,
    };
    (low <= high).then_some((low, high))
}

fn data_at(slot: Slot, key: &[u8]) -> Bytes {
    let mut bytes = BytesMut::with_capacity(DATA_HEAD_BYTES + key.len());
    bytes.put_u8(DATA);
    bytes.put_slice(&sorting(slot));
    bytes.put_slice(key);
    bytes.freeze()
}

#[expect(clippy::big_endian_bytes, reason = "slots must sort as bytes")]
const fn sorting(slot: Slot) -> [u8; 2] {
    slot.0.to_be_bytes()
}

#[expect(clippy::big_endian_bytes, reason = "slots must sort as bytes")]
const fn sorting_slot(bytes: [u8; 2]) -> Slot {
    Slot(u16::from_be_bytes(bytes))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn data_keys_give_back_slot_and_key(key: Vec<u8>) {
            let slot = Token::of(&key).slot();
            let stored = data(&key);
            prop_assert_eq!(parse_data(&stored), Ok((slot, key.as_slice())));
        }

        #[test]
        fn data_keys_sort_by_slot_then_key(left: Vec<u8>, right: Vec<u8>) {
            let by_slot = |key: &[u8]| (Token::of(key).slot(), key.to_vec());
            prop_assert_eq!(data(&left).cmp(&data(&right)), by_slot(&left).cmp(&by_slot(&right)));
        }

        #[test]
        fn a_range_holds_exactly_its_slots(key: Vec<u8>, first: u16, last: u16) {
            let (first, last) = (first.min(last), first.max(last));
            let (start, end) = data_range((Slot(first), Slot(last)), None);
            let slot = Token::of(&key).slot().0;
            let stored = data(&key);
            prop_assert_eq!(start <= stored && stored < end, (first..=last).contains(&slot));
        }

        #[test]
        fn any_bytes_parse_without_panic(bytes: Vec<u8>) {
            let _ = parse_data(&bytes);
        }
    }

    #[test]
    fn a_range_goes_on_right_behind_a_key() {
        let slot = Token::of(b"k").slot();
        let (start, end) = data_range((slot, slot), Some(&(slot, Bytes::from_static(b"k"))));
        assert!(data_at(slot, b"k") < start && start <= data_at(slot, b"k\0") && start < end);
    }

    #[test]
    fn the_slots_of_a_key_range_are_those_of_its_data_keys() {
        let at = |slot| data_at(Slot(slot), b"k");
        assert_eq!(slots_between(&at(3), &at(9)), Some((Slot(3), Slot(9))));
        assert_eq!(slots_between(b"a", &at(9)), Some((Slot(0), Slot(9))));
        assert_eq!(slots_between(&at(3), &meta(b"clean")), Some((Slot(3), Slot(u16::MAX))));
        assert_eq!(slots_between(b"d", b"d\x01"), Some((Slot(0), Slot(256))));
        assert_eq!(slots_between(&meta(b"a"), &meta(b"b")), None);
        assert_eq!(slots_between(b"a", b"b"), None);
    }

    #[test]
    fn a_key_in_a_foreign_slot_is_refused() {
        let wrong = Slot(Token::of(b"k").slot().0 ^ 1);
        assert_eq!(parse_data(&data_at(wrong, b"k")), Err(DecodeError::OutOfRange("slot")));
        assert_eq!(parse_data(b"mclean"), Err(DecodeError::OutOfRange("keyspace")));
    }

    #[test]
    fn keyspaces_are_drawn_as_documented() {
        assert_eq!(data_at(Slot(0x1234), b"k").as_ref(), b"d\x12\x34k");
        assert_eq!(meta(b"clean").as_ref(), b"mclean");
        let target = NodeId::from_bytes([7; 16]);
        assert_eq!(hint(target, b"k")[..17], [&b"h"[..], &[7; 16]].concat());
        assert_eq!(parse_hint(&hint(target, b"k")), Ok((target, &b"k"[..])));
        assert!(parse_hint(&data(b"k")).is_err());
    }
}
