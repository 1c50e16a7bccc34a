//! What this node holds of slots that are others': found, settled with its owners, dropped (DESIGN §8).
//!
//! ```text
//! another layout ──▶ each partition that this node does not own is looked through ──▶ slots with anything in them
//!     ──▶ [`Purge`]: settled with w owners, by rows ──▶ each key dropped, with floor and epoch
//! ```
//! A partition that this node gains by a change that runs is cleared so, too, before it takes or answers anything of it: a
//! gained slot is empty when it takes its first state, and nothing of it is dropped later. That it is clear is on record,
//! so that what came since is not taken for left over after a start.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use bytes::Bytes;

use crate::cluster::Time;
use crate::node_id::NodeId;
use crate::replication::anti_entropy::Ages;
use crate::replication::anti_entropy::headway::{Done, Headway};
use crate::replication::anti_entropy::purge::{self, Purge};
use crate::ring::{PARTITIONS_MAX, Partition, Slot, Token};
use crate::storage::WriteBatch;
use crate::version::Siblings;

use super::anti_entropy::Purpose;
use super::clients::{slots_a_partition, slots_of};
use super::core::Core;
use super::event::Effect;
use super::key_work::{KeyWork, leaf_bits};
use super::meta;

/// Partitions looked through at once.
const SURVEYS_IN_FLIGHT: usize = 2;

/// A partition to be looked through.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Survey {
    /// A change waits for it.
    Gained(Partition),
    /// It is another's.
    Others(Partition),
}

/// How far a node is with what is others'.
#[derive(Debug, Default)]
pub(super) struct Purging {
    /// Partitions still to be looked through; those that are gained stand first.
    unsurveyed: BTreeSet<Survey>,
    surveying: BTreeSet<Partition>,
    machine: Purge,
    /// Keys of a slot that are still to be dropped.
    dropping: BTreeMap<u16, usize>,
    look_at: Option<u64>,
    headway: Headway,
}

impl Purging {
    /// When the machine wants a tick.
    pub(super) const fn wake_at(&self) -> Option<u64> {
        self.look_at
    }

    /// Whether nothing of others is held, as far as this node has looked: everywhere.
    pub(super) fn is_done(&self) -> bool {
        self.unsurveyed.is_empty() && self.surveying.is_empty() && self.machine.is_empty()
    }

    /// Whether nothing left over is held of a partition that is gained, and this node has looked there.
    pub(super) fn is_clear(&self, partition: Partition, slots: (Slot, Slot)) -> bool {
        !self.unsurveyed.contains(&Survey::Gained(partition))
            && !self.surveying.contains(&partition)
            && !self.machine.holds_any(slots)
    }

    /// Slots that hold something, as far as this node has looked.
    pub(super) fn slots_found(&self) -> u64 {
        self.machine.len() as u64
    }

    /// Slots of a ring of `q` partitions that hold something, or that this node has not looked through yet.
    pub(super) fn slots_left(&self, q: u32) -> u64 {
        let partitions = self.unsurveyed.len() + self.surveying.len();
        partitions as u64 * u64::from(slots_a_partition(q)) + self.slots_found()
    }

    /// When all of them are expected to be empty.
    pub(super) fn left(&self, now: Time, q: u32) -> Option<Duration> {
        self.headway.left(now, self.done(q), self.slots_left(q))
    }

    fn done(&self, q: u32) -> Done {
        Done { steps: u64::from(PARTITIONS_MAX).saturating_sub(self.slots_left(q)), bytes: 0 }
    }

    /// Some slot is no longer left, perhaps.
    fn note_headway(&mut self, now: Time, q: u32) {
        if self.headway.goes_on(now) {
            self.headway.note(now, self.done(q));
        }
    }
}

impl Core {
    /// The layout is another: what is others' is looked for anew, but for partitions known to be clear.
    pub(super) fn look_for_left_overs(&mut self, effects: &mut Vec<Effect>) {
        if self.layout.recovers {
            // What is left anywhere may be all there is: the owners merge it first.
            self.purging = Purging::default();
            return;
        }
        let walks =
            self.preferences.iter().zip(0..).map(|(walk, number)| (walk, Partition(number)));
        let others = walks.filter(|(walk, partition)| {
            !walk.owns(self.me) && !self.transition.is_clear(*partition)
        });
        let unsurveyed = others.map(|(_, partition)| self.survey_of(partition)).collect();
        self.purging = Purging { unsurveyed, look_at: Some(0), ..Purging::default() };
        self.purging.headway = Headway::begin(self.now, self.purging.done(self.layout.now.q));
        self.survey_on(effects);
    }

    /// Wakes the machine where it asked for it.
    pub(super) fn purge_timer(&mut self, effects: &mut Vec<Effect>) {
        if self.purging.look_at.is_some_and(|at| at <= self.now.monotonic) {
            self.survey_on(effects);
            self.purge(purge::Event::Tick, effects);
        }
    }

    fn survey_of(&self, partition: Partition) -> Survey {
        if self.transition.is_unclear(partition) {
            Survey::Gained(partition)
        } else {
            Survey::Others(partition)
        }
    }

    /// Looks through the next partitions.
    fn survey_on(&mut self, effects: &mut Vec<Effect>) {
        while self.purging.surveying.len() < SURVEYS_IN_FLIGHT {
            let Some(next) = self.purging.unsurveyed.pop_first() else { return };
            let (Survey::Gained(partition) | Survey::Others(partition)) = next;
            self.purging.surveying.insert(partition);
            let slots = slots_of(partition.0, self.layout.now.q);
            let purpose = Purpose::Survey { layout: self.layout.version, slots: BTreeSet::new() };
            self.walk(slots, purpose, effects);
        }
    }

    /// A partition is looked through.
    pub(super) fn surveyed(
        &mut self,
        slots: (Slot, Slot),
        layout: u64,
        found: BTreeSet<u16>,
        effects: &mut Vec<Effect>,
    ) {
        let partition = slots.0.partition(self.layout.now.q);
        if layout != self.layout.version || !self.purging.surveying.remove(&partition) {
            return;
        }
        let found: Vec<Slot> = found.into_iter().map(Slot).collect();
        self.survey_on(effects);
        self.purge(purge::Event::Found(found), effects);
        self.purging.note_headway(self.now, self.layout.now.q);
        self.note_clear(partition, effects);
    }

    /// A partition could not be looked through: later again.
    pub(super) fn survey_failed(&mut self, slots: (Slot, Slot), layout: u64) {
        let partition = slots.0.partition(self.layout.now.q);
        if layout == self.layout.version && self.purging.surveying.remove(&partition) {
            self.purging.unsurveyed.insert(self.survey_of(partition));
            self.purging.look_at = Some(self.now.after(self.config.gossip_interval).monotonic);
        }
    }

    fn purge(&mut self, event: purge::Event, effects: &mut Vec<Effect>) {
        let mut wanted = Vec::new();
        let (peers, membership, me) = (&self.peers, &self.membership, self.me);
        let reachable = |node| node != me && peers.is_connected(node) && membership.is_up(node);
        let machine = &mut self.purging.machine;
        machine.handle(self.now, event, &self.preferences, &reachable, &mut wanted);
        let wakes = [machine.wake_at(self.now).map(|at: Time| at.monotonic)];
        let retry = (!self.purging.unsurveyed.is_empty())
            .then(|| self.now.after(self.config.gossip_interval).monotonic);
        self.purging.look_at = wakes.into_iter().chain([retry]).flatten().min();
        for wanted in wanted {
            match wanted {
                purge::Effect::Settle(peer, slot) => {
                    let (rows, keys) = (Vec::new(), BTreeMap::new());
                    let purpose = Purpose::Rows { peer, ages: Ages::Untold, rows, keys };
                    self.walk((slot, slot), purpose, effects);
                }
                purge::Effect::Drop(slot) => {
                    let purpose = Purpose::Drop { layout: self.layout.version, keys: Vec::new() };
                    self.walk((slot, slot), purpose, effects);
                }
            }
        }
    }

    /// An owner has all that is held of a slot here, or could not be given it.
    pub(super) fn settled(
        &mut self,
        peer: NodeId,
        slot: Slot,
        is_settled: bool,
        effects: &mut Vec<Effect>,
    ) {
        self.purge(purge::Event::Settled(peer, slot, is_settled), effects);
    }

    /// Drops these keys of a slot, which are all that it holds.
    pub(super) fn drop_keys(
        &mut self,
        slot: Slot,
        layout: u64,
        keys: Vec<Bytes>,
        effects: &mut Vec<Effect>,
    ) {
        if layout != self.layout.version {
            return;
        }
        if keys.is_empty() {
            return self.slot_dropped(slot, true, effects);
        }
        self.purging.dropping.insert(slot.0, keys.len());
        for key in keys {
            self.key_work(KeyWork::Drop { key, layout }, effects);
        }
    }

    /// Drops a key of another's slot, unless the layout changed since its owners were seen to hold it.
    pub(super) fn run_drop(
        &mut self,
        stored: &Bytes,
        key: &Bytes,
        layout: u64,
        state: &mut Siblings,
        effects: &mut Vec<Effect>,
    ) {
        let slot = Token::of(key).slot();
        if layout != self.layout.version || self.owns(slot) {
            return;
        }
        if !state.is_empty() || !state.clock().is_empty() {
            let mut batch = WriteBatch::new();
            if self.lineage.drop_state(state, &mut self.rng) {
                self.note_epoch("a value of the present one is another owner's now", effects);
            }
            let bits = leaf_bits(key, state);
            if bits != 0 {
                batch.xor_leaf(slot.0, bits);
            }
            batch.delete(stored).delete(meta::due_key(key)).on_reserve();
            self.lineage.record(&mut batch);
            if self.write(batch, effects).is_err() {
                return self.slot_dropped(slot, false, effects);
            }
            self.lineage.recorded();
            self.anti_entropy.note(key, 0);
            self.figures.counters.purged_keys += 1;
            *state = Siblings::new();
        }
        if let Some(left) = self.purging.dropping.get_mut(&slot.0) {
            *left -= 1;
            if *left == 0 {
                self.purging.dropping.remove(&slot.0);
                self.slot_dropped(slot, true, effects);
            }
        }
    }

    /// A slot is empty, or could not be emptied.
    pub(super) fn slot_dropped(&mut self, slot: Slot, is_empty: bool, effects: &mut Vec<Effect>) {
        self.purging.dropping.remove(&slot.0);
        self.figures.counters.purged_slots += u64::from(is_empty);
        self.purge(purge::Event::Dropped(slot, is_empty), effects);
        self.purging.note_headway(self.now, self.layout.now.q);
        self.note_clear(slot.partition(self.layout.now.q), effects);
    }
}
