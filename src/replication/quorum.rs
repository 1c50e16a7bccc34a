//! How many replicas a request wants, whom it counts, and what the reply may promise.
//!
//! While a change of the layout runs, a key has two sets of owners (DESIGN §8): *now*, by the ring in force, and *next*,
//! by the ring that the change leads to. What is counted is counted set by set, as a [`Tally`].

use serde::{Deserialize, Serialize};

use crate::planted::{self, Bug};
use crate::ring::{Mode, Ring};

/// How many replicas a request waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Level {
    /// Exactly so many, from 1.
    Count(u8),
    /// One.
    One,
    /// A majority of the effective n.
    Quorum,
    /// All of the effective n.
    All,
}

/// Whom a request counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Consistency {
    /// Owners, and healthy members standing in for those that cannot be reached.
    Sloppy,
    /// Owners only, r and w never below the layout's.
    Strict,
}

/// What a reply promises; judged against the layout's w (a get) or r (a put).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Guarantee {
    /// No overlap is promised.
    Eventual,
    /// R + W > N, but stand-ins may have counted, or too few owners are known to hold the answer.
    Overlap,
    /// Owners only and R + W > N: holds among strict requests.
    Strict,
}

impl Consistency {
    /// That of a request that names none.
    pub const fn of_mode(mode: Mode) -> Self {
        match mode {
            Mode::Available => Self::Sloppy,
            Mode::Consistent => Self::Strict,
        }
    }
}

impl Level {
    /// The count for `n` replicas, or `None` when it is 0 or above `n`.
    pub fn resolve(self, n: usize) -> Option<usize> {
        let count = match self {
            Self::Count(count) => usize::from(count),
            Self::One => 1,
            Self::Quorum => n / 2 + 1,
            Self::All => n,
        };
        (1..=n).contains(&count).then_some(count)
    }
}

/// The rings that a request is resolved against.
#[derive(Clone, Copy, Debug)]
pub(super) struct Rings<'a> {
    /// The one in force.
    pub(super) now: &'a Ring,
    /// The one that a running change leads to.
    pub(super) next: Option<&'a Ring>,
}

/// So many owners of a key in each of its two sets. While no change runs the second one is empty, and nothing is needed
/// of it; an owner that is in both counts in both.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Tally {
    /// Of the owners by the ring in force.
    pub(super) now: usize,
    /// Of the owners by the ring that a running change leads to.
    pub(super) next: usize,
}

impl Tally {
    /// Whether there are as many as are needed in each set.
    pub(super) const fn meets(self, needed: Self) -> bool {
        needed.now <= self.now && needed.next <= self.next
    }

    /// How many are missing from what is needed.
    pub(super) const fn short_of(self, needed: Self) -> Self {
        Self {
            now: needed.now.saturating_sub(self.now),
            next: needed.next.saturating_sub(self.next),
        }
    }

    /// Of one owner's seat: in how many sets it is one of those needed.
    pub(super) fn use_for(self, needed: Self) -> usize {
        self.now.min(needed.now) + self.next.min(needed.next)
    }
}

impl std::ops::Add for Tally {
    type Output = Self;

    fn add(self, other: Self) -> Self {
        Self { now: self.now + other.now, next: self.next + other.next }
    }
}

impl std::iter::Sum for Tally {
    fn sum<I: Iterator<Item = Self>>(tallies: I) -> Self {
        tallies.fold(Self::default(), std::ops::Add::add)
    }
}

/// What one request needs. A strict one needs its quorum in each set of owners, by the terms of that set's ring; a sloppy
/// one in that of the ring in force only, or a change whose gainers are all down could be neither finished nor
/// written through (DESIGN §8).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Terms {
    /// By the ring in force.
    pub(super) now: Quorum,
    /// By the ring that a running change leads to.
    next: Option<Quorum>,
    /// Whether success may be bought with a weaker promise.
    pub(super) consistency: Consistency,
}

/// What one request needs of the owners by one ring: explicit levels against its effective n, defaults from the layout.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Quorum {
    /// Owners a key has.
    n: usize,
    /// Owners that must answer.
    pub(super) r: usize,
    /// Durable acknowledgements a write needs.
    pub(super) w: usize,
    layout_r: usize,
    layout_w: usize,
}

/// The levels that a request names.
#[derive(Clone, Copy, Debug)]
struct Named {
    r: Option<Level>,
    w: Option<Level>,
}

/// Owners (members, where it is sloppy) that a get and a put without a context need up, at the layout's r and w.
pub fn owners_needed(ring: &Ring, consistency: Consistency) -> (usize, usize) {
    let terms = Terms::of_get(Rings { now: ring, next: None }, None, Some(consistency));
    let terms = terms.expect("a request that names no level is as good as its ring");
    (terms.get_answers().now, terms.put_answers().now)
}

impl Terms {
    /// The terms of a read.
    pub(super) fn of_get(
        rings: Rings<'_>,
        r: Option<Level>,
        consistency: Option<Consistency>,
    ) -> Result<Self, String> {
        Self::of(rings, Named { r, w: None }, consistency)
    }

    /// The terms of a write. Where only w is named, it bounds r: who accepts a weak write waits for no further owner.
    pub(super) fn of_put(
        rings: Rings<'_>,
        w: Option<Level>,
        r: Option<Level>,
        consistency: Option<Consistency>,
    ) -> Result<Self, String> {
        Self::of(rings, Named { r, w }, consistency)
    }

    /// R and W of a strict request are never below the layout's. While a change runs nor are a sloppy one's: new owners
    /// merge from as many old ones as meet every write at the layout's w, and from no more.
    fn of(
        Rings { now, next }: Rings<'_>,
        named: Named,
        consistency: Option<Consistency>,
    ) -> Result<Self, String> {
        named.check(now.effective_n())?;
        let consistency = consistency.unwrap_or(Consistency::of_mode(now.mode));
        let quorum = |ring| match (consistency, next) {
            (Consistency::Sloppy, None) => Quorum::of(ring, named),
            (Consistency::Sloppy, Some(_)) | (Consistency::Strict, _) => {
                Quorum::of(ring, named).raised()
            }
        };
        let next = next.filter(|_| !planted::is_on(Bug::GainersUncounted));
        Ok(Self { now: quorum(now), next: next.map(quorum), consistency })
    }

    /// Owners that must hold what a strict get answers, so that no later one goes back: as few as a strict request may
    /// read meet one of them. It is the layout's r that counts, not this request's larger one.
    pub(super) fn holders(&self) -> Tally {
        Tally { now: self.now.holders(), next: self.next.map_or(0, |next| next.holders()) }
    }

    /// Owners that must answer a get.
    pub(super) fn get_answers(&self) -> Tally {
        self.needs(|quorum| match self.consistency {
            Consistency::Strict if planted::is_on(Bug::StrictGetUnheld) => quorum.r,
            Consistency::Strict => quorum.r.max(quorum.holders()),
            Consistency::Sloppy => quorum.r,
        })
    }

    /// Owners that must answer a put without a context before it knows what to replace.
    pub(super) fn put_answers(&self) -> Tally {
        self.needs(|quorum| quorum.r.max(quorum.w))
    }

    /// Owners that must acknowledge a write.
    pub(super) fn acknowledgements(&self) -> Tally {
        self.needs(|quorum| quorum.w)
    }

    /// Whether a get that so many owners answered, stand-ins not counted, can promise what a strict one does, if enough
    /// of them hold it.
    pub(super) fn can_be_strict(&self, owners_heard: Tally) -> bool {
        self.meets_writes(owners_heard) && owners_heard.meets(self.holders())
    }

    /// What a get promises that merged what so many owners hold, and whose answer so many hold in the end.
    pub(super) fn of_answer(&self, owners_heard: Tally, holders: Tally) -> Guarantee {
        let is_strict = self.meets_writes(owners_heard) && holders.meets(self.holders());
        match (self.now.overlaps_writes(), is_strict) {
            (false, _) => Guarantee::Eventual,
            (true, false) => Guarantee::Overlap,
            (true, true) => Guarantee::Strict,
        }
    }

    /// What a put promises that so many owners acknowledged, and so many in the stead of owners.
    pub(super) fn of_write(&self, acknowledged: Tally, stand_ins: usize) -> Guarantee {
        let is_kept =
            |quorum: &Quorum, acknowledged| quorum.overlaps_reads() && quorum.w <= acknowledged;
        match (self.now.overlaps_reads(), stand_ins == 0 && self.in_each(acknowledged, is_kept)) {
            (false, _) => Guarantee::Eventual,
            (true, false) => Guarantee::Overlap,
            (true, true) => Guarantee::Strict,
        }
    }

    /// Whether others may stand in for owners that cannot be reached.
    pub(super) fn takes_stand_ins(&self) -> bool {
        self.consistency == Consistency::Sloppy || planted::is_on(Bug::StandInsCountForStrict)
    }

    /// Whether so many owners, asked by a get of no less than the layout's r, meet those of every write at its w.
    fn meets_writes(&self, owners_heard: Tally) -> bool {
        self.in_each(owners_heard, |quorum, heard| {
            quorum.overlaps_writes()
                && quorum.layout_r <= quorum.r
                && quorum.n < heard + quorum.layout_w
        })
    }

    fn needs(&self, of: impl Fn(&Quorum) -> usize) -> Tally {
        let next = match self.consistency {
            Consistency::Strict => self.next.as_ref().map_or(0, &of),
            Consistency::Sloppy => 0,
        };
        Tally { now: of(&self.now), next }
    }

    fn in_each(&self, tally: Tally, holds: impl Fn(&Quorum, usize) -> bool) -> bool {
        holds(&self.now, tally.now) && self.next.is_none_or(|next| holds(&next, tally.next))
    }
}

impl Quorum {
    fn of(ring: &Ring, named: Named) -> Self {
        let (n, layout_r, layout_w) = (ring.effective_n(), ring.effective_r(), ring.effective_w());
        // The next ring may have fewer owners than the one in force, which the levels were checked against.
        let resolve = |level: Level| level.resolve(n).unwrap_or(n);
        let w = named.w.map(resolve);
        let r = named.r.map_or(w.map_or(layout_r, |w| layout_r.min(w)), resolve);
        Self { n, r, w: w.unwrap_or(layout_w), layout_r, layout_w }
    }

    fn raised(self) -> Self {
        Self { r: self.r.max(self.layout_r), w: self.w.max(self.layout_w), ..self }
    }

    fn holders(&self) -> usize {
        if planted::is_on(Bug::StrictGetUnheld) { 1 } else { self.n - self.layout_r + 1 }
    }

    /// Whether the owners that a get reads meet those of every write at the layout's w.
    const fn overlaps_writes(&self) -> bool {
        self.n < self.r + self.layout_w
    }

    /// Whether the owners that acknowledge a put meet those of every read at the layout's r.
    const fn overlaps_reads(&self) -> bool {
        self.n < self.w + self.layout_r
    }
}

impl Named {
    fn check(self, n: usize) -> Result<(), String> {
        for (name, level) in [("W", self.w), ("R", self.r)] {
            let Some(level) = level.filter(|level| level.resolve(n).is_none()) else { continue };
            return Err(match level {
                Level::Count(0) => format!("{name}=0: at least one replica must answer"),
                Level::Count(count) => {
                    format!("{name}={count} is more than the N={n} replicas that a key has")
                }
                Level::One | Level::Quorum | Level::All => "no member holds any key".to_owned(),
            });
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ring::{Member, Weight};
    use crate::version::notation::node;

    fn ring(members: usize, (n, r, w): (u8, u8, u8), mode: Mode) -> Ring {
        let member = |index: usize| {
            let name = format!("n{index}");
            Member { id: node(&name), name, zone: String::new(), weight: Weight(1000) }
        };
        Ring { q: 1, n, r, w, mode, members: (1..=members).map(member).collect(), owner: vec![0] }
    }

    const fn stable(now: &Ring) -> Rings<'_> {
        Rings { now, next: None }
    }

    const fn now(now: usize) -> Tally {
        Tally { now, next: 0 }
    }

    /// Every choice of `count` of `n` owners, as bits.
    fn choices(n: usize, count: usize) -> impl Iterator<Item = u32> + Clone {
        (0_u32..1 << n).filter(move |set| set.count_ones() as usize == count)
    }

    fn always_meet(n: usize, left: usize, right: usize) -> bool {
        choices(n, left).all(|a| choices(n, right).all(|b| a & b != 0))
    }

    #[test]
    fn guarantees_are_what_counting_sets_of_owners_shows() {
        let levels = |n: u8| 1..=n;
        for n in 1..=5_u8 {
            for (r, w) in levels(n).flat_map(|r| levels(n).map(move |w| (r, w))) {
                let ring = ring(usize::from(n), (n, r, w), Mode::Available);
                let (n, r, w) = (usize::from(n), usize::from(r), usize::from(w));
                for named in 1..=n {
                    let level = Some(Level::Count(u8::try_from(named).unwrap()));
                    let put = Terms::of_put(stable(&ring), level, None, None).unwrap();
                    let written = put.of_write(now(named), 0);
                    assert_eq!(written == Guarantee::Strict, always_meet(n, named, r));
                    let get = Terms::of_get(stable(&ring), level, None).unwrap();
                    for (heard, holders) in
                        (1..=n).flat_map(|heard| (1..=n).map(move |h| (heard, h)))
                    {
                        let seen = always_meet(n, named, w);
                        let kept =
                            r <= named && always_meet(n, heard, w) && always_meet(n, holders, r);
                        let expected = match (seen, kept) {
                            (false, _) => Guarantee::Eventual,
                            (true, false) => Guarantee::Overlap,
                            (true, true) => Guarantee::Strict,
                        };
                        let got = get.of_answer(now(heard), now(holders));
                        assert_eq!(
                            got, expected,
                            "n={n} r={r} w={w} R={named}: {heard} heard, held by {holders}"
                        );
                    }
                }
            }
        }
    }

    #[track_caller]
    fn check(
        members: usize,
        quorum: (u8, u8, u8),
        w: Option<Level>,
        r: Option<Level>,
        strict: bool,
        expected: Result<(usize, usize), &str>,
    ) {
        let mode = if strict { Mode::Consistent } else { Mode::Available };
        let terms = Terms::of_put(stable(&ring(members, quorum, mode)), w, r, None);
        let got = terms.map(|terms| (terms.now.w, terms.now.r));
        assert_eq!(got, expected.map_err(str::to_owned));
    }

    #[test]
    fn a_level_is_resolved_against_the_replicas_a_key_has() {
        let count = |count| Some(Level::Count(count));
        check(3, (3, 2, 2), None, None, false, Ok((2, 2)));
        check(3, (3, 2, 2), Some(Level::All), None, false, Ok((3, 2)));
        check(5, (5, 2, 2), Some(Level::Quorum), None, false, Ok((3, 2)));
        check(3, (3, 2, 2), Some(Level::One), None, false, Ok((1, 1)));
        check(3, (3, 2, 2), count(1), count(3), false, Ok((1, 3)));
        check(3, (3, 2, 2), Some(Level::One), None, true, Ok((2, 2)));
        check(2, (3, 2, 3), None, None, false, Ok((2, 2)));
        let above = "W=4 is more than the N=3 replicas that a key has";
        check(3, (3, 2, 2), count(4), None, false, Err(above));
        let above = "R=3 is more than the N=2 replicas that a key has";
        check(2, (3, 2, 2), None, count(3), false, Err(above));
        check(3, (3, 2, 2), count(0), None, false, Err("W=0: at least one replica must answer"));
    }

    /// A put at these levels, and what it needs of three owners now and of so many next, R before W.
    #[track_caller]
    fn check_change(
        next: (u8, u8, u8),
        (r, w): (Option<Level>, Option<Level>),
        consistency: Consistency,
        expected: [(usize, usize); 2],
    ) {
        let [now, next] = [(3, 2, 2), next]
            .map(|quorum: (u8, u8, u8)| ring(usize::from(quorum.0), quorum, Mode::Available));
        let rings = Rings { now: &now, next: Some(&next) };
        let terms = Terms::of_put(rings, w, r, Some(consistency)).unwrap();
        let got = [terms.now, terms.next.unwrap()].map(|quorum| (quorum.r, quorum.w));
        assert_eq!(got, expected);
    }

    #[test]
    fn while_a_change_runs_each_ring_has_its_own_levels_and_none_below_the_layouts() {
        use Consistency::{Sloppy, Strict};
        let count = |count| Some(Level::Count(count));
        check_change((5, 3, 4), (None, None), Strict, [(2, 2), (3, 4)]);
        check_change((5, 3, 3), (count(1), count(1)), Strict, [(2, 2), (3, 3)]);
        check_change((5, 3, 3), (count(1), count(1)), Sloppy, [(2, 2), (3, 3)]);
        check_change((5, 3, 3), (None, Some(Level::All)), Strict, [(2, 3), (3, 5)]);
        check_change((2, 1, 2), (count(3), count(3)), Strict, [(3, 3), (2, 2)]);
    }

    #[test]
    fn while_a_change_runs_strict_is_what_holds_in_both_sets() {
        let [now, next] = [3, 5].map(|n| ring(usize::from(n), (n, 2, n - 1), Mode::Available));
        let rings = Rings { now: &now, next: Some(&next) };
        let terms = |consistency| Terms::of_put(rings, None, None, Some(consistency)).unwrap();
        let strict = terms(Consistency::Strict);
        assert_eq!(strict.acknowledgements(), Tally { now: 2, next: 4 });
        assert_eq!(strict.get_answers(), Tally { now: 2, next: 4 });
        assert_eq!(strict.holders(), Tally { now: 2, next: 4 });
        let sloppy = terms(Consistency::Sloppy);
        assert_eq!(sloppy.acknowledgements(), Tally { now: 2, next: 0 });
        assert_eq!(sloppy.put_answers(), Tally { now: 2, next: 0 });
        assert_eq!(sloppy.get_answers(), Tally { now: 2, next: 0 });
        for (next, guarantee) in [(3, Guarantee::Overlap), (4, Guarantee::Strict)] {
            let tally = Tally { now: 2, next };
            assert_eq!(sloppy.of_write(tally, 0), guarantee);
            assert_eq!(sloppy.of_answer(Tally { now: 2, next: 4 }, tally), guarantee);
            assert_eq!(sloppy.can_be_strict(tally), guarantee == Guarantee::Strict);
        }
        let heard_by_too_few = sloppy.of_answer(Tally { now: 2, next: 1 }, strict.holders());
        assert_eq!(heard_by_too_few, Guarantee::Overlap);
    }
}
