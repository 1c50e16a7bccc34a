//! `kvctl autoscale`: a cluster that grows with its load, and shrinks with it.

use std::fs::File;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use nix::sys::signal::Signal;
use predicates::prelude::*;
use predicates::str::{contains, is_empty};
use serde_json::Value;

use crate::faults_kill::seed;
use crate::live::{Live, json};
use crate::load::{Entry, Load, assert_none_failed, judge};
use crate::lone_node::signal;
use crate::node_fixture::{Ended, Result, ended, wait_for};
use crate::tool::{stdout, tool};

/// Rounds of a get and a put a second that five nodes bear by the policy, and four do not.
const BUSY: f64 = 40.0;
/// Rounds that three nodes bear easily.
const CALM: f64 = 4.0;
/// What nodes coordinate a second: three 27, four 20, five 16 while it is busy; at most 3 while it is calm.
const TARGETS: &str = "operations = { high = 18, low = 6 }";
/// How long the load takes to rise, and to go.
const RAMP: Duration = Duration::from_secs(3);

/// A cluster with a policy beside it; what was started by it ends with it.
struct Scaled {
    live: Live,
    dir: PathBuf,
    policy: PathBuf,
}

impl Scaled {
    /// Three nodes, and a policy for nodes as local processes, with these bounds, targets and commands.
    fn start(bounds: &str, targets: &str, commands: &str) -> Result<Self> {
        let live = Live::start_with(3, &[("KVNODE_RING__PARTITIONS", "64")])?;
        let dir = live.cluster.dir.path().join("scaled");
        std::fs::create_dir(&dir)?;
        let policy = dir.join("policy.toml");
        let text = format!(
            "[nodes]\n{bounds}\nname = \"n{{}}\"\nfirst = 4\n\
             [looks]\ninterval = \"500ms\"\nout = 2\nin = 2\n\
             [cooldown]\nout = \"6s\"\nin = \"6s\"\n[targets]\n{targets}\n[commands]\n{commands}\n"
        );
        std::fs::write(&policy, text)?;
        Ok(Self { live, dir, policy })
    }

    /// `kvctl autoscale` by the policy, to be asserted on.
    fn autoscale(&self, arguments: &[&str]) -> assert_cmd::Command {
        let mut command = self.live.kvctl(&["autoscale", "--policy"]);
        command.arg(&self.policy).args(arguments);
        command
    }

    /// The same in the background, by `local-node.sh`; its decisions go to a file.
    fn watch(&self) -> Result<Ended> {
        let mut command = self.live.kvctl_process(&["autoscale", "--json", "--policy"]);
        command.arg(&self.policy).envs(self.variables()).stdin(Stdio::null());
        command.stdout(File::create(self.told())?);
        Ok(ended(command.spawn()?))
    }

    fn told(&self) -> PathBuf {
        self.dir.join("told.ndjson")
    }

    fn variables(&self) -> [(&'static str, PathBuf); 2] {
        let programs = Path::new(env!("CARGO_BIN_EXE_kvnode")).parent().unwrap_or(Path::new(""));
        [("KVKIT_BIN", programs.to_owned()), ("KVKIT_LOCAL_DIR", self.dir.join("nodes"))]
    }

    /// The decisions so far.
    fn decisions(&self) -> Vec<Value> {
        let text = std::fs::read_to_string(self.told()).unwrap_or_default();
        text.split_inclusive('\n').filter(|line| line.ends_with('\n')).map(json).collect()
    }

    /// What was done, in order: `start n4`, …
    fn steps(&self) -> Vec<String> {
        let step = |decision: &Value| {
            let node = decision["node"].as_str()?;
            Some(format!("{} {node}", decision["step"].as_str()?))
        };
        self.decisions().iter().filter_map(step).collect()
    }

    /// Waits until there are so many members, and nothing is left to do.
    #[track_caller]
    fn wait_for_members(&self, members: usize) {
        wait_for(&format!("{members} members"), || {
            let shown = self.live.kvctl(&["cluster", "show", "--json"]).output().ok()?;
            let shown = json(std::str::from_utf8(&shown.stdout).ok()?.trim());
            let count = shown["members"].as_array().map_or(0, Vec::len);
            (shown["done"] == true && count == members).then_some(())
        });
    }
}

impl Drop for Scaled {
    fn drop(&mut self) {
        for node in ["n4", "n5"] {
            let stop = std::process::Command::new(script())
                .arg("stop")
                .env("KVKIT_NODE", node)
                .envs(self.variables())
                .status();
            // It has ended already unless the test failed.
            let _ = stop;
        }
    }
}

fn script() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/autoscale/local-node.sh")
}

fn local_commands() -> String {
    let script = script().display().to_string();
    format!("start = [{script:?}, \"start\"]\nstop = [{script:?}, \"stop\"]\ntimeout = \"30s\"")
}

#[test]
fn a_load_that_comes_and_goes_makes_three_nodes_five_and_three_again() -> Result<()> {
    let (seed, again) = seed();
    let scaled = Scaled::start("min = 3\nmax = 5", TARGETS, &local_commands())?;
    let hosts: Vec<String> =
        scaled.live.cluster.nodes.iter().map(|node| node.client.clone()).collect();
    let load = Load::start_at_rate("k", seed, Entry::Hosts(hosts.clone()), CALM);
    let mut autoscaler = scaled.watch()?;
    wait_for("a look that asks for nothing", || {
        scaled.decisions().iter().any(|decision| decision["step"] == "hold").then_some(())
    });
    load.ramp_to(BUSY, RAMP);
    scaled.wait_for_members(4);
    scaled.wait_for_members(5);
    load.ramp_to(CALM, RAMP);
    scaled.wait_for_members(4);
    scaled.wait_for_members(3);
    wait_for("n4 to be stopped", || {
        (scaled.steps().last().map(String::as_str) == Some("stop n4")).then_some(())
    });
    // That it was stopped is on record: it ends between two steps, and would have done nothing more.
    signal(i32::try_from(autoscaler.0.id())?, Signal::SIGTERM)?;
    let status = wait_for("the autoscaler to end", || autoscaler.0.try_wait().ok().flatten());
    assert_eq!(status.code(), Some(143));
    let steps = scaled.steps();
    let grown = ["start n4", "join n4", "start n5", "join n5"];
    let drained = ["leave n5", "stop n5", "leave n4", "stop n4"];
    assert_eq!(steps, [grown, drained].concat());
    for decision in scaled.decisions() {
        let members = decision["members"].as_u64().unwrap_or_default();
        assert!((3..=5).contains(&members) && decision["why"][0].is_string(), "{decision}");
    }
    for node in ["n4", "n5"] {
        assert!(!scaled.dir.join("nodes").join(node).exists(), "{node} left its data behind");
    }

    let (history, failed) = load.stop();
    scaled.live.ok(&["wait", "converged"]);
    judge(&history, hosts, &again)?;
    assert_none_failed(&failed, &again);
    Ok(())
}

#[test]
fn it_says_what_it_would_do_and_what_holds_it_back() -> Result<()> {
    let commands = "start = [\"/bin/true\"]\nstop = [\"/bin/true\"]";
    let scaled = Scaled::start("min = 4\nmax = 5", TARGETS, commands)?;
    let would = "would start n4: 3 members, fewer than 4\n";
    // On a busy machine a node may answer late, and then it holds.
    wait_for("all nodes to be seen", || {
        let told = scaled.autoscale(&["--once", "--dry-run"]).assert().success();
        (stdout(&told) == would).then_some(())
    });
    let told = wait_for("all nodes to tell their load", || {
        let told = scaled.autoscale(&["--once", "-n", "--json"]).assert().success();
        let told = json(stdout(&told).trim());
        (told["nodes"].as_array().map(Vec::len) == Some(3)).then_some(told)
    });
    assert_eq!((&told["step"], &told["node"]), (&"start".into(), &"n4".into()));
    assert_eq!((&told["dry_run"], &told["members"]), (&true.into(), &3.into()));
    assert!(!scaled.dir.join("policy.toml.state").exists(), "nothing is written");

    // The shipped policies are good, and have nothing to do here.
    for policy in ["local.toml", "systemd.toml"] {
        let file = script().with_file_name(policy);
        let file = file.to_str().ok_or("a path")?;
        let told = scaled.live.ok(&["autoscale", "--policy", file, "--once", "--dry-run"]);
        assert!(told.starts_with("hold: "), "{policy}: {told}");
    }

    // Something staged, a member that is down: nothing begins.
    scaled.live.ok(&["cluster", "weight", "n1", "2"]);
    scaled.autoscale(&["--once"]).assert().success().stdout(contains("hold: it is staged that n1"));
    scaled.live.ok(&["cluster", "abort"]);
    scaled.live.cluster.nodes[1].kill()?;
    wait_for("n2 to be missed", || {
        let told = stdout(&scaled.autoscale(&["--once"]).assert().success());
        assert!(told.starts_with("hold: ") || told.starts_with("would"), "{told}");
        (told == "hold: n2 is not up\n").then_some(())
    });
    Ok(())
}

#[test]
fn a_node_that_does_not_start_or_never_joins_is_stopped_and_told() -> Result<()> {
    let scaled = Scaled::start("min = 4\nmax = 5", TARGETS, "start = []\nstop = []")?;
    let stopped = scaled.dir.join("stopped-n4");
    let policy = std::fs::read_to_string(&scaled.policy)?;
    let with = |start: &str| {
        let stop = format!("[\"touch\", \"{}/stopped-{{node}}\"]", scaled.dir.display());
        let text = policy.replace("start = []\nstop = []", &format!("{start}\nstop = {stop}"));
        std::fs::write(&scaled.policy, text)
    };
    let state = || std::fs::read_to_string(scaled.dir.join("policy.toml.state"));

    with("start = [\"/bin/sh\", \"-c\", \"exit 3\"]")?;
    wait_for("all nodes to be seen", || {
        let told = scaled.autoscale(&["--once", "--dry-run"]).assert().success();
        stdout(&told).starts_with("would start n4").then_some(())
    });
    scaled
        .autoscale(&["--once"])
        .assert()
        .code(1)
        .stdout("start n4: 3 members, fewer than 4\n")
        .stderr(contains("for n4 failed (exit status: 3)"));
    assert!(stopped.exists() && state()?.contains("\"pending\":null"), "{}", state()?);
    std::fs::remove_file(&stopped)?;
    scaled.autoscale(&["--once"]).assert().success().stdout(contains("the last change was"));
    std::fs::remove_file(scaled.dir.join("policy.toml.state"))?;

    // Its group is killed: what it waits for, too.
    with("start = [\"/bin/sh\", \"-c\", \"sleep 60\"]\ntimeout = \"300ms\"")?;
    scaled.autoscale(&["--once"]).assert().code(75).stderr(contains("took longer than 300ms"));
    assert!(stopped.exists());
    std::fs::remove_file(&stopped)?;
    std::fs::remove_file(scaled.dir.join("policy.toml.state"))?;

    with("start = [\"/bin/sh\", \"-c\", \"echo talk of $KVKIT_NODE\"]\njoin_timeout = \"1s\"")?;
    let told = scaled.autoscale(&["--once", "--json"]).assert().code(75);
    let told = told.stderr(contains("talk of n4").and(contains(r#""code":"never_joined""#)));
    let steps: Vec<Value> = stdout(&told).lines().map(json).collect();
    let steps: Vec<&str> = steps.iter().filter_map(|decision| decision["step"].as_str()).collect();
    assert_eq!(steps, ["start", "wait", "stop"]);
    assert!(stopped.exists() && state()?.contains("\"pending\":null"), "{}", state()?);
    Ok(())
}

#[test]
fn whoever_starts_after_a_crash_goes_on_and_two_never_act_at_once() -> Result<()> {
    let scaled = Scaled::start("min = 4\nmax = 5", TARGETS, &local_commands())?;
    let mut first = scaled.watch()?;
    wait_for("n4 to be started", || (!scaled.steps().is_empty()).then_some(()));
    scaled
        .autoscale(&["--once"])
        .assert()
        .code(75)
        .stderr(contains("another kvctl autoscale goes by"));
    first.0.kill()?;
    first.0.wait()?;
    // Once is enough, wherever the first one was.
    let mut second = scaled.autoscale(&["--once"]);
    second
        .envs(scaled.variables())
        .assert()
        .success()
        .stdout(contains("n4 is a member, and all is done"));
    scaled.wait_for_members(4);
    Ok(())
}

/// There is no systemd where tests run: a program in its place tells what it was asked.
#[test]
fn the_script_for_systemd_makes_a_configuration_and_starts_stops_and_clears_the_instance()
-> Result<()> {
    let dir = tempfile::tempdir()?;
    let systemctl = dir.path().join("systemctl");
    std::fs::write(&systemctl, "#!/bin/sh\necho \"$*\" >>\"$(dirname \"$0\")/asked\"\n")?;
    std::fs::set_permissions(&systemctl, std::fs::Permissions::from_mode(0o755))?;
    let template = script().with_file_name("template.toml");
    std::fs::copy(template, dir.path().join("template.toml"))?;
    let path = format!("{}:{}", dir.path().display(), std::env::var("PATH")?);
    let run = |action: &str| {
        let mut command = assert_cmd::Command::new(script().with_file_name("systemd-node.sh"));
        command.arg(action).env("PATH", &path).env("KVKIT_CONFIG_DIR", dir.path());
        command.env("KVKIT_NODE", "n4").env("KVKIT_ZONE", "b").env("KVKIT_CLUSTER", "prod");
        command.env("KVKIT_SEEDS", "10.0.0.1:7400,10.0.0.2:7400").assert().success();
    };
    run("start");
    let config = dir.path().join("n4.toml");
    let shown = tool("kvnode").args(["config", "show", "-c"]).arg(&config).assert().success();
    let shown = stdout(&shown);
    for line in [
        "node.name = \"n4\"",
        "node.zone = \"b\"",
        "node.cluster = \"prod\"",
        "node.data_dir = \"/var/lib/kvnode/n4\"",
        "node.seeds = [\"10.0.0.1:7400\", \"10.0.0.2:7400\"]",
        "node.join = \"staged\"",
    ] {
        assert!(shown.lines().any(|shown| shown == line), "{line}: {shown}");
    }
    tool("kvnode").args(["check-config", "-c"]).arg(&config).assert().success();
    std::fs::write(&config, "# an operator's own\n")?;
    run("start");
    assert_eq!(std::fs::read_to_string(&config)?, "# an operator's own\n");
    run("stop");
    let unit = "kvnode@n4.service";
    let start = format!("start --no-block {unit}\n");
    let stop = format!("stop {unit}\nclean --what=state {unit}\n");
    assert_eq!(std::fs::read_to_string(dir.path().join("asked"))?, start.repeat(2) + &stop);
    Ok(())
}

#[test]
fn a_wrong_policy_is_told_with_line_and_column() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let file = dir.path().join("policy.toml");
    let run = |text: &str| -> Result<assert_cmd::assert::Assert> {
        std::fs::write(&file, text)?;
        let mut command = tool("kvctl");
        command.args(["autoscale", "-H", "127.0.0.1:1", "--once", "--policy"]).arg(&file);
        Ok(command.assert())
    };
    let place = |place: &str| format!("{}:{place}", file.display());
    run("[nodes]\nmin = 3\nmaxx = 5\n")?
        .code(78)
        .stdout(is_empty())
        .stderr(contains(place("3:1: unknown field `maxx`")));
    run("[nodes\n")?.code(78).stderr(contains(place("1:7: ")));
    std::fs::remove_file(&file)?;
    let mut command = tool("kvctl");
    command.args(["autoscale", "--policy"]).arg(&file);
    command.assert().code(66).stderr(contains("cannot read"));
    tool("kvctl").args(["autoscale"]).assert().code(2).stderr(contains("--policy"));
    Ok(())
}
