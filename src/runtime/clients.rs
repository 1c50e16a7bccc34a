//! Client connections: requests in, replies out, both in batches.
//!
//! A connection has two tasks. The reader hands over every request that has arrived and stops at the limit of requests
//! in flight, and for a while when the disk is behind: then TCP holds the client back. The writer sends every reply that waits with one write.

use std::cell::{Cell, RefCell};
use std::io;
use std::rc::Rc;
use std::time::Duration;

use futures_util::{FutureExt, SinkExt, StreamExt};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::Notify;

use crate::node::{Caller, Event};
use crate::wire::client::{ErrorCode, ErrorReply, Reply, ReplyBody, Request};
use crate::wire::frame::{self, Frames, Incoming};

use super::hub::Hub;

/// Requests that one connection may have in flight; more are not read.
const IN_FLIGHT_MAX: usize = 1_024;
/// A client that takes none of its replies for so long is cut off.
const WRITE_STALL: Duration = Duration::from_secs(30);

/// Replies on their way to one connection.
#[derive(Debug, Default)]
pub(super) struct Replies {
    waiting: RefCell<Vec<Reply>>,
    in_flight: Cell<usize>,
    is_closed: Cell<bool>,
    /// For the writer: replies wait, or the end.
    news: Notify,
    /// For the reader: there is room again.
    room: Notify,
    /// The end.
    ended: Notify,
}

impl Replies {
    pub(super) fn push(&self, reply: Reply) {
        self.waiting.borrow_mut().push(reply);
        self.news.notify_one();
    }

    pub(super) fn close(&self) {
        self.is_closed.set(true);
        self.news.notify_one();
        self.ended.notify_one();
    }

    /// So many requests are done with.
    pub(super) fn left(&self, replies: usize) {
        self.in_flight.set(self.in_flight.get().saturating_sub(replies));
        self.room.notify_one();
    }
}

/// Serves a client behind its handshake until either side has had enough.
pub(super) async fn serve<R, W>(hub: Rc<Hub>, frames: Frames<R>, writer: W)
where
    R: AsyncRead + Unpin + 'static,
    W: AsyncWrite + Unpin + 'static,
{
    let replies = Rc::new(Replies::default());
    let caller = hub.enter(Rc::clone(&replies));
    let writing = tokio::task::spawn_local(write_replies(
        Rc::clone(&replies),
        frame::outgoing(writer, hub.frame_bytes_max),
    ));
    let incoming = frame::incoming(frames, hub.frame_bytes_max);
    let read = tokio::select! {
        read = read_requests(&hub, caller, &replies, incoming) => read,
        () = closed(&replies) => Ok(()),
    };
    if let Err(error) = read
        && error.kind() == io::ErrorKind::InvalidData
    {
        tracing::warn!(caller = caller.0, "closing a client connection: {error}");
        replies.push(refusal(&error));
    }
    replies.close();
    // The writer sends what waits, then ends.
    let _ = writing.await;
    hub.leave(caller);
}

/// A reply for bytes that cannot be answered by number.
fn refusal(error: &io::Error) -> Reply {
    let error = ErrorReply {
        code: ErrorCode::Usage,
        message: format!("{error}: the connection is closed"),
        needed: 0,
        acked: Vec::new(),
        failed: Vec::new(),
        outcome: None,
        retry: false,
    };
    Reply { id: 0, sent: super::clock::now().monotonic, layout: 0, body: ReplyBody::Error(error) }
}

async fn closed(replies: &Replies) {
    while !replies.is_closed.get() {
        replies.ended.notified().await;
    }
}

async fn read_requests<R: AsyncRead + Unpin>(
    hub: &Hub,
    caller: Caller,
    replies: &Replies,
    mut incoming: Incoming<R, Request>,
) -> io::Result<()> {
    loop {
        hub.released().await;
        let Some(request) = incoming.next().await else { return Ok(()) };
        hub.post(Event::Client { caller, request: request? });
        let mut arrived = 1;
        // Whatever else is there already comes along, without another turn of the loop.
        while replies.in_flight.get() + arrived < IN_FLIGHT_MAX {
            match incoming.next().now_or_never() {
                Some(Some(request)) => {
                    hub.post(Event::Client { caller, request: request? });
                    arrived += 1;
                }
                Some(None) => return Ok(()),
                None => break,
            }
        }
        replies.in_flight.set(replies.in_flight.get() + arrived);
        while replies.in_flight.get() >= IN_FLIGHT_MAX {
            replies.room.notified().await;
        }
    }
}

async fn write_replies<W: AsyncWrite + Unpin>(
    replies: Rc<Replies>,
    mut outgoing: frame::Outgoing<W, Reply>,
) {
    loop {
        let batch = replies.waiting.take();
        if batch.is_empty() {
            if replies.is_closed.get() {
                let _ = tokio::time::timeout(WRITE_STALL, outgoing.close()).await;
                return;
            }
            replies.news.notified().await;
            continue;
        }
        let count = batch.len();
        let sending = async {
            for reply in batch {
                outgoing.feed(reply).await?;
            }
            outgoing.flush().await
        };
        let sent = tokio::time::timeout(WRITE_STALL, sending).await;
        replies.left(count);
        if !matches!(sent, Ok(Ok(()))) {
            replies.close();
            return;
        }
    }
}
