//! Hinted handoff: what a stand-in keeps for an owner that could not be reached, and how it gets there (Dynamo §4.6;
//! DESIGN §7).
//!
//! - [`Hint`]: the state and what it counted for, as stored.
//! - [`Handoff`]: hands a node's hints over to their targets, or to the other owners of their keys where a target does
//!   not come back, one window of them at a time.

mod handoff;
mod hint;
mod plan;
mod target;
#[cfg(test)]
mod tests;

pub use handoff::{Effect, Event, Handoff, PAGE_ENTRIES, Reply, SendId};
pub use hint::{Hint, HintError};
