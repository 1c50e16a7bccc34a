//! Mending: what was lost with a damaged table has been brought back from elsewhere.

use std::sync::Arc;

use super::{JobError, Store, lock};
use crate::storage::hole::Hole;
use crate::storage::levels::Live;
use crate::storage::manifest::{Edit, TableMeta};
use crate::storage::table::KeyRange;

impl Store {
    /// Says that all that was lost between `keys.first` and `keys.last` has been written to this store again, deletes
    /// included: holes that lie wholly inside answer from now on as if their keys were absent, unless something newer
    /// than the hole says otherwise, and still hide what is older than them. What was written before this call is made
    /// durable first, then the mending. Bad blocks that no merge has made a hole of yet stay bad, and become holes that
    /// must be mended anew.
    ///
    /// How many holes were mended; a hole that a merge split counts once a table.
    /// # Errors
    /// [`JobError`]; what was mended before it stays so.
    pub fn mend(&self, keys: &KeyRange) -> Result<usize, JobError> {
        // A merge under way would bring the holes back as it found them.
        let mut compacting = lock(&self.compacting);
        self.give_up_merge(&mut compacting)?;
        self.sync_all()?;
        let mut manifest = lock(&self.manifest);
        let levels = Arc::clone(&self.memory().levels);
        let is_due = |hole: &Hole| !hole.is_mended && keys.covers(&hole.keys);
        let (mut mended, mut count) = (Vec::new(), 0);
        for live in levels.tables() {
            let due = live.meta.holes.iter().filter(|hole| is_due(hole)).count();
            if due > 0 {
                count += due;
                mended.push(Live { meta: mended_meta(&live.meta, is_due), ..live.clone() });
            }
        }
        if mended.is_empty() {
            return Ok(0);
        }
        let removed: Vec<u64> = mended.iter().map(|live| live.meta.number).collect();
        let edit = Edit {
            added: mended.iter().map(|live| live.meta.clone()).collect(),
            removed: removed.clone(),
            ..Edit::default()
        };
        self.append_edit(&mut manifest, &edit)?;
        let mut memory = self.memory_mut();
        memory.levels = Arc::new(memory.levels.changed(&removed, mended));
        Ok(count)
    }
}

fn mended_meta(meta: &TableMeta, is_due: impl Fn(&Hole) -> bool) -> TableMeta {
    let mut meta = meta.clone();
    for hole in &mut meta.holes {
        hole.is_mended |= is_due(hole);
    }
    meta
}
