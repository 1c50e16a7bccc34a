//! What clients and tools ask a node, and what it replies. The admin socket speaks the same.

use std::collections::BTreeMap;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::cluster::staged::Staged;
use crate::node_id::{ClusterId, NodeId};
use crate::replication::{Consistency, Guarantee, Level, RangeEntry};
use crate::ring::{Layout, Mode, Partition, Ring, Slot};
use crate::version::{Actor, Dot, RequestId, Siblings, VectorClock};

/// A request. Many may be in flight on a connection; replies come in any order.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Request {
    /// The connection's number for it.
    pub id: u64,
    /// The node's monotonic nanoseconds after which it is dropped unread; 0: the node's own timeout from now.
    pub deadline: u64,
    /// What is asked.
    pub body: RequestBody,
}

/// What can be asked.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum RequestBody {
    /// Read a key.
    Get(Get),
    /// Write or delete a key.
    Put(Put),
    /// Each owner's state of a key, side by side.
    Inspect {
        /// The key.
        key: Bytes,
    },
    /// A stretch of a partition, merged from R owners; owners that lack something are repaired.
    Scan(Scan),
    /// The layout and where its members are.
    Layout,
    /// This node's view of the cluster.
    View,
    /// This node's own figures.
    Info,
    /// For each partition 64 bits over its slots' leaves at this node; equal data, equal bits.
    Leaves,
    /// Compare with every other replica now, and settle what differs; replied to at once.
    RepairStart,
    /// How far this node's repairs are.
    RepairStatus,
    /// What the unsound slots from the first to the last still lack here is lost; they answer again.
    AcceptLoss {
        /// The first.
        first: Slot,
        /// The last.
        last: Slot,
    },
    /// Keep this as a part of the next plan.
    Stage(StagedAt),
    /// What is staged at this node.
    Staged,
    /// Forget all that is staged at this node.
    Unstage,
    /// Propose the next layout.
    Propose {
        /// The version it was planned against.
        expect: u64,
        /// What to change.
        change: Change,
    },
}

/// Read a key.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Get {
    /// The key.
    pub key: Bytes,
    /// How many owners must answer; the layout's r where none is named.
    pub r: Option<Level>,
    /// Whom to count; the layout's mode where none is named.
    pub consistency: Option<Consistency>,
}

/// Write or delete a key.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Put {
    /// The key.
    pub key: Bytes,
    /// The value; `None` deletes.
    pub value: Option<Bytes>,
    /// What it replaces.
    pub basis: PutBasis,
    /// Durable acknowledgements to wait for; the layout's w where none is named.
    pub w: Option<Level>,
    /// Owners a put without a context asks at least; where none is named the layout's r, or w if that is named and less.
    pub r: Option<Level>,
    /// Whom to count; the layout's mode where none is named.
    pub consistency: Option<Consistency>,
    /// The client's name for this put; a retry carries the same.
    pub request: RequestId,
    /// Microseconds since the client first sent it, on a retry; 0 on the first try.
    pub age: u64,
}

/// What a put replaces.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum PutBasis {
    /// What is there (a put without a context).
    Present,
    /// Exactly what this read saw; what was written since stays a sibling.
    Context(VectorClock),
    /// As `Context`, but refused with [`ErrorCode::StaleContext`] when the coordinator's quorum holds more.
    IfContext(VectorClock),
    /// Nothing.
    Blind,
}

/// A stretch of one partition.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Scan {
    /// The partition, by the layout whose version the client names.
    pub partition: Partition,
    /// The client's layout version; another one at the node is answered with [`ErrorCode::WrongLayout`].
    pub layout: u64,
    /// Continue behind this slot and key.
    pub after: Option<(Slot, Bytes)>,
    /// Only keys that start so.
    pub prefix: Bytes,
    /// Owners to merge; the layout's r where none is named.
    pub r: Option<Level>,
    /// Rough limit of the reply in bytes.
    pub bytes_max: u32,
}

/// A staged change.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StagedAt {
    /// The layout version that it was staged against: it is forgotten with that.
    pub layout: u64,
    /// When it was staged, by the clock of who did it, microseconds since 1970: the last word about a subject counts.
    pub stamp: u64,
    /// Whether an operator wants it; else it is a node's own wish to join.
    pub is_wanted: bool,
    /// What.
    pub change: Staged,
}

/// A change of the layout.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum Change {
    /// Give a member another name.
    Rename {
        /// Its name today.
        from: String,
        /// Its new name.
        to: String,
    },
    /// Set the default mode.
    Mode(Mode),
    /// Go over to this ring.
    To(Box<Ring>),
    /// Give up the change that runs.
    Abort,
}

/// A reply.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Reply {
    /// The request's number.
    pub id: u64,
    /// The node's monotonic nanoseconds as it wrote this.
    pub sent: u64,
    /// The node's layout version: a client with a lower one asks for the layout.
    pub layout: u64,
    /// What happened.
    pub body: ReplyBody,
}

/// What can be replied.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum ReplyBody {
    /// To `Get`.
    Got(Got),
    /// To `Put`.
    Done(Done),
    /// To `Inspect`: in preference order.
    Inspected(Vec<Inspected>),
    /// To `Scan`.
    Scanned(Scanned),
    /// To `Layout`.
    Layout(LayoutReply),
    /// To `View`.
    View(View),
    /// To `Info`.
    Info(Box<Info>),
    /// To `Leaves`: one number a partition.
    Leaves(Vec<u64>),
    /// To `RepairStart` and `RepairStatus`.
    Repair(RepairReply),
    /// To `Stage`, `Staged` and `Unstage`: what is staged there now.
    Staged(Vec<StagedAt>),
    /// To `Propose`: the version that was chosen.
    Chosen {
        /// The new version.
        version: u64,
    },
    /// Not done, or not known to be done.
    Error(ErrorReply),
}

/// A read that met its quorum.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Got {
    /// The merged state; empty when the key was never written.
    pub state: Siblings,
    /// Owners that answered.
    pub answered: Vec<NodeId>,
    /// How many answered that they hold no value.
    pub absent: u8,
    /// How many had to answer.
    pub needed: u8,
    /// Owners found stale, which are being repaired.
    pub stale: Vec<NodeId>,
    /// (owner, stand-in) pairs that took part.
    pub stand_ins: Vec<(NodeId, NodeId)>,
    /// What this answer promises.
    pub guarantee: Guarantee,
    /// Who coordinated.
    pub coordinator: NodeId,
    /// Microseconds it took there.
    pub micros: u64,
}

/// A write that met its quorum.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Done {
    /// The write's name; `None` for a retry that was found done.
    pub dot: Option<Dot>,
    /// The state's clock after it: the context of what was written.
    pub clock: VectorClock,
    /// How many siblings stand now.
    pub siblings: u32,
    /// Owners that hold it durably.
    pub acked: Vec<NodeId>,
    /// How many had to.
    pub needed: u8,
    /// (owner, stand-in) pairs that took part.
    pub stand_ins: Vec<(NodeId, NodeId)>,
    /// What this write promises.
    pub guarantee: Guarantee,
    /// Who coordinated.
    pub coordinator: NodeId,
    /// Microseconds it took there.
    pub micros: u64,
}

/// One owner's word in `Inspect`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Inspected {
    /// The owner.
    pub node: NodeId,
    /// Its state, or why there is none.
    pub state: Result<Siblings, String>,
}

/// A stretch of a partition.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Scanned {
    /// In (slot, key) order; keys without a value included.
    pub entries: Vec<RangeEntry>,
    /// Whether the partition ends here.
    pub complete: bool,
    /// Owners merged.
    pub answered: Vec<NodeId>,
    /// Keys for which an owner lacked something and is being repaired.
    pub repaired: u32,
}

/// The layout and where its members are.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct LayoutReply {
    /// The cluster.
    pub cluster: ClusterId,
    /// Its name.
    pub cluster_name: String,
    /// The layout in force.
    pub layout: Layout,
    /// Each member's client address, where known.
    pub clients: BTreeMap<NodeId, String>,
    /// Longest key and value together, bytes.
    pub pair_max: u32,
}

/// A node's view of the cluster.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct View {
    /// Who speaks.
    pub node: NodeId,
    /// The cluster.
    pub cluster: ClusterId,
    /// Its name.
    pub cluster_name: String,
    /// The layout in force.
    pub layout: Layout,
    /// All members, in the layout's order; those that a change that runs adds come last.
    pub members: Vec<MemberView>,
    /// What an operator should know.
    pub alarms: Vec<String>,
}

/// One member as another sees it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct MemberView {
    /// Who.
    pub node: NodeId,
    /// Its health here.
    pub health: MemberHealth,
    /// Whether a connection to it stands (of the speaker to itself: true).
    pub reachable: bool,
    /// Microseconds since the health changed.
    pub since: u64,
    /// Its incarnation.
    pub incarnation: u64,
    /// Its layout version as gossiped.
    pub layout: u64,
    /// Where peers reach it.
    pub peer: String,
    /// Where clients reach it.
    pub client: String,
    /// Where HTTP is served.
    pub http: String,
}

/// A member's health in a view.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum MemberHealth {
    /// Never heard of since this node's start.
    Unknown,
    /// Its heartbeat rises.
    Up,
    /// This node misses its heartbeat.
    Suspected,
    /// Two reporters agree.
    Down,
}

/// A node's own figures.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Info {
    /// Who speaks.
    pub node: NodeId,
    /// Its name.
    pub name: String,
    /// Program version.
    pub version: String,
    /// Microseconds since it started.
    pub uptime: u64,
    /// `always`, `interval=10ms`, `never`.
    pub sync: String,
    /// Keys held (an estimate once tables overlap).
    pub keys: u64,
    /// Bytes of data on disk.
    pub data: u64,
    /// Hints held for others.
    pub hints: u64,
    /// For whom, and how many for each.
    #[serde(default)]
    pub hints_for: BTreeMap<NodeId, u64>,
    /// Bytes free and total where the data lies.
    pub disk: (u64, u64),
    /// 99th percentile of this node's coordinated gets, microseconds, recent; `None` without any.
    pub get_p99: Option<u64>,
    /// The same of puts.
    pub put_p99: Option<u64>,
    /// Counters by name (`gets`, `puts`, `merges`, `read_repairs`, `log_syncs`, …), since the start.
    pub counters: BTreeMap<String, u64>,
    /// The epoch this node mints under.
    pub epoch: u32,
    /// The same in full: who mints here now. `None` from a node that does not tell.
    #[serde(default)]
    pub actor: Option<Actor>,
    /// Whether that is settled: until a majority recorded this start, the first write begins another epoch.
    #[serde(default)]
    pub is_settled: bool,
    /// How far this node is with data that moves.
    #[serde(default)]
    pub moving: Moving,
}

/// How far a node is with the data that a change of the layout moves.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Moving {
    /// Partitions that it gains by the change that runs.
    pub gains: u32,
    /// Of those so many are there.
    pub gained: u32,
    /// Bytes that came so far.
    pub bytes: u64,
    /// Partitions that are another's by the layout, and of which it may still hold data.
    pub left_over: u32,
}

/// How far a node's repairs are.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct RepairReply {
    /// Each member with which it shares slots.
    pub pairs: Vec<RepairPair>,
    /// Slots whose data may be incomplete here, and which other owners give back.
    #[serde(default)]
    pub unsound: u32,
}

/// The comparison of two replicas, as one of them sees it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct RepairPair {
    /// The other one.
    pub peer: NodeId,
    /// Slots that both own.
    pub shared: u32,
    /// Slots known to differ and not settled yet.
    pub left: u64,
    /// Whether a comparison runs.
    pub is_running: bool,
    /// Microseconds since a comparison that began here found both equal.
    pub equal: Option<u64>,
}

/// Why a request failed.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ErrorReply {
    /// For programs.
    pub code: ErrorCode,
    /// For people.
    pub message: String,
    /// Replicas needed, where a quorum was.
    pub needed: u8,
    /// Owners that answered or acknowledged.
    pub acked: Vec<NodeId>,
    /// Owners that did not, and why.
    pub failed: Vec<Failed>,
    /// What became of a write; `None` for reads.
    pub outcome: Option<Outcome>,
    /// Whether the same request may succeed later.
    pub retry: bool,
}

/// A replica that did not answer.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Failed {
    /// Which.
    pub node: NodeId,
    /// `down`, `unreachable`, `timeout`, `corrupt`, …
    pub why: String,
}

/// What became of a write that was not acknowledged.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// Nothing was written anywhere.
    NotApplied,
    /// It may be written, now or later.
    Unknown,
}

/// Kinds of errors; the exit codes of UI §1 follow from them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ErrorCode {
    /// The request itself is wrong (W > N, an empty key): exit 2.
    Usage,
    /// Key and value are larger than a pair may be: 65.
    TooLarge,
    /// `IfContext`, `Propose`: something else is there by now: 3.
    StaleContext,
    /// Too few replicas, or too late: 75.
    QuorumUnmet,
    /// Too much in flight: 75.
    Overloaded,
    /// The write would leave more than 100 siblings: 75.
    TooManySiblings,
    /// The range is corrupt here and not yet repaired: 75.
    Corrupt,
    /// The layout moved on; ask for it and try again: 75.
    WrongLayout,
    /// The node starts or stops: 75.
    NotReady,
    /// No space for writes: 74.
    DiskFull,
    /// This build does not do that: 2.
    Unsupported,
    /// A bug: 70.
    Internal,
}
