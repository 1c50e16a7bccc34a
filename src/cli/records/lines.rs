//! Lines of an input, numbered, with a bound on their length.

use std::io::{self, BufRead, Read};

/// A line longer than this is no record; the rest of it is skipped.
const LINE_BYTES_MAX: usize = 64 << 20;

/// One line, its line feed included where it has one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Line {
    /// From 1.
    pub(crate) number: u64,
    /// The bytes; `None` where there were too many.
    pub(crate) bytes: Option<Vec<u8>>,
}

/// Reads lines.
#[derive(Debug)]
pub(crate) struct Lines<R> {
    input: R,
    number: u64,
    bytes_max: usize,
}

impl<R: BufRead> Lines<R> {
    /// The lines of `input`.
    pub(crate) const fn new(input: R) -> Self {
        Self { input, number: 0, bytes_max: LINE_BYTES_MAX }
    }

    /// The input behind the lines.
    pub(crate) const fn input(&self) -> &R {
        &self.input
    }

    /// The next line; `None` at the end.
    /// # Errors
    /// Those of the input.
    pub(crate) fn next_line(&mut self) -> io::Result<Option<Line>> {
        let mut bytes = Vec::new();
        let room = self.bytes_max as u64;
        if self.input.by_ref().take(room).read_until(b'\n', &mut bytes)? == 0 {
            return Ok(None);
        }
        self.number += 1;
        let whole = bytes.last() == Some(&b'\n') || bytes.len() < self.bytes_max;
        if !whole {
            self.input.skip_until(b'\n')?;
        }
        Ok(Some(Line { number: self.number, bytes: whole.then_some(bytes) }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_too_long_is_skipped_and_counted() {
        let mut lines = Lines { input: &b"ab\n123456789\ncd"[..], number: 0, bytes_max: 4 };
        let mut next = || lines.next_line().unwrap().map(|line| (line.number, line.bytes));
        assert_eq!(next(), Some((1, Some(b"ab\n".to_vec()))));
        assert_eq!(next(), Some((2, None)));
        assert_eq!(next(), Some((3, Some(b"cd".to_vec()))));
        assert_eq!(next(), None);
    }
}
