//! Workers: the threads that do a store's background jobs, one that flushes, one that merges, one that reads all again.

use std::fmt;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use crate::storage::{Job, JobError, KeyRange, SetAside, Store};

/// How often a worker looks for work and for space on a full disk although no bell rang.
const LOOK_AROUND: Duration = Duration::from_millis(500);

/// How often the scrub reads a slice, and how much: a quarter of a MiB a second, a GiB in little more than an hour.
const SCRUB_PAUSE: Duration = Duration::from_secs(4);
const SCRUB_BYTES: u64 = 1 << 20;

/// The threads of one store.
pub struct Workers {
    store: Arc<Store>,
    is_over: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
}

/// What a worker could not do.
#[derive(Debug)]
pub struct JobFailure {
    /// The job.
    pub job: Job,
    /// Why not. After [`JobError::Failed`] the store takes no more writes, and the worker ends.
    pub error: JobError,
}

/// Looks for a job of one kind.
type Next = fn(&Store) -> Option<Job>;

impl Workers {
    /// Starts them. What they could not do they tell `report`.
    /// # Errors
    /// The system's: no thread to be had.
    pub fn start(
        store: &Arc<Store>,
        report: impl Fn(JobFailure) + Clone + Send + 'static,
    ) -> io::Result<Self> {
        let is_over = Arc::new(AtomicBool::new(false));
        let mut workers = Self { store: Arc::clone(store), is_over, threads: Vec::new() };
        let kinds: [(&str, Next); 2] =
            [("flush", Store::next_flush), ("compaction", Store::next_compaction)];
        for (name, next) in kinds {
            let (store, is_over) = (Arc::clone(store), Arc::clone(&workers.is_over));
            let report = report.clone();
            let thread = thread::Builder::new().name(name.to_owned());
            workers.threads.push(thread.spawn(move || work(&store, next, &is_over, &report))?);
        }
        let (store, is_over) = (Arc::clone(store), Arc::clone(&workers.is_over));
        let thread = thread::Builder::new().name("scrub".to_owned());
        workers.threads.push(thread.spawn(move || scrub(&store, &is_over))?);
        Ok(workers)
    }

    /// Lets each finish the job or slice that it is at, and waits for that.
    pub fn stop(self) {
        self.is_over.store(true, Ordering::Release);
        self.store.ring();
        for thread in self.threads {
            thread.thread().unpark();
            if thread.join().is_err() {
                tracing::error!("a worker panicked");
            }
        }
    }
}

impl fmt::Debug for Workers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Workers").field("threads", &self.threads.len()).finish_non_exhaustive()
    }
}

fn work(store: &Store, next: Next, is_over: &AtomicBool, report: &impl Fn(JobFailure)) {
    let mut told = 0;
    while !is_over.load(Ordering::Acquire) {
        let heard = store.bell();
        let failure = match next(store) {
            None => None,
            Some(job) => match store.run(job.clone()) {
                Ok(()) => {
                    if matches!(job, Job::Compact(_)) {
                        told = tell_set_aside(store, told);
                    }
                    continue;
                }
                Err(error) => Some(JobFailure { job, error }),
            },
        };
        if let Some(failure) = failure {
            let is_end = matches!(failure.error, JobError::Failed(_));
            report(failure);
            if is_end {
                return;
            }
        }
        store.wait_for_bell(heard, LOOK_AROUND);
        if let Err(error) = store.check_space() {
            tracing::warn!("cannot tell how much space the disk has: {error}");
        }
    }
}

/// Logs the damaged tables that were set aside behind the first `told` ones; how many there are now.
fn tell_set_aside(store: &Store, told: usize) -> usize {
    let all = store.set_aside();
    for SetAside { file, lost } in all.iter().skip(told) {
        let file = file.display();
        if lost.is_empty() {
            tracing::warn!("{file}: a damaged table was set aside; nothing was lost with it");
        }
        for KeyRange { first, last } in lost {
            tracing::error!(
                "{file}: a damaged table was set aside; keys {} to {} were lost with it and wait for repair",
                first.escape_ascii(),
                last.escape_ascii()
            );
        }
    }
    all.len()
}

fn scrub(store: &Store, is_over: &AtomicBool) {
    loop {
        thread::park_timeout(SCRUB_PAUSE);
        if is_over.load(Ordering::Acquire) {
            return;
        }
        for damaged in store.scrub(SCRUB_BYTES).damaged {
            let cause = std::error::Error::source(&damaged).map(ToString::to_string);
            tracing::error!("found by the scrub: {damaged}: {}", cause.unwrap_or_default());
        }
    }
}
