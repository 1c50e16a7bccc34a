//! Replication: what a coordinator asks, what a replica answers (DESIGN §4, §6).

pub mod anti_entropy;
mod coordinator;
pub mod hinted_handoff;
mod message;
mod outcome;
mod quorum;
pub mod replica;
mod request_memory;
mod view;

pub use coordinator::{
    Coordinator, Effect, HEDGE_AFTER, HeldFor, Input, OPERATIONS_MAX, Operation, PutBasis,
};
pub use message::{
    Acknowledgement, Answer, Envelope, Known, OpId, PutTag, RangeEntry, RangePage, ReadWant,
    Refusal, Request,
};
pub use outcome::{Done, FailedWhy, Failure, FailureKind, Got, Outcome, Scanned, WriteOutcome};
pub use quorum::{Consistency, Guarantee, Level};
pub use replica::{Local, Mint, MintAnswer, MintKind, Step};
pub use request_memory::{MEMORY_ENTRIES_MAX, MEMORY_SPAN, Remembered, RequestMemory};
pub use view::{Reachability, View};
