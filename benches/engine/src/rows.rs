//! What is measured: the rows of the table, and the data sets they start from.
//!
//! Sizes are those of the long form; [`Scale`] takes a part of them. Caches shrink with the data, memtables do not.

use crate::engine::{Compression, Durability, Knobs};
use crate::keys::KEY_BYTES;

/// The cache of the rows that fill an empty store.
const FILL_CACHE_BYTES: u64 = 64 << 20;
/// Least cache, however small the scale.
const CACHE_BYTES_MIN: u64 = 1 << 20;

/// The part of the long form's sizes that is run.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Scale(pub(crate) f64);

/// Data that several rows start from: loaded in random order, settled, closed, and cloned for each run.
#[derive(Debug, PartialEq)]
pub(crate) struct DataSet {
    pub(crate) name: &'static str,
    pub(crate) entries: u64,
    pub(crate) value_bytes: usize,
    pub(crate) cache_bytes: u64,
    pub(crate) compression: Compression,
}

/// One row.
#[derive(Debug)]
pub(crate) struct Row {
    pub(crate) name: &'static str,
    pub(crate) work: Work,
    pub(crate) start: Start,
    pub(crate) threads: u64,
    /// Operations of all threads together.
    pub(crate) ops: u64,
}

/// What a row starts from.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Start {
    /// An empty store.
    Empty { value_bytes: usize, compression: Compression, durability: Durability },
    /// A clone of the data set.
    Loaded(&'static DataSet),
}

/// What a row does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Work {
    /// Puts each key once, ascending.
    FillSequential,
    /// Puts each key once, in random order.
    FillRandom,
    /// Puts random keys that are there; the clock stops when no compaction is left, so that debt counts.
    Overwrite,
    /// Gets random keys that are there.
    ReadRandom,
    /// Gets random keys that are not there.
    ReadMissing,
    /// As `ReadRandom`, while another thread overwrites at this rate.
    ReadWhileWriting { puts_per_second: u64 },
    /// Reads this many entries from random places on.
    SeekRandom { entries: usize },
    /// Reads everything in order, as often as fits the number of operations, which are entries.
    Scan,
    /// Deletes three of four entries in random order.
    Delete,
    /// A scan of what `Delete`, not measured, just left.
    ScanDeleted,
    /// 95 gets to 5 puts of keys drawn by Zipf's law.
    Zipf,
}

static HOT_100: DataSet = DataSet {
    name: "hot-100",
    entries: 1_000_000,
    value_bytes: 100,
    cache_bytes: 256 << 20,
    compression: Compression::None,
};
static HOT_1K: DataSet = DataSet {
    name: "hot-1k",
    entries: 120_000,
    value_bytes: 1024,
    cache_bytes: 256 << 20,
    compression: Compression::None,
};
/// Five times the cache.
static COLD_100: DataSet = DataSet {
    name: "cold-100",
    entries: 2_900_000,
    value_bytes: 100,
    cache_bytes: 64 << 20,
    compression: Compression::None,
};
static COLD_1K: DataSet = DataSet {
    name: "cold-1k",
    entries: 323_000,
    value_bytes: 1024,
    cache_bytes: 64 << 20,
    compression: Compression::None,
};
static COLD_1K_LZ4: DataSet = DataSet {
    name: "cold-1k-lz4",
    entries: 323_000,
    value_bytes: 1024,
    cache_bytes: 64 << 20,
    compression: Compression::Lz4,
};

/// All rows, in the order in which they are run and printed.
pub(crate) fn all() -> Vec<Row> {
    use Compression::{Lz4, None as Raw};
    use Durability::{KillSafe, Synced};
    use Work::{
        Delete, FillRandom, FillSequential, Overwrite, ReadMissing, ReadRandom, Scan, ScanDeleted,
        Zipf,
    };
    let empty = |value_bytes, compression, durability| Start::Empty {
        value_bytes,
        compression,
        durability,
    };
    let raw = |value_bytes| empty(value_bytes, Raw, KillSafe);
    let loaded = Start::Loaded;
    let reading = |puts_per_second| Work::ReadWhileWriting { puts_per_second };
    let seek = |entries| Work::SeekRandom { entries };
    let row = |name, work, start, threads, ops| Row { name, work, start, threads, ops };
    vec![
        row("fillseq/100/t1", FillSequential, raw(100), 1, 3_000_000),
        row("fillseq/1k/t1", FillSequential, raw(1024), 1, 500_000),
        row("fillseq/8k/t1", FillSequential, raw(8192), 1, 80_000),
        row("fillrandom/100/t1", FillRandom, raw(100), 1, 3_000_000),
        row("fillrandom/100/t2", FillRandom, raw(100), 2, 3_000_000),
        row("fillrandom/100/t8", FillRandom, raw(100), 8, 3_000_000),
        row("fillrandom/1k/t1", FillRandom, raw(1024), 1, 400_000),
        row("fillrandom/1k/t8", FillRandom, raw(1024), 8, 400_000),
        row("fillrandom/8k/t1", FillRandom, raw(8192), 1, 64_000),
        row("fillrandom/1k/lz4/t1", FillRandom, empty(1024, Lz4, KillSafe), 1, 400_000),
        row("overwrite/100/t1", Overwrite, loaded(&HOT_100), 1, 3_000_000),
        row("overwrite/1k/t2", Overwrite, loaded(&HOT_1K), 2, 500_000),
        row("fillsync/100/t1", FillRandom, empty(100, Raw, Synced), 1, 5_000),
        row("fillsync/100/t64", FillRandom, empty(100, Raw, Synced), 64, 20_000),
        row("readrandom/hot/100/t1", ReadRandom, loaded(&HOT_100), 1, 4_000_000),
        row("readrandom/hot/100/t2", ReadRandom, loaded(&HOT_100), 2, 6_000_000),
        row("readrandom/hot/100/t8", ReadRandom, loaded(&HOT_100), 8, 6_000_000),
        row("readrandom/hot/1k/t1", ReadRandom, loaded(&HOT_1K), 1, 4_000_000),
        row("readrandom/hot/1k/t2", ReadRandom, loaded(&HOT_1K), 2, 6_000_000),
        row("readrandom/cold/100/t1", ReadRandom, loaded(&COLD_100), 1, 1_500_000),
        row("readrandom/cold/100/t2", ReadRandom, loaded(&COLD_100), 2, 2_000_000),
        row("readrandom/cold/100/t8", ReadRandom, loaded(&COLD_100), 8, 2_000_000),
        row("readrandom/cold/1k/t1", ReadRandom, loaded(&COLD_1K), 1, 1_500_000),
        row("readrandom/cold/1k/lz4/t1", ReadRandom, loaded(&COLD_1K_LZ4), 1, 1_500_000),
        row("readmissing/100/t1", ReadMissing, loaded(&COLD_100), 1, 10_000_000),
        row("readmissing/100/t8", ReadMissing, loaded(&COLD_100), 8, 10_000_000),
        row("readwhilewriting/100/t1", reading(100_000), loaded(&HOT_100), 1, 2_000_000),
        row("readwhilewriting/100/t8", reading(100_000), loaded(&HOT_100), 8, 2_000_000),
        row("readwhilewriting/1k/t2", reading(30_000), loaded(&COLD_1K), 2, 1_500_000),
        row("seekrandom10/100/t1", seek(10), loaded(&HOT_100), 1, 1_000_000),
        row("seekrandom100/100/t1", seek(100), loaded(&HOT_100), 1, 250_000),
        row("seekrandom10/1k/t2", seek(10), loaded(&COLD_1K), 2, 600_000),
        row("seekrandom100/1k/t1", seek(100), loaded(&COLD_1K), 1, 100_000),
        row("scan/100/t1", Scan, loaded(&COLD_100), 1, 17_400_000),
        row("scan/1k/t1", Scan, loaded(&COLD_1K), 1, 5_168_000),
        row("scan/1k/lz4/t1", Scan, loaded(&COLD_1K_LZ4), 1, 3_230_000),
        row("delete/100/t1", Delete, loaded(&COLD_100), 1, 2_175_000),
        row("scandeleted/100/t1", ScanDeleted, loaded(&COLD_100), 1, 725_000),
        row("zipf/100/t1", Zipf, loaded(&COLD_100), 1, 3_000_000),
        row("zipf/100/t2", Zipf, loaded(&COLD_100), 2, 4_000_000),
    ]
}

/// The row of this name.
pub(crate) fn named(name: &str) -> Option<Row> {
    all().into_iter().find(|row| row.name == name)
}

/// The data set of this name.
pub(crate) fn data_set(name: &str) -> Option<&'static DataSet> {
    [&HOT_100, &HOT_1K, &COLD_100, &COLD_1K, &COLD_1K_LZ4].into_iter().find(|set| set.name == name)
}

impl Scale {
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        clippy::cast_precision_loss,
        reason = "a rounded count"
    )]
    pub(crate) fn of(self, count: u64) -> u64 {
        ((count as f64 * self.0) as u64).max(1)
    }
}

impl DataSet {
    /// How the store is opened, to load it and to measure.
    pub(crate) fn knobs(&self, scale: Scale) -> Knobs {
        Knobs {
            cache_bytes: scale.of(self.cache_bytes).max(CACHE_BYTES_MIN),
            durability: Durability::KillSafe,
            compression: self.compression,
        }
    }

    /// Bytes of keys and values.
    pub(crate) fn bytes(&self, scale: Scale) -> u64 {
        scale.of(self.entries) * (KEY_BYTES + self.value_bytes) as u64
    }
}

impl Row {
    pub(crate) fn value_bytes(&self) -> usize {
        match self.start {
            Start::Empty { value_bytes, .. } => value_bytes,
            Start::Loaded(set) => set.value_bytes,
        }
    }

    pub(crate) fn knobs(&self, scale: Scale) -> Knobs {
        match self.start {
            Start::Empty { compression, durability, .. } => {
                Knobs { cache_bytes: FILL_CACHE_BYTES, durability, compression }
            }
            Start::Loaded(set) => set.knobs(scale),
        }
    }

    /// Operations, a multiple of the number of threads.
    pub(crate) fn ops(&self, scale: Scale) -> u64 {
        scale.of(self.ops).next_multiple_of(self.threads)
    }
}
