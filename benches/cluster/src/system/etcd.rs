//! etcd: three members, fsync on (its default), linearizable reads (its default).

use std::path::Path;
use std::process::Command;

use anyhow::Result;
use bytes::Bytes;
use etcd_client::KvClient;

use super::{NODES, Servers, free_addresses};

/// Its space quota: above the default of 2 GiB, which overwrites would fill, up to what its makers advise.
const QUOTA_BYTES: u64 = 8 << 30;
/// Past revisions that it keeps: old values do not pile up.
const REVISIONS_KEPT: &str = "10000";

pub(super) fn start(etcd: &Path, dir: &Path) -> Result<(Servers, Vec<String>)> {
    let addresses = free_addresses(2 * NODES)?;
    let urls: Vec<String> = addresses.iter().map(|address| format!("http://{address}")).collect();
    let (peers, clients) = urls.split_at(NODES);
    let members: Vec<String> =
        (1..).zip(peers).map(|(number, peer)| format!("m{number}={peer}")).collect();
    let mut servers = Servers(Vec::new());
    for (number, (peer, client)) in (1..).zip(peers.iter().zip(clients)) {
        let mut command = Command::new(etcd);
        command
            .args(["--name", &format!("m{number}")])
            .arg("--data-dir")
            .arg(dir.join(format!("m{number}")))
            .args(["--initial-advertise-peer-urls", peer, "--listen-peer-urls", peer])
            .args(["--advertise-client-urls", client, "--listen-client-urls", client])
            .args(["--initial-cluster", &members.join(","), "--initial-cluster-state", "new"])
            .args(["--quota-backend-bytes", &QUOTA_BYTES.to_string()])
            .args(["--auto-compaction-mode", "revision"])
            .args(["--auto-compaction-retention", REVISIONS_KEPT])
            .args(["--log-level", "warn"]);
        servers.spawn(command, &dir.join(format!("m{number}.log")))?;
    }
    Ok((servers, clients.to_vec()))
}

pub(super) async fn connect(endpoints: &[String]) -> Result<KvClient> {
    Ok(etcd_client::Client::connect(endpoints, None).await?.kv_client())
}

pub(super) async fn put(client: &KvClient, key: Bytes, value: Bytes) -> Result<()> {
    client.clone().put(key, value, None).await?;
    Ok(())
}

pub(super) async fn get(client: &KvClient, key: Bytes) -> Result<Option<usize>> {
    let reply = client.clone().get(key, None).await?;
    Ok(reply.kvs().first().map(|pair| pair.value().len()))
}
