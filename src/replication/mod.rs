//! Replication: what a coordinator asks, what a replica answers (DESIGN §4, §6).

pub mod anti_entropy;
mod coordinator;
pub mod cut;
mod foreground;
pub mod hinted_handoff;
mod latency;
mod message;
mod outcome;
mod pace;
mod quorum;
pub mod replica;
mod request_memory;
mod view;

pub use coordinator::{
    Coordinator, Effect, HeldFor, Input, OPERATIONS_MAX, Operation, PutBasis, operation_of,
};
pub use foreground::{Foreground, ForegroundLoad};
pub use latency::Latencies;
pub use message::{
    Acknowledgement, Answer, Envelope, Known, OpId, PutTag, RangeEntry, RangePage, ReadWant,
    Refusal, Request,
};
pub use outcome::{Done, FailedWhy, Failure, FailureKind, Got, Outcome, Scanned, WriteOutcome};
pub use pace::Pace;
pub use quorum::{Consistency, Guarantee, Level, owners_needed};
pub use replica::{Local, Mint, MintAnswer, MintKind, Step};
pub use request_memory::{MEMORY_ENTRIES_MAX, MEMORY_SPAN, Remembered, RequestMemory};
pub use view::{Reachability, View};
