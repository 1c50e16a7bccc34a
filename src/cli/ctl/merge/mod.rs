//! Merges of siblings that need no program.
//!
//! Each but `latest` is a function of the *set* of values alone: no clock and no order takes part, and merging again, or
//! with one sibling more, or in another order, leads to the same bytes. So two people who resolve the same conflict at
//! two places write the same value.
//!
//! A delete beside a value has nothing to add: in `longest`, `union-lines` and `json` the values win over it; in
//! `latest` it is a version like any other.

mod json;

use std::collections::BTreeSet;

use bytes::Bytes;
use clap::ValueEnum;

use crate::version::{Content, Dot, Version};

use super::siblings::latest;

/// How siblings become one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum Merge {
    /// The one written last by the clocks of the nodes; a delete where that is one
    Latest,
    /// The longest value; of equally long ones the greatest by bytes
    Longest,
    /// Every line of every value once, sorted by bytes, as `sort -u` in the C locale does
    UnionLines,
    /// JSON: objects joined by key, lists as sets (sorted where they differ), of other values the greatest:
    /// null < false < true < numbers < strings < lists < objects. Keys come out sorted
    Json,
}

/// Why siblings cannot be merged so.
#[derive(Debug, thiserror::Error)]
pub(super) enum MergeError {
    /// A value that is no JSON.
    #[error("sibling {number} is no JSON")]
    NotJson {
        /// Its number, from 1.
        number: usize,
        /// What is wrong.
        source: json::JsonError,
    },
}

impl Merge {
    /// What replaces all of `listed`.
    /// # Errors
    /// [`MergeError`].
    pub(super) fn of(self, listed: &[(Dot, &Version)]) -> Result<Content, MergeError> {
        let values: Vec<(usize, &Bytes)> = (1..)
            .zip(listed)
            .filter_map(|(number, (_, version))| match &version.content {
                Content::Value(value) => Some((number, value)),
                Content::Tombstone => None,
            })
            .collect();
        if values.is_empty() {
            return Ok(Content::Tombstone);
        }
        let bytes = || values.iter().map(|(_, value)| *value);
        Ok(match self {
            Self::Latest => {
                latest(listed).map_or(Content::Tombstone, |(_, version)| version.content.clone())
            }
            Self::Longest => bytes()
                .max_by_key(|value| (value.len(), *value))
                .map_or(Content::Tombstone, |value| Content::Value(value.clone())),
            Self::UnionLines => Content::Value(union_of_lines(bytes())),
            Self::Json => {
                let parse = |(number, value): &(usize, &Bytes)| {
                    let number = *number;
                    json::parse(value).map_err(|source| MergeError::NotJson { number, source })
                };
                let trees = values.iter().map(parse).collect::<Result<Vec<_>, _>>()?;
                Content::Value(json::joined(&trees).into_bytes().into())
            }
        })
    }
}

/// Every line once, sorted; each ends with a line feed.
fn union_of_lines<'a>(values: impl Iterator<Item = &'a Bytes>) -> Bytes {
    let lines: BTreeSet<&[u8]> = values
        .flat_map(|value| value.split_inclusive(|byte| *byte == b'\n'))
        .map(|line| line.strip_suffix(b"\n").unwrap_or(line))
        .collect();
    lines.into_iter().flat_map(|line| [line, b"\n"]).collect::<Vec<_>>().concat().into()
}

#[cfg(test)]
mod tests {
    use super::super::siblings::{listed, tests::state};
    use super::*;

    /// Merges values that were written a microsecond after each other, in every order of writing; `None` is a delete.
    #[track_caller]
    fn check(merge: Merge, values: [Option<&'static str>; 3], expected: Option<&str>) {
        for order in [[0, 1, 2], [0, 2, 1], [1, 0, 2], [1, 2, 0], [2, 0, 1], [2, 1, 0]] {
            let writes: Vec<_> = (1_u64..)
                .zip(order)
                .map(|(request, at)| (request, at as u64, values[at]))
                .collect();
            let state = state(&writes);
            let merged = merge.of(&listed(&state)).unwrap();
            let expected = expected.map_or(Content::Tombstone, |text| {
                Content::Value(Bytes::copy_from_slice(text.as_bytes()))
            });
            assert_eq!(merged, expected, "{merge:?} of {values:?}, written as {order:?}");
        }
    }

    #[test]
    fn latest_goes_by_the_time_and_takes_deletes() {
        check(Merge::Latest, [Some("a"), Some("c"), Some("b")], Some("b"));
        check(Merge::Latest, [Some("a"), Some("c"), None], None);
        check(Merge::Latest, [None, Some("c"), Some("")], Some(""));
    }

    #[test]
    fn longest_goes_by_length_then_bytes_and_over_deletes() {
        check(Merge::Longest, [Some("aa"), Some("b"), Some("ab")], Some("ab"));
        check(Merge::Longest, [None, Some(""), None], Some(""));
        check(Merge::Longest, [None, None, None], None);
    }

    #[test]
    fn lines_are_joined_as_sort_does() {
        check(Merge::UnionLines, [Some("b\na\n"), Some("c"), Some("b\n\n")], Some("\na\nb\nc\n"));
        check(Merge::UnionLines, [Some("x"), None, Some("")], Some("x\n"));
        check(Merge::UnionLines, [None, None, Some("")], Some(""));
    }

    #[test]
    fn json_is_joined_and_deletes_add_nothing() {
        check(
            Merge::Json,
            [Some(r#"{"items":["book","pen"]}"#), Some(r#"{"items":["book","ink"], "n":1}"#), None],
            Some(r#"{"items":["book","ink","pen"],"n":1}"#),
        );
    }

    #[test]
    fn what_is_no_json_is_named() {
        let state = state(&[(1, 1, Some("{}")), (2, 2, None), (3, 3, Some("{"))]);
        let error = Merge::Json.of(&listed(&state)).unwrap_err();
        assert_eq!(error.to_string(), "sibling 3 is no JSON");
    }
}
