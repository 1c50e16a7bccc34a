//! `cluster show`: the members and how far a change is.

use std::io::Write;

use crate::cli::connect::Session;
use crate::cli::exit::Exit;
use crate::cli::json::Object;
use crate::cli::options::{Common, Format};
use crate::cli::table::{Side, Table};
use crate::cluster::staged::Staged;
use crate::node_id::NodeId;
use crate::ring::{Layout, Member, Mode, Weight};
use crate::wire::client::{Info, MemberHealth};

use super::super::moving::{HowFar, pace};
use super::super::status::Sight;
use super::staging::overview;
use super::waiting::is_done;

/// `cluster show`.
pub(super) async fn show(
    session: &Session,
    sight: &Sight,
    common: &Common,
    out: &mut dyn Write,
) -> anyhow::Result<Exit> {
    let layout = &sight.view.layout;
    let (waiting, staged) = overview(session, sight).await?;
    let mut members: Vec<&Member> = layout.members().collect();
    members.sort_by(|left, right| left.name.cmp(&right.name));
    if common.format() == Format::Json {
        return show_json(sight, &members, &waiting, &staged, out);
    }
    let mut table = Table::new(&[
        ("NODE", Side::Left),
        ("STATE", Side::Left),
        ("ZONE", Side::Left),
        ("WEIGHT", Side::Right),
        ("PART", Side::Left),
        ("COPIED", Side::Right),
        ("BYTES", Side::Right),
        ("RATE", Side::Right),
        ("ENDS IN", Side::Right),
        ("LEFT OVER", Side::Right),
    ]);
    for member in &members {
        let info = sight.infos.get(&member.id);
        let moving = info.map(|info| info.moving).unwrap_or_default();
        let copied = match moving.gains {
            0 => "-".to_owned(),
            gains => {
                format!("{} of {}", common.count(moving.gained.into()), common.count(gains.into()))
            }
        };
        let [rate, ends] = pace(&moving, common);
        let zone = if member.zone.is_empty() { "-".to_owned() } else { member.zone.clone() };
        table.row([
            member.name.clone(),
            state(sight, member.id).to_owned(),
            zone,
            member.weight.to_string(),
            part(layout, member.id).to_owned(),
            copied,
            if moving.bytes == 0 { "-".to_owned() } else { common.size(moving.bytes) },
            rate,
            ends,
            info.map_or_else(|| "-".to_owned(), |_| common.count(moving.left_over.into())),
        ]);
    }
    if common.format() == Format::Plain {
        table.write_plain(out)?;
        return Ok(Exit::Done);
    }
    let ring = &layout.now;
    writeln!(
        out,
        "cluster {}  layout v{}  {} partitions  N={} R={} W={}  {}",
        sight.view.cluster_name,
        layout.version,
        ring.q,
        ring.n,
        ring.r,
        ring.w,
        mode(ring.mode),
    )?;
    table.write(out)?;
    let how_far = HowFar::of(sight);
    match &how_far {
        HowFar::Copying(_) => {
            let (what, end) = if layout.recovers {
                ("a recovery runs", "strict requests wait until it is done")
            } else {
                ("a change runs", "give it up: kvctl cluster abort")
            };
            writeln!(out, "{what}: {}; {end}", how_far.words(common))?;
        }
        HowFar::Dropping(_) => writeln!(out, "{}", how_far.words(common))?,
        HowFar::Rest => {}
    }
    for change in &staged {
        writeln!(out, "staged: {}", told(change, layout))?;
    }
    for name in waiting {
        writeln!(out, "waits to join: {name}")?;
    }
    Ok(Exit::Done)
}

fn show_json(
    sight: &Sight,
    members: &[&Member],
    waiting: &[String],
    staged: &[Staged],
    out: &mut dyn Write,
) -> anyhow::Result<Exit> {
    let layout = &sight.view.layout;
    let of_member = |member: &&Member| {
        let info: Option<&Info> = sight.infos.get(&member.id);
        let moving = info.map(|info| info.moving).unwrap_or_default();
        Object::bare()
            .field("name", &member.name)
            .field("id", member.id.to_string())
            .field("state", state(sight, member.id))
            .field("zone", &member.zone)
            .field("weight", member.weight)
            .field("part", part(layout, member.id))
            .field("gains", moving.gains)
            .field("gained", moving.gained)
            .field("slots", moving.slots)
            .field("slots_gained", moving.slots_gained)
            .field("keys", moving.keys)
            .field("bytes", moving.bytes)
            .field("rate", moving.rate)
            .field("left", moving.left)
            .field("left_over", moving.left_over)
            .field("left_over_found", moving.left_over_found)
            .field("left_over_left", moving.left_over_left)
    };
    let object = Object::new("cluster")
        .field("layout", layout.version)
        .field("changing", layout.next.is_some())
        .field("generation", layout.generation)
        .field("recovering", layout.recovers)
        .field("change", sight.view.change)
        .field("done", is_done(sight, layout.version))
        .object("moving", HowFar::of(sight).object(Object::bare()))
        .list("members", members.iter().map(of_member))
        .field("staged", staged.iter().map(|change| told(change, layout)).collect::<Vec<_>>())
        .field("waiting", waiting);
    writeln!(out, "{}", object.finish())?;
    Ok(Exit::Done)
}

fn state(sight: &Sight, node: NodeId) -> &'static str {
    let view = sight.view.members.iter().find(|member| member.node == node);
    match view.map(|view| view.health) {
        Some(MemberHealth::Up) => "up",
        Some(MemberHealth::Suspected) => "suspected",
        Some(MemberHealth::Down) => "DOWN",
        Some(MemberHealth::Unknown) | None => "unknown",
    }
}

/// What a member has to do with the layout.
fn part(layout: &Layout, node: NodeId) -> &'static str {
    let weight = |member: &Member| member.weight;
    let now = layout.now.member(node).map(weight);
    let next = layout.next.as_ref().map(|ring| ring.member(node).map(weight));
    match (now, next) {
        (None, _) => "joining",
        (Some(_), Some(None)) => "going",
        (Some(weight), Some(Some(Weight::ZERO))) if weight > Weight::ZERO => "leaving",
        (Some(Weight::ZERO), None) => "leaving",
        (Some(_), _) => "member",
    }
}

const fn mode(mode: Mode) -> &'static str {
    match mode {
        Mode::Available => "available",
        Mode::Consistent => "consistent",
    }
}

/// A staged change for people.
pub(in super::super) fn told(change: &Staged, layout: &Layout) -> String {
    let name = |id: &NodeId| {
        layout.member(*id).map_or_else(|| id.to_string(), |member| member.name.clone())
    };
    match change {
        Staged::Join(member) => format!("{} joins with weight {}", member.name, member.weight),
        Staged::Leave(id) => format!("{} leaves", name(id)),
        Staged::Replace { dead, by } => format!("{} takes the place of {}", by.name, name(dead)),
        Staged::Remove(id) => format!("{} is removed", name(id)),
        Staged::Weight(id, weight) => format!("{} has weight {weight}", name(id)),
        Staged::Zone(id, zone) => format!("{} is in zone `{zone}`", name(id)),
        Staged::Quorum { n, r, w } => format!("N={n} R={r} W={w}"),
        Staged::Mode(wanted) => format!("mode {}", mode(*wanted)),
        Staged::Partitions(q) => format!("{q} partitions"),
    }
}
