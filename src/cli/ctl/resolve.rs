//! `resolve`: many siblings become one version.
//!
//! The write replaces exactly what its read saw; what came in since stays a sibling. A merge or a program then takes
//! that in too, again by a read and a write; a choice by number was made among what stood there, so that it ends with
//! exit 3 where something new stands beside it.

use std::ffi::OsString;
use std::io::{self, Write};

use clap::Args;

use crate::cli::connect::Session;
use crate::cli::exit::Exit;
use crate::cli::failure::Failure;
use crate::cli::json::Object;
use crate::cli::options::Common;
use crate::cli::records;
use crate::version::{Content, Siblings};
use crate::wire::client::{Got, PutBasis};

use super::filter::filtered;
use super::merge::Merge;
use super::read::{absent, tell};
use super::rewrite::{ATTEMPTS_MAX, Rewrite, RewriteFlags, Written};
use super::siblings::{dot_shown, lines, listed, with_siblings};

#[derive(Args, Clone, Debug)]
#[group(id = "way", required = true, multiple = false, args = ["take", "merge", "command"])]
pub(crate) struct ResolveArgs {
    /// The key
    key: OsString,
    /// Keep this sibling, by its number or its dot as `kvctl get KEY` lists them; of a deleted one, delete
    #[arg(long, value_name = "I|DOT")]
    take: Option<String>,
    /// Merge all of them
    #[arg(long, value_enum, value_name = "HOW")]
    merge: Option<Merge>,
    /// A program that gets the siblings on stdin, a JSON object a line: its number `n`, its `value` (`value_b64` where
    /// that is no text, `tombstone` where it was deleted), `dot` and `ts`. What it prints replaces them all, byte for
    /// byte; where it fails nothing is written: exit 1
    #[arg(last = true, value_name = "CMD")]
    command: Vec<OsString>,
    #[command(flatten)]
    flags: RewriteFlags,
}

/// `resolve`.
pub(crate) async fn resolve(
    args: &ResolveArgs,
    session: &Session,
    common: &Common,
    out: &mut dyn Write,
) -> anyhow::Result<Exit> {
    let rewrite = Rewrite::new("resolve", &args.key, args.flags, session, common)?;
    let mut written = None;
    for attempt in 1..=ATTEMPTS_MAX {
        let got = rewrite.read(attempt).await?;
        match (listed(&got.state).len(), &written) {
            (0 | 1, Some(done)) => return rewrite.finish(done, out),
            _ if !got.state.has_value() => {
                let failure = absent(&rewrite.key, &got, session);
                if common.json || !common.quiet {
                    tell(&failure.into(), common)?;
                }
                return Ok(Exit::No);
            }
            (1, None) => return nothing_to_do(args, &rewrite, &got, out),
            (_, Some(_)) if args.take.is_some() => break,
            (_, _) => {}
        }
        let content = one_of(args, &rewrite, &got).await?;
        if args.flags.dry_run {
            return rewrite.show(&content, out);
        }
        let basis = PutBasis::Context(got.state.clock().clone());
        match rewrite.write(content, basis).await? {
            Written::Done(done) if done.siblings <= 1 => return rewrite.finish(&done, out),
            Written::Done(done) => written = Some(done),
            Written::Stale => {}
        }
    }
    let got = rewrite.read(1).await?;
    let message = format!("{}: written, but others wrote beside it", rewrite.shown());
    let failure = Failure::new(Exit::Siblings, message);
    Err(with_siblings(failure, &rewrite.key, &got, session).detail("outcome", "applied").into())
}

/// The content that replaces all siblings.
async fn one_of(args: &ResolveArgs, rewrite: &Rewrite<'_>, got: &Got) -> anyhow::Result<Content> {
    match (&args.take, args.merge) {
        (Some(choice), _) => taken(choice, rewrite, &got.state),
        (None, Some(merge)) => {
            let content = merge.of(&listed(&got.state)).map_err(|error| {
                let failure = Failure::bad_data(format!("{}: no merge", rewrite.shown()));
                with_siblings(failure, &rewrite.key, got, rewrite.session)
                    .code("bad_data")
                    .because(error)
            })?;
            let bytes = content.len();
            rewrite.session.check_pair(&rewrite.key, bytes)?;
            Ok(content)
        }
        (None, None) => {
            let input = input_of(&got.state, rewrite.session);
            let output = filtered(&args.command, &input, rewrite.value_bytes_max()).await?;
            Ok(Content::Value(output))
        }
    }
}

/// The sibling chosen by number or dot.
fn taken(choice: &str, rewrite: &Rewrite<'_>, state: &Siblings) -> anyhow::Result<Content> {
    let number: Option<usize> = choice.parse().ok();
    let chosen = (1..).zip(listed(state)).find(|(place, (dot, _))| {
        number.map_or_else(|| dot_shown(*dot, rewrite.session) == choice, |number| number == *place)
    });
    if let Some((_, (_, version))) = chosen {
        return Ok(version.content.clone());
    }
    let message = format!("{} has no sibling `{choice}` (any more)", rewrite.shown());
    let failure = lines(state, rewrite.session)
        .into_iter()
        .fold(Failure::new(Exit::Siblings, message), Failure::note);
    Err(failure.code("stale_choice").detail("outcome", "not_applied").into())
}

/// The siblings as lines for a program.
fn input_of(state: &Siblings, session: &Session) -> Vec<u8> {
    let names = session.names();
    let mut input = Vec::new();
    for (number, (dot, version)) in (1_u64..).zip(listed(state)) {
        let object = Object::new("sibling").field("n", number);
        input.extend(records::version_fields(object, dot, version, &names).into_bytes());
        input.push(b'\n');
    }
    input
}

/// One version stands: nothing is written, unless it is not the one that was chosen.
fn nothing_to_do(
    args: &ResolveArgs,
    rewrite: &Rewrite<'_>,
    got: &Got,
    out: &mut dyn Write,
) -> anyhow::Result<Exit> {
    if let Some(choice) = &args.take {
        taken(choice, rewrite, &got.state)?;
    }
    if rewrite.common.json {
        let object = Object::new("unchanged").bytes("key", &rewrite.key).field("siblings", 1);
        writeln!(out, "{}", object.finish())?;
    } else if !rewrite.common.quiet {
        let shown = rewrite.shown();
        writeln!(io::stderr().lock(), "kvctl: {shown} has one version: nothing to resolve")?;
    }
    Ok(Exit::Done)
}
