//! How long a large store takes to open.

use std::fs;
use std::time::{Duration, Instant};

use anyhow::Result;
use kvkit::storage::{Compression, Options, SyncMode};

use super::{Finding, Running, Soak, tell};
use crate::keys::KEY_BYTES;
use crate::measure::disk_bytes;

const PART: &str = "open";
/// Small enough for an index and filters that weigh something.
const VALUE_BYTES: usize = 1 << 10;
/// The bound, whatever the size.
const SECONDS_MAX: f64 = 1.0;
/// How long the load may take to settle.
const SETTLE_MAX: Duration = Duration::from_mins(10);

pub(super) fn opening(soak: &Soak<'_>, bytes: u64) -> Result<Vec<Finding>> {
    let dir = soak.dir.join(PART);
    let options = Options {
        sync: SyncMode::Never,
        compression: Compression::None,
        block_bytes: Compression::None.block_bytes(),
        reserve_bytes: 0,
        ..Options::default()
    };
    tell(&format!("open: loading {} MiB", bytes >> 20));
    let load = Running::open(&dir, options.clone())?;
    load.load(soak, bytes / (KEY_BYTES + VALUE_BYTES) as u64, VALUE_BYTES)?;
    load.store.freeze();
    load.settle(soak, SETTLE_MAX)?;
    load.close()?;
    let size = disk_bytes(&dir)?;
    let start = Instant::now();
    let opened = Running::open(&dir, options)?;
    let seconds = start.elapsed().as_secs_f64();
    let pinned = opened.store.stats().pinned_bytes;
    opened.close()?;
    fs::remove_dir_all(&dir)?;
    let finding = |what, value, unit, most| Finding { part: PART, what, value, unit, most };
    Ok(vec![
        finding("size on disk", mebibytes(size), " MiB", None),
        finding("indexes and filters in memory", mebibytes(pinned), " MiB", None),
        finding("opening, files in the page cache", seconds, " s", Some(SECONDS_MAX)),
    ])
}

#[expect(clippy::cast_precision_loss, reason = "for people")]
pub(super) fn mebibytes(bytes: u64) -> f64 {
    bytes as f64 / f64::from(1 << 20)
}
