//! Under whom this node mints its dots, and when that must change (DESIGN §4).
//!
//! A dot names one write for ever, so a node that may have forgotten a dot it minted must mint under a new epoch: after
//! a start that was not clean, after a start that others could have made too and no majority confirmed, and when a peer
//! shows a dot of this very actor that is not remembered here. The new epoch is durable before, or in the same batch
//! as, the first dot minted under it.
//! Invariant: no dot is minted under an epoch that an earlier start may have used, unless that start ended cleanly and
//! this one is confirmed.

use rand::Rng;

use crate::node_id::NodeId;
use crate::storage::WriteBatch;
use crate::version::{Actor, AfterDrop, Epoch, Floor, Siblings, VectorClock};

use super::meta::{self, ActorRecord};

/// The actor, and what stands between it and the next mint.
#[derive(Clone, Debug)]
pub(super) struct Lineage {
    actor: Actor,
    floor: u64,
    standing: Standing,
    /// Whether the store holds the present epoch, or a batch with it was accepted.
    is_recorded: bool,
}

/// Whether the present epoch may be minted under.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Standing {
    /// It may: it began at this start, or this start is confirmed.
    Settled,
    /// It was taken over from a clean stop, and this start is not confirmed yet.
    TakenOver,
}

impl Lineage {
    /// The lineage taken over from a start that ended cleanly; minted under once this start is confirmed.
    pub(super) const fn taken_over(node: NodeId, record: ActorRecord) -> Self {
        let actor = Actor { node, epoch: record.epoch };
        Self { actor, floor: record.floor, standing: Standing::TakenOver, is_recorded: true }
    }

    /// The lineage after any other start: a new epoch above `last`, which [`Lineage::record`] makes durable.
    pub(super) fn begun(node: NodeId, last: Epoch, rng: &mut impl Rng) -> Self {
        let actor = Actor { node, epoch: after(last, rng) };
        Self { actor, floor: 0, standing: Standing::Settled, is_recorded: false }
    }

    /// Who mints.
    pub(super) const fn actor(&self) -> Actor {
        self.actor
    }

    /// The counter above which it mints.
    pub(super) const fn floor(&self) -> u64 {
        self.floor
    }

    /// Whether the present epoch may be minted under.
    pub(super) const fn is_settled(&self) -> bool {
        matches!(self.standing, Standing::Settled)
    }

    /// This start is the first with its count: the epoch goes on.
    pub(super) const fn confirm(&mut self) {
        self.standing = Standing::Settled;
    }

    /// Begins a new epoch.
    pub(super) fn rise(&mut self, rng: &mut impl Rng) {
        *self = Self::begun(self.actor.node, self.actor.epoch, rng);
    }

    /// Before a mint, and before a clean mark: begins a new epoch unless the present one may be minted under. A clean
    /// mark must not hand on an epoch that was taken over and never confirmed: another copy of this directory may have
    /// been confirmed under it. Returns whether it began one.
    pub(super) fn settle(&mut self, rng: &mut impl Rng) -> bool {
        match self.standing {
            Standing::Settled => false,
            Standing::TakenOver => {
                self.rise(rng);
                true
            }
        }
    }

    /// Before a state of this clock is written where it may be dropped again, in whose batch [`Lineage::record`] must have
    /// its say: counters up to the present actor's are not minted any more, whatever becomes of the state.
    pub(super) fn raise_floor(&mut self, clock: &VectorClock) {
        let minted = clock.get(self.actor);
        if self.floor < minted {
            (self.floor, self.is_recorded) = (minted, false);
        }
    }

    /// Before a state is dropped, in whose batch [`Lineage::record`] must have its say: see [`Floor::drop_state`].
    /// Returns whether a new epoch began.
    pub(super) fn drop_state(&mut self, state: &Siblings, rng: &mut impl Rng) -> bool {
        let mut floor = Floor::at(self.actor, self.floor);
        match floor.drop_state(state) {
            AfterDrop::Unchanged => false,
            AfterDrop::FloorRose => {
                (self.floor, self.is_recorded) = (floor.counter(), false);
                false
            }
            AfterDrop::EpochMustRise => {
                self.rise(rng);
                true
            }
        }
    }

    /// Adds the present epoch to `batch` where the store does not hold it yet.
    pub(super) fn record(&self, batch: &mut WriteBatch) {
        if !self.is_recorded {
            let record = ActorRecord { epoch: self.actor.epoch, floor: self.floor };
            batch.put(meta::actor_key(), meta::encode_actor(record)).durable();
        }
    }

    /// A batch that went through [`Lineage::record`] was accepted.
    pub(super) const fn recorded(&mut self) {
        self.is_recorded = true;
    }
}

fn after(last: Epoch, rng: &mut impl Rng) -> Epoch {
    Epoch { counter: last.counter.saturating_add(1), random: rng.random() }
}

#[cfg(test)]
mod tests {
    use rand::SeedableRng;
    use rand_chacha::ChaCha8Rng;

    use super::*;
    use crate::version::{Basis, Content, RequestId, Timestamp, Version};

    const NODE: NodeId = NodeId::from_bytes([1; 16]);
    const LAST: Epoch = Epoch { counter: 3, random: 99 };

    #[test]
    fn a_taken_over_epoch_goes_on_only_once_confirmed() {
        let mut rng = ChaCha8Rng::seed_from_u64(1);
        let record = ActorRecord { epoch: LAST, floor: 7 };
        let mut confirmed = Lineage::taken_over(NODE, record);
        confirmed.confirm();
        assert!(!confirmed.settle(&mut rng));
        assert_eq!((confirmed.actor().epoch, confirmed.floor()), (LAST, 7));

        let mut hasty = Lineage::taken_over(NODE, record);
        assert!(hasty.settle(&mut rng));
        assert_eq!((hasty.actor().epoch.counter, hasty.floor()), (4, 0));
        hasty.confirm();
        assert!(!hasty.settle(&mut rng), "a new epoch needs nobody's word");
    }

    #[test]
    fn a_dropped_state_raises_the_floor_durably_or_begins_an_epoch() {
        let mut rng = ChaCha8Rng::seed_from_u64(1);
        let mut lineage = Lineage::begun(NODE, LAST, &mut rng);
        lineage.recorded();
        let (actor, other) =
            (lineage.actor(), Actor { node: NodeId::from_bytes([2; 16]), ..lineage.actor() });
        let write = |state: &mut Siblings, actor, floor| {
            let (timestamp, request) =
                (Timestamp::from_bits(0), RequestId { session: 1, counter: 1 });
            let content = Content::Value(bytes::Bytes::from_static(b"x"));
            state
                .write(actor, &Basis::Own, floor, Version { timestamp, request, content })
                .unwrap();
        };
        let mut state = Siblings::new();
        write(&mut state, actor, 4);
        write(&mut state, other, 0);
        assert!(!lineage.drop_state(&state, &mut rng));
        assert_eq!((lineage.actor(), lineage.floor()), (actor, 5));
        let mut batch = WriteBatch::new();
        lineage.record(&mut batch);
        assert!(!batch.is_empty());
        write(&mut state, actor, 0);
        assert!(lineage.drop_state(&state, &mut rng));
        assert_ne!(lineage.actor(), actor);
    }

    #[test]
    fn a_new_epoch_goes_into_every_batch_until_one_is_accepted() {
        let mut rng = ChaCha8Rng::seed_from_u64(1);
        let mut lineage = Lineage::begun(NODE, LAST, &mut rng);
        for _ in 0..2 {
            let mut batch = WriteBatch::new();
            lineage.record(&mut batch);
            assert!(!batch.is_empty());
        }
        lineage.recorded();
        let mut batch = WriteBatch::new();
        lineage.record(&mut batch);
        assert!(batch.is_empty());
    }
}
