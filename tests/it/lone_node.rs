//! A cluster of one node that the test runs itself.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::Child;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::node_fixture::{PATIENCE, Result, expect, kvnode, wait_for, write_config};
use crate::tool::tool;

/// A node of a cluster of one, ended by its id when the test ends.
pub(crate) struct Alone {
    pub(crate) dir: tempfile::TempDir,
    pub(crate) config: PathBuf,
    pub(crate) child: Option<Child>,
}

impl Alone {
    /// Founded with defaults.
    pub(crate) fn founded() -> Result<Self> {
        Self::founded_with("")
    }

    /// Founded with `more` behind the configuration's `[node]` and `[listen]`.
    pub(crate) fn founded_with(more: &str) -> Result<Self> {
        Self::founded_in(tempfile::tempdir()?, more)
    }

    /// The same in a directory of the test's; the data goes to `n1` in it.
    pub(crate) fn founded_in(dir: tempfile::TempDir, more: &str) -> Result<Self> {
        let config = write_config(dir.path(), "n1", more)?;
        expect(&kvnode().args(["init", "-c"]).arg(&config).output()?, 0);
        Ok(Self { dir, config, child: None })
    }

    /// Where it keeps its data.
    pub(crate) fn data_dir(&self) -> PathBuf {
        self.dir.path().join("n1")
    }

    /// `kvctl` pointed at it.
    pub(crate) fn kvctl(&self, arguments: &[&str]) -> Result<assert_cmd::Command> {
        let mut command = tool("kvctl");
        command.args(arguments).args(["-H", &self.address("client")?]);
        Ok(command)
    }

    /// `kvnode run` on it.
    pub(crate) fn command(&self) -> std::process::Command {
        let mut command = kvnode();
        command.args(["run", "-c"]).arg(&self.config);
        command
    }

    /// Starts it and waits until it is ready; its process id.
    pub(crate) fn start(&mut self, environment: &[(&str, &Path)]) -> Result<i32> {
        let log = std::fs::File::create(self.dir.path().join("log"))?;
        let mut command = self.command();
        command.envs(environment.iter().copied()).stderr(log);
        self.start_by(command)
    }

    /// Starts it by this command and waits until it is ready; its process id.
    pub(crate) fn start_by(&mut self, mut command: std::process::Command) -> Result<i32> {
        let (http, lock) = (self.address("http")?, self.data_dir().join("LOCK"));
        let child = self.child.insert(command.spawn()?);
        let pid = i32::try_from(child.id())?;
        // One that was killed a moment ago may still answer in its place.
        let is_ready = || {
            std::fs::read_to_string(&lock).is_ok_and(|holder| holder.trim() == pid.to_string())
                && http_get(&http, "/readyz").is_ok_and(|(status, _)| status == 200)
        };
        let early = wait_for("the node to be ready or to end", || match child.try_wait() {
            Ok(None) => is_ready().then_some(None),
            ended => Some(Some(ended)),
        });
        match early {
            None => Ok(pid),
            Some(ended) => Err(format!("the node did not start: {ended:?}\n{}", self.log()).into()),
        }
    }

    /// SIGTERM, and its exit code.
    pub(crate) fn stop(&mut self) -> Result<Option<i32>> {
        let child = self.child.as_ref().ok_or("not started")?;
        signal(i32::try_from(child.id())?, Signal::SIGTERM)?;
        Ok(self.wait_end())
    }

    /// What it said on stderr.
    pub(crate) fn log(&self) -> String {
        std::fs::read_to_string(self.dir.path().join("log")).unwrap_or_default()
    }

    /// A listen address of its configuration.
    pub(crate) fn address(&self, key: &str) -> Result<String> {
        let text = std::fs::read_to_string(&self.config)?;
        let prefix = format!("{key} = \"");
        let line = text.lines().find_map(|line| line.strip_prefix(&prefix)).ok_or("no address")?;
        Ok(line.trim_end_matches('"').to_owned())
    }

    /// Waits until it ends; its exit code, `None` when a signal ended it.
    #[track_caller]
    pub(crate) fn wait_end(&mut self) -> Option<i32> {
        let child = self.child.as_mut().expect("a started node");
        wait_for("the node to end", || child.try_wait().ok().flatten()).code()
    }
}

impl Drop for Alone {
    fn drop(&mut self) {
        if let Some(child) = &mut self.child {
            // It has ended already unless the test failed or had no reason to stop it.
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// Status and body.
pub(crate) fn http_get(address: &str, path: &str) -> Result<(u16, String)> {
    let mut stream = TcpStream::connect(address)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    write!(stream, "GET {path} HTTP/1.1\r\nHost: n\r\nConnection: close\r\n\r\n")?;
    let mut text = String::new();
    stream.read_to_string(&mut text)?;
    let status = text.split(' ').nth(1).ok_or("no status")?.parse()?;
    Ok((status, text.split_once("\r\n\r\n").ok_or("no body")?.1.to_owned()))
}

/// Sends a signal to one process.
pub(crate) fn signal(pid: i32, signal: Signal) -> Result<()> {
    Ok(kill(Pid::from_raw(pid), signal)?)
}
