//! Filling what is lost or gained: what [`Refill`] wants is carried out here, and damage of the store is noticed (DESIGN
//! §5, §7, §8).
//!
//! ```text
//! a bad block ──merge of its table──▶ a hole ──mended──▶ its slots refilled ──leaves worked out──▶ sound
//!      └ its slots are unsound, durably, before anything is mended: a start in between refills them
//! ```
//! Invariant: a key that cannot be read, or whose state may be incomplete, is in an unsound slot until it is refilled.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;

use crate::node_id::NodeId;
use crate::replication::anti_entropy::refill::{self, Known, Refill, Sources, Wants};
use crate::replication::cut::{CutAnswer, CutQuestion};
use crate::replication::{Answer, OpId, RangeEntry, RangePage, Request};
use crate::ring::{Partition, Slot};
use crate::storage::{KeyRange, LogPosition, Store, UnreadableKeys, WriteBatch};

use super::anti_entropy::Asked;
use super::clients::slots_of;
use super::core::Core;
use super::event::{Effect, Severity};
use super::key_work::{Asker, KeyWork};
use super::start::StartError;
use super::{keys, meta};

/// Bytes of one page, roughly: of what was lost, and of what is gained, where whoever gives it serves clients besides.
const PAGE_BYTES: u32 = 1 << 20;
const PAGE_BYTES_GAINED: u32 = 256 << 10;

/// How far a node is with what it lost.
#[derive(Debug, Default)]
pub(super) struct Refilling {
    machine: Refill,
    /// When it wants a tick; at once as it begins.
    look_at: Option<u64>,
    /// Slots with keys that cannot be read yet: refilled once that is mended.
    damaged: BTreeSet<u16>,
    /// Ranges under mending.
    mending: Vec<KeyRange>,
    /// Pages on their way, or being merged.
    pages: BTreeMap<Partition, Page>,
    /// Slots whose leaves are being worked out before they are sound.
    recounting: BTreeSet<u16>,
    /// Where the last mark stands in the log.
    marked_at: LogPosition,
}

/// A page of a partition.
#[derive(Debug)]
struct Page {
    source: NodeId,
    wants: Wants,
    slots: (Slot, Slot),
    after: Option<(Slot, Bytes)>,
    op: OpId,
    /// Merges that are not durable yet.
    waiting: usize,
    next: Option<(Slot, Bytes)>,
    bytes: u64,
}

impl Refilling {
    /// What the store has on record.
    pub(super) fn open(store: &Store, q: u32) -> Result<Self, StartError> {
        let mut refilling = Self::default();
        let (start, end) = meta::unsound_range();
        for entry in store.scan(&start, Some(&end)) {
            let malformed =
                |source| StartError::Malformed { record: "unsound slots".to_owned(), source };
            let (key, value) = entry.map_err(|source| StartError::Read {
                record: "unsound slots".to_owned(),
                source: source.into(),
            })?;
            let slots = meta::decode_unsound(&key, &value).map_err(malformed)?;
            refilling.begin(q, &slots);
        }
        Ok(refilling)
    }

    /// How many slots are unsound.
    pub(super) fn len(&self) -> usize {
        let damaged = self.damaged.iter().copied().map(Slot);
        let refilling: BTreeSet<Slot> = self.machine.slots().collect();
        refilling.len() + damaged.filter(|slot| !refilling.contains(slot)).count()
    }

    /// Whether every slot is sound.
    pub(super) fn is_empty(&self) -> bool {
        self.machine.is_empty() && self.damaged.is_empty()
    }

    pub(super) fn is_unsound(&self, q: u32, slot: Slot) -> bool {
        self.machine.is_unsound(q, slot) || self.damaged.contains(&slot.0)
    }

    /// When the machine wants a tick.
    pub(super) const fn wake_at(&self) -> Option<u64> {
        self.look_at
    }

    /// A partition is gained from now on.
    pub(super) fn gain(&mut self, partition: Partition, slots: (Slot, Slot), sources: Sources) {
        self.machine.gain(partition, slots, sources);
        self.look_at = Some(0);
    }

    /// Whether everything that is gained, and is clear, has come.
    pub(super) fn has_gained_all(&self) -> bool {
        self.machine.has_gained_all()
    }

    /// About how many slots came of partitions that are being copied.
    pub(super) fn slots_gained(&self) -> u64 {
        self.machine.slots_gained()
    }

    /// Nothing is gained any more.
    pub(super) fn forget_gains(&mut self) {
        self.machine.forget_gains();
        self.pages.retain(|_, page| page.wants != Wants::Gained);
    }

    /// These slots are to be refilled, whatever was under way with them.
    fn begin(&mut self, q: u32, slots: &[Slot]) {
        for slot in slots {
            self.recounting.remove(&slot.0);
        }
        self.machine.begin(q, slots.iter().copied());
        self.look_at = Some(0);
    }

    /// Those of the slots from the first to the last whose leaves were being worked out, which is done.
    fn recounted(&mut self, (first, last): (Slot, Slot)) -> Vec<Slot> {
        let within: Vec<Slot> =
            self.recounting.range(first.0..=last.0).copied().map(Slot).collect();
        for slot in &within {
            self.recounting.remove(&slot.0);
        }
        within
    }

    /// The records that `slots` stand in.
    fn marks(&self, q: u32, slots: &[Slot]) -> BTreeMap<Bytes, Vec<u8>> {
        let records = slots.iter().map(|slot| {
            let block = meta::unsound_block(*slot);
            meta::encode_unsound(*slot, block.filter(|slot| self.is_unsound(q, *slot)))
        });
        records.collect()
    }

    fn is_waiting_for(&self, partition: Partition, op: OpId) -> bool {
        self.pages.get(&partition).is_some_and(|page| page.op == op)
    }
}

impl Core {
    /// Whether `slot` may hold less here than it should.
    pub(super) fn is_unsound(&self, slot: Slot) -> bool {
        self.refilling.is_unsound(self.layout.now.q, slot)
    }

    /// Looks whether the store found damage since the last time, and whether some can be mended.
    pub(super) fn look_for_damage(&mut self, effects: &mut Vec<Effect>) {
        let unreadable = self.store.unreadable();
        // What a node knows of itself is in no other replica: without it, it cannot keep what it promised.
        let (first, end) = keys::meta_range();
        if unreadable.iter().any(|damage| first <= damage.last && damage.first < end) {
            return self.give_up_disk("this node's own records are damaged".to_owned(), effects);
        }
        let damaged: BTreeSet<u16> = unreadable
            .iter()
            .filter_map(|damage| keys::slots_between(&damage.first, &damage.last))
            .flat_map(|(first, last)| first.0..=last.0)
            .collect();
        let found: Vec<Slot> =
            damaged.difference(&self.refilling.damaged).copied().map(Slot).collect();
        if !found.is_empty() {
            self.mark_unsound(&found, effects);
        }
        let mended: Vec<Slot> =
            self.refilling.damaged.difference(&damaged).copied().map(Slot).collect();
        if !mended.is_empty() {
            for slot in &mended {
                self.refilling.damaged.remove(&slot.0);
            }
            self.refilling.begin(self.layout.now.q, &mended);
        }
        self.mend(&unreadable, effects);
    }

    /// Damage that is a hole of a table by now, and whose slots are marked durably, can be mended.
    fn mend(&mut self, unreadable: &[UnreadableKeys], effects: &mut Vec<Effect>) {
        for damage in unreadable.iter().filter(|damage| damage.is_lost) {
            let keys = KeyRange { first: damage.first.clone(), last: damage.last.clone() };
            if self.store.synced() < self.refilling.marked_at
                || self.refilling.mending.contains(&keys)
            {
                continue;
            }
            self.refilling.mending.push(keys.clone());
            effects.push(Effect::Mend(keys));
        }
    }

    /// A mending is done, or could not be.
    pub(super) fn mended(
        &mut self,
        keys: &KeyRange,
        result: Result<usize, String>,
        effects: &mut Vec<Effect>,
    ) {
        self.refilling.mending.retain(|other| other != keys);
        match result {
            Ok(_) => {
                let (start, end) = keys::hints();
                if keys.first < end && start <= keys.last {
                    self.find_hints_again(effects);
                }
            }
            Err(error) => {
                effects.push(Effect::Log(Severity::Warn, format!("cannot mend: {error}")));
            }
        }
        self.look_for_damage(effects);
    }

    /// Records that these slots may hold less than they should. What cannot be read may have been minted here: the
    /// epoch rises with it.
    fn mark_unsound(&mut self, slots: &[Slot], effects: &mut Vec<Effect>) {
        let text = format!("{} slots hold damaged data: other replicas give it back", slots.len());
        self.alarm(text, effects);
        self.raise_epoch("states were lost with damaged data", effects);
        self.refilling.damaged.extend(slots.iter().map(|slot| slot.0));
        let mut batch = WriteBatch::new();
        for (key, value) in self.refilling.marks(self.layout.now.q, slots) {
            batch.put(key, value);
        }
        batch.durable().on_reserve();
        self.lineage.record(&mut batch);
        match self.write(batch, effects) {
            Ok(position) => {
                self.lineage.recorded();
                self.refilling.marked_at = position;
                self.gain_anew(slots, effects);
            }
            Err(error) => self.end(format!("damaged slots cannot be recorded: {error}"), effects),
        }
    }

    /// Wakes the machine where it asked for it.
    pub(super) fn refill_timer(&mut self, effects: &mut Vec<Effect>) {
        if self.refilling.look_at.is_some_and(|at| at <= self.now.monotonic) {
            self.refill(refill::Event::Tick, effects);
        }
    }

    /// An owner can be reached again.
    pub(super) fn refill_from_all(&mut self, effects: &mut Vec<Effect>) {
        if !self.refilling.machine.is_empty() || !self.refilling.has_gained_all() {
            self.refill(refill::Event::Tick, effects);
        }
    }

    fn refill(&mut self, event: refill::Event, effects: &mut Vec<Effect>) {
        let mut wanted = Vec::new();
        let (peers, membership, me) = (&self.peers, &self.membership, self.me);
        let may_fetch = self.is_compared();
        let reachable =
            |node| may_fetch && node != me && peers.is_connected(node) && membership.is_up(node);
        let is_numbered = |partition| self.cuts.is_numbered(partition);
        let known = Known {
            me,
            preferences: &self.preferences,
            reachable: &reachable,
            is_numbered: &is_numbered,
            rate: self.config.repair_rate,
            foreground: self.foreground.load(self.now),
        };
        self.refilling.machine.handle(self.now, event, &known, &mut wanted);
        self.refilling.look_at = self.refilling.machine.wake_at(self.now).map(|at| at.monotonic);
        for wanted in wanted {
            match wanted {
                refill::Effect::Fetch { source, wants, slots, after } => {
                    let partition = slots.0.partition(self.layout.now.q);
                    let op = self.anti_entropy.op(Asked::Numbers(partition));
                    let (waiting, next, bytes) = (0, None, 0);
                    let page = Page { source, wants, slots, after, op, waiting, next, bytes };
                    self.refilling.pages.insert(partition, page);
                    if self.cuts.is_numbered(partition) {
                        self.ask_page(partition, effects);
                    } else {
                        let (first, last) = slots_of(partition.0, self.layout.now.q);
                        let body = Request::Cut(CutQuestion::Numbers { first, last });
                        self.ask_peer(source, op, 0, body, effects);
                    }
                }
                refill::Effect::Gained(partition) => self.gained(partition, effects),
                refill::Effect::Refilled(slots) => {
                    self.refilling.recounting.extend(slots.iter().map(|slot| slot.0));
                    let in_a_row =
                        |left: &Slot, right: &Slot| left.0.checked_add(1) == Some(right.0);
                    for run in slots.chunk_by(in_a_row) {
                        self.recount((run[0], run[run.len() - 1]), effects);
                    }
                }
            }
        }
    }

    fn ask_page(&mut self, partition: Partition, effects: &mut Vec<Effect>) {
        let op = self.anti_entropy.op(Asked::Page(partition));
        let Some(page) = self.refilling.pages.get_mut(&partition) else { return };
        page.op = op;
        let (source, slots, after) = (page.source, page.slots, page.after.clone());
        let prefix = Bytes::new();
        let bytes_max = match page.wants {
            Wants::Numbers | Wants::Lost => PAGE_BYTES,
            Wants::Gained => PAGE_BYTES_GAINED,
        };
        let body = Request::ReadRange { slots, after, prefix, bytes_max };
        self.ask_peer(source, op, 0, body, effects);
    }

    /// An owner told its cut numbers: they are taken before any of its states.
    pub(super) fn numbers_answered(
        &mut self,
        partition: Partition,
        op: OpId,
        answer: Answer,
        effects: &mut Vec<Effect>,
    ) {
        if !self.refilling.is_waiting_for(partition, op) {
            return;
        }
        match answer {
            Answer::Cut(CutAnswer { numbers, .. })
                if self.take_source_numbers(partition, &numbers, effects) =>
            {
                match self.refilling.pages.get(&partition).map(|page| page.wants) {
                    Some(Wants::Lost | Wants::Gained) => self.ask_page(partition, effects),
                    Some(Wants::Numbers) | None => self.page_done(partition, effects),
                }
            }
            _ => self.page_failed(partition, effects),
        }
    }

    /// An owner answered with a page, or did not.
    pub(super) fn page_answered(
        &mut self,
        partition: Partition,
        op: OpId,
        answer: Answer,
        effects: &mut Vec<Effect>,
    ) {
        if !self.refilling.is_waiting_for(partition, op) {
            return;
        }
        let Answer::Range(RangePage { entries, complete, cuts }) = answer else {
            return self.page_failed(partition, effects);
        };
        let Some(page) = self.refilling.pages.get_mut(&partition) else { return };
        let (source, wants) = (page.source, page.wants);
        page.waiting = entries.len();
        page.next = match entries.last() {
            Some(last) if !complete => Some((last.slot, last.key.clone())),
            Some(_) | None => None,
        };
        if entries.is_empty() {
            return self.page_done(partition, effects);
        }
        let deadline = u64::MAX;
        let cuts: BTreeMap<Slot, u64> = cuts.into_iter().collect();
        for RangeEntry { slot, key, state } in entries {
            let bytes = super::anti_entropy::bytes_of_state(&key, &state);
            if let Some(page) = self.refilling.pages.get_mut(&partition) {
                page.bytes += bytes;
            }
            match wants {
                Wants::Numbers | Wants::Lost => self.figures.counters.repair_bytes += bytes,
                Wants::Gained => {
                    self.figures.counters.gained_bytes += bytes;
                    self.transition.came.bytes += bytes;
                }
            }
            // In a recovery nothing is forgotten, and what a survivor holds now it never named: a cut that it took no part
            // in forgot nothing (`replication::cut`).
            let cut =
                if self.layout.recovers { u64::MAX } else { cuts.get(&slot).copied().unwrap_or(0) };
            let op = self.anti_entropy.op(Asked::PageMerge(partition, op, source));
            let asker = Asker::Repair { op, cut };
            let request = Request::Merge { key: key.clone(), state, put: None };
            self.key_work(KeyWork::Answer { asker, key, request, deadline }, effects);
        }
    }

    /// One state of a page is merged durably, or was refused.
    pub(super) fn page_merged(
        &mut self,
        partition: Partition,
        op: OpId,
        answer: &Answer,
        effects: &mut Vec<Effect>,
    ) {
        if !self.refilling.is_waiting_for(partition, op) {
            return;
        }
        let Some(page) = self.refilling.pages.get_mut(&partition) else { return };
        if !matches!(answer, Answer::Merged(_)) {
            return self.page_failed(partition, effects);
        }
        match page.wants {
            Wants::Numbers | Wants::Lost => self.figures.counters.repaired_keys += 1,
            Wants::Gained => {
                self.figures.counters.gained_keys += 1;
                self.transition.came.keys += 1;
            }
        }
        page.waiting -= 1;
        if page.waiting == 0 {
            self.page_done(partition, effects);
        }
    }

    fn page_done(&mut self, partition: Partition, effects: &mut Vec<Effect>) {
        let Some(Page { source, next, bytes, .. }) = self.refilling.pages.remove(&partition) else {
            return;
        };
        self.refill(refill::Event::Merged { partition, source, next, bytes }, effects);
        self.note_headway();
    }

    fn page_failed(&mut self, partition: Partition, effects: &mut Vec<Effect>) {
        if let Some(page) = self.refilling.pages.remove(&partition) {
            let event = refill::Event::Failed { partition, source: page.source };
            self.refill(event, effects);
        }
    }

    /// The leaves of the slots from the first to the last are those of their keys.
    pub(super) fn leaves_are_right(&mut self, slots: (Slot, Slot), effects: &mut Vec<Effect>) {
        let refilled = self.refilling.recounted(slots);
        if !refilled.is_empty() {
            self.figures.counters.refilled_slots += refilled.len() as u64;
            self.end_refill(&refilled, effects);
        }
    }

    /// The leaves of these slots could not be worked out: they are refilled once more.
    pub(super) fn leaves_are_unknown(&mut self, slots: (Slot, Slot)) {
        let unknown = self.refilling.recounted(slots);
        self.refilling.begin(self.layout.now.q, &unknown);
    }

    /// No page comes from `node` any more.
    pub(super) fn pages_unreachable(&mut self, node: NodeId, effects: &mut Vec<Effect>) {
        let pages = self.refilling.pages.iter().filter(|(_, page)| page.source == node);
        let lost: Vec<Partition> = pages.map(|(partition, _)| *partition).collect();
        for partition in lost {
            self.page_failed(partition, effects);
        }
    }

    /// An operator says that what these slots still lack is lost.
    pub(super) fn accept_loss(&mut self, slots: (Slot, Slot), effects: &mut Vec<Effect>) -> usize {
        let unsound: Vec<Slot> = self
            .refilling
            .machine
            .slots()
            .filter(|slot| slots.0 <= *slot && *slot <= slots.1)
            .collect();
        self.end_refill(&unsound, effects);
        unsound.len()
    }

    /// These slots are sound from now on.
    fn end_refill(&mut self, slots: &[Slot], effects: &mut Vec<Effect>) {
        let q = self.layout.now.q;
        self.refilling.machine.end(q, slots);
        let mut batch = WriteBatch::new();
        for (key, value) in self.refilling.marks(q, slots) {
            batch.put(key, value);
        }
        // A mark that stays makes the next start refill once more.
        let _ = self.write(batch, effects);
        if self.refilling.is_empty() {
            effects.push(Effect::Log(Severity::Info, "all lost data is refilled".to_owned()));
            self.layout_for_repairs(effects);
        }
    }
}
