//! `plan`: the ring that the solver would give, what would move, and how even it would be.

use std::collections::BTreeMap;
use std::fs;
use std::io::Write;
use std::path::PathBuf;
use std::sync::Arc;

use clap::Args;

use crate::cli::exit::Exit;
use crate::cli::failure::Failure;
use crate::cli::human;
use crate::cli::json::Object;
use crate::cli::options::{Common, Format};
use crate::cli::table::Table;
use crate::node_id::NodeId;
use crate::ring::{Balance, Layout, Movement, Plan, Preferences, Shortfall, plan as planned};

use super::moves::{self, Move, SlotBytes};
use super::source::{self, Known};
use super::wishes::Wishes;

/// How many shortfalls are listed for people.
const SHORTFALLS_LISTED_MAX: usize = 5;

#[derive(Args, Clone, Debug)]
pub(super) struct PlanArgs {
    #[command(flatten)]
    wishes: Wishes,
    /// Bytes that all replicas together hold, to estimate what moves, instead of what the nodes say
    #[arg(long, value_name = "SIZE", value_parser = human::parse_size)]
    bytes: Option<u64>,
    /// Write the planned layout to this file as export does; `-` is stdout, in place of the report
    #[arg(long, value_name = "FILE|-")]
    out: Option<PathBuf>,
}

/// A plan, and what it means.
struct Report<'a> {
    before: &'a Layout,
    plan: &'a Plan,
    movement: Movement,
    moves: Vec<Move>,
    least: usize,
    /// Before and after.
    balances: [Balance; 2],
}

/// `plan`. `data` is what the nodes say they hold.
pub(super) fn plan(
    args: PlanArgs,
    (known, data): &(Known, BTreeMap<NodeId, u64>),
    common: &Common,
    out: &mut dyn Write,
) -> anyhow::Result<Exit> {
    let wishes = args.wishes.wishes();
    if wishes.is_empty() {
        return Err(Failure::usage("nothing to plan; see kvring plan --help").into());
    }
    let before = &known.layout.now;
    let plan = planned(before, &wishes).map_err(|error| Failure::usage(error.to_string()))?;
    match &args.out {
        Some(path) if path.as_os_str() == "-" => {
            source::export(&following(known, &plan), out)?;
            return Ok(Exit::Done);
        }
        Some(path) => {
            let mut text = Vec::new();
            source::export(&following(known, &plan), &mut text)?;
            let not_written = |error| Failure::not_written(&path.display().to_string(), error);
            fs::write(path, text).map_err(not_written)?;
        }
        None => {}
    }
    let bytes = match args.bytes {
        Some(total) => SlotBytes::of_total(total, before),
        None => SlotBytes::of_nodes(data, &known.preferences),
    };
    Report::of((&known.layout, &known.preferences), &plan, &bytes).tell(common, out)
}

/// What the plan of a ring after `layout` means, for whoever asks; `data` is what the nodes say they hold.
/// # Errors
/// Those of the output.
pub(crate) fn report_plan(
    layout: &Layout,
    plan: &Plan,
    data: &BTreeMap<NodeId, u64>,
    common: &Common,
    out: &mut dyn Write,
) -> anyhow::Result<Exit> {
    let preferences = Preferences::new(Arc::new(layout.now.clone()));
    let bytes = SlotBytes::of_nodes(data, &preferences);
    Report::of((layout, &preferences), plan, &bytes).tell(common, out)
}

/// The layout that would come next, with the plan's ring in force.
fn following(known: &Known, plan: &Plan) -> Known {
    let Layout { generation, version, .. } = *known.layout;
    let layout = Layout {
        generation,
        version: version + 1,
        now: plan.ring.clone(),
        next: None,
        recovers: false,
    };
    let preferences = Arc::new(plan.preferences());
    Known { layout: Arc::new(layout), preferences, ..known.clone() }
}

/// What a plan falls short of, for people.
fn told(shortfall: &Shortfall) -> String {
    match shortfall {
        Shortfall::Zones { partitions } => {
            format!("{partitions} partitions have replicas in fewer zones than could be")
        }
        Shortfall::Share { member, wanted, got } => {
            format!("{member} holds {got} replicas, its share is {wanted:.1}")
        }
        Shortfall::Window { partitions } => {
            format!("{partitions} rows of N + 1 partitions meet an owner twice")
        }
    }
}

fn shortfall_object(shortfall: &Shortfall) -> Object {
    match shortfall {
        Shortfall::Zones { partitions } => {
            Object::bare().field("what", "zones").field("partitions", partitions)
        }
        Shortfall::Share { member, wanted, got } => Object::bare()
            .field("what", "share")
            .field("member", member)
            .field("wanted", wanted)
            .field("got", got),
        Shortfall::Window { partitions } => {
            Object::bare().field("what", "window").field("partitions", partitions)
        }
    }
}

impl<'a> Report<'a> {
    fn of((layout, old): (&'a Layout, &Preferences), plan: &'a Plan, bytes: &SlotBytes) -> Self {
        let new = plan.preferences();
        let movement = Movement::between(old, &new);
        let moves = moves::moves(&movement, (&layout.now, &plan.ring), bytes);
        Self {
            before: layout,
            plan,
            moves,
            least: Movement::least(old, &plan.ring),
            balances: [Balance::of(old), Balance::of(&new)],
            movement,
        }
    }

    fn tell(&self, common: &Common, out: &mut dyn Write) -> anyhow::Result<Exit> {
        match common.format() {
            Format::Json => writeln!(out, "{}", self.object().finish())?,
            Format::Plain => self.table(common).write_plain(out)?,
            Format::Human => self.write(common, out)?,
        }
        Ok(Exit::Done)
    }

    fn write(&self, common: &Common, out: &mut dyn Write) -> anyhow::Result<()> {
        let Movement { replicas, .. } = self.movement;
        let [before, after] = [&self.before.now, &self.plan.ring].map(|ring| {
            format!(
                "{} members, {} partitions, N={} R={} W={}",
                ring.members.len(),
                ring.q,
                ring.effective_n(),
                ring.effective_r(),
                ring.effective_w(),
            )
        });
        writeln!(out, "layout v{}: {before}", self.before.version)?;
        writeln!(out, "planned:{}{after}", " ".repeat(self.before.version.to_string().len() + 1))?;
        let moved = self.movement.moved();
        let bytes = moves::bytes_of(&self.moves).filter(|_| moved > 0);
        let bytes =
            bytes.map_or_else(String::new, |bytes| format!(", about {}", common.size(bytes)));
        let share = |slots| moves::share(slots, replicas);
        writeln!(
            out,
            "moved: {} of all replica data ({moved} of {replicas} slot replicas){bytes}; the least possible for fair shares is {}",
            share(moved),
            share(self.least),
        )?;
        let above = |skew: f64| format!("{:.1}%", (skew - 1.0) * 100.0);
        let [old, new] = &self.balances;
        writeln!(
            out,
            "even: at most {} above the fair share of replicas before, {} after; of first replicas {}, {}",
            above(old.replica_skew()),
            above(new.replica_skew()),
            above(old.first_skew()),
            above(new.first_skew()),
        )?;
        self.write_shortfalls(common, out)?;
        if moved > 0 {
            self.table(common).write(out)?;
        }
        if self.before.next.is_some() {
            writeln!(out, "a change is in progress; this plan starts from the ring before it")?;
        }
        Ok(())
    }

    fn write_shortfalls(&self, common: &Common, out: &mut dyn Write) -> anyhow::Result<()> {
        let all = &self.plan.shortfalls;
        for shortfall in all.iter().take(SHORTFALLS_LISTED_MAX) {
            writeln!(out, "{} {}", common.palette().warn("short of:"), told(shortfall))?;
        }
        if all.len() > SHORTFALLS_LISTED_MAX {
            writeln!(out, "and {} more; --json has them all", all.len() - SHORTFALLS_LISTED_MAX)?;
        }
        Ok(())
    }

    fn table(&self, common: &Common) -> Table {
        moves::table(&self.moves, self.movement.replicas, common)
    }

    fn object(&self) -> Object {
        let [old, new] = &self.balances;
        let even = |balance: &Balance| {
            Object::bare()
                .field("skew", balance.replica_skew() - 1.0)
                .field("first_skew", balance.first_skew() - 1.0)
        };
        let members = self.plan.ring.members.iter().enumerate().map(|(index, member)| {
            Object::bare()
                .field("name", &member.name)
                .field("id", member.id.to_string())
                .field("zone", &member.zone)
                .field("weight", member.weight)
                .field("replicas", new.replicas[index])
                .field("replicas_fair", new.fair[index])
        });
        Object::new("plan")
            .field("layout", self.before.version)
            .field("changing", self.before.next.is_some())
            .field("partitions", self.plan.ring.q)
            .field("n", self.plan.ring.effective_n())
            .field("r", self.plan.ring.effective_r())
            .field("w", self.plan.ring.effective_w())
            .field("slots_moved", self.movement.moved())
            .field("slots_least", self.least)
            .field("slots_all", self.movement.replicas)
            .field("moved", self.movement.share())
            .maybe("bytes_moved", moves::bytes_of(&self.moves))
            .object("before", even(old))
            .object("after", even(new))
            .list("shortfalls", self.plan.shortfalls.iter().map(shortfall_object))
            .list("moves", moves::objects(&self.moves))
            .list("members", members)
    }
}
