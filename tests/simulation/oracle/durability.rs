//! I1: an acknowledged write is there, or something is that replaced it.

use super::forgetting::may_be_forgotten;
use super::{Breach, Check, Judged, is_contextual};
use crate::history::{Basis, Numbers, Write};
use crate::world::Nanos;

pub(super) fn judge(judged: &Judged<'_>, broken: &mut Vec<Breach>) {
    let Judged { key, history, end, .. } = judged;
    let present: Vec<&Write> =
        history.writes.iter().filter(|write| end.dot_of(write.request).is_some()).collect();
    let mut replaced = Numbers::default();
    for write in &present {
        if let Basis::Context(seen) = &write.basis {
            replaced.extend(seen);
        }
    }
    for write in &history.writes {
        let Some((_, dot)) = write.acknowledged else { continue };
        if may_be_forgotten(history, write, Nanos::MAX) {
            continue;
        }
        if let Some(dot) = dot.filter(|dot| !end.clock().covers(*dot)) {
            let text = format!("{key:?}: acknowledged {:?} ({dot:?}) is lost", write.request);
            broken.push(Breach::new(Check::Durability, text));
        }
        let is_replaced = if is_contextual(key) {
            replaced.contains(write.number)
        } else {
            present.iter().any(|standing| may_replace(standing, write))
        };
        if end.dot_of(write.request).is_none() && !is_replaced {
            let text = format!("{key:?}: acknowledged {:?} is gone, nothing saw it", write.request);
            broken.push(Breach::new(Check::Durability, text));
        }
    }
}

/// Whether a put without a context, still standing, may have replaced `write`: it could begin to be written after
/// `write` began, and is not an earlier put of the same client.
pub(super) fn may_replace(standing: &Write, write: &Write) -> bool {
    let is_earlier_of_session = standing.request.session == write.request.session
        && standing.request.counter < write.request.counter;
    !is_earlier_of_session && standing.over.is_none_or(|over| write.began <= over)
}
