//! A bell that many may wait for. It counts its rings, so that none is lost between a look at it and the wait.

use std::time::Duration;

use super::primitives::{Condvar, Mutex, lock, wait_while};

/// Rings, and who waits for the next.
#[derive(Debug, Default)]
pub(super) struct Bell {
    rung: Mutex<u64>,
    heard: Condvar,
}

impl Bell {
    /// How often it rang so far.
    pub(super) fn rung(&self) -> u64 {
        *lock(&self.rung)
    }

    /// Wakes whoever waits.
    pub(super) fn ring(&self) {
        *lock(&self.rung) += 1;
        self.heard.notify_all();
    }

    /// Waits until it has rung more than `heard` times, at most `patience`.
    pub(super) fn wait(&self, heard: u64, patience: Duration) {
        wait_while(&self.heard, lock(&self.rung), patience, |rung| *rung <= heard);
    }
}
