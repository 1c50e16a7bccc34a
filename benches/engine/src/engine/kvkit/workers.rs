//! One thread that flushes and one that compacts, as the other engines have them.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use anyhow::{Result, anyhow, bail};
use kvkit::storage::{Job, Store};

/// How often an idle thread looks for a job, and who waits looks whether that is over.
const LOOK_AROUND: Duration = Duration::from_millis(1);

pub(super) struct Workers {
    shared: Arc<Shared>,
    threads: Vec<JoinHandle<()>>,
}

struct Shared {
    store: Arc<Store>,
    is_stopped: AtomicBool,
    /// Threads that have a job or look for one.
    awake: AtomicU64,
    jobs_started: AtomicU64,
    failure: Mutex<Option<String>>,
    progress: Condvar,
}

impl Workers {
    pub(super) fn start(store: &Arc<Store>) -> Result<Self> {
        let shared = Arc::new(Shared {
            store: Arc::clone(store),
            is_stopped: AtomicBool::new(false),
            awake: AtomicU64::new(0),
            jobs_started: AtomicU64::new(0),
            failure: Mutex::new(None),
            progress: Condvar::new(),
        });
        let kinds: [(&str, NextJob); 2] =
            [("flush", Store::next_flush), ("compact", Store::next_compaction)];
        let spawn = |(name, next): (&str, NextJob)| {
            let shared = Arc::clone(&shared);
            thread::Builder::new().name(name.to_owned()).spawn(move || shared.work(next))
        };
        let threads = kinds.into_iter().map(spawn).collect::<Result<_, _>>()?;
        Ok(Self { shared, threads })
    }

    /// Waits until a job is done, or a moment.
    pub(super) fn wait_for_progress(&self) -> Result<()> {
        let failure = self.shared.failure();
        let waited = self.shared.progress.wait_timeout(failure, LOOK_AROUND);
        let (failure, _) = waited.unwrap_or_else(PoisonError::into_inner);
        failure.as_ref().map_or(Ok(()), |reason| Err(anyhow!("{reason}")))
    }

    /// Waits until there is no job left and none under way; since when that is so.
    pub(super) fn wait_until_idle(&self) -> Result<Instant> {
        loop {
            if self.shared.is_idle() {
                return Ok(Instant::now());
            }
            self.wait_for_progress()?;
        }
    }

    pub(super) fn stop(self) -> Result<()> {
        self.shared.is_stopped.store(true, Ordering::Release);
        for thread in self.threads {
            if thread.join().is_err() {
                bail!("a background thread panicked");
            }
        }
        Ok(())
    }
}

type NextJob = fn(&Store) -> Option<Job>;

impl Shared {
    fn work(&self, next: NextJob) {
        while !self.is_stopped.load(Ordering::Acquire) {
            self.awake.fetch_add(1, Ordering::SeqCst);
            let job = next(&self.store);
            let was_due = job.is_some();
            if let Some(job) = job {
                self.jobs_started.fetch_add(1, Ordering::SeqCst);
                let name = job.to_string();
                if let Err(error) = self.store.run(job) {
                    *self.failure() = Some(format!("cannot {name}: {error}"));
                    self.progress.notify_all();
                    return;
                }
                self.progress.notify_all();
            }
            self.awake.fetch_sub(1, Ordering::SeqCst);
            if !was_due {
                thread::sleep(LOOK_AROUND);
            }
        }
    }

    /// The store says that no merge is due while a thread works at one: so nobody may have been at work before or after.
    fn is_idle(&self) -> bool {
        let nobody_works = || self.awake.load(Ordering::SeqCst) == 0;
        let started = self.jobs_started.load(Ordering::SeqCst);
        nobody_works()
            && self.store.next_flush().is_none()
            && self.store.next_compaction().is_none()
            && nobody_works()
            && started == self.jobs_started.load(Ordering::SeqCst)
    }

    fn failure(&self) -> MutexGuard<'_, Option<String>> {
        self.failure.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
