//! How operations end. `node` maps these to the replies of `wire::client` and adds who coordinated and how long it took.

use crate::node_id::NodeId;
use crate::version::{Dot, Siblings, VectorClock};

use super::{Guarantee, RangeEntry, Refusal};

/// An operation that met its quorum.
#[derive(Clone, Debug, PartialEq)]
pub enum Outcome {
    /// Of a get.
    Got(Got),
    /// Of a put or a delete.
    Done(Done),
    /// Of an inspection: every owner, in preference order, with its state or why there is none.
    Inspected(Vec<(NodeId, Result<Siblings, FailedWhy>)>),
    /// Of a scan.
    Scanned(Scanned),
}

/// A read that met its quorum.
#[derive(Clone, Debug, PartialEq)]
pub struct Got {
    /// The merged state; empty when the key was never written.
    pub state: Siblings,
    /// Owners that answered.
    pub answered: Vec<NodeId>,
    /// Owners that could not be asked, and who answered in their stead.
    pub stand_ins: Vec<(NodeId, NodeId)>,
    /// How many answered that they hold no value.
    pub absent: u8,
    /// How many had to answer.
    pub needed: u8,
    /// Owners found stale; they have been repaired or are being repaired.
    pub stale: Vec<NodeId>,
    /// What this answer promises.
    pub guarantee: Guarantee,
}

/// A write that met its quorum.
#[derive(Clone, Debug, PartialEq)]
pub struct Done {
    /// The write's name; `None` for a retry that was found done and has been superseded since.
    pub dot: Option<Dot>,
    /// The state's clock after it: the context of what was written.
    pub clock: VectorClock,
    /// How many siblings stand now.
    pub siblings: u32,
    /// Owners that hold it durably.
    pub acked: Vec<NodeId>,
    /// Owners that could not be reached, and who holds it durably in their stead.
    pub stand_ins: Vec<(NodeId, NodeId)>,
    /// How many had to.
    pub needed: u8,
    /// What this write promises.
    pub guarantee: Guarantee,
}

/// A stretch of slots, merged from its owners.
#[derive(Clone, Debug, PartialEq)]
pub struct Scanned {
    /// In (slot, key) order; keys without a value included.
    pub entries: Vec<RangeEntry>,
    /// Whether the slots end here; else go on behind the last entry.
    pub complete: bool,
    /// Owners merged.
    pub answered: Vec<NodeId>,
    /// Keys for which an owner lacked something and is being repaired.
    pub repaired: u32,
}

/// An operation that did not meet its quorum, or was refused.
#[derive(Clone, Debug, PartialEq)]
pub struct Failure {
    /// Why.
    pub kind: FailureKind,
    /// Replicas needed, where a quorum was; else 0.
    pub needed: u8,
    /// Owners that answered or acknowledged.
    pub acked: Vec<NodeId>,
    /// Owners that did not, and why.
    pub failed: Vec<(NodeId, FailedWhy)>,
    /// What became of a write; `None` for reads.
    pub outcome: Option<WriteOutcome>,
    /// Whether the same request may succeed later.
    pub retry: bool,
}

/// Why an operation failed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum FailureKind {
    /// The request itself is wrong; the text says how.
    Usage(String),
    /// Too few replicas, or too late.
    QuorumUnmet,
    /// The write would leave too many siblings.
    TooManySiblings,
    /// A conditional put met a version that its context does not cover.
    StaleContext,
    /// The key's range is corrupt at so many owners that the quorum cannot be met.
    Corrupt,
    /// Too much in flight.
    Overloaded,
    /// No space for writes.
    DiskFull,
    /// This node does not own the key (any more): another one must coordinate.
    NotCoordinator,
}

/// What became of a write that was not acknowledged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WriteOutcome {
    /// Nothing was written anywhere.
    NotApplied,
    /// It may be written, now or later.
    Unknown,
}

/// Why an owner did not answer or acknowledge. Shown as one lower-case word.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, thiserror::Error)]
pub enum FailedWhy {
    /// The cluster agrees that it is down.
    #[error("down")]
    Down,
    /// No connection to it stands, or it broke.
    #[error("unreachable")]
    Unreachable,
    /// It did not answer in time.
    #[error("timeout")]
    Timeout,
    /// Its layout is another, or it does not own the key by it.
    #[error("layout")]
    Layout,
    /// It has too much in flight.
    #[error("overloaded")]
    Overloaded,
    /// The key's range is corrupt there.
    #[error("corrupt")]
    Corrupt,
    /// It forgot tombstones meanwhile; the put or get is done anew.
    #[error("cut")]
    Cut,
    /// It lost data and is getting it back.
    #[error("refilling")]
    Refilling,
    /// It has just started, and does not know yet whether its disk was rolled back.
    #[error("starting")]
    Starting,
    /// It has no space for writes.
    #[error("disk_full")]
    DiskFull,
}

impl Failure {
    /// A failure before any owner was asked.
    pub(super) fn refused(kind: FailureKind, outcome: Option<WriteOutcome>) -> Self {
        let retry = kind.is_passing();
        Self { kind, needed: 0, acked: Vec::new(), failed: Vec::new(), outcome, retry }
    }
}

impl FailureKind {
    /// The name of a missed quorum: its cause, where all owners that did not answer have one that is worth a name.
    pub(super) fn of_failures(failed: &[(NodeId, FailedWhy)]) -> Self {
        let Some((_, first)) = failed.first() else { return Self::QuorumUnmet };
        if failed.iter().any(|(_, why)| why != first) {
            return Self::QuorumUnmet;
        }
        match first {
            FailedWhy::Corrupt => Self::Corrupt,
            FailedWhy::Overloaded => Self::Overloaded,
            FailedWhy::DiskFull => Self::DiskFull,
            FailedWhy::Down
            | FailedWhy::Unreachable
            | FailedWhy::Timeout
            | FailedWhy::Layout
            | FailedWhy::Cut
            | FailedWhy::Refilling
            | FailedWhy::Starting => Self::QuorumUnmet,
        }
    }

    /// Whether the same request may succeed later.
    pub(super) const fn is_passing(&self) -> bool {
        match self {
            Self::Usage(_) | Self::TooManySiblings | Self::StaleContext => false,
            Self::QuorumUnmet
            | Self::Corrupt
            | Self::Overloaded
            | Self::DiskFull
            | Self::NotCoordinator => true,
        }
    }
}

impl From<&Refusal> for FailedWhy {
    fn from(refusal: &Refusal) -> Self {
        match refusal {
            Refusal::Layout { .. } | Refusal::NotOwner => Self::Layout,
            Refusal::Expired => Self::Timeout,
            Refusal::Overloaded => Self::Overloaded,
            Refusal::Corrupt => Self::Corrupt,
            Refusal::Refilling => Self::Refilling,
            Refusal::Starting => Self::Starting,
            Refusal::Cut { .. } => Self::Cut,
            Refusal::DiskFull => Self::DiskFull,
        }
    }
}
