//! `dev.json`: the nodes of a dev cluster.

use std::io;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::node::DevNode;
use crate::cli::{Exit, Failure};

const FILE: &str = "dev.json";
const VERSION: u32 = 1;

/// The file's content. Process ids are those at the start; `LOCK` has the present one.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Record {
    v: u32,
    #[serde(rename = "type")]
    kind: Kind,
    nodes: Vec<Entry>,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Kind {
    Dev,
}

#[derive(Debug, Serialize, Deserialize)]
struct Entry {
    name: String,
    pid: u32,
    peer: String,
    client: String,
    http: String,
    data_dir: PathBuf,
}

impl Record {
    pub(super) fn of(nodes: &[DevNode]) -> Self {
        let entry = |node: &DevNode| Entry {
            name: node.name.clone(),
            pid: node.pid,
            peer: node.peer.clone(),
            client: node.client.clone(),
            http: node.http.clone(),
            data_dir: node.data_dir.clone(),
        };
        Self { v: VERSION, kind: Kind::Dev, nodes: nodes.iter().map(entry).collect() }
    }

    /// The record in `dir`; `None` when there is none.
    pub(super) fn read(dir: &Path) -> Result<Option<Self>, Failure> {
        let file = dir.join(FILE);
        let text = match std::fs::read(&file) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => {
                let message = format!("cannot read {}", file.display());
                return Err(Failure::new(Exit::of_io(&error), message).because(error));
            }
        };
        let bad = || Failure::bad_data(format!("{} is no record of a dev cluster", file.display()));
        let record: Self = serde_json::from_slice(&text).map_err(|error| bad().because(error))?;
        if record.v == VERSION { Ok(Some(record)) } else { Err(bad()) }
    }

    pub(super) fn write(&self, dir: &Path) -> Result<(), Failure> {
        let file = dir.join(FILE);
        std::fs::write(&file, self.json() + "\n").map_err(|error| {
            let message = format!("cannot write {}", file.display());
            Failure::new(Exit::CannotCreate, message).because(error)
        })
    }

    pub(super) fn json(&self) -> String {
        serde_json::to_string(self).expect("plain fields")
    }

    pub(super) fn into_nodes(self) -> Vec<DevNode> {
        let node = |entry: Entry| DevNode {
            name: entry.name,
            pid: entry.pid,
            peer: entry.peer,
            client: entry.client,
            http: entry.http,
            data_dir: entry.data_dir,
            child: None,
        };
        self.nodes.into_iter().map(node).collect()
    }
}
