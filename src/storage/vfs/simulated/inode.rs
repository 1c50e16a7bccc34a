//! One file's bytes, and how to get back to what was synced of them.

use std::io;
use std::sync::Arc;

use rand::Rng as _;
use rand_chacha::ChaCha8Rng;

use super::Unsynced;

/// What a disk writes as one, in bytes.
const SECTOR_BYTES: usize = 512;

/// A file. The synced bytes are the live ones with `overwritten` put back, last first, cut at `synced_length`: files
/// here mostly grow, so this costs nothing per sync.
#[derive(Debug, Default)]
pub(super) struct Inode {
    live: Vec<u8>,
    synced_length: usize,
    overwritten: Vec<(usize, Vec<u8>)>,
    preallocated: u64,
    /// Where the last byte ends that was ever written: what is behind takes no space.
    written_length: usize,
    /// A sync failed.
    is_lost: bool,
    handles: Arc<()>,
}

impl Inode {
    pub(super) fn length(&self) -> u64 {
        self.live.len() as u64
    }

    /// Bytes taken on the disk.
    pub(super) fn size(&self) -> u64 {
        self.preallocated.max(self.written_length as u64)
    }

    pub(super) fn handle(&self) -> Arc<()> {
        Arc::clone(&self.handles)
    }

    pub(super) fn is_open(&self) -> bool {
        Arc::strong_count(&self.handles) > 1
    }

    pub(super) fn read(&self, buffer: &mut [u8], offset: u64) -> usize {
        let start = usize::try_from(offset).unwrap_or(usize::MAX).min(self.live.len());
        let taken = buffer.len().min(self.live.len() - start);
        buffer[..taken].copy_from_slice(&self.live[start..start + taken]);
        taken
    }

    pub(super) fn write(&mut self, bytes: &[u8], offset: u64) {
        let start = usize::try_from(offset).expect("a simulated file fits in memory");
        let end = start + bytes.len();
        let synced = self.synced_length.min(self.live.len());
        if start < synced {
            let old = &self.live[start..end.min(synced)];
            self.overwritten.push((start, old.to_vec()));
        }
        if self.live.len() < end {
            self.live.resize(end, 0);
        }
        self.live[start..end].copy_from_slice(bytes);
        self.written_length = self.written_length.max(end);
    }

    pub(super) fn set_length(&mut self, length: u64) {
        let length = usize::try_from(length).expect("a simulated file fits in memory");
        let synced = self.synced_length.min(self.live.len());
        if length < synced {
            self.overwritten.push((length, self.live[length..synced].to_vec()));
        }
        self.live.resize(length, 0);
        self.written_length = self.written_length.min(length);
    }

    pub(super) fn sync(&mut self) {
        if self.is_lost {
            return;
        }
        self.synced_length = self.live.len();
        self.overwritten.clear();
    }

    /// A sync failed: what is not synced never will be, whatever a later sync says.
    pub(super) fn lose(&mut self) {
        self.is_lost = true;
    }

    pub(super) fn preallocate(&mut self, bytes: u64) {
        let bytes = bytes.max(self.length());
        self.preallocated = bytes;
    }

    pub(super) fn lose_power(&mut self, unsynced: Unsynced, random: &mut ChaCha8Rng) {
        match unsynced {
            Unsynced::Kept => {}
            Unsynced::Dropped => self.live = self.synced(),
            Unsynced::Torn => self.tear(random),
        }
        if unsynced != Unsynced::Kept {
            self.is_lost = false;
            self.sync();
        }
        self.written_length = self.written_length.min(self.live.len());
        self.handles = Arc::new(());
    }

    /// A copy of the same file that nobody has open.
    pub(super) fn fork(&self) -> Self {
        Self {
            live: self.live.clone(),
            synced_length: self.synced_length,
            overwritten: self.overwritten.clone(),
            preallocated: self.preallocated,
            written_length: self.written_length,
            is_lost: self.is_lost,
            handles: Arc::new(()),
        }
    }

    pub(super) fn flip_bit(&mut self, offset: u64, bit: u8) -> io::Result<()> {
        let byte = usize::try_from(offset).ok().and_then(|offset| self.live.get_mut(offset));
        *byte.ok_or(io::ErrorKind::InvalidInput)? ^= 1 << (bit % 8);
        Ok(())
    }

    pub(super) fn truncate(&mut self, length: u64) {
        self.live.truncate(usize::try_from(length).unwrap_or(usize::MAX));
        self.written_length = self.written_length.min(self.live.len());
        self.is_lost = false;
        self.sync();
    }

    fn synced(&self) -> Vec<u8> {
        let mut bytes = self.live.clone();
        bytes.resize(bytes.len().max(self.synced_length), 0);
        for (offset, old) in self.overwritten.iter().rev() {
            bytes[*offset..offset + old.len()].copy_from_slice(old);
        }
        bytes.truncate(self.synced_length);
        bytes
    }

    /// Some of the sectors that changed are on the disk, some not, and the length is anything between.
    fn tear(&mut self, random: &mut ChaCha8Rng) {
        let mut bytes = self.synced();
        if bytes == self.live {
            return;
        }
        let lengths = bytes.len().min(self.live.len())..=bytes.len().max(self.live.len());
        bytes.resize(random.random_range(lengths), 0);
        let changed = bytes.len().min(self.live.len());
        for (sector, live) in self.live[..changed].chunks(SECTOR_BYTES).enumerate() {
            if random.random() {
                let start = sector * SECTOR_BYTES;
                bytes[start..start + live.len()].copy_from_slice(live);
            }
        }
        self.live = bytes;
    }
}
