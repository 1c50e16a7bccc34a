//! An arrangement of owners that the solver changes step by step, always knowing what it costs.
//!
//! A change of one partition's owner changes the lists of those partitions only whose walk reaches it: a few before it.
//! So a change is weighed by working out those lists again, without touching the rest of the ring. Lists are sets here:
//! their order does not matter to who holds what.

use super::zones::{NOBODY, Selection, Zones};

/// What is wrong with an arrangement, the weightiest first.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Cost {
    /// Replicas that members hold past their share rounded up, and lack to their share rounded down.
    pub(super) off: i64,
    /// Replicas whose data has to move.
    pub(super) moved: i64,
    /// First replicas off their share, and owners that come back within n + 1 partitions, weighed.
    pub(super) uneven: i64,
}

/// Owners, their lists, and the cost.
pub(super) struct Arrangement<'a> {
    n: usize,
    zones: &'a Zones,
    /// See [`Zones::rounds`].
    rounds: Vec<usize>,
    owner: Vec<u16>,
    lists: Vec<u16>,
    /// How many partitions each walk passes until its list is complete.
    reach: Vec<usize>,
    held: Tally,
    first: Tally,
    /// Each partition's list in the ring before, of `before_n` members; empty without one.
    before: Vec<u16>,
    before_n: usize,
    cost: Cost,
    scratch: Scratch,
}

/// Counts of members, each with the bounds within which it costs nothing.
pub(super) struct Tally {
    count: Vec<i64>,
    bounds: Vec<(i64, i64)>,
}

/// Memory that is used again from walk to walk.
#[derive(Default)]
struct Scratch {
    selection: Selection,
    affected: Vec<usize>,
    gained: Vec<u16>,
    lost: Vec<u16>,
    undo: Vec<(usize, u16)>,
}

/// Weight of a first replica off its share within [`Cost::uneven`].
const FIRST_OFF_COST: i64 = 8;
/// Weight of an owner that comes back within n partitions: a walk has to skip it.
const SKIP_COST: i64 = 4;
/// Weight of one that comes back after just n.
const CLOSE_COST: i64 = 1;

/// A count of partitions or replicas as costs are reckoned in.
pub(super) fn signed(count: usize) -> i64 {
    i64::try_from(count).expect("at most 2^16 partitions times 255 replicas")
}

impl Tally {
    pub(super) fn new(bounds: Vec<(i64, i64)>) -> Self {
        Self { count: vec![0; bounds.len()], bounds }
    }

    /// How far a member is above (positive) or below (negative) its bounds.
    pub(super) fn off(&self, index: u16) -> i64 {
        self.off_with(index, 0)
    }

    fn off_with(&self, index: u16, more: i64) -> i64 {
        let count = self.count[usize::from(index)] + more;
        let (low, high) = self.bounds[usize::from(index)];
        (count - high).max(0) + (count - low).min(0)
    }

    pub(super) fn count(&self, index: u16) -> i64 {
        self.count[usize::from(index)]
    }

    /// Whether one more, or one less, costs nothing or mends something.
    pub(super) fn welcomes(&self, index: u16, change: i64) -> bool {
        self.off_with(index, change).abs() <= self.off(index).abs()
    }

    /// Fewest of `total` replicas that have to move where the members hold `held`: what they lack to their bounds, and
    /// no less than what none of them may keep.
    fn moved_least(&self, total: i64, held: &[i64]) -> i64 {
        let pairs = || self.bounds.iter().zip(held);
        let lacking: i64 = pairs().map(|((low, _), held)| (low - held).max(0)).sum();
        let kept: i64 = pairs().map(|((_, high), held)| *held.min(high)).sum();
        lacking.max(total - kept)
    }

    /// Counts `change` for a member, and returns how much its being off changes.
    fn add(&mut self, index: u16, change: i64) -> i64 {
        if index == NOBODY {
            return 0;
        }
        let before = self.off(index).abs();
        self.count[usize::from(index)] += change;
        self.off(index).abs() - before
    }
}

impl<'a> Arrangement<'a> {
    /// `owner` has a member for each partition; `before` are the lists of the ring before and their length.
    pub(super) fn new(
        n: usize,
        zones: &'a Zones,
        owner: &[u16],
        (held, first): (Tally, Tally),
        (before, before_n): (Vec<u16>, usize),
    ) -> Self {
        let q = owner.len();
        let mut this = Self {
            n,
            zones,
            rounds: zones.rounds(n),
            owner: vec![NOBODY; q],
            lists: vec![NOBODY; q * n],
            reach: vec![q; q],
            held,
            first,
            before,
            before_n,
            cost: Cost::default(),
            scratch: Scratch::default(),
        };
        this.cost.off = zones.active().iter().map(|index| this.held.off(*index).abs()).sum();
        this.cost.uneven = FIRST_OFF_COST
            * zones.active().iter().map(|index| this.first.off(*index).abs()).sum::<i64>();
        for (partition, index) in owner.iter().enumerate() {
            this.cost.uneven += this.set_owner(partition, *index);
        }
        for partition in 0..q {
            this.walk(partition);
            this.adopt_list(partition);
        }
        this
    }

    pub(super) fn partitions(&self) -> usize {
        self.owner.len()
    }
    pub(super) fn owner(&self, partition: usize) -> u16 {
        self.owner[partition]
    }
    pub(super) fn into_owners(self) -> Vec<u16> {
        self.owner
    }
    pub(super) fn list(&self, partition: usize) -> &[u16] {
        &self.lists[partition * self.n..][..self.n]
    }
    pub(super) const fn cost(&self) -> Cost {
        self.cost
    }
    /// Whether there is a ring before.
    pub(super) const fn has_before(&self) -> bool {
        self.before_n > 0
    }

    /// Fewest replicas that any placement has to move away from the ring before.
    pub(super) fn moved_least(&self) -> i64 {
        let mut held = vec![0; self.held.bounds.len()];
        for index in self.before.iter().filter(|index| **index != NOBODY) {
            held[usize::from(*index)] += 1;
        }
        if self.has_before() { self.held.moved_least(signed(self.lists.len()), &held) } else { 0 }
    }
    pub(super) const fn held(&self) -> &Tally {
        &self.held
    }
    pub(super) const fn first(&self) -> &Tally {
        &self.first
    }

    /// What the arrangement would cost after `changes` (a partition and its new owner each).
    pub(super) fn cost_after(&mut self, changes: &[(usize, u16)]) -> Cost {
        let before = self.cost;
        let mut undo = std::mem::take(&mut self.scratch.undo);
        undo.clear();
        undo.extend(changes.iter().map(|(partition, _)| (*partition, self.owner[*partition])));
        self.find_affected(changes);
        for (partition, index) in changes {
            self.cost.uneven += self.set_owner(*partition, *index);
        }
        self.scratch.gained.clear();
        self.scratch.lost.clear();
        let affected = std::mem::take(&mut self.scratch.affected);
        for partition in &affected {
            self.walk(*partition);
            self.compare_list(*partition);
        }
        self.scratch.affected = affected;
        let (gained, lost) =
            (std::mem::take(&mut self.scratch.gained), std::mem::take(&mut self.scratch.lost));
        let changes_of_count =
            || gained.iter().map(|index| (*index, 1)).chain(lost.iter().map(|index| (*index, -1)));
        for (index, change) in changes_of_count() {
            self.cost.off += self.held.add(index, change);
        }
        for (index, change) in changes_of_count() {
            self.held.add(index, -change);
        }
        (self.scratch.gained, self.scratch.lost) = (gained, lost);
        for (partition, index) in undo.iter().rev() {
            self.set_owner(*partition, *index);
        }
        self.scratch.undo = undo;
        std::mem::replace(&mut self.cost, before)
    }

    /// Makes `changes`.
    pub(super) fn apply(&mut self, changes: &[(usize, u16)]) {
        self.find_affected(changes);
        for (partition, index) in changes {
            self.cost.uneven += self.set_owner(*partition, *index);
        }
        let affected = std::mem::take(&mut self.scratch.affected);
        for partition in &affected {
            self.walk(*partition);
            self.adopt_list(*partition);
        }
        self.scratch.affected = affected;
    }

    /// Sets an owner and returns the change of [`Cost::uneven`].
    fn set_owner(&mut self, partition: usize, index: u16) -> i64 {
        let old = std::mem::replace(&mut self.owner[partition], index);
        if old == index {
            return 0;
        }
        let firsts = self.first.add(old, -1) + self.first.add(index, 1);
        FIRST_OFF_COST * firsts + self.closeness(partition, index) - self.closeness(partition, old)
    }

    /// What it costs that `index`, as the owner of `partition`, stands near to itself or to its zone.
    pub(super) fn closeness(&self, partition: usize, index: u16) -> i64 {
        if index == NOBODY {
            return 0;
        }
        let q = self.owner.len();
        let (members, zones) = (self.zones.active().len(), self.zones.sizes().len());
        let cost = |distance: usize, near: usize| match self.owner[near] {
            NOBODY => 0,
            _ if near == partition => 0,
            other if other == index && distance < self.n.min(members) => SKIP_COST,
            other if other == index && distance == self.n && self.n < members => CLOSE_COST,
            other
                if self.zones.zone(other) == self.zones.zone(index)
                    && distance < self.n.min(zones) =>
            {
                SKIP_COST
            }
            _ => 0,
        };
        (1..=self.n.min(q - 1))
            .map(|distance| {
                cost(distance, (partition + distance) % q)
                    + cost(distance, (partition + q - distance) % q)
            })
            .sum()
    }

    /// Those partitions whose walks reach a changed one.
    fn find_affected(&mut self, changes: &[(usize, u16)]) {
        let q = self.owner.len();
        self.scratch.affected.clear();
        for (changed, _) in changes {
            for distance in 0..q {
                let partition = (changed + q - distance) % q;
                if self.reach[partition] <= distance {
                    break;
                }
                if !self.scratch.affected.contains(&partition) {
                    self.scratch.affected.push(partition);
                }
            }
        }
    }

    /// Works out the list of `partition` into the scratch memory, and how far its walk goes.
    fn walk(&mut self, partition: usize) -> usize {
        let q = self.owner.len();
        let around = (0..q).map(|distance| self.owner[(partition + distance) % q]);
        let order = around.chain(self.zones.active().iter().copied());
        q.min(self.scratch.selection.select(self.zones, &self.rounds, order))
    }

    /// Notes what the list in the scratch memory gains and loses against the one in force.
    fn compare_list(&mut self, partition: usize) {
        let Scratch { selection, gained, lost, .. } = &mut self.scratch;
        let list = selection.list();
        let old = &self.lists[partition * self.n..][..self.n];
        let before = self
            .before
            .get(partition * self.before_n..(partition + 1) * self.before_n)
            .unwrap_or(&[]);
        let is_new = |index: &u16| self.before_n > 0 && !before.contains(index);
        for index in list.iter().filter(|index| !old.contains(index)) {
            gained.push(*index);
            self.cost.moved += i64::from(is_new(index));
        }
        for index in old.iter().filter(|index| !list.contains(index)) {
            lost.push(*index);
            self.cost.moved -= i64::from(*index != NOBODY && is_new(index));
        }
    }

    /// Puts the list of a walk in force.
    fn adopt_list(&mut self, partition: usize) {
        self.reach[partition] = self.walk(partition);
        self.scratch.gained.clear();
        self.scratch.lost.clear();
        self.compare_list(partition);
        for index in &self.scratch.gained {
            self.cost.off += self.held.add(*index, 1);
        }
        for index in &self.scratch.lost {
            self.cost.off += self.held.add(*index, -1);
        }
        self.lists[partition * self.n..][..self.n].copy_from_slice(self.scratch.selection.list());
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use rand::{Rng, SeedableRng};
    use rand_chacha::ChaCha8Rng;

    use super::super::Preferences;
    use super::super::notation::{members, ring};
    use super::*;

    const Q: usize = 64;

    fn arrangement<'a>(
        n: usize,
        zones: &'a Zones,
        owner: &[u16],
        before: &[u16],
    ) -> Arrangement<'a> {
        let members = zones.active().len();
        let held =
            Tally::new(vec![(signed(Q * n / members), signed(Q * n / members) + 1); members]);
        let first = Tally::new(vec![(signed(Q / members), signed(Q / members) + 1); members]);
        let before_n = before.len() / Q;
        Arrangement::new(n, zones, owner, (held, first), (before.to_vec(), before_n))
    }

    fn owners(zones: &Zones, rng: &mut ChaCha8Rng) -> Vec<u16> {
        (0..Q).map(|_| zones.active()[rng.random_range(0..zones.active().len())]).collect()
    }

    /// What was reckoned step by step is what comes out from the start; and what a change was said to cost, it costs.
    #[test]
    fn costs_add_up_over_random_changes() {
        let clusters =
            ["1 1 1", "1 1 1 1 1 1", "1@a 1@a 1@b 1@b 1@c", "1@a 1@a 1@a 1@b", "1@a 1@b 1@c 1@d"];
        for (seed, text) in (0..).zip(clusters) {
            let mut rng = ChaCha8Rng::seed_from_u64(seed);
            let zones = Zones::of(&members(text));
            let before = arrangement(3, &zones, &owners(&zones, &mut rng), &[]).lists;
            let mut arranged = arrangement(3, &zones, &owners(&zones, &mut rng), &before);
            for step in 0..200 {
                let replay = format!("seed {seed}, step {step}");
                let count = rng.random_range(1..5);
                let pool = owners(&zones, &mut rng);
                let changes: Vec<(usize, u16)> = pool
                    .into_iter()
                    .take(count)
                    .map(|index| (rng.random_range(0..Q), index))
                    .collect();
                let (cost, owner) = (arranged.cost(), arranged.owner.clone());
                let foretold = arranged.cost_after(&changes);
                assert_eq!((arranged.cost(), &arranged.owner), (cost, &owner), "asked; {replay}");
                arranged.apply(&changes);
                assert_eq!(arranged.cost(), foretold, "{replay}");
                let afresh = arrangement(3, &zones, &arranged.owner, &before);
                assert_eq!(arranged.cost(), afresh.cost(), "{replay}");
                assert_eq!((&arranged.lists, &arranged.reach), (&afresh.lists, &afresh.reach));
            }
        }
    }

    /// The solver's lists are those of the walk.
    #[test]
    fn lists_are_the_walks_owners() {
        let clusters = ["1 1", "1 1 1 1", "1@a 1@a 1@b 1@b 1@c", "1@a 1@a 1@a 1@b", "1@a 1 1 1@b"];
        for (seed, text) in (0..).zip(clusters) {
            let mut rng = ChaCha8Rng::seed_from_u64(seed);
            let members = members(text);
            let zones = Zones::of(&members);
            let n = members.len().min(3);
            let owner = owners(&zones, &mut rng);
            let arranged = arrangement(n, &zones, &owner, &[]);
            let preferences = Preferences::new(Arc::new(ring(3, members, owner)));
            for (partition, walk) in preferences.iter().enumerate() {
                let [mut ours, mut theirs] =
                    [arranged.list(partition), &walk.indexes()[..n]].map(<[u16]>::to_vec);
                ours.sort_unstable();
                theirs.sort_unstable();
                assert_eq!(ours, theirs, "partition {partition} of {text}");
            }
        }
    }
}
