//! Clients' requests: checked, then coordinated here, passed on, or answered from what this node knows.

use std::time::Duration;

use bytes::Bytes;
use rand::Rng;

use crate::cluster::Time;
use crate::node_id::NodeId;
use crate::replication::{Input, OpId, Operation, PutBasis};
use crate::ring::{PARTITIONS_MAX, Slot, Token};
use crate::version::{COUNTER_MAX, Content, VectorClock};
use crate::wire::client::{
    self, ErrorCode, ErrorReply, Get, Merge, Outcome, Put, ReplyBody, Request, RequestBody, Scan,
};

use super::calls::{Call, CallKind, Origin};
use super::config::DEADLINE_MAX;
use super::core::{Core, Phase};
use super::event::{Caller, Effect};
use super::forwarding::Forward;
use super::replies::error_reply;

/// One get in so many compares all owners, whatever R is: what is read is repaired in time.
const BACKGROUND_SHARE: u32 = 100;
/// What a request in flight holds besides its key and value, bytes.
const REQUEST_BYTES: usize = 1_024;

/// A request about keys, checked.
#[derive(Debug)]
pub(super) struct Checked {
    kind: CallKind,
    /// Where its keys lie: decides who coordinates.
    token: Token,
    operation: Operation,
    bytes: usize,
}

impl Core {
    /// A request of a client of this node.
    pub(super) fn client(&mut self, caller: Caller, request: Request, effects: &mut Vec<Effect>) {
        let origin = Origin::Client { caller, id: request.id };
        let Some(deadline) = self.deadline_of(&request) else {
            self.figures.counters.expired += 1;
            return effects.push(Effect::Dropped { caller });
        };
        if self.phase != Phase::Running {
            return self.reply(origin, not_ready(), effects);
        }
        match &request.body {
            RequestBody::Get(_)
            | RequestBody::Put(_)
            | RequestBody::Merge(_)
            | RequestBody::Inspect { .. }
            | RequestBody::Scan(_) => {}
            RequestBody::Layout => return self.reply(origin, self.layout_reply(), effects),
            RequestBody::View => return self.reply(origin, self.view_reply(), effects),
            RequestBody::Info => {
                let body = self.info_reply();
                return self.reply(origin, body, effects);
            }
            RequestBody::HotKeys => {
                let body = self.hot_keys_reply();
                return self.reply(origin, body, effects);
            }
            RequestBody::Leaves => return self.leaves(origin, effects),
            RequestBody::RepairStart => {
                self.start_repair(effects);
                return self.reply(origin, self.repair_reply(), effects);
            }
            RequestBody::Stage(staged) => return self.stage(origin, staged.clone(), effects),
            RequestBody::Staged => return self.reply(origin, self.staged_reply(), effects),
            RequestBody::Unstage => {
                self.unstage(effects);
                return self.reply(origin, self.staged_reply(), effects);
            }
            RequestBody::RepairStatus => return self.reply(origin, self.repair_reply(), effects),
            RequestBody::AcceptLoss { first, last } => {
                self.accept_loss((*first, *last), effects);
                return self.reply(origin, self.repair_reply(), effects);
            }
            RequestBody::KeepNames(names) => return self.keep_names(origin, names, effects),
            RequestBody::Snapshot(request) => return self.snapshot(origin, request, effects),
            RequestBody::Propose { expect, change } => {
                return self.propose(origin, *expect, change, deadline, effects);
            }
            RequestBody::Recover(step) => return self.recover(origin, step, effects),
        }
        match self.take_in(&request.body, deadline) {
            Err(error) => self.reply(origin, ReplyBody::Error(error), effects),
            Ok(checked)
                if self.owns(checked.token.slot())
                    && !self.passes_on(&request.body, checked.token.slot()) =>
            {
                self.begin(origin, checked, deadline);
            }
            Ok(checked) => {
                let forward = Forward {
                    origin,
                    slot: checked.token.slot(),
                    deadline,
                    bytes: checked.bytes,
                    body: request.body,
                    tried: Vec::new(),
                };
                self.forward(forward, effects);
            }
        }
    }

    /// A client's request that a peer passed on; never passed on again.
    pub(super) fn forwarded(
        &mut self,
        from: NodeId,
        op: OpId,
        request: &Request,
        effects: &mut Vec<Effect>,
    ) {
        let origin = Origin::Peer { node: from, op, id: request.id };
        let Some(deadline) = self.deadline_of(request) else {
            self.figures.counters.expired += 1;
            return;
        };
        if self.phase != Phase::Running {
            return self.reply(origin, not_ready(), effects);
        }
        match self.take_in(&request.body, deadline) {
            Err(error) => self.reply(origin, ReplyBody::Error(error), effects),
            Ok(checked)
                if self.owns(checked.token.slot()) || self.takes_stand_ins(&request.body) =>
            {
                self.begin(origin, checked, deadline);
            }
            Ok(_) => {
                let text = "the node that this was passed to does not own the key".to_owned();
                self.reply(origin, error_reply(ErrorCode::WrongLayout, text), effects);
            }
        }
    }

    pub(super) fn begin(&mut self, origin: Origin, checked: Checked, deadline: u64) {
        let Checked { kind, mut operation, bytes, token } = checked;
        self.note_use(token, &operation);
        if let Operation::Get { compares_all, .. } = &mut operation {
            *compares_all = self.rng.random_ratio(1, BACKGROUND_SHARE);
        }
        let op = self.next_op();
        self.foreground.note(self.now);
        match kind {
            CallKind::Get | CallKind::Inspect => self.figures.counters.gets += 1,
            CallKind::Put => self.figures.counters.puts += 1,
            CallKind::Merge => self.figures.counters.imports += 1,
            CallKind::Scan => self.figures.counters.scans += 1,
        }
        self.calls.begin(op, Call { origin, began: self.now, kind, bytes });
        let left = deadline.saturating_sub(self.now.monotonic);
        let deadline = self.now.after(Duration::from_nanos(left));
        self.coordinate(Input::Begin { op, operation, deadline });
    }

    /// When the request is too late, in our monotonic nanoseconds; `None` when it is already.
    fn deadline_of(&self, request: &Request) -> Option<u64> {
        let now = self.now.monotonic;
        let latest = self.now.after(DEADLINE_MAX).monotonic;
        match request.deadline {
            0 => Some(self.now.after(self.config.timeout).monotonic.min(latest)),
            deadline if deadline <= now => None,
            deadline => Some(deadline.min(latest)),
        }
    }

    /// Checks what a request about keys says, and whether there is room for it.
    fn take_in(&mut self, body: &RequestBody, deadline: u64) -> Result<Checked, ErrorReply> {
        let checked = self.check(body)?;
        self.check_recovery(body)?;
        let left = Duration::from_nanos(deadline.saturating_sub(self.now.monotonic));
        let requests = self.calls.len() + self.forwards.len();
        let bytes = self.calls.bytes() + self.forwards.bytes() + checked.bytes;
        if !self.admission.lets_in(requests, left) || self.config.limits.request_bytes < bytes {
            self.figures.counters.overloads += 1;
            let mut error =
                error(ErrorCode::Overloaded, format!("{requests} requests are in flight here"));
            error.retry = true;
            error.outcome = checked.kind.is_write().then_some(Outcome::NotApplied);
            return Err(error);
        }
        Ok(checked)
    }

    /// Whether a put is better done by another owner: this one may hold less than stands.
    fn passes_on(&self, body: &RequestBody, slot: Slot) -> bool {
        let is_put = matches!(body, RequestBody::Put(_));
        let mut others = self.preferences.of_slot(slot).owners().filter(|owner| *owner != self.me);
        is_put && self.is_unsound(slot) && others.any(|owner| self.peers.is_connected(owner))
    }

    pub(super) fn check(&self, body: &RequestBody) -> Result<Checked, ErrorReply> {
        match body {
            RequestBody::Get(Get { key, r, consistency }) => {
                let key = self.check_key(key)?;
                let operation = Operation::Get {
                    key: key.clone(),
                    r: *r,
                    consistency: *consistency,
                    compares_all: false,
                };
                Ok(checked(CallKind::Get, &key, key.len(), operation))
            }
            RequestBody::Put(put) => self.check_put(put),
            RequestBody::Merge(merge) => self.check_merge_request(merge),
            RequestBody::Inspect { key } => {
                let key = self.check_key(key)?;
                let operation = Operation::Inspect { key: key.clone() };
                Ok(checked(CallKind::Inspect, &key, key.len(), operation))
            }
            RequestBody::Scan(scan) => self.check_scan(scan),
            RequestBody::Layout
            | RequestBody::View
            | RequestBody::Info
            | RequestBody::HotKeys
            | RequestBody::Leaves
            | RequestBody::RepairStart
            | RequestBody::RepairStatus
            | RequestBody::AcceptLoss { .. }
            | RequestBody::Stage(_)
            | RequestBody::Staged
            | RequestBody::Unstage
            | RequestBody::Snapshot(_)
            | RequestBody::KeepNames(_)
            | RequestBody::Propose { .. }
            | RequestBody::Recover(_) => {
                Err(error(ErrorCode::Usage, "only requests about keys are passed on".to_owned()))
            }
        }
    }

    fn check_key(&self, key: &Bytes) -> Result<Bytes, ErrorReply> {
        if key.is_empty() {
            return Err(error(ErrorCode::Usage, "the key is empty".to_owned()));
        }
        self.check_size(key.len())?;
        Ok(key.clone())
    }

    fn check_size(&self, bytes: usize) -> Result<(), ErrorReply> {
        let most = self.config.pair_max;
        if bytes <= most as usize {
            return Ok(());
        }
        let text = format!("key and value are {bytes} bytes, at most {most} are allowed");
        Err(error(ErrorCode::TooLarge, text))
    }

    fn check_put(&self, put: &Put) -> Result<Checked, ErrorReply> {
        let key = self.check_key(&put.key)?;
        let bytes = key.len() + put.value.as_ref().map_or(0, Bytes::len);
        self.check_size(bytes)?;
        let basis = match &put.basis {
            client::PutBasis::Present => PutBasis::Present,
            client::PutBasis::Context(clock) => PutBasis::Context(check_context(clock)?),
            client::PutBasis::IfContext(clock) => PutBasis::IfContext(check_context(clock)?),
            client::PutBasis::Blind => PutBasis::Blind,
        };
        let content = put.value.clone().map_or(Content::Tombstone, Content::Value);
        let operation = Operation::Put {
            key: key.clone(),
            content,
            basis,
            w: put.w,
            r: put.r,
            consistency: put.consistency,
            request: put.request,
            age: Duration::from_micros(put.age),
        };
        Ok(checked(CallKind::Put, &key, bytes, operation))
    }

    /// What is put here was accepted elsewhere, where pairs may have been larger.
    fn check_merge_request(&self, merge: &Merge) -> Result<Checked, ErrorReply> {
        let Merge { key, state, w, consistency } = merge;
        let key = self.check_key(key)?;
        if state.versions().is_empty() {
            return Err(error(ErrorCode::Usage, "the state holds no version".to_owned()));
        }
        for version in state.versions().values() {
            self.check_size(key.len() + version.content.len())?;
        }
        let bytes = key.len() + state.bytes_estimate();
        let (state, w, consistency) = (state.clone(), *w, *consistency);
        let operation = Operation::Merge { key: key.clone(), state, w, consistency };
        Ok(checked(CallKind::Merge, &key, bytes, operation))
    }

    fn check_scan(&self, scan: &Scan) -> Result<Checked, ErrorReply> {
        let ring = &self.layout.now;
        if scan.layout != self.layout.version {
            let text = format!("layout {} is in force, not {}", self.layout.version, scan.layout);
            let mut error = error(ErrorCode::WrongLayout, text);
            error.retry = true;
            return Err(error);
        }
        if ring.q <= scan.partition.0 {
            let text = format!("partition {} of {}", scan.partition.0, ring.q);
            return Err(error(ErrorCode::Usage, text));
        }
        let slots = slots_of(scan.partition.0, ring.q);
        let operation = Operation::Scan {
            slots,
            after: scan.after.clone(),
            prefix: scan.prefix.clone(),
            r: scan.r,
            bytes_max: scan.bytes_max,
        };
        let bytes = scan.prefix.len() + REQUEST_BYTES;
        let token = Token::from_point(u64::from(slots.0.0) << 48);
        Ok(Checked { kind: CallKind::Scan, token, operation, bytes })
    }

    /// Microseconds since `began`.
    pub(super) fn micros_since(&self, began: Time) -> u64 {
        u64::try_from(self.now.since(began).as_micros()).unwrap_or(u64::MAX)
    }
}

/// How many slots each partition of a ring of `q` has.
pub(super) const fn slots_a_partition(q: u32) -> u32 {
    PARTITIONS_MAX / q
}

/// First and last slot of a partition.
pub(super) fn slots_of(partition: u32, q: u32) -> (Slot, Slot) {
    let slots = slots_a_partition(q);
    let first = partition * slots;
    let slot = |number: u32| Slot(u16::try_from(number).expect("a partition of the ring"));
    (slot(first), slot(first + slots - 1))
}

fn checked(kind: CallKind, key: &Bytes, bytes: usize, operation: Operation) -> Checked {
    Checked { kind, token: Token::of(key), operation, bytes: bytes + REQUEST_BYTES }
}

fn check_context(clock: &VectorClock) -> Result<VectorClock, ErrorReply> {
    if clock.iter().any(|(_, counter)| COUNTER_MAX < counter) {
        return Err(error(ErrorCode::Usage, "the context holds a counter past 2^63".to_owned()));
    }
    Ok(clock.clone())
}

fn not_ready() -> ReplyBody {
    let mut error = error(ErrorCode::NotReady, "the node is stopping".to_owned());
    (error.retry, error.outcome) = (true, Some(Outcome::NotApplied));
    ReplyBody::Error(error)
}

fn error(code: ErrorCode, message: String) -> ErrorReply {
    match error_reply(code, message) {
        ReplyBody::Error(error) => error,
        _ => unreachable!("an error reply"),
    }
}
