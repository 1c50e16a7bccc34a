//! Reading records as `kvsstable dump` writes them, exactly: each gives back the entry that it shows.
//!
//! ```text
//! kv      := KEY STATE                         a key's state; STATE as in `kv-records/1`, with "tick" and "req"
//! hint    := KEY "for":name "node":id STATE    a state held for another node
//! meta    := KEY "value_b64"                   a node's own note, by its name
//! unknown := "key_b64" "value_b64"             whatever else stands there, by its storage key
//! ```
//! Instead of a state or value `"removed":true` says that the store holds a delete. What `kvctl export` writes is a part of
//! this. A version without `req` is read, too, and its dot stands for it.

use std::collections::BTreeMap;

use bytes::Bytes;
use serde::Deserialize;
use serde_json::value::RawValue;

use crate::node_id::NodeId;
use crate::version::{
    Actor, Content, Context, Dot, RequestId, Siblings, Timestamp, VectorClock, Version, actor_name,
};

use super::read::{RecordError, base64, key_of, one_value, present, string};
use super::write::node_name;

/// What a line of a dump holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum StoredLine {
    /// An entry.
    Entry(Box<StoredRecord>),
    /// The header, and the names in it.
    Header(BTreeMap<NodeId, String>),
    /// The footer: how many records, and their SHA-1.
    Footer(u64, String),
    /// Nothing but white space.
    Blank,
}

/// An entry of a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct StoredRecord {
    /// What it is.
    pub(crate) origin: Origin,
    /// The client's key, the note's name, or the storage key.
    pub(crate) key: Bytes,
    /// What is stored; `None` for a delete.
    pub(crate) value: Option<Bytes>,
    /// What the nodes in a state's clock are called.
    pub(crate) names: BTreeMap<NodeId, String>,
    /// Whether the put of each version is named; else its dot stands for it.
    pub(crate) names_puts: bool,
}

/// A state that a record shows.
struct ShownState {
    bytes: Bytes,
    names: BTreeMap<NodeId, String>,
    names_puts: bool,
}

/// What an entry is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Origin {
    /// A key's state.
    Data,
    /// A state held for another node.
    Hint(NodeId),
    /// A node's own note.
    Meta,
    /// Something else.
    Unknown,
}

/// Every field that counts, as JSON text.
#[derive(Deserialize)]
struct Fields<'a> {
    #[serde(borrow, default, rename = "type", deserialize_with = "present")]
    kind: Option<&'a RawValue>,
    #[serde(borrow, default, deserialize_with = "present")]
    key: Option<&'a RawValue>,
    #[serde(borrow, default, deserialize_with = "present")]
    key_b64: Option<&'a RawValue>,
    #[serde(borrow, default, deserialize_with = "present")]
    siblings: Option<&'a RawValue>,
    #[serde(borrow, default, deserialize_with = "present")]
    ctx: Option<&'a RawValue>,
    #[serde(borrow, default, deserialize_with = "present")]
    removed: Option<&'a RawValue>,
    #[serde(borrow, default, deserialize_with = "present")]
    node: Option<&'a RawValue>,
    #[serde(borrow, default, deserialize_with = "present")]
    value: Option<&'a RawValue>,
    #[serde(borrow, default, deserialize_with = "present")]
    value_b64: Option<&'a RawValue>,
    #[serde(borrow, default, deserialize_with = "present")]
    tombstone: Option<&'a RawValue>,
    #[serde(borrow, default, deserialize_with = "present")]
    dot: Option<&'a RawValue>,
}

/// The fields of one version.
#[derive(Deserialize)]
struct VersionFields<'a> {
    #[serde(borrow, default, deserialize_with = "present")]
    value: Option<&'a RawValue>,
    #[serde(borrow, default, deserialize_with = "present")]
    value_b64: Option<&'a RawValue>,
    #[serde(borrow, default, deserialize_with = "present")]
    tombstone: Option<&'a RawValue>,
    #[serde(borrow, default, deserialize_with = "present")]
    dot: Option<&'a RawValue>,
    #[serde(borrow, default, deserialize_with = "present")]
    ts: Option<&'a RawValue>,
    #[serde(borrow, default, deserialize_with = "present")]
    req: Option<&'a RawValue>,
    #[serde(default)]
    tick: u64,
}

#[derive(Deserialize)]
struct HeaderFields {
    #[serde(default)]
    actors: BTreeMap<String, String>,
}

#[derive(Deserialize)]
struct FooterFields {
    records: u64,
    sha1: String,
}

/// Reads one line.
/// # Errors
/// [`RecordError`] where it is not what a dump or an export writes.
pub(crate) fn parse_stored(line: &[u8]) -> Result<StoredLine, RecordError> {
    let trimmed = line.trim_ascii();
    match trimmed.first() {
        None => return Ok(StoredLine::Blank),
        Some(b'{') => {}
        Some(_) => return Err(RecordError::NotAnObject),
    }
    let fields: Fields<'_> = serde_json::from_slice(line).map_err(RecordError::Json)?;
    let kind = fields.kind.ok_or(RecordError::Missing("type"))?;
    let kind = string(kind).map_err(|()| RecordError::Field("type", "is no string"))?;
    let origin = match kind.as_str() {
        "header" => return header(line),
        "footer" => return footer(line),
        "kv" => Origin::Data,
        "hint" => Origin::Hint(held_for(&fields)?),
        "meta" => Origin::Meta,
        "unknown" => Origin::Unknown,
        _ => return Err(RecordError::Field("type", "is none of kv, hint, meta, unknown")),
    };
    let key = key_of(fields.key, fields.key_b64)?;
    let plain = |value| StoredRecord {
        origin,
        key: key.clone(),
        value,
        names: BTreeMap::new(),
        names_puts: true,
    };
    let record = match (fields.removed.map(RawValue::get), origin) {
        (Some("true"), _) => plain(None),
        (Some(_), _) => return Err(RecordError::Field("removed", "is not true")),
        (None, Origin::Data | Origin::Hint(_)) => {
            let ShownState { bytes, names, names_puts } = state(line, &fields, &key)?;
            StoredRecord { origin, key, value: Some(bytes), names, names_puts }
        }
        (None, Origin::Meta | Origin::Unknown) => {
            let value = fields.value_b64.ok_or(RecordError::Missing("value_b64"))?;
            plain(Some(base64("value_b64", value)?))
        }
    };
    Ok(StoredLine::Entry(Box::new(record)))
}

fn header(line: &[u8]) -> Result<StoredLine, RecordError> {
    let header: HeaderFields = serde_json::from_slice(line).map_err(RecordError::Json)?;
    let actor = |(name, id): (String, String)| {
        // An export of a later release may name the epoch, too.
        let id = id.split('.').next().unwrap_or_default().parse().ok()?;
        Some((id, name))
    };
    Ok(StoredLine::Header(header.actors.into_iter().filter_map(actor).collect()))
}

fn footer(line: &[u8]) -> Result<StoredLine, RecordError> {
    let footer: FooterFields = serde_json::from_slice(line).map_err(RecordError::Json)?;
    Ok(StoredLine::Footer(footer.records, footer.sha1))
}

fn held_for(fields: &Fields<'_>) -> Result<NodeId, RecordError> {
    let node = string(fields.node.ok_or(RecordError::Missing("node"))?);
    let node = node.ok().and_then(|node| node.parse().ok());
    node.ok_or(RecordError::Field("node", "is no node's id"))
}

fn state(line: &[u8], fields: &Fields<'_>, key: &[u8]) -> Result<ShownState, RecordError> {
    let context = string(fields.ctx.ok_or(RecordError::Missing("ctx"))?);
    let context = context.map_err(|()| RecordError::Field("ctx", "is no string"))?;
    let refused = |error: &dyn std::fmt::Display| RecordError::State(error.to_string());
    let context = Context::decode(&context).map_err(|error| refused(&error))?;
    let clock = context.for_key(key).map_err(|error| refused(&error))?.clone();
    let mut versions = BTreeMap::new();
    let mut names_puts = true;
    match fields.siblings {
        Some(siblings) => {
            let no_list = |_| RecordError::Field("siblings", "is no list of objects");
            let siblings: Vec<VersionFields<'_>> =
                serde_json::from_str(siblings.get()).map_err(no_list)?;
            for fields in &siblings {
                names_puts &= fields.req.is_some();
                versions.extend([version(fields, &context, &clock)?]);
            }
        }
        // All versions are gone: only the clock is left.
        None if fields.dot.is_none() && fields.tombstone.is_some() => {}
        None if fields.value.is_none()
            && fields.value_b64.is_none()
            && fields.tombstone.is_none() =>
        {
            return Err(RecordError::Missing("value"));
        }
        None => {
            let fields: VersionFields<'_> =
                serde_json::from_slice(line).map_err(RecordError::Json)?;
            names_puts = fields.req.is_some();
            versions.extend([version(&fields, &context, &clock)?]);
        }
    }
    let state = Siblings::from_parts(clock, versions)
        .ok_or_else(|| RecordError::State("`ctx` does not cover each `dot`".to_owned()))?;
    Ok(ShownState { bytes: state.encode().into(), names: context.names, names_puts })
}

fn version(
    fields: &VersionFields<'_>,
    context: &Context,
    clock: &VectorClock,
) -> Result<(Dot, Version), RecordError> {
    let text = |name, field: Option<&RawValue>| {
        let text = string(field.ok_or(RecordError::Missing(name))?);
        text.map_err(|()| RecordError::Field(name, "is no string"))
    };
    let dot = dot(&text("dot", fields.dot)?, context, clock)
        .ok_or(RecordError::Field("dot", "is not `name:counter` of an actor in `ctx`"))?;
    let micros = text("ts", fields.ts)?.parse::<jiff::Timestamp>().ok();
    let micros = micros.and_then(|stamp| u64::try_from(stamp.as_microsecond()).ok());
    let micros = micros.ok_or(RecordError::Field("ts", "is no time"))?;
    let timestamp = Timestamp::from_bits(Timestamp::at(micros).bits().saturating_add(fields.tick));
    let request = match fields.req {
        None => request_of(dot),
        Some(_) => request(&text("req", fields.req)?)
            .ok_or(RecordError::Field("req", "is not `session:counter`"))?,
    };
    let written = match one_value(fields.value, fields.value_b64, fields.tombstone)? {
        Some(value) => Content::Value(value),
        None => Content::Tombstone,
    };
    Ok((dot, Version { timestamp, request, content: written }))
}

/// The dot that a record calls so.
fn dot(text: &str, context: &Context, clock: &VectorClock) -> Option<Dot> {
    let (actor, counter) = text.rsplit_once(':')?;
    let counter = counter.parse().ok()?;
    if let Ok(actor) = actor.parse::<Actor>() {
        return Some(Dot { actor, counter });
    }
    let called = |candidate: Actor| {
        let names = [node_name(candidate.node, &context.names), candidate.node.to_string()];
        names.iter().any(|name| actor_name(name, candidate.epoch) == actor)
            || actor_name(&node_name(candidate.node, &BTreeMap::new()), candidate.epoch) == actor
    };
    let mut candidates = clock.iter().map(|(actor, _)| actor).filter(|actor| called(*actor));
    match (candidates.next(), candidates.next()) {
        (Some(actor), None) => Some(Dot { actor, counter }),
        (Some(_) | None, _) => None,
    }
}

fn request(text: &str) -> Option<RequestId> {
    let (session, counter) = text.split_once(':')?;
    let session = u64::from_str_radix(session, 16).ok()?;
    Some(RequestId { session, counter: counter.parse().ok()? })
}

/// Stands for the name of a put that nobody told: of two versions it must differ.
fn request_of(dot: Dot) -> RequestId {
    let id = dot.actor.node.as_bytes();
    let session = xxhash_rust::xxh3::xxh3_64_with_seed(id, u64::from(dot.actor.epoch.random));
    RequestId { session, counter: dot.counter }
}

#[cfg(test)]
mod tests {
    use super::super::write::record;
    use super::*;
    use crate::cli::json::Object;
    use crate::version::Epoch;

    fn actor(node: u8, counter: u32, random: u32) -> Actor {
        Actor { node: NodeId::from_bytes([node; 16]), epoch: Epoch { counter, random } }
    }

    fn version(bits: u64, content: Option<&'static [u8]>) -> Version {
        let content =
            content.map_or(Content::Tombstone, |value| Content::Value(Bytes::from_static(value)));
        let request = RequestId { session: bits.wrapping_mul(77), counter: bits };
        Version { timestamp: Timestamp::from_bits(bits), request, content }
    }

    #[track_caller]
    fn check(key: &[u8], versions: &[(Actor, Version)], names: &[(u8, &str)]) {
        let mut clock = VectorClock::new();
        let mut state = BTreeMap::new();
        for (counter, (actor, version)) in (1..).zip(versions) {
            let dot = Dot { actor: *actor, counter };
            clock.observe(dot);
            state.insert(dot, version.clone());
        }
        clock.observe(Dot { actor: actor(9, 1, 9), counter: 1 << 40 });
        let state = Siblings::from_parts(clock, state).unwrap();
        let names = names.iter();
        let names = names.map(|(id, name)| (NodeId::from_bytes([*id; 16]), (*name).to_owned()));
        let mut names: BTreeMap<NodeId, String> = names.collect();
        let line = record(Object::new("kv"), key, &state, &names).into_bytes();
        let shown = String::from_utf8_lossy(&line).into_owned();
        names.retain(|node, _| state.clock().iter().any(|(actor, _)| actor.node == *node));
        let expected = StoredRecord {
            origin: Origin::Data,
            key: Bytes::copy_from_slice(key),
            value: Some(state.encode().into()),
            names,
            names_puts: true,
        };
        match parse_stored(&line) {
            Ok(StoredLine::Entry(entry)) => assert_eq!(*entry, expected, "{shown}"),
            other => panic!("{shown}: {other:?}"),
        }
    }

    #[test]
    fn each_state_comes_back_from_its_record() {
        let now = 1_795_341_598_123_456 << 12;
        let one = (actor(1, 1, 7), version(now, Some(b"a \"value\"\n")));
        let binary = (actor(2, 3, 8), version(now + 5, Some(b"\x00\xff")));
        let tombstone = (actor(3, 1, 9), version(1, None));
        let empty = (actor(4, 2, 9), version(0, Some(b"")));
        for names in
            [&[][..], &[(1, "n1"), (2, "n2")], &[(1, "n1"), (2, "n2"), (3, "n3"), (9, "x")]]
        {
            check(b"k", &[], names);
            check(b"k", std::slice::from_ref(&one), names);
            check(b"\xff\x00", std::slice::from_ref(&binary), names);
            check(b"k", std::slice::from_ref(&tombstone), names);
            check(b"k", &[one.clone(), binary.clone(), tombstone.clone(), empty.clone()], names);
        }
    }

    #[test]
    fn lives_of_one_node_that_share_a_counter_are_told_apart() {
        let lives = [(actor(1, 2, 7), version(5, Some(b"a"))), (actor(1, 2, 8), version(6, None))];
        check(b"k", &lives, &[(1, "n1")]);
        check(b"k", &lives, &[]);
    }

    #[track_caller]
    fn check_refused(line: &str, expected: &str) {
        assert_eq!(parse_stored(line.as_bytes()).expect_err(line).to_string(), expected, "{line}");
    }

    #[test]
    fn what_no_dump_writes_is_refused_with_the_reason() {
        check_refused("[]", "no JSON object");
        check_refused(r#"{"key":"a","value":"b"}"#, "no `type`");
        check_refused(r#"{"type":"kv","key":"a","value":"b"}"#, "no `ctx`");
        check_refused(r#"{"type":"kv","key":"a","bytes":7}"#, "no `ctx`");
        check_refused(r#"{"type":"hint","key":"a"}"#, "no `node`");
        check_refused(r#"{"type":"meta","key":"a"}"#, "no `value_b64`");
        check_refused(r#"{"type":"row","key":"a"}"#, "`type` is none of kv, hint, meta, unknown");
        check_refused(r#"{"type":"kv","key":"a","removed":1}"#, "`removed` is not true");
        let token = Context::token(b"a", &VectorClock::new(), &BTreeMap::new());
        let line = format!(r#"{{"type":"kv","key":"b","tombstone":true,"ctx":"{token}"}}"#);
        check_refused(&line, "context token belongs to another key");
        let line = format!(r#"{{"type":"kv","key":"a","value":"","dot":"n1:1","ctx":"{token}"}}"#);
        check_refused(&line, "`dot` is not `name:counter` of an actor in `ctx`");
    }
}
