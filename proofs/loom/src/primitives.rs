//! Loom's in the place of `src/storage/store/primitives.rs`.

use std::time::Duration;

pub(super) use loom::sync::{Condvar, Mutex, MutexGuard};

pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap()
}

pub(super) fn wait<'a, T>(condvar: &Condvar, guard: MutexGuard<'a, T>) -> MutexGuard<'a, T> {
    condvar.wait(guard).unwrap()
}

/// Patience has no end here: who is never woken is found out.
pub(super) fn wait_while<T>(
    condvar: &Condvar,
    mut guard: MutexGuard<'_, T>,
    _patience: Duration,
    mut condition: impl FnMut(&mut T) -> bool,
) {
    while condition(&mut guard) {
        guard = wait(condvar, guard);
    }
}
