//! What differs between two layouts.

use super::{Layout, Member, Mode, Ring};

/// How one layout differs from another in what it says of the cluster; versions count for nothing.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Difference {
    /// Members of the second only.
    pub added: Vec<Member>,
    /// Members of the first only.
    pub removed: Vec<Member>,
    /// Members of both that changed: as they were and as they are.
    pub changed: Vec<(Member, Member)>,
    /// What else changed.
    pub settings: Vec<Setting>,
    /// Partitions that change owner, of [`Difference::partitions`].
    pub owners_changed: usize,
    /// The partitions of the ring that has more of them.
    pub partitions: usize,
}

/// A number or word of the ring, before and after.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Setting {
    /// Which one: `n`, `r`, `w`, `mode`, `partitions`, `generation`, `changing`.
    pub what: &'static str,
    /// As it was.
    pub before: String,
    /// As it is.
    pub after: String,
}

impl Difference {
    /// Compares the rings in force, member by member, and whether a change runs.
    pub fn between(before: &Layout, after: &Layout) -> Self {
        let (old, new) = (&before.now, &after.now);
        let only_in = |ring: &Ring, other: &Ring| -> Vec<Member> {
            ring.members
                .iter()
                .filter(|member| other.member(member.id).is_none())
                .cloned()
                .collect()
        };
        let pairs = old.members.iter().filter_map(|member| Some((member, new.member(member.id)?)));
        let changed = pairs.filter(|(old, new)| old != new);
        let (partitions, owners_changed) = owners_changed(old, new);
        Self {
            added: only_in(new, old),
            removed: only_in(old, new),
            changed: changed.map(|(old, new)| (old.clone(), new.clone())).collect(),
            settings: settings(before, after),
            owners_changed,
            partitions,
        }
    }

    /// Whether nothing differs.
    pub fn is_empty(&self) -> bool {
        let Self { added, removed, changed, settings, owners_changed, partitions: _ } = self;
        added.is_empty()
            && removed.is_empty()
            && changed.is_empty()
            && settings.is_empty()
            && *owners_changed == 0
    }
}

fn settings(before: &Layout, after: &Layout) -> Vec<Setting> {
    let (old, new) = (&before.now, &after.now);
    let mode = |ring: &Ring| match ring.mode {
        Mode::Available => "available".to_owned(),
        Mode::Consistent => "consistent".to_owned(),
    };
    // Two changes that lead to different rings differ too.
    let next = |layout: &Layout, other: &Layout| match (&layout.next, &other.next) {
        (None, _) => "no".to_owned(),
        (Some(_), None) => "yes".to_owned(),
        (Some(next), Some(_)) => format!("to {} members", next.members.len()),
    };
    let all = [
        ("generation", before.generation.to_string(), after.generation.to_string()),
        ("n", old.n.to_string(), new.n.to_string()),
        ("r", old.r.to_string(), new.r.to_string()),
        ("w", old.w.to_string(), new.w.to_string()),
        ("mode", mode(old), mode(new)),
        ("partitions", old.q.to_string(), new.q.to_string()),
    ];
    let differ = all.into_iter().filter(|(_, before, after)| before != after);
    let mut settings: Vec<Setting> =
        differ.map(|(what, before, after)| Setting { what, before, after }).collect();
    if before.next != after.next {
        let (before, after) = (next(before, after), next(after, before));
        settings.push(Setting { what: "changing", before, after });
    }
    settings
}

/// The partitions of the ring that has more of them, and how many of them change owner.
fn owners_changed(old: &Ring, new: &Ring) -> (usize, usize) {
    let partitions = old.owner.len().max(new.owner.len());
    let owner = |ring: &Ring, at: usize| {
        ring.members[usize::from(ring.owner[at * ring.owner.len() / partitions])].id
    };
    let changed = (0..partitions).filter(|at| owner(old, *at) != owner(new, *at)).count();
    (partitions, changed)
}

#[cfg(test)]
mod tests {
    use super::super::Weight;
    use super::super::notation::{members, ring};
    use super::*;

    fn layout(ring: Ring) -> Layout {
        Layout { generation: 1, version: 3, now: ring, next: None, recovers: false }
    }

    fn before() -> Layout {
        layout(ring(2, members("1 1 1"), vec![0, 1, 2, 0]))
    }

    /// What differs once `alter` changed a layout.
    fn altered(change: impl FnOnce(&mut Layout)) -> Difference {
        let mut after = before();
        change(&mut after);
        Difference::between(&before(), &after)
    }

    fn names(members: &[Member]) -> Vec<&str> {
        members.iter().map(|member| member.name.as_str()).collect()
    }

    #[test]
    fn a_version_alone_is_no_difference() {
        assert!(altered(|_| {}).is_empty());
        assert!(altered(|layout| layout.version = 9).is_empty());
    }

    #[test]
    fn members_are_told_apart_by_identity() {
        let after = layout(ring(2, members("1 1 1 1"), vec![0, 1, 2, 3]));
        let joined = Difference::between(&before(), &after);
        assert_eq!(
            (names(&joined.added), joined.owners_changed, joined.partitions),
            (vec!["n4"], 1, 4)
        );
        let left = Difference::between(&after, &before());
        assert_eq!((names(&left.removed), left.owners_changed), (vec!["n4"], 1));
        let renamed = altered(|layout| {
            layout.now.members[1].name = "b".to_owned();
            layout.now.members[2].weight = Weight(500);
        });
        let changed: Vec<(&str, &str)> = renamed
            .changed
            .iter()
            .map(|(old, new)| (old.name.as_str(), new.name.as_str()))
            .collect();
        assert_eq!(
            (changed, renamed.added, renamed.owners_changed),
            (vec![("n2", "b"), ("n3", "n3")], vec![], 0)
        );
    }

    #[test]
    fn every_setting_counts() {
        let check = |alter: fn(&mut Layout), what: &str, values: (&str, &str)| {
            let found = altered(alter);
            assert!(!found.is_empty());
            let setting = &found.settings[0];
            assert_eq!(
                (setting.what, setting.before.as_str(), setting.after.as_str()),
                (what, values.0, values.1)
            );
        };
        check(|layout| layout.generation = 2, "generation", ("1", "2"));
        check(|layout| layout.now.n = 3, "n", ("2", "3"));
        check(|layout| layout.now.r = 1, "r", ("2", "1"));
        check(|layout| layout.now.w = 1, "w", ("2", "1"));
        check(|layout| layout.now.mode = Mode::Consistent, "mode", ("available", "consistent"));
        check(|layout| layout.next = Some(layout.now.clone()), "changing", ("no", "yes"));
    }

    #[test]
    fn split_partitions_keep_their_owners() {
        let split = altered(|layout| {
            layout.now.q = 8;
            layout.now.owner = vec![0, 0, 1, 1, 2, 2, 0, 1];
        });
        assert_eq!((split.owners_changed, split.partitions), (1, 8));
        assert_eq!(split.settings[0].what, "partitions");
    }
}
