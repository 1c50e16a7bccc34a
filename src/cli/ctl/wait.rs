//! `wait`: until the cluster is as a script needs it.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, Write};
use std::time::Duration;

use clap::{Args, ValueEnum};
use futures_util::future::join_all;

use crate::cli::connect::{Connect, Session};
use crate::cli::exit::Exit;
use crate::cli::failure::Failure;
use crate::cli::json::Object;
use crate::cli::options::{Common, Format};
use crate::node_id::NodeId;
use crate::ring::Partition;
use crate::wire::client::{MemberHealth, MemberView, ReplyBody, RequestBody};

use super::status::Sight;

/// How long to wait where `--timeout` says nothing.
const TIMEOUT_DEFAULT: Duration = Duration::from_mins(1);
/// Longest time for one of the looks.
const LOOK_TIMEOUT: Duration = Duration::from_secs(2);
/// Pause between looks.
const PAUSE: Duration = Duration::from_millis(100);

#[derive(Args, Clone, Debug)]
pub(crate) struct WaitArgs {
    /// What to wait for
    #[arg(value_enum)]
    goal: Goal,
}

/// What can be waited for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Goal {
    /// All members are up, answer, and reach each other
    Ready,
    /// All owners of each partition that are up hold equal data, and no hint is due
    Converged,
    /// No node holds a hint for another
    Handoff,
}

/// `wait`: looks again and again; the first look may find no cluster at all.
pub(crate) async fn wait(
    args: &WaitArgs,
    connect: &Connect,
    common: &Common,
    out: &mut dyn Write,
) -> anyhow::Result<Exit> {
    let timeout = connect.timeout.unwrap_or(TIMEOUT_DEFAULT);
    let connect = Connect { timeout: Some(timeout.min(LOOK_TIMEOUT)), ..connect.clone() };
    let mut why = Why::Nothing;
    let waiting = tokio::time::timeout(timeout, async {
        let mut session = None;
        loop {
            match look(args.goal, &connect, &mut session).await {
                Ok(Look::Yes) => return,
                Ok(Look::NotYet(text)) => why = Why::Seen(text),
                Err(failure) => why = Why::Failed(failure),
            }
            tokio::time::sleep(PAUSE).await;
        }
    });
    if waiting.await.is_ok() {
        match common.format() {
            Format::Json => {
                let goal = goal_word(args.goal);
                writeln!(out, "{}", Object::new("reached").field("goal", goal).finish())?;
            }
            Format::Human if !common.quiet => {
                writeln!(io::stderr().lock(), "kvctl: {}", goal_word(args.goal))?;
            }
            Format::Human | Format::Plain => {}
        }
        return Ok(Exit::Done);
    }
    let goal = goal_word(args.goal);
    let shown = crate::cli::human::duration(timeout);
    Err(match why {
        // Nothing but refused connections: nobody is there.
        Why::Failed(failure) if failure.exit() != Exit::TryAgain => failure.into(),
        Why::Failed(failure) => {
            anyhow::Error::new(failure).context(format!("not {goal} in {shown}"))
        }
        Why::Seen(text) => late(&format!("not {goal} in {shown}: {text}")).into(),
        Why::Nothing => late(&format!("not {goal} in {shown}")).into(),
    })
}

enum Why {
    Nothing,
    Seen(String),
    Failed(Failure),
}

enum Look {
    Yes,
    NotYet(String),
}

/// It took longer than it may.
pub(crate) fn late(message: &str) -> Failure {
    Failure::new(Exit::TryAgain, message).code("timeout").detail("retry", true)
}

const fn goal_word(goal: Goal) -> &'static str {
    match goal {
        Goal::Ready => "ready",
        Goal::Converged => "converged",
        Goal::Handoff => "free of hints",
    }
}

async fn look(
    goal: Goal,
    connect: &Connect,
    session: &mut Option<Session>,
) -> Result<Look, Failure> {
    let session = match session {
        Some(session) => session,
        None => session.insert(connect.open("kvctl", LOOK_TIMEOUT).await?),
    };
    let sight = Sight::take(session).await?;
    match goal {
        Goal::Ready => ready(session, &sight).await,
        Goal::Converged => match none_due(&sight) {
            Look::Yes => converged(session, &sight).await,
            not_yet @ Look::NotYet(_) => Ok(not_yet),
        },
        Goal::Handoff => Ok(handed_off(&sight)),
    }
}

async fn ready(session: &Session, sight: &Sight) -> Result<Look, Failure> {
    let missing: Vec<&str> = sight
        .view
        .layout
        .now
        .members
        .iter()
        .filter(|member| !sight.is_up(member.id))
        .map(|member| member.name.as_str())
        .collect();
    if !missing.is_empty() {
        let text = format!("{} not up or not reachable", missing.join(", "));
        return Ok(Look::NotYet(text));
    }
    // Each must reach each: a request may land anywhere.
    let members = &sight.view.layout.now.members;
    let views = join_all(members.iter().map(|member| async move {
        (member.name.as_str(), session.call(Some(member.id), RequestBody::View).await)
    }))
    .await;
    for (name, view) in views {
        let ReplyBody::View(view) = view? else {
            return Err(Failure::new(Exit::Protocol, "view got another reply"));
        };
        let sees = |seen: &MemberView| seen.reachable && seen.health == MemberHealth::Up;
        if !view.members.iter().all(sees) {
            return Ok(Look::NotYet(format!("{name} does not reach all the others yet")));
        }
    }
    Ok(Look::Yes)
}

fn handed_off(sight: &Sight) -> Look {
    let hints: u64 = sight.infos.values().map(|info| info.hints).sum();
    if hints == 0 { Look::Yes } else { Look::NotYet(format!("{hints} hints are held")) }
}

/// Whether no hint waits for a member that is up.
fn none_due(sight: &Sight) -> Look {
    let targets = sight.infos.values().flat_map(|info| &info.hints_for);
    let due: u64 =
        targets.filter(|(target, _)| sight.is_up(**target)).map(|(_, hints)| hints).sum();
    if due == 0 {
        Look::Yes
    } else {
        Look::NotYet(format!("{due} hints are held for members that are up"))
    }
}

async fn converged(session: &Session, sight: &Sight) -> Result<Look, Failure> {
    let up: BTreeSet<NodeId> = sight
        .view
        .members
        .iter()
        .filter(|member| member.health == MemberHealth::Up)
        .map(|member| member.node)
        .collect();
    let answers =
        join_all(up.iter().map(|node| async move {
            (*node, session.call(Some(*node), RequestBody::Leaves).await)
        }))
        .await;
    let mut leaves = BTreeMap::new();
    for (node, answer) in answers {
        match answer? {
            ReplyBody::Leaves(list) => leaves.insert(node, list),
            _ => return Err(Failure::new(Exit::Protocol, "leaves got another reply")),
        };
    }
    let q = sight.view.layout.now.q;
    let differ = (0..q)
        .filter(|partition| {
            let walk = sight.preferences.of_partition(Partition(*partition));
            let mut held = walk
                .owners()
                .filter_map(|owner| leaves.get(&owner))
                .map(|list| list.get(*partition as usize));
            let first = held.next();
            held.any(|leaf| Some(leaf) != first)
        })
        .count();
    if differ == 0 {
        Ok(Look::Yes)
    } else {
        Ok(Look::NotYet(format!("the replicas of {differ} of {q} partitions differ")))
    }
}
