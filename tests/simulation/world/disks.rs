//! What the nodes' disk threads do: syncs of the log, flushes, merges, each in its own time.

use std::path::Path;
use std::time::Duration;

use kvkit::node::Event;
use kvkit::storage::vfs::simulated::{Disk, Failures, Unsynced};
use kvkit::storage::{Job, JobError};
use rand::Rng;

use super::{Happening, World, nanos};
use crate::network::Node;

/// How often the workers look by themselves whether there is something to do.
const LOOK_AROUND: Duration = Duration::from_secs(1);

impl World {
    /// What a Core left to do for the disk, and a disk that broke under it.
    pub(super) fn after_work(&mut self, node: Node) {
        if self.replicas[node].disk.crashed() {
            self.kill(node, Unsynced::Torn);
            return;
        }
        let number = self.replicas[node].lives;
        let Some(life) = &mut self.replicas[node].life else {
            return;
        };
        let upto = life.store.appended();
        let wants_sync = !life.is_syncing && life.store.durable() < upto;
        life.is_syncing |= wants_sync;
        let rung = life.store.bell();
        let is_news = life.heard != Some(rung);
        let wants_job = !life.is_at_job && is_news && next_job(&life.store).is_some();
        life.is_at_job |= wants_job;
        if !life.is_at_job {
            life.heard = Some(rung);
        }
        if wants_sync {
            let time = self.sync_time(node);
            self.at(time, Happening::Synced { node, life: number, upto });
        }
        if wants_job {
            let time = self.disk_time(node) * 3;
            self.at(time, Happening::Job { node, life: number });
        }
    }

    pub(super) fn synced(&mut self, node: Node, number: u64, upto: kvkit::storage::LogPosition) {
        if self.store(node, number).is_none() {
            return;
        }
        let Some(life) = &mut self.replicas[node].life else {
            return;
        };
        life.is_syncing = false;
        match life.store.sync(upto) {
            Ok(durable) => self.feed(node, Event::Durable(durable)),
            Err(_) => self.kill(node, Unsynced::Torn),
        }
    }

    pub(super) fn job(&mut self, node: Node, number: u64) {
        let Some(store) = self.store(node, number) else {
            return;
        };
        let done = next_job(&store).map_or(Ok(()), |job| store.run(job));
        if let Some(life) = &mut self.replicas[node].life {
            // There may be more to do.
            (life.is_at_job, life.heard) = (false, None);
        }
        match done {
            Ok(()) => self.after_work(node),
            Err(JobError::Failed(failed)) => {
                self.note(&format!("n{} ends: {failed}", node + 1));
                self.kill(node, Unsynced::Torn);
            }
            // As the runtime's workers do: it is due again, and looked for when something else happens here.
            Err(JobError::Full | JobError::Read(_)) if self.replicas[node].disk.crashed() => {
                self.kill(node, Unsynced::Torn);
            }
            Err(JobError::Full | JobError::Read(_)) => {}
        }
    }

    pub(super) fn disk_time(&mut self, node: Node) -> Duration {
        let usual = self.rng.random_range(Duration::from_micros(20)..=self.disk_delay);
        let usual = usual + self.slowness(node);
        if self.rng.random_bool(0.02) { usual * 50 } else { usual }
    }

    /// What the runtime's workers do now and then: a disk that was full may have space again, and what it would not read
    /// it may read now.
    pub fn look_around(&mut self, node: Node) {
        let now = self.now;
        if self.is_ailing(node)
            && let Some(life) = &mut self.replicas[node].life
            && life.looked + nanos(LOOK_AROUND) <= now
        {
            (life.looked, life.heard) = (now, None);
            // The store says whether it is full; here nobody waits for the word.
            let _ = life.store.check_space();
            self.after_work(node);
        }
    }

    /// Whether a machine has a table whose bits may flip.
    pub fn has_table(&self, node: Node) -> bool {
        let is_table = |path: &Path| path.extension().is_some_and(|end| end == "sst");
        let files = self.replicas[node].disk.files();
        files.iter().any(|(path, length)| is_table(path) && *length > 0)
    }

    /// How often all disks, those that were wiped too, failed as they were told to.
    pub fn disk_failures(&self) -> Failures {
        let disks = self.replicas.iter().map(|replica| &replica.disk).chain(&self.disks_gone);
        disks.map(Disk::failures).fold(Failures::default(), |sum, more| Failures {
            io: sum.io + more.io,
            full: sum.full + more.full,
            syncs: sum.syncs + more.syncs,
            crashes: sum.crashes + more.crashes,
        })
    }

    fn sync_time(&mut self, node: Node) -> Duration {
        let usual = self.disk_time(node);
        self.sync_delays.get(&node).copied().unwrap_or(usual)
    }
}

/// What a store wants done besides its log.
fn next_job(store: &kvkit::storage::Store) -> Option<Job> {
    store.next_flush().or_else(|| store.next_compaction())
}
