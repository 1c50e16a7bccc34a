//! Many memberships over a lossy network, from a seed.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

use super::super::testing::{entry, node};
use super::*;

const INTERVAL: Duration = Duration::from_secs(1);
const LETTERS: &str = "abcdefghij";

struct Simulation {
    seed: u64,
    rng: ChaCha8Rng,
    now: Time,
    loss: f64,
    /// Links that carry nothing, one way.
    cuts: BTreeSet<(NodeId, NodeId)>,
    nodes: BTreeMap<NodeId, Membership>,
    /// Nodes that stand still: neither their ticks nor their messages are handled.
    paused: BTreeSet<NodeId>,
    network: BTreeMap<(Time, u64), (NodeId, NodeId, Message)>,
    sent: u64,
    /// (when, who, of whom, what), newest last.
    history: Vec<(Time, NodeId, NodeId, Health)>,
    alarms: Vec<(NodeId, Alarm)>,
}

impl Simulation {
    fn new(seed: u64, count: usize) -> Self {
        let mut simulation = Self {
            seed,
            rng: ChaCha8Rng::seed_from_u64(seed),
            now: Time::default(),
            loss: 0.0,
            cuts: BTreeSet::new(),
            nodes: BTreeMap::new(),
            paused: BTreeSet::new(),
            network: BTreeMap::new(),
            sent: 0,
            history: Vec::new(),
            alarms: Vec::new(),
        };
        let names = &LETTERS[..count];
        for name in names.chars() {
            simulation.start(name, 1, names);
        }
        simulation
    }

    /// Starts `name` in its life `count`; each knows the first member's address.
    fn start(&mut self, name: char, count: u64, members: &str) {
        let config =
            Config { interval: INTERVAL, seeds: vec!["a:7400".to_owned(), "b:7400".to_owned()] };
        let members = members.chars().map(node).collect();
        self.nodes
            .insert(node(name), Membership::new(config, self.now, entry(name, count, 0), &members));
    }

    fn send(&mut self, from: NodeId, to: NodeId, message: Message) {
        if !self.cuts.contains(&(from, to)) && !self.rng.random_bool(self.loss) {
            let delay = Duration::from_millis(self.rng.random_range(1..=50));
            self.sent += 1;
            self.network.insert((self.now.after(delay), self.sent), (from, to, message));
        }
    }

    fn handle(&mut self, id: NodeId, event: Event) {
        let Some(membership) = self.nodes.get_mut(&id) else {
            return;
        };
        let mut effects = Vec::new();
        membership.handle(self.now, event, &mut self.rng, &mut effects);
        for effect in effects {
            match effect {
                Effect::Send { to, message } => self.send(id, to, message),
                Effect::Introduce { address, message } => {
                    self.send(id, node(address.chars().next().unwrap()), message);
                }
                Effect::HealthChanged { node, health } => {
                    self.history.push((self.now, id, node, health))
                }
                Effect::LayoutNews { .. } => panic!("all act on one layout"),
                Effect::Alarm(alarm) => self.alarms.push((id, alarm)),
            }
        }
    }

    fn run(&mut self, span: Duration) -> &mut Self {
        let end = self.now.after(span);
        while self.now < end {
            self.now = self.now.after(Duration::from_millis(10));
            for id in self.nodes.keys().copied().collect::<Vec<_>>() {
                if !self.paused.contains(&id) && self.nodes[&id].wake_at() <= self.now {
                    self.handle(id, Event::Tick);
                }
            }
            let due: Vec<_> =
                self.network.range(..=(self.now, u64::MAX)).map(|(key, _)| *key).collect();
            for key in due {
                let to = self.network[&key].1;
                if !self.paused.contains(&to) {
                    let (from, to, message) = self.network.remove(&key).unwrap();
                    self.handle(to, Event::Received { from, message });
                }
            }
        }
        self
    }

    fn kill(&mut self, id: NodeId) {
        self.nodes.remove(&id);
        self.network.retain(|_, (_, to, _)| *to != id);
    }

    fn downs(&self) -> Vec<&(Time, NodeId, NodeId, Health)> {
        self.history.iter().filter(|(.., health)| matches!(health, Health::Down { .. })).collect()
    }

    #[track_caller]
    fn check_all_up(&self) {
        for (observer, membership) in &self.nodes {
            for (id, health, _) in membership.peers() {
                assert_eq!(
                    health,
                    Health::Up,
                    "{id} in the view of {observer}; replay with seed {}",
                    self.seed
                );
            }
        }
    }

    #[track_caller]
    fn check_none_down(&self) {
        assert_eq!(
            self.downs(),
            Vec::<&(Time, NodeId, NodeId, Health)>::new(),
            "replay with seed {}",
            self.seed
        );
    }
}

#[test]
fn everybody_is_up_two_intervals_after_a_common_start() {
    for (seed, count) in (0..20).zip([2, 3, 5, 10].into_iter().cycle()) {
        let mut simulation = Simulation::new(seed, count);
        simulation.run(INTERVAL * 3).check_all_up();
        simulation.check_none_down();
    }
}

#[test]
fn one_message_in_twenty_lost_puts_nobody_down() {
    for (seed, count) in [(1, 2), (2, 3), (3, 5), (4, 10)] {
        let mut simulation = Simulation::new(seed, count);
        simulation.loss = 0.05;
        simulation.run(INTERVAL * 3_600).check_none_down();
    }
}

#[test]
fn a_killed_member_is_down_in_every_view_within_six_intervals() {
    let mut slowest = Duration::ZERO;
    for (seed, count) in (0..200).zip([2, 3, 5, 10].into_iter().cycle()) {
        let mut simulation = Simulation::new(seed, count);
        simulation.loss = 0.05;
        let calm = Duration::from_millis(simulation.rng.random_range(20_000..40_000));
        simulation.run(calm);
        simulation.kill(node('b'));
        let killed_at = simulation.now;
        simulation.run(INTERVAL * 10);
        let downs = simulation.downs();
        assert_eq!(
            downs.len(),
            count - 1,
            "not down everywhere, or not alone; replay with seed {seed}"
        );
        for (when, _, whom, _) in downs {
            assert_eq!(*whom, node('b'), "replay with seed {seed}");
            slowest = slowest.max(when.since(killed_at));
        }
    }
    eprintln!("slowest {slowest:?}");
    assert!(slowest <= INTERVAL * 6, "the slowest view took {slowest:?}");
}
