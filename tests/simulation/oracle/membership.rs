//! I12: after healing every node holds the same layout and has every other one for up.

use kvkit::wire::client::{MemberHealth, View};

use super::{Breach, Check};
use crate::world::World;

pub(super) fn judge(world: &mut World, broken: &mut Vec<Breach>) {
    let nodes = 0..world.replicas.len();
    let views: Vec<View> =
        nodes.map(|node| world.view(node).expect("all run after healing")).collect();
    for (node, view) in views.iter().enumerate() {
        if view.layout != views[0].layout {
            let (first, here) = (views[0].layout.version, view.layout.version);
            let text = format!("layout {here} at n{}, layout {first} at n1", node + 1);
            broken.push(Breach::new(Check::Membership, text));
        }
        let is_missed = |health| !matches!(health, MemberHealth::Up);
        let others = view.members.iter().filter(|member| member.node != view.node);
        for member in others.filter(|member| is_missed(member.health) || !member.reachable) {
            let missed = world.node_of(member.node) + 1;
            let text = format!("n{missed} is {:?} at n{} after healing", member.health, node + 1);
            broken.push(Breach::new(Check::Membership, text));
        }
    }
}
