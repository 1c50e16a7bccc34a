//! `kvsstable` where it writes: build, salvage, diff, and how it ends when it is told to.

use std::fs;
use std::io::Read as _;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;

use kvkit::storage::offline::{TableBuilder, TableOptions};
use kvkit::storage::vfs::Real;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use predicates::prelude::*;
use predicates::str::{contains, is_empty};

use crate::node_fixture::{Result, wait_for};
use crate::sstable_offline::{files, largest, stopped};
use crate::tool::{stdout, tool};

/// Memory that a dump may take, whatever it dumps.
const DUMP_KIB_MAX: u64 = 48 << 10;
/// Bytes of its output between two looks at its memory.
const LOOK_BYTES: usize = 8 << 20;
/// Bytes of values in the table that it dumps.
const DUMPED_BYTES: usize = 64 << 20;

fn dump(path: &Path) -> String {
    stdout(&tool("kvsstable").arg("dump").arg(path).assert().success().stderr(is_empty()))
}

fn build(records: &str, output: &Path) {
    let mut command = tool("kvsstable");
    command.args(["build", "-o"]).arg(output).write_stdin(records).assert().success();
}

#[test]
fn what_is_built_of_a_dump_dumps_the_same() -> Result<()> {
    let (_cluster, directory) = stopped()?;
    let tables = files(&directory, "sst");
    let sources = [directory.as_path(), largest(&tables)?];
    for (index, source) in sources.into_iter().enumerate() {
        let first = dump(source);
        let output = directory.with_file_name(format!("built{index}"));
        build(&first, &output);
        assert!(dump(&output) == first, "a directory of tables");
        let [table] = files(&output, "sst").try_into().map_err(|_| "one table")?;
        assert!(dump(&table) == first, "a table beside its header");
        tool("kvsstable").arg("verify").arg(&output).assert().success();
        // A stray table knows no names, and still gives itself again.
        let stray = directory.with_file_name(format!("stray{index}.sst"));
        fs::copy(&table, &stray)?;
        let nameless = dump(&stray);
        let again = directory.with_file_name(format!("again{index}"));
        build(&nameless, &again);
        assert!(dump(&again) == nameless, "a stray table");
        tool("kvsstable")
            .arg("diff")
            .arg(&stray)
            .arg(&output)
            .assert()
            .success()
            .stdout(is_empty());
    }
    let whole = dump(&directory);
    assert!(whole.contains(r#""siblings":["#) && whole.contains(r#""type":"meta""#));
    assert!(whole.contains(r#""tombstone":true"#) && whole.contains(r#""key_b64":"_wA""#));
    // Any order will do, and what was left out is told.
    let mut lines: Vec<&str> = whole.lines().filter(|line| !line.contains("element:Au")).collect();
    lines.retain(|line| {
        !line.contains(r#""type":"header""#) && !line.contains(r#""type":"footer""#)
    });
    lines.reverse();
    let edited = directory.with_file_name("edited");
    build(&lines.join("\n"), &edited);
    let diff = tool("kvsstable").arg("diff").arg(&directory).arg(&edited).assert().code(1);
    let diff = stdout(&diff);
    assert!(diff.starts_with("- ") && diff.ends_with("/element:Au\n") && diff.lines().count() == 1);
    Ok(())
}

#[test]
fn build_refuses_what_it_cannot_make_again_and_leaves_nothing() -> Result<()> {
    let directory = tempfile::tempdir()?;
    let output = directory.path().join("out");
    let check = |records: &str, why: &str| {
        let mut command = tool("kvsstable");
        command.args(["build", "-o"]).arg(&output).write_stdin(records);
        command.assert().code(65).stderr(contains(why));
        assert_eq!(files(&output, "sst"), files(&output, "tmp"), "nothing");
    };
    let removed = "{\"type\":\"kv\",\"key\":\"k\",\"removed\":true}\n";
    check("{\"key\":\"a\",\"value\":1}\n", "line 1: no `type`");
    check(&format!("{removed}{removed}"), "line 2: the key stands in line 1 already");
    check(&format!("{{\"type\":\"header\"}}\n{removed}"), "without its footer");
    check(
        &format!(
            "{{\"type\":\"header\"}}\n{removed}{{\"type\":\"footer\",\"records\":1,\"sha1\":\"0\"}}\n"
        ),
        "other records",
    );
    let held = kvkit::storage::DirLock::take(&Real, &output, std::process::id())?;
    for place in [output.clone(), output.join("sst")] {
        let mut command = tool("kvsstable");
        command.args(["build", "-o"]).arg(place).write_stdin(removed);
        command.assert().code(75).stderr(contains("in use by process"));
    }
    drop(held);
    let mut command = tool("kvsstable");
    command.args(["build", "-n", "--json", "-o"]).arg(&output).write_stdin(removed);
    command.assert().success().stdout(contains(r#""type":"dry_run""#));
    assert!(files(&output, "sst").is_empty());
    Ok(())
}

#[test]
fn what_is_left_of_a_table_and_of_a_log_is_saved() -> Result<()> {
    let (_cluster, directory) = stopped()?;
    let output = directory.with_file_name("saved");
    let tables = files(&directory, "sst");
    let table = largest(&tables)?;
    let whole = dump(table);
    let mut bytes = fs::read(table)?;
    bytes[10] ^= 1;
    let end = bytes.len();
    bytes[end - 40] ^= 1;
    fs::write(table, &bytes)?;
    tool("kvsstable").arg("dump").arg(table).assert().code(65).stdout(is_empty());
    let saved = tool("kvsstable").arg("salvage").arg(table).arg("-o").arg(&output).assert();
    saved.code(65).stderr(contains("lost").and(contains("saved")).and(contains("keys ")));
    assert!(fs::read(table)? == bytes, "salvage changed what it read");
    let [copy] = files(&output, "sst").try_into().map_err(|_| "one table")?;
    tool("kvsstable").arg("verify").arg(&copy).assert().success();
    let rest =
        stdout(&tool("kvsstable").args(["dump", "--keys-only"]).arg(&copy).assert().success());
    let found = rest.lines().filter(|key| whole.contains(*key)).count();
    assert!(found > 10 && found == rest.lines().count(), "{found} keys");
    let log = files(&directory.join("log"), "log").pop().ok_or("no log")?;
    let mut bytes = fs::read(&log)?;
    bytes[60] ^= 1;
    fs::write(&log, &bytes)?;
    let saved =
        tool("kvsstable").args(["salvage", "--json"]).arg(&log).arg("-o").arg(&output).assert();
    saved.code(65).stdout(contains(r#""type":"salvaged""#)).stderr(contains(r#""code":"lost""#));
    let [copy] = files(&output, "log").try_into().map_err(|_| "one log")?;
    tool("kvsstable").args(["log", "verify"]).arg(&copy).assert().success();
    tool("kvsstable").arg("salvage").arg(&log).arg("-o").arg(&output).assert().code(73);
    Ok(())
}

#[test]
fn signals_end_it_with_their_codes_and_without_a_trace() -> Result<()> {
    for (signal, code) in [(Signal::SIGINT, 130), (Signal::SIGTERM, 143)] {
        let directory = tempfile::tempdir()?;
        let output = directory.path().join("out");
        let mut child = Command::new(env!("CARGO_BIN_EXE_kvsstable"))
            .args(["build", "-o"])
            .arg(&output)
            .stdin(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()?;
        // Waiting for its end would close its input, and that would be its end.
        let input = child.stdin.take();
        wait_for("the output to be locked", || output.join("LOCK").exists().then_some(()));
        kill(Pid::from_raw(i32::try_from(child.id())?), signal)?;
        assert_eq!(child.wait()?.code(), Some(code));
        drop(input);
        assert_eq!(files(&output, "sst"), files(&output, "tmp"));
    }
    Ok(())
}

#[test]
fn a_dump_takes_the_same_memory_whatever_it_dumps() -> Result<()> {
    let directory = tempfile::tempdir()?;
    let options = TableOptions { table_bytes: u64::MAX, ..TableOptions::default() };
    let mut builder = TableBuilder::new(Arc::new(Real), directory.path(), options);
    let mut value = vec![0; 1 << 10];
    for number in 0..DUMPED_BYTES / value.len() {
        value[..8].copy_from_slice(&number.to_le_bytes());
        builder.add(format!("m{number:012}").as_bytes(), Some(&value))?;
    }
    let [table] = builder.finish()?.try_into().map_err(|_| "one table")?;
    let mut child = Command::new(env!("CARGO_BIN_EXE_kvsstable"))
        .arg("dump")
        .arg(&table.file)
        .stdout(Stdio::piped())
        .spawn()?;
    let status = format!("/proc/{}/status", child.id());
    let mut out = child.stdout.take().ok_or("no output")?;
    let (mut chunk, mut bytes, mut most) = (vec![0; 1 << 20], 0, 0);
    let mut next_look = 0;
    loop {
        // It waits for us: what it took until now stands there.
        if next_look <= bytes {
            next_look += LOOK_BYTES;
            most =
                peak_kib(&fs::read_to_string(&status).unwrap_or_default()).unwrap_or(0).max(most);
        }
        match out.read(&mut chunk)? {
            0 => break,
            read => bytes += read,
        }
    }
    assert!(child.wait()?.success());
    assert!(bytes > DUMPED_BYTES, "{bytes} bytes dumped");
    assert!((1..DUMP_KIB_MAX).contains(&most), "{most} KiB of memory");
    Ok(())
}

/// The most memory that a process had, from its status.
fn peak_kib(status: &str) -> Option<u64> {
    let line = status.lines().find(|line| line.starts_with("VmHWM"))?;
    line.split_whitespace().nth(1)?.parse().ok()
}
