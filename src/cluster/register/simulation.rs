//! The register under a hostile network and crashing nodes, from a seed.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use rand::seq::IteratorRandom;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

use super::super::testing::{layout, node};
use super::*;
use crate::cluster::change::{Change, apply};

/// What happens to a message.
#[derive(Clone, Copy)]
struct Weather {
    loss: f64,
    duplication: f64,
    delay_ms_max: u64,
}

const STORM: Weather = Weather { loss: 0.2, duplication: 0.1, delay_ms_max: 1_500 };
const CALM: Weather = Weather { loss: 0.0, duplication: 0.0, delay_ms_max: 20 };

struct Node {
    register: Option<Register>,
    disk: RegisterState,
    /// The layout it acts on.
    acts_on: LayoutTag,
    /// States on their way to disk, each with the effects that wait for it and the instant it is durable.
    writes: VecDeque<(Time, RegisterState, Vec<Effect>)>,
}

enum Packet {
    Message(Message),
    News(LayoutTag),
}

struct Simulation {
    seed: u64,
    rng: ChaCha8Rng,
    now: Time,
    weather: Weather,
    nodes: BTreeMap<NodeId, Node>,
    network: BTreeMap<(Time, u64), (NodeId, NodeId, Packet)>,
    sent: u64,
    chosen: BTreeMap<u64, Arc<Layout>>,
    wanted: BTreeMap<ProposalId, Arc<Layout>>,
    outcomes: Vec<(ProposalId, Outcome)>,
}

impl Simulation {
    fn new(seed: u64, members: &str) -> Self {
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        let first = Arc::new(layout(1, members));
        let acts_on = LayoutTag::of(&first);
        let nodes = members.chars().map(node).map(|id| {
            let disk = RegisterState::new(Arc::clone(&first));
            let register = Some(Register::new(Time::default(), id, disk.clone(), &mut rng));
            (id, Node { register, disk, acts_on, writes: VecDeque::new() })
        });
        Self {
            seed,
            nodes: nodes.collect(),
            rng,
            now: Time::default(),
            weather: CALM,
            network: BTreeMap::new(),
            sent: 0,
            chosen: BTreeMap::from([(1, first)]),
            wanted: BTreeMap::new(),
            outcomes: Vec::new(),
        }
    }

    fn any_node(&mut self) -> NodeId {
        *self.nodes.keys().choose(&mut self.rng).unwrap()
    }

    fn send(&mut self, from: NodeId, to: NodeId, packet: impl Fn() -> Packet) {
        let [lost, doubled] = [self.weather.loss, self.weather.duplication]
            .map(|chance| self.rng.random_bool(chance));
        let copies = u32::from(!lost) + u32::from(doubled);
        for _ in 0..copies {
            let delay = Duration::from_millis(self.rng.random_range(1..=self.weather.delay_ms_max));
            self.sent += 1;
            self.network.insert((self.now.after(delay), self.sent), (from, to, packet()));
        }
    }

    fn handle(&mut self, id: NodeId, event: Event) {
        let mut effects = Vec::new();
        if let Some(register) = self.nodes.get_mut(&id).and_then(|node| node.register.as_mut()) {
            register.handle(self.now, event, &mut self.rng, &mut effects);
        }
        let mut effects = effects.into_iter().peekable();
        while let Some(effect) = effects.next_if(|effect| !matches!(effect, Effect::Persist(_))) {
            self.carry_out(id, effect);
        }
        while let Some(Effect::Persist(state)) = effects.next() {
            let mut waiting = Vec::new();
            while let Some(effect) = effects.next_if(|effect| !matches!(effect, Effect::Persist(_)))
            {
                waiting.push(effect);
            }
            let writes = &mut self.nodes.get_mut(&id).unwrap().writes;
            let begun = writes.back().map_or(self.now, |(durable_at, ..)| *durable_at);
            let durable_at = begun.after(Duration::from_millis(self.rng.random_range(0..40)));
            writes.push_back((durable_at, state, waiting));
        }
    }

    fn carry_out(&mut self, id: NodeId, effect: Effect) {
        match effect {
            Effect::Persist(_) => unreachable!("handled by the caller"),
            Effect::Send { to, message } => self.send(id, to, || Packet::Message(message.clone())),
            Effect::Chosen(layout) => {
                let first =
                    self.chosen.entry(layout.version).or_insert_with(|| Arc::clone(&layout));
                assert_eq!(
                    *first, layout,
                    "two layouts {}; replay with seed {}",
                    layout.version, self.seed
                );
                let node = self.nodes.get_mut(&id).unwrap();
                assert!(
                    node.acts_on.version < layout.version,
                    "went back; replay with seed {}",
                    self.seed
                );
                node.acts_on = LayoutTag::of(&layout);
            }
            Effect::ProposalDone { id, outcome } => self.outcomes.push((id, outcome)),
            Effect::Alarm(alarm) => panic!("{alarm}; replay with seed {}", self.seed),
        }
    }

    /// Lets 10 ms pass.
    fn step(&mut self) {
        self.now = self.now.after(Duration::from_millis(10));
        while let Some(packet) =
            self.network.first_entry().filter(|packet| packet.key().0 <= self.now)
        {
            let (from, to, packet) = packet.remove();
            match packet {
                Packet::Message(message) => self.handle(to, Event::Received { from, message }),
                Packet::News(tag) => self.handle(to, Event::News { peer: from, tag }),
            }
        }
        for id in self.nodes.keys().copied().collect::<Vec<_>>() {
            self.finish_writes(id);
            let wake_at = self.nodes[&id].register.as_ref().and_then(Register::wake_at);
            if wake_at.is_some_and(|wake_at| wake_at <= self.now) {
                self.handle(id, Event::Tick);
            }
            if self.nodes[&id].register.is_some() && self.rng.random_bool(0.01) {
                let (to, tag) = (self.any_node(), self.nodes[&id].acts_on);
                self.send(id, to, || Packet::News(tag));
            }
        }
    }

    fn finish_writes(&mut self, id: NodeId) {
        loop {
            let node = self.nodes.get_mut(&id).unwrap();
            if node.writes.front().is_none_or(|(durable_at, ..)| self.now < *durable_at) {
                return;
            }
            let (_, state, waiting) = node.writes.pop_front().unwrap();
            node.disk = state;
            for effect in waiting {
                self.carry_out(id, effect);
            }
        }
    }

    fn crash(&mut self, id: NodeId) {
        let node = self.nodes.get_mut(&id).unwrap();
        node.register = None;
        // The first of the writes under way may have reached the disk, with nothing yet done that waited for it.
        if let Some((_, state, _)) = node.writes.pop_front()
            && self.rng.random_bool(0.5)
        {
            node.disk = state;
        }
        node.writes.clear();
    }

    fn restart(&mut self, id: NodeId) {
        let node = self.nodes.get_mut(&id).unwrap();
        if node.register.is_none() {
            node.acts_on = LayoutTag::of(&node.disk.chosen);
            node.register = Some(Register::new(self.now, id, node.disk.clone(), &mut self.rng));
        }
    }

    fn propose(&mut self, id: NodeId) {
        let Some(register) = &self.nodes[&id].register else {
            return;
        };
        let proposal = ProposalId(self.wanted.len() as u64);
        let change = Change::Rename { member: id, name: format!("name-{}", proposal.0) };
        let current = Arc::clone(register.chosen());
        let layout = Arc::new(apply(&current, &change).unwrap());
        self.wanted.insert(proposal, Arc::clone(&layout));
        let deadline = self.now.after(Duration::from_secs(5));
        self.handle(
            id,
            Event::Propose { id: proposal, expect_version: current.version, layout, deadline },
        );
    }

    /// `steps` of 10 ms with proposals and crashes at random.
    fn live(&mut self, steps: u32, crashes: f64) {
        for _ in 0..steps {
            self.step();
            let id = self.any_node();
            if self.rng.random_bool(0.01) {
                self.propose(id);
            }
            if self.rng.random_bool(crashes) {
                self.crash(id);
            }
            if self.rng.random_bool(0.01) {
                self.restart(id);
            }
        }
    }

    fn check_outcomes(&self) {
        for (id, outcome) in &self.outcomes {
            let wanted = &self.wanted[id];
            let chosen = self.chosen.get(&wanted.version);
            let holds = match outcome {
                Outcome::Chosen => chosen == Some(wanted),
                Outcome::Conflict(layout) => chosen == Some(layout) && layout != wanted,
                Outcome::NotApplied | Outcome::Busy | Outcome::Stale { .. } => {
                    chosen != Some(wanted)
                }
                Outcome::Unknown => true,
                Outcome::Refused(_) => false,
            };
            assert!(holds, "{id:?} said {outcome:?}; replay with seed {}", self.seed);
        }
    }

    /// After the storm: everybody comes to the same layout, and the next change is chosen.
    fn check_progress(&mut self) {
        self.weather = CALM;
        let ids: Vec<NodeId> = self.nodes.keys().copied().collect();
        for id in &ids {
            self.restart(*id);
        }
        (0..3_000).for_each(|_| self.step());
        let newest = *self.chosen.keys().last().unwrap();
        let versions: BTreeSet<u64> =
            self.nodes.values().map(|node| node.acts_on.version).collect();
        assert_eq!(
            versions,
            BTreeSet::from([newest]),
            "not converged; replay with seed {}",
            self.seed
        );
        self.propose(ids[0]);
        let proposal = *self.wanted.keys().last().unwrap();
        (0..200).for_each(|_| self.step());
        assert!(
            self.outcomes.contains(&(proposal, Outcome::Chosen)),
            "no progress; replay with seed {}",
            self.seed
        );
    }
}

#[test]
fn no_version_is_ever_chosen_twice_and_progress_returns_after_the_storm() {
    let mut outcomes = BTreeMap::<&str, u32>::new();
    for (seed, members) in (0..300).zip(["abc", "abcd", "abcde"].into_iter().cycle()) {
        let mut simulation = Simulation::new(seed, members);
        simulation.weather = if seed % 5 == 0 { Weather { loss: 0.0, ..STORM } } else { STORM };
        simulation.live(3_000, 0.005);
        simulation.check_progress();
        simulation.check_outcomes();
        for (_, outcome) in &simulation.outcomes {
            let name = match outcome {
                Outcome::Chosen => "chosen",
                Outcome::Conflict(_) => "conflict",
                Outcome::Stale { .. } => "stale",
                Outcome::NotApplied => "not applied",
                Outcome::Unknown => "unknown",
                Outcome::Busy => "busy",
                Outcome::Refused(_) => "refused",
            };
            *outcomes.entry(name).or_default() += 1;
        }
    }
    for name in ["chosen", "conflict", "not applied", "unknown", "busy"] {
        assert!(
            outcomes.get(name).is_some_and(|count| *count > 20),
            "the storm never led to `{name}`: {outcomes:?}"
        );
    }
}

#[test]
fn the_same_seed_gives_the_same_run() {
    let run = || {
        let mut simulation = Simulation::new(7, "abcde");
        simulation.weather = STORM;
        simulation.live(2_000, 0.005);
        (simulation.sent, simulation.outcomes)
    };
    assert_eq!(run(), run());
}

#[test]
fn two_members_need_both() {
    let mut simulation = Simulation::new(1, "ab");
    simulation.crash(node('b'));
    simulation.propose(node('a'));
    (0..600).for_each(|_| simulation.step());
    assert_eq!(simulation.outcomes, [(ProposalId(0), Outcome::NotApplied)]);
    simulation.restart(node('b'));
    simulation.check_progress();
}

#[test]
fn one_member_alone_agrees_with_itself() {
    let mut simulation = Simulation::new(1, "a");
    simulation.propose(node('a'));
    (0..30).for_each(|_| simulation.step());
    assert_eq!(simulation.outcomes, [(ProposalId(0), Outcome::Chosen)]);
}
