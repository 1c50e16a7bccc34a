//! Anti-entropy: two replicas find what they hold differently, at a cost that follows the difference, and settle it
//! (Dynamo, §4.7; DESIGN §7).
//!
//! [`Tree`] hashes the slots' leaves, [`Exchange`] walks two trees down to the slots that differ, twice with a pause,
//! and has them repaired; [`Comparison`] says which keys of such a slot go which way. What goes is merged like any
//! other state.

mod exchange;
pub mod headway;
mod message;
pub mod purge;
pub mod refill;
mod rows;
#[cfg(test)]
mod tests;
mod tree;
mod turns;
mod walk;

pub use exchange::{AskId, Effect, Event, Exchange, Outcome, Progress, View};
pub use message::{Compare, Compared, answer};
pub use rows::{Ages, Comparison, Row, Verdict, pack, unpack};
pub use tree::{FANOUT, LOWEST_LEVEL, Mask, Tree, TreeHash, TreeNode};
