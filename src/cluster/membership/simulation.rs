//! Many memberships over a lossy network, from a seed.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

use super::super::testing::{entry, node};
use super::*;

const INTERVAL: Duration = Duration::from_secs(1);
const LETTERS: &str = "abcdefghij";
/// Runs in which a member is killed.
const KILLS: u64 = 50;

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
    /// How long a node may be away from its work at a time: all share too few processors.
    lag: Duration,
    /// Until when each is away.
    away: BTreeMap<NodeId, Time>,
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
            lag: Duration::ZERO,
            away: BTreeMap::new(),
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
                    self.history.push((self.now, id, node, health));
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
                if self.is_at_work(id) && self.nodes[&id].wake_at() <= self.now {
                    if !self.lag.is_zero() {
                        // Who comes back to work finds its messages first.
                        self.deliver(|to| to == id);
                        self.take_leave(id);
                    }
                    self.handle(id, Event::Tick);
                }
            }
            self.deliver(|_| true);
        }
        self
    }

    /// Hands over the messages that are due at those of `whom` who are at work.
    fn deliver(&mut self, whom: impl Fn(NodeId) -> bool) {
        let due: Vec<_> =
            self.network.range(..=(self.now, u64::MAX)).map(|(key, _)| *key).collect();
        for key in due {
            let to = self.network[&key].1;
            if whom(to) && self.is_at_work(to) {
                let (from, to, message) = self.network.remove(&key).unwrap();
                self.handle(to, Event::Received { from, message });
            }
        }
    }

    fn is_at_work(&self, id: NodeId) -> bool {
        !self.paused.contains(&id) && self.away.get(&id).is_none_or(|until| *until <= self.now)
    }

    fn take_leave(&mut self, id: NodeId) {
        let until = self.now.after(self.rng.random_range(Duration::ZERO..self.lag));
        self.away.insert(id, until);
    }

    /// The machine is gone: nobody is told.
    fn kill(&mut self, id: NodeId) {
        self.nodes.remove(&id);
        self.network.retain(|_, (_, to, _)| *to != id);
    }

    /// The process is killed: its connections break.
    fn kill_process(&mut self, id: NodeId) {
        self.kill(id);
        for other in self.nodes.keys().copied().collect::<Vec<_>>() {
            self.handle(other, Event::Unreachable(id));
        }
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
fn everybody_is_up_three_intervals_after_a_common_start() {
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

/// Ten minutes on machines that are so busy that each node is away for up to half a second after every tick.
#[test]
fn full_processors_and_lost_messages_put_nobody_down() {
    for (seed, count) in (0..12).zip([3, 5, 10].into_iter().cycle()) {
        let mut simulation = Simulation::new(seed, count);
        (simulation.loss, simulation.lag) = (0.05, INTERVAL / 2);
        simulation.run(INTERVAL * 600).check_none_down();
    }
}

/// A member that dies and comes back all the time, and one whose links come and go, are nobody else's trouble.
#[test]
fn flapping_members_disturb_no_others() {
    for (seed, count) in (0..10).zip([4, 5, 7, 10].into_iter().cycle()) {
        let mut simulation = Simulation::new(seed, count);
        let [dying, cut_off] = ['b', 'c'].map(node);
        simulation.loss = 0.02;
        simulation.run(INTERVAL * 10);
        for life in 2..20 {
            let span = Duration::from_millis(simulation.rng.random_range(1_000..12_000));
            let others: Vec<NodeId> = simulation.nodes.keys().copied().collect();
            let links = others.into_iter().filter(|other| *other != cut_off);
            simulation.cuts =
                links.flat_map(|other| [(other, cut_off), (cut_off, other)]).collect();
            simulation.kill_process(dying);
            simulation.run(span).cuts.clear();
            simulation.start('b', life, &LETTERS[..count]);
            simulation.run(span);
        }
        let involves_them =
            |who: NodeId, whom: NodeId| [who, whom].iter().any(|id| [dying, cut_off].contains(id));
        for (_, who, whom, _) in simulation.downs() {
            assert!(involves_them(*who, *whom), "{whom} in the view of {who}; seed {seed}");
        }
        simulation.run(INTERVAL * 10).check_all_up();
    }
}

/// Kills one of `count` members in each of [`KILLS`] runs that lose this share of messages; the slowest view must follow within
/// `limit` tenths of an interval.
#[track_caller]
fn check_kill(count: usize, loss: f64, kill: impl Fn(&mut Simulation, NodeId), limit: u32) {
    let mut slowest = Duration::ZERO;
    for seed in 0..KILLS {
        let mut simulation = Simulation::new(seed, count);
        simulation.loss = loss;
        let calm = Duration::from_millis(simulation.rng.random_range(20_000..40_000));
        kill(simulation.run(calm), node('b'));
        let killed_at = simulation.now;
        simulation.run(INTERVAL * 10);
        let downs = simulation.downs();
        assert_eq!(downs.len(), count - 1, "not down in each view once; replay with seed {seed}");
        for (when, _, whom, _) in downs {
            assert_eq!(*whom, node('b'), "replay with seed {seed}");
            slowest = slowest.max(when.since(killed_at));
        }
    }
    assert!(slowest <= INTERVAL * limit / 10, "the slowest view of {count} took {slowest:?}");
}

#[test]
fn a_killed_member_is_down_in_every_view_within_five_intervals() {
    (3..=10).for_each(|count| check_kill(count, 0.0, Simulation::kill_process, 50));
}

#[test]
fn a_machine_that_is_gone_without_a_word_is_down_a_little_later_among_many() {
    check_kill(2, 0.05, Simulation::kill, 50);
    check_kill(3, 0.05, Simulation::kill, 50);
    check_kill(5, 0.05, Simulation::kill, 50);
    check_kill(10, 0.05, Simulation::kill, 65);
}

#[test]
fn a_one_way_cut_puts_nobody_down_while_others_carry_the_news() {
    for (seed, count) in (0..10).zip([3, 5, 10].into_iter().cycle()) {
        let mut simulation = Simulation::new(seed, count);
        simulation.loss = 0.02;
        simulation.run(INTERVAL * 10).cuts.insert((node('a'), node('b')));
        simulation.run(INTERVAL * 300).check_none_down();
    }
}

#[test]
fn g3_a_deaf_member_that_suspects_all_puts_nobody_down_but_in_its_own_view() {
    for (seed, count) in (0..10).zip([3, 4, 5, 10].into_iter().cycle()) {
        let mut simulation = Simulation::new(seed, count);
        let deaf = node('c');
        simulation.run(INTERVAL * 10);
        simulation.cuts = simulation.nodes.keys().map(|from| (*from, deaf)).collect();
        simulation.run(INTERVAL * 100);
        let downs = simulation.downs();
        assert!(
            downs.iter().all(|(_, who, ..)| *who == deaf),
            "a deaf member was believed; replay with seed {seed}"
        );
        assert_eq!(
            downs.len(),
            count - 1,
            "alone, its own view is all it has; replay with seed {seed}"
        );
        simulation.cuts.clear();
        simulation.run(INTERVAL * 10).check_all_up();
    }
}

#[test]
fn g1_when_all_others_die_at_once_the_survivors_word_suffices() {
    for (seed, dead) in [(1, "ab"), (2, "ab"), (3, "abde"), (4, "abdefghij")] {
        let mut simulation = Simulation::new(seed, dead.len() + 1);
        simulation.run(INTERVAL * 20);
        dead.chars().for_each(|name| simulation.kill(node(name)));
        simulation.run(INTERVAL * 6);
        assert_eq!(simulation.downs().len(), dead.len(), "replay with seed {seed}");
    }
}

#[test]
fn both_sides_of_a_cut_put_each_other_down_and_come_back_after_it_heals() {
    for seed in 0..10 {
        let mut simulation = Simulation::new(seed, 5);
        simulation.run(INTERVAL * 20);
        let (left, right) = (["a", "b"], ["c", "d", "e"]);
        for (one, other) in left.iter().flat_map(|one| right.iter().map(move |other| (one, other)))
        {
            let [one, other] = [one, other].map(|name| node(name.chars().next().unwrap()));
            simulation.cuts.extend([(one, other), (other, one)]);
        }
        simulation.run(INTERVAL * 60);
        assert_eq!(simulation.downs().len(), 12, "replay with seed {seed}");
        simulation.cuts.clear();
        simulation.run(INTERVAL * 10).check_all_up();
    }
}

#[test]
fn a_restarted_member_is_up_at_once_and_one_that_died_unseen_is_never_taken_for_up() {
    for seed in 0..20 {
        let mut simulation = Simulation::new(seed, 5);
        simulation.run(INTERVAL * 20).kill(node('b'));
        simulation.run(INTERVAL * 3).start('b', 2, "abcde");
        simulation.run(INTERVAL * 2).check_all_up();
        simulation.check_none_down();

        simulation.kill(node('e'));
        simulation.run(INTERVAL * 10).kill(node('d'));
        let restarted_at = simulation.now;
        simulation.start('d', 2, "abcde");
        simulation.run(INTERVAL * 20);
        let of_e = simulation.history.iter().filter(|(when, who, whom, _)| {
            restarted_at <= *when && *who == node('d') && *whom == node('e')
        });
        let of_e: Vec<Health> = of_e.map(|(.., health)| *health).collect();
        assert!(matches!(of_e[..], [Health::Down { .. }]), "{of_e:?}; replay with seed {seed}");
    }
}

#[test]
fn a_member_that_stood_still_does_not_blame_the_others() {
    for seed in 0..10 {
        let mut simulation = Simulation::new(seed, 5);
        let sleeper = node('c');
        simulation.run(INTERVAL * 20).paused.insert(sleeper);
        simulation.run(INTERVAL * 15).paused.clear();
        simulation.run(INTERVAL * 10).check_all_up();
        let downs = simulation.downs();
        assert!(
            downs.iter().all(|(_, who, whom, _)| *who != sleeper && *whom == sleeper),
            "replay with seed {seed}"
        );
        assert_eq!(downs.len(), 4, "replay with seed {seed}");
    }
}

#[test]
fn the_same_seed_gives_the_same_run() {
    let run = || {
        let mut simulation = Simulation::new(11, 10);
        simulation.loss = 0.3;
        simulation.run(INTERVAL * 60);
        (simulation.sent, simulation.history)
    };
    assert_eq!(run(), run());
}

#[test]
fn a_directory_that_was_rolled_back_learns_of_its_later_start() {
    let mut simulation = Simulation::new(1, 3);
    simulation.run(INTERVAL * 5).kill(node('b'));
    simulation.start('b', 7, "abc");
    simulation.run(INTERVAL * 5).kill(node('b'));
    simulation.run(INTERVAL * 10).start('b', 3, "abc");
    simulation.run(INTERVAL * 5);
    let [(whom, Alarm::Overtaken { known, own })] = &simulation.alarms[..] else {
        panic!("{:?}", simulation.alarms);
    };
    assert_eq!((*whom, known.count.0, own.count.0), (node('b'), 7, 3));
}
