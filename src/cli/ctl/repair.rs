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
use crate::ring::Member;
use crate::wire::client::{MemberHealth, RepairPair, RepairReply, ReplyBody, RequestBody};

use super::status::{Sight, by_name};

#[derive(Subcommand, Clone, Debug)]
pub(crate) enum RepairCommand {
    /// Have nodes compare with every other replica now and settle what differs
    Start(StartArgs),
    /// Show how far each node's comparisons are
    Status,
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
    let mut rows = Vec::new();
    for (member, reply) in replies {
        match reply {
            Ok(ReplyBody::Repair(RepairReply { pairs })) => {
                rows.extend(pairs.into_iter().map(|pair| (member.name.clone(), pair)));
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
    Ok(Exit::Done)
}
