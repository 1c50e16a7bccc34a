//! What a coordinator may know of the cluster while it handles one input.

use crate::cluster::Time;
use crate::node_id::NodeId;
use crate::ring::{Preferences, Slot};

use super::ForegroundLoad;
use super::quorum::Rings;

/// The cluster as this node sees it now.
#[derive(Clone, Copy)]
pub struct View<'a> {
    /// This node.
    pub me: NodeId,
    /// The ring in force.
    pub preferences: &'a Preferences,
    /// The ring that a running change leads to.
    pub next: Option<&'a Preferences>,
    /// Whether that change makes up for the loss of a majority.
    pub recovers: bool,
    /// Whether a member can be asked; not consulted for `me`, which always can.
    pub reachable: &'a dyn Fn(NodeId) -> Reachability,
    /// What clients ask of this node.
    pub foreground: ForegroundLoad,
    /// The present.
    pub now: Time,
}

impl std::fmt::Debug for View<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { me, now, .. } = self;
        f.debug_struct("View").field("me", me).field("now", now).finish_non_exhaustive()
    }
}

/// Whether a member can be asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reachability {
    /// A connection stands and it is not down.
    Up,
    /// The same, but it was asked something a while ago and has said nothing since: it is asked after the others.
    Silent,
    /// The cluster agrees that it is down.
    Down,
    /// No connection to it stands.
    Unreachable,
}

impl Reachability {
    /// Whether a question may be sent at all.
    pub const fn can_be_asked(self) -> bool {
        match self {
            Self::Up | Self::Silent => true,
            Self::Down | Self::Unreachable => false,
        }
    }
}

impl<'a> View<'a> {
    /// The rings that a request is resolved against.
    pub(super) fn rings(&self) -> Rings<'a> {
        Rings { now: self.preferences.ring(), next: self.next.map(|next| next.ring().as_ref()) }
    }

    /// Who may stand in for owners of `slot`, nearest first. A leaver stands in for nobody once its leaving has begun,
    /// or it could never be free of hints.
    ///
    /// Who becomes an owner comes last. It takes what is written as its own, and to hold the same for another as well
    /// does no harm: it is a holder of hints who gains their key, as any may be whose hints are older than the
    /// change. But one member is one disk, so another's word is worth more; and it has one voice an operation. Left
    /// out altogether it would take hints from sloppy reads, and writes from the side of a partition that it is on.
    pub(super) fn fallbacks(&self, slot: Slot) -> Vec<NodeId> {
        let fallbacks = self.preferences.of_slot(slot).fallbacks();
        let Some(next) = self.next.map(|next| next.of_slot(slot)) else {
            return fallbacks.collect();
        };
        let mut staying: Vec<_> = fallbacks.filter(|node| next.position(*node).is_some()).collect();
        staying.sort_by_key(|node| next.owns(*node));
        staying
    }

    /// Whether a question may be sent to `node`.
    pub fn can_ask(&self, node: NodeId) -> bool {
        self.reachability(node).can_be_asked()
    }

    /// Whether `node` can be asked.
    pub fn reachability(&self, node: NodeId) -> Reachability {
        if node == self.me { Reachability::Up } else { (self.reachable)(node) }
    }
}
