//! Writing records, with the header before and the count and SHA-1 behind them.

use std::collections::BTreeMap;
use std::io::{self, Write};

use sha1_smol::Sha1;

use crate::cli::human;
use crate::cli::json::Object;
use crate::node_id::NodeId;
use crate::version::{Content, Context, Dot, Siblings, Version, dot_name};

use super::FORMAT;

/// Writes a stream of records and keeps what its footer says.
pub(crate) struct Recorder<'a> {
    out: &'a mut dyn Write,
    records: u64,
    sha1: Sha1,
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
        Self { out, records: 0, sha1: Sha1::new(), spare: Vec::new() }
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
        self.sha1.update(&line);
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
            .field("sha1", self.sha1.digest().to_string());
        writeln!(self.out, "{}", footer.finish())
    }
}

/// A key's state as a record.
pub(crate) fn record(key: &[u8], state: &Siblings, names: &BTreeMap<NodeId, String>) -> Object {
    let object = Object::new("kv").bytes("key", key);
    let context = Context::new(key, state.clock().clone(), names.clone()).encode();
    let mut versions = state.versions().iter();
    match (versions.next(), versions.next()) {
        (None, _) => object.field("tombstone", true).field("ctx", context),
        (Some((dot, version)), None) => {
            let ts = human::rfc3339(version.timestamp.unix_micros());
            version_value(object, version)
                .field("dot", shown(*dot, names))
                .field("ctx", context)
                .field("ts", ts)
        }
        (Some(_), Some(_)) => object
            .list(
                "siblings",
                state.versions().iter().map(|(dot, version)| version_fields(*dot, version, names)),
            )
            .field("ctx", context),
    }
}

/// One version of several.
pub(crate) fn version_fields(
    dot: Dot,
    version: &Version,
    names: &BTreeMap<NodeId, String>,
) -> Object {
    version_value(Object::bare(), version)
        .field("dot", shown(dot, names))
        .field("ts", human::rfc3339(version.timestamp.unix_micros()))
}

fn version_value(object: Object, version: &Version) -> Object {
    match &version.content {
        Content::Value(value) => object.bytes("value", value),
        Content::Tombstone => object.field("tombstone", true),
    }
}

fn shown(dot: Dot, names: &BTreeMap<NodeId, String>) -> String {
    let id = || dot.actor.node.to_string();
    dot_name(&names.get(&dot.actor.node).cloned().unwrap_or_else(id), dot)
}
