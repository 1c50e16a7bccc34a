//! One file's bytes, and how to get back to what was synced of them.

use std::io;
use std::sync::Arc;

use rand::Rng as _;
use rand_chacha::ChaCha8Rng;

use super::Unsynced;

/// What a disk writes as one, in bytes.
const SECTOR_BYTES: usize = 512;

/// A file. The synced bytes are the live ones with `overwritten` put back, last first, cut at `synced_length`: files
/// here mostly grow, so this costs nothing per sync. What was never written behind the end of `live` reads as zeros and
/// takes no space, up to `length`.
#[derive(Debug, Default)]
pub(super) struct Inode {
    live: Vec<u8>,
    length: usize,
    synced_length: usize,
    overwritten: Vec<Old>,
    preallocated: u64,
    /// A sync failed.
    is_lost: bool,
    handles: Arc<()>,
}

/// What stood at an offset: these bytes, then so many zeros.
#[derive(Debug, Clone)]
struct Old {
    offset: usize,
    bytes: Vec<u8>,
    zeros: usize,
}

impl Inode {
    pub(super) fn length(&self) -> u64 {
        self.length as u64
    }

    /// Bytes taken on the disk.
    pub(super) fn size(&self) -> u64 {
        self.preallocated.max(self.live.len() as u64)
    }

    pub(super) fn handle(&self) -> Arc<()> {
        Arc::clone(&self.handles)
    }

    pub(super) fn is_open(&self) -> bool {
        Arc::strong_count(&self.handles) > 1
    }

    pub(super) fn read(&self, buffer: &mut [u8], offset: u64) -> usize {
        let start = usize::try_from(offset).unwrap_or(usize::MAX).min(self.length);
        let taken = buffer.len().min(self.length - start);
        let written = taken.min(self.live.len().saturating_sub(start));
        if written > 0 {
            buffer[..written].copy_from_slice(&self.live[start..start + written]);
        }
        buffer[written..taken].fill(0);
        taken
    }

    pub(super) fn write(&mut self, bytes: &[u8], offset: u64) {
        let start = usize::try_from(offset).expect("a simulated file fits in memory");
        let end = start + bytes.len();
        self.keep(start, end);
        if self.live.len() < end {
            self.live.resize(end, 0);
        }
        self.live[start..end].copy_from_slice(bytes);
        self.length = self.length.max(end);
    }

    pub(super) fn set_length(&mut self, length: u64) {
        let length = usize::try_from(length).expect("a simulated file fits in memory");
        self.keep(length, self.length);
        self.live.truncate(length);
        self.length = length;
    }

    /// Notes what was synced between `start` and `end`, before it changes.
    fn keep(&mut self, start: usize, end: usize) {
        let end = end.min(self.synced_length).min(self.length);
        if start < end {
            let written = end.min(self.live.len()).max(start);
            let bytes = self.live.get(start..written).unwrap_or_default().to_vec();
            let zeros = end - start - bytes.len();
            self.overwritten.push(Old { offset: start, bytes, zeros });
        }
    }

    pub(super) fn sync(&mut self) {
        if self.is_lost {
            return;
        }
        self.synced_length = self.length;
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
            Unsynced::Dropped => (self.live, self.length) = (self.synced(), self.synced_length),
            Unsynced::Torn => self.tear(random),
        }
        if unsynced != Unsynced::Kept {
            self.is_lost = false;
            self.sync();
        }
        self.handles = Arc::new(());
    }

    /// A copy of the same file that nobody has open.
    pub(super) fn fork(&self) -> Self {
        Self {
            live: self.live.clone(),
            synced_length: self.synced_length,
            overwritten: self.overwritten.clone(),
            preallocated: self.preallocated,
            length: self.length,
            is_lost: self.is_lost,
            handles: Arc::new(()),
        }
    }

    pub(super) fn flip_bit(&mut self, offset: u64, bit: u8) -> io::Result<()> {
        let offset = usize::try_from(offset).map_err(|_| io::ErrorKind::InvalidInput)?;
        if self.length <= offset {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        self.live.resize(self.live.len().max(offset + 1), 0);
        self.live[offset] ^= 1 << (bit % 8);
        Ok(())
    }

    pub(super) fn truncate(&mut self, length: u64) {
        self.length = self.length.min(usize::try_from(length).unwrap_or(usize::MAX));
        self.live.truncate(self.length);
        self.is_lost = false;
        self.sync();
    }

    /// The synced bytes, up to the last one that was ever written.
    fn synced(&self) -> Vec<u8> {
        let mut bytes = self.live.clone();
        for Old { offset, bytes: old, zeros } in self.overwritten.iter().rev() {
            let written = offset + old.len();
            bytes.resize(bytes.len().max(written), 0);
            bytes[*offset..written].copy_from_slice(old);
            let blank = bytes.len().min(written + zeros);
            bytes[written..blank].fill(0);
        }
        bytes.truncate(self.synced_length);
        bytes
    }

    /// Some of the sectors that changed are on the disk, some not, and the length is anything between.
    fn tear(&mut self, random: &mut ChaCha8Rng) {
        let mut bytes = self.synced();
        if self.overwritten.is_empty() && self.synced_length == self.length {
            return;
        }
        let (least, most) =
            (self.length.min(self.synced_length), self.length.max(self.synced_length));
        let length = random.random_range(least..=most);
        bytes.resize(bytes.len().max(self.live.len()).min(length), 0);
        self.live.resize(bytes.len().min(self.length), 0);
        for (sector, live) in self.live.chunks(SECTOR_BYTES).enumerate() {
            if random.random() {
                let start = sector * SECTOR_BYTES;
                bytes[start..start + live.len()].copy_from_slice(live);
            }
        }
        (self.live, self.length) = (bytes, length);
    }
}
