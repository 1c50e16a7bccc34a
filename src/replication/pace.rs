//! How long each peer may take to answer a read before another one is asked too, and how often that may happen.
//!
//! A peer's patience is its recent p99, within bounds: so one answer in a hundred is hedged. Extra questions are paid
//! for by ordinary ones, so that a cluster where all are slow is not asked more and more.
//! Invariant: of all questions at most [`EXTRA_SHARE`] are extra ones, but for a few after a quiet time.

use std::collections::BTreeMap;
use std::time::Duration;

use super::Latencies;
use crate::cluster::Time;

/// Shortest patience, and that with a peer not heard of yet.
const PATIENCE_MIN: Duration = Duration::from_millis(5);
/// Longest patience: a peer that stood still for a while is not waited for the longer.
const PATIENCE_MAX: Duration = Duration::from_millis(100);
/// How old a patience may be before it is worked out anew.
const PATIENCE_AGE_MAX: Duration = Duration::from_millis(100);
/// One question in so many may be an extra one.
const EXTRA_SHARE: u32 = 20;
/// Most extra questions that are saved up.
const EXTRA_SAVED_MAX: u32 = 20;

/// The pace of all peers, and what extra questions are left.
#[derive(Debug)]
pub struct Pace<P> {
    peers: BTreeMap<P, Peer>,
    /// In parts of an extra question.
    saved: u32,
}

#[derive(Debug)]
struct Peer {
    latencies: Latencies,
    patience: Duration,
    worked_out: Time,
}

impl<P> Default for Pace<P> {
    fn default() -> Self {
        Self { peers: BTreeMap::new(), saved: EXTRA_SAVED_MAX * EXTRA_SHARE }
    }
}

impl<P: Ord> Pace<P> {
    /// An ordinary question is asked.
    pub fn asked(&mut self) {
        self.saved = (self.saved + 1).min(EXTRA_SAVED_MAX * EXTRA_SHARE);
    }

    /// Whether an extra question may be asked; if so it is paid for.
    pub fn take_extra(&mut self) -> bool {
        let left = self.saved.checked_sub(EXTRA_SHARE);
        self.saved = left.unwrap_or(self.saved);
        left.is_some()
    }

    /// `peer` answered a read after so long; `at` counts from any one moment.
    pub fn heard(&mut self, peer: P, took: Duration, at: Duration) {
        let now = Time::default().after(at);
        let peer = self.peers.entry(peer).or_insert_with(|| Peer {
            latencies: Latencies::default(),
            patience: PATIENCE_MIN,
            worked_out: now,
        });
        peer.latencies.note(u64::try_from(took.as_micros()).unwrap_or(u64::MAX), now);
        if PATIENCE_AGE_MAX <= now.since(peer.worked_out) {
            peer.worked_out = now;
            let p99 = peer.latencies.p99(now).map_or(PATIENCE_MIN, Duration::from_micros);
            peer.patience = p99.clamp(PATIENCE_MIN, PATIENCE_MAX);
        }
    }

    /// How long `peer` may take.
    pub fn patience(&self, peer: &P) -> Duration {
        self.peers.get(peer).map_or(PATIENCE_MIN, |peer| peer.patience)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::node_id::NodeId;
    use crate::version::notation::node;

    #[test]
    fn patience_follows_the_recent_p99_within_bounds() {
        let mut pace = Pace::default();
        let mut now = Time::default().after(Duration::from_mins(1));
        assert_eq!(pace.patience(&node("a")), PATIENCE_MIN);
        let mut take = |pace: &mut Pace<NodeId>, span: Duration| {
            for _ in 0..1_000 {
                now = now.after(Duration::from_millis(1));
                pace.heard(node("a"), span, Duration::from_nanos(now.monotonic));
            }
        };
        take(&mut pace, Duration::from_micros(300));
        assert_eq!(pace.patience(&node("a")), PATIENCE_MIN);
        take(&mut pace, Duration::from_millis(20));
        let patience = pace.patience(&node("a"));
        assert!((Duration::from_millis(20)..Duration::from_millis(26)).contains(&patience));
        take(&mut pace, Duration::from_secs(1));
        assert_eq!(pace.patience(&node("a")), PATIENCE_MAX);
        assert_eq!(pace.patience(&node("b")), PATIENCE_MIN);
    }

    #[test]
    fn at_most_one_question_in_twenty_is_an_extra_one() {
        let mut pace = Pace::<NodeId>::default();
        let mut extra = 0;
        for _ in 0..10_000 {
            pace.asked();
            extra += u32::from(pace.take_extra());
        }
        assert!((500..=500 + EXTRA_SAVED_MAX).contains(&extra), "{extra} of 10,000");
    }
}
