//! The one checksum of all our files: XXH3, 64 bits, seeded with the file and the place in it.
//!
//! Why the seed: a block that is sound in itself but stands in the wrong file, or at the wrong offset, fails too.

use xxhash_rust::xxh3::xxh3_64_with_seed;

/// Odd, so that multiplying with it maps offsets one to one (2^64 over the golden ratio).
const OFFSET_FACTOR: u64 = 0x9e37_79b9_7f4a_7c15;

/// The checksum of `bytes` standing at `offset` of file `file`.
pub(crate) fn checksum(file: u64, offset: u64, bytes: &[u8]) -> u64 {
    xxh3_64_with_seed(bytes, file.rotate_left(32) ^ offset.wrapping_mul(OFFSET_FACTOR))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn file_and_place_count() {
        let here = checksum(1, 4096, b"block");
        assert_eq!(here, checksum(1, 4096, b"block"));
        for other in
            [checksum(2, 4096, b"block"), checksum(1, 8192, b"block"), checksum(1, 4096, b"Block")]
        {
            assert_ne!(here, other);
        }
    }
}
