//! Recovery: the way out after the loss of a majority of the members for good (DESIGN §3).
//!
//! Without a majority no layout can be chosen. An operator then names the survivors, and all of them together, each
//! durably, agree to begin a new *generation* of layouts, in which they are the only members:
//! ```text
//! operator's tool                    each survivor
//!   what do you know?        ──────▶
//!                            ◀──────  layout in force, recovery accepted, which members are present
//!   plan: a generation and a version above all that any of them knows
//!   accept {layout}          ──────▶  sync; from now on nothing for the generation before: no vote, no answer
//!                            ◀──────  accepted
//!   all of them accepted: the recovery is chosen
//!   begin {layout}           ──────▶  sync, act on it; others learn it from each other
//! ```
//! It is a decision for which everybody's voice is needed, so one survivor that accepted nothing, or a later recovery,
//! shows that an earlier one was not chosen, and never will be. Who accepted a recovery accepts another one only of a higher
//! generation. So:
//! - a tool that died is followed by another with the same names: it goes on with the same layout, or supersedes it;
//! - of two recoveries at once with a survivor in common at most one is chosen; both are refused at worst, and the next
//!   try is of a higher generation than either;
//! - a survivor that is lost after it accepted is left out of the next try, which is of a higher generation: should it
//!   have begun by itself it is refused by the others, and can do nothing without them.
//!
//! The layout that is accepted is a change that runs: *now* has the survivors where the walk met them before, so that who
//! owned a slot owns it still; *next* has their fair shares. Each owner of *next* merges what every other survivor holds of
//! a slot, owned, left over or copied half-way, before the change is done. Therefore nothing but the numbers depends
//! on which layout it is based on.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::node_id::NodeId;
use crate::ring::{Layout, LayoutError, Member, Preferences, Ring, Weight, place};

use super::LayoutTag;
use super::change::owners_to_copy_from;

/// What a survivor tells who plans a recovery.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Knowledge {
    /// Who.
    pub node: NodeId,
    /// The layout it acts on.
    pub layout: Layout,
    /// The recovery that it accepted and does not act on yet.
    pub accepted: Option<Layout>,
    /// The other members that it takes for present.
    pub present: Vec<NodeId>,
}

/// A recovery, before anybody is asked to accept it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plan {
    /// The layout that it is based on: the highest that any survivor acts on in the generation before.
    pub base: Layout,
    /// The layout that all survivors are to accept.
    pub layout: Layout,
    /// Whether some accepted it before: it is gone on with.
    pub is_resumed: bool,
    /// The survivors that do not act on it yet.
    pub open: BTreeSet<NodeId>,
    /// What is lost, by the base.
    pub loss: Loss,
}

/// What a recovery gives up: how many owners of each partition survive.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Loss {
    /// Partitions by the number of their owners that survive: none, one, …
    pub partitions: Vec<usize>,
    /// With as many surviving owners no acknowledged write of owners is lost.
    pub enough: usize,
}

/// Why there can be no such recovery.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PlanError {
    /// Nobody is named.
    #[error("no survivor is named")]
    Nobody,
    /// It is no member of the layout that the others act on.
    #[error(
        "{0} is no member of the layout in force: it was removed, or left behind by a recovery"
    )]
    Stranger(NodeId),
    /// These are not named, but a survivor hears them.
    #[error("members that are not named are still there")]
    Present(BTreeSet<NodeId>),
    /// Everybody is named, and has nothing to go on with.
    #[error("no member is lost: all of them are named")]
    NobodyLost,
    /// They can choose a layout.
    #[error("those named are a majority, which can change the layout without any loss")]
    Majority,
    /// What comes of it cannot be.
    #[error(transparent)]
    Layout(#[from] LayoutError),
}

/// Why a node does not accept a recovery, or does not begin it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RecoveryRefused {
    /// It is no recovery.
    #[error("the layout is no recovery")]
    NoRecovery,
    /// It cannot be.
    #[error(transparent)]
    Malformed(#[from] LayoutError),
    /// This node is left out.
    #[error("the recovery leaves this node out")]
    NotNamed,
    /// It learned another layout since it was asked.
    #[error("layout {} of generation {} is in force here by now", .0.version, .0.generation)]
    Overtaken(LayoutTag),
    /// It accepted another recovery.
    #[error("another recovery, of generation {}, was accepted here", .0.generation)]
    Other(LayoutTag),
    /// It accepted none.
    #[error("this recovery was not accepted here")]
    NotAccepted,
}

/// The recovery of these survivors, by what all of them told. Pure: who plans the same comes to the same.
/// # Errors
/// [`PlanError`].
/// # Panics
/// Where a survivor told nothing.
pub fn plan(survivors: &BTreeSet<NodeId>, told: &[Knowledge]) -> Result<Plan, PlanError> {
    let told: Vec<&Knowledge> = told.iter().filter(|told| survivors.contains(&told.node)).collect();
    assert_eq!(told.len(), survivors.len(), "every survivor tells what it knows, once");
    let in_force = || told.iter().map(|told| &told.layout);
    let accepted = || told.iter().filter_map(|told| told.accepted.as_ref());
    let latest = in_force().max_by_key(|layout| rank(layout)).ok_or(PlanError::Nobody)?;
    if let Some(stranger) = survivors.iter().find(|node| latest.member(**node).is_none()) {
        return Err(PlanError::Stranger(*stranger));
    }
    let present: BTreeSet<NodeId> = told
        .iter()
        .flat_map(|told| told.present.iter().copied())
        .filter(|node| !survivors.contains(node) && latest.member(*node).is_some())
        .collect();
    if !present.is_empty() {
        return Err(PlanError::Present(present));
    }
    let begun = accepted()
        .max_by_key(|layout| rank(layout))
        .filter(|begun| goes_on(begun, survivors, &told));
    if let Some(begun) = begun {
        let before = in_force().filter(|layout| layout.generation < begun.generation);
        let base = before.max_by_key(|layout| rank(layout)).unwrap_or(latest).clone();
        let open = told.iter().filter(|told| told.layout.generation < begun.generation);
        let open = open.map(|told| told.node).collect();
        let loss = Loss::of(&base.now, survivors);
        return Ok(Plan { base, layout: begun.clone(), is_resumed: true, open, loss });
    }
    check_need(survivors, latest, &told)?;
    let all = || in_force().chain(accepted());
    let highest = |number: fn(&Layout) -> u64| all().map(number).max().unwrap_or_default();
    let layout = recovered(
        latest,
        survivors,
        highest(|layout| layout.generation) + 1,
        highest(|layout| layout.version) + 1,
    )?;
    let loss = Loss::of(&latest.now, survivors);
    Ok(Plan { base: latest.clone(), layout, is_resumed: false, open: survivors.clone(), loss })
}

/// Layouts in the order in which they follow on each other.
const fn rank(layout: &Layout) -> (u64, u64) {
    (layout.generation, layout.version)
}

/// Whether a recovery that somebody accepted can be accepted, or is, by all: it is theirs, and no layout above it is in
/// force with any of them.
fn goes_on(begun: &Layout, survivors: &BTreeSet<NodeId>, told: &[&Knowledge]) -> bool {
    let members: BTreeSet<NodeId> = begun.now.members.iter().map(|member| member.id).collect();
    members == *survivors
        && told.iter().all(|Knowledge { node, layout, accepted, .. }| {
            layout.generation == begun.generation
                || may_accept(*node, layout, accepted.as_ref(), begun).is_ok()
        })
}

/// Whether anything but a recovery would do.
fn check_need(
    survivors: &BTreeSet<NodeId>,
    latest: &Layout,
    told: &[&Knowledge],
) -> Result<(), PlanError> {
    let members = &latest.now.members;
    let is_bound = told.iter().any(|told| told.accepted.is_some());
    if !is_bound && latest.members().all(|member| survivors.contains(&member.id)) {
        return Err(PlanError::NobodyLost);
    }
    // Who accepted a recovery votes no more.
    let is_voter =
        |told: &&&Knowledge| told.accepted.is_none() && latest.now.member(told.node).is_some();
    if members.len() / 2 < told.iter().filter(is_voter).count() {
        return Err(PlanError::Majority);
    }
    Ok(())
}

/// The layout of this generation and version whose members are the survivors of `base`.
fn recovered(
    base: &Layout,
    survivors: &BTreeSet<NodeId>,
    generation: u64,
    version: u64,
) -> Result<Layout, LayoutError> {
    let kept = |id: &NodeId| {
        let joins = base.next.as_ref().and_then(|next| next.member(*id));
        base.now.member(*id).or(joins).cloned()
    };
    let mut members: Vec<Member> = survivors.iter().filter_map(kept).collect();
    if members.iter().all(|member| member.weight == Weight::ZERO) {
        // Only members that were about to leave are left: they have to stay.
        for member in &mut members {
            member.weight = Weight::ONE;
        }
    }
    let Ring { q, n, .. } = base.now;
    let owner = owners_left(&base.now, &members);
    let now = Ring { members, owner, ..base.now.clone() };
    now.validate()?;
    let owner = place(q, n, &now.members, Some(&now)).owner;
    let next = Some(Ring { owner, ..now.clone() });
    let layout = Layout { generation, version, now, next, recovers: true };
    layout.validate().map(|()| layout)
}

/// For each partition its owner if that is among `members`, else the next one clockwise that is: so the walks meet those
/// that are left in the order of before. Where none of them owned anything, the first by its id stood first.
fn owners_left(ring: &Ring, members: &[Member]) -> Vec<u16> {
    let active = members.iter().zip(0..).filter(|(member, _)| Weight::ZERO < member.weight);
    let index: BTreeMap<NodeId, u16> = active.map(|(member, index)| (member.id, index)).collect();
    let first = index.values().next().copied().unwrap_or_default();
    let mut owner = vec![first; ring.owner.len()];
    let mut next = first;
    // Backwards, twice: the first round is for what follows behind the ring's end.
    for partition in (0..owner.len()).rev().chain((0..owner.len()).rev()) {
        let before = ring.members[usize::from(ring.owner[partition])].id;
        next = index.get(&before).copied().unwrap_or(next);
        owner[partition] = next;
    }
    owner
}

/// Whether the node `me`, which acts on `in_force` and accepted the recovery `accepted`, if any, may accept `proposed`.
/// # Errors
/// [`RecoveryRefused`].
pub fn may_accept(
    me: NodeId,
    in_force: &Layout,
    accepted: Option<&Layout>,
    proposed: &Layout,
) -> Result<(), RecoveryRefused> {
    proposed.validate()?;
    if !proposed.recovers {
        return Err(RecoveryRefused::NoRecovery);
    }
    if proposed.now.member(me).is_none() {
        return Err(RecoveryRefused::NotNamed);
    }
    if in_force == proposed || accepted == Some(proposed) {
        return Ok(());
    }
    if proposed.generation <= in_force.generation || proposed.version <= in_force.version {
        return Err(RecoveryRefused::Overtaken(LayoutTag::of(in_force)));
    }
    match accepted.filter(|accepted| proposed.generation <= accepted.generation) {
        Some(accepted) => Err(RecoveryRefused::Other(LayoutTag::of(accepted))),
        None => Ok(()),
    }
}

impl Loss {
    fn of(ring: &Ring, survivors: &BTreeSet<NodeId>) -> Self {
        let mut partitions = vec![0; ring.effective_n() + 1];
        for walk in Preferences::without_fallbacks(Arc::new(ring.clone())).iter() {
            partitions[walk.owners().filter(|owner| survivors.contains(owner)).count()] += 1;
        }
        Self { partitions, enough: owners_to_copy_from(ring) }
    }

    /// How many partitions there are.
    pub fn total(&self) -> usize {
        self.partitions.iter().sum()
    }

    /// Partitions of which no owner survives: what they held is lost, but for left-overs and hints.
    pub fn without_owner(&self) -> usize {
        self.partitions.first().copied().unwrap_or_default()
    }

    /// Partitions of which owners survive, but too few to know of every acknowledged write.
    pub fn with_too_few(&self) -> usize {
        self.partitions.iter().take(self.enough).skip(1).sum()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::testing::{layout, node, nodes};
    use super::*;
    use crate::cluster::change::{self, Change};

    fn set(names: &str) -> BTreeSet<NodeId> {
        nodes(names).into_iter().collect()
    }

    /// What `name` knows: its layout, what it accepted, whom it hears.
    fn knows(name: char, layout: &Layout, accepted: Option<&Layout>, present: &str) -> Knowledge {
        let (layout, accepted) = (layout.clone(), accepted.cloned());
        Knowledge { node: node(name), layout, accepted, present: nodes(present) }
    }

    /// The survivors of `names` all know `layout` and hear each other.
    fn planned(names: &str, layout: &Layout) -> Result<Plan, PlanError> {
        let told: Vec<Knowledge> =
            names.chars().map(|name| knows(name, layout, None, names)).collect();
        plan(&set(names), &told)
    }

    fn members(ring: &Ring) -> BTreeSet<NodeId> {
        ring.members.iter().map(|member| member.id).collect()
    }

    #[test]
    fn survivors_become_the_only_members_of_the_next_generation() {
        let base = layout(6, "abcde");
        let Plan { layout, base: based_on, is_resumed, open, .. } = planned("bd", &base).unwrap();
        assert_eq!((layout.generation, layout.version, layout.recovers), (2, 7, true));
        assert_eq!((based_on, is_resumed, open), (base, false, set("bd")));
        let next = layout.next.clone().unwrap();
        assert_eq!((members(&layout.now), members(&next)), (set("bd"), set("bd")));
        assert_eq!((next.n, next.effective_n()), (3, 2));
        let done = change::apply(&layout, &Change::Finish).unwrap();
        assert_eq!((done.generation, done.version, done.now), (2, 8, next));
    }

    #[test]
    fn the_highest_layout_that_any_of_them_knows_is_the_base() {
        let (older, newer) = (layout(6, "abcde"), layout(8, "abcdef"));
        let told = [knows('a', &older, None, ""), knows('f', &newer, None, "")];
        let plan = plan(&set("af"), &told).unwrap();
        assert_eq!((plan.base.version, plan.layout.version), (8, 9));
    }

    #[track_caller]
    fn check_refused(survivors: &str, told: &[Knowledge], expected: &PlanError) {
        assert_eq!(plan(&set(survivors), told).as_ref().unwrap_err(), expected);
    }

    #[test]
    fn what_another_way_leads_out_of_is_refused() {
        let base = layout(6, "abcde");
        let all = |names: &str, present: &str| -> Vec<Knowledge> {
            names.chars().map(|name| knows(name, &base, None, present)).collect()
        };
        check_refused("abc", &all("abc", ""), &PlanError::Majority);
        check_refused("abcde", &all("abcde", ""), &PlanError::NobodyLost);
        check_refused("ab", &all("ab", "abc"), &PlanError::Present(set("c")));
        check_refused("az", &all("az", ""), &PlanError::Stranger(node('z')));
        check_refused("", &[], &PlanError::Nobody);
        // Who was removed before may be heard or not.
        assert!(plan(&set("ab"), &all("ab", "z")).is_ok());
    }

    #[test]
    fn a_try_that_ended_in_the_middle_is_gone_on_with_by_the_same_names() {
        let base = layout(6, "abcde");
        let first = planned("ab", &base).unwrap().layout;
        for b in [knows('b', &base, None, "a"), knows('b', &base, Some(&first), "a")] {
            let told = [knows('a', &base, Some(&first), "b"), b];
            let Plan { layout, is_resumed, open, .. } = plan(&set("ab"), &told).unwrap();
            assert_eq!((&layout, is_resumed, open), (&first, true, set("ab")));
        }
        // One of them acts on it already, or is past it.
        let done = change::apply(&first, &Change::Finish).unwrap();
        for began in [&first, &done] {
            let told = [knows('a', began, None, "b"), knows('b', &base, Some(&first), "a")];
            let Plan { layout, base: based_on, open, .. } = plan(&set("ab"), &told).unwrap();
            assert_eq!((layout, open, based_on.version), (first.clone(), set("b"), 6));
        }
        // All do: there is nothing to recover.
        let told = [knows('a', &first, None, "b"), knows('b', &first, None, "a")];
        check_refused("ab", &told, &PlanError::NobodyLost);
    }

    #[test]
    fn other_names_or_a_layout_learned_since_begin_a_higher_generation() {
        let base = layout(6, "abcde");
        let first = planned("ab", &base).unwrap().layout;
        let told = [knows('b', &base, Some(&first), ""), knows('c', &base, None, "")];
        let Plan { layout, is_resumed, .. } = plan(&set("bc"), &told).unwrap();
        assert_eq!((layout.generation, layout.version, is_resumed), (3, 8, false));
        assert_eq!(members(&layout.now), set("bc"));

        let later = super::super::testing::layout(7, "abcde");
        let told = [knows('a', &base, Some(&first), "b"), knows('b', &later, None, "a")];
        let Plan { layout, is_resumed, .. } = plan(&set("ab"), &told).unwrap();
        assert_eq!((layout.generation, layout.version, is_resumed), (3, 8, false));

        // The ones that are bound do not vote: the others are no majority without them.
        let told: Vec<Knowledge> = "abcd"
            .chars()
            .map(|name| knows(name, &base, "ab".contains(name).then_some(&first), ""))
            .collect();
        assert_eq!(plan(&set("abcd"), &told).unwrap().layout.generation, 3);
    }

    #[test]
    fn whom_a_recovery_left_behind_cannot_be_named_in_the_next() {
        let base = layout(6, "abcde");
        let began = planned("ab", &base).unwrap().layout;
        let told = [knows('a', &began, None, ""), knows('c', &base, None, "")];
        check_refused("ac", &told, &PlanError::Stranger(node('c')));
        // But the loss of one of its members is a loss of a majority once more.
        let again = planned("a", &began).unwrap();
        assert_eq!((again.layout.generation, members(&again.layout.now)), (3, set("a")));
    }

    #[test]
    fn a_change_that_ran_is_given_up_and_who_was_about_to_join_may_survive() {
        let wider = Box::new(layout(1, "abcdef").now);
        let mut both = change::apply(&layout(6, "abcde"), &Change::To(wider)).unwrap();
        let plan = planned("af", &both).unwrap();
        assert_eq!(members(&plan.layout.now), set("af"));
        assert_eq!(plan.base, both);
        // Only members on their way out are left: they stay.
        both.now.members[0].weight = Weight::ZERO;
        both.now.owner.iter_mut().for_each(|owner| *owner = 1);
        let alone = planned("a", &Layout { next: None, ..both }).unwrap().layout;
        assert_eq!(alone.now.members[0].weight, Weight::ONE);
    }

    #[test]
    fn a_node_accepts_what_is_above_all_it_knows_and_names_it() {
        let base = layout(6, "abcde");
        let first = planned("ab", &base).unwrap().layout;
        let accept = |name, in_force: &Layout, accepted: Option<&Layout>, proposed: &Layout| {
            may_accept(node(name), in_force, accepted, proposed)
        };
        assert_eq!(accept('a', &base, None, &first), Ok(()));
        assert_eq!(accept('a', &base, Some(&first), &first), Ok(()), "asked twice");
        assert_eq!(accept('a', &first, None, &first), Ok(()), "begun already");
        assert_eq!(accept('c', &base, None, &first), Err(RecoveryRefused::NotNamed));
        assert_eq!(accept('a', &base, None, &base), Err(RecoveryRefused::NoRecovery));
        let overtaken = |layout: &Layout| Err(RecoveryRefused::Overtaken(LayoutTag::of(layout)));
        let later = layout(7, "abcde");
        assert_eq!(accept('a', &later, None, &first), overtaken(&later));
        let done = change::apply(&first, &Change::Finish).unwrap();
        assert_eq!(accept('a', &done, None, &first), overtaken(&done));
        let other = planned("ac", &base).unwrap().layout;
        let refused = Err(RecoveryRefused::Other(LayoutTag::of(&first)));
        assert_eq!(accept('a', &base, Some(&first), &other), refused);
        let higher = Layout { generation: 3, version: 8, ..other };
        assert_eq!(accept('a', &base, Some(&first), &higher), Ok(()));
        assert!(accept('a', &base, None, &Layout { next: None, ..first }).is_err());
    }

    #[test]
    fn the_loss_is_counted_by_partition() {
        // Lists of three in a row of five: abc bcd cde dea eab.
        let mut base = layout(6, "abcde");
        (base.now.r, base.now.w) = (2, 2);
        let loss = planned("ab", &base).unwrap().loss;
        assert_eq!((loss.total(), loss.enough), (32, 2));
        assert_eq!(loss.partitions.iter().sum::<usize>(), 32);
        assert_eq!(loss.without_owner(), loss.partitions[0]);
        assert_eq!(loss.with_too_few(), loss.partitions[1]);
        // cde has none of them, abc and eab have both.
        assert!(loss.partitions[0] >= 6 && loss.partitions[2] >= 12, "{loss:?}");
    }

    proptest! {
        /// Whoever survives of a partition's owners is among its first owners still: what it holds is where the walk
        /// looks for it.
        #[test]
        fn surviving_owners_stay_owners(
            n in 1_u8..5,
            zones in prop::collection::vec(1_u8..4, 3..8),
            is_zoned in any::<bool>(),
            owner in prop::collection::vec(0_u16..8, 32),
            survivors in any::<u8>(),
        ) {
            let names: String = ('a'..).take(zones.len()).collect();
            let mut base = layout(3, &names);
            for (member, zone) in base.now.members.iter_mut().zip(&zones) {
                member.zone = if is_zoned { format!("z{zone}") } else { String::new() };
            }
            let count = u16::try_from(zones.len()).unwrap();
            base.now.owner = owner.iter().map(|index| index % count).collect();
            (base.now.n, base.now.r, base.now.w) = (n, 1, 1);
            let survives = |(index, _): &(usize, char)| survivors & (1 << index) != 0;
            let left: String = names.chars().enumerate().filter(survives).map(|(_, name)| name).collect();
            prop_assume!(!left.is_empty());
            let left = set(&left);
            let layout = recovered(&base, &left, 2, 4).unwrap();
            let walks = |ring: &Ring| Preferences::new(Arc::new(ring.clone()));
            for (before, after) in walks(&base.now).iter().zip(walks(&layout.now).iter()) {
                for owner in before.owners().filter(|owner| left.contains(owner)) {
                    prop_assert!(after.owns(owner));
                }
            }
        }
    }
}
