//! What no node sees alone: every state that was ever sent or shown.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use kvkit::replication::anti_entropy::Compared;
use kvkit::replication::{Answer, Known, Request};
use kvkit::version::{Content, Dot, RequestId, Siblings};
use kvkit::wire::client::{Reply, ReplyBody};
use kvkit::wire::peer::PeerMessage;

use crate::network::Node;

/// What one dot of one key names.
type Named = (RequestId, Content);

/// Holds all that is seen against: one (key, dot), one write.
#[derive(Debug, Default)]
pub struct Witness {
    /// Keys of questions under way, to know what an answer speaks of.
    asked: BTreeMap<u64, Bytes>,
    writes: BTreeMap<(Bytes, Dot), Named>,
    /// What must not be.
    pub broken: Vec<String>,
    /// Pairs of which one refused the other.
    pub refusals: BTreeSet<(Node, Node)>,
    /// Alarms of nodes.
    pub alarms: Vec<String>,
    /// States given to a stand-in, and states that a holder of hints sent to their target.
    pub held: usize,
    pub handed_over: usize,
}

impl Witness {
    /// A state of `key`, wherever it was met.
    pub fn state(&mut self, key: &Bytes, state: &Siblings) {
        for (dot, version) in state.versions() {
            let named = (version.request, version.content.clone());
            let first = self.writes.entry((key.clone(), *dot)).or_insert_with(|| named.clone());
            if *first != named {
                let text = format!("key {key:?}: {dot:?} names {first:?} and {named:?}");
                self.broken.push(text);
            }
        }
    }

    /// The puts that were seen under more than one dot, with those.
    pub fn written_twice(&self) -> BTreeMap<RequestId, Vec<Dot>> {
        let mut dots: BTreeMap<RequestId, Vec<Dot>> = BTreeMap::new();
        for ((_, dot), (request, _)) in &self.writes {
            dots.entry(*request).or_default().push(*dot);
        }
        dots.retain(|_, dots| dots.len() > 1);
        dots
    }

    pub fn message(&mut self, message: &PeerMessage) {
        match message {
            PeerMessage::Request { envelope, .. } => match &envelope.body {
                Request::Merge { key, state, .. } | Request::Hold { key, state, .. } => {
                    self.held += usize::from(matches!(envelope.body, Request::Hold { .. }));
                    self.handed_over += usize::from(envelope.op.0 >> 63 == 1);
                    self.asked.insert(envelope.op.0, key.clone());
                    self.state(key, state);
                }
                Request::Read { key, .. }
                | Request::ReadHeld { key }
                | Request::Recall { key, .. } => {
                    self.asked.insert(envelope.op.0, key.clone());
                }
                Request::ReadRange { .. } | Request::Compare(_) => {}
            },
            PeerMessage::Answer(envelope) => self.answer(envelope.op.0, &envelope.body),
            PeerMessage::Forward { .. }
            | PeerMessage::Forwarded { .. }
            | PeerMessage::Gossip(_)
            | PeerMessage::Register(_)
            | PeerMessage::Start(_) => {}
        }
    }

    fn answer(&mut self, op: u64, answer: &Answer) {
        if let Answer::Range(page) = answer {
            for entry in &page.entries {
                self.state(&entry.key, &entry.state);
            }
        }
        if let Answer::Compared(Compared::Rows { give, .. }) = answer {
            for (key, state) in give {
                self.state(key, state);
            }
        }
        let Some(key) = self.asked.get(&op).cloned() else {
            return;
        };
        match answer {
            Answer::State(state) | Answer::Recalled { state, .. } => self.state(&key, state),
            Answer::Merged(acknowledgement) => {
                if let Some(state) = &acknowledgement.uncovered {
                    self.state(&key, state);
                }
                if let Known::Done(state) = &acknowledgement.known {
                    self.state(&key, state);
                }
            }
            Answer::Digest { .. } | Answer::Range(_) | Answer::Compared(_) | Answer::Refused(_) => {
            }
        }
    }

    pub fn reply(&mut self, reply: &Reply) {
        if let ReplyBody::Scanned(scanned) = &reply.body {
            for entry in &scanned.entries {
                self.state(&entry.key, &entry.state);
            }
        }
    }

    pub fn refused(&mut self, from: Node, to: Node) {
        self.refusals.insert((from, to));
    }

    pub fn alarm(&mut self, text: String) {
        self.alarms.push(text);
    }
}
