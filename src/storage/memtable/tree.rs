//! Tree: the order of a memtable's entries, a B+tree over addresses into the arena.
//!
//! Each node keeps, in one array, the first 16 bytes of its keys as numbers, so that a search compares numbers that
//! stand side by side and looks into the arena only where they are equal. Keys are added and replaced, never removed.
//!
//! Invariants: keys ascend strictly within a node and along the leaves' chain; an inner node's first key is not looked
//! at, what is below its second belongs to the first child.

use std::cmp::Ordering;

use super::arena::{Address, Arena};

/// Keys in a node. A search in 64 numbers touches a handful of cache lines, an insertion moves half of them.
const KEYS_MAX: usize = 64;
/// Keys left of the split when a full node takes a key in its midst.
const SPLIT: usize = KEYS_MAX / 2;
/// Bytes of a key that are compared as a number.
const PREFIX_BYTES: usize = size_of::<u128>();

/// Number of a node in its array.
type NodeNumber = u32;

/// The order of the entries.
#[derive(Debug)]
pub(super) struct Tree {
    leaves: Vec<Leaf>,
    inner: Vec<Inner>,
    root: NodeNumber,
    /// Inner nodes between the root, itself included, and a leaf.
    height: u32,
    length: usize,
}

/// A key being looked for, and its first bytes.
#[derive(Debug, Clone, Copy)]
struct Sought<'a> {
    key: &'a [u8],
    prefix: u128,
}

/// The keys of a node.
#[derive(Debug, Clone)]
struct Keys {
    length: usize,
    prefixes: [u128; KEYS_MAX],
    addresses: [Address; KEYS_MAX],
}

#[derive(Debug)]
struct Leaf {
    keys: Keys,
    next: Option<NodeNumber>,
}

#[derive(Debug)]
struct Inner {
    keys: Keys,
    children: [NodeNumber; KEYS_MAX],
}

/// A node that was split off to the right, and its first key.
#[derive(Debug, Clone, Copy)]
struct Sibling {
    prefix: u128,
    address: Address,
    number: NodeNumber,
}

/// Addresses in key order, from a place on.
#[derive(Debug, Clone)]
pub(super) struct Addresses<'a> {
    tree: &'a Tree,
    leaf: Option<NodeNumber>,
    index: usize,
}

impl Default for Tree {
    fn default() -> Self {
        let leaves = vec![Leaf { keys: Keys::default(), next: None }];
        Self { leaves, inner: Vec::new(), root: 0, height: 0, length: 0 }
    }
}

impl Tree {
    /// Keys held.
    pub(super) const fn len(&self) -> usize {
        self.length
    }

    /// The address of this key's entry.
    pub(super) fn get(&self, arena: &Arena, key: &[u8]) -> Option<Address> {
        let sought = Sought::new(key);
        let leaf = &self.leaves[self.leaf_of(arena, sought) as usize];
        leaf.keys.search(arena, sought).ok().map(|index| leaf.keys.addresses[index])
    }

    /// Gives `key` this address; true when the key is new.
    pub(super) fn insert(&mut self, arena: &Arena, key: &[u8], address: Address) -> bool {
        let before = self.length;
        if let Some(sibling) =
            self.insert_below(arena, Sought::new(key), address, (self.root, self.height))
        {
            let mut keys = Keys::default();
            // The first key of an inner node is never looked at.
            keys.insert(0, 0, Address::default());
            keys.insert(1, sibling.prefix, sibling.address);
            let mut children = [0; KEYS_MAX];
            children[..2].copy_from_slice(&[self.root, sibling.number]);
            self.root = number(self.inner.len());
            self.inner.push(Inner { keys, children });
            self.height += 1;
        }
        before < self.length
    }

    /// The addresses in key order, from the first key not below `start`.
    pub(super) fn from(&self, arena: &Arena, start: &[u8]) -> Addresses<'_> {
        let sought = Sought::new(start);
        let leaf = self.leaf_of(arena, sought);
        let index = self.leaves[leaf as usize].keys.search(arena, sought);
        Addresses { tree: self, leaf: Some(leaf), index: index.unwrap_or_else(|index| index) }
    }

    fn leaf_of(&self, arena: &Arena, sought: Sought<'_>) -> NodeNumber {
        (0..self.height).fold(self.root, |node, _| {
            let inner = &self.inner[node as usize];
            inner.children[inner.child_of(arena, sought)]
        })
    }

    /// Inserts below the node of this height; what was split off it, if so.
    fn insert_below(
        &mut self,
        arena: &Arena,
        sought: Sought<'_>,
        address: Address,
        (node, height): (NodeNumber, u32),
    ) -> Option<Sibling> {
        if height == 0 {
            return self.insert_into_leaf(arena, sought, address, node);
        }
        let inner = &self.inner[node as usize];
        let index = inner.child_of(arena, sought);
        let child = (inner.children[index], height - 1);
        let sibling = self.insert_below(arena, sought, address, child)?;
        let inner = &mut self.inner[node as usize];
        if inner.keys.length < KEYS_MAX {
            inner.insert(index + 1, sibling);
            return None;
        }
        let split = split_at(index + 1);
        let mut right = inner.split(split);
        if index < SPLIT {
            inner.insert(index + 1, sibling);
        } else {
            right.insert(index + 1 - split, sibling);
        }
        let number = number(self.inner.len());
        let (prefix, address) = (right.keys.prefixes[0], right.keys.addresses[0]);
        self.inner.push(right);
        Some(Sibling { prefix, address, number })
    }

    fn insert_into_leaf(
        &mut self,
        arena: &Arena,
        sought: Sought<'_>,
        address: Address,
        node: NodeNumber,
    ) -> Option<Sibling> {
        let new = number(self.leaves.len());
        let leaf = &mut self.leaves[node as usize];
        let index = match leaf.keys.search(arena, sought) {
            Ok(index) => {
                leaf.keys.addresses[index] = address;
                return None;
            }
            Err(index) => index,
        };
        self.length += 1;
        if leaf.keys.length < KEYS_MAX {
            leaf.keys.insert(index, sought.prefix, address);
            return None;
        }
        let split = split_at(index);
        let mut keys = leaf.keys.split(split);
        if index <= SPLIT {
            leaf.keys.insert(index, sought.prefix, address);
        } else {
            keys.insert(index - split, sought.prefix, address);
        }
        let right = Leaf { next: leaf.next.replace(new), keys };
        let sibling = Sibling {
            prefix: right.keys.prefixes[0],
            address: right.keys.addresses[0],
            number: new,
        };
        self.leaves.push(right);
        Some(sibling)
    }
}

/// How many keys of a full node stay left when one more comes in at `index`. Keys that come in order leave full nodes.
const fn split_at(index: usize) -> usize {
    if index == KEYS_MAX { KEYS_MAX } else { SPLIT }
}

fn number(length: usize) -> NodeNumber {
    NodeNumber::try_from(length).expect("a memtable is bounded")
}

impl<'a> Sought<'a> {
    fn new(key: &'a [u8]) -> Self {
        Self { key, prefix: prefix(key) }
    }
}

/// The first bytes of a key, as a number that sorts as they do; a shorter key is filled up with zeros.
#[expect(clippy::big_endian_bytes, reason = "numbers must sort as the bytes do")]
pub(in crate::storage) fn prefix(key: &[u8]) -> u128 {
    let first = key.first_chunk::<PREFIX_BYTES>().copied().unwrap_or_else(|| {
        let mut first = [0; PREFIX_BYTES];
        first[..key.len()].copy_from_slice(key);
        first
    });
    u128::from_be_bytes(first)
}

impl Default for Keys {
    fn default() -> Self {
        Self { length: 0, prefixes: [0; KEYS_MAX], addresses: [Address::default(); KEYS_MAX] }
    }
}

impl Keys {
    /// The index of the key, or the one it would have.
    fn search(&self, arena: &Arena, sought: Sought<'_>) -> Result<usize, usize> {
        self.search_from(arena, sought, 0)
    }

    /// The same among the keys from `first` on.
    fn search_from(&self, arena: &Arena, sought: Sought<'_>, first: usize) -> Result<usize, usize> {
        let (mut low, mut high) = (first, self.length);
        while low < high {
            let middle = low.midpoint(high);
            let order = match self.prefixes[middle].cmp(&sought.prefix) {
                Ordering::Equal => arena.key(self.addresses[middle]).cmp(sought.key),
                order @ (Ordering::Less | Ordering::Greater) => order,
            };
            match order {
                Ordering::Less => low = middle + 1,
                Ordering::Equal => return Ok(middle),
                Ordering::Greater => high = middle,
            }
        }
        Err(low)
    }

    fn insert(&mut self, index: usize, prefix: u128, address: Address) {
        self.prefixes.copy_within(index..self.length, index + 1);
        self.addresses.copy_within(index..self.length, index + 1);
        self.prefixes[index] = prefix;
        self.addresses[index] = address;
        self.length += 1;
    }

    /// Keeps the first `left` keys; the others.
    fn split(&mut self, left: usize) -> Self {
        let mut right = Self { length: self.length - left, ..Self::default() };
        right.prefixes[..right.length].copy_from_slice(&self.prefixes[left..self.length]);
        right.addresses[..right.length].copy_from_slice(&self.addresses[left..self.length]);
        self.length = left;
        right
    }
}

impl Inner {
    /// The index of the child that the key belongs to.
    fn child_of(&self, arena: &Arena, sought: Sought<'_>) -> usize {
        match self.keys.search_from(arena, sought, 1) {
            Ok(index) => index,
            Err(index) => index - 1,
        }
    }

    fn insert(&mut self, index: usize, sibling: Sibling) {
        self.children.copy_within(index..self.keys.length, index + 1);
        self.children[index] = sibling.number;
        self.keys.insert(index, sibling.prefix, sibling.address);
    }

    fn split(&mut self, left: usize) -> Self {
        let mut children = [0; KEYS_MAX];
        children[..self.keys.length - left].copy_from_slice(&self.children[left..self.keys.length]);
        Self { keys: self.keys.split(left), children }
    }
}

impl Iterator for Addresses<'_> {
    type Item = Address;

    fn next(&mut self) -> Option<Address> {
        loop {
            let leaf = &self.tree.leaves[self.leaf? as usize];
            if self.index < leaf.keys.length {
                self.index += 1;
                return Some(leaf.keys.addresses[self.index - 1]);
            }
            (self.leaf, self.index) = (leaf.next, 0);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;
    use crate::storage::log::LogPosition;

    /// Inserts the keys in this order and holds every answer of the tree against a map.
    #[track_caller]
    fn check(keys: impl IntoIterator<Item = Vec<u8>>) {
        let (mut arena, mut tree, mut model) = (Arena::default(), Tree::default(), BTreeMap::new());
        for key in keys {
            let address = arena.push(&key, None, LogPosition::ZERO);
            let is_new = tree.insert(&arena, &key, address);
            assert_eq!(is_new, model.insert(key, address).is_none());
        }
        assert_eq!(tree.len(), model.len());
        let in_order: Vec<_> = tree.from(&arena, &[]).collect();
        assert_eq!(in_order, model.values().copied().collect::<Vec<_>>());
        for (key, address) in &model {
            assert_eq!(tree.get(&arena, key), Some(*address), "{key:?}");
            assert_eq!(tree.from(&arena, key).next(), Some(*address), "{key:?}");
            let behind = [key.as_slice(), &[0]].concat();
            let next = model.range(behind.clone()..).next().map(|(_, address)| *address);
            assert_eq!(tree.from(&arena, &behind).next(), next, "{behind:?}");
            assert_eq!(tree.get(&arena, &behind).is_some(), model.contains_key(&behind));
        }
    }

    #[test]
    fn keys_in_order_backwards_and_mixed() {
        let key = |number: u64| number.to_le_bytes().repeat(3);
        check((0..20_000).map(key));
        check((0..20_000).rev().map(key));
        check((0..20_000).map(|number: u64| key(number.wrapping_mul(0x9e37_79b9_7f4a_7c15))));
        check((0..10_000_u64).map(|number| format!("{number:032}").into_bytes()));
        check((0..10_000_u64).rev().map(|number| format!("{number:032}").into_bytes()));
    }

    #[test]
    fn keys_that_come_in_order_fill_their_leaves() {
        let (mut arena, mut tree) = (Arena::default(), Tree::default());
        for number in 0..6_400_u32 {
            let key = format!("{number:016}").into_bytes();
            let address = arena.push(&key, None, LogPosition::ZERO);
            tree.insert(&arena, &key, address);
        }
        assert_eq!(tree.leaves.len(), 6_400 / KEYS_MAX);
    }

    proptest! {
        #[test]
        fn any_keys(keys in prop::collection::vec(
            prop_oneof![
                prop::collection::vec(0..3_u8, 0..24),
                prop::collection::vec(any::<u8>(), 0..24),
            ],
            0..600,
        )) {
            check(keys);
        }
    }
}
