//! What reaches a Core, and what it wants done.

use bytes::Bytes;

use crate::node_id::NodeId;
use crate::storage::{Found, KeyRange, LogPosition, ReadError, ScanSlice};
use crate::wire::client;
use crate::wire::peer::{PeerFrame, PeerMessage};

use super::config::HintLimits;
use super::snapshots::{SnapshotNews, SnapshotWork};

/// Who waits for a reply: the runtime's number for a client connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Caller(pub u64);

/// Core's number for a disk read it asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ReadToken(pub u64);

/// Core's number for a scan slice it asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ScanToken(pub u64);

/// What happened.
#[derive(Debug)]
pub enum Event {
    /// A client asks.
    Client {
        /// Who.
        caller: Caller,
        /// What.
        request: client::Request,
    },
    /// A client's connection is gone; its requests go on, their replies go nowhere.
    ClientGone(Caller),
    /// A peer's message.
    Peer {
        /// Who, as its handshake proved.
        from: NodeId,
        /// What.
        frame: PeerFrame,
    },
    /// A connection to a peer stands; `sent` is the peer's monotonic nanoseconds from its handshake.
    PeerConnected {
        /// Who.
        peer: NodeId,
        /// Its time.
        sent: u64,
    },
    /// No connection to a peer: refused, broken, or its queue is full.
    PeerUnreachable(NodeId),
    /// A handshake told where a member listens in this life: as it called, or where another one was dialled.
    Located {
        /// Who.
        peer: NodeId,
        /// In which life.
        incarnation: u64,
        /// Where.
        address: String,
    },
    /// The time asked for by [`Effect::Wake`], or any other time.
    Tick,
    /// A disk read is done.
    Read {
        /// Which.
        token: ReadToken,
        /// What it found.
        result: Result<Found, ReadError>,
    },
    /// A scan slice is done.
    Scanned {
        /// Which.
        token: ScanToken,
        /// What it found.
        result: Result<ScanSlice, ReadError>,
    },
    /// A mending is done: how many holes it mended, or why it could not.
    Mended {
        /// As asked for.
        keys: KeyRange,
        /// What came of it.
        result: Result<usize, String>,
    },
    /// News of work with snapshots.
    Snapshot(SnapshotNews),
    /// The log is as durable as the sync mode promises up to here.
    Durable(LogPosition),
    /// Hints have other bounds from now on.
    HintLimits(HintLimits),
    /// Stop in good order: take no new requests, finish those in flight, then [`Effect::Stopped`].
    Stop,
}

/// What shall happen.
#[derive(Debug)]
pub enum Effect {
    /// Reply to a client.
    Reply {
        /// Whom.
        caller: Caller,
        /// What.
        reply: client::Reply,
    },
    /// A request of this caller is dropped unread, past its deadline: no reply will come.
    Dropped {
        /// Whose.
        caller: Caller,
    },
    /// Send to a peer; where that cannot be, [`Event::PeerUnreachable`] follows.
    Send {
        /// Whom.
        to: NodeId,
        /// What.
        message: PeerMessage,
    },
    /// `Store::get(key)` on a disk thread, then [`Event::Read`].
    Read {
        /// Its number.
        token: ReadToken,
        /// The storage key.
        key: Bytes,
    },
    /// `Store::scan_slice` on a disk thread, then [`Event::Scanned`].
    Scan {
        /// Its number.
        token: ScanToken,
        /// First storage key.
        start: Bytes,
        /// Storage key behind the last one.
        end: Option<Bytes>,
        /// Most entries.
        entries_max: usize,
        /// Most bytes, roughly.
        bytes_max: usize,
    },
    /// `Store::mend(keys)` on a disk thread, then [`Event::Mended`].
    Mend(KeyRange),
    /// `do_snapshot_work` on a thread that may wait long for the disk, then [`Event::Snapshot`].
    Snapshot(SnapshotWork),
    /// [`Event::Tick`] at these monotonic nanoseconds (the earliest asked for counts).
    Wake(u64),
    /// Dial these peers (id and address), and no others; the runtime keeps trying.
    Peers(Vec<(NodeId, String)>),
    /// Dial whoever listens at a seed's address, once, and send it this; its handshake says who it is. May be lost.
    Introduce {
        /// Where.
        address: String,
        /// What.
        message: PeerMessage,
    },
    /// This process stood still for longer than any deadline (a suspended machine, a stopped process): close every
    /// client connection, so that no request that waited in a socket buffer is taken for a fresh one.
    CloseClients,
    /// Something an operator should read.
    Log(Severity, String),
    /// Everything in flight is finished after [`Event::Stop`], and the clean mark is durable.
    Stopped,
    /// This node gave all it held away and is no member any more: it ends in good order.
    Departed,
    /// This node was removed: it ends, and its directory is of no more use.
    Removed,
    /// The disk lacks what this node once told others that it holds: nothing is done with it any more. Everything is to
    /// be set aside, and the node begins again as one that lost its disk. Why.
    RolledBack(String),
    /// Our own promise is broken or the disk failed: end the process with this message and exit code.
    Fatal(String),
}

/// How loud a log line is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Severity {
    /// For those who follow along.
    Info,
    /// Something is off, and the node copes.
    Warn,
    /// Someone should look.
    Error,
}
