//! `kvnode init`: founding, and what it refuses.

use std::path::PathBuf;

use crate::node_fixture::{Result, expect, kvnode, output_in_time, write_config};

fn configs(dir: &std::path::Path, names: &[&str]) -> Result<Vec<PathBuf>> {
    names.iter().map(|name| write_config(dir, name, "")).collect()
}

fn init(files: &[PathBuf], more: &[&str]) -> Result<std::process::Output> {
    let mut command = kvnode();
    command.arg("init").args(more);
    for file in files {
        command.arg("-c").arg(file);
    }
    Ok(command.output()?)
}

#[test]
fn a_cluster_is_founded_once() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let files = configs(dir.path(), &["n1", "n2", "n3"])?;
    expect(&init(&files, &["--dry-run"])?, 0);
    assert!(!dir.path().join("n1").exists(), "a dry run wrote something");
    let (stdout, _) = expect(&init(&files, &["--json"])?, 0);
    let founded: serde_json::Value = serde_json::from_str(&stdout)?;
    assert_eq!(founded["nodes"].as_array().map(Vec::len), Some(3));
    for name in ["n1", "n2", "n3"] {
        let identity = std::fs::read_to_string(dir.path().join(name).join("IDENTITY"))?;
        let identity: serde_json::Value = serde_json::from_str(&identity)?;
        assert_eq!(identity["name"], name);
        assert_eq!(identity["cluster"], founded["cluster"]);
    }
    let (_, told) = expect(&init(&files, &[])?, 73);
    assert!(told.contains("is not empty"), "{told}");
    Ok(())
}

#[test]
fn one_directory_that_is_not_empty_stops_all() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let files = configs(dir.path(), &["n1", "n2"])?;
    std::fs::create_dir(dir.path().join("n2"))?;
    std::fs::write(dir.path().join("n2").join("precious"), "data")?;
    let (_, told) = expect(&init(&files, &[])?, 73);
    assert!(told.contains("n2 is not empty"), "{told}");
    assert!(!dir.path().join("n1").exists(), "n1 was founded all the same");
    Ok(())
}

#[test]
fn nodes_that_do_not_fit_together_are_refused() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let one = write_config(dir.path(), "n1", "")?;
    let other = write_config(dir.path(), "n2", "[quorum]\nn = 2\n")?;
    let (_, told) = expect(&init(&[one.clone(), other], &[])?, 78);
    assert!(told.contains("n1 and n2 differ"), "{told}");
    let (_, told) = expect(&init(&[one.clone(), one], &[])?, 78);
    assert!(told.contains("two nodes have node.name = n1"), "{told}");
    Ok(())
}

#[test]
fn a_directory_that_was_not_founded_does_not_run() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let file = write_config(dir.path(), "n1", "")?;
    let (_, told) = expect(&output_in_time(kvnode().args(["run", "-c"]).arg(file))?, 78);
    assert!(told.contains("kvnode init"), "{told}");
    Ok(())
}
