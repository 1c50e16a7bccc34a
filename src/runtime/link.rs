//! Links: the one connection to each peer that this node dials. Messages go out over it and none comes back; what the
//! peer has to say comes over the link that it dialled.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::rc::Rc;
use std::time::Duration;

use futures_util::{SinkExt, StreamExt};
use rand::Rng;
use rand_chacha::ChaCha8Rng;
use tokio::net::TcpStream;
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::sync::Notify;

use crate::node::Event;
use crate::node_id::NodeId;
use crate::wire::frame::{self, Frames};
use crate::wire::handshake::Welcome;
use crate::wire::peer::{PeerFrame, PeerMessage};

use super::clock;
use super::handshake::{self, HandshakeError};
use super::hub::Hub;

/// Messages that may wait for a link, and their bytes, roughly; more, and the peer is unreachable.
const QUEUE_MAX: usize = 16_384;
const QUEUE_BYTES_MAX: usize = 64 << 20;
/// A peer that takes nothing for so long is unreachable.
const WRITE_STALL: Duration = Duration::from_secs(10);
/// Longest time to connect.
const CONNECT_MAX: Duration = Duration::from_secs(3);
/// First pause before a peer is dialled again; doubled each time, with up to as much again by chance.
const PAUSE_MIN: Duration = Duration::from_millis(50);
/// Longest pause.
const PAUSE_MAX: Duration = Duration::from_secs(2);

/// What waits for one peer.
pub(super) struct Link {
    pub(super) address: String,
    queue: RefCell<VecDeque<PeerMessage>>,
    queue_bytes: Cell<usize>,
    /// Whether a message found no room: what the peer missed is lost, and the link is made anew.
    is_overrun: Cell<bool>,
    is_up: Cell<bool>,
    is_retired: Cell<bool>,
    /// Whether a pause before the next try should be cut short.
    is_hurried: Cell<bool>,
    /// For the link's task.
    news: Notify,
    /// For who waits until the link is up.
    risen: Notify,
}

/// Why a link came down.
enum Down {
    Unreachable(HandshakeError),
    Refused(String),
    Retired,
}

/// A connection that stands, and the peer's time as it answered.
struct Greeted {
    frames: Frames<OwnedReadHalf>,
    writer: OwnedWriteHalf,
    node: NodeId,
    incarnation: u64,
    sent: u64,
}

impl Link {
    pub(super) fn new(address: String) -> Self {
        Self {
            address,
            queue: RefCell::default(),
            queue_bytes: Cell::new(0),
            is_overrun: Cell::new(false),
            is_up: Cell::new(false),
            is_retired: Cell::new(false),
            is_hurried: Cell::new(false),
            news: Notify::new(),
            risen: Notify::new(),
        }
    }

    /// Queues a message; false when the link is down or its queue is full, and then it is lost.
    pub(super) fn push(&self, message: PeerMessage) -> bool {
        if !self.is_up.get() {
            return false;
        }
        let mut queue = self.queue.borrow_mut();
        let bytes = self.queue_bytes.get() + message.bytes_estimate();
        let has_room = queue.len() < QUEUE_MAX && bytes <= QUEUE_BYTES_MAX;
        if has_room {
            queue.push_back(message);
            self.queue_bytes.set(bytes);
        } else {
            self.is_up.set(false);
            self.is_overrun.set(true);
        }
        self.news.notify_one();
        has_room
    }

    fn take_queue(&self) -> VecDeque<PeerMessage> {
        self.queue_bytes.set(0);
        self.queue.take()
    }

    /// Returns once the link is up, or retired; dials at once where a pause was under way. Called when the peer is known
    /// to be there.
    pub(super) async fn rise(&self) {
        loop {
            let risen = self.risen.notified();
            if self.is_up.get() || self.is_retired.get() {
                return;
            }
            self.is_hurried.set(true);
            self.news.notify_one();
            risen.await;
        }
    }

    /// Whether it is no longer wanted: the peer is dialled elsewhere, or not at all.
    pub(super) const fn is_retired(&self) -> bool {
        self.is_retired.get()
    }

    /// Ends the link's task.
    pub(super) fn retire(&self) {
        self.is_retired.set(true);
        self.news.notify_one();
        self.risen.notify_waiters();
    }
}

/// Keeps the link to `peer` up for as long as it is wanted.
pub(super) async fn maintain(hub: Rc<Hub>, peer: NodeId, link: Rc<Link>, mut rng: ChaCha8Rng) {
    let mut pause = PAUSE_MIN;
    let mut told = String::new();
    while !link.is_retired() {
        let dialled = dial(&hub, &link.address).await;
        if link.is_retired() {
            return;
        }
        let down = match dialled {
            Ok(greeted) if greeted.node == peer => {
                tracing::info!(peer = %peer, address = link.address, "linked");
                (pause, told) = (PAUSE_MIN, String::new());
                carry(&hub, peer, &link, greeted).await
            }
            Ok(greeted) => {
                let Greeted { node, incarnation, .. } = greeted;
                let address = link.address.clone();
                hub.post(Event::Located { peer: node, incarnation, address });
                Down::Unreachable(HandshakeError::Garbage(format!("node {node} answers there")))
            }
            Err(down) => down,
        };
        if link.is_retired() {
            // Another link to this peer may be up by now: what became of this one says nothing of it.
            return;
        }
        hub.post(Event::PeerUnreachable(peer));
        let why = match down {
            Down::Retired => return,
            Down::Unreachable(error) => {
                hub.verdicts.borrow_mut().silent.insert(link.address.clone());
                hub.news.notify_one();
                error.to_string()
            }
            Down::Refused(reason) => format!("refused: {reason}"),
        };
        if why != told {
            tracing::warn!(peer = %peer, address = link.address, "no link: {why}");
            told = why;
        }
        let jitter = pause.mul_f64(rng.random_range(0.0..1.0));
        tokio::select! {
            () = tokio::time::sleep(pause + jitter) => {}
            () = link.news.notified() => {}
        }
        let next = if link.is_hurried.take() { PAUSE_MIN } else { pause * 2 };
        pause = next.min(PAUSE_MAX);
    }
}

/// Dials `address`, sends one message, and hangs up.
pub(super) async fn introduce(hub: Rc<Hub>, address: String, message: PeerMessage) {
    let Ok(Greeted { writer, .. }) = dial(&hub, &address).await else { return };
    let mut outgoing = frame::outgoing(writer, hub.frame_bytes_max);
    let message = PeerFrame { sent: clock::now().monotonic, message };
    // It may be lost: the sender tries again.
    let _ = tokio::time::timeout(WRITE_STALL, async {
        outgoing.send(message).await?;
        outgoing.close().await
    })
    .await;
}

async fn dial(hub: &Hub, address: &str) -> Result<Greeted, Down> {
    let unreachable = |error| Down::Unreachable(error);
    let stream = tokio::time::timeout(CONNECT_MAX, TcpStream::connect(address))
        .await
        .map_err(|_| unreachable(HandshakeError::Timeout))?
        .map_err(|error| unreachable(error.into()))?;
    stream.set_nodelay(true).map_err(|error| unreachable(error.into()))?;
    let (reader, mut writer) = stream.into_split();
    let hello = hub.core.borrow().hello(clock::now());
    let (welcome, frames) =
        handshake::greet(reader, &mut writer, &hello).await.map_err(unreachable)?;
    let (incarnation, sent) = match &welcome {
        Welcome::Accepted { incarnation, sent, .. } => (*incarnation, *sent),
        Welcome::Refused { code, reason } => {
            let verdict = (*code, reason.clone());
            let mut verdicts = hub.verdicts.borrow_mut();
            verdicts.refusals.insert(address.to_owned(), verdict);
            verdicts.silent.remove(address);
            // The core loop looks whether that is the end of this node.
            hub.news.notify_one();
            return Err(Down::Refused(reason.clone()));
        }
    };
    let welcomed = hub.core.borrow_mut().welcomed(&welcome);
    let node = welcomed.map_err(|error| unreachable(HandshakeError::Garbage(error.to_string())))?;
    let mut verdicts = hub.verdicts.borrow_mut();
    verdicts.is_accepted = true;
    verdicts.refusals.remove(address);
    verdicts.silent.remove(address);
    Ok(Greeted { frames, writer, node, incarnation, sent })
}

/// Sends what waits, all of it with one write, until the link breaks or is retired.
async fn carry(hub: &Hub, peer: NodeId, link: &Link, greeted: Greeted) -> Down {
    let Greeted { mut frames, writer, sent, .. } = greeted;
    let mut outgoing = frame::outgoing(writer, hub.frame_bytes_max);
    link.take_queue();
    link.is_overrun.set(false);
    link.is_up.set(true);
    hub.post(Event::PeerConnected { peer, sent });
    link.risen.notify_waiters();
    let down = loop {
        if link.is_retired.get() {
            break Down::Retired;
        }
        if link.is_overrun.get() {
            break Down::Unreachable(HandshakeError::Timeout);
        }
        let batch = link.take_queue();
        if batch.is_empty() {
            tokio::select! {
                () = link.news.notified() => {}
                // The peer sends nothing here: this is the end of the connection.
                _ = frames.next() => break Down::Unreachable(closed().into()),
            }
            continue;
        }
        let now = clock::now().monotonic;
        let sending = async {
            for message in batch {
                outgoing.feed(PeerFrame { sent: now, message }).await?;
            }
            outgoing.flush().await
        };
        match tokio::time::timeout(WRITE_STALL, sending).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => break Down::Unreachable(error.into()),
            Err(_) => break Down::Unreachable(HandshakeError::Timeout),
        }
    };
    link.is_up.set(false);
    link.take_queue();
    down
}

fn closed() -> std::io::Error {
    std::io::Error::new(std::io::ErrorKind::ConnectionReset, "the peer closed the link")
}
