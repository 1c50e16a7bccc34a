//! `diff`: what two layouts say differently.

use std::ffi::OsString;
use std::io::Write;

use clap::Args;

use crate::cli::exit::Exit;
use crate::cli::failure::Failure;
use crate::cli::json::Object;
use crate::cli::options::{Common, Format};
use crate::ring::{Difference, Member, Movement};

use super::moves::{self, Move, SlotBytes};
use super::source::{self, Known};

#[derive(Args, Clone, Debug)]
pub(super) struct DiffArgs {
    /// The layout to compare with, as `kvring export` or `kvring plan --out` wrote it (`-` is stdin)
    #[arg(value_name = "A")]
    before: OsString,
    /// The layout that is compared; without it the one of --layout, or the cluster's
    #[arg(value_name = "B")]
    after: Option<OsString>,
}

/// Both layouts, and what differs.
struct Compared {
    before: Known,
    after: Known,
    difference: Difference,
    movement: Movement,
    moves: Vec<Move>,
}

impl DiffArgs {
    /// Both layouts: the second one from a file, or as `known` finds it.
    /// # Errors
    /// Exit 2 where both are stdin; those of the sources.
    pub(super) fn load(
        &self,
        layout: Option<&OsString>,
        known: impl FnOnce() -> anyhow::Result<Known>,
    ) -> anyhow::Result<(Known, Known)> {
        let is_stdin = |file: &OsString| file == "-";
        if is_stdin(&self.before) && self.after.as_ref().or(layout).is_some_and(is_stdin) {
            return Err(Failure::usage("only one of the two layouts can be stdin").into());
        }
        let before = source::read(&self.before)?;
        let after = self.after.as_ref().map_or_else(known, |file| source::read(file))?;
        Ok((before, after))
    }
}

/// `diff`: exit 1 when the layouts differ in more than their versions.
pub(super) fn diff(
    (before, after): (Known, Known),
    common: &Common,
    out: &mut dyn Write,
) -> anyhow::Result<Exit> {
    let difference = Difference::between(&before.layout, &after.layout);
    let movement = Movement::between(&before.preferences, &after.preferences);
    let rings = (&before.layout.now, &after.layout.now);
    let moves = moves::moves(&movement, rings, &SlotBytes::default());
    let is_same = difference.is_empty() && before.cluster == after.cluster;
    let compared = Compared { before, after, difference, movement, moves };
    match common.format() {
        Format::Json => writeln!(out, "{}", compared.object(is_same).finish())?,
        Format::Plain => compared.write_plain(out)?,
        Format::Human => compared.write(is_same, common, out)?,
    }
    Ok(if is_same { Exit::Done } else { Exit::No })
}

/// What can change of a member, as text: name, zone, weight.
fn facets(member: &Member) -> [(&'static str, String); 3] {
    [
        ("name", member.name.clone()),
        ("zone", member.zone.clone()),
        ("weight", member.weight.to_string()),
    ]
}

impl Compared {
    /// Each thing that changed of a member: its name, what, before, after.
    fn changes(&self) -> Vec<(&str, &'static str, String, String)> {
        let of_member = |(old, new): &'_ (Member, Member)| {
            let pairs = facets(old).into_iter().zip(facets(new));
            let changed = pairs.filter(|((_, old), (_, new))| old != new);
            changed.map(|((what, old), (_, new))| (what, old, new)).collect::<Vec<_>>()
        };
        let changed = &self.difference.changed;
        let all = changed.iter().flat_map(|pair| {
            let name = pair.1.name.as_str();
            of_member(pair).into_iter().map(move |(what, old, new)| (name, what, old, new))
        });
        all.collect()
    }

    /// What changed besides members: what, before, after.
    fn settings(&self) -> Vec<(&'static str, String, String)> {
        let clusters = [&self.before, &self.after].map(|known| known.cluster.to_string());
        let [before, after] = clusters;
        let cluster = (before != after).then_some(("cluster", before, after));
        let settings = self.difference.settings.iter();
        let settings = settings.map(|set| (set.what, set.before.clone(), set.after.clone()));
        cluster.into_iter().chain(settings).collect()
    }

    fn write(&self, is_same: bool, common: &Common, out: &mut dyn Write) -> anyhow::Result<()> {
        let [old, new] = [&self.before, &self.after].map(|known| known.layout.version);
        if is_same {
            writeln!(out, "layouts v{old} and v{new} say the same")?;
            return Ok(());
        }
        writeln!(out, "layout v{old} -> v{new}")?;
        let palette = common.palette();
        for (sign, members) in [("-", &self.difference.removed), ("+", &self.difference.added)] {
            for member in members {
                let zone = if member.zone.is_empty() { "-" } else { &member.zone };
                let line = format!("{sign} {}  zone {zone}  weight {}", member.name, member.weight);
                let shown = if sign == "+" { palette.good(&line) } else { palette.bad(&line) };
                writeln!(out, "{shown}")?;
            }
        }
        for (name, what, before, after) in self.changes() {
            writeln!(out, "~ {name}  {what} {} -> {}", dash(&before), dash(&after))?;
        }
        for (what, before, after) in self.settings() {
            writeln!(out, "~ {what} {before} -> {after}")?;
        }
        let Difference { owners_changed, partitions, .. } = self.difference;
        writeln!(out, "{owners_changed} of {partitions} partitions change owner")?;
        let Movement { replicas, .. } = self.movement;
        let moved = self.movement.moved();
        let share = moves::share(moved, replicas);
        writeln!(out, "{moved} of {replicas} slot replicas move ({share} of all replica data)")?;
        if !self.moves.is_empty() {
            moves::table(&self.moves, replicas, common).write(out)?;
        }
        Ok(())
    }

    /// A line for each difference; the first field says of what kind.
    fn write_plain(&self, out: &mut dyn Write) -> anyhow::Result<()> {
        let Difference { added, removed, owners_changed, partitions, .. } = &self.difference;
        for (kind, members) in [("removed", removed), ("added", added)] {
            for member in members {
                writeln!(out, "{kind}\t{}\t{}\t{}", member.name, member.zone, member.weight)?;
            }
        }
        for (name, what, before, after) in self.changes() {
            writeln!(out, "changed\t{name}\t{what}\t{before}\t{after}")?;
        }
        for (what, before, after) in self.settings() {
            writeln!(out, "setting\t{what}\t{before}\t{after}")?;
        }
        if *owners_changed > 0 {
            writeln!(out, "owners\t{owners_changed}\t{partitions}")?;
        }
        for moved in &self.moves {
            writeln!(out, "moved\t{}\t{}\t{}", moved.giver(), moved.receiver(), moved.slots())?;
        }
        Ok(())
    }

    fn object(&self, is_same: bool) -> Object {
        let members = |members: &[Member]| {
            let object = |member: &Member| {
                Object::bare()
                    .field("name", &member.name)
                    .field("id", member.id.to_string())
                    .field("zone", &member.zone)
                    .field("weight", member.weight)
            };
            members.iter().map(object).collect::<Vec<_>>()
        };
        let Difference { added, removed, owners_changed, partitions, .. } = &self.difference;
        let changed = |(what, before, after): (&str, String, String)| {
            Object::bare().field("what", what).field("before", before).field("after", after)
        };
        Object::new("diff")
            .field("equal", is_same)
            .field("layouts", [self.before.layout.version, self.after.layout.version])
            .list("removed", members(removed))
            .list("added", members(added))
            .list(
                "changed",
                self.changes().into_iter().map(|(name, what, before, after)| {
                    changed((what, before, after)).field("name", name)
                }),
            )
            .list("settings", self.settings().into_iter().map(changed))
            .field("owners_changed", owners_changed)
            .field("partitions", partitions)
            .field("slots_moved", self.movement.moved())
            .field("slots_all", self.movement.replicas)
            .list("moves", moves::objects(&self.moves))
    }
}

fn dash(text: &str) -> &str {
    if text.is_empty() { "-" } else { text }
}
