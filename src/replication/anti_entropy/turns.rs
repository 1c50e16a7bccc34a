//! Whose turn it is to give, of several owners: those that gave nothing come behind the others, ever later.

use std::collections::BTreeSet;
use std::time::Duration;

use crate::node_id::NodeId;

/// The pause after an owner gave nothing, doubled each time, at most.
pub(super) const PAUSE: Duration = Duration::from_millis(500);
const PAUSE_MAX: Duration = Duration::from_secs(30);

/// The owners that gave nothing since one did.
#[derive(Debug)]
pub(super) struct Turns {
    refused: BTreeSet<NodeId>,
    pause: Duration,
}

impl Turns {
    pub(super) const fn new() -> Self {
        Self { refused: BTreeSet::new(), pause: PAUSE }
    }

    /// Whose turn it is: `first` before the others, and those that gave nothing behind them.
    pub(super) fn next(
        &mut self,
        owners: impl Iterator<Item = NodeId>,
        first: Option<NodeId>,
    ) -> Option<NodeId> {
        let next =
            owners.min_by_key(|owner| (self.refused.contains(owner), Some(*owner) != first))?;
        if self.refused.contains(&next) {
            // All of them gave nothing: their next round.
            self.refused.clear();
        }
        Some(next)
    }

    /// An owner gave.
    pub(super) fn gave(&mut self) {
        self.pause = PAUSE;
        self.refused.clear();
    }

    /// An owner gave nothing, or nobody could be asked: how long to wait.
    pub(super) fn refused(&mut self, owner: Option<NodeId>) -> Duration {
        self.refused.extend(owner);
        let pause = self.pause;
        self.pause = (self.pause * 2).min(PAUSE_MAX);
        pause
    }
}
