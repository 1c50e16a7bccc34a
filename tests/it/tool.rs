//! The programs under test.

use assert_cmd::Command;

/// One of the four programs, cut off from the caller's environment.
pub(crate) fn tool(program: &str) -> Command {
    let mut command = match program {
        "kvctl" => assert_cmd::cargo::cargo_bin_cmd!("kvctl"),
        "kvring" => assert_cmd::cargo::cargo_bin_cmd!("kvring"),
        "kvsstable" => assert_cmd::cargo::cargo_bin_cmd!("kvsstable"),
        _ => assert_cmd::cargo::cargo_bin_cmd!("kvnode"),
    };
    command.env_remove("KVCTL_HOSTS").env("NO_COLOR", "1");
    command
}

/// What a run printed, as text.
pub(crate) fn stdout(assert: &assert_cmd::assert::Assert) -> String {
    String::from_utf8_lossy(&assert.get_output().stdout).into_owned()
}
