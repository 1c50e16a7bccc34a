//! `context decode`: what a token says, offline.

use std::io::Write;

use clap::{Args, Subcommand};

use crate::cli::exit::Exit;
use crate::cli::json::Object;
use crate::cli::options::{Common, Format};
use crate::version::Context;

use super::write::{context_failure, token_text};

#[derive(Subcommand, Clone, Debug)]
pub(crate) enum ContextCommand {
    /// Show the clock in a context token; needs no cluster
    Decode(DecodeArgs),
}

#[derive(Args, Clone, Debug)]
pub(crate) struct DecodeArgs {
    /// The token, or the file that holds it
    #[arg(value_name = "TOKEN|@FILE")]
    token: std::ffi::OsString,
}

/// Shows a token's clock.
pub(crate) fn decode(
    args: &DecodeArgs,
    common: &Common,
    out: &mut dyn Write,
) -> anyhow::Result<Exit> {
    let context =
        Context::decode(&token_text(&args.token)?).map_err(|error| context_failure(&error))?;
    let entries = context.named();
    let clock = entries
        .iter()
        .fold(Object::bare(), |object, (actor, counter)| object.field(actor, counter));
    match common.format() {
        Format::Human => writeln!(out, "{}", clock.finish())?,
        Format::Json => {
            writeln!(out, "{}", Object::new("context").object("clock", clock).finish())?;
        }
        Format::Plain => {
            for (actor, counter) in entries {
                writeln!(out, "{actor}\t{counter}")?;
            }
        }
    }
    Ok(Exit::Done)
}
