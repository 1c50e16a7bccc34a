//! Keys that are asked for much, as their operator sees them.

use serde_json::Value;

use crate::live::{Live, json, lines, pairs};
use crate::node_fixture::Result;

#[test]
fn a_hot_key_is_found_with_its_share_and_its_owners() -> Result<()> {
    let live = Live::start()?;
    live.ok(&["put", "hot\tkey", "v"]);
    // More keys than a node counts, each once; then one again and again.
    live.kvctl(&["import", "-q"]).write_stdin(lines(&pairs(0..300))).assert().success();
    let reads = ["hot\tkey"; 300];
    live.ok(&[&["mget"], &reads[..]].concat());

    let told = live.ok(&["hotkeys", "--json"]);
    let keys: Vec<Value> = told.lines().map(json).collect();
    let [hot] = keys.as_slice() else { panic!("one key stands out: {told}") };
    assert_eq!((&hot["type"], &hot["key"]), (&"hot_key".into(), &"hot\tkey".into()));
    assert_eq!((&hot["key_bytes"], &hot["owners"].as_array().map(Vec::len)), (&7.into(), &Some(3)));
    let number = |field: &str| hot[field].as_f64().unwrap_or_default();
    assert!(number("gets_per_second") > 10.0 * number("puts_per_second"), "{hot}");
    // It has half of all operations, but each node counts over a time of its own; and overlooks a 64th at most.
    let (share, error) = (number("share"), number("share_error"));
    assert!(0.3 < share && share < 0.7 && error < 0.02, "{hot}");

    let plain = live.ok(&["hotkeys", "--plain", "--limit", "1"]);
    let fields: Vec<&str> = plain.trim_end().split('\t').collect();
    assert_eq!((fields.len(), fields[0]), (6, r"hot\tkey"), "{plain}");
    assert!(live.ok(&["hotkeys"]).starts_with("KEY "));

    let status = json(live.ok(&["status", "--json"]).trim());
    for node in status["nodes"].as_array().ok_or("no nodes")? {
        assert!(node["load"]["window"].as_u64() > Some(0), "{node}");
        assert!(node["load"]["cpu"].as_u64().is_some(), "{node}");
    }
    Ok(())
}
