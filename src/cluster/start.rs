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
