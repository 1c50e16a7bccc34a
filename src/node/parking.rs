//! What waits for the log: an answer speaks of a state, and leaves once that state is durable (DESIGN §5).
//!
//! Why per position: a merge that changes nothing, a get, a digest speak of a state that another request appended; they
//! wait for *its* log position, not for one of their own.
//! Invariant: nothing is released before the store said that its position is durable; what was parked first at one
//! position leaves first.

use std::collections::BTreeMap;

use crate::storage::LogPosition;

/// Things parked on the log positions they wait for.
#[derive(Debug)]
pub(super) struct Parking<T> {
    waiting: BTreeMap<LogPosition, Vec<T>>,
    parked: usize,
}

impl<T> Default for Parking<T> {
    fn default() -> Self {
        Self { waiting: BTreeMap::new(), parked: 0 }
    }
}

impl<T> Parking<T> {
    /// Parks `item` until the log is durable up to `position`.
    pub(super) fn park(&mut self, position: LogPosition, item: T) {
        self.waiting.entry(position).or_default().push(item);
        self.parked += 1;
    }

    /// Takes out all that waits for a position up to `durable`, lowest position first.
    pub(super) fn release(&mut self, durable: LogPosition) -> Vec<T> {
        let mut released = Vec::new();
        while let Some(entry) = self.waiting.first_entry().filter(|entry| *entry.key() <= durable) {
            released.append(&mut entry.remove());
        }
        self.parked -= released.len();
        released
    }

    /// How many things wait.
    pub(super) const fn len(&self) -> usize {
        self.parked
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_leaves_before_its_position_is_durable() {
        let mut parking = Parking::default();
        for (position, item) in [(5, "late"), (3, "first"), (3, "second")] {
            parking.park(LogPosition::new(position), item);
        }
        assert_eq!(parking.release(LogPosition::new(2)), Vec::<&str>::new());
        assert_eq!(parking.release(LogPosition::new(4)), ["first", "second"]);
        assert_eq!(parking.len(), 1);
        assert_eq!(parking.release(LogPosition::new(5)), ["late"]);
        assert_eq!(parking.len(), 0);
    }
}
