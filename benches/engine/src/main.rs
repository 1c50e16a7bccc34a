//! kvkit's storage engine beside RocksDB and fjall: the same work with the same settings, a fresh process each.
//!
//! See the README for what the rows are and how the settings match, and for what `soak` holds kvkit to.

mod engine;
mod floor;
mod keys;
mod machine;
mod measure;
mod report;
mod rows;
mod run;
mod soak;
mod work;

use std::fs::{self, File};
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, Result, ensure};
use clap::{Args, Parser, Subcommand};
use mimalloc::MiMalloc;
use regex::Regex;

use crate::engine::Name;
use crate::report::Report;
use crate::rows::{Row, Scale};
use crate::run::{Bench, Line};
use crate::soak::SoakArguments;
use crate::work::Run;

/// For kvkit and fjall. RocksDB's C++ allocates with jemalloc.
#[global_allocator]
static ALLOCATOR: MiMalloc = MiMalloc;

/// The part of the long form that the short form runs.
const SHORT_SCALE: f64 = 0.25;
const SHORT_ROUNDS: u32 = 3;
const LONG_ROUNDS: u32 = 5;

/// Measures kvkit's storage engine beside RocksDB and fjall.
#[derive(Debug, Parser)]
#[command(version)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Runs rows and prints the table.
    Run(RunArguments),
    /// Prints the table of results that were kept with `--json`.
    Report {
        /// Files of results.
        #[arg(required = true)]
        files: Vec<PathBuf>,
    },
    /// Lists the rows.
    Rows,
    /// Works kvkit alone for minutes, and holds what it does against bounds; exit 1 when one is broken.
    Soak(SoakArguments),
    /// One part of a run, in a process of its own.
    #[command(hide = true)]
    Child(ChildArguments),
}

#[derive(Debug, Args)]
struct RunArguments {
    /// Only rows whose name this matches.
    #[arg(long, value_name = "REGEX", default_value = "")]
    rows: Regex,
    /// Only these engines.
    #[arg(long, value_delimiter = ',', default_value = "kvkit,rocksdb,fjall")]
    engines: Vec<Name>,
    /// The short form: a quarter of the work, three rounds.
    #[arg(long)]
    short: bool,
    /// How often each row is run [default: 5, short: 3].
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    rounds: Option<u32>,
    /// The part of the long form's work that is done [default: 1, short: 0.25].
    #[arg(long, value_name = "FACTOR")]
    scale: Option<f64>,
    /// Where the stores go for the time of the run; a directory on the disk to be measured.
    #[arg(long, default_value_os_t = std::env::temp_dir())]
    dir: PathBuf,
    /// Keeps each result in this file, one JSON object a line.
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Writes the table to this file too.
    #[arg(long, value_name = "FILE")]
    markdown: Option<PathBuf>,
}

#[derive(Debug, Args)]
struct ChildArguments {
    #[arg(long)]
    engine: Name,
    #[arg(long)]
    scale: f64,
    #[arg(long)]
    seed: u64,
    #[arg(long)]
    round: u32,
    #[arg(long)]
    dir: PathBuf,
    #[command(subcommand)]
    part: Part,
}

#[derive(Debug, Subcommand)]
enum Part {
    /// Writes a data set.
    Load { name: String },
    /// Measures a row.
    Row { name: String },
}

fn main() -> Result<ExitCode> {
    let out = &mut io::stdout().lock();
    let done = match Arguments::parse().command {
        Command::Soak(arguments) => return soak::run(&arguments, out),
        Command::Run(arguments) => run(arguments, out),
        Command::Report { files } => {
            let texts: Vec<String> = files.iter().map(read).collect::<Result<_>>()?;
            let lines = texts.iter().flat_map(|text| text.lines());
            let lines =
                lines.map(|line| Ok(serde_json::from_str(line)?)).collect::<Result<Vec<Line>>>()?;
            Ok(write!(out, "{}", Report::new(&lines)?)?)
        }
        Command::Rows => rows::all().iter().try_for_each(|row| Ok(writeln!(out, "{}", row.name)?)),
        Command::Child(arguments) => child(&arguments, out),
    };
    done.map(|()| ExitCode::SUCCESS)
}

fn run(arguments: RunArguments, out: &mut dyn Write) -> Result<()> {
    let rows: Vec<Row> =
        rows::all().into_iter().filter(|row| arguments.rows.is_match(row.name)).collect();
    ensure!(!rows.is_empty(), "no row is named like {}", arguments.rows);
    let (scale, rounds) =
        if arguments.short { (SHORT_SCALE, SHORT_ROUNDS) } else { (1.0, LONG_ROUNDS) };
    let bench = Bench {
        engines: arguments.engines,
        rows,
        rounds: arguments.rounds.unwrap_or(rounds),
        scale: Scale(arguments.scale.unwrap_or(scale)),
        dir: arguments.dir,
    };
    let mut json = arguments.json.as_deref().map(create).transpose()?;
    let mut lines = Vec::new();
    let run = bench.run(&mut |line| {
        if let Some(json) = &mut json {
            writeln!(json, "{}", serde_json::to_string(&line)?)?;
            json.flush()?;
        }
        lines.push(line);
        Ok(())
    });
    run?;
    let report = Report::new(&lines)?.to_string();
    if let Some(markdown) = arguments.markdown {
        fs::write(&markdown, &report).with_context(|| format!("writing {}", markdown.display()))?;
    }
    Ok(out.write_all(report.as_bytes())?)
}

fn child(arguments: &ChildArguments, out: &mut dyn Write) -> Result<()> {
    let run = Run {
        engine: arguments.engine,
        dir: &arguments.dir,
        scale: Scale(arguments.scale),
        seed: arguments.seed,
        round: arguments.round,
    };
    match &arguments.part {
        Part::Load { name } => {
            let set = rows::data_set(name).with_context(|| format!("no data set {name}"))?;
            work::load(run, set)
        }
        Part::Row { name } => {
            let row = rows::named(name).with_context(|| format!("no row {name}"))?;
            let measured = work::measure(run, &row)?;
            Ok(writeln!(out, "{}", serde_json::to_string(&measured)?)?)
        }
    }
}

fn create(path: &Path) -> Result<BufWriter<File>> {
    let file = File::create(path).with_context(|| format!("creating {}", path.display()))?;
    Ok(BufWriter::new(file))
}

fn read(path: &PathBuf) -> Result<String> {
    fs::read_to_string(path).with_context(|| format!("reading {}", path.display()))
}
