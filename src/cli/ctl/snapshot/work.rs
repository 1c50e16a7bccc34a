//! Work that takes a while at several members at once: begun, and asked about until all are done.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::time::Duration;

use futures_util::StreamExt as _;
use futures_util::stream::FuturesUnordered;

use crate::cli::connect::Session;
use crate::cli::exit::Exit;
use crate::cli::failure::Failure;
use crate::cli::progress::Progress;
use crate::node_id::NodeId;
use crate::storage::snapshots::SnapshotName;
use crate::wire::client::{
    ReplyBody, RequestBody, SnapshotFailure, SnapshotFailureCode, SnapshotPart, SnapshotReply,
    SnapshotRequest,
};

use super::no_such_reply;
use super::parts::Peer;

/// Pause between two questions to one member.
const PAUSE: Duration = Duration::from_millis(200);
/// Questions in a row that a member may leave unanswered before it counts as gone.
const SILENT_MAX: u32 = 10;

/// What became of the work at each member.
pub(super) type Outcomes = Vec<(Peer, Result<Option<SnapshotPart>, Failure>)>;

/// Has these members do something with the snapshot, and waits until each has or has not; in their order.
pub(super) async fn work(
    session: &Session,
    name: &SnapshotName,
    peers: &[Peer],
    request: &SnapshotRequest,
    progress: &mut Progress,
) -> Outcomes {
    let read: RefCell<BTreeMap<NodeId, (u64, u64)>> = RefCell::default();
    let mut running: FuturesUnordered<_> = peers
        .iter()
        .enumerate()
        .map(|(index, peer)| {
            let read = &read;
            async move {
                let tell = |done, total| {
                    read.borrow_mut().insert(peer.node, (done, total));
                };
                (index, at(session, name, peer.node, request, &tell).await)
            }
        })
        .collect();
    let mut outcomes: BTreeMap<usize, _> = BTreeMap::new();
    let mut ticks = tokio::time::interval(PAUSE);
    let mut expected = 0;
    loop {
        tokio::select! {
            biased;
            ended = running.next() => match ended {
                Some((index, outcome)) => {
                    progress.records += u64::from(outcome.is_ok());
                    progress.failed += u64::from(outcome.is_err());
                    outcomes.insert(index, outcome);
                }
                None => break,
            },
            _ = ticks.tick() => {}
        }
        let total: u64 = read.borrow().values().map(|(_, total)| total).sum();
        if expected < total {
            progress.expect(total - expected);
            expected = total;
        }
        progress.bytes = read.borrow().values().map(|(done, _)| done).sum();
        progress.tick();
    }
    peers.iter().cloned().zip(outcomes.into_values()).collect()
}

/// One member's share.
async fn at(
    session: &Session,
    name: &SnapshotName,
    node: NodeId,
    request: &SnapshotRequest,
    tell: &impl Fn(u64, u64),
) -> Result<Option<SnapshotPart>, Failure> {
    let mut reply = ask(session, node, request.clone()).await?;
    let mut silent = 0;
    loop {
        match reply {
            SnapshotReply::Working { done, total } => tell(done, total),
            SnapshotReply::Done(part) => return Ok(part),
            SnapshotReply::Failed(failure) => return Err(of_node(failure)),
            SnapshotReply::Unknown => {
                let text = "it started anew in the middle, and does not know how far it was";
                return Err(Failure::new(Exit::TryAgain, text));
            }
            SnapshotReply::Held { .. } | SnapshotReply::List(_) => return Err(no_such_reply()),
        }
        tokio::time::sleep(PAUSE).await;
        let progress = SnapshotRequest::Progress { name: name.to_string() };
        reply = match ask(session, node, progress).await {
            Ok(reply) => {
                silent = 0;
                reply
            }
            // A node that is busy or starting may answer the next time.
            Err(failure) if silent < SILENT_MAX && is_passing(&failure) => {
                silent += 1;
                SnapshotReply::Working { done: 0, total: 0 }
            }
            Err(failure) => return Err(failure),
        };
    }
}

/// Tells a member to forget no delete for a while.
/// # Errors
/// Those of the call.
pub(super) async fn hold(session: &Session, node: NodeId) -> Result<(), Failure> {
    match ask(session, node, SnapshotRequest::Hold).await? {
        SnapshotReply::Held { .. } => Ok(()),
        _ => Err(no_such_reply()),
    }
}

async fn ask(
    session: &Session,
    node: NodeId,
    request: SnapshotRequest,
) -> Result<SnapshotReply, Failure> {
    match session.call(Some(node), RequestBody::Snapshot(request)).await? {
        ReplyBody::Snapshot(reply) => Ok(reply),
        _ => Err(no_such_reply()),
    }
}

fn is_passing(failure: &Failure) -> bool {
    matches!(failure.exit(), Exit::TryAgain | Exit::Unavailable)
}

/// What a node said of its failure.
fn of_node(failure: SnapshotFailure) -> Failure {
    let SnapshotFailure { code, message, files } = failure;
    let exit = match code {
        SnapshotFailureCode::Exists => Exit::CannotCreate,
        SnapshotFailureCode::Missing => Exit::NoInput,
        SnapshotFailureCode::Incomplete => Exit::No,
        SnapshotFailureCode::Damaged => Exit::BadData,
        SnapshotFailureCode::DiskFull | SnapshotFailureCode::Io => Exit::Io,
        SnapshotFailureCode::Layout | SnapshotFailureCode::GivenUp => Exit::TryAgain,
    };
    let names: Vec<&String> = files.iter().map(|(file, _)| file).collect();
    let failure = Failure::new(exit, message).detail("files", &names);
    files.iter().fold(failure, |failure, (file, reason)| failure.note(format!("{file}: {reason}")))
}
