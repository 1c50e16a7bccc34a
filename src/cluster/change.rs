//! From the layout in force to the next one (DESIGN §8).
//!
//! ```text
//!                  moves no data: one step
//!        ┌──────────────────────────────────────────────┐
//!        │                                               ▼
//! stable {now} ──moves data──▶ both {now, next} ──new──▶ stable {next}
//!                                   └───────────abort──▶ stable {now}
//! ```
//! Each arrow is a version of its own, so of *new* and *abort* exactly one wins. While a change runs every other one is
//! refused. A recovery ([`super::recover`]) is a *both* of its own kind: it can only be finished.

use std::sync::Arc;

use crate::node_id::NodeId;
use crate::ring::{Layout, LayoutError, Mode, Preferences, Ring};

/// A change of the layout.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub enum Change {
    /// Give a member another name.
    Rename {
        /// Whom.
        member: NodeId,
        /// Its name from now on.
        name: String,
    },
    /// Set what requests are by default.
    SetMode(Mode),
    /// Go over to this ring: in one step where no data moves, else by way of both.
    To(Box<Ring>),
    /// End the change that runs: its ring is the only one from now on. For those who saw all that gain data ready.
    Finish,
    /// Give up the change that runs.
    Abort,
}

/// Why a layout cannot follow on another.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ChangeError {
    /// No such member.
    #[error("node {0} is no member")]
    NoMember(NodeId),
    /// The result cannot be.
    #[error(transparent)]
    Layout(#[from] LayoutError),
    /// Both layouts are the same but for the version.
    #[error("nothing to change: the layout already says so")]
    Nothing,
    /// The layout proposed does not follow directly on the present one.
    #[error("layout {proposed} does not follow on layout {current}")]
    Version {
        /// The version in force.
        current: u64,
        /// The version proposed.
        proposed: u64,
    },
    /// The generation rises by recovery alone.
    #[error("the generation of a layout rises only with a recovery")]
    Generation,
    /// One change at a time.
    #[error("a change is running: wait until it is done, or give it up by `kvctl cluster abort`")]
    Running,
    /// While data moves the ring in force stays.
    #[error("a change that moves data takes two steps, and the ring in force stays in between")]
    TwoSteps,
    /// Nothing is there to be ended.
    #[error("no change is running")]
    NotRunning,
    /// Before a recovery is done there is nothing to go back to.
    #[error("a recovery is running: it cannot be given up, and ends by itself")]
    Recovering,
    /// A change that runs can only be finished or given up.
    #[error("the change that runs leads to another ring")]
    Elsewhere,
    /// The number of partitions changes by itself, and keeps every owner.
    #[error("the number of partitions changes by itself: it moves no data")]
    Partitions,
}

/// The layout that follows on `current` by `change`.
/// # Errors
/// [`ChangeError`] where that cannot be, or changes nothing.
pub fn apply(current: &Layout, change: &Change) -> Result<Layout, ChangeError> {
    let version = current.version + 1;
    let mut next = Layout { version, next: None, recovers: false, ..current.clone() };
    match (change, &current.next) {
        (Change::Finish, Some(ring)) => next.now = ring.clone(),
        (Change::Abort, Some(_)) if current.recovers => return Err(ChangeError::Recovering),
        (Change::Abort, Some(_)) => {}
        (Change::Finish | Change::Abort, None) => return Err(ChangeError::NotRunning),
        (Change::Rename { .. } | Change::SetMode(_) | Change::To(_), Some(_)) => {
            return Err(ChangeError::Running);
        }
        (Change::Rename { member, name }, None) => {
            let position = next.now.members.iter().position(|present| present.id == *member);
            let position = position.ok_or(ChangeError::NoMember(*member))?;
            next.now.members[position].name.clone_from(name);
        }
        (Change::SetMode(mode), None) => next.now.mode = *mode,
        (Change::To(ring), None) => {
            ring.validate()?;
            if moves_data(&current.now, ring)? {
                next.next = Some((**ring).clone());
            } else {
                next.now = (**ring).clone();
            }
        }
    }
    check(current, &next)?;
    Ok(next)
}

/// Whether one step leads from `current` to `proposed`.
/// # Errors
/// The first thing against it.
pub fn check(current: &Layout, proposed: &Layout) -> Result<(), ChangeError> {
    if proposed.version != current.version + 1 {
        return Err(ChangeError::Version { current: current.version, proposed: proposed.version });
    }
    if proposed.generation != current.generation {
        return Err(ChangeError::Generation);
    }
    if proposed.recovers {
        return Err(ChangeError::Recovering);
    }
    proposed.validate()?;
    match (&current.next, &proposed.next) {
        (Some(_), Some(_)) => Err(ChangeError::Running),
        (Some(next), None) if current.recovers && proposed.now != *next => {
            Err(ChangeError::Recovering)
        }
        (Some(next), None) if proposed.now == *next || proposed.now == current.now => Ok(()),
        (Some(_), None) => Err(ChangeError::Elsewhere),
        (None, Some(_)) if proposed.now != current.now => Err(ChangeError::TwoSteps),
        (None, Some(next)) if moves_data(&current.now, next)? => Ok(()),
        (None, Some(_)) => Err(ChangeError::Nothing),
        (None, None) if proposed.now == current.now => Err(ChangeError::Nothing),
        (None, None) if moves_data(&current.now, &proposed.now)? => Err(ChangeError::TwoSteps),
        (None, None) => Ok(()),
    }
}

/// Of how many owners of `ring` all must be merged to know whatever a quorum of them may.
pub fn owners_to_copy_from(ring: &Ring) -> usize {
    let (n, r, w) = (ring.effective_n(), ring.effective_r(), ring.effective_w());
    r.max(n + 1 - w).min(n)
}

/// Whether data has to be copied on the way from one ring to the other: where an owner's list is another one, or the
/// quorums are, by which it is known what an owner holds.
/// # Errors
/// [`ChangeError::Partitions`] where the number of partitions changes, and anything of that kind with it.
pub fn moves_data(before: &Ring, after: &Ring) -> Result<bool, ChangeError> {
    let quorums = |ring: &Ring| (ring.effective_n(), ring.effective_r(), ring.effective_w());
    let lists = |ring: &Ring| Preferences::new(Arc::new(ring.clone()));
    let (old, new) = (lists(before), lists(after));
    let steps = before.owner.len().max(after.owner.len());
    let step_of = |lists: &Preferences, step: usize| -> Vec<NodeId> {
        let partition = step * lists.ring().owner.len() / steps;
        let walk = lists.iter().nth(partition).expect("a step lies in a partition");
        walk.owners().collect()
    };
    let moves = quorums(before) != quorums(after)
        || (0..steps).any(|step| step_of(&old, step) != step_of(&new, step));
    if moves && before.q != after.q { Err(ChangeError::Partitions) } else { Ok(moves) }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{layout, node};
    use super::*;
    use crate::ring::Weight;

    /// A layout 2 that `alter` made of layout 1 is refused with an error that contains `reason`; `""` means it is taken.
    #[track_caller]
    fn check_proposal(alter: fn(&mut Layout), reason: &str) {
        check_after(&layout(1, "abcd"), alter, reason);
    }

    /// The same from `current` on.
    #[track_caller]
    fn check_after(current: &Layout, alter: fn(&mut Layout), reason: &str) {
        let mut proposed = Layout { version: current.version + 1, ..current.clone() };
        alter(&mut proposed);
        let answer =
            check(current, &proposed).map_or_else(|error| error.to_string(), |()| String::new());
        assert!(
            answer.contains(reason) && answer.is_empty() == reason.is_empty(),
            "`{answer}` instead of `{reason}`"
        );
    }

    /// The layout 2 in which a change to `ring` runs.
    fn both(ring: Ring) -> Layout {
        let both = apply(&layout(1, "abcd"), &Change::To(Box::new(ring))).unwrap();
        assert!(both.next.is_some(), "data moves");
        both
    }

    #[test]
    fn a_name_and_the_mode_are_one_step() {
        let current = layout(1, "abc");
        let next = apply(&current, &Change::Rename { member: node('b'), name: "beta".to_owned() })
            .unwrap();
        assert_eq!((next.version, next.now.member(node('b')).unwrap().name.as_str()), (2, "beta"));
        let next = apply(&next, &Change::SetMode(Mode::Consistent)).unwrap();
        assert_eq!((next.version, next.now.mode), (3, Mode::Consistent));
        assert_eq!((next.now.owner, next.now.q), (current.now.owner, current.now.q));
    }

    #[test]
    fn what_changes_nothing_or_cannot_be_is_refused() {
        let current = layout(1, "abc");
        let rename = |member, name: &str| {
            apply(&current, &Change::Rename { member: node(member), name: name.to_owned() })
        };
        assert_eq!(rename('z', "beta"), Err(ChangeError::NoMember(node('z'))));
        assert_eq!(rename('b', "b"), Err(ChangeError::Nothing));
        assert_eq!(apply(&current, &Change::SetMode(current.now.mode)), Err(ChangeError::Nothing));
        assert!(matches!(rename('b', "a"), Err(ChangeError::Layout(LayoutError::Name(_)))));
        assert!(matches!(rename('b', ""), Err(ChangeError::Layout(LayoutError::Name(_)))));
        assert_eq!(apply(&current, &Change::Finish), Err(ChangeError::NotRunning));
        assert_eq!(apply(&current, &Change::Abort), Err(ChangeError::NotRunning));
        let same = Change::To(Box::new(current.now.clone()));
        assert_eq!(apply(&current, &same), Err(ChangeError::Nothing));
    }

    #[test]
    fn a_change_that_moves_data_takes_two_steps_or_is_given_up() {
        let wider = layout(1, "abcde").now;
        let both = both(wider.clone());
        assert_eq!((both.version, &both.now), (2, &layout(1, "abcd").now));
        let new = apply(&both, &Change::Finish).unwrap();
        assert_eq!((new.version, &new.now, &new.next), (3, &wider, &None));
        let given_up = apply(&both, &Change::Abort).unwrap();
        assert_eq!((given_up.version, &given_up.now, &given_up.next), (3, &both.now, &None));
        assert_eq!(apply(&both, &Change::SetMode(Mode::Consistent)), Err(ChangeError::Running));
        check_after(&both, |next| next.now.mode = Mode::Consistent, "a change is running");
        check_after(
            &both,
            |next| (next.now.mode, next.next) = (Mode::Consistent, None),
            "leads to another ring",
        );
    }

    #[test]
    fn a_recovery_can_only_be_finished_and_only_once() {
        let next = layout(1, "ab").now;
        let now =
            Ring { owner: next.owner.iter().map(|owner| 1 - owner).collect(), ..next.clone() };
        let recovering =
            Layout { generation: 2, version: 7, now, next: Some(next), recovers: true };
        assert_eq!(apply(&recovering, &Change::Abort), Err(ChangeError::Recovering));
        let new = apply(&recovering, &Change::Finish).unwrap();
        assert_eq!((new.generation, new.version, new.recovers), (2, 8, false));
        assert_eq!((Some(&new.now), new.next), (recovering.next.as_ref(), None));
        check_after(&recovering, |next| (next.next, next.recovers) = (None, false), "a recovery");
        check_after(&recovering, |_| {}, "a recovery");
        check_proposal(
            |next| (next.next, next.recovers) = (Some(next.now.clone()), true),
            "a recovery",
        );
    }

    #[test]
    fn what_moves_data_never_goes_in_one_step() {
        check_proposal(|next| next.now.mode = Mode::Consistent, "");
        check_proposal(|_| {}, "nothing to change");
        check_proposal(|next| next.version = 3, "layout 3 does not follow on layout 1");
        check_proposal(|next| *next = layout(2, "abcde"), "takes two steps");
        check_proposal(|next| *next = layout(2, "abce"), "takes two steps");
        check_proposal(|next| next.now.n = 4, "takes two steps");
        check_proposal(|next| next.now.w = 2, "takes two steps");
        check_proposal(|next| next.now.owner.swap(0, 1), "takes two steps");
        check_proposal(|next| next.generation = 2, "the generation");
        check_proposal(|next| next.next = Some(next.now.clone()), "nothing to change");
        check_proposal(|next| next.now.owner[0] = 9, "no owner");
        check_proposal(
            |next| (next.next, next.now.mode) = (Some(layout(2, "abcde").now), Mode::Consistent),
            "takes two steps",
        );
    }

    #[test]
    fn what_keeps_every_list_is_one_step() {
        check_proposal(|next| next.now.members[1].weight = Weight(500), "");
        let doubled = |ring: &mut Ring| {
            ring.q *= 2;
            ring.owner = ring.owner.iter().flat_map(|owner| [*owner, *owner]).collect();
        };
        // Of members alone no list changes when their partitions are halved.
        let alone = layout(1, "a");
        let mut wider = Layout { version: 2, ..alone.clone() };
        doubled(&mut wider.now);
        assert_eq!(check(&alone, &wider), Ok(()));
        let mut elsewhere = layout(2, "abcd");
        doubled(&mut elsewhere.now);
        elsewhere.now.owner.swap(0, 3);
        assert_eq!(check(&layout(1, "abcd"), &elsewhere), Err(ChangeError::Partitions));
    }
}
