//! Walks over all keys of a slot, or of some in a row, slice by slice, for whoever wants to hold them against something.

use std::collections::BTreeMap;

use bytes::Bytes;

use crate::ring::Slot;
use crate::storage::{ReadError, ScanSlice};
use crate::version::Siblings;

use super::core::Core;
use super::event::{Effect, ScanToken};
use super::keys;

/// Most entries and bytes that one slice reads.
const SLICE_ENTRIES_MAX: usize = 1_024;
const SLICE_BYTES_MAX: usize = 1 << 20;

/// Walks under way.
#[derive(Debug)]
pub(super) struct SlotWalks<P> {
    by_token: BTreeMap<ScanToken, SlotWalk<P>>,
}

/// A walk, and what it is for.
#[derive(Debug)]
pub(super) struct SlotWalk<P> {
    /// The first slot and the last.
    pub(super) slots: (Slot, Slot),
    end: Bytes,
    pub(super) purpose: P,
}

/// What a slice brought.
#[derive(Debug)]
pub(super) struct Stretch {
    /// Slots, keys and states, in order.
    pub(super) entries: Vec<(Slot, Bytes, Siblings)>,
    /// Where the next slice starts; `None` at the end of the slots.
    pub(super) next: Option<Bytes>,
}

impl<P> Default for SlotWalks<P> {
    fn default() -> Self {
        Self { by_token: BTreeMap::new() }
    }
}

impl<P> SlotWalks<P> {
    /// How many are under way.
    pub(super) fn len(&self) -> usize {
        self.by_token.len()
    }

    /// The walk that a slice belongs to.
    pub(super) fn take(&mut self, token: ScanToken) -> Option<SlotWalk<P>> {
        self.by_token.remove(&token)
    }

    /// All walks.
    pub(super) fn iter_mut(&mut self) -> impl Iterator<Item = &mut SlotWalk<P>> {
        self.by_token.values_mut()
    }

    /// Asks for a walk's next slice.
    pub(super) fn go_on(
        &mut self,
        token: ScanToken,
        walk: SlotWalk<P>,
        start: Bytes,
        effects: &mut Vec<Effect>,
    ) {
        effects.push(Effect::Scan {
            token,
            start,
            end: Some(walk.end.clone()),
            entries_max: SLICE_ENTRIES_MAX,
            bytes_max: SLICE_BYTES_MAX,
        });
        self.by_token.insert(token, walk);
    }
}

impl<P> SlotWalk<P> {
    /// A walk over the slots from the first to the last, and where it starts.
    pub(super) fn over(slots: (Slot, Slot), purpose: P) -> (Self, Bytes) {
        let (start, end) = keys::data_range(slots, None);
        (Self { slots, end, purpose }, start)
    }

    pub(super) fn holds(&self, slot: Slot) -> bool {
        let (first, last) = self.slots;
        first <= slot && slot <= last
    }
}

impl Stretch {
    /// What the store gave.
    pub(super) fn of(result: Result<ScanSlice, ReadError>) -> Result<Self, String> {
        let slice = result.map_err(|error| error.to_string())?;
        let entries = slice.entries.into_iter().map(|(stored, value)| {
            let (slot, key) = keys::parse_data(&stored).map_err(|error| error.to_string())?;
            let state = Siblings::decode(&value).map_err(|error| error.to_string())?;
            Ok((slot, stored.slice_ref(key), state))
        });
        Ok(Self { entries: entries.collect::<Result<_, String>>()?, next: slice.next })
    }
}

impl Core {
    /// A slice that no range asked for: of a walk, or a page of hints.
    pub(super) fn walked(
        &mut self,
        token: ScanToken,
        result: Result<ScanSlice, ReadError>,
        effects: &mut Vec<Effect>,
    ) {
        if self.due_read(token, &result, effects) {
            return;
        }
        match self.anti_entropy.walks.take(token) {
            Some(walk) => self.slot_walked(token, walk, Stretch::of(result), effects),
            None => self.hints_read(token, result, effects),
        }
    }
}
