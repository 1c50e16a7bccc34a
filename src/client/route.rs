//! Where a request goes, and where next when that fails.
//!
//! A keyed request goes to the key's owners in preference order, then to the other members; any node takes any
//! request. Addresses that failed a moment ago come last. A try gets half of the time that is left while there are
//! others to turn to: a put may fail over only after its try's deadline, behind which no node begins to write it.

use std::time::{Duration, Instant};

use crate::node_id::NodeId;
use crate::ring::Token;
use crate::wire::client::{ErrorCode, Outcome, Reply, ReplyBody, RequestBody};

use super::connection::{Address, NoReply};
use super::{Client, ClientError, ClusterView, now};

/// Pause before the members are gone through once more, when a write's fate is open or the layout moves.
const PAUSE: Duration = Duration::from_millis(20);

/// One request on its way to a reply.
pub(super) struct Journey<'a> {
    client: &'a Client,
    begun: Instant,
    deadline: Instant,
    is_write: bool,
    /// Whether a try may have reached a node.
    is_sent: bool,
    /// Each address that could not be reached, and why.
    failures: Vec<String>,
}

/// What a try came to.
enum Try {
    Replied(ReplyBody),
    /// Somebody else may do better; the reply if there was one.
    Next(Option<ReplyBody>),
    /// The node acts on another layout than the one the request names.
    Moved(ReplyBody),
}

impl<'a> Journey<'a> {
    pub(super) fn new(client: &'a Client, is_write: bool) -> Self {
        let begun = now();
        let deadline = begun + client.shared.options.timeout;
        Self { client, begun, deadline, is_write, is_sent: false, failures: Vec::new() }
    }

    /// Sends what `body` makes (of the microseconds since the first try) to one address after another.
    pub(super) async fn travel(
        mut self,
        key: Option<&[u8]>,
        body: impl Fn(u64) -> RequestBody,
    ) -> Result<ReplyBody, ClientError> {
        loop {
            let addresses = self.client.addresses(key);
            let mut refusal = None;
            let mut is_moved = false;
            for (index, address) in addresses.iter().enumerate() {
                if refusal.is_some() && self.deadline <= now() {
                    break;
                }
                let is_last = index + 1 == addresses.len();
                match self.attempt(address, is_last, &body).await? {
                    Try::Replied(reply) => return Ok(self.honest(reply)),
                    Try::Next(reply) => refusal = reply.or(refusal),
                    Try::Moved(reply) => {
                        refusal = Some(reply);
                        is_moved = true;
                        break;
                    }
                }
            }
            // A read, and a write that no node saw, may fail at once; the fate of another write is worth waiting for.
            let is_open = self.is_sent && self.is_write;
            if !is_moved && !is_open {
                return refusal.map_or_else(|| Err(self.nobody()), reject);
            }
            if now() + PAUSE >= self.deadline {
                let refusal = refusal.filter(|_| !is_open);
                return refusal.map_or_else(|| Err(self.timeout()), reject);
            }
            tokio::time::sleep(PAUSE).await;
            if is_moved {
                self.client.refresh(self.deadline).await;
            }
        }
    }

    /// Sends `body` to `address` alone.
    pub(super) async fn visit(
        mut self,
        address: &Address,
        body: RequestBody,
    ) -> Result<ReplyBody, ClientError> {
        match self.attempt(address, true, &|_| body.clone()).await? {
            Try::Replied(reply) => Ok(reply),
            Try::Next(Some(reply)) | Try::Moved(reply) => reject(reply),
            Try::Next(None) if self.is_sent => Err(self.timeout()),
            Try::Next(None) => Err(self.nobody()),
        }
    }

    async fn attempt(
        &mut self,
        address: &Address,
        is_last: bool,
        body: &impl Fn(u64) -> RequestBody,
    ) -> Result<Try, ClientError> {
        let shared = &self.client.shared;
        let start = now();
        let left = self.deadline.saturating_duration_since(start);
        if left.is_zero() {
            return Err(self.timeout());
        }
        let deadline = start + if is_last { left } else { left / 2 };
        let dialled = shared.pool.connection(address, &shared.options.agent, deadline).await;
        let connection = match dialled {
            Ok(connection) => connection,
            Err(error) => {
                self.failures.push(format!("{address} ({error})"));
                return Ok(Try::Next(None));
            }
        };
        let age = start.saturating_duration_since(self.begun).as_micros();
        let body = body(if self.is_sent { u64::try_from(age).unwrap_or(u64::MAX) } else { 0 });
        let names_layout = matches!(body, RequestBody::Scan(_));
        let no_reply = match connection.request(body, deadline).await {
            Ok(reply) => return Ok(self.judge(reply, names_layout)),
            Err(no_reply) => no_reply,
        };
        shared.pool.shun(address);
        match no_reply {
            NoReply::NotSent => self.failures.push(format!("{address} (connection lost)")),
            NoReply::Broken => {
                self.is_sent = true;
                self.failures.push(format!("{address} (connection lost before the reply)"));
            }
            NoReply::Timeout if is_last => {
                self.is_sent = true;
                return Err(self.timeout());
            }
            NoReply::Timeout => self.is_sent = true,
        }
        Ok(Try::Next(None))
    }

    /// A request that names a layout version goes back to its maker when the layout moved; others are sent again.
    fn judge(&self, reply: Reply, names_layout: bool) -> Try {
        self.client.note_layout(reply.layout);
        match &reply.body {
            ReplyBody::Error(error) => match error.code {
                ErrorCode::WrongLayout if names_layout => Try::Replied(reply.body),
                ErrorCode::WrongLayout => Try::Moved(reply.body),
                ErrorCode::NotReady | ErrorCode::Overloaded | ErrorCode::Corrupt => {
                    Try::Next(Some(reply.body))
                }
                // Another node may reach those that this one does not; a write that may be under way stays where it is.
                ErrorCode::QuorumUnmet if error.outcome != Some(Outcome::Unknown) => {
                    Try::Next(Some(reply.body))
                }
                ErrorCode::Usage
                | ErrorCode::TooLarge
                | ErrorCode::StaleContext
                | ErrorCode::QuorumUnmet
                | ErrorCode::TooManySiblings
                | ErrorCode::DiskFull
                | ErrorCode::Unsupported
                | ErrorCode::Internal => Try::Replied(reply.body),
            },
            _ => Try::Replied(reply.body),
        }
    }

    /// What one node did not apply, an earlier try at another one may have.
    fn honest(&self, mut reply: ReplyBody) -> ReplyBody {
        if let ReplyBody::Error(error) = &mut reply
            && self.is_sent
            && error.outcome == Some(Outcome::NotApplied)
        {
            error.outcome = Some(Outcome::Unknown);
        }
        reply
    }

    fn timeout(&self) -> ClientError {
        let timeout = self.client.shared.options.timeout;
        ClientError::Timeout { timeout, write: self.is_write && self.is_sent }
    }

    fn nobody(&self) -> ClientError {
        ClientError::NoNode { tried: self.failures.join(", ") }
    }
}

impl ClusterView {
    /// Members in the order in which a request for `key` tries them; without a key in the layout's order.
    pub fn order(&self, key: Option<&[u8]>) -> Vec<NodeId> {
        let members = || self.layout.now.members.iter().map(|member| member.id);
        let Some(key) = key else { return members().collect() };
        let walk = self.preferences.of_slot(Token::of(key).slot());
        let mut order: Vec<NodeId> = walk.owners().chain(walk.fallbacks()).collect();
        // Members without a share of the ring are in no walk, and coordinate all the same.
        order.extend(members().filter(|member| !walk.owns(*member)));
        let mut seen = std::collections::BTreeSet::new();
        order.retain(|member| seen.insert(*member));
        order
    }
}

/// An error reply as an error, any other as it is.
pub(super) fn reject(reply: ReplyBody) -> Result<ReplyBody, ClientError> {
    match reply {
        ReplyBody::Error(error) => Err(ClientError::Reply(Box::new(error))),
        other => Ok(other),
    }
}
