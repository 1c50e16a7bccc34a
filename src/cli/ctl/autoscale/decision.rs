//! What follows from a look: a pure function of the policy, what is remembered, and what is seen.
//!
//! ```text
//! growing    start ──▶ (it asks to join) join ──▶ (no change runs, nothing is left over) done
//!              └────── it never asks, or cannot be let in ──────────────────────────▶ stop
//! shrinking  leave ──▶ (it is no member any more) stop ──▶ done
//! ```
//! A step is on record before it is done, and each may be done twice: who starts after a crash goes on where this shows
//! it to be. Invariants: nothing begins while a member is not up, a change runs, data still moves, or an operator has
//! something staged; nobody leaves while hints are held or a member gets lost data back; members never become fewer than
//! `min` or N, nor more than `max`; one node at a time.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::cli::human;

use super::judgement::{Judgement, judge};
use super::memory::{Doing, Memory, Pending};
use super::policy::{Patience, Policy};
use super::seen::{Part, Seen};

/// How often a node's joining may fail to be committed before the node is stopped again.
const JOIN_TRIES: u32 = 5;

/// What to do now, why, and what to remember.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Decision {
    pub(super) step: Step,
    /// What a person should know, most important first.
    pub(super) why: Vec<String>,
    pub(super) memory: Memory,
}

/// What to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// Nothing: look again after the interval.
    Hold,
    /// Nothing, since what was begun goes on by itself: look again soon.
    Wait,
    /// Run the start command.
    Start { node: String, zone: String },
    /// Make a node that waits a member.
    Join { node: String, zone: String },
    /// Have a member give its data away.
    Leave { node: String },
    /// Run the stop command.
    Stop { node: String, why: Stop },
}

/// Why a node is stopped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stop {
    /// It gave its data away.
    Left,
    /// It did not become a member.
    NeverJoined,
}

impl Step {
    /// The step's name.
    pub(super) const fn name(&self) -> &'static str {
        match self {
            Self::Hold => "hold",
            Self::Wait => "wait",
            Self::Start { .. } => "start",
            Self::Join { .. } => "join",
            Self::Leave { .. } => "leave",
            Self::Stop { .. } => "stop",
        }
    }

    /// The node that it is about.
    pub(super) fn node(&self) -> Option<&str> {
        match self {
            Self::Hold | Self::Wait => None,
            Self::Start { node, .. }
            | Self::Join { node, .. }
            | Self::Leave { node }
            | Self::Stop { node, .. } => Some(node),
        }
    }
}

/// Decides.
pub(super) fn decide(policy: &Policy, memory: &Memory, seen: &Seen) -> Decision {
    match &memory.pending {
        Some(pending) => go_on(policy, memory, pending, seen),
        None => match adopted(policy, seen) {
            Some(pending) => go_on(policy, memory, &pending, seen),
            None => begin(policy, memory, seen),
        },
    }
}

/// A node of ours that waits to join though nobody remembers to have started it.
fn adopted(policy: &Policy, seen: &Seen) -> Option<Pending> {
    let ours = |name: &&String| policy.names.number(name).is_some();
    let node = seen.waiting.iter().find(ours)?.clone();
    let (zone, doing) = (String::new(), Doing::Joining);
    Some(Pending { node, zone, doing, since: seen.at, layout: 0, failures: 0 })
}

/// What is under way, another step of it.
fn go_on(policy: &Policy, memory: &Memory, pending: &Pending, seen: &Seen) -> Decision {
    let (step, why) = match pending.doing {
        Doing::Starting => begun(policy, pending, seen),
        Doing::Joining => started(policy, pending, seen),
        Doing::Leaving => leaving(pending, seen),
        Doing::Stopping => stopping(pending, seen),
    };
    let pending = match &step {
        // What was begun has ended, one way or the other.
        Step::Hold => None,
        Step::Stop { .. } => Some(Pending { doing: Doing::Stopping, ..pending.clone() }),
        Step::Wait | Step::Start { .. } | Step::Join { .. } | Step::Leave { .. } => {
            Some(pending.clone())
        }
    };
    let changed = if pending.is_none() { Some(seen.at) } else { memory.changed };
    let memory = Memory { high_looks: 0, low_looks: 0, changed, pending };
    Decision { step, why: vec![why], memory }
}

fn stop(pending: &Pending, why: Stop) -> Step {
    Step::Stop { node: pending.node.clone(), why }
}

/// The next step of a node that somebody was about to start, and died.
fn begun(policy: &Policy, pending: &Pending, seen: &Seen) -> (Step, String) {
    let Pending { node, zone, .. } = pending;
    if seen.part(node).is_some() || seen.waiting.contains(node) {
        return started(policy, pending, seen);
    }
    let step = Step::Start { node: node.clone(), zone: zone.clone() };
    (step, format!("{node} was about to be started"))
}

/// The next step of a node that is to become a member.
fn started(policy: &Policy, pending: &Pending, seen: &Seen) -> (Step, String) {
    let node = &pending.node;
    match seen.part(node) {
        Some(Part::Joining) if !seen.nodes[node].is_up => {
            let text = format!("{node} joins, and is not up; kvctl cluster abort gives it up");
            (Step::Wait, text)
        }
        Some(Part::Joining) => (Step::Wait, format!("{node} joins: data moves to it")),
        Some(Part::Member) if seen.is_changing || !seen.is_done => {
            (Step::Wait, format!("{node} is a member; what others hold of its data goes"))
        }
        Some(Part::Member) => (Step::Hold, format!("{node} is a member, and all is done")),
        Some(Part::Leaving) => (Step::Hold, format!("{node} leaves already: somebody wants that")),
        None => to_be_joined(policy, pending, seen),
    }
}

fn to_be_joined(policy: &Policy, pending: &Pending, seen: &Seen) -> (Step, String) {
    let node = &pending.node;
    let waited = Duration::from_micros(seen.at.saturating_sub(pending.since));
    let patience = policy.commands.join_timeout;
    let is_refused = JOIN_TRIES <= pending.failures;
    match (seen.waiting.contains(node), obstacle(seen)) {
        _ if seen.layout < pending.layout => (Step::Wait, format!("{node} joins")),
        _ if is_refused => {
            let text = format!("{node} could not be let in, {JOIN_TRIES} times");
            (stop(pending, Stop::NeverJoined), text)
        }
        (true, None) if policy.max <= seen.members().count() => {
            let text = format!("{node} asks to join, at the maximum of {} members", policy.max);
            (stop(pending, Stop::NeverJoined), text)
        }
        (true, None) => {
            let (node, zone) = (node.clone(), pending.zone.clone());
            let text = format!("{node} asks to join");
            (Step::Join { node, zone }, text)
        }
        (true, Some(obstacle)) => (Step::Wait, format!("{node} asks to join, but {obstacle}")),
        (false, _) if patience <= waited => {
            let patience = human::duration(patience);
            let text = format!("{node} was started and has not asked to join within {patience}");
            (stop(pending, Stop::NeverJoined), text)
        }
        (false, _) => (Step::Wait, format!("{node} is started and has not asked to join yet")),
    }
}

/// The next step of a node that is to go.
fn leaving(pending: &Pending, seen: &Seen) -> (Step, String) {
    let node = &pending.node;
    let is_behind = seen.layout < pending.layout || seen.is_changing;
    match seen.part(node) {
        None => (stop(pending, Stop::Left), format!("{node} has left")),
        Some(Part::Leaving) => (Step::Wait, format!("{node} leaves: its data moves to others")),
        Some(Part::Member | Part::Joining) if is_behind => {
            (Step::Wait, format!("{node} is to leave"))
        }
        Some(Part::Member | Part::Joining) => {
            (Step::Hold, format!("{node} is to leave no more: that was not committed, or given up"))
        }
    }
}

/// The next step of a node that is to be stopped: a member never is.
fn stopping(pending: &Pending, seen: &Seen) -> (Step, String) {
    let node = &pending.node;
    match seen.part(node) {
        None => (stop(pending, Stop::Left), format!("{node} is no member")),
        Some(Part::Member | Part::Joining | Part::Leaving) => {
            (Step::Hold, format!("{node} is a member after all, and is not stopped"))
        }
    }
}

/// What speaks against any change now.
fn obstacle(seen: &Seen) -> Option<String> {
    let down: Vec<&str> =
        seen.nodes.iter().filter(|(_, node)| !node.is_up).map(|(name, _)| name.as_str()).collect();
    if !down.is_empty() {
        return Some(format!("{} is not up", down.join(", ")));
    }
    if seen.is_changing {
        return Some("a change of the layout runs".to_owned());
    }
    let leaving = seen.nodes.iter().find(|(_, node)| node.part == Part::Leaving);
    if let Some((name, _)) = leaving {
        return Some(format!("{name} leaves"));
    }
    if !seen.is_done {
        return Some("data of the last change still moves".to_owned());
    }
    (!seen.staged.is_empty()).then(|| format!("it is staged that {}", seen.staged.join(", ")))
}

/// Nothing is under way: whether something should be.
fn begin(policy: &Policy, memory: &Memory, seen: &Seen) -> Decision {
    let hold = |why: Vec<String>, (high_looks, low_looks): (u32, u32)| Decision {
        step: Step::Hold,
        why,
        memory: Memory { high_looks, low_looks, ..memory.clone() },
    };
    if let Some(obstacle) = obstacle(seen) {
        return hold(vec![obstacle], (0, 0));
    }
    let members = seen.members().count();
    if members < policy.min {
        let mut why = vec![format!("{members} members, fewer than {}", policy.min)];
        return match resting(policy.out, policy.out.looks, memory, seen) {
            None => start(policy, memory, seen, why),
            Some(rest) => {
                why.push(rest);
                hold(why, (0, 0))
            }
        };
    }
    match judge(policy, seen) {
        Judgement::Unknown(why) => hold(vec![why], (0, 0)),
        Judgement::Hot(why) | Judgement::Between(why) => hold(why, (0, 0)),
        Judgement::High(mut why) => {
            let looks = memory.high_looks.saturating_add(1);
            let most = policy.max;
            let full = (most <= members).then(|| format!("at the maximum of {most} members"));
            match full.or_else(|| resting(policy.out, looks, memory, seen)) {
                None => start(policy, memory, seen, why),
                Some(rest) => {
                    why.push(rest);
                    hold(why, (looks, 0))
                }
            }
        }
        Judgement::Low(mut why) => {
            let looks = memory.low_looks.saturating_add(1);
            match to_drain(policy, seen, looks, memory) {
                Ok(node) => leave(&node, memory, seen, why),
                Err(rest) => {
                    why.push(rest);
                    hold(why, (0, looks))
                }
            }
        }
    }
}

/// Why a change must wait though it is asked for.
fn resting(patience: Patience, looks: u32, memory: &Memory, seen: &Seen) -> Option<String> {
    if looks < patience.looks {
        return Some(format!("{looks} of {} looks", patience.looks));
    }
    let since = Duration::from_micros(seen.at.saturating_sub(memory.changed?));
    let left = patience.cooldown.checked_sub(since).filter(|left| !left.is_zero())?;
    Some(format!("the last change was {} ago, {} to wait", shown(since), shown(left)))
}

fn shown(span: Duration) -> String {
    human::duration(span)
}

/// Starts the node with the first free name.
fn start(policy: &Policy, memory: &Memory, seen: &Seen, mut why: Vec<String>) -> Decision {
    let is_free = |name: &String| !seen.nodes.contains_key(name) && !seen.waiting.contains(name);
    let Some(node) = policy.names.all().find(is_free) else {
        why.push("no name is left for a node".to_owned());
        return Decision { step: Step::Hold, why, memory: memory.clone() };
    };
    let zone = zone_for_one_more(policy, seen);
    let pending = Pending {
        node: node.clone(),
        zone: zone.clone(),
        doing: Doing::Starting,
        since: seen.at,
        layout: 0,
        failures: 0,
    };
    let step = Step::Start { node, zone };
    Decision { step, why, memory: beginning(pending, memory) }
}

fn leave(node: &str, memory: &Memory, seen: &Seen, why: Vec<String>) -> Decision {
    let node = node.to_owned();
    let pending = Pending {
        node: node.clone(),
        zone: String::new(),
        doing: Doing::Leaving,
        since: seen.at,
        // Until it is committed the members know of nothing.
        layout: seen.layout,
        failures: 0,
    };
    Decision { step: Step::Leave { node }, why, memory: beginning(pending, memory) }
}

fn beginning(pending: Pending, memory: &Memory) -> Memory {
    Memory { high_looks: 0, low_looks: 0, changed: memory.changed, pending: Some(pending) }
}

/// Members of each zone.
fn by_zone(seen: &Seen) -> BTreeMap<&str, usize> {
    let mut count = BTreeMap::new();
    for (_, node) in seen.members() {
        *count.entry(node.zone.as_str()).or_default() += 1;
    }
    count
}

/// The zone with the fewest members; of several the first.
fn zone_for_one_more(policy: &Policy, seen: &Seen) -> String {
    let count = by_zone(seen);
    let members = |zone: &&str| count.get(zone).copied().unwrap_or(0);
    let zones: Vec<&str> = match policy.zones.as_slice() {
        [] => count.keys().copied().collect(),
        zones => zones.iter().map(String::as_str).collect(),
    };
    zones.into_iter().min_by_key(members).unwrap_or_default().to_owned()
}

/// The member that goes first: of those that were started by this policy's names one of the fullest zone, and of these
/// the last by its number. Or why nobody goes.
fn to_drain(policy: &Policy, seen: &Seen, looks: u32, memory: &Memory) -> Result<String, String> {
    let members = seen.members().count();
    if members <= policy.min {
        return Err(format!("at the minimum of {} members", policy.min));
    }
    if members <= seen.n {
        return Err(format!("each key is to have {} replicas", seen.n));
    }
    let zones = by_zone(seen);
    let rank = |(name, node): (&String, &super::seen::SeenNode)| {
        let number = policy.names.number(name)?;
        Some((zones.get(node.zone.as_str()).copied().unwrap_or(0), number, name.clone()))
    };
    let Some((_, _, node)) = seen.members().filter_map(rank).max() else {
        return Err("no member has a name of this policy".to_owned());
    };
    if let Some(rest) = resting(policy.back, looks, memory, seen) {
        return Err(rest);
    }
    if 0 < seen.hints {
        return Err(format!("{} hints are held for others", seen.hints));
    }
    match seen.refilling.as_slice() {
        [] => Ok(node),
        refilling => Err(format!("{} gets lost data back", refilling.join(", "))),
    }
}
