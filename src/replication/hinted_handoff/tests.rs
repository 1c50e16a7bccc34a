//! A holder with its hints, and nodes that merge, refuse or keep silent as they are told.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;

use super::*;
use crate::cluster::Time;
use crate::node_id::NodeId;
use crate::replication::{ForegroundLoad, Reachability, View};
use crate::ring::{Layout, Member, Mode, Preferences, Weight};
use crate::version::notation::{node, state};

const TTL: Duration = Duration::from_hours(3);
const STEP: Duration = Duration::from_millis(10);

struct Scene {
    handoff: Handoff,
    rng: ChaCha8Rng,
    now: Time,
    preferences: Preferences,
    up: BTreeSet<NodeId>,
    stored: BTreeMap<Bytes, Hint>,
    /// Who merged what.
    merged: Vec<(NodeId, Bytes)>,
    waiting: VecDeque<(SendId, NodeId, Bytes)>,
    in_flight_max: usize,
    /// Pages read.
    reads: usize,
    /// Hints that the nodes take in one step.
    takes: usize,
    is_silent: bool,
    foreground: ForegroundLoad,
}

/// The walk of a ring of so many replicas among these members.
fn preferences(members: &str, n: u8) -> Preferences {
    let member = |name: &str| Member {
        id: node(name),
        name: name.to_owned(),
        zone: String::new(),
        weight: Weight::ONE,
    };
    let members = members.split_whitespace().map(member).collect();
    Preferences::new(Arc::new(Layout::found(32, n, 1, 1, Mode::Available, members).unwrap().now))
}

impl Scene {
    /// So many hints for `t`, which owns every key with `a` and `b`; the holder is `h`.
    fn new(hints: usize) -> Self {
        let mut scene = Self {
            handoff: Handoff::new(TTL),
            rng: ChaCha8Rng::seed_from_u64(7),
            now: Time::default().after(Duration::from_hours(1)),
            preferences: preferences("a b t", 3),
            up: BTreeSet::new(),
            stored: BTreeMap::new(),
            merged: Vec::new(),
            waiting: VecDeque::new(),
            in_flight_max: 0,
            reads: 0,
            takes: usize::MAX,
            is_silent: false,
            foreground: ForegroundLoad::default(),
        };
        (0..hints).for_each(|index| scene.hold(&format!("{index:06}"), 1));
        scene
    }

    fn hold(&mut self, key: &str, w: u8) {
        let since = self.now.wall;
        let hint = Hint { w, since, state: state("a1:x") };
        if self.stored.insert(Bytes::copy_from_slice(key.as_bytes()), hint).is_none() {
            self.tell(Event::Held { target: node("t"), since });
        }
    }

    fn rise(&mut self, name: &str) {
        self.up.insert(node(name));
        self.tell(Event::Reachable(node(name)));
    }

    fn fall(&mut self, name: &str) {
        self.up.remove(&node(name));
        self.waiting.retain(|(_, to, _)| *to != node(name));
        self.tell(Event::Unreachable(node(name)));
    }

    fn tell(&mut self, event: Event) {
        let mut events = VecDeque::from([event]);
        while let Some(event) = events.pop_front() {
            let up = self.up.clone();
            let reachable = |node: NodeId| {
                if up.contains(&node) { Reachability::Up } else { Reachability::Down }
            };
            let view = View {
                me: node("h"),
                preferences: &self.preferences,
                next: None,
                recovers: false,
                reachable: &reachable,
                foreground: self.foreground,
                now: self.now,
            };
            let mut effects = Vec::new();
            self.handoff.handle(&view, event, &mut self.rng, &mut effects);
            for effect in effects {
                match effect {
                    Effect::Read { target, from } => events.push_back(self.read(target, from)),
                    Effect::Send { id, to, key, .. } => {
                        self.waiting.push_back((id, to, key));
                        self.in_flight_max = self.in_flight_max.max(self.waiting.len());
                    }
                    Effect::Forget { target, key, sent } => {
                        if self.stored.get(&key) == Some(&sent) {
                            self.stored.remove(&key);
                            events.push_back(Event::Gone(target));
                        }
                    }
                }
            }
        }
    }

    fn read(&mut self, target: NodeId, from: Option<Bytes>) -> Event {
        self.reads += 1;
        let mut behind = self.stored.range(from.unwrap_or_default()..);
        let page = behind.by_ref().take(PAGE_ENTRIES);
        let hints = page.map(|(key, hint)| (key.clone(), hint.clone())).collect();
        let next = behind.next().map(|(key, _)| key.clone());
        Event::Page { target, hints, next }
    }

    fn step(&mut self, span: Duration) {
        self.now = self.now.after(span);
        if self.handoff.wake_at().is_some_and(|at| at <= self.now) {
            self.tell(Event::Tick);
        }
        if self.is_silent {
            return;
        }
        for (taken, (id, from, key)) in std::mem::take(&mut self.waiting).into_iter().enumerate() {
            let reply = if taken < self.takes { Reply::Merged } else { Reply::Busy };
            if reply == Reply::Merged {
                self.merged.push((from, key));
            }
            self.tell(Event::Answered { id, from, reply });
        }
    }

    /// Runs until nothing is held, at most so many steps; how many it took.
    fn run(&mut self, steps_max: usize) -> Option<usize> {
        (0..steps_max).find(|_| {
            if !self.stored.is_empty() {
                self.step(STEP);
            }
            self.stored.is_empty()
        })
    }

    /// Lets time go by, and the machine do what it wants at the moments it names.
    fn pass(&mut self, span: Duration) {
        let until = self.now.after(span);
        while self.now < until {
            let next = if self.waiting.is_empty() {
                self.handoff.wake_at().unwrap_or(until).min(until).since(self.now)
            } else {
                STEP
            };
            self.step(next.max(Duration::from_micros(1)));
        }
    }

    fn merged_by(&self, name: &str) -> usize {
        self.merged.iter().filter(|(by, _)| *by == node(name)).count()
    }
}

#[test]
fn hints_go_once_their_target_is_back_each_once() {
    let mut scene = Scene::new(1_000);
    assert_eq!(scene.run(1_000), None, "a target that was never reached gets nothing");
    assert_eq!((scene.in_flight_max, scene.reads), (0, 0));
    scene.rise("t");
    scene.run(1_000).unwrap();
    scene.merged.sort();
    scene.merged.dedup();
    assert_eq!(scene.merged.len(), 1_000);
    assert_eq!(scene.handoff.held().count(), 0);
}

#[test]
fn a_target_that_refuses_sets_the_pace_and_loses_nothing() {
    let mut scene = Scene::new(500);
    scene.takes = 4;
    scene.rise("t");
    scene.run(100_000).unwrap();
    assert!(scene.in_flight_max <= 32, "{} at once", scene.in_flight_max);
}

#[test]
fn beside_clients_hints_go_in_bursts_and_take_a_tenth_of_the_time() {
    let mut scene = Scene::new(500);
    scene.foreground = ForegroundLoad::per_second(1_000);
    scene.rise("t");
    let steps = scene.run(100_000).unwrap();
    assert!(scene.in_flight_max <= 16, "{} at once", scene.in_flight_max);
    let alone = 500 / scene.in_flight_max;
    assert!(8 * alone < steps, "{steps} steps, {alone} where there are no clients");

    let mut scene = Scene::new(2_000);
    scene.foreground = ForegroundLoad::per_second(1_000);
    scene.rise("t");
    scene.pass(Duration::from_secs(3));
    assert!(!scene.stored.is_empty());
    scene.foreground = ForegroundLoad::default();
    scene.run(200).expect("it hurries once the clients are gone");
}

/// Found by the simulator: it asked to be woken at once, again and again.
#[test]
fn clients_that_come_while_hints_are_on_their_way_do_not_make_it_spin() {
    let mut scene = Scene::new(500);
    scene.is_silent = true;
    scene.rise("t");
    scene.now = scene.now.after(Duration::from_secs(3));
    scene.tell(Event::Tick);
    assert!(!scene.waiting.is_empty());
    scene.foreground = ForegroundLoad::per_second(1_000);
    scene.tell(Event::Tick);
    assert!(scene.handoff.wake_at().is_some_and(|at| scene.now < at));
}

#[test]
fn what_comes_meanwhile_goes_in_a_later_round() {
    let mut scene = Scene::new(3);
    scene.rise("t");
    scene.run(1_000).unwrap();
    scene.hold("late", 1);
    scene.run(1_000).unwrap();
}

#[test]
fn a_hint_that_changed_since_it_was_sent_stays_and_goes_again() {
    let mut scene = Scene::new(1);
    scene.rise("t");
    scene.now = scene.now.after(Duration::from_secs(3));
    scene.tell(Event::Tick);
    let (id, from, key) = scene.waiting.pop_front().unwrap();
    let newer = Hint { w: 2, since: 0, state: state("a2:y") };
    scene.stored.insert(key, newer);
    scene.tell(Event::Answered { id, from, reply: Reply::Merged });
    assert_eq!((scene.stored.len(), scene.handoff.held().count()), (1, 1));
    scene.run(1_000).unwrap();
}

#[test]
fn a_silent_or_lost_target_is_tried_again_from_the_start() {
    let mut scene = Scene::new(20);
    scene.is_silent = true;
    scene.rise("t");
    assert_eq!(scene.run(2_000), None);
    scene.is_silent = false;
    scene.fall("t");
    assert_eq!(scene.run(2_000), None);
    scene.rise("t");
    scene.run(2_000).unwrap();
}

#[test]
fn a_target_that_takes_nothing_is_asked_ever_less_often() {
    let mut scene = Scene::new(PAGE_ENTRIES);
    scene.is_silent = true;
    scene.rise("t");
    scene.pass(Duration::from_mins(10));
    assert!((5..30).contains(&scene.reads), "{} pages in ten minutes", scene.reads);
}

#[test]
fn a_hint_that_counted_for_nothing_is_dropped_after_its_patience() {
    let mut scene = Scene::new(0);
    for index in 0..1_000 {
        scene.hold(&format!("{index:06}"), 0);
    }
    scene.rise("a");
    scene.pass(TTL.saturating_sub(STEP));
    assert_eq!((scene.stored.len(), scene.reads), (1_000, 0), "not before");
    scene.pass(Duration::from_mins(1));
    assert_eq!((scene.stored.len(), scene.merged.len()), (0, 0));
}

#[test]
fn an_overdue_hint_goes_to_the_owners_and_away_once_as_many_have_it_as_it_counted_for() {
    let mut scene = Scene::new(0);
    scene.hold("k", 2);
    scene.rise("a");
    scene.pass(TTL + Duration::from_mins(1));
    assert_eq!((scene.merged_by("a"), scene.stored.len()), (1, 1), "one of two has it");
    scene.rise("b");
    scene.pass(Duration::from_mins(11));
    assert_eq!((scene.merged_by("b"), scene.stored.len()), (1, 0));
}

#[test]
fn a_target_that_comes_back_late_still_gets_its_hint() {
    let mut scene = Scene::new(0);
    scene.hold("k", 3);
    scene.rise("a");
    scene.rise("b");
    scene.pass(2 * TTL);
    assert_eq!(scene.stored.len(), 1, "two owners are not three");
    scene.rise("t");
    scene.run(1_000).unwrap();
    assert_eq!(scene.merged_by("t"), 1);
}

#[test]
fn overdue_hints_that_cannot_go_are_looked_through_at_a_pace() {
    let mut scene = Scene::new(1_000);
    scene.pass(2 * TTL);
    let pages = 1_000_usize.div_ceil(PAGE_ENTRIES);
    let rounds = 2 + usize::try_from(TTL.as_secs() / 600).unwrap();
    assert!(scene.reads <= pages * rounds, "{} pages in three hours", scene.reads);
    assert_eq!(scene.stored.len(), 1_000);
    // While hints come in all the time, each overdue at another moment, it is the same.
    let mut scene = Scene::new(0);
    for index in 0..500 {
        scene.hold(&format!("{index:06}"), 1);
        scene.pass(Duration::from_mins(1));
    }
    assert!(scene.reads < 150, "{} pages", scene.reads);
}

#[test]
fn a_hint_whose_target_owns_its_key_no_more_follows_the_layout() {
    let mut scene = Scene::new(0);
    scene.hold("k", 2);
    for name in ["a", "b", "c", "t"] {
        scene.rise(name);
    }
    scene.preferences = preferences("a b c", 3);
    scene.tell(Event::LayoutChanged);
    scene.run(1_000).unwrap();
    assert_eq!(scene.merged_by("t"), 0);
    assert_eq!(["a", "b", "c"].map(|name| scene.merged_by(name)), [1, 1, 1]);
}

#[test]
fn a_shorter_patience_counts_for_the_hints_that_are_there() {
    let mut scene = Scene::new(0);
    scene.hold("k", 0);
    scene.pass(Duration::from_mins(2));
    scene.tell(Event::Ttl(Duration::from_mins(1)));
    scene.run(1_000).unwrap();
}

#[test]
fn an_owner_that_breaks_away_meanwhile_does_not_hold_the_others_up() {
    let mut scene = Scene::new(0);
    scene.hold("k", 2);
    for name in ["a", "b"] {
        scene.rise(name);
    }
    scene.is_silent = true;
    scene.pass(TTL + Duration::from_secs(1));
    assert_eq!(scene.waiting.len(), 2);
    scene.fall("b");
    scene.is_silent = false;
    scene.pass(Duration::from_secs(1));
    assert_eq!((scene.merged_by("a"), scene.stored.len()), (1, 1));
    scene.rise("b");
    scene.pass(Duration::from_mins(11));
    assert_eq!(scene.stored.len(), 0);
}

#[track_caller]
fn check(members: &str, up: &str, w: u8, waited: Duration, expected: &plan::Plan) {
    check_where(false, members, up, w, waited, expected);
}

#[track_caller]
fn check_where(
    recovers: bool,
    members: &str,
    up: &str,
    w: u8,
    waited: Duration,
    expected: &plan::Plan,
) {
    let preferences = preferences(members, 3);
    let reachable = |other: NodeId| {
        let is_up = up.split_whitespace().any(|name| node(name) == other);
        if is_up { Reachability::Up } else { Reachability::Unreachable }
    };
    let now = Time::default().after(2 * TTL);
    let view = View {
        me: node("h"),
        preferences: &preferences,
        next: None,
        recovers,
        reachable: &reachable,
        foreground: ForegroundLoad::default(),
        now,
    };
    let since = now.wall - u64::try_from(waited.as_micros()).unwrap();
    let hint = Hint { w, since, state: state("a1:x") };
    let target = (node("t"), reachable(node("t")) == Reachability::Up);
    let mut plan = plan::plan(&view, TTL, target, b"k", &hint);
    if let plan::Plan::Relay { owners, .. } = &mut plan {
        owners.sort();
    }
    assert_eq!(&plan, expected);
}

#[test]
fn what_becomes_of_a_hint_hangs_on_its_target_its_age_and_what_it_counted_for() {
    use plan::Plan::{Deliver, Drop, Keep, Relay};
    let to = |names: &str| names.split_whitespace().map(node).collect::<Vec<_>>();
    check("a b t", "t", 0, 2 * TTL, &Deliver);
    check("a b t", "a b", 0, TTL / 3, &Keep(TTL.saturating_sub(TTL / 3)));
    check("a b t", "a b", 0, TTL, &Drop);
    check("a b t", "a b", 2, TTL, &Relay { owners: to("a b"), needed: 2 });
    check("a t", "a", 3, TTL, &Relay { owners: to("a"), needed: 2 });
    check("a b c", "a b c t", 0, TTL / 3, &Relay { owners: to("a b c"), needed: 1 });
    check("a b c", "b", 2, TTL / 3, &Relay { owners: to("b"), needed: 2 });
    check("a b c", "b t", 0, TTL, &Drop);
}

/// In a recovery everybody merges what the holder has as its own.
#[test]
fn what_is_held_for_who_was_left_behind_becomes_the_holders_own() {
    use plan::Plan::{Deliver, Keep, Relay};
    let own = Relay { owners: vec![node("h")], needed: 1 };
    for w in [0, 2] {
        check_where(true, "a b h", "a b", w, TTL / 3, &own);
        check_where(true, "a b h", "a b", w, 2 * TTL, &own);
    }
    check_where(true, "a b t", "t", 2, TTL / 3, &Deliver);
    check_where(true, "a b t", "a", 2, TTL / 3, &Keep(TTL.saturating_sub(TTL / 3)));
}
