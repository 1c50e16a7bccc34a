//! The context token: what a reader saw, bound to the key it read (UI §2).

use std::collections::BTreeMap;

use crate::node_id::NodeId;

use super::VectorClock;

/// `c1.` + base64url(vector clock with the nodes' names, 32-bit key hash, checksum).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Context {
    /// What was seen.
    pub clock: VectorClock,
    /// A name for each node in the clock, so that people can read it offline.
    pub names: BTreeMap<NodeId, String>,
    key_hash: u32,
}

/// Why a text is no usable context.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ContextError {
    /// Not `c1.` and base64url.
    #[error("not a context token (expected `c1.…`)")]
    Form,
    /// The checksum does not match.
    #[error("context token cut short or altered: its checksum does not match")]
    Checksum,
    /// It was read from another key.
    #[error("context token belongs to another key")]
    OtherKey,
    /// A counter past 2^63.
    #[error("context token holds a counter past 2^63")]
    Counter,
}

impl Context {
    /// The context of a read of `key`.
    pub fn new(key: &[u8], clock: VectorClock, names: BTreeMap<NodeId, String>) -> Self {
        let _ = (key, clock, names);
        todo!()
    }
    /// The token.
    pub fn encode(&self) -> String {
        todo!()
    }
    /// Reads a token without asking whose it is.
    /// # Errors
    /// [`ContextError`], all but [`ContextError::OtherKey`].
    pub fn decode(token: &str) -> Result<Self, ContextError> {
        let _ = token;
        todo!()
    }
    /// The clock, where the token was read from `key`.
    /// # Errors
    /// [`ContextError::OtherKey`].
    pub fn for_key(&self, key: &[u8]) -> Result<&VectorClock, ContextError> {
        let _ = (key, self.key_hash);
        todo!()
    }
}
