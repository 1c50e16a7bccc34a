//! Clusters whose nodes are killed under load. `KVKIT_CLUSTER_KILLS=1000` kills so often instead of the times of CI;
//! `KVKIT_FAULTS_SEED=S` draws what a run drew that said so.

use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

use crate::faulty_cluster::FaultyCluster;
use crate::live_kills::number;
use crate::load::{Entry, Load, assert_none_failed, judge};
use crate::node_fixture::Result;

/// Kills of the short form.
const KILLS: u32 = 50;
/// Kills behind which a history is judged and a new one begins: it stays small in the long form.
const KILLS_A_HISTORY: u32 = 25;
/// Writes that must go through while a node is down.
const WRITES_WHILE_DOWN: u64 = 10;

/// The seed of this run, and how to have it again.
pub(crate) fn seed() -> (u64, String) {
    let seed = number("KVKIT_FAULTS_SEED", u64::from(std::process::id()));
    (seed, format!("replay with KVKIT_FAULTS_SEED={seed}"))
}

#[test]
fn acknowledged_writes_outlive_fifty_kills_of_five_nodes() -> Result<()> {
    let (seed, again) = seed();
    let mut chance = ChaCha8Rng::seed_from_u64(seed);
    let mut cluster = FaultyCluster::start(5)?;
    let kills = number("KVKIT_CLUSTER_KILLS", KILLS);
    let mut killed = 0;
    while killed < kills {
        let load = Load::start(&format!("{killed}-"), seed, &[Entry::Hosts(cluster.hosts())]);
        load.wait_for_more(1, "before the first kill");
        for _ in 0..KILLS_A_HISTORY.min(kills - killed) {
            let victim = chance.random_range(0..cluster.nodes.len());
            // A second one, now and then: two of three owners of some keys are gone.
            let other =
                (victim + chance.random_range(1..cluster.nodes.len())) % cluster.nodes.len();
            let victims =
                if chance.random_ratio(1, 5) { vec![victim, other] } else { vec![victim] };
            for victim in &victims {
                cluster.nodes[*victim].kill()?;
                killed += 1;
            }
            if chance.random_ratio(2, 3) {
                load.wait_for_more(WRITES_WHILE_DOWN, &format!("with {victims:?} down; {again}"));
            }
            for victim in &victims {
                cluster.nodes[*victim].restart()?;
            }
        }
        cluster.settle();
        load.wait_for_more(1, "behind the last kill");
        let (history, _) = load.stop();
        judge(&history, cluster.hosts(), &again)?;
    }
    cluster.settle();
    cluster.kvctl(&["export", "-q", "-r", "all"]).assert().success();
    cluster.kvctl(&["wait", "converged"]).assert().success();
    Ok(())
}

/// The first one, and the one that clients connect to, are no others.
#[test]
fn each_node_in_turn_can_be_missed() -> Result<()> {
    let (seed, again) = seed();
    let mut cluster = FaultyCluster::start(3)?;
    let hosts = cluster.hosts();
    let load = Load::start("k", seed, &[Entry::Hosts(hosts.clone())]);
    for victim in 0..hosts.len() {
        cluster.nodes[victim].kill()?;
        load.wait_for_more(30, &format!("without n{}; {again}", victim + 1));
        // Clients that begin at the dead one, or know a dead one and a living one alone.
        let living = (victim + 1) % hosts.len();
        let few = [hosts[victim].as_str(), hosts[living].as_str()].join(",");
        let value = format!("without n{}", victim + 1);
        for arguments in [&["put", "turn", &value][..], &["get", "turn"]] {
            cluster.kvctl(arguments).env("KVCTL_HOSTS", &few).assert().success();
        }
        cluster.nodes[victim].restart()?;
        cluster.settle();
    }
    let (history, failed) = load.stop();
    judge(&history, hosts, &again)?;
    assert_none_failed(&failed, &again);
    cluster.kvctl(&["get", "turn", "-r", "all"]).assert().success().stdout("without n3");
    Ok(())
}
