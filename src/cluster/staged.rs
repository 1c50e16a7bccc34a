//! What operators stage before they commit it: several changes make one plan.
//!
//! Staged changes are hearsay: each node keeps what it was told (the last word about a subject counts), and forgets it
//! when another layout is chosen. Nothing follows from them before somebody commits the ring planned with them, against
//! the version that it was planned from.

use serde::{Deserialize, Serialize};

use crate::node_id::NodeId;
use crate::ring::{Member, Mode, Plan, Ring, Weight, place_anew};

use super::change::ChangeError;

/// Most staged changes that a node keeps.
pub const STAGED_MAX: usize = 1_024;

/// A change that is to be part of the next ring.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Staged {
    /// A node becomes a member.
    Join(Member),
    /// A member gives its share away, and goes once nothing is left with it.
    Leave(NodeId),
    /// A node takes the place of a member that is gone for good.
    Replace {
        /// Who is gone.
        dead: NodeId,
        /// Who takes its place, with its zone and weight.
        by: Member,
    },
    /// A member is gone for good; the others take its share.
    Remove(NodeId),
    /// A member's share.
    Weight(NodeId, Weight),
    /// A member's zone.
    Zone(NodeId, String),
    /// n, r and w.
    Quorum {
        /// Replicas a key has.
        n: u8,
        /// Owners that a read asks.
        r: u8,
        /// Owners that acknowledge a write.
        w: u8,
    },
    /// Sloppy or strict by default.
    Mode(Mode),
    /// So many partitions.
    Partitions(u32),
}

/// What two staged changes must not both speak of: the later one counts.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Subject {
    /// Whether a node is a member, and with which share.
    Member(NodeId),
    /// Where a member stands.
    Zone(NodeId),
    /// n, r and w.
    Quorum,
    /// The mode.
    Mode,
    /// The number of partitions.
    Partitions,
}

impl Staged {
    /// What it speaks of.
    pub const fn subject(&self) -> Subject {
        match self {
            Self::Join(member) => Subject::Member(member.id),
            Self::Leave(node)
            | Self::Remove(node)
            | Self::Weight(node, _)
            | Self::Replace { dead: node, .. } => Subject::Member(*node),
            Self::Zone(node, _) => Subject::Zone(*node),
            Self::Quorum { .. } => Subject::Quorum,
            Self::Mode(_) => Subject::Mode,
            Self::Partitions(_) => Subject::Partitions,
        }
    }
}

/// The ring that follows on `now` by all of `staged`. Pure: who plans the same comes to the same.
/// # Errors
/// [`ChangeError`]: no such member, or a ring that cannot be.
pub fn plan(now: &Ring, staged: &[Staged]) -> Result<Plan, ChangeError> {
    let mut before = now.clone();
    let mut ring = now.clone();
    for change in staged {
        match change {
            Staged::Join(member) => put(&mut ring.members, member.clone()),
            Staged::Leave(node) => member(&mut ring, *node)?.weight = Weight::ZERO,
            Staged::Remove(node) => {
                member(&mut ring, *node)?;
                ring.members.retain(|member| member.id != *node);
            }
            Staged::Replace { dead, by } => {
                let gone = member(&mut ring, *dead)?.clone();
                let by = Member { zone: gone.zone, weight: gone.weight, ..by.clone() };
                ring.members.retain(|member| member.id != *dead);
                put(&mut ring.members, by.clone());
                // For the solver it was there before: nothing else has to move.
                rename(&mut before, *dead, by);
            }
            Staged::Weight(node, weight) => member(&mut ring, *node)?.weight = *weight,
            Staged::Zone(node, zone) => member(&mut ring, *node)?.zone.clone_from(zone),
            Staged::Quorum { n, r, w } => (ring.n, ring.r, ring.w) = (*n, *r, *w),
            Staged::Mode(mode) => ring.mode = *mode,
            Staged::Partitions(q) => ring.q = *q,
        }
    }
    if ring.q < now.q {
        return Err(crate::ring::LayoutError::Partitions(ring.q).into());
    }
    Ok(place_anew(&before, ring)?)
}

fn member(ring: &mut Ring, node: NodeId) -> Result<&mut Member, ChangeError> {
    ring.members.iter_mut().find(|member| member.id == node).ok_or(ChangeError::NoMember(node))
}

/// Puts a member in its place by id, instead of one of that id.
fn put(members: &mut Vec<Member>, member: Member) {
    members.retain(|other| other.id != member.id);
    let place = members.partition_point(|other| other.id < member.id);
    members.insert(place, member);
}

/// The same ring where `by` stands in the place of `dead`.
fn rename(ring: &mut Ring, dead: NodeId, by: Member) {
    let id = by.id;
    let owners = ring.owner.iter().map(|owner| ring.members[usize::from(*owner)].id);
    let owners: Vec<NodeId> = owners.map(|owner| if owner == dead { id } else { owner }).collect();
    ring.members.retain(|member| member.id != dead);
    put(&mut ring.members, by);
    let index = |owner| ring.index_of(owner).expect("every owner is a member");
    ring.owner = owners.into_iter().map(index).collect();
}

#[cfg(test)]
mod tests {
    use super::super::testing::{layout, node};
    use super::*;
    use crate::cluster::change;
    use crate::ring::{Movement, Preferences};

    fn joiner(name: char) -> Member {
        Member { id: node(name), name: name.to_string(), zone: String::new(), weight: Weight::ONE }
    }

    fn share_moved(before: &Ring, after: &Ring) -> f64 {
        let lists = |ring: &Ring| Preferences::new(ring.clone().into());
        Movement::between(&lists(before), &lists(after)).share()
    }

    #[test]
    fn several_members_join_in_one_plan() {
        let now = layout(1, "abc").now;
        let planned = plan(&now, &[Staged::Join(joiner('e')), Staged::Join(joiner('d'))]).unwrap();
        assert_eq!(planned.ring.members.len(), 5);
        let share = share_moved(&now, &planned.ring);
        assert!((0.3..0.5).contains(&share), "two of five take {share}");
        assert_eq!(change::moves_data(&now, &planned.ring), Ok(true));
    }

    #[test]
    fn who_leaves_owns_nothing_and_stays_a_member() {
        let now = layout(1, "abcd").now;
        let planned = plan(&now, &[Staged::Leave(node('b'))]).unwrap();
        assert_eq!(planned.ring.member(node('b')).map(|member| member.weight), Some(Weight::ZERO));
        let lists = Preferences::new(planned.ring.clone().into());
        assert!(lists.iter().all(|walk| !walk.owns(node('b'))));
        // Once it is gone nothing moves any more.
        let without = plan(&planned.ring, &[Staged::Remove(node('b'))]).unwrap();
        assert_eq!(change::moves_data(&planned.ring, &without.ring), Ok(false));
        assert_eq!(without.ring.members.len(), 3);
    }

    #[test]
    fn who_takes_a_place_moves_nothing_else() {
        let now = layout(1, "abcd").now;
        let staged = [Staged::Replace { dead: node('c'), by: joiner('x') }];
        let planned = plan(&now, &staged).unwrap();
        let lists = |ring: &Ring| Preferences::new(ring.clone().into());
        let movement = Movement::between(&lists(&now), &lists(&planned.ring));
        assert_eq!(movement.moved(), movement.gained_by(node('x')));
        assert!(movement.slots.keys().all(|(from, _)| *from == Some(node('c'))), "{movement:?}");
    }

    #[test]
    fn partitions_are_halved_in_place_and_quorums_keep_owners() {
        let now = layout(1, "abcd").now;
        let planned = plan(&now, &[Staged::Partitions(128)]).unwrap();
        assert_eq!(
            (planned.ring.owner.len(), change::moves_data(&now, &planned.ring)),
            (128, Ok(false))
        );
        let planned = plan(&now, &[Staged::Quorum { n: 3, r: 2, w: 2 }]).unwrap();
        assert_eq!(planned.ring.owner, now.owner);
        assert_eq!(
            change::moves_data(&now, &planned.ring),
            Ok(true),
            "what a quorum holds is another thing"
        );
    }

    #[test]
    fn what_cannot_be_is_refused() {
        let now = layout(1, "ab").now;
        assert_eq!(plan(&now, &[Staged::Leave(node('z'))]), Err(ChangeError::NoMember(node('z'))));
        let all = [Staged::Leave(node('a')), Staged::Leave(node('b'))];
        assert!(matches!(plan(&now, &all), Err(ChangeError::Layout(_))));
        for q in [48, 16] {
            assert!(matches!(plan(&now, &[Staged::Partitions(q)]), Err(ChangeError::Layout(_))));
        }
    }
}
