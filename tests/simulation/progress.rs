//! I10: while a part of the cluster is cut off for good, the other part goes on: whoever can reach a quorum is served.

use std::collections::BTreeSet;
use std::time::Duration;

use bytes::Bytes;
use kvkit::ring::{Preferences, Token};

use crate::network::Node;
use crate::oracle::{Breach, Check};
use crate::plan::Plan;
use crate::run::Run;
use crate::workload::{Client, Habits};
use crate::world::{World, nanos};

/// Long enough for every cut connection to break and for whoever is away to be known for it.
const DETECTED: Duration = Duration::from_secs(20);
/// How long the healthy side works.
const WORK: Duration = Duration::from_secs(5);
/// What the hints of all of a run fit into.
const HINTS_BYTES: u64 = 1 << 24;
/// The first number of the clients that watch.
const WATCHER: u64 = 1 << 20;

/// Cuts the minority off, waits until that is known, and has clients of the other side work: none may fail.
pub fn check(run: &mut Run, plan: &Plan) {
    let healthy: Vec<Node> =
        (0..plan.shape.nodes).filter(|node| !plan.minority.contains(node)).collect();
    for inside in &plan.minority {
        for outside in &healthy {
            run.world.cut(*inside, *outside);
            run.world.cut(*outside, *inside);
        }
    }
    run.work_until(run.world.now + nanos(DETECTED));
    // Stand-ins that keep no hints are none.
    let stands_in = HINTS_BYTES <= plan.hints_bytes_max;
    for (number, sloppy) in [(WATCHER, 0.0), (WATCHER + 1, 1.0)] {
        if sloppy > 0.0 && !stands_in {
            continue;
        }
        let keys = served(run, &healthy, sloppy > 0.0);
        if keys.is_empty() {
            continue;
        }
        let (think, nodes) = (Duration::from_millis(100), healthy.clone());
        let habits = Habits { keys, think, sloppy, nodes, is_moody: false };
        run.hire(Client::new(number, plan.seed ^ number, habits));
    }
    run.work_until(run.world.now + nanos(WORK));
    for failure in run.dismiss(WATCHER) {
        let text = format!("a request to the healthy side failed: {failure}");
        run.broken.push(Breach::new(Check::Progress, text));
    }
    run.heal();
}

/// The keys whose requests this side must serve: with an owner, and with as many as the largest level that the layout
/// asks for; stand-ins count for sloppy requests.
fn served(run: &Run, side: &[Node], is_sloppy: bool) -> Vec<Bytes> {
    let World { layout, .. } = &run.world;
    let ring = &layout.now;
    let preferences = Preferences::new(ring.clone().into());
    let side: BTreeSet<Node> = side.iter().copied().collect();
    let n = usize::from(ring.n);
    let needed = usize::from(ring.r.max(ring.w)).max(n - usize::from(ring.r) + 1);
    let is_served = |key: &Bytes| {
        let walk = preferences.of_slot(Token::of(key).slot());
        let owners = walk.owners().filter(|id| side.contains(&run.world.node_of(*id))).count();
        let reached = if is_sloppy { n.min(side.len()) } else { owners };
        owners > 0 && needed <= reached
    };
    let keys = (0..8).map(|number| Bytes::from(format!("c-late{number}")));
    keys.filter(is_served).collect()
}
