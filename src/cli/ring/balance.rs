//! `show`, `balance` and `check`: how a ring is, and whether that is good.

use std::collections::BTreeSet;
use std::io::Write;

use clap::Args;

use crate::cli::ctl::{by_name, percent};
use crate::cli::exit::Exit;
use crate::cli::json::Object;
use crate::cli::options::{Common, Format};
use crate::cli::table::{Side, Table};
use crate::ring::{Balance, Mode, Partition, Ring};

use super::source::Known;

/// What can be wrong with a partition's replicas.
const SHARED_NODE: &str = "fewer distinct nodes than replicas";
const SHARED_ZONE: &str = "two replicas in one zone";
/// How many bad partitions are listed.
const LISTED_MAX: usize = 10;

#[derive(Args, Clone, Debug)]
pub(super) struct BalanceArgs {
    /// How far above its fair share of replicas a member may be
    #[arg(long, value_name = "PERCENT", default_value = "5%", value_parser = parse_percent)]
    max_skew: f64,
}

/// `show`.
pub(super) fn show(known: &Known, common: &Common, out: &mut dyn Write) -> anyhow::Result<Exit> {
    let ring = &known.layout.now;
    let balance = Balance::of(&known.preferences);
    match common.format() {
        Format::Json => {
            writeln!(out, "{}", ring_object(known).finish())?;
            for (index, _) in by_name(ring) {
                writeln!(out, "{}", member_object(ring, &balance, index).finish())?;
            }
        }
        Format::Plain => member_table(ring, &balance).write_plain(out)?,
        Format::Human => {
            writeln!(out, "{}", headline(known))?;
            member_table(ring, &balance).write(out)?;
            if known.layout.next.is_some() {
                writeln!(out, "a change is in progress")?;
            }
        }
    }
    Ok(Exit::Done)
}

/// `balance`: exit 1 when a member holds too much.
pub(super) fn balance(
    args: &BalanceArgs,
    known: &Known,
    common: &Common,
    out: &mut dyn Write,
) -> anyhow::Result<Exit> {
    let ring = &known.layout.now;
    let balance = Balance::of(&known.preferences);
    let skew = balance.replica_skew() - 1.0;
    let even = skew <= args.max_skew;
    match common.format() {
        Format::Json => {
            let object = Object::new("balance")
                .field("skew", skew)
                .field("first_skew", balance.first_skew() - 1.0)
                .field("skew_max", args.max_skew)
                .field("even", even)
                .list(
                    "members",
                    by_name(ring)
                        .into_iter()
                        .map(|(index, _)| member_fields(Object::bare(), ring, &balance, index)),
                );
            writeln!(out, "{}", object.finish())?;
        }
        Format::Plain => balance_table(ring, &balance).write_plain(out)?,
        Format::Human => {
            balance_table(ring, &balance).write(out)?;
            let shown = |skew: f64| format!("{:.1}%", skew * 100.0);
            let verdict = format!(
                "at most {} above the fair share (allowed {}); first replicas {}",
                shown(skew),
                shown(args.max_skew),
                shown(balance.first_skew() - 1.0),
            );
            let palette = common.palette();
            writeln!(out, "{}", if even { palette.good(&verdict) } else { palette.bad(&verdict) })?;
        }
    }
    Ok(if even { Exit::Done } else { Exit::No })
}

/// `check`: exit 1 when replicas of a partition share a node or, needlessly, a zone.
pub(super) fn check(known: &Known, common: &Common, out: &mut dyn Write) -> anyhow::Result<Exit> {
    let faults = faults(known);
    let ring = &known.layout.now;
    if common.json {
        let object = Object::new("check").field("good", faults.is_empty()).list(
            "faults",
            faults.iter().map(|fault| {
                Object::bare().field("partition", fault.partition.0).field("what", fault.what)
            }),
        );
        writeln!(out, "{}", object.finish())?;
    } else if common.plain {
        for fault in &faults {
            writeln!(out, "{}\t{}", fault.partition.0, fault.what)?;
        }
    } else if faults.is_empty() {
        let n = ring.effective_n();
        writeln!(out, "{} partitions: {n} replicas each, on distinct nodes and zones", ring.q)?;
        if n < usize::from(ring.n) {
            writeln!(out, "warning: {n} members, so {n} replicas instead of {}", ring.n)?;
        }
    } else {
        for fault in faults.iter().take(LISTED_MAX) {
            writeln!(out, "partition {}: {}", fault.partition.0, fault.what)?;
        }
        writeln!(out, "{} faults in {} partitions", faults.len(), ring.q)?;
    }
    Ok(if faults.is_empty() { Exit::Done } else { Exit::No })
}

/// Something wrong with a partition's replicas.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Fault {
    partition: Partition,
    what: &'static str,
}

fn faults(known: &Known) -> Vec<Fault> {
    let ring = &known.layout.now;
    let n = ring.effective_n();
    let zone_of = |index: u16| ring.members[usize::from(index)].zone.as_str();
    let active = ring.members.iter().filter(|member| member.weight.thousandths() > 0);
    let zones: BTreeSet<&str> =
        active.map(|member| member.zone.as_str()).filter(|zone| !zone.is_empty()).collect();
    let zones_wanted = zones.len().min(n);
    let mut faults = Vec::new();
    for (partition, walk) in (0..).map(Partition).zip(known.preferences.iter()) {
        let owners = &walk.indexes()[..n.min(walk.indexes().len())];
        if owners.iter().collect::<BTreeSet<_>>().len() < n {
            faults.push(Fault { partition, what: SHARED_NODE });
        }
        let held: BTreeSet<&str> =
            owners.iter().map(|index| zone_of(*index)).filter(|zone| !zone.is_empty()).collect();
        if held.len() < zones_wanted {
            faults.push(Fault { partition, what: SHARED_ZONE });
        }
    }
    faults
}

fn headline(known: &Known) -> String {
    let ring = &known.layout.now;
    let mode = match ring.mode {
        Mode::Available => "available",
        Mode::Consistent => "consistent",
    };
    format!(
        "cluster {} ({})  layout v{}  {} partitions  N={} R={} W={}  {mode}",
        known.cluster_name,
        known.cluster,
        known.layout.version,
        ring.q,
        ring.effective_n(),
        ring.effective_r(),
        ring.effective_w(),
    )
}

fn ring_object(known: &Known) -> Object {
    let ring = &known.layout.now;
    Object::new("ring")
        .field("cluster", known.cluster.to_string())
        .field("cluster_name", &known.cluster_name)
        .field("generation", known.layout.generation)
        .field("layout", known.layout.version)
        .field("partitions", ring.q)
        .field("n", ring.effective_n())
        .field("r", ring.effective_r())
        .field("w", ring.effective_w())
        .field("mode", ring.mode)
        .field("changing", known.layout.next.is_some())
}

fn member_object(ring: &Ring, balance: &Balance, index: usize) -> Object {
    member_fields(Object::new("member"), ring, balance, index)
}

fn member_fields(object: Object, ring: &Ring, balance: &Balance, index: usize) -> Object {
    let member = &ring.members[index];
    object
        .field("name", &member.name)
        .field("id", member.id.to_string())
        .field("zone", &member.zone)
        .field("weight", f64::from(member.weight.thousandths()) / 1_000.0)
        .field("partitions", balance.firsts[index])
        .field("replicas", balance.replicas[index])
        .field("replicas_fair", balance.fair[index])
}

fn member_table(ring: &Ring, balance: &Balance) -> Table {
    let mut table = Table::new(&[
        ("NODE", Side::Left),
        ("ZONE", Side::Left),
        ("WEIGHT", Side::Right),
        ("PARTITIONS", Side::Right),
        ("OWNS", Side::Right),
        ("REPLICAS", Side::Right),
        ("ID", Side::Left),
    ]);
    for (index, member) in by_name(ring) {
        table.row([
            member.name.clone(),
            if member.zone.is_empty() { "-".to_owned() } else { member.zone.clone() },
            member.weight.to_string(),
            balance.firsts[index].to_string(),
            percent(balance.firsts[index], ring.owner.len()),
            balance.replicas[index].to_string(),
            member.id.to_string(),
        ]);
    }
    table
}

fn balance_table(ring: &Ring, balance: &Balance) -> Table {
    let mut table = Table::new(&[
        ("NODE", Side::Left),
        ("REPLICAS", Side::Right),
        ("FAIR", Side::Right),
        ("OFF", Side::Right),
        ("FIRST", Side::Right),
    ]);
    for (index, member) in by_name(ring) {
        let (held, fair) = (balance.replicas[index], balance.fair[index]);
        #[expect(clippy::cast_precision_loss, reason = "replicas are at most 65,536 times 255")]
        let off = if fair > 0.0 { held as f64 / fair - 1.0 } else { 0.0 };
        table.row([
            member.name.clone(),
            held.to_string(),
            format!("{fair:.1}"),
            format!("{:+.1}%", off * 100.0),
            balance.firsts[index].to_string(),
        ]);
    }
    table
}

/// Parses `5%` or `0.05`.
fn parse_percent(text: &str) -> Result<f64, String> {
    let (number, unit) = text.strip_suffix('%').map_or((text, 1.0), |number| (number, 100.0));
    number
        .parse::<f64>()
        .ok()
        .map(|number| number / unit)
        .filter(|share| share.is_finite() && *share >= 0.0)
        .ok_or_else(|| format!("`{text}` is no share (examples: 5%, 0.05)"))
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use crate::ring::{Layout, Preferences};

    use super::super::sample;
    use super::*;

    #[test]
    fn shares_are_read() {
        assert_eq!(parse_percent("5%"), Ok(0.05));
        assert_eq!(parse_percent("0.05"), Ok(0.05));
        for text in ["", "-1%", "%", "NaN", "five"] {
            assert!(parse_percent(text).is_err(), "{text}");
        }
    }

    #[test]
    fn replicas_that_share_a_zone_are_found() {
        let mut known = sample::known(6, 32);
        assert_eq!(faults(&known), []);
        let mut ring = known.layout.now.clone();
        for (member, zone) in ring.members.iter_mut().zip(["a", "a", "b", "b", "c", "c"]) {
            member.zone = zone.to_owned();
        }
        known.layout = Arc::new(Layout { now: ring.clone(), ..(*known.layout).clone() });
        // The walks still are those of the ring without zones.
        let found = faults(&known);
        assert!(!found.is_empty() && found.iter().all(|fault| fault.what == SHARED_ZONE));
        known.preferences = Arc::new(Preferences::new(Arc::new(ring)));
        assert_eq!(faults(&known), [], "the walk takes distinct zones first");
    }
}
