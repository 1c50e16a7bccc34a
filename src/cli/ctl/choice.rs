//! What a read shows of a state that may hold several versions.

use bytes::Bytes;
use clap::ValueEnum;

use crate::version::{Content, Siblings};

use super::siblings::{latest, listed};

/// What to do with concurrent versions.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum OnSiblings {
    /// Print nothing, list them on stderr, exit 3
    #[default]
    Error,
    /// Take the one written last by the clocks of the nodes
    Latest,
    /// Print them all
    All,
}

/// What a read shows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Choice<'a> {
    /// No value stands.
    Absent,
    /// This value.
    One(&'a Bytes),
    /// Every version.
    All,
    /// Several stand, and nobody said which.
    Undecided,
}

/// Applies the choice to a state. Two versions of one put count as one.
pub(crate) fn choose(state: &Siblings, on_siblings: OnSiblings) -> Choice<'_> {
    if !state.has_value() {
        return Choice::Absent;
    }
    let listed = listed(state);
    match (on_siblings, listed.len()) {
        (OnSiblings::All, count) if count > 1 => Choice::All,
        (OnSiblings::Error, count) if count > 1 => Choice::Undecided,
        (OnSiblings::Error | OnSiblings::Latest | OnSiblings::All, _) => {
            match latest(&listed).map(|(_, version)| &version.content) {
                Some(Content::Value(value)) => Choice::One(value),
                Some(Content::Tombstone) | None => Choice::Absent,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::siblings::tests::state;
    use super::*;

    #[track_caller]
    fn check(
        writes: &[(u64, u64, Option<&'static str>)],
        on_siblings: OnSiblings,
        expected: Option<&'static str>,
    ) {
        let state = state(writes);
        let value = expected.map(Bytes::from);
        let expected = value.as_ref().map_or(Choice::Absent, Choice::One);
        assert_eq!(choose(&state, on_siblings), expected);
    }

    #[test]
    fn one_version_needs_no_choice() {
        for on_siblings in [OnSiblings::Error, OnSiblings::Latest, OnSiblings::All] {
            check(&[], on_siblings, None);
            check(&[(1, 5, None)], on_siblings, None);
            check(&[(1, 5, Some("a"))], on_siblings, Some("a"));
            check(&[(1, 5, Some("a")), (1, 6, Some("a"))], on_siblings, Some("a"));
        }
    }

    #[test]
    fn several_versions_want_one() {
        let writes = [(1, 7, Some("a")), (2, 9, Some("b")), (3, 8, Some("c"))];
        check(&writes, OnSiblings::Latest, Some("b"));
        check(&[(1, 7, Some("a")), (2, 9, None)], OnSiblings::Latest, None);
        assert_eq!(choose(&state(&writes), OnSiblings::Error), Choice::Undecided);
        assert_eq!(choose(&state(&writes), OnSiblings::All), Choice::All);
    }
}
