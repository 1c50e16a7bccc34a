//! `kvring`: the ring and its virtual nodes, live or from a file.

mod balance;
mod colours;
mod diff;
mod locate;
mod moves;
mod plan;
#[cfg(test)]
mod sample;
mod simulate;
mod source;
mod svg_plot;
mod terminal_plot;
mod whatif;
mod wishes;

use std::ffi::OsString;
use std::fs;
use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Context as _;
use clap::{Args, Parser, Subcommand};

use super::connect::Connect;
use super::exit::Exit;
use super::failure::Failure;
use super::generate::Generate;
use super::options::{Common, Format};
use super::program::{self, Manual, Program};

pub(crate) use plan::report_plan;
use source::Known;

const PROGRAM: &str = "kvring";

/// Shows the ring of a kvkit cluster: who owns what, and how even it is
#[derive(Parser, Debug)]
#[command(name = PROGRAM, arg_required_else_help = true)]
pub(crate) struct Kvring {
    #[command(subcommand)]
    command: Option<Command>,
    /// Read the layout from a file that `kvring export` wrote (`-` is stdin) instead of the cluster
    #[arg(long, global = true, value_name = "FILE|-", help_heading = "Connection")]
    layout: Option<OsString>,
    #[command(flatten)]
    connect: Connect,
    #[command(flatten)]
    common: Common,
    /// Print a text made from these definitions and exit
    #[arg(long, value_enum, value_name = "WHAT", help_heading = "Shared options")]
    generate: Option<Generate>,
}

#[derive(Subcommand, Debug)]
enum Command {
    /// List the members and what each of them owns
    Show,
    /// Show where keys lie: token, partition, replicas in order
    Locate(locate::LocateArgs),
    /// Print a key's token and slot; needs no cluster
    Hash(locate::HashArgs),
    /// Compare what each member holds with its fair share; exit 1 if it is off by more than allowed
    Balance(balance::BalanceArgs),
    /// Check that the replicas of every partition are on distinct nodes and zones; exit 1 if not
    Check,
    /// Draw the ring and each member's share
    Plot(PlotArgs),
    /// Print the layout as one JSON object, for --layout
    Export,
    /// Compare two layouts: members, quorum, owners, and what would move; exit 1 if they differ
    ///
    /// Members are told apart by identity, not by name; versions do not count. B is left out to compare a saved layout
    /// with the cluster's.
    Diff(diff::DiffArgs),
    /// Show the ring that a change would lead to: what moves, from whom to whom, and how even it would be
    ///
    /// Nothing is changed. With --out the planned layout can be passed on to any command that takes --layout; a planned
    /// member's identity is made from its name until the real one comes. Bytes are estimated from what each node says it
    /// holds, or from --bytes.
    Plan(plan::PlanArgs),
    /// Show what stays available while members or zones are down, and the odds of random failures
    ///
    /// A strict request counts owners: a get needs max(R, N-R+1) of them up, a put without a context max(R, W). A sloppy
    /// one lets other members stand in. Up to a million ways for the failures to fall all are looked at; past that a
    /// sample is, and the odds come with a 95% interval.
    Whatif(whatif::WhatifArgs),
    /// Show how even a ring of any size is, beside random tokens, and what joins move; needs no cluster
    ///
    /// Figures are against each member's fair share, so that 1 is even: of the ring (what endless keys would give) and of
    /// many hashed keys.
    Simulate(simulate::SimulateArgs),
}

#[derive(Args, Clone, Debug)]
struct PlotArgs {
    /// Write an SVG drawing to this file (`-` is stdout) instead of drawing in the terminal
    #[arg(long, value_name = "FILE|-")]
    svg: Option<PathBuf>,
}

/// Runs `kvring`.
pub fn main() -> ExitCode {
    program::main::<Kvring>()
}

impl Program for Kvring {
    const MANUAL: Manual = Manual {
        program: PROGRAM,
        description: "kvring shows the ring of a kvkit cluster. The ring has 65,536 slots (the top 16 bits of a \
            key's token, which is the first 8 bytes of its SHA-1) and Q equal partitions of whole slots. Each \
            partition is a virtual node, owned by one member; a key's replicas are the first N distinct members \
            clockwise from its partition, distinct zones first. It asks the live cluster, or reads a saved layout \
            and needs none.",
        examples: "\
# who owns what, and is it even?
kvring show
kvring balance --max-skew 5%
kvring check

# where does a key lie?
kvring locate cart:42
kvctl keys user: | kvring locate - --json | jq -r '.replicas[0]' | sort | uniq -c

# keep a layout, look at it later
kvring export > layout.json
kvring plot --layout layout.json
kvring plot --svg ring.svg
kvring diff layout.json

# what would a change move, and would it be even?
kvring plan --add n4:zone-b:2 --remove n2
kvring plan --add n4 --out - | kvring balance --layout -

# what stays available, and how likely is it to lose a quorum?
kvring whatif --kill n7,zone-b
kvring whatif --random 2

# how even is a ring of this size, and how even would random tokens be?
kvring simulate --nodes 100 --random-tokens 256 --joins 3",
        environment: &[
            (
                "KVCTL_HOSTS",
                "nodes to begin with, host:port separated by commas, where --hosts is not given",
            ),
            ("NO_COLOR", "no colours, where it is set and not empty"),
        ],
        files: &[],
        see_also: &["kvctl", "kvnode", "kvsstable"],
    };

    fn generate(&self) -> Option<Generate> {
        self.generate
    }

    fn run(self, out: &mut dyn Write) -> anyhow::Result<Exit> {
        let Self { command, layout, connect, common, generate: _ } = self;
        common.start_talk();
        let known = || source::load(layout.as_ref(), &connect);
        match command {
            None => Err(Failure::usage("no command; see kvring --help").into()),
            Some(Command::Hash(args)) => locate::hash(&args, &common, out),
            Some(Command::Locate(args)) => {
                if layout.as_ref().is_some_and(|file| file == "-") && args.reads_stdin() {
                    return Err(
                        Failure::usage("the layout and the keys cannot both be stdin").into()
                    );
                }
                locate::locate(&args, &known()?, &common, out)
            }
            Some(Command::Show) => balance::show(&known()?, &common, out),
            Some(Command::Balance(args)) => balance::balance(&args, &known()?, &common, out),
            Some(Command::Check) => balance::check(&known()?, &common, out),
            Some(Command::Plot(args)) => plot(&args, &known()?, &common, out),
            Some(Command::Export) => {
                source::export(&known()?, out)?;
                Ok(Exit::Done)
            }
            Some(Command::Diff(args)) => {
                let layouts = args.load(layout.as_ref(), known)?;
                diff::diff(layouts, &common, out)
            }
            Some(Command::Plan(args)) => {
                let known = source::load_with_data(layout.as_ref(), &connect)?;
                plan::plan(args, &known, &common, out)
            }
            Some(Command::Whatif(args)) => whatif::whatif(&args, &known()?, &common, out),
            Some(Command::Simulate(args)) => simulate::simulate(&args, &common, out),
        }
    }
}

fn plot(
    args: &PlotArgs,
    known: &Known,
    common: &Common,
    out: &mut dyn Write,
) -> anyhow::Result<Exit> {
    match &args.svg {
        Some(path) if path.as_os_str() == "-" => out.write_all(svg_plot::svg(known).as_bytes())?,
        Some(path) => fs::write(path, svg_plot::svg(known))
            .map_err(|error| Failure::not_written(&path.display().to_string(), error))?,
        None => match common.format() {
            Format::Human => terminal_plot::plot(known, common.palette(), out)?,
            // A drawing has no fields: machines get the figures that it shows.
            Format::Plain | Format::Json => {
                return balance::show(known, common, out).context("showing the shares");
            }
        },
    }
    Ok(Exit::Done)
}
