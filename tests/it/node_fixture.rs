//! Clusters for tests: started by `kvnode dev`, stopped and removed when the test ends, however it ends.

use std::error::Error;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use nix::sys::signal::{self, Signal};
use nix::unistd::Pid;
use serde_json::Value;
use tempfile::TempDir;

use crate::tool::program;

/// What test helpers return.
pub(crate) type Result<T> = std::result::Result<T, Box<dyn Error>>;

/// Longest time that a test waits for anything.
pub(crate) const PATIENCE: Duration = Duration::from_mins(1);
/// Lowest port that tests use.
const PORT_MIN: u32 = 12_000;
/// How many they use; Linux gives 32768 and up to outgoing connections.
const PORTS: u32 = 20_000;
/// Pause between two looks.
const LOOK: Duration = Duration::from_millis(20);

/// A cluster of `kvnode dev --detach`.
pub(crate) struct DevCluster {
    /// Holds everything.
    pub(crate) dir: TempDir,
    /// First port.
    pub(crate) port: u16,
    /// The nodes, as `dev.json` told them at the start.
    pub(crate) nodes: Vec<Node>,
}

/// One node of it.
#[derive(Clone, Debug)]
pub(crate) struct Node {
    pub(crate) peer: String,
    pub(crate) client: String,
    pub(crate) http: String,
    pub(crate) data_dir: PathBuf,
}

/// A process that is killed by its id when the test ends, if it runs by then.
pub(crate) struct Ended(pub(crate) Child);

/// Sees to the end of `child`.
pub(crate) const fn ended(child: Child) -> Ended {
    Ended(child)
}

impl Drop for Ended {
    fn drop(&mut self) {
        // It has ended already unless the test failed.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// `kvnode`, ready for arguments.
pub(crate) fn kvnode() -> Command {
    program("kvnode")
}

/// Asserts an exit code, and gives both outputs as text.
#[track_caller]
pub(crate) fn expect(output: &Output, code: i32) -> (String, String) {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let (stdout, stderr) = (text(&output.stdout), text(&output.stderr));
    assert_eq!(output.status.code(), Some(code), "stdout: {stdout}\nstderr: {stderr}");
    (stdout, stderr)
}

/// What `command` prints until it ends by itself; it is killed, and fails its test, where that takes too long.
pub(crate) fn output_in_time(command: &mut Command) -> Result<Output> {
    let child =
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn()?;
    let pid = Pid::from_raw(i32::try_from(child.id())?);
    let (ended, has_ended) = mpsc::channel::<()>();
    let watch = std::thread::spawn(move || {
        let is_late = has_ended.recv_timeout(PATIENCE) == Err(mpsc::RecvTimeoutError::Timeout);
        // It is not reaped before its outputs are closed, so its id is its own.
        is_late && signal::kill(pid, Signal::SIGKILL).is_ok()
    });
    let output = child.wait_with_output();
    drop(ended);
    let was_late = watch.join().map_err(|_| "the watch panicked")?;
    let output = output?;
    if was_late {
        let told = String::from_utf8_lossy(&output.stderr).into_owned();
        return Err(format!("{command:?} did not end within {PATIENCE:?}: {told}").into());
    }
    Ok(output)
}

/// Waits until `probe` gives something.
#[expect(clippy::disallowed_methods, reason = "a test is a rim: it reads the clock")]
#[track_caller]
pub(crate) fn wait_for<T>(what: &str, mut probe: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some(found) = probe() {
            return found;
        }
        assert!(Instant::now() < deadline, "waited {PATIENCE:?} for {what}");
        std::thread::sleep(LOOK);
    }
}

/// A port from which `nodes` dev nodes can listen. Below those that the system gives to outgoing connections, each
/// given out once by this process, and free a moment ago.
pub(crate) fn free_ports(nodes: u16) -> Result<u16> {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    for _ in 0..1_000 {
        let taken = NEXT.fetch_add(u32::from(10 * nodes), Ordering::Relaxed);
        // Test processes that run beside each other begin at different places.
        let place = (std::process::id().wrapping_mul(977).wrapping_add(taken)) % PORTS;
        let port = u16::try_from(PORT_MIN + place)?;
        let wanted = (port..port + 10 * nodes).filter(|wanted| (wanted - port) % 10 < 3);
        let held: Vec<_> = wanted.map(|port| TcpListener::bind(("127.0.0.1", port))).collect();
        if held.iter().all(std::result::Result::is_ok) {
            return Ok(port);
        }
    }
    Err("no free ports".into())
}

impl DevCluster {
    /// Starts `nodes` nodes and waits until they are ready.
    pub(crate) fn start(nodes: u16) -> Result<Self> {
        Self::start_with(nodes, &[])
    }

    /// The same with some of the nodes' configuration, as `KVNODE_…` variables.
    pub(crate) fn start_with(nodes: u16, variables: &[(&str, &str)]) -> Result<Self> {
        let port = free_ports(nodes)?;
        let mut cluster = Self { dir: tempfile::tempdir()?, port, nodes: Vec::new() };
        let mut dev = cluster.dev();
        dev.envs(variables.iter().copied());
        let output = dev.args(["-n", &nodes.to_string(), "--json"]).output()?;
        let (stdout, _) = expect(&output, 0);
        let record: Value = serde_json::from_str(&stdout)?;
        let text = |node: &Value, field: &str| node[field].as_str().unwrap_or_default().to_owned();
        let listed = record["nodes"].as_array().ok_or("no nodes in the record")?;
        cluster.nodes = listed
            .iter()
            .map(|node| Node {
                peer: text(node, "peer"),
                client: text(node, "client"),
                http: text(node, "http"),
                data_dir: text(node, "data_dir").into(),
            })
            .collect();
        Ok(cluster)
    }

    /// `kvnode dev --detach` on this cluster's directory.
    pub(crate) fn dev(&self) -> Command {
        let mut command = kvnode();
        command.args(["dev", "--detach", "--port", &self.port.to_string(), "--data"]);
        command.arg(self.dir.path().join("kv"));
        command
    }

    /// Stops it.
    pub(crate) fn stop(&self) -> Result<Output> {
        Ok(kvnode().args(["dev", "--stop", "--data"]).arg(self.dir.path().join("kv")).output()?)
    }
}

impl Drop for DevCluster {
    fn drop(&mut self) {
        // A test that failed half-way may have stopped it already.
        let _ = self.stop();
    }
}

impl Node {
    /// The process that runs it now.
    pub(crate) fn pid(&self) -> Result<i32> {
        Ok(std::fs::read_to_string(self.data_dir.join("LOCK"))?.trim().parse()?)
    }

    /// SIGKILL, and waits until the process is gone.
    pub(crate) fn kill(&self) -> Result<()> {
        let pid = nix::unistd::Pid::from_raw(self.pid()?);
        nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGKILL)?;
        let proc = PathBuf::from(format!("/proc/{pid}/stat"));
        wait_for("a killed node to end", || {
            let stat = std::fs::read_to_string(&proc).unwrap_or_default();
            (stat.is_empty() || stat.contains(") Z ")).then_some(())
        });
        Ok(())
    }

    /// Its `kvnode.toml`.
    pub(crate) fn config(&self) -> PathBuf {
        self.data_dir.join("kvnode.toml")
    }

    /// `kvnode run` from its `kvnode.toml`.
    pub(crate) fn run(&self) -> Command {
        let mut command = kvnode();
        command.args(["run", "-c"]).arg(self.config());
        command
    }
}

/// Writes a configuration of a node `name` in `dir` that listens on free ports; the file.
pub(crate) fn write_config(dir: &Path, name: &str, more: &str) -> Result<PathBuf> {
    let port = free_ports(1)?;
    let data_dir = dir.join(name);
    let text = format!(
        "[node]\nname = \"{name}\"\ndata_dir = \"{}\"\n[listen]\npeer = \"127.0.0.1:{port}\"\nclient = \"127.0.0.1:{}\"\nhttp = \"127.0.0.1:{}\"\n{more}",
        data_dir.display(),
        port + 1,
        port + 2,
    );
    let file = dir.join(format!("{name}.toml"));
    std::fs::write(&file, text)?;
    Ok(file)
}
