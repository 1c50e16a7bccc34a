//! The cut: this node's numbers, what it names, and the rounds it asks as a slot's first owner (DESIGN §7; the protocol
//! is drawn in `replication::cut`).
//!
//! A state that is sent carries the number that this node held when it read it:
//! ```text
//! an answer to a peer        the number when the question came, before anything was read
//! a merge of the own         the lowest of: the number when the operation began, and those of the answers that it
//! coordinator                heard, where one is another than this node's (`Cuts::of_op`)
//! a repair's, a page's       what came with the state
//! a hint's                   the number as it is sent: a node that holds a hint names nothing, so none of its numbers
//!                            belongs to a cut that was done while the hint was on its way
//! ```
//! Invariant: what is appended from another node's state was read under a number at least as high as the one held here.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use bytes::Bytes;

use crate::cluster::Time;
use crate::node_id::NodeId;
use crate::replication::cut::{self, Cut, CutAnswer, CutItem, CutQuestion, Forgettable, ITEMS_MAX};
use crate::replication::{Answer, Consistency, OpId, ReadWant, Refusal, Request, operation_of};
use crate::ring::{Partition, Slot, Token};
use crate::storage::{Cached, LogPosition, ReadError, ScanSlice, Store, WriteBatch};
use crate::version::{Actor, Siblings};

use super::anti_entropy::Asked;
use super::core::Core;
use super::event::{Effect, ScanToken};
use super::key_work::{Asker, KeyWork};
use super::start::StartError;
use super::{keys, meta};

/// Entries of a clock past which those of dead actors are forgotten.
pub(super) const CLOCK_MAX: usize = 20;
/// Entries of the index of what is due that one look reads.
const LOOK_ENTRIES: usize = 1_024;
/// How long a refused sender waits for the question before it takes the number itself.
const TAKE_AFTER: Duration = Duration::from_secs(1);
/// Operations whose answers came under another number that are remembered; many times what can be in flight.
const OPS_MAX: usize = 1 << 17;

/// A node's numbers and rounds.
#[derive(Debug)]
pub(super) struct Cuts {
    numbers: BTreeMap<u16, Number>,
    /// The lowest number that a part of an operation came under, where it was not this node's.
    ops: BTreeMap<OpId, u64>,
    /// Numbers that others refused a state for, and when this node takes them.
    higher: BTreeMap<u16, (u64, Time)>,
    machine: Cut,
    /// Where the next look into the index begins.
    cursor: Option<Bytes>,
    look: Option<ScanToken>,
    /// Keys being read for a round.
    reading: usize,
    due: Vec<CutItem>,
    questions: BTreeMap<u64, Question>,
    next_question: u64,
    /// Partitions with unsound slots whose numbers are known.
    numbered: BTreeSet<Partition>,
}

/// A slot's number.
#[derive(Clone, Copy, Debug)]
struct Number {
    now: u64,
    /// Operations below this one may have read under the number before.
    first_op: OpId,
    /// That number, and the first operation that began under it.
    before: u64,
    before_op: OpId,
}

impl Number {
    /// A number that no operation under way is older than.
    const fn new(now: u64) -> Self {
        Self { now, first_op: OpId(0), before: 0, before_op: OpId(0) }
    }

    /// A higher one; operations from `first_op` on begin under it.
    const fn risen(self, to: u64, first_op: OpId) -> Self {
        Self { now: to, first_op, before: self.now, before_op: self.first_op }
    }

    /// The number under which `op` began, or a lower one: of what is older than two rises nothing is known.
    fn of_op(self, op: OpId) -> u64 {
        if self.first_op <= op {
            self.now
        } else if self.before_op <= op {
            self.before
        } else {
            0
        }
    }
}

/// A member's question whose keys are being read, or forgotten.
#[derive(Debug)]
struct Question {
    asker: Asker,
    items: Vec<CutItem>,
    named: Vec<bool>,
    left: usize,
}

impl Cuts {
    /// What the store has on record.
    pub(super) fn open(store: &Store, now: Time, interval: Duration) -> Result<Self, StartError> {
        let mut numbers = BTreeMap::new();
        let (start, end) = meta::cut_range();
        for entry in store.scan(&start, Some(&end)) {
            let record = "cut numbers".to_owned();
            let (key, value) = entry.map_err(|source| StartError::Read {
                record: record.clone(),
                source: source.into(),
            })?;
            let (slot, now) = meta::decode_cut(&key, &value)
                .map_err(|source| StartError::Malformed { record, source })?;
            numbers.insert(slot.0, Number::new(now));
        }
        Ok(Self {
            numbers,
            ops: BTreeMap::new(),
            higher: BTreeMap::new(),
            machine: Cut::new(now, interval),
            cursor: None,
            look: None,
            reading: 0,
            due: Vec::new(),
            questions: BTreeMap::new(),
            next_question: 0,
            numbered: BTreeSet::new(),
        })
    }

    /// The number held of `slot`.
    pub(super) fn number(&self, slot: Slot) -> u64 {
        self.numbers.get(&slot.0).map_or(0, |number| number.now)
    }

    /// The numbers above 0 of the slots from `first` to `last`.
    pub(super) fn numbers(&self, first: Slot, last: Slot) -> Vec<(Slot, u64)> {
        let held = self.numbers.range(first.0..=last.0);
        held.map(|(slot, number)| (Slot(*slot), number.now)).collect()
    }

    /// The number that the states of an operation of the own coordinator carry; `address` is that of any part of it.
    pub(super) fn of_op(&self, slot: Slot, address: OpId) -> u64 {
        let op = operation_of(address);
        let begun = self.numbers.get(&slot.0).map_or(0, |number| number.of_op(op));
        self.ops.get(&op).map_or(begun, |heard| begun.min(*heard))
    }

    /// A part of an operation came under another number than this node's.
    pub(super) fn heard(&mut self, address: OpId, number: u64) {
        let lowest = self.ops.entry(operation_of(address)).or_insert(number);
        *lowest = number.min(*lowest);
        while OPS_MAX < self.ops.len() {
            self.ops.pop_first();
        }
    }

    /// When something is due.
    pub(super) fn wake_at(&self) -> u64 {
        let takes = self.higher.values().map(|(_, at)| at.monotonic);
        takes.fold(self.machine.wake_at().monotonic, u64::min)
    }

    /// Whether states of an unsound slot may be taken: its number must be known first.
    pub(super) fn is_numbered(&self, partition: Partition) -> bool {
        self.numbered.contains(&partition)
    }

    fn rise(&mut self, slot: Slot, to: u64, first_op: OpId) {
        let number = self.numbers.entry(slot.0).or_insert(Number::new(0));
        *number = number.risen(to, first_op);
    }
}

/// Whether a state is in the index of what a cut may forget.
pub(super) fn is_due(state: &Siblings) -> bool {
    (!state.is_empty() && !state.has_value()) || CLOCK_MAX < state.clock().len()
}

impl Core {
    /// Whether a state that comes from elsewhere may be appended here.
    pub(super) fn check_cut(&self, asker: Asker, slot: Slot) -> Result<(), Refusal> {
        let came_under = match asker {
            Asker::Own { op } => self.cuts.of_op(slot, op),
            Asker::Peer { cut, .. } | Asker::Repair { cut, .. } => cut,
        };
        self.check_number(came_under, slot)
    }

    /// The same for the states that an operation of the own coordinator heard.
    pub(super) fn check_op_cut(&self, op: OpId, slot: Slot) -> Result<(), Refusal> {
        self.check_number(self.cuts.of_op(slot, op), slot)
    }

    fn check_number(&self, came_under: u64, slot: Slot) -> Result<(), Refusal> {
        let number = self.cuts.number(slot);
        if came_under < number { Err(Refusal::Cut { slot, number }) } else { Ok(()) }
    }

    /// The number that a request of the own coordinator carries.
    pub(super) fn cut_of_request(&self, op: OpId, request: &Request) -> u64 {
        request.key().map_or(0, |key| self.cuts.of_op(Token::of(key).slot(), op))
    }

    /// A peer refused a state because of its number. A disk that may be rolled back holds states that this node once
    /// named: they must not go out under a number that it took since.
    pub(super) fn note_higher(&mut self, slot: Slot, number: u64) {
        if self.is_compared() && self.cuts.number(slot) < number {
            let at = self.now.after(TAKE_AFTER);
            let known = self.cuts.higher.entry(slot.0).or_insert((number, at));
            known.0 = known.0.max(number);
        }
    }

    pub(super) fn cut_timer(&mut self, effects: &mut Vec<Effect>) {
        let now = self.now;
        let due: Vec<(Slot, u64)> = self
            .cuts
            .higher
            .iter()
            .filter(|(_, (_, at))| *at <= now)
            .map(|(slot, (number, _))| (Slot(*slot), *number))
            .collect();
        for (slot, _) in &due {
            self.cuts.higher.remove(&slot.0);
        }
        let higher: Vec<_> =
            due.into_iter().filter(|(slot, number)| self.cuts.number(*slot) < *number).collect();
        if !higher.is_empty() {
            self.take_numbers(&higher, effects);
        }
        if self.cuts.machine.wake_at() <= now {
            self.cut(cut::Event::Tick, effects);
        }
    }

    /// Makes these the numbers of their slots; where they stand in the log.
    fn take_numbers(
        &mut self,
        numbers: &[(Slot, u64)],
        effects: &mut Vec<Effect>,
    ) -> Option<LogPosition> {
        let mut batch = WriteBatch::new();
        for (slot, number) in numbers {
            let (key, value) = meta::encode_cut(*slot, *number);
            batch.put(key, value);
        }
        batch.durable().on_reserve();
        let position = self.write(batch, effects).ok()?;
        let first_op = OpId(self.next_op + 1);
        for (slot, number) in numbers {
            self.cuts.rise(*slot, *number, first_op);
        }
        Some(position)
    }

    fn cut(&mut self, event: cut::Event, effects: &mut Vec<Effect>) {
        let mut members: Vec<NodeId> =
            self.layout.now.members.iter().map(|member| member.id).collect();
        members.retain(|node| *node != self.me);
        let is_up = |node: &NodeId| self.peers.is_connected(*node) && self.membership.is_up(*node);
        let is_ready = members.iter().all(is_up) && self.may_name();
        members.push(self.me);
        let mut wanted = Vec::new();
        self.cuts.machine.handle(self.now, event, &members, is_ready, &mut wanted);
        for wanted in wanted {
            match wanted {
                cut::Effect::Look => self.look_for_due(effects),
                cut::Effect::Ask(node, question) => self.ask_cut(node, question, effects),
                cut::Effect::Forget(items) => {
                    for item in items {
                        self.key_work(KeyWork::Reap { op: None, item }, effects);
                    }
                }
            }
        }
    }

    /// Whether this node may name anything: it knows all it should hold, keeps nothing for others, and no snapshot is made.
    fn may_name(&self) -> bool {
        self.layout.next.is_none()
            && self.is_compared()
            && self.refilling.is_empty()
            && self.hints.held().next().is_none()
            && !self.snapshots.holds(self.now)
    }

    fn look_for_due(&mut self, effects: &mut Vec<Effect>) {
        let (first, end) = meta::due_range();
        let start = self.cuts.cursor.take().unwrap_or(first);
        let token = self.ranges.next_token();
        self.cuts.look = Some(token);
        let (end, bytes_max) = (Some(end), 1 << 20);
        effects.push(Effect::Scan { token, start, end, entries_max: LOOK_ENTRIES, bytes_max });
    }

    /// A page of the index. False when the slice is something else.
    pub(super) fn due_read(
        &mut self,
        token: ScanToken,
        result: &Result<ScanSlice, ReadError>,
        effects: &mut Vec<Effect>,
    ) -> bool {
        if self.cuts.look != Some(token) {
            return false;
        }
        self.cuts.look = None;
        let mut keys = Vec::new();
        if let Ok(slice) = result {
            self.cuts.cursor.clone_from(&slice.next);
            for (stored, _) in &slice.entries {
                let Ok((slot, key)) = meta::parse_due(stored) else { continue };
                if self.preferences.of_slot(slot).owners().next() != Some(self.me) {
                    continue;
                }
                if keys.len() == ITEMS_MAX {
                    self.cuts.cursor = Some(stored.clone());
                    break;
                }
                keys.push(stored.slice_ref(key));
            }
        }
        self.cuts.reading = keys.len();
        self.cuts.due.clear();
        if keys.is_empty() {
            self.cut(cut::Event::Due(Vec::new()), effects);
        }
        for key in keys {
            let op = self.anti_entropy.op(Asked::Due(key.clone()));
            self.read_own(op, key, effects);
        }
        true
    }

    /// A key of the index is read; `None` where it could not be.
    pub(super) fn due_state(
        &mut self,
        key: &Bytes,
        state: Option<&Siblings>,
        effects: &mut Vec<Effect>,
    ) {
        let members: BTreeSet<NodeId> =
            self.layout.now.members.iter().map(|member| member.id).collect();
        let own = self.lineage.actor();
        let item = state.and_then(|state| {
            // Another member's word on its own actor is asked for: here only what is plain is taken.
            let latest = |actor: Actor| {
                let epochs = state.clock().iter().filter(|(other, _)| other.node == actor.node);
                epochs.map(|(other, _)| other.epoch).max()
            };
            let is_dead = |actor: Actor| {
                !members.contains(&actor.node)
                    || (actor.node == own.node && actor != own)
                    || latest(actor).is_some_and(|epoch| actor.epoch < epoch)
            };
            CutItem::of(key, state, CLOCK_MAX, is_dead)
        });
        self.cuts.due.extend(item);
        self.cuts.reading -= 1;
        if self.cuts.reading == 0 {
            let due = std::mem::take(&mut self.cuts.due);
            self.cut(cut::Event::Due(due), effects);
        }
    }

    fn read_own(&mut self, op: OpId, key: Bytes, effects: &mut Vec<Effect>) {
        let cut = self.cuts.number(Token::of(&key).slot());
        let asker = Asker::Repair { op, cut };
        let (want, consistency) = (ReadWant::State, Consistency::Sloppy);
        let request = Request::Read { key: key.clone(), want, consistency };
        let work = KeyWork::Look { asker, key, request };
        self.key_work(work, effects);
    }

    fn ask_cut(&mut self, node: NodeId, question: CutQuestion, effects: &mut Vec<Effect>) {
        let op = self.anti_entropy.op(Asked::Cut(node));
        if node == self.me {
            self.cut_question(Asker::Repair { op, cut: 0 }, question, effects);
        } else {
            self.ask_peer(node, op, 0, Request::Cut(question), effects);
        }
    }

    /// A member answered, this node among them.
    pub(super) fn cut_answered(&mut self, node: NodeId, answer: Answer, effects: &mut Vec<Effect>) {
        let event = match answer {
            Answer::Cut(answer) => cut::Event::Answered(node, answer),
            _ => cut::Event::Refused(node),
        };
        self.cut(event, effects);
    }

    /// A first owner asks.
    pub(super) fn cut_question(
        &mut self,
        asker: Asker,
        question: CutQuestion,
        effects: &mut Vec<Effect>,
    ) {
        match question {
            CutQuestion::Numbers { first, last } => {
                let numbers = self.cuts.numbers(first, last);
                // In a recovery nobody may be left who knows better.
                let is_known = self.refilling.is_empty() || self.layout.recovers;
                let answer = match (self.is_compared(), is_known) {
                    (true, true) => Answer::Cut(CutAnswer { named: Vec::new(), numbers }),
                    (true, false) => Answer::Refused(Refusal::Refilling),
                    (false, _) => Answer::Refused(Refusal::Starting),
                };
                self.answer(asker, answer, LogPosition::ZERO, effects);
            }
            CutQuestion::Ask { items } | CutQuestion::Take { items, .. }
                if !self.may_name() || ITEMS_MAX < items.len() =>
            {
                let answer = CutAnswer { named: vec![false; items.len()], numbers: Vec::new() };
                self.answer(asker, Answer::Cut(answer), LogPosition::ZERO, effects);
            }
            CutQuestion::Ask { items } => {
                let id = self.begin_question(asker, items.clone());
                for (index, item) in items.into_iter().enumerate() {
                    let op = self.anti_entropy.op(Asked::Name(id, index));
                    self.read_own(op, item.key, effects);
                }
                self.end_question_if_done(id, effects);
            }
            CutQuestion::Take { numbers, items } => {
                self.take_and_name(asker, &numbers, &items, effects);
            }
            CutQuestion::Forget { items } => {
                let id = self.begin_question(asker, items.clone());
                for item in items {
                    let op = self.anti_entropy.op(Asked::Reaped(id));
                    self.key_work(KeyWork::Reap { op: Some(op), item }, effects);
                }
                self.end_question_if_done(id, effects);
            }
        }
    }

    /// Takes the numbers that are higher, and names, in this one step, what is held exactly so.
    fn take_and_name(
        &mut self,
        asker: Asker,
        numbers: &[(Slot, u64)],
        items: &[CutItem],
        effects: &mut Vec<Effect>,
    ) {
        let higher: BTreeMap<Slot, u64> = numbers
            .iter()
            .copied()
            .filter(|(slot, number)| self.cuts.number(*slot) < *number)
            .collect();
        let taken: Vec<(Slot, u64)> =
            higher.iter().map(|(slot, number)| (*slot, *number)).collect();
        let Some(position) = self.take_numbers(&taken, effects) else {
            let answer = Answer::Refused(Refusal::Overloaded);
            return self.answer(asker, answer, LogPosition::ZERO, effects);
        };
        let named = items.iter().map(|item| higher.contains_key(&item.slot()) && self.names(item));
        let named = named.collect();
        let held = numbers.iter().map(|(slot, _)| (*slot, self.cuts.number(*slot))).collect();
        let answer = Answer::Cut(CutAnswer { named, numbers: held });
        self.answer(asker, answer, position, effects);
    }

    /// Whether this node holds of the key nothing, or exactly what is to be forgotten, as far as memory knows: the
    /// question before has read it.
    fn names(&self, item: &CutItem) -> bool {
        match self.store.get_cached(&keys::data(&item.key)) {
            Ok(Cached::Ready(found)) => {
                let state = found.value.as_ref().map_or(Ok(Siblings::new()), Siblings::decode);
                state.is_ok_and(|state| item.is_named_by(&state)) && self.is_dead_here(item)
            }
            Ok(Cached::NeedsDisk) | Err(_) => false,
        }
    }

    /// Whether this node's own actor, where an entry of it is to be forgotten, mints no more.
    fn is_dead_here(&self, item: &CutItem) -> bool {
        match &item.what {
            Forgettable::Tombstones(_) => true,
            Forgettable::Entry(actor, _) => *actor != self.lineage.actor(),
        }
    }

    fn begin_question(&mut self, asker: Asker, items: Vec<CutItem>) -> u64 {
        let id = self.cuts.next_question;
        self.cuts.next_question += 1;
        let (left, named) = (items.len(), vec![true; items.len()]);
        self.cuts.questions.insert(id, Question { asker, items, named, left });
        id
    }

    /// A key of a question is read; `None` where it could not be.
    pub(super) fn name_state(
        &mut self,
        id: u64,
        index: usize,
        state: Option<&Siblings>,
        effects: &mut Vec<Effect>,
    ) {
        let own = self.lineage.actor();
        let Some(question) = self.cuts.questions.get_mut(&id) else { return };
        let Some(item) = question.items.get(index) else { return };
        let is_live = matches!(item.what, Forgettable::Entry(actor, _) if actor == own);
        question.named[index] = !is_live && state.is_some_and(|state| item.is_named_by(state));
        question.left -= 1;
        self.end_question_if_done(id, effects);
    }

    /// An item of a question is forgotten, durably.
    pub(super) fn reaped(&mut self, id: u64, effects: &mut Vec<Effect>) {
        if let Some(question) = self.cuts.questions.get_mut(&id) {
            question.left -= 1;
        }
        self.end_question_if_done(id, effects);
    }

    fn end_question_if_done(&mut self, id: u64, effects: &mut Vec<Effect>) {
        if self.cuts.questions.get(&id).is_none_or(|question| question.left > 0) {
            return;
        }
        let Some(Question { asker, items, named, .. }) = self.cuts.questions.remove(&id) else {
            return;
        };
        let slots: BTreeSet<Slot> = items.iter().map(CutItem::slot).collect();
        let numbers = slots.into_iter().map(|slot| (slot, self.cuts.number(slot))).collect();
        let answer = Answer::Cut(CutAnswer { named, numbers });
        self.answer(asker, answer, self.store.appended(), effects);
    }

    /// The numbers of a partition that is about to be refilled, from the owner that gives first.
    pub(super) fn take_source_numbers(
        &mut self,
        partition: Partition,
        numbers: &[(Slot, u64)],
        effects: &mut Vec<Effect>,
    ) -> bool {
        let higher: Vec<(Slot, u64)> = numbers
            .iter()
            .copied()
            .filter(|(slot, number)| {
                slot.partition(self.layout.now.q) == partition && self.cuts.number(*slot) < *number
            })
            .collect();
        let is_taken = higher.is_empty() || self.take_numbers(&higher, effects).is_some();
        if is_taken {
            self.cuts.numbered.insert(partition);
        }
        is_taken
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(number: Number, expected: &[(u64, u64)]) {
        for (op, under) in expected {
            assert_eq!(number.of_op(OpId(*op)), *under, "operation {op} under {number:?}");
        }
    }

    #[test]
    fn an_operation_goes_under_the_number_that_it_began_under_or_a_lower_one() {
        let first = Number::new(0).risen(1, OpId(10));
        check(first, &[(9, 0), (10, 1)]);
        let second = first.risen(5, OpId(20));
        check(second, &[(9, 0), (10, 1), (19, 1), (20, 5)]);
        check(second.risen(6, OpId(30)), &[(10, 0), (20, 5), (30, 6)]);
        check(Number::new(7), &[(0, 7)]);
    }
}
