//! This node's part in a recovery after the loss of a majority (DESIGN §3; the protocol is drawn in `cluster::recover`).
//!
//! ```text
//! at work ──accept, synced──▶ bound: no vote, no answer, no request ──begin, or a survivor that has──▶ recovering
//! recovering: every owner merges what each survivor holds; reads promise nothing, strict requests wait ──▶ at work
//! ```
//! Invariants: who is bound drops nothing that it holds and says nothing that another could count on; of those who were left
//! behind no frame is read, whatever connection it comes by.

use std::collections::BTreeSet;

use crate::cluster::recover::{Knowledge, RecoveryRefused};
use crate::cluster::register;
use crate::node_id::NodeId;
use crate::replication::Consistency;
use crate::ring::Layout;
use crate::wire::client::{ErrorCode, ErrorReply, Outcome, Recover, ReplyBody, RequestBody};
use crate::wire::peer::PeerMessage;

use super::calls::Origin;
use super::core::{Core, Parked, members_of};
use super::event::{Effect, Severity};
use super::replies::error_reply;

impl Core {
    /// A step of a recovery; the reply waits until what it says is durable.
    pub(super) fn recover(&mut self, origin: Origin, step: &Recover, effects: &mut Vec<Effect>) {
        let mut buffer = Vec::new();
        let done = match step {
            Recover::Tell => Ok(()),
            Recover::Accept(layout) => {
                self.register.accept_recovery((**layout).clone(), &mut buffer)
            }
            Recover::Begin(tag) => self.register.begin_recovery(*tag, &mut buffer),
        };
        if let (Recover::Accept(layout), Ok(()), false) = (step, &done, buffer.is_empty()) {
            let generation = layout.generation;
            let text = format!("a recovery that begins generation {generation} is accepted here");
            effects.push(Effect::Log(Severity::Warn, text));
        }
        self.register_effects(buffer, effects);
        let body = match done {
            Ok(()) => ReplyBody::Recovery(Box::new(self.knowledge())),
            Err(refused) => refused_reply(&refused),
        };
        self.once_durable(self.store.appended(), Parked::Reply { origin, body }, effects);
    }

    fn knowledge(&self) -> Knowledge {
        let others = self.membership.peers().map(|(node, _, _)| node);
        Knowledge {
            node: self.me,
            layout: (**self.register.chosen()).clone(),
            accepted: self.register.recovery().map(|layout| (**layout).clone()),
            present: others.filter(|node| self.membership.is_up(*node)).collect(),
        }
    }

    /// Whether this node accepted a recovery that it does not act on yet.
    pub(super) const fn is_bound(&self) -> bool {
        self.register.recovery().is_some()
    }

    /// Whether a peer's message is read: while this node is bound only what may tell it that the recovery was chosen, and
    /// from who was left behind nothing.
    pub(super) fn is_heard(&self, from: NodeId, message: &PeerMessage) -> bool {
        let is_news = matches!(
            message,
            PeerMessage::Gossip(_)
                | PeerMessage::Start(_)
                | PeerMessage::Register(register::Message::Chosen(_))
        );
        !self.left_behind.contains(&from) && (is_news || !self.is_bound())
    }

    /// Whether a request about keys may be begun, as far as a recovery goes.
    pub(super) fn check_recovery(&self, body: &RequestBody) -> Result<(), ErrorReply> {
        let refused = |code, text: &str| {
            let ReplyBody::Error(mut error) = error_reply(code, text.to_owned()) else {
                unreachable!("an error reply")
            };
            error.retry = true;
            error.outcome = matches!(body, RequestBody::Put(_)).then_some(Outcome::NotApplied);
            Err(error)
        };
        if self.is_bound() {
            let text = "this node has accepted a recovery that is not done: `kvctl cluster recover` with the same names finishes it";
            return refused(ErrorCode::NotReady, text);
        }
        let named = match body {
            RequestBody::Get(get) => get.consistency,
            RequestBody::Put(put) => put.consistency,
            _ => Some(Consistency::Sloppy),
        };
        let consistency = named.unwrap_or(Consistency::of_mode(self.layout.now.mode));
        if self.layout.recovers && consistency == Consistency::Strict {
            let text = "the cluster recovers: strict requests wait until that is done";
            return refused(ErrorCode::QuorumUnmet, text);
        }
        Ok(())
    }

    /// Another generation has begun, after the layout `before`: who is no member of it counts for nothing any more.
    pub(super) fn begin_generation(&mut self, before: &Layout, effects: &mut Vec<Effect>) {
        let members = members_of(&self.layout);
        let gone: BTreeSet<NodeId> = members_of(before).difference(&members).copied().collect();
        let names: Vec<String> = gone
            .iter()
            .filter_map(|node| before.member(*node).map(|member| member.name.clone()))
            .collect();
        let text = format!(
            "the cluster is recovered as generation {}, without {}",
            self.layout.generation,
            if names.is_empty() { "loss".to_owned() } else { names.join(", ") }
        );
        effects.push(Effect::Log(Severity::Warn, text));
        self.left_behind.extend(gone);
        self.forget_fenced();
        // Those who could have known another start of this node may be gone.
        self.raise_epoch("the cluster was recovered", effects);
        let mut buffer = Vec::new();
        self.confirmation.leave_behind(self.now, self.me, &members, &mut buffer);
        self.confirmation_effects(buffer, effects);
    }
}

fn refused_reply(refused: &RecoveryRefused) -> ReplyBody {
    let code = match refused {
        RecoveryRefused::NoRecovery | RecoveryRefused::Malformed(_) | RecoveryRefused::NotNamed => {
            ErrorCode::Usage
        }
        RecoveryRefused::Overtaken(_)
        | RecoveryRefused::Other(_)
        | RecoveryRefused::NotAccepted => ErrorCode::WrongLayout,
    };
    error_reply(code, refused.to_string())
}
