//! The owners of a key and who stands in for them, and what became of asking each.
//!
//! An owner that cannot be asked, or that failed, may be stood in for by the next member of the walk that can be reached
//! and owns nothing of the key (sloppy quorum; Dynamo §4.6). The two have one voice: an owner and its stand-in count
//! once.

use crate::cluster::Time;
use crate::node_id::NodeId;
use crate::replication::{FailedWhy, Reachability, View};

/// One round of questions to the owners of a key.
#[derive(Clone, Debug)]
pub(super) struct Panel {
    /// This node first where it is an owner, then in preference order.
    seats: Vec<(NodeId, Standing)>,
    /// In the order in which they were asked.
    stand_ins: Vec<StandIn>,
}

/// A member that stands in for an owner.
#[derive(Clone, Copy, Debug)]
struct StandIn {
    node: NodeId,
    owner: NodeId,
    standing: Standing,
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
        Self { seats, stand_ins: Vec::new() }
    }

    /// The owners in the order they are asked.
    pub(super) fn owners(&self) -> impl Iterator<Item = NodeId> + '_ {
        self.seats.iter().map(|(owner, _)| *owner)
    }

    /// Owners that stand so.
    pub(super) fn standing(&self, wanted: Standing) -> impl Iterator<Item = NodeId> + '_ {
        self.seats.iter().filter(move |(_, standing)| *standing == wanted).map(|(owner, _)| *owner)
    }

    /// For how many owners they themselves, or their stand-ins, answered.
    pub(super) fn answered(&self) -> usize {
        let has = |(owner, standing): &&(NodeId, Standing)| {
            *standing == Standing::Answered
                || self.is_stood_in(*owner, |stands| stands == Standing::Answered)
        };
        self.seats.iter().filter(has).count()
    }

    /// Notes how an owner or a stand-in stands now; false when it is neither.
    pub(super) fn set(&mut self, node: NodeId, standing: Standing) -> bool {
        let owner = self.seats.iter_mut().find(|(seat, _)| *seat == node).map(|seat| &mut seat.1);
        let stand_in = self.stand_ins.iter_mut().find(|stand_in| stand_in.node == node);
        let place = owner.or(stand_in.map(|stand_in| &mut stand_in.standing));
        place.map(|place| *place = standing).is_some()
    }

    /// Whether an owner or a stand-in was asked and may still answer.
    pub(super) fn is_pending(&self, node: NodeId) -> bool {
        let owner =
            self.seats.iter().any(|(seat, standing)| *seat == node && standing.is_pending());
        owner || self.stand_ins.iter().any(|seat| seat.node == node && seat.standing.is_pending())
    }

    /// Seats `node` as the stand-in of `owner`.
    pub(super) fn seat(&mut self, node: NodeId, owner: NodeId, standing: Standing) {
        self.stand_ins.push(StandIn { node, owner, standing });
    }

    /// Seats the next member of `fallbacks` that can be asked as the stand-in of each owner that needs one: that cannot
    /// be asked or has failed, and whose stand-in so far, if any, has failed too. Returns the new pairs, stand-in first.
    pub(super) fn seat_stand_ins(
        &mut self,
        view: &View<'_>,
        mut fallbacks: impl Iterator<Item = NodeId>,
    ) -> Vec<(NodeId, NodeId)> {
        let mut seated = Vec::new();
        for (owner, standing) in self.seats.clone() {
            let is_absent = match standing {
                Standing::Idle => view.reachability(owner) != Reachability::Up,
                Standing::Failed(_) => true,
                Standing::Asked | Standing::Behind | Standing::Answered => false,
            };
            if !is_absent || self.is_stood_in(owner, |standing| !standing.has_failed()) {
                continue;
            }
            let next = fallbacks.find(|node| {
                view.reachability(*node) == Reachability::Up
                    && self.stand_ins.iter().all(|stand_in| stand_in.node != *node)
            });
            let Some(node) = next else { break };
            self.stand_ins.push(StandIn { node, owner, standing: Standing::Asked });
            seated.push((node, owner));
        }
        seated
    }

    /// Owners and stand-ins that were asked and may still answer.
    pub(super) fn pending(&self) -> impl Iterator<Item = NodeId> + '_ {
        let stand_ins = self.stand_ins.iter().map(|seat| (seat.node, seat.standing));
        let all = self.seats.iter().copied().chain(stand_ins);
        all.filter(|(_, standing)| standing.is_pending()).map(|(node, _)| node)
    }

    /// For whom `node` stands in.
    pub(super) fn stands_in_for(&self, node: NodeId) -> Option<NodeId> {
        self.stand_ins.iter().find(|stand_in| stand_in.node == node).map(|stand_in| stand_in.owner)
    }

    /// The owners for whom a stand-in answered, and who that was.
    pub(super) fn stood_in(&self) -> Vec<(NodeId, NodeId)> {
        let answered = self.stand_ins.iter().filter(|seat| seat.standing == Standing::Answered);
        answered.map(|seat| (seat.owner, seat.node)).collect()
    }

    /// Owners that will not answer, by the present view.
    pub(super) fn absent(&self, view: &View<'_>) -> Vec<NodeId> {
        let is_absent = |(owner, standing): &&(NodeId, Standing)| match standing {
            Standing::Idle => view.reachability(*owner) != Reachability::Up,
            Standing::Failed(_) => true,
            Standing::Asked | Standing::Behind | Standing::Answered => false,
        };
        self.seats.iter().filter(is_absent).map(|(owner, _)| *owner).collect()
    }

    fn is_stood_in(&self, owner: NodeId, so: impl Fn(Standing) -> bool) -> bool {
        self.stand_ins.iter().any(|stand_in| stand_in.owner == owner && so(stand_in.standing))
    }

    /// The next owner that can be asked and was not.
    pub(super) fn next_idle(&self, view: &View<'_>) -> Option<NodeId> {
        self.standing(Standing::Idle).find(|owner| view.reachability(*owner) == Reachability::Up)
    }

    /// For how many owners they or their stand-ins have answered or still may, by the present view.
    pub(super) fn possible(&self, view: &View<'_>) -> usize {
        let may = |(owner, standing): &&(NodeId, Standing)| match standing {
            Standing::Idle if view.reachability(*owner) == Reachability::Up => true,
            Standing::Asked | Standing::Behind | Standing::Answered => true,
            Standing::Idle | Standing::Failed(_) => {
                self.is_stood_in(*owner, |standing| !standing.has_failed())
            }
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
    /// Whether no answer will come.
    const fn has_failed(self) -> bool {
        matches!(self, Self::Failed(_))
    }

    /// Whether an answer may still come.
    pub(super) const fn is_pending(self) -> bool {
        match self {
            Self::Asked | Self::Behind => true,
            Self::Idle | Self::Answered | Self::Failed(_) => false,
        }
    }
}
