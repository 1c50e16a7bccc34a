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

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join_all;
use futures_util::{SinkExt, StreamExt};
use tokio::net::TcpStream;

use crate::cluster::Incarnation;
use crate::node::{self, StartError};
use crate::node_id::{ClusterId, NodeId};
use crate::ring::Layout;
use crate::storage::{Identity, Store};
use crate::wire::client::{Reply, ReplyBody, Request, RequestBody};
use crate::wire::frame;
use crate::wire::handshake::{Hello, PROTOCOL, Role, Welcome};

use super::handshake::{self, HANDSHAKE_MAX, HandshakeError};
use super::{Options, RunError, clock};

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

/// Gives the empty store of a member its layout, and marks all of its slots as lost, durably.
/// # Errors
/// [`RunError`]: without seeds, or where the others have no place for this node. It waits as long as too few answer.
pub(super) async fn begin_again(
    options: &Options,
    identity: &Identity,
    store: &Store,
) -> Result<(), RunError> {
    if options.seeds.is_empty() {
        return Err(RunError::Lost { dir: options.data_dir.clone() });
    }
    tracing::warn!(
        "this directory holds an identity and no data: asking the other members, and refilling from them"
    );
    let mut told_why = String::new();
    loop {
        let me = identity.node;
        let answers = join_all(options.seeds.iter().map(|seed| ask(options, me, seed))).await;
        let (mut layouts, mut start, mut why) = (BTreeMap::new(), 0, String::new());
        for (seed, answer) in options.seeds.iter().zip(answers) {
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
    tokio::time::timeout(HANDSHAKE_MAX, ask_at(options, me, seed))
        .await
        .map_err(|_| HandshakeError::Timeout)?
}

async fn ask_at(options: &Options, me: NodeId, seed: &str) -> Result<Told, HandshakeError> {
    let (reader, mut writer) = TcpStream::connect(seed).await?.into_split();
    let hello = Hello {
        protocol_min: PROTOCOL.0,
        protocol_max: PROTOCOL.1,
        features: Vec::new(),
        role: Role::Client { agent: format!("kvnode {}", options.name) },
        sent: clock::now().monotonic,
    };
    let (welcome, frames) = handshake::greet(reader, &mut writer, &hello).await?;
    let node = match welcome {
        Welcome::Accepted { node, .. } => node,
        Welcome::Refused { reason, .. } => return Err(HandshakeError::Garbage(reason)),
    };
    let mut outgoing = frame::outgoing(writer, options.frame_bytes_max);
    outgoing.send(Request { id: 1, deadline: 0, body: RequestBody::View }).await?;
    let mut incoming = frame::incoming::<_, Reply>(frames, options.frame_bytes_max);
    match incoming.next().await {
        Some(Ok(Reply { body: ReplyBody::View(view), .. })) => {
            let own = view.members.iter().find(|member| member.node == me);
            let start = own.map_or(0, |member| member.incarnation);
            Ok(Told { node, cluster: view.cluster, layout: view.layout, start })
        }
        Some(Ok(_)) | None => Err(HandshakeError::Garbage("no layout".to_owned())),
        Some(Err(error)) => Err(error.into()),
    }
}

/// Whether the node's own records are damaged, and with them what it promised.
pub(super) fn is_damaged(store: &Store) -> bool {
    let damaged = node::is_founded(store);
    if let Err(StartError::Damaged { source }) = &damaged {
        tracing::error!("this node's own records are damaged: {source}; all it held is set aside");
    }
    matches!(damaged, Err(StartError::Damaged { .. }))
}

/// Moves all that a node lost its word over to `damaged/`, so that the store is empty.
/// # Errors
/// The system's.
pub(super) fn set_aside(data_dir: &Path) -> Result<(), RunError> {
    let failed = |source| RunError::System { what: "set damaged data aside", source };
    let damaged = data_dir.join("damaged");
    std::fs::create_dir_all(&damaged).map_err(failed)?;
    let place = (1..=u32::MAX)
        .map(|number| damaged.join(format!("lost-{number}")))
        .find(|place| !place.exists())
        .unwrap_or_else(|| damaged.join("lost"));
    std::fs::create_dir(&place).map_err(failed)?;
    // The manifest goes first: without it the rest is no store.
    for part in ["manifest", "log", "sst"] {
        match std::fs::rename(data_dir.join(part), place.join(part)) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                return Err(failed(error));
            }
            Ok(()) | Err(_) => {}
        }
    }
    for dir in [&place, &damaged, &data_dir.to_path_buf()] {
        std::fs::File::open(dir).and_then(|dir| dir.sync_all()).map_err(failed)?;
    }
    Ok(())
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
