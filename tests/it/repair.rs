//! Anti-entropy, as users see it.

use serde_json::Value;

use crate::live::{Live, json, lines, pairs};
use crate::node_fixture::{Result, ended, wait_for};

/// What `kvctl repair status` says.
fn statuses(live: &Live) -> Vec<Value> {
    live.ok(&["repair", "status", "--json"]).lines().map(json).collect()
}

/// Almost without room for hints a killed node misses what is written meanwhile; its peers find out and give it.
#[test]
fn replicas_that_missed_writes_are_found_and_brought_up_to_date() -> Result<()> {
    let live = Live::start_with(3, &[("KVNODE_HINTS__MAX", "1B")])?;
    let mut written = pairs(0..500);
    live.kvctl(&["import", "-q"]).write_stdin(lines(&written)).assert().success();
    live.ok(&["wait", "converged"]);
    let node = &live.cluster.nodes[2];
    node.kill()?;
    let missed = pairs(500..800);
    written.extend(missed.clone());
    live.kvctl(&["import", "-q", "-w", "2"]).write_stdin(lines(&missed)).assert().success();
    let hints = live.ok(&["hints", "list", "--json"]);
    let hints: u64 = hints.lines().filter_map(|line| json(line)["hints"].as_u64()).sum();
    assert!(hints <= 2, "each holder has room for one: {hints}");

    let mut run = node.run();
    let _back = ended(run.env("KVNODE_HINTS__MAX", "1B").spawn()?);
    live.ok(&["wait", "ready"]);
    live.ok(&["repair", "start"]);
    live.ok(&["wait", "converged"]);
    let (_, read) = live.export("1");
    assert_eq!(read, written);
    wait_for("each pair to be found equal", || {
        let statuses = statuses(&live);
        let pairs = statuses.len();
        let equal = statuses.iter().filter(|pair| pair["equal_us_ago"].is_u64()).count();
        (pairs == 6 && equal >= 3).then_some(())
    });
    Ok(())
}

#[test]
fn repair_is_begun_on_named_nodes_and_refuses_strangers() -> Result<()> {
    let live = Live::start()?;
    assert_eq!(live.ok(&["repair", "start", "n2", "--dry-run"]), "n2\n");
    assert_eq!(live.ok(&["repair", "start", "n2"]), "");
    live.kvctl(&["repair", "start", "n9"])
        .assert()
        .code(2)
        .stderr(predicates::str::contains("no member is named `n9`"));
    let table = live.ok(&["repair", "status"]);
    assert!(table.starts_with("NODE"), "{table}");
    Ok(())
}
