//! The ring-aware, pipelined native client: tokio at the caller's rim.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;

use crate::node_id::{ClusterId, NodeId};
use crate::replication::{Consistency, Level};
use crate::ring::{Layout, Preferences};
use crate::wire::client::{Done, ErrorReply, Got, PutBasis, ReplyBody, RequestBody};

/// A client of one cluster. Cheap to clone; all clones share connections and the session.
#[derive(Clone, Debug)]
pub struct Client {
    shared: Arc<()>,
}

/// How to connect.
#[derive(Clone, Debug)]
pub struct ClientOptions {
    /// `host:port` of nodes to begin with.
    pub hosts: Vec<String>,
    /// A node's admin socket instead of `hosts`.
    pub socket: Option<std::path::PathBuf>,
    /// The deadline of a request that names none.
    pub timeout: Duration,
    /// Shown in the node's log.
    pub agent: String,
}

/// What the client knows of the cluster.
#[derive(Clone, Debug)]
pub struct ClusterView {
    /// The cluster.
    pub cluster: ClusterId,
    /// Its name.
    pub cluster_name: String,
    /// The layout in force.
    pub layout: Arc<Layout>,
    /// Its walks.
    pub preferences: Arc<Preferences>,
    /// Where clients reach each member.
    pub clients: BTreeMap<NodeId, String>,
    /// Longest key and value together, bytes.
    pub pair_max: u32,
}

/// Options of a read.
#[derive(Clone, Copy, Debug, Default)]
pub struct GetOptions {
    /// How many owners must answer.
    pub r: Option<Level>,
    /// Whom to count.
    pub consistency: Option<Consistency>,
}

/// Options of a write.
#[derive(Clone, Copy, Debug, Default)]
pub struct PutOptions {
    /// Durable acknowledgements to wait for.
    pub w: Option<Level>,
    /// Whom to count.
    pub consistency: Option<Consistency>,
}

/// Why a call failed.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// No node could be reached.
    #[error("no node reachable: {tried}")]
    NoNode {
        /// Each address tried and why it failed.
        tried: String,
    },
    /// A node refused the connection.
    #[error("{node} refused the connection: {reason}")]
    Refused {
        /// Its address.
        node: String,
        /// For programs.
        code: crate::wire::handshake::RefusalCode,
        /// Its words.
        reason: String,
    },
    /// Bytes that are not our protocol.
    #[error("{node} does not speak the kvkit protocol: {reason}")]
    Protocol {
        /// Its address.
        node: String,
        /// What was wrong.
        reason: String,
    },
    /// The node replied with an error.
    #[error("{}", .0.message)]
    Reply(Box<ErrorReply>),
    /// The deadline passed without a reply.
    #[error("no reply within {timeout:?}")]
    Timeout {
        /// The deadline's span.
        timeout: Duration,
        /// Whether a write was under way, so that its outcome is unknown.
        write: bool,
    },
}

impl Client {
    /// Connects to the first reachable of the options' hosts and learns the layout.
    /// # Errors
    /// [`ClientError::NoNode`], [`ClientError::Refused`], [`ClientError::Protocol`].
    pub async fn connect(options: ClientOptions) -> Result<Self, ClientError> {
        let _ = options;
        todo!()
    }
    /// What the client knows of the cluster now; renewed by itself when a reply names a newer layout.
    pub fn cluster(&self) -> Arc<ClusterView> {
        let _ = &self.shared;
        todo!()
    }
    /// Reads a key at an owner of it; fails over to the next owner, then to any node.
    /// # Errors
    /// [`ClientError`].
    pub async fn get(&self, key: Bytes, options: GetOptions) -> Result<Got, ClientError> {
        let _ = (key, options);
        todo!()
    }
    /// Writes (or with `None` deletes) a key; fails over with the same request id.
    /// # Errors
    /// [`ClientError`].
    pub async fn put(
        &self,
        key: Bytes,
        value: Option<Bytes>,
        basis: PutBasis,
        options: PutOptions,
    ) -> Result<Done, ClientError> {
        let _ = (key, value, basis, options);
        todo!()
    }
    /// Any request, at `node` and nowhere else, or at any reachable node where none is named. Error replies come as
    /// [`ClientError::Reply`].
    /// # Errors
    /// [`ClientError`].
    pub async fn call(
        &self,
        node: Option<NodeId>,
        body: RequestBody,
    ) -> Result<ReplyBody, ClientError> {
        let _ = (node, body);
        todo!()
    }
}
