//! What threads wait with: std's, behind names that a model checker's take the place of. `proofs/loom/` compiles the
//! modules that stand on this one, [`super::turn`] and [`super::bell`], over loom's.

use std::sync::PoisonError;
use std::time::Duration;

pub(super) use std::sync::{Condvar, Mutex, MutexGuard};

/// A panic in another thread leaves none of our states half-changed: each is replaced in one step.
pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Lets the mutex go until the next notification, or for no reason at all.
pub(super) fn wait<'a, T>(condvar: &Condvar, guard: MutexGuard<'a, T>) -> MutexGuard<'a, T> {
    condvar.wait(guard).unwrap_or_else(PoisonError::into_inner)
}

/// Waits while `condition` holds, at most `patience`.
pub(super) fn wait_while<T>(
    condvar: &Condvar,
    guard: MutexGuard<'_, T>,
    patience: Duration,
    condition: impl FnMut(&mut T) -> bool,
) {
    drop(
        condvar
            .wait_timeout_while(guard, patience, condition)
            .unwrap_or_else(PoisonError::into_inner),
    );
}
