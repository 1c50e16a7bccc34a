//! Signals: the first SIGTERM or SIGINT drains the node, the second ends it at once, SIGHUP reloads.

use tokio::signal::unix::{Signal, SignalKind, signal};

use super::{Ended, RunError};

/// The signals that a node minds.
pub(super) struct Signals {
    terminate: Signal,
    interrupt: Signal,
    hangup: Signal,
}

/// What a signal asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Wish {
    /// Stop; how to end if it must be at once.
    Stop(Ended),
    /// Read the configuration again.
    Reload,
}

impl Signals {
    pub(super) fn new() -> Result<Self, RunError> {
        let listen = |kind| {
            signal(kind).map_err(|source| RunError::System { what: "handle signals", source })
        };
        Ok(Self {
            terminate: listen(SignalKind::terminate())?,
            interrupt: listen(SignalKind::interrupt())?,
            hangup: listen(SignalKind::hangup())?,
        })
    }

    /// Returns once a signal asks this process to stop.
    pub(super) async fn stop(&mut self) {
        while self.next().await == Wish::Reload {}
    }

    /// The next signal.
    pub(super) async fn next(&mut self) -> Wish {
        tokio::select! {
            _ = self.terminate.recv() => Wish::Stop(Ended::Terminated),
            _ = self.interrupt.recv() => Wish::Stop(Ended::Interrupted),
            _ = self.hangup.recv() => Wish::Reload,
        }
    }
}
