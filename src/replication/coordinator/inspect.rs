//! An inspection: every owner's state of a key, side by side. It always succeeds; who did not answer is named.

use std::collections::BTreeMap;

use bytes::Bytes;

use crate::node_id::NodeId;
use crate::replication::{
    Answer, Consistency, FailedWhy, Failure, Outcome, Reachability, ReadWant, Request,
};
use crate::ring::Token;
use crate::version::Siblings;

use super::scene::{Happening, Machine, Progress, Scene};

/// One inspection.
#[derive(Debug)]
pub(super) struct Inspect {
    key: Bytes,
    /// In preference order.
    owners: Vec<NodeId>,
    /// What was heard; who is missing may still answer.
    heard: BTreeMap<NodeId, Result<Siblings, FailedWhy>>,
}

impl Inspect {
    pub(super) const fn new(key: Bytes) -> Self {
        Self { key, owners: Vec::new(), heard: BTreeMap::new() }
    }

    fn begin(&mut self, scene: &mut Scene<'_>) -> Progress {
        let view = scene.view();
        scene.next_round();
        self.owners = view.preferences.of_slot(Token::of(&self.key).slot()).owners().collect();
        self.heard.clear();
        for owner in &self.owners {
            let unasked = match view.reachability(*owner) {
                Reachability::Up | Reachability::Silent => None,
                Reachability::Down => Some(FailedWhy::Down),
                Reachability::Unreachable => Some(FailedWhy::Unreachable),
            };
            if let Some(why) = unasked {
                self.heard.insert(*owner, Err(why));
            } else {
                let (key, want) = (self.key.clone(), ReadWant::State);
                scene.ask(*owner, Request::Read { key, want, consistency: Consistency::Sloppy });
            }
        }
        self.advance()
    }

    fn hear(&mut self, from: NodeId, said: Result<Siblings, FailedWhy>) -> Progress {
        self.heard.entry(from).or_insert(said);
        self.advance()
    }

    fn advance(&self) -> Progress {
        if self.owners.iter().all(|owner| self.heard.contains_key(owner)) {
            return Progress::Finished(Ok(self.outcome()));
        }
        Progress::Waiting
    }

    fn outcome(&self) -> Outcome {
        let said =
            |owner: &NodeId| self.heard.get(owner).cloned().unwrap_or(Err(FailedWhy::Timeout));
        Outcome::Inspected(self.owners.iter().map(|owner| (*owner, said(owner))).collect())
    }
}

impl Machine for Inspect {
    fn handle(&mut self, scene: &mut Scene<'_>, happening: Happening) -> Progress {
        match happening {
            Happening::Begun | Happening::LayoutChanged => self.begin(scene),
            Happening::Answered { .. } | Happening::Failed { .. } if !scene.is_present() => {
                Progress::Waiting
            }
            Happening::Answered {
                from,
                answer: Answer::State(state) | Answer::Unpromised(state),
            } => self.hear(from, Ok(state)),
            Happening::Answered { from, answer: Answer::Refused(refusal) } => {
                self.hear(from, Err(FailedWhy::from(&refusal)))
            }
            Happening::Failed { from, why } => self.hear(from, Err(why)),
            Happening::Unreachable(node) => self.hear(node, Err(FailedWhy::Unreachable)),
            Happening::Answered { .. }
            | Happening::Minted(_)
            | Happening::MintDurable { .. }
            | Happening::Timer => Progress::Waiting,
        }
    }

    fn expired(&mut self, _: &mut Scene<'_>) -> Result<Outcome, Failure> {
        Ok(self.outcome())
    }
}
