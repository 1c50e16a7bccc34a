//! One slot settled with one peer: the own rows are told, what the peer lacks is sent, what it gives is merged.
//!
//! ```text
//! rows ──Compare::Rows──▶ {give, want} ──▶ a window of keys, merged here or there ──▶ the next rows ──▶ done
//! ```
//! Where this node is no owner it only gives (`purge.rs`).

use std::collections::{BTreeMap, VecDeque};

use bytes::Bytes;

use crate::node_id::NodeId;
use crate::replication::anti_entropy::{self, Compare, Outcome, Row, pack};
use crate::replication::{Consistency, ReadWant, Request};
use crate::ring::{Slot, Token};
use crate::version::{Digest, Siblings};

use super::anti_entropy::{Asked, DEADLINE, bytes_of, bytes_of_state};
use super::core::Core;
use super::event::Effect;
use super::key_work::{Asker, KeyWork};

/// Most rows of one question; a slot with more keys goes in several.
const ROWS_MAX: usize = 16 << 10;
/// Most keys merged or sent at once for one slot.
const KEYS_IN_FLIGHT: usize = 32;

/// The repair of one slot with one peer.
#[derive(Debug)]
pub(super) struct SlotRepair {
    rows: VecDeque<Row>,
    /// The first hash not asked about yet.
    from: u64,
    keys: BTreeMap<u64, Bytes>,
    pub(super) give: VecDeque<(Bytes, Siblings)>,
    pub(super) want: VecDeque<u64>,
    in_flight: usize,
    /// The cut number of what is given.
    pub(super) cut: u64,
    pub(super) complete: bool,
    pub(super) moved: u64,
    pub(super) bytes: u64,
}

impl SlotRepair {
    /// Of these rows, ascending, and the keys they are of.
    pub(super) fn of(rows: Vec<Row>, keys: BTreeMap<u64, Bytes>) -> Self {
        Self {
            rows: rows.into(),
            from: 0,
            keys,
            give: VecDeque::new(),
            want: VecDeque::new(),
            in_flight: 0,
            cut: 0,
            complete: true,
            moved: 0,
            bytes: 0,
        }
    }
}

impl Core {
    /// Asks about the next rows of a slot.
    pub(super) fn ask_rows(&mut self, peer: NodeId, slot: Slot, effects: &mut Vec<Effect>) {
        let Some(repair) = self.anti_entropy.repairs.get_mut(&(peer, slot.0)) else { return };
        let count = repair.rows.len().min(ROWS_MAX);
        let rows: Vec<Row> = repair.rows.drain(..count).collect();
        let last = match (rows.last(), repair.rows.is_empty()) {
            (Some(last), false) => last.key,
            (_, true) | (None, _) => u64::MAX,
        };
        let range = (repair.from, last);
        repair.from = last.saturating_add(1);
        let cut = self.cuts.number(slot);
        let op = self.anti_entropy.op_under(Asked::Rows(peer, slot), cut);
        let gives_only = !self.owns(slot);
        let question = Compare::Rows { slot, range, rows: pack(&rows), gives_only };
        self.figures.counters.compare_bytes += bytes_of(&question);
        self.ask_peer(peer, op, cut, Request::Compare(question), effects);
    }

    /// Merges and sends on what a window of keys allows; asks about further rows; ends the repair when all is done.
    pub(super) fn go_on(&mut self, peer: NodeId, slot: Slot, effects: &mut Vec<Effect>) {
        loop {
            let Some(repair) = self.anti_entropy.repairs.get_mut(&(peer, slot.0)) else { return };
            if KEYS_IN_FLIGHT <= repair.in_flight {
                return;
            }
            let deadline = self.now.after(DEADLINE).monotonic;
            if let Some((key, state)) = repair.give.pop_front() {
                let bytes = bytes_of_state(&key, &state);
                (repair.in_flight, repair.bytes) = (repair.in_flight + 1, repair.bytes + bytes);
                self.figures.counters.repair_bytes += bytes;
                let cut = repair.cut;
                let take = Asked::Take(peer, slot, key.clone(), state.digest());
                let asker = Asker::Repair { op: self.anti_entropy.op(take), cut };
                if Token::of(&key).slot() == slot {
                    let request = Request::Merge { key: key.clone(), state, put: None };
                    self.key_work(KeyWork::Answer { asker, key, request, deadline }, effects);
                } else {
                    self.end_repair(peer, slot, Outcome::Failed, effects);
                }
            } else if let Some(hash) = repair.want.pop_front() {
                // A hash that is none of ours was made up: there is nothing to give.
                if let Some(key) = repair.keys.get(&hash).cloned() {
                    repair.in_flight += 1;
                    self.read_for(peer, slot, key, None, effects);
                }
            } else if repair.in_flight > 0 {
                return;
            } else if !repair.rows.is_empty() {
                return self.ask_rows(peer, slot, effects);
            } else {
                let (keys, bytes) = (repair.moved, repair.bytes);
                let outcome = if repair.complete {
                    Outcome::Moved { keys, bytes }
                } else {
                    Outcome::More { keys, bytes }
                };
                self.figures.counters.repaired_slots += 1;
                return self.end_repair(peer, slot, outcome, effects);
            }
        }
    }

    /// Reads a state for a peer: one that it wants, or one that it gave, merged, lest the own side kept more than it got.
    pub(super) fn read_for(
        &mut self,
        peer: NodeId,
        slot: Slot,
        key: Bytes,
        given: Option<Digest>,
        effects: &mut Vec<Effect>,
    ) {
        let deadline = self.now.after(DEADLINE).monotonic;
        let op = self.anti_entropy.op(Asked::Read(peer, slot, key.clone(), given));
        let (want, consistency) = (ReadWant::State, Consistency::Sloppy);
        let request = Request::Read { key: key.clone(), want, consistency };
        let cut = self.cuts.number(slot);
        let asker = Asker::Repair { op, cut };
        let work = if self.owns(slot) {
            KeyWork::Answer { asker, key, request, deadline }
        } else {
            KeyWork::Look { asker, key, request }
        };
        self.key_work(work, effects);
    }

    /// A key is the same on both sides now, as far as they told each other.
    pub(super) fn moved(&mut self, peer: NodeId, slot: Slot, effects: &mut Vec<Effect>) {
        if let Some(repair) = self.anti_entropy.repairs.get_mut(&(peer, slot.0)) {
            repair.in_flight -= 1;
            repair.moved += 1;
            self.figures.counters.repaired_keys += 1;
        }
        self.go_on(peer, slot, effects);
    }

    pub(super) fn end_repair(
        &mut self,
        peer: NodeId,
        slot: Slot,
        outcome: Outcome,
        effects: &mut Vec<Effect>,
    ) {
        self.anti_entropy.forget_repair(peer, slot);
        self.repair_ended(peer, slot, outcome, effects);
    }

    /// Tells whoever wanted a slot settled with a peer.
    pub(super) fn repair_ended(
        &mut self,
        peer: NodeId,
        slot: Slot,
        outcome: Outcome,
        effects: &mut Vec<Effect>,
    ) {
        if self.owns(slot) {
            self.exchange(anti_entropy::Event::Repaired(peer, slot, outcome), effects);
        } else {
            let is_settled = matches!(outcome, Outcome::Moved { .. });
            self.settled(peer, slot, is_settled, effects);
        }
    }
}
