//! `repair`: anti-entropy, begun by hand and looked at.

use std::io::Write;

use clap::{Args, Subcommand};
use futures_util::future::join_all;

use crate::cli::connect::Session;
use crate::cli::exit::Exit;
use crate::cli::failure::Failure;
use crate::cli::human;
use crate::cli::json::Object;
use crate::cli::options::{Common, Format};
use crate::cli::table::{Side, Table};
use crate::ring::{Member, Slot};
use crate::wire::client::{MemberHealth, RepairPair, RepairReply, ReplyBody, RequestBody};

use super::status::{Sight, by_name};

#[derive(Subcommand, Clone, Debug)]
pub(crate) enum RepairCommand {
    /// Have nodes compare with every other replica now and settle what differs
    Start(StartArgs),
    /// Show how far each node's comparisons are
    Status,
    /// Give up what a node lost and no replica can give back: its slots answer again
    AcceptLoss(AcceptLossArgs),
}

#[derive(Args, Clone, Debug)]
pub(crate) struct StartArgs {
    /// Which nodes shall compare; all that are up where none is named
    #[arg(value_name = "NAME")]
    nodes: Vec<String>,
    /// Only say which nodes would
    #[arg(short = 'n', long)]
    dry_run: bool,
}

#[derive(Args, Clone, Debug)]
pub(crate) struct AcceptLossArgs {
    /// The node that lost data
    #[arg(value_name = "NAME")]
    node: String,
    /// Its slots: `all`, `7` or `0-63`
    #[arg(value_name = "SLOTS", value_parser = parse_slots)]
    slots: (Slot, Slot),
    /// Yes, what no other replica holds is lost
    #[arg(short, long)]
    yes: bool,
    /// Only print how many slots wait there
    #[arg(short = 'n', long)]
    dry_run: bool,
}

/// `repair start`: returns at once; `kvctl repair status` and `kvctl wait converged` tell the rest.
pub(crate) async fn start(
    args: &StartArgs,
    session: &Session,
    common: &Common,
    out: &mut dyn Write,
) -> anyhow::Result<Exit> {
    let sight = Sight::take(session).await?;
    let ring = &sight.view.layout.now;
    if let Some(unknown) = args.nodes.iter().find(|name| ring.named(name).is_none()) {
        return Err(Failure::usage(format!("no member is named `{unknown}`")).into());
    }
    let is_meant = |member: &Member| args.nodes.is_empty() || args.nodes.contains(&member.name);
    let meant: Vec<&Member> = by_name(ring)
        .into_iter()
        .map(|(_, member)| member)
        .filter(|member| is_meant(member))
        .collect();
    let mut exit = Exit::Done;
    for member in meant {
        if !args.nodes.is_empty() || sight.is_up(member.id) {
            if !args.dry_run
                && let Err(failure) = session.call(Some(member.id), RequestBody::RepairStart).await
            {
                writeln!(std::io::stderr().lock(), "kvctl: {}: {failure}", member.name)?;
                exit = Exit::TryAgain;
                continue;
            }
            if common.format() == Format::Json {
                let object = Object::new("repair_started")
                    .field("node", member.name.as_str())
                    .field("dry_run", args.dry_run);
                writeln!(out, "{}", object.finish())?;
            } else if args.dry_run {
                writeln!(out, "{}", member.name)?;
            }
        }
    }
    Ok(exit)
}

/// `repair status`: a line a node and other replica.
pub(crate) async fn status(
    session: &Session,
    common: &Common,
    out: &mut dyn Write,
) -> anyhow::Result<Exit> {
    let sight = Sight::take(session).await?;
    let ring = &sight.view.layout.now;
    let is_down = |member: &Member| {
        let of = |view: &&crate::wire::client::MemberView| view.node == member.id;
        sight.view.members.iter().find(of).is_some_and(|view| view.health == MemberHealth::Down)
    };
    let asked: Vec<&Member> = by_name(ring)
        .into_iter()
        .map(|(_, member)| member)
        .filter(|member| !is_down(member))
        .collect();
    let replies = join_all(asked.into_iter().map(|member| async move {
        (member, session.call(Some(member.id), RequestBody::RepairStatus).await)
    }))
    .await;
    let (mut rows, mut refilling) = (Vec::new(), Vec::new());
    for (member, reply) in replies {
        match reply {
            Ok(ReplyBody::Repair(RepairReply { pairs, unsound })) => {
                rows.extend(pairs.into_iter().map(|pair| (member.name.clone(), pair)));
                refilling.extend((unsound > 0).then_some((member.name.clone(), unsound)));
            }
            Ok(_) => return Err(Failure::new(Exit::Protocol, "repair got another reply").into()),
            Err(failure) => {
                writeln!(std::io::stderr().lock(), "kvctl: {}: {failure}", member.name)?;
            }
        }
    }
    let name = |pair: &RepairPair| {
        ring.member(pair.peer).map_or_else(|| pair.peer.to_string(), |member| member.name.clone())
    };
    if common.format() == Format::Json {
        for (node, pair) in rows {
            let object = Object::new("repair")
                .field("node", node)
                .field("peer", name(&pair))
                .field("slots_shared", pair.shared)
                .field("slots_left", pair.left)
                .field("running", pair.is_running)
                .field("equal_us_ago", pair.equal);
            writeln!(out, "{}", object.finish())?;
        }
        for (node, unsound) in refilling {
            let object = Object::new("refill").field("node", node).field("slots_left", unsound);
            writeln!(out, "{}", object.finish())?;
        }
        return Ok(Exit::Done);
    }
    let mut table = Table::new(&[
        ("NODE", Side::Left),
        ("WITH", Side::Left),
        ("SLOTS", Side::Right),
        ("LEFT", Side::Right),
        ("STATE", Side::Left),
    ]);
    for (node, pair) in rows {
        let state = match (pair.is_running, pair.equal) {
            (true, _) => "comparing".to_owned(),
            (false, Some(micros)) => {
                format!("equal {} ago", human::duration(std::time::Duration::from_micros(micros)))
            }
            // Of a pair one side compares, unless told to.
            (false, None) => "-".to_owned(),
        };
        let shared = u64::from(pair.shared);
        table.row([node, name(&pair), common.count(shared), common.count(pair.left), state]);
    }
    match common.format() {
        Format::Plain => table.write_plain(out)?,
        Format::Human | Format::Json => table.write(out)?,
    }
    for (node, unsound) in refilling {
        let slots = common.count(unsound.into());
        writeln!(
            std::io::stderr().lock(),
            "kvctl: {node} lost data and is getting it back: {slots} slots left"
        )?;
    }
    Ok(Exit::Done)
}

/// `repair accept-loss`.
pub(crate) async fn accept_loss(
    args: &AcceptLossArgs,
    session: &Session,
    common: &Common,
    out: &mut dyn Write,
) -> anyhow::Result<Exit> {
    let sight = Sight::take(session).await?;
    let Some(member) = sight.view.layout.now.named(&args.node) else {
        return Err(Failure::usage(format!("no member is named `{}`", args.node)).into());
    };
    if !args.yes && !args.dry_run {
        let why = "what no other replica holds of these slots is lost for good: say --yes";
        return Err(Failure::usage(why).into());
    }
    let (first, last) = args.slots;
    let body = if args.dry_run {
        RequestBody::RepairStatus
    } else {
        RequestBody::AcceptLoss { first, last }
    };
    let ReplyBody::Repair(RepairReply { unsound, .. }) =
        session.call(Some(member.id), body).await?
    else {
        return Err(Failure::new(Exit::Protocol, "repair got another reply").into());
    };
    if common.format() == Format::Json {
        let object =
            Object::new("refill").field("node", args.node.as_str()).field("slots_left", unsound);
        writeln!(out, "{}", object.finish())?;
    } else if args.dry_run {
        writeln!(out, "{unsound}")?;
    }
    Ok(Exit::Done)
}

/// `all`, `7` or `0-63`.
fn parse_slots(text: &str) -> Result<(Slot, Slot), String> {
    let slot =
        |text: &str| text.parse().map(Slot).map_err(|_| format!("`{text}` is no slot: 0 to 65535"));
    let (first, last) = match text.split_once('-') {
        _ if text == "all" => (Slot(0), Slot(u16::MAX)),
        Some((first, last)) => (slot(first)?, slot(last)?),
        None => (slot(text)?, slot(text)?),
    };
    if first <= last {
        Ok((first, last))
    } else {
        Err(format!("{text}: the first slot is the larger"))
    }
}
