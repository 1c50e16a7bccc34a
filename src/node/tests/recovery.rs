//! Recovery after the loss of a majority: what survives is readable, whoever dies in the middle.

use std::collections::BTreeSet;
use std::time::Duration;

use bytes::Bytes;

use super::cluster::{Cluster, get_body, values};
use crate::cluster::LayoutTag;
use crate::cluster::recover::{Knowledge, Plan, PlanError, plan};
use crate::replication::{self, Consistency, Envelope, OpId};
use crate::ring::Layout;
use crate::wire::client::{ErrorCode, PutBasis, Recover, ReplyBody, RequestBody};
use crate::wire::handshake::{RefusalCode, Welcome};
use crate::wire::peer::PeerMessage;

/// Long enough for a silent member to be down.
const DOWN: Duration = Duration::from_secs(40);
/// Long enough for a recovery to be done.
const DONE: Duration = Duration::from_secs(30);
/// How often a test looks whether it is.
const LOOK: Duration = Duration::from_millis(10);
/// Keys of a test, one a partition or so.
const KEYS: u32 = 64;

fn key(number: u32) -> Vec<u8> {
    format!("key{number}").into_bytes()
}

impl Cluster {
    fn step(&mut self, node: usize, step: Recover) -> Result<Knowledge, ErrorCode> {
        match self.call(node, RequestBody::Recover(step)).0 {
            ReplyBody::Recovery(knowledge) => Ok(*knowledge),
            ReplyBody::Error(error) => Err(error.code),
            other => panic!("{other:?}"),
        }
    }

    /// What would be done at these survivors.
    fn plan(&mut self, survivors: &[usize]) -> Result<Plan, PlanError> {
        let names: BTreeSet<_> = survivors.iter().map(|node| self.id(*node)).collect();
        let told = survivors.iter().map(|node| self.step(*node, Recover::Tell).unwrap());
        let told: Vec<Knowledge> = told.collect();
        plan(&names, &told)
    }

    fn accept(&mut self, node: usize, layout: &Layout) -> Result<Knowledge, ErrorCode> {
        self.step(node, Recover::Accept(Box::new(layout.clone())))
    }

    fn begin(&mut self, node: usize, layout: &Layout) -> Result<Knowledge, ErrorCode> {
        self.step(node, Recover::Begin(LayoutTag::of(layout)))
    }

    /// All of it, as an operator's tool does it.
    fn recover(&mut self, survivors: &[usize]) -> Layout {
        let plan = self.plan(survivors).unwrap();
        let open: Vec<usize> = plan.open.iter().map(|id| self.number(*id)).collect();
        for node in &open {
            self.accept(*node, &plan.layout).unwrap();
        }
        for node in open {
            self.begin(node, &plan.layout).unwrap();
        }
        plan.layout
    }

    fn layout(&mut self, node: usize) -> Layout {
        let ReplyBody::Layout(reply) = self.call(node, RequestBody::Layout).0 else {
            panic!("no layout")
        };
        reply.layout
    }

    /// Waits until the recovery is done at all of these, and no longer.
    #[track_caller]
    fn done(&mut self, survivors: &[usize], begun: &Layout) {
        let until = self.now().after(DONE);
        for node in survivors {
            while self.layout(*node).recovers || self.layout(*node).generation < begun.generation {
                assert!(self.now() < until, "n{} is not done", node + 1);
                self.pass(LOOK);
            }
            let layout = self.layout(*node);
            let tag = (layout.generation, layout.version, layout.next.is_none());
            assert_eq!(tag, (begun.generation, begun.version + 1, true), "n{}", node + 1);
        }
    }

    #[track_caller]
    fn put_ok(&mut self, node: usize, key: &[u8], text: &str, w: u8) {
        let body = self.put_body(key, text, PutBasis::Present, w);
        let reply = self.call(node, body).0;
        assert!(matches!(reply, ReplyBody::Done(_)), "{reply:?}");
    }

    fn get(&mut self, node: usize, key: &[u8], strictly: bool) -> Result<String, ErrorCode> {
        let mut body = get_body(key, 1);
        if let RequestBody::Get(get) = &mut body {
            let consistency = if strictly { Consistency::Strict } else { Consistency::Sloppy };
            (get.r, get.consistency) = (None, Some(consistency));
        }
        match self.call(node, body).0 {
            ReplyBody::Got(got) => Ok(values(&got.state)),
            ReplyBody::Error(error) => Err(error.code),
            other => panic!("{other:?}"),
        }
    }

    /// Whether `caller` would be let in by `host`.
    fn greets(&mut self, caller: usize, host: usize) -> Result<(), RefusalCode> {
        let now = self.now();
        let hello = self.core(caller).hello(now);
        match self.core(host).admit(now, &hello) {
            Welcome::Accepted { .. } => Ok(()),
            Welcome::Refused { code, .. } => Err(code),
        }
    }
}

/// Five nodes whose keys are written at every owner, and the last three lost for good.
fn lost() -> Cluster {
    let mut cluster = Cluster::new(5, (3, 2, 2));
    for number in 0..KEYS {
        cluster.put_ok(0, &key(number), &format!("v{number}"), 2);
    }
    cluster.pass(Duration::from_secs(1));
    cluster.kill_all([2, 3, 4]);
    cluster.pass(DOWN);
    cluster
}

/// The keys of [`lost`] of which something survives are readable, strictly, at both survivors; a new write is, too.
#[track_caller]
fn check_readable(cluster: &mut Cluster, survivors: &[usize]) {
    let mut readable = 0;
    for number in 0..KEYS {
        let owners = cluster.walk(&key(number));
        let survives = owners[..3].iter().any(|owner| survivors.contains(owner));
        for node in survivors {
            let read = cluster.get(*node, &key(number), true).unwrap();
            assert_eq!(read, if survives { format!("v{number}") } else { String::new() });
        }
        readable += u32::from(survives);
    }
    assert!(readable > KEYS / 2, "{readable} keys have a surviving owner");
    cluster.put_ok(survivors[0], b"new", "new", 2);
    assert_eq!(cluster.get(*survivors.last().unwrap(), b"new", true).unwrap(), "new");
}

#[test]
fn survivors_go_on_with_all_that_any_of_them_holds() {
    let mut cluster = lost();
    let before = cluster.layout(0);
    let plan = cluster.plan(&[0, 1]).unwrap();
    assert_eq!((&plan.base, plan.is_resumed), (&before, false));
    assert!(plan.loss.without_owner() > 0, "{:?}", plan.loss);
    let begun = cluster.recover(&[0, 1]);
    cluster.done(&[0, 1], &begun);
    for (number, node) in (0..KEYS).flat_map(|number| [(number, 0), (number, 1)]) {
        let survives = cluster.walk(&key(number))[..3].iter().any(|owner| *owner < 2);
        let held = values(&cluster.stored(node, &key(number)));
        assert_eq!(held, if survives { format!("v{number}") } else { String::new() });
    }
    check_readable(&mut cluster, &[0, 1]);
    let ReplyBody::View(view) = cluster.call(0, RequestBody::View).0 else { panic!("no view") };
    assert_eq!((view.members.len(), view.alarms), (2, Vec::new()));
}

#[test]
fn who_is_left_behind_is_not_let_in_and_its_late_frames_are_not_read() {
    let mut cluster = lost();
    let begun = cluster.recover(&[0, 1]);
    cluster.done(&[0, 1], &begun);
    cluster.start(4);
    assert_eq!(cluster.greets(4, 0), Err(RefusalCode::RemovedMember));
    assert_eq!(cluster.greets(0, 4), Err(RefusalCode::WrongCluster));
    // The majority of before may have chosen a layout of the same number.
    let lost = (0..KEYS).find(|number| cluster.walk(&key(*number))[..3] == [2, 3, 4]);
    let lost = key(lost.expect("some keys were lost"));
    let state = cluster.stored(4, &lost);
    assert!(state.has_value());
    let key = Bytes::from(lost.clone());
    let body = replication::Request::Merge { key, state, put: None };
    let layout = cluster.layout(0).version;
    let envelope = Envelope { layout, op: OpId(1), cut: None, body };
    cluster.late_frame(4, 0, PeerMessage::Request { deadline: u64::MAX, envelope });
    assert_eq!(values(&cluster.stored(0, &lost)), "");
}

/// L13: what the survivor that is asked lacks, another one holds: it is named, too, and gives it.
#[test]
fn l13_what_one_survivor_lacks_another_gives() {
    let mut cluster = Cluster::new(5, (3, 2, 2));
    let walk = cluster.walk(b"k");
    let (a, b) = (walk[0], walk[1]);
    // A is away as the write is acknowledged by B and by one that is lost.
    cluster.kill(a);
    cluster.put_ok(b, b"k", "only b has it", 2);
    for node in [walk[2], walk[3], walk[4]] {
        cluster.kill(node);
    }
    cluster.pass(DOWN);
    cluster.start(a);
    assert_eq!(values(&cluster.stored(a, b"k")), "");
    let begun = cluster.recover(&[a, b]);
    cluster.done(&[a, b], &begun);
    assert_eq!(values(&cluster.stored(a, b"k")), "only b has it");
    assert_eq!(cluster.get(a, b"k", true).unwrap(), "only b has it");
}

#[test]
fn strict_requests_wait_until_it_is_done_and_sloppy_ones_go_on() {
    let mut cluster = lost();
    let layout = cluster.plan(&[0, 1]).unwrap().layout;
    cluster.accept(0, &layout).unwrap();
    // Who is bound says nothing more for the generation before.
    assert_eq!(cluster.get(0, &key(0), false), Err(ErrorCode::NotReady));
    cluster.accept(1, &layout).unwrap();
    cluster.begin(0, &layout).unwrap();
    cluster.begin(1, &layout).unwrap();
    let number = (0..KEYS).find(|number| cluster.walk(&key(*number))[..3].contains(&0)).unwrap();
    assert_eq!(cluster.get(1, &key(number), true), Err(ErrorCode::QuorumUnmet));
    assert_eq!(cluster.get(1, &key(number), false).unwrap(), format!("v{number}"));
    cluster.put_ok(1, b"sloppy", "taken", 2);
    assert!(cluster.layout(1).recovers, "it was not done yet");
    cluster.done(&[0, 1], &layout);
    assert_eq!(cluster.get(0, b"sloppy", true).unwrap(), "taken");
    assert_eq!(cluster.get(1, &key(number), true).unwrap(), format!("v{number}"));
}

#[test]
fn a_survivor_that_was_away_as_it_began_learns_it_from_another() {
    let mut cluster = lost();
    let layout = cluster.plan(&[0, 1]).unwrap().layout;
    cluster.accept(0, &layout).unwrap();
    cluster.accept(1, &layout).unwrap();
    cluster.kill(1);
    cluster.begin(0, &layout).unwrap();
    cluster.pass(DONE);
    assert_eq!(cluster.layout(0), layout, "it waits for n2");
    cluster.start(1);
    cluster.done(&[0, 1], &layout);
    check_readable(&mut cluster, &[0, 1]);
}

/// What was written in the stead of the lost comes to the owners that are left.
#[test]
fn hints_for_the_lost_go_to_the_owners_that_are_left() {
    let mut cluster = lost();
    let lost_key = (0..KEYS).find(|number| cluster.walk(&key(*number))[..3] == [2, 3, 4]);
    let lost_key = key(lost_key.expect("no owner of some keys is left"));
    cluster.put_ok(0, &lost_key, "held for the lost", 2);
    assert!(cluster.hints(0) + cluster.hints(1) > 0);
    let begun = cluster.recover(&[0, 1]);
    cluster.done(&[0, 1], &begun);
    assert_eq!(cluster.hints(0) + cluster.hints(1), 0);
    for node in [0, 1] {
        assert_eq!(cluster.get(node, &lost_key, true).unwrap(), "held for the lost");
    }
}

/// Whoever drives the recovery dies after any of its steps: the same names finish it.
#[test]
fn a_recovery_given_up_anywhere_is_finished_by_the_same_names() {
    for steps in 0..4 {
        let mut cluster = lost();
        let layout = cluster.plan(&[0, 1]).unwrap().layout;
        for step in 0..steps {
            match step {
                0 | 1 => drop(cluster.accept(step, &layout).unwrap()),
                _ => drop(cluster.begin(0, &layout).unwrap()),
            }
        }
        // The machines lose power besides: what was accepted is durable.
        for node in [0, 1] {
            cluster.kill(node);
        }
        for node in [0, 1] {
            cluster.start(node);
        }
        if steps < 3 {
            let begun = cluster.recover(&[0, 1]);
            assert_eq!(begun, layout, "{steps} steps");
        }
        cluster.done(&[0, 1], &layout);
        check_readable(&mut cluster, &[0, 1]);
    }
}

/// Two operators, each cut off with a part of the survivors, begin at once.
#[test]
fn of_two_recoveries_with_a_survivor_in_common_at_most_one_is_chosen() {
    for first_wins in [true, false] {
        let mut cluster = Cluster::new(5, (3, 2, 2));
        cluster.kill(3);
        cluster.kill(4);
        cluster.pass(DOWN);
        let mut planned = |survivors: [usize; 2]| {
            let told = survivors.map(|node| {
                let told = cluster.step(node, Recover::Tell).unwrap();
                Knowledge { present: Vec::new(), ..told }
            });
            plan(&told.iter().map(|told| told.node).collect(), &told).unwrap().layout
        };
        let (first, second) = (planned([0, 1]), planned([1, 2]));
        assert_eq!((first.generation, second.generation), (2, 2));
        cluster.accept(0, &first).unwrap();
        cluster.accept(2, &second).unwrap();
        let (winner, loser) = if first_wins { (&first, &second) } else { (&second, &first) };
        cluster.accept(1, winner).unwrap();
        assert_eq!(cluster.accept(1, loser), Err(ErrorCode::WrongLayout));
        assert_eq!(cluster.begin(1, loser), Err(ErrorCode::WrongLayout));
        let (with, without) = if first_wins { (0, 2) } else { (2, 0) };
        cluster.begin(with, winner).unwrap();
        cluster.begin(1, winner).unwrap();
        cluster.done(&[with, 1], winner);
        assert_eq!(cluster.greets(without, 1), Err(RefusalCode::RemovedMember));
        let stranger = PlanError::Stranger(cluster.id(without));
        assert_eq!(cluster.plan(&[1, without]).unwrap_err(), stranger);
    }
}

#[test]
fn what_can_not_be_chosen_any_more_is_superseded_by_the_next_try() {
    let mut cluster = lost();
    let first = cluster.plan(&[0, 1]).unwrap().layout;
    let told = Knowledge { present: Vec::new(), ..cluster.step(1, Recover::Tell).unwrap() };
    let alone = plan(&BTreeSet::from([told.node]), &[told]).unwrap().layout;
    cluster.accept(0, &first).unwrap();
    cluster.accept(1, &alone).unwrap();
    assert_eq!(cluster.accept(1, &first), Err(ErrorCode::WrongLayout));
    let begun = cluster.recover(&[0, 1]);
    assert_eq!((begun.generation, begun.version), (3, first.version + 1));
    cluster.done(&[0, 1], &begun);
    check_readable(&mut cluster, &[0, 1]);
}

#[test]
fn one_that_is_alone_goes_on_alone_and_others_join_it_as_new_ones() {
    let mut cluster = lost();
    cluster.kill(1);
    cluster.pass(DOWN);
    let begun = cluster.recover(&[0]);
    cluster.done(&[0], &begun);
    for number in 0..KEYS {
        let holds = cluster.walk(&key(number))[..3].contains(&0);
        let read = cluster.get(0, &key(number), true).unwrap();
        assert_eq!(read, if holds { format!("v{number}") } else { String::new() });
    }
    cluster.put_ok(0, b"new", "new", 1);
    // N2 was no survivor of this one.
    cluster.start(1);
    assert_eq!(cluster.greets(1, 0), Err(RefusalCode::RemovedMember));
}
