//! The steps, done: the operator's commands, and the two changes of the layout.
//!
//! A command gets the node by its environment: `KVKIT_NODE`, `KVKIT_ZONE`, `KVKIT_CLUSTER`, and `KVKIT_SEEDS`, where other
//! nodes of the cluster listen for nodes. What it prints goes to stderr: stdout is for decisions.

use std::io;
use std::os::fd::AsFd as _;
use std::os::unix::process::CommandExt as _;
use std::process::Stdio;

use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;

use crate::cli::connect::Session;
use crate::cli::ctl::cluster::{candidates, commit_changes};
use crate::cli::ctl::status::Sight;
use crate::cli::exit::Exit;
use crate::cli::failure::Failure;
use crate::cli::human;
use crate::cluster::staged::Staged;
use crate::wire::client::MemberHealth;

use super::decision::Step;
use super::policy::{Commands, Policy};

/// In a command's words, what stands for the node's name, and for its zone.
const PLACES: [&str; 2] = ["{node}", "{zone}"];

/// What came of a step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Done {
    /// Nothing is to be remembered of it.
    Plain,
    /// A layout of this version was chosen.
    Chosen(u64),
}

/// Does a step.
/// # Errors
/// What the command, or the members, said.
pub(super) async fn carry_out(
    step: &Step,
    policy: &Policy,
    session: &Session,
    sight: &Sight,
) -> Result<Done, Failure> {
    let Commands { start, stop, .. } = &policy.commands;
    match step {
        Step::Hold | Step::Wait => Ok(Done::Plain),
        Step::Start { node, zone } => run(start, policy, sight, [node, zone]).await,
        Step::Stop { node, .. } => run(stop, policy, sight, [node, ""]).await,
        Step::Join { node, zone } => {
            let mut joiner = candidates(session, sight).await?.named(node)?.clone();
            if !zone.is_empty() {
                joiner.zone.clone_from(zone);
            }
            commit_changes(session, sight, &[Staged::Join(joiner)]).await.map(Done::Chosen)
        }
        Step::Leave { node } => {
            let member = sight.view.layout.now.named(node);
            let member = member.ok_or_else(|| {
                Failure::new(Exit::TryAgain, format!("no member is named `{node}` any more"))
            })?;
            commit_changes(session, sight, &[Staged::Leave(member.id)]).await.map(Done::Chosen)
        }
    }
}

/// Runs one of the operator's commands. It has a process group of its own: Ctrl-C is for us, and whatever it began is
/// ended with it where it takes too long.
async fn run(
    words: &[String],
    policy: &Policy,
    sight: &Sight,
    place: [&str; 2],
) -> Result<Done, Failure> {
    let words: Vec<String> = words.iter().map(|word| filled_in(word, place)).collect();
    let (program, arguments) = words.split_first().expect("a policy's command has a program");
    let [node, zone] = place;
    let stdout = io::stderr().as_fd().try_clone_to_owned().map_err(|error| {
        Failure::new(Exit::System, "cannot hand stderr to a command").because(error)
    })?;
    let mut command = std::process::Command::new(program);
    command
        .args(arguments)
        .env("KVKIT_NODE", node)
        .env("KVKIT_ZONE", zone)
        .env("KVKIT_CLUSTER", &sight.view.cluster_name)
        .env("KVKIT_SEEDS", seeds(sight).join(","))
        .stdin(Stdio::null())
        .stdout(stdout)
        .process_group(0);
    let shown = words.join(" ");
    let mut child = tokio::process::Command::from(command).spawn().map_err(|error| {
        let exit =
            if error.kind() == io::ErrorKind::NotFound { Exit::NoInput } else { Exit::System };
        Failure::new(exit, format!("cannot start `{shown}` for {node}")).because(error)
    })?;
    let group = child.id().and_then(|id| i32::try_from(id).ok());
    let timeout = policy.commands.timeout;
    let Ok(ended) = tokio::time::timeout(timeout, child.wait()).await else {
        if let Some(group) = group {
            // It may have ended just now.
            let _ = killpg(Pid::from_raw(group), Signal::SIGKILL);
        }
        let _ = child.wait().await;
        let text = format!("`{shown}` for {node} took longer than {}", human::duration(timeout));
        return Err(Failure::new(Exit::TryAgain, text).code("timeout"));
    };
    match ended {
        Ok(status) if status.success() => Ok(Done::Plain),
        Ok(status) => {
            let text = format!("`{shown}` for {node} failed ({status})");
            Err(Failure::new(Exit::No, text).code("command_failed").detail("status", status.code()))
        }
        Err(error) => {
            Err(Failure::new(Exit::System, format!("cannot wait for `{shown}`")).because(error))
        }
    }
}

fn filled_in(word: &str, place: [&str; 2]) -> String {
    PLACES.iter().zip(place).fold(word.to_owned(), |word, (place, by)| word.replace(place, by))
}

/// Where the members that are up listen for nodes.
fn seeds(sight: &Sight) -> Vec<&str> {
    let up = sight.view.members.iter().filter(|member| member.health == MemberHealth::Up);
    up.map(|member| member.peer.as_str()).filter(|peer| !peer.is_empty()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_filled_in_wherever_they_stand() {
        for (word, expected) in [
            ("kvnode@{node}", "kvnode@n4"),
            ("--{zone}={node},{node}", "--a=n4,n4"),
            ("{name}", "{name}"),
        ] {
            assert_eq!(filled_in(word, ["n4", "a"]), expected);
        }
    }
}
