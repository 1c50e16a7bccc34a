//! Preference lists: the walk clockwise from a key's partition.
//!
//! The walk from a `Ring` to its lists is a format, kept by golden files: two releases that walk differently would be
//! two layouts. It goes so:
//! 1. Clockwise from the partition, take each active member (weight above 0) where it is first met as an owner; active
//!    members that own no partition follow, in the order of their ids.
//! 2. Where zones are in use (the active members name more than one), spread: a member whose zone k members before it
//!    in that order share is of *round* k; stable-sort by round. So distinct zones come first, then second members of
//!    zones, and so on. Members without a zone share one.
//!
//! The first effective-n are the owners, what follows the fallbacks.

use std::sync::Arc;

use crate::node_id::NodeId;

use super::zones::Zones;
use super::{Partition, Ring, Slot};

/// A ring with its walks worked out: slot to preference list in one index.
#[derive(Clone, Debug)]
pub struct Preferences {
    ring: Arc<Ring>,
    walks: Vec<u16>,
}

/// One partition's walk over all active members: its owners, then the fallbacks.
#[derive(Clone, Copy, Debug)]
pub struct Walk<'a> {
    ring: &'a Ring,
    order: &'a [u16],
}

impl Preferences {
    /// Works out every walk: the first effective-n distinct members clockwise, distinct zones first where zones are
    /// set (Dynamo §4.3, §6.2 strategy 3); then on for the fallbacks. This order is a format.
    pub fn new(ring: Arc<Ring>) -> Self {
        let zones = Zones::of(&ring.members);
        let mut walks = vec![0; ring.owner.len() * zones.active().len()];
        let mut scratch = Vec::new();
        clockwise(&ring.owner, zones.active(), |partition, order| {
            let start = partition * order.len();
            zones.spread(order, &mut scratch);
            walks[start..start + order.len()].copy_from_slice(&scratch);
        });
        Self { ring, walks }
    }
    /// The ring.
    pub const fn ring(&self) -> &Arc<Ring> {
        &self.ring
    }
    /// The walk of the partition that `slot` lies in.
    pub fn of_slot(&self, slot: Slot) -> Walk<'_> {
        self.of_partition(slot.partition(self.ring.q))
    }
    /// The walk of `partition`.
    pub fn of_partition(&self, partition: Partition) -> Walk<'_> {
        let length = self.walks.len() / self.ring.owner.len();
        let start = partition.0 as usize * length;
        Walk { ring: &self.ring, order: &self.walks[start..start + length] }
    }
    /// All walks, in the order of the partitions.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = Walk<'_>> {
        let length = self.walks.len() / self.ring.owner.len();
        self.walks.chunks_exact(length).map(|order| Walk { ring: &self.ring, order })
    }
}

/// Calls `visit` with each partition, last first, and the active members in the order in which a walk clockwise from it
/// first meets them; those that own no partition come last, in the order of their ids.
fn clockwise(owner: &[u16], active: &[u16], mut visit: impl FnMut(usize, &[u16])) {
    let mut order = active.to_vec();
    // Going back around twice, each owner moving to the front as it is passed, leaves the walk of every partition in
    // turn: the first round is for what the walk meets past the ring's end. A member never passed stays behind.
    for round in [false, true] {
        for (partition, index) in owner.iter().enumerate().rev() {
            let place = order.iter().position(|other| other == index).expect("owners are active");
            order[..=place].rotate_right(1);
            if round {
                visit(partition, &order);
            }
        }
    }
}

impl<'a> Walk<'a> {
    /// The owners: the first effective-n members, nearest first.
    pub fn owners(&self) -> impl ExactSizeIterator<Item = NodeId> + use<'a> {
        let (ring, order) = (self.ring, &self.order[..self.ring.effective_n()]);
        order.iter().map(move |index| ring.members[usize::from(*index)].id)
    }
    /// The members after the owners, nearest first.
    pub fn fallbacks(&self) -> impl ExactSizeIterator<Item = NodeId> + use<'a> {
        let (ring, order) = (self.ring, &self.order[self.ring.effective_n()..]);
        order.iter().map(move |index| ring.members[usize::from(*index)].id)
    }
    /// Whether `node` is an owner.
    pub fn owns(&self, node: NodeId) -> bool {
        self.owners().any(|owner| owner == node)
    }
    /// How many owners there are.
    pub fn owners_count(&self) -> usize {
        self.ring.effective_n()
    }
    /// The place of `node` in the walk, from 0: below [`Walk::owners_count`] an owner, else a fallback; none for a
    /// member of weight 0 or a stranger.
    pub fn position(&self, node: NodeId) -> Option<usize> {
        self.order.iter().position(|index| self.ring.members[usize::from(*index)].id == node)
    }
    /// The members' indexes in the ring, owners first.
    pub const fn indexes(&self) -> &'a [u16] {
        self.order
    }
}
