//! What a change of the ring moves: which slots gain an owner, and from whom its data can come.

use std::collections::BTreeMap;

use crate::node_id::NodeId;

use super::shares::fair_shares;
use super::zones::Zones;
use super::{Partition, Preferences, Ring, SLOTS};

/// What moves between two rings, counted in slots (a slot's n replicas count n times).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Movement {
    /// Slots that gain an owner, by the owner lost and the one gained. They are paired in walk order, the i-th gained
    /// with the i-th lost one; the loser is none where a slot gains more owners than it loses.
    pub slots: BTreeMap<(Option<NodeId>, NodeId), usize>,
    /// Replicas of all slots in the ring after.
    pub replicas: usize,
}

impl Movement {
    /// What has to move to come from one ring to the other, whatever their partitions and quorums.
    pub fn between(before: &Preferences, after: &Preferences) -> Self {
        let mut slots = BTreeMap::new();
        let (steps, old_step, new_step) = common_steps(before.ring(), after.ring());
        let (old, new): (Vec<_>, Vec<_>) = (before.iter().collect(), after.iter().collect());
        for step in 0..steps {
            let old: Vec<NodeId> = old[step / old_step].owners().collect();
            let new: Vec<NodeId> = new[step / new_step].owners().collect();
            let mut lost = old.iter().filter(|node| !new.contains(node)).copied();
            for gained in new.iter().filter(|node| !old.contains(node)) {
                *slots.entry((lost.next(), *gained)).or_insert(0) += SLOTS / steps;
            }
        }
        Self { slots, replicas: SLOTS * after.ring().effective_n() }
    }

    /// Replicas of slots whose data has to move.
    pub fn moved(&self) -> usize {
        self.slots.values().sum()
    }

    /// The moved share of all replica data, from 0 to 1.
    pub fn share(&self) -> f64 {
        super::shares::real(self.moved()) / super::shares::real(self.replicas.max(1))
    }

    /// Replicas of slots that `node` gains.
    pub fn gained_by(&self, node: NodeId) -> usize {
        self.slots.iter().filter(|((_, gained), _)| *gained == node).map(|(_, slots)| slots).sum()
    }

    /// Fewest replicas of slots that any placement of `after`'s members, weights and n has to move away from `before`:
    /// what the members lack to their fair shares, rounded down, and no less than what none of them may keep, being
    /// past its share, rounded up.
    pub fn least(before: &Preferences, after: &Ring) -> usize {
        let n = after.effective_n();
        let shares = fair_shares(after.owner.len(), n, &after.members, &Zones::of(&after.members));
        let (held, width) = (held_slots(before), SLOTS / after.owner.len());
        let (mut lacking, mut kept) = (0, 0);
        for (member, share) in after.members.iter().zip(shares) {
            let held = held.get(&member.id).copied().unwrap_or(0);
            lacking += (whole(share.floor()) * width).saturating_sub(held);
            kept += held.min(whole(share.ceil()) * width);
        }
        lacking.max((SLOTS * n).saturating_sub(kept))
    }
}

/// What `node` gains on the way to a ring of as many partitions: each partition, and the owner whose place it takes there
/// (the i-th owner gained takes that of the i-th lost one; none where more are gained than lost).
pub fn gains(
    before: &Preferences,
    after: &Preferences,
    node: NodeId,
) -> BTreeMap<Partition, Option<NodeId>> {
    let walks = before.iter().zip(after.iter()).zip(0..);
    let gained = walks.filter_map(|((old, new), partition)| {
        let mut gained = new.owners().filter(|owner| !old.owns(*owner));
        let place = gained.position(|owner| owner == node)?;
        let mut lost = old.owners().filter(|owner| !new.owns(*owner));
        Some((Partition(partition), lost.nth(place)))
    });
    gained.collect()
}

/// Slots of which each member holds a replica.
fn held_slots(preferences: &Preferences) -> BTreeMap<NodeId, usize> {
    let mut held = BTreeMap::new();
    let slots = SLOTS / preferences.ring().owner.len();
    for walk in preferences.iter() {
        walk.owners().for_each(|node| *held.entry(node).or_insert(0) += slots);
    }
    held
}

/// The ring's arcs in which neither ring has a border, and how many of them each one's partitions hold.
fn common_steps(before: &Ring, after: &Ring) -> (usize, usize, usize) {
    let steps = before.owner.len().max(after.owner.len());
    (steps, steps / before.owner.len(), steps / after.owner.len())
}

#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "a share is from 0 to 2^16"
)]
const fn whole(share: f64) -> usize {
    share as usize
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::super::notation::{members, node, ring};
    use super::*;

    fn preferences(n: u8, text: &str, owner: &[u16]) -> Preferences {
        Preferences::new(Arc::new(ring(n, members(text), owner.to_vec())))
    }

    #[test]
    fn the_same_ring_moves_nothing() {
        let ring = preferences(2, "1 1 1", &[0, 1, 2, 0]);
        let movement = Movement::between(&ring, &ring);
        assert_eq!((movement.moved(), movement.replicas), (0, 2 * SLOTS));
    }

    #[test]
    fn a_join_moves_to_the_joiner() {
        // Lists 01, 12, 20, 01, and then 01, 12, 23, 30.
        let before = preferences(2, "1 1 1", &[0, 1, 2, 0]);
        let after = preferences(2, "1 1 1 1", &[0, 1, 2, 3]);
        let movement = Movement::between(&before, &after);
        let quarter = SLOTS / 4;
        let expected = [((Some(node(1)), node(4)), quarter), ((Some(node(2)), node(4)), quarter)];
        assert_eq!(movement.slots, BTreeMap::from(expected));
        assert_eq!((movement.gained_by(node(4)), movement.gained_by(node(1))), (2 * quarter, 0));
        assert!((movement.share() - 0.25).abs() < 1e-9);
        assert_eq!(Movement::least(&before, after.ring()), 2 * quarter);
        let of_joiner =
            BTreeMap::from([(Partition(2), Some(node(1))), (Partition(3), Some(node(2)))]);
        assert_eq!(gains(&before, &after, node(4)), of_joiner);
        assert_eq!(gains(&before, &after, node(1)), BTreeMap::new());
    }

    #[test]
    fn more_partitions_with_the_same_owners_move_nothing() {
        let before = preferences(1, "1 1", &[0, 1]);
        let after = preferences(1, "1 1", &[0, 0, 1, 1]);
        assert_eq!(Movement::between(&before, &after).moved(), 0);
        assert_eq!(Movement::between(&after, &before).moved(), 0);
    }

    #[test]
    fn a_larger_n_gains_without_loss() {
        let before = preferences(1, "1 1", &[0, 1]);
        let after = preferences(2, "1 1", &[0, 1]);
        let half = SLOTS / 2;
        let expected = BTreeMap::from([((None, node(1)), half), ((None, node(2)), half)]);
        assert_eq!(Movement::between(&before, &after).slots, expected);
        assert_eq!(Movement::least(&before, after.ring()), SLOTS);
    }
}
