//! Processes that stand still, and nodes that are slow.
//!
//! What reaches a process that stands still (SIGSTOP) waits: frames in the sockets' buffers, finished disk work, timers.
//! When it goes on, all of it is there at once, in the order in which it came, and its clock has jumped.

use std::time::Duration;

use rand::Rng;

use super::{Happening, World};
use crate::network::Node;

impl World {
    /// Stops a process; what reaches it waits.
    pub fn pause(&mut self, node: Node) {
        if self.is_running(node) {
            self.note(&format!("n{} stands still", node + 1));
            self.paused.entry(node).or_default();
        }
    }

    /// Lets a process go on.
    pub fn resume(&mut self, node: Node) {
        let Some(held) = self.paused.remove(&node) else { return };
        self.note(&format!("n{} goes on, {} events waited", node + 1, held.len()));
        for happening in held {
            // A process that closed its clients' connections takes nothing more from them: their calls are gone.
            self.happen(happening);
        }
    }

    /// What waited for a process goes nowhere once it is dead; that a connection broke is known by its death.
    pub(super) fn forget_held(&mut self, node: Node) {
        for happening in self.paused.remove(&node).unwrap_or_default() {
            if let Happening::Broken { node, peer, .. } = happening {
                self.notified.remove(&(node, peer));
            }
        }
    }

    pub fn is_paused(&self, node: Node) -> bool {
        self.paused.contains_key(&node)
    }

    /// Holds what is for a process that stands still; gives the rest back.
    pub(super) fn hold(&mut self, happening: Happening) -> Option<Happening> {
        let node = happening.node().filter(|node| self.is_paused(*node));
        match node.and_then(|node| self.paused.get_mut(&node)) {
            Some(held) => {
                held.push(happening);
                None
            }
            None => Some(happening),
        }
    }

    /// How long something at this node takes longer, this time.
    pub(super) fn slowness(&mut self, node: Node) -> Duration {
        match self.slow.get(&node).copied() {
            Some(most) => self.rng.random_range(Duration::ZERO..=most),
            None => Duration::ZERO,
        }
    }
}
