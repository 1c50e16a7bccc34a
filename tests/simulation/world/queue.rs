//! What will happen, by time; of one instant in the order in which it was put in.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use super::Nanos;

/// A queue. The things themselves stay where they are: what is sorted is small.
pub struct Queue<T> {
    /// When, after how many others, in which place.
    order: BinaryHeap<Reverse<(Nanos, u64, usize)>>,
    places: Vec<Option<T>>,
    free: Vec<usize>,
    pushed: u64,
}

impl<T> Default for Queue<T> {
    fn default() -> Self {
        Self { order: BinaryHeap::new(), places: Vec::new(), free: Vec::new(), pushed: 0 }
    }
}

impl<T> Queue<T> {
    pub fn push(&mut self, at: Nanos, what: T) {
        let place = self.free.pop().unwrap_or_else(|| {
            self.places.push(None);
            self.places.len() - 1
        });
        self.places[place] = Some(what);
        self.pushed += 1;
        self.order.push(Reverse((at, self.pushed, place)));
    }

    /// The next one, where it is due by then.
    pub fn pop_until(&mut self, until: Nanos) -> Option<(Nanos, T)> {
        let Reverse((at, ..)) = *self.order.peek()?;
        if until < at {
            return None;
        }
        let Reverse((at, _, place)) = self.order.pop()?;
        self.free.push(place);
        Some((at, self.places[place].take().expect("it was put there")))
    }
}
