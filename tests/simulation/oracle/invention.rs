//! I6: every version that was seen anywhere was written by a client, to this key, with this content.

use super::{Breach, Check};
use crate::history::History;
use crate::world::World;

pub(super) fn judge(world: &World, history: &History, broken: &mut Vec<Breach>) {
    for (key, dot, (request, content)) in world.witness.seen() {
        let is_known = history
            .write(*request)
            .is_some_and(|write| write.key == *key && write.content == *content);
        if !is_known {
            let text = format!("{key:?}: {dot:?} was never written: {request:?} {content:?}");
            broken.push(Breach::new(Check::Invention, text));
        }
    }
}
