//! What `update` and `resolve` share: read, make a new value, write it by the context of the read, and if need be again.

use std::ffi::OsString;
use std::io::{self, Write};
use std::time::Duration;

use bytes::Bytes;
use clap::Args;
use rand::rngs::OsRng;
use rand::{Rng as _, TryRngCore as _};

use crate::cli::connect::Session;
use crate::cli::exit::Exit;
use crate::cli::failure::Failure;
use crate::cli::human;
use crate::cli::keys::KeyCoding;
use crate::cli::options::Common;
use crate::client::{ClientError, GetOptions, PutOptions};
use crate::replication::Level;
use crate::version::Content;
use crate::wire::client::{Done, ErrorCode, Got, Outcome, PutBasis};

use super::quorum::{CountFlags, check_level, parse_level};
use super::require::{Deed, Requirement};
use super::siblings::CHARACTERS_SHOWN;
use super::write::{planned_text, reply};

/// How often a key is read at most before the command gives up.
pub(super) const ATTEMPTS_MAX: u32 = 10;
/// Longest pause before the second attempt; it doubles from there.
const PAUSE_FIRST: Duration = Duration::from_millis(20);
/// Longest pause of all.
const PAUSE_MAX: Duration = Duration::from_millis(500);

/// Flags of a command that reads and writes.
#[derive(Args, Clone, Copy, Debug)]
pub(super) struct RewriteFlags {
    /// How many owners must answer the read [default: the layout's R]
    #[arg(short = 'r', long = "read", value_name = "N|one|quorum|all", value_parser = parse_level)]
    r: Option<Level>,
    /// Durable acknowledgements to wait for [default: the layout's W]
    #[arg(short = 'w', long = "write", value_name = "N|one|quorum|all", value_parser = parse_level)]
    w: Option<Level>,
    #[command(flatten)]
    count: CountFlags,
    #[command(flatten)]
    requirement: Requirement,
    #[command(flatten)]
    coding: KeyCoding,
    /// Print on stdout what would be written, and write nothing
    #[arg(short = 'n', long)]
    pub(super) dry_run: bool,
}

/// One key under one set of flags.
pub(super) struct Rewrite<'a> {
    verb: &'static str,
    flags: RewriteFlags,
    /// The key.
    pub(super) key: Bytes,
    /// The cluster.
    pub(super) session: &'a Session,
    /// The shared flags.
    pub(super) common: &'a Common,
}

/// What became of a write.
pub(super) enum Written {
    /// It is done.
    Done(Done),
    /// Refused, nothing written: another write came in since the read.
    Stale,
}

impl<'a> Rewrite<'a> {
    pub(super) fn new(
        verb: &'static str,
        key: &OsString,
        flags: RewriteFlags,
        session: &'a Session,
        common: &'a Common,
    ) -> anyhow::Result<Self> {
        let key = flags.coding.decode(key)?;
        session.check_pair(&key, 0)?;
        let ring = &session.cluster().layout.now;
        check_level("r", flags.r, ring)?;
        check_level("w", flags.w, ring)?;
        Ok(Self { verb, flags, key, session, common })
    }

    /// Reads the key. Before any but the first attempt it waits a while, each command another one.
    pub(super) async fn read(&self, attempt: u32) -> Result<Got, Failure> {
        if attempt > 1 {
            tokio::time::sleep(pause_before(attempt, OsRng.unwrap_err().random())).await;
        }
        let options = GetOptions { r: self.flags.r, consistency: self.flags.count.consistency() };
        let got = self.session.client().get(self.key.clone(), options).await;
        let got = got.map_err(|error| self.session.failure(error))?;
        self.flags.requirement.check(got.guarantee, Deed::Read)?;
        Ok(got)
    }

    /// Writes by `basis`.
    pub(super) async fn write(
        &self,
        content: Content,
        basis: PutBasis,
    ) -> Result<Written, Failure> {
        let value = match content {
            Content::Value(value) => Some(value),
            Content::Tombstone => None,
        };
        match self.session.client().put(self.key.clone(), value, basis, self.options()).await {
            Ok(done) => Ok(Written::Done(done)),
            Err(ClientError::Reply(error))
                if error.code == ErrorCode::StaleContext
                    && error.outcome != Some(Outcome::Unknown) =>
            {
                Ok(Written::Stale)
            }
            Err(error) => Err(self.session.failure(error)),
        }
    }

    /// The most bytes a value of this key may have.
    pub(super) fn value_bytes_max(&self) -> usize {
        (self.session.cluster().pair_max as usize).saturating_sub(self.key.len())
    }

    /// Ends a command whose write stands: silent unless asked for JSON.
    pub(super) fn finish(&self, done: &Done, out: &mut dyn Write) -> anyhow::Result<Exit> {
        if self.common.json {
            writeln!(out, "{}", reply(self.verb, &self.key, done, self.session).finish())?;
        }
        self.flags.requirement.check(done.guarantee, Deed::Written)?;
        Ok(Exit::Done)
    }

    /// Shows what would be written: the exact bytes on stdout, all else on stderr.
    pub(super) fn show(&self, content: &Content, out: &mut dyn Write) -> anyhow::Result<Exit> {
        let (verb, value) = match content {
            Content::Value(value) => ("put", Some(value)),
            Content::Tombstone => ("delete", None),
        };
        let plan = planned_text(verb, &self.key, value, self.options(), self.session, self.common);
        if self.common.json {
            writeln!(out, "{plan}")?;
            return Ok(Exit::Done);
        }
        if let Some(value) = value {
            out.write_all(value)?;
            out.flush()?;
        }
        if !self.common.quiet {
            writeln!(io::stderr().lock(), "kvctl: {plan}")?;
        }
        Ok(Exit::Done)
    }

    /// The key for people.
    pub(super) fn shown(&self) -> String {
        human::bytes(&self.key, CHARACTERS_SHOWN)
    }

    fn options(&self) -> PutOptions {
        PutOptions { w: self.flags.w, consistency: self.flags.count.consistency() }
    }
}

/// The pause before an attempt: doubling, and by `chance` between half of it and all, so that two commands that met
/// once do not meet again.
fn pause_before(attempt: u32, chance: u32) -> Duration {
    let doublings = attempt.saturating_sub(2).min(16);
    let longest = PAUSE_FIRST.saturating_mul(1 << doublings).min(PAUSE_MAX);
    longest.mul_f64(0.5 + 0.5 * f64::from(chance) / f64::from(u32::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_double_up_to_a_bound_and_differ() {
        assert_eq!(pause_before(2, u32::MAX), PAUSE_FIRST);
        assert_eq!(pause_before(3, 0), PAUSE_FIRST);
        assert_eq!(pause_before(ATTEMPTS_MAX, u32::MAX), PAUSE_MAX);
        let longest: Duration = (2..=ATTEMPTS_MAX).map(|at| pause_before(at, u32::MAX)).sum();
        assert!(longest < Duration::from_secs(3), "{longest:?}");
    }
}
