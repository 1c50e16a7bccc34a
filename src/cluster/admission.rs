//! Whether a peer that says hello may take part.
//!
//! A pure function of what the peer says and what this node knows: the handshake asks it before anything else is read
//! from a connection, and tells both sides what it says.

use crate::node_id::{ClusterId, NodeId};
use crate::ring::Layout;

use super::{Incarnation, LayoutTag, Start};

/// What a peer says of itself as it connects.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Hello {
    /// The cluster it belongs to.
    pub cluster: ClusterId,
    /// Its id.
    pub node: NodeId,
    /// Its present start.
    pub start: Start,
    /// The layout it acts on; `None` before it took any, as a node that wants to join.
    pub layout: Option<LayoutTag>,
}

/// What this node knows when it answers a hello.
#[derive(Clone, Copy, Debug)]
pub struct Known<'a> {
    /// This node's own hello.
    pub own: Hello,
    /// The layout it acts on.
    pub layout: &'a Layout,
    /// The recovery that it accepted and does not act on yet.
    pub recovery: Option<&'a Layout>,
    /// The freshest start known of the peer, from gossip.
    pub start: Option<Start>,
    /// Whether that start lives ([`Membership::is_up`](super::membership::Membership::is_up)).
    pub is_up: bool,
}

/// Why a peer may not take part. Both sides report it; `kvnode` exits with the code of `UI.md`.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// It belongs elsewhere.
    #[error("wrong cluster: {theirs} instead of {ours}")]
    WrongCluster {
        /// The peer's.
        theirs: ClusterId,
        /// This node's.
        ours: ClusterId,
    },
    /// A recovery after the loss of a majority left the peer behind.
    #[error(
        "left behind: the cluster was recovered without node {node} (layout generation {ours}, it brings {theirs}); its directory must be wiped before it can join anew"
    )]
    LeftBehind {
        /// The id.
        node: NodeId,
        /// The generation that it brings.
        theirs: u64,
        /// This node's.
        ours: u64,
    },
    /// A recovery after the loss of a majority left this node behind.
    #[error(
        "layout generation {theirs} instead of {ours}: the cluster was recovered without the node that was called"
    )]
    Recovered {
        /// The peer's.
        theirs: u64,
        /// This node's.
        ours: u64,
    },
    /// The connection leads back to this node.
    #[error("this is the node itself")]
    Itself,
    /// Two directories hold one id, at the same start.
    #[error("copied identity: node {node} is already known at start {} from another directory", .count.0)]
    CopiedIdentity {
        /// The id.
        node: NodeId,
        /// The start that both claim.
        count: Incarnation,
    },
    /// A later start of the same node lives.
    #[error("older incarnation: node {node} says start {}, but start {} of it lives", .theirs.0, .known.0)]
    OlderIncarnation {
        /// The id.
        node: NodeId,
        /// The start it says it is.
        theirs: Incarnation,
        /// The start that lives.
        known: Incarnation,
    },
    /// It was a member once.
    #[error(
        "removed member: node {node} is not in layout {version}; its directory must be wiped before it can join anew"
    )]
    Removed {
        /// The id.
        node: NodeId,
        /// The layout of this node.
        version: u64,
    },
    /// It acts on a newer layout than this node, which has to catch up first.
    #[error(
        "node {node} is not in layout {ours}, but brings layout {theirs}: try again once that is known here"
    )]
    NotYetKnown {
        /// The id.
        node: NodeId,
        /// The peer's version.
        theirs: u64,
        /// This node's version.
        ours: u64,
    },
    /// It wants to join.
    #[error("node {node} is no member yet: a layout with it has to be committed first")]
    Joining {
        /// The id.
        node: NodeId,
    },
}

impl Refusal {
    /// Whether a later try may be answered otherwise.
    pub const fn is_transient(&self) -> bool {
        match self {
            Self::NotYetKnown { .. } | Self::OlderIncarnation { .. } => true,
            Self::WrongCluster { .. }
            | Self::LeftBehind { .. }
            | Self::Recovered { .. }
            | Self::Itself
            | Self::CopiedIdentity { .. }
            | Self::Removed { .. }
            | Self::Joining { .. } => false,
        }
    }
}

/// Whether the peer that says `hello` may take part, by what is `known`.
/// # Errors
/// The first reason against it, the most telling first.
pub fn check(hello: &Hello, known: &Known<'_>) -> Result<(), Refusal> {
    let (node, own) = (hello.node, known.own);
    if hello.cluster != own.cluster {
        return Err(Refusal::WrongCluster { theirs: hello.cluster, ours: own.cluster });
    }
    if node == own.node {
        return Err(if hello.start == own.start {
            Refusal::Itself
        } else {
            Refusal::CopiedIdentity { node, count: hello.start.count }
        });
    }
    check_layout(hello, known)?;
    check_start(hello, known)
}

/// Whether the peer has a place in the layout in force, or in the recovery that was accepted here: who acts on that knows
/// that it was chosen. A survivor may not have heard that yet, and learns it here.
fn check_layout(hello: &Hello, known: &Known<'_>) -> Result<(), Refusal> {
    let (node, layout) = (hello.node, known.layout);
    let (ours, generation) = (layout.version, layout.generation);
    let is_survivor = |theirs: u64| {
        let recovery = known.recovery.filter(|recovery| recovery.generation == theirs);
        recovery.is_some_and(|recovery| recovery.member(node).is_some())
    };
    match (layout.member(node).is_some(), hello.layout) {
        (_, Some(tag)) if generation < tag.generation && is_survivor(tag.generation) => Ok(()),
        (_, Some(tag)) if generation < tag.generation => {
            Err(Refusal::Recovered { theirs: tag.generation, ours: generation })
        }
        (false, Some(tag)) if tag.generation < generation => {
            Err(Refusal::LeftBehind { node, theirs: tag.generation, ours: generation })
        }
        (true, _) => Ok(()),
        (false, Some(tag)) if ours < tag.version => {
            Err(Refusal::NotYetKnown { node, theirs: tag.version, ours })
        }
        (false, Some(_)) => Err(Refusal::Removed { node, version: ours }),
        (false, None) => Err(Refusal::Joining { node }),
    }
}

/// Whether the peer is the only living holder of its id. A start that no longer lives stands in nobody's way: the peer
/// learns of it by gossip and counts its own start up past it.
fn check_start(hello: &Hello, known: &Known<'_>) -> Result<(), Refusal> {
    let node = hello.node;
    match known.start.filter(|_| known.is_up) {
        Some(start) if hello.start.count < start.count => {
            Err(Refusal::OlderIncarnation { node, theirs: hello.start.count, known: start.count })
        }
        Some(start) if hello.start.count == start.count && hello.start.nonce != start.nonce => {
            Err(Refusal::CopiedIdentity { node, count: start.count })
        }
        Some(_) | None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{layout, node, start};
    use super::*;

    fn hello(name: char, count: u64, nonce: u64) -> Hello {
        let layout = Some(LayoutTag::of(&layout(4, "abc")));
        Hello {
            cluster: ClusterId::from_bits(1),
            node: node(name),
            start: start(count, nonce),
            layout,
        }
    }

    /// What `a`, at layout 4 with the members `abc`, answers where it knows `known` (and whether that lives) of the peer.
    fn answer(hello: Hello, known: Option<(Start, bool)>) -> Result<(), Refusal> {
        let layout = layout(4, "abc");
        let own = self::hello('a', 1, 1);
        let is_up = known.is_some_and(|(_, is_up)| is_up);
        let start = known.map(|(start, _)| start);
        check(&hello, &Known { own, layout: &layout, recovery: None, start, is_up })
    }

    #[track_caller]
    fn check_refused(hello: Hello, known: Option<(Start, bool)>, text: &str) {
        let refusal = answer(hello, known).expect_err("admitted").to_string();
        assert!(refusal.starts_with(text), "{refusal}");
    }

    #[test]
    fn a_member_is_admitted_also_in_a_new_life_or_where_its_later_life_ended() {
        assert_eq!(answer(hello('b', 3, 30), None), Ok(()));
        assert_eq!(answer(hello('b', 3, 30), Some((start(3, 30), true))), Ok(()));
        assert_eq!(answer(hello('b', 4, 40), Some((start(3, 30), true))), Ok(()));
        assert_eq!(answer(hello('b', 2, 20), Some((start(3, 30), false))), Ok(()));
        assert_eq!(
            answer(Hello { layout: None, ..hello('b', 3, 30) }, None),
            Ok(()),
            "founded, and lost its layout"
        );
    }

    #[test]
    fn l5_a_second_cluster_of_the_same_name_and_a_founder_with_an_empty_disk_are_refused() {
        let second = Hello { cluster: ClusterId::from_bits(2), ..hello('b', 1, 1) };
        check_refused(
            second,
            None,
            "wrong cluster: c-0000000000000002 instead of c-0000000000000001",
        );
        let empty = Hello { layout: None, ..hello('z', 1, 1) };
        check_refused(empty, None, "node 7a7a7a7a7a7a7a7a7a7a7a7a7a7a7a7a is no member yet");
    }

    #[test]
    fn a_copied_identity_and_an_older_life_are_refused_while_the_other_lives() {
        check_refused(hello('b', 3, 31), Some((start(3, 30), true)), "copied identity");
        check_refused(hello('b', 2, 20), Some((start(3, 30), true)), "older incarnation");
        check_refused(hello('a', 1, 2), None, "copied identity");
        check_refused(hello('a', 2, 2), None, "copied identity");
        check_refused(hello('a', 1, 1), None, "this is the node itself");
    }

    #[test]
    fn an_id_outside_the_layout_is_removed_ahead_or_a_joiner() {
        let brings = |version| Hello {
            layout: Some(LayoutTag::of(&layout(version, "xz"))),
            ..hello('z', 1, 1)
        };
        check_refused(brings(3), None, "removed member");
        check_refused(brings(4), None, "removed member");
        let ahead = answer(brings(5), None).expect_err("admitted");
        assert!(
            ahead.is_transient()
                && matches!(ahead, Refusal::NotYetKnown { theirs: 5, ours: 4, .. }),
            "{ahead}"
        );
    }

    #[test]
    fn after_a_recovery_survivors_are_let_in_and_others_told_the_way_out() {
        let before = layout(4, "abcde");
        let next = Some(layout(5, "ab").now);
        let now = layout(5, "ab").now;
        let recovered = Layout { generation: 2, version: 5, now, next, recovers: true };
        let says = |name, layout: &Layout| Hello {
            layout: Some(LayoutTag::of(layout)),
            ..hello(name, 1, 1)
        };
        let answers = |me: char, acts_on: &Layout, recovery: Option<&Layout>, hello: Hello| {
            let own = self::hello(me, 1, 1);
            check(&hello, &Known { own, layout: acts_on, recovery, start: None, is_up: false })
        };
        // A acts on the recovery; b accepted it, and may not know yet that all did.
        assert_eq!(answers('a', &recovered, None, says('b', &before)), Ok(()));
        assert_eq!(answers('b', &before, Some(&recovered), says('a', &recovered)), Ok(()));
        assert_eq!(answers('b', &before, Some(&recovered), says('a', &before)), Ok(()));
        let left_behind = answers('a', &recovered, None, says('c', &before)).unwrap_err();
        assert!(!left_behind.is_transient());
        assert!(left_behind.to_string().ends_with("must be wiped before it can join anew"));
        let recovered_without = Err(Refusal::Recovered { theirs: 2, ours: 1 });
        assert_eq!(answers('c', &before, None, says('a', &recovered)), recovered_without);
        // Another recovery of the same generation is none of b's.
        assert_eq!(
            answers('b', &before, Some(&recovered), says('d', &recovered)),
            recovered_without
        );
    }
}
