//! What a run will be, drawn whole from its seed before anything happens.
//!
//! Each fault carries all that it does and how long, so that any of them can be left out and the others stay what they
//! are: a failing run is thinned by leaving out faults and clients (`shrink`). Which kinds of faults a run has at all is
//! drawn too ("swarm"): a run with every kind at a middling rate finds less than one with few kinds at high rates.

use std::collections::BTreeSet;
use std::time::Duration;

use kvkit::ring::Mode;
use kvkit::storage::vfs::simulated::{self, Unsynced};
use rand::seq::{IndexedRandom, IteratorRandom};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

use crate::network::{Node, Weather};
use crate::world::Shape;

/// How long clients work: a run of five minutes, or a denser one.
const SPANS: [Duration; 5] = [
    Duration::from_secs(15),
    Duration::from_secs(30),
    Duration::from_mins(1),
    Duration::from_mins(2),
    Duration::from_mins(5),
];
/// Operations of a run, all clients together.
const OPERATIONS: std::ops::RangeInclusive<u32> = 300..=3_000;
/// Faults of a run.
const FAULTS: std::ops::RangeInclusive<usize> = 5..=40;
/// The run that the simulator's cost is told of.
const STANDARD_OPERATIONS: u32 = 3_000;
const STANDARD_FAULTS: usize = 20;
const STANDARD_NODES: usize = 5;
/// Partitions: few, so that every one has keys.
const PARTITIONS: u32 = 32;
/// A block cache that holds what was read just before, where there is one.
const CACHE_BYTES: u64 = 64 << 10;
/// The shortest and the longest pause, outage, cut.
const BRIEF: Duration = Duration::from_millis(50);
const LONG: Duration = Duration::from_secs(90);
/// Shares of members, in thousandths, that changes lead to: next to none, the usual one, more.
const RESHAPED: [u32; 4] = [1, 1_000, 2_000, 4_000];
/// A year, for clocks that are off.
pub const YEAR: i64 = 365 * 24 * 3_600 * 1_000_000;

/// A run, before it happens.
#[derive(Clone, Debug)]
pub struct Plan {
    pub seed: u64,
    pub shape: Shape,
    pub weather: Weather,
    pub disks: Disks,
    /// By how much each wall clock is off, microseconds.
    pub skews: Vec<i64>,
    /// Bytes of hints that a node keeps.
    pub hints_bytes_max: u64,
    pub work: Duration,
    pub clients: Vec<ClientPlan>,
    /// Keys of each kind.
    pub keys: usize,
    /// Share of requests that are sloppy, on keys that are for both.
    pub sloppy: f64,
    pub faults: Vec<Planned>,
    /// A part of the cluster that is cut off at the end, while the other part must go on; nobody in most runs.
    pub minority: BTreeSet<Node>,
}

/// How the machines' disks are.
#[derive(Clone, Copy, Debug)]
pub struct Disks {
    /// Longest usual time of a read, a sync, a job.
    pub delay: Duration,
    pub memtable_bytes: usize,
    pub log_segment_bytes: u64,
    pub cache_bytes: u64,
}

/// One client.
#[derive(Clone, Copy, Debug)]
pub struct ClientPlan {
    pub number: u64,
    pub seed: u64,
    /// Longest pause between two operations.
    pub think: Duration,
}

/// A fault and when it begins.
#[derive(Clone, Debug)]
pub struct Planned {
    pub at: Duration,
    pub fault: Fault,
}

/// What goes wrong; a span says for how long.
#[derive(Clone, Debug)]
pub enum Fault {
    /// Frames of one direction vanish.
    CutOneWay { from: Node, to: Node, span: Duration },
    /// These nodes hear nobody else and nobody hears them.
    Partition { side: BTreeSet<Node>, span: Duration },
    /// A link goes and comes, so many times, each state for this long.
    Flap { a: Node, b: Node, times: u32, each: Duration },
    /// A connection breaks.
    Disconnect { a: Node, b: Node },
    /// The network is worse for a while.
    Storm { weather: Weather, span: Duration },
    /// A process is killed, or its machine loses power.
    Kill { node: Node, unsynced: Unsynced, span: Duration },
    /// A process is asked to end.
    Stop { node: Node, span: Duration },
    /// The disk breaks at a call from now on, and its machine with it.
    BreakDisk { node: Node, calls: u64, span: Duration },
    /// A process stands still (SIGSTOP).
    Pause { node: Node, span: Duration },
    /// Each sync of a log takes this long.
    SlowSync { node: Node, delay: Duration, span: Duration },
    /// Everything to and from a node, and its disk, takes up to so much longer.
    SlowNode { node: Node, delay: Duration, span: Duration },
    /// A wall clock jumps.
    ClockJump { node: Node, micros: i64 },
    /// The disk has so many bytes left.
    FullDisk { node: Node, left: u64, span: Duration },
    /// Some calls of the disk fail, from so many calls on: a spell of `EIO` or `ENOSPC`.
    FailedCalls { node: Node, first: u64, calls: u64, with: simulated::Fault },
    /// A sync fails: what it should have made durable is gone.
    FailedSync { node: Node, syncs: u64 },
    /// A bit of a table flips.
    Rot { node: Node, table: u64, place: u64 },
    /// The disk is empty from now on; the machine is down for the span.
    Wipe { node: Node, span: Duration },
    /// The disk is put back as it was, so long after; the machine is down for the span.
    RollBack { node: Node, after: Duration, span: Duration },
    /// A client asks for another layout.
    Propose { node: Node, expect: u64, name: u32 },
    /// A member's share becomes another one, so that data moves; where a change runs it may be given up.
    Reshape { node: Node, member: Node, thousandths: u32, gives_up: bool },
}

/// Kinds of faults, as coverage counts them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    CutOneWay,
    Partition,
    Flap,
    Disconnect,
    Storm,
    Kill,
    PowerLossDropped,
    PowerLossTorn,
    Stop,
    BreakDisk,
    Pause,
    SlowSync,
    SlowNode,
    ClockJump,
    FullDisk,
    FailedCalls,
    FailedSync,
    Rot,
    Wipe,
    RollBack,
    Propose,
    Reshape,
}

impl Kind {
    pub const ALL: [Self; 22] = [
        Self::CutOneWay,
        Self::Partition,
        Self::Flap,
        Self::Disconnect,
        Self::Storm,
        Self::Kill,
        Self::PowerLossDropped,
        Self::PowerLossTorn,
        Self::Stop,
        Self::BreakDisk,
        Self::Pause,
        Self::SlowSync,
        Self::SlowNode,
        Self::ClockJump,
        Self::FullDisk,
        Self::FailedCalls,
        Self::FailedSync,
        Self::Rot,
        Self::Wipe,
        Self::Propose,
        Self::RollBack,
        Self::Reshape,
    ];

    /// Whether chance of its own draws it, so that what else a seed draws stays what it was.
    const fn is_drawn_apart(self) -> bool {
        matches!(self, Self::RollBack | Self::Reshape)
    }

    pub const fn name(self) -> &'static str {
        match self {
            Self::CutOneWay => "fault: one-way cut",
            Self::Partition => "fault: partition",
            Self::Flap => "fault: flapping link",
            Self::Disconnect => "fault: broken connection",
            Self::Storm => "fault: storm",
            Self::Kill => "fault: kill",
            Self::PowerLossDropped => "fault: power loss, unsynced dropped",
            Self::PowerLossTorn => "fault: power loss, unsynced torn",
            Self::Stop => "fault: clean stop",
            Self::BreakDisk => "fault: disk and machine break at a call",
            Self::Pause => "fault: pause",
            Self::SlowSync => "fault: slow log",
            Self::SlowNode => "fault: slow node",
            Self::ClockJump => "fault: clock jump",
            Self::FullDisk => "fault: full disk",
            Self::FailedCalls => "fault: failed disk calls",
            Self::FailedSync => "fault: failed sync",
            Self::Rot => "fault: bit rot",
            Self::Wipe => "fault: wiped disk",
            Self::RollBack => "fault: rolled-back disk",
            Self::Propose => "fault: change of the layout",
            Self::Reshape => "fault: change that moves data",
        }
    }
}

impl Fault {
    pub const fn kind(&self) -> Kind {
        match self {
            Self::CutOneWay { .. } => Kind::CutOneWay,
            Self::Partition { .. } => Kind::Partition,
            Self::Flap { .. } => Kind::Flap,
            Self::Disconnect { .. } => Kind::Disconnect,
            Self::Storm { .. } => Kind::Storm,
            Self::Kill { unsynced: Unsynced::Kept, .. } => Kind::Kill,
            Self::Kill { unsynced: Unsynced::Dropped, .. } => Kind::PowerLossDropped,
            Self::Kill { unsynced: Unsynced::Torn, .. } => Kind::PowerLossTorn,
            Self::Stop { .. } => Kind::Stop,
            Self::BreakDisk { .. } => Kind::BreakDisk,
            Self::Pause { .. } => Kind::Pause,
            Self::SlowSync { .. } => Kind::SlowSync,
            Self::SlowNode { .. } => Kind::SlowNode,
            Self::ClockJump { .. } => Kind::ClockJump,
            Self::FullDisk { .. } => Kind::FullDisk,
            Self::FailedCalls { .. } => Kind::FailedCalls,
            Self::FailedSync { .. } => Kind::FailedSync,
            Self::Rot { .. } => Kind::Rot,
            Self::Wipe { .. } => Kind::Wipe,
            Self::RollBack { .. } => Kind::RollBack,
            Self::Propose { .. } => Kind::Propose,
            Self::Reshape { .. } => Kind::Reshape,
        }
    }
}

impl Plan {
    /// The run of a seed.
    pub fn of(seed: u64) -> Self {
        let mut rng = ChaCha8Rng::seed_from_u64(!seed);
        let nodes = *[3, 3, 4, 5, 5, 5, 6, 7, 8, 9].choose(&mut rng).expect("some");
        let work = *SPANS.choose(&mut rng).expect("some");
        let operations = rng.random_range(OPERATIONS);
        let faults = rng.random_range(FAULTS);
        Self::draw(seed, nodes, work, operations, faults, &mut rng)
    }

    /// The run that costs are told of: five nodes, five minutes, 3,000 operations, 20 faults.
    pub fn standard(seed: u64) -> Self {
        let mut rng = ChaCha8Rng::seed_from_u64(!seed);
        let work = SPANS[SPANS.len() - 1];
        Self::draw(seed, STANDARD_NODES, work, STANDARD_OPERATIONS, STANDARD_FAULTS, &mut rng)
    }

    fn draw(
        seed: u64,
        nodes: usize,
        work: Duration,
        operations: u32,
        faults: usize,
        rng: &mut ChaCha8Rng,
    ) -> Self {
        let shape = draw_shape(nodes, rng);
        let weather = draw_weather(rng);
        let disks = Disks {
            delay: Duration::from_millis(rng.random_range(1..10)),
            memtable_bytes: 4 << rng.random_range(10..14),
            log_segment_bytes: 8 << rng.random_range(10..13),
            cache_bytes: if rng.random_bool(0.5) { 0 } else { CACHE_BYTES },
        };
        let years = if rng.random_bool(0.3) { 10 * YEAR } else { 3_600_000_000 };
        let skews = (0..nodes).map(|_| rng.random_range(-years..=years)).collect();
        let hints_bytes_max = if rng.random_bool(0.1) { 2 << 10 } else { 1 << 30 };
        let clients = rng.random_range(2..=8);
        // A client's mean pause is half of its longest one.
        let think = (work * 2 * clients / operations).max(Duration::from_millis(1));
        let clients = (0..u64::from(clients))
            .map(|number| ClientPlan { number, seed: rng.random(), think })
            .collect();
        let keys = rng.random_range(2..=8);
        let sloppy = if rng.random_bool(0.2) { 0.0 } else { rng.random_range(0.1..0.9) };
        let faults = draw_faults(shape, work, faults, rng);
        let minority = if rng.random_bool(0.3) {
            let count = rng.random_range(1..=(nodes - 1) / 2);
            (0..nodes).choose_multiple(rng, count).into_iter().collect()
        } else {
            BTreeSet::new()
        };
        Self {
            seed,
            shape,
            weather,
            disks,
            skews,
            hints_bytes_max,
            work,
            clients,
            keys,
            sloppy,
            faults,
            minority,
        }
    }

    /// The same run with these faults and clients alone, by their numbers.
    #[must_use]
    pub fn keeping(&self, keep: &Keep) -> Self {
        let faults = self.faults.iter().enumerate();
        let faults = faults.filter(|(number, _)| keep.faults.contains(number));
        let clients = self.clients.iter().enumerate();
        let clients = clients.filter(|(number, _)| keep.clients.contains(number));
        Self {
            faults: faults.map(|(_, fault)| fault.clone()).collect(),
            clients: clients.map(|(_, client)| *client).collect(),
            ..self.clone()
        }
    }
}

/// What is left of a plan, by number.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Keep {
    pub faults: BTreeSet<usize>,
    pub clients: BTreeSet<usize>,
}

impl Keep {
    /// All of it.
    pub fn all(plan: &Plan) -> Self {
        Self {
            faults: (0..plan.faults.len()).collect(),
            clients: (0..plan.clients.len()).collect(),
        }
    }

    pub fn len(&self) -> usize {
        self.faults.len() + self.clients.len()
    }
}

/// `3,7/0,2`: the faults, then the clients.
impl std::fmt::Display for Keep {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let list = |numbers: &BTreeSet<usize>| {
            numbers.iter().map(usize::to_string).collect::<Vec<_>>().join(",")
        };
        write!(f, "{}/{}", list(&self.faults), list(&self.clients))
    }
}

impl std::str::FromStr for Keep {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (faults, clients) = text.split_once('/').ok_or("`FAULTS/CLIENTS` is wanted")?;
        let list = |text: &str| -> Result<BTreeSet<usize>, String> {
            let numbers = text.split(',').filter(|number| !number.is_empty());
            numbers.map(|number| number.parse().map_err(|_| format!("`{number}`"))).collect()
        };
        Ok(Self { faults: list(faults)?, clients: list(clients)? })
    }
}

fn draw_shape(nodes: usize, rng: &mut ChaCha8Rng) -> Shape {
    let n = if rng.random_bool(0.7) { 3 } else { rng.random_range(1..=5.min(nodes)) };
    let (r, w) = if rng.random_bool(0.3) {
        (n / 2 + 1, n / 2 + 1)
    } else {
        (rng.random_range(1..=n), rng.random_range(1..=n))
    };
    let mode = if rng.random_bool(0.5) { Mode::Available } else { Mode::Consistent };
    let [n, r, w] = [n, r, w].map(|count| u8::try_from(count).expect("few"));
    Shape { nodes, q: PARTITIONS, n, r, w, mode }
}

/// A rate that is nothing in half of the runs, small in most others, and up to 30 % in some.
fn rate(rng: &mut ChaCha8Rng) -> f64 {
    match rng.random_range(0..10) {
        0..5 => 0.0,
        5..8 => rng.random_range(0.0..0.03),
        8 => rng.random_range(0.0..0.1),
        _ => rng.random_range(0.1..0.3),
    }
}

fn draw_weather(rng: &mut ChaCha8Rng) -> Weather {
    Weather {
        loss: rate(rng),
        doubled: rate(rng),
        delay: Duration::from_millis(rng.random_range(1..20)),
        slow: rate(rng),
    }
}

/// A span between these two, each power of two as likely as another.
fn span(rng: &mut ChaCha8Rng, least: Duration, most: Duration) -> Duration {
    let factor = most.as_secs_f64() / least.as_secs_f64();
    least.mul_f64(factor.powf(rng.random_range(0.0..1.0)))
}

fn draw_faults(shape: Shape, work: Duration, count: usize, rng: &mut ChaCha8Rng) -> Vec<Planned> {
    let fragile = draw_fragile(shape, rng);
    let is_possible = |kind: &Kind| match kind {
        Kind::Rot | Kind::Wipe => !fragile.is_empty(),
        _ => true,
    };
    let kinds: Vec<Kind> = Kind::ALL
        .into_iter()
        .filter(|kind| !kind.is_drawn_apart() && rng.random_bool(0.5))
        .filter(is_possible)
        .collect();
    let longest = LONG.min(work / 3);
    let mut faults: Vec<Planned> = (0..count)
        .filter_map(|_| {
            let kind = *kinds.choose(rng)?;
            let at = rng.random_range(Duration::ZERO..work);
            Some(Planned { at, fault: draw_fault(kind, shape.nodes, &fragile, longest, rng) })
        })
        .collect();
    faults.sort_by_key(|planned| planned.at);
    // One refill costs as much processor time as a run: every slot's leaf is worked out.
    let mut is_wiped = rng.random_bool(0.3);
    faults.retain(|planned| {
        let is_wipe = planned.fault.kind() == Kind::Wipe;
        !is_wipe || !std::mem::replace(&mut is_wiped, true)
    });
    // Chance of its own, so that what else a seed draws stays what it was.
    let mut apart = rng.clone();
    apart.set_stream(1);
    draw_rollback(work, &fragile, &mut faults, &mut apart);
    apart.set_stream(2);
    draw_reshapes(shape.nodes, work, &mut faults, &mut apart);
    faults
}

/// In two runs of five data moves, a few times.
fn draw_reshapes(nodes: usize, work: Duration, faults: &mut Vec<Planned>, rng: &mut ChaCha8Rng) {
    if !rng.random_bool(0.4) {
        return;
    }
    for _ in 0..rng.random_range(1..=4) {
        let fault = Fault::Reshape {
            node: rng.random_range(0..nodes),
            member: rng.random_range(0..nodes),
            thousandths: *RESHAPED.choose(rng).expect("some"),
            gives_up: rng.random_bool(0.3),
        };
        faults.push(Planned { at: rng.random_range(Duration::ZERO..work), fault });
    }
    faults.sort_by_key(|planned| planned.at);
}

/// One disk is put back as it was, where none is wiped: a refill a run is dear enough. No other disk rots then: with its
/// records a node loses what it saw of the others.
fn draw_rollback(
    work: Duration,
    fragile: &[Node],
    faults: &mut Vec<Planned>,
    rng: &mut ChaCha8Rng,
) {
    let is_wiped = faults.iter().any(|planned| planned.fault.kind() == Kind::Wipe);
    let Some(node) = fragile.choose(rng).copied().filter(|_| !is_wiped && rng.random_bool(0.6))
    else {
        return;
    };
    let at = rng.random_range(Duration::ZERO..work / 2);
    let after = rng.random_range(work / 10..work / 3);
    let span = span(rng, BRIEF, LONG.min(work / 3));
    faults.retain(|planned| match planned.fault {
        Fault::Rot { node: other, .. } => other == node,
        _ => true,
    });
    faults.push(Planned { at, fault: Fault::RollBack { node, after, span } });
    faults.sort_by_key(|planned| planned.at);
}

/// The nodes whose disks may lose what they had synced: so few that every key keeps max(R, W) owners that lost nothing,
/// and every acknowledged write one of those that acknowledged it.
fn draw_fragile(shape: Shape, rng: &mut ChaCha8Rng) -> Vec<Node> {
    let Shape { nodes, n, r, w, .. } = shape;
    let most = (n - r.max(w)).min(w - 1);
    (0..nodes).choose_multiple(rng, usize::from(most))
}

fn draw_fault(
    kind: Kind,
    nodes: usize,
    fragile: &[Node],
    longest: Duration,
    rng: &mut ChaCha8Rng,
) -> Fault {
    let node = rng.random_range(0..nodes);
    let other = (node + rng.random_range(1..nodes)) % nodes;
    let span = span(rng, BRIEF, longest);
    let slow = Duration::from_millis(rng.random_range(50..900));
    let kill = |unsynced| Fault::Kill { node, unsynced, span };
    match kind {
        Kind::CutOneWay => Fault::CutOneWay { from: node, to: other, span },
        Kind::Partition => {
            let count = rng.random_range(1..=nodes / 2);
            let side = (0..nodes).choose_multiple(rng, count).into_iter().collect();
            Fault::Partition { side, span }
        }
        Kind::Flap => {
            let times = rng.random_range(2..10);
            Fault::Flap { a: node, b: other, times, each: span / times }
        }
        Kind::Disconnect => Fault::Disconnect { a: node, b: other },
        Kind::Storm => Fault::Storm { weather: draw_storm(rng), span },
        Kind::Kill => kill(Unsynced::Kept),
        Kind::PowerLossDropped => kill(Unsynced::Dropped),
        Kind::PowerLossTorn => kill(Unsynced::Torn),
        Kind::Stop => Fault::Stop { node, span },
        Kind::BreakDisk => Fault::BreakDisk { node, calls: rng.random_range(0..60), span },
        Kind::Pause => Fault::Pause { node, span },
        Kind::SlowSync => Fault::SlowSync { node, delay: slow, span },
        Kind::SlowNode => Fault::SlowNode { node, delay: slow / 4, span },
        Kind::ClockJump => {
            Fault::ClockJump { node, micros: rng.random_range(-10 * YEAR..10 * YEAR) }
        }
        Kind::FullDisk => Fault::FullDisk { node, left: rng.random_range(0..20_000), span },
        Kind::FailedCalls => {
            let (first, calls) = (rng.random_range(0..30), rng.random_range(1..10));
            let with =
                if rng.random_bool(0.7) { simulated::Fault::Io } else { simulated::Fault::Full };
            Fault::FailedCalls { node, first, calls, with }
        }
        Kind::FailedSync => Fault::FailedSync { node, syncs: rng.random_range(0..10) },
        Kind::Rot => {
            let node = *fragile.choose(rng).expect("some are");
            Fault::Rot { node, table: rng.random(), place: rng.random() }
        }
        Kind::Wipe => Fault::Wipe { node: *fragile.choose(rng).expect("some are"), span },
        Kind::RollBack | Kind::Reshape => unreachable!("drawn apart"),
        Kind::Propose => {
            let (expect, name) = (rng.random_range(1..5), rng.random_range(0..1_000));
            Fault::Propose { node, expect, name }
        }
    }
}

fn draw_storm(rng: &mut ChaCha8Rng) -> Weather {
    Weather {
        loss: rng.random_range(0.05..0.3),
        doubled: rng.random_range(0.0..0.3),
        delay: Duration::from_millis(rng.random_range(5..50)),
        slow: rng.random_range(0.0..0.3),
    }
}
