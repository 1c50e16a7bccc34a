//! `kvnode run`: what keeps a node from running, what it survives, how it stops.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::unix::net::UnixDatagram;
use std::path::Path;
use std::process::{Child, Stdio};
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::node_fixture::{
    DevCluster, PATIENCE, Result, expect, free_ports, kvnode, wait_for, write_config,
};

/// A node of a cluster of one, ended by its id when the test ends.
struct Alone {
    dir: tempfile::TempDir,
    config: std::path::PathBuf,
    child: Option<Child>,
}

impl Alone {
    fn founded() -> Result<Self> {
        let dir = tempfile::tempdir()?;
        let config = write_config(dir.path(), "n1", "")?;
        expect(&kvnode().args(["init", "-c"]).arg(&config).output()?, 0);
        Ok(Self { dir, config, child: None })
    }

    fn command(&self) -> std::process::Command {
        let mut command = kvnode();
        command.args(["run", "-c"]).arg(&self.config);
        command
    }

    fn start(&mut self, environment: &[(&str, &Path)]) -> Result<i32> {
        let log = std::fs::File::create(self.dir.path().join("log"))?;
        let mut command = self.command();
        let child = command.envs(environment.iter().copied()).stderr(log).spawn()?;
        let pid = i32::try_from(child.id())?;
        self.child = Some(child);
        let http = self.address("http")?;
        wait_for("the node to be ready", || {
            (http_get(&http, "/readyz").ok()?.0 == 200).then_some(())
        });
        Ok(pid)
    }

    fn log(&self) -> String {
        std::fs::read_to_string(self.dir.path().join("log")).unwrap_or_default()
    }

    fn address(&self, key: &str) -> Result<String> {
        let text = std::fs::read_to_string(&self.config)?;
        let prefix = format!("{key} = \"");
        let line = text.lines().find_map(|line| line.strip_prefix(&prefix)).ok_or("no address")?;
        Ok(line.trim_end_matches('"').to_owned())
    }

    #[track_caller]
    fn wait_end(&mut self) -> Option<i32> {
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
fn http_get(address: &str, path: &str) -> Result<(u16, String)> {
    let mut stream = TcpStream::connect(address)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    write!(stream, "GET {path} HTTP/1.1\r\nHost: n\r\nConnection: close\r\n\r\n")?;
    let mut text = String::new();
    stream.read_to_string(&mut text)?;
    let status = text.split(' ').nth(1).ok_or("no status")?.parse()?;
    Ok((status, text.split_once("\r\n\r\n").ok_or("no body")?.1.to_owned()))
}

fn signal(pid: i32, signal: Signal) -> Result<()> {
    Ok(kill(Pid::from_raw(pid), signal)?)
}

#[test]
fn a_taken_port_is_named() -> Result<()> {
    let node = Alone::founded()?;
    for key in ["peer", "client", "http"] {
        let address = node.address(key)?;
        let _taken = TcpListener::bind(&address)?;
        let (_, told) = expect(&node.command().output()?, 71);
        assert!(told.contains(&format!("cannot listen on {address}")), "{told}");
    }
    Ok(())
}

#[test]
fn a_second_node_on_one_directory_is_refused_with_the_first_ones_pid() -> Result<()> {
    let mut node = Alone::founded()?;
    let pid = node.start(&[])?;
    let (_, told) = expect(&node.command().output()?, 75);
    assert!(told.contains(&format!("is in use by process {pid}")), "{told}");
    Ok(())
}

#[test]
fn a_directory_of_another_cluster_or_node_is_refused() -> Result<()> {
    let node = Alone::founded()?;
    for (set, what) in
        [("node.cluster=other", "not to cluster other"), ("node.name=n9", "not to node n9")]
    {
        let (_, told) = expect(&node.command().args(["--set", set]).output()?, 76);
        assert!(told.contains(what), "{told}");
    }
    Ok(())
}

#[test]
fn a_node_of_another_cluster_of_the_same_name_is_refused_by_the_members() -> Result<()> {
    let (ours, other) = (DevCluster::start(2)?, DevCluster::start(2)?);
    expect(&ours.stop()?, 0);
    expect(&other.stop()?, 0);
    // Where the stranger expects its n1, ours answers.
    let mut n1 = ours.nodes[0]
        .run()
        .args(["--set", &format!("listen.peer={}", other.nodes[0].peer)])
        .stderr(Stdio::null())
        .spawn()?;
    let output = other.nodes[1].run().output();
    signal(i32::try_from(n1.id())?, Signal::SIGTERM)?;
    assert!(n1.wait()?.success(), "ours suffered");
    let (_, told) = expect(&output?, 76);
    assert!(told.contains("wrong cluster"), "{told}");
    Ok(())
}

#[test]
fn a_copied_directory_is_refused() -> Result<()> {
    let cluster = DevCluster::start(3)?;
    expect(&cluster.stop()?, 0);
    let copy = cluster.dir.path().join("copy");
    copy_dir(&cluster.nodes[0].data_dir, &copy)?;
    expect(&cluster.dev().output()?, 0);
    let port = free_ports(1)?;
    let output = cluster.nodes[0]
        .run()
        .args(["--set", &format!("node.data_dir={}", copy.display())])
        .args(["--set", &format!("listen.peer=127.0.0.1:{port}")])
        .args(["--set", &format!("listen.client=127.0.0.1:{}", port + 1)])
        .args(["--set", &format!("listen.http=127.0.0.1:{}", port + 2)])
        .output()?;
    let (_, told) = expect(&output, 76);
    assert!(told.contains("copied identity"), "{told}");
    let (status, _) = http_get(&cluster.nodes[0].http, "/readyz")?;
    assert_eq!(status, 200, "the original suffered");
    Ok(())
}

fn copy_dir(from: &Path, to: &Path) -> Result<()> {
    std::fs::create_dir(to)?;
    for entry in std::fs::read_dir(from)? {
        let entry = entry?;
        let target = to.join(entry.file_name());
        if entry.file_type()?.is_dir() {
            copy_dir(&entry.path(), &target)?;
        } else {
            std::fs::copy(entry.path(), target)?;
        }
    }
    Ok(())
}

#[test]
fn garbage_is_answered_with_a_refusal_and_closed_and_the_node_lives_on() -> Result<()> {
    let mut node = Alone::founded()?;
    node.start(&[])?;
    let preamble = kvkit::wire::frame::PREAMBLE;
    let huge = [&preamble[..], &[0xff; 4]].concat();
    let nonsense = [&preamble[..], &[3, 0, 0, 0, 0xc1, 0xc1, 0xc1]].concat();
    for door in ["client", "peer"] {
        let address = node.address(door)?;
        for garbage in [b"GET / HTTP/1.1\r\n\r\n".to_vec(), huge.clone(), nonsense.clone()] {
            let mut stream = TcpStream::connect(&address)?;
            stream.set_read_timeout(Some(PATIENCE))?;
            stream.write_all(&garbage)?;
            let mut answer = Vec::new();
            // What was not read of our garbage may turn the close into a reset.
            let _ = stream.read_to_end(&mut answer);
            assert!(answer.starts_with(&preamble), "{door}: {answer:?}");
            let text = String::from_utf8_lossy(&answer).into_owned();
            assert!(text.contains("refused") || text.contains("Refused"), "{door}: {text}");
        }
    }
    assert_eq!(http_get(&node.address("http")?, "/livez")?.0, 200);
    Ok(())
}

#[test]
fn sigterm_ends_in_good_order_and_sighup_does_not() -> Result<()> {
    let mut node = Alone::founded()?;
    let socket = node.dir.path().join("notify");
    let systemd = UnixDatagram::bind(&socket)?;
    systemd.set_read_timeout(Some(PATIENCE))?;
    let heard = || -> Result<String> {
        let mut buffer = [0; 256];
        let length = systemd.recv(&mut buffer)?;
        Ok(String::from_utf8_lossy(&buffer[..length]).into_owned())
    };
    let pid = node.start(&[("NOTIFY_SOCKET", &socket)])?;
    assert!(heard()?.contains("READY=1"));
    signal(pid, Signal::SIGHUP)?;
    wait_for("the reload", || node.log().contains("configuration reloaded").then_some(()));
    std::fs::write(&node.config, "[node]\nnmae = 1\n")?;
    signal(pid, Signal::SIGHUP)?;
    wait_for("the refusal", || node.log().contains("the old one stays").then_some(()));
    signal(pid, Signal::SIGTERM)?;
    assert!(heard()?.contains("STOPPING=1"));
    assert_eq!(node.wait_end(), Some(0), "{}", node.log());
    Ok(())
}

#[test]
fn status_tells_members_and_figures() -> Result<()> {
    let mut node = Alone::founded()?;
    node.start(&[])?;
    let http = node.address("http")?;
    let (status, body) = http_get(&http, "/status")?;
    let body: serde_json::Value = serde_json::from_str(&body)?;
    assert_eq!((status, &body["node"]["name"]), (200, &"n1".into()));
    assert_eq!(body["members"].as_array().map(Vec::len), Some(1));
    assert_eq!(http_get(&http, "/clusterz")?.0, 200);
    assert_eq!(http_get(&http, "/nothing")?.0, 404);
    Ok(())
}

#[test]
fn a_silent_connection_is_closed() -> Result<()> {
    let mut node = Alone::founded()?;
    node.start(&[])?;
    let mut stream = TcpStream::connect(node.address("client")?)?;
    stream.set_read_timeout(Some(PATIENCE.max(Duration::from_secs(10))))?;
    assert_eq!(stream.read(&mut [0; 8])?, 0, "closed without a word");
    Ok(())
}
