//! Scrub: reads the tables again, slowly, so that rot is found while other replicas still hold what it took.

use std::sync::Arc;

use super::{Store, lock};
use crate::storage::levels::Live;
use crate::storage::table::ReadError;
use crate::storage::table::reader::{Blocks, Table};

/// Where the scrub goes on: the table's number and the number of its data block.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct ScrubPlace {
    table: u64,
    block: usize,
}

/// What a slice of the scrub came to.
#[derive(Debug, Default)]
pub struct Scrubbed {
    /// Bytes read.
    pub bytes: u64,
    /// Blocks that are not what was written, and their keys.
    pub damaged: Vec<ReadError>,
    /// Whether that was the last table: the next slice begins with the first.
    pub is_round: bool,
}

impl Store {
    /// Goes on with the scrub, for about so many bytes: each block is read from the disk and held against its checksum.
    /// Blocks that are damaged are reported, and their tables are merged next; a table that a merge removes meanwhile is
    /// passed over.
    pub fn scrub(&self, bytes_max: u64) -> Scrubbed {
        let mut place = lock(&self.scrub);
        let mut scrubbed = Scrubbed::default();
        while scrubbed.bytes < bytes_max {
            let levels = Arc::clone(&self.memory().levels);
            let due = levels.tables().filter(|live| place.table <= live.meta.number);
            let Some(live) = due.min_by_key(|live| live.meta.number) else {
                *place = ScrubPlace::default();
                scrubbed.is_round = true;
                return scrubbed;
            };
            if place.table < live.meta.number {
                *place = ScrubPlace { table: live.meta.number, block: 0 };
            }
            self.scrub_table(live, &mut place, bytes_max, &mut scrubbed);
        }
        scrubbed
    }

    fn scrub_table(
        &self,
        live: &Live,
        place: &mut ScrubPlace,
        bytes_max: u64,
        scrubbed: &mut Scrubbed,
    ) {
        let Ok(table) = live.opened() else {
            *place = ScrubPlace { table: place.table + 1, block: 0 };
            return;
        };
        if place.block == 0 {
            // Footer, index, filter and properties were read when the table was opened, and stand in memory since.
            match Table::open(&*self.vfs, &self.directory.table(table.number)) {
                Err(error @ ReadError::Corrupt { .. }) => self.note(error, scrubbed),
                Ok(_) | Err(ReadError::Io { .. }) => {}
            }
        }
        while scrubbed.bytes < bytes_max {
            let Some(handle) = table.index.handle(place.block) else {
                *place = ScrubPlace { table: place.table + 1, block: 0 };
                return;
            };
            scrubbed.bytes += handle.length;
            if let Err(error) = table.block(place.block, Blocks::Disk) {
                self.note(error, scrubbed);
            }
            place.block += 1;
        }
    }

    fn note(&self, error: ReadError, scrubbed: &mut Scrubbed) {
        self.bad_blocks.note(&error);
        scrubbed.damaged.push(error);
    }
}
