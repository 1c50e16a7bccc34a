//! One thread writes and reads while others sync, flush and merge, as in production.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::thread;

use super::super::offline::DirectoryView;
use super::super::*;
use super::{DIR, content, put, small};

/// Says that its thread ended, by a panic too: nobody waits for it then.
struct Done<'a>(&'a AtomicBool);

impl Drop for Done<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Release);
    }
}

#[test]
fn reads_see_every_earlier_write_whatever_runs_beside() {
    let temporary = tempfile::tempdir().unwrap();
    let options = Options { memtable_bytes: 8 << 10, frozen_max: 2, ..small() };
    let dir = temporary.path().join(DIR);
    let open =
        || Store::open(Arc::new(vfs::Real), &dir, options.clone(), &mut |_, _| {}).unwrap().0;
    let store = open();
    let done = AtomicBool::new(false);
    let mut expected = BTreeMap::new();
    thread::scope(|scope| {
        let jobs: [fn(&Store) -> Option<Job>; 3] =
            [Store::next_sync, Store::next_flush, Store::next_compaction];
        for next in jobs {
            let (store, done) = (&store, &done);
            scope.spawn(move || {
                let _done = Done(done);
                while !done.load(Ordering::Acquire) {
                    match next(store) {
                        Some(job) => store.run(job).unwrap(),
                        None => thread::yield_now(),
                    }
                }
            });
        }
        for round in 0..5000_u32 {
            let (key, value) = (format!("key{:03}", round * 31 % 400), format!("value {round}"));
            let mut batch = WriteBatch::new();
            batch.put(&key, &value);
            while let Err(error) = store.write(batch.clone()) {
                assert!(matches!(error, WriteError::Overloaded { .. }), "{error}");
                assert!(!done.load(Ordering::Acquire), "a job failed");
                thread::yield_now();
            }
            expected.insert(key, value);
            let asked = format!("key{:03}", round * 7 % 400);
            let found = store.get(asked.as_bytes()).unwrap();
            assert_eq!(found.value.as_deref(), expected.get(&asked).map(String::as_bytes));
            assert!(found.position <= store.appended());
            if round % 500 == 0 {
                assert_eq!(content(&store), expected, "a scan beside flushes and merges");
            }
        }
        done.store(true, Ordering::Release);
    });
    assert!(store.stats().flushes > 3);
    store.close().unwrap();
    drop(store);
    assert_eq!(content(&open()), expected);
}

#[test]
fn a_view_from_outside_holds_all_that_was_written_whatever_runs_beside() {
    let temporary = tempfile::tempdir().unwrap();
    let dir = temporary.path().join(DIR);
    let options = Options { memtable_bytes: 4 << 10, ..small() };
    let store = Store::open(Arc::new(vfs::Real), &dir, options, &mut |_, _| {}).unwrap().0;
    let (done, durable) = (AtomicBool::new(false), AtomicU32::new(0));
    thread::scope(|scope| {
        scope.spawn(|| {
            let _done = Done(&done);
            for number in 1..1500_u32 {
                put(&store, &format!("key{number:05}"), "value");
                store.sync_all().unwrap();
                durable.store(number, Ordering::Release);
                for job in [store.next_flush(), store.next_compaction()].into_iter().flatten() {
                    store.run(job).unwrap();
                }
            }
        });
        let mut views = 0;
        while !done.load(Ordering::Acquire) {
            let at_least = durable.load(Ordering::Acquire);
            // It may be too quick for us; what is seen must be whole.
            let Ok(view) = DirectoryView::open(&vfs::Real, &dir) else { continue };
            let seen: Vec<_> = view.live().map(|entry| entry.unwrap().key).collect();
            assert!(seen.len() >= at_least as usize, "{} keys of {at_least}", seen.len());
            views += 1;
        }
        assert!(views > 3, "{views} views");
    });
}
