//! Which members have a part in which snapshot, as one look at all of them shows it.

use std::collections::{BTreeMap, BTreeSet};

use futures_util::future::join_all;

use crate::cli::connect::Session;
use crate::cli::ctl::status::Sight;
use crate::cli::exit::Exit;
use crate::cli::failure::Failure;
use crate::node_id::NodeId;
use crate::wire::client::{
    ReplyBody, RequestBody, SnapshotFacts, SnapshotFlaw, SnapshotPart, SnapshotReply,
    SnapshotRequest,
};

use super::no_such_reply;

/// A member.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Peer {
    pub(super) node: NodeId,
    pub(super) name: String,
}

/// A member, and what it says of one snapshot.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Holding {
    pub(super) peer: Peer,
    pub(super) part: Held,
}

/// What a member has of a snapshot.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Held {
    /// A whole part.
    Whole(SnapshotFacts),
    /// A part that does not count.
    Flawed(SnapshotFlaw),
    /// None.
    Nothing,
    /// It did not answer: why.
    Unknown(String),
}

/// What all members say.
pub(super) struct Parts {
    /// The layout version in force.
    pub(super) layout: u64,
    said: Vec<(Peer, Result<Vec<SnapshotPart>, String>)>,
}

impl Parts {
    /// Asks every member which parts it has.
    /// # Errors
    /// Exit 69 when no node is reachable.
    pub(super) async fn look(session: &Session) -> Result<Self, Failure> {
        let sight = Sight::take(session).await?;
        let mut members: Vec<Peer> = sight
            .view
            .layout
            .members()
            .map(|member| Peer { node: member.id, name: member.name.clone() })
            .collect();
        members.sort_by(|left, right| left.name.cmp(&right.name));
        let said = join_all(members.into_iter().map(|peer| async {
            let parts = listed(session, peer.node).await;
            (peer, parts.map_err(|failure| failure.to_string()))
        }));
        Ok(Self { layout: sight.view.layout.version, said: said.await })
    }

    /// The names of all snapshots.
    pub(super) fn names(&self) -> BTreeSet<String> {
        let parts = self.said.iter().filter_map(|(_, parts)| parts.as_ref().ok()).flatten();
        parts.map(|part| part.name.clone()).collect()
    }

    /// What each member has of one, by the members' names.
    pub(super) fn of(&self, name: &str) -> Vec<Holding> {
        let held = |(peer, parts): &(Peer, Result<Vec<SnapshotPart>, String>)| {
            let part = match parts {
                Err(why) => Held::Unknown(why.clone()),
                Ok(parts) => match parts.iter().find(|part| part.name == name) {
                    None => Held::Nothing,
                    Some(SnapshotPart { state: Ok(facts), .. }) => Held::Whole(facts.clone()),
                    Some(SnapshotPart { state: Err(flaw), .. }) => Held::Flawed(flaw.clone()),
                },
            };
            Holding { peer: peer.clone(), part }
        };
        self.said.iter().map(held).collect()
    }
}

/// Who has a part, whole or not.
pub(super) fn holders(held: &[Holding]) -> Vec<Peer> {
    let has = |holding: &&Holding| matches!(holding.part, Held::Whole(_) | Held::Flawed(_));
    held.iter().filter(has).map(|holding| holding.peer.clone()).collect()
}

/// What keeps the parts from being a snapshot, a word for each member; nothing where they are one.
pub(super) fn flaws(held: &[Holding]) -> BTreeMap<String, String> {
    let mut ids: BTreeMap<&str, usize> = BTreeMap::new();
    for holding in held {
        if let Held::Whole(facts) = &holding.part {
            *ids.entry(&facts.id).or_default() += 1;
        }
    }
    // Of parts that do not belong together the fewer are the others.
    let most = ids.iter().max_by_key(|(_, count)| **count).map(|(id, _)| *id);
    let flaw = |holding: &Holding| match &holding.part {
        Held::Whole(facts) if Some(facts.id.as_str()) == most => None,
        Held::Whole(_) => Some("part of another one".to_owned()),
        Held::Flawed(SnapshotFlaw::Incomplete) => Some("incomplete".to_owned()),
        Held::Flawed(SnapshotFlaw::Damaged(_)) => Some("damaged".to_owned()),
        Held::Nothing => Some("no part".to_owned()),
        Held::Unknown(_) => Some("not reachable".to_owned()),
    };
    held.iter().filter_map(|holding| Some((holding.peer.name.clone(), flaw(holding)?))).collect()
}

async fn listed(session: &Session, node: NodeId) -> Result<Vec<SnapshotPart>, Failure> {
    let request = RequestBody::Snapshot(SnapshotRequest::List);
    match session.call(Some(node), request).await? {
        ReplyBody::Snapshot(SnapshotReply::List(parts)) => Ok(parts),
        ReplyBody::Snapshot(SnapshotReply::Failed(failure)) => {
            Err(Failure::new(Exit::Io, failure.message))
        }
        _ => Err(no_such_reply()),
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// `n1=7 n2=? n3=! n4=- n5=x`: whole with id 7, incomplete, damaged, nothing, not reachable.
    pub(in super::super) fn holdings(text: &str) -> Vec<Holding> {
        let holding = |word: &str| {
            let (name, part) = word.split_once('=').unwrap();
            let part = match part {
                "?" => Held::Flawed(SnapshotFlaw::Incomplete),
                "!" => Held::Flawed(SnapshotFlaw::Damaged("why".to_owned())),
                "-" => Held::Nothing,
                "x" => Held::Unknown("down".to_owned()),
                id => Held::Whole(SnapshotFacts {
                    id: format!("{:016x}", id.parse::<u64>().unwrap()),
                    created: String::new(),
                    layout: 3,
                    keys: 1,
                    bytes: 2,
                }),
            };
            let node = NodeId::from_bytes([name.as_bytes()[1]; 16]);
            Holding { peer: Peer { node, name: name.to_owned() }, part }
        };
        text.split_whitespace().map(holding).collect()
    }

    #[track_caller]
    fn check(held: &str, expected: &str) {
        let flaws = flaws(&holdings(held));
        let told = flaws.iter().map(|(node, flaw)| format!("{node} {flaw}")).collect::<Vec<_>>();
        assert_eq!(told.join(", "), expected, "{held}");
    }

    #[test]
    fn a_snapshot_is_whole_when_every_member_has_a_whole_part_of_the_same() {
        check("n1=7 n2=7 n3=7", "");
        check("n1=7 n2=- n3=?", "n2 no part, n3 incomplete");
        check("n1=7 n2=7 n3=8", "n3 part of another one");
        check("n1=! n2=x", "n1 damaged, n2 not reachable");
    }
}
