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
