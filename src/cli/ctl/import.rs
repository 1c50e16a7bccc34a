//! `import`: stores a stream of records, many at once, and names those that failed. Values are put; with `--exact` whole
//! states are merged.

use std::collections::{BTreeMap, HashSet, VecDeque};
use std::ffi::OsString;
use std::io::{self, Write};
use std::path::PathBuf;
use std::time::Duration;

use bytes::Bytes;
use clap::Args;
use futures_util::StreamExt as _;
use futures_util::future::join_all;
use futures_util::stream::FuturesUnordered;
use tokio::sync::mpsc::Receiver;

use crate::cli::connect::Session;
use crate::cli::exit::Exit;
use crate::cli::failure::{Failure, as_json, as_text};
use crate::cli::options::Common;
use crate::cli::progress::{Progress, ProgressForm};
use crate::cli::records::{Record, RecordValue};
use crate::client::{ClientError, PutOptions};
use crate::node_id::NodeId;
use crate::version::{Context, Siblings};
use crate::wire::client::{Done, PutBasis, RequestBody};

use super::import_source::{Batch, Entry, Item, Reading, Source, State, open};
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
    let reading = if common.exact { Reading::States } else { Reading::Puts };
    let source = open(args.file.as_deref(), reading, from)?;
    let storing = Storing {
        options,
        jobs: args.jobs.into(),
        resume: args.resume.clone(),
        dry_run: args.dry_run,
        progress: args.progress,
        verb: "imported",
        unit: "line",
    };
    storing.run(source, session, common, out).await
}

/// How records are stored.
pub(super) struct Storing {
    /// Of every write.
    pub(super) options: PutOptions,
    /// Requests in flight.
    pub(super) jobs: usize,
    /// Where a note is kept of how far it came.
    pub(super) resume: Option<PathBuf>,
    /// Whether all is read and nothing written.
    pub(super) dry_run: bool,
    /// How progress is shown.
    pub(super) progress: ProgressForm,
    /// What is done with a record.
    pub(super) verb: &'static str,
    /// What a record's number counts.
    pub(super) unit: &'static str,
}

impl Storing {
    /// Stores what `source` gives.
    /// # Errors
    /// Exit 65 where the source is not whole, 69 when no node is reachable any more; what a record lacks is told on stderr,
    /// and ends in exit 4.
    pub(super) async fn run(
        self,
        source: Source,
        session: &Session,
        common: &Common,
        out: &mut dyn Write,
    ) -> anyhow::Result<Exit> {
        let progress = Progress::begin(self.progress, common, self.verb, source.bytes_total);
        let mut import = Import {
            session,
            common,
            storing: self,
            progress,
            waiting: VecDeque::new(),
            open_batches: VecDeque::new(),
            first_batch: 0,
            busy: HashSet::new(),
            known: session.names().into_keys().collect(),
            untold: BTreeMap::new(),
            cut: false,
            retry_left: false,
        };
        let result = import.run(source.batches).await;
        import.progress.clear();
        import.save_checkpoint()?;
        result?;
        import.finish(out)
    }
}

struct Import<'a> {
    session: &'a Session,
    common: &'a Common,
    storing: Storing,
    progress: Progress,
    /// Records read and not yet sent, with the batch they came in.
    waiting: VecDeque<(u64, u64, Entry)>,
    /// Batches with records not yet in, oldest first; the first one's number is `first_batch`.
    open_batches: VecDeque<OpenBatch>,
    first_batch: u64,
    /// Keys being written: a second record of one of them waits, so that the later line wins.
    busy: HashSet<Bytes>,
    /// Nodes whose names the cluster knows.
    known: HashSet<NodeId>,
    /// Names of others, whose versions come.
    untold: BTreeMap<NodeId, String>,
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
    async fn run(&mut self, mut batches: Receiver<anyhow::Result<Batch>>) -> anyhow::Result<()> {
        let session = self.session;
        let mut in_flight = FuturesUnordered::new();
        let mut ticks = tokio::time::interval(TICK);
        let mut reading = true;
        while reading || !self.waiting.is_empty() || !in_flight.is_empty() {
            if !self.untold.is_empty() {
                tell_names(session, std::mem::take(&mut self.untold)).await;
            }
            while in_flight.len() < self.storing.jobs {
                let Some((batch, line, entry)) = self.next_entry() else { break };
                let (options, dry_run) = (self.storing.options, self.storing.dry_run);
                in_flight.push(async move {
                    let key = entry.key().clone();
                    let result = match entry {
                        Entry::Put(record) => store(session, record, options, dry_run).await,
                        Entry::Merge(state) => merge(session, state, options, dry_run).await,
                    };
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

    /// The next entry, unless one of its key is being written.
    fn next_entry(&mut self) -> Option<(u64, u64, Entry)> {
        let (_, _, entry) = self.waiting.front()?;
        if self.busy.contains(entry.key()) {
            return None;
        }
        let next = self.waiting.pop_front()?;
        self.busy.insert(next.2.key().clone());
        Some(next)
    }

    fn take(&mut self, batch: Batch) {
        let number = self.first_batch + self.open_batches.len() as u64;
        self.progress.bytes = batch.checkpoint.bytes;
        self.cut |= batch.cut;
        let mut left = 0;
        for (line, item) in batch.items {
            match item {
                Item::Entry(entry) => {
                    self.note_names(&entry);
                    left += 1;
                    self.waiting.push_back((number, line, entry));
                }
                Item::Bad(failure) => self.complain(line, failure),
            }
        }
        self.open_batches.push_back(OpenBatch { checkpoint: batch.checkpoint, left, held: false });
    }

    /// Keeps in mind the names of nodes that the cluster may not know.
    fn note_names(&mut self, entry: &Entry) {
        if let Entry::Merge(State { names, .. }) = entry
            && !self.storing.dry_run
        {
            for (node, name) in names {
                if self.known.insert(*node) {
                    self.untold.insert(*node, name.clone());
                }
            }
        }
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
        let unit = self.storing.unit;
        let error =
            anyhow::Error::new(failure.detail(unit, line)).context(format!("{unit} {line}"));
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
        match (&self.storing.resume, reached) {
            (Some(path), Some(checkpoint)) if !self.storing.dry_run => save(path, &checkpoint),
            (Some(_) | None, _) => Ok(()),
        }
    }

    fn finish(self, out: &mut dyn Write) -> anyhow::Result<Exit> {
        let resume = self.storing.resume.as_ref();
        if let Some(path) = resume.filter(|path| !self.retry_left && path.exists()) {
            std::fs::remove_file(path)?;
        }
        if self.common.json {
            writeln!(out, "{}", self.progress.object(self.storing.verb).finish())?;
        } else if !self.common.quiet {
            let tried = if self.storing.dry_run { "would have " } else { "" };
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

/// Tells all members what nodes are called that are none of them: versions of theirs come. It is for people alone, so that
/// a member that does not take it is no failure.
pub(super) async fn tell_names(session: &Session, names: BTreeMap<NodeId, String>) {
    let members = session.member_names();
    let told = join_all(members.keys().map(|node| {
        let body = RequestBody::KeepNames(names.clone());
        async move { (*node, session.call(Some(*node), body).await) }
    }));
    for (node, result) in told.await {
        if let Err(failure) = result {
            tracing::info!("{node} does not know the names of other nodes: {failure}");
        }
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
    again(session, async || {
        session.client().put(key.clone(), value.cloned(), basis.clone(), options).await
    })
    .await
}

/// Has the owners of a key merge a state; what may succeed later is tried a few times.
async fn merge(
    session: &Session,
    State { key, siblings: state, names: _ }: State,
    options: PutOptions,
    dry_run: bool,
) -> Result<(), Failure> {
    check_state(session, &key, &state)?;
    if dry_run {
        return Ok(());
    }
    again(session, async || session.client().merge(key.clone(), state.clone(), options).await).await
}

fn check_state(session: &Session, key: &Bytes, state: &Siblings) -> Result<(), Failure> {
    let mut lengths = state.versions().values().map(|version| version.content.len());
    lengths.try_for_each(|bytes| session.check_pair(key, bytes))
}

/// Does what a node may refuse for a while, a few times.
async fn again(
    session: &Session,
    write: impl AsyncFn() -> Result<Done, ClientError>,
) -> Result<(), Failure> {
    let mut pause = PAUSE;
    let mut tries = 0;
    loop {
        tries += 1;
        let failure = match write().await {
            Ok(_) => return Ok(()),
            Err(error) => session.failure(error),
        };
        if tries == TRIES || !matches!(failure.exit(), Exit::TryAgain | Exit::Unavailable) {
            return Err(failure);
        }
        tracing::info!("write: {failure}; trying again");
        tokio::time::sleep(pause).await;
        pause *= 2;
    }
}

/// The record's context where all of its nodes are members here: then it is this cluster's.
fn basis(session: &Session, record: &Record) -> Result<PutBasis, Failure> {
    let Some(token) = &record.context else { return Ok(PutBasis::Present) };
    let context = Context::decode(token).map_err(|error| context_failure(&error))?;
    let clock = context.for_key(&record.key).map_err(|error| context_failure(&error))?;
    let members = session.member_names();
    let ours = clock.iter().all(|(actor, _)| members.contains_key(&actor.node));
    Ok(if ours { PutBasis::Context(clock.clone()) } else { PutBasis::Present })
}
