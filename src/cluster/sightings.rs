//! How far other members were seen to get, by what they gossip of themselves.
//!
//! A member tells how far its log is synced. Who saw that can tell it, at its next start, whether its disk gives back
//! less ([`start`](super::start)). The start that it runs at must not count against itself: what was seen of the latest
//! start is kept apart from what was seen before.

use std::collections::{BTreeMap, BTreeSet};

use crate::node_id::NodeId;

use super::Start;
use super::start::Reached;

/// How far one member was seen to get.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Sighting {
    /// The latest start of it that was seen.
    pub start: Start,
    /// How far it got in that one.
    pub position: u64,
    /// How far it got in any other one.
    pub before: Reached,
}

/// How far each other member was seen to get.
#[derive(Clone, Debug, Default)]
pub struct Sightings {
    of: BTreeMap<NodeId, Sighting>,
    /// Whose sighting is another than was given out to be kept.
    news: BTreeSet<NodeId>,
}

impl Sighting {
    /// How far the member got in any start.
    pub fn farthest(&self) -> Reached {
        self.before.max(Reached { count: self.start.count, position: self.position })
    }

    /// Folds one word of the member in; whether it says anything new.
    fn see(&mut self, start: Start, position: u64) -> bool {
        let was = *self;
        let seen = Reached { count: start.count, position };
        if start == self.start {
            self.position = self.position.max(position);
        } else if self.start.count < start.count {
            *self = Self { start, position, before: self.farthest() };
        } else {
            self.before = self.before.max(seen);
        }
        *self != was
    }
}

impl Sightings {
    /// What was kept.
    pub const fn new(kept: BTreeMap<NodeId, Sighting>) -> Self {
        Self { of: kept, news: BTreeSet::new() }
    }

    /// A member says that it runs at `start`, and how far its log is synced; at 0 it tells nothing yet.
    pub fn see(&mut self, member: NodeId, start: Start, position: u64) {
        if position > 0 && self.of.entry(member).or_default().see(start, position) {
            self.news.insert(member);
        }
    }

    /// How far `member` was seen to get in any start but this one.
    pub fn before(&self, member: NodeId, start: Start) -> Reached {
        let Some(sighting) = self.of.get(&member) else { return Reached::default() };
        if sighting.start == start {
            return sighting.before;
        }
        sighting.farthest()
    }

    /// How far `member` was seen to get in any start.
    pub fn farthest(&self, member: NodeId) -> Reached {
        self.of.get(&member).map_or_else(Reached::default, Sighting::farthest)
    }

    /// Whether anything is to be kept.
    pub fn has_news(&self) -> bool {
        !self.news.is_empty()
    }

    /// What is to be kept and was not given out yet.
    pub fn take_news(&mut self) -> Vec<(NodeId, Sighting)> {
        let news = std::mem::take(&mut self.news);
        news.iter().filter_map(|member| Some((*member, *self.of.get(member)?))).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::super::Incarnation;
    use super::super::testing::{node, start};
    use super::*;

    /// Words of `a` as (start, nonce, position), then what a start of it is told as (start, position).
    #[track_caller]
    fn check(words: &[(u64, u64, u64)], asked: (u64, u64), expected: (u64, u64)) {
        let mut sightings = Sightings::default();
        for (count, nonce, position) in words {
            sightings.see(node('a'), start(*count, *nonce), *position);
        }
        let told = |sightings: &Sightings| sightings.before(node('a'), start(asked.0, asked.1));
        let expected = Reached { count: Incarnation(expected.0), position: expected.1 };
        assert_eq!(told(&sightings), expected, "{words:?}");
        let kept = Sightings::new(sightings.take_news().into_iter().collect());
        assert_eq!(told(&kept), expected, "{words:?}, kept");
    }

    #[test]
    fn a_start_is_told_what_was_seen_of_all_others_but_not_of_itself() {
        check(&[], (6, 1), (0, 0));
        check(&[(5, 1, 500)], (6, 1), (5, 500));
        check(&[(5, 1, 500), (5, 1, 900), (5, 1, 700)], (6, 1), (5, 900));
        check(&[(5, 1, 900), (6, 1, 950)], (6, 1), (5, 900));
        check(&[(5, 1, 900), (6, 1, 950)], (6, 2), (6, 950));
        check(&[(5, 1, 900), (6, 1, 950), (7, 1, 10)], (7, 1), (6, 950));
    }

    #[test]
    fn words_that_come_late_or_from_a_copy_are_kept_too() {
        check(&[(6, 1, 10), (5, 1, 900)], (6, 1), (5, 900));
        check(&[(6, 1, 10), (6, 2, 20)], (6, 1), (6, 20));
        check(&[(6, 1, 10), (6, 2, 20)], (6, 2), (6, 20));
    }

    #[test]
    fn who_tells_nothing_yet_is_not_seen() {
        check(&[(5, 1, 900), (6, 1, 0)], (7, 1), (5, 900));
    }

    #[test]
    fn what_was_given_out_is_given_out_once() {
        let mut sightings = Sightings::default();
        sightings.see(node('a'), start(5, 1), 500);
        assert_eq!((sightings.has_news(), sightings.take_news().len()), (true, 1));
        sightings.see(node('a'), start(5, 1), 500);
        assert_eq!((sightings.has_news(), sightings.take_news().len()), (false, 0));
    }
}
