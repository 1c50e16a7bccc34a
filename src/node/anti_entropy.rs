//! Anti-entropy: what [`Exchange`] wants is carried out here, slot by slot (DESIGN §7).
//!
//! ```text
//! the side that compares                                 the other one
//! walk the slot: rows ──Compare::Rows──────────────────▶ walk the slot against the rows
//! merge what it gives ◀─Compared::Rows {give, want}───── (keys that differ, and hashes of those it wants)
//! read what it wants, and what was more than it gave
//!                     ───Merge──────────────────────────▶ merge
//! ```
//! States go as ordinary merges, so whatever holds for a write's merge holds for a repair's. The operations have
//! numbers of their own:
//! ```text
//! operation of a repair := 01:u2 number:u62              a coordinator's has zeros in front, a hint's 1
//! ```

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

use bytes::Bytes;

use crate::node_id::NodeId;
use crate::planted::{self, Bug};
use crate::replication::anti_entropy::{
    self, Ages, AskId, Compare, Compared, Comparison, Exchange, Mask, Outcome, Progress, Row, Tree,
    TreeHash, TreeNode, Verdict, View, unpack,
};
use crate::replication::{Answer, Envelope, OpId, Refusal, Request};
use crate::ring::{Partition, Preferences, Slot, Token};
use crate::storage::{LogPosition, Store, WriteBatch};
use crate::version::{Digest, Siblings};
use crate::wire::peer::PeerMessage;

use super::config::CoreConfig;
use super::core::Core;
use super::event::{Effect, ScanToken, Severity};
use super::key_work::{Asker, leaf_bits};
use super::recount::Recount;
use super::slot_repair::SlotRepair;
use super::slot_walk::{SlotWalk, SlotWalks, Stretch};

/// The operation of an answer to what nobody asked; no coordinator's has this number.
const UNASKED: OpId = OpId(0);
/// Marks a repair's operation.
const REPAIR_BIT: u64 = 1 << 62;
/// How long a peer, or the own store, has for one step.
pub(super) const DEADLINE: Duration = Duration::from_secs(5);
/// Most bytes of states in one answer, and of what is wanted of it, roughly.
const GIVE_BYTES_MAX: usize = 1 << 20;
/// Most walks at once; past them a peer is told that there is too much to do.
const WALKS_MAX: usize = 256;

/// How far a node is with its repairs.
#[derive(Debug)]
pub(super) struct AntiEntropy {
    exchange: Exchange,
    tree: Tree,
    /// What is shared with each other member.
    masks: BTreeMap<NodeId, Mask>,
    pub(super) repairs: BTreeMap<(NodeId, u16), SlotRepair>,
    pub(super) walks: SlotWalks<Purpose>,
    /// What was asked, and the cut number that went with it.
    asked: BTreeMap<OpId, (Asked, u64)>,
    /// Answers of this replica to its own repairs, one after the other: they must not nest.
    pub(super) answered: VecDeque<(OpId, Answer, u64)>,
    next_op: u64,
}

/// What a walk over a slot is for.
#[derive(Debug)]
pub(super) enum Purpose {
    /// The rows of the own side, for this peer.
    Rows { peer: NodeId, ages: Ages, rows: Vec<Row>, keys: BTreeMap<u64, Bytes> },
    /// The answer to a peer's rows.
    Answer(Box<Answering>),
    /// The leaves.
    Recount(Recount),
    /// Which slots hold anything.
    Survey { layout: u64, slots: BTreeSet<u16> },
    /// The keys of a slot that is another's, to be dropped.
    Drop { layout: u64, keys: Vec<Bytes> },
}

/// An answer on its way.
#[derive(Debug)]
pub(super) struct Answering {
    asker: Asker,
    deadline: u64,
    range: (u64, u64),
    gives_only: bool,
    comparison: Comparison,
    give: Vec<(Bytes, Siblings)>,
    bytes: usize,
    complete: bool,
}

/// What an operation is about.
#[derive(Debug)]
pub(super) enum Asked {
    /// A question of the exchange.
    Exchange(AskId, NodeId),
    /// The rows of a slot.
    Rows(NodeId, Slot),
    /// A state of the peer, of this digest, that the own side merges.
    Take(NodeId, Slot, Bytes, Digest),
    /// A state that the peer merges.
    Merge(NodeId, Slot),
    /// A state that the peer wants; unless it is this one, which the peer gave.
    Read(NodeId, Slot, Bytes, Option<Digest>),
    /// A page of a partition that is refilled.
    Page(Partition),
    /// A state of such a page, which the own side merges; who gave it.
    PageMerge(Partition, OpId, NodeId),
    /// The cut numbers of a partition that is to be refilled.
    Numbers(Partition),
    /// A step of a cut, of this member.
    Cut(NodeId),
    /// The own state of a key that a cut may forget something of.
    Due(Bytes),
    /// The own state of a key that a first owner asks about: the question, and the item in it.
    Name(u64, usize),
    /// An item of a question that is forgotten.
    Reaped(u64),
}

/// The own tree as a peer sees it.
struct Sight<'a> {
    tree: &'a mut Tree,
    masks: &'a BTreeMap<NodeId, Mask>,
    store: &'a Store,
}

/// Whether an operation is a repair's, a refill's or a cut's, of whatever node.
pub(super) const fn is_repair(op: OpId) -> bool {
    op.0 >> 62 == REPAIR_BIT >> 62
}

impl View for Sight<'_> {
    fn hash(&mut self, peer: NodeId, node: TreeNode) -> TreeHash {
        let store = self.store;
        self.masks.get(&peer).map_or_else(TreeHash::default, |mask| {
            self.tree.hash(node, mask, &|slot: Slot| store.leaf(slot.0))
        })
    }

    fn leaf(&self, peer: NodeId, slot: Slot) -> u128 {
        let is_shared = self.masks.get(&peer).is_some_and(|mask| mask.holds(slot));
        if is_shared { self.store.leaf(slot.0) } else { 0 }
    }
}

impl AntiEntropy {
    pub(super) fn new(config: &CoreConfig, me: NodeId, preferences: &Preferences) -> Self {
        Self {
            exchange: Exchange::new(me, config.gossip_interval, config.repair_rate),
            tree: Tree::default(),
            masks: masks(me, preferences),
            repairs: BTreeMap::new(),
            walks: SlotWalks::default(),
            asked: BTreeMap::new(),
            answered: VecDeque::new(),
            next_op: 0,
        }
    }

    /// A key adds these bits to its slot's leaf from now on.
    pub(super) fn note(&mut self, key: &[u8], bits: u128) {
        let slot = Token::of(key).slot();
        self.tree.changed(slot);
        for walk in self.walks.iter_mut().filter(|walk| walk.holds(slot)) {
            match &mut walk.purpose {
                Purpose::Recount(recount) => recount.appended(slot, key, bits),
                Purpose::Rows { .. }
                | Purpose::Answer(_)
                | Purpose::Survey { .. }
                | Purpose::Drop { .. } => {}
            }
        }
    }

    /// When the machine wants a tick.
    pub(super) fn wake_at(&self) -> Option<u64> {
        self.exchange.wake_at().map(|at| at.monotonic)
    }

    /// Each member that shares slots, how many, and how far the comparison with it is.
    pub(super) fn progress(&self) -> impl Iterator<Item = (NodeId, u32, Progress)> + '_ {
        let shared = self.masks.iter().map(|(node, mask)| (*node, mask.len()));
        shared
            .filter(|(_, shared)| *shared > 0)
            .map(|(node, shared)| (node, shared, self.exchange.progress(node)))
    }

    /// A number for what is asked of a peer, whose question carries no state.
    pub(super) fn op(&mut self, asked: Asked) -> OpId {
        self.op_under(asked, 0)
    }

    /// The same where the question or state goes with a cut number.
    pub(super) fn op_under(&mut self, asked: Asked, cut: u64) -> OpId {
        let op = OpId(REPAIR_BIT | self.next_op);
        self.next_op += 1;
        self.asked.insert(op, (asked, cut));
        op
    }

    fn forget(&mut self, peer: NodeId) {
        self.repairs.retain(|(node, _), _| *node != peer);
        self.asked.retain(|_, (asked, _)| match asked {
            Asked::Exchange(_, node) => *node != peer,
            asked => asked.repair().is_none_or(|(node, _)| node != peer),
        });
    }

    /// Nothing that was asked for the repair of this slot is waited for any more.
    pub(super) fn forget_repair(&mut self, peer: NodeId, slot: Slot) {
        self.repairs.remove(&(peer, slot.0));
        self.asked.retain(|_, (asked, _)| asked.repair() != Some((peer, slot)));
    }
}

impl Asked {
    /// With whom and of which slot the repair is that it is asked for.
    const fn repair(&self) -> Option<(NodeId, Slot)> {
        match self {
            Self::Rows(node, slot)
            | Self::Take(node, slot, ..)
            | Self::Merge(node, slot)
            | Self::Read(node, slot, ..) => Some((*node, *slot)),
            Self::Exchange(..)
            | Self::Page(_)
            | Self::PageMerge(..)
            | Self::Numbers(_)
            | Self::Cut(_)
            | Self::Due(_)
            | Self::Name(..)
            | Self::Reaped(_) => None,
        }
    }
}

impl Core {
    /// Whether `node` can be compared with has perhaps changed.
    pub(super) fn compare_with(
        &mut self,
        node: NodeId,
        is_reachable: bool,
        effects: &mut Vec<Effect>,
    ) {
        let shares = self.anti_entropy.masks.get(&node).is_some_and(|mask| !mask.is_empty());
        // What is refilled differs from everything: there is nothing to be learned from comparing it.
        // Nor from what a recovery is merging.
        let may_compare = self.refilling.is_empty() && self.is_compared() && !self.layout.recovers;
        let event = if is_reachable && shares && may_compare {
            anti_entropy::Event::Reachable(node)
        } else {
            self.anti_entropy.forget(node);
            anti_entropy::Event::Unreachable(node)
        };
        self.exchange(event, effects);
        if is_reachable {
            self.refill_from_all(effects);
        } else {
            self.pages_unreachable(node, effects);
        }
    }

    /// The layout is another: everything begins anew.
    pub(super) fn layout_for_repairs(&mut self, effects: &mut Vec<Effect>) {
        let known: Vec<NodeId> = self.anti_entropy.masks.keys().copied().collect();
        self.anti_entropy.masks = masks(self.me, &self.preferences);
        let members = self.anti_entropy.masks.keys().copied();
        let all: BTreeSet<NodeId> = members.chain(known).collect();
        for node in all {
            self.compare_with(node, false, effects);
            self.compare_with(node, self.peers.is_connected(node), effects);
        }
    }

    /// An operator wants every pair compared now.
    pub(super) fn start_repair(&mut self, effects: &mut Vec<Effect>) {
        self.exchange(anti_entropy::Event::Start, effects);
    }

    /// Wakes the machine where it asked for it.
    pub(super) fn anti_entropy_timer(&mut self, effects: &mut Vec<Effect>) {
        if self.anti_entropy.wake_at().is_some_and(|at| at <= self.now.monotonic) {
            self.exchange(anti_entropy::Event::Tick, effects);
        }
    }

    pub(super) fn exchange(&mut self, event: anti_entropy::Event, effects: &mut Vec<Effect>) {
        let mut wanted = Vec::new();
        let AntiEntropy { exchange, tree, masks, .. } = &mut self.anti_entropy;
        let mut sight = Sight { tree, masks, store: &self.store };
        exchange.handle(self.now, event, &mut sight, &mut self.rng, &mut wanted);
        for wanted in wanted {
            match wanted {
                anti_entropy::Effect::Ask(id, peer, question) => {
                    let op = self.anti_entropy.op(Asked::Exchange(id, peer));
                    self.figures.counters.compare_bytes += bytes_of(&question);
                    self.ask_peer(peer, op, 0, Request::Compare(question), effects);
                }
                anti_entropy::Effect::Repair(peer, slot, ages) => {
                    let (rows, keys) = (Vec::new(), BTreeMap::new());
                    self.walk((slot, slot), Purpose::Rows { peer, ages, rows, keys }, effects);
                }
                anti_entropy::Effect::Recount(slot) => self.recount((slot, slot), effects),
            }
        }
    }

    /// Works the leaves of the slots from the first to the last out anew.
    pub(super) fn recount(&mut self, slots: (Slot, Slot), effects: &mut Vec<Effect>) {
        self.walk(slots, Purpose::Recount(Recount::default()), effects);
    }

    pub(super) fn walk(
        &mut self,
        slots: (Slot, Slot),
        purpose: Purpose,
        effects: &mut Vec<Effect>,
    ) {
        let token = self.ranges.next_token();
        let (walk, start) = SlotWalk::over(slots, purpose);
        self.anti_entropy.walks.go_on(token, walk, start, effects);
    }

    /// A peer compares.
    pub(super) fn compare(
        &mut self,
        asker: Asker,
        question: &Compare,
        deadline: u64,
        effects: &mut Vec<Effect>,
    ) {
        let Asker::Peer { node, .. } = asker else { return };
        let refused = match question {
            _ if !self.refilling.is_empty() => Refusal::Refilling,
            Compare::Root(_) if !self.anti_entropy.exchange.gives_way_to(self.now, node) => {
                Refusal::Overloaded
            }
            Compare::Rows { slot, range, rows, gives_only } => {
                let (slot, range, gives_only) = (*slot, *range, *gives_only);
                let is_shared =
                    self.anti_entropy.masks.get(&node).is_some_and(|mask| mask.holds(slot));
                match unpack(rows) {
                    Err(_) => Refusal::NotOwner,
                    // Who owned it before gives what it still holds to those who do now.
                    Ok(_) if !(is_shared || gives_only && self.owns(slot)) => Refusal::NotOwner,
                    Ok(_) if self.anti_entropy.walks.len() >= WALKS_MAX => Refusal::Overloaded,
                    Ok(rows) => {
                        let comparison = Comparison::new(rows);
                        let answering = Answering {
                            asker,
                            deadline,
                            range,
                            gives_only,
                            comparison,
                            give: Vec::new(),
                            bytes: 0,
                            complete: true,
                        };
                        return self.walk((slot, slot), Purpose::Answer(answering.into()), effects);
                    }
                }
            }
            Compare::Root(_) | Compare::Children { .. } | Compare::Leaves(_) => {
                let AntiEntropy { tree, masks, .. } = &mut self.anti_entropy;
                let mut sight = Sight { tree, masks, store: &self.store };
                match anti_entropy::answer(&mut sight, node, question) {
                    Some(compared) => {
                        if let Compared::Hashes(hashes) = &compared {
                            self.figures.counters.compare_bytes += hashes.len() as u64;
                        }
                        // What the tree speaks of may not be durable yet; a difference is looked at twice, and what
                        // is merged counts only once it is.
                        let answer = Answer::Compared(compared);
                        return self.answer(asker, answer, LogPosition::ZERO, effects);
                    }
                    None => Refusal::NotOwner,
                }
            }
        };
        self.answer(asker, Answer::Refused(refused), LogPosition::ZERO, effects);
    }

    /// A stretch of a slot is read.
    pub(super) fn slot_walked(
        &mut self,
        token: ScanToken,
        mut walk: SlotWalk<Purpose>,
        stretch: Result<Stretch, String>,
        effects: &mut Vec<Effect>,
    ) {
        let Stretch { entries, next } = match stretch {
            Ok(stretch) => stretch,
            Err(error) => {
                self.alarm(format!("a slot cannot be read here: {error}"), effects);
                return self.walk_failed(walk, effects);
            }
        };
        match &mut walk.purpose {
            Purpose::Rows { ages, rows, keys, .. } => {
                for (_, key, state) in entries {
                    if let Some(row) = Row::of(&key, &state, *ages) {
                        rows.push(row);
                        keys.insert(row.key, key);
                    }
                }
            }
            Purpose::Answer(answering) => {
                for (_, key, state) in entries {
                    answering.take(key, state);
                }
            }
            Purpose::Recount(recount) => {
                for (slot, key, state) in entries {
                    let bits = leaf_bits(&key, &state);
                    recount.seen(slot, key, bits);
                }
            }
            Purpose::Survey { slots, .. } => slots.extend(entries.iter().map(|(slot, ..)| slot.0)),
            Purpose::Drop { keys, .. } => keys.extend(entries.into_iter().map(|(_, key, _)| key)),
        }
        match next {
            Some(next) => self.anti_entropy.walks.go_on(token, walk, next, effects),
            None => self.walk_done(walk, effects),
        }
    }

    fn walk_failed(&mut self, walk: SlotWalk<Purpose>, effects: &mut Vec<Effect>) {
        match walk.purpose {
            Purpose::Rows { peer, .. } => {
                self.repair_ended(peer, walk.slots.0, Outcome::Failed, effects);
            }
            Purpose::Answer(answering) => {
                let answer = Answer::Refused(Refusal::Corrupt);
                self.answer(answering.asker, answer, LogPosition::ZERO, effects);
            }
            Purpose::Recount(_) => self.leaves_are_unknown(walk.slots),
            Purpose::Survey { layout, .. } => self.survey_failed(walk.slots, layout),
            Purpose::Drop { .. } => self.slot_dropped(walk.slots.0, false, effects),
        }
    }

    fn walk_done(&mut self, walk: SlotWalk<Purpose>, effects: &mut Vec<Effect>) {
        // A walk for rows is over one slot.
        let slot = walk.slots.0;
        match walk.purpose {
            Purpose::Rows { peer, mut rows, keys, .. } => {
                rows.sort_unstable();
                let repair = SlotRepair::of(rows, keys);
                self.anti_entropy.repairs.insert((peer, slot.0), repair);
                self.ask_rows(peer, slot, effects);
            }
            Purpose::Answer(answering) => {
                if answering.deadline <= self.now.monotonic {
                    self.figures.counters.expired += 1;
                    return;
                }
                let Answering { asker, gives_only, comparison, give, complete, .. } = *answering;
                let want = comparison.finish();
                if give.is_empty() && want.is_empty() && !gives_only {
                    // The leaves differ, or nobody would ask: this side's may be the one that is wrong.
                    self.recount((slot, slot), effects);
                }
                let compared = Compared::Rows { give, want, complete };
                let answer = match self.check_layout(asker) {
                    Ok(()) => Answer::Compared(compared),
                    Err(refusal) => Answer::Refused(refusal),
                };
                self.answer(asker, answer, self.store.appended(), effects);
            }
            Purpose::Recount(recount) => self.recounted(walk.slots, &recount, effects),
            Purpose::Survey { layout, slots } => self.surveyed(walk.slots, layout, slots, effects),
            Purpose::Drop { layout, keys } => self.drop_keys(slot, layout, keys, effects),
        }
    }

    /// A leaf that is not what its keys make is a fault of ours or of the disk; it is set right and told.
    fn recounted(&mut self, slots: (Slot, Slot), recount: &Recount, effects: &mut Vec<Effect>) {
        let leaves = recount.leaves();
        let mut batch = WriteBatch::new();
        let mut wrong = Vec::new();
        for slot in (slots.0.0..=slots.1.0).map(Slot) {
            let bits = leaves.get(&slot).unwrap_or(&0) ^ self.store.leaf(slot.0);
            if bits != 0 {
                batch.xor_leaf(slot.0, bits);
                wrong.push(slot);
            }
        }
        if !wrong.is_empty() && self.write(batch, effects).is_err() {
            return self.leaves_are_unknown(slots);
        }
        for slot in wrong {
            self.anti_entropy.tree.changed(slot);
            self.figures.counters.recounts += 1;
            if !self.is_unsound(slot) {
                let text =
                    format!("the leaf of slot {} was not that of its keys: set right", slot.0);
                effects.push(Effect::Log(Severity::Warn, text));
            }
        }
        self.leaves_are_right(slots, effects);
    }

    /// Sends a request of anti-entropy, refill or cut; `cut` is the number of the state or question in it.
    pub(super) fn ask_peer(
        &mut self,
        peer: NodeId,
        op: OpId,
        cut: u64,
        body: Request,
        effects: &mut Vec<Effect>,
    ) {
        let deadline = self.now.after(DEADLINE).monotonic;
        // Without a connection the machine is told apart, or hears of it by the silence.
        if let Some(deadline) = self.peers.deadline_at(peer, deadline, self.now) {
            let envelope = Envelope { layout: self.layout.version, op, cut: Some(cut), body };
            self.send(peer, PeerMessage::Request { deadline, envelope }, effects);
        }
    }

    /// The answer to a question or merge of anti-entropy; gives back one to anything else.
    pub(super) fn compare_answered(
        &mut self,
        layout: u64,
        op: OpId,
        cut: Option<u64>,
        answer: Answer,
        effects: &mut Vec<Effect>,
    ) -> Option<Answer> {
        if op.0 & REPAIR_BIT == 0 {
            return Some(answer);
        }
        if layout == self.layout.version {
            let went_with = self.anti_entropy.asked.get(&op).map_or(0, |(_, cut)| *cut);
            self.repair_answered(op, answer, cut.unwrap_or(went_with), effects);
        }
        None
    }

    /// The answer to an operation of anti-entropy, the peer's or this replica's own.
    pub(super) fn repair_answered(
        &mut self,
        op: OpId,
        answer: Answer,
        cut: u64,
        effects: &mut Vec<Effect>,
    ) {
        let asked = self.anti_entropy.asked.remove(&op).map(|(asked, _)| asked);
        if let (Some(asked), Answer::Refused(Refusal::Cut { slot, number })) = (&asked, &answer) {
            self.tell_giver(asked, *slot, *number, effects);
        }
        match (asked, answer) {
            (None, _) => {}
            (Some(Asked::Numbers(partition)), answer) => {
                self.numbers_answered(partition, op, answer, effects);
            }
            (Some(Asked::Cut(node)), answer) => self.cut_answered(node, answer, effects),
            (Some(Asked::Due(key)), answer) => {
                self.due_state(&key, state_of(&answer), effects);
            }
            (Some(Asked::Name(question, index)), answer) => {
                self.name_state(question, index, state_of(&answer), effects);
            }
            (Some(Asked::Reaped(question)), _) => self.reaped(question, effects),
            (Some(Asked::Page(partition)), answer) => {
                self.page_answered(partition, op, answer, effects);
            }
            (Some(Asked::PageMerge(partition, page, _)), answer) => {
                self.page_merged(partition, page, &answer, effects);
            }
            (Some(Asked::Exchange(id, _)), Answer::Compared(compared)) => {
                self.exchange(anti_entropy::Event::Answered(id, Some(compared)), effects);
            }
            (Some(Asked::Exchange(id, _)), _) => {
                self.exchange(anti_entropy::Event::Answered(id, None), effects);
            }
            (
                Some(Asked::Rows(peer, slot)),
                Answer::Compared(Compared::Rows { give, want, complete }),
            ) => {
                self.figures.counters.compare_bytes += 8 * want.len() as u64;
                if let Some(repair) = self.anti_entropy.repairs.get_mut(&(peer, slot.0)) {
                    (repair.give, repair.cut) = (give.into(), cut);
                    repair.want = want.into();
                    repair.complete &= complete;
                }
                self.go_on(peer, slot, effects);
            }
            (Some(Asked::Take(peer, slot, key, given)), Answer::Merged(_)) => {
                self.read_for(peer, slot, key, Some(given), effects);
            }
            (Some(Asked::Merge(peer, slot)), Answer::Merged(_)) => {
                self.moved(peer, slot, effects);
            }
            (Some(Asked::Read(peer, slot, _, Some(given))), Answer::State(state))
                if state.digest() == given || planted::is_on(Bug::NewerSideAlwaysGives) =>
            {
                self.moved(peer, slot, effects);
            }
            (Some(Asked::Read(peer, slot, key, _)), Answer::State(state)) => {
                if let Some(repair) = self.anti_entropy.repairs.get_mut(&(peer, slot.0)) {
                    let bytes = bytes_of_state(&key, &state);
                    repair.bytes += bytes;
                    self.figures.counters.repair_bytes += bytes;
                    let op = self.anti_entropy.op(Asked::Merge(peer, slot));
                    self.ask_peer(peer, op, cut, Request::Merge { key, state, put: None }, effects);
                }
            }
            (
                Some(
                    Asked::Rows(peer, slot)
                    | Asked::Take(peer, slot, ..)
                    | Asked::Merge(peer, slot)
                    | Asked::Read(peer, slot, ..),
                ),
                answer,
            ) => {
                let outcome = match answer {
                    Answer::Refused(Refusal::Overloaded | Refusal::DiskFull) => Outcome::Busy,
                    _ => Outcome::Failed,
                };
                self.end_repair(peer, slot, outcome, effects);
            }
        }
    }

    /// A state that a peer gave came under a lower number than this node's. The peer must hear so, as it does where it
    /// sends states by itself: else it would give under that number for ever.
    fn tell_giver(&mut self, asked: &Asked, slot: Slot, number: u64, effects: &mut Vec<Effect>) {
        let giver = match asked {
            Asked::Take(peer, ..) | Asked::PageMerge(_, _, peer) => Some(*peer),
            _ => None,
        };
        if let Some(giver) = giver {
            let (layout, body) =
                (self.layout.version, Answer::Refused(Refusal::Cut { slot, number }));
            let envelope = Envelope { layout, op: UNASKED, cut: None, body };
            self.send(giver, PeerMessage::Answer(envelope), effects);
        }
    }
}

impl Answering {
    /// Takes one own key.
    fn take(&mut self, key: Bytes, state: Siblings) {
        let Some(row) = Row::of(&key, &state, Ages::Told) else { return };
        let (first, last) = self.range;
        if row.key < first || last < row.key {
            return;
        }
        let verdict = if self.gives_only {
            self.comparison.take_from_giver(row)
        } else {
            self.comparison.take(row)
        };
        match verdict {
            Verdict::Same | Verdict::Want => {}
            Verdict::Give if self.gives_only => {}
            Verdict::Give if GIVE_BYTES_MAX <= self.bytes => self.complete = false,
            Verdict::Give => {
                self.bytes += usize::try_from(bytes_of_state(&key, &state)).unwrap_or(usize::MAX);
                self.give.push((key, state));
            }
        }
    }
}

fn masks(me: NodeId, preferences: &Preferences) -> BTreeMap<NodeId, Mask> {
    let members = preferences.ring().members.iter().map(|member| member.id);
    members.filter(|node| *node != me).map(|node| (node, Mask::of(preferences, me, node))).collect()
}

/// Bytes of what a question carries, for the figures.
pub(super) fn bytes_of(question: &Compare) -> u64 {
    let bytes = match question {
        Compare::Root(hash) => hash.0.len(),
        Compare::Children { nodes, .. } => 2 * nodes.len(),
        Compare::Leaves(slots) => 2 * slots.len(),
        Compare::Rows { rows, .. } => rows.len(),
    };
    bytes as u64
}

pub(super) fn bytes_of_state(key: &[u8], state: &Siblings) -> u64 {
    let values: usize = state.versions().values().map(|version| version.content.len()).sum();
    (key.len() + values) as u64
}

/// The state in an answer; `None` where it was refused.
const fn state_of(answer: &Answer) -> Option<&Siblings> {
    match answer {
        Answer::State(state) => Some(state),
        _ => None,
    }
}
