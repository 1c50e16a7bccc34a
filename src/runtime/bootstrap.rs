//! The start of a node whose directory holds nothing but its `IDENTITY`: it asks the others who it is among them.
//!
//! ```text
//! this node                          each of its seeds, on the address for nodes
//!   hello (client)      ───────────▶
//!   View                ───────────▶
//!                       ◀───────────  the layout in force, and how often it saw this node start
//! ```
//! A majority of the members must have answered: one of them knows the latest layout that was chosen, and this node
//! served nothing since it lost its own. Its data comes back by refilling, once its Core runs.
//!
//! A node whose own records are damaged, whose log was salvaged, or whose disk was rolled back comes to the same:
//! ```text
//! log/ sst/ manifest/ ──▶ damaged/lost-N.moving/ ──▶ damaged/lost-N/        a start in between goes on with it
//! an empty store, with the addresses of the other members ──▶ as above
//! ```

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join_all;

use crate::cluster::{Addresses, Incarnation};
use crate::node::{self, StartError};
use crate::node_id::{ClusterId, NodeId};
use crate::ring::Layout;
use crate::storage::offline::{DirectoryView, salvaged_segment};
use crate::storage::vfs::{Real, Vfs as _};
use crate::storage::{Identity, Store};

use super::handshake::HandshakeError;
use super::{Options, RunError, asking};

/// Pause between two rounds of questions.
const PAUSE: Duration = Duration::from_millis(500);

/// What a member told.
struct Told {
    node: NodeId,
    cluster: ClusterId,
    layout: Layout,
    /// The latest start of this node that it knows.
    start: u64,
}

/// What a node sets aside with what it lost its word over: the manifest first, without it the rest is no store.
const PARTS: [&str; 3] = ["manifest", "log", "sst"];
/// End of the name of a place that not all was moved to yet.
const MOVING: &str = ".moving";

/// Gives the empty store of a member its layout, and marks all of its slots as lost, durably.
/// # Errors
/// [`RunError`]: with nobody to ask, or where the others have no place for this node. It waits as long as too few answer.
pub(super) async fn begin_again(
    options: &Options,
    identity: &Identity,
    store: &Store,
) -> Result<(), RunError> {
    let on_record = node::addresses_on_record(store);
    let on_record = on_record.into_iter().filter(|(node, _)| *node != identity.node);
    let on_record = on_record.map(|(_, addresses)| addresses.peer);
    let asked: BTreeSet<String> =
        options.seeds.iter().cloned().chain(on_record).filter(|peer| !peer.is_empty()).collect();
    if asked.is_empty() {
        return Err(RunError::Lost { dir: options.data_dir.clone() });
    }
    tracing::warn!(
        "this directory holds an identity and no data: asking the other members, and refilling from them"
    );
    let mut told_why = String::new();
    loop {
        let me = identity.node;
        let answers = join_all(asked.iter().map(|seed| ask(options, me, seed))).await;
        let (mut layouts, mut start, mut why) = (BTreeMap::new(), 0, String::new());
        for (seed, answer) in asked.iter().zip(answers) {
            match answer {
                Ok(Told { cluster, .. }) if cluster != identity.cluster => {
                    why =
                        format!("{seed}: a node of cluster {cluster}, not of {}", identity.cluster);
                }
                Ok(told) => {
                    start = start.max(told.start);
                    layouts.insert(told.node, told.layout);
                }
                Err(error) => why = format!("{seed}: {error}"),
            }
        }
        if let Some(layout) = latest(&layouts, identity.node) {
            return node::begin_again(store, identity, layout, Incarnation(start))
                .map_err(|source| super::core_loop::not_started(options, source));
        }
        if why != told_why {
            tracing::warn!("too few members answer: {why}");
            told_why = why;
        }
        tokio::time::sleep(PAUSE).await;
    }
}

/// The latest layout, once a majority of its members told theirs (all others, where `me` is needed for one).
fn latest(layouts: &BTreeMap<NodeId, Layout>, me: NodeId) -> Option<Layout> {
    let latest = layouts.values().max_by_key(|layout| (layout.generation, layout.version))?;
    let members = &latest.now.members;
    let others = members.iter().filter(|member| member.id != me).count();
    let majority = (members.len() / 2 + 1).min(others);
    let told = members.iter().filter(|member| member.id != me && layouts.contains_key(&member.id));
    (majority <= told.count()).then(|| latest.clone())
}

async fn ask(options: &Options, me: NodeId, seed: &str) -> Result<Told, HandshakeError> {
    let (node, view) = asking::view(options, seed).await?;
    let own = view.members.iter().find(|member| member.node == me);
    let start = own.map_or(0, |member| member.incarnation);
    Ok(Told { node, cluster: view.cluster, layout: view.layout, start })
}

/// Whether the node's own records are damaged, and with them what it promised.
pub(super) fn is_damaged(store: &Store) -> bool {
    let damaged = node::is_founded(store);
    if let Err(StartError::Damaged { source }) = &damaged {
        tracing::error!("this node's own records are damaged: {source}; all it held is set aside");
    }
    matches!(damaged, Err(StartError::Damaged { .. }))
}

/// Sets all of a directory aside whose log was salvaged: writes may be lost in between, and nobody else knows. Where the
/// other members listen, if there was anything to set aside.
/// # Errors
/// The system's.
pub(super) fn set_salvaged_aside(
    data_dir: &Path,
) -> Result<Option<BTreeMap<NodeId, Addresses>>, RunError> {
    let Some(segment) = salvaged_segment(&Real, data_dir).map_err(not_set_aside)? else {
        return Ok(None);
    };
    tracing::error!(
        "{} was salvaged: writes may be missing in it; all this node held is set aside",
        segment.display()
    );
    let view = DirectoryView::open(&Real, data_dir);
    let others = view.map(|view| node::addresses_in(&view)).unwrap_or_default();
    set_aside(data_dir)?;
    Ok(Some(others))
}

/// Moves all that a node lost its word over to `damaged/`, so that the store is empty.
/// # Errors
/// The system's.
pub(super) fn set_aside(data_dir: &Path) -> Result<(), RunError> {
    let damaged = data_dir.join("damaged");
    let place = (1..=u32::MAX)
        .map(|number| damaged.join(format!("lost-{number}")))
        .find(|place| !place.exists())
        .unwrap_or_else(|| damaged.join("lost"));
    let moving =
        damaged.join(format!("{}{MOVING}", place.file_name().unwrap_or_default().display()));
    let begun = std::fs::create_dir_all(&moving).and_then(|()| Real.sync_dir(&damaged));
    begun.and_then(|()| Real.sync_dir(data_dir)).map_err(not_set_aside)?;
    move_parts(data_dir, &moving).map_err(not_set_aside)
}

/// Goes on with what a process that died had begun to set aside.
/// # Errors
/// The system's.
pub(super) fn finish_setting_aside(data_dir: &Path) -> Result<(), RunError> {
    let places = match std::fs::read_dir(data_dir.join("damaged")) {
        Ok(places) => places,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(not_set_aside(error)),
    };
    for place in places {
        let place: PathBuf = place.map_err(not_set_aside)?.path();
        if place.to_string_lossy().ends_with(MOVING) {
            move_parts(data_dir, &place).map_err(not_set_aside)?;
        }
    }
    Ok(())
}

/// Moves what is still to be moved into `moving`, which then gets its name.
fn move_parts(data_dir: &Path, moving: &Path) -> io::Result<()> {
    for part in PARTS {
        match std::fs::rename(data_dir.join(part), moving.join(part)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            Ok(()) | Err(_) => {}
        }
    }
    Real.sync_dir(moving)?;
    Real.sync_dir(data_dir)?;
    let name = moving.to_string_lossy().trim_end_matches(MOVING).to_owned();
    std::fs::rename(moving, name)?;
    moving.parent().map_or(Ok(()), |damaged| Real.sync_dir(damaged))
}

const fn not_set_aside(source: io::Error) -> RunError {
    RunError::System { what: "set damaged data aside", source }
}

/// Whether the store holds a node's records.
pub(super) fn is_needed(store: &Arc<Store>) -> Result<bool, RunError> {
    node::is_founded(store)
        .map(|founded| !founded)
        .map_err(|error| RunError::Fatal(error.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ring::{Member, Mode, Weight};

    fn id(number: u8) -> NodeId {
        NodeId::from_bytes([number; 16])
    }

    fn layout(members: u8, version: u64) -> Layout {
        let member = |number| Member {
            id: id(number),
            name: format!("n{number}"),
            zone: String::new(),
            weight: Weight(1_000),
        };
        let members = (1..=members).map(member).collect();
        let layout = Layout::found(32, 3, 2, 2, Mode::Available, members).unwrap();
        Layout { version, ..layout }
    }

    #[test]
    fn what_is_set_aside_is_moved_whole_also_by_the_next_start() {
        let dir = tempfile::tempdir().unwrap();
        let at = |path: &str| dir.path().join(path);
        for part in PARTS {
            std::fs::create_dir(at(part)).unwrap();
        }
        set_aside(dir.path()).unwrap();
        assert!(
            PARTS.iter().all(|part| !at(part).exists() && at("damaged/lost-1").join(part).exists())
        );

        std::fs::create_dir_all(at("damaged/lost-2.moving/manifest")).unwrap();
        std::fs::create_dir(at("log")).unwrap();
        finish_setting_aside(dir.path()).unwrap();
        assert!(at("damaged/lost-2/manifest").exists() && at("damaged/lost-2/log").exists());
        assert!(!at("log").exists() && !at("damaged/lost-2.moving").exists());
    }

    #[track_caller]
    fn check(members: u8, told: &[(u8, u64)], expected: Option<u64>) {
        let told = told.iter().map(|(node, version)| (id(*node), layout(members, *version)));
        let found = latest(&told.collect(), id(1));
        assert_eq!(found.map(|layout| layout.version), expected);
    }

    #[test]
    fn a_majority_must_have_told_its_layout_and_the_latest_one_counts() {
        check(3, &[], None);
        check(3, &[(2, 4)], None);
        check(3, &[(2, 4), (3, 5)], Some(5));
        check(5, &[(2, 4), (3, 4)], None);
        check(5, &[(2, 4), (3, 4), (5, 3)], Some(4));
        check(2, &[(2, 4)], Some(4));
        check(3, &[(2, 4), (9, 9)], None);
    }
}
