//! What becomes of one hint now: a decision that can be printed and compared; `handoff` carries it out.

use std::time::Duration;

use crate::node_id::NodeId;
use crate::replication::{Reachability, View};
use crate::ring::Token;

use super::Hint;

/// What becomes of one hint now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Plan {
    /// Its target can be reached, and owns the key.
    Deliver,
    /// Its target does not come back, or owns the key no more: the other owners get it.
    Relay {
        /// Owners that can be reached.
        owners: Vec<NodeId>,
        /// How many of them must have it durably.
        needed: usize,
    },
    /// It counted for nothing and has waited long enough.
    Drop,
    /// Nothing to be done for so long.
    Keep(Duration),
}

/// Decides about the hint that `target` is to get; `is_ready` when it can be reached and has settled.
///
/// A hint that counted for w acknowledgements is one of w promises to a client: as many owners must have it before it
/// may go, as far as there are so many. In a recovery after the loss of a majority what is held for who was left behind
/// becomes the holder's own: there every owner merges what anybody holds.
pub(super) fn plan(
    view: &View<'_>,
    ttl: Duration,
    (target, is_ready): (NodeId, bool),
    key: &[u8],
    hint: &Hint,
) -> Plan {
    if view.recovers && view.preferences.ring().member(target).is_none() {
        return Plan::Relay { owners: vec![view.me], needed: 1 };
    }
    let walk = view.preferences.of_slot(Token::of(key).slot());
    let is_owner = walk.owns(target);
    if is_owner && is_ready {
        return Plan::Deliver;
    }
    let left = ttl.saturating_sub(age(hint.since, view.now.wall));
    match (is_owner, left.is_zero(), hint.w) {
        (true, false, _) => Plan::Keep(left),
        (_, true, 0) => Plan::Drop,
        (false, false, w) | (_, true, w) => {
            let is_up = |owner: &NodeId| view.reachability(*owner) == Reachability::Up;
            let needed = usize::from(w).min(walk.owners().count()).max(1);
            Plan::Relay { owners: walk.owners().filter(is_up).collect(), needed }
        }
    }
}

/// How long a hint has waited that was stored at `since` by the wall clock. One that was set back is not waited for: what
/// it went back counts as well.
pub(super) const fn age(since: u64, wall: u64) -> Duration {
    Duration::from_micros(since.abs_diff(wall))
}
