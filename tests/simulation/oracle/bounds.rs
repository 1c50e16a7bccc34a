//! I9: what is bounded stays so; and a cluster to which nothing happens does little.

use super::{Breach, Check};
use crate::world::World;

/// A client's write that would add a sibling past 100 is refused; what meets in a repair or is folded is kept, and so are
/// writes of all sides of a partition: a few times that.
const SIBLINGS_MAX: usize = 400;
/// Events in a second of quiet that a node with so many peers may be given at most: gossip both ways, dials, syncs.
const QUIET_EVENTS_MAX: u64 = 60;

pub(super) fn judge(world: &World, broken: &mut Vec<Breach>) {
    let most = world.witness.siblings_max;
    if SIBLINGS_MAX < most {
        let text = format!("{most} siblings were seen side by side");
        broken.push(Breach::new(Check::Bounds, text));
    }
}

/// Holds what each node was given while all was quiet against what a quiet second may bring.
pub fn quiet_is_quiet(before: &[u64], after: &[u64], seconds: u64) -> Vec<Breach> {
    let spins = |(node, (before, after)): (usize, (&u64, &u64))| {
        let events = after - before;
        let text = || format!("n{} was given {events} events in {seconds} s of quiet", node + 1);
        (QUIET_EVENTS_MAX * seconds < events).then(|| Breach::new(Check::Bounds, text()))
    };
    before.iter().zip(after).enumerate().filter_map(spins).collect()
}
