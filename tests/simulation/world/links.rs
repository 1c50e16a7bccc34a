//! Connections between the nodes: cut, broken, dialled, and the frames on them.

use std::time::Duration;

use kvkit::node::Event;
use kvkit::wire::handshake::Welcome;
use kvkit::wire::peer::PeerFrame;
use rand::Rng;

use super::{Happening, World};
use crate::network::Node;

/// How often an unconnected peer is dialled.
const REDIAL: Duration = Duration::from_millis(200);
/// How long a cut goes unnoticed at most.
const KEEPALIVE: Duration = Duration::from_secs(3);

impl World {
    /// Cuts a direction, silently; the connection breaks some time later.
    pub fn cut(&mut self, from: Node, to: Node) {
        self.note(&format!("cut n{} -> n{}", from + 1, to + 1));
        self.network.cut(from, to);
        if let Some(connection) = self.network.connection(from, to) {
            let delay = self.rng.random_range(Duration::from_millis(10)..KEEPALIVE);
            self.at(delay, Happening::Notice { a: from, b: to, connection });
        }
    }

    /// Takes one cut of this direction back.
    pub fn uncut(&mut self, from: Node, to: Node) {
        self.note(&format!("uncut n{} -> n{}", from + 1, to + 1));
        self.network.uncut(from, to);
    }

    /// Mends every cut.
    pub fn mend(&mut self) {
        self.note("all cuts mended");
        self.network.mend_all();
    }

    /// Breaks a connection; both sides hear of it.
    pub fn disconnect(&mut self, a: Node, b: Node) {
        if !self.network.disconnect(a, b) {
            return;
        }
        for (node, peer) in [(a, b), (b, a)] {
            if self.is_running(node) {
                self.notified.insert((node, peer));
                let (delay, life) = (self.network.delay(&mut self.rng), self.replicas[node].lives);
                self.at(delay, Happening::Broken { node, life, peer });
            }
        }
    }

    pub(super) fn transmit(&mut self, from: Node, to: Node, frame: &PeerFrame) {
        let Some(connection) = self.network.connection(from, to) else {
            return;
        };
        let slow = self.slowness(from) + self.slowness(to);
        for delay in self.network.delays(&mut self.rng) {
            if !self.network.enqueue(from, to) {
                self.disconnect(from, to);
                return;
            }
            let frame = Box::new(frame.clone());
            self.at(delay + slow, Happening::Frame { from, to, connection, frame });
        }
    }

    pub(super) fn dial(&mut self, from: Node, life: u64) {
        if self.replicas[from].lives != life || !self.is_running(from) {
            return;
        }
        self.look_around(from);
        let pause = self.rng.random_range(REDIAL / 2..REDIAL);
        self.at(pause, Happening::Dial { from, life });
        let peers = self.replicas[from].life.as_ref().map(|life| life.peers.clone());
        for peer in peers.unwrap_or_default() {
            self.handshake(from, self.node_of(peer));
        }
    }

    /// The first exchange between two nodes; both learn of the connection, or neither.
    fn handshake(&mut self, from: Node, to: Node) {
        let is_noticed =
            !self.notified.contains(&(from, to)) && !self.notified.contains(&(to, from));
        let stands = self.network.connection(from, to).is_some();
        let answers = !self.is_paused(from) && !self.is_paused(to);
        if stands || !is_noticed || !answers || !self.network.is_open(from, to) {
            return;
        }
        let times = [from, to].map(|node| self.replicas[node].time(self.now));
        let Some(caller) = &self.replicas[from].life else { return };
        let hello = caller.core.hello(times[0]);
        let Some(answerer) = &mut self.replicas[to].life else { return };
        let welcome = answerer.core.admit(times[1], &hello);
        let Some(caller) = &mut self.replicas[from].life else { return };
        let welcomed = caller.core.welcomed(&welcome);
        match (&welcome, welcomed) {
            (Welcome::Accepted { sent, .. }, Ok(peer)) => {
                assert_eq!(peer, self.id(to), "who answers is who was dialled");
                self.network.connect(from, to);
                let (sent, id) = (*sent, self.id(from));
                self.feed(to, Event::PeerConnected { peer: id, sent: hello.sent });
                self.feed(from, Event::PeerConnected { peer, sent });
            }
            (welcome, welcomed) => {
                self.note(&format!("n{} at n{}: {welcome:?} {welcomed:?}", from + 1, to + 1));
                self.witness.refused(from, to);
            }
        }
    }
}
