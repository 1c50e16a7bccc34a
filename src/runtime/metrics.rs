//! `/metrics`: what a node tells of itself, in the words of those who collect figures over time.
//!
//! `OpenMetrics` 1.0 where the caller takes it, else the text format of Prometheus (0.0.4), which differs in how counters
//! are declared, and has no units and no end. Names begin with `kv_` (a process's own with `process_`), units are base
//! units, and no label holds a key.

#![expect(
    clippy::cast_precision_loss,
    reason = "a gauge is a double; 2^53 of anything counted here is out of reach"
)]

use std::collections::BTreeMap;
use std::fmt::{Error, Write};

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, NoLabelSet, text};
use prometheus_client::metrics::MetricType;
use prometheus_client::registry::{Registry, Unit};

use crate::wire::client::{Durations, Info, MemberHealth, Moving, View};

use super::core_loop::cpu_time;

/// The content type of `OpenMetrics`.
pub(super) const OPENMETRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";
/// The content type of the older text format.
pub(super) const PROMETHEUS: &str = "text/plain; version=0.0.4; charset=utf-8";

/// Counters of a node by their names there, which end in the unit where they have one, and what they count.
#[rustfmt::skip]
const COUNTERS: [(&str, Option<Unit>, &str); 33] = [
    ("gets", None, "Gets that this node began to coordinate"),
    ("puts", None, "Puts and deletes that this node began to coordinate"),
    ("imports", None, "States merged by exact imports"),
    ("scans", None, "Pages of partitions read for exports and lists of keys"),
    ("merges", None, "States from other nodes merged into what this node holds"),
    ("reads", None, "States and digests read for other nodes"),
    ("mints", None, "Versions that this node gave a dot"),
    ("disk_reads", None, "Reads that had to wait for the disk"),
    ("read_repairs", None, "Owners that a read found stale"),
    ("forwards", None, "Requests passed on to an owner"),
    ("failures", None, "Requests that failed"),
    ("expired", None, "Requests dropped unread, past their deadline"),
    ("overloads", None, "Requests refused because of too much work"),
    ("epochs", None, "Epochs begun since the start"),
    ("hints_stored", None, "Hints taken for others"),
    ("hints_sent", None, "Hints that their targets took"),
    ("repaired_slots", None, "Slots that anti-entropy found different and settled"),
    ("repaired_keys", None, "States that anti-entropy exchanged"),
    ("compare_bytes", Some(Unit::Bytes), "Bytes of hashes and rows sent to compare replicas"),
    ("repair_bytes", Some(Unit::Bytes), "Bytes of states that anti-entropy moved"),
    ("recounts", None, "Slots whose leaf was computed anew from data"),
    ("forgotten", None, "Tombstones and clock entries forgotten by a cut"),
    ("refilled_slots", None, "Lost slots that were refilled"),
    ("gained_keys", None, "States copied for changes of the layout"),
    ("gained_bytes", Some(Unit::Bytes), "Bytes of keys and states copied for changes of the layout"),
    ("gained_partitions", None, "Partitions copied for changes of the layout"),
    ("purged_keys", None, "Keys dropped that this node owns no more"),
    ("purged_slots", None, "Slots emptied that this node owns no more"),
    ("log_syncs", None, "fdatasync calls on the commit log"),
    ("flushes", None, "Memtables written into tables"),
    ("compactions", None, "Compactions that ended"),
    ("cache_hits", None, "Blocks found in the cache"),
    ("cache_misses", None, "Blocks read from disk"),
];

/// All figures in `OpenMetrics`.
pub(super) fn openmetrics(view: View, info: Info, below_quorum: usize) -> String {
    let mut of_node = Registry::with_prefix("kv");
    of_node.register_collector(Box::new(OfNode { view, info, below_quorum }));
    let mut of_process = Registry::with_prefix("process");
    of_process.register_collector(Box::new(OfProcess));
    let mut body = String::new();
    text::encode_registry(&mut body, &of_node).expect("a string takes all that is written");
    text::encode_registry(&mut body, &of_process).expect("a string takes all that is written");
    text::encode_eof(&mut body).expect("a string takes all that is written");
    body
}

/// The same in the text format of Prometheus: there a family is called what its samples are called.
pub(super) fn prometheus(openmetrics: &str) -> String {
    let suffixes: BTreeMap<&str, &str> = openmetrics
        .lines()
        .filter_map(|line| match line.strip_prefix("# TYPE ")?.split_once(' ')? {
            (name, "counter") => Some((name, "_total")),
            (name, "info") => Some((name, "_info")),
            _ => None,
        })
        .collect();
    let mut body = String::with_capacity(openmetrics.len());
    for line in openmetrics.lines() {
        let words: Vec<&str> = line.splitn(4, ' ').collect();
        let written = match words[..] {
            ["#", "EOF"] | ["#", "UNIT", ..] => Ok(()),
            ["#", what, name, rest] => {
                let suffix = suffixes.get(name).copied().unwrap_or_default();
                let rest = if rest == "info" { "gauge" } else { rest };
                writeln!(body, "# {what} {name}{suffix} {rest}")
            }
            _ => writeln!(body, "{line}"),
        };
        written.expect("a string takes all that is written");
    }
    body
}

#[derive(Debug)]
struct OfNode {
    view: View,
    info: Info,
    below_quorum: usize,
}

#[derive(Debug)]
struct OfProcess;

/// Writes families one after the other.
struct Families<'a>(DescriptorEncoder<'a>);

impl Families<'_> {
    fn counter(
        &mut self,
        name: &str,
        unit: Option<&Unit>,
        help: &str,
        count: u64,
    ) -> Result<(), Error> {
        let mut family = self.0.encode_descriptor(name, help, unit, MetricType::Counter)?;
        family.encode_counter::<NoLabelSet, _, f64>(&count, None)
    }

    fn gauge(
        &mut self,
        name: &str,
        unit: Option<&Unit>,
        help: &str,
        value: f64,
    ) -> Result<(), Error> {
        self.0.encode_descriptor(name, help, unit, MetricType::Gauge)?.encode_gauge(&value)
    }

    /// One gauge for each value of a label.
    fn gauges<'l>(
        &mut self,
        name: &str,
        help: &str,
        label: &'static str,
        values: impl IntoIterator<Item = (&'l str, u64)>,
    ) -> Result<(), Error> {
        let mut family = self.0.encode_descriptor(name, help, None, MetricType::Gauge)?;
        for (of, value) in values {
            family.encode_family(&[(label, of)])?.encode_gauge(&(value as f64))?;
        }
        Ok(())
    }
}

impl Collector for OfNode {
    fn encode(&self, encoder: DescriptorEncoder<'_>) -> Result<(), Error> {
        let mut families = Families(encoder);
        self.encode_identity(&mut families)?;
        self.encode_requests(&mut families)?;
        self.encode_members(&mut families)?;
        encode_moving(&self.info.moving, &mut families)?;
        for (name, unit, help) in &COUNTERS {
            let count = self.info.counters.get(*name).copied().unwrap_or_default();
            families.counter(without_unit(name, unit.as_ref()), unit.as_ref(), help, count)?;
        }
        Ok(())
    }
}

fn without_unit<'n>(name: &'n str, unit: Option<&Unit>) -> &'n str {
    let bare = unit.and_then(|unit| name.strip_suffix(unit.as_str())?.strip_suffix('_'));
    bare.unwrap_or(name)
}

impl OfNode {
    fn encode_identity(&self, families: &mut Families<'_>) -> Result<(), Error> {
        let Info { name, version, uptime, keys, data, disk: (free, size), epoch, .. } = &self.info;
        let View { cluster_name, layout, alarms, .. } = &self.view;
        let help = "Which node this is";
        let build = [("cluster", cluster_name), ("node", name), ("version", version)];
        families.0.encode_descriptor("build", help, None, MetricType::Info)?.encode_info(&build)?;
        let seconds = Some(&Unit::Seconds);
        families.gauge("uptime", seconds, "Time since the node started", in_seconds(*uptime))?;
        families.gauge("epoch", None, "The epoch that this node mints under", f64::from(*epoch))?;
        families.gauge("keys", None, "Keys held, about", *keys as f64)?;
        let bytes = Some(&Unit::Bytes);
        families.gauge("data", bytes, "Tables and logs on disk", *data as f64)?;
        families.gauge("disk_free", bytes, "Free where the data lies", *free as f64)?;
        families.gauge("disk_size", bytes, "All there is where the data lies", *size as f64)?;
        let help = "Version of the layout in force";
        families.gauge("layout_version", None, help, layout.version as f64)?;
        families.gauge("alarms", None, "What an operator should know of", alarms.len() as f64)
    }

    fn encode_requests(&self, families: &mut Families<'_>) -> Result<(), Error> {
        let help = "Requests that this node coordinated, failed ones too";
        let unit = Some(&Unit::Seconds);
        let kind = MetricType::Histogram;
        let mut family = families.0.encode_descriptor("request_duration", help, unit, kind)?;
        let of_kind = [("get", &self.info.get_durations), ("put", &self.info.put_durations)];
        for (op, durations) in of_kind {
            let label = [("op", op)];
            let mut histogram = family.encode_family(&label)?;
            let Durations { counts, sum } = durations;
            let has_bound = |place: &usize| place + 1 < counts.len();
            let bound = |place| {
                let bound = Some(place).filter(has_bound).map(Durations::bound);
                bound.map_or(f64::INFINITY, in_seconds)
            };
            let buckets = counts.iter().enumerate().map(|(place, count)| (bound(place), *count));
            let buckets: Vec<(f64, u64)> = buckets.collect();
            let count = counts.iter().sum();
            histogram.encode_histogram::<NoLabelSet>(in_seconds(*sum), count, &buckets, None)?;
        }
        Ok(())
    }

    fn encode_members(&self, families: &mut Families<'_>) -> Result<(), Error> {
        let View { members, layout, change, .. } = &self.view;
        let names: BTreeMap<_, &str> =
            layout.members().map(|member| (member.id, member.name.as_str())).collect();
        let name = |node| names.get(node).copied().unwrap_or("?");
        let states = [
            ("unknown", MemberHealth::Unknown),
            ("up", MemberHealth::Up),
            ("suspected", MemberHealth::Suspected),
            ("down", MemberHealth::Down),
        ];
        let count = |health| members.iter().filter(|member| member.health == health).count() as u64;
        let counts = states.map(|(state, health)| (state, count(health)));
        families.gauges("members", "Members as this node sees them", "state", counts)?;
        let up = |health| matches!(health, MemberHealth::Up | MemberHealth::Suspected);
        let each = members.iter().map(|member| (name(&member.node), u64::from(up(member.health))));
        families.gauges("member_up", "1 unless the member is down or unknown", "member", each)?;
        let linked = members.iter().map(|member| (name(&member.node), u64::from(member.reachable)));
        families.gauges("member_reachable", "1 while a link stands", "member", linked)?;
        let hints = self.info.hints_for.iter().map(|(node, count)| (name(node), *count));
        families.gauges("hints", "Hints held for a member", "member", hints)?;
        let q = f64::from(layout.now.q);
        families.gauge("partitions", None, "Partitions of the ring", q)?;
        let help = "Partitions with too few owners up for the layout's reads and writes";
        families.gauge("partitions_below_quorum", None, help, self.below_quorum as f64)?;
        let changing = f64::from(u8::from(change.is_some()));
        families.gauge("layout_changing", None, "1 while a change of the layout runs", changing)?;
        let (gainers, ready) = change.map_or((0, 0), |change| (change.gainers, change.ready));
        let help = "Members that gain something by the change";
        families.gauge("change_gainers", None, help, f64::from(gainers))?;
        let help = "How many of those have all of it";
        families.gauge("change_ready", None, help, f64::from(ready))
    }
}

fn encode_moving(moving: &Moving, families: &mut Families<'_>) -> Result<(), Error> {
    let count = f64::from;
    let help = "Slots that this node gains by the change that runs";
    families.gauge("moving_slots", None, help, count(moving.slots))?;
    let help = "How many of those are copied, about";
    families.gauge("moving_slots_copied", None, help, count(moving.slots_gained))?;
    let bytes = Some(&Unit::Bytes);
    let help = "Keys and states copied for the change that runs";
    families.gauge("moving_copied", bytes, help, moving.bytes as f64)?;
    let help = "Copied a second, lately";
    families.gauge("moving_rate", bytes, help, moving.rate as f64)?;
    // NaN is what such a gauge says where nothing can be said.
    let expected = |left: Option<u64>| left.map_or(f64::NAN, in_seconds);
    let seconds = Some(&Unit::Seconds);
    let help = "Until all is copied, at the pace of late";
    families.gauge("moving_left", seconds, help, expected(moving.left))?;
    let help = "Slots of others that hold something, or were not looked through yet";
    families.gauge("left_over_slots", None, help, count(moving.left_over))?;
    let help = "Until nothing is left over, at the pace of late";
    families.gauge("left_over_left", seconds, help, expected(moving.left_over_left))
}

fn in_seconds(micros: u64) -> f64 {
    micros as f64 / 1e6
}

impl Collector for OfProcess {
    fn encode(&self, encoder: DescriptorEncoder<'_>) -> Result<(), Error> {
        let mut families = Families(encoder);
        let help = "Processor time of all threads";
        let cpu = cpu_time().as_secs_f64();
        let kind = MetricType::Counter;
        let mut family = families.0.encode_descriptor("cpu", help, Some(&Unit::Seconds), kind)?;
        family.encode_counter::<NoLabelSet, _, f64>(&cpu, None)?;
        if let Some(resident) = resident_bytes() {
            let unit = Some(&Unit::Bytes);
            families.gauge("resident_memory", unit, "Memory in use", resident as f64)?;
        }
        if let Ok(open) = std::fs::read_dir("/proc/self/fd") {
            families.gauge("open_fds", None, "Open file descriptors", open.count() as f64)?;
        }
        Ok(())
    }
}

/// What the kernel says of this process's memory: proc(5), `statm`, its second field.
fn resident_bytes() -> Option<u64> {
    let statm = std::fs::read_to_string("/proc/self/statm").ok()?;
    let pages: u64 = statm.split_ascii_whitespace().nth(1)?.parse().ok()?;
    let page = nix::unistd::sysconf(nix::unistd::SysconfVar::PAGE_SIZE).ok()??;
    Some(pages * u64::try_from(page).ok()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(openmetrics: &str, expected: &str) {
        assert_eq!(prometheus(openmetrics), expected);
    }

    #[test]
    fn the_older_format_calls_a_family_what_its_samples_are_called() {
        check(
            "# HELP kv_gets Gets.\n# TYPE kv_gets counter\nkv_gets_total 3\n# EOF\n",
            "# HELP kv_gets_total Gets.\n# TYPE kv_gets_total counter\nkv_gets_total 3\n",
        );
        check(
            "# HELP kv_build Which.\n# TYPE kv_build info\nkv_build_info{node=\"n1\"} 1\n",
            "# HELP kv_build_info Which.\n# TYPE kv_build_info gauge\nkv_build_info{node=\"n1\"} 1\n",
        );
        check(
            "# HELP kv_up_seconds A b c.\n# TYPE kv_up_seconds gauge\n# UNIT kv_up_seconds seconds\nkv_up_seconds 1.5\n",
            "# HELP kv_up_seconds A b c.\n# TYPE kv_up_seconds gauge\nkv_up_seconds 1.5\n",
        );
    }

    #[test]
    fn a_counters_unit_stands_at_the_end_of_its_name_alone() {
        for (name, unit, help) in &COUNTERS {
            let bare = without_unit(name, unit.as_ref());
            assert_eq!(bare == *name, unit.is_none(), "{name}");
            assert!(
                !help.ends_with('.') && bare.chars().all(|c| c == '_' || c.is_ascii_lowercase())
            );
        }
    }
}
