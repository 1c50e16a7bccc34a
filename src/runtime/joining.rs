//! The start of a node whose directory is empty and which has seeds: it asks to become a member (DESIGN §3, §8).
//!
//! ```text
//! JOINING (an identity) ──▶ staged at every member ──▶ committed: by this node (join = "auto") or by an operator
//!     ──▶ a layout whose next ring has it ──▶ the records of a first start ──▶ IDENTITY
//! ```
//! Until the change that has it is chosen the node is nobody's member: it speaks to members as a client does. `JOINING` is
//! durable before anything is said of it, so that a process that starts again goes on as the same node.

use std::collections::BTreeMap;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use rand::{RngCore, TryRngCore};

use crate::cluster::Addresses;
use crate::cluster::staged::{Staged, plan};
use crate::node;
use crate::node_id::NodeId;
use crate::ring::{Layout, Member};
use crate::storage::identity::IDENTITY;
use crate::storage::vfs::{Real, Vfs};
use crate::storage::{DirLock, Identity, Store};
use crate::wire::client::{Change, ReplyBody, RequestBody, StagedAt, View};
use crate::wire::handshake::RefusalCode;

use super::core_loop::not_started;
use super::handshake::HandshakeError;
use super::{Joining, Options, RunError, asking, clock};

/// Name of the identity of a node that is no member yet.
const JOINING: &str = "JOINING";
/// Pause between two rounds of questions.
const PAUSE: Duration = Duration::from_millis(500);

/// Whether the directory is that of a node that shall become a member.
pub(super) fn is_wanted(options: &Options) -> bool {
    let dir = &options.data_dir;
    let is_taken = |path: &Path| {
        path.read_dir().is_ok_and(|mut entries| {
            entries.any(|entry| entry.is_ok_and(|entry| entry.file_name() != "LOCK"))
        })
    };
    !options.seeds.is_empty()
        && !dir.join(IDENTITY).exists()
        && (dir.join(JOINING).exists() || !is_taken(dir))
}

/// Waits until the members have chosen a layout with this node, and makes the directory a member's.
/// # Errors
/// [`RunError`]: the directory cannot be used, or the members will not have this node. It waits as long as none answers.
pub(super) async fn join(options: &Options) -> Result<(), RunError> {
    let dir = &options.data_dir;
    let system = |source| RunError::System { what: "make the data directory", source };
    std::fs::DirBuilder::new().recursive(true).mode(0o700).create(dir).map_err(system)?;
    let _lock = DirLock::take(&Real, dir, std::process::id())?;
    let mut told_why = String::new();
    let mut known: Option<View> = None;
    loop {
        let mut why = String::new();
        match latest_view(options, known.as_ref()).await {
            Ok(view) => {
                let identity = identity(options, &view)?;
                if view.layout.member(identity.node).is_some() {
                    return become_member(options, &identity, view);
                }
                check_name(options, &view)?;
                if let Err(reason) = ask_to_join(options, &identity, &view).await {
                    why = reason;
                }
                known = Some(view);
            }
            Err(error) => why = error.to_string(),
        }
        if !why.is_empty() && why != told_why {
            tracing::warn!("not a member yet: {why}");
            told_why = why;
        }
        tokio::time::sleep(PAUSE).await;
    }
}

/// The newest view that any seed, or any member known through one, has.
async fn latest_view(options: &Options, known: Option<&View>) -> Result<View, HandshakeError> {
    let members = known.iter().flat_map(|view| &view.members).map(|member| member.peer.clone());
    let mut latest: Option<View> = None;
    let mut failure = HandshakeError::Timeout;
    for address in options.seeds.iter().cloned().chain(members).filter(|peer| !peer.is_empty()) {
        match asking::view(options, &address).await {
            Ok((_, view))
                if latest
                    .as_ref()
                    .is_none_or(|latest| rank(&latest.layout) < rank(&view.layout)) =>
            {
                latest = Some(view);
            }
            Ok(_) => {}
            Err(error) => failure = error,
        }
    }
    latest.ok_or(failure)
}

/// Layouts in the order in which they follow on each other.
const fn rank(layout: &Layout) -> (u64, u64) {
    (layout.generation, layout.version)
}

/// Who this node is, kept from the first time it is asked.
fn identity(options: &Options, view: &View) -> Result<Identity, RunError> {
    let dir = &options.data_dir;
    let wrong = |found: String, expected: String| RunError::WrongIdentity {
        dir: dir.clone(),
        found,
        expected,
    };
    if view.cluster_name != options.cluster {
        return Err(wrong(
            format!("cluster `{}`, by its seeds", view.cluster_name),
            format!("cluster `{}`", options.cluster),
        ));
    }
    if let Ok(text) = std::fs::read(dir.join(JOINING))
        && let Ok(identity) = serde_json::from_slice::<Identity>(&text)
        && identity.cluster == view.cluster
        && identity.name == options.name
    {
        return Ok(identity);
    }
    let mut rng = rand::rngs::OsRng.unwrap_err();
    let mut id = [0; 16];
    rng.fill_bytes(&mut id);
    let (name, cluster_name) = (options.name.clone(), view.cluster_name.clone());
    let (random, created) = (rng.next_u32(), jiff::Timestamp::now().to_string());
    let node = NodeId::from_bytes(id);
    let identity = Identity::first(node, name, view.cluster, cluster_name, random, created);
    let text = serde_json::to_vec_pretty(&identity).expect("plain fields");
    crate::storage::vfs::write_atomically(&Real, dir, JOINING, &text)
        .map_err(|source| RunError::System { what: "write JOINING", source })?;
    Ok(identity)
}

/// A name belongs to one member: who takes a dead one's place has another.
fn check_name(options: &Options, view: &View) -> Result<(), RunError> {
    if view.layout.members().all(|member| member.name != options.name) {
        return Ok(());
    }
    Err(RunError::Refused {
        by: view.cluster_name.clone(),
        code: RefusalCode::NotAMember,
        reason: format!(
            "a member is named `{0}` already; if that one is gone for good, start this node under another name and say `kvctl cluster replace {0} NEW-NAME`",
            options.name
        ),
    })
}

/// Stages this node at every member; with `join = "auto"` it also proposes the change, where none runs.
async fn ask_to_join(options: &Options, identity: &Identity, view: &View) -> Result<(), String> {
    let Joining { zone, weight, is_staged } = &options.joining;
    let (id, name) = (identity.node, identity.name.clone());
    let member = Member { id, name, zone: zone.clone(), weight: *weight };
    let join = Staged::Join(member);
    let layout = view.layout.version;
    let stamp = clock::now().wall;
    let staged = StagedAt { layout, stamp, is_wanted: false, change: join.clone() };
    let mut failure = None;
    let addresses = view.members.iter().map(|member| &member.client);
    let mut clients = addresses.filter(|client| !client.is_empty());
    for client in clients.clone() {
        match asking::ask(options, client, RequestBody::Stage(staged.clone())).await {
            Ok((_, ReplyBody::Error(error))) => failure = Some(error.message),
            Ok(_) => {}
            Err(error) => failure = Some(format!("{client}: {error}")),
        }
    }
    if *is_staged {
        return Err(
            "staged; an operator commits it: kvctl cluster plan, kvctl cluster commit".to_owned()
        );
    }
    if view.layout.next.is_some() {
        return Err("another change of the layout runs".to_owned());
    }
    let planned = plan(&view.layout.now, &[join]).map_err(|error| error.to_string())?;
    let Some(client) = clients.next() else { return failure.map_or(Ok(()), Err) };
    let change = Change::To(Box::new(planned.ring));
    let proposal = RequestBody::Propose { expect: layout, change };
    match asking::ask(options, client, proposal).await {
        Ok((_, ReplyBody::Error(error))) => Err(error.message),
        Ok(_) => Ok(()),
        Err(error) => Err(format!("{client}: {error}")),
    }
}

/// Makes the directory that of a member: its identity comes last.
fn become_member(options: &Options, identity: &Identity, view: View) -> Result<(), RunError> {
    let dir = &options.data_dir;
    let vfs: Arc<dyn Vfs> = Arc::new(Real);
    let (store, _) = Store::open(Arc::clone(&vfs), dir, options.store.clone(), &mut |_, _| {})
        .map_err(|error| RunError::Store { dir: dir.clone(), source: Box::new(error) })?;
    let addresses: BTreeMap<NodeId, Addresses> = view
        .members
        .iter()
        .filter(|member| !member.peer.is_empty())
        .map(|member| {
            let (peer, client, http) =
                (member.peer.clone(), member.client.clone(), member.http.clone());
            (member.node, Addresses { peer, client, http })
        })
        .collect();
    match node::join(&store, identity, view.layout, &addresses) {
        // A process that died right here had begun.
        Ok(()) | Err(node::StartError::AlreadyFounded) => {}
        Err(error) => return Err(not_started(options, error)),
    }
    store.close().map_err(|failed| RunError::Fatal(failed.to_string()))?;
    identity.write(&*vfs, dir)?;
    let _ = std::fs::remove_file(dir.join(JOINING));
    tracing::info!(node = %identity.node, "this node joins the cluster");
    Ok(())
}
