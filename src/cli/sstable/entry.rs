//! Entries of a store as records: data keys as `kv`, what is held for others as `hint`, a node's own notes as `meta`,
//! anything else as `unknown`, by its bytes. `crate::cli::records::parse_stored` reads them back.

use std::collections::BTreeMap;

use bytes::Bytes;

use crate::cli::json::Object;
use crate::cli::records::{self, Origin, StoredRecord, node_name};
use crate::node::keys;
use crate::node_id::NodeId;
use crate::storage::table::Entry;
use crate::version::Siblings;

use super::report::short_key;

/// Names of nodes, as far as they are known.
pub(super) type Names = BTreeMap<NodeId, String>;

/// How much of an entry is shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Shown {
    /// All of it.
    Whole,
    /// Sizes instead of values.
    Sizes,
}

/// What an entry means.
enum Meaning<'a> {
    Data(&'a [u8], Option<Siblings>),
    Hint(NodeId, &'a [u8], Option<Siblings>),
    Meta(&'a [u8]),
    Unknown(Option<String>),
}

/// The client's key in a storage key; `None` in keyspaces other than data.
pub(super) fn client_key(key: &[u8]) -> Option<&[u8]> {
    keys::parse_data(key).ok().map(|(_, key)| key)
}

/// An entry as a record; `blank` gives an empty one of a kind.
pub(super) fn record(
    entry: &Entry,
    names: &Names,
    shown: Shown,
    blank: impl FnOnce(&str) -> Object,
) -> Object {
    let value = entry.value.as_ref();
    match meaning(&entry.key, value) {
        Meaning::Data(key, state) => of_state(blank("kv"), key, state, value, names, shown),
        Meaning::Hint(node, key, state) => {
            let object = blank("hint").field("for", node_name(node, names));
            of_state(object.field("node", node.to_string()), key, state, value, names, shown)
        }
        Meaning::Meta(name) => plain(blank("meta").bytes("key", name), value, shown),
        Meaning::Unknown(bad) => {
            let object = blank("unknown").maybe("bad", bad);
            plain(object.base64("key", &entry.key), value, shown)
        }
    }
}

/// The storage key of an entry that was read back.
pub(super) fn storage_key(record: &StoredRecord) -> Bytes {
    match record.origin {
        Origin::Data => keys::data(&record.key),
        Origin::Hint(node) => keys::hint(node, &record.key),
        Origin::Meta => keys::meta(&record.key),
        Origin::Unknown => record.key.clone(),
    }
}

/// The state in an entry of a data key.
pub(super) fn data_state(entry: &Entry) -> Option<(&[u8], Siblings)> {
    match meaning(&entry.key, entry.value.as_ref()) {
        Meaning::Data(key, Some(state)) => Some((key, state)),
        Meaning::Data(_, None) | Meaning::Hint(..) | Meaning::Meta(_) | Meaning::Unknown(_) => None,
    }
}

/// A storage key for a person: `331/cart:42`, the slot in front of the client's key.
pub(super) fn shown_key(key: &[u8]) -> String {
    if let Ok((slot, key)) = keys::parse_data(key) {
        return format!("{}/{}", slot.0, short_key(key));
    }
    match key.split_first() {
        Some((&keys::META, name)) => format!("meta {}", short_key(name)),
        Some(_) | None => match keys::parse_hint(key) {
            Ok((node, key)) => {
                format!("hint for {} {}", node_name(node, &Names::new()), short_key(key))
            }
            // The bound of a range need not be a key that was written.
            Err(_) => short_key(key),
        },
    }
}

/// A storage key for a program.
pub(super) fn key_object(key: &[u8]) -> Object {
    match keys::parse_data(key) {
        Ok((slot, key)) => Object::bare().field("slot", slot.0).bytes("key", key),
        Err(_) => Object::bare().base64("storage_key", key),
    }
}

fn meaning<'a>(key: &'a [u8], value: Option<&Bytes>) -> Meaning<'a> {
    let state = || value.map(Siblings::decode).transpose();
    if let Ok((_, key)) = keys::parse_data(key) {
        return match state() {
            Ok(state) => Meaning::Data(key, state),
            Err(error) => Meaning::Unknown(Some(error.to_string())),
        };
    }
    if let Ok((node, key)) = keys::parse_hint(key) {
        return match state() {
            Ok(state) => Meaning::Hint(node, key, state),
            Err(error) => Meaning::Unknown(Some(error.to_string())),
        };
    }
    match key.split_first() {
        // A record's key has a byte at least.
        Some((&keys::META, name)) if !name.is_empty() => Meaning::Meta(name),
        Some(_) | None => Meaning::Unknown(None),
    }
}

fn of_state(
    object: Object,
    key: &[u8],
    state: Option<Siblings>,
    value: Option<&Bytes>,
    names: &Names,
    shown: Shown,
) -> Object {
    match (state, shown) {
        (Some(state), Shown::Whole) => records::record(object, key, &state, names),
        (Some(_), Shown::Sizes) | (None, _) => plain(object.bytes("key", key), value, shown),
    }
}

fn plain(object: Object, value: Option<&Bytes>, shown: Shown) -> Object {
    match (value, shown) {
        (None, _) => object.field("removed", true),
        (Some(value), Shown::Sizes) => object.field("bytes", value.len()),
        (Some(value), Shown::Whole) => object.base64("value", value),
    }
}
