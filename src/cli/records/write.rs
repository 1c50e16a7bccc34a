//! Writing records, with the header before and the count and SHA-1 behind them.

use std::collections::BTreeMap;
use std::io::{self, Write};

use data_encoding::HEXLOWER;

use crate::cli::human;
use crate::cli::json::Object;
use crate::node_id::NodeId;
use crate::version::{
    Actor, Content, Context, Dot, Siblings, Timestamp, VectorClock, Version, dot_name,
};

use super::FORMAT;
use super::digest::DigestBeside;

/// Writes a stream of records and keeps what its footer says.
pub(crate) struct Recorder<'a> {
    out: &'a mut dyn Write,
    records: u64,
    digest: DigestBeside,
    /// The buffer of the last record, for the next one.
    spare: Vec<u8>,
}

impl<'a> Recorder<'a> {
    /// Begins a stream: `origin` are the header's fields between `format` and `created`.
    /// # Errors
    /// Those of `out`.
    pub(crate) fn begin(
        out: &'a mut dyn Write,
        origin: impl FnOnce(Object) -> Object,
    ) -> io::Result<Self> {
        let header = origin(Object::new("header").field("format", FORMAT))
            .field("created", human::rfc3339(human::now() / 1_000_000 * 1_000_000));
        writeln!(out, "{}", header.finish())?;
        Ok(Self::behind_header(out))
    }

    /// A stream whose header was written.
    pub(crate) fn behind_header(out: &'a mut dyn Write) -> Self {
        Self { out, records: 0, digest: DigestBeside::default(), spare: Vec::new() }
    }

    /// An empty record of a kind, to be filled and pushed.
    pub(crate) fn blank(&mut self, kind: &str) -> Object {
        Object::new_in(std::mem::take(&mut self.spare), kind)
    }

    /// Writes a record; how many bytes it took.
    /// # Errors
    /// Those of the output.
    pub(crate) fn push(&mut self, record: Object) -> io::Result<usize> {
        let mut line = record.into_bytes();
        line.push(b'\n');
        self.digest.update(&line);
        self.records += 1;
        self.out.write_all(&line)?;
        self.spare = line;
        Ok(self.spare.len())
    }

    /// How many records were written.
    pub(crate) const fn records(&self) -> u64 {
        self.records
    }

    /// Ends the stream. One without a footer counts as cut.
    /// # Errors
    /// Those of the output.
    pub(crate) fn end(self) -> io::Result<()> {
        let footer = Object::new("footer")
            .field("records", self.records)
            .field("sha1", self.digest.finish());
        writeln!(self.out, "{}", footer.finish())
    }
}

/// Bytes of an unknown node's id that people see.
const SHORT_ID_BYTES: usize = 4;

/// A key's state, put into a blank record, with all that it takes to make the state of it again: the names of the puts and
/// the logical parts of the times, too.
pub(crate) fn record(
    object: Object,
    key: &[u8],
    state: &Siblings,
    names: &BTreeMap<NodeId, String>,
) -> Object {
    let context = || Context::token(key, state.clock(), names);
    let object = object.bytes("key", key);
    let fields = |object, (dot, version): (&Dot, &Version)| {
        version_value(object, version).text("dot", &exact_dot(*dot, state.clock(), names))
    };
    let mut versions = state.versions().iter();
    match (versions.next(), versions.next()) {
        (None, _) => object.field("tombstone", true).field("ctx", context()),
        (Some(only), None) => origin(fields(object, only).text("ctx", &context()), only.1),
        (Some(_), Some(_)) => object
            .list(
                "siblings",
                state
                    .versions()
                    .iter()
                    .map(|version| origin(fields(Object::bare(), version), version.1)),
            )
            .field("ctx", context()),
    }
}

/// Adds the fields of one version of several, for who looks at them.
pub(crate) fn version_fields(
    object: Object,
    dot: Dot,
    version: &Version,
    names: &BTreeMap<NodeId, String>,
) -> Object {
    let node = dot.actor.node;
    let dot = match names.get(&node) {
        Some(name) => dot_name(name, dot),
        None => dot_name(&node.to_string(), dot),
    };
    time(version_value(object, version).field("dot", dot), version)
}

fn version_value(object: Object, version: &Version) -> Object {
    match &version.content {
        Content::Value(value) => object.bytes("value", value),
        Content::Tombstone => object.field("tombstone", true),
    }
}

fn time(object: Object, version: &Version) -> Object {
    object.text("ts", &human::rfc3339(version.timestamp.unix_micros()))
}

/// When and by which put: the time with its logical part, and the put's name.
fn origin(object: Object, version: &Version) -> Object {
    let timestamp = version.timestamp;
    let tick = timestamp.bits() - Timestamp::at(timestamp.unix_micros()).bits();
    let request = version.request;
    time(object, version)
        .maybe("tick", (tick > 0).then_some(tick))
        .field("req", format_args!("{:016x}:{}", request.session, request.counter))
}

/// What a node is called: its name, else the start of its id.
pub(crate) fn node_name(node: NodeId, names: &BTreeMap<NodeId, String>) -> String {
    match names.get(&node) {
        Some(name) => name.clone(),
        None => HEXLOWER.encode(&node.as_bytes()[..SHORT_ID_BYTES]),
    }
}

/// A dot as people see it, or in full where that would be another's, too.
fn exact_dot(dot: Dot, clock: &VectorClock, names: &BTreeMap<NodeId, String>) -> String {
    if is_taken_twice(dot.actor, clock, names) {
        format!("{}:{}", dot.actor, dot.counter)
    } else {
        dot_name(&node_name(dot.actor.node, names), dot)
    }
}

/// Whether another actor of the clock is called the same.
fn is_taken_twice(actor: Actor, clock: &VectorClock, names: &BTreeMap<NodeId, String>) -> bool {
    let same = |other: Actor| {
        other != actor
            && other.epoch.counter == actor.epoch.counter
            && match (names.get(&other.node), names.get(&actor.node)) {
                (Some(name), Some(own)) => name == own,
                _ => node_name(other.node, names) == node_name(actor.node, names),
            }
    };
    clock.len() > 1 && clock.iter().any(|(other, _)| same(other))
}
