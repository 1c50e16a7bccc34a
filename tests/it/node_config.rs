//! kvnode's configuration and texts, as a user meets them.

use crate::node_fixture::{Result, expect, kvnode, output_in_time, write_config};

const GOOD: &str = "[node]\nname = \"n1\"\ndata_dir = \"/nowhere/n1\"\n";

fn check_config(text: &str, code: i32, stderr: &str) -> Result<()> {
    let dir = tempfile::tempdir()?;
    let file = dir.path().join("kvnode.toml");
    std::fs::write(&file, text)?;
    for command in ["check-config", "run"] {
        if command == "run" && code == 0 {
            continue;
        }
        let output = kvnode().args([command, "-c"]).arg(&file).output()?;
        let (_, told) = expect(&output, code);
        assert!(told.contains(stderr), "{command}: {told}");
    }
    Ok(())
}

#[test]
fn a_wrong_key_is_named_with_line_and_column() -> Result<()> {
    check_config(&format!("{GOOD}zome = \"a\"\n"), 78, "kvnode.toml:4:1: unknown key `node.zome`")
}

#[test]
fn a_wrong_value_is_named_with_line_and_column() -> Result<()> {
    let text = format!("{GOOD}[storage]\nsync = \"sometimes\"\n");
    check_config(&text, 78, "kvnode.toml:5:1: storage.sync: \"sometimes\" is not")
}

#[test]
fn a_syntax_error_is_named_with_line_and_column() -> Result<()> {
    check_config("[node\n", 78, "kvnode.toml:1:")
}

#[test]
fn what_is_not_built_yet_is_said_so() -> Result<()> {
    check_config(&format!("{GOOD}[tls]\npeers = \"require\"\n"), 78, "TLS is not built yet")
}

#[test]
fn a_good_file_is_good_and_a_missing_one_missing() -> Result<()> {
    check_config(GOOD, 0, "")?;
    let output = kvnode().args(["check-config", "-c", "/nowhere/kvnode.toml"]).output()?;
    expect(&output, 66);
    Ok(())
}

#[test]
fn others_are_let_in_only_when_that_is_spelled_out() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let file = write_config(dir.path(), "n1", "")?;
    let run = || {
        let mut command = kvnode();
        command.args(["run", "--set", "listen.peer=10.0.0.1:7400", "-c"]).arg(&file);
        command
    };
    let (_, told) = expect(&output_in_time(&mut run())?, 78);
    assert!(told.contains("10.0.0.1:7400") && told.contains("--insecure"), "{told}");
    // With the flag it goes on to the next reason not to run.
    let (_, told) = expect(&output_in_time(run().arg("--insecure"))?, 78);
    assert!(told.contains("is no data directory of a node"), "{told}");
    Ok(())
}

#[test]
fn each_value_is_shown_with_what_set_it() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let file = dir.path().join("kvnode.toml");
    std::fs::write(&file, GOOD)?;
    let output = kvnode()
        .args(["config", "show", "--origin", "--plain", "--set", "quorum.w=1", "-c"])
        .arg(&file)
        .env("KVNODE_QUORUM__R", "1")
        .output()?;
    let (stdout, _) = expect(&output, 0);
    let lines: Vec<&str> = stdout.lines().collect();
    for line in [
        format!("node.name\t\"n1\"\t{}:2:1", file.display()),
        "quorum.r\t1\tKVNODE_QUORUM__R".to_owned(),
        "quorum.w\t1\t--set".to_owned(),
        "quorum.n\t3\tdefault".to_owned(),
    ] {
        assert!(lines.contains(&line.as_str()), "{line} not in {stdout}");
    }
    Ok(())
}

#[test]
fn every_generated_text_is_there() -> Result<()> {
    for (what, part) in [
        ("man", ".TH"),
        ("bash", "kvnode"),
        ("zsh", "#compdef kvnode"),
        ("fish", "complete -c kvnode"),
        ("systemd", "Type=notify"),
        ("config", "[storage]"),
    ] {
        let (stdout, _) = expect(&kvnode().args(["--generate", what]).output()?, 0);
        assert!(stdout.contains(part), "{what}: {stdout}");
    }
    Ok(())
}

#[test]
fn an_unknown_flag_is_a_usage_error() -> Result<()> {
    expect(&kvnode().arg("--frobnicate").output()?, 2);
    Ok(())
}

#[test]
fn a_directory_too_deep_for_the_admin_socket_is_named() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let deep = dir.path().join("d".repeat(120));
    std::fs::create_dir(&deep)?;
    let file = write_config(&deep, "n1", "")?;
    let output = kvnode().args(["check-config", "-c"]).arg(&file).output()?;
    let (_, told) = expect(&output, 0);
    assert!(told.contains("good, but no admin socket: ") && told.contains("admin.sock"), "{told}");
    assert!(told.contains("a shorter data_dir helps"), "{told}");
    Ok(())
}
