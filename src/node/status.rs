//! What this node tells about itself, its layout, and its view of the cluster.

use xxhash_rust::xxh3::Xxh3Default;

use crate::cluster::membership::Health;
use crate::cluster::{Addresses, Time};
use crate::node_id::NodeId;
use crate::ring::Slot;
use crate::wire::client::{
    ErrorCode, Info, LayoutReply, MemberHealth, MemberView, RepairPair, RepairReply, Reply,
    ReplyBody, Request, RequestBody, View,
};

use super::calls::Origin;
use super::clients::slots_of;
use super::core::{Core, Parked};
use super::event::Effect;
use super::keys;
use super::replies::error_reply;

impl Core {
    /// Tells a caller on the address for nodes who is there, and nothing else.
    pub fn tell_view(&self, now: Time, request: &Request) -> Reply {
        let body = if request.body == RequestBody::View {
            self.view_reply()
        } else {
            let text = "this address is for nodes; clients have another one".to_owned();
            error_reply(ErrorCode::Usage, text)
        };
        Reply { id: request.id, sent: now.monotonic, layout: self.layout.version, body }
    }

    pub(super) fn layout_reply(&self) -> ReplyBody {
        let clients = self.layout.members().filter_map(|member| {
            let address = self.addresses_of(member.id).client;
            (!address.is_empty()).then_some((member.id, address))
        });
        ReplyBody::Layout(LayoutReply {
            cluster: self.config.identity.cluster,
            cluster_name: self.config.identity.cluster_name.clone(),
            layout: (*self.layout).clone(),
            clients: clients.collect(),
            pair_max: self.config.pair_max,
            former: self.names.known().clone(),
        })
    }

    pub(super) fn view_reply(&self) -> ReplyBody {
        ReplyBody::View(View {
            node: self.me,
            cluster: self.config.identity.cluster,
            cluster_name: self.config.identity.cluster_name.clone(),
            layout: (*self.layout).clone(),
            members: self.layout.members().map(|member| self.member_view(member.id)).collect(),
            alarms: self.figures.alarms(),
            change: self.changing(),
        })
    }

    pub(super) fn info_reply(&mut self) -> ReplyBody {
        let stats = self.store.stats();
        let mut counters = self.figures.counters.by_name();
        let of_store = [
            ("log_syncs", stats.fsyncs),
            ("flushes", stats.flushes),
            ("compactions", stats.compactions),
            ("cache_hits", stats.cache_hits),
            ("cache_misses", stats.cache_misses),
        ];
        counters.extend(of_store.map(|(name, count)| (name.to_owned(), count)));
        ReplyBody::Info(Box::new(Info {
            node: self.me,
            name: self.config.identity.name.clone(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            uptime: self.micros_since(self.started),
            sync: stats.sync.to_string(),
            keys: self.store.keys_estimate(keys::DATA),
            data: stats.table_bytes + stats.log_bytes,
            hints: self.hints.held().map(|(_, count)| count).sum(),
            hints_for: self.hints.held().collect(),
            disk: (self.config.disk_space)(),
            get_p99: self.figures.gets.p99(self.now),
            put_p99: self.figures.puts.p99(self.now),
            get_durations: self.figures.get_durations.told(),
            put_durations: self.figures.put_durations.told(),
            counters,
            epoch: self.lineage.actor().epoch.counter,
            actor: Some(self.lineage.actor()),
            is_settled: self.lineage.is_settled(),
            moving: self.moving(),
            load: self.told_load(),
        }))
    }

    /// Replies with 64 bits a partition over its slots' leaves, once what they speak of is durable.
    pub(super) fn leaves(&mut self, origin: Origin, effects: &mut Vec<Effect>) {
        let q = self.layout.now.q;
        let bits = |partition| {
            let (first, last) = slots_of(partition, q);
            let mut hasher = Xxh3Default::new();
            for slot in first.0..=last.0 {
                hasher.update(&self.store.leaf(slot).to_le_bytes());
                // What is unknown differs from everything.
                if self.is_unsound(Slot(slot)) {
                    hasher.update(self.me.as_bytes());
                }
            }
            hasher.digest()
        };
        let body = ReplyBody::Leaves((0..q).map(bits).collect());
        let position = self.store.appended();
        self.once_durable(position, Parked::Reply { origin, body }, effects);
    }

    pub(super) fn repair_reply(&self) -> ReplyBody {
        let pairs = self.anti_entropy.progress().map(|(peer, shared, progress)| RepairPair {
            peer,
            shared,
            left: progress.slots_left,
            is_running: progress.is_running,
            equal: progress.equal_at.map(|at| self.micros_since(at)),
        });
        let unsound = u32::try_from(self.refilling.len()).unwrap_or(u32::MAX);
        ReplyBody::Repair(RepairReply { pairs: pairs.collect(), unsound })
    }

    fn member_view(&self, node: NodeId) -> MemberView {
        let entry = self.membership.entry(node);
        let Addresses { peer, client, http } = self.addresses_of(node);
        let (health, since) = match self.membership.health(node) {
            Health::Unknown => (MemberHealth::Unknown, self.started),
            Health::Up => (MemberHealth::Up, self.healthy_since(node)),
            Health::Suspected => (MemberHealth::Suspected, self.healthy_since(node)),
            Health::Down { since } => (MemberHealth::Down, since),
        };
        MemberView {
            node,
            health,
            reachable: node == self.me || self.peers.is_connected(node),
            since: self.micros_since(since),
            incarnation: self.latest_start(node).0,
            layout: entry.map_or(0, |entry| entry.layout.version),
            peer,
            client,
            http,
        }
    }

    fn healthy_since(&self, node: NodeId) -> Time {
        self.health_since.get(&node).copied().unwrap_or(self.started)
    }

    fn addresses_of(&self, node: NodeId) -> Addresses {
        let gossiped = self.membership.addresses(node).cloned();
        gossiped.or_else(|| self.addresses.get(&node).cloned()).unwrap_or_default()
    }
}
