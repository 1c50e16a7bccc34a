//! The parent: starts a fresh process for each engine, row and round, interleaved, and holds their answers together.

use std::collections::BTreeSet;
use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::{Context, Result, bail, ensure};
use serde::{Deserialize, Serialize};
use signal_hook::consts::{SIGINT, SIGTERM};

use crate::engine::Name;
use crate::floor::Floors;
use crate::machine::Machine;
use crate::measure::Measured;
use crate::rows::{DataSet, Row, Scale, Start};

/// Each round draws other keys; the engines of a round draw the same.
const SEED: u64 = 20_070;
/// Names of files in which no engine changes a byte once they are written: a clone shares them.
const TABLE_EXTENSION: &str = "sst";
const TABLE_DIRECTORY: &str = "tables";

/// What a run consists of.
pub(crate) struct Bench {
    pub(crate) engines: Vec<Name>,
    pub(crate) rows: Vec<Row>,
    pub(crate) rounds: u32,
    pub(crate) scale: Scale,
    /// Where the stores go.
    pub(crate) dir: PathBuf,
}

/// One line of a file of results.
#[derive(Debug, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "lowercase")]
pub(crate) enum Line {
    Machine(Machine),
    Floors(Floors),
    Run(Measured),
}

impl Bench {
    /// Runs everything; each result goes to `keep` as soon as it is there.
    pub(crate) fn run(&self, keep: &mut dyn FnMut(Line) -> Result<()>) -> Result<()> {
        let interrupted = Arc::new(AtomicBool::new(false));
        for signal in [SIGINT, SIGTERM] {
            signal_hook::flag::register(signal, Arc::clone(&interrupted))?;
        }
        // Removed when it goes out of scope, and so after an error or an interrupt too.
        let work = tempfile::Builder::new().prefix("engine-bench-").tempdir_in(&self.dir)?;
        keep(Line::Machine(Machine::describe(self.scale.0, self.rounds)?))?;
        let mut loaded = BTreeSet::new();
        for round in 0..self.rounds {
            keep(Line::Floors(Floors::measure(work.path())?))?;
            for (place, row) in self.rows.iter().enumerate() {
                let mut answers = Vec::new();
                for turn in 0..self.engines.len() {
                    let engine = self.engines[(round as usize + place + turn) % self.engines.len()];
                    ensure!(!interrupted.load(Ordering::Relaxed), "interrupted");
                    if let Start::Loaded(set) = row.start
                        && loaded.insert((engine, set.name))
                    {
                        self.load(work.path(), engine, set)?;
                    }
                    let measured = self.measure(work.path(), engine, row, round)?;
                    let Measured { ops_per_second, settle_seconds, .. } = measured;
                    writeln!(
                        io::stderr(),
                        "round {}/{} {} {engine}: {ops_per_second:.0} ops/s, {:.1} s and {settle_seconds:.1} s to settle",
                        round + 1,
                        self.rounds,
                        row.name,
                        measured.seconds,
                    )?;
                    answers.push(measured.clone());
                    keep(Line::Run(measured))?;
                }
                hold_together(&answers)?;
            }
        }
        Ok(())
    }

    fn load(&self, work: &Path, engine: Name, set: &DataSet) -> Result<()> {
        writeln!(io::stderr(), "loading {} into {engine}", set.name)?;
        let dir = set_dir(work, engine, set);
        fs::create_dir(&dir)?;
        self.child("load", engine, set.name, 0, &dir).map(drop)
    }

    fn measure(&self, work: &Path, engine: Name, row: &Row, round: u32) -> Result<Measured> {
        let dir = work.join("run");
        match row.start {
            Start::Empty { .. } => fs::create_dir(&dir)?,
            Start::Loaded(set) => clone(&set_dir(work, engine, set), &dir)?,
        }
        // What earlier runs and the clone left to write is not this run's to wait for.
        nix::unistd::sync();
        let answer = self.child("row", engine, row.name, round, &dir)?;
        fs::remove_dir_all(&dir)?;
        serde_json::from_slice(&answer)
            .with_context(|| format!("what {engine} said of {}", row.name))
    }

    /// Runs this program again, as a child that does one thing.
    fn child(
        &self,
        what: &str,
        engine: Name,
        name: &str,
        round: u32,
        dir: &Path,
    ) -> Result<Vec<u8>> {
        let output = Command::new(std::env::current_exe()?)
            .arg("child")
            .args(["--engine", &engine.to_string().to_lowercase()])
            .args(["--scale", &self.scale.0.to_string()])
            .args(["--seed", &(SEED + u64::from(round)).to_string()])
            .args(["--round", &round.to_string()])
            .arg("--dir")
            .arg(dir)
            .args([what, name])
            .stderr(Stdio::inherit())
            .output()?;
        ensure!(output.status.success(), "{what} {name} with {engine}: {}", output.status);
        Ok(output.stdout)
    }
}

/// Engines that did unequal work cannot be compared.
fn hold_together(answers: &[Measured]) -> Result<()> {
    let work = |answer: &Measured| (answer.ops, answer.found, answer.checksum);
    let Some((first, others)) = answers.split_first() else { return Ok(()) };
    if let Some(other) = others.iter().find(|other| work(other) != work(first)) {
        let tell = |answer: &Measured| {
            let (ops, found, checksum) = work(answer);
            format!("{}: {ops} operations, {found} found, checksum {checksum:016x}", answer.engine)
        };
        bail!("{}: unequal work: {}; {}", first.row, tell(first), tell(other));
    }
    Ok(())
}

fn set_dir(work: &Path, engine: Name, set: &DataSet) -> PathBuf {
    work.join(format!("{}-{engine}", set.name))
}

/// Copies a closed store; its tables by hard links.
fn clone(from: &Path, to: &Path) -> Result<()> {
    fs::create_dir(to)?;
    for entry in fs::read_dir(from)? {
        let path = entry?.path();
        let target = to.join(path.file_name().context("an entry of a directory has a name")?);
        let is_table = from.ends_with(TABLE_DIRECTORY)
            || path.extension().is_some_and(|extension| extension == TABLE_EXTENSION);
        if path.is_dir() {
            clone(&path, &target)?;
        } else if is_table {
            fs::hard_link(&path, &target)?;
        } else {
            fs::copy(&path, &target)?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::MetadataExt;

    use super::*;
    use crate::measure::Latency;

    fn answer(engine: Name, found: u64, checksum: u64) -> Measured {
        Measured {
            engine,
            row: "row".to_owned(),
            round: 0,
            ops: 10,
            seconds: 1.0,
            ops_per_second: 10.0,
            latency: Latency::default(),
            user_seconds: 0.0,
            system_seconds: 0.0,
            resident_bytes_peak: 0,
            written_bytes: 0,
            dirtied_bytes: 0,
            user_bytes: 0,
            disk_bytes: 0,
            settle_seconds: 0.0,
            found,
            checksum,
        }
    }

    #[test]
    fn engines_that_found_other_things_are_not_compared() {
        let own = answer(Name::Kvkit, 5, 7);
        assert!(hold_together(&[own.clone(), answer(Name::Fjall, 5, 7)]).is_ok());
        let error = hold_together(&[own.clone(), answer(Name::Fjall, 4, 7)]).unwrap_err();
        assert!(error.to_string().contains("fjall: 10 operations, 4 found"), "{error}");
        assert!(hold_together(&[own, answer(Name::Rocksdb, 5, 8)]).is_err());
    }

    #[test]
    fn a_clone_shares_tables_and_nothing_else() {
        let dir = tempfile::tempdir().unwrap();
        let (from, to) = (dir.path().join("from"), dir.path().join("to"));
        fs::create_dir_all(from.join("keyspaces/1/tables")).unwrap();
        for name in ["LOG", "7.sst", "keyspaces/1/tables/3"] {
            fs::write(from.join(name), name).unwrap();
        }
        clone(&from, &to).unwrap();
        let links = |name: &str| fs::metadata(to.join(name)).unwrap().nlink();
        assert_eq!(["LOG", "7.sst", "keyspaces/1/tables/3"].map(links), [1, 2, 2]);
        assert_eq!(fs::read_to_string(to.join("LOG")).unwrap(), "LOG");
    }
}
