//! Peers that dialled this node: their messages are read; answers go over the link that this node dials itself.

use std::io;
use std::rc::Rc;
use std::time::Duration;

use futures_util::{FutureExt, StreamExt};
use tokio::io::AsyncRead;

use crate::node::Event;
use crate::node_id::NodeId;
use crate::wire::frame::{self, Frames};
use crate::wire::peer::PeerFrame;

use super::hub::Hub;
use super::link::Link;

/// Messages taken in one go before other tasks have their turn.
const BATCH_MAX: usize = 1_024;

/// Longest time that a peer's messages wait for our own link to it.
const RETURN_LINK_MAX: Duration = Duration::from_secs(1);

/// Reads a peer behind its handshake until the connection ends.
///
/// First our own link to it must stand: a request read before that could not be answered, and its coordinator would
/// wait until the deadline. Where the peer cannot be dialled it is read all the same, for its gossip.
pub(super) async fn serve<R: AsyncRead + Unpin>(hub: &Hub, from: NodeId, frames: Frames<R>) {
    if tokio::time::timeout(RETURN_LINK_MAX, linked(hub, from)).await.is_err() {
        let address = link_to(hub, from).map(|link| link.address.clone());
        tracing::warn!(peer = %from, address, "the peer reaches us, but we do not reach it");
    }
    if let Err(error) = read_messages(hub, from, frames).await {
        tracing::warn!(peer = %from, "closing a peer's connection: {error}");
    }
}

/// Returns once a link to the peer is up, or none is wanted. One to where it was before may give way to another.
async fn linked(hub: &Hub, peer: NodeId) {
    while let Some(link) = link_to(hub, peer) {
        link.rise().await;
        if !link.is_retired() {
            return;
        }
    }
}

fn link_to(hub: &Hub, peer: NodeId) -> Option<Rc<Link>> {
    hub.links.borrow().get(&peer).cloned()
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
