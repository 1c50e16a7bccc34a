//! A change of the layout that moves data, as this node takes part in it (DESIGN §8).
//!
//! ```text
//! both ──▶ what is gained and holds left-overs is purged ──▶ copied (`Refill`) ──▶ ready, in gossip
//!                                                              all gainers ready ──▶ any member of now proposes new
//! stable, weight 0 ──▶ no hint and nothing of others held ──▶ who leaves asks for the step without it
//! ```
//! A change that makes up for the loss of a majority (`recovery.rs`) goes the same way, but for what is copied: every owner
//! merges what every other member holds, whoever owned it, and nothing is purged before.
//!
//! On record, a partition: that it was clear of left-overs when the change began, and that all of it was copied. Both speak
//! of one layout version, and of no other.
//!
//! Invariant: a node says that it is ready only once all it gains is durable here.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use rand::Rng;

use crate::cluster::change::Change;
use crate::cluster::register::{self, ProposalId};
use crate::cluster::staged::{self, Staged};
use crate::cluster::{Time, change, membership};
use crate::node_id::NodeId;
use crate::replication::anti_entropy::headway::{Done, Headway};
use crate::replication::anti_entropy::refill::Sources;
use crate::ring::{Layout, Partition, Preferences, Ring, Slot, Weight, gains};
use crate::storage::{Store, WriteBatch};
use crate::wire::client::{Changing, Moving};

use super::clients::{slots_a_partition, slots_of};
use super::core::{Core, Parked};
use super::event::{Effect, Severity};
use super::meta::{self, Gained};
use super::start::StartError;

/// How long a member that could end a change waits, at random, lest all propose at once.
const PROPOSE_WITHIN: Duration = Duration::from_secs(1);
/// How long a step that this node proposed by itself may take.
const PROPOSAL_DEADLINE: Duration = Duration::from_secs(5);

/// The change that runs, and this node's part in it.
#[derive(Debug, Default)]
pub(super) struct Transition {
    /// Everybody who gains something.
    gainers: BTreeSet<NodeId>,
    /// Partitions that this node gains, and where they are to come from.
    gains: BTreeMap<Partition, Gain>,
    /// When this node took it, or started while it ran.
    taken: Time,
    /// What came of it since.
    pub(super) came: Came,
    headway: Headway,
    /// When this node proposes the next step.
    propose_at: Option<u64>,
    /// Whether this node gave its share away and wants to go.
    is_leaving: bool,
}

/// What came of what is gained.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Came {
    /// States that were merged durably.
    pub(super) keys: u64,
    /// Bytes of keys and states.
    pub(super) bytes: u64,
}

/// One partition that is gained.
#[derive(Clone, Debug)]
struct Gain {
    sources: Sources,
    /// Whether it was an owner's all along: nothing of it is left over.
    is_kept: bool,
    /// What is on record of it in this version.
    step: Option<Gained>,
}

impl Transition {
    /// What the directory says.
    pub(super) fn open(store: &Store) -> Result<Self, StartError> {
        let record = "leaving".to_owned();
        let found = store
            .get(&meta::leaving_key())
            .map_err(|source| StartError::Read { record, source: source.into() })?;
        Ok(Self { is_leaving: found.value.is_some(), ..Self::default() })
    }

    /// Whether a partition that this node gains holds nothing left over.
    pub(super) fn is_clear(&self, partition: Partition) -> bool {
        self.gains.get(&partition).is_some_and(Gain::is_clear)
    }

    /// Whether a partition is gained and must not be spoken of before it is clear.
    pub(super) fn is_unclear(&self, partition: Partition) -> bool {
        self.gains.get(&partition).is_some_and(|gain| !gain.is_clear())
    }

    /// How many partitions are copied of those that are gained.
    fn copied(&self) -> usize {
        self.gains.values().filter(|gain| gain.step == Some(Gained::Copied)).count()
    }
}

impl Gain {
    const fn is_clear(&self) -> bool {
        self.is_kept || self.step.is_some()
    }
}

/// What every node gains on the way from one ring to the next: by whom, and of that what `me` does.
fn gained(
    now: &Preferences,
    next: &Preferences,
    me: NodeId,
) -> (BTreeSet<NodeId>, BTreeMap<Partition, Gain>) {
    let (old, new) = (now.ring(), next.ring());
    let k = change::owners_to_copy_from(old);
    // Whoever is gone for good gives nothing; that what only it held is lost was accepted.
    let left = |partition: Partition| {
        let owners = now.of_partition(partition).owners();
        owners.filter(|owner| new.member(*owner).is_some()).count()
    };
    let quorums = |ring: &Ring| (ring.effective_n(), ring.effective_r(), ring.effective_w());
    if quorums(old) == quorums(new) {
        let walks = now.iter().zip(next.iter());
        let others =
            walks.flat_map(|(old, new)| new.owners().filter(move |owner| !old.owns(*owner)));
        let gain = |(partition, from): (Partition, Option<NodeId>)| {
            let sources = Sources::Owners { first: from, needed: k.min(left(partition)) };
            (partition, Gain { sources, is_kept: false, step: None })
        };
        return (others.collect(), gains(now, next, me).into_iter().map(gain).collect());
    }
    // What a quorum may know of a slot is another thing now: every owner merges what enough of the old ones hold.
    let all = next.iter().flat_map(|walk| walk.owners());
    let own = next.iter().zip((0..).map(Partition)).filter(|(walk, _)| walk.owns(me));
    let gain = |partition: Partition| {
        let is_kept = now.of_partition(partition).owns(me);
        let needed = k.min(left(partition)).saturating_sub(usize::from(is_kept));
        (partition, Gain { sources: Sources::Owners { first: None, needed }, is_kept, step: None })
    };
    (all.collect(), own.map(|(_, partition)| gain(partition)).collect())
}

/// The same where the change makes up for a loss: every owner, the one of before too, merges what any other member
/// holds, and drops nothing first.
fn recovered(next: &Preferences, me: NodeId) -> (BTreeSet<NodeId>, BTreeMap<Partition, Gain>) {
    let members = next.ring().members.iter().map(|member| member.id);
    let others: Arc<BTreeSet<NodeId>> = Arc::new(members.filter(|node| *node != me).collect());
    let all = next.iter().flat_map(|walk| walk.owners());
    let own = next.iter().zip((0..).map(Partition)).filter(|(walk, _)| walk.owns(me));
    let gain = |partition| {
        let sources = Sources::Everyone(Arc::clone(&others));
        (partition, Gain { sources, is_kept: true, step: None })
    };
    (all.collect(), own.map(|(_, partition)| gain(partition)).collect())
}

impl Core {
    /// The layout is another, or this node has just started: what it gains, and who must be ready.
    pub(super) fn begin_transition(&mut self, effects: &mut Vec<Effect>) {
        self.refilling.forget_gains();
        let is_leaving = self.transition.is_leaving;
        self.transition = Transition { is_leaving, taken: self.now, ..Transition::default() };
        if let Some(next) = self.next_preferences.clone() {
            let (gainers, gains) = if self.layout.recovers {
                recovered(&next, self.me)
            } else {
                gained(&self.preferences, &next, self.me)
            };
            (self.transition.gainers, self.transition.gains) = (gainers, gains);
        }
        self.recall_gained(effects);
        self.transition.headway = Headway::begin(self.now, self.gained_so_far());
        self.look_for_left_overs(effects);
        let clear: Vec<Partition> = self.transition.gains.keys().copied().collect();
        for partition in clear {
            if self.transition.is_clear(partition) {
                self.copy(partition);
            }
        }
        self.refill_from_all(effects);
        self.note_ready(effects);
    }

    /// Takes up what is on record of gained partitions in the layout in force; what is of another one goes.
    fn recall_gained(&mut self, effects: &mut Vec<Effect>) {
        let (start, end) = meta::gained_range();
        let mut old = WriteBatch::new();
        // A record that cannot be read makes the node copy once more.
        for (key, value) in self.store.scan(&start, Some(&end)).filter_map(Result::ok) {
            let step = meta::decode_gained(&value).ok();
            let step = step.filter(|(version, _)| *version == self.layout.version);
            let gain = meta::parse_gained(&key).ok();
            let gain = gain.and_then(|partition| self.transition.gains.get_mut(&partition));
            match (gain, step) {
                (Some(gain), Some((_, step))) => gain.step = Some(step),
                (Some(_) | None, _) => drop(old.delete(key)),
            }
        }
        if !old.is_empty() {
            // What stays is of a version that is over.
            let _ = self.write(old, effects);
        }
    }

    /// Has a partition that is clear copied, unless that is done.
    fn copy(&mut self, partition: Partition) {
        let Some(gain) = self.transition.gains.get(&partition) else { return };
        if gain.step != Some(Gained::Copied) {
            let slots = slots_of(partition.0, self.layout.now.q);
            self.refilling.gain(partition, slots, gain.sources.clone());
        }
    }

    /// Nothing left over is held of a partition, perhaps: if it is gained it is on record, and then it is copied.
    pub(super) fn note_clear(&mut self, partition: Partition, effects: &mut Vec<Effect>) {
        let slots = slots_of(partition.0, self.layout.now.q);
        if !self.transition.is_unclear(partition) || !self.purging.is_clear(partition, slots) {
            return;
        }
        if self.record_gained(partition, Gained::Clear, effects) {
            self.copy(partition);
            self.refill_from_all(effects);
        }
    }

    /// A partition is copied, durably.
    pub(super) fn gained(&mut self, partition: Partition, effects: &mut Vec<Effect>) {
        if self.transition.gains.contains_key(&partition)
            && self.record_gained(partition, Gained::Copied, effects)
        {
            self.figures.counters.gained_partitions += 1;
            self.note_ready(effects);
        }
    }

    /// Of these slots something was lost: those that are gained are copied once more, and this node is not ready before.
    pub(super) fn gain_anew(&mut self, slots: &[Slot], effects: &mut Vec<Effect>) {
        let q = self.layout.now.q;
        let partitions: BTreeSet<Partition> = slots.iter().map(|slot| slot.partition(q)).collect();
        for partition in partitions {
            let is_copied = |gain: &Gain| gain.step == Some(Gained::Copied);
            if self.transition.gains.get(&partition).is_some_and(is_copied)
                && self.record_gained(partition, Gained::Clear, effects)
            {
                self.membership_event(membership::Event::Ready(0), effects);
                self.copy(partition);
            }
        }
    }

    fn record_gained(
        &mut self,
        partition: Partition,
        step: Gained,
        effects: &mut Vec<Effect>,
    ) -> bool {
        let mut batch = WriteBatch::new();
        batch.put(meta::gained_key(partition), meta::encode_gained(self.layout.version, step));
        batch.durable().on_reserve();
        match self.write(batch, effects) {
            Ok(_) => {
                if let Some(gain) = self.transition.gains.get_mut(&partition) {
                    gain.step = Some(step);
                }
                true
            }
            Err(error) => {
                self.end(format!("a gained partition cannot be recorded: {error}"), effects);
                false
            }
        }
    }

    /// Tells the others, once that is durable, that this node has all it gains.
    fn note_ready(&mut self, effects: &mut Vec<Effect>) {
        let is_copied = |gain: &Gain| gain.step == Some(Gained::Copied);
        if self.transition.gainers.contains(&self.me)
            && self.refilling.has_gained_all()
            && self.transition.gains.values().all(is_copied)
        {
            let ready = Parked::Ready { layout: self.layout.version };
            self.once_durable(self.store.appended(), ready, effects);
        }
    }

    /// All that this node gains is durable.
    pub(super) fn ready(&mut self, layout: u64, effects: &mut Vec<Effect>) {
        if layout == self.layout.version {
            self.membership_event(membership::Event::Ready(layout), effects);
        }
    }

    /// Proposes the step that is due, if this node sees one.
    pub(super) fn transition_timer(&mut self, effects: &mut Vec<Effect>) {
        let Some(next) = self.next_step() else {
            self.transition.propose_at = None;
            return;
        };
        let now = self.now.monotonic;
        match self.transition.propose_at {
            None => {
                let pause =
                    PROPOSE_WITHIN.min(self.config.gossip_interval).mul_f64(self.rng.random());
                self.transition.propose_at = Some(self.now.after(pause).monotonic);
            }
            Some(at) if now < at => {}
            Some(_) => {
                self.transition.propose_at = Some(self.now.after(PROPOSAL_DEADLINE).monotonic);
                // Nobody waits for what comes of it: the layout that is chosen says it.
                let id = ProposalId(self.proposals.next());
                let event = register::Event::Propose {
                    id,
                    expect_version: self.layout.version,
                    layout: next.into(),
                    deadline: self.now.after(PROPOSAL_DEADLINE),
                };
                self.register_event(event, effects);
            }
        }
    }

    /// The layout that this node may propose without being asked: the end of a change whose gainers are all ready, or the
    /// one without itself.
    fn next_step(&self) -> Option<Layout> {
        if !self.is_compared() || self.layout.now.member(self.me).is_none() {
            return None;
        }
        if self.layout.next.is_some() {
            let is_ready = self.transition.gainers.iter().all(|node| self.is_ready(*node));
            return is_ready.then(|| change::apply(&self.layout, &Change::Finish).ok()).flatten();
        }
        let keeps_hints = self.hints.held().next().is_some();
        if !self.transition.is_leaving || keeps_hints || !self.purging.is_done() {
            return None;
        }
        let without = staged::plan(&self.layout.now, &[Staged::Remove(self.me)]).ok()?;
        change::apply(&self.layout, &Change::To(Box::new(without.ring))).ok()
    }

    fn is_ready(&self, node: NodeId) -> bool {
        let entry = self.membership.entry(node);
        entry.is_some_and(|entry| entry.layout == self.tag && entry.ready == self.layout.version)
    }

    /// What this node's own place in the layout became with it. False where it has none any more, and ends.
    pub(super) fn note_place(&mut self, before: &Layout, effects: &mut Vec<Effect>) -> bool {
        let weight = |ring: &Ring| ring.member(self.me).map(|member| member.weight);
        let (was, is) = (weight(&before.now), weight(&self.layout.now));
        let joins = self.layout.next.as_ref().and_then(weight);
        if is.or(joins).is_none() {
            let is_left = was == Some(Weight::ZERO);
            if is_left {
                let text = "this node has left the cluster: its directory is of no more use";
                effects.push(Effect::Log(Severity::Warn, text.to_owned()));
                effects.push(Effect::Departed);
            } else {
                effects.push(Effect::Removed);
            }
            return false;
        }
        let gave_away = was.is_some_and(|weight| Weight::ZERO < weight) && is == Some(Weight::ZERO);
        let leaves = is == Some(Weight::ZERO) && (gave_away || self.transition.is_leaving);
        if leaves != self.transition.is_leaving {
            let mut batch = WriteBatch::new();
            if leaves {
                batch.put(meta::leaving_key(), meta::LEAVING);
            } else {
                batch.delete(meta::leaving_key());
            }
            batch.durable().on_reserve();
            // Without the mark the operator removes it: nothing else depends on it.
            let _ = self.write(batch, effects);
            self.transition.is_leaving = leaves;
        }
        true
    }

    /// Whether this node's share goes to others, or has gone: it holds nothing for anybody any more.
    pub(super) fn gives_up_share(&self) -> bool {
        let is_idle =
            |ring: &Ring| ring.member(self.me).is_none_or(|member| member.weight == Weight::ZERO);
        self.layout.next.as_ref().map_or_else(|| self.transition.is_leaving, is_idle)
    }

    /// A page of what is gained is merged: how far it is now.
    pub(super) fn note_headway(&mut self) {
        if self.transition.headway.goes_on(self.now) {
            let done = self.gained_so_far();
            self.transition.headway.note(self.now, done);
        }
    }

    /// What is copied of all that is gained, in slots, and what came since this node took the change.
    fn gained_so_far(&self) -> Done {
        let copied =
            self.transition.copied() as u64 * u64::from(slots_a_partition(self.layout.now.q));
        let steps = copied + self.refilling.slots_gained();
        Done { steps, bytes: self.transition.came.bytes }
    }

    /// For those who ask how far it is.
    pub(super) fn moving(&self) -> Moving {
        let count = |count: u64| u32::try_from(count).unwrap_or(u32::MAX);
        let micros = |span: Duration| u64::try_from(span.as_micros()).unwrap_or(u64::MAX);
        let (gains, q) = (self.transition.gains.len() as u64, self.layout.now.q);
        let (slots, done) = (gains * u64::from(slots_a_partition(q)), self.gained_so_far());
        let headway = &self.transition.headway;
        Moving {
            gains: count(gains),
            gained: count(self.transition.copied() as u64),
            slots: count(slots),
            slots_gained: count(done.steps),
            keys: self.transition.came.keys,
            bytes: self.transition.came.bytes,
            rate: headway.bytes_per_second(self.now, done),
            left: headway.left(self.now, done, slots.saturating_sub(done.steps)).map(micros),
            left_over: count(self.purging.slots_left(q)),
            left_over_found: count(self.purging.slots_found()),
            left_over_left: self.purging.left(self.now, q).map(micros),
        }
    }

    /// How far the change that runs is, as far as the others told.
    pub(super) fn changing(&self) -> Option<Changing> {
        self.layout.next.as_ref()?;
        let count = |count: usize| u32::try_from(count).unwrap_or(u32::MAX);
        let gainers = &self.transition.gainers;
        let ready = gainers.iter().filter(|node| self.is_ready(**node));
        Some(Changing {
            since: self.micros_since(self.transition.taken),
            gainers: count(gainers.len()),
            ready: count(ready.count()),
        })
    }
}
