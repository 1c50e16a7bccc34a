//! `cluster recover`: the way out after the loss of a majority of the members for good (DESIGN §3).
//!
//! This tool drives the protocol of `cluster::recover` from outside: it asks every survivor what it knows, plans, says what
//! may be lost, has all of them accept, and tells them to begin. Should it die in between, it is run once more.

use std::collections::BTreeSet;
use std::io::{self, BufRead, IsTerminal, Write};

use clap::Args;
use futures_util::future::join_all;

use crate::cli::connect::Session;
use crate::cli::exit::Exit;
use crate::cli::failure::Failure;
use crate::cli::json::Object;
use crate::cli::options::{Common, Format};
use crate::cluster::LayoutTag;
use crate::cluster::recover::{Knowledge, Plan, PlanError, plan};
use crate::node_id::NodeId;
use crate::ring::{Layout, Member};
use crate::wire::client::{Recover, ReplyBody, RequestBody, View};

use super::super::percent;
use super::DryRun;
use super::waiting::PAUSE;

/// What an operator types to go on.
const CONSENT: &str = "accept loss";

#[derive(Args, Clone, Debug)]
pub(crate) struct RecoverArgs {
    /// The survivors, all of which must answer; every other member is left behind for good
    #[arg(long, value_name = "NAME", num_args = 1.., required = true)]
    accept_loss: Vec<String>,
    /// Yes, what only other members hold is lost
    #[arg(short, long)]
    yes: bool,
    /// Wait until the survivors have merged what they hold, and strict requests are answered again
    #[arg(long)]
    wait: bool,
    #[command(flatten)]
    dry: DryRun,
}

/// `cluster recover`.
pub(super) async fn recover(
    args: &RecoverArgs,
    session: &Session,
    common: &Common,
    out: &mut dyn Write,
) -> anyhow::Result<Exit> {
    let ReplyBody::View(view) = session.call(None, RequestBody::View).await? else {
        return Err(Failure::new(Exit::Protocol, "recover got another reply").into());
    };
    let survivors = named(&view, &args.accept_loss)?;
    let told = ask(session, &view.layout, &survivors).await?;
    let plan = plan(&survivors, &told).map_err(|error| not_planned(error, &view.layout))?;
    if common.format() == Format::Human && !common.quiet {
        report(&plan, common, out)?;
    }
    if !args.dry.dry_run {
        if !args.yes {
            consent(out)?;
        }
        accept(session, &plan).await?;
        begin(session, &plan).await?;
        if args.wait {
            wait(session, &plan).await;
        }
    }
    match common.format() {
        Format::Json => writeln!(out, "{}", json(&plan, args.dry).finish())?,
        Format::Human if !common.quiet && !args.dry.dry_run && !args.wait => writeln!(
            io::stderr().lock(),
            "kvctl: the survivors merge what they hold: kvctl cluster show tells how far it is"
        )?,
        Format::Human | Format::Plain => {}
    }
    Ok(Exit::Done)
}

fn named(view: &View, names: &[String]) -> Result<BTreeSet<NodeId>, Failure> {
    let id = |name: &String| {
        let found = view.layout.members().find(|member| member.name == *name);
        let unknown = || Failure::usage(format!("no member is named `{name}`"));
        found.map(|member| member.id).ok_or_else(unknown)
    };
    names.iter().map(id).collect()
}

fn name(layout: &Layout, node: NodeId) -> String {
    layout.member(node).map_or_else(|| node.to_string(), |member| member.name.clone())
}

/// What each survivor knows.
async fn ask(
    session: &Session,
    layout: &Layout,
    survivors: &BTreeSet<NodeId>,
) -> Result<Vec<Knowledge>, Failure> {
    let asked = survivors.iter().map(|node| step(session, *node, Recover::Tell));
    let told = join_all(asked).await;
    let told = survivors.iter().zip(told).map(|(node, told)| {
        told.map_err(|failure| {
            let text = format!("{} does not answer, and is named", name(layout, *node));
            Failure::new(Exit::TryAgain, text)
                .because(failure)
                .note("all survivors must agree; who is lost, too, must not be named")
        })
    });
    told.collect()
}

async fn step(session: &Session, node: NodeId, step: Recover) -> Result<Knowledge, Failure> {
    match session.call(Some(node), RequestBody::Recover(step)).await? {
        ReplyBody::Recovery(knowledge) => Ok(*knowledge),
        _ => Err(Failure::new(Exit::Protocol, "recover got another reply")),
    }
}

fn not_planned(error: PlanError, layout: &Layout) -> Failure {
    match error {
        PlanError::Present(present) => {
            let names: Vec<String> = present.iter().map(|node| name(layout, *node)).collect();
            Failure::new(
                Exit::TryAgain,
                format!("{} would be left behind, and can still be heard", names.join(", ")),
            )
            .note("name it, too, or stop it for good; who has just died is given up within seconds")
        }
        PlanError::Stranger(node) => {
            let text = format!(
                "{} is no member of the layout in force with the others",
                name(layout, node)
            );
            Failure::usage(text)
                .note("it was removed, or left behind by a recovery: wipe its directory and let it join anew")
        }
        PlanError::Majority => Failure::usage(error.to_string())
            .note("kvctl cluster remove, then plan and commit, takes the others out"),
        PlanError::Nobody | PlanError::NobodyLost | PlanError::Layout(_) => {
            Failure::usage(error.to_string())
        }
    }
}

/// The names of a plan's survivors, and of who is left behind, as people count them.
fn names(plan: &Plan) -> (Vec<&str>, Vec<&str>) {
    let mut members: Vec<&Member> = plan.base.members().collect();
    members.sort_by_key(|member| (member.name.len(), &member.name));
    let survives = |member: &&Member| plan.layout.now.member(member.id).is_some();
    let (left, lost): (Vec<&Member>, Vec<&Member>) = members.into_iter().partition(survives);
    (left.into_iter().map(name_of).collect(), lost.into_iter().map(name_of).collect())
}

fn name_of(member: &Member) -> &str {
    &member.name
}

fn report(plan: &Plan, common: &Common, out: &mut dyn Write) -> io::Result<()> {
    let Plan { base, layout, loss, is_resumed, .. } = plan;
    let (survivors, lost) = names(plan);
    writeln!(out, "survivors   {}", survivors.join(", "))?;
    writeln!(out, "left behind {}", lost.join(", "))?;
    writeln!(out, "based on    layout v{} of generation {}", base.version, base.generation)?;
    let goes_on = if *is_resumed { ", which some have accepted before" } else { "" };
    writeln!(
        out,
        "becomes     layout v{} of generation {}{goes_on}",
        layout.version, layout.generation
    )?;
    let total = loss.total();
    let line = |count: usize| {
        let count_text = common.count(u64::try_from(count).unwrap_or(u64::MAX));
        format!("{count_text:>11} partitions, {} of all keys", percent(count, total))
    };
    let (gone, thin) = (loss.without_owner(), loss.with_too_few());
    writeln!(out, "{}: no owner survives; what they held is lost", line(gone))?;
    writeln!(
        out,
        "{}: fewer than {} owners survive; acknowledged writes may be lost",
        line(thin),
        loss.enough
    )?;
    writeln!(out, "{}: enough owners survive", line(total - gone - thin))?;
    if base.recovers {
        writeln!(out, "the recovery before was not done: owners may hold less than this says")?;
    }
    Ok(())
}

fn json(plan: &Plan, dry: DryRun) -> Object {
    let Plan { base, layout, loss, is_resumed, .. } = plan;
    let (survivors, lost) = names(plan);
    Object::new("recovery")
        .field("survivors", survivors)
        .field("left_behind", lost)
        .object(
            "base",
            Object::bare().field("layout", base.version).field("generation", base.generation),
        )
        .field("layout", layout.version)
        .field("generation", layout.generation)
        .field("resumed", is_resumed)
        .field("partitions", loss.total())
        .field("surviving_owners", &loss.partitions)
        .field("owners_enough", loss.enough)
        .field("without_owner", loss.without_owner())
        .field("with_too_few", loss.with_too_few())
        .field("dry_run", dry.dry_run)
}

/// Asks for the operator's word.
fn consent(out: &mut dyn Write) -> Result<(), Failure> {
    let stdin = io::stdin();
    if !stdin.is_terminal() || !io::stderr().is_terminal() {
        return Err(Failure::usage("what only others hold is lost for good: say --yes"));
    }
    let asked = out.flush().and_then(|()| {
        write!(io::stderr().lock(), "Type `{CONSENT}` to go on without them: ")?;
        let mut line = String::new();
        stdin.lock().read_line(&mut line).map(|_| line)
    });
    match asked {
        Ok(line) if line.trim() == CONSENT => Ok(()),
        Ok(_) => Err(Failure::usage(format!("nothing is done: `{CONSENT}` was not typed"))),
        Err(error) => Err(Failure::new(Exit::Io, "cannot ask").because(error)),
    }
}

/// Has every survivor accept, durably. All of them must.
async fn accept(session: &Session, plan: &Plan) -> Result<(), Failure> {
    for node in &plan.open {
        let accepted = step(session, *node, Recover::Accept(Box::new(plan.layout.clone()))).await;
        if let Err(failure) = accepted {
            let text = format!("{} has not accepted it", name(&plan.layout, *node));
            return Err(Failure::new(Exit::TryAgain, text).because(failure).note(
                "nothing is lost by that: run it again with the same names, or without who is gone",
            ));
        }
    }
    Ok(())
}

/// All accepted: one that begins is enough, the others learn it from that one.
async fn begin(session: &Session, plan: &Plan) -> Result<(), Failure> {
    let tag = LayoutTag::of(&plan.layout);
    let mut failed = None;
    let mut has_begun = plan.open.len() < plan.layout.now.members.len();
    for node in &plan.open {
        match step(session, *node, Recover::Begin(tag)).await {
            Ok(_) => has_begun = true,
            Err(failure) => failed = Some(failure),
        }
    }
    match failed {
        Some(failure) if !has_begun => {
            Err(Failure::new(Exit::TryAgain, "all survivors accepted it, and none has begun")
                .because(failure)
                .note("run it again with the same names"))
        }
        Some(_) | None => Ok(()),
    }
}

/// Until a survivor says that the recovery is done.
async fn wait(session: &Session, plan: &Plan) {
    let survivors = || plan.layout.now.members.iter().map(|member| member.id);
    loop {
        for node in survivors() {
            let reply = session.call(Some(node), RequestBody::Layout).await;
            if let Ok(ReplyBody::Layout(reply)) = reply
                && reply.layout.generation >= plan.layout.generation
                && !reply.layout.recovers
            {
                return;
            }
        }
        tokio::time::sleep(PAUSE).await;
    }
}
