//! `snapshot restore`: the states of copied parts, merged into the cluster that answers.

use std::io::{self, Write};
use std::path::PathBuf;

use clap::Args;

use crate::cli::connect::Session;
use crate::cli::ctl::import::{Storing, tell_names};
use crate::cli::ctl::resume::load;
use crate::cli::ctl::write::WriteFlags;
use crate::cli::exit::Exit;
use crate::cli::failure::Failure;
use crate::cli::options::Common;
use crate::cli::progress::{Progress, ProgressForm};

use super::joined;
use super::source::{Copies, Lacking};

#[derive(Args, Clone, Debug)]
pub(crate) struct RestoreArgs {
    /// The parts: copies of members' snapshots/NAME
    #[arg(required = true, value_name = "DIR")]
    dirs: Vec<PathBuf>,
    /// Restore what there is, though too few owners' parts are there to know all that was acknowledged
    #[arg(long)]
    accept_loss: bool,
    #[command(flatten)]
    write: WriteFlags,
    /// Requests in flight
    #[arg(short, long, value_name = "N", default_value_t = 64, value_parser = clap::value_parser!(u16).range(1..=4096))]
    jobs: u16,
    /// Keep a note of how far it came in this file, and continue from there; removed when all is in
    #[arg(long, value_name = "FILE")]
    resume: Option<PathBuf>,
    /// How to show progress
    #[arg(long, value_enum, value_name = "FORM", default_value_t)]
    progress: ProgressForm,
    /// Check the parts and read every key, and write nothing
    #[arg(short = 'n', long)]
    dry_run: bool,
}

/// `snapshot restore`.
pub(super) async fn restore(
    args: &RestoreArgs,
    session: &Session,
    common: &Common,
    out: &mut dyn Write,
) -> anyhow::Result<Exit> {
    let options = args.write.options(session)?;
    let from = args.resume.as_deref().map(load).transpose()?.flatten();
    let copies = Copies::open(&args.dirs)?;
    verify(&copies, args.progress, common)?;
    check_all_there(&copies.lacking(), args.accept_loss, common)?;
    if !args.dry_run {
        tell_names(session, copies.names()).await;
    }
    if !common.quiet && !common.json {
        writeln!(io::stderr().lock(), "kvctl: restoring {}", copies.title())?;
    }
    let source = copies.stream(from)?;
    let storing = Storing {
        options,
        jobs: args.jobs.into(),
        resume: args.resume.clone(),
        dry_run: args.dry_run,
        progress: args.progress,
        verb: "restored",
        unit: "key",
    };
    storing.run(source, session, common, out).await
}

fn verify(copies: &Copies, form: ProgressForm, common: &Common) -> anyhow::Result<()> {
    let mut progress = Progress::begin(form, common, "checked", Some(copies.bytes()));
    let verified = copies.verify(&mut |done| {
        progress.bytes = done;
        progress.tick();
    });
    progress.clear();
    verified
}

/// Whether enough is there to know all that was acknowledged.
fn check_all_there(lacking: &Lacking, accept_loss: bool, common: &Common) -> anyhow::Result<()> {
    let Lacking { members, partitions: (partitions, of) } = lacking;
    let missing = if members.is_empty() { "nobody's part".to_owned() } else { joined(members) };
    if *partitions > 0 && !accept_loss {
        let message = format!(
            "of {partitions} of {of} partitions too few owners' parts are there to know all that was acknowledged"
        );
        return Err(Failure::new(Exit::NoInput, message)
            .code("incomplete")
            .detail("partitions", partitions)
            .detail("missing", members)
            .note(format!("missing: {missing}; --accept-loss restores what there is"))
            .into());
    }
    if !members.is_empty() && !common.quiet {
        let text = format!(
            "kvctl: without the parts of {missing}: what they alone kept for others that were away is not in it"
        );
        writeln!(io::stderr().lock(), "{text}")?;
    }
    Ok(())
}
