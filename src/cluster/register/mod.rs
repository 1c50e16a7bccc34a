//! The layout register: how the cluster agrees on its next layout.
//!
//! Each version is a single-decree Paxos instance of its own (Lamport: Paxos Made Simple, 2001) whose acceptors are the
//! members of `now` in the version before. A node votes on v+1 only when it knows v to be chosen, and acts on chosen
//! versions only.
//!
//! ```text
//! proposer                          acceptor that knows v
//!   Prepare {ballot, chosen: v} -->   promise, sync
//!   <-- Promise {accepted}
//!   a majority: the accepted value of the highest ballot, else its own
//!   Accept {ballot, layout v+1} -->   accept, sync; if no news for 2 s, propose it itself
//!   <-- Accepted
//!   a majority: sync, act
//!   Chosen {v+1}                -->   sync, act
//! ```
//! Who already knows v+1 answers any message about it with the layout. Who accepted a recovery takes no more part, until it
//! hears of a layout of that recovery's generation (`recovery.rs`). Time and chance only bring progress, never
//! harm: two layouts are never chosen for one version.
//!
//! Contract with the caller: effects are carried out in order, and what one call appends after an [`Effect::Persist`]
//! waits until that state is durable; states become durable in the order in which they were appended. What no `Persist`
//! precedes may go out at once.

mod acceptor;
mod message;
mod proposer;
mod recovery;
#[cfg(test)]
mod schedules;
#[cfg(test)]
mod simulation;

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use rand::Rng;

use crate::node_id::NodeId;
use crate::ring::{Layout, LayoutError};

use super::change::ChangeError;
use super::{LayoutTag, Time};

use proposer::{Phase, Proposal, Request};

pub use message::{AcceptedLayout, Ballot, Message, RegisterState, Vote};

/// Silence after which an acceptor takes up a value that it accepted; the same again at random is added.
pub const TAKE_UP_AFTER: Duration = Duration::from_secs(2);
/// A proposer whose caller waits repeats its question to those that did not answer after this long; else after
/// [`TAKE_UP_AFTER`].
pub const RESEND_AFTER: Duration = Duration::from_millis(500);
/// A refused proposer waits up to this long, at random, before a higher ballot; at least a fifth of it.
pub const BACK_OFF_MAX: Duration = Duration::from_millis(500);
/// Least time between two questions for a layout.
pub const FETCH_PAUSE: Duration = Duration::from_millis(200);

/// Names one proposal for its caller.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ProposalId(pub u64);

/// What happens to the register.
#[derive(Clone, Debug)]
pub enum Event {
    /// Time passed; due at [`Register::wake_at`].
    Tick,
    /// A message of a peer that was admitted.
    Received {
        /// Who sent it.
        from: NodeId,
        /// What it says.
        message: Message,
    },
    /// Somebody here wants another layout.
    Propose {
        /// Names the proposal in its answer.
        id: ProposalId,
        /// The version that `layout` was made from.
        expect_version: u64,
        /// What should be chosen, one version higher.
        layout: Arc<Layout>,
        /// When to give up waiting.
        deadline: Time,
    },
    /// A peer acts on this layout.
    News {
        /// Who.
        peer: NodeId,
        /// Which.
        tag: LayoutTag,
    },
}

/// How a proposal ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It is the layout now.
    Chosen,
    /// Another layout was chosen for this version.
    Conflict(Arc<Layout>),
    /// It was made from a layout that is not the chosen one.
    Stale {
        /// The version chosen here.
        current: u64,
    },
    /// It was never put to the vote: no majority answered in time, or this node has no say.
    NotApplied,
    /// It was put to the vote, and may or may not be chosen yet.
    Unknown,
    /// Another proposal of this node is under way.
    Busy,
    /// It cannot follow on the present layout.
    Refused(ChangeError),
}

/// What should happen next.
#[derive(Clone, Debug, PartialEq)]
pub enum Effect {
    /// Make this durable before what follows is done.
    Persist(RegisterState),
    /// Send this to a member. May be lost.
    Send {
        /// To whom.
        to: NodeId,
        /// What.
        message: Message,
    },
    /// This layout is chosen, and durable here: act on it.
    Chosen(Arc<Layout>),
    /// A proposal ended.
    ProposalDone {
        /// Which.
        id: ProposalId,
        /// How.
        outcome: Outcome,
    },
    /// Something a person should know.
    Alarm(Alarm),
}

/// Something a person should know.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Alarm {
    /// Two layouts under one version: never, unless a disk forgot or a node lies.
    #[error("{peer} holds another layout {} than this node", ours.version)]
    TwoLayouts {
        /// Who holds the other.
        peer: NodeId,
        /// What this node holds.
        ours: LayoutTag,
        /// What the peer holds.
        theirs: LayoutTag,
    },
    /// A recovery of the cluster went on without this node, or with a disk of it that was lost since.
    #[error("{peer} acts on layout {} of generation {}: the cluster was recovered without this node", theirs.version, theirs.generation)]
    LeftBehind {
        /// Who.
        peer: NodeId,
        /// What it acts on.
        theirs: LayoutTag,
    },
    /// A peer sent a layout that cannot be.
    #[error("{peer} sent a layout that cannot be")]
    Malformed {
        /// Who.
        peer: NodeId,
        /// What is wrong with it.
        source: LayoutError,
    },
}

/// One node's part in the register: acceptor, and proposer when asked.
#[derive(Clone, Debug)]
pub struct Register {
    me: NodeId,
    state: RegisterState,
    tag: LayoutTag,
    proposal: Option<Proposal>,
    /// When the accepted value is taken up, unless news comes first.
    take_up_at: Option<Time>,
    fetched_at: Option<Time>,
}

impl Register {
    /// The register of `me` with what was durable.
    pub fn new(now: Time, me: NodeId, state: RegisterState, rng: &mut impl Rng) -> Self {
        assert_eq!(
            state.vote.version,
            state.chosen.version + 1,
            "a vote is on the version after the chosen one"
        );
        let tag = LayoutTag::of(&state.chosen);
        let mut register =
            Self { me, state, tag, proposal: None, take_up_at: None, fetched_at: None };
        register.await_news(now, rng);
        register
    }

    /// The newest layout known to be chosen. Act on [`Effect::Chosen`], which waits until it is durable.
    pub const fn chosen(&self) -> &Arc<Layout> {
        &self.state.chosen
    }

    /// The tag of [`Register::chosen`].
    pub const fn tag(&self) -> LayoutTag {
        self.tag
    }

    /// When the next [`Event::Tick`] is due.
    pub fn wake_at(&self) -> Option<Time> {
        let proposal = self.proposal.as_ref();
        let deadline =
            proposal.and_then(|proposal| proposal.request.as_ref()).map(|request| request.deadline);
        let take_up_at = self.take_up_at.filter(|_| proposal.is_none());
        [proposal.map(|proposal| proposal.act_at), deadline, take_up_at].into_iter().flatten().min()
    }

    /// Folds one event in; what must happen next is appended to `effects`, under the contract of the module.
    pub fn handle(
        &mut self,
        now: Time,
        event: Event,
        rng: &mut impl Rng,
        effects: &mut Vec<Effect>,
    ) {
        match event {
            Event::Tick => self.tick(now, rng, effects),
            Event::Received { from, message } => self.receive(now, from, message, rng, effects),
            Event::Propose { id, expect_version, layout, deadline } => {
                let request = Request { id, layout, deadline, is_put_to_vote: false };
                match self.admit(expect_version, &request.layout) {
                    Ok(()) => self.open_ballot(now, Some(request), 0, rng, effects),
                    Err(outcome) => effects.push(Effect::ProposalDone { id, outcome }),
                }
            }
            Event::News { peer, tag } => self.compare(now, peer, tag, effects),
        }
    }

    fn version(&self) -> u64 {
        self.state.chosen.version
    }

    /// Who votes on the next version.
    fn acceptors(&self) -> impl Iterator<Item = NodeId> {
        self.state.chosen.now.members.iter().map(|member| member.id)
    }

    fn is_acceptor(&self, node: NodeId) -> bool {
        self.state.chosen.now.member(node).is_some()
    }

    fn is_majority(&self, voters: &BTreeSet<NodeId>) -> bool {
        voters.len() > self.state.chosen.now.members.len() / 2
    }

    fn tick(&mut self, now: Time, rng: &mut impl Rng, effects: &mut Vec<Effect>) {
        self.give_up(now, rng, effects);
        let take_up = self.take_up_at.is_some_and(|at| at <= now);
        match &self.proposal {
            None if take_up => self.open_ballot(now, None, 0, rng, effects),
            None => {}
            Some(proposal) if now < proposal.act_at => {}
            Some(Proposal { phase: Phase::BackingOff, ballot, .. }) => {
                let above = ballot.round;
                let request = self.proposal.take().and_then(|proposal| proposal.request);
                self.open_ballot(now, request, above, rng, effects);
            }
            Some(_) => self.ask(now, effects),
        }
    }

    /// Sets when the accepted value, if there is one, is taken up.
    fn await_news(&mut self, now: Time, rng: &mut impl Rng) {
        let has_accepted = self.state.vote.accepted.is_some() && self.recovery().is_none();
        self.take_up_at = has_accepted
            .then(|| now.after(TAKE_UP_AFTER + rng.random_range(Duration::ZERO..TAKE_UP_AFTER)));
    }

    /// Takes a chosen layout that is newer than the present one.
    fn learn(&mut self, layout: Arc<Layout>, effects: &mut Vec<Effect>) {
        assert!(self.version() < layout.version, "a register goes forward");
        self.tag = LayoutTag::of(&layout);
        self.take_up_at = None;
        let expected = self.version() + 1;
        self.state = RegisterState::new(Arc::clone(&layout));
        effects.push(Effect::Persist(self.state.clone()));
        effects.push(Effect::Chosen(Arc::clone(&layout)));
        if let Some(request) = self.proposal.take().and_then(|proposal| proposal.request) {
            let outcome = match (expected == layout.version, request.layout == layout) {
                (true, true) => Outcome::Chosen,
                (true, false) => Outcome::Conflict(layout),
                // Others went on past the version in question.
                (false, _) if request.is_put_to_vote => Outcome::Unknown,
                (false, _) => Outcome::NotApplied,
            };
            effects.push(Effect::ProposalDone { id: request.id, outcome });
        }
    }

    fn receive(
        &mut self,
        now: Time,
        from: NodeId,
        message: Message,
        rng: &mut impl Rng,
        effects: &mut Vec<Effect>,
    ) {
        match message {
            Message::Chosen(layout) => self.believe(from, layout, effects),
            Message::Fetch { have } => {
                if have < self.version() {
                    effects.push(self.tell(from));
                }
            }
            Message::Prepare { ballot, chosen } => {
                let base = LayoutTag::of(&chosen);
                if self.follows(base) {
                    self.believe(from, chosen, effects);
                }
                match base.version {
                    version if version < self.version() => effects.push(self.tell(from)),
                    _ if base == self.tag => self.prepare(now, from, ballot, rng, effects),
                    _ => self.compare(now, from, base, effects),
                }
            }
            Message::Accept { ballot, layout } => {
                if self.is_about_now(now, from, layout.version, effects) {
                    self.accept(now, from, ballot, layout, rng, effects);
                }
            }
            Message::Promise { version, ballot, accepted } => {
                if self.is_about_now(now, from, version, effects) {
                    self.promised(now, from, ballot, accepted, rng, effects);
                }
            }
            Message::Accepted { version, ballot } => {
                if self.is_about_now(now, from, version, effects) {
                    self.accepted(from, ballot, effects);
                }
            }
            Message::Refuse { version, ballot, promised } => {
                if self.is_about_now(now, from, version, effects) {
                    self.refused(now, ballot, promised, rng);
                }
            }
        }
    }

    /// The answer to whoever speaks of a version that is chosen.
    fn tell(&self, to: NodeId) -> Effect {
        Effect::Send { to, message: Message::Chosen(Arc::clone(&self.state.chosen)) }
    }

    /// Whether `version` is the one to vote on now. One that is chosen is answered with the layout; for a later one this
    /// node has to catch up first.
    fn is_about_now(
        &mut self,
        now: Time,
        from: NodeId,
        version: u64,
        effects: &mut Vec<Effect>,
    ) -> bool {
        if version <= self.version() {
            effects.push(self.tell(from));
        } else if self.version() + 1 < version {
            self.fetch(now, from, effects);
        }
        version == self.version() + 1
    }

    /// Takes what a peer says is chosen.
    fn believe(&mut self, from: NodeId, layout: Arc<Layout>, effects: &mut Vec<Effect>) {
        let tag = LayoutTag::of(&layout);
        if let Err(source) = layout.validate() {
            effects.push(Effect::Alarm(Alarm::Malformed { peer: from, source }));
        } else if self.follows(tag) {
            self.learn(layout, effects);
        } else if (tag.generation, tag.version) < (self.tag.generation, self.version()) {
            effects.push(self.tell(from));
        } else {
            self.alarm_if_other(from, tag, effects);
        }
    }

    /// Compares a peer's layout with the own one: fetches a newer one, tells who missed that the recovery it accepted was
    /// chosen, reports another one of the same version.
    fn compare(&mut self, now: Time, peer: NodeId, tag: LayoutTag, effects: &mut Vec<Effect>) {
        if self.follows(tag) {
            self.fetch(now, peer, effects);
        } else if tag.generation < self.tag.generation {
            effects.push(self.tell(peer));
        } else {
            self.alarm_if_other(peer, tag, effects);
        }
    }

    /// Whether a layout, said to be chosen, follows on the one in force: in its generation, or in that of a recovery which
    /// this node accepted; then in no other.
    fn follows(&self, tag: LayoutTag) -> bool {
        let is_known = match self.recovery() {
            None => tag.generation == self.tag.generation,
            Some(_) => self.has_accepted(tag.generation),
        };
        is_known && self.version() < tag.version
    }

    fn alarm_if_other(&self, peer: NodeId, theirs: LayoutTag, effects: &mut Vec<Effect>) {
        let ours = self.tag;
        if ours.generation < theirs.generation {
            effects.push(Effect::Alarm(Alarm::LeftBehind { peer, theirs }));
        } else if theirs.version == ours.version && theirs != ours {
            effects.push(Effect::Alarm(Alarm::TwoLayouts { peer, ours, theirs }));
        }
    }

    fn fetch(&mut self, now: Time, from: NodeId, effects: &mut Vec<Effect>) {
        if self.fetched_at.is_none_or(|at| now.since(at) >= FETCH_PAUSE) {
            self.fetched_at = Some(now);
            effects
                .push(Effect::Send { to: from, message: Message::Fetch { have: self.version() } });
        }
    }
}
