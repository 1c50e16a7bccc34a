//! The coordinator: one state machine for all operations that this node coordinates (DESIGN §4, §6).
//!
//! Each operation is a machine of its own (`get`, `put`, `inspect`, `scan`) that asks owners and waits; this file keeps
//! them, hands them what concerns them, and keeps time. Owners are uniform: this node, where it is one, is asked like
//! any other, but for the mint of a put, which its own state alone can do.
//!
//! Answers come back under an address made of the operation's number and a *round*, so that an answer to an earlier
//! question (before a fold, or under an older layout) never counts as one to a later:
//! ```text
//! address := operation:u56 round:u8        round 0: a repair on the side, whose answer nobody waits for
//! ```
//! Invariants: an operation finishes once; only an answer of its present round counts; no write starts after its
//! deadline; what is left of it after that is nothing.

mod get;
mod inspect;
mod panel;
mod put;
mod scan;
mod scene;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use bytes::Bytes;

use crate::cluster::Time;
use crate::node_id::NodeId;
use crate::ring::Slot;
use crate::version::{Content, RequestId, Siblings, VectorClock};

use super::{
    Answer, Consistency, FailedWhy, Failure, FailureKind, Level, Mint, MintAnswer, OpId, Outcome,
    Pace, Request, View, WriteOutcome,
};
use scene::{Happening, Machine, Progress, Rounds, Scene};

/// How long an owner may take to catch up with the layout, or to take a write-back, before it or another one is asked.
const RETRY_AFTER: Duration = Duration::from_millis(50);
/// Most operations in flight; a further one is refused as overloaded.
pub const OPERATIONS_MAX: usize = 1 << 16;

/// The operation that an [`Effect::Ask`] or [`Effect::Mint`] stems from, by the number given there.
pub const fn operation_of(address: OpId) -> OpId {
    scene::parts(address).0
}

/// All operations in flight at one node.
#[derive(Debug, Default)]
pub struct Coordinator {
    operations: BTreeMap<OpId, InFlight>,
    /// When each operation is to be looked at again, monotonic nanoseconds; one entry an operation.
    timers: BTreeSet<(u64, OpId)>,
    /// The earliest timer that [`Effect::Wake`] was asked for.
    announced: Option<u64>,
    pace: Pace<NodeId>,
}

#[derive(Debug)]
struct InFlight {
    machine: Box<dyn Machine>,
    rounds: Rounds,
    deadline: Time,
    timer: u64,
    /// The client has its reply; late answers still lead to repairs.
    finished: bool,
}

/// What a client wants.
#[derive(Clone, Debug, PartialEq)]
pub enum Operation {
    /// Read a key.
    Get {
        /// The key.
        key: Bytes,
        /// Owners that must answer; the layout's r where none is named.
        r: Option<Level>,
        /// Whom to count; the layout's mode where none is named.
        consistency: Option<Consistency>,
        /// Whether all other owners are compared, too, once the reply is there.
        compares_all: bool,
    },
    /// Write or delete a key.
    Put {
        /// The key.
        key: Bytes,
        /// What to write.
        content: Content,
        /// What it replaces.
        basis: PutBasis,
        /// Durable acknowledgements to wait for; the layout's w where none is named.
        w: Option<Level>,
        /// Owners a put without a context asks at least; where none is named the layout's r, or w if that is named and less.
        r: Option<Level>,
        /// Whom to count; the layout's mode where none is named.
        consistency: Option<Consistency>,
        /// The client's name for it.
        request: RequestId,
        /// Time since the client first sent it, on a retry; zero on the first try.
        age: Duration,
    },
    /// Have the owners merge a state from elsewhere: nothing is minted.
    Merge {
        /// The key.
        key: Bytes,
        /// Its state.
        state: Siblings,
        /// Durable acknowledgements to wait for; the layout's w where none is named.
        w: Option<Level>,
        /// Whom to count; the layout's mode where none is named.
        consistency: Option<Consistency>,
    },
    /// Every owner's state of a key, side by side.
    Inspect {
        /// The key.
        key: Bytes,
    },
    /// A stretch of slots of one partition, merged.
    Scan {
        /// First and last slot, in one partition.
        slots: (Slot, Slot),
        /// Continue behind this slot and key.
        after: Option<(Slot, Bytes)>,
        /// Only keys that start so.
        prefix: Bytes,
        /// Owners to merge; the layout's r where none is named.
        r: Option<Level>,
        /// Rough limit of each owner's page in bytes.
        bytes_max: u32,
    },
}

/// What a put replaces.
#[derive(Clone, Debug, PartialEq)]
pub enum PutBasis {
    /// What is there (a put without a context).
    Present,
    /// Exactly what this clock covers; what was written since stays a sibling.
    Context(VectorClock),
    /// As `Context`, but refused where the quorum holds a version that it does not cover.
    IfContext(VectorClock),
    /// Nothing.
    Blind,
}

/// What reaches the coordinator.
#[derive(Clone, Debug, PartialEq)]
pub enum Input {
    /// A client's operation, at an owner of its key.
    Begin {
        /// The node's number for it, below 2^56, never used twice.
        op: OpId,
        /// What is wanted.
        operation: Operation,
        /// Past this it has failed.
        deadline: Time,
    },
    /// An owner answered [`Effect::Ask`]; `op` is the one given there.
    Answer {
        /// Who; may be this node.
        from: NodeId,
        /// As given with the question.
        op: OpId,
        /// What it said.
        answer: Answer,
    },
    /// To [`Effect::Mint`]: right after the append, not yet durable.
    Minted {
        /// As given with the mint.
        op: OpId,
        /// What became of it.
        answer: MintAnswer,
    },
    /// The state after the mint is as durable as the sync mode promises.
    MintDurable {
        /// As given with the mint.
        op: OpId,
        /// Whether this node held all that it should of the slot: else its word that nothing else stands is none.
        is_sound: bool,
    },
    /// A question or a mint came to nothing: it could not be sent, the disk failed, the range is corrupt.
    Failed {
        /// Whose answer will not come; may be this node.
        from: NodeId,
        /// As given with the question or mint.
        op: OpId,
        /// Why.
        why: FailedWhy,
    },
    /// No connection to this member stands any more: none of its answers will come.
    Unreachable(NodeId),
    /// The view shows another layout from now on.
    LayoutChanged,
    /// Time has passed.
    Tick,
}

/// What the coordinator wants done.
#[derive(Clone, Debug, PartialEq)]
pub enum Effect {
    /// Ask an owner. This node is asked like any other: it answers through `replica::answer`, once durable.
    Ask {
        /// Whom.
        to: NodeId,
        /// Comes back with the answer, unchanged. It is made from the operation's number, but is not that number.
        op: OpId,
        /// What.
        request: Request,
        /// Past this the answer is of no use.
        deadline: Time,
    },
    /// Write on the own state through `replica::mint`; `node` serialises per key.
    Mint {
        /// Comes back with the answer, unchanged; not the operation's number.
        op: OpId,
        /// What.
        mint: Mint,
        /// Where this node is no owner: whose hint takes the new state. The own state is all that is held of the key.
        held_for: Option<HeldFor>,
    },
    /// An operation ended.
    Finished {
        /// The number it began under.
        op: OpId,
        /// How.
        result: Result<Outcome, Failure>,
    },
    /// [`Input::Tick`] is wanted then.
    Wake(Time),
}

/// The hint that a stand-in writes to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HeldFor {
    /// The owner that it is for.
    pub target: NodeId,
    /// Of how many acknowledgements it is one.
    pub w: u8,
}

impl Coordinator {
    /// A coordinator with nothing in flight.
    pub fn new() -> Self {
        Self::default()
    }

    /// Operations in flight, those included that only wait for late answers.
    pub fn in_flight(&self) -> usize {
        self.operations.len()
    }

    /// Folds one input in; what must happen next is appended to `effects`.
    pub fn handle(&mut self, view: &View<'_>, input: Input, effects: &mut Vec<Effect>) {
        match input {
            Input::Begin { op, operation, deadline } => {
                self.begin(view, op, operation, deadline, effects);
            }
            Input::Answer { from, op, answer } => {
                self.drive(view, op, Happening::Answered { from, answer }, effects);
            }
            Input::Minted { op, answer } => {
                self.drive(view, op, Happening::Minted(answer), effects);
            }
            Input::MintDurable { op, is_sound } => {
                self.drive(view, op, Happening::MintDurable { is_sound }, effects);
            }
            Input::Failed { from, op, why } => {
                self.drive(view, op, Happening::Failed { from, why }, effects);
            }
            Input::Unreachable(node) => {
                self.drive_all(view, || Happening::Unreachable(node), effects);
            }
            Input::LayoutChanged => self.drive_all(view, || Happening::LayoutChanged, effects),
            Input::Tick => self.tick(view, effects),
        }
        self.announce(view, effects);
    }

    fn begin(
        &mut self,
        view: &View<'_>,
        op: OpId,
        operation: Operation,
        deadline: Time,
        effects: &mut Vec<Effect>,
    ) {
        assert!(scene::is_operation(op), "operations are numbered below 2^56");
        if OPERATIONS_MAX <= self.operations.len() {
            let outcome = operation.is_write().then_some(WriteOutcome::NotApplied);
            let failure = Failure::refused(FailureKind::Overloaded, outcome);
            effects.push(Effect::Finished { op, result: Err(failure) });
            return;
        }
        let (rounds, timer) = (Rounds::default(), deadline.monotonic);
        let machine = operation.into_machine();
        let in_flight = InFlight { machine, rounds, deadline, timer, finished: false };
        let before = self.operations.insert(op, in_flight);
        assert!(before.is_none(), "an operation's number is never used twice");
        self.timers.insert((timer, op));
        self.drive(view, scene::address(op, 0), Happening::Begun, effects);
    }

    fn tick(&mut self, view: &View<'_>, effects: &mut Vec<Effect>) {
        self.announced = None;
        let due = self.timers.range(..=(view.now.monotonic, OpId(u64::MAX)));
        let due: Vec<OpId> = due.map(|(_, op)| *op).collect();
        for op in due {
            self.drive(view, scene::address(op, 0), Happening::Timer, effects);
        }
    }

    fn drive_all(
        &mut self,
        view: &View<'_>,
        happening: impl Fn() -> Happening,
        effects: &mut Vec<Effect>,
    ) {
        let all: Vec<OpId> = self.operations.keys().copied().collect();
        for op in all {
            self.drive(view, scene::address(op, 0), happening(), effects);
        }
    }

    /// Lets one operation take note of what happened, and keeps, ends or forgets it.
    fn drive(
        &mut self,
        view: &View<'_>,
        address: OpId,
        happening: Happening,
        effects: &mut Vec<Effect>,
    ) {
        let (op, round) = scene::parts(address);
        let Some(in_flight) = self.operations.get_mut(&op) else { return };
        let (finished, deadline) = (in_flight.finished, in_flight.deadline);
        // A timer holds until it has come.
        let has_come = matches!(happening, Happening::Timer);
        let mut timer = if has_come { deadline.monotonic } else { in_flight.timer };
        let rounds = &mut in_flight.rounds;
        let pace = &mut self.pace;
        let mut scene = Scene {
            view: *view,
            op,
            deadline,
            came_under: round,
            rounds,
            timer: &mut timer,
            pace,
            effects,
        };
        let progress = match happening {
            Happening::Timer if deadline <= view.now && finished => {
                in_flight.machine.abandoned(&mut scene);
                Progress::Over
            }
            Happening::Timer if deadline <= view.now => {
                Progress::Finished(in_flight.machine.expired(&mut scene))
            }
            Happening::LayoutChanged if finished => Progress::Over,
            happening => in_flight.machine.handle(&mut scene, happening),
        };
        let result = match progress {
            Progress::Waiting => {
                self.timers.remove(&(in_flight.timer, op));
                in_flight.timer = timer;
                self.timers.insert((timer, op));
                return;
            }
            Progress::Lingering(result) => {
                in_flight.finished = true;
                self.timers.remove(&(in_flight.timer, op));
                in_flight.timer = deadline.monotonic;
                self.timers.insert((in_flight.timer, op));
                Some(result)
            }
            Progress::Finished(result) => {
                self.forget(op);
                Some(result)
            }
            Progress::Over => {
                self.forget(op);
                None
            }
        };
        if let Some(result) = result {
            assert!(!finished, "an operation finishes once");
            effects.push(Effect::Finished { op, result });
        }
    }

    fn forget(&mut self, op: OpId) {
        if let Some(in_flight) = self.operations.remove(&op) {
            self.timers.remove(&(in_flight.timer, op));
        }
    }

    fn announce(&mut self, view: &View<'_>, effects: &mut Vec<Effect>) {
        let Some((first, _)) = self.timers.first() else { return };
        if self.announced.is_none_or(|announced| *first < announced) {
            self.announced = Some(*first);
            let until = Duration::from_nanos(first.saturating_sub(view.now.monotonic));
            effects.push(Effect::Wake(view.now.after(until)));
        }
    }
}

impl Operation {
    const fn is_write(&self) -> bool {
        match self {
            Self::Put { .. } | Self::Merge { .. } => true,
            Self::Get { .. } | Self::Inspect { .. } | Self::Scan { .. } => false,
        }
    }

    fn into_machine(self) -> Box<dyn Machine> {
        match self {
            Self::Get { key, r, consistency, compares_all } => {
                Box::new(get::Get::new(get::Wanted { key, r, consistency, compares_all }))
            }
            Self::Put { key, content, basis, w, r, consistency, request, age } => {
                let aim = put::Aim::Write(put::Write { content, basis, request, age });
                Box::new(put::Put::new(put::Wanted { key, aim, w, r, consistency }))
            }
            Self::Merge { key, state, w, consistency } => {
                let aim = put::Aim::State(state);
                Box::new(put::Put::new(put::Wanted { key, aim, w, r: None, consistency }))
            }
            Self::Inspect { key } => Box::new(inspect::Inspect::new(key)),
            Self::Scan { slots, after, prefix, r, bytes_max } => {
                Box::new(scan::Scan::new(scan::Wanted { slots, after, prefix, r, bytes_max }))
            }
        }
    }
}
