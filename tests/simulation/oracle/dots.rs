//! I8: one dot names one write, over all states that were ever sent, shown or left; and a write that was tried once has
//! one dot.

use std::collections::BTreeMap;

use kvkit::version::{Dot, RequestId};

use super::{Breach, Check, is_contextual};
use crate::history::History;
use crate::world::World;

/// The writes that have more than one dot, with those.
pub(super) fn judge(
    world: &mut World,
    history: &History,
    broken: &mut Vec<Breach>,
) -> BTreeMap<RequestId, Vec<Dot>> {
    let named_two = std::mem::take(&mut world.witness.broken);
    broken.extend(named_two.into_iter().map(|text| Breach::new(Check::Dots, text)));
    let twice = world.witness.written_twice();
    for (request, dots) in &twice {
        // A put without a context is folded once where an owner held what it did not cover.
        let is_excused = history
            .write(*request)
            .is_none_or(|write| write.tries > 1 || !is_contextual(&write.key) && dots.len() == 2);
        if !is_excused {
            let text = format!("{request:?} was tried once and written as {dots:?}");
            broken.push(Breach::new(Check::Dots, text));
        }
    }
    twice
}
