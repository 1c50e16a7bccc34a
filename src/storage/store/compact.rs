//! Compaction: carries a plan out, a slice at a time, and goes through damage.
//!
//! What cannot be read becomes a hole of the tables written ([`crate::storage::hole`]). A damaged input is no longer part
//! of the store from the manifest's edit on, which says so; then its file goes to `damaged/`, or, should the process die
//! before, at the next start. That the system would not read (an I/O error) is no damage: it may pass, and the merge is
//! given up and tried again.

use std::collections::BTreeSet;
use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use bytes::Bytes;

use super::{Failed, Job, JobError, SetAside, Store, lock};
use crate::storage::directory::keep_damaged;
use crate::storage::hole::{Hole, Holes};
use crate::storage::levels::{Levels, Live};
use crate::storage::log::LogPosition;
use crate::storage::manifest::{Edit, TableMeta};
use crate::storage::merge::{Gap, Item, Merge, Run};
use crate::storage::plan::{self, Bounds, Plan};
use crate::storage::space::Writes;
use crate::storage::table::builder::{Builder, TableOptions, Written};
use crate::storage::table::reader::Blocks;
use crate::storage::table::{Entry, KeyRange, ReadError};
use crate::storage::vfs::is_full;

/// The merge under way, if any.
#[derive(Debug, Default)]
pub(super) struct Compacting {
    running: Option<Running>,
}

#[derive(Debug)]
struct Running {
    plan: Plan,
    merge: Merge,
    /// Key ranges in which an older entry may exist.
    older: Vec<KeyRange>,
    newest: LogPosition,
    builder: Option<Builder>,
    /// Those of no table yet.
    holes: Holes,
    written: Vec<(Written, Vec<Hole>)>,
    /// Inputs that are damaged.
    damaged: BTreeSet<u64>,
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

impl From<Box<ReadError>> for SliceError {
    fn from(error: Box<ReadError>) -> Self {
        Self::Read(*error)
    }
}

impl Store {
    /// [`Job::Compact`] when a merge is under way or due.
    pub fn next_compaction(&self) -> Option<Job> {
        // While another thread runs a slice there is nothing to do; who asks must not wait for its end.
        let Ok(compacting) = self.compacting.try_lock() else { return None };
        if !self.jobs_may_run() || !self.pace.merges_may_run() {
            return None;
        }
        if let Some(running) = &compacting.running {
            return Some(Job::Compact(running.plan.clone()));
        }
        let levels = Arc::clone(&self.memory().levels);
        let damaged = self.damaged_tables(&levels);
        let tables: Vec<&TableMeta> = levels.tables().map(|live| &live.meta).collect();
        plan::choose(&tables, Bounds::new(&self.options), &damaged).map(Job::Compact)
    }

    pub(super) fn run_compaction(&self, plan: &Plan) -> Result<(), JobError> {
        let mut compacting = lock(&self.compacting);
        self.check_failure()?;
        let levels = Arc::clone(&self.memory().levels);
        let mut running = match compacting.running.take() {
            Some(running) => running,
            None if let Some(moved) = moved(&levels, plan) => return self.finish_move(plan, moved),
            None => match start(&levels, plan, self.damaged_tables(&levels)) {
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
                        self.note_failed_merge();
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
            match running.merge.next(Blocks::Disk)? {
                None => {
                    self.finish_last(running)?;
                    return Ok(true);
                }
                Some(Item::Gap(gap)) => {
                    let Gap { hole, damage } = *gap;
                    if let Some(damage) = damage {
                        self.bad_blocks.note(&damage);
                        running.damaged.insert(hole.lost_with);
                    }
                    running.keep(hole);
                }
                Some(Item::Entry(entry)) => {
                    bytes += (entry.key.len() + entry.value.as_ref().map_or(0, Bytes::len)) as u64;
                    if !running.forgets(&entry) {
                        self.add(running, &entry)?;
                    }
                }
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
        let builder = match running.builder.take() {
            Some(builder) => builder,
            None => self.begin_table(running)?,
        };
        let builder = running.builder.insert(builder);
        if !self.space.jobs_may_write() {
            return Err(io::ErrorKind::StorageFull.into());
        }
        builder.add(&entry.key, entry.value.as_deref())
    }

    fn begin_table(&self, running: &Running) -> io::Result<Builder> {
        let number = self.memory_mut().take_number();
        let options = TableOptions::new(&self.options, running.plan.target, running.newest);
        Builder::create(Arc::clone(&self.vfs), &self.directory.tables, number, options)
    }

    /// The last table takes all holes that are left; where nothing else is, it is one without entries.
    fn finish_last(&self, running: &mut Running) -> io::Result<()> {
        let hidden = std::mem::take(&mut running.merge.hidden_damage);
        for (table, damage) in hidden {
            self.bad_blocks.note(&damage);
            running.damaged.insert(table);
        }
        let builder = match running.builder.take() {
            None if running.holes.is_empty() => return Ok(()),
            None => self.begin_table(running)?,
            Some(builder) => builder,
        };
        running.written.push((builder.finish()?, running.holes.take()));
        Ok(())
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
            self.note_merged();
            self.note_debt(&memory);
            Arc::clone(&memory.levels)
        };
        self.balance_memory(&levels);
        self.counters.compactions.fetch_add(1, Ordering::Relaxed);
        self.ring();
    }

    /// The results take the inputs' place, in one edit; then the inputs' files go.
    fn finish_compaction(&self, running: &Running) -> Result<(), JobError> {
        let metas = running
            .written
            .iter()
            .map(|(written, holes)| TableMeta::with_holes(written, holes.clone()));
        let added = metas.map(|meta| self.open_written(meta)).collect::<Result<Vec<_>, _>>()?;
        self.sync_tables_dir()?;
        let mut manifest = lock(&self.manifest);
        let edit = Edit {
            added: added.iter().map(|live| live.meta.clone()).collect(),
            removed: running.plan.inputs.clone(),
            next_number: Some(self.memory().next_number),
            set_aside: running.damaged.clone(),
            ..Edit::default()
        };
        self.append_edit(&mut manifest, &edit)?;
        self.install(&running.plan, added);
        // Open handles go on working: a scan that began before finds what it needs.
        for number in &running.plan.inputs {
            let file = self.directory.table(*number);
            let is_damaged = running.damaged.contains(number);
            if !is_damaged || self.set_aside_table(running, *number)? {
                let removed = self.vfs.remove(&file);
                removed.map_err(|error| self.fail("cannot remove an old table", &error))?;
            }
            self.bad_blocks.forget(&file);
        }
        Ok(())
    }

    /// Gives the file of a damaged table a second name in `damaged/`; false where a full disk has no room for the name,
    /// and the next start does it.
    fn set_aside_table(&self, running: &Running, number: u64) -> Result<bool, Failed> {
        let holes = running.written.iter().flat_map(|(_, holes)| holes);
        let lost = holes.filter(|hole| hole.lost_with == number).map(|hole| hole.keys.clone());
        let kept = SetAside { file: self.directory.set_aside(number), lost: lost.collect() };
        lock(&self.set_aside).push(kept);
        match keep_damaged(&*self.vfs, &self.directory, &self.directory.table(number)) {
            Ok(()) => Ok(true),
            Err(error) if is_full(&error) => Ok(false),
            Err(error) => Err(self.fail("cannot set a damaged table aside", &error)),
        }
    }

    /// Gives up the merge that is under way, if any: it is begun anew.
    pub(super) fn give_up_merge(&self, compacting: &mut Compacting) -> Result<(), JobError> {
        compacting.running.take().map_or(Ok(()), |mut running| self.abandon(&mut running))
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
                .try_for_each(|(written, _)| self.vfs.remove(&self.directory.table(written.number)))
        });
        Ok(removed.map_err(|error| self.fail("cannot remove an unfinished table", &error))?)
    }
}

impl Running {
    /// Finishes the table, with the holes up to its last key: the next one begins behind that.
    fn finish_table(&mut self) -> io::Result<()> {
        if let Some(builder) = self.builder.take() {
            let holes = self.holes.take_to(builder.last_key());
            self.written.push((builder.finish()?, holes));
        }
        Ok(())
    }

    /// Whether an entry is a delete that hides nothing: nothing older is left, and its key would not be lost without it.
    fn forgets(&self, entry: &Entry) -> bool {
        entry.value.is_none()
            && !self.older.iter().any(|older| older.holds(&entry.key))
            && !self.holes.is_lost(&entry.key)
    }

    /// A hole for the tables being written; a mended one only where it hides something older than they are.
    fn keep(&mut self, hole: Hole) {
        let overlaps =
            |older: &KeyRange| older.first <= hole.keys.last && hole.keys.first <= older.last;
        if !hole.is_mended || self.older.iter().any(overlaps) {
            self.holes.push(hole);
        }
    }
}

/// The inputs as they are in the target level, where none of them overlaps another or a table there: then nothing has to
/// be merged. Keys that come in order are written once. A table with deletes is merged all the same, to be rid of them; a
/// damaged one is written anew where it comes to lie.
fn moved(levels: &Levels, plan: &Plan) -> Option<Vec<Live>> {
    let inputs = plan.inputs.iter().map(|number| levels.find(*number).cloned());
    let mut inputs = inputs.collect::<Option<Vec<Live>>>()?;
    inputs.sort_by(|left, right| left.meta.first.cmp(&right.meta.first));
    let is_apart = |pair: &[Live]| pair[0].meta.last < pair[1].meta.first;
    let may_move = |live: &Live| live.meta.level < plan.target && live.meta.deletes == 0;
    if !inputs.iter().all(may_move) || !inputs.windows(2).all(is_apart) {
        return None;
    }
    for live in &mut inputs {
        live.meta.level = plan.target;
    }
    Some(inputs)
}

/// Begins a merge; `None` when its plan is no longer what is there.
fn start(levels: &Levels, plan: &Plan, mut damaged: BTreeSet<u64>) -> Option<Running> {
    let inputs: Vec<&Live> =
        plan.inputs.iter().map(|number| levels.find(*number)).collect::<Option<_>>()?;
    let mut newest = LogPosition::ZERO;
    let run = |tables: &[&Live]| {
        let tables: Arc<[Live]> = tables.iter().copied().cloned().collect();
        let range = 0..tables.len();
        Run::tables(tables, range, Bytes::new())
    };
    for live in &inputs {
        let known = live.table.as_ref().map_or(LogPosition::ZERO, |table| table.properties.newest);
        newest = newest.max(known);
    }
    damaged.retain(|number| plan.inputs.contains(number));
    let (below, above): (Vec<_>, Vec<_>) =
        inputs.into_iter().partition(|live| live.meta.level == plan.target);
    let mut runs: Vec<Run> = above.iter().map(|live| run(&[*live])).collect();
    runs.push(run(&below));
    let tables: Vec<&TableMeta> = levels.tables().map(|live| &live.meta).collect();
    let older = plan::older(&tables, plan.target);
    let (plan, merge) = (plan.clone(), Merge::new(runs));
    let (builder, holes, written) = (None, Holes::default(), Vec::new());
    Some(Running { plan, merge, older, newest, builder, holes, written, damaged })
}
