//! Snapshots of this node's store, as an operator asks for them: one piece of work at a time, done on a thread that may wait
//! for the disk, and asked about while it runs.
//!
//! ```text
//! operator          every node that has a part
//!   Hold      ────▶  names nothing in a cut for HOLD: no delete is forgotten
//!   Create    ────▶  flush, links, the note at last            (all hold before the first part is made)
//!   Progress  ────▶  how far
//! ```
//! Why the hold: parts are made one after the other. Where a delete was forgotten between two of them, the first could
//! still show the value and the second nothing. Whoever holds names nothing, and what all have named before is a delete, or
//! nothing, in every part that is made after that. A node holds until its own part is made.
//!
//! Why the layout: where data moved between two parts, one could lack what it had not got yet and the other what it had
//! given away. A part counts only if the layout that is on record *in it* is the one that was asked for.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use crate::cluster::Time;
use crate::storage::offline::DirectoryView;
use crate::storage::snapshots::{
    NoteError, SnapshotName, SnapshotNote, SnapshotOrder, SnapshotWorkError, Step,
};
use crate::storage::{JobError, SnapshotError, Store};
use crate::wire::client::{
    ErrorCode, ReplyBody, SnapshotFacts, SnapshotFailure, SnapshotFailureCode, SnapshotFlaw,
    SnapshotPart, SnapshotReply, SnapshotRequest,
};

use super::calls::Origin;
use super::core::Core;
use super::event::Effect;
use super::replies::error_reply;
use super::{keys, meta};

/// How long a node forgets no delete after it was told so: longer than a round of a cut that began before lasts.
const HOLD: Duration = Duration::from_secs(30);
/// Names whose last outcome is remembered.
const ENDED_MAX: usize = 64;

/// Core's number for a list it asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct SnapshotToken(pub u64);

/// What shall be done with snapshots; [`do_snapshot_work`] does it, on a thread that may wait for the disk.
#[derive(Debug)]
pub enum SnapshotWork {
    /// Make one.
    Create(Box<SnapshotOrder>),
    /// Read one again.
    Verify(SnapshotName),
    /// Take one away.
    Remove(SnapshotName),
    /// See which there are. It takes no time, and waits for no other work.
    List(SnapshotToken),
}

/// What came of it.
#[derive(Debug)]
pub enum SnapshotNews {
    /// So many bytes were read, of so many.
    Step {
        /// Read.
        done: u64,
        /// Of.
        total: u64,
    },
    /// The work that is not a list is at its end.
    Ended(Result<Option<SnapshotPart>, SnapshotFailure>),
    /// The list.
    Listed {
        /// As asked for.
        token: SnapshotToken,
        /// By name.
        parts: Result<Vec<SnapshotPart>, SnapshotFailure>,
    },
}

/// What a node knows of its snapshots.
#[derive(Debug, Default)]
pub(super) struct Snapshots {
    running: Option<Running>,
    /// What became of the last work with each name, oldest first.
    ended: VecDeque<(SnapshotName, SnapshotReply)>,
    /// Until when no delete is forgotten.
    hold_until: Option<Time>,
    lists: BTreeMap<SnapshotToken, Origin>,
    next_list: u64,
}

#[derive(Debug)]
struct Running {
    name: SnapshotName,
    kind: Kind,
    done: u64,
    total: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Create,
    Verify,
    Remove,
}

impl Snapshots {
    /// Whether no delete may be forgotten.
    pub(super) fn holds(&self, now: Time) -> bool {
        let is_made = matches!(self.running, Some(Running { kind: Kind::Create, .. }));
        is_made || self.hold_until.is_some_and(|until| now < until)
    }
}

impl Core {
    /// An operator's request.
    pub(super) fn snapshot(
        &mut self,
        origin: Origin,
        request: &SnapshotRequest,
        effects: &mut Vec<Effect>,
    ) {
        let name = match request {
            SnapshotRequest::Hold => {
                self.snapshots.hold_until = Some(self.now.after(HOLD));
                let micros = u64::try_from(HOLD.as_micros()).unwrap_or(u64::MAX);
                let held = ReplyBody::Snapshot(SnapshotReply::Held { micros });
                return self.reply(origin, held, effects);
            }
            SnapshotRequest::List => return self.list_snapshots(origin, effects),
            SnapshotRequest::Create { name, .. }
            | SnapshotRequest::Verify { name }
            | SnapshotRequest::Remove { name }
            | SnapshotRequest::Progress { name } => name.parse::<SnapshotName>(),
        };
        let body = match (name, request) {
            (Err(error), _) => error_reply(ErrorCode::Usage, error.to_string()),
            (Ok(name), SnapshotRequest::Create { id, layout, .. }) => {
                self.begin_snapshot(&name, *id, *layout, effects)
            }
            (Ok(name), SnapshotRequest::Verify { .. }) => {
                let work = SnapshotWork::Verify(name.clone());
                self.begin_snapshot_work(&name, Kind::Verify, work, effects)
            }
            (Ok(name), SnapshotRequest::Remove { .. }) => {
                let work = SnapshotWork::Remove(name.clone());
                self.begin_snapshot_work(&name, Kind::Remove, work, effects)
            }
            (Ok(name), SnapshotRequest::Progress { .. }) => self.snapshot_progress(&name),
            (Ok(_), SnapshotRequest::Hold | SnapshotRequest::List) => {
                unreachable!("they name nothing")
            }
        };
        self.reply(origin, body, effects);
    }

    /// News of the thread that does the work.
    pub(super) fn snapshot_news(&mut self, news: SnapshotNews, effects: &mut Vec<Effect>) {
        match news {
            SnapshotNews::Step { done, total } => {
                if let Some(running) = &mut self.snapshots.running {
                    (running.done, running.total) = (done, total);
                }
            }
            SnapshotNews::Ended(result) => {
                let Some(running) = self.snapshots.running.take() else { return };
                let reply = match result {
                    Ok(part) => SnapshotReply::Done(part),
                    Err(failure) => SnapshotReply::Failed(failure),
                };
                self.snapshots.ended.push_back((running.name, reply));
                if ENDED_MAX < self.snapshots.ended.len() {
                    self.snapshots.ended.pop_front();
                }
            }
            SnapshotNews::Listed { token, parts } => {
                let Some(origin) = self.snapshots.lists.remove(&token) else { return };
                let reply = match parts {
                    Ok(parts) => SnapshotReply::List(parts),
                    Err(failure) => SnapshotReply::Failed(failure),
                };
                self.reply(origin, ReplyBody::Snapshot(reply), effects);
            }
        }
    }

    fn list_snapshots(&mut self, origin: Origin, effects: &mut Vec<Effect>) {
        self.snapshots.next_list += 1;
        let token = SnapshotToken(self.snapshots.next_list);
        self.snapshots.lists.insert(token, origin);
        effects.push(Effect::Snapshot(SnapshotWork::List(token)));
    }

    fn begin_snapshot(
        &mut self,
        name: &SnapshotName,
        id: u64,
        layout: u64,
        effects: &mut Vec<Effect>,
    ) -> ReplyBody {
        if layout != self.layout.version {
            let text = format!("layout {} is in force, not {layout}", self.layout.version);
            return passing(ErrorCode::WrongLayout, text);
        }
        if !self.is_compared() {
            let text = "the node has just started, and does not know yet whether its disk is whole";
            return passing(ErrorCode::NotReady, text.to_owned());
        }
        if !self.snapshots.holds(self.now) {
            let text = "deletes may be forgotten here: the node must be told to hold before";
            return passing(ErrorCode::NotReady, text.to_owned());
        }
        let identity = &self.config.identity;
        let order = SnapshotOrder {
            name: name.clone(),
            id,
            cluster: identity.cluster,
            cluster_name: identity.cluster_name.clone(),
            node: identity.node,
            node_name: identity.name.clone(),
            layout,
            keys: self.store.keys_estimate(keys::DATA),
        };
        let work = SnapshotWork::Create(Box::new(order));
        self.begin_snapshot_work(name, Kind::Create, work, effects)
    }

    fn begin_snapshot_work(
        &mut self,
        name: &SnapshotName,
        kind: Kind,
        work: SnapshotWork,
        effects: &mut Vec<Effect>,
    ) -> ReplyBody {
        match &self.snapshots.running {
            Some(running) if running.name == *name && running.kind == kind => {}
            Some(running) => {
                let text = format!("the node is busy with the snapshot `{}`", running.name);
                return passing(ErrorCode::Overloaded, text);
            }
            None => {
                self.snapshots.ended.retain(|(ended, _)| ended != name);
                self.snapshots.running =
                    Some(Running { name: name.clone(), kind, done: 0, total: 0 });
                effects.push(Effect::Snapshot(work));
            }
        }
        self.snapshot_progress(name)
    }

    fn snapshot_progress(&self, name: &SnapshotName) -> ReplyBody {
        let Snapshots { running, ended, .. } = &self.snapshots;
        let running = running.as_ref().filter(|running| running.name == *name);
        let reply = if let Some(Running { done, total, .. }) = running {
            SnapshotReply::Working { done: *done, total: *total }
        } else {
            let last = ended.iter().find(|(ended, _)| ended == name);
            last.map_or(SnapshotReply::Unknown, |(_, reply)| reply.clone())
        };
        ReplyBody::Snapshot(reply)
    }
}

/// Does what [`Effect::Snapshot`] asks for. `created` is the present, RFC 3339; `step` keeps the pace and says whether to go
/// on.
pub fn do_snapshot_work(
    store: &Store,
    work: SnapshotWork,
    created: String,
    step: &mut Step<'_>,
) -> SnapshotNews {
    let ended = match work {
        SnapshotWork::Create(order) => {
            let judge = |view: &DirectoryView| judge(view, order.layout);
            let made = store.make_snapshot(&order, created, &judge, step);
            made.map(|note| Some(part(&order.name, Ok(note))))
        }
        SnapshotWork::Verify(name) => {
            store.verify_snapshot(&name, step).map(|note| Some(part(&name, Ok(note))))
        }
        SnapshotWork::Remove(name) => store.remove_snapshot(&name).map(|()| None),
        SnapshotWork::List(token) => {
            let parts = store.snapshots().map(|found| {
                found.into_iter().map(|found| part(&found.name, found.note)).collect()
            });
            let parts = parts.map_err(|error| SnapshotFailure {
                code: SnapshotFailureCode::Io,
                message: format!("cannot list the snapshots: {error}"),
                files: Vec::new(),
            });
            return SnapshotNews::Listed { token, parts };
        }
    };
    SnapshotNews::Ended(ended.map_err(|error| failure(&error)))
}

/// Whether what was made is of this layout.
fn judge(view: &DirectoryView, layout: u64) -> Result<(), String> {
    let found = view.get(&meta::register_key()).map_err(|error| error.to_string())?;
    let register = found.and_then(|found| found.value).ok_or("it knows no layout")?;
    let register = meta::decode_register(&register).map_err(|error| error.to_string())?;
    match register.chosen.version {
        version if version == layout => Ok(()),
        version => Err(format!("the layout moved from version {layout} to {version} meanwhile")),
    }
}

fn part(name: &SnapshotName, note: Result<SnapshotNote, NoteError>) -> SnapshotPart {
    let state = match note {
        Ok(SnapshotNote { id, created, layout, keys, bytes, .. }) => {
            Ok(SnapshotFacts { id, created, layout, keys, bytes })
        }
        Err(NoteError::Incomplete { .. }) => Err(SnapshotFlaw::Incomplete),
        Err(error) => Err(SnapshotFlaw::Damaged(told(&error))),
    };
    SnapshotPart { name: name.to_string(), state }
}

fn failure(error: &SnapshotWorkError) -> SnapshotFailure {
    let code = match error {
        SnapshotWorkError::Exists { .. } => SnapshotFailureCode::Exists,
        SnapshotWorkError::Missing { .. } => SnapshotFailureCode::Missing,
        SnapshotWorkError::Note(NoteError::Incomplete { .. }) => SnapshotFailureCode::Incomplete,
        SnapshotWorkError::Note(NoteError::Malformed { .. }) | SnapshotWorkError::Damaged(_) => {
            SnapshotFailureCode::Damaged
        }
        SnapshotWorkError::Refused { .. } => SnapshotFailureCode::Layout,
        SnapshotWorkError::NotMade(SnapshotError::Flush(JobError::Full)) => {
            SnapshotFailureCode::DiskFull
        }
        SnapshotWorkError::NotMade(SnapshotError::Io { source, .. })
        | SnapshotWorkError::Io { source, .. }
            if source.kind() == std::io::ErrorKind::StorageFull =>
        {
            SnapshotFailureCode::DiskFull
        }
        SnapshotWorkError::NotMade(_)
        | SnapshotWorkError::Io { .. }
        | SnapshotWorkError::Note(NoteError::Io { .. }) => SnapshotFailureCode::Io,
        SnapshotWorkError::GivenUp => SnapshotFailureCode::GivenUp,
    };
    let files = match error {
        SnapshotWorkError::Damaged(damaged) => damaged
            .iter()
            .map(|damaged| (damaged.file.display().to_string(), damaged.reason.clone()))
            .collect(),
        SnapshotWorkError::Note(NoteError::Malformed { file, reason }) => {
            vec![(file.display().to_string(), reason.clone())]
        }
        _ => Vec::new(),
    };
    SnapshotFailure { code, message: told(error), files }
}

/// An error with its causes.
fn told(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(source) = cause {
        text.push_str(": ");
        text.push_str(&source.to_string());
        cause = source.source();
    }
    text
}

fn passing(code: ErrorCode, text: String) -> ReplyBody {
    let mut body = error_reply(code, text);
    if let ReplyBody::Error(error) = &mut body {
        error.retry = true;
    }
    body
}
