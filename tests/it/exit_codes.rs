//! Exit codes that no other test meets: outputs that cannot be made or filled, refusals, interruptions.
//!
//! The others: 0 and 3 in `live_ctl`, 1 and 4 there and in `sstable_offline`, 2, 65, 66 and 69 in `ctl_offline`, 70 beside
//! `cli::program`, 71, 75 and 76 in `node_run`, 73 in `node_init`, too, 78 in `node_config`.

use std::fs::{File, Permissions};
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::process::Stdio;

use nix::sys::signal::Signal;
use predicates::prelude::*;
use predicates::str::{contains, is_empty, starts_with};

use crate::lone_node::{Alone, signal};
use crate::node_fixture::{Result, ended, expect, output_in_time, wait_for};
use crate::tool::{program, tool};

/// A user that owns nothing here.
const NOBODY: u32 = 65_534;

#[test]
fn an_output_that_cannot_be_made_is_73() -> Result<()> {
    let mut node = Alone::founded()?;
    node.start(&[])?;
    node.kvctl(&["put", "k", "v"])?.assert().success();
    let dir = node.dir.path();
    let file = dir.join("file");
    std::fs::write(&file, "{\"key\":\"k\",\"value\":\"v\"}\n")?;
    let text = |path: &std::path::Path| path.display().to_string();
    let (inside, beside) = (text(&file.join("x")), text(&dir.join("nowhere/x")));
    let (file, dir) = (text(&file), text(dir));
    for path in [&inside, &beside, &dir] {
        for arguments in [
            &["get", "k", "--context-out", path][..],
            &["import", &file, "--progress", "none", "--resume", path],
        ] {
            // A note of an import that cannot be read is told as that.
            if arguments[0] == "import" && path != &beside {
                continue;
            }
            node.kvctl(arguments)?
                .assert()
                .code(73)
                .stdout(is_empty())
                .stderr(starts_with(format!("kvctl: cannot write {path}: ")));
        }
        tool("kvring")
            .args(["plot", "--svg", path, "-H", &node.address("client")?])
            .assert()
            .code(73)
            .stdout(is_empty())
            .stderr(starts_with(format!("kvring: cannot write {path}: ")));
    }
    let json = node.kvctl(&["get", "k", "--json", "--context-out", &beside])?;
    { json }
        .assert()
        .code(73)
        .stderr(contains(r#""code":"cannot_create""#).and(contains(r#""exit":73}"#)));
    // An SSTable to merge: the log of a stopped node is flushed.
    assert_eq!(node.stop()?, Some(0));
    let mut tables = std::fs::read_dir(node.data_dir().join("sst"))?;
    let table = text(&tables.next().ok_or("no table")??.path());
    for output in [&file, &inside] {
        tool("kvsstable")
            .args(["compact", &table, "-o", output])
            .assert()
            .code(73)
            .stdout(is_empty())
            .stderr(starts_with(format!("kvsstable: cannot create {output}: ")));
    }
    Ok(())
}

#[test]
fn an_output_that_takes_nothing_is_74() -> Result<()> {
    let mut node = Alone::founded()?;
    node.start(&[])?;
    node.kvctl(&["put", "k", "v"])?.assert().success();
    let client = node.address("client")?;
    for (name, arguments) in [
        ("kvctl", &["export", "-q", "-H", &client][..]),
        ("kvctl", &["get", "k", "-H", &client]),
        ("kvctl", &["status", "--json", "-H", &client]),
        ("kvring", &["export", "-H", &client]),
        ("kvring", &["hash", "k"]),
        ("kvnode", &["--generate", "config"]),
        ("kvsstable", &["--generate", "man"]),
    ] {
        let full = File::options().write(true).open("/dev/full")?;
        let output = program(name).args(arguments).stdout(full).output()?;
        let (_, told) = expect(&output, 74);
        let (first, io) = (format!("{name}: "), "No space left on device");
        if arguments.contains(&"--json") {
            assert!(told.contains(r#""code":"io""#) && told.contains(r#""exit":74}"#), "{told}");
        } else {
            assert!(told.starts_with(&first) && told.contains(io), "{name} {arguments:?}: {told}");
        }
        assert_eq!(told.lines().count(), 1, "{told}");
    }
    Ok(())
}

#[test]
fn a_node_that_is_no_member_any_more_is_77() -> Result<()> {
    let node = Alone::founded()?;
    let file = node.data_dir().join("IDENTITY");
    let mut identity: serde_json::Value = serde_json::from_slice(&std::fs::read(&file)?)?;
    identity["node"] = kvkit::node_id::NodeId::from_bytes([7; 16]).to_string().into();
    std::fs::write(&file, identity.to_string())?;
    let (_, told) = expect(&output_in_time(&mut node.command())?, 77);
    assert!(told.contains("is no member of its own layout: it was removed"), "{told}");
    Ok(())
}

#[test]
fn another_user_at_the_admin_socket_is_77() -> Result<()> {
    if !nix::unistd::geteuid().is_root() {
        writeln!(std::io::stderr(), "skipped: only root can call as another user")?;
        return Ok(());
    }
    let mut node = Alone::founded()?;
    node.start(&[])?;
    let socket = node.data_dir().join("admin.sock");
    let call = || {
        let mut command = program("kvctl");
        command.args(["status", "--socket"]).arg(&socket).uid(NOBODY).gid(NOBODY).current_dir("/");
        command.output()
    };
    // The modes of the files keep everybody out; the node itself does where they were changed.
    let (stdout, told) = expect(&call()?, 69);
    assert!(stdout.is_empty() && told.contains("Permission denied"), "{told}");
    for (path, mode) in [(node.dir.path(), 0o711), (&node.data_dir(), 0o711), (&socket, 0o666)] {
        std::fs::set_permissions(path, Permissions::from_mode(mode))?;
    }
    let (stdout, told) = expect(&call()?, 77);
    assert!(stdout.is_empty() && told.contains("this node's user and root alone"), "{told}");
    Ok(())
}

#[test]
fn an_interrupted_kvctl_is_130_and_a_terminated_one_143() -> Result<()> {
    let mut node = Alone::founded()?;
    node.start(&[])?;
    for (sent, code) in [(Signal::SIGINT, 130), (Signal::SIGTERM, 143)] {
        let key = format!("k{code}");
        let mut import = program("kvctl");
        import.args(["import", "-", "-H", &node.address("client")?]);
        import.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut import = ended(import.spawn()?);
        let mut stdin = import.0.stdin.take().ok_or("no stdin")?;
        writeln!(stdin, r#"{{"key":"{key}","value":"v"}}"#)?;
        // The input stays open: it waits for more.
        wait_for("the first record", || {
            node.kvctl(&["get", &key]).ok()?.output().ok()?.status.success().then_some(())
        });
        signal(i32::try_from(import.0.id())?, sent)?;
        let status = wait_for("kvctl to end", || import.0.try_wait().ok().flatten());
        assert_eq!(status.code(), Some(code));
        for stream in [
            std::io::read_to_string(import.0.stdout.take().ok_or("no stdout")?)?,
            std::io::read_to_string(import.0.stderr.take().ok_or("no stderr")?)?,
        ] {
            assert_eq!(stream, "", "an interruption needs no words");
        }
    }
    Ok(())
}
