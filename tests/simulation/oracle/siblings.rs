//! I3 and I4: the siblings are exactly the writes that no other one saw; what a delete saw never stands again.
//!
//! Nothing less than those may stand either: that is [`super::durability`].

use super::{Breach, Check, Judged, is_contextual};
use crate::history::{Basis, History, Write};

pub(super) fn judge(judged: &Judged<'_>, history: &History, broken: &mut Vec<Breach>) {
    let Judged { key, end, .. } = judged;
    if !is_contextual(key) {
        return;
    }
    for later in &judged.history.writes {
        if later.acknowledged.is_some() || end.dot_of(later.request).is_some() {
            let text = |old: &Write| {
                format!("{key:?}: {:?} stands, though {:?} replaced it", old.request, later.request)
            };
            judge_beside(judged, history.shown(end), later, text, broken);
        }
    }
    for read in &judged.history.reads {
        for later in history.shown(&read.state) {
            let text = |old: &Write| {
                format!(
                    "{key:?}: {:?} is shown beside {:?}, which saw it",
                    old.request, later.request
                )
            };
            judge_beside(judged, history.shown(&read.state), later, text, broken);
        }
    }
}

/// None of `standing` may have been seen by `later`.
fn judge_beside<'a>(
    judged: &Judged<'_>,
    standing: impl Iterator<Item = &'a Write>,
    later: &Write,
    text: impl Fn(&Write) -> String,
    broken: &mut Vec<Breach>,
) {
    let Basis::Context(seen) = &later.basis else { return };
    let check = if later.is_delete() { Check::Resurrection } else { Check::Siblings };
    for old in standing.filter(|old| seen.contains(old.number)) {
        if !judged.twice.contains_key(&old.request) {
            broken.push(Breach::new(check, text(old)));
        }
    }
}
