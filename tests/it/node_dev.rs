//! `kvnode dev`: a cluster in one command.

use std::io::{BufRead, BufReader};
use std::process::Stdio;

use bytes::Bytes;
use kvkit::client::{Client, ClientOptions, GetOptions, PutOptions};
use kvkit::version::Content;
use kvkit::wire::client::PutBasis;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::node_fixture::{
    DevCluster, Ended, PATIENCE, Result, expect, free_ports, kvnode, wait_for,
};

/// A client that knows every node of the cluster.
fn options(cluster: &DevCluster) -> ClientOptions {
    ClientOptions {
        hosts: cluster.nodes.iter().map(|node| node.client.clone()).collect(),
        socket: None,
        timeout: PATIENCE,
        agent: "test".to_owned(),
    }
}

fn run<T>(future: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    runtime.expect("a runtime").block_on(future)
}

async fn put(client: &Client, key: &str, value: &str) -> Result<()> {
    let (key, value) = (key.to_owned().into(), value.to_owned().into());
    client.put(key, Some(value), PutBasis::Present, PutOptions::default()).await?;
    Ok(())
}

async fn get(client: &Client, key: &str) -> Result<Vec<Bytes>> {
    let got = client.get(key.to_owned().into(), GetOptions::default()).await?;
    let values = got.state.versions().values().filter_map(|version| match &version.content {
        Content::Value(value) => Some(value.clone()),
        Content::Tombstone => None,
    });
    Ok(values.collect())
}

#[test]
fn a_cluster_stores_through_a_kill_and_a_restart() -> Result<()> {
    let cluster = DevCluster::start(3)?;
    let keys: Vec<String> = (0..60).map(|number| format!("k{number}")).collect();
    run(async {
        let client = Client::connect(options(&cluster)).await?;
        for key in &keys {
            put(&client, key, "one").await?;
        }
        cluster.nodes[1].kill()?;
        for key in &keys {
            put(&client, key, "two").await?;
        }
        Ok::<_, Box<dyn std::error::Error>>(())
    })?;
    // What killed it is none of dev's affair: it is started again by hand, and counts as dev's node.
    let mut again = cluster.nodes[1].run().stderr(Stdio::null()).spawn()?;
    run(async {
        let client = Client::connect(options(&cluster)).await?;
        for key in &keys {
            assert_eq!(get(&client, key).await?, ["two"], "{key}");
        }
        Ok::<_, Box<dyn std::error::Error>>(())
    })?;
    wait_for("the node to run again", || {
        (cluster.nodes[1].pid().ok()? == i32::try_from(again.id()).ok()?).then_some(())
    });
    let (_, told) = expect(&cluster.stop()?, 0);
    assert!(told.contains("stopped 3 of 3"), "{told}");
    assert!(
        again.wait()?.success(),
        "the node that was started by hand did not stop in good order"
    );
    // And the stopped cluster starts again with its data.
    expect(&cluster.dev().output()?, 0);
    run(async {
        let client = Client::connect(options(&cluster)).await?;
        for key in &keys {
            assert_eq!(get(&client, key).await?, ["two"], "{key} after the restart");
        }
        Ok(())
    })
}

#[test]
fn all_nodes_killed_at_once_lose_nothing() -> Result<()> {
    let cluster = DevCluster::start(3)?;
    run(async {
        let client = Client::connect(options(&cluster)).await?;
        for number in 0..100 {
            put(&client, &format!("k{number}"), "v").await?;
        }
        Ok::<_, Box<dyn std::error::Error>>(())
    })?;
    cluster.nodes.iter().try_for_each(crate::node_fixture::Node::kill)?;
    expect(&cluster.dev().output()?, 0);
    run(async {
        let client = Client::connect(options(&cluster)).await?;
        for number in 0..100 {
            let key = format!("k{number}");
            assert_eq!(get(&client, &key).await?, ["v"], "{key}");
        }
        Ok(())
    })
}

#[test]
fn a_cluster_that_runs_is_not_started_twice() -> Result<()> {
    let cluster = DevCluster::start(1)?;
    let (_, told) = expect(&cluster.dev().output()?, 75);
    assert!(told.contains("a cluster runs in") && told.contains("--stop"), "{told}");
    Ok(())
}

#[test]
fn the_admin_socket_serves_too() -> Result<()> {
    let cluster = DevCluster::start(1)?;
    let socket = Some(cluster.nodes[0].data_dir.join("admin.sock"));
    run(async {
        let client = Client::connect(ClientOptions { socket, ..options(&cluster) }).await?;
        put(&client, "k", "v").await?;
        assert_eq!(get(&client, "k").await?, ["v"]);
        Ok(())
    })
}

#[test]
fn ctrl_c_stops_all_nodes_and_removes_a_temporary_directory() -> Result<()> {
    let port = free_ports(2)?.to_string();
    let temporary = tempfile::tempdir()?;
    let mut dev = Ended(
        kvnode()
            .args(["dev", "-n", "2", "--port", &port])
            .env("TMPDIR", temporary.path())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()?,
    );
    let stdout = BufReader::new(dev.0.stdout.take().ok_or("no stdout")?);
    let export = stdout.lines().find(|line| {
        line.as_ref().is_ok_and(|line| line.starts_with("export KVCTL_HOSTS=127.0.0.1:"))
    });
    assert!(export.is_some(), "no export line");
    let home = temporary.path().join(format!("kvnode-dev-{port}"));
    assert!(home.join("dev.json").exists(), "no record");
    kill(Pid::from_raw(i32::try_from(dev.0.id())?), Signal::SIGINT)?;
    let status = wait_for("dev to end", || dev.0.try_wait().ok().flatten());
    assert_eq!(status.code(), Some(130));
    assert!(!home.exists(), "the temporary directory stayed");
    let stopped = kvnode()
        .args(["dev", "--stop", "--port", &port])
        .env("TMPDIR", temporary.path())
        .output()?;
    expect(&stopped, 0);
    Ok(())
}
