//! `autoscale`: nodes are added and taken away by their load, as a policy says (DESIGN §8).
//!
//! A look ([`seen`]) is judged ([`judgement`]), a decision follows ([`decision`], pure), is put on record ([`memory`]),
//! told ([`told`]), and done ([`act`]). What becomes of a step the next look shows.

mod act;
mod decision;
mod judgement;
mod memory;
mod policy;
mod seen;
#[cfg(test)]
mod tests;
mod told;

use std::io::Write;
use std::path::PathBuf;
use std::time::Duration;

use clap::Args;

use crate::cli::connect::{Connect, Session, TIMEOUT_DEFAULT, block_on_heeding};
use crate::cli::exit::Exit;
use crate::cli::failure::{Failure, tell};
use crate::cli::human;
use crate::cli::interrupts::Interrupts;
use crate::cli::options::Common;

use super::PROGRAM;
use super::status::Sight;
use act::{Done, carry_out};
use decision::{Decision, Step, Stop, decide};
use memory::{Doing, Kept, Memory};
use policy::Policy;
use seen::Seen;
use told::Teller;

/// Pause between two looks while something is under way.
const PAUSE: Duration = Duration::from_millis(500);

#[derive(Args, Clone, Debug)]
pub(crate) struct AutoscaleArgs {
    /// The policy: when nodes are added and taken away, and how (examples/autoscale)
    #[arg(long, value_name = "FILE")]
    policy: PathBuf,
    /// Where to remember what earlier looks showed and what is under way [default: beside the policy, FILE.state]
    #[arg(long, value_name = "FILE")]
    state: Option<PathBuf>,
    /// Decide once, and end when that is done
    #[arg(long)]
    once: bool,
    /// Only say what would be done
    #[arg(short = 'n', long)]
    dry_run: bool,
}

/// What the loop carries along.
struct Autoscaler<'a> {
    args: &'a AutoscaleArgs,
    policy: Policy,
    kept: Kept,
    connect: &'a Connect,
    session: Option<Session>,
}

/// How it goes on after a look.
enum Next {
    /// What was begun goes on.
    Soon,
    /// Nothing is under way.
    Later,
    /// A step failed, or what was begun came to nothing.
    Failed(Failure),
}

/// `autoscale`.
pub(crate) fn autoscale(
    args: &AutoscaleArgs,
    connect: &Connect,
    common: &Common,
    out: &mut dyn Write,
) -> anyhow::Result<Exit> {
    let policy = Policy::read(&args.policy)?;
    let path = Kept::path(&args.policy, args.state.as_ref());
    let kept = if args.dry_run { Kept::peek(path)? } else { Kept::take(path)? };
    let autoscaler = Autoscaler { args, policy, kept, connect, session: None };
    let teller = Teller::new(common, args.dry_run, out);
    block_on_heeding(async |interrupts| autoscaler.run(teller, interrupts).await)
}

impl Autoscaler<'_> {
    /// Looks, decides and acts until it is told to end; with `--once` until nothing is under way.
    async fn run(
        mut self,
        mut teller: Teller<'_>,
        interrupts: &mut Interrupts,
    ) -> anyhow::Result<Exit> {
        loop {
            // A look changes nothing: it may be left at any time. A step is not.
            let looked = tokio::select! {
                biased;
                exit = interrupts.next() => return Ok(exit),
                looked = self.look() => looked,
            };
            let next = match looked {
                Ok((session, sight, seen)) => {
                    let decision = decide(&self.policy, &self.kept.memory, &seen);
                    teller.tell(&decision, &seen)?;
                    self.act(decision, &session, &sight).await?
                }
                Err(failure) => {
                    self.session = None;
                    Next::Failed(failure)
                }
            };
            let is_over = self.args.once && !matches!(next, Next::Soon);
            let pause = match next {
                Next::Failed(failure) if is_over => return Err(failure.into()),
                Next::Later if is_over => return Ok(Exit::Done),
                Next::Soon => PAUSE,
                Next::Later => self.policy.interval,
                Next::Failed(failure) => {
                    tell(PROGRAM, &failure.into());
                    self.policy.interval
                }
            };
            tokio::select! {
                biased;
                exit = interrupts.next() => return Ok(exit),
                () = tokio::time::sleep(pause) => {}
            }
        }
    }

    async fn look(&mut self) -> Result<(Session, Sight, Seen), Failure> {
        let session = match &self.session {
            Some(session) => session.clone(),
            None => self.connect.open(PROGRAM, TIMEOUT_DEFAULT).await?,
        };
        let (sight, seen) = Seen::take(&session).await?;
        // Where somebody could not be asked the next look begins anew: an address may have been learned since.
        let is_whole = seen.nodes.values().all(|node| node.is_up);
        self.session = is_whole.then(|| session.clone());
        Ok((session, sight, seen))
    }

    /// Puts a decision on record, does it, and puts on record what came of it.
    async fn act(
        &mut self,
        decision: Decision,
        session: &Session,
        sight: &Sight,
    ) -> Result<Next, Failure> {
        let Decision { step, why, mut memory } = decision;
        if self.args.dry_run {
            // Nothing is begun: the next look finds all as it is.
            memory.pending.clone_from(&self.kept.memory.pending);
            memory.changed = self.kept.memory.changed;
            self.kept.keep(memory)?;
            return Ok(Next::Later);
        }
        self.kept.keep(memory.clone())?;
        let outcome = carry_out(&step, &self.policy, session, sight).await;
        let is_over = remember(&mut memory, &step, outcome.as_ref().ok().copied());
        self.kept.keep(memory.clone())?;
        Ok(match (step, outcome) {
            (Step::Start { node, .. }, Err(failure)) => {
                // Whatever it began is ended at once.
                let stop = Step::Stop { node, why: Stop::NeverJoined };
                let stopped = carry_out(&stop, &self.policy, session, sight).await;
                remember(&mut memory, &stop, stopped.as_ref().ok().copied());
                self.kept.keep(memory)?;
                Next::Failed(match stopped {
                    Ok(_) => failure,
                    Err(further) => failure.note(format!("and {further}")),
                })
            }
            (_, Err(failure)) => Next::Failed(failure),
            (Step::Hold, Ok(_)) => Next::Later,
            (Step::Stop { why: Stop::NeverJoined, .. }, Ok(_)) => {
                let why = format!("{}; it is stopped", why.join("; "));
                Next::Failed(Failure::new(Exit::TryAgain, why).code("never_joined"))
            }
            (_, Ok(_)) if is_over => Next::Later,
            (_, Ok(_)) => Next::Soon,
        })
    }
}

/// What is to be remembered of a step besides what the decision said; whether nothing is under way any more.
fn remember(memory: &mut Memory, step: &Step, done: Option<Done>) -> bool {
    let now = Some(human::now());
    if let Some(pending) = &mut memory.pending {
        match (step, done) {
            (_, Some(Done::Chosen(version))) => pending.layout = version,
            (Step::Start { .. }, Some(Done::Plain)) => {
                (pending.doing, pending.since) = (Doing::Joining, human::now());
            }
            // Whatever it began is to be stopped.
            (Step::Start { .. }, None) => pending.doing = Doing::Stopping,
            (Step::Join { .. }, None) => pending.failures += 1,
            (Step::Leave { .. }, None) | (Step::Stop { .. }, Some(Done::Plain)) => {
                (memory.pending, memory.changed) = (None, now);
            }
            (Step::Stop { .. }, None)
            | (Step::Hold | Step::Wait, _)
            | (Step::Join { .. } | Step::Leave { .. }, Some(Done::Plain)) => {}
        }
    }
    memory.pending.is_none()
}
