//! Random tokens, to be compared with the solver's partitions: Dynamo's first strategy (§6.2).
//!
//! Each member draws tokens, as many as its weight asks for; a key belongs to the member whose token comes first at or
//! clockwise of it, and its replicas are found by the same walk as everywhere. No cluster of ours works so:
//! `kvring simulate` shows what it would be like.

use rand::Rng;

use super::shares::{fair_shares, real};
use super::zones::{Selection, Zones};
use super::{Member, Token};

/// Points on the ring, as a number to divide by.
const POINTS: f64 = 18_446_744_073_709_551_616.0;

/// A ring of random tokens.
#[derive(Clone, Debug)]
pub struct RandomTokens {
    members: Vec<Member>,
    n: usize,
    /// Tokens of a member of weight 1.
    tokens_each: usize,
    /// Ascending.
    tokens: Vec<(Token, u16)>,
    /// For each token the owners of the keys before it, the first one first.
    owners: Vec<u16>,
}

impl RandomTokens {
    /// Draws tokens for all members: `tokens_each` for weight 1, at least one for any weight above 0.
    /// # Panics
    /// Without a member of weight above 0, or without tokens.
    pub fn draw(n: u8, members: Vec<Member>, tokens_each: usize, random: &mut impl Rng) -> Self {
        assert!(tokens_each > 0, "a member draws at least one token");
        let mut ring = Self {
            members: Vec::new(),
            n: usize::from(n),
            tokens_each,
            tokens: Vec::new(),
            owners: Vec::new(),
        };
        ring.join(members, random);
        ring
    }

    /// Further members draw their tokens; those of the others stay.
    /// # Panics
    /// Where there is no member of weight above 0 then.
    pub fn join(&mut self, joiners: Vec<Member>, random: &mut impl Rng) {
        for member in joiners {
            let index =
                u16::try_from(self.members.len()).expect("a ring has at most 65535 members");
            let wanted = self.tokens_each * member.weight.thousandths() as usize;
            let count = wanted.div_ceil(1_000);
            self.tokens.extend((0..count).map(|_| (Token::from_point(random.random()), index)));
            self.members.push(member);
        }
        self.tokens.sort_unstable();
        let zones = Zones::of(&self.members);
        assert!(!zones.active().is_empty(), "a ring wants a member of weight above 0");
        let rounds = zones.rounds(self.n);
        let mut selection = Selection::default();
        self.owners.clear();
        for start in 0..self.tokens.len() {
            let around = self.tokens[start..].iter().chain(&self.tokens[..start]);
            selection.select(&zones, &rounds, around.map(|(_, index)| *index));
            self.owners.extend(selection.in_walk_order());
        }
    }

    /// The owners of a key, the first one first, as indexes of the members in the order in which they joined.
    pub fn owners(&self, token: Token) -> &[u16] {
        let next = self.tokens.partition_point(|(other, _)| *other < token) % self.tokens.len();
        self.owners_before(next)
    }

    /// What each member holds of the whole ring, in rings: all replicas, and first replicas.
    pub fn held(&self) -> (Vec<f64>, Vec<f64>) {
        let mut held = (vec![0.0; self.members.len()], vec![0.0; self.members.len()]);
        for at in 0..self.tokens.len() {
            let arc = self.arc(at);
            let owners = self.owners_before(at);
            for index in owners {
                held.0[usize::from(*index)] += arc;
            }
            held.1[usize::from(owners[0])] += arc;
        }
        held
    }

    /// What each member should hold by its weight, in rings, all replicas: see [`super::Balance::fair`].
    pub fn fair(&self) -> Vec<f64> {
        fair_shares(1, self.n, &self.members, &Zones::of(&self.members))
    }

    /// The share of all replica data that had to move to come from `before`, the same ring before some joins.
    pub fn moved_since(&self, before: &Self) -> f64 {
        let mut moved = 0.0;
        for at in 0..self.tokens.len() {
            // Every token of the ring before is one of this ring, so no border of its lies within an arc.
            let old = before.owners(self.tokens[at].0);
            let gained = self.owners_before(at).iter().filter(|index| !old.contains(index)).count();
            moved += self.arc(at) * real(gained);
        }
        moved / real(self.owners.len() / self.tokens.len())
    }

    fn owners_before(&self, at: usize) -> &[u16] {
        let n = self.owners.len() / self.tokens.len();
        &self.owners[at * n..][..n]
    }

    /// How much of the ring lies between a token and the one before it.
    #[expect(clippy::cast_precision_loss, reason = "shares of the ring need no more than 52 bits")]
    fn arc(&self, at: usize) -> f64 {
        let before = self.tokens[at.checked_sub(1).unwrap_or(self.tokens.len() - 1)].0;
        match self.tokens.len() {
            1 => 1.0,
            _ => self.tokens[at].0.point().wrapping_sub(before.point()) as f64 / POINTS,
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use rand::SeedableRng;
    use rand_chacha::ChaCha8Rng;

    use super::super::Spread;
    use super::super::Weight;
    use super::super::notation::{member, members};
    use super::*;

    fn drawn(n: u8, text: &str, tokens_each: usize, seed: u64) -> RandomTokens {
        RandomTokens::draw(n, members(text), tokens_each, &mut ChaCha8Rng::seed_from_u64(seed))
    }

    /// Dynamo's own figures of this kind, and ours of the design's research: 10 nodes, n = 3, all replicas.
    #[test]
    fn more_tokens_are_more_even() {
        let skew = |tokens_each| {
            let skews = (0..20).map(|seed| {
                let ring = drawn(3, &"1 ".repeat(10), tokens_each, seed);
                Spread::of(&ring.held().0, &ring.fair()).max
            });
            skews.sum::<f64>() / 20.0
        };
        let (few, some, many) = (skew(16), skew(64), skew(256));
        assert!((1.15..1.35).contains(&few), "{few}");
        assert!((1.07..1.17).contains(&some), "{some}");
        assert!((1.02..1.09).contains(&many), "{many}");
    }

    #[test]
    fn weights_draw_in_proportion() {
        let ring = drawn(1, "1 3 0", 200, 1);
        let (held, firsts) = ring.held();
        assert_eq!(held, firsts);
        assert!((held[1] / held[0] - 3.0).abs() < 0.6 && held[2] == 0.0, "{held:?}");
    }

    proptest! {
        #[test]
        fn a_ring_is_covered_by_distinct_owners(seed in 0..1000_u64, n in 1..5_u8, tokens in 1..9_usize, point: u64) {
            let ring = drawn(n, "1@a 1@a 1@b 0.5@c 1@b", tokens, seed);
            let (held, firsts) = ring.held();
            prop_assert!((held.iter().sum::<f64>() - f64::from(n)).abs() < 1e-9);
            prop_assert!((firsts.iter().sum::<f64>() - 1.0).abs() < 1e-9);
            let owners = ring.owners(Token::from_point(point));
            let mut zones: Vec<&str> =
                owners.iter().map(|index| ring.members[usize::from(*index)].zone.as_str()).collect();
            zones.sort_unstable();
            zones.dedup();
            prop_assert_eq!((owners.len(), zones.len()), (usize::from(n), usize::from(n).min(3)));
        }

        /// Without zones a joiner is all that gains, and gains what it then holds.
        #[test]
        fn a_join_moves_what_the_joiner_holds(seed in 0..1000_u64, n in 1..4_u8, tokens in 1..9_usize) {
            let before = drawn(n, "1 1 1 1", tokens, seed);
            let mut after = before.clone();
            after.join(vec![member(5, Weight::ONE, "")], &mut ChaCha8Rng::seed_from_u64(seed + 1));
            let held = after.held().0[4] / f64::from(n);
            prop_assert!((after.moved_since(&before) - held).abs() < 1e-9);
            prop_assert!(before.moved_since(&before).abs() < 1e-9);
        }
    }
}
