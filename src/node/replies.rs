//! How operations end, in the words of the client protocol.

use crate::cluster::Time;
use crate::node_id::NodeId;
use crate::replication::{self, Failure, FailureKind, Guarantee, OpId, Outcome, WriteOutcome};
use crate::wire::client::{
    self, Done, ErrorCode, ErrorReply, Failed, Got, Inspected, Reply, ReplyBody, Scanned,
};
use crate::wire::peer::PeerMessage;

use super::calls::{Call, CallKind, Origin};
use super::core::Core;
use super::event::Effect;

impl Core {
    /// Replies to whoever asked.
    pub(super) fn reply(&mut self, origin: Origin, body: ReplyBody, effects: &mut Vec<Effect>) {
        if let ReplyBody::Error(_) = &body {
            self.figures.counters.failures += 1;
        }
        let (sent, layout) = (self.now.monotonic, self.layout.version);
        match origin {
            Origin::Client { caller, id } => {
                effects.push(Effect::Reply { caller, reply: Reply { id, sent, layout, body } });
            }
            Origin::Peer { node, op, id } => {
                let reply = Box::new(Reply { id, sent, layout, body });
                self.send(node, PeerMessage::Forwarded { op, reply }, effects);
            }
        }
    }

    /// An operation that this node coordinated ended.
    pub(super) fn finish_call(
        &mut self,
        op: OpId,
        result: Result<Outcome, Failure>,
        effects: &mut Vec<Effect>,
    ) {
        let Some(call) = self.calls.finish(op) else {
            return;
        };
        let micros = self.micros_since(call.began);
        self.note(&call, &result, micros, self.now);
        if result.is_ok() {
            let in_flight = self.calls.len() + self.forwards.len();
            self.admission.done(self.now.since(call.began), in_flight, self.now);
        }
        let body = match result {
            Ok(outcome) => self.outcome_reply(outcome, micros),
            Err(failure) => ReplyBody::Error(self.failure_reply(failure)),
        };
        self.reply(call.origin, body, effects);
    }

    fn note(&mut self, call: &Call, result: &Result<Outcome, Failure>, micros: u64, now: Time) {
        match call.kind {
            CallKind::Get => {
                self.figures.gets.note(micros, now);
                self.figures.get_durations.note(micros);
            }
            CallKind::Put => {
                self.figures.puts.note(micros, now);
                self.figures.put_durations.note(micros);
            }
            CallKind::Merge | CallKind::Inspect | CallKind::Scan => {}
        }
        self.figures.counters.read_repairs += match result {
            Ok(Outcome::Got(got)) => got.stale.len() as u64,
            Ok(Outcome::Scanned(scanned)) => u64::from(scanned.repaired),
            Ok(Outcome::Done(_) | Outcome::Inspected(_)) | Err(_) => 0,
        };
    }

    fn outcome_reply(&self, outcome: Outcome, micros: u64) -> ReplyBody {
        let coordinator = self.me;
        match outcome {
            Outcome::Got(got) => {
                let replication::Got {
                    state,
                    answered,
                    stand_ins,
                    absent,
                    needed,
                    stale,
                    guarantee,
                } = got;
                // Not all that survived a loss is merged yet.
                let guarantee = if self.layout.recovers { Guarantee::Eventual } else { guarantee };
                ReplyBody::Got(Got {
                    state,
                    answered,
                    absent,
                    needed,
                    stale,
                    stand_ins,
                    guarantee,
                    coordinator,
                    micros,
                })
            }
            Outcome::Done(done) => {
                let replication::Done { dot, clock, siblings, acked, stand_ins, needed, guarantee } =
                    done;
                ReplyBody::Done(Done {
                    dot,
                    clock,
                    siblings,
                    acked,
                    needed,
                    stand_ins,
                    guarantee,
                    coordinator,
                    micros,
                })
            }
            Outcome::Inspected(states) => {
                let inspected = |(node, state): (NodeId, Result<_, replication::FailedWhy>)| {
                    Inspected { node, state: state.map_err(|why| why.to_string()) }
                };
                ReplyBody::Inspected(states.into_iter().map(inspected).collect())
            }
            Outcome::Scanned(scanned) => {
                let replication::Scanned { entries, complete, answered, repaired } = scanned;
                ReplyBody::Scanned(Scanned { entries, complete, answered, repaired })
            }
        }
    }

    fn failure_reply(&self, failure: Failure) -> ErrorReply {
        let message = self.told_failure(&failure);
        let code = match &failure.kind {
            FailureKind::Usage(_) => ErrorCode::Usage,
            FailureKind::QuorumUnmet => ErrorCode::QuorumUnmet,
            FailureKind::TooManySiblings => ErrorCode::TooManySiblings,
            FailureKind::StaleContext => ErrorCode::StaleContext,
            FailureKind::Corrupt => ErrorCode::Corrupt,
            FailureKind::Overloaded => ErrorCode::Overloaded,
            FailureKind::DiskFull => ErrorCode::DiskFull,
            FailureKind::NotCoordinator => ErrorCode::WrongLayout,
        };
        let failed =
            |(node, why): (NodeId, replication::FailedWhy)| Failed { node, why: why.to_string() };
        ErrorReply {
            code,
            message,
            needed: failure.needed,
            acked: failure.acked,
            failed: failure.failed.into_iter().map(failed).collect(),
            outcome: failure.outcome.map(|outcome| match outcome {
                WriteOutcome::NotApplied => client::Outcome::NotApplied,
                WriteOutcome::Unknown => client::Outcome::Unknown,
            }),
            retry: failure.retry,
        }
    }

    fn told_failure(&self, failure: &Failure) -> String {
        let Failure { needed, acked, failed, .. } = failure;
        match &failure.kind {
            FailureKind::Usage(text) => text.clone(),
            FailureKind::QuorumUnmet => {
                let silent =
                    failed.iter().map(|(node, why)| format!("{} {why}", self.name_of(*node)));
                let silent = silent.collect::<Vec<_>>().join(", ");
                format!("{needed} replicas were needed, {} answered ({silent})", acked.len())
            }
            FailureKind::TooManySiblings => {
                "the key has too many siblings: resolve them first".to_owned()
            }
            FailureKind::StaleContext => {
                "the key has changed since its context was read".to_owned()
            }
            FailureKind::Corrupt => "the key's range is corrupt and not yet repaired".to_owned(),
            FailureKind::Overloaded => "the node has too much in flight".to_owned(),
            FailureKind::DiskFull => "the disk is full: only reads are served".to_owned(),
            FailureKind::NotCoordinator => {
                "the layout moved on: this node does not own the key".to_owned()
            }
        }
    }
}

/// An error that names no replicas, and will not go away by itself.
pub(super) const fn error_reply(code: ErrorCode, message: String) -> ReplyBody {
    ReplyBody::Error(ErrorReply {
        code,
        message,
        needed: 0,
        acked: Vec::new(),
        failed: Vec::new(),
        outcome: None,
        retry: false,
    })
}
