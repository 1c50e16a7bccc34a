//! Filling: data that an owner lacks comes from the other owners, because it was lost with a disk, a table or a log
//! (DESIGN §7), or because a change of the layout makes this node an owner (§8).
//!
//! A slot whose data was *lost* in part is *unsound*: it takes writes, and answers no read. It is sound again once every
//! state, tombstones too, of enough sound owners was merged: k = min(max(r, N − w + 1), N − 1), so that whatever a
//! quorum may know through this node is here again. A partition that is *gained* answers with what it has: a quorum of the
//! ring that goes is asked besides. It is there once all of the owner whose place this node takes was merged, or of
//! k = max(r, N − w + 1) owners of the ring that goes. Both are filled a partition at a time, page by page, from one owner
//! after the other.
//!
//! ```text
//! lost   ──▶ page, page, … from owner 1 ──▶ … from owner k ──▶ leaves worked out anew ──▶ sound
//! gained ──▶ page, page, … from the owner that loses it, or from k owners ──▶ there
//! ```
//! A slot that this node does not own holds nothing that counts; but its cut number must be known before a hint is taken,
//! or a state of a partition that it gains, so that is asked for, and no page.
//!
//! With k = 0, or too few sound owners left, a slot stays unsound until they are back or an operator accepts the loss.
//!
//! Pace: what was lost comes at a rate. What is gained comes as fast as it is given, but an owner that takes its time
//! over a page, because it serves others, is left alone for as long again. While clients ask anything of this node,
//! one page is under way, and each is followed by a pause that grows with what it took (`ForegroundLoad`).
//!
//! In a recovery after the loss of a majority a partition is gained from *everyone*: each other member gives all that it
//! holds of it. Then nothing more of it can be lost, so that with the gain its unsound slots are filled, too.

#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;

use crate::cluster::Time;
use crate::node_id::NodeId;
use crate::replication::ForegroundLoad;
use crate::ring::{Partition, Preferences, Ring, Slot};

use super::turns::{PAUSE, Turns};

/// Partitions refilled at once.
const PARTITIONS_IN_FLIGHT: usize = 8;
/// An owner that gives no page for so long is asked again.
const SILENCE_MAX: Duration = Duration::from_secs(10);
/// A page of what is gained that took longer is followed by a pause as long.
const PAGE_SLOW: Duration = Duration::from_millis(50);
/// The longest of those pauses.
const PAGE_PAUSE_MAX: Duration = Duration::from_secs(30);

/// What a node knows beside its unsound slots.
#[expect(missing_debug_implementations, reason = "two of its fields are questions")]
#[derive(Clone, Copy)]
pub struct Known<'a> {
    /// The node.
    pub me: NodeId,
    /// Who owns what.
    pub preferences: &'a Preferences,
    /// Whether another member is up and connected.
    pub reachable: &'a dyn Fn(NodeId) -> bool,
    /// Whether the cut numbers of a partition are known.
    pub is_numbered: &'a dyn Fn(Partition) -> bool,
    /// Most bytes to be fetched a second.
    pub rate: u64,
    /// What clients ask of the node.
    pub foreground: ForegroundLoad,
}

/// What a node lacks.
#[derive(Debug, Default)]
pub struct Refill {
    partitions: BTreeMap<Partition, Unsound>,
    gains: BTreeMap<Partition, Gain>,
    /// When what was moved is paid for.
    paid_at: Option<Time>,
    /// Clients are given way to until then.
    yields_until: Option<Time>,
}

/// What reaches the machine.
#[derive(Clone, Debug, PartialEq)]
pub enum Event {
    /// A page was merged, durably.
    Merged {
        /// Of which partition.
        partition: Partition,
        /// From whom.
        source: NodeId,
        /// Behind what the next page begins; `None` when that was the last.
        next: Option<(Slot, Bytes)>,
        /// Bytes of its states.
        bytes: u64,
    },
    /// An owner gave no page, or it could not be merged.
    Failed {
        /// Of which partition.
        partition: Partition,
        /// Who.
        source: NodeId,
    },
    /// Time has passed, or an owner can be reached again.
    Tick,
}

/// What shall happen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Effect {
    /// Ask this owner for its cut numbers where they are not known yet, then for a page where states are wanted, and merge
    /// that.
    Fetch {
        /// Whom.
        source: NodeId,
        /// What of it.
        wants: Wants,
        /// First and last slot.
        slots: (Slot, Slot),
        /// Behind what it begins.
        after: Option<(Slot, Bytes)>,
    },
    /// These slots have all that they can get: work their leaves out and let them be sound.
    Refilled(Vec<Slot>),
    /// This partition has all that it needs by the change that runs.
    Gained(Partition),
}

/// What is wanted of an owner.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wants {
    /// Its cut numbers: the slots are another's.
    Numbers,
    /// Its states, too, because they were lost here.
    Lost,
    /// Its states, too, because this node becomes an owner.
    Gained,
}

#[derive(Debug)]
struct Unsound {
    slots: BTreeSet<u16>,
    filling: Filling,
    /// Done; its leaves are being worked out.
    is_refilled: bool,
}

/// Who gives what is gained, and how many of them are enough.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Sources {
    /// Owners: all that the first one holds, whose place this node takes, is enough, or all of so many.
    Owners {
        /// Whose place this node takes.
        first: Option<NodeId>,
        /// How many are enough otherwise.
        needed: usize,
    },
    /// Every one of these, whatever it owns.
    Everyone(Arc<BTreeSet<NodeId>>),
}

/// A partition that is gained.
#[derive(Debug)]
struct Gain {
    slots: (Slot, Slot),
    sources: Sources,
    filling: Filling,
    /// Slots that the present owner has given.
    given: u16,
}

/// How far the owners have given.
#[derive(Debug)]
struct Filling {
    /// Owners from whom all was merged.
    merged: BTreeSet<NodeId>,
    fetching: Option<Fetching>,
    /// Where the present owner goes on.
    next: Option<(NodeId, (Slot, Bytes))>,
    turns: Turns,
    again_at: Time,
}

#[derive(Debug)]
struct Fetching {
    source: NodeId,
    since: Time,
}

/// How many sound owners must have given all of a slot; 0 where there are none to ask.
pub fn sources_needed(ring: &Ring) -> usize {
    let (n, r, w) = (ring.effective_n(), ring.effective_r(), ring.effective_w());
    r.max(n + 1 - w).min(n - 1)
}

impl Refill {
    /// These slots are unsound from now on, whatever was merged before.
    pub fn begin(&mut self, q: u32, slots: impl IntoIterator<Item = Slot>) {
        for slot in slots {
            let unsound = self.partitions.entry(slot.partition(q)).or_insert_with(Unsound::new);
            unsound.slots.insert(slot.0);
            unsound.filling.merged.clear();
            (unsound.filling.fetching, unsound.filling.next) = (None, None);
            unsound.is_refilled = false;
            // What came of a partition that is gained may be lost with it.
            if let Some(gain) = self.gains.get_mut(&slot.partition(q)) {
                (gain.filling, gain.given) = (Filling::new(), 0);
            }
        }
    }

    /// This partition is gained from now on.
    pub fn gain(&mut self, partition: Partition, slots: (Slot, Slot), sources: Sources) {
        let gain = Gain { slots, sources, filling: Filling::new(), given: 0 };
        self.gains.insert(partition, gain);
    }

    /// Nothing is gained any more; whether it came.
    pub fn forget_gains(&mut self) {
        self.gains.clear();
    }

    /// Whether everything that is gained has come.
    pub fn has_gained_all(&self) -> bool {
        self.gains.is_empty()
    }

    /// About how many slots have come of partitions that are gained and have not come in full.
    pub fn slots_gained(&self) -> u64 {
        self.gains.values().map(Gain::slots_come).sum()
    }

    /// Whether `slot`, of a ring of `q` partitions, is unsound.
    pub fn is_unsound(&self, q: u32, slot: Slot) -> bool {
        !self.partitions.is_empty()
            && self
                .partitions
                .get(&slot.partition(q))
                .is_some_and(|unsound| unsound.slots.contains(&slot.0))
    }

    /// Whether every slot is sound.
    pub fn is_empty(&self) -> bool {
        self.partitions.is_empty()
    }

    /// How many slots are unsound.
    pub fn len(&self) -> usize {
        self.partitions.values().map(|unsound| unsound.slots.len()).sum()
    }

    /// All of them.
    pub fn slots(&self) -> impl Iterator<Item = Slot> + '_ {
        self.partitions.values().flat_map(|unsound| unsound.slots.iter().copied().map(Slot))
    }

    /// These slots are sound: refilled, or their loss was accepted.
    pub fn end(&mut self, q: u32, slots: &[Slot]) {
        for slot in slots {
            let partition = slot.partition(q);
            if let Some(unsound) = self.partitions.get_mut(&partition) {
                unsound.slots.remove(&slot.0);
                if unsound.slots.is_empty() {
                    self.partitions.remove(&partition);
                }
            }
        }
    }

    /// Folds one event in; what must happen next is appended to `effects`.
    pub fn handle(
        &mut self,
        now: Time,
        event: Event,
        known: &Known<'_>,
        effects: &mut Vec<Effect>,
    ) {
        match event {
            Event::Merged { partition, source, next, bytes } => {
                self.merged(now, (partition, source), next, bytes, known);
            }
            Event::Failed { partition, source } => {
                if let Some(filling) = self.fetching_from(partition, source) {
                    filling.fail(now);
                }
            }
            Event::Tick => {}
        }
        self.advance(now, known, effects);
    }

    /// When [`Event::Tick`] is wanted.
    pub fn wake_at(&self, now: Time) -> Option<Time> {
        let open = self.partitions.iter().filter(|(partition, unsound)| {
            !unsound.is_refilled && !is_recovered(&self.gains, **partition)
        });
        let lost = open.map(|(_, unsound)| unsound.filling.wake_at()).min();
        // What waits for the rate, or for an owner that cannot be reached, is looked at again before long.
        let lost = lost.map(|next| next.max(self.paid_at.unwrap_or(now)).max(now.after(PAUSE / 5)));
        let gained = self.gains.values().map(|gain| gain.filling.wake_at()).min();
        let gained = gained.map(|next| next.max(now.after(PAGE_SLOW)));
        let wanted = lost.into_iter().chain(gained).min()?;
        Some(wanted.max(self.yields_until.unwrap_or(wanted)))
    }

    fn merged(
        &mut self,
        now: Time,
        (partition, source): (Partition, NodeId),
        next: Option<(Slot, Bytes)>,
        bytes: u64,
        known: &Known<'_>,
    ) {
        let is_lost =
            self.partitions.contains_key(&partition) && !is_recovered(&self.gains, partition);
        let Some(filling) = self.fetching_from(partition, source) else { return };
        let took =
            filling.fetching.take().map_or(Duration::ZERO, |fetching| now.since(fetching.since));
        filling.turns.gave();
        if next.is_none() {
            filling.merged.insert(source);
        }
        let behind = next.as_ref().map(|(slot, _)| *slot);
        filling.next = next.map(|next| (source, next));
        if !is_lost && PAGE_SLOW < took {
            filling.again_at = now.after(took.min(PAGE_PAUSE_MAX));
        }
        if let Some(gain) = self.gains.get_mut(&partition).filter(|_| !is_lost) {
            let given = |slot: Slot| slot.0.saturating_sub(gain.slots.0.0);
            gain.given = behind.map_or(0, given);
        }
        if is_lost {
            let cost = Duration::from_micros(bytes * 1_000_000 / known.rate.max(1));
            self.paid_at = Some(self.paid_at.map_or(now, |at| at.max(now)).after(cost));
        }
        self.yields_until = Some(now.after(known.foreground.pause_after(took)));
    }

    /// The filling of `partition`, if `source` is asked for it. What is lost comes before what is gained, but for a
    /// recovery.
    fn fetching_from(&mut self, partition: Partition, source: NodeId) -> Option<&mut Filling> {
        let lost = self.partitions.get_mut(&partition);
        let filling = match lost.filter(|_| !is_recovered(&self.gains, partition)) {
            Some(unsound) => &mut unsound.filling,
            None => &mut self.gains.get_mut(&partition)?.filling,
        };
        let is_from = |fetching: &Fetching| fetching.source == source;
        filling.fetching.as_ref().is_some_and(is_from).then_some(filling)
    }

    fn advance(&mut self, now: Time, known: &Known<'_>, effects: &mut Vec<Effect>) {
        let lost = self.partitions.values_mut().map(|unsound| &mut unsound.filling);
        for filling in lost.chain(self.gains.values_mut().map(|gain| &mut gain.filling)) {
            if filling.fetching.as_ref().is_some_and(|at| SILENCE_MAX <= now.since(at.since)) {
                filling.fail(now);
            }
        }
        let fillings = self.partitions.values().map(|unsound| &unsound.filling);
        let fillings = fillings.chain(self.gains.values().map(|gain| &gain.filling));
        let in_flight = fillings.filter(|filling| filling.fetching.is_some()).count();
        let in_flight_max = if known.foreground.is_any() { 1 } else { PARTITIONS_IN_FLIGHT };
        let mut room = in_flight_max.saturating_sub(in_flight);
        if self.yields_until.is_some_and(|until| now < until) {
            room = 0;
        }
        self.advance_lost(now, known, &mut room, effects);
        self.advance_gains(now, known, &mut room, effects);
    }

    fn advance_lost(
        &mut self,
        now: Time,
        known: &Known<'_>,
        room: &mut usize,
        effects: &mut Vec<Effect>,
    ) {
        let needed = sources_needed(known.preferences.ring());
        for (partition, unsound) in &mut self.partitions {
            let comes_with_gain = is_recovered(&self.gains, *partition);
            if comes_with_gain || unsound.is_refilled || !unsound.filling.is_idle(now) {
                continue;
            }
            let is_owner = known.preferences.of_partition(*partition).owns(known.me);
            let is_complete = if is_owner {
                needed > 0 && needed <= unsound.filling.merged.len()
            } else {
                (known.is_numbered)(*partition)
            };
            if is_complete {
                effects.push(unsound.refilled());
                continue;
            }
            if *room == 0 || self.paid_at.is_some_and(|at| now < at) {
                continue;
            }
            let wants = if is_owner { Wants::Lost } else { Wants::Numbers };
            let (slots, owners) = (unsound.range(), Sources::Owners { first: None, needed });
            if let Some((source, after)) = unsound.filling.go_on(now, *partition, known, &owners) {
                *room -= 1;
                effects.push(Effect::Fetch { source, wants, slots, after });
            }
        }
    }

    fn advance_gains(
        &mut self,
        now: Time,
        known: &Known<'_>,
        room: &mut usize,
        effects: &mut Vec<Effect>,
    ) {
        let Self { partitions, gains, .. } = self;
        gains.retain(|partition, gain| {
            let lost = partitions.get_mut(partition);
            let comes_behind = lost.is_some() && !gain.sources.are_all();
            if comes_behind || !gain.filling.is_idle(now) {
                return true;
            }
            if gain.sources.are_enough(&gain.filling.merged) {
                if let Some(unsound) = lost {
                    effects.push(unsound.refilled());
                }
                effects.push(Effect::Gained(*partition));
                return false;
            }
            if *room == 0 {
                return true;
            }
            let (wants, slots, sources) = (Wants::Gained, gain.slots, &gain.sources);
            if let Some((source, after)) = gain.filling.go_on(now, *partition, known, sources) {
                if after.is_none() {
                    gain.given = 0;
                }
                *room -= 1;
                effects.push(Effect::Fetch { source, wants, slots, after });
            }
            true
        });
    }
}

impl Sources {
    const fn are_all(&self) -> bool {
        matches!(self, Self::Everyone(_))
    }

    fn are_enough(&self, merged: &BTreeSet<NodeId>) -> bool {
        match self {
            Self::Owners { first, needed } => {
                *needed <= merged.len() || first.is_some_and(|first| merged.contains(&first))
            }
            Self::Everyone(members) => members.is_subset(merged),
        }
    }
}

/// Whether a partition is gained from everyone.
fn is_recovered(gains: &BTreeMap<Partition, Gain>, partition: Partition) -> bool {
    gains.get(&partition).is_some_and(|gain| gain.sources.are_all())
}

impl Unsound {
    const fn new() -> Self {
        Self { slots: BTreeSet::new(), filling: Filling::new(), is_refilled: false }
    }

    /// It has all that it can get.
    fn refilled(&mut self) -> Effect {
        self.is_refilled = true;
        Effect::Refilled(self.slots.iter().copied().map(Slot).collect())
    }

    fn range(&self) -> (Slot, Slot) {
        let ends = (self.slots.first(), self.slots.last());
        let slot = |end: Option<&u16>| Slot(end.copied().unwrap_or_default());
        (slot(ends.0), slot(ends.1))
    }
}

impl Gain {
    /// About how many of its slots have come, where several owners are needed: of what they all hold.
    fn slots_come(&self) -> u64 {
        let slots = u64::from(self.slots.1.0 - self.slots.0.0) + 1;
        let (first, needed) = match &self.sources {
            Sources::Owners { first, needed } => (*first, *needed),
            Sources::Everyone(members) => (None, members.len()),
        };
        let is_enough = |source: NodeId| first == Some(source);
        let fetching = self.filling.fetching.as_ref().map(|fetching| fetching.source);
        let source = fetching.or(self.filling.next.as_ref().map(|(source, _)| *source));
        if source.is_some_and(is_enough) {
            return u64::from(self.given).min(slots);
        }
        let come = self.filling.merged.len() as u64 * slots + u64::from(self.given);
        (come / needed.max(1) as u64).min(slots)
    }
}

impl Filling {
    const fn new() -> Self {
        Self {
            merged: BTreeSet::new(),
            fetching: None,
            next: None,
            turns: Turns::new(),
            again_at: Time { monotonic: 0, wall: 0 },
        }
    }

    fn is_idle(&self, now: Time) -> bool {
        self.fetching.is_none() && self.again_at <= now
    }

    fn wake_at(&self) -> Time {
        match &self.fetching {
            Some(fetching) => fetching.since.after(SILENCE_MAX),
            None => self.again_at,
        }
    }

    /// Whom to ask for which page now: the present owner for its next one, or the next owner; rests where nobody can be.
    fn go_on(
        &mut self,
        now: Time,
        partition: Partition,
        known: &Known<'_>,
        sources: &Sources,
    ) -> Option<(NodeId, Option<(Slot, Bytes)>)> {
        let going_on = self.next.take().filter(|(source, _)| (known.reachable)(*source));
        let going_on = going_on.map(|(source, after)| (source, Some(after)));
        let next = going_on.or_else(|| Some((self.next_source(partition, known, sources)?, None)));
        match &next {
            Some((source, _)) => self.fetching = Some(Fetching { source: *source, since: now }),
            None => self.again_at = now.after(PAUSE),
        }
        next
    }

    /// The owner that gives next; those that gave nothing come behind the others.
    fn next_source(
        &mut self,
        partition: Partition,
        known: &Known<'_>,
        sources: &Sources,
    ) -> Option<NodeId> {
        let merged = &self.merged;
        let is_open = |node: &NodeId| !merged.contains(node) && (known.reachable)(*node);
        match sources {
            Sources::Owners { first, .. } => {
                let owners = known.preferences.of_partition(partition).owners();
                self.turns.next(owners.filter(is_open), *first)
            }
            Sources::Everyone(members) => {
                self.turns.next(members.iter().copied().filter(is_open), None)
            }
        }
    }

    fn fail(&mut self, now: Time) {
        let source = self.fetching.take().map(|fetching| fetching.source);
        self.again_at = now.after(self.turns.refused(source));
    }
}
