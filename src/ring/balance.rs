//! How even a ring is: replicas and first replicas of each member against its fair share.

use super::Preferences;
use super::shares::{fair_shares, real};
use super::zones::Zones;

/// What each member holds and should hold, in partitions, in the order of the ring's members.
#[derive(Clone, Debug, PartialEq)]
pub struct Balance {
    /// Partitions it holds a replica of.
    pub replicas: Vec<usize>,
    /// Partitions it owns, which are those whose first replica it is.
    pub firsts: Vec<usize>,
    /// Replicas it should hold by its weight, within what distinct members and zones allow; the sum is q × n.
    pub fair: Vec<f64>,
    n: usize,
}

/// How far members are from their fair shares: each one's quotient of what it holds and its fair share, among those
/// that should hold something.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Spread {
    /// The largest quotient: max / mean among equal members. 1.0 is even.
    pub max: f64,
    /// The smallest quotient.
    pub min: f64,
    /// The quotients' standard deviation from 1.
    pub deviation: f64,
}

impl Spread {
    /// Compares what members hold with what is fair, after scaling both to the same sum; all 1 and 0 where nobody holds anything.
    pub fn of(held: &[f64], fair: &[f64]) -> Self {
        let scale = fair.iter().sum::<f64>() / held.iter().sum::<f64>();
        if !scale.is_finite() {
            return Self { max: 1.0, min: 1.0, deviation: 0.0 };
        }
        let quotients: Vec<f64> = held
            .iter()
            .zip(fair)
            .filter(|(_, fair)| **fair > 0.0)
            .map(|(held, fair)| scale * held / fair)
            .collect();
        let variance = quotients.iter().map(|quotient| (quotient - 1.0).powi(2)).sum::<f64>()
            / real(quotients.len().max(1));
        Self {
            max: quotients.iter().copied().fold(0.0, f64::max),
            min: quotients.iter().copied().fold(f64::INFINITY, f64::min),
            deviation: variance.sqrt(),
        }
    }
}

impl Balance {
    /// Counts a ring's walks.
    pub fn of(preferences: &Preferences) -> Self {
        let ring = preferences.ring();
        let (members, n) = (ring.members.len(), ring.effective_n());
        let mut balance = Self {
            replicas: vec![0; members],
            firsts: vec![0; members],
            fair: fair_shares(ring.owner.len(), n, &ring.members, &Zones::of(&ring.members)),
            n,
        };
        for walk in preferences.iter() {
            balance.firsts[usize::from(walk.indexes()[0])] += 1;
            walk.indexes()[..n].iter().for_each(|index| balance.replicas[usize::from(*index)] += 1);
        }
        balance
    }

    /// The most that any member holds against its fair share: max / mean among equal members. 1.0 is even.
    pub fn replica_skew(&self) -> f64 {
        skew(&self.replicas, self.fair.iter().copied())
    }

    /// The same for first replicas.
    pub fn first_skew(&self) -> f64 {
        skew(&self.firsts, self.fair.iter().map(|fair| fair / real(self.n)))
    }
}

fn skew(held: &[usize], fair: impl Iterator<Item = f64>) -> f64 {
    held.iter()
        .zip(fair)
        .filter(|(_, fair)| *fair > 0.0)
        .map(|(held, fair)| real(*held) / fair)
        .fold(0.0, f64::max)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::super::notation::{members, ring};
    use super::*;

    fn balance(n: u8, text: &str, owner: &[u16]) -> Balance {
        Balance::of(&Preferences::new(Arc::new(ring(n, members(text), owner.to_vec()))))
    }

    #[test]
    fn an_even_ring_has_no_skew() {
        let even = balance(2, "1 1 1 1", &[0, 1, 2, 3]);
        assert_eq!(
            (even.replicas.as_slice(), even.firsts.as_slice()),
            ([2; 4].as_slice(), [1; 4].as_slice())
        );
        assert_eq!(even.fair, [2.0; 4]);
        assert!((even.replica_skew() - 1.0).abs() < 1e-9 && (even.first_skew() - 1.0).abs() < 1e-9);
    }

    #[test]
    fn a_repeated_owner_holds_less_and_the_next_one_more() {
        // Lists: 01, 10, 10, 03, 32, 20, 01, 01: the walk passes over repeats.
        let uneven = balance(2, "1 1 1 1", &[0, 1, 1, 0, 3, 2, 0, 0]);
        assert_eq!(uneven.replicas, [7, 5, 2, 2]);
        assert_eq!(uneven.firsts, [4, 2, 1, 1]);
        assert!(
            (uneven.replica_skew() - 1.75).abs() < 1e-9 && (uneven.first_skew() - 2.0).abs() < 1e-9
        );
    }

    #[test]
    fn a_spread_is_in_shares() {
        let spread = Spread::of(&[30.0, 10.0, 0.0], &[1.0, 1.0, 0.0]);
        assert_eq!(spread, Spread { max: 1.5, min: 0.5, deviation: 0.5 });
        let spread = Spread::of(&[10.0, 20.0], &[1.0, 2.0]);
        assert!((spread.max - spread.min).abs() < 1e-9 && spread.deviation < 1e-9);
        assert_eq!(Spread::of(&[0.0], &[1.0]), Spread { max: 1.0, min: 1.0, deviation: 0.0 });
    }

    #[test]
    fn weights_and_leavers_count() {
        let weighted = balance(1, "1 2 0 1", &[0, 1, 1, 3]);
        assert_eq!(weighted.fair, [1.0, 2.0, 0.0, 1.0]);
        assert!((weighted.replica_skew() - 1.0).abs() < 1e-9);
    }
}
