//! What the register is made of, on the wire and on disk.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::cluster::COUNTER_MAX;
use crate::node_id::NodeId;
use crate::ring::Layout;

/// A proposer's attempt: higher ones win; no two proposers share one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Ballot {
    /// Counts up.
    pub round: u64,
    /// Whose attempt.
    pub node: NodeId,
}

/// A layout that was accepted, and under which ballot.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AcceptedLayout {
    /// The ballot.
    pub ballot: Ballot,
    /// The layout.
    pub layout: Arc<Layout>,
}

/// An acceptor's part in the choice of one version.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Vote {
    /// The version voted on: the one after the chosen one.
    pub version: u64,
    /// No ballot below this one is answered with a vote.
    pub promised: Option<Ballot>,
    /// What was accepted last.
    pub accepted: Option<AcceptedLayout>,
}

/// What a node must not forget: durable in every sync mode before anything that follows from it is sent.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RegisterState {
    /// The newest layout known to be chosen.
    pub chosen: Arc<Layout>,
    /// The vote on the next one.
    pub vote: Vote,
    /// A recovery that was accepted and is not known to be chosen: the vote on the next layout has ended with it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub recovery: Option<Arc<Layout>>,
}

/// What registers say to each other.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Message {
    /// Promise to answer no lower ballot about the version after `chosen`.
    Prepare {
        /// The ballot.
        ballot: Ballot,
        /// The layout before, chosen; whoever votes knows it.
        chosen: Arc<Layout>,
    },
    /// The promise.
    Promise {
        /// The version voted on.
        version: u64,
        /// The ballot promised.
        ballot: Ballot,
        /// What the sender accepted before.
        accepted: Option<AcceptedLayout>,
    },
    /// A higher ballot was promised.
    Refuse {
        /// The version voted on.
        version: u64,
        /// The ballot refused.
        ballot: Ballot,
        /// The ballot promised.
        promised: Ballot,
    },
    /// Accept this layout.
    Accept {
        /// Under which ballot.
        ballot: Ballot,
        /// Which.
        layout: Arc<Layout>,
    },
    /// It was accepted.
    Accepted {
        /// The version voted on.
        version: u64,
        /// Under which ballot.
        ballot: Ballot,
    },
    /// This layout is chosen.
    Chosen(Arc<Layout>),
    /// Send what is chosen, if it is newer than this version.
    Fetch {
        /// The version that the sender has.
        have: u64,
    },
}

impl Message {
    /// Whether it belongs to a vote; the others tell what is chosen.
    pub const fn is_of_vote(&self) -> bool {
        match self {
            Self::Prepare { .. }
            | Self::Promise { .. }
            | Self::Refuse { .. }
            | Self::Accept { .. }
            | Self::Accepted { .. } => true,
            Self::Chosen(_) | Self::Fetch { .. } => false,
        }
    }
}

impl RegisterState {
    /// The state of a node that knows `chosen` and has voted on nothing since.
    pub fn new(chosen: Arc<Layout>) -> Self {
        let version = chosen.version + 1;
        let vote = Vote { version, promised: None, accepted: None };
        Self { chosen, vote, recovery: None }
    }

    /// The state of a node that knows `chosen`, and may have voted since: it lost its own state, so it has promised a
    /// ballot that no proposer reaches, and votes again from the version after the next one.
    pub fn abstaining(chosen: Arc<Layout>) -> Self {
        let ballot = Ballot { round: COUNTER_MAX + 1, node: NodeId::from_bytes([u8::MAX; 16]) };
        let mut state = Self::new(chosen);
        state.vote.promised = Some(ballot);
        state
    }
}
