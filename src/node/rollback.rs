//! Rolled-back disks: how far others were seen to get, and what this node may say before it knows that its own disk is
//! the one of before (DESIGN §7; who asks whom is drawn in `cluster::start`).
//!
//! ```text
//! starting ──half of the others saw no more than the disk gave back──▶ compared ──the record of it durable──▶ telling
//!    └────────────── somebody saw more, now or later ──────────────▶ rolled back: nothing is done any more
//! ```
//! Until it is compared a node takes writes, and answers reads that promise nothing; but no strict read, no comparison, no
//! page of a refill, no cut, and it votes on no layout. Until it is telling it gossips no position: what the next start
//! compares is what the disk gave back at this one.
//!
//! Invariant: what others say of themselves, written down here, does not raise the position that this node tells, else an
//! idle cluster would never come to rest.

use crate::cluster::start::Reached;
use crate::cluster::{Incarnation, Time, membership};
use crate::node_id::NodeId;
use crate::replication::{Consistency, Refusal, Request};
use crate::storage::{LogPosition, Store, WriteBatch, WriteError};

use super::anti_entropy::is_repair;
use super::core::{Core, Parked, Phase};
use super::event::{Effect, Severity};
use super::key_work::Asker;
use super::meta;

/// How far this node is with telling others how far its log is synced.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Telling {
    /// Its disk is not compared, or that is not on record.
    NotYet,
    /// That it is compared is on its way to the disk.
    Recording,
    /// It tells.
    Begun,
}

/// What a node knows of positions, its own and others'.
#[derive(Debug)]
pub(super) struct Positions {
    telling: Telling,
    /// The last write that a disk rolled back behind it would lack.
    latest: LogPosition,
    /// When what was seen of others was written down last.
    kept_at: Time,
}

impl Positions {
    pub(super) fn new(store: &Store, now: Time) -> Self {
        Self { telling: Telling::NotYet, latest: store.appended(), kept_at: now }
    }

    /// Something was written.
    pub(super) fn wrote(&mut self, position: LogPosition) {
        self.latest = self.latest.max(position);
    }
}

impl Core {
    /// Whether enough others saw no more of this node than its disk gave back.
    pub(super) fn is_compared(&self) -> bool {
        self.confirmation.is_compared()
    }

    /// The latest start of a member that this node knows of: by gossip, or on record. A member that lost its disk counts
    /// on from there.
    pub(super) fn latest_start(&self, node: NodeId) -> Incarnation {
        let told = self.membership.entry(node).map(|entry| entry.start.count).unwrap_or_default();
        told.max(self.records.latest(node)).max(self.sightings.farthest(node).count)
    }

    /// Whether this node may answer `request`, and how: before it is compared it promises nothing.
    pub(super) fn check_compared(&self, asker: Asker, request: &Request) -> Result<(), Refusal> {
        if self.layout.recovers && is_strict(request) {
            return Err(Refusal::Refilling);
        }
        let speaks_for_all = match request {
            Request::Read { .. } => is_strict(request),
            Request::ReadRange { .. } => match asker {
                Asker::Peer { op, .. } => is_repair(op),
                Asker::Own { .. } | Asker::Repair { .. } => false,
            },
            Request::Compare(_) => true,
            Request::Merge { .. }
            | Request::Hold { .. }
            | Request::ReadHeld { .. }
            | Request::Recall { .. }
            | Request::Cut(_) => false,
        };
        if speaks_for_all && !self.is_compared() { Err(Refusal::Starting) } else { Ok(()) }
    }

    /// Whether what `request` reads is told without any promise: before the disk is compared, and before all that
    /// survived a loss is merged.
    pub(super) fn unpromised(&self, asker: Asker, request: &Request) -> bool {
        let is_read = matches!(request, Request::Read { .. });
        let is_promised = self.is_compared() && !self.layout.recovers;
        is_read && !matches!(asker, Asker::Repair { .. }) && !is_promised
    }

    /// Enough members saw no more than the disk gave back.
    pub(super) fn compared(&mut self, effects: &mut Vec<Effect>) {
        self.layout_for_repairs(effects);
        self.refill_timer(effects);
    }

    /// Somebody saw more than this disk gave back: what it holds is not what this node once said it holds.
    pub(super) fn rolled_back(&mut self, by: NodeId, seen: Reached, effects: &mut Vec<Effect>) {
        let recovered = self.confirmation.recovered();
        let told =
            |Reached { count, position }| format!("start {}, log position {position}", count.0);
        let why = format!(
            "{} saw this node at {}, its disk gave back {}: the disk was rolled back, or is a copy",
            self.name_of(by),
            told(seen),
            told(recovered)
        );
        self.give_up_disk(why, effects);
    }

    /// This disk lacks what the node once held: nothing is done with it any more.
    pub(super) fn give_up_disk(&mut self, why: String, effects: &mut Vec<Effect>) {
        if self.phase != Phase::Ended {
            self.phase = Phase::Ended;
            effects.push(Effect::RolledBack(why));
        }
    }

    /// Appends what others said of themselves: a disk that is rolled back behind it lacks nothing of this node's.
    pub(super) fn write_hearsay(
        &mut self,
        batch: WriteBatch,
        effects: &mut Vec<Effect>,
    ) -> Result<LogPosition, WriteError> {
        let latest = self.positions.latest;
        let written = self.write(batch, effects);
        self.positions.latest = latest;
        written
    }

    /// Due with each tick of the membership: tells others how far this node got, keeps how far they did.
    pub(super) fn positions_timer(&mut self, effects: &mut Vec<Effect>) {
        match self.positions.telling {
            Telling::NotYet if self.is_compared() => self.record_comparison(effects),
            Telling::NotYet | Telling::Recording => {}
            Telling::Begun => {
                let synced = self.store.synced().min(self.positions.latest);
                self.membership_event(membership::Event::LogSynced(synced.get()), effects);
            }
        }
        if self.sightings.has_news()
            && self.config.gossip_interval <= self.now.since(self.positions.kept_at)
        {
            self.keep_sightings(effects);
        }
    }

    /// That the disk is compared is on record: from now on others are told how far it gets.
    pub(super) fn comparison_recorded(&mut self) {
        self.positions.telling = Telling::Begun;
    }

    /// Gossip came: what members say of themselves is noted.
    pub(super) fn note_sightings(&mut self) {
        for (node, _, entry) in self.membership.peers() {
            if let Some(entry) = entry {
                self.sightings.see(node, entry.start, entry.log_position);
            }
        }
    }

    fn record_comparison(&mut self, effects: &mut Vec<Effect>) {
        let mut batch = WriteBatch::new();
        batch.delete(meta::uncompared_key()).durable().on_reserve();
        match self.write(batch, effects) {
            Ok(position) => {
                self.positions.telling = Telling::Recording;
                self.once_durable(position, Parked::Compared, effects);
            }
            // The next tick tries again; until then nothing of this start is told.
            Err(error) => {
                let text = format!("cannot record that the disk was compared: {error}");
                effects.push(Effect::Log(Severity::Warn, text));
            }
        }
    }

    /// One small batch for all members, which nobody waits for: a sighting that is lost makes a rolled-back disk of that
    /// member less likely to be noticed, nothing else.
    fn keep_sightings(&mut self, effects: &mut Vec<Effect>) {
        self.positions.kept_at = self.now;
        let mut batch = WriteBatch::new();
        for (node, sighting) in self.sightings.take_news() {
            batch.put(meta::seen_key(node), meta::encode_sighting(sighting));
        }
        let _ = self.write_hearsay(batch, effects);
    }
}

fn is_strict(request: &Request) -> bool {
    matches!(request, Request::Read { consistency: Consistency::Strict, .. })
}
