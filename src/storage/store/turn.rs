//! A turn: work that one caller at a time does, for all who want it. Who comes meanwhile waits, and mostly finds what it
//! wants done; else it goes next, for all of them (group commit).
//!
//! Promises, which `proofs/loom/` holds against every order of steps: no two work at once, no wake-up is lost, and every
//! caller returns with what `look` found or with its own work's result.

use super::primitives::{Condvar, Mutex, lock, wait};

/// Whose turn it is.
#[derive(Debug, Default)]
pub(super) struct Turn {
    state: Mutex<State>,
    over: Condvar,
}

#[derive(Debug, Default)]
struct State {
    is_taken: bool,
    waiting: usize,
}

/// A turn that is taken; given back when dropped, by a panic too.
struct Taken<'a>(&'a Turn);

impl Turn {
    /// What `look` finds, as soon as it finds something: at once, or when another's turn is over. If there is nothing to
    /// find and nobody to wait for, does `work`.
    pub(super) fn find_or_work<T>(
        &self,
        look: impl Fn() -> Option<T>,
        work: impl FnOnce() -> T,
    ) -> T {
        let mut state = lock(&self.state);
        loop {
            if let Some(found) = look() {
                return found;
            }
            if !state.is_taken {
                break;
            }
            state.waiting += 1;
            state = wait(&self.over, state);
            state.waiting -= 1;
        }
        state.is_taken = true;
        drop(state);
        let _taken = Taken(self);
        work()
    }
}

impl Drop for Taken<'_> {
    fn drop(&mut self) {
        let mut state = lock(&self.0.state);
        state.is_taken = false;
        if state.waiting > 0 {
            self.0.over.notify_all();
        }
    }
}
