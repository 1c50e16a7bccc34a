//! What a script keeps back and lets go when it suits its schedule: frames on their way, and disk reads whose results
//! have not reached the core.

use kvkit::wire::peer::{PeerFrame, PeerMessage};

use super::{Happening, World};
use crate::network::Node;

/// What may be kept back.
pub enum Due<'a> {
    Frame { from: Node, to: Node, message: &'a PeerMessage },
    Read { node: Node, key: &'a [u8] },
}

/// Names a drawer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct DrawerId(u64);

/// What is kept back for one reason.
pub(super) struct Drawer {
    keeps: Box<dyn Fn(&Due<'_>) -> bool>,
    kept: Vec<Happening>,
}

impl World {
    /// From now on what `keeps` says so of waits.
    pub fn keep_back(&mut self, keeps: impl Fn(&Due<'_>) -> bool + 'static) -> DrawerId {
        self.next += 1;
        let id = DrawerId(self.next);
        self.drawers.insert(id, Drawer { keeps: Box::new(keeps), kept: Vec::new() });
        id
    }

    /// How much waits.
    pub fn kept(&self, id: DrawerId) -> usize {
        self.drawers.get(&id).map_or(0, |drawer| drawer.kept.len())
    }

    /// Lets all that waits go now, and keeps nothing more.
    pub fn let_go(&mut self, id: DrawerId) {
        for happening in self.drawers.remove(&id).into_iter().flat_map(|drawer| drawer.kept) {
            self.at(std::time::Duration::ZERO, happening);
        }
    }

    /// All that waits never happens; nothing more is kept back.
    pub fn lose(&mut self, id: DrawerId) {
        self.drawers.remove(&id);
    }

    /// Has a node say what its core did not: something that it could have had on its mind since before.
    pub fn say(&mut self, from: Node, to: Node, message: PeerMessage) {
        let sent = self.replicas[from].time(self.now).monotonic;
        self.transmit(from, to, &PeerFrame { sent, message });
    }

    /// Keeps a happening where a drawer wants it; gives it back where none does.
    pub(super) fn keep(&mut self, happening: Happening) -> Option<Happening> {
        let due = match &happening {
            Happening::Frame { from, to, frame, .. } => {
                Due::Frame { from: *from, to: *to, message: &frame.message }
            }
            Happening::Read { node, key, .. } => Due::Read { node: *node, key },
            _ => return Some(happening),
        };
        let wants = |drawer: &&mut Drawer| (drawer.keeps)(&due);
        match self.drawers.values_mut().find(wants) {
            Some(drawer) => {
                drawer.kept.push(happening);
                None
            }
            None => Some(happening),
        }
    }
}
