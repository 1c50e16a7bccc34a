//! Who is there, and what all agree on: membership, the layout register, this start's confirmation.

use std::collections::BTreeMap;
use std::mem;
use std::sync::Arc;
use std::time::Duration;

use crate::cluster::membership::{self, Health, Membership};
use crate::cluster::register::{self, Outcome, ProposalId};
use crate::cluster::{Incarnation, LayoutTag, Time, change, start};
use crate::node_id::NodeId;
use crate::planted::{self, Bug};
use crate::replication::{Input, hinted_handoff};
use crate::ring::{Layout, Member, Preferences, Ring};
use crate::storage::{LogPosition, WriteBatch};
use crate::wire::client::{self, ErrorCode, ReplyBody};
use crate::wire::peer::PeerMessage;

use super::calls::Origin;
use super::core::{Core, Parked, members_of, next_preferences};
use super::event::{Effect, Severity};
use super::meta;
use super::replies::error_reply;

/// Proposals whose clients wait.
#[derive(Debug, Default)]
pub(super) struct Proposals {
    by_id: BTreeMap<ProposalId, (Origin, u64)>,
    next: u64,
}

impl Proposals {
    /// A number for a proposal.
    pub(super) const fn next(&mut self) -> u64 {
        self.next += 1;
        self.next
    }
}

impl Core {
    /// When membership, register or confirmation want to be woken.
    pub(super) fn agreement_wake(&self) -> Time {
        // What is voted on waits until the disk is compared.
        let register = self.register.wake_at().filter(|_| self.is_compared());
        let others = [register, self.confirmation.wake_at()];
        others.into_iter().flatten().fold(self.membership.wake_at(), Time::min)
    }

    /// Ticks whichever of them is due.
    pub(super) fn agreement_timers(&mut self, effects: &mut Vec<Effect>) {
        let now = self.now.monotonic;
        if self.dialled.is_none() {
            self.dial(effects);
        }
        if self.membership.wake_at().monotonic <= now {
            self.positions_timer(effects);
            self.membership_event(membership::Event::Tick, effects);
            self.dial(effects);
            self.look_for_damage(effects);
            self.transition_timer(effects);
        }
        if self.is_compared() && self.register.wake_at().is_some_and(|at| at.monotonic <= now) {
            self.register_event(register::Event::Tick, effects);
        }
        if self.confirmation.wake_at().is_some_and(|at| at.monotonic <= now) {
            self.confirmation_event(start::Event::Tick, effects);
        }
    }

    pub(super) fn membership_event(&mut self, event: membership::Event, effects: &mut Vec<Effect>) {
        let mut buffer = Vec::new();
        self.membership.handle(self.now, event, &mut self.rng, &mut buffer);
        self.membership_effects(buffer, effects);
    }

    pub(super) fn membership_effects(
        &mut self,
        buffer: Vec<membership::Effect>,
        effects: &mut Vec<Effect>,
    ) {
        for effect in buffer {
            match effect {
                membership::Effect::Send { to, message } => {
                    self.send(to, PeerMessage::Gossip(message), effects);
                }
                membership::Effect::Introduce { address, message } => {
                    let message = PeerMessage::Gossip(message);
                    effects.push(Effect::Introduce { address, message });
                }
                membership::Effect::HealthChanged { node, health } => {
                    self.health_changed(node, health, effects);
                }
                membership::Effect::LayoutNews { peer, tag } => {
                    self.register_event(register::Event::News { peer, tag }, effects);
                }
                membership::Effect::Alarm(alarm) => self.membership_alarm(&alarm, effects),
            }
        }
    }

    pub(super) fn register_event(&mut self, event: register::Event, effects: &mut Vec<Effect>) {
        let mut buffer = Vec::new();
        self.register.handle(self.now, event, &mut self.rng, &mut buffer);
        self.register_effects(buffer, effects);
    }

    pub(super) fn register_effects(
        &mut self,
        buffer: Vec<register::Effect>,
        effects: &mut Vec<Effect>,
    ) {
        // States are written at once, in the order in which they came, so that they become durable in it; what follows
        // one waits until it is.
        let mut position = LogPosition::ZERO;
        for effect in buffer {
            match effect {
                register::Effect::Persist(state) => {
                    let mut batch = WriteBatch::new();
                    batch.put(meta::register_key(), meta::encode_register(&state));
                    batch.durable().on_reserve();
                    match self.write(batch, effects) {
                        Ok(written) => position = written,
                        Err(error) => {
                            self.end(
                                format!("the layout register cannot be kept: {error}"),
                                effects,
                            );
                            return;
                        }
                    }
                }
                effect @ (register::Effect::Send { .. }
                | register::Effect::Chosen(_)
                | register::Effect::ProposalDone { .. }
                | register::Effect::Alarm(_)) => {
                    self.once_durable(position, Parked::Register(effect), effects);
                }
            }
        }
    }

    pub(super) fn register_effect(&mut self, effect: register::Effect, effects: &mut Vec<Effect>) {
        match effect {
            register::Effect::Persist(_) => unreachable!("states are written at once"),
            register::Effect::Send { to, message } => {
                self.send(to, PeerMessage::Register(message), effects);
            }
            register::Effect::Chosen(layout) => self.take_layout(layout, effects),
            register::Effect::ProposalDone { id, outcome } => {
                self.proposal_done(id, outcome, effects);
            }
            register::Effect::Alarm(alarm) => self.alarm(told(&alarm), effects),
        }
    }

    pub(super) fn confirmation_event(&mut self, event: start::Event, effects: &mut Vec<Effect>) {
        let mut buffer = Vec::new();
        self.confirmation.handle(self.now, event, &mut buffer);
        self.confirmation_effects(buffer, effects);
    }

    pub(super) fn confirmation_effects(
        &mut self,
        buffer: Vec<start::Effect>,
        effects: &mut Vec<Effect>,
    ) {
        for effect in buffer {
            match effect {
                start::Effect::Send { to, message } => {
                    self.send(to, PeerMessage::Start(message), effects);
                }
                start::Effect::Decided(start::Verdict::Confirmed) => self.lineage.confirm(),
                start::Effect::Decided(start::Verdict::Refused) => {
                    let why = "other members know another start with this count: the directory was copied or rolled back";
                    self.alarm(format!("start {} refused: {why}", self.start.count.0), effects);
                    self.settle_lineage(effects);
                }
                start::Effect::Decided(start::Verdict::Pending) => {}
                start::Effect::Compared => self.compared(effects),
                start::Effect::RolledBack { by, seen } => self.rolled_back(by, seen, effects),
            }
        }
    }

    /// A client wants another layout.
    pub(super) fn propose(
        &mut self,
        origin: Origin,
        expect: u64,
        change: &client::Change,
        deadline: u64,
        effects: &mut Vec<Effect>,
    ) {
        let proposed = self.changed(change).and_then(|change| {
            change::apply(&self.layout, &change).map_err(|error| error.to_string())
        });
        if !self.is_compared() {
            let text = "this node has just started, and knows no majority of the members yet";
            let mut body = error_reply(ErrorCode::QuorumUnmet, text.to_owned());
            if let ReplyBody::Error(error) = &mut body {
                (error.outcome, error.retry) = (Some(client::Outcome::NotApplied), true);
            }
            return self.reply(origin, body, effects);
        }
        if expect != self.layout.version {
            let text =
                format!("layout {expect} was expected, layout {} is in force", self.layout.version);
            return self.reply(origin, error_reply(ErrorCode::StaleContext, text), effects);
        }
        match proposed {
            Err(text) => self.reply(origin, error_reply(ErrorCode::Usage, text), effects),
            Ok(layout) => {
                let id = ProposalId(self.proposals.next());
                self.proposals.by_id.insert(id, (origin, layout.version));
                let left = deadline.saturating_sub(self.now.monotonic);
                let deadline = self.now.after(Duration::from_nanos(left));
                let event = register::Event::Propose {
                    id,
                    expect_version: expect,
                    layout: layout.into(),
                    deadline,
                };
                self.register_event(event, effects);
            }
        }
    }

    fn changed(&self, change: &client::Change) -> Result<change::Change, String> {
        match change {
            client::Change::Mode(mode) => Ok(change::Change::SetMode(*mode)),
            client::Change::Abort => Ok(change::Change::Abort),
            client::Change::To(ring) => {
                self.check_gainers_up(ring)?;
                Ok(change::Change::To(ring.clone()))
            }
            client::Change::Rename { from, to } => match self.layout.now.named(from) {
                Some(member) => Ok(change::Change::Rename { member: member.id, name: to.clone() }),
                None => Err(format!("no member is named `{from}`")),
            },
        }
    }

    fn proposal_done(&mut self, id: ProposalId, outcome: Outcome, effects: &mut Vec<Effect>) {
        let Some((origin, version)) = self.proposals.by_id.remove(&id) else {
            return;
        };
        let failed = |outcome, text: &str| {
            let mut body = error_reply(ErrorCode::QuorumUnmet, text.to_owned());
            if let ReplyBody::Error(error) = &mut body {
                (error.outcome, error.retry) = (Some(outcome), true);
            }
            body
        };
        let body = match outcome {
            Outcome::Chosen => ReplyBody::Chosen { version },
            Outcome::Conflict(_) | Outcome::Stale { .. } => error_reply(
                ErrorCode::StaleContext,
                "another change of the layout was chosen first".to_owned(),
            ),
            Outcome::NotApplied => {
                failed(client::Outcome::NotApplied, "no majority of the members answered in time")
            }
            Outcome::Unknown => failed(
                client::Outcome::Unknown,
                "the change was put to the vote; it may yet be chosen",
            ),
            Outcome::Busy => {
                failed(client::Outcome::NotApplied, "this node has another change under way")
            }
            Outcome::Refused(error) => error_reply(ErrorCode::Usage, error.to_string()),
        };
        self.reply(origin, body, effects);
    }

    fn take_layout(&mut self, layout: std::sync::Arc<Layout>, effects: &mut Vec<Effect>) {
        effects.push(Effect::Log(Severity::Info, format!("layout {} is in force", layout.version)));
        self.tag = LayoutTag::of(&layout);
        let present = Arc::new(Preferences::new(layout.now.clone().into()));
        let before = mem::replace(&mut self.preferences, present);
        self.next_preferences = next_preferences(&layout);
        self.note_gains(&before, effects);
        let was = mem::replace(&mut self.layout, layout);
        if !self.note_place(&was, effects) {
            self.phase = super::core::Phase::Ended;
            return;
        }
        self.keep_names_of_gone(&was, effects);
        if was.generation < self.layout.generation {
            self.begin_generation(&was, effects);
        }
        self.forget_staged(effects);
        let members = members_of(&self.layout);
        let event = membership::Event::LayoutChanged { tag: self.tag, members };
        self.membership_event(event, effects);
        self.coordinate(Input::LayoutChanged);
        self.layout_for_repairs(effects);
        // Who goes waits for no target: what it keeps goes to the owners that are up.
        let ttl = if self.gives_up_share() { Duration::ZERO } else { self.config.hints.ttl };
        self.hand_over(hinted_handoff::Event::Ttl(ttl), effects);
        self.begin_transition(effects);
        self.open_fence(effects);
        self.dial(effects);
    }

    /// A ring must not give anything to a member that is down.
    fn check_gainers_up(&self, ring: &Ring) -> Result<(), String> {
        let owners: std::collections::BTreeSet<u16> = ring.owner.iter().copied().collect();
        let members = owners.iter().filter_map(|index| ring.members.get(usize::from(*index)));
        let is_down = |id: NodeId| matches!(self.membership.health(id), Health::Down { .. });
        let before = &self.layout.now;
        let gains = |member: &&Member| {
            before.member(member.id).is_none_or(|known| known.weight < member.weight)
        };
        match members.filter(gains).find(|member| is_down(member.id)) {
            Some(member) => Err(format!("{} is down, and would gain data", member.name)),
            None => Ok(()),
        }
    }

    /// What this node minted as a stand-in stands in hints, and its data of a key that it gains does not know it: its
    /// writes there must not claim to have seen those.
    fn note_gains(&mut self, before: &Preferences, effects: &mut Vec<Effect>) {
        let present = Arc::clone(&self.preferences);
        let mut walks = before.iter().zip(present.iter());
        let may_gain = before.iter().len() != present.iter().len()
            || walks.any(|(was, is)| !was.owns(self.me) && is.owns(self.me));
        if may_gain && self.hints.held().next().is_some() {
            self.raise_epoch("hints are held of keys that are gained", effects);
        }
    }

    fn health_changed(&mut self, node: NodeId, health: Health, effects: &mut Vec<Effect>) {
        self.health_since.insert(node, self.now);
        self.note_reachability(node, effects);
        let name = self.name_of(node);
        let (severity, what) = match health {
            Health::Unknown => (Severity::Info, "unknown"),
            Health::Up => (Severity::Info, "up"),
            Health::Suspected => (Severity::Warn, "suspected"),
            Health::Down { .. } => (Severity::Warn, "down"),
        };
        effects.push(Effect::Log(severity, format!("member {name} is {what}")));
        if let Health::Down { .. } = health {
            self.coordinate(Input::Unreachable(node));
        }
    }

    fn membership_alarm(&mut self, alarm: &membership::Alarm, effects: &mut Vec<Effect>) {
        match alarm {
            // A disk that knows nothing of a start of this node lacks what was told in that one.
            membership::Alarm::Overtaken { .. } if !planted::is_on(Bug::RollbackUnnoticed) => {
                self.give_up_disk(told(alarm), effects);
            }
            membership::Alarm::Overtaken { .. } | membership::Alarm::Malformed { .. } => {
                self.alarm(told(alarm), effects);
            }
        }
    }

    /// Tells the runtime whom to dial, where that changed; keeps the addresses for the next start.
    fn dial(&mut self, effects: &mut Vec<Effect>) {
        let mut batch = WriteBatch::new();
        let membership = &self.membership;
        self.located.retain(|node, (life, _)| is_news(membership, *node, *life));
        for (node, _, entry) in membership.peers() {
            let told = entry.map(|entry| &entry.addresses).or_else(|| self.addresses.get(&node));
            let located = self.located.get(&node).map(|(_, peer)| peer);
            if told.is_none() && located.is_none() {
                continue;
            }
            let mut addresses = told.cloned().unwrap_or_default();
            if let Some(peer) = located {
                addresses.peer.clone_from(peer);
            }
            if self.addresses.get(&node) != Some(&addresses) {
                batch.put(meta::address_key(node), meta::encode_addresses(&addresses));
                self.addresses.insert(node, addresses);
            }
        }
        if !batch.is_empty() {
            // An address that is not kept is learned again: nothing waits for it.
            let _ = self.write_hearsay(batch, effects);
        }
        let peers: Vec<_> = self
            .membership
            .peers()
            .filter_map(|(node, _, _)| Some((node, self.addresses.get(&node)?.peer.clone())))
            .filter(|(_, address)| !address.is_empty())
            .collect();
        if self.dialled.as_ref() != Some(&peers) {
            self.dialled = Some(peers.clone());
            effects.push(Effect::Peers(peers));
        }
    }

    /// A handshake told where a member is: that is where it is dialled until gossip tells of the same life.
    pub(super) fn located(
        &mut self,
        peer: NodeId,
        life: Incarnation,
        address: String,
        effects: &mut Vec<Effect>,
    ) {
        let is_member = self.layout.member(peer).is_some();
        if is_member && !address.is_empty() && is_news(&self.membership, peer, life) {
            self.located.insert(peer, (life, address));
            self.dial(effects);
        }
    }

    /// The name of a member, or its id.
    pub(super) fn name_of(&self, node: NodeId) -> String {
        self.layout.member(node).map_or_else(|| node.to_string(), |member| member.name.clone())
    }
}

/// Whether gossip has not told of a member in this life.
fn is_news(membership: &Membership, node: NodeId, life: Incarnation) -> bool {
    membership.entry(node).is_none_or(|entry| entry.start.count < life)
}

/// An error with its causes, in one line.
fn told(error: &dyn std::error::Error) -> String {
    let causes = std::iter::successors(error.source(), |cause| cause.source());
    causes.fold(error.to_string(), |text, cause| format!("{text}: {cause}"))
}
