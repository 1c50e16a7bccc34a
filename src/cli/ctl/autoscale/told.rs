//! Decisions, told: a line each, for people or for programs.

use std::io::Write;

use crate::cli::human;
use crate::cli::json::Object;
use crate::cli::options::{Common, Format};

use super::decision::{Decision, Step};
use super::policy::Signal;
use super::seen::{NodeLoad, Part, Seen};

/// Tells decisions; of the same word twice while something is waited for, only the first.
pub(super) struct Teller<'a> {
    format: Format,
    is_dry: bool,
    out: &'a mut dyn Write,
    waited_for: Option<Vec<String>>,
}

impl<'a> Teller<'a> {
    pub(super) fn new(common: &Common, is_dry: bool, out: &'a mut dyn Write) -> Self {
        Self { format: common.format(), is_dry, out, waited_for: None }
    }

    /// Tells a decision, at once: somebody may watch.
    pub(super) fn tell(&mut self, decision: &Decision, seen: &Seen) -> std::io::Result<()> {
        let waited_for = (decision.step == Step::Wait).then(|| decision.why.clone());
        let is_said = waited_for.is_some() && waited_for == self.waited_for;
        self.waited_for = waited_for;
        if is_said {
            return Ok(());
        }
        let line = match self.format {
            Format::Json => object(decision, seen, self.is_dry).finish(),
            Format::Plain => {
                let node = decision.step.node().unwrap_or_default();
                let why = decision.why.join("; ");
                format!("{}\t{}\t{node}\t{why}", human::rfc3339(seen.at), decision.step.name())
            }
            Format::Human => line(decision, self.is_dry),
        };
        writeln!(self.out, "{line}")?;
        self.out.flush()
    }
}

/// `start n4 in zone b: operations of n1 1200/s, above 1000/s; 2 of 2 looks`.
fn line(decision: &Decision, is_dry: bool) -> String {
    let Decision { step, why, .. } = decision;
    let would = if is_dry && step.node().is_some() { "would " } else { "" };
    let node = step.node().map(|node| format!(" {node}")).unwrap_or_default();
    let zone = match step {
        Step::Start { zone, .. } | Step::Join { zone, .. } if !zone.is_empty() => {
            format!(" in zone {zone}")
        }
        _ => String::new(),
    };
    format!("{would}{}{node}{zone}: {}", step.name(), why.join("; "))
}

fn object(decision: &Decision, seen: &Seen, is_dry: bool) -> Object {
    let Decision { step, why, .. } = decision;
    let zone = match step {
        Step::Start { zone, .. } | Step::Join { zone, .. } => Some(zone),
        Step::Hold | Step::Wait | Step::Leave { .. } | Step::Stop { .. } => None,
    };
    let loads = seen.nodes.iter().filter_map(|(name, node)| Some((name, node.load.as_ref()?)));
    Object::new("decision")
        .field("ts", human::rfc3339(seen.at))
        .field("step", step.name())
        .maybe("node", step.node())
        .maybe("zone", zone)
        .field("why", why)
        .field("layout", seen.layout)
        .field("members", seen.nodes.values().filter(|node| node.part == Part::Member).count())
        .list("nodes", loads.map(|(name, load)| of_node(name, load)))
        .field("dry_run", is_dry)
}

fn of_node(name: &str, load: &NodeLoad) -> Object {
    let rounded = |signal: Signal, digits: f64| (load.value(signal) * digits).round() / digits;
    let hottest = load.hottest.as_ref();
    Object::bare()
        .field("name", name)
        .field("operations_per_second", rounded(Signal::Operations, 10.0))
        .field("cpu", rounded(Signal::Cpu, 1e3))
        .raw("p99", &format!("{:.0}", load.p99))
        .field("disk", rounded(Signal::Disk, 1e3))
        .maybe("hot_key", hottest.map(|(key, _)| key))
        .maybe("hot_share", hottest.map(|(_, share)| (share * 1e4).round() / 1e4))
}
