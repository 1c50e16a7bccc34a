//! A turn: work that one caller at a time does, for all who want it. It reaches up to somewhere; who wants no more than
//! that is done, and whoever comes meanwhile waits, for a later turn (group commit).
//!
//! Each waits by itself: a turn's end wakes whom it served, who then need no lock, and one of the others, to go next.
//!
//! Promises, which `proofs/loom/` holds against every order of steps: no two work at once, no wake-up is lost, and every
//! caller returns with what `look` found or with its own work's result.

use std::sync::Arc;

use super::primitives::{Condvar, Mutex, lock, wait};

/// Whose turn it is.
#[derive(Debug, Default)]
pub(super) struct Turn {
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    is_taken: bool,
    waiting: Vec<Waiting>,
}

#[derive(Debug)]
struct Waiting {
    wanted: u64,
    call: Arc<Call>,
}

/// What one caller waits for: to be called, once.
#[derive(Debug, Default)]
struct Call {
    came: Mutex<bool>,
    heard: Condvar,
}

/// A turn that is taken; given back when dropped, by a panic too.
struct Taken<'a> {
    turn: &'a Turn,
    /// Who wants no more is woken. All, unless the work came to its end.
    reached: u64,
}

impl Turn {
    /// What `look` finds, as soon as it finds something: at once, or when a turn is over that reached `wanted` or failed.
    /// If there is nothing to find and nobody to wait for, does `work`; `reached` says of its result how far it came,
    /// `u64::MAX` when nobody needs to wait any more.
    pub(super) fn find_or_work<T>(
        &self,
        wanted: u64,
        look: impl Fn() -> Option<T>,
        work: impl FnOnce() -> T,
        reached: impl FnOnce(&T) -> u64,
    ) -> T {
        loop {
            if let Some(found) = look() {
                return found;
            }
            let mut state = lock(&self.state);
            // A turn may have ended since.
            if let Some(found) = look() {
                return found;
            }
            if !state.is_taken {
                state.is_taken = true;
                break;
            }
            let call = Arc::new(Call::default());
            state.waiting.push(Waiting { wanted, call: Arc::clone(&call) });
            drop(state);
            call.wait();
        }
        let mut taken = Taken { turn: self, reached: u64::MAX };
        let result = work();
        taken.reached = reached(&result);
        result
    }
}

impl Call {
    fn wait(&self) {
        let mut came = lock(&self.came);
        while !*came {
            came = wait(&self.heard, came);
        }
    }

    fn make(&self) {
        *lock(&self.came) = true;
        self.heard.notify_one();
    }
}

impl Drop for Taken<'_> {
    fn drop(&mut self) {
        let (next, served) = {
            let mut state = lock(&self.turn.state);
            state.is_taken = false;
            let (served, rest) = std::mem::take(&mut state.waiting)
                .into_iter()
                .partition::<Vec<_>, _>(|waiting| waiting.wanted <= self.reached);
            state.waiting = rest;
            (state.waiting.pop(), served)
        };
        // The next turn begins before those who are done are told.
        next.into_iter().chain(served).for_each(|waiting| waiting.call.make());
    }
}
