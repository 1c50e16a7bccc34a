//! `/metrics`, as a collector reads it.

use std::collections::BTreeSet;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::process::{Command, Stdio};

use crate::live::{Live, json};
use crate::lone_node::http_get;
use crate::node_fixture::{PATIENCE, Result, wait_for};

/// Head and body of `/metrics` for a caller that takes `accept`.
fn scrape(address: &str, accept: &str) -> Result<(String, String)> {
    let mut stream = TcpStream::connect(address)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    write!(
        stream,
        "GET /metrics HTTP/1.1\r\nHost: n\r\nAccept: {accept}\r\nConnection: close\r\n\r\n"
    )?;
    let mut text = String::new();
    stream.read_to_string(&mut text)?;
    let (head, body) = text.split_once("\r\n\r\n").ok_or("no body")?;
    Ok((head.to_lowercase(), body.to_owned()))
}

/// What a sample says, by its name and labels as they are written.
fn sample(body: &str, name: &str) -> Option<f64> {
    body.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' ')?.parse().ok())
}

#[test]
fn figures_rise_with_what_was_done_and_members_are_told() -> Result<()> {
    let live = Live::start()?;
    for number in 0..30 {
        let key = format!("k{number}");
        live.kvctl(&["put", &key, "v"]).assert().success();
        live.kvctl(&["get", &key]).assert().success();
    }
    let http = || live.cluster.nodes.iter().map(|node| node.http.as_str());
    let total = |name: &str| -> Option<f64> {
        http().map(|http| sample(&http_get(http, "/metrics").ok()?.1, name)).sum()
    };
    wait_for("all that was done to be counted", || {
        let puts = total("kv_puts_total")?;
        let gets = total("kv_gets_total")?;
        let timed = total("kv_request_duration_seconds_count{op=\"put\"}")?;
        let in_time = total("kv_request_duration_seconds_bucket{le=\"+Inf\",op=\"get\"}")?;
        // A get may be asked for a second time, of another node, where the first one is slow.
        [puts, gets, timed, in_time].iter().all(|count| 30.0 <= *count).then_some(())
    });
    let (_, body) = http_get(&live.cluster.nodes[0].http, "/metrics")?;
    for (name, value) in [
        ("kv_members{state=\"up\"}", 3.0),
        ("kv_member_up{member=\"n2\"}", 1.0),
        ("kv_partitions_below_quorum", 0.0),
        ("kv_layout_version", 1.0),
        ("kv_layout_changing", 0.0),
    ] {
        assert_eq!(sample(&body, name), Some(value), "{name} in {body}");
    }
    for name in ["process_cpu_seconds_total", "process_resident_memory_bytes", "kv_data_bytes"] {
        assert!(sample(&body, name) > Some(0.0), "{name} in {body}");
    }
    let (_, status) = http_get(&live.cluster.nodes[0].http, "/status")?;
    let status = json(status.trim());
    for name in status["node"]["counters"].as_object().ok_or("no counters")?.keys() {
        assert!(sample(&body, &format!("kv_{name}_total")).is_some(), "{name} in {body}");
    }
    assert!(!body.contains("k29"), "a key is no label: {body}");
    Ok(())
}

#[test]
fn each_collector_gets_the_format_that_it_takes_and_promtool_finds_no_fault() -> Result<()> {
    let live = Live::start()?;
    let http = &live.cluster.nodes[0].http;
    let accept = "application/openmetrics-text;version=1.0.0,text/plain;version=0.0.4;q=0.5";
    let (head, body) = scrape(http, accept)?;
    assert!(head.contains("content-type: application/openmetrics-text; version=1.0.0"), "{head}");
    assert!(body.ends_with("# EOF\n") && body.contains("\n# UNIT kv_uptime_seconds seconds\n"));
    assert!(body.contains("\n# TYPE kv_gets counter\n"), "{body}");

    let (head, body) = scrape(http, "*/*")?;
    assert!(head.contains("content-type: text/plain; version=0.0.4"), "{head}");
    assert!(!body.contains("# EOF") && !body.contains("# UNIT"), "{body}");
    assert!(body.contains("\n# TYPE kv_gets_total counter\n"), "{body}");

    let promtool = Command::new("promtool")
        .args(["check", "metrics"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn();
    let Ok(mut promtool) = promtool else {
        writeln!(std::io::stderr(), "skipped: promtool is not installed")?;
        return Ok(());
    };
    promtool.stdin.take().ok_or("no stdin")?.write_all(body.as_bytes())?;
    let said = promtool.wait_with_output()?;
    let text = String::from_utf8_lossy(&said.stderr);
    assert!(said.status.success() && said.stdout.is_empty(), "{text}\n{body}");
    Ok(())
}

#[test]
fn alert_rules_and_the_dashboard_ask_for_figures_that_exist() -> Result<()> {
    let live = Live::start()?;
    let (_, body) = http_get(&live.cluster.nodes[0].http, "/metrics")?;
    let is_name = |letter: char| letter.is_ascii_lowercase() || letter == '_';
    let told: BTreeSet<&str> = body.split(|letter| !is_name(letter)).collect();
    for file in ["alerts.yml", "dashboard.json"] {
        let at = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/monitoring").join(file);
        let text = std::fs::read_to_string(&at)?;
        let asked = text.split(|letter| !is_name(letter));
        let asked: Vec<_> =
            asked.filter(|word| word.starts_with("kv_") || word.starts_with("process_")).collect();
        assert!(asked.len() > 5, "{file}: {asked:?}");
        for name in asked {
            assert!(told.contains(name), "{file} asks for {name}, which is not told: {body}");
        }
    }
    Ok(())
}
