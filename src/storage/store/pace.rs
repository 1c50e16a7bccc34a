//! Pace: how writers and background jobs keep step. A job that becomes due rings a bell; writers that are faster than
//! flushes and merges are slowed little by little, long before they would have to be refused.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use super::bell::Bell;
use super::{Memory, Store};
use crate::storage::plan::{Bounds, Fill};

/// Tables in level 0 at which the debt is 1: reads would look into each of them.
const LEVEL0_TABLES_MAX: usize = 10;
/// What part of all tables' bytes may wait to go deeper before the debt is 1: they take space beside what replaced them.
const OVERDUE_DIVISOR: u64 = 8;
/// The debt from which on writers are slowed, in thousandths.
const SLOWED_FROM: u64 = 500;
/// The debt at which writers are slowest, in thousandths. Writes are refused once no further memtable may wait.
const DEBT_FULL: u64 = 1_000;
/// What each byte costs when the debt is full: so slow that any disk catches up.
const NANOS_PER_BYTE_MAX: u64 = 1_000;
/// Waits are gathered until they are as long as this, in nanoseconds: a shorter sleep would last longer than it should.
const DELAY_NANOS_MIN: u64 = 1_000_000;
/// Longest wait at once, in nanoseconds: what a writer may notice.
const DELAY_NANOS_MAX: u64 = 10_000_000;
/// Most waiting that is owed, in nanoseconds; one huge write does not stop the others for longer.
const OWED_NANOS_MAX: u64 = 1_000_000_000;

/// Most looks at the disk between two tries of a merge that it failed.
const MERGE_PAUSE_MAX: u64 = 512;

/// What the store owes, and what its writers owe it.
#[derive(Debug, Default)]
pub(super) struct Pace {
    /// Work not done yet, in thousandths of what is bearable.
    debt: AtomicU64,
    /// Waiting that writers have not done yet, in nanoseconds.
    owed: AtomicU64,
    bell: Bell,
    /// The disk would not read what a merge needs, so that none takes level 0 down: waiting would not help.
    is_stuck: AtomicBool,
    /// Merges that the disk failed, one behind the other.
    merges_failed: AtomicU64,
    /// Looks at the disk before the next merge is tried.
    merge_pause: AtomicU64,
}

impl Pace {
    fn delay(&self, bytes: usize) -> Duration {
        let debt = self.debt.load(Ordering::Relaxed).min(DEBT_FULL);
        let over = debt.saturating_sub(SLOWED_FROM);
        if over == 0 {
            return Duration::ZERO;
        }
        let span = DEBT_FULL - SLOWED_FROM;
        let per_byte = NANOS_PER_BYTE_MAX * over * over / (span * span);
        let added = (bytes as u64).saturating_mul(per_byte).min(OWED_NANOS_MAX);
        let owed = self.owed.fetch_add(added, Ordering::Relaxed) + added;
        if owed < DELAY_NANOS_MIN {
            return Duration::ZERO;
        }
        let owed = owed.min(OWED_NANOS_MAX);
        let due = owed.min(DELAY_NANOS_MAX);
        self.owed.store(owed - due, Ordering::Relaxed);
        Duration::from_nanos(due)
    }

    /// One more look at the disk: merges that wait for it come nearer.
    pub(super) fn tick_merges(&self) {
        let less = |pause: u64| pause.checked_sub(1);
        let _ = self.merge_pause.fetch_update(Ordering::Relaxed, Ordering::Relaxed, less);
    }

    /// Whether a merge may be tried.
    pub(super) fn merges_may_run(&self) -> bool {
        self.merge_pause.load(Ordering::Relaxed) == 0
    }
}

impl Store {
    /// How long a writer should wait now, after a write of so many bytes, so that flushes and merges keep up. Zero while
    /// they do, and for most small writes: what they owe is added up.
    pub fn delay(&self, bytes: usize) -> Duration {
        self.pace.delay(bytes)
    }

    /// How often the bell rang so far.
    pub fn bell(&self) -> u64 {
        self.pace.bell.rung()
    }

    /// Waits until the bell has rung more than `heard` times, at most `patience`. It rings when a job may have become
    /// due, and when one that is done has made room for writes.
    pub fn wait_for_bell(&self, heard: u64, patience: Duration) {
        self.pace.bell.wait(heard, patience);
    }

    /// Wakes whoever waits for the bell.
    pub fn ring(&self) {
        self.pace.bell.ring();
    }

    /// Notes that the disk failed a merge: the next is tried later, and each further one later still.
    pub(super) fn note_failed_merge(&self) {
        let failed = self.pace.merges_failed.fetch_add(1, Ordering::Relaxed);
        let pause = MERGE_PAUSE_MAX.min(1 << failed.min(u64::from(MERGE_PAUSE_MAX.ilog2())));
        self.pace.merge_pause.store(pause, Ordering::Relaxed);
        self.pace.is_stuck.store(true, Ordering::Relaxed);
        self.note_debt(&self.memory());
    }

    /// Notes that a merge came to its end; the debt is to be noted afterwards.
    pub(super) fn note_merged(&self) {
        self.pace.merges_failed.store(0, Ordering::Relaxed);
        self.pace.is_stuck.store(false, Ordering::Relaxed);
    }

    /// Notes what is still to be done, whenever that changed.
    pub(super) fn note_debt(&self, memory: &Memory) {
        let is_stuck = self.pace.is_stuck.load(Ordering::Relaxed);
        let trigger = self.options.level0_tables;
        let tables = if is_stuck { 0 } else { memory.levels.level0().len() };
        let level0 = tables.saturating_sub(trigger);
        let level0_max = LEVEL0_TABLES_MAX.saturating_sub(trigger).max(1);
        let share = |part: u64, whole: u64| part.saturating_mul(DEBT_FULL) / whole.max(1);
        let frozen = share(memory.frozen.len() as u64, self.options.frozen_max as u64);
        let level0 = share(level0 as u64, level0_max as u64);
        let tables = memory.levels.tables().map(|live| &live.meta);
        let fill = Fill::of(tables, Bounds::new(&self.options));
        let overdue_max = (fill.total() / OVERDUE_DIVISOR).max(self.options.level1_bytes);
        let overdue = if is_stuck { 0 } else { share(fill.overdue(), overdue_max) };
        self.pace.debt.store(frozen.max(level0).max(overdue), Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pace(debt: u64) -> Pace {
        Pace { debt: AtomicU64::new(debt), ..Pace::default() }
    }

    /// Milliseconds waited for a thousand writes of a KiB each.
    fn waited(debt: u64) -> u128 {
        let pace = pace(debt);
        (0..1_000).map(|_| pace.delay(1 << 10)).sum::<Duration>().as_millis()
    }

    #[test]
    fn who_keeps_up_waits_for_nothing_and_more_debt_is_more_waiting() {
        assert_eq!((waited(0), waited(SLOWED_FROM)), (0, 0));
        let waits: Vec<u128> = [600, 700, 800, 900, 1_000, 5_000].into_iter().map(waited).collect();
        assert!(waits.is_sorted() && waits[0] > 10 && waits[4] == waits[5], "{waits:?}");
    }

    #[test]
    fn no_wait_is_too_short_to_sleep_or_long_enough_to_be_felt() {
        let pace = pace(DEBT_FULL);
        for bytes in [1, 100, 1 << 20, usize::MAX] {
            let nanos = pace.delay(bytes).as_nanos();
            let bounds = u128::from(DELAY_NANOS_MIN)..=u128::from(DELAY_NANOS_MAX);
            assert!(nanos == 0 || bounds.contains(&nanos), "{bytes} bytes: {nanos} ns");
        }
    }
}
