//! Connections to the cluster's nodes: dialled when first needed, shared, dialled anew after they broke.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use super::connection::{Address, Connection, DialError};

/// How long an address that could not be reached is tried last.
const SHUN: Duration = Duration::from_millis(500);
/// Longest time for one dial and greeting: a machine that is gone must not eat a request's whole time.
const DIAL_MAX: Duration = Duration::from_secs(2);

/// All connections of a client.
#[derive(Debug, Default)]
pub(super) struct Pool {
    lines: Mutex<BTreeMap<Address, Arc<Line>>>,
}

/// What is known of one address. The lock is held while dialling, so that a burst of requests dials once.
#[derive(Debug, Default)]
struct Line {
    connection: tokio::sync::Mutex<Option<Connection>>,
    failed: Mutex<Option<Instant>>,
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
        line.note_failure(dialled.is_err().then(super::now));
        let connection = dialled?;
        *current = Some(connection.clone());
        Ok(connection)
    }

    /// Notes that a request to `address` came to nothing.
    pub(super) fn shun(&self, address: &Address) {
        self.line(address).note_failure(Some(super::now()));
    }

    /// Whether `address` failed a moment ago.
    pub(super) fn is_shunned(&self, address: &Address) -> bool {
        let failed = *self.line(address).failed.lock().unwrap_or_else(PoisonError::into_inner);
        failed.is_some_and(|failed| super::now().saturating_duration_since(failed) < SHUN)
    }

    fn line(&self, address: &Address) -> Arc<Line> {
        let mut lines = self.lines.lock().unwrap_or_else(PoisonError::into_inner);
        Arc::clone(lines.entry(address.clone()).or_default())
    }
}

impl Line {
    fn note_failure(&self, failed: Option<Instant>) {
        *self.failed.lock().unwrap_or_else(PoisonError::into_inner) = failed;
    }
}
