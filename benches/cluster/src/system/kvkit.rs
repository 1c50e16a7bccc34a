//! kvkit: N=3, R=W=2, `sync = "always"`, everything else by default.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::{Result, ensure};
use bytes::Bytes;
use kvkit::client::{Client, ClientOptions, GetOptions, PutOptions};
use kvkit::version::Content;
use kvkit::wire::client::PutBasis;

use super::{NODES, Servers, free_addresses};

/// Deadline of a request: that of kvctl.
const TIMEOUT: Duration = Duration::from_secs(5);

pub(super) fn start(kvnode: &Path, dir: &Path) -> Result<(Servers, Vec<String>)> {
    let addresses = free_addresses(2 * NODES)?;
    let (peers, clients) = addresses.split_at(NODES);
    let mut configs = Vec::new();
    for (number, (peer, client)) in (1..).zip(peers.iter().zip(clients)) {
        let data_dir = dir.join(format!("n{number}"));
        let config = dir.join(format!("n{number}.toml"));
        let text = format!(
            "[node]\nname = \"n{number}\"\ncluster = \"bench\"\ndata_dir = \"{}\"\n\
             [listen]\npeer = \"{peer}\"\nclient = \"{client}\"\nhttp = \"\"\n\
             [quorum]\nn = 3\nr = 2\nw = 2\n[storage]\nsync = \"always\"\n",
            data_dir.display()
        );
        std::fs::write(&config, text)?;
        configs.push(config);
    }
    let founded = Command::new(kvnode).args(["init", "-c"]).args(&configs).output()?;
    ensure!(founded.status.success(), "{}", String::from_utf8_lossy(&founded.stderr));
    let mut servers = Servers(Vec::new());
    for config in &configs {
        let mut command = Command::new(kvnode);
        command.args(["run", "-c"]).arg(config);
        servers.spawn(command, &config.with_extension("log"))?;
    }
    Ok((servers, clients.to_vec()))
}

pub(super) async fn connect(endpoints: &[String]) -> Result<Client> {
    let (hosts, agent) = (endpoints.to_vec(), "cluster-bench".to_owned());
    Ok(Client::connect(ClientOptions { hosts, socket: None, timeout: TIMEOUT, agent }).await?)
}

pub(super) async fn put(client: &Client, key: Bytes, value: Bytes) -> Result<()> {
    client.put(key, Some(value), PutBasis::Present, PutOptions::default()).await?;
    Ok(())
}

pub(super) async fn get(client: &Client, key: Bytes) -> Result<Option<usize>> {
    let got = client.get(key, GetOptions::default()).await?;
    let versions = got.state.versions().values();
    Ok(versions.map(|version| &version.content).find_map(|content| match content {
        Content::Value(value) => Some(value.len()),
        Content::Tombstone => None,
    }))
}
