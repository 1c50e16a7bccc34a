//! A kvkit cluster beside an etcd cluster: three nodes each, the same work in turns, every write synced by a majority.
//!
//! See the README for how it is run and what it measures.

#[expect(
    dead_code,
    reason = "the other benchmark, whose keys these are, also asks for missing ones"
)]
#[path = "../../engine/src/keys.rs"]
mod keys;
mod machine;
mod report;
mod system;
mod usage;
mod work;

use std::fs::File;
use std::io::{self, BufRead, BufReader, Write};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use clap::{Args, Parser, Subcommand};

use crate::keys::Zipf;
use crate::machine::Machine;
use crate::report::Report;
use crate::system::{Cluster, Name, Programs};
use crate::work::{Outcome, Row, Scale};

/// Threads of the load.
const LOAD_THREADS: usize = 2;

/// Measures a kvkit cluster beside an etcd cluster.
#[derive(Debug, Parser)]
#[command(version)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Starts the clusters, runs the rows in turns, and prints the table.
    Run(RunArguments),
    /// Prints the table of results that were kept with `--json`.
    Report {
        /// A file of results.
        file: PathBuf,
    },
}

#[derive(Debug, Args)]
struct RunArguments {
    /// A look whether everything works: few keys, a second a row, one round.
    #[arg(long)]
    short: bool,
    /// Keys in the data set [default: 100000, short: 2000].
    #[arg(long, value_parser = clap::value_parser!(u64).range(1..))]
    keys: Option<u64>,
    /// Seconds that are counted of each row [default: 10, short: 1].
    #[arg(long, value_parser = clap::value_parser!(u64).range(1..))]
    seconds: Option<u64>,
    /// How often each row is run [default: 5, short: 1].
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..))]
    rounds: Option<u32>,
    /// Only rows whose name begins so: `put`, `get/32`.
    #[arg(long, default_value = "")]
    rows: String,
    /// Only these systems.
    #[arg(long, value_delimiter = ',', default_value = "kvkit,etcd")]
    systems: Vec<Name>,
    /// The node's program, built with `cargo build --release` at the root.
    #[arg(long, default_value = "../../target/release/kvnode")]
    kvnode: PathBuf,
    /// etcd's program.
    #[arg(long, default_value = "etcd")]
    etcd: PathBuf,
    /// Where the clusters' data goes for the time of the run; a directory on the disk to be measured.
    #[arg(long, default_value_os_t = std::env::temp_dir())]
    dir: PathBuf,
    /// Keeps each result in this file, one JSON object a line, behind a line about the machine.
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
}

fn main() -> Result<()> {
    let out = &mut io::stdout().lock();
    match Arguments::parse().command {
        Command::Run(arguments) => {
            let runtime = tokio::runtime::Builder::new_multi_thread()
                .worker_threads(LOAD_THREADS)
                .enable_all()
                .build()?;
            runtime.block_on(run(&arguments, out))
        }
        Command::Report { file } => {
            let opened =
                File::open(&file).with_context(|| format!("opening {}", file.display()))?;
            let mut lines = BufReader::new(opened).lines();
            let machine: Machine = serde_json::from_str(&lines.next().context("an empty file")??)?;
            let outcomes: Vec<Outcome> =
                lines.map(|line| Ok(serde_json::from_str(&line?)?)).collect::<Result<_>>()?;
            Ok(write!(out, "{}", Report::new(&machine, &outcomes))?)
        }
    }
}

async fn run(arguments: &RunArguments, out: &mut dyn Write) -> Result<()> {
    let by = |given: Option<u64>, long, short| {
        given.unwrap_or(if arguments.short { short } else { long })
    };
    let time = Duration::from_secs(by(arguments.seconds, 10, 1));
    let scale = Scale { keys: by(arguments.keys, 100_000, 2_000), time };
    let rounds = arguments.rounds.unwrap_or(if arguments.short { 1 } else { 5 });
    let programs = Programs { kvnode: arguments.kvnode.clone(), etcd: arguments.etcd.clone() };
    let machine = Machine::describe(&programs, scale, rounds)?;
    let mut json = match &arguments.json {
        Some(path) => Some(File::create(path)?),
        None => None,
    };
    keep(&mut json, &machine)?;

    let dir = tempfile::tempdir_in(&arguments.dir)?;
    let mut clusters = Vec::new();
    for name in Name::ALL.into_iter().filter(|name| arguments.systems.contains(name)) {
        let cluster = Cluster::start(name, &programs, dir.path()).await?;
        work::load(&cluster, scale.keys)
            .await
            .with_context(|| format!("loading {}", name.shown()))?;
        clusters.push(cluster);
    }
    let zipf = Arc::new(Zipf::new(scale.keys));
    let rows = Row::all().into_iter().filter(|row| row.name().starts_with(&arguments.rows));
    let rows: Vec<Row> = rows.collect();
    let mut outcomes: Vec<Outcome> = Vec::new();
    for round in 0..rounds {
        for row in &rows {
            for cluster in &clusters {
                let outcome = work::run(cluster, *row, round, scale, &zipf).await;
                let outcome = outcome
                    .with_context(|| format!("{} of {}", row.name(), cluster.name.shown()))?;
                keep(&mut json, &outcome)?;
                outcomes.push(outcome);
            }
            // Who goes first changes with each row.
            clusters.reverse();
        }
    }
    Ok(write!(out, "{}", Report::new(&machine, &outcomes))?)
}

fn keep(file: &mut Option<File>, line: &impl serde::Serialize) -> Result<()> {
    match file {
        Some(file) => Ok(writeln!(file, "{}", serde_json::to_string(line)?)?),
        None => Ok(()),
    }
}
