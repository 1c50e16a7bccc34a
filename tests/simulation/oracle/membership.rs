//! I12: after healing every node holds the same layout and has every other one for up.

use kvkit::node::{Caller, Effect, Event};
use kvkit::wire::client::{MemberHealth, ReplyBody, Request, RequestBody, View};

use super::{Breach, Check};
use crate::network::Node;
use crate::world::World;

/// Asks without the network.
const ASKER: Caller = Caller(u64::MAX);

pub(super) fn judge(world: &mut World, broken: &mut Vec<Breach>) {
    let views: Vec<View> = (0..world.replicas.len()).map(|node| view(world, node)).collect();
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

/// A node's view, asked for without the network.
fn view(world: &mut World, node: Node) -> View {
    let time = world.replicas[node].time(world.now);
    let life = world.replicas[node].life.as_mut().expect("all run after healing");
    let request = Request { id: 0, deadline: 0, body: RequestBody::View };
    let mut effects = Vec::new();
    life.core.handle(time, Event::Client { caller: ASKER, request }, &mut effects);
    let reply = effects.into_iter().find_map(|effect| match effect {
        Effect::Reply { reply, .. } => Some(reply.body),
        _ => None,
    });
    match reply {
        Some(ReplyBody::View(view)) => view,
        other => panic!("a view was asked for: {other:?}"),
    }
}
