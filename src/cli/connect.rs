//! Reaching a cluster from the command line, and telling its errors.

use std::collections::BTreeMap;
use std::future::Future;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use bytes::Bytes;
use clap::Args;

use crate::client::{Client, ClientError, ClientOptions, ClusterView};
use crate::node_id::NodeId;
use crate::wire::client::{ErrorCode, ErrorReply, Outcome, ReplyBody, RequestBody};
use crate::wire::handshake::RefusalCode;

use super::exit::Exit;
use super::failure::Failure;
use super::human;
use super::interrupts::Interrupts;
use super::json::{Object, serialized};

/// The deadline of a request where `--timeout` names none.
pub const TIMEOUT_DEFAULT: Duration = Duration::from_secs(5);

/// Flags that say how to reach a cluster.
#[derive(Args, Clone, Debug)]
pub struct Connect {
    /// Nodes to begin with; the others are learned from them
    #[arg(
        short = 'H',
        long,
        global = true,
        value_name = "HOST:PORT",
        env = "KVCTL_HOSTS",
        hide_env_values = true,
        value_delimiter = ',',
        default_value = "127.0.0.1:7401",
        help_heading = "Connection"
    )]
    pub hosts: Vec<String>,
    /// A node's admin socket (admin.sock in its data directory) instead of --hosts
    #[arg(long, global = true, value_name = "PATH", help_heading = "Connection")]
    pub socket: Option<PathBuf>,
    /// Longest time for one request; for wait and commit --wait, for all of it [default: 5s; wait: 60s; commit --wait: none]
    #[arg(long, global = true, value_name = "DURATION", value_parser = human::parse_duration, help_heading = "Connection")]
    pub timeout: Option<Duration>,
}

/// A connection to a cluster, with what is needed to name its nodes.
#[derive(Clone, Debug)]
pub struct Session {
    client: Client,
}

impl Connect {
    /// Connects as `program`; a request's deadline is `--timeout`, or `timeout` where that is not given.
    /// # Errors
    /// A [`Failure`] of exit 69, 75, 76 or 77.
    pub async fn open(&self, program: &str, timeout: Duration) -> Result<Session, Failure> {
        let options = ClientOptions {
            hosts: self.hosts.clone(),
            socket: self.socket.clone(),
            timeout: self.timeout.unwrap_or(timeout),
            agent: format!("{program}/{}", env!("CARGO_PKG_VERSION")),
        };
        let client =
            Client::connect(options).await.map_err(|error| failure(error, &BTreeMap::new()))?;
        Ok(Session { client })
    }
}

impl Session {
    /// The client.
    pub const fn client(&self) -> &Client {
        &self.client
    }

    /// What is known of the cluster now.
    pub fn cluster(&self) -> Arc<ClusterView> {
        self.client.cluster()
    }

    /// The names of members, and of other nodes whose versions may be met.
    pub fn names(&self) -> BTreeMap<NodeId, String> {
        names_of(&self.cluster())
    }

    /// The members' names.
    pub fn member_names(&self) -> BTreeMap<NodeId, String> {
        members_of(&self.cluster())
    }

    /// Any request, at `node` or at any node.
    /// # Errors
    /// A [`Failure`] with the exit code that the error stands for.
    pub async fn call(
        &self,
        node: Option<NodeId>,
        body: RequestBody,
    ) -> Result<ReplyBody, Failure> {
        self.client.call(node, body).await.map_err(|error| self.failure(error))
    }

    /// A client's error, told in this cluster's names.
    pub fn failure(&self, error: ClientError) -> Failure {
        failure(error, &self.names())
    }

    /// Refuses a pair that no node would take, before it is sent.
    /// # Errors
    /// Exit 2 for an empty key, 65 for a pair too large.
    pub fn check_pair(&self, key: &Bytes, value_bytes: usize) -> Result<(), Failure> {
        if key.is_empty() {
            return Err(Failure::usage("a key has at least one byte"));
        }
        let (pair, pair_max) = (key.len() + value_bytes, self.cluster().pair_max);
        if pair > pair_max as usize {
            let message =
                format!("key and value are more than the {pair_max} bytes that a pair may have");
            return Err(Failure::bad_data(message).code("too_large").detail("pair_max", pair_max));
        }
        Ok(())
    }
}

/// The names of members, and of other nodes whose versions may be met.
pub fn names_of(cluster: &ClusterView) -> BTreeMap<NodeId, String> {
    let mut names = cluster.former.clone();
    names.extend(members_of(cluster));
    names
}

/// Each member's name, of both rings while a change runs.
fn members_of(cluster: &ClusterView) -> BTreeMap<NodeId, String> {
    let rings = [Some(&cluster.layout.now), cluster.layout.next.as_ref()];
    let members = rings.into_iter().flatten().flat_map(|ring| &ring.members);
    members.map(|member| (member.id, member.name.clone())).collect()
}

/// A node's name, or its id where it has none here.
pub fn name(node: NodeId, names: &BTreeMap<NodeId, String>) -> String {
    names.get(&node).cloned().unwrap_or_else(|| node.to_string())
}

/// Runs `work` to its end, or until Ctrl-C or SIGTERM.
/// # Errors
/// Those of `work`; of the system where it gives no runtime or no signals.
pub fn block_on(work: impl Future<Output = anyhow::Result<Exit>>) -> anyhow::Result<Exit> {
    block_on_heeding(async |interrupts| {
        tokio::select! {
            biased;
            outcome = work => outcome,
            exit = interrupts.next() => Ok(exit),
        }
    })
}

/// Runs `work`, which sees to it that Ctrl-C and SIGTERM end it.
/// # Errors
/// Those of `work`; of the system where it gives no runtime or no signals.
pub(crate) fn block_on_heeding(
    work: impl AsyncFnOnce(&mut Interrupts) -> anyhow::Result<Exit>,
) -> anyhow::Result<Exit> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("starting the runtime")?;
    let outcome = runtime.block_on(async { work(&mut Interrupts::new()?).await });
    // A thread that waits for stdin would hold up an orderly shutdown for ever.
    runtime.shutdown_background();
    outcome
}

/// A client's error as a failure with its exit code.
pub fn failure(error: ClientError, names: &BTreeMap<NodeId, String>) -> Failure {
    match error {
        ClientError::NoNode { .. } => {
            Failure::new(Exit::Unavailable, error.to_string()).code("no_node")
        }
        ClientError::Refused { code, .. } => {
            let exit = match code {
                RefusalCode::Overloaded => Exit::TryAgain,
                RefusalCode::NotAuthorised | RefusalCode::RemovedMember => Exit::NotAuthorised,
                RefusalCode::Protocol
                | RefusalCode::WrongCluster
                | RefusalCode::CopiedIdentity
                | RefusalCode::OldIncarnation
                | RefusalCode::NotAMember
                | RefusalCode::Itself => Exit::Protocol,
            };
            Failure::new(exit, error.to_string()).code("refused").detail("why", code)
        }
        ClientError::Protocol { .. } => Failure::new(Exit::Protocol, error.to_string()),
        ClientError::Timeout { write, .. } => {
            let failure = Failure::new(Exit::TryAgain, error.to_string()).code("timeout");
            let outcome = write.then_some(Outcome::Unknown);
            with_outcome(failure, outcome).detail("retry", true)
        }
        ClientError::Reply(reply) => of_reply(&reply, names),
    }
}

/// The exit code of a node's error.
pub const fn exit_of(code: ErrorCode) -> Exit {
    match code {
        ErrorCode::Usage | ErrorCode::Unsupported => Exit::Usage,
        ErrorCode::TooLarge => Exit::BadData,
        ErrorCode::StaleContext => Exit::Siblings,
        ErrorCode::QuorumUnmet
        | ErrorCode::Overloaded
        | ErrorCode::TooManySiblings
        | ErrorCode::Corrupt
        | ErrorCode::WrongLayout
        | ErrorCode::NotReady => Exit::TryAgain,
        ErrorCode::DiskFull => Exit::Io,
        ErrorCode::Internal => Exit::Bug,
    }
}

fn of_reply(reply: &ErrorReply, names: &BTreeMap<NodeId, String>) -> Failure {
    let code = serialized(&reply.code).trim_matches('"').to_owned();
    let mut failure = Failure::new(exit_of(reply.code), reply.message.clone()).code(code);
    if reply.needed > 0 {
        let acked: Vec<String> = reply.acked.iter().map(|node| name(*node, names)).collect();
        let failed = reply.failed.iter().map(|failed| {
            Object::bare()
                .field("node", name(failed.node, names))
                .field("why", &failed.why)
                .finish()
        });
        let failed = format!("[{}]", failed.collect::<Vec<_>>().join(","));
        failure = failure
            .note(quorum_note(reply, names))
            .detail("needed", reply.needed)
            .detail("acked", acked)
            .raw_detail("failed", failed);
    }
    with_outcome(failure, reply.outcome).detail("retry", reply.retry)
}

fn with_outcome(failure: Failure, outcome: Option<Outcome>) -> Failure {
    match outcome {
        None => failure,
        Some(outcome) => {
            let note = match outcome {
                Outcome::NotApplied => "nothing was written (not_applied)",
                Outcome::Unknown => "it may be written, now or later (unknown)",
            };
            failure.note(note).detail("outcome", outcome)
        }
    }
}

fn quorum_note(reply: &ErrorReply, names: &BTreeMap<NodeId, String>) -> String {
    let list = |parts: Vec<String>| {
        if parts.is_empty() { "none".to_owned() } else { parts.join(", ") }
    };
    let acked = list(reply.acked.iter().map(|node| name(*node, names)).collect());
    let failed = reply
        .failed
        .iter()
        .map(|failed| format!("{} {}", name(failed.node, names), failed.why))
        .collect();
    format!("needed {}; answered: {acked}; did not: {}", reply.needed, list(failed))
}

#[cfg(test)]
mod tests {
    use crate::cli::failure::{as_json, as_text};
    use crate::wire::client::Failed;

    use super::*;

    #[test]
    fn an_unmet_quorum_is_told_in_names() {
        let [n1, n3] = [1, 3].map(|byte| NodeId::from_bytes([byte; 16]));
        let names = BTreeMap::from([(n1, "n1".to_owned()), (n3, "n3".to_owned())]);
        let reply = ErrorReply {
            code: ErrorCode::QuorumUnmet,
            message: "1 of 2 owners acknowledged in time".to_owned(),
            needed: 2,
            acked: vec![n1],
            failed: vec![Failed { node: n3, why: "down".to_owned() }],
            outcome: Some(Outcome::Unknown),
            retry: true,
        };
        let error = failure(ClientError::Reply(Box::new(reply)), &names).into();
        assert_eq!(
            as_text("kvctl", &error),
            "kvctl: 1 of 2 owners acknowledged in time\n  needed 2; answered: n1; did not: n3 down\n  \
             it may be written, now or later (unknown)\n"
        );
        assert_eq!(
            as_json(&error),
            r#"{"v":1,"type":"error","code":"quorum_unmet","message":"1 of 2 owners acknowledged in time","needed":2,"acked":["n1"],"failed":[{"node":"n3","why":"down"}],"outcome":"unknown","retry":true,"exit":75}"#
        );
    }
}
