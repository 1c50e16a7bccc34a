//! How many replicas a request wants, whom it counts, and what the reply may promise.

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

/// What one request needs, resolved against the ring in force: explicit levels against the effective n, defaults from
/// the layout, both raised to the layout's where the request is strict.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Terms {
    /// Owners a key has.
    pub(super) n: usize,
    /// Owners that must answer.
    pub(super) r: usize,
    /// Durable acknowledgements a write needs.
    pub(super) w: usize,
    /// Whether success may be bought with a weaker promise.
    pub(super) consistency: Consistency,
    layout_r: usize,
    layout_w: usize,
}

/// Owners (members, where it is sloppy) that a get and a put without a context need up, at the layout's r and w.
pub fn owners_needed(ring: &Ring, consistency: Consistency) -> (usize, usize) {
    let terms = Terms::of_layout(ring, Some(consistency));
    (terms.get_answers(), terms.put_answers())
}

impl Terms {
    /// The terms of a read.
    pub(super) fn of_get(
        ring: &Ring,
        r: Option<Level>,
        consistency: Option<Consistency>,
    ) -> Result<Self, String> {
        let terms = Self::of_layout(ring, consistency);
        let r = terms.resolve("R", r)?.unwrap_or(terms.layout_r);
        Ok(Self { r, ..terms }.raised())
    }

    /// The terms of a write. Where only w is named, it bounds r: who accepts a weak write waits for no further owner.
    pub(super) fn of_put(
        ring: &Ring,
        w: Option<Level>,
        r: Option<Level>,
        consistency: Option<Consistency>,
    ) -> Result<Self, String> {
        let terms = Self::of_layout(ring, consistency);
        let named_w = terms.resolve("W", w)?;
        let named_r = terms.resolve("R", r)?;
        let r = named_r.unwrap_or(named_w.map_or(terms.layout_r, |w| terms.layout_r.min(w)));
        Ok(Self { r, w: named_w.unwrap_or(terms.layout_w), ..terms }.raised())
    }

    /// Owners that must hold what a strict get answers, so that no later one goes back: as few as a strict request may
    /// read meet one of them. It is the layout's r that counts, not this request's larger one.
    pub(super) fn holders(&self) -> usize {
        if planted::is_on(Bug::StrictGetUnheld) {
            return 1;
        }
        self.n - self.layout_r + 1
    }

    /// Owners that must answer a get.
    pub(super) fn get_answers(&self) -> usize {
        match self.consistency {
            Consistency::Strict if planted::is_on(Bug::StrictGetUnheld) => self.r,
            Consistency::Strict => self.r.max(self.holders()),
            Consistency::Sloppy => self.r,
        }
    }

    /// Owners that must answer a put without a context before it knows what to replace.
    pub(super) fn put_answers(&self) -> usize {
        self.r.max(self.w)
    }

    /// Whether a get that so many owners answered, stand-ins not counted, can promise what a strict one does, if enough
    /// of them hold it.
    pub(super) fn can_be_strict(&self, owners_heard: usize) -> bool {
        self.meets_writes(owners_heard) && self.holders() <= owners_heard
    }

    /// What a get promises that merged what so many owners hold, and whose answer so many hold in the end.
    pub(super) fn of_answer(&self, owners_heard: usize, holders: usize) -> Guarantee {
        let is_strict = self.meets_writes(owners_heard) && self.holders() <= holders;
        match (self.overlaps(), is_strict) {
            (false, _) => Guarantee::Eventual,
            (true, false) => Guarantee::Overlap,
            (true, true) => Guarantee::Strict,
        }
    }

    /// Whether so many owners, asked by a get of no less than the layout's r, meet those of every write at its w.
    const fn meets_writes(&self, owners_heard: usize) -> bool {
        self.overlaps() && self.layout_r <= self.r && self.n < owners_heard + self.layout_w
    }

    /// Whether the owners that a get reads meet those of every write at the layout's w.
    const fn overlaps(&self) -> bool {
        self.n < self.r + self.layout_w
    }

    /// What a put promises of whose acknowledgements so many were stand-ins'.
    pub(super) const fn of_write(&self, stand_ins: usize) -> Guarantee {
        match (self.n < self.w + self.layout_r, stand_ins) {
            (false, _) => Guarantee::Eventual,
            (true, 0) => Guarantee::Strict,
            (true, _) => Guarantee::Overlap,
        }
    }

    /// Whether others may stand in for owners that cannot be reached.
    pub(super) fn takes_stand_ins(&self) -> bool {
        self.consistency == Consistency::Sloppy || planted::is_on(Bug::StandInsCountForStrict)
    }

    fn of_layout(ring: &Ring, consistency: Option<Consistency>) -> Self {
        let (r, w) = (ring.effective_r(), ring.effective_w());
        let consistency = consistency.unwrap_or(Consistency::of_mode(ring.mode));
        Self { n: ring.effective_n(), r, w, consistency, layout_r: r, layout_w: w }
    }

    fn raised(self) -> Self {
        match self.consistency {
            Consistency::Sloppy => self,
            Consistency::Strict => {
                Self { r: self.r.max(self.layout_r), w: self.w.max(self.layout_w), ..self }
            }
        }
    }

    fn resolve(&self, name: &str, level: Option<Level>) -> Result<Option<usize>, String> {
        let Some(level) = level else { return Ok(None) };
        level.resolve(self.n).map(Some).ok_or_else(|| match level {
            Level::Count(0) => format!("{name}=0: at least one replica must answer"),
            Level::Count(count) => {
                format!("{name}={count} is more than the N={} replicas that a key has", self.n)
            }
            Level::One | Level::Quorum | Level::All => "no member holds any key".to_owned(),
        })
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
                    let put = Terms::of_put(&ring, level, None, None).unwrap();
                    assert_eq!(put.of_write(0) == Guarantee::Strict, always_meet(n, named, r));
                    let get = Terms::of_get(&ring, level, None).unwrap();
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
                        let got = get.of_answer(heard, holders);
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
        let terms = Terms::of_put(&ring(members, quorum, mode), w, r, None);
        let got = terms.map(|terms| (terms.w, terms.r));
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
}
