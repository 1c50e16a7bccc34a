//! Membership: who is up, by gossip.
//!
//! Every interval a node raises its own heartbeat and sends its member list to three random members; of two words about
//! a member the one with the larger [`Pulse`] wins. A member whose pulse has not risen for longer than its own history
//! makes likely (phi-accrual) is *suspected*; suspicions are gossiped, and it is *down* when two members that are
//! not suspected themselves suspect it (all such members, if fewer: the last survivor's word suffices).
//!
//! ```text
//!            first rise, or its own word            silence              two suspect it
//!  unknown ------------------------------->  up  ------------> suspected ----------------> down
//!     |                                       ^                    |                        |
//!     |                                       +---- it is heard ---+------------------------+
//!     +--------------------- silence, and two suspect it ---------------------------------> down
//! ```
//! Invariants:
//! - A suspicion counts only at the highest pulse that the judge knows of the suspect, so a deaf member's word, which
//!   speaks of old pulses, puts nobody down.
//! - Silence is counted in time during which this node ran: what passed between a tick that was due and a tick that
//!   came late is nobody's silence.
//! - Nothing is kept of ids outside the layout; all that is kept of a member is bounded.
//!
//! What gossip tells of a member that died before this node started is not news of its life: a member first heard of
//! through others stays *unknown* until its pulse rises again, or it speaks itself.

mod accrual;
mod message;
mod peer;
#[cfg(test)]
mod rules;
#[cfg(test)]
mod simulation;

use std::collections::{BTreeMap, BTreeSet};
use std::iter;
use std::time::Duration;

use rand::Rng;
use rand::seq::IteratorRandom;

use crate::node_id::NodeId;

use super::{LayoutTag, MEMBERS_MAX, MemberEntry, Pulse, Start, Time};
use peer::Peer;

pub use message::{MalformedMessage, Message, Suspicion};

/// How often a node raises its own heartbeat counter and gossips it, unless configured.
pub const HEARTBEAT_INTERVAL: Duration = Duration::from_secs(1);
/// Members that a member list goes to each interval.
pub const FANOUT: usize = 3;
/// Ticks in one interval.
pub const TICKS_PER_INTERVAL: u32 = 4;
/// φ from which a member is suspected.
pub const PHI_SUSPECTED: f64 = 8.0;
/// φ from which a member is suspected to which no connection can be made: two signs weigh more than one.
pub const PHI_SUSPECTED_CUT_OFF: f64 = PHI_ASKED;
/// φ from which a member is asked directly, and another one about it, at every tick, before it is suspected.
const PHI_ASKED: f64 = 3.0;
/// A tick may come this many tick periods after the one before without counting as late.
const TICK_PERIODS_PATIENT: u32 = 2;

/// What a node is told about gossip when it starts.
#[derive(Clone, Debug)]
pub struct Config {
    /// How often the heartbeat rises; [`HEARTBEAT_INTERVAL`] unless a test or `kvnode dev` wants it shorter.
    pub interval: Duration,
    /// Addresses to find members at that are not known yet.
    pub seeds: Vec<String>,
}

/// What this node believes of a member.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Health {
    /// Not heard since this node started.
    Unknown,
    /// Heard lately.
    Up,
    /// Silent for longer than likely, by this node's own ears; still counted on.
    Suspected,
    /// Out of reach for all.
    Down {
        /// When this node came to believe so.
        since: Time,
    },
}

/// What happens to the membership.
#[derive(Clone, Debug)]
pub enum Event {
    /// Time passed; due at [`Membership::wake_at`].
    Tick,
    /// A message of a peer that was admitted.
    Received {
        /// Who sent it, as its connection proved.
        from: NodeId,
        /// What it says.
        message: Message,
    },
    /// Any other valid frame came from this peer: a sign of life. Cheap.
    Heard(NodeId),
    /// The connection to this peer broke, or cannot be made.
    Unreachable(NodeId),
    /// The layout that this node acts on, with its members.
    LayoutChanged {
        /// Its tag, gossiped from now on.
        tag: LayoutTag,
        /// All members of its rings, this node included or not.
        members: BTreeSet<NodeId>,
    },
    /// The commit log is synced up to here, and others shall know.
    LogSynced(u64),
    /// This node holds all that it gains by the change that runs since this version.
    Ready(u64),
}

/// What should happen next.
#[derive(Clone, Debug, PartialEq)]
pub enum Effect {
    /// Send this to a member. May be lost.
    Send {
        /// To whom; [`Membership::addresses`] says where it listens.
        to: NodeId,
        /// What.
        message: Message,
    },
    /// Send this to whoever listens at a seed's address. May be lost.
    Introduce {
        /// Where.
        address: String,
        /// What.
        message: Message,
    },
    /// A member's health is another than before.
    HealthChanged {
        /// Whose.
        node: NodeId,
        /// What it is now.
        health: Health,
    },
    /// A member says that it acts on another layout than this node: for the register.
    LayoutNews {
        /// Who says so.
        peer: NodeId,
        /// Which layout.
        tag: LayoutTag,
    },
    /// Something a person should know.
    Alarm(Alarm),
}

/// Something a person should know.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Alarm {
    /// Another directory with this node's id is, or was, at a later start: this one is a copy or was rolled back, and
    /// must not go on.
    #[error("start {} of this node is known to its peers, this one is start {}: the directory was copied or rolled back", .known.count.0, .own.count.0)]
    Overtaken {
        /// The start that peers know.
        known: Start,
        /// This node's start.
        own: Start,
    },
    /// A peer's message breaks the rules and was dropped.
    #[error("gossip of {from} dropped")]
    Malformed {
        /// Whose.
        from: NodeId,
        /// What is wrong with it.
        source: MalformedMessage,
    },
}

/// One node's view of all members.
#[derive(Clone, Debug)]
pub struct Membership {
    config: Config,
    /// This node's own entry.
    me: MemberEntry,
    /// The other members of the layout.
    peers: BTreeMap<NodeId, Peer>,
    /// When the heartbeat rises next.
    beat_at: Time,
    ticked_at: Time,
    /// How long this node has been listening, up to `ticked_at`.
    listened: Duration,
    /// Whether a suspicion arose that has not been told to all yet.
    suspicion_is_new: bool,
    overtaken_by: Option<Start>,
}

impl Membership {
    /// The membership of the node whose own entry is `me`, among `members` (itself included or not), at its start.
    pub fn new(config: Config, now: Time, me: MemberEntry, members: &BTreeSet<NodeId>) -> Self {
        assert!(!config.interval.is_zero(), "a heartbeat needs an interval");
        let mut membership = Self {
            config,
            me,
            peers: BTreeMap::new(),
            beat_at: now,
            ticked_at: now,
            listened: Duration::ZERO,
            suspicion_is_new: false,
            overtaken_by: None,
        };
        membership.set_members(members);
        membership
    }

    /// Folds one event into the view; what must happen next is appended to `effects`.
    pub fn handle(
        &mut self,
        now: Time,
        event: Event,
        rng: &mut impl Rng,
        effects: &mut Vec<Effect>,
    ) {
        match event {
            Event::Tick => self.tick(now, rng, effects),
            Event::Received { from, message } => self.receive(now, from, message, effects),
            Event::Heard(peer) => {
                let heard_at = self.listening(now);
                if let Some(peer) = self.peers.get_mut(&peer) {
                    peer.hear(heard_at);
                    peer.report_health(effects);
                }
            }
            Event::Unreachable(peer) => {
                if let Some(peer) = self.peers.get_mut(&peer) {
                    peer.is_cut_off = true;
                }
            }
            Event::Ready(version) => self.me.ready = version,
            Event::LayoutChanged { tag, members } => {
                (self.me.layout, self.me.ready) = (tag, 0);
                self.set_members(&members);
            }
            Event::LogSynced(position) => {
                self.me.log_position = self.me.log_position.max(position);
            }
        }
    }

    /// When the next [`Event::Tick`] is due.
    pub fn wake_at(&self) -> Time {
        self.ticked_at.after(self.tick_period())
    }

    /// This node's own entry.
    pub const fn me(&self) -> &MemberEntry {
        &self.me
    }

    /// What this node believes of `node`; itself is up; [`Health::Unknown`] for one outside the layout.
    pub fn health(&self, node: NodeId) -> Health {
        if node == self.me.id {
            Health::Up
        } else {
            self.peers.get(&node).map_or(Health::Unknown, |peer| peer.health)
        }
    }

    /// Whether `node` is worth a request: up, or no more than suspected.
    pub fn is_up(&self, node: NodeId) -> bool {
        match self.health(node) {
            Health::Up | Health::Suspected => true,
            Health::Unknown | Health::Down { .. } => false,
        }
    }

    /// What is known of `node`: its last entry, its own included.
    pub fn entry(&self, node: NodeId) -> Option<&MemberEntry> {
        if node == self.me.id { Some(&self.me) } else { self.peers.get(&node)?.entry.as_ref() }
    }

    /// Where `node` listens.
    pub fn addresses(&self, node: NodeId) -> Option<&super::Addresses> {
        self.entry(node).map(|entry| &entry.addresses)
    }

    /// The other members in the order of their ids: health, and the last entry of those ever heard of.
    pub fn peers(&self) -> impl Iterator<Item = (NodeId, Health, Option<&MemberEntry>)> {
        self.peers.iter().map(|(id, peer)| (*id, peer.health, peer.entry.as_ref()))
    }

    /// φ of the present silence of `node`: how unlikely it is, as a negative power of ten.
    pub fn phi(&self, now: Time, node: NodeId) -> Option<f64> {
        self.peers.get(&node).map(|peer| peer.phi(self.listening(now)))
    }

    fn tick_period(&self) -> Duration {
        self.config.interval / TICKS_PER_INTERVAL
    }

    /// How long this node has been listening: time that passed while its own ticks were overdue does not count.
    fn listening(&self, now: Time) -> Duration {
        self.listened + now.since(self.ticked_at).min(self.tick_period() * TICK_PERIODS_PATIENT)
    }

    fn set_members(&mut self, members: &BTreeSet<NodeId>) {
        self.peers.retain(|id, _| members.contains(id));
        for id in members.iter().filter(|id| **id != self.me.id) {
            self.peers
                .entry(*id)
                .or_insert_with(|| Peer::new(*id, self.config.interval, self.listened));
        }
        for peer in self.peers.values_mut() {
            peer.reports.retain(|suspect, _| members.contains(suspect));
        }
    }

    fn tick(&mut self, now: Time, rng: &mut impl Rng, effects: &mut Vec<Effect>) {
        self.listened = self.listening(now);
        self.ticked_at = now;
        self.suspect(effects);
        self.judge(now, effects);
        if self.beat_at <= now {
            self.me.heartbeat += 1;
            self.beat_at =
                self.beat_at.after(self.config.interval).max(now.after(self.tick_period()));
            self.gossip(rng, effects);
        } else if self.suspicion_is_new {
            self.gossip(rng, effects);
        }
        self.ask_the_silent(rng, effects);
    }

    /// Suspects whom this node has not heard for too long.
    fn suspect(&mut self, effects: &mut Vec<Effect>) {
        for peer in self.peers.values_mut() {
            let limit = if peer.is_cut_off { PHI_SUSPECTED_CUT_OFF } else { PHI_SUSPECTED };
            if peer.suspected.is_none() && peer.phi(self.listened) >= limit {
                peer.suspect();
                peer.report_health(effects);
                self.suspicion_is_new = true;
            }
        }
    }

    /// Puts down whom enough members suspect.
    fn judge(&mut self, now: Time, effects: &mut Vec<Effect>) {
        let accused = self.accused();
        if accused.is_empty() {
            return;
        }
        let sound: BTreeSet<NodeId> = self
            .peers
            .keys()
            .chain([&self.me.id])
            .filter(|id| !accused.contains_key(id))
            .copied()
            .collect();
        for (suspect, accusers) in accused {
            let accusers = accusers.iter().filter(|accuser| sound.contains(accuser)).count();
            if accusers >= sound.len().min(2) {
                let peer = self.peers.get_mut(&suspect).expect("only members are accused");
                peer.put_down(now);
                peer.report_health(effects);
            }
        }
    }

    /// Whom anybody suspects at the highest pulse that this node knows of it, and who does.
    fn accused(&self) -> BTreeMap<NodeId, Vec<NodeId>> {
        let mut accused = BTreeMap::<NodeId, Vec<NodeId>>::new();
        for (id, peer) in self.peers.iter().filter(|(_, peer)| peer.suspected.is_some()) {
            accused.entry(*id).or_default().push(self.me.id);
            debug_assert_eq!(peer.suspected, Some(peer.pulse()), "news clears a suspicion");
        }
        for (accuser, peer) in &self.peers {
            for (suspect, pulse) in &peer.reports {
                if suspect != accuser
                    && self
                        .peers
                        .get(suspect)
                        .is_some_and(|suspect| suspect.stands_accused_at(*pulse))
                {
                    accused.entry(*suspect).or_default().push(*accuser);
                }
            }
        }
        accused
    }

    /// Sends the member list to three random members, to all while there is a new suspicion to tell, and to one of those
    /// that seem away: a cut that healed is found out that way.
    fn gossip(&mut self, rng: &mut impl Rng, effects: &mut Vec<Effect>) {
        let message = self.message(false);
        let near = self.peers.iter().filter(|(_, peer)| peer.is_near()).map(|(id, _)| *id);
        let fanout = if self.suspicion_is_new { usize::MAX } else { FANOUT };
        let mut targets = if fanout < self.peers.len() {
            near.choose_multiple(rng, fanout)
        } else {
            near.collect::<Vec<_>>()
        };
        targets.sort_unstable();
        targets.extend(
            self.peers
                .iter()
                .filter(|(_, peer)| !peer.is_near() && peer.entry.is_some())
                .map(|(id, _)| *id)
                .choose(rng),
        );
        self.suspicion_is_new = false;
        effects.extend(targets.into_iter().map(|to| Effect::Send { to, message: message.clone() }));
        self.introduce(effects);
    }

    /// While a member is missing, also those seeds are told that are not known to be up.
    fn introduce(&self, effects: &mut Vec<Effect>) {
        if self.peers.values().all(Peer::is_near) {
            return;
        }
        for seed in &self.config.seeds {
            let is_known = |entry: &MemberEntry| entry.addresses.peer == *seed;
            let is_up = self
                .peers
                .values()
                .any(|peer| peer.is_near() && peer.entry.as_ref().is_some_and(is_known));
            if !is_up && !is_known(&self.me) {
                effects
                    .push(Effect::Introduce { address: seed.clone(), message: self.message(true) });
            }
        }
    }

    /// Asks whom this node has not heard of for unusually long, and one other member about them, so that lost messages or
    /// slow rumours alone make no suspect; asks also those that it only knows through others yet.
    fn ask_the_silent(&self, rng: &mut impl Rng, effects: &mut Vec<Effect>) {
        let is_asked = |peer: &&Peer| match peer.health {
            Health::Unknown => peer.entry.is_some() && peer.suspected.is_none(),
            Health::Up => peer.phi(self.listened) >= PHI_ASKED,
            Health::Suspected | Health::Down { .. } => false,
        };
        let (asked, others): (Vec<&Peer>, Vec<&Peer>) = self.peers.values().partition(is_asked);
        if asked.is_empty() {
            return;
        }
        let witness = others.into_iter().filter(|peer| peer.is_near()).choose(rng);
        for peer in asked.into_iter().chain(witness) {
            effects.push(Effect::Send { to: peer.id, message: self.message(true) });
        }
    }

    fn message(&self, answer: bool) -> Message {
        let entries = self.peers.values().filter_map(|peer| peer.entry.as_ref());
        let entries = iter::once(&self.me).chain(entries).take(MEMBERS_MAX);
        let suspicions = self
            .peers
            .iter()
            .filter_map(|(id, peer)| peer.suspected.map(|pulse| Suspicion { suspect: *id, pulse }));
        Message { members: entries.cloned().collect(), suspicions: suspicions.collect(), answer }
    }

    fn receive(&mut self, now: Time, from: NodeId, message: Message, effects: &mut Vec<Effect>) {
        if let Err(source) = message.validate() {
            effects.push(Effect::Alarm(Alarm::Malformed { from, source }));
            return;
        }
        let heard_at = self.listening(now);
        let Some(sender) = self.peers.get_mut(&from) else {
            return;
        };
        let was_unknown = sender.health == Health::Unknown;
        sender.hear(heard_at);
        let own_entry = message.members.iter().find(|entry| entry.id == from);
        let said_at = own_entry.map(MemberEntry::pulse).unwrap_or_default();
        for entry in message.members {
            self.take(from, entry, heard_at, effects);
        }
        self.take_reports(from, said_at, &message.suspicions);
        if let Some(sender) = self.peers.get_mut(&from) {
            sender.report_health(effects);
        }
        self.judge(now, effects);
        if message.answer || was_unknown {
            effects.push(Effect::Send { to: from, message: self.message(false) });
        }
    }

    /// Takes one entry of a member list where it is fresher than what is known.
    fn take(
        &mut self,
        from: NodeId,
        entry: MemberEntry,
        heard_at: Duration,
        effects: &mut Vec<Effect>,
    ) {
        if entry.id == self.me.id {
            self.meet_itself(&entry, effects);
            return;
        }
        if from == entry.id && entry.layout != self.me.layout {
            effects.push(Effect::LayoutNews { peer: from, tag: entry.layout });
        }
        if let Some(peer) = self.peers.get_mut(&entry.id) {
            peer.learn(entry, heard_at);
            peer.report_health(effects);
        }
    }

    /// What others say of this node: its own word must stay the freshest, and no other life of it may run.
    fn meet_itself(&mut self, entry: &MemberEntry, effects: &mut Vec<Effect>) {
        let (own, known) = (self.me.start, entry.start);
        if known == own {
            self.me.heartbeat = self.me.heartbeat.max(entry.heartbeat);
        } else if own.count <= known.count && self.overtaken_by != Some(known) {
            self.overtaken_by = Some(known);
            effects.push(Effect::Alarm(Alarm::Overtaken { known, own }));
        }
    }

    /// Takes the sender's suspicions in place of its earlier ones, unless this message was overtaken by a later one.
    fn take_reports(&mut self, from: NodeId, said_at: Pulse, suspicions: &[Suspicion]) {
        let is_known = |suspicion: &&Suspicion| self.peers.contains_key(&suspicion.suspect);
        let reports = suspicions
            .iter()
            .filter(is_known)
            .map(|suspicion| (suspicion.suspect, suspicion.pulse))
            .collect();
        if let Some(sender) = self.peers.get_mut(&from)
            && sender.pulse() <= said_at
        {
            sender.reports = reports;
        }
    }
}
