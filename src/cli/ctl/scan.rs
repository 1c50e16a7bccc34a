//! Reading every key of the cluster in (slot, key) order, merged from R owners of each partition.

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::io;
use std::time::Duration;

use bytes::Bytes;
use futures_util::StreamExt as _;
use futures_util::stream;

use crate::cli::connect::Session;
use crate::cli::exit::Exit;
use crate::cli::failure::Failure;
use crate::cli::options::Common;
use crate::node_id::NodeId;
use crate::replication::{Level, RangeEntry};
use crate::ring::{Partition, Slot};
use crate::wire::client::{ReplyBody, RequestBody, Scan, Scanned};

use super::read::tell;

/// Partitions asked for ahead of the one being written.
const PARTITIONS_AHEAD: usize = 8;
/// Rough size of one reply.
const PAGE_BYTES_MAX: u32 = 1 << 20;
/// How often a partition is asked for before it is named as unread.
const TRIES: u32 = 4;
/// Pause after the first try; it doubles.
const PAUSE: Duration = Duration::from_millis(50);

/// What to read.
#[derive(Clone, Debug)]
pub(crate) struct Scanner<'a> {
    pub(crate) session: &'a Session,
    pub(crate) prefix: Bytes,
    pub(crate) r: Option<Level>,
    /// Nodes that did not answer; they are asked last.
    silent: RefCell<BTreeSet<NodeId>>,
}

/// What a scan found besides its entries.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct ScanTotals {
    /// Keys for which an owner lacked something and was repaired.
    pub(crate) repaired: u64,
    /// Partitions that too few owners answered for; each was named on stderr.
    pub(crate) unread: u32,
}

/// Whether a scan goes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Flow {
    /// It does.
    On,
    /// Enough was read.
    Enough,
}

type Position = Option<(Slot, Bytes)>;

impl<'a> Scanner<'a> {
    /// A scan of the keys that begin with `prefix`.
    pub(crate) const fn new(session: &'a Session, prefix: Bytes, r: Option<Level>) -> Self {
        Self { session, prefix, r, silent: RefCell::new(BTreeSet::new()) }
    }

    /// Hands every entry to `take`, in order. A partition that cannot be read is named and passed over.
    /// # Errors
    /// Those of `take`; exit 69 when no node is reachable any more.
    pub(crate) async fn run(
        &self,
        common: &Common,
        mut take: impl FnMut(RangeEntry) -> io::Result<Flow>,
    ) -> anyhow::Result<ScanTotals> {
        let q = self.session.cluster().layout.now.q;
        let mut totals = ScanTotals::default();
        let mut firsts = stream::iter((0..q).map(Partition))
            .map(|partition| async move { (partition, self.page(partition, None).await) })
            .buffered(PARTITIONS_AHEAD);
        while let Some((partition, mut result)) = firsts.next().await {
            loop {
                let page = match result {
                    Ok(page) => page,
                    Err(failure) if failure.exit() == Exit::Unavailable => {
                        return Err(failure.into());
                    }
                    Err(failure) => {
                        totals.unread += 1;
                        let context = format!("partition {} of {q}", partition.0);
                        tell(&anyhow::Error::new(failure).context(context), common)?;
                        break;
                    }
                };
                totals.repaired += u64::from(page.repaired);
                let last = page.entries.last().map(|entry| (entry.slot, entry.key.clone()));
                for entry in page.entries {
                    if take(entry)? == Flow::Enough {
                        return Ok(totals);
                    }
                }
                match last {
                    Some(_) if !page.complete => result = self.page(partition, last).await,
                    Some(_) | None => break,
                }
            }
        }
        Ok(totals)
    }

    async fn page(&self, partition: Partition, after: Position) -> Result<Scanned, Failure> {
        let mut pause = PAUSE;
        let mut tries = 0;
        loop {
            tries += 1;
            match self.page_once(partition, after.clone()).await {
                Ok(page) => return Ok(page),
                Err(failure) if failure.exit() == Exit::TryAgain && tries < TRIES => {
                    tracing::info!("partition {}: {failure}; trying again", partition.0);
                    tokio::time::sleep(pause).await;
                    pause *= 2;
                }
                Err(failure) => return Err(failure),
            }
        }
    }

    /// Asks the owners that answered so far, then the others, then any node.
    async fn page_once(&self, partition: Partition, after: Position) -> Result<Scanned, Failure> {
        let cluster = self.session.cluster();
        let body = RequestBody::Scan(Scan {
            partition,
            layout: cluster.layout.version,
            after,
            prefix: self.prefix.clone(),
            r: self.r,
            bytes_max: PAGE_BYTES_MAX,
        });
        let mut owners: Vec<NodeId> =
            cluster.preferences.of_partition(partition).owners().collect();
        owners.sort_by_key(|owner| self.silent.borrow().contains(owner));
        for target in owners.into_iter().map(Some).chain([None]) {
            match self.session.call(target, body.clone()).await {
                Ok(ReplyBody::Scanned(page)) => return Ok(page),
                Ok(_) => return Err(Failure::new(Exit::Protocol, "a scan got another reply")),
                Err(failure) if failure.exit() == Exit::Unavailable && target.is_some() => {
                    self.silent.borrow_mut().extend(target);
                }
                Err(failure) => return Err(failure),
            }
        }
        Err(Failure::new(Exit::Unavailable, "no node reachable"))
    }
}

/// The failure of a scan that left partitions out.
pub(crate) fn unread(totals: ScanTotals) -> Failure {
    let message = format!("{} partitions had too few replicas to be read", totals.unread);
    Failure::new(Exit::TryAgain, message).code("quorum_unmet").detail("unread", totals.unread)
}
