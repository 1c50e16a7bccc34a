//! What an operator wishes of the members and the quorum, and the ring that comes of it.

use std::sync::Arc;

use sha1_smol::Sha1;

use crate::node_id::NodeId;

use super::{LayoutError, Member, Preferences, Ring, Shortfall, Weight, place};

/// What the identity of a member that does not exist yet is made from, before its name.
const PLANNED_ID_PREFIX: &[u8] = b"kvkit planned member\0";

/// One wish. Members are named, since a planned one has no identity of its own yet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Wish {
    /// A further member.
    Add {
        /// Its name.
        name: String,
        /// Its zone, or nothing.
        zone: String,
        /// Its share.
        weight: Weight,
    },
    /// A member less.
    Remove(String),
    /// Another weight.
    Weigh(String, Weight),
    /// Another zone.
    Rezone(String, String),
    /// Replicas of a key.
    N(u8),
    /// The read quorum.
    R(u8),
    /// The write quorum.
    W(u8),
    /// The number of partitions.
    Partitions(u32),
}

/// A ring that follows on another.
#[derive(Clone, Debug, PartialEq)]
pub struct Plan {
    /// The ring.
    pub ring: Ring,
    /// What its placement could not keep.
    pub shortfalls: Vec<Shortfall>,
}

/// Why there can be no such ring.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PlanError {
    /// No such member.
    #[error("no member is named `{0}`")]
    NoMember(String),
    /// A name that is taken.
    #[error("a member is named `{0}` already")]
    Taken(String),
    /// Partitions split in two; they are never merged.
    #[error("{wanted} partitions: there are {present}, and their number can only be doubled")]
    FewerPartitions {
        /// How many there are.
        present: u32,
        /// How many were wished for.
        wanted: u32,
    },
    /// The result cannot be.
    #[error(transparent)]
    Layout(#[from] LayoutError),
}

/// The ring that follows on `now` by all of `wishes` together, as the solver would place it.
/// # Errors
/// [`PlanError`] where there can be none.
pub fn plan(now: &Ring, wishes: &[Wish]) -> Result<Plan, PlanError> {
    let mut ring = now.clone();
    for wish in wishes {
        fulfil(&mut ring, wish)?;
    }
    ring.members.sort_by_key(|member| member.id);
    if ring.q < now.q {
        return Err(PlanError::FewerPartitions { present: now.q, wanted: ring.q });
    }
    Ok(place_anew(now, ring)?)
}

/// `ring` with its partitions placed, moving little away from `before`. Where nothing that a placement depends on is
/// another one than there, every partition, and every part of one that is split, keeps its owner.
/// # Errors
/// [`LayoutError`] where there can be no such ring.
pub fn place_anew(before: &Ring, mut ring: Ring) -> Result<Plan, LayoutError> {
    ring.validate_numbers()?;
    let placed_by = |ring: &Ring| {
        let active = ring.members.iter().filter(|member| Weight::ZERO < member.weight);
        let active = active.map(|member| (member.id, member.zone.clone(), member.weight));
        (active.collect::<Vec<_>>(), ring.n)
    };
    let shortfalls = if placed_by(before) == placed_by(&ring) && before.q <= ring.q {
        let halves = (ring.q / before.q) as usize;
        let owners = before.owner.iter().map(|owner| before.members[usize::from(*owner)].id);
        let indexes = owners.map(|owner| ring.index_of(owner).expect("who is active stays so"));
        let owners = indexes.flat_map(|index| std::iter::repeat_n(index, halves)).collect();
        ring.owner = owners;
        Vec::new()
    } else {
        let placement = place(ring.q, ring.n, &ring.members, Some(before));
        ring.owner = placement.owner;
        placement.shortfalls
    };
    ring.validate()?;
    Ok(Plan { ring, shortfalls })
}

/// The identity that stands for a member which is only planned: the same for the same name, so that one plan can follow
/// on another. The real one is drawn by the node itself.
pub fn planned_id(name: &str) -> NodeId {
    let mut digest = Sha1::from(PLANNED_ID_PREFIX);
    digest.update(name.as_bytes());
    NodeId::from_bytes(*digest.digest().bytes().first_chunk().expect("a SHA-1 digest has 20 bytes"))
}

impl Plan {
    /// The planned ring's owners, without fallbacks.
    pub fn preferences(&self) -> Preferences {
        Preferences::without_fallbacks(Arc::new(self.ring.clone()))
    }
}

fn fulfil(ring: &mut Ring, wish: &Wish) -> Result<(), PlanError> {
    let position = |ring: &Ring, name: &String| {
        let found = ring.members.iter().position(|member| member.name == *name);
        found.ok_or_else(|| PlanError::NoMember(name.clone()))
    };
    match wish {
        Wish::Add { name, zone, weight } => {
            if ring.named(name).is_some() {
                return Err(PlanError::Taken(name.clone()));
            }
            let (name, zone) = (name.clone(), zone.clone());
            ring.members.push(Member { id: planned_id(&name), name, zone, weight: *weight });
        }
        Wish::Remove(name) => drop(ring.members.remove(position(ring, name)?)),
        Wish::Weigh(name, weight) => {
            let at = position(ring, name)?;
            ring.members[at].weight = *weight;
        }
        Wish::Rezone(name, zone) => {
            let at = position(ring, name)?;
            ring.members[at].zone.clone_from(zone);
        }
        Wish::N(n) => ring.n = *n,
        Wish::R(r) => ring.r = *r,
        Wish::W(w) => ring.w = *w,
        Wish::Partitions(q) => ring.q = *q,
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::notation::{members, node, placed};
    use super::super::{Movement, SLOTS};
    use super::*;

    fn three() -> Ring {
        placed(64, 3, members("1 1 1"), None)
    }

    fn add(name: &str) -> Wish {
        Wish::Add { name: name.to_owned(), zone: String::new(), weight: Weight::ONE }
    }

    fn preferences(ring: &Ring) -> Preferences {
        Preferences::without_fallbacks(Arc::new(ring.clone()))
    }

    #[track_caller]
    fn check_refused(wishes: &[Wish], expected: &str) {
        assert_eq!(plan(&three(), wishes).unwrap_err().to_string(), expected, "{wishes:?}");
    }

    #[test]
    fn a_planned_member_is_the_same_in_every_plan() {
        let [once, again] = [(), ()].map(|()| plan(&three(), &[add("n4")]).unwrap());
        assert_eq!(once, again);
        let joined = once.ring.named("n4").unwrap();
        assert_eq!(joined.id, planned_id("n4"));
        assert_ne!(planned_id("n4"), planned_id("n5"));
        let back = plan(&once.ring, &[Wish::Remove("n4".to_owned())]).unwrap().ring;
        assert_eq!(back.members, three().members);
    }

    #[test]
    fn all_wishes_are_one_plan() {
        let wishes = [
            add("n4"),
            Wish::Remove("n1".to_owned()),
            Wish::Weigh("n2".to_owned(), Weight(2_000)),
            Wish::Rezone("n3".to_owned(), "b".to_owned()),
            Wish::N(2),
            Wish::R(1),
            Wish::Partitions(128),
        ];
        let ring = plan(&three(), &wishes).unwrap().ring;
        assert_eq!((ring.q, ring.n, ring.r, ring.w), (128, 2, 1, 2));
        let mut names: Vec<&str> = ring.members.iter().map(|member| member.name.as_str()).collect();
        names.sort_unstable();
        assert_eq!(names, ["n2", "n3", "n4"]);
        assert_eq!(ring.member(node(2)).unwrap().weight, Weight(2_000));
        assert_eq!(ring.member(node(3)).unwrap().zone, "b");
    }

    #[test]
    fn what_needs_no_data_moves_none() {
        for wishes in [&[Wish::Partitions(1024)][..], &[Wish::R(3), Wish::W(1)], &[]] {
            let before = three();
            let planned = plan(&before, wishes).unwrap();
            planned.ring.validate().unwrap();
            let moved = Movement::between(&preferences(&before), &planned.preferences()).moved();
            assert_eq!((moved, planned.shortfalls.as_slice()), (0, [].as_slice()), "{wishes:?}");
        }
    }

    #[test]
    fn what_cannot_be_is_refused_with_the_reason() {
        let remove = |name: &str| Wish::Remove(name.to_owned());
        check_refused(&[remove("n9")], "no member is named `n9`");
        check_refused(&[add("n1")], "a member is named `n1` already");
        check_refused(&[add("n4"), add("n4")], "a member is named `n4` already");
        check_refused(&[add("-")], "name `-` is taken twice or malformed");
        check_refused(&[Wish::N(1)], "n=1 r=2 w=2: each must be at least 1, r and w at most n");
        check_refused(
            &[Wish::N(0), Wish::R(0), Wish::W(0)],
            "n=0 r=0 w=0: each must be at least 1, r and w at most n",
        );
        check_refused(
            &[Wish::Partitions(96)],
            "96 partitions: the number must be a power of two up to 65536",
        );
        check_refused(
            &[Wish::Partitions(32)],
            "32 partitions: there are 64, and their number can only be doubled",
        );
        check_refused(
            &[remove("n1"), remove("n2"), remove("n3")],
            "a ring needs at least one member of weight above 0",
        );
    }

    proptest! {
        /// Whatever is joined and removed: a ring that can be, whose members are those asked for, and no
        /// slot's data moved to more members than own it.
        #[test]
        fn plans_are_sound(joins in 0..5_usize, removed in prop::collection::btree_set(1..5_u32, 0..4), n in 1..5_u8) {
            let before = placed(64, 3, members("1 1 1 1 1"), None);
            let mut wishes: Vec<Wish> = (0..joins).map(|number| add(&format!("j{number}"))).collect();
            wishes.extend(removed.iter().map(|number| Wish::Remove(format!("n{number}"))));
            wishes.extend([Wish::N(n), Wish::R(1), Wish::W(1)]);
            let planned = plan(&before, &wishes).unwrap();
            prop_assert_eq!(planned.ring.validate(), Ok(()));
            prop_assert_eq!(planned.ring.members.len(), 5 + joins - removed.len());
            let (old, new) = (preferences(&before), planned.preferences());
            let movement = Movement::between(&old, &new);
            prop_assert!(movement.moved() <= SLOTS * planned.ring.effective_n());
        }
    }
}
