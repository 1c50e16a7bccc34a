//! What a ring survives: which members may be down, and how likely so many failures are to hit the owners of some key.
//!
//! Keys with the same owners share their fate, so that the ring is a list of *owner sets*, each with its slots. How bad a
//! set of failures is, is told by the owner set that it hits worst. More failures never make that better: a search
//! through all sets of failures need not look behind one that already took all owners of a key.

use std::collections::{BTreeMap, BTreeSet};

use rand::Rng;

use super::shares::real;
use super::zones::Zones;
use super::{Preferences, SLOTS};

/// Quantile of the normal distribution for a two-sided interval of 95 %.
const Z_95: f64 = 1.959_964;

/// A ring seen as its owner sets.
#[derive(Clone, Debug)]
pub struct Survival {
    /// Owners of a key.
    n: usize,
    /// Indexes of the members that may own something.
    active: Vec<u16>,
    /// For each owner set its slots.
    slots: Vec<usize>,
    /// For each member the owner sets it belongs to.
    sets_of: Vec<Vec<u32>>,
}

/// How a number of random failures ends, over all sets of failures or a sample.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Odds {
    /// For each number of owners, from 0: in how many outcomes no key has more owners down, and some key just as many.
    pub worst: Vec<u64>,
    /// Whether all sets of failures were looked at.
    pub is_exact: bool,
}

impl Survival {
    /// The owner sets of a ring.
    pub fn of(preferences: &Preferences) -> Self {
        let ring = preferences.ring();
        let width = SLOTS / ring.owner.len();
        let mut sets: BTreeMap<Vec<u16>, usize> = BTreeMap::new();
        for walk in preferences.iter() {
            let mut owners = walk.indexes()[..ring.effective_n()].to_vec();
            owners.sort_unstable();
            *sets.entry(owners).or_insert(0) += width;
        }
        let mut sets_of = vec![Vec::new(); ring.members.len()];
        for (number, owners) in (0..).zip(sets.keys()) {
            for index in owners {
                sets_of[usize::from(*index)].push(number);
            }
        }
        let active = Zones::of(&ring.members).active().to_vec();
        Self { n: ring.effective_n(), active, slots: sets.into_values().collect(), sets_of }
    }

    /// How many members may own something.
    pub fn members(&self) -> usize {
        self.active.len()
    }

    /// How many different sets of owners there are: the fewer, the fewer combinations of failures are fatal.
    pub fn owner_sets(&self) -> usize {
        self.slots.len()
    }

    /// For each number of owners, from 0: the slots of which so many owners are up while `down` are not.
    pub fn slots_by_owners_up(&self, down: &BTreeSet<u16>) -> Vec<usize> {
        let mut slots = vec![0; self.n + 1];
        for (hit, width) in self.hits(down).iter().zip(&self.slots) {
            slots[self.n - usize::from(*hit)] += width;
        }
        slots
    }

    /// The sets of `failures` members of those that are not `down` yet; `None` where there are more than fit.
    pub fn outcomes(&self, down: &BTreeSet<u16>, failures: usize) -> Option<u64> {
        binomial(self.up(down).len(), failures)
    }

    /// What `failures` further failures do, over all sets of them.
    /// # Panics
    /// When there are more than [`Survival::outcomes`] can tell, or fewer members up.
    pub fn exact(&self, down: &BTreeSet<u16>, failures: usize) -> Odds {
        let mut fate = Fate::new(self, down);
        let up = self.up(down);
        assert!(
            failures <= up.len() && self.outcomes(down, failures).is_some(),
            "too many failures"
        );
        let mut worst = vec![0; self.n + 1];
        fate.visit(&up, failures, &mut worst);
        Odds { worst, is_exact: true }
    }

    /// What `failures` further failures do, over so many random sets of them.
    /// # Panics
    /// When fewer members are up.
    pub fn sampled(
        &self,
        down: &BTreeSet<u16>,
        failures: usize,
        samples: u64,
        random: &mut impl Rng,
    ) -> Odds {
        let mut fate = Fate::new(self, down);
        let mut up = self.up(down);
        assert!(failures <= up.len(), "too many failures");
        let mut worst = vec![0; self.n + 1];
        for _ in 0..samples {
            let mut failed = 0;
            // The beginning of a shuffle. It may stop early: all owners of some key are down already.
            while failed < failures && fate.worst() < self.n {
                let chosen = random.random_range(failed..up.len());
                up.swap(failed, chosen);
                fate.fail(up[failed]);
                failed += 1;
            }
            worst[fate.worst()] += 1;
            up[..failed].iter().for_each(|index| fate.mend(*index));
        }
        Odds { worst, is_exact: false }
    }

    /// The share of keys of which at least `owners` owners are down after `failures` random failures of all members:
    /// the same for every key, and exact.
    pub fn share_hit(&self, failures: usize, owners: usize) -> f64 {
        let members = self.active.len();
        (owners..=self.n.min(failures))
            .filter(|hit| failures - hit <= members - self.n)
            .map(|hit| choose_share(members, failures, self.n, hit))
            .sum()
    }

    fn up(&self, down: &BTreeSet<u16>) -> Vec<u16> {
        self.active.iter().copied().filter(|index| !down.contains(index)).collect()
    }

    /// For each owner set how many of its members are down.
    fn hits(&self, down: &BTreeSet<u16>) -> Vec<u8> {
        let mut hits = vec![0; self.slots.len()];
        for set in down.iter().flat_map(|index| &self.sets_of[usize::from(*index)]) {
            hits[*set as usize] += 1;
        }
        hits
    }
}

impl Odds {
    /// All outcomes.
    pub fn outcomes(&self) -> u64 {
        self.worst.iter().sum()
    }

    /// How many of them leave some key with at least `owners` owners down.
    pub fn hit(&self, owners: usize) -> u64 {
        self.worst.iter().skip(owners).sum()
    }

    /// The probability that some key has at least `owners` owners down.
    pub fn probability(&self, owners: usize) -> f64 {
        share(self.hit(owners), self.outcomes())
    }

    /// The interval that holds this probability in 95 of 100 cases, after Wilson (it is sound near 0 and 1); a point where
    /// all sets of failures were looked at.
    pub fn interval(&self, owners: usize) -> (f64, f64) {
        let probability = self.probability(owners);
        if self.is_exact {
            return (probability, probability);
        }
        let samples = share(self.outcomes(), 1);
        let z2 = Z_95 * Z_95 / samples;
        let middle = (probability + z2 / 2.0) / (1.0 + z2);
        let reach = Z_95 / (1.0 + z2)
            * (probability * (1.0 - probability) / samples + z2 / (4.0 * samples)).sqrt();
        ((middle - reach).max(0.0), (middle + reach).min(1.0))
    }
}

/// Who is down at the moment, and how bad that is.
struct Fate<'a> {
    ring: &'a Survival,
    /// For each owner set how many of its members are down.
    hits: Vec<u8>,
    /// For each number of owners how many owner sets have so many down.
    sets: Vec<usize>,
}

impl<'a> Fate<'a> {
    fn new(ring: &'a Survival, down: &BTreeSet<u16>) -> Self {
        let hits = ring.hits(down);
        let mut sets = vec![0; ring.n + 1];
        for hit in &hits {
            sets[usize::from(*hit)] += 1;
        }
        Self { ring, hits, sets }
    }

    /// How many owners are down of the key that has the most down.
    fn worst(&self) -> usize {
        self.sets.iter().rposition(|sets| *sets > 0).unwrap_or(0)
    }

    fn fail(&mut self, index: u16) {
        for set in &self.ring.sets_of[usize::from(index)] {
            let hit = &mut self.hits[*set as usize];
            self.sets[usize::from(*hit)] -= 1;
            *hit += 1;
            self.sets[usize::from(*hit)] += 1;
        }
    }

    fn mend(&mut self, index: u16) {
        for set in &self.ring.sets_of[usize::from(index)] {
            let hit = &mut self.hits[*set as usize];
            self.sets[usize::from(*hit)] -= 1;
            *hit -= 1;
            self.sets[usize::from(*hit)] += 1;
        }
    }

    /// Counts the outcomes of all sets of `failures` of the members `up`.
    fn visit(&mut self, up: &[u16], failures: usize, worst: &mut [u64]) {
        let so_far = self.worst();
        if failures == 0 || so_far == self.ring.n {
            worst[so_far] += binomial(up.len(), failures).expect("no more than all outcomes");
            return;
        }
        for first in 0..=up.len() - failures {
            self.fail(up[first]);
            self.visit(&up[first + 1..], failures - 1, worst);
            self.mend(up[first]);
        }
    }
}

/// How many sets of `chosen` there are in `all`, where 64 bits hold it.
fn binomial(all: usize, chosen: usize) -> Option<u64> {
    if all < chosen {
        return Some(0);
    }
    let fewer = chosen.min(all - chosen);
    let mut sets: u128 = 1;
    for step in 0..fewer {
        // Whole at every step: the product so far is a binomial coefficient itself.
        sets = sets * (all - step) as u128 / (step + 1) as u128;
        if u128::from(u64::MAX) < sets {
            return None;
        }
    }
    u64::try_from(sets).ok()
}

/// The probability that of `failures` among `members` just `hit` are among `n` given ones (hypergeometric).
fn choose_share(members: usize, failures: usize, n: usize, hit: usize) -> f64 {
    // C(n, hit) · C(members − n, failures − hit) / C(members, failures), factor by factor: no factor is large.
    let ways = (0..hit).map(|step| real(n - step) / real(step + 1)).product::<f64>();
    let fallen = (0..hit).map(|step| real(failures - step) / real(members - step)).product::<f64>();
    let spared = (0..n - hit)
        .map(|step| real(members - failures - step) / real(members - hit - step))
        .product::<f64>();
    ways * fallen * spared
}

#[expect(clippy::cast_precision_loss, reason = "a share needs no more than 52 bits")]
fn share(part: u64, whole: u64) -> f64 {
    part as f64 / whole.max(1) as f64
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use proptest::prelude::*;
    use rand::SeedableRng;
    use rand_chacha::ChaCha8Rng;

    use super::super::notation::{members, placed, ring};
    use super::*;

    fn survival(n: u8, text: &str, owner: &[u16]) -> Survival {
        Survival::of(&Preferences::new(Arc::new(ring(n, members(text), owner.to_vec()))))
    }

    /// Outcomes by the worst key's owners down, from all sets of `failures` of the members, tried one by one.
    fn by_the_book(preferences: &Preferences, failures: u32) -> Vec<u64> {
        let ring = preferences.ring();
        let mut worst = vec![0; ring.effective_n() + 1];
        for set in (0_u32..1 << ring.members.len()).filter(|set| set.count_ones() == failures) {
            let down = |walk: super::super::Walk<'_>| {
                let owners = &walk.indexes()[..ring.effective_n()];
                owners.iter().filter(|index| set & (1 << **index) != 0).count()
            };
            worst[preferences.iter().map(down).max().unwrap()] += 1;
        }
        worst
    }

    #[test]
    fn owners_up_are_counted_in_slots() {
        // Lists 01, 12, 23, 30.
        let ring = survival(2, "1 1 1 1", &[0, 1, 2, 3]);
        let quarter = SLOTS / 4;
        assert_eq!(ring.owner_sets(), 4);
        assert_eq!(ring.slots_by_owners_up(&BTreeSet::new()), [0, 0, SLOTS]);
        assert_eq!(ring.slots_by_owners_up(&[1].into()), [0, 2 * quarter, 2 * quarter]);
        assert_eq!(ring.slots_by_owners_up(&[1, 2].into()), [quarter, 2 * quarter, quarter]);
        assert_eq!(ring.slots_by_owners_up(&[1, 3].into()), [0, SLOTS, 0]);
    }

    #[test]
    fn neighbours_are_fatal_and_opposites_are_not() {
        let ring = survival(2, "1 1 1 1", &[0, 1, 2, 3]);
        let odds = ring.exact(&BTreeSet::new(), 2);
        assert_eq!(odds, Odds { worst: vec![0, 2, 4], is_exact: true });
        assert_eq!((odds.outcomes(), odds.hit(1), odds.hit(2)), (6, 6, 4));
        assert_eq!(odds.interval(2), (4.0 / 6.0, 4.0 / 6.0));
        // With member 0 down already, its neighbours are fatal.
        assert_eq!(ring.exact(&[0].into(), 1).worst, [0, 1, 2]);
        assert_eq!(ring.exact(&BTreeSet::new(), 0).worst, [1, 0, 0]);
        assert_eq!(ring.exact(&BTreeSet::new(), 4).worst, [0, 0, 1]);
    }

    #[test]
    fn the_share_of_keys_is_the_mean_over_all_outcomes() {
        let ring = survival(2, "1 1 1 1 1", &[0, 1, 2, 3, 4, 0, 2, 1]);
        let pairs: Vec<BTreeSet<u16>> =
            (0..5).flat_map(|a| (a + 1..5).map(move |b| BTreeSet::from([a, b]))).collect();
        for owners in 0..=2 {
            let hit = |down: &BTreeSet<u16>| {
                ring.slots_by_owners_up(down)[..=2 - owners].iter().sum::<usize>()
            };
            let mean = real(pairs.iter().map(hit).sum()) / real(pairs.len() * SLOTS);
            assert!((ring.share_hit(2, owners) - mean).abs() < 1e-9, "{owners} of 2: {mean}");
        }
    }

    #[test]
    fn binomials_are_exact_or_refused() {
        assert_eq!(binomial(5, 2), Some(10));
        assert_eq!(binomial(3, 4), Some(0));
        assert_eq!(binomial(100, 3), Some(161_700));
        assert_eq!(binomial(64, 32), Some(1_832_624_140_942_590_534));
        assert_eq!(binomial(10_000, 5_000), None);
    }

    #[test]
    fn an_interval_holds_the_truth_mostly() {
        let preferences =
            Preferences::new(Arc::new(placed(64, 3, members(&"1 ".repeat(12)), None)));
        let ring = Survival::of(&preferences);
        let truth = ring.exact(&BTreeSet::new(), 3);
        let held = (0..200).filter(|seed| {
            let mut random = ChaCha8Rng::seed_from_u64(*seed);
            let (low, high) = ring.sampled(&BTreeSet::new(), 3, 400, &mut random).interval(3);
            (low..=high).contains(&truth.probability(3))
        });
        // 190 are to be expected; fewer than 180 would be a chance of one in a hundred thousand or so.
        let held = held.count();
        assert!(held >= 180, "{held} of 200 intervals hold {}", truth.probability(3));
    }

    proptest! {
        #[test]
        fn all_sets_of_failures_are_counted(
            owner in prop::collection::vec(0..7_u16, 16),
            n in 1..5_u8,
            failures in 0..8_u32,
            zones in prop::collection::vec(prop::sample::select(vec!["1", "1@a", "1@b"]), 7),
        ) {
            let preferences = Preferences::new(Arc::new(ring(n, members(&zones.join(" ")), owner)));
            let failures = failures.min(7);
            let ring = Survival::of(&preferences);
            let odds = ring.exact(&BTreeSet::new(), failures as usize);
            prop_assert_eq!(&odds.worst, &by_the_book(&preferences, failures));
            prop_assert_eq!(Some(odds.outcomes()), ring.outcomes(&BTreeSet::new(), failures as usize));
            // A sample says what is possible, and nothing else.
            let mut random = ChaCha8Rng::seed_from_u64(u64::from(failures));
            let sampled = ring.sampled(&BTreeSet::new(), failures as usize, 50, &mut random);
            prop_assert_eq!(sampled.outcomes(), 50);
            for (sampled, exact) in sampled.worst.iter().zip(&odds.worst) {
                prop_assert!(*sampled == 0 || *exact > 0);
            }
        }
    }
}
