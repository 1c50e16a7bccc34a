//! What gossip carries.

use serde::{Deserialize, Serialize};

use crate::node_id::NodeId;

use super::super::{COUNTER_MAX, MEMBERS_MAX, MalformedEntry, MemberEntry, Pulse};

/// A member list and the sender's own suspicions.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Message {
    /// Every member that the sender has heard of, itself included.
    pub members: Vec<MemberEntry>,
    /// Whom the sender itself suspects. Never relayed: each member speaks for itself.
    pub suspicions: Vec<Suspicion>,
    /// Whether the receiver is asked to answer at once with its own list (which asks for nothing).
    pub answer: bool,
}

/// The sender has not heard of `suspect` for longer than is likely.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Suspicion {
    /// Whom.
    pub suspect: NodeId,
    /// The last pulse that the sender knows of it.
    pub pulse: Pulse,
}

/// Why a message is not taken.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum MalformedMessage {
    /// More entries than any layout of ours has members.
    #[error("{0} entries: at most {MEMBERS_MAX} are allowed")]
    Length(usize),
    /// An entry that cannot be.
    #[error(transparent)]
    Entry(#[from] MalformedEntry),
}

impl Message {
    /// Checks what a peer might have made up.
    /// # Errors
    /// The first thing out of bounds.
    pub fn validate(&self) -> Result<(), MalformedMessage> {
        for length in [self.members.len(), self.suspicions.len()] {
            if length > MEMBERS_MAX {
                return Err(MalformedMessage::Length(length));
            }
        }
        for entry in &self.members {
            entry.validate()?;
        }
        for Suspicion { suspect, pulse } in &self.suspicions {
            for value in [pulse.incarnation.0, pulse.heartbeat] {
                if value > COUNTER_MAX {
                    return Err(MalformedEntry::Counter { id: *suspect, value }.into());
                }
            }
        }
        Ok(())
    }
}
