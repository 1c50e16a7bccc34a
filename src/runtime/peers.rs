//! Peers that dialled this node: their messages are read; answers go over the link that this node dials itself.

use std::io;
use std::time::Duration;

use futures_util::{FutureExt, StreamExt};
use tokio::io::AsyncRead;

use crate::node::Event;
use crate::node_id::NodeId;
use crate::wire::frame::{self, Frames};
use crate::wire::peer::PeerFrame;

use super::hub::Hub;

/// Messages taken in one go before other tasks have their turn.
const BATCH_MAX: usize = 1_024;

/// Longest time that a peer's messages wait for our own link to it.
const RETURN_LINK_MAX: Duration = Duration::from_secs(1);

/// Reads a peer behind its handshake until the connection ends.
///
/// First our own link to it must stand: a request read before that could not be answered, and its coordinator would
/// wait until the deadline. Where the peer cannot be dialled it is read all the same, for its gossip.
pub(super) async fn serve<R: AsyncRead + Unpin>(hub: &Hub, from: NodeId, frames: Frames<R>) {
    let link = hub.links.borrow().get(&from).cloned();
    if let Some(link) = link
        && tokio::time::timeout(RETURN_LINK_MAX, link.rise()).await.is_err()
    {
        tracing::warn!(peer = %from, address = link.address, "the peer reaches us, but we do not reach it");
    }
    if let Err(error) = read_messages(hub, from, frames).await {
        tracing::warn!(peer = %from, "closing a peer's connection: {error}");
    }
}

async fn read_messages<R: AsyncRead + Unpin>(
    hub: &Hub,
    from: NodeId,
    frames: Frames<R>,
) -> io::Result<()> {
    let mut incoming = frame::incoming::<R, PeerFrame>(frames, hub.frame_bytes_max);
    loop {
        let Some(message) = incoming.next().await else { return Ok(()) };
        hub.post(Event::Peer { from, frame: message? });
        for _ in 1..BATCH_MAX {
            match incoming.next().now_or_never() {
                Some(Some(message)) => hub.post(Event::Peer { from, frame: message? }),
                Some(None) => return Ok(()),
                None => break,
            }
        }
        tokio::task::yield_now().await;
    }
}
