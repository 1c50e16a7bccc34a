//! The programs under test.

use assert_cmd::Command;

/// One of the four programs, cut off from the caller's environment.
pub(crate) fn tool(name: &str) -> Command {
    Command::from_std(program(name))
}

/// The same, to be spawned and watched.
pub(crate) fn program(name: &str) -> std::process::Command {
    let mut command = std::process::Command::new(match name {
        "kvctl" => env!("CARGO_BIN_EXE_kvctl"),
        "kvring" => env!("CARGO_BIN_EXE_kvring"),
        "kvsstable" => env!("CARGO_BIN_EXE_kvsstable"),
        _ => env!("CARGO_BIN_EXE_kvnode"),
    });
    command.env_remove("KVCTL_HOSTS").env_remove("NOTIFY_SOCKET").env("NO_COLOR", "1");
    command
}

/// What a run printed, as text.
pub(crate) fn stdout(assert: &assert_cmd::assert::Assert) -> String {
    String::from_utf8_lossy(&assert.get_output().stdout).into_owned()
}
