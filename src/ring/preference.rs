//! Preference lists: the walk clockwise from a key's partition.

use std::sync::Arc;

use crate::node_id::NodeId;

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
        let _ = ring;
        todo!()
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
        let _ = (partition, &self.walks);
        todo!()
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
}
