//! `snapshot create`: every member makes its part, all of them at once.

use std::io::{self, Write};

use futures_util::future::join_all;
use rand::rngs::OsRng;
use rand::{RngCore as _, TryRngCore as _};

use crate::cli::connect::Session;
use crate::cli::ctl::read::tell;
use crate::cli::exit::Exit;
use crate::cli::failure::Failure;
use crate::cli::json::Object;
use crate::cli::options::{Common, Format};
use crate::cli::progress::Progress;
use crate::wire::client::{SnapshotFacts, SnapshotRequest};

use super::parts::{Held, Holding, Parts, Peer};
use super::{CreateArgs, joined, work};

/// What is to be done.
#[derive(Debug, PartialEq, Eq)]
struct Plan {
    /// What the parts that are there share; a fresh one where none is.
    id: Option<u64>,
    /// Who makes a part.
    to_make: Vec<Peer>,
    /// Who has one.
    has_one: Vec<Peer>,
    /// Who cannot be asked, and why.
    away: Vec<(Peer, String)>,
}

/// `snapshot create`.
pub(super) async fn create(
    args: &CreateArgs,
    session: &Session,
    common: &Common,
    out: &mut dyn Write,
) -> anyhow::Result<Exit> {
    let parts = Parts::look(session).await?;
    let layout = parts.layout;
    let plan = plan(args.name.as_str(), layout, &parts.of(args.name.as_str()))?;
    if args.dry_run {
        return tell_plan(args, &plan, common, out);
    }
    let id = plan.id.unwrap_or_else(|| OsRng.unwrap_err().next_u64());
    let (holding, mut failed) = hold_all(session, &plan.to_make).await;
    let request = SnapshotRequest::Create { name: args.name.to_string(), id, layout };
    let mut progress = Progress::begin(args.progress, common, "parts made", None);
    let outcomes = work::work(session, &args.name, &holding, &request, &mut progress).await;
    progress.clear();
    let mut made = Vec::new();
    for (peer, outcome) in outcomes {
        match outcome.map(|part| part.and_then(|part| part.state.ok())) {
            Ok(Some(facts)) => made.push((peer, facts)),
            Ok(None) => failed.push((peer, super::no_such_reply())),
            Err(failure) => failed.push((peer, failure)),
        }
    }
    let away = plan.away.into_iter();
    failed.extend(away.map(|(peer, why)| (peer, Failure::new(Exit::TryAgain, why))));
    for (peer, facts) in &made {
        tell_made(args, peer, facts, common, out)?;
    }
    end(args, &plan.has_one, &made, failed, common, out)
}

/// What is to be done, by what each member has.
fn plan(name: &str, layout: u64, held: &[Holding]) -> Result<Plan, Failure> {
    let mut plan = Plan { id: None, to_make: Vec::new(), has_one: Vec::new(), away: Vec::new() };
    let taken = |message: String| {
        Failure::new(Exit::CannotCreate, message)
            .code("exists")
            .note(format!("choose another name, or: kvctl snapshot remove {name}"))
    };
    for Holding { peer, part } in held {
        match part {
            Held::Whole(facts) => {
                let id = u64::from_str_radix(&facts.id, 16).ok();
                if plan.id.is_some() && plan.id != id {
                    let message = format!("the parts of `{name}` are of different snapshots");
                    return Err(taken(message));
                }
                if facts.layout != layout {
                    let message = format!(
                        "`{name}` was begun under layout {}, and {layout} is in force: data may have moved",
                        facts.layout
                    );
                    return Err(taken(message));
                }
                plan.id = id;
                plan.has_one.push(peer.clone());
            }
            Held::Flawed(crate::wire::client::SnapshotFlaw::Damaged(why)) => {
                return Err(taken(format!("the part of {} is damaged: {why}", peer.name)));
            }
            Held::Flawed(crate::wire::client::SnapshotFlaw::Incomplete) | Held::Nothing => {
                plan.to_make.push(peer.clone());
            }
            Held::Unknown(why) => plan.away.push((peer.clone(), why.clone())),
        }
    }
    if plan.to_make.is_empty() && plan.away.is_empty() {
        return Err(taken(format!("there is a snapshot `{name}` already")));
    }
    Ok(plan)
}

/// Has all members hold before the first of them makes its part; those that do, and the others.
async fn hold_all(session: &Session, peers: &[Peer]) -> (Vec<Peer>, Vec<(Peer, Failure)>) {
    let held = join_all(peers.iter().map(|peer| work::hold(session, peer.node))).await;
    let (mut holding, mut failed) = (Vec::new(), Vec::new());
    for (peer, held) in peers.iter().cloned().zip(held) {
        match held {
            Ok(()) => holding.push(peer),
            Err(failure) => failed.push((peer, failure)),
        }
    }
    (holding, failed)
}

fn tell_plan(
    args: &CreateArgs,
    plan: &Plan,
    common: &Common,
    out: &mut dyn Write,
) -> anyhow::Result<Exit> {
    let make = plan.to_make.iter().map(|peer| (peer, "would make a part"));
    let has_one = plan.has_one.iter().map(|peer| (peer, "has its part"));
    let away = plan.away.iter().map(|(peer, _)| (peer, "cannot be reached"));
    for (peer, what) in make.chain(has_one).chain(away) {
        match common.format() {
            Format::Json => {
                let object = Object::new("snapshot_plan")
                    .field("name", args.name.as_str())
                    .field("node", &peer.name)
                    .field("what", what);
                writeln!(out, "{}", object.finish())?;
            }
            Format::Plain => writeln!(out, "{}\t{what}", peer.name)?,
            Format::Human => writeln!(out, "{} {what}", peer.name)?,
        }
    }
    Ok(if plan.away.is_empty() { Exit::Done } else { Exit::TryAgain })
}

fn tell_made(
    args: &CreateArgs,
    peer: &Peer,
    facts: &SnapshotFacts,
    common: &Common,
    out: &mut dyn Write,
) -> io::Result<()> {
    if !common.json {
        return Ok(());
    }
    let object = Object::new("snapshot_part")
        .field("name", args.name.as_str())
        .field("node", &peer.name)
        .field("id", &facts.id)
        .field("created", &facts.created)
        .field("layout", facts.layout)
        .field("keys", facts.keys)
        .field("bytes", facts.bytes);
    writeln!(out, "{}", object.finish())
}

/// Says what stands. Where parts are missing the exit says whether the same command may make them.
fn end(
    args: &CreateArgs,
    has_one: &[Peer],
    made: &[(Peer, SnapshotFacts)],
    failed: Vec<(Peer, Failure)>,
    common: &Common,
    out: &mut dyn Write,
) -> anyhow::Result<Exit> {
    let name = &args.name;
    let bytes: u64 = made.iter().map(|(_, facts)| facts.bytes).sum();
    if failed.is_empty() {
        if common.json {
            let object = Object::new("snapshot")
                .field("name", name.as_str())
                .field("complete", true)
                .field("parts_made", made.len())
                .field("bytes", bytes);
            writeln!(out, "{}", object.finish())?;
        } else if !common.quiet {
            let (parts, size) = (made.len() + has_one.len(), common.size(bytes));
            let text =
                format!("kvctl: snapshot {name} is complete: {parts} parts, {size} made now");
            writeln!(io::stderr().lock(), "{text}")?;
        }
        return Ok(Exit::Done);
    }
    let standing = has_one.iter().chain(made.iter().map(|(peer, _)| peer));
    let standing: Vec<String> = standing.map(|peer| peer.name.clone()).collect();
    let missing: Vec<String> = failed.iter().map(|(peer, _)| peer.name.clone()).collect();
    let is_passing = |exit| matches!(exit, Exit::TryAgain | Exit::Unavailable);
    let is_worth_a_try = failed.iter().all(|(_, failure)| is_passing(failure.exit()));
    for (peer, failure) in failed {
        tell(&anyhow::Error::new(failure.detail("node", &peer.name)).context(peer.name), common)?;
    }
    let has = if standing.is_empty() { "nobody has one".to_owned() } else { joined(&standing) };
    let message = format!("{name} is incomplete: no part of {}; there: {has}", joined(&missing));
    let exit = if is_worth_a_try { Exit::TryAgain } else { Exit::Partial };
    Err(Failure::new(exit, message)
        .code("incomplete")
        .detail("missing", &missing)
        .detail("standing", &standing)
        .note("the same command again makes the parts that are missing")
        .into())
}

#[cfg(test)]
mod tests {
    use super::super::parts::tests::holdings;
    use super::*;

    const LAYOUT: u64 = 3;

    fn names<'a>(peers: impl IntoIterator<Item = &'a Peer>) -> String {
        peers.into_iter().map(|peer| peer.name.as_str()).collect::<Vec<_>>().join(" ")
    }

    #[track_caller]
    fn check(held: &str, id: Option<u64>, to_make: &str, away: &str) {
        let plan = plan("x", LAYOUT, &holdings(held)).unwrap();
        assert_eq!(plan.id, id, "{held}");
        assert_eq!(names(&plan.to_make), to_make, "{held}");
        assert_eq!(names(plan.away.iter().map(|(peer, _)| peer)), away, "{held}");
    }

    #[track_caller]
    fn check_taken(held: &str, layout: u64, expected: &str) {
        let failure = plan("x", layout, &holdings(held)).unwrap_err();
        assert_eq!(failure.exit(), Exit::CannotCreate, "{held}");
        assert!(failure.to_string().contains(expected), "{held}: {failure}");
    }

    #[test]
    fn parts_that_are_missing_are_made_and_those_that_stand_are_kept() {
        check("n1=- n2=- n3=-", None, "n1 n2 n3", "");
        check("n1=7 n2=? n3=-", Some(7), "n2 n3", "");
        check("n1=7 n2=7 n3=x", Some(7), "", "n3");
        check("n1=- n2=x", None, "n1", "n2");
    }

    #[test]
    fn a_name_that_is_taken_is_refused() {
        check_taken("n1=7 n2=7", LAYOUT, "already");
        check_taken("n1=7 n2=8 n3=-", LAYOUT, "different snapshots");
        check_taken("n1=7 n2=-", LAYOUT + 1, "layout 3");
        check_taken("n1=! n2=-", LAYOUT, "n1 is damaged");
    }
}
