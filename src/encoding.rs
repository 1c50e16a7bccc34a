//! The bytes our own formats are made of: little-endian integers, LEB128 varints, length-prefixed bytes.
//!
//! Writing appends to a `Vec<u8>` and cannot fail. Reading goes through [`Reader`], which trusts nothing: it never
//! indexes past the end, and a length is checked against what is left before anything is taken.
#![warn(clippy::indexing_slicing)]

/// Why bytes could not be decoded. The caller adds which file or frame, and where.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    /// The bytes end before the value does.
    #[error("cut short")]
    Truncated,
    /// A varint longer than 64 bits allow, or not in its shortest form.
    #[error("malformed varint")]
    Varint,
    /// A field holds a value that its type does not allow.
    #[error("field `{0}` holds a value out of range")]
    OutOfRange(&'static str),
    /// Bytes are left where the value should have ended.
    #[error("{0} bytes left over")]
    Trailing(usize),
}

/// Longest varint in bytes.
pub const VARINT_BYTES_MAX: usize = 10;

/// Appends `value` as an LEB128 varint: seven bits a byte, low ones first.
pub fn put_varint(out: &mut Vec<u8>, mut value: u64) {
    loop {
        let low = (value & 0x7f) as u8;
        value >>= 7;
        if value == 0 {
            out.push(low);
            return;
        }
        out.push(low | 0x80);
    }
}

/// Appends the length of `bytes` as a varint, then the bytes.
pub fn put_bytes(out: &mut Vec<u8>, bytes: &[u8]) {
    put_varint(out, bytes.len() as u64);
    out.extend_from_slice(bytes);
}

/// Takes values off the front of a slice; every take checks what is left.
#[derive(Debug, Clone, Copy)]
pub struct Reader<'a> {
    rest: &'a [u8],
}

impl<'a> Reader<'a> {
    /// A reader at the start of `bytes`.
    pub const fn new(bytes: &'a [u8]) -> Self {
        Self { rest: bytes }
    }

    /// What has not been taken yet.
    pub const fn rest(&self) -> &'a [u8] {
        self.rest
    }

    /// The next `length` bytes.
    /// # Errors
    /// [`DecodeError::Truncated`] when fewer are left; nothing is taken then.
    pub fn take(&mut self, length: usize) -> Result<&'a [u8], DecodeError> {
        let (taken, rest) = self.rest.split_at_checked(length).ok_or(DecodeError::Truncated)?;
        self.rest = rest;
        Ok(taken)
    }

    /// The next `N` bytes as an array.
    /// # Errors
    /// [`DecodeError::Truncated`].
    pub fn array<const N: usize>(&mut self) -> Result<[u8; N], DecodeError> {
        let (taken, rest) = self.rest.split_first_chunk::<N>().ok_or(DecodeError::Truncated)?;
        self.rest = rest;
        Ok(*taken)
    }

    /// One byte.
    /// # Errors
    /// [`DecodeError::Truncated`].
    pub fn u8(&mut self) -> Result<u8, DecodeError> {
        self.array::<1>().map(|[byte]| byte)
    }

    /// A little-endian `u16`.
    /// # Errors
    /// [`DecodeError::Truncated`].
    pub fn u16(&mut self) -> Result<u16, DecodeError> {
        self.array().map(u16::from_le_bytes)
    }

    /// A little-endian `u32`.
    /// # Errors
    /// [`DecodeError::Truncated`].
    pub fn u32(&mut self) -> Result<u32, DecodeError> {
        self.array().map(u32::from_le_bytes)
    }

    /// A little-endian `u64`.
    /// # Errors
    /// [`DecodeError::Truncated`].
    pub fn u64(&mut self) -> Result<u64, DecodeError> {
        self.array().map(u64::from_le_bytes)
    }

    /// A little-endian `u128`.
    /// # Errors
    /// [`DecodeError::Truncated`].
    pub fn u128(&mut self) -> Result<u128, DecodeError> {
        self.array().map(u128::from_le_bytes)
    }

    /// A varint in its shortest form.
    /// # Errors
    /// [`DecodeError::Truncated`] or [`DecodeError::Varint`].
    pub fn varint(&mut self) -> Result<u64, DecodeError> {
        let mut value = 0_u64;
        for shift in (0..).step_by(7).take(VARINT_BYTES_MAX) {
            let byte = self.u8()?;
            let bits = u64::from(byte & 0x7f);
            if shift == 63 && bits > 1 {
                return Err(DecodeError::Varint);
            }
            value |= bits << shift;
            if byte & 0x80 == 0 {
                return if byte == 0 && shift > 0 { Err(DecodeError::Varint) } else { Ok(value) };
            }
        }
        Err(DecodeError::Varint)
    }

    /// A varint that counts things in memory.
    /// # Errors
    /// As [`Reader::varint`]; [`DecodeError::Truncated`] when it does not fit a `usize`.
    pub fn length(&mut self) -> Result<usize, DecodeError> {
        usize::try_from(self.varint()?).map_err(|_| DecodeError::Truncated)
    }

    /// Bytes behind a varint length.
    /// # Errors
    /// As [`Reader::length`] and [`Reader::take`].
    pub fn bytes(&mut self) -> Result<&'a [u8], DecodeError> {
        let length = self.length()?;
        self.take(length)
    }

    /// Ends the reading.
    /// # Errors
    /// [`DecodeError::Trailing`] when bytes are left.
    pub const fn finish(self) -> Result<(), DecodeError> {
        if self.rest.is_empty() { Ok(()) } else { Err(DecodeError::Trailing(self.rest.len())) }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn varints_round_trip(value: u64) {
            let mut bytes = Vec::new();
            put_varint(&mut bytes, value);
            let mut reader = Reader::new(&bytes);
            prop_assert_eq!(reader.varint(), Ok(value));
            prop_assert_eq!(reader.finish(), Ok(()));
        }

        #[test]
        fn any_bytes_decode_without_panic(bytes: Vec<u8>) {
            let mut reader = Reader::new(&bytes);
            while reader.bytes().is_ok() {}
            let mut reader = Reader::new(&bytes);
            while reader.varint().is_ok() {}
        }
    }

    #[test]
    fn a_longer_form_of_a_varint_is_refused() {
        assert_eq!(Reader::new(&[0x80, 0x00]).varint(), Err(DecodeError::Varint));
        assert_eq!(Reader::new(&[0xff; 11]).varint(), Err(DecodeError::Varint));
    }

    #[test]
    fn a_length_past_the_end_takes_nothing() {
        assert_eq!(Reader::new(&[5, 1, 2]).bytes(), Err(DecodeError::Truncated));
    }
}
