//! Whether this start of a data directory is the first with its number, and whether its disk is the one of before.
//!
//! A directory that was copied, or restored from a snapshot, after a clean stop looks as if the node could go on minting
//! dots where it stopped; the other copy may have minted them already. So a node that starts after a clean stop keeps
//! its epoch only when a majority of the *other* members durably recorded this start (count, nonce) as the first they
//! saw with its count; two such majorities share a member, and that one says no to the second. The node's own record
//! does not count: it is in the directory that is in doubt.
//!
//! The same question finds out a disk that holds less than it once did: a volume restored from a snapshot, an old copy.
//! Each member knows how far it saw this node get ([`Sightings`]), and says so. One that saw more than the disk gave
//! back shows that the disk was *rolled back*; once half of the members said nothing of the kind (a majority, with this
//! node) it counts as *compared*. An answer that comes later counts still.
//!
//! ```text
//! starting node                        member
//!   Record {start}          -------->    first start with this count? record it, sync
//!   Recorded {start, same, seen}  <--    same: this very start is the one on record
//!                                        seen: how far the node was seen to get in any other start
//! ```
//! A start that was never compared proves nothing to the next one: what is compared is what the disk gave back at the
//! first start since the last comparison, and until then a node tells nobody how far it gets.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::node_id::NodeId;
use crate::planted::{self, Bug};

use super::{Incarnation, Sightings, Start, Time};

/// How long a member is given to answer before it is asked again.
pub const ASK_AGAIN_AFTER: Duration = Duration::from_secs(1);

/// How far a node got: its latest start, and within it how far its log was synced. The larger one is farther.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
pub struct Reached {
    /// The number of the start.
    pub count: Incarnation,
    /// The end of what was synced of its log.
    pub position: u64,
}

/// What a starting node and the other members say.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Message {
    /// The sender starts: record it.
    Record {
        /// Which start.
        start: Start,
    },
    /// The answer.
    Recorded {
        /// The start that was asked about.
        start: Start,
        /// Whether it is, durably, the first with its count that the sender saw.
        same: bool,
        /// How far the sender saw the node get in any other start.
        #[serde(default)]
        seen: Reached,
    },
}

/// Whether the node may go on minting where it stopped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Not known yet; until then a new epoch.
    Pending,
    /// It is the first start with its count.
    Confirmed,
    /// Too many members know another start with this count, or a later one.
    Refused,
}

/// What happens to a [`Confirmation`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event {
    /// Time passed; due at [`Confirmation::wake_at`].
    Tick,
    /// A member's answer.
    Recorded {
        /// Whose.
        from: NodeId,
        /// The start it speaks of.
        start: Start,
        /// What it says.
        same: bool,
        /// How far it saw this node get in any other start.
        seen: Reached,
    },
}

/// What should happen next for a [`Confirmation`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Effect {
    /// Send this to a member. May be lost.
    Send {
        /// To whom.
        to: NodeId,
        /// What.
        message: Message,
    },
    /// The verdict; appended once.
    Decided(Verdict),
    /// Enough members saw no more of this node than its disk gave back; appended once.
    Compared,
    /// A member saw more: the disk was rolled back.
    RolledBack {
        /// Who saw it.
        by: NodeId,
        /// How far.
        seen: Reached,
    },
}

/// A node's question at its own start.
#[derive(Clone, Debug)]
pub struct Confirmation {
    start: Start,
    /// What the disk gave back.
    recovered: Reached,
    others: BTreeSet<NodeId>,
    answers: BTreeMap<NodeId, bool>,
    ask_at: Time,
    verdict: Verdict,
    /// Whether enough members saw no more of this node than its disk gave back.
    is_compared: bool,
}

/// What a member has on record about the starts of others; rebuilt from its durable records when it starts.
#[derive(Clone, Debug, Default)]
pub struct Records(BTreeMap<NodeId, Start>);

/// How a member answers [`Message::Record`]: first make `persist` durable, then send `reply`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Answer {
    /// The record to be durable before the reply is sent.
    pub persist: (NodeId, Start),
    /// The reply.
    pub reply: Message,
}

impl Confirmation {
    /// The question of `me`, which began `start` on a disk that gave back what was `recovered`, to `members` (itself
    /// included or not). One that is alone needs nobody.
    pub fn new(
        now: Time,
        me: NodeId,
        start: Start,
        recovered: Reached,
        members: &BTreeSet<NodeId>,
    ) -> Self {
        let others: BTreeSet<NodeId> = members.iter().filter(|id| **id != me).copied().collect();
        let is_alone = others.is_empty();
        let verdict = if is_alone { Verdict::Confirmed } else { Verdict::Pending };
        let answers = BTreeMap::new();
        Self { start, recovered, others, answers, ask_at: now, verdict, is_compared: is_alone }
    }

    /// A recovery left members behind for good: the others alone are asked, and their answers count.
    pub fn leave_behind(
        &mut self,
        now: Time,
        me: NodeId,
        members: &BTreeSet<NodeId>,
        effects: &mut Vec<Effect>,
    ) {
        self.others = members.iter().filter(|id| **id != me).copied().collect();
        self.answers.retain(|id, _| members.contains(id));
        self.ask_at = now;
        self.compare(effects);
        if self.verdict == Verdict::Pending {
            self.decide(effects);
        }
    }

    /// Folds one event in.
    pub fn handle(&mut self, now: Time, event: Event, effects: &mut Vec<Effect>) {
        match event {
            Event::Tick if self.verdict == Verdict::Pending => self.ask(now, effects),
            Event::Tick => {}
            Event::Recorded { from, start, same, seen } => {
                if start == self.start && self.others.contains(&from) {
                    self.answered(from, same, seen, effects);
                }
            }
        }
    }

    /// What to ask `member` as a connection to it stands; `None` once it answered.
    pub fn question_to(&self, member: NodeId) -> Option<Message> {
        let is_silent = self.others.contains(&member) && !self.answers.contains_key(&member);
        is_silent.then_some(Message::Record { start: self.start })
    }

    /// Whether enough members saw no more of this node than its disk gave back: with itself a majority.
    pub const fn is_compared(&self) -> bool {
        self.is_compared
    }

    /// What the disk gave back.
    pub const fn recovered(&self) -> Reached {
        self.recovered
    }

    /// When the next [`Event::Tick`] is due; `None` once decided.
    pub const fn wake_at(&self) -> Option<Time> {
        match self.verdict {
            Verdict::Pending => Some(self.ask_at),
            Verdict::Confirmed | Verdict::Refused => None,
        }
    }

    /// What is known so far.
    pub const fn verdict(&self) -> Verdict {
        self.verdict
    }

    fn ask(&mut self, now: Time, effects: &mut Vec<Effect>) {
        if now < self.ask_at {
            return;
        }
        self.ask_at = now.after(ASK_AGAIN_AFTER);
        let message = Message::Record { start: self.start };
        let silent = self.others.iter().filter(|id| !self.answers.contains_key(id));
        effects.extend(silent.map(|id| Effect::Send { to: *id, message }));
    }

    fn answered(&mut self, from: NodeId, same: bool, seen: Reached, effects: &mut Vec<Effect>) {
        if self.recovered < seen && !planted::is_on(Bug::RollbackUnnoticed) {
            effects.push(Effect::RolledBack { by: from, seen });
            return;
        }
        self.answers.insert(from, same);
        self.compare(effects);
        if self.verdict == Verdict::Pending {
            self.decide(effects);
        }
    }

    fn compare(&mut self, effects: &mut Vec<Effect>) {
        if !self.is_compared && self.answers.len() >= self.others.len().div_ceil(2) {
            self.is_compared = true;
            effects.push(Effect::Compared);
        }
    }

    fn decide(&mut self, effects: &mut Vec<Effect>) {
        let majority = self.others.len() / 2 + 1;
        let confirmed = self.answers.values().filter(|same| **same).count();
        let refused = self.answers.len() - confirmed;
        if confirmed >= majority || self.others.is_empty() {
            self.verdict = Verdict::Confirmed;
        } else if refused > self.others.len() - majority {
            self.verdict = Verdict::Refused;
        } else {
            return;
        }
        effects.push(Effect::Decided(self.verdict));
    }
}

impl Records {
    /// The records that were durable.
    pub const fn new(durable: BTreeMap<NodeId, Start>) -> Self {
        Self(durable)
    }

    /// The latest start of `member` on record.
    pub fn latest(&self, member: NodeId) -> Incarnation {
        self.0.get(&member).map_or_else(Incarnation::default, |start| start.count)
    }

    /// Answers a member that starts, and tells it how far it was seen. The record is asked to be durable again with each
    /// answer: an earlier write of it may still be on its way.
    pub fn record(&mut self, from: NodeId, start: Start, sightings: &Sightings) -> Answer {
        let on_record = self.0.entry(from).or_insert(start);
        if on_record.count < start.count {
            *on_record = start;
        }
        let same = *on_record == start;
        // Another start with this count, or a later one, is one that the asker's disk knows nothing of.
        let other = Reached { count: on_record.count, position: 0 };
        let seen = sightings.before(from, start).max(if same { Reached::default() } else { other });
        Answer { persist: (from, *on_record), reply: Message::Recorded { start, same, seen } }
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{at_ms, node, nodes, start};
    use super::*;

    /// A cluster's records, by member.
    struct Cluster(BTreeMap<char, Records>);

    impl Cluster {
        fn new(names: &str) -> Self {
            Self(names.chars().map(|name| (name, Records::default())).collect())
        }

        /// What `name` learns about `start` where only the letters of `reachable` answer.
        fn start(&mut self, name: char, start: Start, reachable: &str) -> Verdict {
            let members: BTreeSet<NodeId> = self.0.keys().map(|member| node(*member)).collect();
            let recovered = Reached { count: Incarnation(u64::MAX), position: 0 };
            let mut confirmation =
                Confirmation::new(at_ms(0), node(name), start, recovered, &members);
            let mut effects = Vec::new();
            confirmation.handle(at_ms(0), Event::Tick, &mut effects);
            let asked: Vec<NodeId> = effects.iter().filter_map(asked).collect();
            assert_eq!(asked.len(), if members.len() == 1 { 0 } else { members.len() - 1 });
            let nothing = Sightings::default();
            for member in reachable.chars() {
                let answer = self.0.get_mut(&member).unwrap().record(node(name), start, &nothing);
                let Message::Recorded { start, same, seen } = answer.reply else { unreachable!() };
                let event = Event::Recorded { from: node(member), start, same, seen };
                confirmation.handle(at_ms(10), event, &mut effects);
            }
            confirmation.verdict()
        }
    }

    fn asked(effect: &Effect) -> Option<NodeId> {
        match effect {
            Effect::Send { to, .. } => Some(*to),
            Effect::Decided(_) | Effect::Compared | Effect::RolledBack { .. } => None,
        }
    }

    #[test]
    fn v6_a_copy_that_reaches_nobody_is_never_confirmed() {
        assert_eq!(Cluster::new("abc").start('a', start(2, 1), ""), Verdict::Pending);
        assert_eq!(Cluster::new("ab").start('a', start(2, 1), ""), Verdict::Pending);
    }

    #[test]
    fn v12_a_restored_snapshot_is_not_confirmed_by_those_that_confirmed_the_first_start_nor_around_them()
     {
        for (first, second) in [("bc", "bc"), ("b", "bc"), ("bc", "b"), ("bc", "c"), ("b", "c")] {
            let mut cluster = Cluster::new("abc");
            let one = cluster.start('a', start(6, 111), first);
            let two = cluster.start('a', start(6, 222), second);
            let confirmed =
                [one, two].into_iter().filter(|verdict| *verdict == Verdict::Confirmed).count();
            assert!(confirmed <= 1, "{first}, then {second}: {one:?}, {two:?}");
            assert_ne!(two, Verdict::Confirmed, "{first}, then {second}");
        }
    }

    #[test]
    fn v12_no_two_starts_with_one_count_are_confirmed_in_any_cluster_up_to_six() {
        for names in ["ab", "abc", "abcd", "abcde", "abcdef"] {
            let others = &names[1..];
            let subsets: Vec<String> = (0..1_u32 << others.len())
                .map(|bits| {
                    others
                        .char_indices()
                        .filter(|(at, _)| bits >> at & 1 == 1)
                        .map(|(_, name)| name)
                        .collect()
                })
                .collect();
            for (first, second) in
                subsets.iter().flat_map(|first| subsets.iter().map(move |second| (first, second)))
            {
                let mut cluster = Cluster::new(names);
                let verdicts = [(111, first), (222, second)]
                    .map(|(nonce, reachable)| cluster.start('a', start(6, nonce), reachable));
                assert_ne!(verdicts, [Verdict::Confirmed; 2], "of {names}: {first}, then {second}");
            }
        }
    }

    #[test]
    fn a_start_is_confirmed_by_a_majority_of_the_others() {
        assert_eq!(Cluster::new("abc").start('a', start(2, 1), "bc"), Verdict::Confirmed);
        assert_eq!(Cluster::new("abc").start('a', start(2, 1), "b"), Verdict::Pending);
        assert_eq!(Cluster::new("abcde").start('a', start(2, 1), "bcd"), Verdict::Confirmed);
        assert_eq!(Cluster::new("ab").start('a', start(2, 1), "b"), Verdict::Confirmed);
    }

    #[test]
    fn a_member_alone_needs_nobody() {
        assert_eq!(Cluster::new("a").start('a', start(2, 1), ""), Verdict::Confirmed);
    }

    #[test]
    fn an_older_start_is_refused_and_the_next_one_confirmed() {
        let mut cluster = Cluster::new("abc");
        assert_eq!(cluster.start('a', start(5, 1), "bc"), Verdict::Confirmed);
        assert_eq!(
            cluster.start('a', start(5, 1), "bc"),
            Verdict::Confirmed,
            "the same question again"
        );
        assert_eq!(cluster.start('a', start(4, 2), "bc"), Verdict::Refused);
        assert_eq!(cluster.start('a', start(6, 3), "bc"), Verdict::Confirmed);
    }

    #[test]
    fn the_record_is_persisted_with_every_answer() {
        let mut records = Records::default();
        for (nonce, same, seen) in [(1, true, 0), (1, true, 0), (2, false, 3)] {
            let answer = records.record(node('a'), start(3, nonce), &Sightings::default());
            assert_eq!(answer.persist, (node('a'), start(3, 1)));
            let seen = reached(seen, 0);
            assert_eq!(answer.reply, Message::Recorded { start: start(3, nonce), same, seen });
        }
    }

    #[test]
    fn only_members_answers_to_this_very_start_count_and_the_silent_are_asked_again() {
        let members = nodes("abc").into_iter().collect();
        let recovered = reached(1, 0);
        let mut confirmation =
            Confirmation::new(at_ms(0), node('a'), start(2, 1), recovered, &members);
        let same = |from, start| Event::Recorded { from, start, same: true, seen: recovered };
        let mut effects = Vec::new();
        let answers = [
            ('z', start(2, 1)),
            ('c', start(1, 1)),
            ('c', start(2, 9)),
            ('b', start(2, 1)),
            ('b', start(2, 1)),
        ];
        for (from, start) in answers {
            confirmation.handle(at_ms(0), same(node(from), start), &mut effects);
        }
        let compared = &[Effect::Compared][..];
        assert_eq!((confirmation.verdict(), &effects[..]), (Verdict::Pending, compared));
        assert_eq!(confirmation.question_to(node('b')), None);
        assert_eq!(confirmation.question_to(node('z')), None);
        let question = Some(Message::Record { start: start(2, 1) });
        assert_eq!(confirmation.question_to(node('c')), question);
        confirmation.handle(at_ms(0), Event::Tick, &mut effects);
        confirmation.handle(at_ms(500), Event::Tick, &mut effects);
        confirmation.handle(at_ms(1_000), Event::Tick, &mut effects);
        assert_eq!(effects.iter().filter_map(asked).collect::<Vec<_>>(), nodes("cc"));
        confirmation.handle(at_ms(1_100), same(node('c'), start(2, 1)), &mut effects);
        assert_eq!(
            (effects.last(), confirmation.wake_at()),
            (Some(&Effect::Decided(Verdict::Confirmed)), None)
        );
    }

    const fn reached(count: u64, position: u64) -> Reached {
        Reached { count: Incarnation(count), position }
    }

    /// What `a`, whose disk gave back start 5 up to position 500, makes of what others saw, in this order.
    #[track_caller]
    fn check(names: &str, seen: &[(char, u64, u64)], expected: &[Effect]) {
        let members = nodes(names).into_iter().collect();
        let (now, begun) = (at_ms(0), start(6, 1));
        let mut confirmation = Confirmation::new(now, node('a'), begun, reached(5, 500), &members);
        let mut effects = Vec::new();
        for (from, count, position) in seen {
            let seen = reached(*count, *position);
            let event = Event::Recorded { from: node(*from), start: begun, same: true, seen };
            confirmation.handle(now, event, &mut effects);
        }
        effects.retain(|effect| !matches!(effect, Effect::Decided(_)));
        assert_eq!(effects, expected, "of {names}: {seen:?}");
        let is_compared = effects.contains(&Effect::Compared) || names.len() == 1;
        assert_eq!(confirmation.is_compared(), is_compared);
    }

    #[test]
    fn with_itself_a_majority_must_have_seen_no_more_than_the_disk_gave_back() {
        check("a", &[], &[]);
        check("ab", &[], &[]);
        check("ab", &[('b', 5, 500)], &[Effect::Compared]);
        check("abc", &[('c', 4, 900)], &[Effect::Compared]);
        check("abcd", &[('c', 0, 0)], &[]);
        check("abcd", &[('c', 0, 0), ('d', 5, 1)], &[Effect::Compared]);
        check("abcde", &[('c', 0, 0)], &[]);
        check("abcde", &[('c', 0, 0), ('d', 0, 0), ('e', 0, 0)], &[Effect::Compared]);
    }

    /// What follows at `a` of five where these answered, and then a recovery leaves only `survivors`.
    #[track_caller]
    fn check_left_behind(answered: &str, survivors: &str, expected: &[Effect]) {
        let members = nodes("abcde").into_iter().collect();
        let (now, begun) = (at_ms(0), start(6, 1));
        let mut confirmation = Confirmation::new(now, node('a'), begun, reached(5, 500), &members);
        let mut effects = Vec::new();
        for from in nodes(answered) {
            let event = Event::Recorded { from, start: begun, same: true, seen: reached(5, 1) };
            confirmation.handle(now, event, &mut effects);
        }
        effects.clear();
        let survivors = nodes(survivors).into_iter().collect();
        confirmation.leave_behind(now, node('a'), &survivors, &mut effects);
        assert_eq!(effects, expected);
    }

    #[test]
    fn after_a_recovery_the_survivors_alone_are_asked() {
        let decided = Effect::Decided(Verdict::Confirmed);
        check_left_behind("", "a", &[Effect::Compared, decided]);
        check_left_behind("", "ab", &[]);
        check_left_behind("b", "ab", &[Effect::Compared, decided]);
        check_left_behind("c", "ab", &[]);
        check_left_behind("b", "abc", &[Effect::Compared]);
        check_left_behind("bc", "ade", &[]);
        check_left_behind("bcd", "ab", &[]);
    }

    #[test]
    fn v5_who_saw_more_shows_that_the_disk_was_rolled_back_also_afterwards() {
        let by = |name, count, position| Effect::RolledBack {
            by: node(name),
            seen: reached(count, position),
        };
        check("abc", &[('b', 5, 501)], &[by('b', 5, 501)]);
        check("abc", &[('b', 6, 0)], &[by('b', 6, 0)]);
        check("abc", &[('b', 5, 500), ('c', 5, 900)], &[Effect::Compared, by('c', 5, 900)]);
    }
}
