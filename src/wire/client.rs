//! What clients and tools ask a node, and what it replies. The admin socket speaks the same.

use std::collections::BTreeMap;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::cluster::LayoutTag;
use crate::cluster::recover::Knowledge;
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
    /// Merge a state from elsewhere.
    Merge(Merge),
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
    /// The keys that this node coordinates most for.
    HotKeys,
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
    /// Remember what nodes are called that are no members here, and whose versions come: replied to with the layout.
    KeepNames(BTreeMap<NodeId, String>),
    /// Do something with snapshots of this node's store.
    Snapshot(SnapshotRequest),
    /// Propose the next layout.
    Propose {
        /// The version it was planned against.
        expect: u64,
        /// What to change.
        change: Change,
    },
    /// A step of a recovery after the loss of a majority.
    Recover(Recover),
}

/// A step of a recovery.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum Recover {
    /// What this node knows.
    Tell,
    /// Accept this layout, and do nothing more for the generation before.
    Accept(Box<Layout>),
    /// All survivors accepted the layout of this tag: act on it.
    Begin(LayoutTag),
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

/// Have a key's owners merge a state from elsewhere, by its dots: an exact import, a restore. Doing it again changes
/// nothing.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Merge {
    /// The key.
    pub key: Bytes,
    /// Its state, at least one version.
    pub state: Siblings,
    /// Durable acknowledgements to wait for; the layout's w where none is named.
    pub w: Option<Level>,
    /// Whom to count; the layout's mode where none is named.
    pub consistency: Option<Consistency>,
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

/// What to do with snapshots. What takes long is begun, and asked about with [`SnapshotRequest::Progress`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum SnapshotRequest {
    /// Forget no delete for a while: every node that has a part in a snapshot is told so before the first part is made, or
    /// what one part still has another would not know to be deleted.
    Hold,
    /// Make this node's part, if it was told to hold. One that was made of the same name and id is found again.
    Create {
        /// The snapshot's name.
        name: String,
        /// What all nodes' parts share.
        id: u64,
        /// The layout version that it shall be of.
        layout: u64,
    },
    /// Read a part again and hold it against its checksums.
    Verify {
        /// The snapshot's name.
        name: String,
    },
    /// Take a part away, or what is left of one.
    Remove {
        /// The snapshot's name.
        name: String,
    },
    /// How far the last of these with this name is.
    Progress {
        /// The snapshot's name.
        name: String,
    },
    /// All that there are.
    List,
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
    /// To `Put` and `Merge`.
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
    /// To `HotKeys`.
    HotKeys(HotKeysReply),
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
    /// To `Snapshot`.
    Snapshot(SnapshotReply),
    /// To `Recover`: what this node knows once the step is done, durably.
    Recovery(Box<Knowledge>),
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
    /// The write's name; `None` for a retry that was found done, and for a merge.
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
    /// Names of nodes that are no members, as far as the node was told.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub former: BTreeMap<NodeId, String>,
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
    /// How far the change of the layout is that runs.
    #[serde(default)]
    pub change: Option<Changing>,
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
    /// How long this node's coordinated gets took since the start, those that failed too.
    #[serde(default)]
    pub get_durations: Durations,
    /// The same of puts and deletes.
    #[serde(default)]
    pub put_durations: Durations,
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
    /// What it had to do lately.
    #[serde(default)]
    pub load: Load,
}

/// How many buckets [`Durations`] has.
pub const DURATION_BUCKETS: usize = 20;

/// Requests by how long they took. Empty from a node that does not tell.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Durations {
    /// How many took at most [`Durations::bound`] of their place and more than that of the place before; the last one has
    /// no bound.
    pub counts: Vec<u64>,
    /// Microseconds that all of them took together.
    pub sum: u64,
}

impl Durations {
    /// The longest duration of the bucket at this place, in microseconds: 64, 128, 256, … 16.8 s.
    pub const fn bound(bucket: usize) -> u64 {
        64 << bucket
    }
}

/// What a node had to do lately. All zero from a node that does not tell.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Load {
    /// Microseconds that the rest speaks of.
    pub window: u64,
    /// Gets that it began to coordinate.
    pub gets: u64,
    /// Puts and deletes that it began to coordinate.
    pub puts: u64,
    /// Microseconds of processor time that its process used.
    pub cpu: u64,
}

/// The keys that a node coordinates most for.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct HotKeysReply {
    /// Microseconds that the counts speak of.
    pub window: u64,
    /// All gets that it began to coordinate.
    pub gets: u64,
    /// All puts and deletes.
    pub puts: u64,
    /// Most operations that any key not named may have had.
    pub unseen_max: u64,
    /// In no order that says anything; some may have had next to nothing.
    pub keys: Vec<HotKey>,
}

/// What one key was asked for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HotKey {
    /// Its first bytes: all of them, unless `key_bytes` says more.
    pub key: Bytes,
    /// How many it has.
    pub key_bytes: u32,
    /// Its token's point on the ring.
    pub token: u64,
    /// Gets that were counted.
    pub gets: u64,
    /// Puts and deletes that were counted.
    pub puts: u64,
    /// How many more there may have been.
    pub error: u64,
}

/// A change of the layout that runs, as gossip tells of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Changing {
    /// Microseconds since the speaker took it, or started while it ran.
    pub since: u64,
    /// Members that gain something.
    pub gainers: u32,
    /// How many of those have all of it.
    pub ready: u32,
}

/// How far a node is with the data that a change of the layout moves.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Moving {
    /// Partitions that it gains by the change that runs.
    pub gains: u32,
    /// How many of those are copied.
    pub gained: u32,
    /// The slots of those that it gains.
    #[serde(default)]
    pub slots: u32,
    /// How many of those are copied, about.
    #[serde(default)]
    pub slots_gained: u32,
    /// Keys copied since this node took the change, or started while it ran.
    #[serde(default)]
    pub keys: u64,
    /// The same in bytes of keys and states.
    pub bytes: u64,
    /// Bytes copied a second, lately.
    #[serde(default)]
    pub rate: u64,
    /// Microseconds until all is copied, at the pace of late; `None` where nothing came lately.
    #[serde(default)]
    pub left: Option<u64>,
    /// Slots of others that hold something, or that were not looked through yet. 0 once it holds nothing of others.
    pub left_over: u32,
    /// Slots of others that were found to hold something.
    #[serde(default)]
    pub left_over_found: u32,
    /// Microseconds until nothing is left over, at the pace of late; `None` where nothing went lately.
    #[serde(default)]
    pub left_over_left: Option<u64>,
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

/// What a node says of its snapshots.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum SnapshotReply {
    /// To `Hold`: no delete is forgotten for so many microseconds.
    Held {
        /// How long.
        micros: u64,
    },
    /// It is being done.
    Working {
        /// Bytes read.
        done: u64,
        /// Of so many; 0 while that is not known.
        total: u64,
    },
    /// It is done; the part, where there is one now.
    Done(Option<SnapshotPart>),
    /// It was not done.
    Failed(SnapshotFailure),
    /// To `Progress`: nothing of the kind was begun since this node started.
    Unknown,
    /// To `List`, by name.
    List(Vec<SnapshotPart>),
}

/// A node's part in a snapshot.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SnapshotPart {
    /// The snapshot's name.
    pub name: String,
    /// What it is, or why it is none.
    pub state: Result<SnapshotFacts, SnapshotFlaw>,
}

/// What is known of a whole part.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SnapshotFacts {
    /// What all nodes' parts share.
    pub id: String,
    /// When it was begun here, RFC 3339.
    pub created: String,
    /// The layout version that it is of.
    pub layout: u64,
    /// Keys, an estimate.
    pub keys: u64,
    /// Bytes of its files.
    pub bytes: u64,
}

/// Why a part does not count.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SnapshotFlaw {
    /// It was interrupted as it was made or removed.
    Incomplete,
    /// Its note is not what was written.
    Damaged(String),
}

/// Why something was not done with a snapshot.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SnapshotFailure {
    /// For programs.
    pub code: SnapshotFailureCode,
    /// For people.
    pub message: String,
    /// Damaged files, and what is wrong with each.
    #[serde(default)]
    pub files: Vec<(String, String)>,
}

/// Kinds of failures; the exit codes of UI §1 follow from them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SnapshotFailureCode {
    /// Another one has this name: 73.
    Exists,
    /// There is none of this name: 66.
    Missing,
    /// It is not whole: 1.
    Incomplete,
    /// Files are damaged: 65.
    Damaged,
    /// The layout moved on meanwhile: 75.
    Layout,
    /// The disk is full: 74.
    DiskFull,
    /// The disk failed: 74.
    Io,
    /// The node stopped in the middle: 75.
    GivenUp,
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
