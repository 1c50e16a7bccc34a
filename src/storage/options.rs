//! How a store is set up, and what it promises about durability.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

/// Smallest sizes that are sound; a test may go down to them.
const MEMTABLE_BYTES_MIN: usize = 256;
const TABLE_BYTES_MIN: u64 = 256;
const BLOCK_BYTES_MIN: usize = 64;
/// Largest data block aimed at: offsets within a block are 32 bits, and one read should stay one read.
const BLOCK_BYTES_MAX: usize = 1 << 20;
/// More bits than this a key buy nothing: the filter's lines are 512 bits.
const BLOOM_BITS_MAX: u32 = 32;
/// A level's least factor over the one above; below 2 nothing would settle.
const LEVEL_FACTOR_MIN: u64 = 2;

/// When a write counts as durable.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SyncMode {
    /// Once `fdatasync` returned: survives a power loss. Text form `always`.
    Always,
    /// Once `write(2)` returned: survives the process, not the machine; `fdatasync` follows within this time.
    /// Text form `interval=10ms`.
    Interval(Duration),
    /// Once `write(2)` returned; `fdatasync` when the system likes. Text form `never`.
    Never,
}

/// How data blocks are stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Compression {
    /// As they are.
    None,
    /// LZ4, where it saves enough.
    Lz4,
}

impl Compression {
    /// Bytes of entries to aim at in a data block. A block is what one read from the disk takes and what the cache keeps,
    /// which speaks for small ones; a compressed block finds more repetitions when it is larger (`docs/benchmarks.md`).
    pub const fn block_bytes(self) -> usize {
        match self {
            Self::None => 4 << 10,
            Self::Lz4 => 8 << 10,
        }
    }
}

/// A store's options. None of them is a promise about files written before.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Options {
    /// When a write counts as durable.
    pub sync: SyncMode,
    /// Bytes written after which a memtable is frozen and flushed.
    pub memtable_bytes: usize,
    /// Frozen memtables that may wait for their flush; beyond, writes are refused as overload.
    pub frozen_max: usize,
    /// Bytes of the block cache.
    pub cache_bytes: u64,
    /// Bytes of memory for all: memtables, indexes and filters take what they need, and the cache gives way to them.
    pub memory_bytes: u64,
    /// How data blocks are stored.
    pub compression: Compression,
    /// Bits of bloom filter a key; 0 for none.
    pub bloom_bits_per_key: u32,
    /// Bytes after which the commit log goes on in a new file.
    pub log_segment_bytes: u64,
    /// Bytes of edits after which the manifest goes on in a new file.
    pub manifest_edits_bytes: u64,
    /// Bytes of disk kept back for what must go on when the disk is full: log writes already accepted, deletes,
    /// compaction, the manifest. 0 for none.
    pub reserve_bytes: u64,
    /// Bytes of entries aimed at in a data block; see [`Compression::block_bytes`].
    pub block_bytes: usize,
    /// Bytes aimed at in an SSTable that a compaction writes.
    pub table_bytes: u64,
    /// Tables in level 0 that start a compaction.
    pub level0_tables: usize,
    /// Bytes in level 1 that start a compaction; each deeper level takes `level_factor` times more.
    pub level1_bytes: u64,
    /// See `level1_bytes`.
    pub level_factor: u64,
    /// Bytes of input that one slice of a compaction handles.
    pub compaction_slice_bytes: u64,
}

/// Options that make no sense together.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("option `{option}` is {value}, but must be {bound}")]
pub struct OptionsError {
    option: &'static str,
    value: u64,
    bound: String,
}

/// A text that is no sync mode.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is not a sync mode: `always`, `interval=10ms` or `never`")]
pub struct ParseSyncModeError(String);

impl Default for Options {
    fn default() -> Self {
        Self {
            sync: SyncMode::Always,
            memtable_bytes: 64 << 20,
            frozen_max: 4,
            cache_bytes: 256 << 20,
            memory_bytes: 1 << 30,
            compression: Compression::Lz4,
            bloom_bits_per_key: 10,
            log_segment_bytes: 64 << 20,
            manifest_edits_bytes: 4 << 20,
            reserve_bytes: 64 << 20,
            block_bytes: Compression::Lz4.block_bytes(),
            table_bytes: 64 << 20,
            level0_tables: 4,
            level1_bytes: 256 << 20,
            level_factor: 10,
            compaction_slice_bytes: 8 << 20,
        }
    }
}

impl Options {
    /// Most bytes that the memtables take together, about.
    pub const fn memtables_bytes_max(&self) -> u64 {
        (self.memtable_bytes as u64).saturating_mul(self.frozen_max as u64 + 1)
    }

    /// Holds the options against their bounds.
    /// # Errors
    /// The first one out of bounds.
    pub fn validate(&self) -> Result<(), OptionsError> {
        let least = |option, value: u64, least: u64| {
            let error = OptionsError { option, value, bound: format!("at least {least}") };
            if value < least { Err(error) } else { Ok(()) }
        };
        let most = |option, value: u64, most: u64| {
            let error = OptionsError { option, value, bound: format!("at most {most}") };
            if most < value { Err(error) } else { Ok(()) }
        };
        least("memtable_bytes", self.memtable_bytes as u64, MEMTABLE_BYTES_MIN as u64)?;
        least("memory_bytes", self.memory_bytes, self.memtables_bytes_max())?;
        least("frozen_max", self.frozen_max as u64, 1)?;
        most("bloom_bits_per_key", u64::from(self.bloom_bits_per_key), u64::from(BLOOM_BITS_MAX))?;
        least("log_segment_bytes", self.log_segment_bytes, MEMTABLE_BYTES_MIN as u64)?;
        least("block_bytes", self.block_bytes as u64, BLOCK_BYTES_MIN as u64)?;
        most("block_bytes", self.block_bytes as u64, BLOCK_BYTES_MAX as u64)?;
        least("table_bytes", self.table_bytes, TABLE_BYTES_MIN)?;
        least("level0_tables", self.level0_tables as u64, 1)?;
        least("level1_bytes", self.level1_bytes, TABLE_BYTES_MIN)?;
        least("level_factor", self.level_factor, LEVEL_FACTOR_MIN)?;
        least("compaction_slice_bytes", self.compaction_slice_bytes, 1)
    }
}

impl fmt::Display for SyncMode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Always => f.write_str("always"),
            Self::Interval(period) => {
                let period = humantime::format_duration(*period).to_string();
                write!(f, "interval={}", period.replace(' ', ""))
            }
            Self::Never => f.write_str("never"),
        }
    }
}

impl FromStr for SyncMode {
    type Err = ParseSyncModeError;

    fn from_str(text: &str) -> Result<Self, ParseSyncModeError> {
        let error = || ParseSyncModeError(text.to_owned());
        match (text, text.strip_prefix("interval=")) {
            ("always", _) => Ok(Self::Always),
            ("never", _) => Ok(Self::Never),
            (_, Some(period)) => {
                let period = humantime::parse_duration(period).map_err(|_| error())?;
                if period.is_zero() { Err(error()) } else { Ok(Self::Interval(period)) }
            }
            (_, None) => Err(error()),
        }
    }
}

impl Serialize for SyncMode {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for SyncMode {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sync_modes_survive_their_text() {
        for text in ["always", "never", "interval=10ms", "interval=1s500ms"] {
            assert_eq!(text.parse::<SyncMode>().unwrap().to_string(), text);
        }
        for text in ["", "Always", "interval", "interval=", "interval=0s", "interval=x"] {
            assert!(text.parse::<SyncMode>().is_err(), "{text} was taken");
        }
    }

    #[test]
    fn defaults_are_sound_and_nonsense_is_named() {
        assert_eq!(Options::default().validate(), Ok(()));
        let error = Options { block_bytes: 1, ..Options::default() }.validate().unwrap_err();
        assert_eq!(error.to_string(), "option `block_bytes` is 1, but must be at least 64");
    }
}
