//! Nodes killed by SIGKILL while records stream in, over and over. `KVKIT_KILLS=100` kills so often instead of the few
//! times of CI; `KVKIT_KILLS_SEED=S` draws what a run drew that said so.

use std::collections::BTreeMap;
use std::io::Write;
use std::process::Stdio;

use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use serde_json::Value;

use crate::live::{Live, json, lines, pairs};
use crate::node_fixture::{DevCluster, Node, Result, ended, wait_for};
use crate::tool::{stdout, tool};

/// Kills of the short form.
const KILLS: u32 = 5;
/// Records of each import.
const RECORDS: u32 = 400;
/// Owners that hold a record before it is acknowledged.
const W: usize = 2;
/// Small enough for flushes and merges to be under way at any moment.
const VARIABLES: [(&str, &str); 1] = [("KVNODE_STORAGE__MEMTABLE", "16KiB")];

/// A variable's number, or the one to go by without it.
pub(crate) fn number<N: std::str::FromStr>(variable: &str, otherwise: N) -> N {
    let parse = |text: String| text.parse().ok();
    std::env::var(variable)
        .map_or(otherwise, |text| parse(text).unwrap_or_else(|| panic!("{variable} is a number")))
}

/// What a node's directory holds: each key's value.
fn held(node: &Node) -> BTreeMap<String, String> {
    let dump = tool("kvsstable").args(["dump", "-q"]).arg(&node.data_dir).assert().success();
    let text = |line: &Value, field: &str| line[field].as_str().unwrap_or_default().to_owned();
    let records = stdout(&dump).lines().map(json).collect::<Vec<_>>();
    let records = records.iter().filter(|line| line["type"] == "kv");
    records.map(|line| (text(line, "key"), text(line, "value"))).collect()
}

#[test]
fn nothing_acknowledged_is_lost_however_often_a_node_is_killed() -> Result<()> {
    let seed = number("KVKIT_KILLS_SEED", u64::from(std::process::id()));
    let again = format!("replay with KVKIT_KILLS_SEED={seed}");
    let mut chance = ChaCha8Rng::seed_from_u64(seed);
    let live = Live { cluster: DevCluster::start_with(3, &VARIABLES)? };
    live.kvctl(&["wait", "ready"]).assert().success();
    let nodes = &live.cluster.nodes;
    let (mut acknowledged, mut restarted) = (BTreeMap::new(), Vec::new());
    for kill in 0..number("KVKIT_KILLS", KILLS) {
        let told = format!("kill {kill}, {again}");
        let new = pairs(kill * RECORDS..(kill + 1) * RECORDS);
        let text = lines(&new);
        let victim = &nodes[chance.random_range(0..nodes.len())];
        let mut import = live.kvctl_process(&["import", "-", "-q", "-w", &W.to_string()]);
        let mut import = ended(import.stdin(Stdio::piped()).stderr(Stdio::piped()).spawn()?);
        let mut stdin = import.0.stdin.take().ok_or("no stdin")?;
        // What came in by then is somewhere between the wire and the disks.
        let (before, after) = text.as_bytes().split_at(chance.random_range(0..text.len()));
        stdin.write_all(before)?;
        victim.kill()?;
        stdin.write_all(after)?;
        drop(stdin);
        let status = wait_for("the import to end", || import.0.try_wait().ok().flatten());
        let stderr = std::io::read_to_string(import.0.stderr.take().ok_or("no stderr")?)?;
        // Exit 0: each record was acknowledged.
        assert_eq!((status.code(), stderr.as_str()), (Some(0), ""), "{told}");
        acknowledged.extend(new);

        tool("kvsstable").arg("verify").arg(&victim.data_dir).assert().success();
        let holders: Vec<_> = nodes.iter().map(held).collect();
        for (key, value) in &acknowledged {
            let copies = holders.iter().filter(|held| held.get(key) == Some(value)).count();
            assert!(W <= copies, "{key} stands on {copies} disks; {told}");
        }
        let mut run = victim.run();
        run.envs(VARIABLES).stdout(Stdio::null()).stderr(Stdio::null());
        restarted.push(ended(run.spawn()?));
        live.kvctl(&["wait", "ready"]).assert().success();
        assert!(
            live.export("quorum").1 == acknowledged,
            "the cluster holds something else; {told}"
        );
    }
    assert!(live.export("all").1 == acknowledged, "not all three hold the same; {again}");
    Ok(())
}
