//! I2: after healing all owners of a key hold the same state, the leaves of each slot are equal among its owners, and
//! nobody holds a hint.

use bytes::Bytes;
use kvkit::node::keys;
use kvkit::node_id::NodeId;
use kvkit::ring::{Preferences, Slot, Token};
use kvkit::version::Siblings;

use super::{Breach, Check};
use crate::network::Node;
use crate::world::World;

/// What is left of a key: what all owners hold.
pub(super) fn end_of(
    world: &mut World,
    owners: impl Iterator<Item = NodeId>,
    key: &Bytes,
    broken: &mut Vec<Breach>,
) -> Siblings {
    let mut states = Vec::new();
    for node in owners.map(|id| world.node_of(id)).collect::<Vec<_>>() {
        match held(world, node, key) {
            Ok(state) => states.push((node, state)),
            Err(text) => broken.push(Breach::new(Check::Convergence, text)),
        }
    }
    for (_, state) in &states {
        world.witness.state(key, state);
    }
    let first = states.first().map(|(_, state)| state.clone()).unwrap_or_default();
    if states.iter().any(|(_, state)| *state != first) {
        let text = format!("{key:?}: owners differ after healing: {states:?}");
        broken.push(Breach::new(Check::Convergence, text));
    }
    first
}

pub(super) fn judge(world: &World, preferences: &Preferences, broken: &mut Vec<Breach>) {
    let texts = hints_left(world).into_iter().chain(leaves_differ(world, preferences));
    broken.extend(texts.map(|text| Breach::new(Check::Convergence, text)));
}

/// What a machine holds of a key.
fn held(world: &World, node: Node, key: &Bytes) -> Result<Siblings, String> {
    let life = world.replicas[node].life.as_ref().expect("all run after healing");
    let found = life.store.get(&keys::data(key));
    let found = found.map_err(|error| format!("n{}: {key:?} is lost: {error}", node + 1))?;
    let decode = |bytes| Siblings::decode(&bytes).map_err(|error| error.to_string());
    found.value.map_or_else(|| Ok(Siblings::new()), decode)
}

/// Nodes that still hold hints.
fn hints_left(world: &World) -> Vec<String> {
    let (start, end) = keys::hints();
    let left = |(node, replica): (Node, &crate::replica::Replica)| {
        let life = replica.life.as_ref().expect("all run after healing");
        let hints = life.store.scan(&start, Some(&end)).count();
        (hints > 0).then(|| format!("n{} holds {hints} hints after healing", node + 1))
    };
    world.replicas.iter().enumerate().filter_map(left).collect()
}

/// Slots whose leaves differ between owners. Only slots that keys lie in have one.
fn leaves_differ(world: &World, preferences: &Preferences) -> Vec<String> {
    let leaf = |id, slot: Slot| {
        let life = world.replicas[world.node_of(id)].life.as_ref().expect("all run after healing");
        life.store.leaf(slot.0)
    };
    let keys = world.witness.keys();
    let slots: std::collections::BTreeSet<Slot> = keys.map(|key| Token::of(key).slot()).collect();
    let differ = slots.into_iter().filter(|slot| {
        let mut owners = preferences.of_slot(*slot).owners();
        let first = owners.next().map(|id| leaf(id, *slot));
        owners.any(|id| Some(leaf(id, *slot)) != first)
    });
    differ.map(|slot| format!("the leaves of {slot:?} differ after healing")).collect()
}
