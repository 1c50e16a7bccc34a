//! The acceptor's half: promises and acceptances, each durable before it is said.

use std::sync::Arc;

use rand::Rng;

use crate::cluster::{COUNTER_MAX, Time};
use crate::node_id::NodeId;
use crate::ring::Layout;

use super::{AcceptedLayout, Alarm, Ballot, Effect, Message, Register, Vote};

impl Register {
    /// Whether this node votes in a ballot of `from`: both are acceptors, and the ballot is its own. Who accepted a
    /// recovery votes no more.
    pub(super) fn votes_for(&self, from: NodeId, ballot: Ballot) -> bool {
        self.recovery().is_none()
            && self.is_acceptor(self.me)
            && self.is_acceptor(from)
            && ballot.node == from
            && ballot.round <= COUNTER_MAX
    }

    pub(super) fn refuse(&self, to: NodeId, ballot: Ballot, promised: Ballot) -> Effect {
        Effect::Send {
            to,
            message: Message::Refuse { version: self.state.vote.version, ballot, promised },
        }
    }

    /// Promises. The state is persisted even where it did not change: an earlier write may still be on its way.
    pub(super) fn prepare(
        &mut self,
        now: Time,
        from: NodeId,
        ballot: Ballot,
        rng: &mut impl Rng,
        effects: &mut Vec<Effect>,
    ) {
        if !self.votes_for(from, ballot) {
            return;
        }
        match self.state.vote.promised {
            Some(promised) if ballot < promised => {
                effects.push(self.refuse(from, ballot, promised));
            }
            Some(_) | None => {
                self.state.vote.promised = Some(ballot);
                self.await_news(now, rng);
                effects.push(Effect::Persist(self.state.clone()));
                let Vote { version, accepted, .. } = self.state.vote.clone();
                effects.push(Effect::Send {
                    to: from,
                    message: Message::Promise { version, ballot, accepted },
                });
            }
        }
    }

    /// Accepts, and persists as [`Register::prepare`] does.
    pub(super) fn accept(
        &mut self,
        now: Time,
        from: NodeId,
        ballot: Ballot,
        layout: Arc<Layout>,
        rng: &mut impl Rng,
        effects: &mut Vec<Effect>,
    ) {
        if !self.votes_for(from, ballot) || !self.is_sound(from, &layout, effects) {
            return;
        }
        match self.state.vote.promised {
            Some(promised) if ballot < promised => {
                effects.push(self.refuse(from, ballot, promised));
            }
            Some(_) | None => {
                self.state.vote.promised = Some(ballot);
                self.state.vote.accepted = Some(AcceptedLayout { ballot, layout });
                self.await_news(now, rng);
                effects.push(Effect::Persist(self.state.clone()));
                let version = self.state.vote.version;
                effects.push(Effect::Send {
                    to: from,
                    message: Message::Accepted { version, ballot },
                });
            }
        }
    }

    /// Whether a layout that a peer wants chosen next can be.
    pub(super) fn is_sound(
        &self,
        from: NodeId,
        layout: &Layout,
        effects: &mut Vec<Effect>,
    ) -> bool {
        match layout.validate() {
            Err(source) => {
                effects.push(Effect::Alarm(Alarm::Malformed { peer: from, source }));
                false
            }
            Ok(()) => {
                layout.generation == self.tag.generation
                    && layout.version == self.state.vote.version
            }
        }
    }
}
