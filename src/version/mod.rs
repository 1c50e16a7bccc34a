//! Versions: what happened to a key, and what happened since (DESIGN §4).

mod context;
mod dot;
mod siblings;
mod timestamp;
mod vector_clock;

pub use context::{Context, ContextError};
pub use dot::{Actor, Dot, Epoch, RequestId};
pub use siblings::{Basis, Content, Digest, MintError, Minted, Siblings, StateError, Version};
pub use timestamp::{HybridClock, Timestamp};
pub use vector_clock::{Causality, VectorClock};
