//! The owners of a key and who stands in for them, and what became of asking each.
//!
//! While a change of the layout runs, owners sit in one or both of two sets, and are counted in each. Those who sit in the
//! second set only *gain* the key.
//!
//! An owner by the ring in force that cannot be asked, or that failed, may be stood in for by the next member of the walk
//! that can be reached and owns nothing of the key (sloppy quorum; Dynamo §4.6). The two have one voice: an owner and its
//! stand-in count once. And who stands in has one part: it sits as nothing else, or its answer to one question would
//! count as one to the other.

use crate::cluster::Time;
use crate::node_id::NodeId;
use crate::replication::quorum::Tally;
use crate::replication::{FailedWhy, Reachability, View};
use crate::ring::Slot;

/// One round of questions to the owners of a key.
#[derive(Clone, Debug)]
pub(super) struct Panel {
    /// This node first where it is an owner, then in preference order; those who gain the key last.
    seats: Vec<Seat>,
    /// In the order in which they were asked.
    stand_ins: Vec<StandIn>,
}

/// An owner's seat.
#[derive(Clone, Copy, Debug)]
struct Seat {
    node: NodeId,
    /// What its word counts in each set: 0 or 1.
    counts: Tally,
    standing: Standing,
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
    /// The owners of `slot` by the ring in force, none of them asked.
    pub(super) fn of_now(view: &View<'_>, slot: Slot) -> Self {
        let owners = view.preferences.of_slot(slot).owners();
        let counts = Tally { now: 1, next: 0 };
        let seat = |node| Seat { node, counts, standing: Standing::Idle };
        let mut seats: Vec<_> = owners.map(seat).collect();
        seats.sort_by_key(|seat| seat.node != view.me);
        Self { seats, stand_ins: Vec::new() }
    }

    /// The owners of `slot` by either ring, none of them asked.
    pub(super) fn of_both(view: &View<'_>, slot: Slot) -> Self {
        let mut panel = Self::of_now(view, slot);
        let gained = Tally { now: 0, next: 1 };
        for node in view.next.iter().flat_map(|next| next.of_slot(slot).owners()) {
            match panel.seats.iter_mut().find(|seat| seat.node == node) {
                Some(seat) => seat.counts.next = 1,
                None => {
                    panel.seats.push(Seat { node, counts: gained, standing: Standing::Idle });
                }
            }
        }
        panel
    }

    /// Owners that stand so.
    pub(super) fn standing(&self, wanted: Standing) -> impl Iterator<Item = NodeId> + '_ {
        self.seats.iter().filter(move |seat| seat.standing == wanted).map(|seat| seat.node)
    }

    /// Whether `node` sits here as an owner by the ring in force.
    pub(super) fn owns_now(&self, node: NodeId) -> bool {
        self.seats.iter().any(|seat| seat.node == node && seat.is_of_now())
    }

    /// How many owners there are of whom it holds, for themselves or for one who stands in for them.
    pub(super) fn count(&self, holds: impl Fn(NodeId, Standing) -> bool) -> Tally {
        let has = |seat: &&Seat| {
            holds(seat.node, seat.standing)
                || self.stand_ins.iter().any(|stand_in| {
                    stand_in.owner == seat.node && holds(stand_in.node, stand_in.standing)
                })
        };
        self.seats.iter().filter(has).map(|seat| seat.counts).sum()
    }

    /// How many owners there are of whom it holds for themselves.
    pub(super) fn count_owners(&self, holds: impl Fn(NodeId) -> bool) -> Tally {
        self.seats.iter().filter(|seat| holds(seat.node)).map(|seat| seat.counts).sum()
    }

    /// For how many owners they themselves, or their stand-ins, answered.
    pub(super) fn answered(&self) -> Tally {
        self.count(|_, standing| standing == Standing::Answered)
    }

    /// Notes how an owner or a stand-in stands now; false when it is neither.
    pub(super) fn set(&mut self, node: NodeId, standing: Standing) -> bool {
        let owner = self.seats.iter_mut().find(|seat| seat.node == node);
        let owner = owner.map(|seat| &mut seat.standing);
        let stand_in = self.stand_ins.iter_mut().find(|stand_in| stand_in.node == node);
        let place = owner.or(stand_in.map(|stand_in| &mut stand_in.standing));
        place.map(|place| *place = standing).is_some()
    }

    /// Whether an owner or a stand-in was asked and may still answer.
    pub(super) fn is_pending(&self, node: NodeId) -> bool {
        let owner = self.seats.iter().any(|seat| seat.node == node && seat.standing.is_pending());
        owner || self.stand_ins.iter().any(|seat| seat.node == node && seat.standing.is_pending())
    }

    /// Seats `node` as the stand-in of `owner`.
    pub(super) fn seat(&mut self, node: NodeId, owner: NodeId, standing: Standing) {
        self.seats.retain(|seat| seat.node != node);
        self.stand_ins.push(StandIn { node, owner, standing });
    }

    /// Seats the next member of `fallbacks` that can be asked as the stand-in of each owner by the ring in force that
    /// needs one: that cannot be asked, has failed or gone silent, and whose stand-in so far, if any, has failed too. One
    /// who gains the key and was asked as such is passed over. Returns the new pairs, stand-in first.
    pub(super) fn seat_stand_ins(
        &mut self,
        view: &View<'_>,
        mut fallbacks: impl Iterator<Item = NodeId>,
    ) -> Vec<(NodeId, NodeId)> {
        let mut seated = Vec::new();
        let owners = self.seats.clone().into_iter().filter(Seat::is_of_now);
        for Seat { node: owner, counts: _, standing } in owners {
            let is_absent = match standing {
                Standing::Idle | Standing::Asked => view.reachability(owner) != Reachability::Up,
                Standing::Failed(_) => true,
                Standing::Behind | Standing::Answered => false,
            };
            if !is_absent || self.is_stood_in(owner, |standing| !standing.has_failed()) {
                continue;
            }
            let next = fallbacks.find(|node| {
                view.reachability(*node) == Reachability::Up
                    && self.stand_ins.iter().all(|stand_in| stand_in.node != *node)
                    && self.is_unasked(*node)
            });
            let Some(node) = next else { break };
            self.seat(node, owner, Standing::Asked);
            seated.push((node, owner));
        }
        seated
    }

    /// Owners by the ring in force, and stand-ins, that were asked and may still answer.
    pub(super) fn pending_of_now(&self) -> impl Iterator<Item = NodeId> + '_ {
        let owners = self.seats.iter().filter(|seat| seat.is_of_now());
        let owners = owners.map(|seat| (seat.node, seat.standing));
        let stand_ins = self.stand_ins.iter().map(|seat| (seat.node, seat.standing));
        owners.chain(stand_ins).filter(|(_, standing)| standing.is_pending()).map(|(node, _)| node)
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

    /// Owners by the ring in force that will not answer, by the present view.
    pub(super) fn absent_of_now(&self, view: &View<'_>) -> Vec<NodeId> {
        let is_absent = |seat: &&Seat| match seat.standing {
            Standing::Idle => !view.can_ask(seat.node),
            Standing::Failed(_) => true,
            Standing::Asked | Standing::Behind | Standing::Answered => false,
        };
        let owners = self.seats.iter().filter(|seat| seat.is_of_now());
        owners.filter(is_absent).map(|seat| seat.node).collect()
    }

    fn is_stood_in(&self, owner: NodeId, so: impl Fn(Standing) -> bool) -> bool {
        self.stand_ins.iter().any(|stand_in| stand_in.owner == owner && so(stand_in.standing))
    }

    fn is_unasked(&self, node: NodeId) -> bool {
        self.seats.iter().all(|seat| seat.node != node || seat.standing == Standing::Idle)
    }

    /// Of the owners that can be asked and were not, the first that is of most use where so many are missing; a silent one
    /// after the others.
    pub(super) fn next_idle(&self, view: &View<'_>, missing: Tally) -> Option<NodeId> {
        let idle = self.seats.iter().filter(|seat| seat.standing == Standing::Idle);
        let useful = idle.filter(|seat| 0 < seat.counts.use_for(missing));
        let askable = useful.filter(|seat| view.can_ask(seat.node));
        let next = askable.min_by_key(|seat| {
            let is_silent = view.reachability(seat.node) != Reachability::Up;
            (is_silent, std::cmp::Reverse(seat.counts.use_for(missing)))
        });
        next.map(|seat| seat.node)
    }

    /// For how many owners they or their stand-ins answered, or were asked and have not been found wanting.
    pub(super) fn coming(&self) -> Tally {
        self.count(|_, standing| matches!(standing, Standing::Asked | Standing::Answered))
    }

    /// For how many owners they or their stand-ins have answered or still may, by the present view.
    pub(super) fn possible(&self, view: &View<'_>) -> Tally {
        self.count(|node, standing| match standing {
            Standing::Idle => view.can_ask(node),
            Standing::Asked | Standing::Behind | Standing::Answered => true,
            Standing::Failed(_) => false,
        })
    }

    /// The same without those that have gone silent.
    pub(super) fn likely(&self, view: &View<'_>) -> Tally {
        self.count(|node, standing| match standing {
            Standing::Idle | Standing::Asked => view.reachability(node) == Reachability::Up,
            Standing::Behind | Standing::Answered => true,
            Standing::Failed(_) => false,
        })
    }

    /// Who of the sets of whom something is needed did not answer, and why. Not listed: who was not needed, and, before
    /// the deadline, who may still answer.
    pub(super) fn failures(
        &self,
        view: &View<'_>,
        deadline: Time,
        needed: Tally,
    ) -> Vec<(NodeId, FailedWhy)> {
        let late = deadline <= view.now;
        let why = |seat: &Seat| match seat.standing {
            Standing::Idle => match view.reachability(seat.node) {
                Reachability::Up | Reachability::Silent => None,
                Reachability::Down => Some(FailedWhy::Down),
                Reachability::Unreachable => Some(FailedWhy::Unreachable),
            },
            Standing::Asked => late.then_some(FailedWhy::Timeout),
            Standing::Behind => Some(FailedWhy::Layout),
            Standing::Answered => None,
            Standing::Failed(why) => Some(why),
        };
        let seats = self.seats.iter().filter(|seat| 0 < seat.counts.use_for(needed));
        seats.filter_map(|seat| Some((seat.node, why(seat)?))).collect()
    }
}

impl Seat {
    const fn is_of_now(&self) -> bool {
        0 < self.counts.now
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
