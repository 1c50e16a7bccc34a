//! `kvnode run`: a node from its configuration to its exit code.

use clap::Args;
use tracing_subscriber::filter::EnvFilter;

use super::ConfigArgs;
use super::config::Config;
use super::inspect;
use super::logging::{self, FilterHandle};
use crate::cli::{Exit, Failure};
use crate::node::{HintLimits, StartError};
use crate::runtime::{self, Ended, Joining, Options, RunError};
use crate::storage::{IdentityError, LockError, OpenError};
use crate::wire::handshake::RefusalCode;

/// Flags of `kvnode run`.
#[derive(Args, Clone, Debug)]
pub(super) struct RunArgs {
    #[command(flatten)]
    config: ConfigArgs,
    /// Listen on addresses that other machines reach, though nobody is asked who they are
    #[arg(long)]
    insecure: bool,
}

pub(super) fn run(args: &RunArgs) -> anyhow::Result<Exit> {
    let config = inspect::load(&args.config)?;
    let exposed = config.exposed();
    if !exposed.is_empty() && !args.insecure {
        let message = format!(
            "{} can be reached from other machines, and this release asks nobody who they are",
            exposed.join(", ")
        );
        return Err(Failure::new(Exit::Config, message)
            .note("--insecure says that this network may be trusted")
            .into());
    }
    let handle = logging::begin(&config.log_filter, config.log_format)?;
    let options = options(config, args.config.clone(), handle);
    match runtime::run(&options) {
        Ok(Ended::Drained) => Ok(Exit::Done),
        Ok(Ended::Interrupted) => Ok(Exit::Interrupted),
        Ok(Ended::Terminated) => Ok(Exit::Terminated),
        Err(error) => Err(failure(&error).into()),
    }
}

fn options(config: Config, args: ConfigArgs, handle: FilterHandle) -> Options {
    let store = config.store();
    let running = std::cell::RefCell::new(config.clone());
    Options {
        data_dir: config.data_dir,
        name: config.name,
        cluster: config.cluster,
        seeds: config.seeds,
        joining: Joining {
            zone: config.zone,
            weight: config.founding.weight,
            is_staged: config.is_staged,
        },
        listen_peer: config.listen_peer,
        listen_client: config.listen_client,
        listen_http: config.listen_http,
        advertise_peer: config.advertise_peer,
        advertise_client: config.advertise_client,
        store,
        timeout: config.timeout,
        pair_max: config.pair_max,
        gossip_interval: config.gossip_interval,
        hints: config.hints,
        repair_rate: config.repair_rate,
        connections: config.connections,
        frame_bytes_max: config.frame,
        request_bytes: config.requests_memory,
        reload: Box::new(move || reload(&args, &mut running.borrow_mut(), &handle)),
    }
}

/// Applies of a good new configuration the log filter here, and the hints' bounds where they are returned to; says so
/// where the rest differs.
fn reload(args: &ConfigArgs, running: &mut Config, handle: &FilterHandle) -> Option<HintLimits> {
    let new = match inspect::load(args) {
        Ok(new) => new,
        Err(error) => {
            tracing::error!("the new configuration is bad, the old one stays: {error}");
            return None;
        }
    };
    let filter = EnvFilter::try_new(&new.log_filter).map_err(anyhow::Error::from);
    let applied = filter.and_then(|filter| Ok(handle.reload(filter)?));
    if let Err(error) = applied {
        tracing::error!("cannot change the log filter: {error}");
        return None;
    }
    running.log_filter.clone_from(&new.log_filter);
    running.hints = new.hints;
    if *running == new {
        tracing::info!(filter = new.log_filter, "configuration reloaded");
    } else {
        tracing::warn!(
            filter = new.log_filter,
            "log filter and hints reloaded; the other changes in the configuration need a restart"
        );
    }
    Some(new.hints)
}

/// A node that cannot run, with its exit code and what to do about it.
fn failure(error: &RunError) -> Failure {
    let exit = exit(error);
    let note = match error {
        RunError::Listen { .. } => Some("another process may have it: `ss -ltnp` tells which"),
        RunError::WrongIdentity { .. } => Some(
            "node.name, node.cluster and node.data_dir must be those the cluster was founded with",
        ),
        RunError::Refused { code: RefusalCode::CopiedIdentity, .. } => {
            Some("a data directory must never run twice; a new node needs one of its own")
        }
        _ => None,
    };
    let message = error.to_string();
    let failure = Failure::new(exit, message);
    let failure = match std::error::Error::source(error) {
        Some(source) => failure.because(chain(source)),
        None => failure,
    };
    match note {
        Some(note) => failure.note(note),
        None => failure,
    }
}

/// The causes in one line.
fn chain(error: &dyn std::error::Error) -> String {
    match error.source() {
        Some(source) => format!("{error}: {}", chain(source)),
        None => error.to_string(),
    }
}

fn exit(error: &RunError) -> Exit {
    match error {
        RunError::NotFounded { .. } | RunError::Lost { .. } => Exit::Config,
        RunError::WrongIdentity { .. } => Exit::Protocol,
        RunError::Lock(LockError::Held { .. }) => Exit::TryAgain,
        RunError::Lock(LockError::Io { source, .. })
        | RunError::Identity(IdentityError::Io { source, .. }) => Exit::of_io(source),
        RunError::Identity(IdentityError::Malformed { .. } | IdentityError::Missing { .. }) => {
            Exit::BadData
        }
        RunError::Store { source, .. } => match &**source {
            OpenError::Io { source, .. } => Exit::of_io(source),
            OpenError::Damaged { .. } | OpenError::Missing { .. } => Exit::BadData,
            OpenError::Options(_) => Exit::Config,
        },
        RunError::Start { source, .. } => match &**source {
            StartError::NotAMember(_) => Exit::NotAuthorised,
            StartError::Read { .. } | StartError::Malformed { .. } => Exit::BadData,
            _ => Exit::Io,
        },
        RunError::Listen { .. } | RunError::System { .. } => Exit::System,
        RunError::Refused { code, .. } => match code {
            RefusalCode::RemovedMember | RefusalCode::NotAMember | RefusalCode::NotAuthorised => {
                Exit::NotAuthorised
            }
            RefusalCode::Protocol
            | RefusalCode::WrongCluster
            | RefusalCode::CopiedIdentity
            | RefusalCode::OldIncarnation
            | RefusalCode::Overloaded
            | RefusalCode::Itself => Exit::Protocol,
        },
        RunError::Removed { .. } => Exit::NotAuthorised,
        RunError::Fatal(_) => Exit::Io,
    }
}
