//! The two systems: three real processes each, on loopback, every write synced by a majority before it is acknowledged.

mod etcd;
mod kvkit;

use std::fs::File;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use bytes::Bytes;
use clap::ValueEnum;
use serde::{Deserialize, Serialize};

use crate::usage::Usage;

/// Nodes of a cluster.
pub(crate) const NODES: usize = 3;
/// Longest time for a cluster to be ready.
const READY_MAX: Duration = Duration::from_mins(1);
/// Pause between two looks at that.
const LOOK: Duration = Duration::from_millis(50);

/// What is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Name {
    /// This package's.
    Kvkit,
    /// etcd.
    Etcd,
}

impl Name {
    pub(crate) const ALL: [Self; 2] = [Self::Kvkit, Self::Etcd];

    /// As tables show it.
    pub(crate) const fn shown(self) -> &'static str {
        match self {
            Self::Kvkit => "kvkit",
            Self::Etcd => "etcd",
        }
    }
}

/// Where the servers' programs are.
#[derive(Clone, Debug)]
pub(crate) struct Programs {
    pub(crate) kvnode: PathBuf,
    pub(crate) etcd: PathBuf,
}

/// A cluster that runs; its processes end with it.
pub(crate) struct Cluster {
    pub(crate) name: Name,
    servers: Servers,
    endpoints: Vec<String>,
}

/// A client of a cluster. Clones share connections.
#[derive(Clone)]
pub(crate) enum Client {
    Kvkit(::kvkit::client::Client),
    Etcd(Box<etcd_client::KvClient>),
}

/// Processes that are killed when this goes.
struct Servers(Vec<Child>);

impl Cluster {
    /// Starts a fresh cluster below `dir` and waits until it takes writes.
    pub(crate) async fn start(name: Name, programs: &Programs, dir: &Path) -> Result<Self> {
        let dir = dir.join(name.shown());
        std::fs::create_dir(&dir)?;
        let (servers, endpoints) = match name {
            Name::Kvkit => kvkit::start(&programs.kvnode, &dir)?,
            Name::Etcd => etcd::start(&programs.etcd, &dir)?,
        };
        let mut cluster = Self { name, servers, endpoints };
        cluster.wait_ready(&dir).await?;
        Ok(cluster)
    }

    /// A client with connections of its own.
    pub(crate) async fn client(&self) -> Result<Client> {
        Ok(match self.name {
            Name::Kvkit => Client::Kvkit(kvkit::connect(&self.endpoints).await?),
            Name::Etcd => Client::Etcd(Box::new(etcd::connect(&self.endpoints).await?)),
        })
    }

    /// What its processes used up to now.
    pub(crate) fn usage(&self) -> Result<Usage> {
        let of = |child: &Child| Usage::of(child.id());
        self.servers.0.iter().map(of).sum()
    }

    /// From now on the peak of memory is that of what follows.
    pub(crate) fn forget_peak(&self) -> Result<()> {
        self.servers.0.iter().try_for_each(|child| Usage::forget_peak(child.id()))
    }

    async fn wait_ready(&mut self, dir: &Path) -> Result<()> {
        let attempt = async {
            loop {
                if let Ok(client) = self.client().await
                    && client
                        .put(Bytes::from_static(b"ready"), Bytes::from_static(b"?"))
                        .await
                        .is_ok()
                {
                    return;
                }
                tokio::time::sleep(LOOK).await;
            }
        };
        let name = self.name.shown();
        if tokio::time::timeout(READY_MAX, attempt).await.is_err() {
            bail!("{name} was not ready in {READY_MAX:?}; its logs were in {}", dir.display());
        }
        for server in &mut self.servers.0 {
            if let Some(status) = server.try_wait()? {
                bail!("a process of {name} ended: {status}");
            }
        }
        Ok(())
    }
}

impl Client {
    /// Writes durably at a majority.
    pub(crate) async fn put(&self, key: Bytes, value: Bytes) -> Result<()> {
        match self {
            Self::Kvkit(client) => kvkit::put(client, key, value).await,
            Self::Etcd(client) => etcd::put(client, key, value).await,
        }
    }

    /// Reads at a majority; how many bytes the value has, or none where there is no value.
    pub(crate) async fn get(&self, key: Bytes) -> Result<Option<usize>> {
        match self {
            Self::Kvkit(client) => kvkit::get(client, key).await,
            Self::Etcd(client) => etcd::get(client, key).await,
        }
    }
}

impl Servers {
    fn spawn(&mut self, mut command: Command, log: &Path) -> Result<()> {
        let log = File::create(log)?;
        let errors = log.try_clone()?;
        let child = command.stdin(Stdio::null()).stdout(log).stderr(errors).spawn();
        self.0
            .push(child.with_context(|| format!("starting {}", command.get_program().display()))?);
        Ok(())
    }
}

impl Drop for Servers {
    fn drop(&mut self) {
        for child in &mut self.0 {
            // One that has ended by itself cannot be killed.
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// Free addresses on loopback, each other than the others.
fn free_addresses(count: usize) -> Result<Vec<String>> {
    let listeners: Vec<TcpListener> =
        (0..count).map(|_| TcpListener::bind("127.0.0.1:0")).collect::<Result<_, _>>()?;
    listeners.iter().map(|listener| Ok(listener.local_addr()?.to_string())).collect()
}
