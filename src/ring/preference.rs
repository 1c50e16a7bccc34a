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

use super::zones::{Selection, Zones};
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
    /// The same walks, each only up to its last owner: for rings of thousands of members, whose fallbacks would fill
    /// memory (q × members) and are not asked for. [`Walk::fallbacks`] then is empty.
    pub fn without_fallbacks(ring: Arc<Ring>) -> Self {
        let zones = Zones::of(&ring.members);
        let (q, rounds) = (ring.owner.len(), zones.rounds(ring.effective_n()));
        let mut walks = Vec::with_capacity(q * ring.effective_n());
        let mut selection = Selection::default();
        for partition in 0..q {
            let around = ring.owner[partition..].iter().chain(&ring.owner[..partition]);
            selection.select(&zones, &rounds, around.chain(zones.active()).copied());
            walks.extend(selection.in_walk_order());
        }
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

#[cfg(test)]
mod tests {
    use std::fmt::Write as _;

    use proptest::prelude::*;

    use super::super::notation::{member, members, node, ring};
    use super::super::{Mode, Weight};
    use super::*;

    const GOLDEN: &str = include_str!("../../tests/golden/ring/walks.txt");

    /// Each partition's walk in a line: the owners' numbers, a bar, the fallbacks'.
    fn walks(n: u8, text: &str, owner: &[u16]) -> String {
        let preferences = Preferences::new(Arc::new(ring(n, members(text), owner.to_vec())));
        let mut lines = format!("# n={n} members: {text} owners: {owner:?}\n");
        for walk in preferences.iter() {
            let numbers = |nodes: &mut dyn Iterator<Item = NodeId>| {
                nodes
                    .map(|id| preferences.ring().member(id).unwrap().name.clone())
                    .collect::<Vec<_>>()
                    .join(" ")
            };
            writeln!(lines, "{} | {}", numbers(&mut walk.owners()), numbers(&mut walk.fallbacks()))
                .unwrap();
        }
        lines
    }

    /// Two releases that walk differently are two layouts.
    #[test]
    fn walks_are_as_ever() {
        let written = [
            walks(3, "1 1 1 1", &[0, 1, 2, 3, 0, 1, 2, 3]),
            walks(2, "1 1 1", &[0, 0, 1, 2, 0, 0, 0, 2]),
            walks(3, "1@a 1@a 1@b 1@b 1@c", &[0, 1, 2, 3, 4, 0, 2, 1]),
            walks(3, "1@a 1@a 1@a 1@b", &[0, 1, 2, 3, 0, 1, 2, 0]),
            walks(2, "1@a 1@b 1 1", &[0, 1, 2, 3]),
            walks(2, "1@a 1@a 1 1", &[0, 1, 2, 3]),
            walks(3, "1 0 1 1 1", &[0, 2, 0, 2]),
            walks(5, "1 1", &[1, 0]),
        ];
        assert_eq!(written.concat(), GOLDEN);
    }

    #[test]
    fn positions_are_places_in_the_walk() {
        let preferences = Preferences::new(Arc::new(ring(2, members("1 1 0 1"), vec![0, 1, 3, 0])));
        let walk = preferences.of_slot(Slot(1 << 14));
        assert_eq!(walk.owners().collect::<Vec<_>>(), [node(2), node(4)]);
        assert_eq!(
            [1, 2, 3, 4, 9].map(|number| walk.position(node(number))),
            [Some(2), Some(0), None, Some(1), None]
        );
        assert!(walk.owns(node(4)) && !walk.owns(node(1)));
        assert_eq!(walk.owners_count(), 2);
    }

    /// The walk as the module's top tells it, partition by partition.
    fn walk_by_the_book(ring: &Ring, partition: usize) -> Vec<u16> {
        let active = |index: &u16| ring.members[usize::from(*index)].weight > Weight::ZERO;
        let around =
            (0..ring.owner.len()).map(|step| ring.owner[(partition + step) % ring.owner.len()]);
        let all = (0..).take(ring.members.len()).filter(active);
        let mut met: Vec<u16> = Vec::new();
        for index in around.chain(all.clone()) {
            if !met.contains(&index) {
                met.push(index);
            }
        }
        let zone = |index: u16| ring.members[usize::from(index)].zone.as_str();
        let mut named: Vec<&str> = all.map(zone).filter(|zone| !zone.is_empty()).collect();
        named.sort_unstable();
        named.dedup();
        if named.len() > 1 {
            let before = met.clone();
            let round = |index: &u16| {
                before
                    .iter()
                    .take_while(|other| *other != index)
                    .filter(|other| zone(**other) == zone(*index))
                    .count()
            };
            met.sort_by_key(round);
        }
        met
    }

    fn rings() -> impl Strategy<Value = Ring> {
        let members =
            prop::collection::vec((0..3_u32, prop::sample::select(vec!["", "a", "b", "c"])), 1..7);
        (members, 0..6_u32, 1..5_u8).prop_flat_map(|(members, bits, n)| {
            // The first member is active, whatever the others are.
            let weight =
                |at: usize, weight: u32| if at == 0 { Weight::ONE } else { Weight(weight * 500) };
            let members: Vec<_> = (1..)
                .zip(members.into_iter().enumerate())
                .map(|(number, (at, (thousandths, zone)))| {
                    member(number, weight(at, thousandths), zone)
                })
                .collect();
            let active: Vec<u16> = (0..)
                .zip(&members)
                .filter(|(_, member)| member.weight > Weight::ZERO)
                .map(|(at, _)| at)
                .collect();
            prop::collection::vec(prop::sample::select(active), 1 << bits).prop_map(move |owner| {
                Ring {
                    q: 1 << bits,
                    n,
                    r: 1,
                    w: 1,
                    mode: Mode::Available,
                    members: members.clone(),
                    owner,
                }
            })
        })
    }

    proptest! {
        #[test]
        fn the_table_is_the_walk(ring in rings()) {
            prop_assert_eq!(ring.validate(), Ok(()));
            let preferences = Preferences::new(Arc::new(ring.clone()));
            let short = Preferences::without_fallbacks(Arc::new(ring.clone()));
            for partition in 0..ring.owner.len() {
                let walk = preferences.of_partition(Partition(u32::try_from(partition).unwrap()));
                prop_assert_eq!(walk.indexes(), walk_by_the_book(&ring, partition));
                prop_assert_eq!(walk.owners().len() + walk.fallbacks().len(), ring.active());
                let owners = short.of_partition(Partition(u32::try_from(partition).unwrap()));
                prop_assert_eq!(owners.indexes(), &walk.indexes()[..ring.effective_n()]);
                prop_assert_eq!(walk.owners().next(), Some(ring.members[usize::from(ring.owner[partition])].id));
            }
        }
    }
}
