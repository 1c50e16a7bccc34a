//! What no node sees alone: every state that was ever sent or shown.

use std::collections::{BTreeMap, BTreeSet, HashMap};

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
    asked: HashMap<u64, Bytes>,
    writes: HashMap<Bytes, HashMap<Dot, Named>>,
    /// Dots that named two writes.
    pub broken: Vec<String>,
    /// Pairs of which one refused the other.
    pub refusals: BTreeSet<(Node, Node)>,
    /// Alarms of nodes.
    pub alarms: Vec<String>,
    /// Most versions seen side by side.
    pub siblings_max: usize,
    /// States given to a stand-in, and states that a holder of hints sent to their target.
    pub held: usize,
    pub handed_over: usize,
    /// States that a comparison of two replicas gave.
    pub compared: usize,
}

impl Witness {
    /// A state of `key`, wherever it was met.
    pub fn state(&mut self, key: &Bytes, state: &Siblings) {
        self.siblings_max = self.siblings_max.max(state.versions().len());
        if state.versions().is_empty() {
            return;
        }
        if !self.writes.contains_key(key) {
            self.writes.insert(key.clone(), HashMap::new());
        }
        let Some(writes) = self.writes.get_mut(key) else { return };
        for (dot, version) in state.versions() {
            match writes.get(dot) {
                Some((request, content))
                    if *request == version.request && *content == version.content => {}
                Some(first) => {
                    let text = format!("key {key:?}: {dot:?} names {first:?} and {version:?}");
                    self.broken.push(text);
                }
                None => {
                    writes.insert(*dot, (version.request, version.content.clone()));
                }
            }
        }
    }

    /// Every write that was seen anywhere: its key, dot, name and content.
    pub fn seen(&self) -> impl Iterator<Item = (&Bytes, Dot, &Named)> {
        let of_key = |(key, writes)| (key, writes);
        self.writes.iter().map(of_key).flat_map(|(key, writes): (&Bytes, &HashMap<Dot, Named>)| {
            writes.iter().map(move |(dot, named)| (key, *dot, named))
        })
    }

    /// The puts that were seen under more than one dot, with those.
    pub fn written_twice(&self) -> BTreeMap<RequestId, Vec<Dot>> {
        let mut dots: BTreeMap<RequestId, Vec<Dot>> = BTreeMap::new();
        for (_, dot, (request, _)) in self.seen() {
            dots.entry(*request).or_default().push(dot);
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
                Request::ReadRange { .. } | Request::Compare(_) | Request::Cut(_) => {}
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
            self.compared += give.len();
            for (key, state) in give {
                self.state(key, state);
            }
        }
        let Some(key) = self.asked.get(&op).cloned() else {
            return;
        };
        match answer {
            Answer::State(state) | Answer::Unpromised(state) | Answer::Recalled { state, .. } => {
                self.state(&key, state);
            }
            Answer::Merged(acknowledgement) => {
                if let Some(state) = &acknowledgement.uncovered {
                    self.state(&key, state);
                }
                if let Known::Done(state) = &acknowledgement.known {
                    self.state(&key, state);
                }
            }
            Answer::Digest { .. }
            | Answer::Range(_)
            | Answer::Compared(_)
            | Answer::Cut(_)
            | Answer::Refused(_) => {}
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
