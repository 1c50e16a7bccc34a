//! Random schedules from a seed, against what is promised of them.

use std::time::Duration;

use bytes::Bytes;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

use super::harness::*;
use crate::replication::*;
use crate::version::{Dot, Siblings};

/// Seeds tried by each test.
const SEEDS: u64 = 300;

const NAMES: [&str; 5] = ["a", "b", "c", "d", "e"];

/// A cluster whose messages are lost, doubled, delayed and overtaken, and whose nodes stop and start.
struct Chaos {
    cluster: Cluster,
    n: u8,
    random: ChaCha8Rng,
    loss: f64,
    key: Bytes,
}

/// What strict requests may rely on.
#[derive(Default)]
struct Witness {
    /// What strict gets returned.
    seen: Siblings,
    /// What was acknowledged.
    acknowledged: Vec<Dot>,
    /// How many strict gets have been held against it.
    answered: u64,
}

impl Chaos {
    fn new(seed: u64, quorum: impl Fn(u8, u8, u8) -> bool) -> Self {
        let mut random = ChaCha8Rng::seed_from_u64(seed);
        let n = random.random_range(2..=5);
        let (n, r, w) = any_quorum(&mut random, n, quorum);
        Self::of(random, Cluster::new(n, r, w), n)
    }

    /// A change between any two sets of owners, each of any quorum that is such a one.
    fn changing(seed: u64, quorum: impl Fn(u8, u8, u8) -> bool) -> Self {
        let mut random = ChaCha8Rng::seed_from_u64(seed);
        let mut any_ring = || {
            let mut names = NAMES.to_vec();
            for _ in 0..random.random_range(0..4) {
                names.remove(random.random_range(0..names.len()));
            }
            let n = u8::try_from(names.len()).unwrap();
            (names.concat(), any_quorum(&mut random, n, &quorum))
        };
        let (now, next) = (any_ring(), any_ring());
        let cluster = Cluster::changing((&now.0, now.1), (&next.0, next.1));
        let n = now.1.0;
        Self::of(random, cluster, n)
    }

    fn of(mut random: ChaCha8Rng, cluster: Cluster, n: u8) -> Self {
        let key = key_in_order(&cluster.preferences);
        Self { cluster, n, loss: random.random_range(0.0..0.1), random, key }
    }

    fn nodes(&self) -> usize {
        self.cluster.names().len()
    }

    fn any_node(&mut self) -> &'static str {
        NAMES[self.random.random_range(0..self.nodes())]
    }

    fn any_node_up(&mut self) -> &'static str {
        loop {
            let name = self.any_node();
            if !self.cluster.is_down(name) {
                return name;
            }
        }
    }

    /// Stops and starts nodes; one at least stays up.
    fn change_who_is_up(&mut self) {
        let stays = self.any_node();
        for name in NAMES.into_iter().take(self.nodes()) {
            if name == stays || self.random.random_bool(0.6) {
                self.cluster.start(name);
            } else {
                self.cluster.stop(name);
            }
        }
    }

    /// Delivers in any order until the operation ends.
    fn finish(&mut self, op: OpId) -> Result<Outcome, Failure> {
        loop {
            if let Some(result) = self.cluster.result(op) {
                return result.clone();
            }
            self.step();
        }
    }

    fn step(&mut self) {
        if self.cluster.queue.is_empty() || self.random.random_bool(0.02) {
            let millis = self.random.random_range(1..40);
            self.cluster.pass(Duration::from_millis(millis));
            return;
        }
        let place = self.random.random_range(0..self.cluster.queue.len());
        let message = self.cluster.queue[place].clone();
        // What a node does itself is neither lost nor doubled, but may be overtaken.
        let local = message.from == message.to;
        if !local && self.random.random_bool(self.loss) {
            self.cluster.queue.remove(place);
            return;
        }
        if !local && self.random.random_bool(0.05) {
            self.cluster.queue.push(message);
        }
        self.cluster.deliver(place);
    }

    /// Puts or gets at any node, whoever is up. What strict gets answer is held against what is known.
    fn do_anything(&mut self, counter: u64, witness: &mut Witness, replay: &str) {
        self.change_who_is_up();
        let at = self.any_node_up();
        if self.random.random_bool(0.4) {
            let basis = any_basis(&mut self.random, &witness.seen);
            let operation = put_on(&self.key, &counter.to_string(), counter, basis);
            let op = self.cluster.begin(at, operation);
            if self.random.random_bool(0.5) {
                (0..self.random.random_range(0..8)).for_each(|_| self.step());
                return;
            }
            if let Ok(Outcome::Done(done)) = self.finish(op) {
                witness.acknowledged.extend(done.dot);
            }
            return;
        }
        let level = self.random.random_range(0..=self.n);
        let level = (0 < level).then_some(Level::Count(level));
        let is_strict = self.random.random_bool(0.7);
        let consistency = if is_strict { Consistency::Strict } else { Consistency::Sloppy };
        let op = self.cluster.begin(at, get(&self.key, level, consistency));
        let Ok(Outcome::Got(got)) = self.finish(op) else { return };
        if is_strict || got.guarantee == Guarantee::Strict {
            assert_eq!(got.guarantee, Guarantee::Strict, "{replay}");
            witness.check(&got.state, replay);
        }
    }

    /// Everyone is up and hears all that is still on the way.
    fn settle(&mut self) {
        NAMES.into_iter().take(self.nodes()).for_each(|name| {
            self.cluster.start(name);
        });
        self.cluster.run();
    }
}

impl Witness {
    /// A strict get returned this.
    fn check(&mut self, state: &Siblings, replay: &str) {
        let lost = replica::is_uncovered(&self.seen, state);
        assert!(!lost, "{:?} was seen, then {state:?}; {replay}", self.seen);
        for dot in &self.acknowledged {
            assert!(state.clock().covers(*dot), "{dot:?} was acknowledged; {replay}");
        }
        self.seen.merge(state, &mut Vec::new());
        self.answered += 1;
    }
}

/// DESIGN §4: among strict requests with w + max(r, w) > N, one client's puts without context, each acknowledged before
/// the next and none tried twice, leave one version, whatever was down in between.
#[test]
fn one_clients_acknowledged_puts_leave_one_version() {
    let mut acknowledged = 0;
    for seed in 0..SEEDS {
        let mut chaos = Chaos::new(seed, |n, r, w| n < w + r.max(w));
        for counter in 1..=8 {
            chaos.change_who_is_up();
            let at = chaos.any_node_up();
            let operation = put(&chaos.key, &counter.to_string(), counter);
            let op = chaos.cluster.begin(at, operation);
            match chaos.finish(op) {
                Ok(_) => acknowledged += 1,
                // Nothing was promised for a put that nobody took.
                Err(failure) if failure.outcome == Some(WriteOutcome::NotApplied) => continue,
                Err(_) => break,
            }
            let standing = chaos.cluster.converged(&chaos.key);
            assert_eq!(values(&standing), counter.to_string(), "replay with seed {seed}");
        }
    }
    assert!(SEEDS < acknowledged, "{acknowledged} puts are too few to show anything");
}

/// The same, looked at once everything on the way has arrived.
#[test]
fn nothing_that_arrives_late_brings_an_old_version_back() {
    for seed in 0..SEEDS {
        let mut chaos = Chaos::new(seed, |n, r, w| n < w + r.max(w));
        let mut last = None;
        for counter in 1..=8 {
            chaos.change_who_is_up();
            let at = chaos.any_node_up();
            let operation = put(&chaos.key, &counter.to_string(), counter);
            let op = chaos.cluster.begin(at, operation);
            match chaos.finish(op) {
                Ok(_) => last = Some(counter),
                Err(failure) if failure.outcome == Some(WriteOutcome::NotApplied) => {}
                Err(_) => {
                    last = None;
                    break;
                }
            }
        }
        chaos.settle();
        if let Some(last) = last {
            let standing = chaos.cluster.converged(&chaos.key);
            assert_eq!(values(&standing), last.to_string(), "replay with seed {seed}");
        }
    }
}

/// One put tried again and again at other nodes, its first tries still under way, and then later puts: none of those is
/// replaced.
#[test]
fn a_put_tried_twice_replaces_no_later_put() {
    for seed in 0..SEEDS {
        let mut chaos = Chaos::new(seed, |n, r, w| n < w + r.max(w));
        let mut promised: Vec<Dot> = Vec::new();
        for counter in 1..=5 {
            let text = counter.to_string();
            let mut age = Duration::ZERO;
            for _ in 0..4 {
                chaos.change_who_is_up();
                let at = chaos.any_node_up();
                let op = chaos.cluster.begin(at, retry(&chaos.key, &text, counter, age));
                if let Ok(Outcome::Done(done)) = chaos.finish(op) {
                    promised.extend(done.dot);
                    break;
                }
                // The next try starts after this one's deadline, as a client's does.
                chaos.cluster.pass(TIMEOUT);
                age += TIMEOUT;
            }
            let standing = chaos.cluster.converged(&chaos.key);
            for dot in &promised {
                assert!(standing.clock().covers(*dot), "replay with seed {seed}");
            }
            // The last acknowledged put stands: nothing later was written.
            if promised.last().is_some() && promised.len() as u64 == counter {
                assert!(values(&standing).contains(&text), "replay with seed {seed}: {standing:?}");
            }
        }
        chaos.settle();
        let standing = chaos.cluster.converged(&chaos.key);
        if promised.len() == 5 {
            assert!(values(&standing).contains('5'), "replay with seed {seed}: {standing:?}");
        }
    }
}

/// DESIGN §6: among strict requests with r + w > N a get returns every put acknowledged before it began, or what
/// supersedes it, and no later one goes back, whatever was half-written in between. So does every get labelled strict.
#[test]
fn strict_gets_never_go_back() {
    let mut answered = 0;
    for seed in 0..SEEDS {
        let mut chaos = Chaos::new(seed, |n, r, w| n < r + w);
        let mut witness = Witness::default();
        for counter in 1..=20 {
            chaos.do_anything(counter, &mut witness, &format!("replay with seed {seed}"));
        }
        answered += witness.answered;
    }
    assert!(SEEDS < answered, "{answered} gets are too few to show anything");
}

/// The same while a change runs, and whichever ring it ends in. All of the key was written while it ran: nothing need be
/// copied.
#[test]
fn strict_gets_never_go_back_while_a_change_runs_nor_after_it() {
    let mut answered = 0;
    for seed in 0..SEEDS {
        let mut chaos = Chaos::changing(seed, |n, r, w| n < r + w);
        let mut witness = Witness::default();
        for counter in 1..=15 {
            chaos.do_anything(counter, &mut witness, &format!("replay with seed {seed}"));
        }
        let next = chaos.cluster.next.take().unwrap();
        let ring =
            if chaos.random.random_bool(0.5) { next } else { chaos.cluster.preferences.clone() };
        chaos.n = ring.ring().n;
        chaos.cluster.take(ring, None);
        for counter in 16..=20 {
            chaos.do_anything(counter, &mut witness, &format!("ended; replay with seed {seed}"));
        }
        answered += witness.answered;
    }
    assert!(SEEDS < answered, "{answered} gets are too few to show anything");
}

/// Of n owners such r and w that it is such a quorum.
fn any_quorum(
    random: &mut ChaCha8Rng,
    n: u8,
    is_such: impl Fn(u8, u8, u8) -> bool,
) -> (u8, u8, u8) {
    loop {
        let (r, w) = (random.random_range(1..=n), random.random_range(1..=n));
        if is_such(n, r, w) {
            return (n, r, w);
        }
    }
}

fn any_basis(random: &mut ChaCha8Rng, seen: &Siblings) -> PutBasis {
    match random.random_range(0..4) {
        0 => PutBasis::Blind,
        1 => PutBasis::Context(seen.clock().clone()),
        _ => PutBasis::Present,
    }
}
