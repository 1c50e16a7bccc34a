//! Work on one key's state: reads and merges for coordinators, mints for the own one.
//!
//! Every change of a key is serial from read to append: work that must read the disk queues (see `key_queue.rs`), all
//! other runs in one piece. The append carries, in one batch, the state, what the leaf of the key's slot changes by, and
//! a new epoch where one began.

use std::collections::VecDeque;

use bytes::Bytes;
use xxhash_rust::xxh3::Xxh3Default;

use crate::node_id::NodeId;
use crate::planted::{self, Bug};
use crate::replication::cut::{CutItem, Forgettable};
use crate::replication::hinted_handoff::Hint;
use crate::replication::{
    Answer, Envelope, FailedWhy, HeldFor, Input, Local, Mint, MintAnswer, OpId, Refusal, Request,
    Step, replica,
};
use crate::ring::Token;
use crate::storage::{Cached, Found, LogPosition, ReadError, WriteBatch, WriteError};
use crate::version::{Dot, Siblings};
use crate::wire::peer::PeerMessage;

use super::core::{Core, Parked};
use super::cut::is_due;
use super::event::{Effect, ReadToken};
use super::{keys, meta};

/// Who asked this replica.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Asker {
    /// The own coordinator.
    Own { op: OpId },
    /// A peer's coordinator, at this layout version.
    Peer {
        node: NodeId,
        op: OpId,
        layout: u64,
        /// The cut number that came with the request.
        cut: u64,
        /// The one held here when it came.
        held: u64,
    },
    /// The own anti-entropy, refill or cut.
    Repair {
        op: OpId,
        /// The cut number that came with the state to be merged, or held here when a state was asked for.
        cut: u64,
    },
}

/// Work on one key.
#[derive(Debug)]
pub(super) enum KeyWork {
    /// A request of a coordinator.
    Answer {
        asker: Asker,
        key: Bytes,
        request: Request,
        /// Our monotonic nanoseconds after which it is dropped.
        deadline: u64,
    },
    /// A write of the own coordinator.
    Mint { op: OpId, mint: Mint },
    /// A write of the own coordinator where this node stands in for an owner: work on its hint.
    MintHeld(MintHeld),
    /// A state to be held for an owner that cannot be reached: work on the hint.
    Hold { asker: Asker, key: Bytes, target: NodeId, request: Request, deadline: u64 },
    /// What is held of a key that this node does not own, gathered from one place after the other.
    Gather(Gathering),
    /// The target has what was sent: the hint may go.
    Forget { target: NodeId, key: Bytes, sent: Hint },
    /// What is held of a key here, owned or not, sound or not: for a cut.
    Look { asker: Asker, key: Bytes, request: Request },
    /// All members named this: it goes where it is unchanged.
    Reap { op: Option<OpId>, item: CutItem },
    /// A key of another's slot, which its owners hold: it goes while this layout is in force.
    Drop { key: Bytes, layout: u64 },
}

/// A write of a stand-in.
#[derive(Debug)]
pub(super) struct MintHeld {
    pub(super) op: OpId,
    pub(super) mint: Mint,
    pub(super) held_for: HeldFor,
    /// What is held of the key besides this hint, and up to where that has to be durable.
    pub(super) held: Siblings,
    pub(super) position: LogPosition,
    /// The layout by which it stands in.
    pub(super) layout: u64,
}

/// What the states of a key are gathered for.
#[derive(Debug)]
pub(super) enum Purpose {
    /// To tell them.
    Answer { asker: Asker, deadline: u64 },
    /// To write on them.
    Mint(Box<MintHeld>),
}

/// The states of a key that this node does not own, on the way to an answer or a write.
#[derive(Debug)]
pub(super) struct Gathering {
    pub(super) purpose: Purpose,
    /// Storage keys still to be read, the next one last.
    pub(super) places: Vec<Bytes>,
    pub(super) merged: Siblings,
    /// Up to where what was read has to be durable.
    pub(super) position: LogPosition,
}

/// A key's state as it stands while work on it runs.
struct Standing {
    state: Siblings,
    position: LogPosition,
}

/// What came of an append.
enum Appended {
    At(LogPosition),
    Refused(Refusal),
}

impl KeyWork {
    /// The storage key that it works on.
    fn stored(&self) -> Bytes {
        match self {
            Self::Answer { key, .. } | Self::Look { key, .. } | Self::Drop { key, .. } => {
                keys::data(key)
            }
            Self::Reap { item, .. } => keys::data(&item.key),
            Self::Mint { mint, .. } => keys::data(&mint.key),
            Self::Hold { target, key, .. } | Self::Forget { target, key, .. } => {
                keys::hint(*target, key)
            }
            Self::MintHeld(MintHeld { mint, held_for, .. }) => {
                keys::hint(held_for.target, &mint.key)
            }
            Self::Gather(gathering) => gathering.places.last().cloned().unwrap_or_default(),
        }
    }
}

impl Core {
    /// Does `work` now, or queues it behind the disk read of its key.
    pub(super) fn key_work(&mut self, work: KeyWork, effects: &mut Vec<Effect>) {
        let stored = work.stored();
        if self.queue.is_reading(&stored) {
            self.queue_up(stored, work, effects);
            return;
        }
        match self.store.get_cached(&stored) {
            Ok(Cached::Ready(found)) => {
                self.run_all(&stored, VecDeque::from([work]), Ok(found), effects);
            }
            Ok(Cached::NeedsDisk) => self.queue_up(stored, work, effects),
            Err(error) => self.run_all(&stored, VecDeque::from([work]), Err(error), effects),
        }
    }

    /// A disk read is back.
    pub(super) fn read_done(
        &mut self,
        token: ReadToken,
        result: Result<Found, ReadError>,
        effects: &mut Vec<Effect>,
    ) {
        if let Some((stored, work)) = self.queue.finish(token) {
            self.run_all(&stored, work, result, effects);
        }
    }

    fn queue_up(&mut self, stored: Bytes, work: KeyWork, effects: &mut Vec<Effect>) {
        if self.queue.len() >= self.config.limits.peer_requests {
            self.figures.counters.overloads += 1;
            self.refuse(&work, &Refusal::Overloaded, effects);
        } else if let Some(token) = self.queue.push(&stored, work) {
            self.figures.counters.disk_reads += 1;
            effects.push(Effect::Read { token, key: stored });
        }
    }

    /// Runs `work` on one key, in order, each on the state that the one before left.
    fn run_all(
        &mut self,
        stored: &Bytes,
        work: VecDeque<KeyWork>,
        found: Result<Found, ReadError>,
        effects: &mut Vec<Effect>,
    ) {
        if stored.first() == Some(&keys::HINT) {
            return self.run_on_hint(stored, work, found, effects);
        }
        let standing = found.map_err(|error| error.to_string()).and_then(|found| {
            let state = found.value.as_ref().map_or(Ok(Siblings::new()), Siblings::decode);
            let position = found.position;
            state.map(|state| Standing { state, position }).map_err(|error| error.to_string())
        });
        match standing {
            Ok(mut standing) => {
                for work in work {
                    self.run(stored, work, &mut standing, effects);
                }
            }
            Err(error) => {
                self.alarm(format!("a key cannot be read here: {error}"), effects);
                for work in work {
                    self.refuse(&work, &Refusal::Corrupt, effects);
                }
            }
        }
    }

    fn run(
        &mut self,
        stored: &Bytes,
        work: KeyWork,
        standing: &mut Standing,
        effects: &mut Vec<Effect>,
    ) {
        match work {
            KeyWork::Answer { asker, key, request, deadline } => {
                // Both may have changed while the disk was read.
                if deadline <= self.now.monotonic {
                    self.figures.counters.expired += 1;
                } else if let Err(refusal) = self.check_fence(asker, &key) {
                    self.answer(asker, Answer::Refused(refusal), LogPosition::ZERO, effects);
                } else if let Err(refusal) = self.check_merge(asker, &key, &request) {
                    self.answer(asker, Answer::Refused(refusal), LogPosition::ZERO, effects);
                } else if request.wants_all() && self.is_unsound(Token::of(&key).slot()) {
                    let answer = Answer::Refused(Refusal::Refilling);
                    self.answer(asker, answer, LogPosition::ZERO, effects);
                } else {
                    self.run_request(stored, asker, &key, &request, standing, effects);
                }
            }
            KeyWork::Mint { op, mint } => self.run_mint(stored, op, &mint, standing, effects),
            KeyWork::Look { asker, key, request } => {
                self.run_request(stored, asker, &key, &request, standing, effects);
            }
            KeyWork::Reap { op, item } => self.run_reap(stored, op, &item, standing, effects),
            KeyWork::Drop { key, layout } => {
                self.run_drop(stored, &key, layout, &mut standing.state, effects);
            }
            KeyWork::Gather(gathering) => {
                self.gather(gathering, &standing.state, standing.position, effects);
            }
            KeyWork::Hold { .. } | KeyWork::MintHeld(_) | KeyWork::Forget { .. } => {
                unreachable!("hints have keys of their own")
            }
        }
    }

    /// Whether a state that comes from elsewhere may be merged here.
    fn check_merge(&self, asker: Asker, key: &Bytes, request: &Request) -> Result<(), Refusal> {
        if !matches!(request, Request::Merge { .. }) {
            return Ok(());
        }
        let slot = Token::of(key).slot();
        if self.is_unsound(slot) && !self.cuts.is_numbered(slot.partition(self.layout.now.q)) {
            return Err(Refusal::Refilling);
        }
        self.check_cut(asker, slot)
    }

    /// Forgets what all members named, where it is still so.
    fn run_reap(
        &mut self,
        stored: &Bytes,
        op: Option<OpId>,
        item: &CutItem,
        standing: &mut Standing,
        effects: &mut Vec<Effect>,
    ) {
        let is_so = !standing.state.is_empty() && item.is_named_by(&standing.state);
        if is_so {
            let mut batch = WriteBatch::new();
            let mut left = Siblings::new();
            match &item.what {
                Forgettable::Tombstones(_) => {
                    if self.lineage.drop_state(&standing.state, &mut self.rng) {
                        self.note_epoch("a value of the present one was forgotten", effects);
                    }
                    batch.delete(stored);
                }
                Forgettable::Entry(actor, counter) => {
                    left = standing.state.clone();
                    left.forget(*actor, *counter);
                    batch.put(stored, left.encode());
                }
            }
            if !is_due(&left) {
                batch.delete(meta::due_key(&item.key));
            }
            batch.on_reserve();
            self.lineage.record(&mut batch);
            if let Ok(position) = self.write(batch, effects) {
                self.lineage.recorded();
                self.figures.counters.forgotten += 1;
                *standing = Standing { state: left, position };
            }
        }
        if let Some(op) = op {
            let cut = self.cuts.number(item.slot());
            let answer = Answer::State(Siblings::new());
            self.answer(Asker::Repair { op, cut }, answer, standing.position, effects);
        }
    }

    fn run_request(
        &mut self,
        stored: &Bytes,
        asker: Asker,
        key: &Bytes,
        request: &Request,
        standing: &mut Standing,
        effects: &mut Vec<Effect>,
    ) {
        if request.is_of_a_client() {
            self.foreground.note(self.now);
        }
        match request {
            Request::Merge { .. } | Request::Hold { .. } => self.figures.counters.merges += 1,
            Request::Read { .. }
            | Request::ReadHeld { .. }
            | Request::Recall { .. }
            | Request::ReadRange { .. }
            | Request::Compare(_)
            | Request::Cut(_) => {
                self.figures.counters.reads += 1;
            }
        }
        let local = Local {
            now: self.now,
            actor: self.lineage.actor(),
            floor: self.lineage.floor(),
            memory: &mut self.memory,
            clock: &mut self.clock,
        };
        let step = replica::answer(key, &standing.state, request, local);
        let (mut answer, appended) = self.append(stored, key, step, standing, effects);
        if self.unpromised(asker, request) {
            answer = Answer::Unpromised(standing.state.clone());
        }
        match appended {
            // It is held; but such a put needs the word of owners that know all that stands.
            Appended::At(position)
                if request.is_plain_put() && self.is_unsound(Token::of(key).slot()) =>
            {
                let answer = Answer::Refused(Refusal::Refilling);
                self.answer(asker, answer, position, effects);
            }
            Appended::At(position) => self.answer(asker, answer, position, effects),
            Appended::Refused(refusal) => {
                self.answer(asker, Answer::Refused(refusal), LogPosition::ZERO, effects);
            }
        }
    }

    fn run_mint(
        &mut self,
        stored: &Bytes,
        op: OpId,
        mint: &Mint,
        standing: &mut Standing,
        effects: &mut Vec<Effect>,
    ) {
        if mint.merge.is_some()
            && let Err(refusal) = self.check_op_cut(op, Token::of(&mint.key).slot())
        {
            return self.mint_refused(op, &refusal);
        }
        self.settle_lineage(effects);
        self.figures.counters.mints += 1;
        let local = Local {
            now: self.now,
            actor: self.lineage.actor(),
            floor: self.lineage.floor(),
            memory: &mut self.memory,
            clock: &mut self.clock,
        };
        let step = replica::mint(&standing.state, mint, local);
        let (answer, appended) = self.append(stored, &mint.key, step, standing, effects);
        match appended {
            Appended::At(position) => {
                self.mint_answered(op, &mint.key, answer, position, effects);
            }
            Appended::Refused(refusal) => self.mint_refused(op, &refusal),
        }
    }

    /// Writes what a step changed, and a new epoch where one began. The position is that of the state which the step's
    /// answer speaks of: of this append, or of the one that made the state it left alone.
    fn append<A>(
        &mut self,
        stored: &Bytes,
        key: &Bytes,
        step: Step<A>,
        standing: &mut Standing,
        effects: &mut Vec<Effect>,
    ) -> (A, Appended) {
        self.raise_alarms(&step.alarms, effects);
        if step.actor_ahead {
            self.raise_epoch("a peer knows writes of this node that it has lost", effects);
        }
        let mut batch = WriteBatch::new();
        let mut leaf = None;
        self.lineage.record(&mut batch);
        if let Some(state) = &step.state {
            if planted::is_on(Bug::TombstonesForgottenAtOnce) && !state.has_value() {
                batch.delete(stored);
            } else {
                batch.put(stored, state.encode());
            }
            leaf = Some(leaf_bits(key, state));
            let bits = leaf_bits(key, &standing.state) ^ leaf_bits(key, state);
            let is_missed = planted::is_on(Bug::LeafMissed) && state.versions().len() > 1;
            if bits != 0 && !is_missed {
                batch.xor_leaf(Token::of(key).slot().0, bits);
            }
            match (is_due(&standing.state), is_due(state)) {
                (false, true) => drop(batch.put(meta::due_key(key), meta::DUE)),
                (true, false) => drop(batch.delete(meta::due_key(key))),
                (true, true) | (false, false) => {}
            }
        }
        if batch.is_empty() {
            if planted::is_on(Bug::KnownStateCountsAtOnce) {
                return (step.answer, Appended::At(LogPosition::ZERO));
            }
            return (step.answer, Appended::At(standing.position));
        }
        match self.write(batch, effects) {
            Ok(position) => {
                self.lineage.recorded();
                if let Some(bits) = leaf {
                    self.anti_entropy.note(key, bits);
                }
                if let Some(state) = step.state {
                    *standing = Standing { state, position };
                }
                (step.answer, Appended::At(standing.position))
            }
            Err(WriteError::Full) => (step.answer, Appended::Refused(Refusal::DiskFull)),
            Err(WriteError::Overloaded { .. } | WriteError::Failed(_)) => {
                (step.answer, Appended::Refused(Refusal::Overloaded))
            }
            Err(error @ WriteError::TooLarge { .. }) => {
                let text = format!("a state was not taken: {error}");
                self.alarm(text, effects);
                (step.answer, Appended::Refused(Refusal::Overloaded))
            }
        }
    }

    /// Answers a coordinator once the state that the answer speaks of is durable.
    pub(super) fn answer(
        &mut self,
        asker: Asker,
        answer: Answer,
        position: LogPosition,
        effects: &mut Vec<Effect>,
    ) {
        let parked = match asker {
            Asker::Own { op } => Parked::Answer { op, answer },
            Asker::Repair { op, cut } => Parked::Repair { op, answer, cut },
            Asker::Peer { node, op, layout, cut, held } => {
                let cut = (cut != held).then_some(held);
                let envelope = Envelope { layout, op, cut, body: answer };
                Parked::Send { to: node, message: PeerMessage::Answer(envelope) }
            }
        };
        self.once_durable(position, parked, effects);
    }

    /// Two values were met under one dot.
    pub(super) fn raise_alarms(&mut self, dots: &[Dot], effects: &mut Vec<Effect>) {
        for dot in dots {
            let why = "one directory ran twice, or a disk forgot";
            self.alarm(format!("dot {dot:?} names two values: {why}"), effects);
        }
    }

    pub(super) fn refuse(&mut self, work: &KeyWork, refusal: &Refusal, effects: &mut Vec<Effect>) {
        match work {
            // It is sent again in a later round.
            KeyWork::Forget { .. } | KeyWork::Reap { op: None, .. } => {}
            KeyWork::Drop { key, .. } => {
                self.slot_dropped(Token::of(key).slot(), false, effects);
            }
            KeyWork::Reap { op: Some(op), .. } => {
                let asker = Asker::Repair { op: *op, cut: 0 };
                self.answer(asker, Answer::Refused(refusal.clone()), LogPosition::ZERO, effects);
            }
            KeyWork::Answer { asker, .. }
            | KeyWork::Look { asker, .. }
            | KeyWork::Hold { asker, .. }
            | KeyWork::Gather(Gathering { purpose: Purpose::Answer { asker, .. }, .. }) => {
                self.answer(*asker, Answer::Refused(refusal.clone()), LogPosition::ZERO, effects);
            }
            KeyWork::Mint { op, .. } => self.mint_refused(*op, refusal),
            KeyWork::MintHeld(work) => self.mint_refused(work.op, refusal),
            KeyWork::Gather(Gathering { purpose: Purpose::Mint(work), .. }) => {
                self.mint_refused(work.op, refusal);
            }
        }
    }

    pub(super) fn mint_refused(&mut self, op: OpId, refusal: &Refusal) {
        let why = FailedWhy::from(refusal);
        self.coordinate(Input::Failed { from: self.me, op, why });
    }

    /// Tells the coordinator what became of a mint of `key`, and in time that it is durable.
    pub(super) fn mint_answered(
        &mut self,
        op: OpId,
        key: &[u8],
        answer: MintAnswer,
        position: LogPosition,
        effects: &mut Vec<Effect>,
    ) {
        let speaks_of_state =
            matches!(answer, MintAnswer::Minted { .. } | MintAnswer::Known { .. });
        self.coordinate(Input::Minted { op, answer });
        if speaks_of_state {
            let is_sound = !self.is_unsound(Token::of(key).slot());
            self.once_durable(position, Parked::MintDurable { op, is_sound }, effects);
        }
    }
}

/// What a key adds to its slot's leaf: nothing without a value, else a hash over the key, and its dots and value hashes.
pub(super) fn leaf_bits(key: &[u8], state: &Siblings) -> u128 {
    if !state.has_value() {
        return 0;
    }
    let mut hasher = Xxh3Default::new();
    hasher.update(&state.digest().0.to_le_bytes());
    hasher.update(key);
    hasher.digest128()
}
