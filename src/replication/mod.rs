//! Replication: what a coordinator asks, what a replica answers (DESIGN §4, §6).

mod message;
mod quorum;

pub use message::{
    Acknowledgement, Answer, Envelope, Known, OpId, PutTag, RangeEntry, RangePage, ReadWant,
    Refusal, Request,
};
pub use quorum::{Consistency, Guarantee, Level};
