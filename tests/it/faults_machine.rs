//! Clusters one of whose machines is in trouble: it stands still, its clock is wrong, it runs out of handles.

use std::io::Write;
use std::net::TcpStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use nix::sys::signal::Signal;

use crate::faults_kill::seed;
use crate::faulty_cluster::{FaultyCluster, library};
use crate::faulty_net::{Fault, Kind};
use crate::live::json;
use crate::live_kills::number;
use crate::load::{Entry, Load, assert_none_failed, judge, now};
use crate::node_fixture::{Result, wait_for};
use crate::tool::stdout;

/// File handles of the node that has few.
const HANDLES: u32 = 64;

/// Seconds under full load; the long form is `KVKIT_BUSY_SECONDS=600`.
const BUSY_SECONDS: u64 = 10;
/// Of so many messages one is lost.
const LOST_ONE_IN: u32 = 20;

/// Threads that take all processors for themselves, until this is dropped.
struct Burners {
    stop: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
}

impl Burners {
    fn start() -> Result<Self> {
        let stop = Arc::new(AtomicBool::new(false));
        let threads = (0..std::thread::available_parallelism()?.get()).map(|_| {
            let stop = Arc::clone(&stop);
            std::thread::spawn(move || {
                while !stop.load(Ordering::Relaxed) {
                    std::hint::spin_loop();
                }
            })
        });
        Ok(Self { threads: threads.collect(), stop })
    }
}

impl Drop for Burners {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            thread.join().expect("a thread that spins does not panic");
        }
    }
}

#[test]
fn busy_nodes_that_lose_a_twentieth_of_their_messages_put_nobody_down() -> Result<()> {
    let (seed, again) = seed();
    let second = ("KVNODE_GOSSIP__INTERVAL".to_owned(), "1s".to_owned());
    let cluster = FaultyCluster::start_with(5, "", |node| node.variables.push(second.clone()))?;
    let names: Vec<&str> = cluster.nodes.iter().map(|node| node.name.as_str()).collect();
    cluster.net.set(&names, &names, Fault::Lose { one_in: LOST_ONE_IN });
    let burners = Burners::start()?;
    let load = Load::start("k", seed, &[Entry::Hosts(cluster.hosts())]);
    let end = now() + Duration::from_secs(number("KVKIT_BUSY_SECONDS", BUSY_SECONDS));
    while now() < end {
        load.wait_for_more(20, &format!("on busy processors; {again}"));
    }
    drop(burners);
    assert!(cluster.net.met_anywhere(Kind::Lose) > 100, "hardly a message was lost");
    cluster.net.heal();
    for node in &cluster.nodes {
        let told = node.told(" is down");
        assert!(told.is_empty(), "{} says: {told:?}", node.name);
    }
    cluster.settle();
    let (history, _) = load.stop();
    judge(&history, cluster.hosts(), &again)
}

#[test]
fn a_node_that_stands_still_holds_nobody_up() -> Result<()> {
    let (seed, again) = seed();
    let cluster = FaultyCluster::start(3)?;
    let load = Load::start("k", seed, &[Entry::Hosts(cluster.hosts())]);
    load.wait_for_more(20, "before the pause");
    for node in &cluster.nodes {
        node.signal(Signal::SIGSTOP)?;
        load.wait_for_more(200, &format!("while {} stands still; {again}", node.name));
        node.signal(Signal::SIGCONT)?;
        cluster.settle();
    }
    cluster.assert_nobody_misses_writes();
    let (history, failed) = load.stop();
    judge(&history, cluster.hosts(), &again)?;
    assert_none_failed(&failed, &again);
    Ok(())
}

/// Years ahead, years behind: what is kept does not depend on it, and what is told stays in order.
#[test]
fn clocks_that_are_years_off_decide_nothing() -> Result<()> {
    let (seed, again) = seed();
    let Some(library) = library("faketime/libfaketimeMT.so.1") else {
        writeln!(
            std::io::stderr(),
            "skipped: there is no libfaketimeMT.so.1 to shift a clock with"
        )?;
        return Ok(());
    };
    let shift = |shifts: &str| {
        [
            ("LD_PRELOAD", library.display().to_string()),
            ("FAKETIME", shifts.to_owned()),
            ("FAKETIME_DONT_FAKE_MONOTONIC", "1".to_owned()),
        ]
        .map(|(name, value)| (name.to_owned(), value))
    };
    let mut cluster = FaultyCluster::start_with(3, "", |node| match node.name.as_str() {
        "n1" => node.variables.extend(shift("-1000d")),
        "n2" => node.variables.extend(shift("+3000d")),
        _ => {}
    })?;
    let load = Load::start("k", seed, &[Entry::Hosts(cluster.hosts())]);
    load.wait_for_more(100, "with clocks years apart");
    // The clocks change places while the nodes are away.
    for (node, shifts) in [(0, "+3000d"), (1, "-1000d")] {
        cluster.nodes[node].kill()?;
        cluster.nodes[node].variables.clear();
        cluster.nodes[node].variables.extend(shift(shifts));
        cluster.nodes[node].restart()?;
        load.wait_for_more(100, "with clocks that jumped");
    }
    cluster.settle();
    let (history, failed) = load.stop();
    judge(&history, cluster.hosts(), &again)?;
    assert_none_failed(&failed, &again);
    // A write that knows of another one wins over it, whichever clock was ahead.
    for (node, value) in [(1, "first"), (0, "second"), (2, "third"), (1, "fourth")] {
        cluster.nodes[node].kvctl(&["put", "order", value]).assert().success();
        let got = cluster.nodes[2].kvctl(&["get", "order", "--json"]).assert().success();
        assert_eq!(json(stdout(&got).trim())["value"], value);
    }
    Ok(())
}

/// Clients that fill a node's handles keep others out of that one, and nobody out of the cluster.
#[test]
fn a_node_without_file_handles_is_missed_and_comes_back() -> Result<()> {
    let (seed, again) = seed();
    if std::process::Command::new("prlimit").arg("--version").output().is_err() {
        writeln!(std::io::stderr(), "skipped: there is no prlimit to take handles away with")?;
        return Ok(());
    }
    let mut cluster = FaultyCluster::start_with(3, "", |node| {
        if node.name == "n1" {
            node.under = vec!["prlimit".to_owned(), format!("--nofile={HANDLES}:{HANDLES}")];
        }
    })?;
    let load = Load::start("k", seed, &[Entry::Hosts(cluster.hosts())]);
    load.wait_for_more(20, "before");
    let crowd: Vec<TcpStream> = (0..2 * HANDLES)
        .map(|_| TcpStream::connect(&cluster.nodes[0].client))
        .collect::<std::result::Result<_, _>>()?;
    load.wait_for_more(300, &format!("while n1 has no handles left; {again}"));
    for node in &cluster.nodes[1..] {
        node.kvctl(&["put", &format!("at {}", node.name), "v"]).assert().success();
    }
    drop(crowd);
    let first = &cluster.nodes[0].client;
    wait_for("n1 to take clients again", || {
        let status =
            cluster.kvctl(&["get", "at n2"]).env("KVCTL_HOSTS", first).output().ok()?.status;
        status.success().then_some(())
    });
    cluster.settle();
    let (history, failed) = load.stop();
    judge(&history, cluster.hosts(), &again)?;
    assert_none_failed(&failed, &again);
    assert!(cluster.nodes[0].runs(), "n1 ended");
    Ok(())
}
