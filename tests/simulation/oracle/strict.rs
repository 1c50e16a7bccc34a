//! I5: among strict requests whose quorums overlap, a get that starts after a put was acknowledged returns that put or
//! one that replaced it, and no later one goes back.

use std::collections::BTreeMap;

use kvkit::version::{Dot, RequestId};

use super::forgetting::may_be_forgotten;
use super::{Breach, Check, Judged};
use crate::history::Read;
use crate::world::Nanos;

pub(super) fn judge(judged: &Judged<'_>, broken: &mut Vec<Breach>) {
    let mut reads: Vec<&Read> = judged.history.reads.iter().filter(|read| read.is_strict).collect();
    reads.sort_by_key(|read| read.began);
    let shown = first_shown(&reads);
    for read in reads {
        judge_stale(judged, read, broken);
        for (dot, (at, request)) in &shown {
            let is_held =
                read.state.versions().contains_key(dot) || read.state.clock().covers(*dot);
            let write = || judged.history.writes.iter().find(|write| write.request == *request);
            let is_forgotten =
                || write().is_some_and(|write| may_be_forgotten(judged.history, write, read.ended));
            if *at < read.began && !is_held && !is_forgotten() {
                let text = format!(
                    "{:?}: a strict get began at {} and went back behind {dot:?}, shown at {at}",
                    judged.key, read.began
                );
                broken.push(Breach::new(Check::StrictReads, text));
            }
        }
    }
}

/// When each dot was shown first, and which put it is.
fn first_shown(reads: &[&Read]) -> BTreeMap<Dot, (Nanos, RequestId)> {
    let mut shown = BTreeMap::new();
    for read in reads {
        for (dot, version) in read.state.versions() {
            let (at, _) = shown.entry(*dot).or_insert((read.ended, version.request));
            *at = read.ended.min(*at);
        }
    }
    shown
}

fn judge_stale(judged: &Judged<'_>, read: &Read, broken: &mut Vec<Breach>) {
    for write in judged.history.writes.iter().filter(|write| write.is_strict) {
        let Some((at, Some(dot))) = write.acknowledged else { continue };
        // An owner that knows a retried put under another dot holds it under that one, and says *done*.
        let others = judged.twice.get(&write.request).into_iter().flatten();
        let is_held = others.chain([&dot]).any(|dot| read.state.clock().covers(*dot));
        let is_forgotten = || may_be_forgotten(judged.history, write, read.ended);
        if at < read.began && !is_held && !is_forgotten() {
            let text = format!(
                "{:?}: a strict get began at {} and missed {dot:?}, acknowledged at {at}",
                judged.key, read.began
            );
            broken.push(Breach::new(Check::StrictReads, text));
        }
    }
}
