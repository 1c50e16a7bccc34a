//! I5: a key that one client alone writes, without contexts, strictly: at its end, what the last acknowledged put left.
//! Promised where each put meets the one before: w + max(r, w) > n.

use super::{Breach, Check, Judged, is_own};
use crate::history::Write;

pub(super) fn judge(judged: &Judged<'_>, broken: &mut Vec<Breach>) {
    let Judged { key, history, end, .. } = judged;
    let is_plain = |write: &Write| write.tries == 1 && write.acknowledged.is_some();
    let Some(last) = history.writes.last().filter(|_| is_own(key)) else { return };
    let versions = end.versions().len();
    let is_forgotten = versions == 0 && last.is_delete();
    let stands_alone = is_forgotten || versions == 1 && end.dot_of(last.request).is_some();
    if history.writes.iter().all(is_plain) && !stands_alone {
        let text = format!(
            "{key:?}: {versions} versions stand after puts in a row; the last was {:?}",
            last.request
        );
        broken.push(Breach::new(Check::Sessions, text));
    }
}
