//! `snapshot`: copies of the whole cluster, a part on every member; made, listed, checked, removed, restored.

mod create;
mod list;
mod parts;
mod restore;
mod source;
mod work;

use std::io::Write;

use clap::{Args, Subcommand};

use crate::cli::connect::Session;
use crate::cli::exit::Exit;
use crate::cli::failure::Failure;
use crate::cli::options::Common;
use crate::cli::progress::ProgressForm;
use crate::storage::snapshots::SnapshotName;

#[derive(Subcommand, Clone, Debug)]
pub(crate) enum SnapshotCommand {
    /// Make a snapshot of the whole cluster: every member keeps its part in its own data directory
    ///
    /// A part is made of hard links and takes next to no space at first. It lies in snapshots/NAME in the member's data
    /// directory, with a file SNAPSHOT that names every file with its length and SHA-1; kvsstable reads it like any data
    /// directory. All that was acknowledged before the command began is in it; of what is written meanwhile some may be.
    /// Where a member is down or fails the others make their parts all the same, the command says who has none, and ends
    /// with 75, or 4 where trying again will not help. The same command again makes the parts that are missing.
    Create(CreateArgs),
    /// Show the snapshots, which members have a part in each, and whether they are whole
    List,
    /// Have every member read its part again and hold it against its checksums
    ///
    /// Exit 65 where a file is damaged, each named with its node; 1 where a part is missing or incomplete; 75 where a member
    /// did not answer.
    Verify(VerifyArgs),
    /// Remove a snapshot, or what is left of one, from every member
    Remove(RemoveArgs),
    /// Merge parts of a snapshot, copied to this machine, into this cluster
    ///
    /// Each DIR is a member's snapshots/NAME. Name those of all members, or of enough: a part of the data that too few of
    /// its owners are there for is told, and refused unless --accept-loss is given. All are checked against their notes
    /// first: exit 65 where a file is damaged. Then every key's states are merged, by their dots, into what the cluster
    /// holds: siblings, deletes and causality stay, the number of nodes and partitions does not matter, and doing it again
    /// changes nothing. What was written here since the snapshot stays. A key that was deleted since stays deleted as long as
    /// the cluster remembers the delete, which it forgets once every member has it: after that the key comes back.
    /// One key is taken out of a snapshot with kvsstable get KEY DIR, or kvsstable dump --from KEY --to KEY DIR.
    Restore(restore::RestoreArgs),
}

#[derive(Args, Clone, Debug)]
pub(crate) struct CreateArgs {
    /// What to call it: 1 to 64 letters, digits, `.`, `_` or `-`, no dot in front
    #[arg(value_name = "NAME")]
    name: SnapshotName,
    /// How to show progress
    #[arg(long, value_enum, value_name = "FORM", default_value_t)]
    progress: ProgressForm,
    /// Only say which members would make a part
    #[arg(short = 'n', long)]
    dry_run: bool,
}

#[derive(Args, Clone, Debug)]
pub(crate) struct VerifyArgs {
    /// The snapshot
    #[arg(value_name = "NAME")]
    name: SnapshotName,
    /// How to show progress
    #[arg(long, value_enum, value_name = "FORM", default_value_t)]
    progress: ProgressForm,
}

#[derive(Args, Clone, Debug)]
pub(crate) struct RemoveArgs {
    /// The snapshot
    #[arg(value_name = "NAME")]
    name: SnapshotName,
    /// Do not ask
    #[arg(short, long)]
    yes: bool,
    /// Only say which members would remove a part
    #[arg(short = 'n', long)]
    dry_run: bool,
}

/// `snapshot …`.
pub(crate) async fn run(
    command: &SnapshotCommand,
    session: &Session,
    common: &Common,
    out: &mut dyn Write,
) -> anyhow::Result<Exit> {
    match command {
        SnapshotCommand::Create(args) => create::create(args, session, common, out).await,
        SnapshotCommand::List => list::list(session, common, out).await,
        SnapshotCommand::Verify(args) => list::verify(args, session, common, out).await,
        SnapshotCommand::Remove(args) => list::remove(args, session, common, out).await,
        SnapshotCommand::Restore(args) => restore::restore(args, session, common, out).await,
    }
}

/// Some names in a row, for people.
fn joined(names: &[String]) -> String {
    names.join(", ")
}

fn no_such_reply() -> Failure {
    Failure::new(Exit::Protocol, "snapshot got another reply")
}
