//! Carries one row out, in the process that was started for it.
//!
//! Set up (open, warm up, whatever is not measured), then the measured phase between one start for all threads and the
//! last one's end, then settling, then the proof of what was done. Each thread works on entries of its own when it
//! writes versions, so that the outcome does not depend on who came first.

use std::path::Path;
use std::sync::Barrier;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Result, anyhow, ensure};

use crate::engine::{self, BLOCK_BYTES, Engine, Name, Sink};
use crate::keys::{KEY_BYTES, Permutation, Random, Values, Zipf, key, missing_key};
use crate::measure::{Measured, Stopwatch, Usage, disk_bytes, resident_bytes_peak};
use crate::rows::{DataSet, Row, Scale, Start, Work};

/// Of 20 operations of the Zipf row one is a put.
const ZIPF_OPS_PER_PUT: u64 = 20;
/// Random gets before a row whose data exceeds the cache, in blocks of the cache: it is full then, and has settled.
const WARM_UP_GETS_PER_BLOCK: u64 = 2;
/// How long the writer beside readers sleeps when it is ahead of its rate.
const PACE: Duration = Duration::from_micros(500);

/// What one run is of.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Run<'a> {
    pub(crate) engine: Name,
    pub(crate) dir: &'a Path,
    pub(crate) scale: Scale,
    pub(crate) seed: u64,
    pub(crate) round: u32,
}

/// Writes a data set, waits until the store is idle, and closes it.
pub(crate) fn load(run: Run<'_>, set: &DataSet) -> Result<()> {
    let store = engine::open(run.engine, run.dir, set.knobs(run.scale))?;
    let entries = run.scale.of(set.entries);
    let (order, mut values) = (Permutation::new(entries), Values::new(set.value_bytes));
    for place in 0..entries {
        let number = order.of(place);
        store.put(&key(number), values.of(number, 0))?;
    }
    store.settle()?;
    store.close()
}

/// Does the row's work and says what it took.
pub(crate) fn measure(run: Run<'_>, row: &Row) -> Result<Measured> {
    let store = engine::open(run.engine, run.dir, row.knobs(run.scale))?;
    let plan = Plan::new(run, row);
    plan.set_up(&*store)?;
    let before = Usage::now()?;
    let done = plan.run(&*store)?;
    let worked_until = done.start + done.elapsed;
    let (mut elapsed, mut settling) = (done.elapsed, Duration::ZERO);
    if row.work.writes() {
        settling = store.settle()?.saturating_duration_since(worked_until);
    }
    if row.work == Work::Overwrite {
        elapsed += settling;
    }
    let after = Usage::now()?;
    let (disk_bytes, resident_bytes_peak) = (disk_bytes(run.dir)?, resident_bytes_peak()?);
    let proof = plan.prove(&*store, &done)?;
    store.close()?;
    let (ops, seconds) = (done.stopwatch.ops(), elapsed.as_secs_f64());
    Ok(Measured {
        engine: run.engine,
        row: row.name.to_owned(),
        round: run.round,
        ops,
        seconds,
        ops_per_second: per_second(ops, seconds),
        latency: done.stopwatch.latency(),
        user_seconds: after.user.saturating_sub(before.user).as_secs_f64(),
        system_seconds: after.system.saturating_sub(before.system).as_secs_f64(),
        resident_bytes_peak,
        written_bytes: after.written_bytes - before.written_bytes,
        dirtied_bytes: after.dirtied_bytes - before.dirtied_bytes,
        user_bytes: done.user_bytes,
        disk_bytes,
        settle_seconds: settling.as_secs_f64(),
        found: proof.found,
        checksum: proof.checksum,
    })
}

/// A row in figures.
struct Plan<'a> {
    run: Run<'a>,
    row: &'a Row,
    /// Entries that the store holds: before the row, or after it filled an empty one.
    entries: u64,
    ops: u64,
    order: Permutation,
    values: Values,
    zipf: Option<Zipf>,
}

/// What the measured phase was.
struct Done {
    start: Instant,
    elapsed: Duration,
    stopwatch: Stopwatch,
    sink: Sink,
    user_bytes: u64,
}

impl Work {
    const fn writes(self) -> bool {
        match self {
            Self::FillSequential
            | Self::FillRandom
            | Self::Overwrite
            | Self::ReadWhileWriting { .. }
            | Self::Delete
            | Self::ScanDeleted
            | Self::Zipf => true,
            Self::ReadRandom | Self::ReadMissing | Self::SeekRandom { .. } | Self::Scan => false,
        }
    }
}

impl<'a> Plan<'a> {
    fn new(run: Run<'a>, row: &'a Row) -> Self {
        let ops = row.ops(run.scale);
        let entries = match row.start {
            Start::Empty { .. } => ops,
            Start::Loaded(set) => run.scale.of(set.entries),
        };
        let zipf = (row.work == Work::Zipf).then(|| Zipf::new(entries));
        let values = Values::new(row.value_bytes());
        Self { run, row, entries, ops, order: Permutation::new(entries), values, zipf }
    }

    /// Entries that `Delete` takes away.
    const fn deletes(&self) -> u64 {
        self.entries / 4 * 3
    }

    fn set_up(&self, store: &dyn Engine) -> Result<()> {
        match self.row.work {
            Work::FillSequential
            | Work::FillRandom
            | Work::Overwrite
            | Work::Scan
            | Work::Delete => Ok(()),
            Work::ScanDeleted => {
                (0..self.deletes()).try_for_each(|place| store.delete(&key(self.order.of(place))))
            }
            Work::ReadRandom
            | Work::ReadMissing
            | Work::ReadWhileWriting { .. }
            | Work::SeekRandom { .. }
            | Work::Zipf => self.warm_up(store),
        }
    }

    /// Fills the cache: with everything where that fits, by random gets otherwise.
    fn warm_up(&self, store: &dyn Engine) -> Result<()> {
        let Start::Loaded(set) = self.row.start else { return Ok(()) };
        let mut sink = Sink::default();
        let cache_bytes = set.knobs(self.run.scale).cache_bytes;
        if set.bytes(self.run.scale) < cache_bytes {
            let entries_per_block = BLOCK_BYTES / (KEY_BYTES + set.value_bytes);
            let step = (entries_per_block / 2).max(1);
            for number in (0..self.entries).step_by(step) {
                store.get(&key(number), &mut sink)?;
            }
            return Ok(());
        }
        // Draws of its own: the row's would otherwise find its first blocks ready.
        let mut random = Random::new(!self.run.seed, 0);
        for _ in 0..cache_bytes / BLOCK_BYTES as u64 * WARM_UP_GETS_PER_BLOCK {
            store.get(&key(random.below(self.entries)), &mut sink)?;
        }
        Ok(())
    }

    fn run(&self, store: &dyn Engine) -> Result<Done> {
        match self.row.work {
            Work::Scan => {
                self.run_threads(|_| |done: &mut Done| self.scan(store, self.entries, done))
            }
            Work::ScanDeleted => {
                let live = self.entries - self.deletes();
                self.run_threads(|_| move |done: &mut Done| self.scan(store, live, done))
            }
            Work::ReadWhileWriting { puts_per_second } => {
                self.beside_writer(store, puts_per_second)
            }
            Work::FillSequential
            | Work::FillRandom
            | Work::Overwrite
            | Work::ReadRandom
            | Work::ReadMissing
            | Work::SeekRandom { .. }
            | Work::Delete
            | Work::Zipf => {
                self.run_threads(|thread| move |done: &mut Done| self.work(store, thread, done))
            }
        }
    }

    /// Runs one job for each thread, all from one start on.
    fn run_threads<Job>(&self, job: impl Fn(u64) -> Job) -> Result<Done>
    where
        Job: FnOnce(&mut Done) -> Result<()> + Send,
    {
        let barrier = Barrier::new(usize::try_from(self.row.threads)? + 1);
        thread::scope(|scope| {
            let spawn = |thread| {
                let (job, barrier) = (job(thread), &barrier);
                scope.spawn(move || {
                    barrier.wait();
                    let mut done = Done::start()?;
                    job(&mut done)?;
                    Ok::<_, anyhow::Error>(done)
                })
            };
            let threads: Vec<_> = (0..self.row.threads).map(spawn).collect();
            let mut all = Done::start()?;
            barrier.wait();
            all.start = Instant::now();
            for thread in threads {
                let done = thread.join().map_err(|_| anyhow!("a thread of the row panicked"))??;
                all.merge(&done)?;
            }
            all.elapsed = all.start.elapsed();
            Ok(all)
        })
    }

    fn work(&self, store: &dyn Engine, thread: u64, done: &mut Done) -> Result<()> {
        let threads = self.row.threads;
        let mut random = Random::new(self.run.seed, thread);
        let mut values = self.values.clone();
        let ops = match self.row.work {
            Work::Delete => self.deletes() / threads,
            _ => self.ops / threads,
        };
        for op in 0..ops {
            let own = op * threads + thread;
            match self.row.work {
                Work::FillSequential => done.put(store, own, values.of(own, 0))?,
                Work::FillRandom => {
                    let number = self.order.of(own);
                    done.put(store, number, values.of(number, 0))?;
                }
                Work::Overwrite => {
                    let number = random.below(self.entries / threads) * threads + thread;
                    done.put(store, number, values.of(number, op + 1))?;
                }
                Work::ReadRandom | Work::ReadWhileWriting { .. } => {
                    done.get(store, &key(random.below(self.entries)))?;
                }
                Work::ReadMissing => done.get(store, &missing_key(random.below(self.entries)))?,
                Work::SeekRandom { entries } => {
                    let start = key(random.below(self.entries));
                    let sink = &mut done.sink;
                    done.stopwatch.read(|| store.seek(&start, entries, sink))?;
                }
                Work::Delete => {
                    done.user_bytes += KEY_BYTES as u64;
                    done.stopwatch.write(|| store.delete(&key(self.order.of(own))))?;
                }
                Work::Zipf => {
                    let zipf = self.zipf.as_ref().expect("made with the plan");
                    let number = zipf.draw(&mut random);
                    if random.below(ZIPF_OPS_PER_PUT) == 0 {
                        done.put_seldom(store, number, values.of(number, 0))?;
                    } else {
                        done.get(store, &key(number))?;
                    }
                }
                Work::Scan | Work::ScanDeleted => unreachable!("one call does the row"),
            }
        }
        Ok(())
    }

    fn scan(&self, store: &dyn Engine, live: u64, done: &mut Done) -> Result<()> {
        for _ in 0..(self.ops / live).max(1) {
            let before = done.sink.found;
            store.scan(&mut done.sink)?;
            done.stopwatch.count(done.sink.found - before);
        }
        Ok(())
    }

    /// The readers of the row and a writer beside them, which puts the values that are there already: so what is read
    /// does not depend on how far it got.
    fn beside_writer(&self, store: &dyn Engine, puts_per_second: u64) -> Result<Done> {
        let (over, puts) = (AtomicBool::new(false), AtomicU64::new(0));
        thread::scope(|scope| {
            let writer = scope.spawn(|| {
                let mut random = Random::new(self.run.seed, u64::MAX);
                let mut values = self.values.clone();
                let (start, mut written) = (Instant::now(), 0_u64);
                while !over.load(Ordering::Relaxed) {
                    if u128::from(puts_per_second) * start.elapsed().as_nanos()
                        < u128::from(written) * 1_000_000_000
                    {
                        thread::sleep(PACE);
                        continue;
                    }
                    let number = random.below(self.entries);
                    store.put(&key(number), values.of(number, 0))?;
                    written += 1;
                }
                puts.store(written, Ordering::Relaxed);
                Ok::<_, anyhow::Error>(())
            });
            let done =
                self.run_threads(|thread| move |done: &mut Done| self.work(store, thread, done));
            over.store(true, Ordering::Relaxed);
            writer.join().map_err(|_| anyhow!("the writer panicked"))??;
            let mut done = done?;
            let put_bytes = (KEY_BYTES + self.row.value_bytes()) as u64;
            done.user_bytes += puts.load(Ordering::Relaxed) * put_bytes;
            Ok(done)
        })
    }

    /// What was read; of a row that only writes, what is there now. Holds the count against what it must be.
    fn prove(&self, store: &dyn Engine, done: &Done) -> Result<Sink> {
        let whole = || {
            let mut sink = Sink::default();
            store.scan(&mut sink).map(|()| sink)
        };
        let (sink, expected) = match self.row.work {
            Work::FillSequential | Work::FillRandom | Work::Overwrite => (whole()?, self.entries),
            Work::Delete => (whole()?, self.entries - self.deletes()),
            Work::ReadRandom | Work::ReadWhileWriting { .. } => (done.sink, self.ops),
            Work::ReadMissing => (done.sink, 0),
            Work::Scan | Work::ScanDeleted => (done.sink, done.stopwatch.ops()),
            // How many keys follow a random place, and how many operations are puts, only the rivals can confirm.
            Work::SeekRandom { .. } | Work::Zipf => (done.sink, done.sink.found),
        };
        let found = sink.found;
        ensure!(
            found == expected,
            "{}: {found} entries found, but {expected} expected",
            self.row.name
        );
        Ok(sink)
    }
}

impl Done {
    fn start() -> Result<Self> {
        Ok(Self {
            stopwatch: Stopwatch::start()?,
            start: Instant::now(),
            elapsed: Duration::ZERO,
            sink: Sink::default(),
            user_bytes: 0,
        })
    }

    fn put(&mut self, store: &dyn Engine, number: u64, value: &[u8]) -> Result<()> {
        self.user_bytes += (KEY_BYTES + value.len()) as u64;
        self.stopwatch.write(|| store.put(&key(number), value))
    }

    /// A put among reads, timed as they are.
    fn put_seldom(&mut self, store: &dyn Engine, number: u64, value: &[u8]) -> Result<()> {
        self.user_bytes += (KEY_BYTES + value.len()) as u64;
        self.stopwatch.read(|| store.put(&key(number), value))
    }

    fn get(&mut self, store: &dyn Engine, key: &[u8]) -> Result<()> {
        let sink = &mut self.sink;
        self.stopwatch.read(|| store.get(key, sink)).map(drop)
    }

    fn merge(&mut self, other: &Self) -> Result<()> {
        self.sink.merge(other.sink);
        self.user_bytes += other.user_bytes;
        self.stopwatch.merge(&other.stopwatch)
    }
}

#[expect(clippy::cast_precision_loss, reason = "counts of operations are far below 2^53")]
fn per_second(ops: u64, seconds: f64) -> f64 {
    ops as f64 / seconds
}
