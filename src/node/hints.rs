//! Hints: what this node keeps for owners that cannot be reached, and hands over when they are back (DESIGN §7).
//!
//! A hint is stored under its target and key, is durable before it counts, and is changed as any key is: serially, from
//! read to append. [`Handoff`] decides what goes when; here its wishes are carried out. The states go as ordinary
//! merges, under operation numbers of their own:
//! ```text
//! operation of a hint's merge := 1:u1 send:u63        a coordinator's has 0 in front
//! ```
//! Invariant: a hint that counted for anything goes when its target, or as many owners as it counted for, merged it durably
//! and it still is what was sent, never before.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use bytes::Bytes;

use crate::cluster::membership::Health;
use crate::node_id::NodeId;
use crate::planted::{self, Bug};
use crate::replication::hinted_handoff::{self, Handoff, Hint, PAGE_ENTRIES, Reply, SendId};
use crate::replication::{
    Answer, Envelope, HeldFor, Local, Mint, OpId, Refusal, Request, View, replica,
};
use crate::ring::Token;
use crate::storage::{Found, LogPosition, ReadError, ScanSlice, Store, WriteBatch, WriteError};
use crate::version::Siblings;
use crate::wire::peer::PeerMessage;

use super::config::HintLimits;
use super::core::{Core, reachability};
use super::event::{Effect, ScanToken};
use super::key_work::{Asker, Gathering, KeyWork, MintHeld, Purpose};
use super::keys;
use super::start::StartError;

/// Marks the operation of a hint's merge.
const SEND_BIT: u64 = 1 << 63;
/// Most bytes of one page of hints.
const PAGE_BYTES: usize = 1 << 20;
/// How long a target has for a hint's merge; after that its answer is of no use.
const MERGE_DEADLINE: Duration = Duration::from_secs(5);

/// The hints of a node.
#[derive(Debug)]
pub(super) struct Hints {
    handoff: Handoff,
    /// Bytes of all hints, as stored.
    bytes: u64,
    /// Whose pages are being read.
    pages: BTreeMap<ScanToken, NodeId>,
}

/// A hint as it stands while work on it runs.
struct Standing {
    hint: Option<Hint>,
    /// Bytes it takes.
    bytes: u64,
    position: LogPosition,
}

impl Hints {
    /// The hints that the store holds: all of them are read once.
    pub(super) fn open(
        store: &Store,
        view: &View<'_>,
        ttl: Duration,
        rng: &mut impl rand::Rng,
    ) -> Result<Self, StartError> {
        let mut hints = Self { handoff: Handoff::new(ttl), bytes: 0, pages: BTreeMap::new() };
        if planted::is_on(Bug::HintsNotFoundAgain) {
            return Ok(hints);
        }
        let (start, end) = keys::hints();
        for entry in store.scan(&start, Some(&end)) {
            let malformed = |source| StartError::Malformed { record: "hint".to_owned(), source };
            let (key, value) = match entry {
                Ok(hint) => hint,
                // What is lost is lost: mending forgets it, and the owners settle what it was with each other.
                Err(ReadError::Corrupt { .. }) => continue,
                Err(source) => {
                    let record = "hints".to_owned();
                    return Err(StartError::Read { record, source: source.into() });
                }
            };
            let (target, _) = keys::parse_hint(&key).map_err(malformed)?;
            let since = Hint::since_of(&value).map_err(malformed)?;
            hints.bytes += value.len() as u64;
            let held = hinted_handoff::Event::Held { target, since };
            hints.handoff.handle(view, held, rng, &mut Vec::new());
        }
        Ok(hints)
    }

    /// How many there are, for whom.
    pub(super) fn held(&self) -> impl Iterator<Item = (NodeId, u64)> + '_ {
        self.handoff.held()
    }

    /// When the machine wants a tick.
    pub(super) fn wake_at(&self) -> Option<u64> {
        self.handoff.wake_at().map(|at| at.monotonic)
    }
}

impl Core {
    /// A state to be held for an owner.
    pub(super) fn hold(
        &mut self,
        asker: Asker,
        request: Request,
        deadline: u64,
        effects: &mut Vec<Effect>,
    ) {
        let Request::Hold { ref key, target, .. } = request else { return };
        let key = key.clone();
        if let Err(refusal) = self.check_hold(asker, &key, target) {
            return self.answer(asker, Answer::Refused(refusal), LogPosition::ZERO, effects);
        }
        self.key_work(KeyWork::Hold { asker, key, target, request, deadline }, effects);
    }

    /// What is held of a key that this node does not own.
    pub(super) fn read_held(
        &mut self,
        asker: Asker,
        key: &Bytes,
        deadline: u64,
        effects: &mut Vec<Effect>,
    ) {
        self.gather_all(key, None, Purpose::Answer { asker, deadline }, effects);
    }

    /// A write of the own coordinator on a key that this node does not own, into the hint for an owner: on all that is
    /// held of the key.
    pub(super) fn mint_held(
        &mut self,
        op: OpId,
        mint: Mint,
        held_for: HeldFor,
        effects: &mut Vec<Effect>,
    ) {
        if self.config.hints.bytes_max <= self.hints.bytes {
            return self.mint_refused(op, &Refusal::DiskFull);
        }
        let (key, layout) = (mint.key.clone(), self.layout.version);
        let work = MintHeld {
            op,
            mint,
            held_for,
            held: Siblings::new(),
            position: LogPosition::ZERO,
            layout,
        };
        self.gather_all(&key, Some(held_for.target), Purpose::Mint(work.into()), effects);
    }

    /// Gathers what is held of a key, but for the hint of `without`.
    fn gather_all(
        &mut self,
        key: &Bytes,
        without: Option<NodeId>,
        purpose: Purpose,
        effects: &mut Vec<Effect>,
    ) {
        let held = self.hints.held().map(|(target, _)| target);
        let targets = held.filter(|target| Some(*target) != without);
        let mut places = vec![keys::data(key)];
        places.extend(targets.map(|target| keys::hint(target, key)));
        let (merged, position) = (Siblings::new(), LogPosition::ZERO);
        let gathering = Gathering { purpose, places, merged, position };
        self.key_work(KeyWork::Gather(gathering), effects);
    }

    /// Takes what one place holds, and goes on to the next, or answers.
    pub(super) fn gather(
        &mut self,
        mut gathering: Gathering,
        held: &Siblings,
        position: LogPosition,
        effects: &mut Vec<Effect>,
    ) {
        let mut alarms = Vec::new();
        gathering.merged.merge(held, &mut alarms);
        gathering.position = gathering.position.max(position);
        gathering.places.pop();
        if !gathering.places.is_empty() {
            return self.key_work(KeyWork::Gather(gathering), effects);
        }
        let Gathering { purpose, merged, position, .. } = gathering;
        match purpose {
            Purpose::Answer { deadline, .. } if deadline <= self.now.monotonic => {
                self.figures.counters.expired += 1;
            }
            Purpose::Answer { asker, .. } => {
                let answer = match self.check_layout(asker) {
                    Ok(()) => Answer::State(merged),
                    Err(refusal) => Answer::Refused(refusal),
                };
                self.answer(asker, answer, position, effects);
            }
            Purpose::Mint(work) => {
                let work = MintHeld { held: merged, position, ..*work };
                self.key_work(KeyWork::MintHeld(work), effects);
            }
        }
    }

    /// Runs `work` on one hint, in order, each on what the one before left.
    pub(super) fn run_on_hint(
        &mut self,
        stored: &Bytes,
        work: VecDeque<KeyWork>,
        found: Result<Found, ReadError>,
        effects: &mut Vec<Effect>,
    ) {
        let mut standing = match found.map_err(|error| error.to_string()).and_then(Standing::of) {
            Ok(standing) => standing,
            Err(error) => {
                self.alarm(format!("a hint cannot be read here: {error}"), effects);
                for work in work {
                    self.refuse(&work, &Refusal::Corrupt, effects);
                }
                return;
            }
        };
        for work in work {
            match work {
                KeyWork::Hold { asker, key, target, request, deadline } => {
                    if deadline <= self.now.monotonic {
                        self.figures.counters.expired += 1;
                    } else if let Err(refusal) = self
                        .check_hold(asker, &key, target)
                        .and_then(|()| self.check_cut(asker, Token::of(&key).slot()))
                    {
                        self.answer(asker, Answer::Refused(refusal), LogPosition::ZERO, effects);
                    } else {
                        self.run_hold(stored, asker, target, &request, &mut standing, effects);
                    }
                }
                KeyWork::MintHeld(work) => {
                    self.run_mint_held(stored, work, &mut standing, effects);
                }
                KeyWork::Forget { target, key, sent } => {
                    self.run_forget(stored, target, &key, &sent, &mut standing, effects);
                }
                KeyWork::Gather(gathering) => {
                    let nothing = Siblings::new();
                    let held = standing.hint.as_ref().map_or(&nothing, |hint| &hint.state);
                    self.gather(gathering, held, standing.position, effects);
                }
                KeyWork::Answer { .. }
                | KeyWork::Mint { .. }
                | KeyWork::Look { .. }
                | KeyWork::Drop { .. }
                | KeyWork::Reap { .. } => {
                    unreachable!("owners' work is on data")
                }
            }
        }
    }

    /// Tells the machine something, and carries out what it wants.
    pub(super) fn hand_over(&mut self, event: hinted_handoff::Event, effects: &mut Vec<Effect>) {
        for wanted in self.hints_wanted(event) {
            match wanted {
                hinted_handoff::Effect::Read { target, from } => {
                    let (first, end) = keys::hints_of(target);
                    let start = from.unwrap_or(first);
                    let token = self.ranges.next_token();
                    self.hints.pages.insert(token, target);
                    let (end, bytes_max) = (Some(end), PAGE_BYTES);
                    effects.push(Effect::Scan {
                        token,
                        start,
                        end,
                        entries_max: PAGE_ENTRIES,
                        bytes_max,
                    });
                }
                hinted_handoff::Effect::Send { id, to, key, state } => {
                    self.send_hint(id, to, key, state, effects);
                }
                hinted_handoff::Effect::Forget { target, key, sent } => {
                    self.key_work(KeyWork::Forget { target, key, sent }, effects);
                }
            }
        }
    }

    /// Hints that could not be read beside damaged ones can be now: all of them are looked for as at a start.
    pub(super) fn find_hints_again(&mut self, effects: &mut Vec<Effect>) {
        let reachable = reachability(&self.membership, &self.peers, self.now);
        let (me, now, preferences) = (self.me, self.now, &self.preferences);
        let (next, recovers) = (None, self.layout.recovers);
        let foreground = self.foreground.load(now);
        let view = View { me, preferences, next, recovers, reachable: &reachable, foreground, now };
        let ttl = if self.gives_up_share() { Duration::ZERO } else { self.config.hints.ttl };
        let found = Hints::open(&self.store, &view, ttl, &mut self.rng);
        drop(reachable);
        match found {
            Ok(hints) => self.hints = hints,
            Err(error) => return self.alarm(format!("hints cannot be read: {error}"), effects),
        }
        let peers: Vec<NodeId> = self.membership.peers().map(|(node, ..)| node).collect();
        for node in peers {
            self.note_reachability(node, effects);
        }
    }

    fn hints_wanted(&mut self, event: hinted_handoff::Event) -> Vec<hinted_handoff::Effect> {
        let reachable = reachability(&self.membership, &self.peers, self.now);
        let view = View {
            me: self.me,
            preferences: &self.preferences,
            next: None,
            recovers: self.layout.recovers,
            reachable: &reachable,
            foreground: self.foreground.load(self.now),
            now: self.now,
        };
        let mut wanted = Vec::new();
        self.hints.handoff.handle(&view, event, &mut self.rng, &mut wanted);
        wanted
    }

    /// How long hints wait, and how much room they have, from now on.
    pub(super) fn limit_hints(&mut self, limits: HintLimits, effects: &mut Vec<Effect>) {
        let before = std::mem::replace(&mut self.config.hints, limits);
        if before.ttl != limits.ttl {
            self.hand_over(hinted_handoff::Event::Ttl(limits.ttl), effects);
        }
    }

    /// Wakes the machine where it asked for it.
    pub(super) fn hints_timer(&mut self, effects: &mut Vec<Effect>) {
        if self.hints.wake_at().is_some_and(|at| at <= self.now.monotonic) {
            self.hand_over(hinted_handoff::Event::Tick, effects);
        }
    }

    /// Whether hints and repairs may go to `node` has perhaps changed.
    pub(super) fn note_reachability(&mut self, node: NodeId, effects: &mut Vec<Effect>) {
        let is_down = matches!(self.membership.health(node), Health::Down { .. });
        let is_reachable = self.peers.is_connected(node) && !is_down;
        let event = if is_reachable {
            hinted_handoff::Event::Reachable(node)
        } else {
            hinted_handoff::Event::Unreachable(node)
        };
        self.hand_over(event, effects);
        self.compare_with(node, is_reachable, effects);
    }

    /// A slice that no range asked for is read: a page of hints, unless nobody waits for it any more.
    pub(super) fn hints_read(
        &mut self,
        token: ScanToken,
        result: Result<ScanSlice, ReadError>,
        effects: &mut Vec<Effect>,
    ) {
        let Some(target) = self.hints.pages.remove(&token) else { return };
        let page = result.map_err(|error| error.to_string()).and_then(|slice| {
            let hints = slice.entries.into_iter().map(|(key, value)| {
                let hint = Hint::decode(&value).map_err(|error| error.to_string())?;
                let (_, key) = keys::parse_hint(&key).map_err(|error| error.to_string())?;
                Ok((Bytes::copy_from_slice(key), hint))
            });
            Ok((hints.collect::<Result<Vec<_>, String>>()?, slice.next))
        });
        let event = match page {
            Ok((hints, next)) => hinted_handoff::Event::Page { target, hints, next },
            Err(error) => {
                self.alarm(format!("hints cannot be read here: {error}"), effects);
                hinted_handoff::Event::Unread(target)
            }
        };
        self.hand_over(event, effects);
    }

    /// Whether hints are held for members that a recovery left behind: they become data of this node before it gives any.
    pub(super) fn holds_for_the_gone(&self) -> bool {
        self.hints.held().any(|(target, _)| self.layout.member(target).is_none())
    }

    /// Whether `asker` is this node, which keeps what it held for somebody else.
    pub(super) const fn keeps_hint(asker: Asker) -> bool {
        matches!(asker, Asker::Own { op } if op.0 & SEND_BIT != 0)
    }

    /// The answer to a hint's merge. False when the operation is not one.
    pub(super) fn hint_answered(
        &mut self,
        from: NodeId,
        layout: u64,
        op: OpId,
        answer: &Answer,
        effects: &mut Vec<Effect>,
    ) -> bool {
        if op.0 & SEND_BIT == 0 {
            return false;
        }
        let reply = match answer {
            Answer::Merged(_) if layout == self.layout.version => Reply::Merged,
            Answer::Refused(Refusal::NotOwner | Refusal::Corrupt) => Reply::Refused,
            _ => Reply::Busy,
        };
        let id = SendId(op.0 & !SEND_BIT);
        self.hand_over(hinted_handoff::Event::Answered { id, from, reply }, effects);
        true
    }

    fn send_hint(
        &mut self,
        id: SendId,
        to: NodeId,
        key: Bytes,
        state: Siblings,
        effects: &mut Vec<Effect>,
    ) {
        let (layout, op) = (self.layout.version, OpId(id.0 | SEND_BIT));
        let body = Request::Merge { key, state, put: None };
        let deadline = self.now.after(MERGE_DEADLINE).monotonic;
        self.figures.counters.hints_sent += 1;
        if to == self.me {
            return self.replica_request(Asker::Own { op }, body, deadline, effects);
        }
        // Without a connection the machine is told apart, or hears of it by the silence.
        if let Some(deadline) = self.peers.deadline_at(to, deadline, self.now) {
            let cut = body.key().map(|key| self.cuts.number(Token::of(key).slot()));
            let envelope = Envelope { layout, op, cut, body };
            self.send(to, PeerMessage::Request { deadline, envelope }, effects);
        }
    }

    /// Whether a state of `key` may be held here for `target`: an owner, which this node is not, but for the hints of
    /// its own coordinator; and as long as there is room.
    fn check_hold(&self, asker: Asker, key: &Bytes, target: NodeId) -> Result<(), Refusal> {
        self.check_layout(asker)?;
        let walk = self.preferences.of_slot(Token::of(key).slot());
        let is_own = matches!(asker, Asker::Own { .. });
        match walk.owns(target) && target != self.me && (is_own || !walk.owns(self.me)) {
            false => Err(Refusal::NotOwner),
            // Who goes keeps nothing for others.
            true if !is_own && self.gives_up_share() => Err(Refusal::NotOwner),
            true if self.config.hints.bytes_max <= self.hints.bytes => Err(Refusal::DiskFull),
            true => Ok(()),
        }
    }

    fn run_hold(
        &mut self,
        stored: &Bytes,
        asker: Asker,
        target: NodeId,
        request: &Request,
        standing: &mut Standing,
        effects: &mut Vec<Effect>,
    ) {
        let Request::Hold { key, w, .. } = request else { return };
        let nothing = Hint { w: *w, since: self.now.wall, state: Siblings::new() };
        let before = standing.hint.as_ref().unwrap_or(&nothing);
        let local = Local {
            now: self.now,
            actor: self.lineage.actor(),
            floor: self.lineage.floor(),
            memory: &mut self.memory,
            clock: &mut self.clock,
        };
        let step = replica::answer(key, &before.state, request, local);
        let hint = Hint {
            w: before.w.max(*w),
            since: before.since,
            state: step.state.unwrap_or_else(|| before.state.clone()),
        };
        self.raise_alarms(&step.alarms, effects);
        // What the own coordinator keeps for another was minted here: the data has it, though no earlier hint does.
        if step.actor_ahead && !matches!(asker, Asker::Own { .. }) {
            self.raise_epoch("a peer knows writes of this node that it has lost", effects);
        }
        match self.store_hint(stored, target, hint, standing, effects) {
            Ok(()) => self.answer(asker, step.answer, standing.position, effects),
            Err(refusal) => {
                self.answer(asker, Answer::Refused(refusal), LogPosition::ZERO, effects);
            }
        }
    }

    /// The write of a stand-in. All of its writes of a key go through one hint, one after the other, and the floor rises
    /// with each: so no dot is minted twice, whatever becomes of the hint.
    fn run_mint_held(
        &mut self,
        stored: &Bytes,
        work: MintHeld,
        standing: &mut Standing,
        effects: &mut Vec<Effect>,
    ) {
        let MintHeld { op, mint, held_for, held, position, layout } = work;
        if layout != self.layout.version {
            let have = self.layout.version;
            return self.mint_refused(op, &Refusal::Layout { have });
        }
        self.settle_lineage(effects);
        self.figures.counters.mints += 1;
        let nothing = Hint { w: held_for.w, since: self.now.wall, state: Siblings::new() };
        let before = standing.hint.as_ref().unwrap_or(&nothing);
        let (mut own, mut alarms) = (before.state.clone(), Vec::new());
        own.merge(&held, &mut alarms);
        let local = Local {
            now: self.now,
            actor: self.lineage.actor(),
            floor: self.lineage.floor(),
            memory: &mut self.memory,
            clock: &mut self.clock,
        };
        let step = replica::mint(&own, &mint, local);
        let (w, since) = (before.w.max(held_for.w), before.since);
        alarms.extend(step.alarms);
        self.raise_alarms(&alarms, effects);
        if step.actor_ahead {
            self.raise_epoch("a peer knows writes of this node that it has lost", effects);
        }
        if let Some(state) = step.state {
            self.lineage.raise_floor(state.clock());
            let hint = Hint { w, since, state };
            if let Err(refusal) = self.store_hint(stored, held_for.target, hint, standing, effects)
            {
                return self.mint_refused(op, &refusal);
            }
        }
        let position = position.max(standing.position);
        self.mint_answered(op, &mint.key, step.answer, position, effects);
    }

    /// Stores a hint where it is another one than the one that stands.
    fn store_hint(
        &mut self,
        stored: &Bytes,
        target: NodeId,
        hint: Hint,
        standing: &mut Standing,
        effects: &mut Vec<Effect>,
    ) -> Result<(), Refusal> {
        if standing.hint.as_ref() == Some(&hint) {
            return Ok(());
        }
        let is_new = standing.hint.is_none();
        let (bytes, since) = (hint.encode(), hint.since);
        let length = bytes.len() as u64;
        let mut batch = WriteBatch::new();
        batch.put(stored, bytes);
        self.append_hint(batch, standing, effects)?;
        self.hints.bytes = self.hints.bytes.saturating_sub(standing.bytes) + length;
        (standing.hint, standing.bytes) = (Some(hint), length);
        if is_new {
            self.figures.counters.hints_stored += 1;
            self.hand_over(hinted_handoff::Event::Held { target, since }, effects);
        }
        Ok(())
    }

    fn run_forget(
        &mut self,
        stored: &Bytes,
        target: NodeId,
        key: &Bytes,
        sent: &Hint,
        standing: &mut Standing,
        effects: &mut Vec<Effect>,
    ) {
        if standing.hint.as_ref() != Some(sent) {
            return;
        }
        // What an owner keeps of its own coordination its data remembers; with any other hint something is forgotten.
        let is_remembered = self.owns(Token::of(key).slot()) && sent.w == 0;
        if !is_remembered && self.lineage.drop_state(&sent.state, &mut self.rng) {
            self.note_epoch("a value of the present one was handed over", effects);
        }
        let mut batch = WriteBatch::new();
        batch.delete(stored).on_reserve();
        if self.append_hint(batch, standing, effects).is_ok() {
            // One that a start could not read was not counted, and may have been read since.
            self.hints.bytes = self.hints.bytes.saturating_sub(standing.bytes);
            (standing.hint, standing.bytes) = (None, 0);
            self.hand_over(hinted_handoff::Event::Gone(target), effects);
        }
    }

    fn append_hint(
        &mut self,
        mut batch: WriteBatch,
        standing: &mut Standing,
        effects: &mut Vec<Effect>,
    ) -> Result<(), Refusal> {
        self.lineage.record(&mut batch);
        match self.write(batch, effects) {
            Ok(position) => {
                self.lineage.recorded();
                standing.position = position;
                Ok(())
            }
            Err(WriteError::Full) => Err(Refusal::DiskFull),
            Err(
                WriteError::Overloaded { .. } | WriteError::Failed(_) | WriteError::TooLarge { .. },
            ) => Err(Refusal::Overloaded),
        }
    }
}

impl Standing {
    fn of(found: Found) -> Result<Self, String> {
        let Found { value, position } = found;
        let bytes = value.as_ref().map_or(0, |value| value.len() as u64);
        let hint = value.as_ref().map(Hint::decode).transpose();
        let hint = hint.map_err(|error| error.to_string())?;
        Ok(Self { hint, bytes, position })
    }
}
