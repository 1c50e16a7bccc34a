//! How many replicas a request wants, whom it counts, and what the reply may promise.

use serde::{Deserialize, Serialize};

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
    /// Owners, and healthy members standing in for unreachable ones. Until hinted handoff comes: owners only.
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
