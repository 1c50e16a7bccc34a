//! Connections to the cluster's nodes: dialled when first needed, shared, dialled anew after they broke; and how each
//! node does: how fast it answers, whether it failed a moment ago, whether it hangs.
//!
//! A node that hangs keeps its connections. One that was asked something and has said nothing for [`SILENCE`] is turned
//! to last, and asked by the way, until it answers, whether it is back.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::replication::Pace;
use crate::wire::client::RequestBody;

use super::connection::{Address, Connection, DialError, NoReply};
use super::throttle::Throttle;

/// How long an address that could not be reached is tried last.
const SHUN: Duration = Duration::from_millis(500);
/// Longest time for one dial and greeting: a machine that is gone must not eat a request's whole time.
const DIAL_MAX: Duration = Duration::from_secs(2);
/// How long a node that was asked may say nothing.
const SILENCE: Duration = Duration::from_millis(250);
/// How long the question whether a silent node is back waits for an answer before it is asked anew.
const PROBE: Duration = Duration::from_secs(10);

/// All connections of a client.
#[derive(Debug)]
pub(super) struct Pool {
    lines: Mutex<BTreeMap<Address, Arc<Line>>>,
    pace: Mutex<Pace<Address>>,
    /// Where the time of `pace` begins.
    origin: Instant,
}

/// What is known of one address. The lock of the connection is held while dialling, so that a burst of requests dials
/// once.
#[derive(Debug, Default)]
struct Line {
    connection: tokio::sync::Mutex<Option<Connection>>,
    health: Mutex<Health>,
}

#[derive(Debug, Default)]
struct Health {
    failed: Option<Instant>,
    /// When it was asked something first since it said anything.
    asked: Option<Instant>,
    /// Whether it is being asked if it is back.
    is_probed: bool,
    throttle: Throttle,
}

impl Default for Pool {
    fn default() -> Self {
        Self { lines: Mutex::default(), pace: Mutex::default(), origin: super::now() }
    }
}

impl Pool {
    /// A connection to `address`: the one that stands, or a new one made before `deadline`.
    pub(super) async fn connection(
        &self,
        address: &Address,
        agent: &str,
        deadline: Instant,
    ) -> Result<Connection, DialError> {
        let line = self.line(address);
        let locked = tokio::time::timeout_at(deadline.into(), line.connection.lock()).await;
        let mut current = locked.map_err(|_| DialError::Timeout)?;
        if let Some(connection) = current.as_ref().filter(|connection| connection.is_open()) {
            return Ok(connection.clone());
        }
        *current = None;
        let dialled = Connection::dial(address, agent, deadline.min(super::now() + DIAL_MAX)).await;
        line.health().failed = dialled.is_err().then(super::now);
        let connection = dialled?;
        *current = Some(connection.clone());
        Ok(connection)
    }

    /// Notes that a request to `address` came to nothing.
    pub(super) fn shun(&self, address: &Address) {
        self.line(address).health().failed = Some(super::now());
    }

    /// Whether `address` failed a moment ago, or hangs. One that hangs is asked by the way whether it is back.
    pub(super) fn is_shunned(&self, address: &Address) -> bool {
        let line = self.line(address);
        let mut health = line.health();
        let is_silent = health.is_silent();
        if is_silent && !health.is_probed {
            health.is_probed = true;
            tokio::spawn(probe(Arc::clone(&line)));
        }
        is_silent || health.failed.is_some_and(|failed| elapsed(failed) < SHUN)
    }

    /// Whether `address` hangs.
    pub(super) fn is_silent(&self, address: &Address) -> bool {
        self.line(address).health().is_silent()
    }

    /// Notes that `address` is asked something.
    pub(super) fn asked(&self, address: &Address) {
        self.line(address).health().asked.get_or_insert_with(super::now);
    }

    /// Notes that `address` said something, or that its connection is gone.
    pub(super) fn heard(&self, address: &Address) {
        self.line(address).health().asked = None;
    }

    /// Whether `address` is sent a request: one with too much to do is not sent all.
    pub(super) fn lets_through(&self, address: &Address) -> bool {
        self.line(address).health().throttle.lets_through(elapsed(self.origin))
    }

    /// Notes that `address` had too much to do for a request.
    pub(super) fn refused(&self, address: &Address) {
        self.line(address).health().throttle.refused(elapsed(self.origin));
    }

    /// Notes that `address` replied to a request that it took on.
    pub(super) fn done(&self, address: &Address) {
        self.line(address).health().throttle.done();
    }

    /// Notes how long `address` took for a get.
    pub(super) fn took(&self, address: &Address, span: Duration) {
        self.pace().heard(address.clone(), span, elapsed(self.origin));
    }

    /// How long `address` may take for a get before another one is asked too; pays for an ordinary question.
    pub(super) fn patience(&self, address: &Address) -> Duration {
        let mut pace = self.pace();
        pace.asked();
        pace.patience(address)
    }

    /// Whether another node may be asked besides one that is slow; if so it is paid for.
    pub(super) fn take_extra(&self) -> bool {
        self.pace().take_extra()
    }

    fn pace(&self) -> MutexGuard<'_, Pace<Address>> {
        self.pace.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn line(&self, address: &Address) -> Arc<Line> {
        let mut lines = self.lines.lock().unwrap_or_else(PoisonError::into_inner);
        Arc::clone(lines.entry(address.clone()).or_default())
    }
}

impl Line {
    fn health(&self) -> MutexGuard<'_, Health> {
        self.health.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Health {
    fn is_silent(&self) -> bool {
        self.asked.is_some_and(|asked| SILENCE <= elapsed(asked))
    }
}

/// Asks a silent node until it answers or its connection is gone. A question past its deadline is dropped unread, so
/// there is always one that is not.
async fn probe(line: Arc<Line>) {
    loop {
        let connection = line.connection.lock().await.clone();
        let Some(connection) = connection else { break };
        match connection.request(RequestBody::Layout, super::now() + PROBE).await {
            Err(NoReply::Timeout) => {}
            Ok(_) | Err(NoReply::NotSent | NoReply::Broken) => break,
        }
    }
    let mut health = line.health();
    (health.asked, health.is_probed) = (None, false);
}

fn elapsed(since: Instant) -> Duration {
    super::now().saturating_duration_since(since)
}
