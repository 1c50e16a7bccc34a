//! `import`: puts a stream of records, many at once, and names those that failed.

use std::collections::{BTreeMap, HashSet, VecDeque};
use std::ffi::OsString;
use std::io::{self, Write};
use std::path::PathBuf;
use std::time::Duration;

use bytes::Bytes;
use clap::Args;
use futures_util::StreamExt as _;
use futures_util::stream::FuturesUnordered;
use tokio::sync::mpsc::Receiver;

use crate::cli::connect::Session;
use crate::cli::exit::Exit;
use crate::cli::failure::{Failure, as_json, as_text};
use crate::cli::options::Common;
use crate::cli::progress::{Progress, ProgressForm};
use crate::cli::records::{Record, RecordValue};
use crate::client::PutOptions;
use crate::version::Context;
use crate::wire::client::PutBasis;

use super::import_source::{Batch, Item, Source, open};
use super::resume::{Checkpoint, load, save};
use super::write::{WriteFlags, context_failure};

/// How often a put is tried before its record counts as failed.
const TRIES: u32 = 5;
/// Pause after the first try; it doubles.
const PAUSE: Duration = Duration::from_millis(100);
/// How often progress is looked at while nothing else happens.
const TICK: Duration = Duration::from_millis(200);

#[derive(Args, Clone, Debug)]
pub(crate) struct ImportArgs {
    /// The records; stdin where no file or `-` is named
    file: Option<OsString>,
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
    /// Read and check every record, and write nothing
    #[arg(short = 'n', long)]
    dry_run: bool,
}

/// `import`.
pub(crate) async fn import(
    args: &ImportArgs,
    session: &Session,
    common: &Common,
    out: &mut dyn Write,
) -> anyhow::Result<Exit> {
    let options = args.write.options(session)?;
    let from = args.resume.as_deref().map(load).transpose()?.flatten();
    let Source { batches, bytes_total } = open(args.file.as_deref(), from)?;
    let mut import = Import {
        session,
        common,
        options,
        dry_run: args.dry_run,
        jobs: usize::from(args.jobs),
        resume: args.resume.clone(),
        progress: Progress::begin(args.progress, common, "imported", bytes_total),
        waiting: VecDeque::new(),
        open_batches: VecDeque::new(),
        first_batch: 0,
        busy: HashSet::new(),
        cut: false,
        retry_left: false,
    };
    let result = import.run(batches).await;
    import.progress.clear();
    import.save_checkpoint()?;
    result?;
    import.finish(out)
}

struct Import<'a> {
    session: &'a Session,
    common: &'a Common,
    options: PutOptions,
    dry_run: bool,
    jobs: usize,
    resume: Option<PathBuf>,
    progress: Progress,
    /// Records read and not yet sent, with the batch they came in.
    waiting: VecDeque<(u64, u64, Record)>,
    /// Batches with records not yet in, oldest first; the first one's number is `first_batch`.
    open_batches: VecDeque<OpenBatch>,
    first_batch: u64,
    /// Keys being written: a second record of one of them waits, so that the later line wins.
    busy: HashSet<Bytes>,
    /// Whether the input ended behind a header without its footer.
    cut: bool,
    /// Whether a record failed that may go in later.
    retry_left: bool,
}

struct OpenBatch {
    checkpoint: Checkpoint,
    left: usize,
    /// Whether a record failed that may go in later: a resumed run must begin before it.
    held: bool,
}

struct Stored {
    batch: u64,
    line: u64,
    key: Bytes,
    result: Result<(), Failure>,
}

impl Import<'_> {
    async fn run(&mut self, mut batches: Receiver<io::Result<Batch>>) -> anyhow::Result<()> {
        let session = self.session;
        let mut in_flight = FuturesUnordered::new();
        let mut ticks = tokio::time::interval(TICK);
        let mut reading = true;
        while reading || !self.waiting.is_empty() || !in_flight.is_empty() {
            while in_flight.len() < self.jobs {
                let Some((batch, line, record)) = self.next_record() else { break };
                let (options, dry_run) = (self.options, self.dry_run);
                in_flight.push(async move {
                    let key = record.key.clone();
                    let result = store(session, record, options, dry_run).await;
                    Stored { batch, line, key, result }
                });
            }
            tokio::select! {
                biased;
                Some(stored) = in_flight.next(), if !in_flight.is_empty() => self.note(stored)?,
                batch = batches.recv(), if reading && self.waiting.is_empty() => match batch {
                    Some(batch) => self.take(batch?),
                    None => reading = false,
                },
                _ = ticks.tick() => self.save_checkpoint()?,
            }
            self.progress.tick();
        }
        Ok(())
    }

    /// The next record, unless one of its key is being written.
    fn next_record(&mut self) -> Option<(u64, u64, Record)> {
        let (_, _, record) = self.waiting.front()?;
        if self.busy.contains(&record.key) {
            return None;
        }
        let next = self.waiting.pop_front()?;
        self.busy.insert(next.2.key.clone());
        Some(next)
    }

    fn take(&mut self, batch: Batch) {
        let number = self.first_batch + self.open_batches.len() as u64;
        self.progress.bytes = batch.checkpoint.bytes;
        self.cut |= batch.cut;
        let mut left = 0;
        for (line, item) in batch.items {
            match item {
                Item::Record(record) => {
                    left += 1;
                    self.waiting.push_back((number, line, record));
                }
                Item::Bad(failure) => self.complain(line, failure),
            }
        }
        self.open_batches.push_back(OpenBatch { checkpoint: batch.checkpoint, left, held: false });
    }

    fn note(&mut self, stored: Stored) -> anyhow::Result<()> {
        self.busy.remove(&stored.key);
        let index = usize::try_from(stored.batch - self.first_batch).unwrap_or(usize::MAX);
        let Some(batch) = self.open_batches.get_mut(index) else {
            unreachable!("a batch stays open until its last record is in");
        };
        batch.left -= 1;
        match stored.result {
            Ok(()) => self.progress.records += 1,
            Err(failure) => {
                let exit = failure.exit();
                batch.held |= matches!(exit, Exit::TryAgain | Exit::Unavailable | Exit::Io);
                self.retry_left |= batch.held;
                if exit == Exit::Unavailable {
                    return Err(failure.into());
                }
                self.complain(stored.line, failure);
            }
        }
        Ok(())
    }

    fn complain(&mut self, line: u64, failure: Failure) {
        self.progress.failed += 1;
        let error =
            anyhow::Error::new(failure.detail("line", line)).context(format!("line {line}"));
        let text = if self.common.json { as_json(&error) + "\n" } else { as_text("kvctl", &error) };
        self.progress.say(&text);
    }

    /// Writes down how far all is in, where that moved.
    fn save_checkpoint(&mut self) -> anyhow::Result<()> {
        let mut reached = None;
        while let Some(batch) = self.open_batches.front()
            && batch.left == 0
            && !batch.held
        {
            reached = self.open_batches.pop_front().map(|batch| batch.checkpoint);
            self.first_batch += 1;
        }
        match (&self.resume, reached) {
            (Some(path), Some(checkpoint)) if !self.dry_run => save(path, &checkpoint),
            (Some(_) | None, _) => Ok(()),
        }
    }

    fn finish(self, out: &mut dyn Write) -> anyhow::Result<Exit> {
        if let Some(path) = self.resume.as_ref().filter(|path| !self.retry_left && path.exists()) {
            std::fs::remove_file(path)?;
        }
        if self.common.json {
            writeln!(out, "{}", self.progress.object("imported").finish())?;
        } else if !self.common.quiet {
            let tried = if self.dry_run { "would have " } else { "" };
            writeln!(io::stderr().lock(), "kvctl: {tried}{}", self.progress.summary())?;
        }
        if self.cut {
            let message =
                "the input has a header and no footer: it was cut short, or its writer failed";
            return Err(Failure::bad_data(message).code("cut").into());
        }
        Ok(if self.progress.failed > 0 { Exit::Partial } else { Exit::Done })
    }
}

/// Puts a record; what may succeed later is tried a few times.
async fn store(
    session: &Session,
    record: Record,
    options: PutOptions,
    dry_run: bool,
) -> Result<(), Failure> {
    let basis = basis(session, &record)?;
    let values = match record.value {
        RecordValue::One(value) => vec![value],
        RecordValue::Siblings(values) => values,
    };
    for value in &values {
        session.check_pair(&record.key, value.as_ref().map_or(0, Bytes::len))?;
    }
    if dry_run {
        return Ok(());
    }
    for (index, value) in values.into_iter().enumerate() {
        // The first one replaces what is there; the others stand beside it.
        let basis = if index == 0 { basis.clone() } else { PutBasis::Blind };
        put(session, &record.key, value.as_ref(), &basis, options).await?;
    }
    Ok(())
}

async fn put(
    session: &Session,
    key: &Bytes,
    value: Option<&Bytes>,
    basis: &PutBasis,
    options: PutOptions,
) -> Result<(), Failure> {
    let mut pause = PAUSE;
    let mut tries = 0;
    loop {
        tries += 1;
        let put = session.client().put(key.clone(), value.cloned(), basis.clone(), options);
        let failure = match put.await {
            Ok(_) => return Ok(()),
            Err(error) => session.failure(error),
        };
        if tries == TRIES || !matches!(failure.exit(), Exit::TryAgain | Exit::Unavailable) {
            return Err(failure);
        }
        tracing::info!("put: {failure}; trying again");
        tokio::time::sleep(pause).await;
        pause *= 2;
    }
}

/// The record's context where all of its nodes are members here: then it is this cluster's.
fn basis(session: &Session, record: &Record) -> Result<PutBasis, Failure> {
    let Some(token) = &record.context else { return Ok(PutBasis::Present) };
    let context = Context::decode(token).map_err(|error| context_failure(&error))?;
    let clock = context.for_key(&record.key).map_err(|error| context_failure(&error))?;
    let members: BTreeMap<_, _> = session.names();
    let ours = clock.iter().all(|(actor, _)| members.contains_key(&actor.node));
    Ok(if ours { PutBasis::Context(clock.clone()) } else { PutBasis::Present })
}
