//! A live cluster with `kvctl` pointed at it, and streams of records for it.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;

use assert_cmd::Command;
use serde_json::Value;

use crate::node_fixture::{DevCluster, Result};
use crate::tool::{program, stdout, tool};

/// A cluster, and the programs pointed at it.
pub(crate) struct Live {
    pub(crate) cluster: DevCluster,
}

impl Live {
    /// Three nodes that are ready.
    pub(crate) fn start() -> Result<Self> {
        Self::start_nodes(3)
    }

    /// So many nodes that are ready; three hold each key.
    pub(crate) fn start_nodes(nodes: u16) -> Result<Self> {
        Self::start_with(nodes, &[])
    }

    /// The same with some of the nodes' configuration, as `KVNODE_…` variables.
    pub(crate) fn start_with(nodes: u16, variables: &[(&str, &str)]) -> Result<Self> {
        let live = Self { cluster: DevCluster::start_with(nodes, variables)? };
        live.kvctl(&["wait", "ready"]).assert().success();
        Ok(live)
    }

    /// `kvctl`, to be asserted on.
    pub(crate) fn kvctl(&self, arguments: &[&str]) -> Command {
        let mut command = tool("kvctl");
        command.args(arguments).env("KVCTL_HOSTS", self.hosts());
        command
    }

    /// What a successful `kvring` prints.
    pub(crate) fn kvring(&self, arguments: &[&str]) -> String {
        let mut command = tool("kvring");
        stdout(&command.args(arguments).env("KVCTL_HOSTS", self.hosts()).assert().success())
    }

    /// `kvctl`, to be spawned and watched.
    pub(crate) fn kvctl_process(&self, arguments: &[&str]) -> std::process::Command {
        let mut command = program("kvctl");
        command.args(arguments).env("KVCTL_HOSTS", self.hosts());
        command
    }

    /// What a successful `kvctl` prints.
    pub(crate) fn ok(&self, arguments: &[&str]) -> String {
        stdout(&self.kvctl(arguments).assert().success())
    }

    /// Every key's value, read from `r` owners, and the export's header.
    pub(crate) fn export(&self, r: &str) -> (Value, BTreeMap<String, String>) {
        let text = self.ok(&["export", "-q", "-r", r]);
        let mut header = Value::Null;
        let mut values = BTreeMap::new();
        for line in text.lines().map(json) {
            match line["type"].as_str() {
                Some("header") => header = line,
                Some("kv") => {
                    let key = line["key"].as_str().unwrap_or_default().to_owned();
                    values.insert(key, value_of(&line));
                }
                _ => {}
            }
        }
        (header, values)
    }

    fn hosts(&self) -> String {
        let hosts: Vec<&str> = self.cluster.nodes.iter().map(|node| node.client.as_str()).collect();
        hosts.join(",")
    }
}

/// The value of a record. Of siblings each different one: a put that was tried twice may leave two of one value.
fn value_of(record: &Value) -> String {
    let text = |record: &Value| record["value"].as_str().unwrap_or_default().to_owned();
    let Some(siblings) = record["siblings"].as_array() else { return text(record) };
    let values: BTreeSet<String> = siblings.iter().map(text).collect();
    values.into_iter().collect::<Vec<_>>().join(" | ")
}

/// A line of JSON.
pub(crate) fn json(line: &str) -> Value {
    serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}"))
}

/// Keys and values that no two of are alike.
pub(crate) fn pairs(numbers: std::ops::Range<u32>) -> BTreeMap<String, String> {
    numbers
        .map(|number| (format!("key:{number:06}"), format!("value {number} ").repeat(8)))
        .collect()
}

/// The same as lines for `kvctl import`.
pub(crate) fn lines(pairs: &BTreeMap<String, String>) -> String {
    let mut text = String::new();
    for (key, value) in pairs {
        // A `String` takes all that is written to it.
        let _ = writeln!(text, r#"{{"key":"{key}","value":"{value}"}}"#);
    }
    text
}
