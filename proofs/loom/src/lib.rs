//! The very source files of `kvkit::storage` that threads wait in, over loom's mutexes and condition variables: loom runs
//! each model through every order of steps that the memory model allows. A lost wake-up shows as a deadlock.
//!
//! `cargo test --release --manifest-path proofs/loom/Cargo.toml`

#![cfg(test)]

#[path = "../../../src/storage/store/bell.rs"]
mod bell;
mod primitives;
#[path = "../../../src/storage/store/turn.rs"]
mod turn;

use std::time::Duration;

use loom::sync::Arc;
use loom::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use loom::thread;

use bell::Bell;
use turn::Turn;

/// A log as the store's turn sees it: what was appended, what of it is durable, and a disk that may fail.
#[derive(Debug)]
struct Log {
    turn: Turn,
    appended: AtomicU64,
    durable: AtomicU64,
    has_failed: AtomicBool,
    /// The first sync fails.
    is_bad: bool,
    syncing: AtomicUsize,
    syncs: AtomicUsize,
}

impl Log {
    fn new(is_bad: bool) -> Arc<Self> {
        Arc::new(Self {
            turn: Turn::default(),
            appended: AtomicU64::new(0),
            durable: AtomicU64::new(0),
            has_failed: AtomicBool::new(false),
            is_bad,
            syncing: AtomicUsize::new(0),
            syncs: AtomicUsize::new(0),
        })
    }

    /// As the store's: appends, and waits until that is durable or the log has failed.
    fn write(&self) -> Result<u64, ()> {
        let position = self.appended.fetch_add(1, Ordering::AcqRel) + 1;
        let look = || {
            if self.has_failed.load(Ordering::Acquire) {
                return Some(Err(()));
            }
            let durable = self.durable.load(Ordering::Acquire);
            (position <= durable).then_some(Ok(durable))
        };
        let reached = |result: &Result<u64, ()>| result.unwrap_or(u64::MAX);
        let durable = self.turn.find_or_work(position, look, || self.sync(), reached)?;
        assert!(position <= durable, "returned before it was durable");
        Ok(durable)
    }

    fn sync(&self) -> Result<u64, ()> {
        assert_eq!(self.syncing.fetch_add(1, Ordering::AcqRel), 0, "two sync at once");
        assert!(!self.has_failed.load(Ordering::Acquire), "a failed sync was tried again");
        let end = self.appended.load(Ordering::Acquire);
        self.syncs.fetch_add(1, Ordering::AcqRel);
        // Where another thread may run while the disk works.
        thread::yield_now();
        self.syncing.fetch_sub(1, Ordering::AcqRel);
        if self.is_bad {
            self.has_failed.store(true, Ordering::Release);
            return Err(());
        }
        self.durable.fetch_max(end, Ordering::AcqRel);
        Ok(end)
    }
}

fn write_at_once(is_bad: bool, writers: usize) -> (Arc<Log>, Vec<Result<u64, ()>>) {
    let log = Log::new(is_bad);
    let threads: Vec<_> = (1..writers)
        .map(|_| {
            let log = Arc::clone(&log);
            thread::spawn(move || log.write())
        })
        .collect();
    let mut results = vec![log.write()];
    results.extend(threads.into_iter().map(|thread| thread.join().unwrap()));
    (log, results)
}

#[track_caller]
fn check_writers(writers: usize, preemptions: Option<usize>) {
    let mut model = loom::model::Builder::new();
    model.preemption_bound = preemptions;
    model.check(move || {
        let (log, results) = write_at_once(false, writers);
        assert!(results.iter().all(Result::is_ok));
        let syncs = log.syncs.load(Ordering::Acquire);
        assert!((1..=writers).contains(&syncs), "{syncs} syncs");
        assert_eq!(log.durable.load(Ordering::Acquire), writers as u64);
    });
}

#[test]
fn every_writer_returns_with_its_position_durable() {
    check_writers(2, None);
    check_writers(3, Some(2));
}

#[test]
fn after_a_failed_sync_every_writer_returns_the_failure_and_none_tries_again() {
    let mut model = loom::model::Builder::new();
    model.preemption_bound = Some(3);
    model.check(|| {
        let (log, results) = write_at_once(true, 3);
        assert!(results.iter().all(Result::is_err));
        assert_eq!(log.syncs.load(Ordering::Acquire), 1);
    });
}

#[test]
fn a_bell_wakes_all_who_waited_for_it_whenever_it_rings() {
    loom::model(|| {
        let (bell, is_due) = (Arc::new(Bell::default()), Arc::new(AtomicBool::new(false)));
        let worker = {
            let (bell, is_due) = (Arc::clone(&bell), Arc::clone(&is_due));
            thread::spawn(move || {
                loop {
                    // Heard before the look: a ring in between ends the wait at once.
                    let heard = bell.rung();
                    if is_due.load(Ordering::Acquire) {
                        return;
                    }
                    bell.wait(heard, Duration::MAX);
                }
            })
        };
        let waiter = {
            let bell = Arc::clone(&bell);
            thread::spawn(move || bell.wait(0, Duration::MAX))
        };
        is_due.store(true, Ordering::Release);
        bell.ring();
        worker.join().unwrap();
        waiter.join().unwrap();
        assert_eq!(bell.rung(), 1);
    });
}
