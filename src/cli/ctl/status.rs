//! `status`: every member, reachable or not, and what the cluster can still promise.

use std::collections::BTreeMap;
use std::io::{self, Write};
use std::time::Duration;

use futures_util::future::join_all;

use crate::cli::connect::Session;
use crate::cli::exit::Exit;
use crate::cli::failure::Failure;
use crate::cli::human;
use crate::cli::json::Object;
use crate::cli::options::{Common, Format};
use crate::cli::table::{Side, Table};
use crate::node_id::NodeId;
use crate::ring::{Balance, Member, Preferences, Ring};
use crate::wire::client::{Info, Load, MemberHealth, MemberView, ReplyBody, RequestBody, View};

use super::moving::HowFar;

/// What one look at the cluster shows.
pub(crate) struct Sight {
    /// The view of the node that was asked.
    pub(crate) view: View,
    /// The figures of each node that gave them.
    pub(crate) infos: BTreeMap<NodeId, Info>,
    /// The ring's walks.
    pub(crate) preferences: Preferences,
}

/// How many partitions lack replicas.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Availability {
    /// A replica is down.
    pub(crate) degraded: usize,
    /// Fewer replicas than R or W need are up.
    pub(crate) below_quorum: usize,
}

impl Sight {
    /// Asks one node for its view and every member for its figures.
    /// # Errors
    /// Exit 69 when no node is reachable.
    pub(crate) async fn take(session: &Session) -> Result<Self, Failure> {
        let ReplyBody::View(view) = session.call(None, RequestBody::View).await? else {
            return Err(Failure::new(Exit::Protocol, "status got another reply"));
        };
        let asked = view.members.iter().filter(|member| member.health != MemberHealth::Down);
        let infos = join_all(asked.map(|member| async move {
            match session.call(Some(member.node), RequestBody::Info).await {
                Ok(ReplyBody::Info(info)) => Some((member.node, *info)),
                Ok(_) | Err(_) => None,
            }
        }))
        .await;
        let preferences = Preferences::new(std::sync::Arc::new(view.layout.now.clone()));
        Ok(Self { view, infos: infos.into_iter().flatten().collect(), preferences })
    }

    /// Whether a member serves, as far as can be seen from here and there.
    pub(crate) fn is_up(&self, node: NodeId) -> bool {
        let up = |member: &MemberView| member.node == node && member.health == MemberHealth::Up;
        self.infos.contains_key(&node) && self.view.members.iter().any(up)
    }

    /// How many partitions lack replicas.
    pub(crate) fn availability(&self) -> Availability {
        let ring = self.preferences.ring();
        let needed = ring.effective_r().max(ring.effective_w());
        let mut availability = Availability::default();
        for walk in self.preferences.iter() {
            let up = walk.owners().filter(|owner| self.is_up(*owner)).count();
            availability.degraded += usize::from(up < walk.owners_count());
            availability.below_quorum += usize::from(up < needed);
        }
        availability
    }
}

/// `status`.
pub(crate) async fn status(
    session: &Session,
    common: &Common,
    out: &mut dyn Write,
) -> anyhow::Result<Exit> {
    let sight = Sight::take(session).await?;
    let balance = Balance::of(&sight.preferences);
    match common.format() {
        Format::Json => json(&sight, &balance, out)?,
        Format::Plain => table(&sight, &balance, common).write_plain(out)?,
        Format::Human => {
            writeln!(out, "{}", headline(&sight))?;
            table(&sight, &balance, common).write(out)?;
            writeln!(out, "{}", verdict(&sight, common))?;
            if let Some(words) = on_its_way(&sight, common) {
                writeln!(out, "{words}")?;
            }
            for alarm in &sight.view.alarms {
                writeln!(out, "{} {alarm}", common.palette().bad("alarm:"))?;
            }
        }
    }
    Ok(Exit::Done)
}

fn headline(sight: &Sight) -> String {
    let (view, ring) = (&sight.view, &sight.view.layout.now);
    let mut syncs: Vec<&str> = sight.infos.values().map(|info| info.sync.as_str()).collect();
    syncs.sort_unstable();
    syncs.dedup();
    format!(
        "cluster {} ({})  layout v{}  N={} R={} W={}  sync={}",
        view.cluster_name,
        view.cluster,
        view.layout.version,
        ring.effective_n(),
        ring.effective_r(),
        ring.effective_w(),
        if syncs.is_empty() { "?".to_owned() } else { syncs.join("|") },
    )
}

fn table(sight: &Sight, balance: &Balance, common: &Common) -> Table {
    let mut table = Table::new(&[
        ("NODE", Side::Left),
        ("STATE", Side::Left),
        ("ZONE", Side::Left),
        ("OWNS", Side::Right),
        ("KEYS", Side::Right),
        ("DATA", Side::Right),
        ("HINTS", Side::Right),
        ("DISK", Side::Right),
        ("P99 GET", Side::Right),
        ("OPS/S", Side::Right),
        ("CPU", Side::Right),
    ]);
    let ring = &sight.view.layout.now;
    for (index, member) in by_name(ring) {
        let info = sight.infos.get(&member.id);
        let cell = |shown: fn(&Info, &Common) -> String| {
            info.map_or_else(|| "-".to_owned(), |info| shown(info, common))
        };
        table.row([
            member.name.clone(),
            state(sight, member.id, common),
            if member.zone.is_empty() { "-".to_owned() } else { member.zone.clone() },
            percent(balance.firsts[index], ring.owner.len()),
            cell(|info, common| common.count(info.keys)),
            cell(|info, common| common.size(info.data)),
            cell(|info, common| common.count(info.hints)),
            cell(|info, _| used(info.disk)),
            cell(|info, common| {
                info.get_p99.map_or_else(|| "-".to_owned(), |micros| common.span(micros))
            }),
            cell(|info, common| operations(info.load, common)),
            cell(|info, _| cpu(info.load)),
        ]);
    }
    table
}

fn state(sight: &Sight, node: NodeId, common: &Common) -> String {
    let palette = common.palette();
    let Some(member) = sight.view.members.iter().find(|member| member.node == node) else {
        return palette.bad("UNKNOWN");
    };
    let since = human::duration(Duration::from_micros(member.since));
    match (member.health, sight.infos.contains_key(&node)) {
        (MemberHealth::Up, true) => palette.good("up"),
        (MemberHealth::Up, false) => palette.warn("UNREACHABLE"),
        (MemberHealth::Suspected, _) => palette.warn(&format!("SUSPECT {since}")),
        (MemberHealth::Down, _) => palette.bad(&format!("DOWN {since}")),
        (MemberHealth::Unknown, _) => palette.warn("UNKNOWN"),
    }
}

fn verdict(sight: &Sight, common: &Common) -> String {
    let q = sight.view.layout.now.q;
    let Availability { degraded, below_quorum } = sight.availability();
    let text =
        format!("{degraded} of {q} partitions have a replica down, {below_quorum} below quorum");
    match (degraded, below_quorum) {
        (0, _) => format!("all {q} partitions have all their replicas up"),
        (_, 0) => common.palette().warn(&text),
        (_, _) => common.palette().bad(&text),
    }
}

/// What a change of the layout still moves.
fn on_its_way(sight: &Sight, common: &Common) -> Option<String> {
    let how_far = HowFar::of(sight);
    let words = how_far.words(common);
    match how_far {
        HowFar::Copying(_) => Some(common.palette().warn(&format!("a change runs: {words}"))),
        HowFar::Dropping(dropping) => dropping.is_found().then_some(words),
        HowFar::Rest => None,
    }
}

fn json(sight: &Sight, balance: &Balance, out: &mut dyn Write) -> io::Result<()> {
    let (view, ring) = (&sight.view, &sight.view.layout.now);
    let availability = sight.availability();
    let nodes = by_name(ring).into_iter().map(|(index, member)| {
        let seen = view.members.iter().find(|seen| seen.node == member.id);
        let info = sight.infos.get(&member.id);
        Object::bare()
            .field("name", &member.name)
            .field("id", member.id.to_string())
            .field("zone", &member.zone)
            .field("health", seen.map_or(MemberHealth::Unknown, |seen| seen.health))
            .field("reachable", info.is_some())
            .maybe("since", seen.map(|seen| seen.since))
            .maybe("client", seen.map(|seen| &seen.client))
            .maybe("peer", seen.map(|seen| &seen.peer))
            .maybe("http", seen.map(|seen| &seen.http))
            .field("partitions", balance.firsts[index])
            .field("replicas", balance.replicas[index])
            .maybe("version", info.map(|info| &info.version))
            .maybe("uptime", info.map(|info| info.uptime))
            .maybe("epoch", info.map(|info| info.epoch))
            .maybe("sync", info.map(|info| &info.sync))
            .maybe("keys", info.map(|info| info.keys))
            .maybe("data", info.map(|info| info.data))
            .maybe("hints", info.map(|info| info.hints))
            .maybe("disk_free", info.map(|info| info.disk.0))
            .maybe("disk_total", info.map(|info| info.disk.1))
            .maybe("get_p99", info.and_then(|info| info.get_p99))
            .maybe("put_p99", info.and_then(|info| info.put_p99))
            .maybe("load", info.map(|info| info.load))
            .maybe("moving", info.map(|info| info.moving))
            .maybe("counters", info.map(|info| &info.counters))
    });
    let object = Object::new("status")
        .field("cluster", view.cluster.to_string())
        .field("cluster_name", &view.cluster_name)
        .field("layout", view.layout.version)
        .field("n", ring.effective_n())
        .field("r", ring.effective_r())
        .field("w", ring.effective_w())
        .field("mode", ring.mode)
        .field("partitions", ring.q)
        .field("partitions_degraded", availability.degraded)
        .field("partitions_below_quorum", availability.below_quorum)
        .field("changing", view.layout.next.is_some())
        .field("change", view.change)
        .object("moving", HowFar::of(sight).object(Object::bare()))
        .list("nodes", nodes)
        .field("alarms", &view.alarms);
    writeln!(out, "{}", object.finish())
}

/// The members as people count them (`n2` before `n10`), each with its index in the ring.
pub(crate) fn by_name(ring: &Ring) -> Vec<(usize, &Member)> {
    let mut members: Vec<(usize, &Member)> = ring.members.iter().enumerate().collect();
    members.sort_by_key(|(_, member)| (member.name.len(), &member.name));
    members
}

/// A share in percent with one digit, exact in integers.
pub(crate) fn percent(part: usize, whole: usize) -> String {
    let tenths = (part * 2_000 + whole) / (2 * whole.max(1));
    format!("{}.{}%", tenths / 10, tenths % 10)
}

/// Gets and puts a second that a node coordinates.
fn operations(load: Load, common: &Common) -> String {
    match (load.gets + load.puts).saturating_mul(1_000_000).checked_div(load.window) {
        Some(rate) => common.count(rate),
        None => "-".to_owned(),
    }
}

/// Processor time that a node uses; 100% is one processor.
fn cpu(load: Load) -> String {
    match load.cpu.saturating_mul(100).checked_div(load.window) {
        Some(percent) => format!("{percent}%"),
        None => "-".to_owned(),
    }
}

fn used((free, total): (u64, u64)) -> String {
    let used = u128::from(total.saturating_sub(free));
    if total == 0 { "-".to_owned() } else { format!("{}%", used * 100 / u128::from(total)) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_are_rounded_to_a_tenth() {
        assert_eq!(percent(342, 1024), "33.4%");
        assert_eq!(percent(1, 3), "33.3%");
        assert_eq!(percent(2, 3), "66.7%");
        assert_eq!(percent(0, 0), "0.0%");
        assert_eq!(percent(5, 5), "100.0%");
        assert_eq!(used((25, 100)), "75%");
        assert_eq!(used((0, 0)), "-");
    }
}
