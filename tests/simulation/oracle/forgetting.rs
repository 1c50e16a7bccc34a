//! What a cut may have forgotten: a delete, and whatever that delete replaced. Their dots need not be in any clock any
//! more. That none of it ever stands again is [`super::siblings`].

use super::durability::may_replace;
use crate::history::{Basis, KeyHistory, Write};
use crate::world::Nanos;

/// Whether nothing need be known of `write` at `at`: a delete that began before may have replaced it, or is it.
pub(super) fn may_be_forgotten(history: &KeyHistory, write: &Write, at: Nanos) -> bool {
    let mut deletes = history.writes.iter().filter(|write| write.is_delete());
    deletes.any(|delete| {
        let may_stand = !delete.is_not_applied && delete.began <= at;
        let replaces = match &delete.basis {
            Basis::Context(seen) => seen.contains(write.number),
            Basis::Present => may_replace(delete, write),
            Basis::Blind => false,
        };
        may_stand && (delete.number == write.number || replaces)
    })
}
