//! Reads of data five times the cache, drawn by Zipf's law, before, during and after a scan of everything: what is used
//! often stays in memory.

use std::fs;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use kvkit::storage::{Cached, Compression, Options, Store, SyncMode};

use super::{Finding, Running, Soak, tell};
use crate::keys::{KEY_BYTES, Random, Zipf, key};

const PART: &str = "zipfian reads";
const CACHE_BYTES: u64 = 32 << 20;
const DATA_BYTES: u64 = 5 * CACHE_BYTES;
const VALUE_BYTES: usize = 100;
/// Points that the hit rate may fall.
const POINTS_MAX: f64 = 2.0;
/// The share of the time before the first measurement: the cache fills and settles.
const WARM_UP_SHARE: f64 = 0.5;
/// Reads between two looks at the clock.
const READS_PER_LOOK: u64 = 1_000;
const SETTLE_MAX: Duration = Duration::from_mins(2);

/// Reads one stream of keys.
struct Reader<'a> {
    store: &'a Store,
    zipf: Zipf,
    random: Random,
}

pub(super) fn around_a_scan(soak: &Soak<'_>, span: Duration) -> Result<Vec<Finding>> {
    let dir = soak.dir.join("zipf");
    let options = Options {
        sync: SyncMode::Never,
        compression: Compression::None,
        block_bytes: Compression::None.block_bytes(),
        cache_bytes: CACHE_BYTES,
        reserve_bytes: 0,
        ..Options::default()
    };
    tell("zipfian reads: loading");
    let entries = DATA_BYTES / (KEY_BYTES + VALUE_BYTES) as u64;
    let running = Running::open(&dir, options)?;
    running.load(soak, entries, VALUE_BYTES)?;
    // Nothing is to be read from a memtable.
    running.store.freeze();
    running.settle(soak, SETTLE_MAX)?;
    tell("zipfian reads: reading");
    let (zipf, random) = (Zipf::new(entries), Random::new(soak.seed, 0));
    let mut reader = Reader { store: &running.store, zipf, random };
    let window = span.mul_f64((1.0 - WARM_UP_SHARE) / 2.0);
    reader.hit_rate(soak, |start, _| start.elapsed() < span.mul_f64(WARM_UP_SHARE))?;
    let mut reads = 0;
    let before = reader.hit_rate(soak, |start, done| {
        reads = done;
        start.elapsed() < window
    })?;
    let is_over = AtomicBool::new(false);
    let during = thread::scope(|scope| {
        let scanner = scope.spawn(|| {
            let found =
                running.store.scan(b"", None).try_fold(0, |count, entry| entry.map(|_| count + 1));
            is_over.store(true, Ordering::Release);
            found
        });
        let during = reader.hit_rate(soak, |_, _| !is_over.load(Ordering::Acquire))?;
        let found: u64 = scanner.join().ok().context("the scan panicked")??;
        ensure!(found == entries, "the scan found {found} of {entries} entries");
        Ok(during)
    })?;
    // As many as before, from the first one on: a cache that the scan emptied would fill again.
    let after = reader.hit_rate(soak, |_, done| done < reads)?;
    running.close()?;
    fs::remove_dir_all(&dir)?;
    let finding = |what, value, most| Finding { part: PART, what, value, unit: " %", most };
    Ok(vec![
        finding("served from memory before a scan", before * 100.0, None),
        finding("served from memory during it", during * 100.0, None),
        finding("served from memory after it", after * 100.0, None),
        finding("lost by the scan", (before - after) * 100.0, Some(POINTS_MAX)),
    ])
}

impl Reader<'_> {
    /// Reads while `go_on` says so of the start and the reads done; the share of reads that needed no disk.
    #[expect(clippy::cast_precision_loss, reason = "a share")]
    fn hit_rate(
        &mut self,
        soak: &Soak<'_>,
        mut go_on: impl FnMut(Instant, u64) -> bool,
    ) -> Result<f64> {
        let (start, mut reads, mut hits) = (Instant::now(), 0, 0);
        while reads == 0 || go_on(start, reads) {
            soak.check_interrupt()?;
            for _ in 0..READS_PER_LOOK {
                let key = key(self.zipf.draw(&mut self.random));
                let value = match self.store.get_cached(&key)? {
                    Cached::Ready(found) => {
                        hits += 1;
                        found.value
                    }
                    Cached::NeedsDisk => self.store.get(&key)?.value,
                };
                ensure!(value.is_some_and(|value| value.len() == VALUE_BYTES), "a key is gone");
            }
            reads += READS_PER_LOOK;
        }
        Ok(f64::from(u32::try_from(hits)?) / reads as f64)
    }
}
