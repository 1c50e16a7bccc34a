//! The solver over random sequences of changes: joins, leaves, replacements, weights, zones.

use std::collections::BTreeSet;
use std::sync::Arc;

use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

use crate::node_id::NodeId;

use super::notation::{member, members, node, placed};
use super::shares::real;
use super::{Balance, Member, Movement, Preferences, Ring, SLOTS, Shortfall, Weight, place};

/// Most members of a random cluster.
const MEMBERS_MAX: usize = 32;
/// Changes in a sequence.
const CHANGES: usize = 10;
/// Sequences.
const SEEDS: u64 = 16;

/// What an operator does.
#[derive(Clone, Debug)]
enum Change {
    Join(Member),
    Leave(usize),
    Replace(usize, Member),
    Weigh(usize, Weight),
    Zone(usize, String),
}

/// A cluster as its operator sees it: members that come, go, and change.
struct Cluster {
    rng: ChaCha8Rng,
    zones: usize,
    equal: bool,
    named: u32,
    members: Vec<Member>,
}

impl Cluster {
    fn new(seed: u64) -> Self {
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        let (zones, equal) = ([0, 0, 2, 3, 4][rng.random_range(0..5)], rng.random());
        let mut cluster = Self { rng, zones, equal, named: 0, members: Vec::new() };
        for _ in 0..cluster.rng.random_range(1..16) {
            let founder = cluster.stranger();
            cluster.members.push(founder);
        }
        cluster
    }

    fn weight(&mut self) -> Weight {
        if self.equal { Weight::ONE } else { Weight(self.rng.random_range(1..=8) * 500) }
    }

    fn zone(&mut self) -> String {
        let zones = self.zones;
        if zones == 0 { String::new() } else { format!("z{}", self.rng.random_range(0..zones)) }
    }

    fn stranger(&mut self) -> Member {
        self.named += 1;
        let (weight, zone) = (self.weight(), self.zone());
        member(self.named, weight, &zone)
    }

    fn change(&mut self) -> Change {
        let at = self.rng.random_range(0..self.members.len());
        match self.rng.random_range(0..8) {
            0..4 if self.members.len() < MEMBERS_MAX => Change::Join(self.stranger()),
            4..6 if self.members.len() > 1 => Change::Leave(at),
            6 if !self.equal => Change::Weigh(at, self.weight()),
            7 if self.zones > 0 => Change::Zone(at, self.zone()),
            _ => Change::Replace(at, Member { weight: self.members[at].weight, ..self.stranger() }),
        }
    }

    fn apply(&mut self, change: &Change) {
        match change.clone() {
            Change::Join(member) => self.members.push(member),
            Change::Leave(at) => drop(self.members.remove(at)),
            Change::Replace(at, member) => {
                let zone = self.members.remove(at).zone;
                self.members.push(Member { zone, ..member });
            }
            Change::Weigh(at, weight) => self.members[at].weight = weight,
            Change::Zone(at, zone) => self.members[at].zone = zone,
        }
    }
}

fn preferences(ring: &Ring) -> Preferences {
    Preferences::new(Arc::new(ring.clone()))
}

/// Whether a member is off its share by `tolerance` replicas or more.
fn is_far_off(balance: &Balance, tolerance: usize) -> bool {
    let off = |(held, fair): (&usize, &f64)| (real(*held) - fair).abs() >= real(tolerance);
    balance.replicas.iter().zip(&balance.fair).any(off)
}

/// More than a partition's replicas off is too much. Where zones and weights pull in different directions (a member that
/// should stand in every list, a zone of many light ones) a thirty-second of the partitions is.
fn tolerance(cluster: &Cluster, q: usize, n: usize) -> usize {
    if cluster.zones > 0 && !cluster.equal { (n + 1).max(q / 32) } else { n + 1 }
}

/// Lists of distinct members in as many zones as there can be, by counting only.
fn lists_are_distinct(preferences: &Preferences) -> bool {
    let ring = preferences.ring();
    let active = || ring.members.iter().filter(|member| member.weight > Weight::ZERO);
    let zones = active().map(|member| &member.zone).collect::<BTreeSet<_>>().len();
    preferences.iter().all(|walk| {
        let owners: BTreeSet<NodeId> = walk.owners().collect();
        let met: BTreeSet<&str> =
            owners.iter().map(|id| ring.member(*id).unwrap().zone.as_str()).collect();
        owners.len() == ring.effective_n() && met.len() == ring.effective_n().min(zones)
    })
}

/// What may move at most: with zones, a member's zone often rules out what its weight asks for.
fn moved_max(zones: usize, n: usize, least: usize) -> usize {
    if zones == 0 { least * 12 / 10 + 4 * n } else { 2 * least + 8 * n }
}

#[test]
fn random_changes_stay_even_and_move_little() {
    for seed in 0..SEEDS {
        let mut cluster = Cluster::new(seed);
        let q = 32_u32 << cluster.rng.random_range(0..6);
        let n = [1, 2, 3, 3, 3, 4, 5][cluster.rng.random_range(0..7)];
        let mut before = placed(q, n, cluster.members.clone(), None);
        for step in 0..CHANGES {
            let change = cluster.change();
            cluster.apply(&change);
            let after = placed(q, n, cluster.members.clone(), Some(&before));
            let replay = format!("seed {seed}, step {step}, q {q}, n {n}: {change:?}");
            after.validate().unwrap_or_else(|error| panic!("{error}; {replay}"));
            let [old, new] = [&before, &after].map(preferences);
            assert!(lists_are_distinct(&new), "{replay}");
            let balance = Balance::of(&new);
            let tolerance = tolerance(&cluster, q as usize, usize::from(n));
            assert!(!is_far_off(&balance, tolerance), "{balance:?}; {replay}");
            let width = SLOTS / q as usize;
            let moved = Movement::between(&old, &new).moved() / width;
            let least = Movement::least(&old, &after) / width;
            let most = moved_max(cluster.zones, usize::from(n), least);
            assert!(moved <= most, "moved {moved}, at least {least}; {replay}");
            before = after;
        }
    }
}

#[test]
fn equal_members_share_alike_and_a_joiner_takes_little_more_than_its_own() {
    const Q: u32 = 1024;
    for count in 3..=32 {
        let all = members(&"1 ".repeat(count + 1));
        let before = placed(Q, 3, all[..count].to_vec(), None);
        let after = placed(Q, 3, all, Some(&before));
        let [old, new] = [&before, &after].map(preferences);
        for preferences in [&old, &new] {
            let balance = Balance::of(preferences);
            assert!(
                balance.replica_skew() <= 1.05 && !is_far_off(&balance, 4),
                "{count} members: {balance:?}"
            );
            assert!(balance.first_skew() <= 1.06, "{count} members: {balance:?}");
        }
        let movement = Movement::between(&old, &new);
        let joiner = after.members.last().unwrap().id;
        let fair = real(movement.replicas) / real(count + 1);
        assert!(
            real(movement.moved()) <= 1.2 * fair,
            "{count} members: {} moved, fair {fair}",
            movement.moved()
        );
        let gained = movement.gained_by(joiner);
        assert!(
            real(gained) >= 0.8 * real(movement.moved()),
            "{count} members: {gained} of {}",
            movement.moved()
        );
    }
}

#[test]
fn a_replacement_takes_over_what_the_dead_one_held() {
    for count in 3..=16 {
        let old = members(&"1 ".repeat(count));
        let mut new = old.clone();
        new.remove(1);
        new.push(member(99, Weight::ONE, ""));
        let before = placed(1024, 3, old, None);
        let after = placed(1024, 3, new, Some(&before));
        let movement = Movement::between(&preferences(&before), &preferences(&after));
        // A share that was off by a replica may be mended on the way.
        let (gained, moved) = (movement.gained_by(node(99)), movement.moved());
        assert!(real(gained) >= 0.98 * real(moved), "{count} members: {gained} of {moved}");
    }
}

#[test]
fn the_same_question_has_the_same_answer() {
    let mut cluster = Cluster::new(7);
    let before = placed(128, 3, cluster.members.clone(), None);
    for _ in 0..CHANGES {
        let change = cluster.change();
        cluster.apply(&change);
        assert_eq!(
            place(128, 3, &cluster.members, Some(&before)),
            place(128, 3, &cluster.members, Some(&before))
        );
    }
}

#[test]
fn nothing_to_do_moves_nothing() {
    let all = members("1@a 1@b 1@c 2@a 0.5@b");
    let before = placed(256, 3, all.clone(), None);
    let again = placed(256, 3, all, Some(&before));
    assert_eq!(Movement::between(&preferences(&before), &preferences(&again)).moved(), 0);
}

#[test]
fn doubled_partitions_keep_their_owners() {
    let all = members("1 1 1 1");
    let before = placed(64, 3, all.clone(), None);
    let after = placed(128, 3, all, Some(&before));
    let share = Movement::between(&preferences(&before), &preferences(&after)).share();
    assert!(share < 0.01, "{share} moved");
}

#[test]
fn what_the_numbers_do_not_allow_is_reported() {
    // Two owners in turn are all that two members allow; four partitions are too few for three in a row.
    let report = place(32, 2, &members("1 1"), None).shortfalls;
    assert_eq!(report, []);
    let report = place(4, 2, &members("1 1 1"), None).shortfalls;
    assert!(
        report.iter().any(|shortfall| matches!(shortfall, Shortfall::Window { .. })),
        "{report:?}"
    );
}
