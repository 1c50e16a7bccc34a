//! The proposer's half: ballots, majorities, outcomes.

use std::collections::BTreeSet;
use std::sync::Arc;

use rand::Rng;

use crate::cluster::{COUNTER_MAX, Time, change};
use crate::node_id::NodeId;
use crate::ring::Layout;

use super::{
    AcceptedLayout, BACK_OFF_MAX, Ballot, Effect, Message, Outcome, ProposalId, RESEND_AFTER,
    Register, TAKE_UP_AFTER,
};

/// An attempt of this node to get a version chosen.
#[derive(Clone, Debug)]
pub(super) struct Proposal {
    /// Who asked for it; `None` for an accepted value that this node takes up.
    pub(super) request: Option<Request>,
    pub(super) ballot: Ballot,
    pub(super) phase: Phase,
    /// When unanswered questions are repeated, or a higher ballot is opened.
    pub(super) act_at: Time,
}

#[derive(Clone, Debug)]
pub(super) struct Request {
    pub(super) id: ProposalId,
    pub(super) layout: Arc<Layout>,
    pub(super) deadline: Time,
    /// Whether anybody was asked to accept it.
    pub(super) is_put_to_vote: bool,
}

#[derive(Clone, Debug)]
pub(super) enum Phase {
    Preparing { promises: BTreeSet<NodeId>, best: Option<AcceptedLayout> },
    Accepting { layout: Arc<Layout>, acceptances: BTreeSet<NodeId> },
    BackingOff,
}

impl Register {
    pub(super) fn admit(&self, expect_version: u64, layout: &Layout) -> Result<(), Outcome> {
        if expect_version != self.version() {
            return Err(Outcome::Stale { current: self.version() });
        }
        if !self.is_acceptor(self.me) || self.recovery().is_some() {
            return Err(Outcome::NotApplied);
        }
        if self.proposal.as_ref().is_some_and(|proposal| proposal.request.is_some()) {
            return Err(Outcome::Busy);
        }
        change::check(&self.state.chosen, layout).map_err(Outcome::Refused)
    }

    /// Opens a ballot above all known ones and above round `above`, with this node's own promise first.
    pub(super) fn open_ballot(
        &mut self,
        now: Time,
        request: Option<Request>,
        above: u64,
        rng: &mut impl Rng,
        effects: &mut Vec<Effect>,
    ) {
        let promised = self.state.vote.promised.map_or(0, |ballot| ballot.round);
        let ballot = Ballot { round: promised.max(above) + 1, node: self.me };
        self.state.vote.promised = Some(ballot);
        effects.push(Effect::Persist(self.state.clone()));
        let phase = Phase::Preparing {
            promises: BTreeSet::from([self.me]),
            best: self.state.vote.accepted.clone(),
        };
        self.proposal = Some(Proposal { request, ballot, phase, act_at: now });
        self.ask(now, effects);
        self.count_promises(now, rng, effects);
    }

    /// Puts the present question to every other acceptor that has not answered it.
    pub(super) fn ask(&mut self, now: Time, effects: &mut Vec<Effect>) {
        let Some(proposal) = &mut self.proposal else {
            return;
        };
        proposal.act_at =
            now.after(if proposal.request.is_some() { RESEND_AFTER } else { TAKE_UP_AFTER });
        let ballot = proposal.ballot;
        let (message, answered) = match &proposal.phase {
            Phase::Preparing { promises, .. } => {
                (Message::Prepare { ballot, chosen: Arc::clone(&self.state.chosen) }, promises)
            }
            Phase::Accepting { layout, acceptances } => {
                (Message::Accept { ballot, layout: Arc::clone(layout) }, acceptances)
            }
            Phase::BackingOff => return,
        };
        let silent = self
            .state
            .chosen
            .now
            .members
            .iter()
            .map(|member| member.id)
            .filter(|id| !answered.contains(id));
        effects.extend(silent.map(|to| Effect::Send { to, message: message.clone() }));
    }

    /// Goes on to the vote once a majority promised.
    pub(super) fn count_promises(
        &mut self,
        now: Time,
        rng: &mut impl Rng,
        effects: &mut Vec<Effect>,
    ) {
        let Some(proposal) = &self.proposal else {
            return;
        };
        let Phase::Preparing { promises, best } = &proposal.phase else {
            return;
        };
        if !self.is_majority(promises) {
            return;
        }
        let wanted = proposal.request.as_ref().map(|request| &request.layout);
        let Some(layout) = best.as_ref().map(|accepted| &accepted.layout).or(wanted).cloned()
        else {
            // Nothing was accepted by anybody in this majority, so nothing was chosen, and nobody here wants anything.
            self.proposal = None;
            return;
        };
        self.put_to_vote(now, layout, rng, effects);
    }

    /// Accepts `layout` itself, durably, then asks the others to.
    pub(super) fn put_to_vote(
        &mut self,
        now: Time,
        layout: Arc<Layout>,
        rng: &mut impl Rng,
        effects: &mut Vec<Effect>,
    ) {
        let Some(proposal) = &mut self.proposal else {
            return;
        };
        if let Some(request) = &mut proposal.request {
            request.is_put_to_vote |= request.layout == layout;
        }
        let ballot = proposal.ballot;
        let acceptances = if self.state.vote.promised <= Some(ballot) {
            self.state.vote.accepted = Some(AcceptedLayout { ballot, layout: Arc::clone(&layout) });
            effects.push(Effect::Persist(self.state.clone()));
            BTreeSet::from([self.me])
        } else {
            BTreeSet::new()
        };
        proposal.phase = Phase::Accepting { layout, acceptances };
        self.await_news(now, rng);
        self.ask(now, effects);
        self.count_acceptances(effects);
    }

    /// Says *chosen* once a majority accepted.
    pub(super) fn count_acceptances(&mut self, effects: &mut Vec<Effect>) {
        let Some(Proposal { phase: Phase::Accepting { layout, acceptances }, .. }) = &self.proposal
        else {
            return;
        };
        if !self.is_majority(acceptances) {
            return;
        }
        let layout = Arc::clone(layout);
        let everybody: BTreeSet<NodeId> =
            self.acceptors().chain(layout.now.members.iter().map(|member| member.id)).collect();
        self.learn(Arc::clone(&layout), effects);
        for to in everybody.into_iter().filter(|id| *id != self.me) {
            effects.push(Effect::Send { to, message: Message::Chosen(Arc::clone(&layout)) });
        }
    }

    pub(super) fn promised(
        &mut self,
        now: Time,
        from: NodeId,
        ballot: Ballot,
        accepted: Option<AcceptedLayout>,
        rng: &mut impl Rng,
        effects: &mut Vec<Effect>,
    ) {
        if let Some(accepted) = &accepted
            && !self.is_sound(from, &accepted.layout, effects)
        {
            return;
        }
        let is_acceptor = self.is_acceptor(from);
        let Some(Proposal { ballot: own, phase: Phase::Preparing { promises, best }, .. }) =
            &mut self.proposal
        else {
            return;
        };
        if *own != ballot || !is_acceptor {
            return;
        }
        promises.insert(from);
        if best.as_ref().map(|best| best.ballot) < accepted.as_ref().map(|accepted| accepted.ballot)
        {
            *best = accepted;
        }
        self.count_promises(now, rng, effects);
    }

    pub(super) fn accepted(&mut self, from: NodeId, ballot: Ballot, effects: &mut Vec<Effect>) {
        let is_acceptor = self.is_acceptor(from);
        let Some(Proposal { ballot: own, phase: Phase::Accepting { acceptances, .. }, .. }) =
            &mut self.proposal
        else {
            return;
        };
        if *own == ballot && is_acceptor {
            acceptances.insert(from);
            self.count_acceptances(effects);
        }
    }

    /// Waits a little, at random, before a ballot above the one that stood in the way.
    pub(super) fn refused(
        &mut self,
        now: Time,
        ballot: Ballot,
        promised: Ballot,
        rng: &mut impl Rng,
    ) {
        let Some(proposal) = &mut self.proposal else {
            return;
        };
        if proposal.ballot != ballot || promised.round > COUNTER_MAX {
            return;
        }
        match proposal.phase {
            Phase::BackingOff => {}
            Phase::Preparing { .. } | Phase::Accepting { .. } => {
                proposal.phase = Phase::BackingOff;
                proposal.ballot.round = promised.round.max(ballot.round);
                proposal.act_at = now.after(rng.random_range(BACK_OFF_MAX / 5..BACK_OFF_MAX));
            }
        }
    }

    /// Ends a proposal whose caller waits no longer. What was accepted meanwhile is taken up in time.
    pub(super) fn give_up(&mut self, now: Time, rng: &mut impl Rng, effects: &mut Vec<Effect>) {
        let Some(request) = self.proposal.as_ref().and_then(|proposal| proposal.request.as_ref())
        else {
            return;
        };
        if request.deadline <= now {
            let outcome =
                if request.is_put_to_vote { Outcome::Unknown } else { Outcome::NotApplied };
            effects.push(Effect::ProposalDone { id: request.id, outcome });
            self.proposal = None;
            self.await_news(now, rng);
        }
    }
}
