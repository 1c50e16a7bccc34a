//! `kvsstable`: SSTables, commit logs and manifests offline.
//!
//! It never changes what it reads, goes on past damage and names what it skipped, and takes memory for one block a table
//! and for what the log holds beside the tables.

mod bloom;
mod build;
mod compact;
mod diff;
mod dump;
mod entry;
mod get;
mod hist;
mod info;
mod interrupt;
mod levels;
mod log;
mod manifest;
mod report;
mod salvage;
mod target;
mod verify;

use std::io::Write;
use std::process::ExitCode;

use clap::{Parser, Subcommand};

use super::exit::Exit;
use super::failure::Failure;
use super::generate::Generate;
use super::options::Common;
use super::program::{self, Manual, Program};

const PROGRAM: &str = "kvsstable";

/// Looks into a node's files: SSTables, commit logs, manifests; needs no running node
#[derive(Parser, Debug)]
#[command(name = PROGRAM, arg_required_else_help = true)]
pub(crate) struct Kvsstable {
    #[command(subcommand)]
    command: Option<Command>,
    #[command(flatten)]
    common: Common,
    /// Print a text made from these definitions and exit
    #[arg(long, value_enum, value_name = "WHAT", help_heading = "Shared options")]
    generate: Option<Generate>,
}

#[derive(Subcommand, Debug)]
enum Command {
    /// Show what SSTables say of themselves
    Info(info::InfoArgs),
    /// Print entries as records (kv-records/1): of a file every entry as stored, of a directory the live view
    Dump(dump::DumpArgs),
    /// Show where a key stands: which file, block and offset; exit 1 if nowhere
    Get(get::GetArgs),
    /// Check every checksum; exit 65 and the list of what is bad
    Verify(verify::VerifyArgs),
    /// Ask or measure bloom filters
    #[command(subcommand)]
    Bloom(bloom::BloomCommand),
    /// Show how sizes, ages or tombstones are spread
    #[command(subcommand)]
    Hist(hist::HistCommand),
    /// Merge SSTables into new ones
    Compact(compact::CompactArgs),
    /// Save what is left of a damaged SSTable or commit log into a new file; exit 65 where anything is lost
    Salvage(salvage::SalvageArgs),
    /// Make SSTables of records: what a dump of them gives again
    Build(build::BuildArgs),
    /// Compare two files or directories; exit 1 where they differ
    Diff(diff::DiffArgs),
    /// Show how a store's tables lie over each other
    Levels(levels::LevelsArgs),
    /// Look into commit logs
    #[command(subcommand)]
    Log(log::LogCommand),
    /// Look into manifests
    #[command(subcommand)]
    Manifest(manifest::ManifestCommand),
}

/// Runs `kvsstable`.
pub fn main() -> ExitCode {
    program::main::<Kvsstable>()
}

impl Program for Kvsstable {
    const MANUAL: Manual = Manual {
        program: PROGRAM,
        description: "kvsstable looks into the files of a kvkit node: SSTables, commit logs and manifests. It needs no \
            running node; reading beside a running one is safe. It never changes what it reads, goes on past damage \
            and names what it skipped.",
        examples: "\
# what is in a file, and is it sound?
kvsstable info n1/sst/00000003.sst
kvsstable verify n1

# every live record of a node's directory, the log included
kvsstable dump n1 > n1.ndjson

# where does a key stand?
kvsstable get cart:42 n1

# is the bloom filter as good as it should be?
kvsstable bloom stats n1/sst/*.sst

# how large are the values, and how old? how many tombstones wait for their end?
kvsstable hist sizes --plot n1
kvsstable hist tombstones n1

# which tables does a read have to ask?
kvsstable levels n1

# a damaged file: what is bad, and what can be saved?
kvsstable verify n1/sst/00000003.sst
kvsstable salvage n1/sst/00000003.sst -o saved

# records out, and the same records in again
kvsstable dump n1 | jq -c 'select(.type == \"kv\" and .key != \"cart:42\")' | kvsstable build -o edited
kvsstable diff n1 edited

# what was written last?
kvsstable log dump n1/log/*.log | tail -1",
        environment: &[("NO_COLOR", "no colours, where it is set and not empty")],
        files: &[
            ("sst/NNNNNNNN.sst", "SSTables"),
            ("log/NNNNNNNN.log", "the commit log"),
            ("manifest/", "which tables and logs make up the store"),
            (
                "LOCK",
                "the process that runs on the directory; writing into a locked one is refused with 75",
            ),
        ],
        see_also: &["kvctl", "kvnode", "kvring"],
    };

    fn generate(&self) -> Option<Generate> {
        self.generate
    }

    fn run(self, out: &mut dyn Write) -> anyhow::Result<Exit> {
        let common = self.common;
        interrupt::end_on_signals()?;
        match self.command {
            None => Err(Failure::usage("no command; see kvsstable --help").into()),
            Some(Command::Info(args)) => info::info(&args, &common, out),
            Some(Command::Dump(args)) => dump::dump(&args, &common, out),
            Some(Command::Get(args)) => get::get(&args, &common, out),
            Some(Command::Verify(args)) => verify::verify(&args, &common, out),
            Some(Command::Bloom(command)) => bloom::run(&command, &common, out),
            Some(Command::Hist(command)) => hist::run(&command, &common, out),
            Some(Command::Salvage(args)) => salvage::salvage(&args, &common, out),
            Some(Command::Build(args)) => build::build(&args, &common, out),
            Some(Command::Diff(args)) => diff::diff(&args, &common, out),
            Some(Command::Levels(args)) => levels::levels(&args, &common, out),
            Some(Command::Compact(args)) => compact::compact(&args, &common, out),
            Some(Command::Log(command)) => log::run(&command, &common, out),
            Some(Command::Manifest(command)) => manifest::run(&command, &common, out),
        }
    }
}
