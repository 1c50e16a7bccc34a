//! Flags that say how many replicas to wait for, and whom to count.

use clap::Args;

use crate::replication::{Consistency, Level};
use crate::ring::Ring;

use crate::cli::failure::Failure;

/// Whom a request counts.
#[derive(Args, Clone, Copy, Debug)]
pub(crate) struct CountFlags {
    /// Count owners only, with R and W never below the layout's
    #[arg(long, conflicts_with = "sloppy")]
    strict: bool,
    /// Let healthy nodes stand in for unreachable owners
    #[arg(long)]
    sloppy: bool,
}

impl CountFlags {
    /// What was asked for; `None` leaves it to the layout's mode.
    pub(crate) const fn consistency(self) -> Option<Consistency> {
        match (self.strict, self.sloppy) {
            (true, _) => Some(Consistency::Strict),
            (false, true) => Some(Consistency::Sloppy),
            (false, false) => None,
        }
    }
}

/// Parses `N`, `one`, `quorum` or `all`.
/// # Errors
/// What is wrong with the text.
pub(crate) fn parse_level(text: &str) -> Result<Level, String> {
    match text {
        "one" => Ok(Level::One),
        "quorum" => Ok(Level::Quorum),
        "all" => Ok(Level::All),
        number => {
            number.parse().ok().filter(|count| *count > 0).map(Level::Count).ok_or_else(|| {
                format!("`{text}` is neither a number from 1 nor one, quorum or all")
            })
        }
    }
}

/// Refuses a level above the ring's replicas before anything is sent.
/// # Errors
/// Exit 2.
pub(crate) fn check_level(flag: &str, level: Option<Level>, ring: &Ring) -> Result<(), Failure> {
    let n = ring.effective_n();
    match level {
        Some(level) if level.resolve(n).is_none() => Err(Failure::usage(format!(
            "-{flag} {} is more than the {n} replicas that a key has",
            shown(level)
        ))),
        Some(_) | None => Ok(()),
    }
}

fn shown(level: Level) -> String {
    match level {
        Level::Count(count) => count.to_string(),
        Level::One => "one".to_owned(),
        Level::Quorum => "quorum".to_owned(),
        Level::All => "all".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn levels_are_numbers_or_words() {
        assert_eq!(parse_level("2"), Ok(Level::Count(2)));
        assert_eq!(parse_level("quorum"), Ok(Level::Quorum));
        for text in ["0", "-1", "256", "two", ""] {
            assert!(parse_level(text).is_err(), "{text}");
        }
    }
}
