//! Entries of a store as records: data keys as `kv`, what is held for others as `hint`, a node's own notes as `meta`.

use std::collections::BTreeMap;

use bytes::Bytes;
use data_encoding::BASE64URL_NOPAD;

use crate::cli::json::Object;
use crate::cli::records;
use crate::node::keys;
use crate::node_id::NodeId;
use crate::version::Siblings;

use super::files::Contents;

/// How much of an entry is shown.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Shown {
    /// Leave the values out.
    pub(super) no_values: bool,
}

/// Names of nodes, as far as the directory knows them.
pub(super) fn names(contents: &Contents) -> BTreeMap<NodeId, String> {
    contents.identity.iter().map(|identity| (identity.node, identity.name.clone())).collect()
}

/// The client's key in a storage key; `None` in keyspaces other than data.
pub(super) fn client_key(key: &[u8]) -> Option<&[u8]> {
    keys::parse_data(key).ok().map(|(_, key)| key)
}

/// An entry as a record. An entry that makes no sense is shown as what it is: bytes.
pub(super) fn record(
    key: &Bytes,
    value: Option<&Bytes>,
    names: &BTreeMap<NodeId, String>,
    shown: Shown,
) -> Object {
    match (key.first(), client_key(key)) {
        (_, Some(client)) => data(client, value, names, shown),
        (Some(&keys::HINT), None) => hint(key, value, names, shown),
        (Some(&keys::META), None) => plain("meta", key.get(1..).unwrap_or_default(), value, shown),
        (Some(_) | None, None) => plain("unknown", key, value, shown),
    }
}

fn data(
    client: &[u8],
    value: Option<&Bytes>,
    names: &BTreeMap<NodeId, String>,
    shown: Shown,
) -> Object {
    let Some(value) = value else { return plain("kv", client, None, shown) };
    match Siblings::decode(value) {
        Ok(_) if shown.no_values => {
            Object::new("kv").bytes("key", client).field("bytes", value.len())
        }
        Ok(state) => records::record(client, &state, names),
        Err(error) => plain("kv", client, Some(value), shown).field("bad", error.to_string()),
    }
}

/// `'h' target:16 slot:2 key`, see [`keys`].
fn hint(
    key: &Bytes,
    value: Option<&Bytes>,
    names: &BTreeMap<NodeId, String>,
    shown: Shown,
) -> Object {
    let target = key.get(1..17).and_then(|bytes| <[u8; 16]>::try_from(bytes).ok());
    let Some((target, client)) = target.zip(key.get(19..)) else {
        return plain("unknown", key, value, shown);
    };
    let target = NodeId::from_bytes(target);
    let target = names.get(&target).cloned().unwrap_or_else(|| target.to_string());
    plain("hint", client, value, shown).field("for", target)
}

fn plain(kind: &str, key: &[u8], value: Option<&Bytes>, shown: Shown) -> Object {
    let object = Object::new(kind).bytes("key", key);
    match value {
        None => object.field("removed", true),
        Some(value) if shown.no_values => object.field("bytes", value.len()),
        Some(value) => object.field("value_b64", BASE64URL_NOPAD.encode(value)),
    }
}
