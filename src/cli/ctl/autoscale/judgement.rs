//! What the nodes' loads say, held against a policy's marks. Pure.
//!
//! One node above a high mark asks for more nodes: load is spread unevenly, and the busiest one is who answers late.
//! Fewer nodes would do only where every node is below every low mark, and would stay within every high mark with one
//! less to share the work. A node that one key alone keeps above a mark is helped by no further node.

use super::policy::{Marks, Policy, Signal};
use super::seen::{NodeLoad, Seen};

/// What is said of a cluster's load.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Judgement {
    /// More nodes are asked for.
    High(Vec<String>),
    /// Nodes are above a mark, and more nodes would not change that.
    Hot(Vec<String>),
    /// Fewer nodes would do.
    Low(Vec<String>),
    /// All is as it should be.
    Between(Vec<String>),
    /// Somebody does not tell.
    Unknown(String),
}

/// Judges the members' loads.
pub(super) fn judge(policy: &Policy, seen: &Seen) -> Judgement {
    let mut loads: Vec<(&str, &NodeLoad)> = Vec::new();
    for (name, node) in seen.members() {
        let Some(load) = &node.load else {
            return Judgement::Unknown(format!("{name} tells no load yet"));
        };
        loads.push((name, load));
    }
    let above = above(policy, &loads);
    if above.is_empty() {
        let (low, why_not) = below(policy, &loads);
        return if why_not.is_empty() { Judgement::Low(low) } else { Judgement::Between(why_not) };
    }
    let is_helped = above.iter().any(|above| !above.is_hot);
    let asking = above.iter().filter(|above| above.is_hot != is_helped);
    let mut why: Vec<String> = asking.map(|above| above.told.clone()).collect();
    for key in above.into_iter().flat_map(|above| above.hot) {
        if !why.contains(&key) {
            why.push(key);
        }
    }
    if is_helped { Judgement::High(why) } else { Judgement::Hot(why) }
}

/// A signal with nodes above its high mark.
struct Above {
    told: String,
    /// Whether each of those nodes is there by one key.
    is_hot: bool,
    /// The keys that stand out on them.
    hot: Vec<String>,
}

fn above(policy: &Policy, loads: &[(&str, &NodeLoad)]) -> Vec<Above> {
    let of_signal = |(signal, marks): &(Signal, Marks)| {
        let is_above = |load: &NodeLoad| marks.high < load.value(*signal);
        let above: Vec<_> = loads.iter().filter(|(_, load)| is_above(load)).copied().collect();
        let highest = highest(*signal, above.iter().copied())?;
        let others = match above.len() {
            1 => String::new(),
            count => format!(" ({} of {} nodes)", count, loads.len()),
        };
        let (name, value) = (highest.0, signal.shown(highest.1.value(*signal)));
        Some(Above {
            told: format!("{signal} of {name} {value}, above {}{others}", signal.shown(marks.high)),
            is_hot: above.iter().all(|(_, load)| is_by_one_key(*signal, *marks, load)),
            hot: above
                .iter()
                .filter(|(_, load)| {
                    has_hot_key(policy, load) || is_by_one_key(*signal, *marks, load)
                })
                .filter_map(|(name, load)| told_hot(name, load))
                .collect(),
        })
    };
    policy.targets.iter().filter_map(of_signal).collect()
}

/// Whether one key's part alone keeps a node above a mark: what a further node could take over is all the rest.
fn is_by_one_key(signal: Signal, marks: Marks, load: &NodeLoad) -> bool {
    match signal {
        Signal::Operations | Signal::Cpu => {
            let share = load.hottest.as_ref().map_or(0.0, |(_, share)| *share);
            marks.high < share * load.value(signal)
        }
        // How late the others are because of it, and what the disk holds, nobody knows by the key.
        Signal::P99 | Signal::Disk => false,
    }
}

/// Whether one key has so much of a node's operations that people should know.
fn has_hot_key(policy: &Policy, load: &NodeLoad) -> bool {
    load.hottest.as_ref().is_some_and(|(_, share)| policy.hot_share <= *share)
}

fn told_hot(name: &str, load: &NodeLoad) -> Option<String> {
    let (key, share) = load.hottest.as_ref()?;
    let percent = 100.0 * share;
    Some(format!(
        "the key {key} alone makes {percent:.0}% of the operations of {name}: more nodes do not help it"
    ))
}

/// What is told where all is low, and what speaks against calling it so.
fn below(policy: &Policy, loads: &[(&str, &NodeLoad)]) -> (Vec<String>, Vec<String>) {
    let (mut low, mut why_not) = (Vec::new(), Vec::new());
    #[expect(clippy::cast_precision_loss, reason = "members are few")]
    let count = loads.len() as f64;
    for (signal, marks) in &policy.targets {
        let Some((name, load)) = highest(*signal, loads.iter().copied()) else { continue };
        let value = load.value(*signal);
        if marks.low <= value {
            let (value, low) = (signal.shown(value), signal.shown(marks.low));
            why_not.push(format!("{signal} of {name} {value}, not below {low}"));
            continue;
        }
        let without = |load: &NodeLoad| load.value_without_one(*signal, count).unwrap_or(0.0);
        let most = loads.iter().map(|(_, load)| without(load)).fold(0.0, f64::max);
        if marks.high < most {
            let (most, high) = (signal.shown(most), signal.shown(marks.high));
            why_not.push(format!("{signal} would come to {most} with a node less, above {high}"));
        } else {
            let (value, low_mark) = (signal.shown(value), signal.shown(marks.low));
            low.push(format!("{signal} at most {value} ({name}), below {low_mark}"));
        }
    }
    (low, why_not)
}

fn highest<'a>(
    signal: Signal,
    loads: impl Iterator<Item = (&'a str, &'a NodeLoad)>,
) -> Option<(&'a str, &'a NodeLoad)> {
    loads.max_by(|left, right| left.1.value(signal).total_cmp(&right.1.value(signal)))
}
