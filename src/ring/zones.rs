//! Which active member stands in which zone, and how a walk is spread over zones.

use std::collections::BTreeMap;

use super::{Member, Weight};

/// No member: the owner of a partition that has none, a member of the ring before that is gone.
pub(super) const NOBODY: u16 = u16::MAX;

/// The active members of a ring and their zones.
#[derive(Clone, Debug)]
pub(super) struct Zones {
    active: Vec<u16>,
    /// For each member the number of its zone; of no meaning for those that are not active.
    zone: Vec<u16>,
    /// For each zone how many active members it has.
    sizes: Vec<usize>,
}

impl Zones {
    pub(super) fn of(members: &[Member]) -> Self {
        let is_active = |member: &&Member| member.weight > Weight::ZERO;
        let mut numbers: BTreeMap<&str, u16> =
            members.iter().filter(is_active).map(|member| (member.zone.as_str(), 0)).collect();
        // Zones are in use where the active members name more than one; else all members share one.
        if numbers.keys().filter(|zone| !zone.is_empty()).count() > 1 {
            for (number, zone) in (0..).zip(numbers.values_mut()) {
                *zone = number;
            }
        }
        let zone: Vec<u16> = members
            .iter()
            .map(|member| numbers.get(member.zone.as_str()).copied().unwrap_or(0))
            .collect();
        let active: Vec<u16> = (0..)
            .zip(members)
            .filter(|(_, member)| is_active(member))
            .map(|(index, _)| index)
            .collect();
        let mut sizes = vec![0; numbers.values().max().map_or(0, |last| usize::from(*last) + 1)];
        for index in &active {
            sizes[usize::from(zone[usize::from(*index)])] += 1;
        }
        Self { active, zone, sizes }
    }

    /// Indexes of the active members, in the order of their ids.
    pub(super) fn active(&self) -> &[u16] {
        &self.active
    }

    /// The zone of the member with this index.
    pub(super) fn zone(&self, index: u16) -> usize {
        usize::from(self.zone[usize::from(index)])
    }

    /// For each zone how many active members it has; one zone where none are in use.
    pub(super) fn sizes(&self) -> &[usize] {
        &self.sizes
    }

    /// How many of a list of `n` come in each round: no zone gives its (k+1)-th member while another has a k-th to give.
    pub(super) fn rounds(&self, n: usize) -> Vec<usize> {
        let mut left = n.min(self.active.len());
        let mut rounds = Vec::new();
        while left > 0 {
            let able = self.sizes.iter().filter(|size| rounds.len() < **size).count();
            rounds.push(able.min(left));
            left -= able.min(left);
        }
        rounds
    }

    /// `order` sorted by round into `spread`, else as it is.
    pub(super) fn spread(&self, order: &[u16], spread: &mut Vec<u16>) {
        spread.clear();
        if self.sizes.len() == 1 {
            spread.extend_from_slice(order);
            return;
        }
        let mut met = vec![0_usize; self.sizes.len()];
        let mut rounds: Vec<(usize, u16)> = Vec::with_capacity(order.len());
        for index in order {
            let met = &mut met[self.zone(*index)];
            rounds.push((*met, *index));
            *met += 1;
        }
        rounds.sort_by_key(|(round, _)| *round);
        spread.extend(rounds.into_iter().map(|(_, index)| index));
    }
}

/// The members that the beginning of a walk puts on a list, and memory that is used again from walk to walk.
#[derive(Debug, Default)]
pub(super) struct Selection {
    /// In the order in which the walk meets them.
    list: Vec<u16>,
    /// The round of each.
    round: Vec<usize>,
    seen: Vec<u16>,
    /// For each zone how many of its members were met.
    met: Vec<usize>,
    /// For each round how many members were taken.
    taken: Vec<usize>,
}

impl Selection {
    /// Takes from `order`, where members stand repeatedly, those that [`Zones::spread`] would put first: as many of each
    /// round as `rounds` (of [`Zones::rounds`]) says. Returns how far it had to look.
    pub(super) fn select(
        &mut self,
        zones: &Zones,
        rounds: &[usize],
        order: impl Iterator<Item = u16>,
    ) -> usize {
        let Self { list, round: rounds_taken, seen, met, taken } = self;
        let n: usize = rounds.iter().sum();
        list.clear();
        rounds_taken.clear();
        seen.clear();
        met.clear();
        taken.clear();
        met.resize(zones.sizes().len(), 0);
        taken.resize(rounds.len(), 0);
        for (distance, index) in order.enumerate() {
            if index == NOBODY || seen.contains(&index) {
                continue;
            }
            seen.push(index);
            let met = &mut met[zones.zone(index)];
            let round = *met;
            *met += 1;
            if rounds.get(round).is_some_and(|wanted| taken[round] < *wanted) {
                taken[round] += 1;
                list.push(index);
                rounds_taken.push(round);
                if list.len() == n {
                    return distance + 1;
                }
            }
        }
        usize::MAX
    }

    /// The members in the order in which they are met.
    pub(super) fn list(&self) -> &[u16] {
        &self.list
    }

    /// The members in the order of a walk: by round, then as they are met.
    pub(super) fn in_walk_order(&self) -> impl Iterator<Item = u16> {
        let mut order: Vec<(usize, u16)> =
            self.round.iter().copied().zip(self.list.iter().copied()).collect();
        order.sort_by_key(|(round, _)| *round);
        order.into_iter().map(|(_, index)| index)
    }
}
