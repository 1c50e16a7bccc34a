//! Who is let in: the first exchange on a connection, from both sides.

use crate::cluster::admission::{self, Known, Refusal};
use crate::cluster::{Incarnation, LayoutTag, Start, Time};
use crate::node_id::{ClusterId, NodeId};
use crate::ring::LayoutHash;
use crate::wire::handshake::{Hello, PROTOCOL, RefusalCode, Role, Welcome};

use super::core::Core;

/// Gossip intervals within which a heartbeat follows a greeting, or the peer is down by any measure.
const GREETING_INTERVALS: u32 = 5;

/// Why a dialled peer is not one.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum WelcomeError {
    /// It refused.
    #[error("refused: {reason}")]
    Refused {
        /// For programs.
        code: RefusalCode,
        /// Its words.
        reason: String,
    },
    /// What answered is none of ours.
    #[error(transparent)]
    NotOurs(#[from] Refusal),
    /// It speaks another protocol than was offered.
    #[error("protocol {0} was not offered")]
    Protocol(u16),
}

impl Core {
    /// What this node says when it dials a peer.
    pub fn hello(&self, now: Time) -> Hello {
        let own = self.own_hello();
        Hello {
            protocol_min: PROTOCOL.0,
            protocol_max: PROTOCOL.1,
            features: Vec::new(),
            role: Role::Peer {
                cluster: own.cluster,
                node: self.me,
                name: self.config.identity.name.clone(),
                incarnation: own.start.count.0,
                nonce: own.start.nonce,
                layout: self.layout.version,
                generation: self.layout.generation,
                address: self.config.addresses.peer.clone(),
            },
            sent: now.monotonic,
        }
    }

    /// What this node answers to a caller: a peer is let in where it has a place in the cluster, a client always.
    pub fn admit(&mut self, now: Time, hello: &Hello) -> Welcome {
        let protocol = PROTOCOL.1.min(hello.protocol_max);
        if protocol < PROTOCOL.0.max(hello.protocol_min) {
            let reason = format!(
                "no protocol in common: {} to {} here, {} to {} there",
                PROTOCOL.0, PROTOCOL.1, hello.protocol_min, hello.protocol_max
            );
            return Welcome::Refused { code: RefusalCode::Protocol, reason };
        }
        if let Role::Peer { cluster, node, name, incarnation, nonce, layout, generation, .. } =
            &hello.role
        {
            let start = Start { count: Incarnation(*incarnation), nonce: *nonce };
            let layout = (*layout != 0).then_some((*generation, *layout));
            if let Err(refusal) = self.check_peer(now, *cluster, *node, start, layout) {
                let reason = format!("{name}: {refusal}");
                return Welcome::Refused { code: code_of(&refusal), reason };
            }
            self.greeted.insert(*node, (start, now));
        }
        let own = self.own_hello();
        Welcome::Accepted {
            protocol,
            features: Vec::new(),
            cluster: own.cluster,
            node: self.me,
            name: self.config.identity.name.clone(),
            incarnation: own.start.count.0,
            nonce: own.start.nonce,
            layout: self.layout.version,
            sent: now.monotonic,
        }
    }

    /// Checks what a dialled peer answered, and says who it is.
    /// # Errors
    /// [`WelcomeError`]: the connection is to be closed.
    pub fn welcomed(&mut self, welcome: &Welcome) -> Result<NodeId, WelcomeError> {
        match welcome {
            Welcome::Refused { code, reason } => {
                Err(WelcomeError::Refused { code: *code, reason: reason.clone() })
            }
            Welcome::Accepted { protocol, cluster, node, incarnation, nonce, layout, .. } => {
                if !(PROTOCOL.0..=PROTOCOL.1).contains(protocol) {
                    return Err(WelcomeError::Protocol(*protocol));
                }
                let start = Start { count: Incarnation(*incarnation), nonce: *nonce };
                // It let this node in, so the generations agree.
                let layout = Some((self.layout.generation, *layout));
                self.check_peer(self.now, *cluster, *node, start, layout)?;
                Ok(*node)
            }
        }
    }

    fn check_peer(
        &self,
        now: Time,
        cluster: ClusterId,
        node: NodeId,
        start: Start,
        layout: Option<(u64, u64)>,
    ) -> Result<(), Refusal> {
        // A handshake carries no hash of the layout: gossip compares those.
        let tag = |(generation, version)| LayoutTag { generation, version, hash: LayoutHash(0) };
        let hello = admission::Hello { cluster, node, start, layout: layout.map(tag) };
        let heard = self.membership.entry(node).map(|entry| entry.start);
        let living = heard.filter(|_| self.membership.is_up(node)).into_iter();
        let living = living.chain(self.greeted_lately(now, node)).max_by_key(|start| start.count);
        let known = Known {
            own: self.own_hello(),
            layout: &self.layout,
            recovery: self.register.recovery().map(|layout| &**layout),
            start: living.or(heard),
            is_up: living.is_some(),
        };
        admission::check(&hello, &known)
    }

    /// The start of `node` that was let in and may not have been heard of since: it counts as living, or a copy of its
    /// directory would pass for its next life until the first heartbeat comes.
    fn greeted_lately(&self, now: Time, node: NodeId) -> Option<Start> {
        let (start, at) = self.greeted.get(&node)?;
        (now.since(*at) < GREETING_INTERVALS * self.config.gossip_interval).then_some(*start)
    }

    fn own_hello(&self) -> admission::Hello {
        admission::Hello {
            cluster: self.config.identity.cluster,
            node: self.me,
            start: self.start,
            layout: Some(self.tag),
        }
    }
}

const fn code_of(refusal: &Refusal) -> RefusalCode {
    match refusal {
        Refusal::WrongCluster { .. } | Refusal::Recovered { .. } => RefusalCode::WrongCluster,
        Refusal::Itself => RefusalCode::Itself,
        Refusal::CopiedIdentity { .. } => RefusalCode::CopiedIdentity,
        Refusal::OlderIncarnation { .. } => RefusalCode::OldIncarnation,
        Refusal::Removed { .. } | Refusal::LeftBehind { .. } => RefusalCode::RemovedMember,
        Refusal::NotYetKnown { .. } | Refusal::Joining { .. } => RefusalCode::NotAMember,
    }
}
