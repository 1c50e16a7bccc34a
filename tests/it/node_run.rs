//! `kvnode run`: what keeps a node from running, what it survives, how it stops.

use std::io::Read;
use std::net::TcpListener;
use std::os::unix::net::UnixDatagram;
use std::path::Path;
use std::process::{Command, Stdio};

use nix::sys::signal::Signal;
use predicates::prelude::*;
use predicates::str::contains;

use crate::lone_node::{Alone, http_get, signal};
use crate::node_fixture::{
    DevCluster, PATIENCE, Result, ended, expect, free_ports, kvnode, output_in_time, wait_for,
};
use crate::tool::program;

#[test]
fn a_taken_port_is_named() -> Result<()> {
    let node = Alone::founded()?;
    for key in ["peer", "client", "http"] {
        let address = node.address(key)?;
        let _taken = TcpListener::bind(&address)?;
        let (_, told) = expect(&output_in_time(&mut node.command())?, 71);
        assert!(told.contains(&format!("cannot listen on {address}")), "{told}");
    }
    Ok(())
}

#[test]
fn a_second_node_on_one_directory_is_refused_with_the_first_ones_pid() -> Result<()> {
    let mut node = Alone::founded()?;
    let pid = node.start(&[])?;
    let (_, told) = expect(&output_in_time(&mut node.command())?, 75);
    assert!(told.contains(&format!("is in use by process {pid}")), "{told}");
    Ok(())
}

#[test]
fn a_directory_of_another_cluster_or_node_is_refused() -> Result<()> {
    let node = Alone::founded()?;
    for (set, what) in
        [("node.cluster=other", "not to cluster other"), ("node.name=n9", "not to node n9")]
    {
        let (_, told) = expect(&output_in_time(node.command().args(["--set", set]))?, 76);
        assert!(told.contains(what), "{told}");
    }
    Ok(())
}

#[test]
fn a_node_of_another_cluster_of_the_same_name_is_refused_by_the_members() -> Result<()> {
    let (ours, other) = (DevCluster::start(2)?, DevCluster::start(2)?);
    expect(&ours.stop()?, 0);
    expect(&other.stop()?, 0);
    // Where the stranger expects its n1, ours answers.
    let mut n1 = ours.nodes[0]
        .run()
        .args(["--set", &format!("listen.peer={}", other.nodes[0].peer)])
        .stderr(Stdio::null())
        .spawn()?;
    let output = output_in_time(&mut other.nodes[1].run());
    signal(i32::try_from(n1.id())?, Signal::SIGTERM)?;
    assert!(n1.wait()?.success(), "ours suffered");
    let (_, told) = expect(&output?, 76);
    assert!(told.contains("wrong cluster"), "{told}");
    Ok(())
}

#[test]
fn a_copied_directory_is_refused() -> Result<()> {
    let cluster = DevCluster::start(3)?;
    expect(&cluster.stop()?, 0);
    let copy = cluster.dir.path().join("copy");
    copy_dir(&cluster.nodes[0].data_dir, &copy)?;
    expect(&cluster.dev().output()?, 0);
    let port = free_ports(1)?;
    let mut run = cluster.nodes[0].run();
    run.args(["--set", &format!("node.data_dir={}", copy.display())])
        .args(["--set", &format!("listen.peer=127.0.0.1:{port}")])
        .args(["--set", &format!("listen.client=127.0.0.1:{}", port + 1)])
        .args(["--set", &format!("listen.http=127.0.0.1:{}", port + 2)]);
    let (_, told) = expect(&output_in_time(&mut run)?, 76);
    assert!(told.contains("copied identity"), "{told}");
    let (status, _) = http_get(&cluster.nodes[0].http, "/readyz")?;
    assert_eq!(status, 200, "the original suffered");
    Ok(())
}

fn copy_dir(from: &Path, to: &Path) -> Result<()> {
    std::fs::create_dir(to)?;
    for entry in std::fs::read_dir(from)? {
        let entry = entry?;
        let target = to.join(entry.file_name());
        if entry.file_type()?.is_dir() {
            copy_dir(&entry.path(), &target)?;
        } else {
            std::fs::copy(entry.path(), target)?;
        }
    }
    Ok(())
}

#[test]
fn sigterm_ends_in_good_order_and_sighup_does_not() -> Result<()> {
    let mut node = Alone::founded()?;
    let socket = node.dir.path().join("notify");
    let systemd = UnixDatagram::bind(&socket)?;
    systemd.set_read_timeout(Some(PATIENCE))?;
    let heard = || -> Result<String> {
        let mut buffer = [0; 256];
        let length = systemd.recv(&mut buffer)?;
        Ok(String::from_utf8_lossy(&buffer[..length]).into_owned())
    };
    let pid = node.start(&[("NOTIFY_SOCKET", &socket)])?;
    assert!(heard()?.contains("READY=1"));
    signal(pid, Signal::SIGHUP)?;
    wait_for("the reload", || node.log().contains("configuration reloaded").then_some(()));
    std::fs::write(&node.config, "[node]\nnmae = 1\n")?;
    signal(pid, Signal::SIGHUP)?;
    wait_for("the refusal", || node.log().contains("the old one stays").then_some(()));
    signal(pid, Signal::SIGTERM)?;
    assert!(heard()?.contains("STOPPING=1"));
    assert_eq!(node.wait_end(), Some(0), "{}", node.log());
    Ok(())
}

#[test]
fn status_tells_members_and_figures() -> Result<()> {
    let mut node = Alone::founded()?;
    node.start(&[])?;
    let http = node.address("http")?;
    let (status, body) = http_get(&http, "/status")?;
    let body: serde_json::Value = serde_json::from_str(&body)?;
    assert_eq!((status, &body["node"]["name"]), (200, &"n1".into()));
    assert_eq!(body["members"].as_array().map(Vec::len), Some(1));
    assert_eq!(body["node"]["moving"]["gains"], 0, "{body}");
    let (status, body) = http_get(&http, "/clusterz")?;
    let body: serde_json::Value = serde_json::from_str(&body)?;
    assert_eq!((status, &body["change"]), (200, &serde_json::Value::Null));
    assert_eq!(body["moving"]["left_over"], 0, "{body}");
    assert_eq!(http_get(&http, "/nothing")?.0, 404);
    Ok(())
}

#[test]
fn a_node_starts_in_the_instant_after_a_kill() -> Result<()> {
    let mut node = Alone::founded()?;
    for _ in 0..3 {
        let pid = node.start(&[])?;
        signal(pid, Signal::SIGKILL)?;
        // Nobody waited for the killed one: it is ending, then a zombie, while the next one starts.
        let mut killed = node.child.take().ok_or("not started")?;
        let next = node.start(&[]);
        killed.wait()?;
        assert_ne!(next?, pid, "{}", node.log());
        assert_eq!(node.stop()?, Some(0), "{}", node.log());
    }
    Ok(())
}

#[test]
fn a_disk_that_fails_ends_the_node_with_74() -> Result<()> {
    let mut node = Alone::founded()?;
    // A limit on file sizes stands for the failing disk: writes get an error instead of the signal.
    let mut command = Command::new("sh");
    command.args(["-c", "trap '' XFSZ; exec \"$0\" run -c \"$1\""]);
    command.arg(kvnode().get_program()).arg(&node.config).stderr(Stdio::piped());
    let pid = node.start_by(command)?;
    node.kvctl(&["put", "k", "v"])?.assert().success();
    let limited =
        Command::new("prlimit").args(["--pid", &pid.to_string(), "--fsize=1"]).output()?;
    expect(&limited, 0);
    node.kvctl(&["put", "k", "w", "--json"])?
        .assert()
        .code(75)
        .stderr(contains(r#""outcome":"unknown""#));
    assert_eq!(node.wait_end(), Some(74));
    let mut told = String::new();
    let stderr = node.child.as_mut().and_then(|child| child.stderr.take());
    stderr.ok_or("no stderr")?.read_to_string(&mut told)?;
    let last = told.lines().last().unwrap_or_default();
    assert!(last.starts_with("kvnode: ") && last.contains("File too large"), "{told}");
    // What was acknowledged is there.
    node.start(&[])?;
    node.kvctl(&["get", "k"])?.assert().success().stdout(predicate::eq("v").or(predicate::eq("w")));
    Ok(())
}

/// Nodes that do not move until this is dropped.
struct Stopped(Vec<i32>);

impl Stopped {
    fn new(pids: Vec<i32>) -> Result<Self> {
        pids.iter().try_for_each(|pid| signal(*pid, Signal::SIGSTOP))?;
        Ok(Self(pids))
    }
}

impl Drop for Stopped {
    fn drop(&mut self) {
        for pid in &self.0 {
            // One that ended meanwhile needs nothing.
            let _ = signal(*pid, Signal::SIGCONT);
        }
    }
}

/// Gossip so slow that a member which does not move is not missed while a test looks.
const SLOW_GOSSIP: (&str, &str) = ("KVNODE_GOSSIP__INTERVAL", "15s");

/// What `/status` says of the node itself and of its members.
fn status(http: &str) -> Option<serde_json::Value> {
    serde_json::from_str(&http_get(http, "/status").ok()?.1).ok()
}

#[test]
fn the_first_signal_lets_requests_finish_and_the_second_ends_at_once() -> Result<()> {
    for (second, code) in [(Signal::SIGTERM, 143), (Signal::SIGINT, 130)] {
        let cluster = DevCluster::start_with(3, &[SLOW_GOSSIP])?;
        let [n1, n2, n3] = &cluster.nodes[..] else { return Err("three nodes".into()) };
        signal(n1.pid()?, Signal::SIGTERM)?;
        wait_for("n1 to stop", || http_get(&n1.http, "/livez").is_err().then_some(()));
        // Again, as our child: only a parent learns the exit code.
        let mut command = n1.run();
        let mut first =
            ended(command.env(SLOW_GOSSIP.0, SLOW_GOSSIP.1).stderr(Stdio::null()).spawn()?);
        wait_for("n1 to reach the others", || {
            let status = status(&n1.http)?;
            let members = status["members"].as_array()?;
            members.iter().all(|member| member["reachable"] == true).then_some(())
        });
        let puts = || status(&n1.http)?["node"]["counters"]["puts"].as_u64();
        let before = puts().ok_or("no counter of puts")?;
        // Peers that do not move keep a put open.
        let _stopped = Stopped::new(vec![n2.pid()?, n3.pid()?])?;
        let mut put = program("kvctl");
        put.args(["put", "k", "v", "-w", "all", "--timeout", "50s", "-H", &n1.client]);
        let mut put = ended(put.stderr(Stdio::null()).spawn()?);
        wait_for("the put to arrive", || (before < puts()?).then_some(()));
        let pid = i32::try_from(first.0.id())?;
        signal(pid, Signal::SIGTERM)?;
        wait_for("the drain", || (http_get(&n1.http, "/readyz").ok()?.0 == 503).then_some(()));
        assert_eq!(first.0.try_wait()?, None, "it did not wait for the put");
        assert_eq!(put.0.try_wait()?, None, "the put is in flight no more");
        signal(pid, second)?;
        let status = wait_for("the node to end", || first.0.try_wait().ok().flatten());
        assert_eq!(status.code(), Some(code));
    }
    Ok(())
}
