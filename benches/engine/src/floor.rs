//! What the machine itself can do, measured in the same run: no engine that syncs, copies or reads can be faster.

use std::fs::{File, OpenOptions};
use std::hint::black_box;
use std::io::Write;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::Result;
use serde::{Deserialize, Serialize};

use crate::keys::Random;

/// How long each figure is measured.
const PATIENCE: Duration = Duration::from_millis(400);
/// Bytes written before each sync: about a record with a 100-byte value.
const RECORD_BYTES: usize = 128;
const PAGE_BYTES: usize = 4 << 10;
const FILE_PAGES: usize = 16 << 10;
const COPY_BYTES: usize = 64 << 20;
/// Rounds of a thing too short to be timed alone.
const BATCH: u32 = 1024;

/// The machine's figures of one round.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub(crate) struct Floors {
    /// `write(2)` behind the end of a file, then `fdatasync(2)`.
    pub(crate) synced_appends_per_second: f64,
    /// `pwrite(2)` into space that the file has already, then `fdatasync(2)`.
    pub(crate) synced_overwrites_per_second: f64,
    /// Of memory far larger than the processor's caches.
    pub(crate) copied_bytes_per_second: f64,
    /// `pread(2)` of a random 4 KiB page in the page cache.
    pub(crate) cached_preads_per_second: f64,
    /// One reading of the clock.
    pub(crate) clock_nanoseconds: f64,
}

impl Floors {
    /// Measures all of them, in a directory on the disk that the engines use.
    pub(crate) fn measure(dir: &Path) -> Result<Self> {
        let path = dir.join("floor");
        let options =
            || OpenOptions::new().read(true).write(true).create(true).truncate(true).open(&path);
        let mut log = options()?;
        let record = [7; RECORD_BYTES];
        let synced_appends_per_second = rate(|| {
            log.write_all(&record)?;
            Ok(log.sync_data()?)
        })?;
        let pages = options()?;
        write_pages(&pages)?;
        let mut place = 0;
        let synced_overwrites_per_second = rate(|| {
            pages.write_all_at(&record, place)?;
            place = (place + RECORD_BYTES as u64) % ((FILE_PAGES - 1) * PAGE_BYTES) as u64;
            Ok(pages.sync_data()?)
        })?;
        let (mut random, mut page) = (Random::new(0, 0), [0; PAGE_BYTES]);
        let cached_preads_per_second = f64::from(BATCH)
            * rate(|| {
                for _ in 0..BATCH {
                    let place = random.below(FILE_PAGES as u64) * PAGE_BYTES as u64;
                    pages.read_exact_at(&mut page, place)?;
                    black_box(&page);
                }
                Ok(())
            })?;
        std::fs::remove_file(&path)?;
        let (from, mut to) = (vec![1_u8; COPY_BYTES], vec![2_u8; COPY_BYTES]);
        let copies = rate(|| {
            to.copy_from_slice(black_box(&from));
            black_box(&to);
            Ok(())
        })?;
        let clocks = rate(|| {
            for _ in 0..BATCH {
                black_box(Instant::now());
            }
            Ok(())
        })?;
        Ok(Self {
            synced_appends_per_second,
            synced_overwrites_per_second,
            #[expect(clippy::cast_precision_loss, reason = "a power of two")]
            copied_bytes_per_second: copies * COPY_BYTES as f64,
            cached_preads_per_second,
            clock_nanoseconds: 1e9 / (clocks * f64::from(BATCH)),
        })
    }
}

fn write_pages(file: &File) -> Result<()> {
    let page = [3; PAGE_BYTES];
    (0..FILE_PAGES)
        .try_for_each(|number| file.write_all_at(&page, (number * PAGE_BYTES) as u64))?;
    Ok(file.sync_all()?)
}

/// How often a second the operation can be done.
fn rate(mut op: impl FnMut() -> Result<()>) -> Result<f64> {
    let (start, mut ops) = (Instant::now(), 0_u32);
    while start.elapsed() < PATIENCE {
        op()?;
        ops += 1;
    }
    Ok(f64::from(ops) / start.elapsed().as_secs_f64())
}
