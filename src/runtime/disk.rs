//! Threads that may wait for the disk, so that the core thread never does.

use std::collections::VecDeque;
use std::io;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::mpsc::UnboundedSender;

use crate::node::{Event, ReadToken, ScanToken, SnapshotNews, SnapshotWork, do_snapshot_work};
use crate::storage::{JobError, KeyRange, LogPosition, Store, SyncMode};

use super::workers::{JobFailure, Workers};
use super::{RunError, clock};

/// From so many writes in a group on, the next group is given time to gather as many.
const GROUP_WRITES: u64 = 4;
/// Longest time that a group is given.
const GATHER_MAX: Duration = Duration::from_micros(300);
/// How many bytes of a snapshot are read in a second at most: what clients want of the disk comes first.
const SNAPSHOT_RATE: u64 = 128 << 20;
/// How often Core is told how far a snapshot is.
const SNAPSHOT_NEWS_INTERVAL: Duration = Duration::from_millis(200);
/// Threads that read. Reads that need them miss the cache, and more in flight help a disk with depth.
const READERS: usize = 3;

/// What a disk thread tells the core thread.
#[derive(Debug)]
#[expect(clippy::large_enum_variant, reason = "nearly all of it are events")]
pub(super) enum News {
    /// Something for Core.
    Event(Event),
    /// The disk failed: the process ends.
    Fatal(String),
}

/// What Core wants of the store that may wait for the disk.
#[derive(Debug)]
pub(super) enum Read {
    /// One key.
    Get {
        /// Core's number for it.
        token: ReadToken,
        /// The storage key.
        key: Bytes,
    },
    /// `Store::mend`.
    Mend(KeyRange),
    /// Which snapshots there are.
    Snapshots(SnapshotWork),
    /// A slice of a scan.
    Scan {
        /// Core's number for it.
        token: ScanToken,
        /// First storage key.
        start: Bytes,
        /// Storage key behind the last one.
        end: Option<Bytes>,
        /// Most entries.
        entries_max: usize,
        /// Most bytes, roughly.
        bytes_max: usize,
    },
}

/// The disk threads of one store.
pub(super) struct Disk {
    store: Arc<Store>,
    log: Arc<Desk<()>>,
    reads: Arc<Desk<Read>>,
    snapshots: Arc<Desk<SnapshotWork>>,
    workers: Workers,
    /// Up to where writes were counted by [`Disk::delay`].
    paced: LogPosition,
    threads: Vec<JoinHandle<()>>,
}

/// Where work waits for threads.
struct Desk<T> {
    pile: Mutex<Pile<T>>,
    bell: Condvar,
}

struct Pile<T> {
    work: VecDeque<T>,
    is_closed: bool,
}

/// What a thread finds at its desk.
enum Turn<T> {
    Work(T),
    Nothing,
    Closed,
}

impl Disk {
    pub(super) fn start(
        store: &Arc<Store>,
        news: &UnboundedSender<News>,
    ) -> Result<Self, RunError> {
        let outbox = news.clone();
        let workers =
            Workers::start(store, move |failure| report(&failure, &outbox)).map_err(no_thread)?;
        let mut disk = Self {
            store: Arc::clone(store),
            log: Arc::default(),
            reads: Arc::default(),
            snapshots: Arc::default(),
            workers,
            paced: store.appended(),
            threads: Vec::new(),
        };
        let mine = || (Arc::clone(store), news.clone());
        let ((own, outbox), seat) = (mine(), Arc::clone(&disk.log));
        disk.spawn("log-sync".to_owned(), move || sync_log(&own, &seat, &outbox))?;
        let ((own, outbox), seat) = (mine(), Arc::clone(&disk.snapshots));
        disk.spawn("snapshot".to_owned(), move || make_snapshots(&own, &seat, &outbox))?;
        for number in 1..=READERS {
            let ((own, outbox), seat) = (mine(), Arc::clone(&disk.reads));
            disk.spawn(format!("disk-{number}"), move || read(&own, &seat, &outbox))?;
        }
        Ok(disk)
    }

    /// Tells the log's thread that something waits to be durable, if so.
    pub(super) fn sync_log(&self) {
        if self.store.durable() < self.store.appended() {
            self.log.ring();
        }
    }

    /// How long writers should pause now, so that flushes and merges keep up with what was written since the last look.
    pub(super) fn delay(&mut self) -> Duration {
        let appended = self.store.appended();
        let bytes = appended.get() - self.paced.get();
        self.paced = appended;
        self.store.delay(usize::try_from(bytes).unwrap_or(usize::MAX))
    }

    pub(super) fn read(&self, read: Read) {
        self.reads.put(read);
    }

    pub(super) fn snapshot(&self, work: SnapshotWork) {
        match work {
            SnapshotWork::List(_) => self.reads.put(Read::Snapshots(work)),
            SnapshotWork::Create(_) | SnapshotWork::Verify(_) | SnapshotWork::Remove(_) => {
                self.snapshots.put(work);
            }
        }
    }

    /// Lets every thread finish what it does, and waits for that; a snapshot is given up.
    pub(super) fn stop(self) {
        self.log.close();
        self.reads.close();
        self.snapshots.close();
        self.workers.stop();
        for thread in self.threads {
            if thread.join().is_err() {
                tracing::error!("a disk thread panicked");
            }
        }
    }

    fn spawn(&mut self, name: String, job: impl FnOnce() + Send + 'static) -> Result<(), RunError> {
        let thread = thread::Builder::new().name(name).spawn(job);
        self.threads.push(thread.map_err(no_thread)?);
        Ok(())
    }
}

const fn no_thread(source: io::Error) -> RunError {
    RunError::System { what: "start a thread", source }
}

/// Group commit: what is written while one sync runs goes with the next.
///
/// Where many write, the next sync begins only when as much time has passed as the last one took: half as many syncs,
/// each a disk's flush and dozens of microseconds of processor time, carry as many writes. One who writes alone waits
/// for no one.
fn sync_log(store: &Store, desk: &Desk<()>, news: &UnboundedSender<News>) {
    let period = match store.options().sync {
        SyncMode::Interval(period) => Some(period),
        SyncMode::Always | SyncMode::Never => None,
    };
    let mut synced = store.durable();
    let (mut gather, mut writes) = (Duration::ZERO, store.writes());
    loop {
        let turn = desk.turn(period);
        while store.durable() < store.appended() {
            if !gather.is_zero() {
                thread::sleep(gather);
            }
            let (began, taken) = (clock::now().monotonic, store.writes());
            match store.sync(store.appended()) {
                Ok(durable) => tell(news, News::Event(Event::Durable(durable))),
                Err(failed) => return tell(news, News::Fatal(failed.to_string())),
            }
            let is_crowded =
                GROUP_WRITES <= taken - writes && store.options().sync == SyncMode::Always;
            gather = if is_crowded { clock::since(began).min(GATHER_MAX) } else { Duration::ZERO };
            writes = taken;
        }
        match turn {
            Turn::Closed => return,
            Turn::Work(()) => {}
            Turn::Nothing if store.durable() == synced => {}
            Turn::Nothing => match store.sync_all() {
                Ok(durable) => synced = durable,
                Err(failed) => return tell(news, News::Fatal(failed.to_string())),
            },
        }
    }
}

fn read(store: &Store, desk: &Desk<Read>, news: &UnboundedSender<News>) {
    loop {
        let event = match desk.turn(None) {
            Turn::Work(Read::Get { token, key }) => Event::Read { token, result: store.get(&key) },
            Turn::Work(Read::Scan { token, start, end, entries_max, bytes_max }) => {
                let result = store.scan_slice(&start, end.as_deref(), entries_max, bytes_max);
                Event::Scanned { token, result }
            }
            Turn::Work(Read::Snapshots(work)) => {
                Event::Snapshot(do_snapshot_work(store, work, String::new(), &mut |_, _| true))
            }
            Turn::Work(Read::Mend(keys)) => {
                let result = store.mend(&keys).map_err(|error| error.to_string());
                Event::Mended { keys, result }
            }
            Turn::Nothing => continue,
            Turn::Closed => return,
        };
        tell(news, News::Event(event));
    }
}

/// Makes, reads and removes snapshots, slowly, and tells now and then how far it is.
fn make_snapshots(store: &Store, desk: &Desk<SnapshotWork>, news: &UnboundedSender<News>) {
    loop {
        let work = match desk.turn(None) {
            Turn::Work(work) => work,
            Turn::Nothing => continue,
            Turn::Closed => return,
        };
        let began = clock::now();
        let mut told = began.monotonic;
        let mut step = |done: u64, total: u64| {
            let due = began.monotonic + done.saturating_mul(1_000_000_000) / SNAPSHOT_RATE;
            let ahead = due.saturating_sub(clock::now().monotonic);
            thread::sleep(Duration::from_nanos(ahead));
            if SNAPSHOT_NEWS_INTERVAL <= clock::since(told) {
                told = clock::now().monotonic;
                tell(news, News::Event(Event::Snapshot(SnapshotNews::Step { done, total })));
            }
            !desk.is_closed()
        };
        let created = rfc3339(began.wall);
        let ended = do_snapshot_work(store, work, created, &mut step);
        tell(news, News::Event(Event::Snapshot(ended)));
    }
}

fn rfc3339(unix_micros: u64) -> String {
    let stamp = i64::try_from(unix_micros).ok().map(jiff::Timestamp::from_microsecond);
    stamp.and_then(Result::ok).map_or_else(String::new, |stamp| stamp.to_string())
}

/// A job that failed for good ends the process; another is tried again.
fn report(failure: &JobFailure, news: &UnboundedSender<News>) {
    let JobFailure { job, error } = failure;
    match error {
        JobError::Failed(failed) => tell(news, News::Fatal(format!("cannot {job}: {failed}"))),
        JobError::Full | JobError::Read(_) => tracing::error!("cannot {job}: {error}"),
    }
}

/// The core thread may have ended: then nobody wants to know.
fn tell(news: &UnboundedSender<News>, what: News) {
    let _ = news.send(what);
}

impl Desk<()> {
    /// Wakes the thread; ringing twice before it looks is ringing once.
    fn ring(&self) {
        let mut pile = self.pile();
        if pile.work.is_empty() {
            pile.work.push_back(());
            self.bell.notify_one();
        }
    }
}

impl<T> Desk<T> {
    fn put(&self, work: T) {
        self.pile().work.push_back(work);
        self.bell.notify_one();
    }

    fn is_closed(&self) -> bool {
        self.pile().is_closed
    }

    fn close(&self) {
        self.pile().is_closed = true;
        self.bell.notify_all();
    }

    /// Waits for work, at most `patience`. What was put before the close is done before it.
    fn turn(&self, patience: Option<Duration>) -> Turn<T> {
        let mut pile = self.pile();
        loop {
            if let Some(work) = pile.work.pop_front() {
                return Turn::Work(work);
            }
            if pile.is_closed {
                return Turn::Closed;
            }
            pile = match patience {
                None => self.bell.wait(pile).unwrap_or_else(PoisonError::into_inner),
                Some(patience) => {
                    let waited = self.bell.wait_timeout(pile, patience);
                    let (pile, timeout) = waited.unwrap_or_else(PoisonError::into_inner);
                    if timeout.timed_out() && pile.work.is_empty() && !pile.is_closed {
                        return Turn::Nothing;
                    }
                    pile
                }
            };
        }
    }

    fn pile(&self) -> MutexGuard<'_, Pile<T>> {
        self.pile.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<T> Default for Desk<T> {
    fn default() -> Self {
        let pile = Pile { work: VecDeque::new(), is_closed: false };
        Self { pile: Mutex::new(pile), bell: Condvar::new() }
    }
}
