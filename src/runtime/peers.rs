//! Peers that dialled this node: their messages are read; answers go over the link that this node dials itself.

use std::io;

use futures_util::{FutureExt, StreamExt};
use tokio::io::AsyncRead;

use crate::node::Event;
use crate::node_id::NodeId;
use crate::wire::frame::{self, Frames};
use crate::wire::peer::PeerFrame;

use super::hub::Hub;

/// Messages taken in one go before other tasks have their turn.
const BATCH_MAX: usize = 1_024;

/// Reads a peer behind its handshake until the connection ends.
pub(super) async fn serve<R: AsyncRead + Unpin>(hub: &Hub, from: NodeId, frames: Frames<R>) {
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
