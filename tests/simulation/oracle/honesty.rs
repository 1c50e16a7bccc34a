//! I7: a write of which every try was answered with *not applied* is nowhere, and never was.

use super::{Breach, Check};
use crate::history::History;
use crate::world::World;

pub(super) fn judge(world: &World, history: &History, broken: &mut Vec<Breach>) {
    for (key, dot, (request, _)) in world.witness.seen() {
        if history.write(*request).is_some_and(|write| write.is_not_applied) {
            let text = format!("{key:?}: {request:?} was not applied, and is {dot:?}");
            broken.push(Breach::new(Check::Honesty, text));
        }
    }
}
