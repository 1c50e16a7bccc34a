//! Core: one replica as a deterministic state machine.
//!
//! It composes smaller machines of the same shape (membership, register, start confirmation, coordinator) and the
//! store; events come in, effects go out, and neither a clock nor a socket, a thread or chance is read here.
//! ```text
//!  clients ──> clients.rs ──> Coordinator ──asks──> peers, or key_work.rs here ──> Store
//!  peers ────> peer_rim.rs ─┬─ fence ──> key_work.rs, ranges.rs ──────────────────> Store
//!                           └─ gossip, layout, starts: agreement.rs
//!  the log's sync ──> Parking ──> answers leave
//! ```
//! Invariants: what speaks of a state leaves once that state is durable; one request at a time runs on a key; whatever
//! waits is bounded; nothing is sent for a layout version other than the one in force.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::mem;
use std::sync::Arc;
use std::time::Duration;

use rand::Rng;
use rand_chacha::ChaCha8Rng;

use crate::cluster::membership::{self, Membership};
use crate::cluster::register::{self, Register};
use crate::cluster::start::{self, Confirmation, Records};
use crate::cluster::{Addresses, Incarnation, LayoutTag, MemberEntry, Sightings, Start, Time};
use crate::node_id::NodeId;
use crate::planted::{self, Bug};
use crate::replication::{
    self, Answer, Coordinator, FailedWhy, Foreground, Input, OpId, Reachability, Request,
    RequestMemory, View,
};
use crate::ring::{Layout, Preferences};
use crate::storage::{LogPosition, Store, WriteBatch, WriteError};
use crate::version::HybridClock;
use crate::wire::client::{ReplyBody, StagedAt};
use crate::wire::peer::PeerMessage;

use super::admission::Admission;
use super::agreement::Proposals;
use super::anti_entropy::AntiEntropy;
use super::calls::{Calls, Origin};
use super::config::{CoreConfig, DEADLINE_MAX};
use super::cut::Cuts;
use super::event::{Effect, Event, Severity};
use super::figures::Figures;
use super::forwarding::Forwards;
use super::hints::Hints;
use super::key_queue::KeyQueue;
use super::key_work::KeyWork;
use super::lineage::Lineage;
use super::meta;
use super::names::Names;
use super::parking::Parking;
use super::peer_rim::Fence;
use super::peers::Peers;
use super::purge::Purging;
use super::ranges::Ranges;
use super::refill::Refilling;
use super::replayed::Replayed;
use super::rollback::Positions;
use super::snapshots::Snapshots;
use super::start::{StartError, open};
use super::transition::Transition;

/// First operation numbers are drawn below this; the coordinator wants them below 2^56.
const FIRST_OP_BITS: u32 = 48;

/// One replica.
pub struct Core {
    pub(super) config: CoreConfig,
    pub(super) me: NodeId,
    pub(super) store: Arc<Store>,
    pub(super) rng: ChaCha8Rng,
    pub(super) now: Time,
    pub(super) started: Time,
    pub(super) phase: Phase,
    /// The layout in force, and what follows from it.
    pub(super) layout: Arc<Layout>,
    pub(super) tag: LayoutTag,
    pub(super) preferences: Arc<Preferences>,
    /// The walks of the ring that a running change leads to.
    pub(super) next_preferences: Option<Arc<Preferences>>,
    pub(super) membership: Membership,
    pub(super) register: Register,
    pub(super) proposals: Proposals,
    pub(super) start: Start,
    pub(super) confirmation: Confirmation,
    pub(super) records: Records,
    pub(super) sightings: Sightings,
    pub(super) positions: Positions,
    pub(super) addresses: BTreeMap<NodeId, Addresses>,
    /// Where a handshake found members in a life that gossip has not told of yet.
    pub(super) located: BTreeMap<NodeId, (Incarnation, String)>,
    /// The start of each peer that was let in last, and when.
    pub(super) greeted: BTreeMap<NodeId, (Start, Time)>,
    pub(super) peers: Peers,
    /// Members that a recovery left behind in this life of the node: connections of theirs may still stand.
    pub(super) left_behind: BTreeSet<NodeId>,
    /// When each member's health changed last.
    pub(super) health_since: BTreeMap<NodeId, Time>,
    pub(super) lineage: Lineage,
    pub(super) memory: RequestMemory,
    pub(super) clock: HybridClock,
    pub(super) queue: KeyQueue<KeyWork>,
    pub(super) ranges: Ranges,
    pub(super) parking: Parking<Parked>,
    pub(super) fence: Fence,
    pub(super) coordinator: Coordinator,
    /// What the coordinator wants done, in order.
    pub(super) wanted: VecDeque<replication::Effect>,
    /// Whether its part in a change was looked at since it started.
    pub(super) has_begun: bool,
    /// When it wants a tick.
    pub(super) wakes: BTreeSet<u64>,
    pub(super) calls: Calls,
    pub(super) admission: Admission,
    pub(super) forwards: Forwards,
    pub(super) hints: Hints,
    pub(super) anti_entropy: AntiEntropy,
    pub(super) refilling: Refilling,
    pub(super) transition: Transition,
    pub(super) purging: Purging,
    pub(super) snapshots: Snapshots,
    pub(super) names: Names,
    pub(super) staged: Vec<StagedAt>,
    pub(super) cuts: Cuts,
    pub(super) next_op: u64,
    pub(super) figures: Figures,
    /// What clients ask of this node, themselves and through other nodes.
    pub(super) foreground: Foreground,
    /// The last [`Effect::Wake`].
    woken: u64,
    /// The last [`Effect::Peers`].
    pub(super) dialled: Option<Vec<(NodeId, String)>>,
}

/// How far a node is with its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Phase {
    /// At work.
    Running,
    /// [`Event::Stop`] came: finishing what is in flight.
    Draining,
    /// The clean mark is written and not durable yet; nothing is changed any more.
    Marking,
    /// Stopped, or broken.
    Ended,
}

/// What waits for a log position.
#[derive(Debug)]
pub(super) enum Parked {
    /// A message to a peer.
    Send { to: NodeId, message: PeerMessage },
    /// This replica's answer to the own coordinator.
    Answer { op: OpId, answer: Answer },
    /// This replica's answer to the own anti-entropy.
    Repair { op: OpId, answer: Answer, cut: u64 },
    /// The coordinator's own write.
    MintDurable { op: OpId, is_sound: bool },
    /// A reply to a client.
    Reply { origin: Origin, body: ReplyBody },
    /// What the register wants done after a state is durable.
    Register(register::Effect),
    /// That the disk was compared with what others saw of it.
    Compared,
    /// That all is here that this node gains by this layout.
    Ready { layout: u64 },
    /// The clean mark.
    CleanMark,
}

impl Core {
    /// The replica of an opened store: reads what the directory says, and begins a start, durable when this returns.
    /// `replayed` is what the store's recovery replayed. Feed [`Event::Tick`] next.
    /// # Errors
    /// [`StartError`].
    pub fn open(
        config: CoreConfig,
        store: Arc<Store>,
        replayed: Replayed,
        now: Time,
        mut rng: ChaCha8Rng,
    ) -> Result<Self, StartError> {
        let me = config.identity.node;
        let opened = open(&store, &config.identity, &mut rng)?;
        let layout = Arc::clone(&opened.register.chosen);
        let tag = LayoutTag::of(&layout);
        let members = members_of(&layout);
        let entry = MemberEntry {
            id: me,
            start: opened.start,
            heartbeat: 0,
            addresses: config.addresses.clone(),
            layout: tag,
            log_position: 0,
            ready: 0,
        };
        let gossip =
            membership::Config { interval: config.gossip_interval, seeds: config.seeds.clone() };
        let register = Register::new(now, me, opened.register, &mut rng);
        let preferences = Arc::new(Preferences::new(Arc::new(layout.now.clone())));
        let next_preferences = next_preferences(&layout);
        let anti_entropy = AntiEntropy::new(&config, me, &preferences);
        let refilling = Refilling::open(&store, layout.now.q)?;
        let transition = Transition::open(&store)?;
        let reachable = |_| Reachability::Unreachable;
        let foreground = Foreground::default();
        let view = View {
            me,
            preferences: &preferences,
            next: None,
            recovers: layout.recovers,
            reachable: &reachable,
            foreground: foreground.load(now),
            now,
        };
        let hints = Hints::open(&store, &view, config.hints.ttl, &mut rng)?;
        let cuts = Cuts::open(&store, now, config.gossip_interval)?;
        let names = Names::open(&store)?;
        let next_op = rng.random_range(0..1 << FIRST_OP_BITS);
        Ok(Self {
            me,
            now,
            started: now,
            phase: Phase::Running,
            layout,
            tag,
            preferences,
            next_preferences,
            membership: Membership::new(gossip, now, entry, &members),
            register,
            proposals: Proposals::default(),
            start: opened.start,
            confirmation: Confirmation::new(now, me, opened.start, opened.recovered, &members),
            records: Records::new(opened.others),
            sightings: Sightings::new(opened.sightings),
            positions: Positions::new(&store, now),
            addresses: opened.addresses,
            located: BTreeMap::new(),
            greeted: BTreeMap::new(),
            peers: Peers::default(),
            left_behind: BTreeSet::new(),
            health_since: BTreeMap::new(),
            lineage: opened.lineage,
            memory: replayed.into_memory(),
            clock: HybridClock::default(),
            queue: KeyQueue::default(),
            ranges: Ranges::default(),
            parking: Parking::default(),
            fence: Fence::default(),
            coordinator: Coordinator::new(),
            wanted: VecDeque::new(),
            has_begun: false,
            wakes: BTreeSet::new(),
            calls: Calls::default(),
            admission: Admission::new(config.limits.requests, now),
            forwards: Forwards::default(),
            hints,
            anti_entropy,
            refilling,
            transition,
            purging: Purging::default(),
            snapshots: Snapshots::default(),
            names,
            staged: opened.staged,
            cuts,
            next_op,
            figures: Figures::new(now, (config.cpu_time)()),
            foreground,
            woken: 0,
            dialled: None,
            config,
            store,
            rng,
        }
        .with_verdict())
    }

    /// Folds one event in; what must happen next is appended to `effects`, to be carried out in order.
    pub fn handle(&mut self, now: Time, event: Event, effects: &mut Vec<Effect>) {
        if self.phase == Phase::Ended {
            return;
        }
        self.notice_standstill(now, effects);
        self.now = now;
        self.run_timers(effects);
        match event {
            Event::Client { caller, request } => self.client(caller, request, effects),
            // Its requests go on: what was begun is finished. Their replies go nowhere: the runtime knows who is there.
            // A tick, like any event, runs what is due; so does news of the log, which the store knows better.
            Event::ClientGone(_) | Event::Tick | Event::Durable(_) => {}
            Event::Peer { from, frame } => self.peer_frame(from, frame, effects),
            Event::PeerConnected { peer, sent } => self.peer_connected(peer, sent, effects),
            Event::PeerUnreachable(peer) => self.peer_unreachable(peer, effects),
            Event::Located { peer, incarnation, address } => {
                self.located(peer, Incarnation(incarnation), address, effects);
            }
            Event::Read { token, result } => self.read_done(token, result, effects),
            Event::Scanned { token, result } => self.slice_done(token, result, effects),
            Event::Mended { keys, result } => self.mended(&keys, result, effects),
            Event::Snapshot(news) => self.snapshot_news(news, effects),
            Event::HintLimits(limits) => self.limit_hints(limits, effects),
            Event::Stop => {
                if self.phase == Phase::Running {
                    self.phase = Phase::Draining;
                }
            }
        }
        if self.phase == Phase::Ended {
            return;
        }
        self.settle(effects);
        self.ask_to_be_woken(effects);
    }

    /// Lets go what has become durable, does what the coordinator wants, until nothing is left to do at this instant.
    fn settle(&mut self, effects: &mut Vec<Effect>) {
        loop {
            let released = self.parking.release(self.store.durable());
            let is_idle = released.is_empty()
                && self.wanted.is_empty()
                && self.anti_entropy.answered.is_empty();
            for parked in released {
                self.let_go(parked, effects);
            }
            while let Some(wanted) = self.wanted.pop_front() {
                self.carry_out(wanted, effects);
            }
            while let Some((op, answer, cut)) = self.anti_entropy.answered.pop_front() {
                self.repair_answered(op, answer, cut, effects);
            }
            if is_idle {
                break;
            }
        }
        self.drain(effects);
    }

    /// Does what waited for the log, or parks it until the log is durable up to `position`.
    pub(super) fn once_durable(
        &mut self,
        position: LogPosition,
        parked: Parked,
        effects: &mut Vec<Effect>,
    ) {
        if position <= self.store.durable() || planted::is_on(Bug::AnswerBeforeDurable) {
            self.let_go(parked, effects);
        } else {
            self.parking.park(position, parked);
        }
    }

    fn let_go(&mut self, parked: Parked, effects: &mut Vec<Effect>) {
        match parked {
            Parked::Send { to, message } => self.send(to, message, effects),
            Parked::Answer { op, answer } => {
                if !self.hint_answered(self.me, self.layout.version, op, &answer, effects) {
                    self.coordinate(Input::Answer { from: self.me, op, answer });
                }
            }
            Parked::Repair { op, answer, cut } => {
                self.anti_entropy.answered.push_back((op, answer, cut));
            }
            Parked::MintDurable { op, is_sound } => {
                self.coordinate(Input::MintDurable { op, is_sound });
            }
            Parked::Reply { origin, body } => self.reply(origin, body, effects),
            Parked::Register(effect) => self.register_effect(effect, effects),
            Parked::Compared => self.comparison_recorded(),
            Parked::Ready { layout } => self.ready(layout, effects),
            Parked::CleanMark => {
                self.phase = Phase::Ended;
                effects.push(Effect::Stopped);
            }
        }
    }

    /// Feeds the coordinator; what it wants is queued, and done by [`Core::settle`].
    pub(super) fn coordinate(&mut self, input: Input) {
        let reachable = reachability(&self.membership, &self.peers, self.now);
        let view = View {
            me: self.me,
            preferences: &self.preferences,
            next: self.next_preferences.as_deref(),
            recovers: self.layout.recovers,
            reachable: &reachable,
            foreground: self.foreground.load(self.now),
            now: self.now,
        };
        let mut buffer = Vec::new();
        self.coordinator.handle(&view, input, &mut buffer);
        self.wanted.extend(buffer);
    }

    fn carry_out(&mut self, wanted: replication::Effect, effects: &mut Vec<Effect>) {
        match wanted {
            replication::Effect::Ask { to, op, request, deadline } => {
                self.ask(to, op, request, deadline, effects);
            }
            replication::Effect::Mint { op, mint, held_for } => {
                if self.phase == Phase::Marking {
                    // A dot behind the clean mark would be unknown to the next start.
                    self.coordinate(Input::Failed {
                        from: self.me,
                        op,
                        why: FailedWhy::Overloaded,
                    });
                } else if let Some(held_for) = held_for {
                    self.mint_held(op, mint, held_for, effects);
                } else {
                    self.key_work(KeyWork::Mint { op, mint }, effects);
                }
            }
            replication::Effect::Finished { op, result } => self.finish_call(op, result, effects),
            replication::Effect::Wake(at) => {
                self.wakes.insert(at.monotonic);
            }
        }
    }

    fn ask(
        &mut self,
        to: NodeId,
        op: OpId,
        request: Request,
        deadline: Time,
        effects: &mut Vec<Effect>,
    ) {
        if to == self.me {
            let deadline = deadline.monotonic;
            self.replica_request(super::key_work::Asker::Own { op }, request, deadline, effects);
            return;
        }
        match self.peers.deadline_at(to, deadline.monotonic, self.now) {
            Some(deadline) => {
                let (layout, cut) = (self.layout.version, Some(self.cut_of_request(op, &request)));
                let envelope = replication::Envelope { layout, op, cut, body: request };
                self.send(to, PeerMessage::Request { deadline, envelope }, effects);
            }
            None => self.coordinate(Input::Failed { from: to, op, why: FailedWhy::Unreachable }),
        }
    }

    /// Sends to a peer with a connection; to another one nothing is sent.
    pub(super) fn send(&mut self, to: NodeId, message: PeerMessage, effects: &mut Vec<Effect>) {
        if self.peers.is_connected(to) {
            if matches!(message, PeerMessage::Request { .. } | PeerMessage::Forward { .. }) {
                self.peers.asked(to, self.now);
            }
            effects.push(Effect::Send { to, message });
        }
    }

    /// Appends a batch; a store that failed ends the node.
    pub(super) fn write(
        &mut self,
        batch: WriteBatch,
        effects: &mut Vec<Effect>,
    ) -> Result<LogPosition, WriteError> {
        let written = self.store.write(batch);
        match &written {
            Ok(position) => self.positions.wrote(*position),
            Err(error @ WriteError::Failed(_)) => self.end(error.to_string(), effects),
            Err(_) => {}
        }
        written
    }

    /// Our own promise cannot be kept: nothing is done any more.
    pub(super) fn end(&mut self, why: String, effects: &mut Vec<Effect>) {
        if self.phase != Phase::Ended {
            self.phase = Phase::Ended;
            effects.push(Effect::Fatal(why));
        }
    }

    /// Begins a new epoch; the next batch with [`Lineage::record`] makes it durable.
    pub(super) fn raise_epoch(&mut self, why: &str, effects: &mut Vec<Effect>) {
        self.lineage.rise(&mut self.rng);
        self.note_epoch(why, effects);
    }

    /// Before a mint or a clean mark: see [`Lineage::settle`].
    pub(super) fn settle_lineage(&mut self, effects: &mut Vec<Effect>) {
        if self.lineage.settle(&mut self.rng) {
            self.note_epoch("this start is not confirmed by the other members", effects);
        }
    }

    pub(super) fn note_epoch(&mut self, why: &str, effects: &mut Vec<Effect>) {
        self.figures.counters.epochs += 1;
        let counter = self.lineage.actor().epoch.counter;
        effects.push(Effect::Log(Severity::Info, format!("epoch {counter} begins: {why}")));
    }

    /// Something an operator should see in every status.
    pub(super) fn alarm(&mut self, text: String, effects: &mut Vec<Effect>) {
        if self.figures.alarm(&text) {
            effects.push(Effect::Log(Severity::Error, text));
        }
    }

    pub(super) const fn next_op(&mut self) -> OpId {
        self.next_op += 1;
        OpId(self.next_op)
    }

    /// A member alone needs nobody's word for its start.
    fn with_verdict(mut self) -> Self {
        if self.confirmation.verdict() == start::Verdict::Confirmed {
            self.lineage.confirm();
        }
        self
    }

    /// Time went on without this node by more than any deadline, or the wall clock jumped ahead of the monotonic one by
    /// that much: the machine slept.
    fn notice_standstill(&mut self, now: Time, effects: &mut Vec<Effect>) {
        let passed = now.since(self.now);
        let by_wall = Duration::from_micros(now.wall.saturating_sub(self.now.wall));
        if passed.max(by_wall.saturating_sub(passed)) > DEADLINE_MAX && self.now != self.started {
            effects.push(Effect::CloseClients);
        }
    }

    fn run_timers(&mut self, effects: &mut Vec<Effect>) {
        if !std::mem::replace(&mut self.has_begun, true) {
            self.begin_transition(effects);
        }
        self.load_timer();
        self.agreement_timers(effects);
        let due = self.wakes.split_off(&(self.now.monotonic + 1));
        if !mem::replace(&mut self.wakes, due).is_empty() {
            self.coordinate(Input::Tick);
        }
        self.look_at_forwards(effects);
        self.expire_fenced();
        self.hints_timer(effects);
        self.anti_entropy_timer(effects);
        self.refill_timer(effects);
        self.cut_timer(effects);
        self.purge_timer(effects);
    }

    fn ask_to_be_woken(&mut self, effects: &mut Vec<Effect>) {
        if self.phase == Phase::Ended {
            return;
        }
        let agreement = self.agreement_wake().monotonic;
        let rest = [
            self.wakes.first().copied(),
            self.forwards.wake_at(),
            self.hints.wake_at(),
            self.anti_entropy.wake_at(),
            self.refilling.wake_at(),
            self.purging.wake_at(),
            Some(self.cuts.wake_at()),
        ];
        let next = rest.into_iter().flatten().fold(agreement, u64::min).max(self.now.monotonic + 1);
        if next < self.woken || self.woken <= self.now.monotonic {
            self.woken = next;
            effects.push(Effect::Wake(next));
        }
    }

    /// Once all that was in flight at [`Event::Stop`] is finished: the clean mark, which the next start consumes.
    fn drain(&mut self, effects: &mut Vec<Effect>) {
        let is_busy = self.calls.len() + self.forwards.len() + self.queue.len() > 0;
        if self.phase != Phase::Draining || is_busy {
            return;
        }
        self.settle_lineage(effects);
        let mut batch = WriteBatch::new();
        batch.put(meta::clean_key(), meta::encode_clean(self.start.count)).durable().on_reserve();
        self.lineage.record(&mut batch);
        match self.write(batch, effects) {
            Ok(position) => {
                self.lineage.recorded();
                self.phase = Phase::Marking;
                self.once_durable(position, Parked::CleanMark, effects);
            }
            // Without the mark the next start begins a new epoch: that is all the mark is for.
            Err(error) => {
                effects.push(Effect::Log(Severity::Warn, format!("no clean mark: {error}")));
                self.phase = Phase::Ended;
                effects.push(Effect::Stopped);
            }
        }
    }
}

/// Whether each peer can be asked.
pub(super) fn reachability<'a>(
    membership: &'a Membership,
    peers: &'a Peers,
    now: Time,
) -> impl Fn(NodeId) -> Reachability + use<'a> {
    move |node| match (membership.health(node), peers.is_connected(node)) {
        (membership::Health::Down { .. }, _) => Reachability::Down,
        (_, false) => Reachability::Unreachable,
        (_, true) if peers.is_silent(node, now) => Reachability::Silent,
        (_, true) => Reachability::Up,
    }
}

/// The walks of the ring that the layout is on its way to.
pub(super) fn next_preferences(layout: &Layout) -> Option<Arc<Preferences>> {
    layout.next.as_ref().map(|next| Arc::new(Preferences::new(Arc::new(next.clone()))))
}

/// The members of both rings.
pub(super) fn members_of(layout: &Layout) -> BTreeSet<NodeId> {
    layout.members().map(|member| member.id).collect()
}

impl std::fmt::Debug for Core {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Core")
            .field("me", &self.me)
            .field("phase", &self.phase)
            .finish_non_exhaustive()
    }
}
