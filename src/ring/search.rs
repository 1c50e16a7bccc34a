//! The solver's local search: tries small changes of an arrangement and makes those that lower its cost.
//!
//! Three kinds of change: a partition goes to another member; two owners swap places; and the *tuck*, for single
//! replicas. An owner usually stands in n lists. Where a member comes back after n - 1 partitions it stands in one list
//! less, and whoever follows in one more (n = 3, partition 0 lists A, B, X instead of A, B, A's successor):
//! ```text
//! partition    0  1  2  3
//! owner        A  B  A  X
//! ```
//! Every change made lowers the cost, so the search ends.

use std::cmp::Reverse;

use super::arrangement::{Arrangement, Cost, signed};
use super::zones::NOBODY;

/// Most partitions that are tried for one step of the search; past it a sample is, spread evenly.
const TRIED_MAX: usize = 1 << 11;
/// Most partitions of one member that a tuck is tried with, on each side.
const TUCKED_MAX: usize = 32;
/// The same for a double tuck.
const DOUBLY_TUCKED_MAX: usize = 12;
/// Most members that are tried in one place for a partition; past it a sample is.
const MEMBERS_TRIED_MAX: usize = 1 << 8;
/// Rounds over the whole ring for the lesser wishes.
const ROUNDS_MAX: usize = 3;
/// How much may move against the least possible for the sake of single replicas, in percent.
const MOVED_PERCENT_MAX: i64 = 115;

/// Local search over an arrangement.
pub(super) struct Search<'a> {
    arrangement: Arrangement<'a>,
    members: &'a [u16],
    /// For each member the partitions it owns, ascending.
    positions: Vec<Vec<usize>>,
    /// The owners in the ring before, where there is one; else those dealt out first.
    carried: Vec<u16>,
    /// No change is made that moves more than this.
    moved_max: i64,
}

/// The best change found so far, and what the arrangement costs with it.
struct Best {
    cost: Cost,
    changes: Vec<(usize, u16)>,
}

impl<'a> Search<'a> {
    pub(super) fn new(arrangement: Arrangement<'a>, members: &'a [u16], carried: Vec<u16>) -> Self {
        let last = members.iter().max().map_or(0, |last| usize::from(*last) + 1);
        let mut positions = vec![Vec::new(); last];
        for partition in 0..arrangement.partitions() {
            positions[usize::from(arrangement.owner(partition))].push(partition);
        }
        Self { arrangement, members, positions, carried, moved_max: i64::MAX }
    }

    /// Shares first, at no movement, then within the allowance; past the allowance only what is off by a whole
    /// partition. Then the lesser wishes.
    pub(super) fn run(mut self) -> Arrangement<'a> {
        let n = signed(self.n());
        if self.arrangement.has_before() {
            self.moved_max = self.arrangement.cost().moved;
            while self.exchange() {}
            let allowance = self.arrangement.moved_least() * MOVED_PERCENT_MAX / 100;
            self.moved_max = self.moved_max.max(allowance);
            self.settle_shares(1);
            self.moved_max = i64::MAX;
            self.settle_shares(n);
        } else {
            self.settle_shares(1);
        }
        self.settle_rest();
        self.arrangement
    }

    fn n(&self) -> usize {
        self.arrangement.list(0).len()
    }

    fn start(&self) -> Best {
        Best { cost: self.arrangement.cost(), changes: Vec::new() }
    }

    /// Brings members whose replicas are off by at least `off_min` nearer to their shares, the furthest one first.
    fn settle_shares(&mut self, off_min: i64) {
        loop {
            let held = self.arrangement.held();
            let mut off: Vec<u16> = self
                .members
                .iter()
                .copied()
                .filter(|index| held.off(*index).abs() >= off_min)
                .collect();
            off.sort_by_key(|index| Reverse(held.off(*index).abs()));
            if !off.into_iter().any(|index| self.improve_share_of(index)) {
                return;
            }
        }
    }

    /// Makes the best change that brings a member nearer to its share; says whether there was one.
    fn improve_share_of(&mut self, index: u16) -> bool {
        let mut best = self.start();
        let over = self.arrangement.held().off(index) > 0;
        let enough = best.cost.off - signed(self.n());
        let step = self.arrangement.partitions().div_ceil(TRIED_MAX);
        for partition in (0..self.arrangement.partitions()).step_by(step) {
            let owner = self.arrangement.owner(partition);
            match (owner == index, over) {
                (true, true) => {
                    for other in self.candidates(partition) {
                        self.try_changes(&[(partition, other)], &mut best);
                    }
                    self.try_swaps(partition, &mut best);
                }
                (true, false) => self.try_swaps(partition, &mut best),
                (false, true) => {}
                (false, false) => self.try_changes(&[(partition, index)], &mut best),
            }
            if best.cost.off <= enough {
                break;
            }
        }
        if best.cost.off > enough {
            self.try_tucks(index, over, &mut best);
        }
        let movable = self.moved_max - self.arrangement.cost().moved;
        if best.changes.is_empty() && movable > signed(self.n()) {
            self.try_double_tucks(index, over, &mut best);
        }
        self.make(&best)
    }

    /// Tries to bring a member back sooner, so that it or another one stands in a list less, its follower in one more.
    fn try_tucks(&mut self, index: u16, over: bool, best: &mut Best) {
        let (q, n) = (self.arrangement.partitions(), self.n());
        if n < 2 || self.members.len() <= n || q <= 2 * n {
            return;
        }
        for partition in self.sample(index, TUCKED_MAX) {
            // Where the member that comes back stands already, where it comes back, and who follows.
            let (back, ahead) = ((partition + q - (n - 1)) % q, (partition + n - 1) % q);
            let (before, first) = ((partition + q - 1) % q, (partition + q - n) % q);
            let tucks = if over {
                [(partition, ahead, (partition + n) % q), (partition, back, (partition + 1) % q)]
            } else {
                [(first, before, partition), (before, first, partition)]
            };
            for (stands, comes, follows) in tucks {
                let [tucked, follower] =
                    [stands, follows].map(|partition| self.arrangement.owner(partition));
                let held = self.arrangement.held();
                if tucked == follower || !held.welcomes(tucked, -1) || !held.welcomes(follower, 1) {
                    continue;
                }
                for left in self.sample(tucked, TUCKED_MAX) {
                    if left != stands && left != comes {
                        let owner = self.arrangement.owner(comes);
                        self.try_changes(&[(comes, tucked), (left, owner)], best);
                    }
                }
            }
        }
    }

    /// Tries tucks that bring both places of the member that comes back from elsewhere: where owners follow each other in
    /// the same order all around, no single tuck has the right follower.
    fn try_double_tucks(&mut self, index: u16, over: bool, best: &mut Best) {
        let (q, n) = (self.arrangement.partitions(), self.n());
        if n < 2 || self.members.len() <= n || q <= 4 * n {
            return;
        }
        for other in self.members {
            let (tucked, follower) = if over { (index, *other) } else { (*other, index) };
            let held = self.arrangement.held();
            if tucked == follower || !held.welcomes(tucked, -1) || !held.welcomes(follower, 1) {
                continue;
            }
            let leaves = self.sample(tucked, DOUBLY_TUCKED_MAX);
            for follows in self.sample(follower, DOUBLY_TUCKED_MAX) {
                let (first, second) = ((follows + q - n) % q, (follows + q - 1) % q);
                let near = |partition: usize| (follows + q + 2 * n - partition) % q <= 4 * n;
                let owners = [first, second].map(|partition| self.arrangement.owner(partition));
                let far = || leaves.iter().copied().filter(|left| !near(*left));
                for left in far() {
                    for also in far().filter(|also| left < *also) {
                        let changes = [
                            (first, tucked),
                            (left, owners[0]),
                            (second, tucked),
                            (also, owners[1]),
                        ];
                        self.try_changes(&changes, best);
                    }
                }
                if !best.changes.is_empty() {
                    return;
                }
            }
        }
    }

    /// Makes the best exchange of what a member gained from another one for something else of the same: it moves
    /// nothing more. Says whether there was one.
    fn exchange(&mut self) -> bool {
        let mut best = self.start();
        if best.cost.off == 0 {
            return false;
        }
        let gained: Vec<usize> = (0..self.carried.len())
            .filter(|partition| {
                ![NOBODY, self.arrangement.owner(*partition)].contains(&self.carried[*partition])
            })
            .collect();
        let pairs: usize =
            gained.iter().map(|at| self.positions[usize::from(self.carried[*at])].len()).sum();
        let step = pairs.div_ceil(TRIED_MAX).max(1);
        for (at, partition) in gained.into_iter().enumerate() {
            let (from, to) = (self.carried[partition], self.arrangement.owner(partition));
            let others = self.positions[usize::from(from)].clone();
            for other in others.into_iter().skip(at % step).step_by(step) {
                self.try_changes(&[(partition, from), (other, to)], &mut best);
            }
        }
        self.make(&best)
    }

    /// At most `most` of the partitions that a member owns, spread evenly.
    fn sample(&self, index: u16, most: usize) -> Vec<usize> {
        let all = &self.positions[usize::from(index)];
        all.iter().copied().step_by(all.len().div_ceil(most).max(1)).collect()
    }

    /// Members to try for a partition: all, or a sample that differs from partition to partition.
    fn candidates(&self, partition: usize) -> impl Iterator<Item = u16> + use<'a> {
        let step = self.members.len().div_ceil(MEMBERS_TRIED_MAX);
        self.members.iter().copied().skip(partition % step).step_by(step)
    }

    /// The lesser wishes: moves back what need not move, then evens out first replicas and rows.
    fn settle_rest(&mut self) {
        for _ in 0..ROUNDS_MAX {
            let mut improved = false;
            for partition in 0..self.arrangement.partitions() {
                let (owner, carried) = (self.arrangement.owner(partition), self.carried[partition]);
                let mut best = self.start();
                if self.arrangement.has_before() && carried != NOBODY && carried != owner {
                    self.try_changes(&[(partition, carried)], &mut best);
                    self.try_swaps(partition, &mut best);
                }
                if self.arrangement.first().off(owner) > 0
                    || self.arrangement.closeness(partition, owner) > 0
                {
                    for other in self.candidates(partition) {
                        self.try_changes(&[(partition, other)], &mut best);
                    }
                    self.try_swaps(partition, &mut best);
                }
                improved |= self.make(&best);
            }
            if !improved {
                return;
            }
        }
    }

    fn try_swaps(&mut self, partition: usize, best: &mut Best) {
        let (q, n) = (self.arrangement.partitions(), self.n());
        for distance in 1..=(n + 1).min(q - 1) {
            for near in [(partition + distance) % q, (partition + q - distance) % q] {
                let owners = (self.arrangement.owner(partition), self.arrangement.owner(near));
                self.try_changes(&[(partition, owners.1), (near, owners.0)], best);
            }
        }
    }

    fn try_changes(&mut self, changes: &[(usize, u16)], best: &mut Best) {
        let cost = self.arrangement.cost_after(changes);
        if cost < best.cost && cost.moved <= self.moved_max {
            best.cost = cost;
            best.changes.clear();
            best.changes.extend_from_slice(changes);
        }
    }

    fn make(&mut self, best: &Best) -> bool {
        for (partition, index) in &best.changes {
            let old = &mut self.positions[usize::from(self.arrangement.owner(*partition))];
            old.retain(|other| other != partition);
            let new = &mut self.positions[usize::from(*index)];
            new.insert(new.partition_point(|other| other < partition), *partition);
        }
        self.arrangement.apply(&best.changes);
        !best.changes.is_empty()
    }
}
