//! `hints`: what nodes keep for others that could not be reached (hinted handoff).

use std::io::Write;

use clap::Subcommand;

use crate::cli::connect::Session;
use crate::cli::exit::Exit;
use crate::cli::json::Object;
use crate::cli::options::{Common, Format};
use crate::cli::table::{Side, Table};
use crate::node_id::NodeId;

use super::status::{Sight, by_name};

#[derive(Subcommand, Clone, Debug)]
pub(crate) enum HintsCommand {
    /// Show who keeps hints, for whom, and how many
    List,
}

/// `hints list`: a line a holder and target; nothing where no hint is kept.
pub(crate) async fn list(
    session: &Session,
    common: &Common,
    out: &mut dyn Write,
) -> anyhow::Result<Exit> {
    let sight = Sight::take(session).await?;
    let ring = &sight.view.layout.now;
    let name = |node: NodeId| {
        ring.member(node).map_or_else(|| node.to_string(), |member| member.name.clone())
    };
    let held: Vec<(String, NodeId, u64)> = by_name(ring)
        .into_iter()
        .filter_map(|(_, member)| Some((member.name.clone(), sight.infos.get(&member.id)?)))
        .flat_map(|(holder, info)| {
            let targets = info.hints_for.iter();
            targets.map(move |(target, hints)| (holder.clone(), *target, *hints))
        })
        .collect();
    if common.format() == Format::Json {
        for (holder, target, hints) in held {
            let object = Object::new("hints")
                .field("holder", holder)
                .field("target", name(target))
                .field("target_up", sight.is_up(target))
                .field("hints", hints);
            writeln!(out, "{}", object.finish())?;
        }
        return Ok(Exit::Done);
    }
    let mut table = Table::new(&[
        ("HOLDER", Side::Left),
        ("TARGET", Side::Left),
        ("STATE", Side::Left),
        ("HINTS", Side::Right),
    ]);
    for (holder, target, hints) in held {
        let state = if sight.is_up(target) { "up" } else { "not up" };
        table.row([holder, name(target), state.to_owned(), common.count(hints)]);
    }
    match common.format() {
        Format::Plain => table.write_plain(out)?,
        Format::Human | Format::Json => table.write(out)?,
    }
    Ok(Exit::Done)
}
