//! I2: after healing all owners of a key hold the same versions, the leaves of each slot are equal among its owners, and
//! nobody holds a hint.
//!
//! Clocks are out of leaves, and so are keys without a value: what two owners know of those may differ until a cut
//! forgets it. What is left of a key is what all of them know together.

use std::collections::BTreeSet;

use bytes::Bytes;
use kvkit::node::keys;
use kvkit::ring::{Preferences, Slot, Token};
use kvkit::version::{Content, Dot, Siblings, Version};

use super::{Breach, Check};
use crate::history::History;
use crate::network::Node;
use crate::world::World;

/// What is left of a key: what its owners hold together.
pub(super) fn end_of(world: &mut World, preferences: &Preferences, key: &Bytes) -> Siblings {
    let mut end = Siblings::new();
    for node in owners(world, preferences, key) {
        let Ok(state) = held(world, node, key) else { continue };
        world.witness.state(key, &state);
        end.merge(&state, &mut Vec::new());
    }
    end
}

pub(super) fn judge(
    world: &World,
    history: &History,
    preferences: &Preferences,
    broken: &mut Vec<Breach>,
) {
    let texts = gaps(world, history, preferences);
    broken.extend(texts.into_iter().map(|text| Breach::new(Check::Convergence, text)));
}

/// Whatever keeps the cluster from having converged.
pub(super) fn gaps(world: &World, history: &History, preferences: &Preferences) -> Vec<String> {
    let names = history.names();
    let differ = names.iter().flat_map(|key| owners_differ(world, preferences, key));
    let left = left_over(world, preferences);
    let differ: Vec<String> = differ.chain(hints_left(world)).chain(left).collect();
    let leaves = leaves_differ(world, preferences, &names);
    differ.into_iter().chain(leaves).collect()
}

fn owners(world: &World, preferences: &Preferences, key: &Bytes) -> Vec<Node> {
    let owners = preferences.of_slot(Token::of(key).slot()).owners();
    owners.map(|id| world.node_of(id)).collect()
}

fn owners_differ(world: &World, preferences: &Preferences, key: &Bytes) -> Vec<String> {
    let (mut states, mut texts) = (Vec::new(), Vec::new());
    for node in owners(world, preferences, key) {
        match held(world, node, key) {
            Ok(state) => states.push((node, state)),
            Err(text) => texts.push(text),
        }
    }
    let (_, first) = &states[0];
    let is_same = |(_, state): &(Node, Siblings)| {
        state.versions() == first.versions() || !state.has_value() && !first.has_value()
    };
    if !states.iter().all(is_same) {
        let held: Vec<String> = states.iter().map(|(node, state)| told(*node, state)).collect();
        texts.push(format!("{key:?}: owners differ after healing: {}", held.join(", ")));
    }
    texts
}

/// A node's state in short: what it holds and how far it knows whom.
fn told(node: Node, state: &Siblings) -> String {
    let version = |(dot, version): (&Dot, &Version)| {
        let what = if version.content == Content::Tombstone { "deleted by" } else { "put by" };
        format!("{dot:?} {what} {:x}/{}", version.request.session, version.request.counter)
    };
    let versions: Vec<String> = state.versions().iter().map(version).collect();
    format!("n{} {{{}}}", node + 1, versions.join("; "))
}

/// What a machine holds of a key.
fn held(world: &World, node: Node, key: &Bytes) -> Result<Siblings, String> {
    let life = world.replicas[node].life.as_ref();
    let life = life.ok_or_else(|| format!("n{} does not run", node + 1))?;
    let found = life.store.get(&keys::data(key));
    let found = found.map_err(|error| format!("n{}: {key:?} is lost: {error}", node + 1))?;
    let decode = |bytes| Siblings::decode(&bytes).map_err(|error| error.to_string());
    found.value.map_or_else(|| Ok(Siblings::new()), decode)
}

/// Nodes that still hold hints.
fn hints_left(world: &World) -> Vec<String> {
    let (start, end) = keys::hints();
    let left = |(node, replica): (Node, &crate::replica::Replica)| {
        let life = replica.life.as_ref()?;
        let hints = life.store.scan(&start, Some(&end)).count();
        (hints > 0).then(|| format!("n{} holds {hints} hints after healing", node + 1))
    };
    world.replicas.iter().enumerate().filter_map(left).collect()
}

/// Nodes that still hold what is others'.
fn left_over<'a>(
    world: &'a World,
    preferences: &'a Preferences,
) -> impl Iterator<Item = String> + 'a {
    world.replicas.iter().enumerate().filter_map(|(node, replica)| {
        let life = replica.life.as_ref()?;
        let (start, end) = keys::data_range((Slot(0), Slot(u16::MAX)), None);
        let entries = life.store.scan(&start, Some(&end)).filter_map(Result::ok);
        let others = entries.filter(|(stored, _)| {
            let (slot, _) = keys::parse_data(stored).expect("a key of data");
            !preferences.of_slot(slot).owns(replica.identity.node)
        });
        let count = others.count();
        (count > 0).then(|| format!("n{} holds {count} keys of others after healing", node + 1))
    })
}

/// Slots whose leaves differ between owners. Only slots that keys lie in have one.
fn leaves_differ(world: &World, preferences: &Preferences, keys: &BTreeSet<Bytes>) -> Vec<String> {
    let leaf = |id, slot: Slot| {
        let life = world.replicas[world.node_of(id)].life.as_ref();
        life.map(|life| life.store.leaf(slot.0))
    };
    let slots: BTreeSet<Slot> = keys.iter().map(|key| Token::of(key).slot()).collect();
    let differ = slots.into_iter().filter(|slot| {
        let mut owners = preferences.of_slot(*slot).owners();
        let first = owners.next().map(|id| leaf(id, *slot));
        owners.any(|id| Some(leaf(id, *slot)) != first)
    });
    differ.map(|slot| format!("the leaves of {slot:?} differ after healing")).collect()
}
