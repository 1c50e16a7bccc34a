//! Where a request goes, and where next when that fails.
//!
//! A keyed request goes to the key's owners in preference order, then to the other members; any node takes any
//! request. Addresses that failed a moment ago, or hang, come last. A try gets half of the time that is left while there
//! are others to turn to: a put may fail over only after its try's deadline, behind which no node begins to write it. A
//! get does not wait so long: when its node takes longer than it usually does the next one is asked too, as long as few
//! gets are.

use std::time::{Duration, Instant};

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;

use crate::node_id::NodeId;
use crate::ring::Token;
use crate::wire::client::{ErrorCode, ErrorReply, Outcome, Reply, ReplyBody, RequestBody};

use super::connection::{Address, NoReply};
use super::{Client, ClientError, ClusterView, now};

/// Pause before the members are gone through once more, when a write's fate is open or the layout moves.
const PAUSE: Duration = Duration::from_millis(20);

/// How many nodes may refuse a request as overloaded before its maker is told.
const OVERLOADS_MAX: u32 = 2;

/// One request on its way to a reply.
pub(super) struct Journey<'a> {
    client: &'a Client,
    begun: Instant,
    deadline: Instant,
    kind: Kind,
    /// Who is to answer, where that is not anybody.
    node: Option<NodeId>,
    /// Whether a try may have reached a node.
    is_sent: bool,
    /// How many nodes said that they have too much to do.
    overloads: u32,
    /// Each address that could not be reached, and why.
    failures: Vec<String>,
}

/// What may be done about a slow node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// Another one is asked too.
    Get,
    /// Another one is asked after the try's deadline, with the same request id.
    Write,
    /// Another one is asked after the try's deadline.
    Other,
}

/// What a try came to.
enum Try {
    Replied(ReplyBody),
    /// Somebody else may do better; the reply if there was one.
    Next(Option<ReplyBody>),
    /// The node acts on another layout than the one the request names.
    Moved(ReplyBody),
}

/// What became of one request to one address.
enum Attempt {
    Replied(Box<Reply>),
    /// It did not leave.
    NotSent(String),
    /// It did not leave: the node has too much to do.
    Withheld,
    /// It may have arrived.
    Lost(String),
    /// No reply in time.
    Late,
}

impl<'a> Journey<'a> {
    pub(super) fn new(client: &'a Client, kind: Kind) -> Self {
        let begun = now();
        let deadline = begun + client.shared.options.timeout;
        let (is_sent, overloads, node) = (false, 0, None);
        Self { client, begun, deadline, kind, node, is_sent, overloads, failures: Vec::new() }
    }

    /// Sends what `body` makes (of the microseconds since the first try) to one address after another.
    pub(super) async fn travel(
        mut self,
        key: Option<&[u8]>,
        body: impl Fn(u64) -> RequestBody,
    ) -> Result<ReplyBody, ClientError> {
        loop {
            let addresses = self.client.addresses(key);
            let came_to = match self.kind {
                Kind::Get => self.race(&addresses, &body).await?,
                Kind::Write | Kind::Other => self.one_by_one(&addresses, &body).await?,
            };
            let (refusal, is_moved) = match came_to {
                Try::Replied(reply) => return Ok(self.honest(reply)),
                Try::Next(refusal) => (refusal, false),
                Try::Moved(refusal) => (Some(refusal), true),
            };
            // A read, and a write that no node saw, may fail at once; the fate of another write is worth waiting for.
            let is_open = self.is_sent && self.kind == Kind::Write;
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

    /// Sends `body` to `address` alone, where `node` answers, if one is named.
    pub(super) async fn visit(
        mut self,
        address: &Address,
        node: Option<NodeId>,
        body: RequestBody,
    ) -> Result<ReplyBody, ClientError> {
        self.node = node;
        match self.one_by_one(std::slice::from_ref(address), &|_| body.clone()).await? {
            Try::Replied(reply) => Ok(reply),
            Try::Next(Some(reply)) | Try::Moved(reply) => reject(reply),
            Try::Next(None) if self.is_sent => Err(self.timeout()),
            Try::Next(None) => Err(self.nobody()),
        }
    }

    /// One address after another, each with half of the time that is left while there are others.
    async fn one_by_one(
        &mut self,
        addresses: &[Address],
        body: &impl Fn(u64) -> RequestBody,
    ) -> Result<Try, ClientError> {
        let mut refusal = None;
        for (index, address) in addresses.iter().enumerate() {
            let start = now();
            let left = self.deadline.saturating_duration_since(start);
            if left.is_zero() {
                break;
            }
            let is_last = index + 1 == addresses.len();
            let deadline = start + if is_last { left } else { left / 2 };
            let body = body(self.age(start));
            let names_layout = matches!(body, RequestBody::Scan(_));
            let attempt = attempt(self.client, address, self.node, deadline, body).await;
            if is_last && matches!(attempt, Attempt::Late) {
                self.is_sent = true;
                self.client.shared.pool.shun(address);
                return Err(self.timeout());
            }
            match self.judge(address, attempt, names_layout) {
                Try::Next(reply) => refusal = reply.or(refusal),
                decided @ (Try::Replied(_) | Try::Moved(_)) => return Ok(decided),
            }
        }
        if refusal.is_none() && self.deadline <= now() {
            return Err(self.timeout());
        }
        Ok(Try::Next(refusal))
    }

    /// One address, and the next one too when that takes longer than it usually does: the first reply counts.
    async fn race(
        &mut self,
        addresses: &[Address],
        body: &impl Fn(u64) -> RequestBody,
    ) -> Result<Try, ClientError> {
        let (client, pool) = (self.client, &self.client.shared.pool);
        let mut waiting = addresses.iter();
        let mut tries = FuturesUnordered::new();
        let mut refusal = None;
        let mut start = |tries: &mut FuturesUnordered<_>, deadline: Instant| {
            let address = waiting.next()?;
            let begun = now();
            let until = begun + pool.patience(address);
            let body = body(0);
            tries.push(async move {
                (address, begun, attempt(client, address, None, deadline, body).await)
            });
            Some(Slow {
                address,
                until,
                half: begun + deadline.saturating_duration_since(begun) / 2,
            })
        };
        let mut slow = start(&mut tries, self.deadline);
        loop {
            let until = slow.as_ref().map_or(self.deadline, |slow| slow.until.min(slow.half));
            tokio::select! {
                Some((address, begun, attempt)) = tries.next() => {
                    if matches!(attempt, Attempt::Replied(_)) {
                        pool.took(address, now().saturating_duration_since(begun));
                    }
                    match self.judge(address, attempt, false) {
                        Try::Next(reply) => refusal = reply.or(refusal),
                        decided @ (Try::Replied(_) | Try::Moved(_)) => return Ok(decided),
                    }
                    if self.deadline <= now() {
                        return Err(self.timeout());
                    }
                    slow = start(&mut tries, self.deadline).or(slow);
                    if tries.is_empty() {
                        return Ok(Try::Next(refusal));
                    }
                }
                () = tokio::time::sleep_until(until.into()), if slow.is_some() => {
                    let Some(mut is_slow) = slow.take() else { continue };
                    let is_free = is_slow.half <= now() || pool.is_silent(is_slow.address);
                    if is_free || pool.take_extra() {
                        slow = start(&mut tries, self.deadline);
                    } else {
                        is_slow.until = now() + PAUSE;
                        slow = Some(is_slow);
                    }
                }
            }
        }
    }

    /// Microseconds since the first try, if there was one.
    fn age(&self, start: Instant) -> u64 {
        let age = start.saturating_duration_since(self.begun).as_micros();
        if self.is_sent { u64::try_from(age).unwrap_or(u64::MAX) } else { 0 }
    }

    /// A request that names a layout version goes back to its maker when the layout moved; others are sent again.
    fn judge(&mut self, address: &Address, attempt: Attempt, names_layout: bool) -> Try {
        let reply = match attempt {
            Attempt::Replied(reply) => *reply,
            Attempt::NotSent(why) => {
                self.client.look_around();
                self.failures.push(format!("{address} ({why})"));
                return Try::Next(None);
            }
            Attempt::Lost(why) => {
                self.is_sent = true;
                self.client.shared.pool.shun(address);
                self.client.look_around();
                self.failures.push(format!("{address} ({why})"));
                return Try::Next(None);
            }
            Attempt::Late => {
                self.is_sent = true;
                self.client.shared.pool.shun(address);
                return Try::Next(None);
            }
            Attempt::Withheld => return self.overloaded(withheld(address, self.kind)),
        };
        self.client.note_layout(reply.layout);
        match &reply.body {
            ReplyBody::Error(error) => match error.code {
                ErrorCode::WrongLayout if names_layout => Try::Replied(reply.body),
                ErrorCode::WrongLayout => Try::Moved(reply.body),
                ErrorCode::Overloaded => self.overloaded(reply.body),
                ErrorCode::NotReady | ErrorCode::Corrupt => Try::Next(Some(reply.body)),
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

    /// Where all have too much to do, asking them all makes it more.
    const fn overloaded(&mut self, reply: ReplyBody) -> Try {
        self.overloads += 1;
        if self.overloads < OVERLOADS_MAX { Try::Next(Some(reply)) } else { Try::Replied(reply) }
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
        let write = self.kind == Kind::Write && self.is_sent;
        ClientError::Timeout { timeout, write }
    }

    fn nobody(&self) -> ClientError {
        ClientError::NoNode { tried: self.failures.join(", ") }
    }
}

/// The node that was asked last, while another one may be asked besides.
struct Slow<'a> {
    address: &'a Address,
    until: Instant,
    /// From here on no payment is asked for.
    half: Instant,
}

async fn attempt(
    client: &Client,
    address: &Address,
    node: Option<NodeId>,
    deadline: Instant,
    body: RequestBody,
) -> Attempt {
    let shared = &client.shared;
    let connection = match shared.pool.connection(address, &shared.options.agent, deadline).await {
        Ok(connection) => connection,
        Err(error) => return Attempt::NotSent(error.to_string()),
    };
    // Nodes move, and others come to where they were.
    if connection.with.cluster != client.cluster().cluster {
        shared.pool.shun(address);
        return Attempt::NotSent("a node of another cluster answers there".to_owned());
    }
    if node.is_some_and(|node| node != connection.with.node) {
        return Attempt::NotSent(format!("node {} answers there", connection.with.node));
    }
    if !shared.pool.lets_through(address) {
        return Attempt::Withheld;
    }
    shared.pool.asked(address);
    match connection.request(body, deadline).await {
        Ok(reply) => {
            shared.pool.heard(address);
            match &reply.body {
                ReplyBody::Error(ErrorReply { code: ErrorCode::Overloaded, .. }) => {
                    shared.pool.refused(address);
                }
                _ => shared.pool.done(address),
            }
            Attempt::Replied(Box::new(reply))
        }
        Err(NoReply::NotSent) => {
            shared.pool.heard(address);
            shared.pool.shun(address);
            Attempt::NotSent("connection lost".to_owned())
        }
        Err(NoReply::Broken) => {
            shared.pool.heard(address);
            Attempt::Lost("connection lost before the reply".to_owned())
        }
        Err(NoReply::Timeout) => Attempt::Late,
    }
}

/// What a node with too much to do would have replied.
fn withheld(address: &Address, kind: Kind) -> ReplyBody {
    ReplyBody::Error(ErrorReply {
        code: ErrorCode::Overloaded,
        message: format!("{address} has too much to do, and was not sent this"),
        needed: 0,
        acked: Vec::new(),
        failed: Vec::new(),
        outcome: (kind == Kind::Write).then_some(Outcome::NotApplied),
        retry: true,
    })
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
