//! Fair shares: how many replicas each member should hold.
//!
//! A member's share is in proportion to its weight, within what a list of n distinct members in distinct zones allows:
//! a member holds a partition once at most, and a zone gives each list as many members as its rounds say (one where
//! there are n zones or more). What one member or zone cannot hold or must hold beyond its weight changes the shares of
//! the others in proportion: water filling.

use super::zones::Zones;
use super::{Member, Weight};

/// Halvings of the interval that holds a water level: to the last bit of an `f64`.
const HALVINGS: usize = 128;
/// A share this close to a whole number of replicas is meant to be it.
const WHOLE_WITHIN: f64 = 1e-6;

/// For each member the replicas it should hold of `q` partitions with `n` replicas each (or as many as there are active
/// members); the sum is the number of all replicas.
pub(super) fn fair_shares(q: usize, n: usize, members: &[Member], zones: &Zones) -> Vec<f64> {
    let mut shares = vec![0.0; members.len()];
    if zones.active().is_empty() {
        return shares;
    }
    let (q, rounds) = (real(q), zones.rounds(n));
    let groups: Vec<Group> =
        (0..zones.sizes().len()).map(|zone| Group::of(zone, q, &rounds, members, zones)).collect();
    let total = q * real(rounds.iter().sum());
    let level = fill(total, |level| groups.iter().map(|group| group.held_at(level)).sum());
    for group in &groups {
        let held = group.held_at(level);
        let level = fill(held, |level| group.wanted_at(level));
        for (index, weight) in &group.weights {
            let share = (level * weight).min(q);
            shares[usize::from(*index)] =
                if (share - share.round()).abs() < WHOLE_WITHIN { share.round() } else { share };
        }
    }
    shares
}

/// One zone: its active members, and the replicas it may hold.
struct Group {
    weights: Vec<(u16, f64)>,
    member_max: f64,
    min: f64,
    max: f64,
}

impl Group {
    fn of(zone: usize, q: f64, rounds: &[usize], members: &[Member], zones: &Zones) -> Self {
        let size = zones.sizes()[zone];
        // A round that every zone with a member left takes part in is not to be escaped; the last one may be.
        let is_full = |round: &usize| {
            let able = zones.sizes().iter().filter(|size| round < size).count();
            *round < size && rounds[*round] == able
        };
        let weights =
            zones.active().iter().filter(|index| zones.zone(**index) == zone).map(|index| {
                let Weight(thousandths) = members[usize::from(*index)].weight;
                (*index, f64::from(thousandths))
            });
        Self {
            weights: weights.collect(),
            member_max: q,
            min: q * real((0..rounds.len()).filter(is_full).count()),
            max: q * real(size.min(rounds.len())),
        }
    }

    /// Replicas of the zone's members at a water level, each within its bound.
    fn wanted_at(&self, level: f64) -> f64 {
        self.weights.iter().map(|(_, weight)| (level * weight).min(self.member_max)).sum()
    }

    /// The same within the zone's bounds.
    fn held_at(&self, level: f64) -> f64 {
        self.wanted_at(level).clamp(self.min, self.max)
    }
}

/// The level at which the rising function `held` reaches `total`.
fn fill(total: f64, held: impl Fn(f64) -> f64) -> f64 {
    // Weights count from 1, so at a level of `total` every member holds as much as it can.
    let (mut low, mut high) = (0.0, total);
    for _ in 0..HALVINGS {
        let middle = f64::midpoint(low, high);
        if held(middle) < total {
            low = middle;
        } else {
            high = middle;
        }
    }
    high
}

/// Counts of replicas are far below 2^52.
#[expect(clippy::cast_precision_loss, reason = "at most 2^16 partitions times 255 replicas")]
pub(super) const fn real(count: usize) -> f64 {
    count as f64
}

#[cfg(test)]
mod tests {
    use super::super::notation::members;
    use super::*;

    /// Members as `weight` or `weight@zone`, shares rounded to two decimals.
    #[track_caller]
    fn check(q: usize, n: usize, text: &str, expected: &[f64]) {
        let members = members(text);
        let shares = fair_shares(q, n, &members, &Zones::of(&members));
        let rounded: Vec<f64> =
            shares.iter().map(|share| (share * 100.0).round() / 100.0).collect();
        assert_eq!(rounded, expected, "{text}");
    }

    #[test]
    fn equal_members_share_equally() {
        check(1024, 3, "1 1 1 1", &[768.0; 4]);
        check(1024, 3, "1 1 1 1 1", &[614.4; 5]);
        check(1024, 3, "1 1", &[1024.0; 2]);
        check(1024, 3, "1", &[1024.0]);
    }

    #[test]
    fn weights_count_in_proportion_up_to_every_partition_once() {
        check(100, 1, "1 2 1", &[25.0, 50.0, 25.0]);
        check(100, 2, "1 0 1 2", &[50.0, 0.0, 50.0, 100.0]);
        check(100, 2, "10 1 1", &[100.0, 50.0, 50.0]);
        check(90, 3, "9 9 1 2", &[90.0, 90.0, 30.0, 60.0]);
    }

    #[test]
    fn zones_bound_their_members() {
        // Three zones, three replicas: each zone holds each partition once.
        check(100, 3, "1@a 1@b 1@c 1@c", &[100.0, 100.0, 50.0, 50.0]);
        // Two zones, three replicas: each zone one or two.
        check(100, 3, "1@a 1@b 1@b 1@b", &[100.0, 66.67, 66.67, 66.67]);
        check(100, 3, "1@a 1@a 1@b 1@b", &[75.0; 4]);
        check(100, 3, "1@a 1@a 1@a 1@a 1@b 1@b", &[50.0, 50.0, 50.0, 50.0, 50.0, 50.0]);
        // More zones than replicas: only the upper bound counts.
        check(100, 2, "2@a 1@b 1@c", &[100.0, 50.0, 50.0]);
        check(100, 2, "1@a 1@b 1@c 1@d", &[50.0; 4]);
        // One name for all, or one name and none, is no use of zones.
        check(100, 2, "1@a 1@a 1@a 1", &[50.0; 4]);
    }
}
