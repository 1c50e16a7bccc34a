//! What a node counts and remembers for those who ask how it does.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use crate::cluster::Time;
use crate::replication::Latencies;

use super::durations::DurationCounts;
use super::hot_keys::HotKeys;
use super::load::{Load, Sample};

/// Most alarms shown; older ones go.
const ALARMS_MAX: usize = 16;

/// Counters since the start, recent latencies, load and hot keys, recent alarms.
#[derive(Clone, Debug)]
pub(super) struct Figures {
    pub(super) counters: Counters,
    pub(super) gets: Latencies,
    pub(super) puts: Latencies,
    pub(super) get_durations: DurationCounts,
    pub(super) put_durations: DurationCounts,
    pub(super) load: Load,
    pub(super) hot_keys: HotKeys,
    alarms: VecDeque<String>,
}

/// One number a name, each rising from 0.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Counters {
    pub(super) gets: u64,
    pub(super) puts: u64,
    pub(super) imports: u64,
    pub(super) scans: u64,
    pub(super) merges: u64,
    pub(super) reads: u64,
    pub(super) mints: u64,
    pub(super) disk_reads: u64,
    pub(super) read_repairs: u64,
    pub(super) forwards: u64,
    pub(super) failures: u64,
    pub(super) expired: u64,
    pub(super) overloads: u64,
    pub(super) epochs: u64,
    pub(super) hints_stored: u64,
    pub(super) hints_sent: u64,
    pub(super) repaired_slots: u64,
    pub(super) repaired_keys: u64,
    pub(super) compare_bytes: u64,
    pub(super) repair_bytes: u64,
    pub(super) recounts: u64,
    pub(super) forgotten: u64,
    pub(super) refilled_slots: u64,
    pub(super) gained_keys: u64,
    pub(super) gained_bytes: u64,
    pub(super) gained_partitions: u64,
    pub(super) purged_keys: u64,
    pub(super) purged_slots: u64,
}

impl Figures {
    /// Those of a node that starts now, whose process has used so much processor time.
    pub(super) fn new(now: Time, cpu: Duration) -> Self {
        Self {
            counters: Counters::default(),
            gets: Latencies::default(),
            puts: Latencies::default(),
            get_durations: DurationCounts::default(),
            put_durations: DurationCounts::default(),
            load: Load::new(Sample { at: now, gets: 0, puts: 0, cpu }),
            hot_keys: HotKeys::new(now),
            alarms: VecDeque::new(),
        }
    }

    /// Keeps an alarm to be shown; one that is shown already is not repeated. Returns whether it is new.
    pub(super) fn alarm(&mut self, text: &str) -> bool {
        if self.alarms.iter().any(|known| known == text) {
            return false;
        }
        self.alarms.push_back(text.to_owned());
        if self.alarms.len() > ALARMS_MAX {
            self.alarms.pop_front();
        }
        true
    }

    /// The alarms, oldest first.
    pub(super) fn alarms(&self) -> Vec<String> {
        self.alarms.iter().cloned().collect()
    }
}

impl Counters {
    /// All of them by name.
    pub(super) fn by_name(&self) -> BTreeMap<String, u64> {
        let Self {
            gets,
            puts,
            imports,
            scans,
            merges,
            reads,
            mints,
            disk_reads,
            read_repairs,
            forwards,
            failures,
            expired,
            overloads,
            epochs,
            hints_stored,
            hints_sent,
            recounts,
            forgotten,
            refilled_slots,
            gained_keys,
            gained_bytes,
            gained_partitions,
            purged_keys,
            purged_slots,
            repair_bytes,
            compare_bytes,
            repaired_keys,
            repaired_slots,
        } = *self;
        let named = [
            ("gets", gets),
            ("puts", puts),
            ("imports", imports),
            ("scans", scans),
            ("merges", merges),
            ("reads", reads),
            ("mints", mints),
            ("disk_reads", disk_reads),
            ("read_repairs", read_repairs),
            ("forwards", forwards),
            ("failures", failures),
            ("expired", expired),
            ("overloads", overloads),
            ("epochs", epochs),
            ("hints_stored", hints_stored),
            ("hints_sent", hints_sent),
            ("repaired_slots", repaired_slots),
            ("repaired_keys", repaired_keys),
            ("compare_bytes", compare_bytes),
            ("repair_bytes", repair_bytes),
            ("recounts", recounts),
            ("forgotten", forgotten),
            ("refilled_slots", refilled_slots),
            ("gained_keys", gained_keys),
            ("gained_bytes", gained_bytes),
            ("gained_partitions", gained_partitions),
            ("purged_keys", purged_keys),
            ("purged_slots", purged_slots),
        ];
        named.into_iter().map(|(name, count)| (name.to_owned(), count)).collect()
    }
}
