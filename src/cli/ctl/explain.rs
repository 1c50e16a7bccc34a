//! `get --explain`: how an answer came about.

use std::time::Duration;

use crate::cli::connect::{Session, name};
use crate::cli::human;
use crate::cli::json::serialized;
use crate::node_id::NodeId;
use crate::ring::Token;
use crate::wire::client::Got;

/// A line each for where the key lies, who was asked, what was found, and what that promises.
pub(super) fn explained(key: &[u8], got: &Got, session: &Session) -> String {
    let (names, cluster) = (session.names(), session.cluster());
    let list = |nodes: &mut dyn Iterator<Item = NodeId>| {
        nodes.map(|node| name(node, &names)).collect::<Vec<_>>().join(", ")
    };
    let token = Token::of(key);
    let slot = token.slot();
    let ring = &cluster.layout.now;
    let owners = list(&mut cluster.preferences.of_slot(slot).owners());
    let clock: Vec<String> = got
        .state
        .clock()
        .named(&names)
        .into_iter()
        .map(|(actor, counter)| format!("{actor}:{counter}"))
        .collect();
    let stale = if got.stale.is_empty() {
        "none".to_owned()
    } else {
        format!("{} (being repaired)", list(&mut got.stale.iter().copied()))
    };
    let stand_ins: Vec<String> = got
        .stand_ins
        .iter()
        .map(|(owner, by)| format!("{} for {}", name(*by, &names), name(*owner, &names)))
        .collect();
    let stand_ins = if stand_ins.is_empty() { "none".to_owned() } else { stand_ins.join(", ") };
    format!(
        "place      token {:016x}, slot {}, partition {} of {}; owners {owners}\n\
         asked      {} coordinated, {} needed, {} answered in {}\n\
         stand-ins  {stand_ins}\n\
         stale      {stale}\n\
         clock      {{{}}}\n\
         siblings   {}\n\
         guarantee  {} (N={} R={} W={})\n",
        token.point(),
        slot.0,
        slot.partition(ring.q).0,
        ring.q,
        name(got.coordinator, &names),
        got.needed,
        list(&mut got.answered.iter().copied()),
        human::duration(Duration::from_micros(got.micros)),
        clock.join(","),
        got.state.siblings(),
        serialized(&got.guarantee).trim_matches('"'),
        ring.effective_n(),
        ring.effective_r(),
        ring.effective_w(),
    )
}
