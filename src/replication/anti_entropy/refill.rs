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
//! over a page, because it serves others, is left alone for as long again.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use bytes::Bytes;

use crate::cluster::Time;
use crate::node_id::NodeId;
use crate::ring::{Partition, Preferences, Ring, Slot};

/// Partitions refilled at once.
const PARTITIONS_IN_FLIGHT: usize = 8;
/// The pause after an owner could not give a page, doubled each time, at most.
const PAUSE: Duration = Duration::from_millis(500);
const PAUSE_MAX: Duration = Duration::from_secs(30);
/// An owner that gives no page for so long is asked again.
const SILENCE_MAX: Duration = Duration::from_secs(10);
/// A page of what is gained that took longer is followed by a pause as long.
const PAGE_SLOW: Duration = Duration::from_millis(50);

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
}

/// What a node lacks.
#[derive(Debug, Default)]
pub struct Refill {
    partitions: BTreeMap<Partition, Unsound>,
    gains: BTreeMap<Partition, Gain>,
    /// When what was moved is paid for.
    paid_at: Option<Time>,
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

/// A partition that is gained.
#[derive(Debug)]
struct Gain {
    slots: (Slot, Slot),
    /// The owner whose place this node takes: all that it holds is enough.
    from: Option<NodeId>,
    /// How many owners are enough otherwise.
    needed: usize,
    filling: Filling,
    /// Where the present owner goes on, after a pause.
    next: Option<(NodeId, (Slot, Bytes))>,
}

/// How far the owners have given.
#[derive(Debug)]
struct Filling {
    /// Owners from whom all was merged.
    merged: BTreeSet<NodeId>,
    fetching: Option<Fetching>,
    /// Owners that gave nothing when they were asked; the others come before them.
    refused: BTreeSet<NodeId>,
    again_at: Time,
    pause: Duration,
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
            unsound.filling.fetching = None;
            unsound.is_refilled = false;
            // What came of a partition that is gained may be lost with it.
            if let Some(gain) = self.gains.get_mut(&slot.partition(q)) {
                (gain.filling, gain.next) = (Filling::new(), None);
            }
        }
    }

    /// This partition is gained from now on: all of `from` is enough, or of so many owners.
    pub fn gain(
        &mut self,
        partition: Partition,
        slots: (Slot, Slot),
        from: Option<NodeId>,
        needed: usize,
    ) {
        let gain = Gain { slots, from, needed, filling: Filling::new(), next: None };
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
                self.merged(now, (partition, source), next, bytes, known.rate, effects);
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
        let open = self.partitions.values().filter(|unsound| !unsound.is_refilled);
        let lost = open.map(|unsound| unsound.filling.wake_at()).min();
        // What waits for the rate, or for an owner that cannot be reached, is looked at again before long.
        let lost = lost.map(|next| next.max(self.paid_at.unwrap_or(now)).max(now.after(PAUSE / 5)));
        let gained = self.gains.values().map(|gain| gain.filling.wake_at()).min();
        lost.into_iter().chain(gained.map(|next| next.max(now.after(PAGE_SLOW)))).min()
    }

    fn merged(
        &mut self,
        now: Time,
        (partition, source): (Partition, NodeId),
        next: Option<(Slot, Bytes)>,
        bytes: u64,
        rate: u64,
        effects: &mut Vec<Effect>,
    ) {
        let Some(filling) = self.fetching_from(partition, source) else { return };
        let took =
            filling.fetching.take().map_or(Duration::ZERO, |fetching| now.since(fetching.since));
        filling.pause = PAUSE;
        filling.refused.clear();
        if next.is_none() {
            filling.merged.insert(source);
        }
        if let Some(unsound) = self.partitions.get_mut(&partition) {
            let cost = Duration::from_micros(bytes * 1_000_000 / rate.max(1));
            self.paid_at = Some(self.paid_at.map_or(now, |at| at.max(now)).after(cost));
            if next.is_some() {
                let slots = unsound.range();
                unsound.filling.fetching = Some(Fetching { source, since: now });
                effects.push(Effect::Fetch { source, wants: Wants::Lost, slots, after: next });
            }
        } else if let Some(gain) = self.gains.get_mut(&partition) {
            if PAGE_SLOW < took {
                gain.filling.again_at = now.after(took.min(PAUSE_MAX));
            }
            gain.next = next.map(|next| (source, next));
        }
    }

    /// The filling of `partition`, if `source` is asked for it. What is lost comes before what is gained.
    fn fetching_from(&mut self, partition: Partition, source: NodeId) -> Option<&mut Filling> {
        let filling = match self.partitions.get_mut(&partition) {
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
        let mut in_flight = fillings.filter(|filling| filling.fetching.is_some()).count();
        self.advance_lost(now, known, &mut in_flight, effects);
        self.advance_gains(now, known, &mut in_flight, effects);
    }

    fn advance_lost(
        &mut self,
        now: Time,
        known: &Known<'_>,
        in_flight: &mut usize,
        effects: &mut Vec<Effect>,
    ) {
        let needed = sources_needed(known.preferences.ring());
        for (partition, unsound) in &mut self.partitions {
            if unsound.is_refilled || !unsound.filling.is_idle(now) {
                continue;
            }
            let is_owner = known.preferences.of_partition(*partition).owns(known.me);
            let is_complete = if is_owner {
                needed > 0 && needed <= unsound.filling.merged.len()
            } else {
                (known.is_numbered)(*partition)
            };
            if is_complete {
                unsound.is_refilled = true;
                effects.push(Effect::Refilled(unsound.slots.iter().copied().map(Slot).collect()));
                continue;
            }
            if PARTITIONS_IN_FLIGHT <= *in_flight || self.paid_at.is_some_and(|at| now < at) {
                continue;
            }
            if let Some(source) = unsound.filling.next_source(*partition, known, None) {
                let wants = if is_owner { Wants::Lost } else { Wants::Numbers };
                unsound.filling.fetching = Some(Fetching { source, since: now });
                *in_flight += 1;
                let slots = unsound.range();
                effects.push(Effect::Fetch { source, wants, slots, after: None });
            } else {
                unsound.filling.again_at = now.after(PAUSE);
            }
        }
    }

    fn advance_gains(
        &mut self,
        now: Time,
        known: &Known<'_>,
        in_flight: &mut usize,
        effects: &mut Vec<Effect>,
    ) {
        let Self { partitions, gains, .. } = self;
        gains.retain(|partition, gain| {
            if partitions.contains_key(partition) || !gain.filling.is_idle(now) {
                return true;
            }
            let merged = &gain.filling.merged;
            if gain.needed <= merged.len() || gain.from.is_some_and(|from| merged.contains(&from)) {
                effects.push(Effect::Gained(*partition));
                return false;
            }
            if PARTITIONS_IN_FLIGHT <= *in_flight {
                return true;
            }
            let going_on = gain.next.take().filter(|(source, _)| (known.reachable)(*source));
            let going_on = going_on.map(|(source, after)| (source, Some(after)));
            let next = going_on.or_else(|| {
                let source = gain.filling.next_source(*partition, known, gain.from)?;
                Some((source, None))
            });
            let Some((source, after)) = next else {
                gain.filling.again_at = now.after(PAUSE);
                return true;
            };
            gain.filling.fetching = Some(Fetching { source, since: now });
            *in_flight += 1;
            effects.push(Effect::Fetch { source, wants: Wants::Gained, slots: gain.slots, after });
            true
        });
    }
}

impl Unsound {
    const fn new() -> Self {
        Self { slots: BTreeSet::new(), filling: Filling::new(), is_refilled: false }
    }

    fn range(&self) -> (Slot, Slot) {
        let ends = (self.slots.first(), self.slots.last());
        let slot = |end: Option<&u16>| Slot(end.copied().unwrap_or_default());
        (slot(ends.0), slot(ends.1))
    }
}

impl Filling {
    const fn new() -> Self {
        Self {
            merged: BTreeSet::new(),
            fetching: None,
            refused: BTreeSet::new(),
            again_at: Time { monotonic: 0, wall: 0 },
            pause: PAUSE,
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

    /// The owner that gives next, `first` before the others, and those that gave nothing behind them.
    fn next_source(
        &mut self,
        partition: Partition,
        known: &Known<'_>,
        first: Option<NodeId>,
    ) -> Option<NodeId> {
        let owners = known.preferences.of_partition(partition).owners();
        let source = owners
            .filter(|owner| !self.merged.contains(owner) && (known.reachable)(*owner))
            .min_by_key(|owner| (self.refused.contains(owner), Some(*owner) != first))?;
        if self.refused.contains(&source) {
            // All of them gave nothing: their next round.
            self.refused.clear();
        }
        Some(source)
    }

    fn fail(&mut self, now: Time) {
        self.refused.extend(self.fetching.take().map(|fetching| fetching.source));
        self.again_at = now.after(self.pause);
        self.pause = (self.pause * 2).min(PAUSE_MAX);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::ring::{Layout, Member, Mode, Weight};

    const ME: NodeId = NodeId::from_bytes([1; 16]);
    const B: NodeId = NodeId::from_bytes([2; 16]);
    const C: NodeId = NodeId::from_bytes([3; 16]);
    const Q: u32 = 64;
    const RATE: u64 = 1 << 40;

    fn preferences(nodes: &[NodeId], n: u8, r: u8, w: u8) -> Preferences {
        let member = |id: &NodeId| Member {
            id: *id,
            name: id.to_string(),
            zone: String::new(),
            weight: Weight(1_000),
        };
        let members = nodes.iter().map(member).collect();
        let layout = Layout::found(Q, n, r, w, Mode::Available, members).unwrap();
        Preferences::new(Arc::new(layout.now))
    }

    fn at(seconds: u64) -> Time {
        Time { monotonic: seconds * 1_000_000_000, wall: seconds * 1_000_000 }
    }

    fn handle(
        refill: &mut Refill,
        now: Time,
        event: Event,
        preferences: &Preferences,
        down: &[NodeId],
    ) -> Vec<Effect> {
        let mut effects = Vec::new();
        let reachable = |node| node != ME && !down.contains(&node);
        let (reachable, is_numbered) = (&reachable, &|_| now.monotonic > at(20).monotonic);
        let known = Known { me: ME, preferences, reachable, is_numbered, rate: RATE };
        refill.handle(now, event, &known, &mut effects);
        effects
    }

    fn merged(source: NodeId, next: Option<(Slot, Bytes)>) -> Event {
        Event::Merged { partition: Partition(0), source, next, bytes: 10 }
    }

    #[test]
    fn as_many_owners_give_as_a_quorum_may_have_relied_on() {
        let needed = |nodes: &[NodeId], n, r, w| sources_needed(preferences(nodes, n, r, w).ring());
        assert_eq!(needed(&[ME, B, C], 3, 2, 2), 2);
        assert_eq!(needed(&[ME, B, C], 3, 1, 3), 1);
        assert_eq!(needed(&[ME, B, C], 3, 2, 3), 2, "half-written states that a read answered");
        assert_eq!(needed(&[ME, B, C], 3, 1, 1), 2);
        assert_eq!(needed(&[ME, B], 2, 1, 1), 1);
        assert_eq!(needed(&[ME], 1, 1, 1), 0, "nobody is there to ask");
    }

    #[test]
    fn pages_of_one_owner_follow_each_other_and_then_the_next_owner_gives() {
        let preferences = preferences(&[ME, B, C], 3, 2, 2);
        let mut refill = Refill::default();
        refill.begin(Q, [Slot(3), Slot(9)]);
        assert!(refill.is_unsound(Q, Slot(3)) && !refill.is_unsound(Q, Slot(4)));
        let asked = handle(&mut refill, at(1), Event::Tick, &preferences, &[]);
        let [Effect::Fetch { source: first, slots, after: None, wants: Wants::Lost }] = &asked[..]
        else {
            panic!("{asked:?}")
        };
        assert_eq!(*slots, (Slot(3), Slot(9)));
        let next = Some((Slot(3), Bytes::from_static(b"k")));
        let asked = handle(&mut refill, at(2), merged(*first, next.clone()), &preferences, &[]);
        assert!(
            matches!(&asked[..], [Effect::Fetch { source, after, .. }] if source == first && *after == next)
        );
        let asked = handle(&mut refill, at(3), merged(*first, None), &preferences, &[]);
        let [Effect::Fetch { source: second, .. }] = &asked[..] else { panic!("{asked:?}") };
        assert_ne!(first, second);
        assert!(refill.is_unsound(Q, Slot(3)), "two owners are needed");
        let asked = handle(&mut refill, at(4), merged(*second, None), &preferences, &[]);
        assert_eq!(asked, [Effect::Refilled(vec![Slot(3), Slot(9)])]);
        refill.end(Q, &[Slot(3), Slot(9)]);
        assert!(refill.is_empty());
    }

    #[test]
    fn too_few_sound_owners_leave_it_unsound_until_they_are_back() {
        let preferences = preferences(&[ME, B, C], 3, 2, 2);
        let mut refill = Refill::default();
        refill.begin(Q, [Slot(0)]);
        handle(&mut refill, at(1), Event::Tick, &preferences, &[C]);
        let asked = handle(&mut refill, at(2), merged(B, None), &preferences, &[C]);
        assert_eq!(asked, []);
        assert!(refill.wake_at(at(2)).is_some());
        let asked = handle(&mut refill, at(9), Event::Tick, &preferences, &[]);
        assert!(matches!(asked[..], [Effect::Fetch { source: C, .. }]));
        let failed = Event::Failed { partition: Partition(0), source: C };
        assert_eq!(handle(&mut refill, at(9), failed, &preferences, &[]), []);
        assert!(matches!(handle(&mut refill, at(10), Event::Tick, &preferences, &[])[..], [_]));
    }

    #[test]
    fn of_a_slot_that_is_anothers_only_the_cut_number_is_asked_for() {
        let preferences = preferences(&[ME, B, C], 1, 1, 1);
        let own = |partition: &Partition| preferences.of_partition(*partition).owners().next();
        let other = (0..Q).map(Partition).find(|partition| own(partition) == Some(B)).unwrap();
        let mut refill = Refill::default();
        let slot = Slot((other.0 * (65_536 / Q)).try_into().unwrap());
        refill.begin(Q, [slot]);
        let asked = handle(&mut refill, at(1), Event::Tick, &preferences, &[]);
        assert!(matches!(asked[..], [Effect::Fetch { source: B, after: None, .. }]), "{asked:?}");
        let numbered = Event::Merged { partition: other, source: B, next: None, bytes: 0 };
        let asked = handle(&mut refill, at(21), numbered, &preferences, &[]);
        assert_eq!(asked, [Effect::Refilled(vec![slot])]);
    }

    /// Found by the simulator (seed 4850): two owners that refilled asked each other first, for ever.
    #[test]
    fn an_owner_that_gives_nothing_comes_behind_the_others() {
        let preferences = preferences(&[ME, B, C], 3, 2, 2);
        let mut refill = Refill::default();
        refill.begin(Q, [Slot(0)]);
        let mut asked = Vec::new();
        for second in [1, 3, 6] {
            let effects = handle(&mut refill, at(second), Event::Tick, &preferences, &[]);
            let [Effect::Fetch { source, .. }] = effects[..] else { panic!("{effects:?}") };
            asked.push(source);
            let failed = Event::Failed { partition: Partition(0), source };
            handle(&mut refill, at(second), failed, &preferences, &[]);
        }
        assert!(asked[0] != asked[1] && asked[0] == asked[2], "{asked:?}");
    }

    fn gained(source: NodeId, next: Option<(Slot, Bytes)>) -> Event {
        Event::Merged { partition: Partition(0), source, next, bytes: 10 }
    }

    /// A node that gains partition 0 from the place of `from`, or of so many owners.
    fn gaining(from: Option<NodeId>, needed: usize) -> Refill {
        let mut refill = Refill::default();
        refill.gain(Partition(0), (Slot(0), Slot(1_023)), from, needed);
        refill
    }

    fn wanted_of(effects: &[Effect]) -> NodeId {
        let [Effect::Fetch { source, wants: Wants::Gained, .. }] = effects else {
            panic!("{effects:?}")
        };
        *source
    }

    #[test]
    fn all_of_the_owner_that_loses_a_partition_is_enough() {
        let preferences = preferences(&[B, C], 2, 1, 1);
        let mut refill = gaining(Some(C), 2);
        assert_eq!(wanted_of(&handle(&mut refill, at(1), Event::Tick, &preferences, &[])), C);
        assert!(!refill.is_unsound(Q, Slot(0)), "what is gained answers with what it has");
        let next = Some((Slot(3), Bytes::from_static(b"k")));
        let asked = handle(&mut refill, at(1), gained(C, next.clone()), &preferences, &[]);
        assert!(matches!(&asked[..], [Effect::Fetch { source: C, after, .. }] if *after == next));
        let done = handle(&mut refill, at(1), gained(C, None), &preferences, &[]);
        assert_eq!(done, [Effect::Gained(Partition(0))]);
        assert!(refill.has_gained_all());
    }

    #[test]
    fn without_it_as_many_owners_give_as_a_quorum_may_have_relied_on() {
        let preferences = preferences(&[B, C], 2, 1, 1);
        let mut refill = gaining(Some(C), 2);
        assert_eq!(wanted_of(&handle(&mut refill, at(1), Event::Tick, &preferences, &[C])), B);
        assert_eq!(handle(&mut refill, at(2), gained(B, None), &preferences, &[C]), []);
        assert!(!refill.has_gained_all(), "one of two");
        assert_eq!(wanted_of(&handle(&mut refill, at(9), Event::Tick, &preferences, &[])), C);
        let done = handle(&mut refill, at(9), gained(C, None), &preferences, &[]);
        assert_eq!(done, [Effect::Gained(Partition(0))]);
    }

    #[test]
    fn an_owner_that_takes_its_time_over_a_page_is_left_alone_for_as_long() {
        let preferences = preferences(&[B, C], 2, 1, 1);
        let mut refill = gaining(Some(C), 2);
        handle(&mut refill, at(1), Event::Tick, &preferences, &[]);
        let next = Some((Slot(3), Bytes::from_static(b"k")));
        assert_eq!(handle(&mut refill, at(3), gained(C, next.clone()), &preferences, &[]), []);
        assert_eq!(handle(&mut refill, at(4), Event::Tick, &preferences, &[]), []);
        let asked = handle(&mut refill, at(5), Event::Tick, &preferences, &[]);
        assert!(matches!(&asked[..], [Effect::Fetch { source: C, after, .. }] if *after == next));
    }

    #[test]
    fn damage_begins_a_gain_anew() {
        let preferences = preferences(&[B, C], 2, 1, 1);
        let mut refill = gaining(None, 1);
        let first = wanted_of(&handle(&mut refill, at(1), Event::Tick, &preferences, &[]));
        refill.begin(Q, [Slot(5)]);
        assert_eq!(handle(&mut refill, at(2), gained(first, None), &preferences, &[]).len(), 1);
        assert!(!refill.has_gained_all(), "what came may be lost");
    }

    #[test]
    fn an_owner_that_says_nothing_is_asked_again_and_its_late_word_does_not_count_twice() {
        let preferences = preferences(&[ME, B], 2, 1, 1);
        let mut refill = Refill::default();
        refill.begin(Q, [Slot(0)]);
        handle(&mut refill, at(1), Event::Tick, &preferences, &[]);
        assert_eq!(handle(&mut refill, at(12), Event::Tick, &preferences, &[]), []);
        assert_eq!(handle(&mut refill, at(12), merged(B, None), &preferences, &[]), []);
        assert!(matches!(handle(&mut refill, at(14), Event::Tick, &preferences, &[])[..], [_]));
    }

    #[test]
    fn new_damage_begins_anew_what_was_refilled_in_part() {
        let preferences = preferences(&[ME, B, C], 3, 2, 2);
        let mut refill = Refill::default();
        refill.begin(Q, [Slot(0)]);
        handle(&mut refill, at(1), Event::Tick, &preferences, &[C]);
        handle(&mut refill, at(2), merged(B, None), &preferences, &[C]);
        refill.begin(Q, [Slot(1)]);
        let asked = handle(&mut refill, at(9), Event::Tick, &preferences, &[C]);
        assert!(matches!(asked[..], [Effect::Fetch { source: B, .. }]), "{asked:?}");
    }
}
