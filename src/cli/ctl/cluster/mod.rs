//! `cluster`: who is a member, with which share; staged, planned, committed, given up (DESIGN §8).
//!
//! What is staged is told to every member that is up, and read back from all of them: the last word about a subject
//! counts. A plan is made here from the layout in force; `commit` proposes its ring against the version that was planned.

mod recover;
mod show;
mod staging;
mod waiting;

use std::io::Write;

use clap::{Args, Subcommand};

use crate::cli::connect::{Connect, Session};
use crate::cli::exit::Exit;
use crate::cli::failure::Failure;
use crate::cli::json::Object;
use crate::cli::options::{Common, Format};
use crate::cli::progress::ProgressForm;
use crate::cli::ring::report_plan;
use crate::cluster::change::{self, moves_data};
use crate::cluster::staged::{Staged, plan};
use crate::node_id::NodeId;
use crate::ring::{Layout, Mode, Plan, Ring, Weight};
use crate::wire::client::{Change, MemberHealth, ReplyBody, RequestBody};

use super::status::Sight;
pub(super) use show::told;
use staging::{Candidates, stage, staged, unstage};
pub(super) use staging::{candidates, overview};
pub(super) use waiting::is_done;

#[derive(Subcommand, Clone, Debug)]
pub(crate) enum ClusterCommand {
    /// Show the members, what is staged, and how far a change is
    Show,
    /// Stage a node that waits to join, with another zone or weight than its own if given
    Join(JoinArgs),
    /// Stage that a member gives its share away and goes once it holds nothing
    Leave(MemberArgs),
    /// Stage that a node that waits to join takes the place of a member that is gone for good
    Replace(ReplaceArgs),
    /// Stage that a member is gone for good, and the others take its share
    Remove(MemberArgs),
    /// Stage another weight for a member
    Weight(WeightArgs),
    /// Stage another zone for a member; '' is none
    Zone(ZoneArgs),
    /// Stage another N, R, W or mode
    SetQuorum(QuorumArgs),
    /// Stage more partitions: each is halved, as often as it takes, and nothing moves
    SetPartitions(PartitionsArgs),
    /// Show what the staged changes would move, the least possible beside it, and how even before and after
    Plan,
    /// Propose the planned ring against the layout version that it was planned from
    Commit(CommitArgs),
    /// Give up the change that runs; where none does, forget what is staged
    Abort(AbortArgs),
    /// Go on with the survivors after a majority of the members is lost for good
    Recover(recover::RecoverArgs),
}

#[derive(Args, Clone, Debug)]
pub(crate) struct MemberArgs {
    /// The member
    #[arg(value_name = "NAME")]
    name: String,
    #[command(flatten)]
    dry: DryRun,
}

#[derive(Args, Clone, Debug)]
pub(crate) struct JoinArgs {
    /// The node, by the name in its configuration
    #[arg(value_name = "NAME")]
    name: String,
    /// Its failure zone, instead of that in its configuration
    #[arg(long, value_name = "ZONE")]
    zone: Option<String>,
    /// Its share, instead of that in its configuration
    #[arg(long, value_name = "WEIGHT")]
    weight: Option<Weight>,
    #[command(flatten)]
    dry: DryRun,
}

#[derive(Args, Clone, Debug)]
pub(crate) struct ReplaceArgs {
    /// The member that is gone for good
    #[arg(value_name = "DEAD")]
    dead: String,
    /// The node that takes its place
    #[arg(value_name = "NAME")]
    by: String,
    #[command(flatten)]
    dry: DryRun,
}

#[derive(Args, Clone, Debug)]
pub(crate) struct WeightArgs {
    /// The member
    #[arg(value_name = "NAME")]
    name: String,
    /// Its share beside the others': 0 to 1000
    #[arg(value_name = "WEIGHT")]
    weight: Weight,
    #[command(flatten)]
    dry: DryRun,
}

#[derive(Args, Clone, Debug)]
pub(crate) struct ZoneArgs {
    /// The member
    #[arg(value_name = "NAME")]
    name: String,
    /// Its failure zone
    #[arg(value_name = "ZONE")]
    zone: String,
    #[command(flatten)]
    dry: DryRun,
}

#[derive(Args, Clone, Debug)]
pub(crate) struct QuorumArgs {
    /// Replicas that a key has
    #[arg(long = "replicas", value_name = "N")]
    n: Option<u8>,
    /// Replies that a read waits for
    #[arg(short, long = "read", value_name = "R")]
    r: Option<u8>,
    /// Durable acknowledgements that a write waits for
    #[arg(short, long = "write", value_name = "W")]
    w: Option<u8>,
    /// `available` (sloppy by default) or `consistent` (strict by default)
    #[arg(long, value_name = "MODE", value_parser = parse_mode)]
    mode: Option<Mode>,
    #[command(flatten)]
    dry: DryRun,
}

#[derive(Args, Clone, Debug)]
pub(crate) struct PartitionsArgs {
    /// A power of two, not below what there are
    #[arg(value_name = "Q")]
    partitions: u32,
    #[command(flatten)]
    dry: DryRun,
}

#[derive(Args, Clone, Debug)]
pub(crate) struct CommitArgs {
    /// The layout version that was planned from
    #[arg(long, value_name = "V")]
    expect: u64,
    /// Wait until the change is done: nothing moves any more, and nothing is left with who lost it. After --timeout, if
    /// given: exit 75, and the change goes on
    #[arg(long)]
    wait: bool,
    /// How --wait shows progress, on stderr
    #[arg(long, value_enum, value_name = "FORM", default_value_t = ProgressForm::Auto)]
    progress: ProgressForm,
    /// Yes, what only members that are gone for good may hold is lost
    #[arg(long)]
    accept_loss: bool,
    #[command(flatten)]
    dry: DryRun,
}

#[derive(Args, Clone, Debug)]
pub(crate) struct AbortArgs {
    #[command(flatten)]
    dry: DryRun,
}

#[derive(Args, Clone, Copy, Debug)]
struct DryRun {
    /// Only check, and say what would be done
    #[arg(short = 'n', long)]
    dry_run: bool,
}

/// `cluster …`.
pub(crate) async fn run(
    command: &ClusterCommand,
    connect: &Connect,
    session: &Session,
    common: &Common,
    out: &mut dyn Write,
) -> anyhow::Result<Exit> {
    if let ClusterCommand::Recover(args) = command {
        return recover::recover(args, session, common, out).await;
    }
    let sight = Sight::take(session).await?;
    match command {
        ClusterCommand::Recover(_) => unreachable!("it takes no look at the lost"),
        ClusterCommand::Show => show::show(session, &sight, common, out).await,
        ClusterCommand::Plan => planned(session, &sight, common, out).await,
        ClusterCommand::Commit(args) => {
            let exit = commit(args, session, &sight, common, out).await?;
            if args.wait && !args.dry.dry_run {
                // What was chosen is said before the wait, however that ends.
                out.flush()?;
                let version = args.expect + 1;
                waiting::until_done(version, args.progress, connect, common).await?;
            }
            Ok(exit)
        }
        ClusterCommand::Abort(args) => abort(args, session, &sight, common, out).await,
        ClusterCommand::Join(_)
        | ClusterCommand::Leave(_)
        | ClusterCommand::Replace(_)
        | ClusterCommand::Remove(_)
        | ClusterCommand::Weight(_)
        | ClusterCommand::Zone(_)
        | ClusterCommand::SetQuorum(_)
        | ClusterCommand::SetPartitions(_) => {
            let candidates = candidates(session, &sight).await?;
            let (changes, dry) = wished(command, &sight, &candidates)?;
            // What cannot be planned is refused now, not at the commit.
            let mut all = staged(session, &sight).await?;
            all.extend(changes.iter().cloned());
            planned_ring(&sight.view.layout, &staging::latest(all))?;
            if !dry.dry_run {
                stage(session, &sight, &changes).await?;
            }
            tell_staged(&changes, &sight, dry, common, out)
        }
    }
}

/// What a command stages.
fn wished(
    command: &ClusterCommand,
    sight: &Sight,
    candidates: &Candidates,
) -> Result<(Vec<Staged>, DryRun), Failure> {
    let ring = &sight.view.layout.now;
    let id = |name: &String| member(ring, name);
    let is_down = |node: NodeId| {
        let view = sight.view.members.iter().find(|member| member.node == node);
        view.is_some_and(|view| view.health == MemberHealth::Down)
    };
    let dead = |name: &String| {
        let node = id(name)?;
        if is_down(node) || ring.member(node).is_some_and(|known| known.weight == Weight::ZERO) {
            return Ok(node);
        }
        let text = format!("{name} is not down: what only it holds would be lost");
        Err(Failure::usage(text)
            .note(format!("kvctl cluster leave {name} gives its data away first")))
    };
    Ok(match command {
        ClusterCommand::Join(JoinArgs { name, zone, weight, dry }) => {
            let mut joiner = candidates.named(name)?.clone();
            joiner.zone = zone.clone().unwrap_or(joiner.zone);
            joiner.weight = weight.unwrap_or(joiner.weight);
            (vec![Staged::Join(joiner)], *dry)
        }
        ClusterCommand::Leave(MemberArgs { name, dry }) => (vec![Staged::Leave(id(name)?)], *dry),
        ClusterCommand::Remove(MemberArgs { name, dry }) => {
            (vec![Staged::Remove(dead(name)?)], *dry)
        }
        ClusterCommand::Replace(ReplaceArgs { dead: gone, by, dry }) => {
            let by = candidates.named(by)?.clone();
            (vec![Staged::Replace { dead: dead(gone)?, by }], *dry)
        }
        ClusterCommand::Weight(WeightArgs { name, weight, dry }) => {
            (vec![Staged::Weight(id(name)?, *weight)], *dry)
        }
        ClusterCommand::Zone(ZoneArgs { name, zone, dry }) => {
            (vec![Staged::Zone(id(name)?, zone.clone())], *dry)
        }
        ClusterCommand::SetQuorum(QuorumArgs { n, r, w, mode, dry }) => {
            let [n, r, w] = [n.unwrap_or(ring.n), r.unwrap_or(ring.r), w.unwrap_or(ring.w)];
            let quorum =
                ((n, r, w) != (ring.n, ring.r, ring.w)).then_some(Staged::Quorum { n, r, w });
            let changes: Vec<Staged> = quorum.into_iter().chain(mode.map(Staged::Mode)).collect();
            if changes.is_empty() {
                return Err(Failure::usage("name another N, R, W or mode than the layout's"));
            }
            (changes, *dry)
        }
        ClusterCommand::SetPartitions(PartitionsArgs { partitions, dry }) => {
            (vec![Staged::Partitions(*partitions)], *dry)
        }
        ClusterCommand::Show
        | ClusterCommand::Plan
        | ClusterCommand::Commit(_)
        | ClusterCommand::Abort(_)
        | ClusterCommand::Recover(_) => unreachable!("they stage nothing"),
    })
}

fn member(ring: &Ring, name: &str) -> Result<NodeId, Failure> {
    let found = ring.named(name).map(|member| member.id);
    found.ok_or_else(|| Failure::usage(format!("no member is named `{name}`")))
}

/// The ring that staged changes come to.
fn planned_ring(layout: &Layout, changes: &[Staged]) -> Result<Plan, Failure> {
    if layout.recovers {
        return Err(Failure::new(Exit::TryAgain, "a recovery is running")
            .note("kvctl cluster show tells how far it is"));
    }
    if layout.next.is_some() {
        return Err(Failure::new(Exit::TryAgain, "a change is running")
            .note("kvctl cluster show tells how far it is; kvctl cluster abort gives it up"));
    }
    plan(&layout.now, changes).map_err(|error| Failure::usage(error.to_string()))
}

fn tell_staged(
    changes: &[Staged],
    sight: &Sight,
    dry: DryRun,
    common: &Common,
    out: &mut dyn Write,
) -> anyhow::Result<Exit> {
    let layout = &sight.view.layout;
    for change in changes {
        let what = show::told(change, layout);
        if common.format() == Format::Json {
            let object = Object::new("staged")
                .field("layout", layout.version)
                .field("change", what)
                .field("dry_run", dry.dry_run);
            writeln!(out, "{}", object.finish())?;
        } else if !common.quiet {
            let verb = if dry.dry_run { "would be staged" } else { "staged" };
            writeln!(out, "{verb}: {what}")?;
        }
    }
    if common.format() == Format::Human && !common.quiet && !dry.dry_run {
        writeln!(
            std::io::stderr().lock(),
            "kvctl: see it with: kvctl cluster plan; do it with: kvctl cluster commit --expect {}",
            layout.version
        )?;
    }
    Ok(Exit::Done)
}

/// `cluster plan`.
async fn planned(
    session: &Session,
    sight: &Sight,
    common: &Common,
    out: &mut dyn Write,
) -> anyhow::Result<Exit> {
    let changes = staged(session, sight).await?;
    if changes.is_empty() {
        return Err(Failure::usage("nothing is staged").into());
    }
    let plan = planned_ring(&sight.view.layout, &changes)?;
    let data = sight.infos.iter().map(|(node, info)| (*node, info.data)).collect();
    let exit = report_plan(&sight.view.layout, &plan, &data, common, out)?;
    warn_of_loss(&sight.view.layout.now, &plan.ring, common)?;
    Ok(exit)
}

/// Members that a ring leaves out though they own something, and whether what is left of the owners is less than what a
/// quorum may have relied on: then there may be writes that only they hold.
fn only_on_the_gone(now: &Ring, next: &Ring) -> Vec<String> {
    let gone = now
        .members
        .iter()
        .filter(|member| member.weight > Weight::ZERO && next.member(member.id).is_none());
    let names: Vec<String> = gone.map(|member| member.name.clone()).collect();
    let left = now.effective_n().saturating_sub(names.len());
    if left < change::owners_to_copy_from(now) { names } else { Vec::new() }
}

fn warn_of_loss(now: &Ring, next: &Ring, common: &Common) -> anyhow::Result<()> {
    let names = only_on_the_gone(now, next);
    if !names.is_empty() && !common.quiet {
        writeln!(
            std::io::stderr().lock(),
            "kvctl: some writes may be held by {} alone; commit wants --accept-loss",
            names.join(", ")
        )?;
    }
    Ok(())
}

/// `cluster commit`.
async fn commit(
    args: &CommitArgs,
    session: &Session,
    sight: &Sight,
    common: &Common,
    out: &mut dyn Write,
) -> anyhow::Result<Exit> {
    let layout = &sight.view.layout;
    if layout.version != args.expect {
        let text = format!("layout {} is in force, not {}", layout.version, args.expect);
        let note = "kvctl cluster plan shows what follows from it";
        return Err(Failure::new(Exit::Siblings, text).code("stale_context").note(note).into());
    }
    let changes = staged(session, sight).await?;
    if changes.is_empty() {
        return Err(Failure::usage("nothing is staged").into());
    }
    let change = planned_change(layout, &changes, args.accept_loss)?;
    finish(session, sight, change, (args.dry.dry_run, args.wait), common, out).await
}

/// What is to be proposed for these changes, and whether it moves data.
fn planned_change(
    layout: &Layout,
    changes: &[Staged],
    accepts_loss: bool,
) -> Result<(Change, bool), Failure> {
    let plan = planned_ring(layout, changes)?;
    let gone = only_on_the_gone(&layout.now, &plan.ring);
    if !gone.is_empty() && !accepts_loss {
        let text =
            format!("some writes may be held by {} alone, and would be lost", gone.join(", "));
        return Err(Failure::usage(text).note("--accept-loss says that this is accepted"));
    }
    let moves =
        moves_data(&layout.now, &plan.ring).map_err(|error| Failure::usage(error.to_string()))?;
    Ok((Change::To(Box::new(plan.ring)), moves))
}

/// Plans these changes and proposes what follows from them, against the layout that was seen; the version chosen.
/// # Errors
/// Exit 2 where they cannot be planned, 3 where another layout is in force by now, 75 where a change runs or too few
/// members answer.
pub(super) async fn commit_changes(
    session: &Session,
    sight: &Sight,
    changes: &[Staged],
) -> Result<u64, Failure> {
    let (change, _) = planned_change(&sight.view.layout, changes, false)?;
    propose(session, sight, change).await
}

async fn propose(session: &Session, sight: &Sight, change: Change) -> Result<u64, Failure> {
    let expect = sight.view.layout.version;
    match session.call(None, RequestBody::Propose { expect, change }).await? {
        ReplyBody::Chosen { version } => Ok(version),
        _ => Err(Failure::new(Exit::Protocol, "commit got another reply")),
    }
}

/// `cluster abort`.
async fn abort(
    args: &AbortArgs,
    session: &Session,
    sight: &Sight,
    common: &Common,
    out: &mut dyn Write,
) -> anyhow::Result<Exit> {
    if sight.view.layout.next.is_some() {
        let change = (Change::Abort, false);
        return finish(session, sight, change, (args.dry.dry_run, false), common, out).await;
    }
    if !args.dry.dry_run {
        unstage(session, sight).await?;
    }
    if common.format() == Format::Json {
        writeln!(out, "{}", Object::new("unstaged").field("dry_run", args.dry.dry_run).finish())?;
    }
    Ok(Exit::Done)
}

/// Proposes a layout, and says what came of it.
async fn finish(
    session: &Session,
    sight: &Sight,
    (change, moves): (Change, bool),
    (is_dry, waits): (bool, bool),
    common: &Common,
    out: &mut dyn Write,
) -> anyhow::Result<Exit> {
    let version = if is_dry {
        sight.view.layout.version + 1
    } else {
        propose(session, sight, change).await?
    };
    if common.format() == Format::Json {
        let object = Object::new("committed")
            .field("layout", version)
            .field("moves_data", moves)
            .field("dry_run", is_dry);
        writeln!(out, "{}", object.finish())?;
    } else if !common.quiet {
        let verb = if is_dry { "would be" } else { "is" };
        writeln!(out, "layout v{version} {verb} chosen")?;
        if moves && !waits && !is_dry && common.format() == Format::Human {
            let text = "kvctl: data moves now: kvctl cluster show tells how far it is";
            writeln!(std::io::stderr().lock(), "{text}")?;
        }
    }
    Ok(Exit::Done)
}

fn parse_mode(text: &str) -> Result<Mode, String> {
    match text {
        "available" => Ok(Mode::Available),
        "consistent" => Ok(Mode::Consistent),
        _ => Err("`available` or `consistent`".to_owned()),
    }
}
