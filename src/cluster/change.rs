//! From the layout in force to the next one.
//!
//! This release changes a cluster in one step and without moving data: a member's name, and the mode. Whatever else two
//! layouts differ in needs the two steps of a change with `next` (DESIGN §8) and is refused by name.

use crate::node_id::NodeId;
use crate::ring::{Layout, LayoutError, Member, Mode};

/// A change that one step makes.
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
    /// A change of this kind needs two steps.
    #[error("changing {0} in a running cluster comes with a later release")]
    Later(&'static str),
}

/// The layout that follows on `current` by `change`.
/// # Errors
/// [`ChangeError`] where that cannot be, or changes nothing.
pub fn apply(current: &Layout, change: &Change) -> Result<Layout, ChangeError> {
    let mut next = current.clone();
    next.version += 1;
    match change {
        Change::Rename { member, name } => {
            let position = next.now.members.iter().position(|present| present.id == *member);
            let position = position.ok_or(ChangeError::NoMember(*member))?;
            next.now.members[position].name.clone_from(name);
        }
        Change::SetMode(mode) => next.now.mode = *mode,
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
    proposed.validate()?;
    let (before, after) = (&current.now, &proposed.now);
    let members_differ = |same: fn(&Member, &Member) -> bool| {
        !before.members.iter().zip(&after.members).all(|(before, after)| same(before, after))
    };
    let are_others =
        before.members.len() != after.members.len() || members_differ(|a, b| a.id == b.id);
    let later = [
        (current.generation != proposed.generation, "the generation"),
        (current.next.is_some() || proposed.next.is_some(), "anything in two steps"),
        (before.q != after.q, "the number of partitions"),
        ((before.n, before.r, before.w) != (after.n, after.r, after.w), "n, r or w"),
        (are_others, "the members"),
        (members_differ(|a, b| a.zone == b.zone), "a zone"),
        (members_differ(|a, b| a.weight == b.weight), "a weight"),
        (before.owner != after.owner, "who owns what"),
    ];
    if let Some((_, what)) = later.into_iter().find(|(is_changed, _)| *is_changed) {
        return Err(ChangeError::Later(what));
    }
    if before == after { Err(ChangeError::Nothing) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{layout, node};
    use super::*;

    /// A layout 2 that `alter` made of layout 1 is refused with an error that contains `reason`; `""` means it is taken.
    #[track_caller]
    fn check_proposal(alter: fn(&mut Layout), reason: &str) {
        let current = layout(1, "abcd");
        let mut proposed = layout(2, "abcd");
        alter(&mut proposed);
        let answer =
            check(&current, &proposed).map_or_else(|error| error.to_string(), |()| String::new());
        assert!(
            answer.contains(reason) && answer.is_empty() == reason.is_empty(),
            "`{answer}` instead of `{reason}`"
        );
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
    }

    #[test]
    fn what_needs_two_steps_is_refused_by_name() {
        check_proposal(|next| next.now.mode = Mode::Consistent, "");
        check_proposal(|_| {}, "nothing to change");
        check_proposal(|next| next.version = 3, "layout 3 does not follow on layout 1");
        check_proposal(|next| *next = layout(2, "abcde"), "changing the members");
        check_proposal(|next| *next = layout(2, "abce"), "changing the members");
        check_proposal(|next| next.now.n = 4, "changing n, r or w");
        check_proposal(|next| next.now.w = 2, "changing n, r or w");
        check_proposal(|next| next.now.members[1].zone = "z".to_owned(), "changing a zone");
        check_proposal(|next| next.now.members[1].weight.0 = 500, "changing a weight");
        check_proposal(|next| next.now.owner.swap(0, 1), "changing who owns what");
        check_proposal(|next| next.generation = 2, "changing the generation");
        check_proposal(|next| next.next = Some(next.now.clone()), "changing anything in two steps");
        check_proposal(|next| next.now.owner[0] = 9, "no owner");
    }
}
