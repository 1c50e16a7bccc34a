//! One node of a dev cluster: its files, its process.

use std::fs::File;
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use anyhow::Context;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::cli::node::config::{Config, toml_text};
use crate::cli::node::inspect;
use crate::cli::{Exit, Failure};
use crate::client::{Client, ClientOptions};
use crate::storage::vfs::Real;
use crate::storage::{DirLock, LockError};
use crate::wire::client::{MemberHealth, ReplyBody, RequestBody};

/// How often a dev node raises its heartbeat: a killed one shall be noticed while somebody watches.
const GOSSIP_INTERVAL: &str = "200ms";
/// How often a node is asked whether it is ready, and looked after whether it has stopped.
const LOOK: Duration = Duration::from_millis(20);
/// Longest time for a node to stop in good order: the longest deadline of a request, and some.
const STOP_MAX: Duration = Duration::from_secs(20);
/// Lines of a node's log shown when it does not start.
const LOG_LINES: usize = 5;

/// One node of a dev cluster.
#[derive(Debug)]
pub(super) struct DevNode {
    pub(super) name: String,
    pub(super) pid: u32,
    pub(super) peer: String,
    pub(super) client: String,
    pub(super) http: String,
    pub(super) data_dir: PathBuf,
    /// Where this process started it, and has not seen it end.
    pub(super) child: Option<Child>,
}

impl DevNode {
    /// Node `number` of the cluster in `dir`, listening from `port`.
    pub(super) fn new(dir: &Path, number: u16, port: u16) -> Self {
        let name = format!("n{number}");
        let at = |offset: u16| format!("127.0.0.1:{}", port + offset);
        let data_dir = dir.join(&name);
        Self { name, pid: 0, peer: at(0), client: at(1), http: at(2), data_dir, child: None }
    }

    pub(super) fn config_file(&self) -> PathBuf {
        self.data_dir.join("kvnode.toml")
    }

    fn log_file(&self) -> PathBuf {
        self.data_dir.join("kvnode.log")
    }

    /// What its `kvnode.toml` says.
    pub(super) fn configuration(&self, nodes: &[Self], n: u16) -> String {
        let text = toml_text;
        let others = nodes.iter().filter(|node| node.name != self.name);
        let seeds: Vec<String> = others.map(|node| text(&node.peer)).collect();
        let majority = n / 2 + 1;
        format!(
            "# Written by kvnode dev.\n\
             [node]\nname = {name}\ndata_dir = {data_dir}\ncluster = \"dev\"\nseeds = [{seeds}]\n\n\
             [listen]\npeer = {peer}\nclient = {client}\nhttp = {http}\n\n\
             [quorum]\nn = {n}\nr = {majority}\nw = {majority}\n\n\
             [gossip]\ninterval = \"{GOSSIP_INTERVAL}\"\n",
            name = text(&self.name),
            data_dir = text(&self.data_dir.display().to_string()),
            seeds = seeds.join(", "),
            peer = text(&self.peer),
            client = text(&self.client),
            http = text(&self.http),
        )
    }

    /// Starts its process, in a group of its own: Ctrl-C is for us, and we pass it on in good order.
    pub(super) fn spawn(&mut self) -> anyhow::Result<()> {
        let program = std::env::current_exe().context("finding this program")?;
        let log = File::options().create(true).append(true).mode(0o600).open(self.log_file())?;
        let child = Command::new(program)
            .args(["run", "-c"])
            .arg(self.config_file())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .process_group(0)
            .spawn()
            .with_context(|| format!("starting {}", self.name))?;
        self.pid = child.id();
        self.child = Some(child);
        Ok(())
    }

    /// How its process ended, told once.
    pub(super) fn ended(&mut self) -> Option<ExitStatus> {
        let status = self.child.as_mut()?.try_wait().ok()??;
        self.child = None;
        Some(status)
    }

    /// Leaves the process running when this one ends.
    pub(super) fn let_go(&mut self) {
        self.child = None;
    }

    /// The process that has the directory now, by its `LOCK`: the lock itself says that it lives.
    pub(super) fn running(&self) -> Option<u32> {
        match DirLock::take(&Real, &self.data_dir, std::process::id()) {
            Err(LockError::Held { pid, .. }) => pid.parse().ok().filter(|pid| is_kvnode(*pid)),
            Ok(_) | Err(LockError::Io { .. }) => None,
        }
    }

    /// The process that runs it: who holds the directory, or our child that has not come to that yet.
    fn process(&mut self) -> Option<u32> {
        self.running().or_else(|| match self.child.as_mut()?.try_wait() {
            Ok(None) => self.child.as_ref().map(Child::id),
            Ok(Some(_)) | Err(_) => None,
        })
    }

    /// The end of its log, for a person who wonders why it did not start.
    fn last_words(&self) -> Vec<String> {
        let log = std::fs::read_to_string(self.log_file()).unwrap_or_default();
        let lines: Vec<&str> = log.lines().collect();
        let from = lines.len().saturating_sub(LOG_LINES);
        lines.iter().skip(from).map(|line| format!("{}: {line}", self.name)).collect()
    }
}

/// Reads a configuration as `kvnode run` will.
pub(super) fn parse(text: &str) -> anyhow::Result<Config> {
    let file = tempfile::NamedTempFile::new().context("making a temporary file")?;
    std::fs::write(file.path(), text)?;
    Ok(Config::load(Some(file.path()), &[]).map_err(inspect::failure)?)
}

/// Returns once every node sees every node.
pub(super) async fn all_ready(nodes: &mut [DevNode], patience: Duration) -> anyhow::Result<()> {
    let deadline = tokio::time::Instant::now() + patience;
    for index in 0..nodes.len() {
        loop {
            if let Some(failure) = nodes.iter_mut().find_map(early_end) {
                return Err(failure.into());
            }
            if sees_all(&nodes[index]).await {
                break;
            }
            if deadline < tokio::time::Instant::now() {
                let name = &nodes[index].name;
                let message = format!("{name} is not ready after {patience:?}");
                let failure = Failure::new(Exit::Unavailable, message);
                let words = nodes[index].last_words();
                return Err(words.into_iter().fold(failure, Failure::note).into());
            }
            tokio::time::sleep(LOOK).await;
        }
    }
    Ok(())
}

/// A node that ended before it was ready, with its exit code as ours.
fn early_end(node: &mut DevNode) -> Option<Failure> {
    let status = node.ended()?;
    let ours =
        |code: i32| crate::cli::exit::ALL.into_iter().find(|exit| i32::from(exit.code()) == code);
    let exit = status.code().and_then(ours).unwrap_or(Exit::Unavailable);
    let failure = Failure::new(exit, format!("{} did not start ({status})", node.name));
    Some(node.last_words().into_iter().fold(failure, Failure::note))
}

async fn sees_all(node: &DevNode) -> bool {
    let options = ClientOptions {
        hosts: vec![node.client.clone()],
        socket: None,
        timeout: Duration::from_secs(1),
        agent: "kvnode dev".to_owned(),
    };
    let Ok(client) = Client::connect(options).await else { return false };
    let cluster = client.cluster();
    let itself = cluster.layout.now.named(&node.name).map(|member| member.id);
    match client.call(itself, RequestBody::View).await {
        Ok(ReplyBody::View(view)) => {
            view.members.len() == view.layout.now.members.len()
                && view.members.iter().all(|member| {
                    member.reachable
                        && (member.health == MemberHealth::Up || member.node == view.node)
                })
        }
        Ok(_) | Err(_) => false,
    }
}

/// Stops every node that runs, whoever started it; how many did.
pub(super) fn stop_all(nodes: &mut [DevNode]) -> usize {
    let running: Vec<u32> = nodes.iter_mut().filter_map(DevNode::process).collect();
    for pid in &running {
        send(*pid, Signal::SIGTERM);
    }
    let deadline = now() + STOP_MAX;
    for node in nodes {
        while let Some(pid) = node.process().filter(|pid| running.contains(pid)) {
            if deadline < now() {
                send(pid, Signal::SIGKILL);
            }
            std::thread::sleep(LOOK);
        }
    }
    running.len()
}

/// It may have ended by itself meanwhile.
fn send(pid: u32, signal: Signal) {
    if let Ok(pid) = i32::try_from(pid) {
        let _ = kill(Pid::from_raw(pid), signal);
    }
}

/// Whether the process is a kvnode: a `LOCK` copied from elsewhere may name any process.
fn is_kvnode(pid: u32) -> bool {
    let program = |path: &Path| -> io::Result<String> {
        let target = std::fs::read_link(path)?;
        Ok(target.file_name().unwrap_or_default().to_string_lossy().into_owned())
    };
    // The kernel adds ` (deleted)` to a program that was replaced meanwhile.
    program(Path::new(&format!("/proc/{pid}/exe"))).is_ok_and(|name| name.starts_with("kvnode"))
}

#[expect(clippy::disallowed_methods, reason = "the command line is a rim: it reads the clock")]
fn now() -> Instant {
    Instant::now()
}
