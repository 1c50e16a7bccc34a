//! `kvctl`: the client and the operator's hand.

mod autoscale;
mod choice;
mod cluster;
mod confirm;
mod context;
mod explain;
mod export;
mod filter;
mod hints;
mod hotkeys;
mod import;
mod import_source;
mod inspect;
mod merge;
mod moving;
mod quorum;
mod read;
mod repair;
mod require;
mod resolve;
mod resume;
mod rewrite;
mod scan;
mod siblings;
mod snapshot;
mod status;
mod update;
mod wait;
mod write;

use std::io::Write;
use std::process::ExitCode;

use clap::{Parser, Subcommand};

use super::connect::{Connect, Session, TIMEOUT_DEFAULT, block_on};
use super::exit::Exit;
use super::failure::Failure;
use super::generate::Generate;
use super::options::Common;
use super::program::{self, Manual, Program};

pub(crate) use quorum::{check_level, parse_level};
pub(crate) use status::{Sight, by_name, percent};

const PROGRAM: &str = "kvctl";

/// Reads and writes a kvkit cluster, and shows how it is
#[derive(Parser, Debug)]
#[command(name = PROGRAM, arg_required_else_help = true)]
pub(crate) struct Kvctl {
    #[command(subcommand)]
    command: Option<Command>,
    #[command(flatten)]
    connect: Connect,
    #[command(flatten)]
    common: Common,
    /// Print a text made from these definitions and exit
    #[arg(long, value_enum, value_name = "WHAT", help_heading = "Shared options")]
    generate: Option<Generate>,
}

#[derive(Subcommand, Debug)]
enum Command {
    #[command(flatten)]
    Live(Live),
    /// Wait until the cluster is ready, converged or free of hints
    Wait(wait::WaitArgs),
    /// What nodes keep for others that could not be reached
    #[command(subcommand)]
    Hints(hints::HintsCommand),
    /// Show the keys that are asked for most, of what the nodes coordinated in the last 10 to 20 seconds
    ///
    /// SHARE is the part of all gets and puts that is surely a key's, ERROR how much more it may be: each node counts the
    /// 64 keys that it is asked for most, and what it overlooks is less than a 64th of its traffic. Shown are keys of
    /// which more is sure than not.
    Hotkeys(hotkeys::HotKeysArgs),
    /// Anti-entropy: replicas compared, and what differs settled
    #[command(subcommand)]
    Repair(repair::RepairCommand),
    /// Add and take away nodes by their load, as a policy says
    ///
    /// Looks at the nodes again and again, and says in a line what it does and why. A node is added by the policy's start
    /// command, made a member, and waited for; it is taken away by giving its data to the others first, then by the
    /// policy's stop command. One change at a time, and none while a member is not up, a change runs, or something is
    /// staged. What is under way stands in a file beside the policy: who starts again goes on there. SIGTERM ends it
    /// between two steps.
    Autoscale(autoscale::AutoscaleArgs),
    /// Look into context tokens
    #[command(subcommand)]
    Context(context::ContextCommand),
}

/// Commands that need a cluster from the start.
#[derive(Subcommand, Debug)]
enum Live {
    /// Print a key's exact value
    Get(read::GetArgs),
    /// Store a value under a key
    Put(write::PutArgs),
    /// Delete keys
    Delete(write::DeleteArgs),
    /// Pass a key's value through a program
    ///
    /// The value goes to CMD's stdin, and what CMD prints is written in its place, byte for byte; an absent key is an
    /// empty stdin. Where another write came in between, CMD runs again on what is there then. After 10 attempts, or
    /// where siblings stand that nobody resolves: exit 3. Where CMD fails nothing is written: exit 1. No shell takes
    /// part; one may be the CMD: -- sh -c '...'
    Update(update::UpdateArgs),
    /// Replace a key's siblings by one version: a chosen one, a merge of them, or what a program makes of them
    ///
    /// Where the key has one version only, nothing is written: exit 0. What comes in between the read and the write
    /// stays a sibling; a merge or a program then runs again. Where siblings stand after 10 attempts, or where
    /// something came in beside a choice: exit 3.
    Resolve(resolve::ResolveArgs),
    /// Print the values of many keys, a line each: key, tab, value (escaped); exact bytes with --json
    Mget(read::MgetArgs),
    /// Print the keys that hold a value, by slot, then key
    Keys(export::KeysArgs),
    /// Store records (kv-records/1, or any JSON lines with key and value)
    ///
    /// Each record is a put. With --exact an export, or a dump of kvsstable, is restored instead: each record's whole state
    /// is merged into what is there, by its dots, so that siblings, deletes and causality are as they were, in another
    /// cluster too, and doing it again changes nothing. The input must be whole, from its header to the count and SHA-1 in
    /// its footer, else: exit 65. A file is checked before anything is written; of a pipe, what came before the flaw has
    /// been. What was written here since the export stays. A key that was deleted since stays deleted as long as the
    /// cluster remembers the delete, which it forgets once every member has it: after that the key comes back.
    Import(import::ImportArgs),
    /// Print every key's state as records (kv-records/1)
    Export(export::ExportArgs),
    /// Show what each owner of a key holds, side by side
    Inspect(inspect::InspectArgs),
    /// Show every member and what the cluster can promise now
    Status,
    /// Members, shares and quorums: staged, planned, committed
    #[command(subcommand)]
    Cluster(cluster::ClusterCommand),
    /// Copies of the whole cluster: made, checked, restored into a cluster of any size
    #[command(subcommand)]
    Snapshot(snapshot::SnapshotCommand),
}

/// Runs `kvctl`.
pub fn main() -> ExitCode {
    program::main::<Kvctl>()
}

impl Program for Kvctl {
    const MANUAL: Manual = Manual {
        program: PROGRAM,
        description: "kvctl reads and writes the data of a kvkit cluster and shows how the cluster is. Any node takes \
            any request. Data goes to stdout, talk to stderr; with --json both are one JSON object a line. A value is \
            printed as its exact bytes, nothing added. Keys are bytes: an argument is taken as it stands, --key-hex \
            and --key-b64 take the rest.",
        examples: "\
# store, read, delete
kvctl put cart:42 '{\"items\":[\"book\"]}'
kvctl get cart:42
kvctl put photo:1 @cat.jpg && kvctl get photo:1 > copy.jpg
kvctl delete cart:42

# wait for all three replicas; read from all of them
kvctl put k v -w all && kvctl get k -r all --explain

# read, change, write: nothing that others wrote in between is lost
kvctl update cart:42 -- jq -cj '.items += [\"pen\"]'
kvctl get k --context-out k.ctx && kvctl put k new --if-context @k.ctx

# two clients wrote at the same time: see both, keep one, or merge them
kvctl get cart:42 --siblings all
kvctl resolve cart:42 --take 2
kvctl resolve cart:42 --merge json
kvctl resolve cart:42 -- jq -csj 'map(.value | fromjson? // empty) | add'

# many keys
kvctl keys user: | kvctl mget
kvctl export > backup.ndjson && kvctl import --exact backup.ndjson
jq -c '{key: .id, value: .}' things.ndjson | kvctl import

# which keys keep the nodes busy?
kvctl hotkeys --limit 3

# what would a policy do now? (examples/autoscale)
kvctl autoscale --policy local.toml --once --dry-run

# a snapshot of the whole cluster, and back into one of any size
kvctl snapshot create nightly && kvctl snapshot verify nightly
kvctl snapshot restore n1/snapshots/nightly n2/snapshots/nightly n3/snapshots/nightly
kvsstable get cart:42 n1/snapshots/nightly

# is everything up, and do all replicas agree?
kvctl status
kvctl export -r all > /dev/null && kvctl wait converged",
        environment: &[
            (
                "KVCTL_HOSTS",
                "nodes to begin with, host:port separated by commas, where --hosts is not given",
            ),
            ("NO_COLOR", "no colours, where it is set and not empty"),
        ],
        files: &[("admin.sock", "in a node's data directory: its socket for --socket")],
        see_also: &["kvnode", "kvring", "kvsstable"],
    };

    fn generate(&self) -> Option<Generate> {
        self.generate
    }

    fn run(self, out: &mut dyn Write) -> anyhow::Result<Exit> {
        let Some(command) = self.command else {
            return Err(Failure::usage("no command; see kvctl --help").into());
        };
        let (connect, common) = (self.connect, self.common);
        common.start_talk();
        match &command {
            Command::Live(live) => block_on(async {
                let session = connect.open(PROGRAM, TIMEOUT_DEFAULT).await?;
                live.run(&connect, &session, &common, out).await
            }),
            Command::Wait(args) => block_on(wait::wait(args, &connect, &common, out)),
            Command::Hints(hints::HintsCommand::List) => block_on(async {
                let session = connect.open(PROGRAM, TIMEOUT_DEFAULT).await?;
                hints::list(&session, &common, out).await
            }),
            Command::Hotkeys(args) => block_on(async {
                let session = connect.open(PROGRAM, TIMEOUT_DEFAULT).await?;
                hotkeys::hotkeys(args, &session, &common, out).await
            }),
            Command::Repair(command) => block_on(async {
                let session = connect.open(PROGRAM, TIMEOUT_DEFAULT).await?;
                match command {
                    repair::RepairCommand::Start(args) => {
                        repair::start(args, &session, &common, out).await
                    }
                    repair::RepairCommand::Status => repair::status(&session, &common, out).await,
                    repair::RepairCommand::AcceptLoss(args) => {
                        repair::accept_loss(args, &session, &common, out).await
                    }
                }
            }),
            Command::Autoscale(args) => autoscale::autoscale(args, &connect, &common, out),
            Command::Context(context::ContextCommand::Decode(args)) => {
                context::decode(args, &common, out)
            }
        }
    }
}

impl Live {
    async fn run(
        &self,
        connect: &Connect,
        session: &Session,
        common: &Common,
        out: &mut dyn Write,
    ) -> anyhow::Result<Exit> {
        match self {
            Self::Get(args) => read::get(args, session, common, out).await,
            Self::Put(args) => write::put(args, session, common, out).await,
            Self::Delete(args) => write::delete(args, session, common, out).await,
            Self::Update(args) => update::update(args, session, common, out).await,
            Self::Resolve(args) => resolve::resolve(args, session, common, out).await,
            Self::Mget(args) => read::mget(args, session, common, out).await,
            Self::Keys(args) => export::keys(args, session, common, out).await,
            Self::Import(args) => import::import(args, session, common, out).await,
            Self::Export(args) => export::export(args, session, common, out).await,
            Self::Inspect(args) => inspect::inspect(args, session, common, out).await,
            Self::Cluster(command) => cluster::run(command, connect, session, common, out).await,
            Self::Snapshot(command) => snapshot::run(command, session, common, out).await,
            Self::Status => status::status(session, common, out).await,
        }
    }
}
