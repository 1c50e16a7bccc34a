//! Compaction: carries a plan out, a slice at a time.

use std::collections::BTreeSet;
use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use bytes::Bytes;

use super::{Failed, Job, JobError, Store, lock};
use crate::storage::levels::{Levels, Live};
use crate::storage::log::LogPosition;
use crate::storage::manifest::{Edit, TableMeta};
use crate::storage::merge::{Merge, Run};
use crate::storage::plan::{self, Bounds, Plan};
use crate::storage::space::Writes;
use crate::storage::table::builder::{Builder, TableOptions, Written};
use crate::storage::table::reader::Blocks;
use crate::storage::table::{Entry, ReadError};
use crate::storage::vfs::is_full;

/// The merge under way, if any, and what no merge touches.
#[derive(Debug, Default)]
pub(super) struct Compacting {
    running: Option<Running>,
    /// Tables that cannot be read.
    unreadable: BTreeSet<u64>,
}

#[derive(Debug)]
struct Running {
    plan: Plan,
    merge: Merge,
    /// Key ranges in which an older entry may exist.
    older: Vec<(Bytes, Bytes)>,
    newest: LogPosition,
    builder: Option<Builder>,
    written: Vec<Written>,
}

/// Why a slice ended early.
enum SliceError {
    Io(io::Error),
    Read(ReadError),
}

impl From<io::Error> for SliceError {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}

impl From<ReadError> for SliceError {
    fn from(error: ReadError) -> Self {
        Self::Read(error)
    }
}

impl Store {
    /// [`Job::Compact`] when a merge is under way or due.
    pub fn next_compaction(&self) -> Option<Job> {
        // While another thread runs a slice there is nothing to do; who asks must not wait for its end.
        let Ok(compacting) = self.compacting.try_lock() else { return None };
        if !self.jobs_may_run() {
            return None;
        }
        if let Some(running) = &compacting.running {
            return Some(Job::Compact(running.plan.clone()));
        }
        let levels = Arc::clone(&self.memory().levels);
        let mut unreadable = compacting.unreadable.clone();
        unreadable.extend(
            levels.tables().filter(|live| live.table.is_err()).map(|live| live.meta.number),
        );
        let tables: Vec<&TableMeta> = levels.tables().map(|live| &live.meta).collect();
        plan::choose(&tables, Bounds::new(&self.options), &unreadable).map(Job::Compact)
    }

    pub(super) fn run_compaction(&self, plan: &Plan) -> Result<(), JobError> {
        let mut compacting = lock(&self.compacting);
        self.check_failure()?;
        let levels = Arc::clone(&self.memory().levels);
        let mut running = match compacting.running.take() {
            Some(running) => running,
            None if let Some(moved) = moved(&levels, plan) => return self.finish_move(plan, moved),
            None => match start(&levels, plan) {
                Some(running) => running,
                None => return Ok(()),
            },
        };
        match self.run_slice(&mut running) {
            Ok(true) => self.finish_compaction(&running),
            Ok(false) => {
                compacting.running = Some(running);
                Ok(())
            }
            Err(error) => {
                self.abandon(&mut running)?;
                match error {
                    SliceError::Read(error) => {
                        self.bad_blocks.note(&error);
                        if let Some(meta) = unreadable_table(&levels, &error) {
                            compacting.unreadable.insert(meta.number);
                            self.note_unreadable(meta.level);
                        }
                        Err(error.into())
                    }
                    SliceError::Io(error) => Err(self.merge_error(&error)?),
                }
            }
        }
    }

    /// Merges a slice; true when the merge is at its end.
    fn run_slice(&self, running: &mut Running) -> Result<bool, SliceError> {
        let mut bytes = 0;
        while bytes < self.options.compaction_slice_bytes {
            let Some(entry) = running.merge.next(Blocks::Disk)? else {
                running.finish_table()?;
                return Ok(true);
            };
            bytes += (entry.key.len() + entry.value.as_ref().map_or(0, Bytes::len)) as u64;
            let forgotten = entry.value.is_none() && !running.older_may_hold(&entry.key);
            if !forgotten {
                self.add(running, &entry)?;
            }
        }
        Ok(false)
    }

    fn add(&self, running: &mut Running, entry: &Entry) -> io::Result<()> {
        if running
            .builder
            .as_ref()
            .is_some_and(|builder| self.options.table_bytes <= builder.bytes())
        {
            running.finish_table()?;
        }
        if running.builder.is_none() {
            let number = self.memory_mut().take_number();
            let options = TableOptions::new(&self.options, running.plan.target, running.newest);
            running.builder = Some(Builder::create(
                Arc::clone(&self.vfs),
                &self.directory.tables,
                number,
                options,
            )?);
        }
        if !self.space.jobs_may_write() {
            return Err(io::ErrorKind::StorageFull.into());
        }
        let builder = running.builder.as_mut().expect("created above");
        builder.add(&entry.key, entry.value.as_deref())
    }

    /// The tables change their level, in one edit; no file is touched.
    fn finish_move(&self, plan: &Plan, moved: Vec<Live>) -> Result<(), JobError> {
        let mut manifest = lock(&self.manifest);
        let edit = Edit {
            added: moved.iter().map(|live| live.meta.clone()).collect(),
            removed: plan.inputs.clone(),
            ..Edit::default()
        };
        self.append_edit(&mut manifest, &edit)?;
        self.install(plan, moved);
        Ok(())
    }

    fn install(&self, plan: &Plan, added: Vec<Live>) {
        let levels = {
            let mut memory = self.memory_mut();
            memory.levels = Arc::new(memory.levels.changed(&plan.inputs, added));
            self.note_debt(&memory);
            Arc::clone(&memory.levels)
        };
        self.balance_memory(&levels);
        self.counters.compactions.fetch_add(1, Ordering::Relaxed);
        self.ring();
    }

    /// The results take the inputs' place, in one edit; then the inputs' files go.
    fn finish_compaction(&self, running: &Running) -> Result<(), JobError> {
        let added = running.written.iter().map(|written| self.open_written(written));
        let added = added.collect::<Result<Vec<Live>, _>>()?;
        self.sync_tables_dir()?;
        let mut manifest = lock(&self.manifest);
        let edit = Edit {
            added: added.iter().map(|live| live.meta.clone()).collect(),
            removed: running.plan.inputs.clone(),
            next_number: Some(self.memory().next_number),
            ..Edit::default()
        };
        self.append_edit(&mut manifest, &edit)?;
        self.install(&running.plan, added);
        // Open handles go on working: a scan that began before finds what it needs.
        for number in &running.plan.inputs {
            let removed = self.vfs.remove(&self.directory.table(*number));
            removed.map_err(|error| self.fail("cannot remove an old table", &error))?;
        }
        Ok(())
    }

    /// A full disk: with the reserve freed the next try may do.
    fn merge_error(&self, error: &io::Error) -> Result<JobError, Failed> {
        let freed = is_full(error)
            && self.space.give_up(Writes::Job).map_err(|error| self.fail("no reserve", &error))?;
        Ok(if freed { JobError::Full } else { self.job_error(error) })
    }

    /// Gives a merge up and frees what it wrote.
    fn abandon(&self, running: &mut Running) -> Result<(), JobError> {
        let begun = running.builder.take().map_or(Ok(()), Builder::abandon);
        let removed = begun.and_then(|()| {
            running
                .written
                .iter()
                .try_for_each(|written| self.vfs.remove(&self.directory.table(written.number)))
        });
        Ok(removed.map_err(|error| self.fail("cannot remove an unfinished table", &error))?)
    }
}

impl Running {
    fn finish_table(&mut self) -> io::Result<()> {
        if let Some(builder) = self.builder.take() {
            self.written.push(builder.finish()?);
        }
        Ok(())
    }

    fn older_may_hold(&self, key: &[u8]) -> bool {
        self.older.iter().any(|(first, last)| **first <= *key && *key <= **last)
    }
}

/// The inputs as they are in the target level, where none of them overlaps another or a table there: then nothing has to
/// be merged. Keys that come in order are written once. A table with deletes is merged all the same, to be rid of them.
fn moved(levels: &Levels, plan: &Plan) -> Option<Vec<Live>> {
    let inputs = plan.inputs.iter().map(|number| levels.find(*number).cloned());
    let mut inputs = inputs.collect::<Option<Vec<Live>>>()?;
    inputs.sort_by(|left, right| left.meta.first.cmp(&right.meta.first));
    let is_apart = |pair: &[Live]| pair[0].meta.last < pair[1].meta.first;
    let may_move =
        |live: &Live| live.meta.level < plan.target && live.meta.deletes == 0 && live.table.is_ok();
    if !inputs.iter().all(may_move) || !inputs.windows(2).all(is_apart) {
        return None;
    }
    for live in &mut inputs {
        live.meta.level = plan.target;
    }
    Some(inputs)
}

/// Begins a merge; `None` when its plan is no longer what is there.
fn start(levels: &Levels, plan: &Plan) -> Option<Running> {
    let inputs: Vec<&Live> =
        plan.inputs.iter().map(|number| levels.find(*number)).collect::<Option<_>>()?;
    let mut newest = LogPosition::ZERO;
    let run = |tables: &[&Live]| {
        let tables: Arc<[Live]> = tables.iter().copied().cloned().collect();
        let range = 0..tables.len();
        Run::tables(tables, range, Bytes::new())
    };
    for live in &inputs {
        newest = newest.max(live.table.as_ref().ok()?.properties.newest);
    }
    let (below, above): (Vec<_>, Vec<_>) =
        inputs.into_iter().partition(|live| live.meta.level == plan.target);
    let mut runs: Vec<Run> = above.iter().map(|live| run(&[*live])).collect();
    runs.push(run(&below));
    let tables: Vec<&TableMeta> = levels.tables().map(|live| &live.meta).collect();
    let older = plan::older(&tables, plan.target);
    let (plan, merge) = (plan.clone(), Merge::new(runs));
    Some(Running { plan, merge, older, newest, builder: None, written: Vec::new() })
}

/// The table that the error speaks of.
fn unreadable_table<'a>(levels: &'a Levels, error: &ReadError) -> Option<&'a TableMeta> {
    let (ReadError::Io { file, .. } | ReadError::Corrupt { file, .. }) = error;
    let is_it = |live: &&Live| live.table.as_ref().is_ok_and(|table| table.path == *file);
    levels.tables().find(is_it).map(|live| &live.meta)
}
