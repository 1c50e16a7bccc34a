//! Placement: a deterministic solver from members and the ring before to `owner[Q]` (DESIGN §3).
//!
//! Its wishes, the weightiest first: every member holds its share of all replicas, rounded up or down; little data moves
//! away from the ring before; members own their share of first replicas, and an owner does not come back within N + 1
//! partitions. (That lists have distinct members and zones is no wish: the walk sees to it.)
//!
//! Three steps: owners as they were, or dealt out one by one where nothing was; partitions without an owner, or of
//! members that have too many, go to those that have too few, evenly around the ring; then a local search, which works
//! out what a small change would do to the walk's lists and makes those changes that lower the cost.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::arrangement::{Arrangement, Tally};
use super::search::Search;
use super::shares::{fair_shares, real};
use super::zones::{NOBODY, Zones};
use super::{Member, Preferences, Ring};

/// A placement and what it could not keep.
#[derive(Clone, Debug, PartialEq)]
pub struct Placement {
    /// For each partition an index into the members given.
    pub owner: Vec<u16>,
    /// What the numbers did not allow.
    pub shortfalls: Vec<Shortfall>,
}

/// A wish that a placement could not meet.
#[derive(Clone, Debug, PartialEq)]
pub enum Shortfall {
    /// Partitions whose first n in the walk stand in fewer zones than there could be replicas in.
    Zones {
        /// How many partitions.
        partitions: usize,
    },
    /// A member whose replica count is off its share by more than rounding.
    Share {
        /// The member's name.
        member: String,
        /// Replicas it should hold.
        wanted: f64,
        /// Replicas it holds.
        got: usize,
    },
    /// N + 1 partitions in a row (or as many as there are members) that are not all owned by distinct ones.
    Window {
        /// How many partitions start such a row.
        partitions: usize,
    },
}

/// Partitions among which one is chosen to change hands.
const CHOICES: usize = 32;

/// Places `q` partitions on `members` (sorted by id) for `n` replicas, moving little away from `before`.
/// # Panics
/// Without a member of weight above 0.
pub fn place(q: u32, n: u8, members: &[Member], before: Option<&Ring>) -> Placement {
    let zones = Zones::of(members);
    assert!(!zones.active().is_empty(), "a placement wants a member of weight above 0");
    let (q, n) = (q as usize, usize::from(n).min(zones.active().len()));
    let shares = fair_shares(q, n, members, &zones);
    let firsts: Vec<f64> = shares.iter().map(|share| share / real(n)).collect();
    let (owner, lists) = match before {
        Some(before) => carry_over(q, members, &zones, before),
        None => (deal(q, n, &firsts, &zones), (Vec::new(), 0)),
    };
    let held = Tally::new(shares.iter().map(|share| bounds(*share)).collect());
    let first = Tally::new(firsts.iter().map(|share| bounds(*share)).collect());
    let mut arrangement = Arrangement::new(n, &zones, &owner, (held, first), lists);
    hand_out(&mut arrangement, &firsts, &zones);
    let arrangement = Search::new(arrangement, zones.active(), owner).run();
    let shortfalls = shortfalls(&arrangement, members, &shares, &zones);
    Placement { owner: arrangement.into_owners(), shortfalls }
}

#[expect(clippy::cast_possible_truncation, reason = "shares are at most 2^16 times 255")]
fn bounds(share: f64) -> (i64, i64) {
    (share.floor() as i64, share.ceil() as i64)
}

/// Deals partitions out one by one: the next goes to the member that is furthest behind its share, of those that do
/// not stand close by.
fn deal(q: usize, n: usize, firsts: &[f64], zones: &Zones) -> Vec<u16> {
    let mut peers = Peers::of(firsts, zones);
    let mut owner: Vec<u16> = Vec::with_capacity(q);
    let zone_window = n.min(zones.sizes().len()) - 1;
    for partition in 0..q {
        let near = |window: usize| &owner[partition.saturating_sub(window)..];
        let best = peers
            .iter()
            .enumerate()
            .map(|(at, peers)| {
                let zone_near =
                    near(zone_window).iter().any(|other| zones.zone(*other) == peers.zone);
                let (back, dealt, index) = peers.next(near(n));
                let behind = peers.share * real(partition + 1) / real(q) - f64::from(dealt);
                (zone_near && zone_window > 0, back, behind, index, at, dealt)
            })
            .min_by(|a, b| {
                (a.0, a.1).cmp(&(b.0, b.1)).then(b.2.total_cmp(&a.2)).then(a.3.cmp(&b.3))
            });
        let (.., index, at, dealt) = best.expect("there is an active member");
        peers[at].queue.remove(&(dealt, index));
        peers[at].queue.insert((dealt + 1, index));
        owner.push(index);
    }
    owner
}

/// Members of the same zone with the same share: whoever of them has been dealt less is further behind.
struct Peers {
    share: f64,
    zone: usize,
    /// How many partitions each one has been dealt, and its index.
    queue: BTreeSet<(u32, u16)>,
}

impl Peers {
    /// The active members by zone and share.
    fn of(firsts: &[f64], zones: &Zones) -> Vec<Self> {
        let mut groups = BTreeMap::new();
        for index in zones.active() {
            let (share, zone) = (firsts[usize::from(*index)], zones.zone(*index));
            let group = groups.entry((zone, share.to_bits()));
            let group = group.or_insert_with(|| Self { share, zone, queue: BTreeSet::new() });
            group.queue.insert((0, *index));
        }
        groups.into_values().collect()
    }

    /// The one furthest behind of those least near to the end of `near`: how near (0 is not at all), how many partitions
    /// it has been dealt, and its index.
    fn next(&self, near: &[u16]) -> (usize, u32, u16) {
        let back =
            |index: u16| near.iter().rposition(|other| *other == index).map_or(0, |at| at + 1);
        let mut best: Option<(usize, u32, u16)> = None;
        for (dealt, index) in &self.queue {
            let candidate = (back(*index), *dealt, *index);
            best = Some(best.map_or(candidate, |best| best.min(candidate)));
            // The queue ascends: nobody behind this one is better than one that is not near.
            if candidate.0 == 0 {
                break;
            }
        }
        best.expect("a group has a member")
    }
}

/// The owners of the ring before as indexes of `members`, and its lists; [`NOBODY`] stands for who is gone.
fn carry_over(
    q: usize,
    members: &[Member],
    zones: &Zones,
    before: &Ring,
) -> (Vec<u16>, (Vec<u16>, usize)) {
    let find = |member: &Member| members.binary_search_by_key(&member.id, |other| other.id).ok();
    let index_of: Vec<u16> = before
        .members
        .iter()
        .map(|member| find(member).and_then(|index| u16::try_from(index).ok()).unwrap_or(NOBODY))
        .collect();
    let new_index = |index: &u16| index_of[usize::from(*index)];
    let is_active = |index: u16| zones.active().binary_search(&index).is_ok();
    let before_n = before.effective_n();
    // Where the number of partitions changed, each one's place on the ring is what counts.
    let place = |partition: usize| partition * before.owner.len() / q;
    let owner = (0..q)
        .map(|partition| new_index(&before.owner[place(partition)]))
        .map(|index| if is_active(index) { index } else { NOBODY })
        .collect();
    let preferences = Preferences::without_fallbacks(Arc::new(before.clone()));
    let walks: Vec<&[u16]> = preferences.iter().map(|walk| walk.indexes()).collect();
    let lists = (0..q)
        .flat_map(|partition| walks[place(partition)][..before_n].iter().map(new_index))
        .collect();
    (owner, (lists, before_n))
}

/// Moves partitions without an owner, and of members that own too many, to those that own too few: each time to the one
/// furthest behind, of a handful that lie scattered around the ring the one that costs least.
fn hand_out(arrangement: &mut Arrangement<'_>, firsts: &[f64], zones: &Zones) {
    let targets = targets(arrangement, firsts, zones);
    let lack = |arrangement: &Arrangement<'_>, index: u16| {
        targets[usize::from(index)] - arrangement.first().count(index)
    };
    let scattered: Vec<usize> = scattered(arrangement.partitions()).collect();
    let mut next = 0;
    loop {
        let share_lacked =
            |index: &u16| (lack(arrangement, *index) << 32) / targets[usize::from(*index)].max(1);
        let behind = zones
            .active()
            .iter()
            .copied()
            .max_by_key(|index| (share_lacked(index), Reverse(*index)));
        let Some(behind) = behind.filter(|index| lack(arrangement, *index) > 0) else { return };
        let is_free = |partition: &usize| {
            let owner = arrangement.owner(*partition);
            owner == NOBODY || lack(arrangement, owner) < 0
        };
        let around = scattered[next..].iter().chain(&scattered[..next]).copied().enumerate();
        let choice: Vec<(usize, usize)> =
            around.filter(|(_, partition)| is_free(partition)).take(CHOICES).collect();
        let best = choice
            .iter()
            .min_by_key(|(_, partition)| arrangement.cost_after(&[(*partition, behind)]));
        let Some((_, partition)) = best else { return };
        arrangement.apply(&[(*partition, behind)]);
        let passed = choice.last().map_or(0, |(steps, _)| steps + 1);
        next = (next + passed) % scattered.len();
    }
}

/// How many partitions each member should own: whole numbers near its share that sum to all; who owns more already
/// is rounded up first.
fn targets(arrangement: &Arrangement<'_>, firsts: &[f64], zones: &Zones) -> Vec<i64> {
    let mut targets: Vec<i64> = firsts.iter().map(|share| bounds(*share).0).collect();
    let mut order: Vec<u16> = zones.active().to_vec();
    order.retain(|index| firsts[usize::from(*index)].fract() > 0.0);
    order.sort_by(|a, b| {
        let has_more = |index: u16| arrangement.first().count(index) > targets[usize::from(index)];
        let fraction = |index: u16| firsts[usize::from(index)].fract();
        has_more(*b).cmp(&has_more(*a)).then(fraction(*b).total_cmp(&fraction(*a)))
    });
    let left = arrangement.partitions()
        - targets.iter().map(|target| usize::try_from(*target).unwrap_or(0)).sum::<usize>();
    order.into_iter().take(left).for_each(|index| targets[usize::from(index)] += 1);
    targets
}

/// All numbers below `q`, a power of two, in an order whose every beginning is spread evenly (van der Corput).
pub(super) fn scattered(q: usize) -> impl Iterator<Item = usize> {
    let bits = q.trailing_zeros();
    (0..q).map(
        move |number| if bits == 0 { 0 } else { number.reverse_bits() >> (usize::BITS - bits) },
    )
}

/// What an arrangement does not keep.
fn shortfalls(
    arrangement: &Arrangement<'_>,
    members: &[Member],
    shares: &[f64],
    zones: &Zones,
) -> Vec<Shortfall> {
    let (q, n) = (arrangement.partitions(), arrangement.list(0).len());
    let zones_wanted = n.min(zones.sizes().len());
    let zones_of = |partition: &usize| {
        let mut of: Vec<usize> =
            arrangement.list(*partition).iter().map(|index| zones.zone(*index)).collect();
        of.sort_unstable();
        of.dedup();
        of.len()
    };
    let crowded = (0..q).filter(|partition| zones_of(partition) < zones_wanted).count();
    let window = (n + 1).min(zones.active().len()).min(q);
    let repeats = |start: &usize| {
        let row: Vec<u16> =
            (0..window).map(|distance| arrangement.owner((start + distance) % q)).collect();
        (1..row.len()).any(|at| row[..at].contains(&row[at]))
    };
    let rows = (0..q).filter(repeats).count();
    let mut found = Vec::new();
    if crowded > 0 {
        found.push(Shortfall::Zones { partitions: crowded });
    }
    for index in zones.active().iter().filter(|index| arrangement.held().off(**index) != 0) {
        found.push(Shortfall::Share {
            member: members[usize::from(*index)].name.clone(),
            wanted: shares[usize::from(*index)],
            got: usize::try_from(arrangement.held().count(*index)).unwrap_or(0),
        });
    }
    if rows > 0 {
        found.push(Shortfall::Window { partitions: rows });
    }
    found
}
