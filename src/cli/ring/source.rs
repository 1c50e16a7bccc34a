//! Where a ring comes from: the live cluster, or a file that `kvring export` wrote.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::fs;
use std::io::{self, Read, Write};
use std::sync::Arc;

use anyhow::Context as _;
use serde::Deserialize;

use crate::cli::connect::{Connect, TIMEOUT_DEFAULT, block_on};
use crate::cli::ctl::Sight;
use crate::cli::exit::Exit;
use crate::cli::failure::Failure;
use crate::cli::json::{Object, serialized};
use crate::node_id::{ClusterId, NodeId};
use crate::ring::{Layout, Preferences};

use super::PROGRAM;

/// A layout and whose it is.
#[derive(Clone, Debug)]
pub(super) struct Known {
    pub(super) cluster: ClusterId,
    pub(super) cluster_name: String,
    pub(super) layout: Arc<Layout>,
    pub(super) preferences: Arc<Preferences>,
}

/// A layout's file: one JSON object.
#[derive(Deserialize)]
struct LayoutFile {
    cluster: ClusterId,
    cluster_name: String,
    layout: Layout,
}

/// Reads the layout from `file` (`-` is stdin), or asks the cluster where no file is named.
/// # Errors
/// Exit 65 for a file that is no layout, 66 for none; those of the connection.
pub(super) fn load(file: Option<&OsString>, connect: &Connect) -> anyhow::Result<Known> {
    match file {
        Some(file) => read(file),
        None => ask(connect),
    }
}

/// The same, and the bytes of data that each node says it has; from a file no node says anything.
/// # Errors
/// Those of [`load`].
pub(super) fn load_with_data(
    file: Option<&OsString>,
    connect: &Connect,
) -> anyhow::Result<(Known, BTreeMap<NodeId, u64>)> {
    if let Some(file) = file {
        return Ok((read(file)?, BTreeMap::new()));
    }
    let mut found = None;
    let exit = block_on(async {
        let sight = Sight::take(&connect.open(PROGRAM, TIMEOUT_DEFAULT).await?).await?;
        let data = sight.infos.iter().map(|(node, info)| (*node, info.data)).collect();
        let known = Known {
            cluster: sight.view.cluster,
            cluster_name: sight.view.cluster_name,
            layout: Arc::new(sight.view.layout),
            preferences: Arc::new(sight.preferences),
        };
        found = Some((known, data));
        Ok(Exit::Done)
    })?;
    found.ok_or_else(|| Failure::new(exit, "interrupted").into())
}

/// Reads the layout from `file` (`-` is stdin).
/// # Errors
/// Exit 65 for a file that is no layout, 66 for none.
pub(super) fn read(file: &OsStr) -> anyhow::Result<Known> {
    let text = if file == "-" {
        let mut text = Vec::new();
        io::stdin().lock().read_to_end(&mut text).map(|_| text)
    } else {
        fs::read(file)
    };
    let text = text.with_context(|| format!("reading {}", file.display()))?;
    parse(&text).map_err(|failure| anyhow::Error::new(failure).context(file.display().to_string()))
}

/// Writes the file that [`load`] reads.
/// # Errors
/// Those of `out`.
pub(super) fn export(known: &Known, out: &mut dyn Write) -> io::Result<()> {
    let object = Object::new("layout")
        .field("cluster", known.cluster.to_string())
        .field("cluster_name", &known.cluster_name)
        .raw("layout", &serialized(&*known.layout));
    writeln!(out, "{}", object.finish())
}

fn parse(text: &[u8]) -> Result<Known, Failure> {
    let not_a_layout = || Failure::bad_data("no layout (kvring export writes one)");
    let LayoutFile { cluster, cluster_name, layout } =
        serde_json::from_slice(text).map_err(|error| not_a_layout().because(error))?;
    layout.validate().map_err(|error| not_a_layout().because(error))?;
    let preferences = Arc::new(Preferences::new(Arc::new(layout.now.clone())));
    Ok(Known { cluster, cluster_name, layout: Arc::new(layout), preferences })
}

fn ask(connect: &Connect) -> anyhow::Result<Known> {
    let mut known = None;
    let exit = block_on(async {
        let view = connect.open(PROGRAM, TIMEOUT_DEFAULT).await?.cluster();
        known = Some(Known {
            cluster: view.cluster,
            cluster_name: view.cluster_name.clone(),
            layout: Arc::clone(&view.layout),
            preferences: Arc::clone(&view.preferences),
        });
        Ok(Exit::Done)
    })?;
    known.ok_or_else(|| Failure::new(exit, "interrupted").into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_exported_layout_is_read_back_and_damage_is_named() {
        let known = super::super::sample::known(3, 32);
        let mut text = Vec::new();
        export(&known, &mut text).unwrap();
        assert_eq!(parse(&text).unwrap().layout, known.layout);
        let text = String::from_utf8(text).unwrap();
        for damaged in ["", "{}", &text.replace("\"q\":32", "\"q\":31")] {
            let error = parse(damaged.as_bytes()).unwrap_err();
            assert_eq!(error.exit(), Exit::BadData, "{damaged}");
        }
    }
}
