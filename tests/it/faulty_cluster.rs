//! Real nodes that reach each other through a network with faults.

use std::io::Write as _;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use nix::sys::signal::Signal;

use crate::faulty_net::Net;
use crate::live::json;
use crate::lone_node::{http_get, signal};
use crate::node_fixture::{Result, expect, free_ports, kvnode, wait_for};
use crate::tool::{stdout, tool};

/// Lines of each node's log that a failed test shows.
const LOG_LINES: usize = 12;
/// How often the nodes raise their heartbeats.
const GOSSIP: &str = "200ms";

/// The cluster; its processes end with it.
pub(crate) struct FaultyCluster {
    pub(crate) dir: tempfile::TempDir,
    pub(crate) net: Net,
    pub(crate) nodes: Vec<FaultyNode>,
}

/// One node of it.
pub(crate) struct FaultyNode {
    pub(crate) name: String,
    pub(crate) config: PathBuf,
    pub(crate) data_dir: PathBuf,
    /// Where other nodes reach it past the network with faults.
    pub(crate) peer: String,
    pub(crate) client: String,
    http: String,
    log: PathBuf,
    /// A program that starts the node, with its arguments: what limits it, for instance.
    pub(crate) under: Vec<String>,
    /// Variables for its process.
    pub(crate) variables: Vec<(String, String)>,
    child: Option<Child>,
}

impl FaultyCluster {
    /// So many nodes that are ready; three hold each key, two answers are enough.
    pub(crate) fn start(nodes: u16) -> Result<Self> {
        Self::start_with(nodes, "", |_| ())
    }

    /// The same with more of `[quorum]`, and with each node adjusted before it starts.
    pub(crate) fn start_with(
        nodes: u16,
        quorum: &str,
        mut adjust: impl FnMut(&mut FaultyNode),
    ) -> Result<Self> {
        let dir = tempfile::tempdir()?;
        let port = free_ports(nodes)?;
        let mut cluster = Self { net: Net::start()?, nodes: Vec::new(), dir };
        for number in 1..=nodes {
            let more = format!("[quorum]\n{quorum}\n");
            let mut node = cluster.configured(number, port + 10 * (number - 1), "", &more)?;
            adjust(&mut node);
            cluster.nodes.push(node);
        }
        let configs = cluster.nodes.iter().map(|node| &node.config);
        expect(&kvnode().args(["init", "-c"]).args(configs).output()?, 0);
        cluster.nodes.iter_mut().try_for_each(FaultyNode::start)?;
        for node in &mut cluster.nodes {
            node.wait_ready();
        }
        cluster.kvctl(&["wait", "ready"]).assert().success();
        Ok(cluster)
    }

    /// Starts a further node, which asks the others to let it join; `node` is more of its `[node]`.
    pub(crate) fn join(&mut self, node: &str) -> Result<()> {
        let number = u16::try_from(self.nodes.len() + 1)?;
        let seeds: Vec<String> =
            self.nodes.iter().map(|node| format!("\"{}\"", node.peer)).collect();
        let node = format!("seeds = [{}]\n{node}\n", seeds.join(", "));
        let mut joiner = self.configured(number, free_ports(1)?, &node, "")?;
        joiner.start()?;
        self.nodes.push(joiner);
        Ok(())
    }

    fn configured(&self, number: u16, port: u16, node: &str, more: &str) -> Result<FaultyNode> {
        let name = format!("n{number}");
        let at = |offset: u16| SocketAddr::from(([127, 0, 0, 1], port + offset));
        let (peer, client, http) = (at(0), at(1).to_string(), at(2).to_string());
        let proxy = self.net.proxy(&name, peer)?;
        let data_dir = self.dir.path().join(&name);
        let config = self.dir.path().join(format!("{name}.toml"));
        let text = format!(
            "[node]\nname = \"{name}\"\ncluster = \"faulty\"\ndata_dir = \"{}\"\n{node}\
             [listen]\npeer = \"{peer}\"\nadvertise_peer = \"{proxy}\"\nclient = \"{client}\"\nhttp = \"{http}\"\n\
             [gossip]\ninterval = \"{GOSSIP}\"\n[ring]\npartitions = 64\n\
             [storage]\nmemtable = \"1MiB\"\n{more}",
            data_dir.display()
        );
        std::fs::write(&config, text)?;
        let log = self.dir.path().join(format!("{name}.log"));
        let (under, variables, child) = (Vec::new(), Vec::new(), None);
        let peer = peer.to_string();
        Ok(FaultyNode { name, config, data_dir, peer, client, http, log, under, variables, child })
    }

    /// `kvctl` that knows all nodes.
    pub(crate) fn kvctl(&self, arguments: &[&str]) -> assert_cmd::Command {
        let mut command = tool("kvctl");
        command.args(arguments).env("KVCTL_HOSTS", self.hosts().join(","));
        command
    }

    /// Where clients reach the nodes.
    pub(crate) fn hosts(&self) -> Vec<String> {
        self.nodes.iter().map(|node| node.client.clone()).collect()
    }

    /// The names of a key's owners, nearest first.
    pub(crate) fn owners(&self, key: &str) -> Vec<String> {
        let mut command = tool("kvring");
        command.args(["locate", key, "--json"]).env("KVCTL_HOSTS", self.hosts().join(","));
        let located = json(stdout(&command.assert().success()).trim());
        let replicas = located["replicas"].as_array().cloned().unwrap_or_default();
        replicas.iter().filter_map(|name| Some(name.as_str()?.to_owned())).collect()
    }

    /// Asserts that no node believes to have lost a write: none was killed, so none has.
    #[track_caller]
    pub(crate) fn assert_nobody_misses_writes(&self) {
        for node in &self.nodes {
            let told = node.told("that it has lost");
            assert!(told.is_empty(), "{} says: {told:?}", node.name);
        }
    }

    /// Waits until all is well: every node up, no hint due.
    pub(crate) fn settle(&self) {
        self.kvctl(&["wait", "ready"]).assert().success();
        self.kvctl(&["wait", "handoff"]).assert().success();
    }
}

impl Drop for FaultyCluster {
    fn drop(&mut self) {
        for node in &mut self.nodes {
            if std::thread::panicking() {
                // Whoever reads why a test failed wants to know what the nodes said.
                let _ = writeln!(std::io::stderr(), "{}", node.last_words());
            }
            // What is stopped must go on to end.
            let _ = node.signal(Signal::SIGKILL);
            let _ = node.reap();
        }
    }
}

impl FaultyNode {
    /// Starts its process.
    pub(crate) fn start(&mut self) -> Result<()> {
        let run = kvnode();
        let mut command = match self.under.split_first() {
            None => run,
            Some((program, arguments)) => {
                let mut command = Command::new(program);
                command.args(arguments).arg(run.get_program()).env_remove("NOTIFY_SOCKET");
                command
            }
        };
        command.args(["run", "-c"]).arg(&self.config);
        command.envs(self.variables.iter().map(|(name, value)| (name, value)));
        let log = std::fs::File::options().create(true).append(true).open(&self.log)?;
        self.child = Some(command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log).spawn()?);
        Ok(())
    }

    /// Waits until it takes part.
    #[track_caller]
    pub(crate) fn wait_ready(&mut self) {
        let what = format!("{} to be ready", self.name);
        let (child, http) = (self.child.as_mut().expect("a started node"), &self.http);
        wait_for(&what, || {
            let ended = child.try_wait().expect("the child is ours");
            assert!(ended.is_none(), "{what}: it ended: {ended:?}");
            http_get(http, "/readyz").is_ok_and(|(status, _)| status == 200).then_some(())
        });
    }

    /// Kills it, and waits until it is gone.
    pub(crate) fn kill(&mut self) -> Result<()> {
        self.signal(Signal::SIGKILL)?;
        self.reap()
    }

    /// Starts it again and waits until it takes part.
    #[track_caller]
    pub(crate) fn restart(&mut self) -> Result<()> {
        self.start()?;
        self.wait_ready();
        Ok(())
    }

    /// Sends it a signal.
    pub(crate) fn signal(&self, sent: Signal) -> Result<()> {
        let child = self.child.as_ref().ok_or("it does not run")?;
        signal(i32::try_from(child.id())?, sent)
    }

    /// Whether its process runs.
    pub(crate) fn runs(&mut self) -> bool {
        self.child.as_mut().is_some_and(|child| matches!(child.try_wait(), Ok(None)))
    }

    /// Its admin socket: a client that uses it reaches this node and no other.
    pub(crate) fn socket(&self) -> PathBuf {
        self.data_dir.join("admin.sock")
    }

    /// `kvctl` that reaches this node alone.
    pub(crate) fn kvctl(&self, arguments: &[&str]) -> assert_cmd::Command {
        let mut command = tool("kvctl");
        command.arg("--socket").arg(self.socket()).args(arguments);
        command
    }

    /// Has it listen elsewhere from its next start on, without a network with faults.
    pub(crate) fn listen_at(&mut self, port: u16) -> Result<()> {
        let at = |offset: u16| SocketAddr::from(([127, 0, 0, 1], port + offset)).to_string();
        (self.peer, self.client, self.http) = (at(0), at(1), at(2));
        let (peer, client, http) = (&self.peer, &self.client, &self.http);
        self.configure(
            "listen",
            &format!("peer = \"{peer}\"\nclient = \"{client}\"\nhttp = \"{http}\""),
        )
    }

    /// Puts these lines in the place of a section's from its next start on; of `[node]` only what the fixture left out
    /// is replaced.
    pub(crate) fn configure(&self, section: &str, lines: &str) -> Result<()> {
        let text = std::fs::read_to_string(&self.config)?;
        let mut config: toml::Table = text.parse()?;
        let mut wanted: toml::Table = lines.parse()?;
        if section == "node" {
            let kept = config.get("node").and_then(toml::Value::as_table).cloned();
            let kept = kept.unwrap_or_default().into_iter();
            let fixed = ["name", "cluster", "data_dir"];
            wanted.extend(kept.filter(|(key, _)| fixed.contains(&key.as_str())));
        }
        config.insert(section.to_owned(), toml::Value::Table(wanted));
        Ok(std::fs::write(&self.config, toml::to_string(&config)?)?)
    }

    /// Whether its log has this text.
    pub(crate) fn said(&self, text: &str) -> bool {
        !self.told(text).is_empty()
    }

    /// The lines of its log that have this text.
    pub(crate) fn told(&self, text: &str) -> Vec<String> {
        let log = std::fs::read_to_string(&self.log).unwrap_or_default();
        log.lines().filter(|line| line.contains(text)).map(str::to_owned).collect()
    }

    fn reap(&mut self) -> Result<()> {
        if let Some(mut child) = self.child.take() {
            child.wait()?;
        }
        Ok(())
    }

    fn last_words(&self) -> String {
        let log = std::fs::read_to_string(&self.log).unwrap_or_default();
        let lines: Vec<&str> = log.lines().collect();
        let from = lines.len().saturating_sub(LOG_LINES);
        let told = lines[from..].iter().map(|line| format!("{}: {line}\n", self.name));
        told.collect()
    }
}

/// Where the system has a library of this name, below its usual places.
pub(crate) fn library(name: &str) -> Option<PathBuf> {
    let roots = ["/usr/lib", "/usr/local/lib"].map(Path::new);
    let below = |root: &Path| -> Vec<PathBuf> {
        let entries = std::fs::read_dir(root).into_iter().flatten().flatten();
        entries.map(|entry| entry.path()).collect()
    };
    let places = roots.into_iter().flat_map(|root| {
        let mut places = below(root);
        places.push(root.to_owned());
        places
    });
    places.map(|place| place.join(name)).find(|path| path.is_file())
}
