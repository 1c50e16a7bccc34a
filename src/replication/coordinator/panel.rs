//! The owners of a key, and what became of asking each.

use crate::cluster::Time;
use crate::node_id::NodeId;
use crate::replication::{FailedWhy, Reachability, View};

/// One round of questions to the owners of a key.
#[derive(Clone, Debug)]
pub(super) struct Panel {
    /// This node first where it is an owner, then in preference order.
    seats: Vec<(NodeId, Standing)>,
}

/// What became of asking one owner.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Standing {
    /// Not asked.
    Idle,
    /// Asked, silent so far.
    Asked,
    /// Its layout is another: it has to be asked again once it caught up, or this node has.
    Behind,
    /// It answered.
    Answered,
    /// It will not answer.
    Failed(FailedWhy),
}

impl Panel {
    /// The owners, none of them asked.
    pub(super) fn new(view: &View<'_>, owners: impl Iterator<Item = NodeId>) -> Self {
        let mut seats: Vec<_> = owners.map(|owner| (owner, Standing::Idle)).collect();
        seats.sort_by_key(|(owner, _)| *owner != view.me);
        Self { seats }
    }

    /// The owners in the order they are asked.
    pub(super) fn owners(&self) -> impl Iterator<Item = NodeId> + '_ {
        self.seats.iter().map(|(owner, _)| *owner)
    }

    /// Owners that stand so.
    pub(super) fn standing(&self, wanted: Standing) -> impl Iterator<Item = NodeId> + '_ {
        self.seats.iter().filter(move |(_, standing)| *standing == wanted).map(|(owner, _)| *owner)
    }

    /// How many answered.
    pub(super) fn answered(&self) -> usize {
        self.standing(Standing::Answered).count()
    }

    /// Notes how `owner` stands now; false when it is no owner.
    pub(super) fn set(&mut self, owner: NodeId, standing: Standing) -> bool {
        let seat = self.seats.iter_mut().find(|(seat, _)| *seat == owner);
        seat.map(|seat| seat.1 = standing).is_some()
    }

    /// Whether `owner` was asked and may still answer.
    pub(super) fn is_pending(&self, owner: NodeId) -> bool {
        self.seats.iter().any(|(seat, standing)| *seat == owner && standing.is_pending())
    }

    /// The next owner that can be asked and was not.
    pub(super) fn next_idle(&self, view: &View<'_>) -> Option<NodeId> {
        self.standing(Standing::Idle).find(|owner| view.reachability(*owner) == Reachability::Up)
    }

    /// How many have answered or still may, by the present view.
    pub(super) fn possible(&self, view: &View<'_>) -> usize {
        let may = |(owner, standing): &&(NodeId, Standing)| match standing {
            Standing::Idle => view.reachability(*owner) == Reachability::Up,
            Standing::Asked | Standing::Behind | Standing::Answered => true,
            Standing::Failed(_) => false,
        };
        self.seats.iter().filter(may).count()
    }

    /// Who did not answer, and why. Not listed: who was not needed, and, before the deadline, who may still answer.
    pub(super) fn failures(&self, view: &View<'_>, deadline: Time) -> Vec<(NodeId, FailedWhy)> {
        let late = deadline <= view.now;
        let why = |owner, standing| match standing {
            Standing::Idle => match view.reachability(owner) {
                Reachability::Up => None,
                Reachability::Down => Some(FailedWhy::Down),
                Reachability::Unreachable => Some(FailedWhy::Unreachable),
            },
            Standing::Asked => late.then_some(FailedWhy::Timeout),
            Standing::Behind => Some(FailedWhy::Layout),
            Standing::Answered => None,
            Standing::Failed(why) => Some(why),
        };
        let seats = self.seats.iter();
        seats.filter_map(|(owner, standing)| Some((*owner, why(*owner, *standing)?))).collect()
    }
}

impl Standing {
    /// Whether an answer may still come.
    pub(super) const fn is_pending(self) -> bool {
        match self {
            Self::Asked | Self::Behind => true,
            Self::Idle | Self::Answered | Self::Failed(_) => false,
        }
    }
}
