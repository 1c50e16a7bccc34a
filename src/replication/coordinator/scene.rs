//! What a machine of one operation has to do with: the view, its address, its timer, and where its wishes go.

use std::time::Duration;

use crate::cluster::Time;
use crate::node_id::NodeId;
use crate::replication::quorum::Tally;
use crate::replication::{
    Answer, FailedWhy, Failure, FailureKind, Mint, MintAnswer, OpId, Outcome, Pace, Request, View,
    WriteOutcome,
};

use super::panel::Panel;
use super::{Effect, HeldFor};

/// Low bits of an address that hold the round.
const ROUND_BITS: u32 = 8;
/// How long a hint of the own coordinator may take to be stored.
const HINT_PATIENCE: Duration = Duration::from_secs(1);
/// The round of repairs on the side.
const ASIDE: u8 = 0;

/// One operation as a state machine.
pub(super) trait Machine: std::fmt::Debug + Send {
    /// Takes note of what happened. [`Happening::Timer`] is never past the deadline.
    fn handle(&mut self, scene: &mut Scene<'_>, happening: Happening) -> Progress;

    /// Ends it, as its deadline has passed.
    fn expired(&mut self, scene: &mut Scene<'_>) -> Result<Outcome, Failure>;

    /// Takes leave of those who have not answered at its deadline, after [`Progress::Lingering`].
    fn abandoned(&mut self, _: &mut Scene<'_>) {}
}

/// What can happen to an operation.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Happening {
    /// It begins.
    Begun,
    /// An owner answered.
    Answered {
        /// Who.
        from: NodeId,
        /// What.
        answer: Answer,
    },
    /// Its mint was done, or not.
    Minted(MintAnswer),
    /// Its mint is durable.
    MintDurable {
        /// Whether this node held all that it should of the slot.
        is_sound: bool,
    },
    /// A question or a mint came to nothing.
    Failed {
        /// At whom.
        from: NodeId,
        /// Why.
        why: FailedWhy,
    },
    /// A member will answer nothing that was asked of it.
    Unreachable(NodeId),
    /// The layout is another.
    LayoutChanged,
    /// The time that it asked for has come.
    Timer,
}

/// How an operation goes on.
#[derive(Debug)]
pub(super) enum Progress {
    /// It waits.
    Waiting,
    /// It ended.
    Finished(Result<Outcome, Failure>),
    /// It ended, but late answers may show owners to be repaired, or silence one to keep a hint for; until the deadline.
    Lingering(Result<Outcome, Failure>),
    /// Nothing is left to wait for after [`Progress::Lingering`].
    Over,
}

/// The rounds of one operation's questions.
#[derive(Debug, Default)]
pub(super) struct Rounds {
    last: u8,
    present: u8,
}

/// The surroundings of one machine while it handles one happening.
#[derive(Debug)]
pub(super) struct Scene<'a> {
    pub(super) view: View<'a>,
    pub(super) op: OpId,
    pub(super) deadline: Time,
    /// The round of the address that this happening came under.
    pub(super) came_under: u8,
    pub(super) rounds: &'a mut Rounds,
    pub(super) timer: &'a mut u64,
    pub(super) pace: &'a mut Pace<NodeId>,
    pub(super) effects: &'a mut Vec<Effect>,
}

/// Whether an operation's number leaves room for the round.
pub(super) const fn is_operation(op: OpId) -> bool {
    op.0 >> (u64::BITS - ROUND_BITS) == 0
}

/// The address of one round of an operation.
pub(super) const fn address(op: OpId, round: u8) -> OpId {
    OpId(op.0 << ROUND_BITS | round as u64)
}

/// The operation and the round of an address.
pub(super) const fn parts(address: OpId) -> (OpId, u8) {
    let [round, ..] = address.0.to_le_bytes();
    (OpId(address.0 >> ROUND_BITS), round)
}

impl<'a> Scene<'a> {
    /// The cluster as this node sees it.
    pub(super) const fn view(&self) -> View<'a> {
        self.view
    }

    /// How fast peers answer.
    pub(super) const fn pace(&mut self) -> &mut Pace<NodeId> {
        self.pace
    }

    /// When the operation has failed.
    pub(super) const fn deadline(&self) -> Time {
        self.deadline
    }

    /// Whether what happened answers a question of the present round.
    pub(super) const fn is_present(&self) -> bool {
        self.came_under == self.rounds.present
    }

    /// The round that what happened came under.
    pub(super) const fn came_under(&self) -> u8 {
        self.came_under
    }

    /// Begins a round: answers to earlier questions no longer count.
    pub(super) fn next_round(&mut self) {
        self.rounds.present = self.fresh_round();
    }

    /// Asks `to` in the present round.
    pub(super) fn ask(&mut self, to: NodeId, request: Request) {
        self.ask_in(self.rounds.present, to, request);
    }

    /// Has `to` do something whose answer nobody waits for.
    pub(super) fn ask_aside(&mut self, to: NodeId, request: Request) {
        self.ask_in(ASIDE, to, request);
    }

    /// Has this node keep a hint, which is wanted after the operation's deadline too.
    pub(super) fn keep_hint(&mut self, request: Request) {
        let (to, op) = (self.view.me, address(self.op, ASIDE));
        let deadline = self.view.now.after(HINT_PATIENCE);
        self.effects.push(Effect::Ask { to, op, request, deadline });
    }

    /// Mints, under a round of its own, which is returned.
    pub(super) fn mint(&mut self, mint: Mint, held_for: Option<HeldFor>) -> u8 {
        let round = self.fresh_round();
        self.effects.push(Effect::Mint { op: address(self.op, round), mint, held_for });
        round
    }

    /// Asks for [`Happening::Timer`], at the deadline at the latest; instead of any time asked for before.
    pub(super) fn wake_after(&mut self, span: Duration) {
        *self.timer = self.view.now.after(span).monotonic.min(self.deadline.monotonic);
    }

    /// The quorum is not met.
    pub(super) fn unmet(
        &self,
        panel: &Panel,
        needed: Tally,
        acked: Vec<NodeId>,
        outcome: Option<WriteOutcome>,
    ) -> Failure {
        let failed = panel.failures(&self.view, self.deadline, needed);
        let kind = FailureKind::of_failures(&failed);
        Failure { kind, needed: count(needed.now), acked, failed, outcome, retry: true }
    }

    fn fresh_round(&mut self) -> u8 {
        self.rounds.last = self.rounds.last.checked_add(1).unwrap_or(ASIDE + 1);
        self.rounds.last
    }

    fn ask_in(&mut self, round: u8, to: NodeId, request: Request) {
        let (op, deadline) = (address(self.op, round), self.deadline);
        self.effects.push(Effect::Ask { to, op, request, deadline });
    }
}

/// How many replicas, as replies carry it: n is at most 255.
pub(super) fn count(replicas: usize) -> u8 {
    u8::try_from(replicas).unwrap_or(u8::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_names_operation_and_round() {
        for (op, round) in [(0, 0), (1, 255), ((1 << 56) - 1, 7)] {
            assert_eq!(parts(address(OpId(op), round)), (OpId(op), round));
        }
        assert!(is_operation(OpId((1 << 56) - 1)) && !is_operation(OpId(1 << 56)));
    }
}
