//! What peers send: the fence, and then whose it is.
//!
//! Every request about a slot carries its sender's layout version (DESIGN §6). A replica answers only at its own: to a
//! lower one it answers with its layout and does nothing; on a higher one it first fetches and durably takes that
//! layout, while the request waits here, bounded.

use std::cmp::Ordering;
use std::collections::VecDeque;
use std::time::Duration;

use bytes::Bytes;

use crate::cluster::register;
use crate::cluster::{Time, membership, start};
use crate::node_id::NodeId;
use crate::replication::anti_entropy::Compare;
use crate::replication::{Answer, Envelope, FailedWhy, Input, Refusal, Request};
use crate::ring::{Slot, Token};
use crate::storage::{LogPosition, WriteBatch};
use crate::wire::peer::{PeerFrame, PeerMessage};

use super::anti_entropy::is_repair;
use super::core::{Core, Parked, Phase};
use super::event::Effect;
use super::key_work::{Asker, KeyWork};
use super::meta;
use super::ranges::RangeRequest;

/// Most requests that wait for a newer layout.
const FENCED_MAX: usize = 1_024;
/// Least time between two questions for a newer layout.
const FETCH_PAUSE: Duration = Duration::from_millis(200);

/// Requests of a layout that this node has still to take.
#[derive(Debug, Default)]
pub(super) struct Fence {
    waiting: VecDeque<Fenced>,
    fetched_at: Option<Time>,
}

#[derive(Debug)]
struct Fenced {
    from: NodeId,
    deadline: u64,
    envelope: Envelope<Request>,
}

impl Core {
    /// A frame of a peer that the handshake let in.
    pub(super) fn peer_frame(&mut self, from: NodeId, frame: PeerFrame, effects: &mut Vec<Effect>) {
        if !self.is_heard(from, &frame.message) {
            return;
        }
        self.peers.heard(from, frame.sent, self.now);
        self.membership_event(membership::Event::Heard(from), effects);
        match frame.message {
            PeerMessage::Request { deadline, envelope } => {
                self.peer_request(from, deadline, envelope, effects);
            }
            PeerMessage::Answer(envelope) => self.peer_answer(from, envelope, effects),
            PeerMessage::Forward { op, request } => self.forwarded(from, op, &request, effects),
            PeerMessage::Forwarded { op, reply } => self.forward_done(from, op, *reply, effects),
            PeerMessage::Gossip(message) => {
                self.membership_event(membership::Event::Received { from, message }, effects);
                self.note_sightings();
            }
            // A vote that a rolled-back disk forgot must not be given twice.
            PeerMessage::Register(message) if message.is_of_vote() && !self.is_compared() => {}
            PeerMessage::Register(message) => {
                self.register_event(register::Event::Received { from, message }, effects);
            }
            PeerMessage::Start(message) => self.start_message(from, message, effects),
        }
    }

    /// Does a request about slots that this replica owns. Anything else about it was checked.
    pub(super) fn replica_request(
        &mut self,
        asker: Asker,
        request: Request,
        deadline: u64,
        effects: &mut Vec<Effect>,
    ) {
        let waiting = self.queue.len() + self.parking.len();
        if self.config.limits.peer_requests <= waiting {
            self.figures.counters.overloads += 1;
            let answer = Answer::Refused(Refusal::Overloaded);
            return self.answer(asker, answer, LogPosition::ZERO, effects);
        }
        if let Err(refusal) = self.check_compared(asker, &request) {
            return self.answer(asker, Answer::Refused(refusal), LogPosition::ZERO, effects);
        }
        match request {
            Request::Read { ref key, .. }
            | Request::Merge { ref key, .. }
            | Request::Recall { ref key, .. } => {
                let key = key.clone();
                self.key_work(KeyWork::Answer { asker, key, request, deadline }, effects);
            }
            Request::Compare(ref question) => self.compare(asker, question, deadline, effects),
            Request::Cut(question) => self.cut_question(asker, question, effects),
            Request::Hold { .. } => self.hold(asker, request, deadline, effects),
            Request::ReadHeld { key } => self.read_held(asker, &key, deadline, effects),
            Request::ReadRange { slots, after, prefix, bytes_max } => {
                let range = RangeRequest { slots, after, prefix, bytes_max };
                match self.check_range(asker, slots) {
                    Ok(()) => self.read_range(asker, range, deadline, effects),
                    Err(refusal) => {
                        let answer = Answer::Refused(refusal);
                        self.answer(asker, answer, LogPosition::ZERO, effects);
                    }
                }
            }
        }
    }

    /// Whether a page of these slots is given: of one partition, by an owner whose data is sound. In a recovery all that is
    /// left anywhere counts, once it is data.
    fn check_range(&self, asker: Asker, (first, last): (Slot, Slot)) -> Result<(), Refusal> {
        let q = self.layout.now.q;
        let recovers =
            self.layout.recovers && matches!(asker, Asker::Peer { op, .. } if is_repair(op));
        let is_unsound = || (first.0..=last.0).any(|slot| self.is_unsound(Slot(slot)));
        if recovers && self.holds_for_the_gone()
            || !recovers && !self.refilling.is_empty() && is_unsound()
        {
            Err(Refusal::Refilling)
        } else if first.partition(q) == last.partition(q)
            && (self.owns(first) || recovers)
            && first <= last
        {
            Ok(())
        } else {
            Err(Refusal::NotOwner)
        }
    }

    /// Whether a request about `key` may be answered under the layout in force.
    pub(super) fn check_fence(&self, asker: Asker, key: &Bytes) -> Result<(), Refusal> {
        self.check_layout(asker)?;
        let slot = Token::of(key).slot();
        let is_kept = self.layout.recovers && Self::keeps_hint(asker);
        if self.owns(slot) || is_kept {
            Ok(())
        } else if !self.gains(slot) {
            Err(Refusal::NotOwner)
        } else if self.transition.is_unclear(slot.partition(self.layout.now.q)) {
            Err(Refusal::Refilling)
        } else {
            Ok(())
        }
    }

    /// Whether the asker's layout is the one in force.
    pub(super) fn check_layout(&self, asker: Asker) -> Result<(), Refusal> {
        let have = self.layout.version;
        match asker {
            Asker::Peer { layout, .. } if layout != have => Err(Refusal::Layout { have }),
            Asker::Peer { .. } | Asker::Own { .. } | Asker::Repair { .. } => Ok(()),
        }
    }

    /// Whether this node becomes an owner of `slot` by the change that runs.
    fn gains(&self, slot: Slot) -> bool {
        self.next_preferences.as_ref().is_some_and(|next| next.of_slot(slot).owns(self.me))
    }

    /// Whether this node is an owner of `slot`.
    pub(super) fn owns(&self, slot: Slot) -> bool {
        self.preferences.of_slot(slot).owns(self.me)
    }

    /// A connection stands.
    pub(super) fn peer_connected(&mut self, peer: NodeId, sent: u64, effects: &mut Vec<Effect>) {
        self.peers.connected(peer, sent, self.now);
        self.membership_event(membership::Event::Heard(peer), effects);
        self.note_reachability(peer, effects);
        if let Some(message) = self.confirmation.question_to(peer) {
            self.send(peer, PeerMessage::Start(message), effects);
        }
    }

    /// No connection stands any more.
    pub(super) fn peer_unreachable(&mut self, peer: NodeId, effects: &mut Vec<Effect>) {
        self.peers.unreachable(peer);
        self.membership_event(membership::Event::Unreachable(peer), effects);
        self.coordinate(Input::Unreachable(peer));
        self.note_reachability(peer, effects);
        self.forwards_unreachable(peer, effects);
    }

    /// Requests that waited for the layout now in force.
    pub(super) fn open_fence(&mut self, effects: &mut Vec<Effect>) {
        for Fenced { from, deadline, envelope } in std::mem::take(&mut self.fence.waiting) {
            self.peer_request(from, deadline, envelope, effects);
        }
    }

    /// Another generation of layouts has begun: nothing of the one before is answered.
    pub(super) fn forget_fenced(&mut self) {
        self.fence.waiting.clear();
    }

    /// Requests past their deadline are dropped unread.
    pub(super) fn expire_fenced(&mut self) {
        let now = self.now.monotonic;
        self.fence.waiting.retain(|fenced| now < fenced.deadline);
    }

    fn peer_request(
        &mut self,
        from: NodeId,
        deadline: u64,
        envelope: Envelope<Request>,
        effects: &mut Vec<Effect>,
    ) {
        if deadline <= self.now.monotonic {
            self.figures.counters.expired += 1;
            return;
        }
        if self.phase == Phase::Marking {
            // The clean mark is on its way: the coordinator sees this connection end.
            return;
        }
        let have = self.layout.version;
        let cut = envelope.cut.unwrap_or(0);
        let slot = match &envelope.body {
            Request::Compare(Compare::Rows { slot, .. }) => Some(*slot),
            body => body.key().map(|key| Token::of(key).slot()),
        };
        let held = slot.map_or(cut, |slot| self.cuts.number(slot));
        let (op, layout) = (envelope.op, envelope.layout);
        let asker = Asker::Peer { node: from, op, layout, cut, held };
        match envelope.layout.cmp(&have) {
            Ordering::Less => {
                let chosen = register::Message::Chosen(self.layout.clone());
                self.send(from, PeerMessage::Register(chosen), effects);
                let answer = Answer::Refused(Refusal::Layout { have });
                self.answer(asker, answer, LogPosition::ZERO, effects);
            }
            Ordering::Greater => {
                self.fetch_layout(from, effects);
                if self.fence.waiting.len() < FENCED_MAX {
                    self.fence.waiting.push_back(Fenced { from, deadline, envelope });
                } else {
                    self.figures.counters.overloads += 1;
                    let answer = Answer::Refused(Refusal::Overloaded);
                    self.answer(asker, answer, LogPosition::ZERO, effects);
                }
            }
            Ordering::Equal => self.owned_request(asker, envelope.body, deadline, effects),
        }
    }

    fn owned_request(
        &mut self,
        asker: Asker,
        request: Request,
        deadline: u64,
        effects: &mut Vec<Effect>,
    ) {
        let checked = match &request {
            Request::Read { key, .. }
            | Request::Merge { key, .. }
            | Request::Recall { key, .. } => self.check_fence(asker, key),
            Request::Hold { .. }
            | Request::ReadHeld { .. }
            | Request::ReadRange { .. }
            | Request::Compare(_)
            | Request::Cut(_) => Ok(()),
        };
        match checked {
            Ok(()) => self.replica_request(asker, request, deadline, effects),
            Err(refusal) => {
                self.answer(asker, Answer::Refused(refusal), LogPosition::ZERO, effects);
            }
        }
    }

    /// An answer counts only under the layout in force: an operation that goes on under a newer one starts anew.
    fn peer_answer(&mut self, from: NodeId, envelope: Envelope<Answer>, effects: &mut Vec<Effect>) {
        let Envelope { layout, op, cut, body: answer } = envelope;
        if let Answer::Refused(Refusal::Cut { slot, number }) = &answer {
            self.note_higher(*slot, *number);
        }
        if self.hint_answered(from, layout, op, &answer, effects) {
            return;
        }
        let Some(answer) = self.compare_answered(layout, op, cut, answer, effects) else { return };
        match answer {
            Answer::Refused(Refusal::Layout { .. }) => {
                let why = FailedWhy::Layout;
                self.coordinate(Input::Failed { from, op, why });
            }
            answer if layout == self.layout.version => {
                if let Some(cut) = cut {
                    self.cuts.heard(op, cut);
                }
                self.coordinate(Input::Answer { from, op, answer });
            }
            _ => {}
        }
    }

    fn fetch_layout(&mut self, from: NodeId, effects: &mut Vec<Effect>) {
        let is_recent = |at: Time| self.now.since(at) < FETCH_PAUSE;
        if !self.fence.fetched_at.is_some_and(is_recent) {
            self.fence.fetched_at = Some(self.now);
            let fetch = register::Message::Fetch { have: self.layout.version };
            self.send(from, PeerMessage::Register(fetch), effects);
        }
    }

    fn start_message(&mut self, from: NodeId, message: start::Message, effects: &mut Vec<Effect>) {
        match message {
            start::Message::Record { start } => self.record_start(from, start, effects),
            start::Message::Recorded { start, same, seen } => {
                let event = start::Event::Recorded { from, start, same, seen };
                self.confirmation_event(event, effects);
            }
        }
    }

    fn record_start(
        &mut self,
        from: NodeId,
        start: crate::cluster::Start,
        effects: &mut Vec<Effect>,
    ) {
        if self.layout.member(from).is_none() {
            return;
        }
        let start::Answer { persist: (node, on_record), reply } =
            self.records.record(from, start, &self.sightings);
        let mut batch = WriteBatch::new();
        batch
            .put(meta::other_start_key(node), meta::encode_start(on_record))
            .durable()
            .on_reserve();
        match self.write(batch, effects) {
            Ok(position) => {
                let message = PeerMessage::Start(reply);
                self.once_durable(position, Parked::Send { to: from, message }, effects);
            }
            Err(error) => {
                self.alarm(format!("a member's start cannot be recorded: {error}"), effects);
            }
        }
    }
}
