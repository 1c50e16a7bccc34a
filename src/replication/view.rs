//! What a coordinator may know of the cluster while it handles one input.

use crate::cluster::Time;
use crate::node_id::NodeId;
use crate::ring::Preferences;

/// The cluster as this node sees it now.
#[derive(Clone, Copy)]
pub struct View<'a> {
    /// This node.
    pub me: NodeId,
    /// The ring in force.
    pub preferences: &'a Preferences,
    /// Whether a member can be asked; not consulted for `me`, which always can.
    pub reachable: &'a dyn Fn(NodeId) -> Reachability,
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

impl View<'_> {
    /// Whether a question may be sent to `node`.
    pub fn can_ask(&self, node: NodeId) -> bool {
        self.reachability(node).can_be_asked()
    }

    /// Whether `node` can be asked.
    pub fn reachability(&self, node: NodeId) -> Reachability {
        if node == self.me { Reachability::Up } else { (self.reachable)(node) }
    }
}
