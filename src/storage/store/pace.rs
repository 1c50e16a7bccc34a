//! Pace: how writers and background jobs keep step. A job that becomes due rings a bell; writers that are faster than
//! flushes and merges are slowed little by little, long before they would have to be refused.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use super::bell::Bell;
use super::{Memory, Store};

/// Tables in level 0 at which the debt is 1: reads would look into each of them.
const LEVEL0_TABLES_MAX: usize = 20;
/// The debt from which on writers are slowed, in thousandths.
const SLOWED_FROM: u64 = 500;
/// The debt at which writes are refused, in thousandths.
const DEBT_FULL: u64 = 1_000;
/// What each byte costs when the debt is full: so slow that any disk catches up.
const NANOS_PER_BYTE_MAX: u64 = 1_000;
/// Waits are gathered until they are as long as this: a shorter sleep would last longer than it should.
const DELAY_MIN: Duration = Duration::from_millis(1);

/// What the store owes, and what its writers owe it.
#[derive(Debug, Default)]
pub(super) struct Pace {
    /// Work not done yet, in thousandths of what is bearable.
    debt: AtomicU64,
    /// Waiting that writers have not done yet, in nanoseconds.
    owed: AtomicU64,
    bell: Bell,
}

impl Store {
    /// How long a writer should wait now, after a write of so many bytes, so that flushes and merges keep up. Zero while
    /// they do, and for most small writes: what they owe is added up.
    pub fn delay(&self, bytes: usize) -> Duration {
        let over =
            self.pace.debt.load(Ordering::Relaxed).min(DEBT_FULL).saturating_sub(SLOWED_FROM);
        if over == 0 {
            return Duration::ZERO;
        }
        let span = DEBT_FULL - SLOWED_FROM;
        let nanos = bytes as u64 * NANOS_PER_BYTE_MAX * over * over / (span * span);
        let owed = self.pace.owed.fetch_add(nanos, Ordering::Relaxed) + nanos;
        if Duration::from_nanos(owed) < DELAY_MIN {
            return Duration::ZERO;
        }
        Duration::from_nanos(self.pace.owed.swap(0, Ordering::Relaxed))
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

    /// Notes what is still to be done, whenever that changed.
    pub(super) fn note_debt(&self, memory: &Memory) {
        let trigger = self.options.level0_tables;
        let level0 = memory.levels.level0_tables().saturating_sub(trigger);
        let level0_max = LEVEL0_TABLES_MAX.saturating_sub(trigger).max(1);
        let share = |part: usize, whole: usize| part as u64 * DEBT_FULL / whole as u64;
        let frozen = share(memory.frozen.len(), self.options.frozen_max);
        self.pace.debt.store(frozen.max(share(level0, level0_max)), Ordering::Relaxed);
    }
}
