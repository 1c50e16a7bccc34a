//! What a node that is no member (any more, or yet) asks those that are, one question a connection.
//!
//! ```text
//! this node                          a member, on its address for nodes (a view) or for clients
//!   hello (client)      ───────────▶
//!   one request         ───────────▶
//!                       ◀───────────  its reply
//! ```

use futures_util::{SinkExt, StreamExt};
use tokio::net::TcpStream;

use crate::node_id::NodeId;
use crate::wire::client::{Reply, ReplyBody, Request, RequestBody, View};
use crate::wire::frame;
use crate::wire::handshake::{Hello, PROTOCOL, Role, Welcome};

use super::handshake::{self, HANDSHAKE_MAX, HandshakeError};
use super::{Options, clock};

/// What the node at `address` replies to `body`, and who that is.
/// # Errors
/// [`HandshakeError`]: it cannot be reached, refuses, or does not reply in time.
pub(super) async fn ask(
    options: &Options,
    address: &str,
    body: RequestBody,
) -> Result<(NodeId, ReplyBody), HandshakeError> {
    tokio::time::timeout(HANDSHAKE_MAX, ask_at(options, address, body))
        .await
        .map_err(|_| HandshakeError::Timeout)?
}

/// The view of the node at `address`, and who that is.
/// # Errors
/// As [`ask`].
pub(super) async fn view(
    options: &Options,
    address: &str,
) -> Result<(NodeId, View), HandshakeError> {
    match ask(options, address, RequestBody::View).await? {
        (node, ReplyBody::View(view)) => Ok((node, view)),
        _ => Err(HandshakeError::Garbage("no view of the cluster".to_owned())),
    }
}

async fn ask_at(
    options: &Options,
    address: &str,
    body: RequestBody,
) -> Result<(NodeId, ReplyBody), HandshakeError> {
    let (reader, mut writer) = TcpStream::connect(address).await?.into_split();
    let hello = Hello {
        protocol_min: PROTOCOL.0,
        protocol_max: PROTOCOL.1,
        features: Vec::new(),
        role: Role::Client { agent: format!("kvnode {}", options.name) },
        sent: clock::now().monotonic,
    };
    let (welcome, frames) = handshake::greet(reader, &mut writer, &hello).await?;
    let node = match welcome {
        Welcome::Accepted { node, .. } => node,
        Welcome::Refused { reason, .. } => return Err(HandshakeError::Garbage(reason)),
    };
    let mut outgoing = frame::outgoing(writer, options.frame_bytes_max);
    outgoing.send(Request { id: 1, deadline: 0, body }).await?;
    let mut incoming = frame::incoming::<_, Reply>(frames, options.frame_bytes_max);
    match incoming.next().await {
        Some(Ok(Reply { body, .. })) => Ok((node, body)),
        Some(Err(error)) => Err(error.into()),
        None => Err(HandshakeError::Garbage("no reply".to_owned())),
    }
}
