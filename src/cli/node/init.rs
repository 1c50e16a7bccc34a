//! `kvnode init`: founds a cluster in the empty directories of its nodes.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, Write};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::Context;
use clap::Args;
use rand::{RngCore, TryRngCore};
use serde_json::json;

use super::config::{Config, Founding};
use super::inspect;
use crate::cli::{Common, Exit, Failure, Format};
use crate::cluster::Addresses;
use crate::node;
use crate::node_id::{ClusterId, NodeId};
use crate::ring::{Layout, Member};
use crate::storage::vfs::{Real, Vfs};
use crate::storage::{DirLock, Identity, Store};

/// Flags of `kvnode init`.
#[derive(Args, Clone, Debug)]
pub(super) struct InitArgs {
    /// The configuration of each node
    #[arg(short, long, value_name = "FILE", required = true, num_args = 1..)]
    config: Vec<PathBuf>,
    /// Say what would be done, and do nothing
    #[arg(short = 'n', long)]
    dry_run: bool,
}

/// A cluster that can be founded: checked, nothing written yet.
pub(super) struct Plan {
    /// Its id.
    pub(super) cluster: ClusterId,
    layout: Layout,
    nodes: Vec<(NodeId, Config)>,
}

pub(super) fn init(args: &InitArgs, common: &Common, out: &mut dyn Write) -> anyhow::Result<Exit> {
    let load =
        |file: &PathBuf| super::config::Config::load(Some(file), &[]).map_err(inspect::failure);
    let configs = args.config.iter().map(load).collect::<Result<Vec<_>, _>>()?;
    let plan = plan(configs)?;
    if !args.dry_run {
        found(&plan)?;
    }
    tell(&plan, args.dry_run, common, out)?;
    Ok(Exit::Done)
}

/// Checks that these nodes fit together and that their directories are free.
pub(super) fn plan(configs: Vec<Config>) -> anyhow::Result<Plan> {
    let first = configs.first().context("no node is configured")?;
    for other in &configs {
        check_same(first, other)?;
    }
    check_distinct("node.name", configs.iter().map(|config| config.name.clone()))?;
    let told = |of: fn(&Config) -> &str| configs.iter().map(move |config| of(config).to_owned());
    check_distinct("listen.peer", told(Config::told_peer))?;
    check_distinct("listen.client", told(Config::told_client))?;
    check_distinct(
        "node.data_dir",
        configs.iter().map(|config| config.data_dir.display().to_string()),
    )?;
    configs.iter().try_for_each(|config| check_empty(&config.data_dir))?;
    let cluster = ClusterId::from_bits(rand::rngs::OsRng.unwrap_err().next_u64());
    let Founding { n, r, w, mode, partitions, .. } = first.founding;
    let mut nodes: Vec<(NodeId, Config)> =
        configs.into_iter().map(|config| (new_id(), config)).collect();
    nodes.sort_by_key(|(id, _)| *id);
    let members = nodes.iter().map(|(id, config)| Member {
        id: *id,
        name: config.name.clone(),
        zone: config.zone.clone(),
        weight: config.founding.weight,
    });
    let layout = Layout::found(partitions, n, r, w, mode, members.collect())
        .map_err(|error| Failure::new(Exit::Config, "these nodes make no ring").because(error))?;
    Ok(Plan { cluster, layout, nodes })
}

/// Writes each node's directory, durably.
pub(super) fn found(plan: &Plan) -> anyhow::Result<()> {
    let addresses = plan.addresses();
    for (id, config) in &plan.nodes {
        let dir = &config.data_dir;
        found_one(plan, *id, config, &addresses)
            .with_context(|| format!("founding {} in {}", config.name, dir.display()))?;
    }
    Ok(())
}

fn found_one(
    plan: &Plan,
    id: NodeId,
    config: &Config,
    addresses: &BTreeMap<NodeId, Addresses>,
) -> anyhow::Result<()> {
    let dir = &config.data_dir;
    std::fs::DirBuilder::new().recursive(true).mode(0o700).create(dir)?;
    let vfs: Arc<dyn Vfs> = Arc::new(Real);
    let _lock = DirLock::take(&*vfs, dir, std::process::id())?;
    let random = rand::rngs::OsRng.unwrap_err().next_u32();
    let created = jiff::Timestamp::now().to_string();
    let (name, cluster_name) = (config.name.clone(), config.cluster.clone());
    let identity = Identity::first(id, name, plan.cluster, cluster_name, random, created);
    let (store, _) = Store::open(Arc::clone(&vfs), dir, config.store(), &mut |_, _| {})?;
    node::found(&store, &identity, plan.layout.clone(), addresses)?;
    store.close()?;
    // Last: a directory with an identity is a whole one.
    identity.write(&*vfs, dir)?;
    Ok(())
}

impl Plan {
    fn addresses(&self) -> BTreeMap<NodeId, Addresses> {
        let of = |config: &Config| Addresses {
            peer: config.told_peer().to_owned(),
            client: config.told_client().to_owned(),
            http: config.listen_http.clone().unwrap_or_default(),
        };
        self.nodes.iter().map(|(id, config)| (*id, of(config))).collect()
    }
}

fn tell(plan: &Plan, dry_run: bool, common: &Common, out: &mut dyn Write) -> io::Result<()> {
    let ring = &plan.layout.now;
    match common.format() {
        Format::Json => {
            let nodes: Vec<_> = plan
                .nodes
                .iter()
                .map(|(id, config)| json!({"node": id, "name": config.name, "data_dir": config.data_dir}))
                .collect();
            let line = json!({"v": 1, "type": "founded", "cluster": plan.cluster, "n": ring.n,
                "r": ring.r, "w": ring.w, "partitions": ring.q, "nodes": nodes, "dry_run": dry_run});
            writeln!(out, "{line}")
        }
        Format::Plain => plan.nodes.iter().try_for_each(|(id, config)| {
            writeln!(out, "{}\t{id}\t{}", config.name, config.data_dir.display())
        }),
        Format::Human => {
            let verb = if dry_run { "would be founded" } else { "founded" };
            writeln!(
                out,
                "cluster {} {verb}: {} nodes, {} partitions, N={} R={} W={}",
                plan.cluster,
                plan.nodes.len(),
                ring.q,
                ring.n,
                ring.r,
                ring.w
            )?;
            plan.nodes.iter().try_for_each(|(_, config)| {
                writeln!(out, "  {}  {}", config.name, config.data_dir.display())
            })
        }
    }
}

/// What is the cluster's must stand alike in every node's file.
fn check_same(first: &Config, other: &Config) -> Result<(), Failure> {
    let of = |config: &Config| {
        let Founding { n, r, w, mode, partitions, .. } = config.founding;
        (config.cluster.clone(), n, r, w, mode, partitions)
    };
    if of(first) == of(other) {
        return Ok(());
    }
    let message = format!(
        "{} and {} differ in node.cluster, quorum.n, r, w, mode or ring.partitions, which are the cluster's",
        first.name, other.name
    );
    Err(Failure::new(Exit::Config, message))
}

fn check_distinct(key: &str, values: impl Iterator<Item = String>) -> Result<(), Failure> {
    let mut seen = BTreeSet::new();
    for value in values {
        if seen.contains(&value) {
            return Err(Failure::new(Exit::Config, format!("two nodes have {key} = {value}")));
        }
        seen.insert(value);
    }
    Ok(())
}

fn check_empty(dir: &Path) -> Result<(), Failure> {
    let refused = |message: String| Failure::new(Exit::CannotCreate, message);
    match std::fs::read_dir(dir).map(|mut entries| entries.next()) {
        Ok(None) => Ok(()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Ok(Some(_)) => Err(refused(format!("{} is not empty", dir.display()))
            .note("a cluster is founded once, in empty directories")),
        Err(error) => Err(refused(format!("cannot look into {}", dir.display())).because(error)),
    }
}

fn new_id() -> NodeId {
    let mut bytes = [0; 16];
    rand::rngs::OsRng.unwrap_err().fill_bytes(&mut bytes);
    NodeId::from_bytes(bytes)
}
