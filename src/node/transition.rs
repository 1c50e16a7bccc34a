//! A change of the layout that moves data, as this node takes part in it (DESIGN §8).
//!
//! ```text
//! both ──▶ what is gained and holds left-overs is purged ──▶ copied (`Refill`) ──▶ ready, in gossip
//!                                                              all gainers ready ──▶ any member of now proposes new
//! stable, weight 0 ──▶ no hint and nothing of others held ──▶ who leaves asks for the step without it
//! ```
//! On record, a partition: that it was clear of left-overs when the change began, and that all of it was copied. Both speak
//! of one layout version, and of no other.
//!
//! Invariant: a node says that it is ready only once all it gains is durable here.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use rand::Rng;

use crate::cluster::change::{self, Change};
use crate::cluster::membership;
use crate::cluster::register::{self, ProposalId};
use crate::cluster::staged::{self, Staged};
use crate::node_id::NodeId;
use crate::ring::{Layout, Partition, Preferences, Ring, Slot, Weight, gains};
use crate::storage::{Store, WriteBatch};
use crate::wire::client::Moving;

use super::clients::slots_of;
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
    /// Bytes that came.
    pub(super) bytes: u64,
    /// When this node proposes the next step.
    propose_at: Option<u64>,
    /// Whether this node gave its share away and wants to go.
    is_leaving: bool,
}

/// One partition that is gained.
#[derive(Clone, Copy, Debug)]
struct Gain {
    from: Option<NodeId>,
    /// How many owners are enough.
    needed: usize,
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

    /// A partition that is gained, and that must be cleared first.
    pub(super) fn first_unclear(&self) -> Option<Partition> {
        self.gains.iter().find(|(_, gain)| !gain.is_clear()).map(|(partition, _)| *partition)
    }

    /// Whether a partition is gained and must not be spoken of before it is clear.
    pub(super) fn is_unclear(&self, partition: Partition) -> bool {
        self.gains.get(&partition).is_some_and(|gain| !gain.is_clear())
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
            let gain = Gain { from, needed: k.min(left(partition)), is_kept: false, step: None };
            (partition, gain)
        };
        return (others.collect(), gains(now, next, me).into_iter().map(gain).collect());
    }
    // What a quorum may know of a slot is another thing now: every owner merges what enough of the old ones hold.
    let all = next.iter().flat_map(|walk| walk.owners());
    let own = next.iter().zip((0..).map(Partition)).filter(|(walk, _)| walk.owns(me));
    let gain = |partition: Partition| {
        let is_kept = now.of_partition(partition).owns(me);
        let needed = k.min(left(partition)).saturating_sub(usize::from(is_kept));
        (partition, Gain { from: None, needed, is_kept, step: None })
    };
    (all.collect(), own.map(|(_, partition)| gain(partition)).collect())
}

impl Core {
    /// The layout is another, or this node has just started: what it gains, and who must be ready.
    pub(super) fn begin_transition(&mut self, effects: &mut Vec<Effect>) {
        self.refilling.forget_gains();
        let is_leaving = self.transition.is_leaving;
        self.transition = Transition { is_leaving, ..Transition::default() };
        if let Some(next) = self.next_preferences.clone() {
            let (gainers, mut gains) = gained(&self.preferences, &next, self.me);
            for (partition, gain) in &mut gains {
                gain.step = self.gained_on_record(*partition);
            }
            (self.transition.gainers, self.transition.gains) = (gainers, gains);
        }
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

    /// What is on record of a partition in the layout in force.
    fn gained_on_record(&self, partition: Partition) -> Option<Gained> {
        // Read from the disk: a handful of records as a change begins, or as a node starts.
        let found = self.store.get(&meta::gained_key(partition)).ok()?.value?;
        let (version, step) = meta::decode_gained(&found).ok()?;
        (version == self.layout.version).then_some(step)
    }

    /// Has a partition that is clear copied, unless that is done.
    fn copy(&mut self, partition: Partition) {
        let Some(gain) = self.transition.gains.get(&partition) else { return };
        if gain.step != Some(Gained::Copied) {
            let slots = slots_of(partition.0, self.layout.now.q);
            self.refilling.gain(partition, slots, gain.from, gain.needed);
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

    /// For those who ask how far it is.
    pub(super) fn moving(&self) -> Moving {
        let count = |count: usize| u32::try_from(count).unwrap_or(u32::MAX);
        let copied =
            self.transition.gains.values().filter(|gain| gain.step == Some(Gained::Copied));
        let (partitions, slots) = self.purging.left();
        Moving {
            gains: count(self.transition.gains.len()),
            gained: count(copied.count()),
            bytes: self.transition.bytes,
            left_over: count(partitions + slots),
        }
    }
}
