//! A walk down two trees, from the side that asks: what of each answer differs from the own side, and where it leads.

use std::collections::VecDeque;

use crate::node_id::NodeId;
use crate::ring::Slot;

use super::View;
use super::message::{SHORT_BYTES, short_hash, short_leaf};
use super::tree::{FANOUT, TreeNode};

/// Nodes of one question.
const BATCH: usize = 512;

/// Where an answer leads.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// More of this level is to be asked about.
    Stay,
    /// These children, or slots, differ.
    Found(Vec<u16>),
    /// Nothing differs.
    Equal,
    /// The answer is none to the question.
    Failed,
}

/// A list on its way through questions: nodes of one level, or slots.
#[derive(Debug, Default)]
pub(super) struct Walk {
    /// In the question that is under way.
    pub(super) asked: Vec<u16>,
    /// Not asked about yet.
    pub(super) open: VecDeque<u16>,
    /// What differs: children of nodes, or slots.
    pub(super) found: Vec<u16>,
}

impl Walk {
    pub(super) fn of(open: impl Into<VecDeque<u16>>) -> Self {
        Self { open: open.into(), ..Self::default() }
    }

    /// The next part to be asked about; empty while an answer is owed.
    pub(super) fn next(&mut self) -> Vec<u16> {
        if self.asked.is_empty() {
            self.asked.extend(self.open.drain(..self.open.len().min(BATCH)));
            self.asked.clone()
        } else {
            Vec::new()
        }
    }

    pub(super) fn len(&self) -> usize {
        self.asked.len() + self.open.len() + self.found.len()
    }
}

impl Walk {
    /// Holds the hashes below the nodes asked for against the own ones.
    pub(super) fn descend(
        &mut self,
        peer: NodeId,
        level: u8,
        hashes: &[u8],
        view: &mut impl View,
    ) -> Step {
        if hashes.len() != self.asked.len() * FANOUT * SHORT_BYTES {
            return Step::Failed;
        }
        let indexes =
            self.asked.drain(..).flat_map(|index| (0..16).map(move |child| index * 16 + child));
        for (index, theirs) in indexes.zip(hashes.chunks_exact(SHORT_BYTES)) {
            let own = match TreeNode::new(level + 1, index) {
                Some(child) => short_hash(view.hash(peer, child)),
                None => short_leaf(view.leaf(peer, Slot(index))),
            };
            if own.as_slice() != theirs {
                self.found.push(index);
            }
        }
        self.step()
    }

    /// Holds the leaves of the slots asked for against the own ones.
    pub(super) fn look_again(&mut self, peer: NodeId, leaves: &[u8], view: &impl View) -> Step {
        if leaves.len() != self.asked.len() * SHORT_BYTES {
            return Step::Failed;
        }
        for (slot, theirs) in self.asked.drain(..).zip(leaves.chunks_exact(SHORT_BYTES)) {
            if short_leaf(view.leaf(peer, Slot(slot))).as_slice() != theirs {
                self.found.push(slot);
            }
        }
        self.step()
    }

    fn step(&mut self) -> Step {
        match (self.open.is_empty(), self.found.is_empty()) {
            (false, _) => Step::Stay,
            (true, true) => Step::Equal,
            (true, false) => Step::Found(std::mem::take(&mut self.found)),
        }
    }
}
