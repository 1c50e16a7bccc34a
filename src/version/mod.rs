//! Versions: what happened to a key, and what happened since (DESIGN §4).

#[cfg(test)]
mod causal_histories;
mod context;
mod dot;
mod floor;
#[cfg(test)]
pub(crate) mod notation;
mod siblings;
mod state_format;
mod timestamp;
mod vector_clock;

pub use context::{Context, ContextError};
pub use dot::{Actor, COUNTER_MAX, Dot, Epoch, ParseActorError, RequestId, actor_name, dot_name};
pub use floor::{AfterDrop, Floor};
pub use siblings::{
    Basis, Content, Digest, MintError, Minted, SIBLINGS_MAX, SIBLINGS_WARN, Siblings, StateError,
    Version,
};
pub use timestamp::{HybridClock, Timestamp};
pub use vector_clock::{Causality, ClockCounterError, VectorClock};
