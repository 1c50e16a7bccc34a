//! `snapshot list`, `verify`, `remove`.

use std::io::{self, Write};

use crate::cli::connect::Session;
use crate::cli::ctl::confirm::confirm;
use crate::cli::ctl::read::tell;
use crate::cli::exit::Exit;
use crate::cli::failure::Failure;
use crate::cli::json::Object;
use crate::cli::options::{Common, Format};
use crate::cli::progress::{Progress, ProgressForm};
use crate::cli::table::{Side, Table};
use crate::storage::snapshots::SnapshotName;
use crate::wire::client::{SnapshotFacts, SnapshotRequest};

use super::parts::{Held, Holding, Parts, Peer, flaws, holders};
use super::{RemoveArgs, VerifyArgs, joined, work};

/// `snapshot list`: a line a snapshot; nothing where there is none.
pub(super) async fn list(
    session: &Session,
    common: &Common,
    out: &mut dyn Write,
) -> anyhow::Result<Exit> {
    let parts = Parts::look(session).await?;
    let mut table = Table::new(&[
        ("NAME", Side::Left),
        ("CREATED", Side::Left),
        ("PARTS", Side::Right),
        ("KEYS", Side::Right),
        ("DATA", Side::Right),
        ("STATE", Side::Left),
    ]);
    for name in parts.names() {
        let held = parts.of(&name);
        if common.format() == Format::Json {
            writeln!(out, "{}", object(&name, &held).finish())?;
            continue;
        }
        let facts: Vec<&SnapshotFacts> = held.iter().filter_map(whole).collect();
        let flaws = flaws(&held);
        let state = if flaws.is_empty() {
            "complete".to_owned()
        } else {
            let told = flaws.iter().map(|(node, flaw)| format!("{node} {flaw}"));
            told.collect::<Vec<_>>().join(", ")
        };
        table.row([
            name,
            created(&facts).unwrap_or_else(|| "-".to_owned()),
            format!("{}/{}", facts.len(), held.len()),
            common.count(facts.iter().map(|facts| facts.keys).sum()),
            common.size(facts.iter().map(|facts| facts.bytes).sum()),
            state,
        ]);
    }
    match common.format() {
        Format::Json => {}
        Format::Plain => table.write_plain(out)?,
        Format::Human => table.write(out)?,
    }
    Ok(Exit::Done)
}

/// `snapshot verify`.
pub(super) async fn verify(
    args: &VerifyArgs,
    session: &Session,
    common: &Common,
    out: &mut dyn Write,
) -> anyhow::Result<Exit> {
    let name = &args.name;
    let held = Parts::look(session).await?.of(name.as_str());
    let peers = known(name, &held)?;
    let request = SnapshotRequest::Verify { name: name.to_string() };
    let mut progress = Progress::begin(args.progress, common, "parts verified", None);
    let outcomes = work::work(session, name, &peers, &request, &mut progress).await;
    progress.clear();
    let mut exits = Vec::new();
    let (mut sound, mut bytes) = (0_usize, 0);
    for (peer, outcome) in outcomes {
        match outcome {
            Ok(part) => {
                sound += 1;
                bytes += part.and_then(|part| part.state.ok()).map_or(0, |facts| facts.bytes);
                if common.json {
                    let object = Object::new("snapshot_verified")
                        .field("name", name.as_str())
                        .field("node", &peer.name);
                    writeln!(out, "{}", object.finish())?;
                }
            }
            Err(failure) => exits.push(complain(&peer, failure, common)?),
        }
    }
    for Holding { peer, part } in &held {
        let failure = match part {
            Held::Nothing => Failure::new(Exit::No, "it has no part"),
            Held::Unknown(why) => Failure::new(Exit::TryAgain, why),
            Held::Whole(_) | Held::Flawed(_) => continue,
        };
        exits.push(complain(peer, failure, common)?);
    }
    if exits.is_empty() && !flaws(&held).is_empty() {
        let flaws = flaws(&held).into_keys().collect::<Vec<_>>();
        let message = format!("the parts of {} are of another snapshot", joined(&flaws));
        return Err(Failure::new(Exit::No, message).into());
    }
    if !common.json && !common.quiet {
        let size = common.size(bytes);
        writeln!(
            io::stderr().lock(),
            "kvctl: {name}: {sound} parts are as they were, {size} read"
        )?;
    }
    Ok(worst(&exits))
}

/// `snapshot remove`.
pub(super) async fn remove(
    args: &RemoveArgs,
    session: &Session,
    common: &Common,
    out: &mut dyn Write,
) -> anyhow::Result<Exit> {
    let name = &args.name;
    let held = Parts::look(session).await?.of(name.as_str());
    let peers = known(name, &held)?;
    if !args.dry_run {
        let names: Vec<String> = peers.iter().map(|peer| peer.name.clone()).collect();
        confirm(&format!("remove snapshot {name} from {}", joined(&names)), args.yes)?;
    }
    let mut exits = Vec::new();
    let mut removed = Vec::new();
    if args.dry_run {
        removed.extend(peers);
    } else {
        let request = SnapshotRequest::Remove { name: name.to_string() };
        let mut progress = Progress::begin(ProgressForm::None, common, "parts removed", None);
        for (peer, outcome) in work::work(session, name, &peers, &request, &mut progress).await {
            match outcome {
                Ok(_) => removed.push(peer),
                Err(failure) => exits.push(complain(&peer, failure, common)?),
            }
        }
    }
    for peer in removed {
        match common.format() {
            Format::Json => {
                let object = Object::new("snapshot_removed")
                    .field("name", name.as_str())
                    .field("node", peer.name)
                    .field("dry_run", args.dry_run);
                writeln!(out, "{}", object.finish())?;
            }
            Format::Human | Format::Plain if args.dry_run => writeln!(out, "{}", peer.name)?,
            Format::Human | Format::Plain => {}
        }
    }
    for Holding { peer, part } in &held {
        if let Held::Unknown(why) = part {
            exits.push(complain(peer, Failure::new(Exit::TryAgain, why), common)?);
        }
    }
    Ok(worst(&exits))
}

const fn whole(holding: &Holding) -> Option<&SnapshotFacts> {
    match &holding.part {
        Held::Whole(facts) => Some(facts),
        Held::Flawed(_) | Held::Nothing | Held::Unknown(_) => None,
    }
}

/// When the first part was begun.
fn created(facts: &[&SnapshotFacts]) -> Option<String> {
    facts.iter().map(|facts| facts.created.clone()).min()
}

fn object(name: &str, held: &[Holding]) -> Object {
    let facts: Vec<&SnapshotFacts> = held.iter().filter_map(whole).collect();
    let nodes = held.iter().map(|holding| {
        let object = Object::bare().field("node", &holding.peer.name);
        match &holding.part {
            Held::Whole(facts) => object
                .field("state", "whole")
                .field("id", &facts.id)
                .field("created", &facts.created)
                .field("layout", facts.layout)
                .field("keys", facts.keys)
                .field("bytes", facts.bytes),
            Held::Flawed(crate::wire::client::SnapshotFlaw::Incomplete) => {
                object.field("state", "incomplete")
            }
            Held::Flawed(crate::wire::client::SnapshotFlaw::Damaged(why)) => {
                object.field("state", "damaged").field("why", why)
            }
            Held::Nothing => object.field("state", "none"),
            Held::Unknown(why) => object.field("state", "unknown").field("why", why),
        }
    });
    Object::new("snapshot")
        .field("name", name)
        .maybe("created", created(&facts))
        .field("complete", flaws(held).is_empty())
        .field("keys", facts.iter().map(|facts| facts.keys).sum::<u64>())
        .field("bytes", facts.iter().map(|facts| facts.bytes).sum::<u64>())
        .list("nodes", nodes)
}

/// Who has a part of it.
fn known(name: &SnapshotName, held: &[Holding]) -> Result<Vec<Peer>, Failure> {
    let peers = holders(held);
    if peers.is_empty() {
        return Err(Failure::new(Exit::NoInput, format!("no member has a snapshot `{name}`")));
    }
    Ok(peers)
}

fn complain(peer: &Peer, failure: Failure, common: &Common) -> io::Result<Exit> {
    let exit = failure.exit();
    let failure = failure.detail("node", &peer.name);
    tell(&anyhow::Error::new(failure).context(peer.name.clone()), common)?;
    Ok(exit)
}

/// What the command comes to: damage before what passes, that before a plain no.
fn worst(exits: &[Exit]) -> Exit {
    let rank = |exit: &&Exit| match exit {
        Exit::BadData => 3,
        Exit::TryAgain | Exit::Unavailable => 2,
        Exit::No => 0,
        _ => 1,
    };
    match exits.iter().max_by_key(rank) {
        None => Exit::Done,
        Some(Exit::Unavailable) => Exit::TryAgain,
        Some(exit) => *exit,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(exits: &[Exit], expected: Exit) {
        assert_eq!(worst(exits), expected, "{exits:?}");
    }

    #[test]
    fn damage_counts_before_what_passes_and_that_before_a_no() {
        check(&[], Exit::Done);
        check(&[Exit::No, Exit::TryAgain, Exit::BadData, Exit::Io], Exit::BadData);
        check(&[Exit::No, Exit::Unavailable, Exit::Io], Exit::TryAgain);
        check(&[Exit::No, Exit::Io], Exit::Io);
        check(&[Exit::No, Exit::No], Exit::No);
    }
}
