//! Faults as they happen: what a [`Fault`] of the plan does to the world when it begins, and when it is over.
//!
//! Each is undone by itself, in its own time; where two of a kind overlap, the later end of both counts (cuts are
//! counted, the other kinds end with whichever ends first: then less goes wrong than planned, which is no harm).

use std::collections::BTreeMap;
use std::time::Duration;

use kvkit::cluster::staged::{Staged, plan};
use kvkit::node::Caller;
use kvkit::ring::Weight;
use kvkit::wire::client::{Change, Request, RequestBody};

use crate::network::{Node, Weather};
use crate::plan::{Fault, Kind, Planned};
use crate::world::World;

/// Alarm numbers of faults: this bit, the fault's number, its step.
const FAULT_BIT: u64 = 1 << 63;
const STEP_BITS: u32 = 16;
/// How often a disk is tried to be put back, and the pause between.
const ROLLBACK_TRIES: u32 = 20;
const ROLLBACK_PAUSE: Duration = Duration::from_secs(1);
/// Who asks for other layouts; nobody waits for the reply.
pub const PROPOSER: Caller = Caller(1 << 40);

/// The faults of a run.
pub struct Faults {
    planned: Vec<Planned>,
    /// The network between storms.
    usual: Weather,
    /// How many of each kind really happened.
    pub met: BTreeMap<Kind, usize>,
    is_over: bool,
}

impl Faults {
    pub fn new(planned: Vec<Planned>, usual: Weather) -> Self {
        Self { planned, usual, met: BTreeMap::new(), is_over: false }
    }

    /// Sets the alarms.
    pub fn arm(&self, world: &mut World) {
        for (number, planned) in (0..).zip(&self.planned) {
            world.alarm(planned.at, alarm_number(number, 0));
        }
    }

    /// An alarm; whether it was one of a fault.
    pub fn alarm(&mut self, world: &mut World, number: u64) -> bool {
        if number & FAULT_BIT == 0 {
            return false;
        }
        let fault = (number & !FAULT_BIT) >> STEP_BITS;
        let step = u32::try_from(number & ((1 << STEP_BITS) - 1)).expect("few steps");
        let index = usize::try_from(fault).expect("few faults");
        let planned = self.planned[index].fault.clone();
        if self.is_over {
            return true;
        }
        let happens = match &planned {
            Fault::RollBack { node, .. } => step > 0 && world.would_notice(*node),
            other => step == 0 && is_possible(world, other),
        };
        if happens {
            *self.met.entry(planned.kind()).or_default() += 1;
        }
        if let Some(next) = self.step(world, &planned, step) {
            world.alarm(next, alarm_number(fault, step + 1));
        }
        true
    }

    /// Ends all of them.
    pub fn end(&mut self, world: &mut World, quiet: Weather) {
        self.is_over = true;
        world.note("healing");
        world.network.weather = quiet;
        world.mend();
        world.sync_delays.clear();
        world.slow.clear();
        for node in 0..world.replicas.len() {
            world.resume(node);
            let disk = &world.replicas[node].disk;
            disk.crash_at(u64::MAX);
            disk.set_capacity(None);
            disk.forget_faults();
        }
    }

    /// Does one step of a fault; the pause until its next one, if it has one.
    fn step(&self, world: &mut World, fault: &Fault, step: u32) -> Option<Duration> {
        let begins = step == 0;
        match fault {
            Fault::CutOneWay { from, to, span } => {
                cut(world, &[(*from, *to)], begins);
                begins.then_some(*span)
            }
            Fault::Partition { side, span } => {
                let others = (0..world.replicas.len()).filter(|node| !side.contains(node));
                let links: Vec<_> = others
                    .flat_map(|other| side.iter().flat_map(move |node| both_ways(*node, other)))
                    .collect();
                cut(world, &links, begins);
                begins.then_some(*span)
            }
            Fault::Flap { a, b, times, each } => {
                cut(world, &both_ways(*a, *b), step.is_multiple_of(2));
                (step + 1 < 2 * times).then_some(*each)
            }
            Fault::Disconnect { a, b } => {
                world.disconnect(*a, *b);
                None
            }
            Fault::Storm { weather, span } => {
                world.network.weather = if begins { *weather } else { self.usual };
                begins.then_some(*span)
            }
            Fault::Propose { node, expect, name } => {
                propose(world, *node, *expect, *name);
                None
            }
            Fault::Reshape { node, member, thousandths, gives_up } => {
                reshape(world, *node, *member, Weight(*thousandths), *gives_up);
                None
            }
            Fault::Kill { .. }
            | Fault::Stop { .. }
            | Fault::Pause { .. }
            | Fault::SlowNode { .. }
            | Fault::ClockJump { .. } => step_process(world, fault, begins),
            Fault::BreakDisk { .. }
            | Fault::SlowSync { .. }
            | Fault::FullDisk { .. }
            | Fault::FailedCalls { .. }
            | Fault::FailedSync { .. }
            | Fault::Rot { .. }
            | Fault::Wipe { .. } => step_disk(world, fault, begins),
            Fault::RollBack { node, after, span } => {
                step_rollback(world, *node, *after, *span, step)
            }
        }
    }
}

const fn alarm_number(fault: u64, step: u32) -> u64 {
    FAULT_BIT | fault << STEP_BITS | step as u64
}

const fn both_ways(a: Node, b: Node) -> [(Node, Node); 2] {
    [(a, b), (b, a)]
}

fn cut(world: &mut World, links: &[(Node, Node)], begins: bool) {
    for (from, to) in links {
        if begins {
            world.cut(*from, *to);
        } else {
            world.uncut(*from, *to);
        }
    }
}

/// Whether a fault finds what it wants to harm.
fn is_possible(world: &World, fault: &Fault) -> bool {
    match fault {
        Fault::Kill { node, .. }
        | Fault::Stop { node, .. }
        | Fault::BreakDisk { node, .. }
        | Fault::Pause { node, .. }
        | Fault::FullDisk { node, .. }
        | Fault::FailedCalls { node, .. }
        | Fault::FailedSync { node, .. } => world.is_running(*node) && !world.is_paused(*node),
        Fault::Wipe { node, .. } | Fault::Reshape { node, .. } => world.is_running(*node),
        Fault::Disconnect { a, b } => world.network.connection(*a, *b).is_some(),
        Fault::CutOneWay { .. }
        | Fault::Partition { .. }
        | Fault::Flap { .. }
        | Fault::Storm { .. }
        | Fault::SlowSync { .. }
        | Fault::SlowNode { .. }
        | Fault::ClockJump { .. }
        | Fault::RollBack { .. }
        | Fault::Propose { .. } => true,
        Fault::Rot { node, .. } => world.has_table(*node),
    }
}

fn step_process(world: &mut World, fault: &Fault, begins: bool) -> Option<Duration> {
    match fault {
        Fault::Kill { node, unsynced, span } => {
            stay_down(world, *node, *span);
            world.kill(*node, *unsynced);
            None
        }
        Fault::Stop { node, span } => {
            if !world.is_paused(*node) {
                stay_down(world, *node, *span);
                world.stop(*node);
            }
            None
        }
        Fault::Pause { node, span } => {
            if begins {
                world.pause(*node);
            } else {
                world.resume(*node);
            }
            begins.then_some(*span)
        }
        Fault::SlowNode { node, delay, span } => {
            if begins {
                world.slow.insert(*node, *delay);
            } else {
                world.slow.remove(node);
            }
            begins.then_some(*span)
        }
        Fault::ClockJump { node, micros } => {
            world.note(&format!("the wall clock of n{} jumps by {micros} us", node + 1));
            world.replicas[*node].skew += micros;
            None
        }
        other => unreachable!("{other:?} is of the network or a disk"),
    }
}

fn step_disk(world: &mut World, fault: &Fault, begins: bool) -> Option<Duration> {
    match fault {
        Fault::BreakDisk { node, calls, span } => {
            stay_down(world, *node, *span);
            let disk = &world.replicas[*node].disk;
            disk.crash_at(disk.calls() + calls);
            None
        }
        Fault::SlowSync { node, delay, span } => {
            if begins {
                world.sync_delays.insert(*node, *delay);
            } else {
                world.sync_delays.remove(node);
            }
            begins.then_some(*span)
        }
        Fault::FullDisk { node, left, span } => {
            ail(world, *node);
            let disk = &world.replicas[*node].disk;
            disk.set_capacity(begins.then(|| disk.used() + left));
            begins.then_some(*span)
        }
        Fault::FailedCalls { node, first, calls, with } => {
            ail(world, *node);
            let disk = &world.replicas[*node].disk;
            let first = disk.calls() + first;
            (first..first + calls).for_each(|call| disk.fail_at(call, *with));
            None
        }
        Fault::FailedSync { node, syncs } => {
            ail(world, *node);
            let disk = &world.replicas[*node].disk;
            disk.fail_sync(disk.syncs() + syncs);
            None
        }
        Fault::Rot { node, table, place } => {
            world.rot(*node, *table, *place);
            None
        }
        Fault::Wipe { node, span } => {
            if world.is_running(*node) {
                stay_down(world, *node, *span);
                world.wipe(*node);
            }
            None
        }
        other => unreachable!("{other:?} is of the network or a process"),
    }
}

/// The disk is copied, and put back later, once all others saw the node get farther: only then must it be noticed.
fn step_rollback(
    world: &mut World,
    node: Node,
    after: Duration,
    span: Duration,
    step: u32,
) -> Option<Duration> {
    if step == 0 {
        world.snapshot(node);
        return Some(after);
    }
    if world.would_notice(node) {
        stay_down(world, node, span);
        world.roll_back(node);
        return None;
    }
    (step < ROLLBACK_TRIES).then_some(ROLLBACK_PAUSE)
}

/// The node's next death lasts so long.
fn stay_down(world: &mut World, node: Node, span: Duration) {
    if let Some(pauses) = &mut world.restarts {
        pauses.insert(node, span);
    }
}

fn ail(world: &mut World, node: Node) {
    world.ailing.insert(node);
}

fn propose(world: &mut World, node: Node, expect: u64, name: u32) {
    let from = world.replicas[node].identity.name.clone();
    let change = Change::Rename { from, to: format!("m{name}") };
    let body = RequestBody::Propose { expect, change };
    world.request(node, PROPOSER, &Request { id: 0, deadline: 0, body });
}

/// Proposes what an operator would who sees the layout as `node` does: another share for a member, or, where a change
/// runs, its end.
fn reshape(world: &mut World, node: Node, member: Node, weight: Weight, gives_up: bool) {
    let Some(view) = world.view(node) else { return };
    let change = if view.layout.next.is_some() {
        if !gives_up {
            return;
        }
        Change::Abort
    } else {
        let staged = Staged::Weight(world.id(member), weight);
        let planned = plan(&view.layout.now, &[staged]).expect("members stay, and have shares");
        Change::To(Box::new(planned.ring))
    };
    let body = RequestBody::Propose { expect: view.layout.version, change };
    world.request(node, PROPOSER, &Request { id: 0, deadline: 0, body });
}
