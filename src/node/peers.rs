//! Which peers a connection reaches, and what their clocks say.
//!
//! Deadlines travel in the *receiver's* monotonic time (DESIGN §4): the sender must guess that time, and never guess it
//! too low a distance away, or a request would be done after its deadline. A frame sent at peer time `s` and received
//! here at `h` proves that the peer's clock was at least `s` at `h`; so `s - h` is a lower bound of the difference of
//! the two clocks, the better the faster the frame. The best bound is kept, and lowered by [`DRIFT`] as it ages, so that
//! a clock that runs slow is never overestimated.
//!
//! A peer that hangs keeps its connection for long. That it says nothing although it was asked is noticed here, and
//! forgotten with the next word from it, which its gossip brings.
//! Invariant: a deadline told to a peer is never later than the sender's own.

use std::collections::BTreeMap;

use crate::cluster::Time;
use crate::node_id::NodeId;

/// By how much two monotonic clocks may drift apart: one part in so many (1,000 ppm; crystals keep to some 100 ppm).
const DRIFT: u64 = 1_000;

/// How long a peer that was asked may say nothing, nanoseconds; it has more to say than one answer. Much longer than a
/// log sync, much shorter than a deadline.
const SILENCE: u64 = 250_000_000;

/// What is known of each peer's connection and clock.
#[derive(Clone, Debug, Default)]
pub(super) struct Peers {
    by_id: BTreeMap<NodeId, Peer>,
}

#[derive(Clone, Copy, Debug)]
struct Peer {
    connected: bool,
    /// Lower bound of (peer's monotonic − ours), nanoseconds, as it stood at `noted`.
    ahead: i128,
    /// Our monotonic nanoseconds when `ahead` was noted.
    noted: u64,
    /// When it was asked something first since it said anything.
    asked: Option<u64>,
}

impl Peers {
    /// A connection stands; `sent` is the peer's time from its handshake. An older bound is forgotten: the peer may
    /// have started anew with another clock.
    pub(super) fn connected(&mut self, peer: NodeId, sent: u64, now: Time) {
        self.by_id.insert(
            peer,
            Peer {
                connected: true,
                ahead: difference(sent, now),
                noted: now.monotonic,
                asked: None,
            },
        );
    }

    /// No connection. What is known of the clock stays until the next handshake, and is not used before it.
    pub(super) fn unreachable(&mut self, peer: NodeId) {
        if let Some(peer) = self.by_id.get_mut(&peer) {
            peer.connected = false;
        }
    }

    /// A frame that `peer` wrote at its time `sent` is here.
    pub(super) fn heard(&mut self, peer: NodeId, sent: u64, now: Time) {
        if let Some(peer) = self.by_id.get_mut(&peer) {
            peer.asked = None;
            let seen = difference(sent, now);
            if seen >= peer.ahead_at(now) {
                (peer.ahead, peer.noted) = (seen, now.monotonic);
            }
        }
    }

    /// Something that wants an answer goes to `peer`.
    pub(super) fn asked(&mut self, peer: NodeId, now: Time) {
        if let Some(peer) = self.by_id.get_mut(&peer) {
            peer.asked.get_or_insert(now.monotonic);
        }
    }

    /// Whether `peer` was asked something a while ago and has said nothing at all since: it hangs, or the way to it does.
    pub(super) fn is_silent(&self, peer: NodeId, now: Time) -> bool {
        let asked = self.by_id.get(&peer).and_then(|peer| peer.asked);
        asked.is_some_and(|asked| SILENCE <= now.monotonic.saturating_sub(asked))
    }

    /// Whether a connection to `peer` stands.
    pub(super) fn is_connected(&self, peer: NodeId) -> bool {
        self.by_id.get(&peer).is_some_and(|peer| peer.connected)
    }

    /// Our monotonic `deadline` in the time of `peer`, never too late; `None` without a connection.
    pub(super) fn deadline_at(&self, peer: NodeId, deadline: u64, now: Time) -> Option<u64> {
        let peer = self.by_id.get(&peer).filter(|peer| peer.connected)?;
        let left = deadline.saturating_sub(now.monotonic);
        let theirs = (i128::from(deadline) + peer.ahead_at(now) - i128::from(left / DRIFT)).max(0);
        Some(u64::try_from(theirs).unwrap_or(u64::MAX))
    }
}

impl Peer {
    fn ahead_at(&self, now: Time) -> i128 {
        self.ahead - i128::from(now.monotonic.saturating_sub(self.noted) / DRIFT)
    }
}

fn difference(sent: u64, now: Time) -> i128 {
    i128::from(sent) - i128::from(now.monotonic)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const PEER: NodeId = NodeId::from_bytes([9; 16]);

    fn at(monotonic: u64) -> Time {
        Time { monotonic, wall: 0 }
    }

    proptest! {
        /// The peer's clock is `ahead` of ours and may run slow by 500 ppm; whatever delays frames, a deadline it is
        /// told is never behind ours.
        #[test]
        fn a_deadline_is_never_too_late(
            ahead in 0_u64..1 << 40,
            frames in prop::collection::vec((0_u64..1_000_000_000, 0_u64..5_000_000_000), 1..50),
            left in 0_u64..10_000_000_000,
        ) {
            let theirs = |ours: u64| ahead + ours - ours / 2_000;
            let mut peers = Peers::default();
            let mut now = 1 << 41;
            peers.connected(PEER, theirs(now), at(now));
            for (pause, delay) in frames {
                now += pause + delay;
                peers.heard(PEER, theirs(now - delay), at(now));
            }
            let told = peers.deadline_at(PEER, now + left, at(now)).unwrap();
            // What passes on the slow clock until the deadline may be half a thousandth less.
            prop_assert!(told <= theirs(now) + left);
        }
    }

    #[test]
    fn a_fast_frame_beats_a_slow_one() {
        let mut peers = Peers::default();
        peers.connected(PEER, 100, at(1_000));
        assert_eq!(peers.deadline_at(PEER, 1_500, at(1_000)), Some(600));
        peers.heard(PEER, 300, at(1_100));
        assert_eq!(peers.deadline_at(PEER, 1_500, at(1_100)), Some(700));
        peers.heard(PEER, 310, at(1_900));
        assert_eq!(
            peers.deadline_at(PEER, 1_500, at(1_900)),
            Some(700),
            "a slow frame teaches nothing"
        );
    }

    #[test]
    fn a_peer_is_silent_from_a_question_on_that_nothing_followed() {
        let mut peers = Peers::default();
        peers.connected(PEER, 0, at(0));
        assert!(!peers.is_silent(PEER, at(2 * SILENCE)), "it was not asked");
        peers.asked(PEER, at(SILENCE));
        peers.asked(PEER, at(SILENCE + 5));
        assert!(!peers.is_silent(PEER, at(2 * SILENCE - 1)));
        assert!(peers.is_silent(PEER, at(2 * SILENCE)));
        peers.heard(PEER, 9, at(3 * SILENCE));
        assert!(!peers.is_silent(PEER, at(4 * SILENCE)));
    }

    #[test]
    fn without_a_connection_there_is_no_deadline() {
        let mut peers = Peers::default();
        assert_eq!(peers.deadline_at(PEER, 1, at(0)), None);
        peers.connected(PEER, 5, at(5));
        peers.unreachable(PEER);
        assert_eq!(peers.deadline_at(PEER, 9, at(5)), None);
        assert!(!peers.is_connected(PEER));
        peers.connected(PEER, 0, at(50));
        assert_eq!(peers.deadline_at(PEER, 60, at(50)), Some(10), "a new start has a new clock");
    }
}
