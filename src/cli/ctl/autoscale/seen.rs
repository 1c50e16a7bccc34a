//! What one look shows of a cluster: all that a decision goes by.

use std::collections::{BTreeMap, BTreeSet};

use futures_util::future::join_all;

use crate::cli::connect::Session;
use crate::cli::ctl::cluster::{is_done, overview, told};
use crate::cli::ctl::hotkeys;
use crate::cli::ctl::status::Sight;
use crate::cli::failure::Failure;
use crate::cli::human;
use crate::node_id::NodeId;
use crate::ring::{Layout, Weight};
use crate::wire::client::{HotKeysReply, Info, ReplyBody, RequestBody};

use super::policy::Signal;

/// Characters of a key that an explanation shows.
const KEY_CHARACTERS_MAX: usize = 40;
/// Shortest time that a node must have counted for, microseconds.
const WINDOW_MIN: u64 = 1_000_000;

/// A cluster at one moment.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Seen {
    /// When, microseconds since the Unix epoch.
    pub(super) at: u64,
    /// The layout version in force.
    pub(super) layout: u64,
    /// Replicas that a key is to have.
    pub(super) n: usize,
    /// Whether a change of the layout runs.
    pub(super) is_changing: bool,
    /// Whether nothing of any change is left to do.
    pub(super) is_done: bool,
    /// Hints that nodes hold for others.
    pub(super) hints: u64,
    /// Members that lost data and are getting it back.
    pub(super) refilling: Vec<String>,
    /// What operators have staged.
    pub(super) staged: Vec<String>,
    /// Nodes that wait to join.
    pub(super) waiting: BTreeSet<String>,
    /// All members, of both rings where a change runs.
    pub(super) nodes: BTreeMap<String, SeenNode>,
}

/// One member.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct SeenNode {
    pub(super) zone: String,
    pub(super) part: Part,
    pub(super) is_up: bool,
    /// What it has to do; `None` where it does not tell, or not yet.
    pub(super) load: Option<NodeLoad>,
}

/// What a member has to do with the layout.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Part {
    /// It is one, and stays.
    Member,
    /// It becomes one by the change that runs.
    Joining,
    /// It gives its share away, or has.
    Leaving,
}

/// What a node has to do.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct NodeLoad {
    /// Gets and puts a second.
    pub(super) operations: f64,
    /// Processors that it keeps busy.
    pub(super) cpu: f64,
    /// Microseconds; 0 without any request.
    pub(super) p99: f64,
    /// Bytes of the disk that are used, by whomever.
    pub(super) disk_used: f64,
    /// Bytes of the disk.
    pub(super) disk_total: f64,
    /// Bytes of the node's data.
    pub(super) data: f64,
    /// The key with most of its operations, and with which part of them.
    pub(super) hottest: Option<(String, f64)>,
}

impl Seen {
    /// Looks at a cluster.
    /// # Errors
    /// Those of reaching it.
    pub(super) async fn take(session: &Session) -> Result<(Sight, Self), Failure> {
        let sight = Sight::take(session).await?;
        let (waiting, staged) = overview(session, &sight).await?;
        let hot = hotkeys::ask(session, &sight).await;
        let refilling = refilling(session, &sight).await;
        let layout = &sight.view.layout;
        let seen = Self {
            at: human::now(),
            layout: layout.version,
            n: layout.now.n.into(),
            is_changing: layout.next.is_some(),
            is_done: is_done(&sight, layout.version),
            hints: sight.infos.values().map(|info| info.hints).sum(),
            refilling: names(layout, refilling),
            staged: staged.iter().map(|change| told(change, layout)).collect(),
            waiting: waiting.into_iter().collect(),
            nodes: nodes(&sight, &hot),
        };
        Ok((sight, seen))
    }

    /// Members that stay.
    pub(super) fn members(&self) -> impl Iterator<Item = (&String, &SeenNode)> {
        self.nodes.iter().filter(|(_, node)| node.part == Part::Member)
    }

    /// What part a node has; `None` where it is no member of anything.
    pub(super) fn part(&self, name: &str) -> Option<Part> {
        self.nodes.get(name).map(|node| node.part)
    }
}

impl NodeLoad {
    /// A signal's value.
    pub(super) fn value(&self, signal: Signal) -> f64 {
        match signal {
            Signal::Operations => self.operations,
            Signal::Cpu => self.cpu,
            Signal::P99 => self.p99,
            Signal::Disk => part_of(self.disk_used, self.disk_total),
        }
    }

    /// What a signal's value is to be expected at once one of `nodes` is gone, which share its work evenly; `None`
    /// where nobody can tell.
    pub(super) fn value_without_one(&self, signal: Signal, nodes: f64) -> Option<f64> {
        if nodes <= 1.0 {
            return None;
        }
        match signal {
            Signal::Operations | Signal::Cpu => Some(self.value(signal) * nodes / (nodes - 1.0)),
            Signal::P99 => None,
            Signal::Disk => {
                Some(part_of(self.disk_used + self.data / (nodes - 1.0), self.disk_total))
            }
        }
    }
}

fn part_of(part: f64, whole: f64) -> f64 {
    if 0.0 < whole { part / whole } else { 0.0 }
}

/// Members that lost data and are getting it back.
async fn refilling(session: &Session, sight: &Sight) -> Vec<NodeId> {
    let asked = sight.infos.keys().map(|node| async move {
        match session.call(Some(*node), RequestBody::RepairStatus).await {
            Ok(ReplyBody::Repair(reply)) => (0 < reply.unsound).then_some(*node),
            // It is seen to be away otherwise.
            Ok(_) | Err(_) => None,
        }
    });
    join_all(asked).await.into_iter().flatten().collect()
}

fn names(layout: &Layout, nodes: Vec<NodeId>) -> Vec<String> {
    let name = |node| layout.member(node).map(|member| member.name.clone());
    nodes.into_iter().filter_map(name).collect()
}

fn nodes(sight: &Sight, hot: &BTreeMap<NodeId, HotKeysReply>) -> BTreeMap<String, SeenNode> {
    let layout = &sight.view.layout;
    let node = |member: &crate::ring::Member| {
        let load = sight.infos.get(&member.id).and_then(|info| load(info, hot.get(&member.id)));
        let is_up = sight.is_up(member.id);
        let part = part(layout, member.id);
        (member.name.clone(), SeenNode { zone: member.zone.clone(), part, is_up, load })
    };
    layout.members().map(node).collect()
}

fn part(layout: &Layout, node: NodeId) -> Part {
    let has_share = |ring: &crate::ring::Ring| {
        ring.member(node).is_some_and(|member| Weight::ZERO < member.weight)
    };
    match (layout.now.member(node), &layout.next) {
        (None, _) => Part::Joining,
        (Some(_), Some(next)) if has_share(next) => Part::Member,
        (Some(_), None) if has_share(&layout.now) => Part::Member,
        (Some(_), _) => Part::Leaving,
    }
}

#[expect(clippy::cast_precision_loss, reason = "marks are not that fine")]
fn load(info: &Info, hot: Option<&HotKeysReply>) -> Option<NodeLoad> {
    let load = info.load;
    if load.window < WINDOW_MIN {
        return None;
    }
    let (free, total) = info.disk;
    let hottest = hotkeys::hottest(hot).into_iter().next();
    Some(NodeLoad {
        operations: hotkeys::per_second(load.gets + load.puts, load.window),
        cpu: load.cpu as f64 / load.window as f64,
        p99: info.get_p99.max(info.put_p99).unwrap_or(0) as f64,
        disk_used: total.saturating_sub(free) as f64,
        disk_total: total as f64,
        data: info.data as f64,
        hottest: hottest.map(|key| (key.shown(KEY_CHARACTERS_MAX), key.share)),
    })
}
