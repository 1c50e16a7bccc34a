//! `kvnode dev`: a whole cluster of child processes on this machine.
//!
//! ```text
//! DIR/dev.json           the cluster's nodes: {"v":1,"type":"dev","nodes":[{name, pid, peer, client, http, data_dir}]}
//! DIR/n1/                a node's data directory, with its kvnode.toml and kvnode.log beside the store
//! ```
//! Without `--data` the directory is a temporary one named by the port, and goes when the cluster stops. Who runs a node
//! now is what its `LOCK` says: a node killed and started again by hand is still one of the cluster's.

mod node;
mod record;

use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Context;
use clap::Args;

use super::init;
use crate::cli::interrupts::Interrupts;
use crate::cli::{Common, Exit, Failure, Format};
use node::DevNode;
use record::Record;

/// Most nodes of a cluster on one machine.
const NODES_MAX: u16 = 32;
/// Ports between one node's first and the next one's.
const PORTS_EACH: u16 = 10;
/// Replicas of each key, where there are that many nodes.
const REPLICAS: u16 = 3;
/// Longest time until a cluster must be ready.
const READY_MAX: Duration = Duration::from_mins(1);

/// How often nodes are looked after.
const LOOK: Duration = Duration::from_millis(200);

/// Flags of `kvnode dev`.
#[derive(Args, Clone, Debug)]
pub(super) struct DevArgs {
    /// How many nodes; a cluster that --data holds already keeps its own
    #[arg(short = 'n', long, default_value_t = 3, value_parser = clap::value_parser!(u16).range(1..=i64::from(NODES_MAX)))]
    nodes: u16,
    /// Keep the data here; a stopped cluster that is here is started again
    #[arg(long, value_name = "DIR")]
    data: Option<PathBuf>,
    /// First port: node i listens from PORT + 10(i-1) for peers, clients, HTTP
    #[arg(long, default_value_t = 7400)]
    port: u16,
    /// Serve Redis clients too
    #[arg(long)]
    resp: bool,
    /// Return once all nodes are ready, and leave them running
    #[arg(long)]
    detach: bool,
    /// Stop the cluster in --data, or the one at --port
    #[arg(long, conflicts_with_all = ["detach", "resp"])]
    stop: bool,
}

/// Where a cluster lives.
struct Home {
    dir: PathBuf,
    is_temporary: bool,
}

pub(super) fn dev(args: &DevArgs, common: &Common, out: &mut dyn Write) -> anyhow::Result<Exit> {
    let home = Home::of(args)?;
    if args.stop {
        return stop(&home, common);
    }
    if args.resp {
        let message = "--resp: the RESP listener is not built yet";
        return Err(Failure::usage(message).into());
    }
    let mut nodes = prepare(&home, args)?;
    let outcome = runtime()?.block_on(async {
        // Before the first process starts: whatever ends this program early stops the nodes too.
        let mut interrupts = Interrupts::new()?;
        if let Some(exit) = start(&mut nodes, &home, common, out, &mut interrupts).await? {
            return Ok(Some(exit));
        }
        if args.detach {
            Ok(None)
        } else {
            watch(&mut nodes, common, &mut interrupts).await.map(Some)
        }
    });
    if let Ok(None) = outcome {
        nodes.iter_mut().for_each(DevNode::let_go);
        return Ok(Exit::Done);
    }
    node::stop_all(&mut nodes);
    home.clean_up();
    outcome.map(|exit| exit.unwrap_or(Exit::Done))
}

/// Starts every node and tells about them once all are ready; the exit code if somebody interrupts that.
async fn start(
    nodes: &mut [DevNode],
    home: &Home,
    common: &Common,
    out: &mut dyn Write,
    interrupts: &mut Interrupts,
) -> anyhow::Result<Option<Exit>> {
    nodes.iter_mut().try_for_each(DevNode::spawn)?;
    Record::of(nodes).write(&home.dir)?;
    tokio::select! {
        ready = node::all_ready(nodes, READY_MAX) => ready?,
        exit = interrupts.next() => return Ok(Some(exit)),
    }
    tell(nodes, home, common, out)?;
    out.flush()?;
    Ok(None)
}

/// The nodes of the cluster at `home`: those that are there, or new ones.
fn prepare(home: &Home, args: &DevArgs) -> anyhow::Result<Vec<DevNode>> {
    let nodes = match Record::read(&home.dir)? {
        Some(record) => {
            let nodes = record.into_nodes();
            if let Some(node) = nodes.iter().find(|node| node.running().is_some()) {
                let message =
                    format!("a cluster runs in {}: {} is up", home.dir.display(), node.name);
                let stop = format!("kvnode dev --stop {}", home.flag(args));
                return Err(Failure::new(Exit::TryAgain, message).note(stop).into());
            }
            nodes
        }
        None => Vec::new(),
    };
    if home.is_temporary {
        // What a cluster that did not stop in good order left behind.
        home.clean_up();
    } else if !nodes.is_empty() {
        return Ok(nodes);
    }
    found(home, args)
}

/// Founds a new cluster.
fn found(home: &Home, args: &DevArgs) -> anyhow::Result<Vec<DevNode>> {
    let last = u32::from(args.port) + u32::from(PORTS_EACH) * u32::from(args.nodes);
    if last > u32::from(u16::MAX) {
        return Err(
            Failure::usage(format!("--port {}: ports up to {last} are needed", args.port)).into()
        );
    }
    std::fs::create_dir_all(&home.dir).map_err(|error| cannot_create(&home.dir).because(error))?;
    let nodes: Vec<DevNode> = (0..args.nodes)
        .map(|index| DevNode::new(&home.dir, index + 1, args.port + PORTS_EACH * index))
        .collect();
    let configs = nodes
        .iter()
        .map(|node| node.configuration(&nodes, REPLICAS.min(args.nodes)))
        .collect::<Vec<_>>();
    let parsed =
        configs.iter().map(|text| node::parse(text)).collect::<anyhow::Result<Vec<_>>>()?;
    init::found(&init::plan(parsed)?)?;
    for (node, text) in nodes.iter().zip(configs) {
        let file = node.config_file();
        let mut options = std::fs::File::options();
        let created = options.write(true).create_new(true).mode(0o600).open(&file);
        created
            .and_then(|mut created| created.write_all(text.as_bytes()))
            .map_err(|error| cannot_create(&file).because(error))?;
    }
    Ok(nodes)
}

fn tell(
    nodes: &[DevNode],
    home: &Home,
    common: &Common,
    out: &mut dyn Write,
) -> std::io::Result<()> {
    match common.format() {
        Format::Json => writeln!(out, "{}", Record::of(nodes).json()),
        Format::Plain => nodes.iter().try_for_each(|node| {
            let DevNode { name, peer, client, http, data_dir, .. } = node;
            writeln!(out, "{name}\t{}\t{peer}\t{client}\t{http}\t{}", node.pid, data_dir.display())
        }),
        Format::Human => {
            writeln!(out, "NODE  PID      PEER             CLIENT           HTTP")?;
            for node in nodes {
                let DevNode { name, pid, peer, client, http, .. } = node;
                writeln!(out, "{name:<5} {pid:<8} {peer:<16} {client:<16} {http}")?;
            }
            let hosts: Vec<&str> = nodes.iter().map(|node| node.client.as_str()).collect();
            writeln!(out, "data in {}", home.dir.display())?;
            writeln!(out, "export KVCTL_HOSTS={}", hosts.join(","))
        }
    }
}

/// Waits for Ctrl-C, telling meanwhile which node ended.
async fn watch(
    nodes: &mut [DevNode],
    common: &Common,
    interrupts: &mut Interrupts,
) -> anyhow::Result<Exit> {
    if !common.quiet {
        writeln!(std::io::stderr(), "running; Ctrl-C stops all nodes")?;
    }
    let mut look = tokio::time::interval(LOOK);
    loop {
        tokio::select! {
            exit = interrupts.next() => return Ok(exit),
            _ = look.tick() => {}
        }
        for node in nodes.iter_mut() {
            if let Some(how) = node.ended() {
                let again = format!("kvnode run -c {}", node.config_file().display());
                writeln!(std::io::stderr(), "{} ended ({how}); again: {again}", node.name)?;
            }
        }
    }
}

fn stop(home: &Home, common: &Common) -> anyhow::Result<Exit> {
    let Some(record) = Record::read(&home.dir)? else {
        if home.is_temporary {
            writeln!(std::io::stderr(), "kvnode: nothing to stop: no {}", home.dir.display())?;
            return Ok(Exit::Done);
        }
        let message = format!("{} holds no cluster of kvnode dev", home.dir.display());
        return Err(Failure::new(Exit::NoInput, message).into());
    };
    let mut nodes = record.into_nodes();
    let stopped = node::stop_all(&mut nodes);
    home.clean_up();
    if !common.quiet {
        writeln!(std::io::stderr(), "stopped {stopped} of {} nodes", nodes.len())?;
    }
    Ok(Exit::Done)
}

impl Home {
    fn of(args: &DevArgs) -> anyhow::Result<Self> {
        if let Some(dir) = &args.data {
            let dir = std::path::absolute(dir).context("finding --data")?;
            return Ok(Self { dir, is_temporary: false });
        }
        let name = format!("kvnode-dev-{}", args.port);
        Ok(Self { dir: std::env::temp_dir().join(name), is_temporary: true })
    }

    /// The flag that finds this cluster again.
    fn flag(&self, args: &DevArgs) -> String {
        if self.is_temporary {
            format!("--port {}", args.port)
        } else {
            format!("--data {}", self.dir.display())
        }
    }

    /// Removes a temporary directory, if it is one of a dev cluster.
    fn clean_up(&self) {
        if !self.is_temporary || !self.dir.exists() {
            return;
        }
        if let Err(error) = std::fs::remove_dir_all(&self.dir) {
            let text = format!("kvnode: cannot remove {}: {error}\n", self.dir.display());
            // Where stderr is gone too there is nobody left to tell.
            let _ = std::io::stderr().write_all(text.as_bytes());
        }
    }
}

fn cannot_create(path: &Path) -> Failure {
    Failure::new(Exit::CannotCreate, format!("cannot create {}", path.display()))
}

fn runtime() -> anyhow::Result<tokio::runtime::Runtime> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    runtime.context("starting the runtime")
}
