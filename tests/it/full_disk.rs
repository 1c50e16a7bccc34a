//! A node whose disk is full: writes are refused with a reason, reads go on, nothing acknowledged is lost.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{ErrorKind, Write};
use std::path::{Path, PathBuf};
use std::process::Command;

use predicates::prelude::*;
use predicates::str::{contains, is_empty, starts_with};

use crate::live::json;
use crate::lone_node::Alone;
use crate::node_fixture::{Result, wait_for};

/// Size of the file system. The node's reserve and a segment of its log take 64 MiB each.
const DISK: &str = "size=160m";
/// Puts that are more than fit into what is left of it, each of 10 KB.
const PUTS_MAX: usize = 20_000;

/// A small file system, unmounted when the test ends.
struct SmallDisk(PathBuf);

impl SmallDisk {
    /// Mounts one; `None` where this process may not.
    fn mount(at: &Path) -> Result<Option<Self>> {
        std::fs::create_dir(at)?;
        let mut mount = Command::new("mount");
        let mounted = mount.args(["-t", "tmpfs", "-o", DISK, "kvkit-test"]).arg(at).output()?;
        if mounted.status.success() {
            return Ok(Some(Self(at.to_owned())));
        }
        assert!(
            !nix::unistd::geteuid().is_root(),
            "root could not mount: {}",
            String::from_utf8_lossy(&mounted.stderr)
        );
        Ok(None)
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        // Lazily: a node that was not waited for may be ending on it.
        let _ = Command::new("umount").arg("--lazy").arg(&self.0).status();
    }
}

/// Fills what is left of the disk with a file of its own.
fn fill(file: &Path) -> Result<()> {
    let mut file = File::create(file)?;
    loop {
        match file.write_all(&vec![0; 64 << 10]) {
            Ok(()) => {}
            Err(error) if error.kind() == ErrorKind::StorageFull => return Ok(()),
            Err(error) => return Err(error.into()),
        }
    }
}

fn value(number: usize) -> String {
    format!("{number:05} ").repeat(1_600)
}

#[test]
fn a_full_disk_refuses_puts_serves_gets_and_loses_nothing() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let Some(disk) = SmallDisk::mount(&dir.path().join("n1"))? else {
        writeln!(std::io::stderr(), "skipped: only root can mount a small file system")?;
        return Ok(());
    };
    // Small memtables: flushes soon need space that the log has already.
    let mut node =
        Alone::founded_in(dir, "[storage]\nmemtable = \"1MiB\"\ncompression = \"none\"\n")?;
    node.start(&[])?;
    let ballast = disk.0.join("ballast");
    fill(&ballast)?;
    let mut acknowledged = BTreeMap::new();
    let refused = (0..PUTS_MAX).find_map(|number| {
        let key = format!("k{number}");
        let put = node.kvctl(&["put", &key, &value(number), "--json"]).ok()?.output().ok()?;
        if put.status.success() {
            acknowledged.insert(key, value(number));
            None
        } else {
            Some(put)
        }
    });
    let refused = refused.ok_or("the disk was never full")?;
    let error = json(&String::from_utf8_lossy(&refused.stderr));
    assert_eq!(
        (refused.status.code(), &error["code"], &error["outcome"]),
        (Some(74), &"disk_full".into(), &"not_applied".into()),
        "{error}"
    );
    assert!(!acknowledged.is_empty(), "{error}");
    node.kvctl(&["put", "k", "v"])?.assert().code(74).stdout(is_empty()).stderr(
        starts_with("kvctl: ")
            .and(contains("the disk is full: only reads are served"))
            .and(contains("not_applied")),
    );
    let check = |node: &Alone| -> Result<()> {
        for (key, value) in &acknowledged {
            node.kvctl(&["get", key])?.assert().success().stdout(value.clone());
        }
        Ok(())
    };
    check(&node)?;
    // Space comes back, and with it the writes; none of those refused was taken.
    std::fs::remove_file(&ballast)?;
    wait_for("writes to come back", || {
        node.kvctl(&["put", "back", "v"]).ok()?.output().ok()?.status.success().then_some(())
    });
    node.kvctl(&["get", "k"])?.assert().code(1);
    check(&node)?;
    assert_eq!(node.stop()?, Some(0), "{}", node.log());
    node.start(&[])?;
    check(&node)?;
    node.kvctl(&["get", "back"])?.assert().success().stdout("v");
    drop(node);
    drop(disk);
    Ok(())
}
