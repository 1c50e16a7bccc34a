//! Disks that lose what they had synced: wiped ones, and rotten tables.

use kvkit::cluster::Incarnation;
use kvkit::node::{Caller, Effect, Event};
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

impl World {
    /// The machine dies and comes back with an empty disk; its identity is kept.
    pub fn wipe(&mut self, node: Node) {
        self.kill(node, Unsynced::Dropped);
        self.note(&format!("the disk of n{} is wiped", node + 1));
        self.ailing.insert(node);
        self.wiped.insert(node);
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
