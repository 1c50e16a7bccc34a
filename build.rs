//! Hands the git revision to `--version`.
//!
//! `KVKIT_REVISION` in the environment wins (a package built from a tarball sets it). A debug build has none, so that a
//! commit does not recompile everything.

use std::env;
use std::process::Command;

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rerun-if-env-changed=KVKIT_REVISION");
    let given = env::var("KVKIT_REVISION").ok().filter(|revision| !revision.is_empty());
    let revision = match (given, env::var("PROFILE").as_deref()) {
        (Some(given), _) => given,
        (None, Ok("release")) => revision_of_head().unwrap_or_else(|| "unknown".to_owned()),
        (None, _) => "debug".to_owned(),
    };
    println!("cargo::rustc-env=KVKIT_REVISION={revision}");
}

fn revision_of_head() -> Option<String> {
    // The reflog of HEAD grows with every commit and checkout.
    if let Some(reflog) = git(&["rev-parse", "--git-path", "logs/HEAD"]) {
        println!("cargo::rerun-if-changed={reflog}");
    }
    git(&["rev-parse", "--short=12", "HEAD"])
}

fn git(arguments: &[&str]) -> Option<String> {
    let output =
        Command::new("git").args(arguments).output().ok().filter(|run| run.status.success())?;
    String::from_utf8(output.stdout).ok().map(|text| text.trim().to_owned())
}
