//! Requests passed on: a node that does not own a key passes the request to the first reachable node that does; where
//! none can be reached a sloppy one to the first fallback that can, which may be this node.
//!
//! A read goes on to the next owner where the first breaks away or goes silent; a write does not: the first may have done it, and the
//! client, which knows its request id, decides.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use crate::cluster::Time;
use crate::node_id::NodeId;
use crate::replication::{Consistency, OpId, Reachability};
use crate::ring::Slot;
use crate::wire::client::{
    ErrorCode, ErrorReply, Failed, Outcome, Reply, ReplyBody, Request, RequestBody,
};
use crate::wire::peer::PeerMessage;

use super::calls::Origin;
use super::core::{Core, reachability};
use super::event::Effect;
use super::replies::error_reply;

/// A request that was, or is about to be, passed on.
#[derive(Debug)]
pub(super) struct Forward {
    pub(super) origin: Origin,
    pub(super) slot: Slot,
    /// Our monotonic nanoseconds.
    pub(super) deadline: u64,
    pub(super) bytes: usize,
    pub(super) body: RequestBody,
    /// Owners it was passed to, the present one last.
    pub(super) tried: Vec<NodeId>,
}

/// How often a read that was passed on is looked at: whether who has it has gone silent.
const LOOK_AFTER: Duration = Duration::from_millis(100);

/// All requests passed on and not replied to.
#[derive(Debug, Default)]
pub(super) struct Forwards {
    by_op: BTreeMap<OpId, Waiting>,
    /// When each is looked at.
    looks: BTreeSet<(u64, OpId)>,
    bytes: usize,
}

#[derive(Debug)]
struct Waiting {
    look: u64,
    forward: Forward,
}

impl Forwards {
    pub(super) fn len(&self) -> usize {
        self.by_op.len()
    }

    pub(super) const fn bytes(&self) -> usize {
        self.bytes
    }

    /// When one is to be looked at.
    pub(super) fn wake_at(&self) -> Option<u64> {
        self.looks.first().map(|(look, _)| *look)
    }

    fn insert(&mut self, op: OpId, forward: Forward, now: Time) {
        self.bytes += forward.bytes;
        let look = if forward.is_write() {
            forward.deadline
        } else {
            now.after(LOOK_AFTER).monotonic.min(forward.deadline)
        };
        self.looks.insert((look, op));
        self.by_op.insert(op, Waiting { look, forward });
    }

    fn remove(&mut self, op: OpId) -> Option<Forward> {
        let Waiting { look, forward } = self.by_op.remove(&op)?;
        self.bytes -= forward.bytes;
        self.looks.remove(&(look, op));
        Some(forward)
    }

    fn due(&self, now: u64) -> Vec<OpId> {
        let due = self.looks.iter().take_while(|(look, _)| *look <= now);
        due.map(|(_, op)| *op).collect()
    }

    fn at(&self, node: NodeId) -> Vec<OpId> {
        let there = self.by_op.iter().filter(|(_, waiting)| waiting.forward.is_at(node));
        there.map(|(op, _)| *op).collect()
    }
}

impl Forward {
    const fn is_write(&self) -> bool {
        matches!(self.body, RequestBody::Put(_))
    }

    fn is_at(&self, node: NodeId) -> bool {
        self.tried.last() == Some(&node)
    }
}

impl Core {
    /// Passes a request to the first reachable owner not tried yet, or to who stands in for them all.
    pub(super) fn forward(&mut self, mut forward: Forward, effects: &mut Vec<Effect>) {
        let next = self.next_of(&forward);
        if next == Some(self.me) {
            return self.stand_in(&forward, effects);
        }
        let told = next.and_then(|to| {
            let deadline = self.peers.deadline_at(to, forward.deadline, self.now)?;
            Some((to, deadline))
        });
        let Some((to, deadline)) = told else {
            let outcome =
                if forward.tried.is_empty() { Outcome::NotApplied } else { Outcome::Unknown };
            return self.forward_failed(&forward, "unreachable", outcome, effects);
        };
        let op = self.next_op();
        self.figures.counters.forwards += 1;
        forward.tried.push(to);
        let request =
            Box::new(Request { id: forward.origin.id(), deadline, body: forward.body.clone() });
        self.forwards.insert(op, forward, self.now);
        self.send(to, PeerMessage::Forward { op, request }, effects);
    }

    /// The reply to a request that was passed on.
    pub(super) fn forward_done(
        &mut self,
        from: NodeId,
        op: OpId,
        reply: Reply,
        effects: &mut Vec<Effect>,
    ) {
        let is_from_there =
            self.forwards.by_op.get(&op).is_some_and(|waiting| waiting.forward.is_at(from));
        if let Some(forward) = is_from_there.then(|| self.forwards.remove(op)).flatten() {
            self.reply(forward.origin, reply.body, effects);
        }
    }

    /// Whether a request may be coordinated by a node that owns none of it: where no owner can be reached.
    pub(super) fn takes_stand_ins(&self, body: &RequestBody) -> bool {
        let consistency = match body {
            RequestBody::Get(get) => get.consistency,
            RequestBody::Put(put) => put.consistency,
            RequestBody::Merge(merge) => merge.consistency,
            _ => return false,
        };
        consistency.unwrap_or(Consistency::of_mode(self.layout.now.mode)) == Consistency::Sloppy
    }

    fn is_up(&self, node: NodeId) -> bool {
        reachability(&self.membership, &self.peers, self.now)(node) == Reachability::Up
    }

    fn next_of(&self, forward: &Forward) -> Option<NodeId> {
        let reachable = reachability(&self.membership, &self.peers, self.now);
        let is =
            |node: &NodeId, wanted| !forward.tried.contains(node) && reachable(*node) == wanted;
        let walk = self.preferences.of_slot(forward.slot);
        let owner = |wanted| walk.owners().find(|node| is(node, wanted));
        let stand_in = || {
            let mut fallbacks = walk.fallbacks().filter(|_| self.takes_stand_ins(&forward.body));
            fallbacks.find(|node| *node == self.me || is(node, Reachability::Up))
        };
        owner(Reachability::Up).or_else(stand_in).or_else(|| owner(Reachability::Silent))
    }

    fn stand_in(&mut self, forward: &Forward, effects: &mut Vec<Effect>) {
        match self.check(&forward.body) {
            Ok(checked) => self.begin(forward.origin, checked, forward.deadline),
            Err(error) => self.reply(forward.origin, ReplyBody::Error(error), effects),
        }
    }

    /// No connection to an owner stands any more.
    pub(super) fn forwards_unreachable(&mut self, node: NodeId, effects: &mut Vec<Effect>) {
        for op in self.forwards.at(node) {
            let Some(forward) = self.forwards.remove(op) else { continue };
            match &forward.body {
                RequestBody::Put(_) => {
                    self.forward_failed(&forward, "unreachable", Outcome::Unknown, effects);
                }
                _ => self.forward(forward, effects),
            }
        }
    }

    /// Gives up what is past its deadline, and passes on to another owner what a silent one has.
    pub(super) fn look_at_forwards(&mut self, effects: &mut Vec<Effect>) {
        for op in self.forwards.due(self.now.monotonic) {
            let Some(forward) = self.forwards.remove(op) else { continue };
            if forward.deadline <= self.now.monotonic {
                self.forward_failed(&forward, "timeout", Outcome::Unknown, effects);
                continue;
            }
            match forward.tried.last() {
                Some(node) if self.is_up(*node) => {
                    // What it said since may have been said before it had the request.
                    self.peers.asked(*node, self.now);
                    self.forwards.insert(op, forward, self.now);
                }
                Some(_) | None => self.forward(forward, effects),
            }
        }
    }

    fn forward_failed(
        &mut self,
        forward: &Forward,
        why: &str,
        outcome: Outcome,
        effects: &mut Vec<Effect>,
    ) {
        let owners = self.preferences.of_slot(forward.slot).owners();
        let failed = owners.map(|node| Failed { node, why: why.to_owned() }).collect();
        let text = "no owner of the key answered".to_owned();
        let mut body = error_reply(ErrorCode::QuorumUnmet, text);
        if let ReplyBody::Error(ErrorReply {
            failed: names, outcome: what, retry, needed, ..
        }) = &mut body
        {
            (*names, *retry, *needed) = (failed, true, 1);
            *what = matches!(forward.body, RequestBody::Put(_)).then_some(outcome);
        }
        self.reply(forward.origin, body, effects);
    }
}
