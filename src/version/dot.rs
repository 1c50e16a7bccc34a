//! Who wrote, and which write of theirs: actors, epochs, dots; and the client's name for a put.

use serde::{Deserialize, Serialize};

use crate::node_id::NodeId;

/// One life of an actor: a counter that only rises, and 32 random bits so that two lives which never heard of each
/// other differ. Ordered by counter first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Epoch {
    /// 1 for a node's first epoch; shown behind the name from the second on (`n1.2`).
    pub counter: u32,
    /// Random bits drawn when the epoch began.
    pub random: u32,
}

/// Who mints dots: a node in one of its epochs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Actor {
    /// The node.
    pub node: NodeId,
    /// Its epoch.
    pub epoch: Epoch,
}

/// The name of one write of one key, for ever.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Dot {
    /// Who minted it.
    pub actor: Actor,
    /// Which write of that actor for this key, from 1.
    pub counter: u64,
}

/// A client's name for a put: a random session, and the put's number in it. A session numbers its puts in order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct RequestId {
    /// 64 random bits.
    pub session: u64,
    /// Rises with each put of the session.
    pub counter: u64,
}
