//! Keys, values and the order in which a row meets them: all of it a function of a seed, the same for every engine.
//!
//! A key is the 16 hexadecimal digits of an even number, so that the odd ones are missing keys *between* those that are
//! there: a key range does not rule them out, only a filter or a look does. A value is a window of a pool in which each
//! 100 bytes are 50 random ones twice (as `db_bench` does it: it compresses to about half), stamped so that no two
//! entries have the same.

use std::sync::Arc;

/// Bytes of a key.
pub(crate) const KEY_BYTES: usize = 16;
/// A piece of the pool, and how many of its bytes are random.
const PIECE_BYTES: usize = 100;
const PIECE_RANDOM_BYTES: usize = 50;
/// The pool the values are windows of.
const POOL_BYTES: usize = 1 << 20;
const STAMP_BYTES: usize = 8;
/// The skew of the Zipf distribution, as YCSB has it.
const ZIPF_THETA: f64 = 0.99;

/// A key.
pub(crate) type Key = [u8; KEY_BYTES];

/// The key of entry `number`.
pub(crate) fn key(number: u64) -> Key {
    hexadecimal(number * 2)
}

/// A key that no entry has, between those of the entries `number` and `number + 1`.
pub(crate) fn missing_key(number: u64) -> Key {
    hexadecimal(number * 2 + 1)
}

fn hexadecimal(number: u64) -> Key {
    std::array::from_fn(|place| b"0123456789abcdef"[((number >> (60 - 4 * place)) & 15) as usize])
}

/// Random numbers: `SplitMix64`.
#[derive(Debug, Clone)]
pub(crate) struct Random(u64);

impl Random {
    /// The stream of one thread of a row.
    pub(crate) fn new(seed: u64, stream: u64) -> Self {
        Self(mix(seed ^ mix(stream)))
    }

    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        mix(self.0)
    }

    /// Less than `bound`.
    pub(crate) fn below(&mut self, bound: u64) -> u64 {
        ((u128::from(self.next()) * u128::from(bound)) >> 64) as u64
    }

    /// From 0 to below 1.
    #[expect(clippy::cast_precision_loss, reason = "53 bits are what an f64 holds")]
    fn fraction(&mut self) -> f64 {
        (self.next() >> 11) as f64 / (1_u64 << 53) as f64
    }
}

fn mix(mut bits: u64) -> u64 {
    bits = (bits ^ (bits >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    bits = (bits ^ (bits >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    bits ^ (bits >> 31)
}

/// A shuffled order of the numbers below a bound, each once, without a table of them.
#[derive(Debug, Clone)]
pub(crate) struct Permutation {
    bound: u64,
    bits: u32,
}

impl Permutation {
    pub(crate) fn new(bound: u64) -> Self {
        Self { bound, bits: (u64::BITS - bound.saturating_sub(1).leading_zeros()).max(1) }
    }

    /// Where `number` stands in the shuffled order.
    pub(crate) fn of(&self, number: u64) -> u64 {
        debug_assert!(number < self.bound, "a number below the bound");
        // Both steps are one-to-one on `bits` bits; walking on until the result is below the bound keeps it so.
        let mask = u64::MAX >> (u64::BITS - self.bits);
        let mut walker = number;
        loop {
            for factor in [0x9e37_79b9_7f4a_7c15_u64, 0xd6e8_feb8_6659_fd93, 0xbf58_476d_1ce4_e5b9]
            {
                walker = walker.wrapping_mul(factor) & mask;
                walker ^= walker >> (self.bits / 2 + 1).min(u64::BITS - 1);
            }
            if walker < self.bound {
                return walker;
            }
        }
    }
}

/// Entry numbers of which few are drawn often (Gray et al., "Quickly generating billion-record synthetic databases"),
/// the popular ones spread over the key space.
#[derive(Debug, Clone)]
pub(crate) struct Zipf {
    entries: f64,
    zeta: f64,
    eta: f64,
    spread: Permutation,
}

impl Zipf {
    #[expect(clippy::cast_precision_loss, reason = "counts of entries are far below 2^53")]
    pub(crate) fn new(entries: u64) -> Self {
        let zeta_of =
            |count: u64| (1..=count).map(|rank| (rank as f64).powf(-ZIPF_THETA)).sum::<f64>();
        let zeta = zeta_of(entries);
        let share = (2.0 / entries as f64).powf(1.0 - ZIPF_THETA);
        let eta = (1.0 - share) / (1.0 - zeta_of(2) / zeta);
        Self { entries: entries as f64, zeta, eta, spread: Permutation::new(entries) }
    }

    /// One entry's number.
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "a rank from 0 to the number of entries"
    )]
    pub(crate) fn draw(&self, random: &mut Random) -> u64 {
        let fraction = random.fraction();
        let share = fraction * self.zeta;
        let rank = if share < 1.0 {
            0.0
        } else if share < 1.0 + 0.5_f64.powf(ZIPF_THETA) {
            1.0
        } else {
            self.entries * (self.eta * fraction - self.eta + 1.0).powf(1.0 / (1.0 - ZIPF_THETA))
        };
        self.spread.of(rank.min(self.entries - 1.0) as u64)
    }
}

/// Makes values of one length. Clones share the pool: what the harness takes is not to show as an engine's memory.
#[derive(Debug, Clone)]
pub(crate) struct Values {
    pool: Arc<[u8]>,
    value: Vec<u8>,
}

impl Values {
    pub(crate) fn new(value_bytes: usize) -> Self {
        assert!(STAMP_BYTES <= value_bytes, "a value has room for its stamp");
        let mut random = Random::new(0, 0);
        let mut pool = Vec::with_capacity(POOL_BYTES + value_bytes + PIECE_BYTES);
        while pool.len() < POOL_BYTES + value_bytes {
            let piece: [u8; PIECE_RANDOM_BYTES] =
                std::array::from_fn(|_| random.next().to_le_bytes()[0]);
            (0..PIECE_BYTES / PIECE_RANDOM_BYTES).for_each(|_| pool.extend_from_slice(&piece));
        }
        Self { pool: pool.into(), value: vec![0; value_bytes] }
    }

    /// The value of entry `number` after its write `version`.
    #[expect(clippy::cast_possible_truncation, reason = "any bits of the stamp will do")]
    pub(crate) fn of(&mut self, number: u64, version: u64) -> &[u8] {
        let stamp = mix(number ^ mix(version));
        let window = stamp as usize % POOL_BYTES;
        let value_bytes = self.value.len();
        self.value.copy_from_slice(&self.pool[window..window + value_bytes]);
        self.value[..STAMP_BYTES].copy_from_slice(&stamp.to_le_bytes());
        &self.value
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn keys_sort_as_their_numbers_and_missing_ones_stand_between() {
        assert_eq!(&key(0x1234), b"0000000000002468");
        assert!(key(41) < missing_key(41) && missing_key(41) < key(42));
    }

    #[test]
    fn a_permutation_meets_each_number_once_and_in_no_order() {
        for bound in [1, 2, 3, 1000, 1024, 1025] {
            let permutation = Permutation::new(bound);
            let seen: Vec<u64> = (0..bound).map(|number| permutation.of(number)).collect();
            assert_eq!(seen.iter().collect::<BTreeSet<_>>().len() as u64, bound);
            assert!(seen.iter().all(|number| *number < bound));
            let ascents = seen.windows(2).filter(|pair| pair[0] < pair[1]).count() as u64;
            assert!(
                bound < 1000 || (bound / 3..bound * 2 / 3).contains(&ascents),
                "{ascents} of {bound}"
            );
        }
    }

    #[test]
    fn zipf_draws_the_first_ranks_as_often_as_it_should() {
        let zipf = Zipf::new(10_000);
        let mut random = Random::new(7, 0);
        let first = zipf.spread.of(0);
        let hits = (0..100_000).filter(|_| zipf.draw(&mut random) == first).count();
        // 1 / zeta(10 000, 0.99) = 9.8 %
        assert!((9_300..10_300).contains(&hits), "{hits}");
    }

    #[test]
    fn values_differ_by_entry_and_by_version_and_repeat_with_both() {
        let mut values = Values::new(100);
        let value = values.of(1, 0).to_vec();
        assert_eq!(value, values.of(1, 0));
        assert_ne!(value, values.of(1, 1));
        assert_ne!(value, values.of(2, 0));
    }
}
