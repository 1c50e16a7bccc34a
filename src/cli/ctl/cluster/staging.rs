//! What is staged at the members: told to all that are up, read back from all of them.

use std::collections::BTreeMap;

use futures_util::future::join_all;

use crate::cli::connect::Session;
use crate::cli::exit::Exit;
use crate::cli::failure::Failure;
use crate::cluster::staged::{Staged, Subject};
use crate::node_id::NodeId;
use crate::ring::Member;
use crate::wire::client::{ReplyBody, RequestBody, StagedAt};

use super::super::status::Sight;

/// Nodes that wait to join, by name.
pub(in super::super) struct Candidates(BTreeMap<String, Member>);

impl Candidates {
    /// The one of this name.
    pub(in super::super) fn named(&self, name: &str) -> Result<&Member, Failure> {
        self.0.get(name).ok_or_else(|| {
            Failure::usage(format!("no node named `{name}` waits to join"))
                .note("start it with an empty data directory, node.seeds, and join = \"staged\"")
        })
    }
}

/// Everything staged at any member that is up, the last word about each subject.
pub(super) async fn staged(session: &Session, sight: &Sight) -> Result<Vec<Staged>, Failure> {
    let all = ask_all(session, sight, &RequestBody::Staged).await?;
    // A node that waits to join stages itself: somebody has to want it.
    let wanted = all.into_iter().filter(|staged| staged.is_wanted);
    let mut wanted: Vec<StagedAt> = wanted.collect();
    wanted.sort_by_key(|staged| staged.stamp);
    Ok(latest(wanted.into_iter().map(|staged| staged.change).collect()))
}

/// Nodes that said that they want to join.
pub(in super::super) async fn candidates(
    session: &Session,
    sight: &Sight,
) -> Result<Candidates, Failure> {
    let all = ask_all(session, sight, &RequestBody::Staged).await?;
    let joins = all.into_iter().filter_map(|staged| match staged.change {
        Staged::Join(member) => Some((member.name.clone(), member)),
        _ => None,
    });
    Ok(Candidates(joins.collect()))
}

/// The names of those that wait to join and that nobody wants yet, and what is staged.
pub(in super::super) async fn overview(
    session: &Session,
    sight: &Sight,
) -> Result<(Vec<String>, Vec<Staged>), Failure> {
    let staged = staged(session, sight).await?;
    let layout = &sight.view.layout;
    let Candidates(candidates) = candidates(session, sight).await?;
    let is_wanted = |id: NodeId| {
        layout.member(id).is_some()
            || staged.iter().any(|change| match change {
                Staged::Join(member) => member.id == id,
                Staged::Replace { by, .. } => by.id == id,
                _ => false,
            })
    };
    let waiting = candidates.into_iter().filter(|(_, member)| !is_wanted(member.id));
    Ok((waiting.map(|(name, _)| name).collect(), staged))
}

/// Of several about one subject the last one. A node that takes another's place does not join besides.
pub(super) fn latest(changes: Vec<Staged>) -> Vec<Staged> {
    let mut by_subject: BTreeMap<Subject, Staged> = BTreeMap::new();
    for change in changes {
        by_subject.insert(change.subject(), change);
    }
    let taken: Vec<NodeId> = by_subject
        .values()
        .filter_map(|change| match change {
            Staged::Replace { by, .. } => Some(by.id),
            _ => None,
        })
        .collect();
    let joins_besides = |change: &Staged| match change {
        Staged::Join(member) => taken.contains(&member.id),
        _ => false,
    };
    by_subject.into_values().filter(|change| !joins_besides(change)).collect()
}

/// Tells every member that is up; one is enough.
pub(super) async fn stage(
    session: &Session,
    sight: &Sight,
    changes: &[Staged],
) -> Result<(), Failure> {
    for change in changes {
        let staged = StagedAt {
            layout: sight.view.layout.version,
            stamp: now_micros(),
            is_wanted: true,
            change: change.clone(),
        };
        ask_all(session, sight, &RequestBody::Stage(staged)).await?;
    }
    Ok(())
}

/// Has every member that is up forget what is staged.
pub(super) async fn unstage(session: &Session, sight: &Sight) -> Result<(), Failure> {
    ask_all(session, sight, &RequestBody::Unstage).await.map(drop)
}

/// What all members that answer say is staged there.
async fn ask_all(
    session: &Session,
    sight: &Sight,
    body: &RequestBody,
) -> Result<Vec<StagedAt>, Failure> {
    let up = sight.view.layout.now.members.iter().filter(|member| sight.is_up(member.id));
    let replies = join_all(up.map(|member| session.call(Some(member.id), body.clone()))).await;
    let (mut all, mut failed, mut is_answered) = (Vec::new(), None, false);
    for reply in replies {
        match reply {
            Ok(ReplyBody::Staged(staged)) => {
                is_answered = true;
                all.extend(staged);
            }
            Ok(_) => failed = Some(Failure::new(Exit::Protocol, "staging got another reply")),
            Err(failure) => failed = Some(failure),
        }
    }
    match failed {
        Some(failure) if !is_answered => Err(failure),
        Some(_) | None => Ok(all),
    }
}

fn now_micros() -> u64 {
    u64::try_from(jiff::Timestamp::now().as_microsecond()).unwrap_or(0)
}
