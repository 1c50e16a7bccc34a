//! Whether this start of a data directory is the first with its number.
//!
//! A directory that was copied, or restored from a snapshot, after a clean stop looks as if the node could go on minting
//! dots where it stopped; the other copy may have minted them already. So a node that starts after a clean stop keeps
//! its epoch only when a majority of the *other* members durably recorded this start (count, nonce) as the first they
//! saw with its count; two such majorities share a member, and that one says no to the second. The node's own record
//! does not count: it is in the directory that is in doubt.
//!
//! ```text
//! starting node                        member
//!   Record {start}      ------------>    first start with this count? record it, sync
//!   Recorded {start, same}  <--------    same: this very start is the one on record
//! ```

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::node_id::NodeId;

use super::{Start, Time};

/// How long a member is given to answer before it is asked again.
pub const ASK_AGAIN_AFTER: Duration = Duration::from_secs(1);

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
}

/// A node's question at its own start.
#[derive(Clone, Debug)]
pub struct Confirmation {
    start: Start,
    others: BTreeSet<NodeId>,
    answers: BTreeMap<NodeId, bool>,
    ask_at: Time,
    verdict: Verdict,
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
    /// The question of `me`, which began `start`, to `members` (itself included or not). One that is alone needs nobody.
    pub fn new(now: Time, me: NodeId, start: Start, members: &BTreeSet<NodeId>) -> Self {
        let others: BTreeSet<NodeId> = members.iter().filter(|id| **id != me).copied().collect();
        let verdict = if others.is_empty() { Verdict::Confirmed } else { Verdict::Pending };
        Self { start, others, answers: BTreeMap::new(), ask_at: now, verdict }
    }

    /// Folds one event in.
    pub fn handle(&mut self, now: Time, event: Event, effects: &mut Vec<Effect>) {
        match (self.verdict, event) {
            (Verdict::Confirmed | Verdict::Refused, _) => {}
            (Verdict::Pending, Event::Tick) => self.ask(now, effects),
            (Verdict::Pending, Event::Recorded { from, start, same }) => {
                if start == self.start && self.others.contains(&from) {
                    self.answers.insert(from, same);
                    self.decide(effects);
                }
            }
        }
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

    fn decide(&mut self, effects: &mut Vec<Effect>) {
        let majority = self.others.len() / 2 + 1;
        let confirmed = self.answers.values().filter(|same| **same).count();
        let refused = self.answers.len() - confirmed;
        if confirmed >= majority {
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

    /// Answers a member that starts. The record is asked to be durable again with each answer: an earlier write of it
    /// may still be on its way.
    pub fn record(&mut self, from: NodeId, start: Start) -> Answer {
        let on_record = self.0.entry(from).or_insert(start);
        if on_record.count < start.count {
            *on_record = start;
        }
        Answer {
            persist: (from, *on_record),
            reply: Message::Recorded { start, same: *on_record == start },
        }
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
            let mut confirmation = Confirmation::new(at_ms(0), node(name), start, &members);
            let mut effects = Vec::new();
            confirmation.handle(at_ms(0), Event::Tick, &mut effects);
            let asked: Vec<NodeId> = effects.iter().filter_map(asked).collect();
            assert_eq!(asked.len(), if members.len() == 1 { 0 } else { members.len() - 1 });
            for member in reachable.chars() {
                let answer = self.0.get_mut(&member).unwrap().record(node(name), start);
                let Message::Recorded { start, same } = answer.reply else { unreachable!() };
                confirmation.handle(
                    at_ms(10),
                    Event::Recorded { from: node(member), start, same },
                    &mut effects,
                );
            }
            confirmation.verdict()
        }
    }

    fn asked(effect: &Effect) -> Option<NodeId> {
        match effect {
            Effect::Send { to, .. } => Some(*to),
            Effect::Decided(_) => None,
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
        for (nonce, same) in [(1, true), (1, true), (2, false)] {
            let answer = records.record(node('a'), start(3, nonce));
            assert_eq!(answer.persist, (node('a'), start(3, 1)));
            assert_eq!(answer.reply, Message::Recorded { start: start(3, nonce), same });
        }
    }

    #[test]
    fn only_members_answers_to_this_very_start_count_and_the_silent_are_asked_again() {
        let members = nodes("abc").into_iter().collect();
        let mut confirmation = Confirmation::new(at_ms(0), node('a'), start(2, 1), &members);
        let mut effects = Vec::new();
        let answers = [
            ('z', start(2, 1)),
            ('c', start(1, 1)),
            ('c', start(2, 9)),
            ('b', start(2, 1)),
            ('b', start(2, 1)),
        ];
        for (from, start) in answers {
            confirmation.handle(
                at_ms(0),
                Event::Recorded { from: node(from), start, same: true },
                &mut effects,
            );
        }
        assert_eq!((confirmation.verdict(), &effects[..]), (Verdict::Pending, &[][..]));
        confirmation.handle(at_ms(0), Event::Tick, &mut effects);
        confirmation.handle(at_ms(500), Event::Tick, &mut effects);
        confirmation.handle(at_ms(1_000), Event::Tick, &mut effects);
        assert_eq!(effects.iter().filter_map(asked).collect::<Vec<_>>(), nodes("cc"));
        confirmation.handle(
            at_ms(1_100),
            Event::Recorded { from: node('c'), start: start(2, 1), same: true },
            &mut effects,
        );
        assert_eq!(
            (effects.last(), confirmation.wake_at()),
            (Some(&Effect::Decided(Verdict::Confirmed)), None)
        );
    }
}
