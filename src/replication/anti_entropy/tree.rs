//! The tree over the slots' leaves (Dynamo, §4.7).
//!
//! ```text
//! level 0   1 root
//! level 1   16          each inner node: SHA-1 over its 16 children, as bytes; all zeros above nothing but zeros
//! level 2   256
//! level 3   4,096       children: leaves, little-endian
//! level 4   65,536 leaves: one a slot, 128 bits, changed by XOR with each write
//! ```
//! Two members compare trees *masked* to the slots that both own: any other leaf counts as zero. A partition is at least
//! one whole node of level 3 as long as there are at most 4,096 partitions, so the hashes of that level are kept for all
//! masks together, and worked out again only where a leaf changed; the 273 above them are worked out as they are asked
//! for.

use sha1_smol::Sha1;

use crate::node_id::NodeId;
use crate::ring::{Preferences, SLOTS, Slot};

/// Children of an inner node.
pub const FANOUT: usize = 16;
/// The level whose nodes have leaves for children.
pub const LOWEST_LEVEL: u8 = 3;
/// Nodes of the lowest level.
const LOWEST_NODES: usize = SLOTS / FANOUT;

/// The hash of an inner node.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct TreeHash(pub [u8; 20]);

/// An inner node: its level, and its number from the left.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct TreeNode {
    /// 0 for the root, at most [`LOWEST_LEVEL`].
    pub level: u8,
    /// Below 16 to the power of the level.
    pub index: u16,
}

/// The slots that two members both own.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mask(Vec<u16>);

/// The hashes of the lowest level, current as of the last [`Tree::changed`].
#[derive(Clone, Debug)]
pub struct Tree {
    lowest: Vec<TreeHash>,
    stale: Vec<bool>,
}

impl TreeNode {
    /// The top of the tree.
    pub const ROOT: Self = Self { level: 0, index: 0 };

    /// A node that exists.
    pub fn new(level: u8, index: u16) -> Option<Self> {
        let exists = level <= LOWEST_LEVEL && usize::from(index) < FANOUT.pow(level.into());
        exists.then_some(Self { level, index })
    }

    /// Its children, left to right; `None` on the lowest level, where [`TreeNode::slots`] are the children.
    pub fn children(self) -> Option<impl Iterator<Item = Self>> {
        let Self { level, index } = self;
        let child = move |number| Self { level: level + 1, index: index * 16 + number };
        (level < LOWEST_LEVEL).then(|| (0..16).map(child))
    }

    /// The slots below it.
    pub fn slots(self) -> impl Iterator<Item = Slot> {
        let bits = 4 * (LOWEST_LEVEL + 1 - self.level);
        let first = u32::from(self.index) << bits;
        (first..first + (1 << bits)).map(|slot| Slot(u16::try_from(slot).unwrap_or(u16::MAX)))
    }
}

impl Mask {
    /// The slots that `one` and `other` both own.
    pub fn of(preferences: &Preferences, one: NodeId, other: NodeId) -> Self {
        let mut bits = vec![0; LOWEST_NODES];
        let width = SLOTS / preferences.iter().len();
        for (partition, walk) in preferences.iter().enumerate() {
            if walk.owns(one) && walk.owns(other) {
                for slot in partition * width..(partition + 1) * width {
                    bits[slot / FANOUT] |= 1 << (slot % FANOUT);
                }
            }
        }
        Self(bits)
    }

    /// Whether `slot` is one of them.
    pub fn holds(&self, slot: Slot) -> bool {
        self.0[usize::from(slot.0) / FANOUT] & (1 << (slot.0 % 16)) != 0
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.0.iter().all(|bits| *bits == 0)
    }

    /// How many there are.
    pub fn len(&self) -> u32 {
        self.0.iter().map(|bits| bits.count_ones()).sum()
    }
}

impl Default for Tree {
    fn default() -> Self {
        Self { lowest: vec![TreeHash::default(); LOWEST_NODES], stale: vec![true; LOWEST_NODES] }
    }
}

impl Tree {
    /// The leaf of `slot` is another.
    pub fn changed(&mut self, slot: Slot) {
        self.stale[usize::from(slot.0) / FANOUT] = true;
    }

    /// The hash of `node`, masked. Its cost follows the leaves below it that changed.
    pub fn hash(&mut self, node: TreeNode, mask: &Mask, leaf: &impl Fn(Slot) -> u128) -> TreeHash {
        match node.children() {
            None => self.lowest(node, mask, leaf),
            Some(children) => {
                let mut bytes = [0; FANOUT * 20];
                for (child, place) in children.zip(bytes.chunks_exact_mut(20)) {
                    place.copy_from_slice(&self.hash(child, mask, leaf).0);
                }
                digest(&bytes)
            }
        }
    }

    fn lowest(&mut self, node: TreeNode, mask: &Mask, leaf: &impl Fn(Slot) -> u128) -> TreeHash {
        let index = usize::from(node.index);
        match mask.0[index] {
            0 => TreeHash::default(),
            u16::MAX => {
                if self.stale[index] {
                    self.lowest[index] = over_leaves(node, leaf);
                    self.stale[index] = false;
                }
                self.lowest[index]
            }
            _ => over_leaves(node, |slot| if mask.holds(slot) { leaf(slot) } else { 0 }),
        }
    }
}

fn over_leaves(node: TreeNode, leaf: impl Fn(Slot) -> u128) -> TreeHash {
    let mut bytes = [0; FANOUT * 16];
    for (slot, place) in node.slots().zip(bytes.chunks_exact_mut(16)) {
        place.copy_from_slice(&leaf(slot).to_le_bytes());
    }
    digest(&bytes)
}

fn digest(bytes: &[u8]) -> TreeHash {
    const ZEROS: [u8; FANOUT * 20] = [0; FANOUT * 20];
    if ZEROS.starts_with(bytes) {
        return TreeHash::default();
    }
    TreeHash(Sha1::from(bytes).digest().bytes())
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::sync::Arc;

    use proptest::prelude::*;

    use super::*;
    use crate::ring::{Layout, Member, Mode, Ring, Weight};

    const NODES: [NodeId; 4] = [
        NodeId::from_bytes([1; 16]),
        NodeId::from_bytes([2; 16]),
        NodeId::from_bytes([3; 16]),
        NodeId::from_bytes([4; 16]),
    ];

    fn preferences(q: u32) -> Preferences {
        let members = NODES.map(|id| Member {
            id,
            name: id.to_string(),
            zone: String::new(),
            weight: Weight(1_000),
        });
        let ring: Ring = Layout::found(q, 2, 1, 1, Mode::Available, members.to_vec()).unwrap().now;
        Preferences::new(Arc::new(ring))
    }

    fn root(leaves: &BTreeMap<u16, u128>, mask: &Mask) -> TreeHash {
        let leaf = |slot: Slot| leaves.get(&slot.0).copied().unwrap_or(0);
        Tree::default().hash(TreeNode::ROOT, mask, &leaf)
    }

    #[test]
    fn nodes_cover_the_slots() {
        assert_eq!(TreeNode::ROOT.slots().count(), SLOTS);
        let last = TreeNode::new(3, 4_095).unwrap();
        assert_eq!(
            last.slots().collect::<Vec<_>>(),
            (65_520..=65_535).map(Slot).collect::<Vec<_>>()
        );
        assert_eq!(TreeNode::new(3, 4_096), None);
        assert_eq!(TreeNode::new(4, 0), None);
        let children: Vec<_> = TreeNode::new(1, 2).unwrap().children().unwrap().collect();
        assert_eq!(children[3], TreeNode { level: 2, index: 35 });
    }

    #[test]
    fn a_mask_holds_what_two_members_share() {
        let preferences = preferences(64);
        let mask = Mask::of(&preferences, NODES[0], NODES[1]);
        for slot in (0..=u16::MAX).map(Slot) {
            let walk = preferences.of_slot(slot);
            assert_eq!(mask.holds(slot), walk.owns(NODES[0]) && walk.owns(NODES[1]));
        }
        assert!(!mask.is_empty() && (mask.len() as usize) < SLOTS);
    }

    proptest! {
        #[test]
        fn roots_agree_exactly_where_the_shared_leaves_do(
            left: BTreeMap<u16, u128>, slot: u16, bits: u128, q in prop::sample::select(vec![64, 65_536]),
        ) {
            let mask = Mask::of(&preferences(q), NODES[0], NODES[1]);
            let mut right = left.clone();
            *right.entry(slot).or_default() ^= bits;
            let agree = bits == 0 || !mask.holds(Slot(slot));
            prop_assert_eq!(root(&left, &mask) == root(&right, &mask), agree);
        }

        #[test]
        fn a_tree_kept_current_is_the_tree_worked_out_anew(changes: Vec<(u16, u128)>) {
            let mask = Mask::of(&preferences(64), NODES[0], NODES[1]);
            let (mut kept, mut leaves) = (Tree::default(), BTreeMap::new());
            for (slot, bits) in changes.iter().take(8) {
                *leaves.entry(*slot).or_insert(0) ^= bits;
                kept.changed(Slot(*slot));
                let leaf = |slot: Slot| leaves.get(&slot.0).copied().unwrap_or(0);
                prop_assert_eq!(kept.hash(TreeNode::ROOT, &mask, &leaf), root(&leaves, &mask));
            }
        }
    }
}
