//! What one node keeps of one other member.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::node_id::NodeId;

use super::super::{MemberEntry, Pulse, Time};
use super::accrual::GapHistory;
use super::{Effect, Health};

/// One other member of the layout. Instants are in time listened ([`Membership`](super::Membership)).
#[derive(Clone, Debug)]
pub(super) struct Peer {
    pub(super) id: NodeId,
    interval: Duration,
    /// The freshest word about it.
    pub(super) entry: Option<MemberEntry>,
    pub(super) health: Health,
    reported: Health,
    gaps: GapHistory,
    /// When its pulse rose last.
    rose_at: Option<Duration>,
    /// When any news of its life came last; this node's start or its own entry into the layout at first.
    heard_at: Duration,
    /// Whether the connection to it broke and nothing came from itself since.
    pub(super) is_cut_off: bool,
    /// The pulse at which this node suspects it.
    pub(super) suspected: Option<Pulse>,
    /// Accusations at this pulse or below are refuted: it was heard since.
    refuted: Option<Pulse>,
    /// Whom it suspects, at which pulse.
    pub(super) reports: BTreeMap<NodeId, Pulse>,
}

impl Peer {
    pub(super) fn new(id: NodeId, interval: Duration, listened: Duration) -> Self {
        Self {
            id,
            interval,
            entry: None,
            health: Health::Unknown,
            reported: Health::Unknown,
            gaps: GapHistory::new(interval),
            rose_at: None,
            heard_at: listened,
            is_cut_off: false,
            suspected: None,
            refuted: None,
            reports: BTreeMap::new(),
        }
    }

    /// The freshest pulse known of it.
    pub(super) fn pulse(&self) -> Pulse {
        self.entry.as_ref().map(MemberEntry::pulse).unwrap_or_default()
    }

    /// Whether it is worth talking to: heard since this node started, and not down.
    pub(super) const fn is_near(&self) -> bool {
        match self.health {
            Health::Up | Health::Suspected => true,
            Health::Unknown | Health::Down { .. } => false,
        }
    }

    pub(super) fn phi(&self, listened: Duration) -> f64 {
        self.gaps.phi(listened.saturating_sub(self.heard_at))
    }

    /// It spoke itself.
    pub(super) fn hear(&mut self, heard_at: Duration) {
        self.heard_at = heard_at;
        self.is_cut_off = false;
        self.suspected = None;
        self.refuted = Some(self.pulse());
        self.health = Health::Up;
    }

    /// Takes `entry` if it is fresher than what is known; a rise is news of its life.
    pub(super) fn learn(&mut self, entry: MemberEntry, heard_at: Duration) {
        let known = self.entry.as_ref().map(MemberEntry::pulse);
        if known.is_some_and(|known| entry.pulse() <= known) {
            return;
        }
        let is_another_life = known.is_some_and(|known| known.incarnation != entry.start.count);
        self.entry = Some(entry);
        self.suspected = None;
        if known.is_none() {
            // Somebody knew it: not yet a sign that it lives now.
            self.rose_at = None;
            return;
        }
        if is_another_life {
            self.gaps = GapHistory::new(self.interval);
        } else if let Some(rose_at) = self.rose_at {
            self.gaps.record(heard_at.saturating_sub(rose_at));
        }
        self.rose_at = Some(heard_at);
        self.heard_at = heard_at;
        self.health = Health::Up;
    }

    /// This node has not heard it for too long.
    pub(super) fn suspect(&mut self) {
        self.suspected = Some(self.pulse());
        self.refuted = None;
        if self.health == Health::Up {
            self.health = Health::Suspected;
        }
    }

    /// Enough members suspect it.
    pub(super) fn put_down(&mut self, now: Time) {
        match self.health {
            Health::Down { .. } => {}
            Health::Unknown | Health::Up | Health::Suspected => {
                self.health = Health::Down { since: now }
            }
        }
    }

    /// Whether another's suspicion at `pulse` counts: nothing fresher is known of it, nor was it heard since.
    pub(super) fn stands_accused_at(&self, pulse: Pulse) -> bool {
        self.pulse() <= pulse && self.refuted.is_none_or(|refuted| refuted < pulse)
    }

    /// Says what its health is, if that is another than was said last.
    pub(super) fn report_health(&mut self, effects: &mut Vec<Effect>) {
        if self.reported != self.health {
            self.reported = self.health;
            effects.push(Effect::HealthChanged { node: self.id, health: self.health });
        }
    }
}
