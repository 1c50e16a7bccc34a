//! One connection to one node: many requests in flight, told apart by their number.
//!
//! Two tasks drive it. The writer takes all requests that wait and sends them with one write; the reader hands each
//! reply to whoever asked. When either fails, all who wait learn it at once.

use std::collections::BTreeMap;
use std::fmt;
use std::io;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use futures_util::{SinkExt, StreamExt};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpStream, UnixStream};
use tokio::sync::{mpsc, oneshot};

use crate::node_id::{ClusterId, NodeId};
use crate::wire::client::{Reply, Request, RequestBody};
use crate::wire::codec;
use crate::wire::frame::{self, Frames, Incoming, Outgoing};
use crate::wire::handshake::{Hello, PROTOCOL, RefusalCode, Role, Welcome};

/// Requests that may wait for the writer; whoever comes later waits for room.
const QUEUE: usize = 1_024;
/// The node is given this much less time than we wait, so that its own verdict arrives before our patience ends.
const REPLY_MARGIN_MAX: Duration = Duration::from_millis(50);
/// Largest reply we take, bytes: a node may be configured to send larger frames than the default.
const REPLY_BYTES_MAX: usize = 1 << 30;

/// Where a node is reached.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Address {
    /// `host:port`.
    Tcp(String),
    /// An admin socket.
    Unix(PathBuf),
}

/// A connection that stands. Cheap to clone.
#[derive(Clone, Debug)]
pub(super) struct Connection {
    /// Who answered.
    pub(super) with: With,
    requests: mpsc::Sender<Request>,
    shared: Arc<Shared>,
}

/// Who answers at an address: another node than before, even one of another cluster, once it has moved.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct With {
    pub(super) cluster: ClusterId,
    pub(super) node: NodeId,
}

/// Why there is no connection.
#[derive(Debug, thiserror::Error)]
pub(super) enum DialError {
    /// It cannot be reached.
    #[error("{0}")]
    Io(#[from] io::Error),
    /// It did not greet in time.
    #[error("no answer in time")]
    Timeout,
    /// It speaks something else.
    #[error("{0}")]
    Protocol(String),
    /// It refused us.
    #[error("{reason}")]
    Refused {
        /// For programs.
        code: RefusalCode,
        /// Its words.
        reason: String,
    },
}

/// Why a request has no reply.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum NoReply {
    /// It was never sent.
    NotSent,
    /// The connection broke after it may have been sent.
    Broken,
    /// The deadline passed.
    Timeout,
}

#[derive(Debug)]
struct Shared {
    last_id: AtomicU64,
    clock: Mutex<NodeClock>,
    waiting: Mutex<Waiting>,
}

/// The node's monotonic time, as last heard.
#[derive(Clone, Copy, Debug)]
struct NodeClock {
    sent: u64,
    received: Instant,
}

#[derive(Debug, Default)]
struct Waiting {
    closed: bool,
    replies: BTreeMap<u64, oneshot::Sender<Reply>>,
}

/// Takes a request off the waiting list when its future is dropped.
struct Place<'a> {
    shared: &'a Shared,
    id: u64,
}

impl Connection {
    /// Connects and shakes hands before `deadline`.
    pub(super) async fn dial(
        address: &Address,
        agent: &str,
        deadline: Instant,
    ) -> Result<Self, DialError> {
        tokio::time::timeout_at(deadline.into(), Self::greet(address, agent))
            .await
            .map_err(|_| DialError::Timeout)?
    }

    async fn greet(address: &Address, agent: &str) -> Result<Self, DialError> {
        match address {
            Address::Tcp(host) => {
                let stream = TcpStream::connect(host.as_str()).await?;
                stream.set_nodelay(true)?;
                let (reader, writer) = stream.into_split();
                Self::shake_hands(reader, writer, agent).await
            }
            Address::Unix(path) => {
                let (reader, writer) = UnixStream::connect(path).await?.into_split();
                Self::shake_hands(reader, writer, agent).await
            }
        }
    }

    async fn shake_hands<R, W>(mut reader: R, mut writer: W, agent: &str) -> Result<Self, DialError>
    where
        R: AsyncRead + Unpin + Send + 'static,
        W: AsyncWrite + Unpin + Send + 'static,
    {
        let hello = Hello {
            protocol_min: PROTOCOL.0,
            protocol_max: PROTOCOL.1,
            features: Vec::new(),
            role: Role::Client { agent: agent.to_owned() },
            sent: 0,
        };
        let mut greeting = frame::PREAMBLE.to_vec();
        frame::append(&mut greeting, &hello).map_err(io::Error::from)?;
        writer.write_all(&greeting).await?;
        let mut preamble = [0; frame::PREAMBLE.len()];
        reader.read_exact(&mut preamble).await?;
        frame::check_preamble(&preamble).map_err(|error| DialError::Protocol(error.to_string()))?;
        let mut frames = frame::read_frames(reader, frame::HANDSHAKE_BYTES_MAX);
        let payload = match frames.next().await {
            Some(payload) => payload?,
            None => return Err(io::Error::from(io::ErrorKind::UnexpectedEof).into()),
        };
        let welcome: Welcome =
            codec::decode(&payload).map_err(|error| DialError::Protocol(error.to_string()))?;
        match welcome {
            Welcome::Refused { code, reason } => Err(DialError::Refused { code, reason }),
            Welcome::Accepted { protocol, .. }
                if !(PROTOCOL.0..=PROTOCOL.1).contains(&protocol) =>
            {
                Err(DialError::Protocol(format!("it chose protocol version {protocol}")))
            }
            Welcome::Accepted { cluster, node, sent, .. } => {
                Ok(Self::start(With { cluster, node }, sent, frames, writer))
            }
        }
    }

    fn start<R, W>(with: With, sent: u64, frames: Frames<R>, writer: W) -> Self
    where
        R: AsyncRead + Unpin + Send + 'static,
        W: AsyncWrite + Unpin + Send + 'static,
    {
        let shared = Arc::new(Shared {
            last_id: AtomicU64::new(0),
            clock: Mutex::new(NodeClock::heard(sent)),
            waiting: Mutex::default(),
        });
        let (requests, queue) = mpsc::channel(QUEUE);
        let incoming = frame::incoming(frames, REPLY_BYTES_MAX);
        let outgoing = frame::outgoing(writer, REPLY_BYTES_MAX);
        tokio::spawn(write_requests(queue, outgoing, Arc::clone(&shared)));
        tokio::spawn(read_replies(incoming, Arc::clone(&shared)));
        Self { with, requests, shared }
    }

    /// Whether it still stands, as far as is known.
    pub(super) fn is_open(&self) -> bool {
        !self.shared.waiting().closed
    }

    /// Sends a request and waits for its reply until `deadline`, which the node is told in its own time.
    pub(super) async fn request(
        &self,
        body: RequestBody,
        deadline: Instant,
    ) -> Result<Reply, NoReply> {
        let id = self.shared.last_id.fetch_add(1, Ordering::Relaxed) + 1;
        let (sender, reply) = oneshot::channel();
        {
            let mut waiting = self.shared.waiting();
            if waiting.closed {
                return Err(NoReply::NotSent);
            }
            waiting.replies.insert(id, sender);
        }
        let _place = Place { shared: &self.shared, id };
        let request = Request { id, deadline: self.shared.clock().at(deadline), body };
        match tokio::time::timeout_at(deadline.into(), self.requests.send(request)).await {
            Err(_) | Ok(Err(_)) => return Err(NoReply::NotSent),
            Ok(Ok(())) => {}
        }
        match tokio::time::timeout_at(deadline.into(), reply).await {
            Ok(Ok(reply)) => Ok(reply),
            Ok(Err(_)) => Err(NoReply::Broken),
            Err(_) => Err(NoReply::Timeout),
        }
    }
}

async fn write_requests<W: AsyncWrite + Unpin>(
    mut queue: mpsc::Receiver<Request>,
    mut outgoing: Outgoing<W, Request>,
    shared: Arc<Shared>,
) {
    let mut batch = Vec::new();
    while queue.recv_many(&mut batch, QUEUE).await > 0 {
        for request in batch.drain(..) {
            if outgoing.feed(request).await.is_err() {
                return shared.close();
            }
        }
        if outgoing.flush().await.is_err() {
            return shared.close();
        }
    }
    // Every clone of the connection is gone: the reader sees the node close its side.
    let _ = outgoing.close().await;
}

async fn read_replies<R: AsyncRead + Unpin>(mut incoming: Incoming<R, Reply>, shared: Arc<Shared>) {
    while let Some(Ok(reply)) = incoming.next().await {
        *shared.clock() = NodeClock::heard(reply.sent);
        let asker = shared.waiting().replies.remove(&reply.id);
        if let Some(asker) = asker {
            // Whoever asked may have given up.
            let _ = asker.send(reply);
        }
    }
    shared.close();
}

impl NodeClock {
    #[expect(clippy::disallowed_methods, reason = "the client is a rim: it reads the clock")]
    fn heard(sent: u64) -> Self {
        Self { sent, received: Instant::now() }
    }

    /// `deadline` in the node's time, a little earlier. Never later than it: what the node said was said before we
    /// heard it.
    #[expect(clippy::disallowed_methods, reason = "the client is a rim: it reads the clock")]
    fn at(self, deadline: Instant) -> u64 {
        let left = deadline.saturating_duration_since(Instant::now());
        let margin = (left / 10).min(REPLY_MARGIN_MAX);
        let since = deadline.saturating_duration_since(self.received).saturating_sub(margin);
        self.sent.saturating_add(u64::try_from(since.as_nanos()).unwrap_or(u64::MAX)).max(1)
    }
}

impl Shared {
    fn clock(&self) -> MutexGuard<'_, NodeClock> {
        self.clock.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn waiting(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Nothing more will come: all who wait learn it as their senders are dropped.
    fn close(&self) {
        let mut waiting = self.waiting();
        waiting.closed = true;
        waiting.replies.clear();
    }
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        self.shared.waiting().replies.remove(&self.id);
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(host) => f.write_str(host),
            Self::Unix(path) => write!(f, "{}", path.display()),
        }
    }
}
