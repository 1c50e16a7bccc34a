//! What a run is held against, once it is over and healed.
//!
//! Keys whose name starts with `c` are written with contexts or blind only: there the explicit causal history of every
//! write is known, and the siblings left must be exactly the writes that no other one saw. Keys that start with `p` are
//! written without contexts: what a write replaces is the coordinator's to say, so a write that is gone must have been
//! replaced by one that could still begin after it did.
//!
//! A put that was tried more than once may have been written twice, under two dots; a write that saw one of them leaves
//! the other.

use std::collections::BTreeSet;

use bytes::Bytes;
use kvkit::version::{RequestId, Siblings};

use crate::history::{Basis, History, Write};

/// Whether keys are written with contexts or blind only.
pub fn is_contextual(key: &Bytes) -> bool {
    key.starts_with(b"c")
}

/// Everything that is wrong with the `end` state of `key`.
pub fn judge_end(history: &History, key: &Bytes, end: &Siblings) -> Vec<String> {
    let mut broken = Vec::new();
    let present: BTreeSet<RequestId> =
        end.versions().values().map(|version| version.request).collect();
    for request in &present {
        match history.writes.get(request) {
            None => broken.push(format!("{key:?}: {request:?} was never written")),
            Some(write) if write.is_not_applied => {
                broken.push(format!("{key:?}: {request:?} was said to be not applied"));
            }
            Some(_) => {}
        }
    }
    for write in history.writes_of(key) {
        let Some((_, dot)) = write.acknowledged else { continue };
        if let Some(dot) = dot.filter(|dot| !end.clock().covers(*dot)) {
            broken.push(format!("{key:?}: acknowledged {:?} ({dot:?}) is lost", write.request));
        }
        let is_replaced = if is_contextual(key) {
            is_superseded(history, write, &present, &mut BTreeSet::new())
        } else {
            present.iter().any(|request| may_replace(&history.writes[request], write))
        };
        if !present.contains(&write.request) && !is_replaced {
            broken.push(format!(
                "{key:?}: acknowledged {:?} is gone, and nothing saw it",
                write.request
            ));
        }
    }
    if is_contextual(key) {
        judge_siblings(history, key, &present, &mut broken);
    }
    broken
}

/// Whether some write saw `write` and is present, or is superseded in its turn.
fn is_superseded(
    history: &History,
    write: &Write,
    present: &BTreeSet<RequestId>,
    met: &mut BTreeSet<RequestId>,
) -> bool {
    history.writes_of(&write.key).any(|later| {
        let Basis::Context(seen) = &later.basis else { return false };
        seen.contains(&write.request)
            && met.insert(later.request)
            && (present.contains(&later.request) || is_superseded(history, later, present, met))
    })
}

/// Whether a put without a context, still standing, may have replaced `write`: it could begin to be written after
/// `write` began, and is not an earlier put of the same client.
fn may_replace(standing: &Write, write: &Write) -> bool {
    let is_earlier_of_session = standing.request.session == write.request.session
        && standing.request.counter < write.request.counter;
    !is_earlier_of_session && standing.over.is_none_or(|over| write.began <= over)
}

/// No sibling may have been seen by a write that took effect.
fn judge_siblings(
    history: &History,
    key: &Bytes,
    present: &BTreeSet<RequestId>,
    broken: &mut Vec<String>,
) {
    for later in history.writes_of(key) {
        let took_effect = later.acknowledged.is_some() || present.contains(&later.request);
        let Basis::Context(seen) = &later.basis else { continue };
        let once = |request: &&RequestId| !history.written_twice.contains_key(*request);
        for request in seen.intersection(present).filter(once).filter(|_| took_effect) {
            let text =
                format!("{key:?}: {request:?} stands, though {:?} replaced it", later.request);
            broken.push(text);
        }
    }
}

/// Everything that is wrong with what reads saw: strict ones never go back, and no read shows a write beside one that
/// saw it.
pub fn judge_reads(history: &History) -> Vec<String> {
    let mut broken = Vec::new();
    for read in &history.reads {
        let shown: BTreeSet<_> =
            read.state.versions().values().map(|version| version.request).collect();
        for request in &shown {
            match history.writes.get(request).map(|write| &write.basis) {
                None => broken.push(format!("{:?}: {request:?} was never written", read.key)),
                Some(Basis::Context(seen)) => {
                    let once = |request: &&RequestId| !history.written_twice.contains_key(*request);
                    for old in seen.intersection(&shown).filter(once) {
                        broken.push(format!(
                            "{:?}: {old:?} is shown beside {request:?}, which saw it",
                            read.key
                        ));
                    }
                }
                Some(Basis::Present | Basis::Blind) => {}
            }
        }
        if read.is_strict {
            judge_strict(history, read, &mut broken);
        }
    }
    broken
}

fn judge_strict(history: &History, read: &crate::history::Read, broken: &mut Vec<String>) {
    let clock = read.state.clock();
    for write in history.writes_of(&read.key).filter(|write| write.is_strict) {
        let Some((at, Some(dot))) = write.acknowledged else { continue };
        // An owner that knows a retried put under another dot holds it under that one, and says *done*.
        let others = history.written_twice.get(&write.request).into_iter().flatten();
        let is_held = others.chain([&dot]).any(|dot| clock.covers(*dot));
        if at < read.began && !is_held {
            broken.push(format!(
                "{:?}: a strict get began at {} and missed {dot:?}, acknowledged at {at}",
                read.key, read.began
            ));
        }
    }
    let earlier = |other: &&crate::history::Read| {
        other.is_strict && other.key == read.key && other.ended < read.began
    };
    for other in history.reads.iter().filter(earlier) {
        for dot in other.state.versions().keys() {
            if !read.state.versions().contains_key(dot) && !clock.covers(*dot) {
                broken.push(format!(
                    "{:?}: a strict get began at {} and went back behind {dot:?}, shown at {}",
                    read.key, read.began, other.ended
                ));
            }
        }
    }
}

/// A key that one client alone writes, without contexts, strictly: at its end, what the last acknowledged put left.
pub fn judge_own_key(history: &History, key: &Bytes, end: &Siblings) -> Vec<String> {
    let mut writes: Vec<_> = history.writes_of(key).collect();
    writes.sort_by_key(|write| write.request);
    let is_plain = |write: &&Write| write.tries == 1 && write.acknowledged.is_some();
    let versions = end.versions().len();
    match writes.last() {
        Some(last)
            if writes.iter().all(is_plain)
                && (versions != 1 || end.dot_of(last.request).is_none()) =>
        {
            vec![format!(
                "{key:?}: {versions} versions stand after puts in a row; the last was {:?}",
                last.request
            )]
        }
        _ => Vec::new(),
    }
}
