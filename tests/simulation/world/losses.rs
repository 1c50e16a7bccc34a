//! Disks that lose what they had synced: wiped ones, rotten tables, and volumes that are put back as they were.

use kvkit::cluster::Incarnation;
use kvkit::cluster::start::Reached;
use kvkit::node::{Caller, Effect, Event, seen_of};
use kvkit::ring::Layout;
use kvkit::storage::vfs::simulated::{Disk, Unsynced};
use kvkit::wire::client::{ReplyBody, Request, RequestBody, View};
use rand::Rng;

use super::World;
use crate::network::Node;

/// Asks without the network.
const ASKER: Caller = Caller(u64::MAX);
/// Bytes that a scrub reads at most: more than a simulated disk holds.
const ALL_BYTES: u64 = 1 << 30;

/// A disk as it was, and how far its node had got.
#[derive(Debug)]
pub(super) struct Snapshot {
    disk: Disk,
    reached: Reached,
}

impl World {
    /// Remembers the disk of a running node as it is now.
    pub fn snapshot(&mut self, node: Node) {
        let Some(member) = self
            .view(node)
            .and_then(|view| view.members.into_iter().find(|member| member.node == self.id(node)))
        else {
            return;
        };
        let seed = self.rng.random();
        let Some(life) = &self.replicas[node].life else { return };
        let reached = Reached {
            count: Incarnation(member.incarnation),
            position: life.store.appended().get(),
        };
        let disk = self.replicas[node].disk.fork(seed);
        self.snapshots.insert(node, Snapshot { disk, reached });
        self.note(&format!("the disk of n{} is copied", node + 1));
    }

    /// Whether every other node durably saw the node get farther than its snapshot: what nobody saw cannot be noticed.
    pub fn would_notice(&self, node: Node) -> bool {
        let Some(Snapshot { reached, .. }) = self.snapshots.get(&node) else { return false };
        let mut others = (0..self.replicas.len()).filter(|other| *other != node);
        others.all(|other| {
            let Some(life) = &self.replicas[other].life else { return false };
            let is_durable = life.store.synced() == life.store.appended();
            is_durable
                && matches!(seen_of(&life.store, self.id(node)), Ok(Some(seen)) if *reached < seen)
        })
    }

    /// The machine dies, and comes back with its disk as it was.
    pub fn roll_back(&mut self, node: Node) {
        let Some(Snapshot { disk, .. }) = self.snapshots.remove(&node) else { return };
        self.kill(node, Unsynced::Dropped);
        self.note(&format!("the disk of n{} is rolled back", node + 1));
        self.replicas[node].disk = disk;
        self.rolled_back.insert(node);
    }

    /// A node gives its disk up, rolled back or with its own records damaged: what the runtime does then.
    pub(super) fn noticed_rollback(&mut self, node: Node, text: &str) {
        self.note(&format!("n{} gives its disk up: {text}", node + 1));
        if !self.rolled_back.remove(&node) && !self.ailing.contains(&node) {
            self.witness.alarm(format!("n{}, whose disk is as it was: {text}", node + 1));
        }
        self.wipe(node);
    }

    /// The machine dies and comes back with an empty disk; its identity is kept.
    pub fn wipe(&mut self, node: Node) {
        self.kill(node, Unsynced::Dropped);
        self.note(&format!("the disk of n{} is wiped", node + 1));
        self.ailing.insert(node);
        self.wiped.insert(node);
        // Nothing is left that could be noticed.
        self.rolled_back.remove(&node);
        let disk = Disk::new(self.rng.random());
        self.disks_gone.push(std::mem::replace(&mut self.replicas[node].disk, disk));
    }

    /// One bit of a table flips; whether there was one.
    pub fn rot(&mut self, node: Node, table: u64, place: u64) -> bool {
        let disk = &self.replicas[node].disk;
        let is_table = |path: &std::path::Path| path.extension().is_some_and(|end| end == "sst");
        let tables: Vec<_> = disk
            .files()
            .into_iter()
            .filter(|(path, length)| is_table(path) && *length > 0)
            .collect();
        let Some(count) = u64::try_from(tables.len()).ok().filter(|count| *count > 0) else {
            return false;
        };
        let (path, length) = &tables[usize::try_from(table % count).expect("few")];
        let bit = u8::try_from(place % 8).expect("below 8");
        disk.flip_bit(path, place / 8 % length, bit).expect("a byte of a table");
        let text = format!("n{}: bit {bit} of {} flips", node + 1, path.display());
        self.ailing.insert(node);
        self.note(&text);
        true
    }

    /// What the runtime's scrub does over hours.
    pub fn scrub(&mut self, node: Node) {
        if let Some(life) =
            self.replicas[node].life.as_ref().filter(|_| self.ailing.contains(&node))
        {
            life.store.scrub(ALL_BYTES);
        }
    }

    /// A node's own view, asked for without the network.
    pub fn view(&mut self, node: Node) -> Option<View> {
        let time = self.replicas[node].time(self.now);
        let life = self.replicas[node].life.as_mut()?;
        let request = Request { id: 0, deadline: 0, body: RequestBody::View };
        let mut effects = Vec::new();
        life.core.handle(time, Event::Client { caller: ASKER, request }, &mut effects);
        let mut view = None;
        for effect in effects {
            match effect {
                Effect::Reply { caller: ASKER, reply } => match reply.body {
                    ReplyBody::View(told) => view = Some(told),
                    // It is stopping.
                    ReplyBody::Error(_) => {}
                    other => panic!("a view was asked for: {other:?}"),
                },
                other => self.carry_out(node, other),
            }
        }
        view
    }

    /// The latest layout and the latest start of this node, as a majority of the others tells them (what the runtime's
    /// bootstrap asks for); none where too few can be asked.
    pub(super) fn told_by_others(&mut self, node: Node) -> Option<(Layout, Incarnation)> {
        let others: Vec<Node> = (0..self.replicas.len())
            .filter(|other| *other != node && !self.is_paused(*other))
            .filter(|other| self.network.is_open(node, *other))
            .collect();
        let views: Vec<View> = others.into_iter().filter_map(|other| self.view(other)).collect();
        let members = self.replicas.len();
        if views.len() < (members / 2 + 1).min(members - 1) {
            return None;
        }
        let me = self.id(node);
        let starts = views.iter().flat_map(|view| &view.members).filter(|member| member.node == me);
        let last = starts.map(|member| member.incarnation).max().unwrap_or(0);
        let layouts = views.into_iter().map(|view| view.layout);
        let latest = layouts.max_by_key(|layout| (layout.generation, layout.version))?;
        Some((latest, Incarnation(last)))
    }
}
