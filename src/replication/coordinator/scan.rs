//! A scan: one page of the keys in a stretch of slots, merged from R owners; owners that lack something are repaired.
//!
//! Each owner answers with a page of its own, which may end anywhere. The merged page ends where the first of them does:
//! up to there every owner has spoken.
//! ```text
//! owner a  k1 k2 k3 k4|            page ends behind k4
//! owner b  k1    k3|               page ends behind k3
//! merged   k1 k2 k3|               k2 is missing at b: repaired
//! ```
//! While a change of the layout runs, a scan goes by the ring in force alone.

use std::collections::BTreeMap;
use std::time::Duration;

use bytes::Bytes;

use crate::node_id::NodeId;
use crate::replication::quorum::{Rings, Tally, Terms};
use crate::replication::{
    Answer, Consistency, FailedWhy, Failure, FailureKind, Level, Outcome, RangeEntry, RangePage,
    Refusal, Request, Scanned,
};
use crate::ring::Slot;
use crate::version::Siblings;

use super::panel::{Panel, Standing};
use super::scene::{Happening, Machine, Progress, Scene};

/// Longest an asked owner may be silent before the next one is asked too: a page is more work than a key.
const HEDGE_PAGE_AFTER: Duration = Duration::from_millis(250);

/// What the client wants.
#[derive(Debug)]
pub(super) struct Wanted {
    pub(super) slots: (Slot, Slot),
    pub(super) after: Option<(Slot, Bytes)>,
    pub(super) prefix: Bytes,
    pub(super) r: Option<Level>,
    pub(super) bytes_max: u32,
}

/// One scan.
#[derive(Debug)]
pub(super) struct Scan {
    wanted: Wanted,
    /// Set once it has begun.
    reading: Option<Reading>,
}

#[derive(Debug)]
struct Reading {
    needed: Tally,
    panel: Panel,
    pages: BTreeMap<NodeId, RangePage>,
}

/// A merged page, and who lacks what of it.
#[derive(Debug, PartialEq)]
struct Merged {
    entries: Vec<RangeEntry>,
    complete: bool,
    /// By entry the owners whose state is another.
    stale: Vec<(usize, NodeId)>,
}

impl Scan {
    pub(super) const fn new(wanted: Wanted) -> Self {
        Self { wanted, reading: None }
    }

    fn begin(&mut self, scene: &mut Scene<'_>) -> Progress {
        let view = scene.view();
        let rings = Rings { next: None, ..view.rings() };
        let terms = match Terms::of_get(rings, self.wanted.r, Some(Consistency::Sloppy)) {
            Ok(terms) => terms,
            Err(text) => {
                return Progress::Finished(Err(Failure::refused(FailureKind::Usage(text), None)));
            }
        };
        let panel = Panel::of_now(&view, self.wanted.slots.0);
        let needed = terms.get_answers();
        let reading = self.reading.insert(Reading { needed, panel, pages: BTreeMap::new() });
        scene.next_round();
        if !reading.panel.possible(&view).meets(reading.needed) {
            return reading.unmet(scene);
        }
        for _ in 0..reading.needed.now {
            reading.ask_next(&self.wanted, scene);
        }
        scene.wake_after(HEDGE_PAGE_AFTER);
        Progress::Waiting
    }
}

impl Machine for Scan {
    fn handle(&mut self, scene: &mut Scene<'_>, happening: Happening) -> Progress {
        let Self { wanted, reading } = self;
        let Some(reading) = reading else { return self.begin(scene) };
        match happening {
            Happening::Begun | Happening::LayoutChanged => self.begin(scene),
            Happening::Answered { .. } | Happening::Failed { .. } if !scene.is_present() => {
                Progress::Waiting
            }
            Happening::Answered { from, answer: Answer::Range(page) } => {
                reading.heard(scene, from, page)
            }
            Happening::Answered { from, answer: Answer::Refused(Refusal::Layout { .. }) } => {
                reading.panel.set(from, Standing::Behind);
                reading.ask_next(wanted, scene);
                Progress::Waiting
            }
            Happening::Answered { from, answer: Answer::Refused(refusal) } => {
                reading.failed(wanted, scene, from, FailedWhy::from(&refusal))
            }
            Happening::Failed { from, why } => reading.failed(wanted, scene, from, why),
            Happening::Unreachable(node) if reading.panel.is_pending(node) => {
                reading.failed(wanted, scene, node, FailedWhy::Unreachable)
            }
            Happening::Timer => reading.hedge(wanted, scene),
            Happening::Answered { .. }
            | Happening::Unreachable(_)
            | Happening::Minted(_)
            | Happening::MintDurable { .. } => Progress::Waiting,
        }
    }

    fn expired(&mut self, scene: &mut Scene<'_>) -> Result<Outcome, Failure> {
        let not_begun = || Failure::refused(FailureKind::QuorumUnmet, None);
        Err(self.reading.as_ref().map_or_else(not_begun, |reading| reading.failure(scene)))
    }
}

impl Reading {
    fn ask_next(&mut self, wanted: &Wanted, scene: &mut Scene<'_>) {
        if let Some(owner) = self.panel.next_idle(&scene.view(), self.needed) {
            self.ask(wanted, scene, owner);
        }
    }

    fn ask(&mut self, wanted: &Wanted, scene: &mut Scene<'_>, owner: NodeId) {
        self.panel.set(owner, Standing::Asked);
        scene.ask(
            owner,
            Request::ReadRange {
                slots: wanted.slots,
                after: wanted.after.clone(),
                prefix: wanted.prefix.clone(),
                bytes_max: wanted.bytes_max,
            },
        );
    }

    fn heard(&mut self, scene: &mut Scene<'_>, from: NodeId, page: RangePage) -> Progress {
        self.panel.set(from, Standing::Answered);
        self.pages.insert(from, page);
        if self.pages.len() < self.needed.now {
            return Progress::Waiting;
        }
        let merged = merge(&self.pages);
        let mut repaired: Vec<usize> = merged.stale.iter().map(|(entry, _)| *entry).collect();
        repaired.dedup();
        for (entry, owner) in &merged.stale {
            if let Some(RangeEntry { key, state, .. }) = merged.entries.get(*entry) {
                let (key, state) = (key.clone(), state.clone());
                scene.ask_aside(*owner, Request::Merge { key, state, put: None });
            }
        }
        Progress::Finished(Ok(Outcome::Scanned(Scanned {
            entries: merged.entries,
            complete: merged.complete,
            answered: self.pages.keys().copied().collect(),
            repaired: u32::try_from(repaired.len()).unwrap_or(u32::MAX),
        })))
    }

    fn failed(
        &mut self,
        wanted: &Wanted,
        scene: &mut Scene<'_>,
        from: NodeId,
        why: FailedWhy,
    ) -> Progress {
        self.panel.set(from, Standing::Failed(why));
        self.ask_next(wanted, scene);
        if !self.panel.possible(&scene.view()).meets(self.needed) {
            return self.unmet(scene);
        }
        Progress::Waiting
    }

    fn hedge(&mut self, wanted: &Wanted, scene: &mut Scene<'_>) -> Progress {
        let behind: Vec<NodeId> = self.panel.standing(Standing::Behind).collect();
        for owner in behind {
            self.ask(wanted, scene, owner);
        }
        for _ in self.pages.len()..self.needed.now {
            self.ask_next(wanted, scene);
        }
        scene.wake_after(HEDGE_PAGE_AFTER);
        Progress::Waiting
    }

    fn unmet(&self, scene: &Scene<'_>) -> Progress {
        Progress::Finished(Err(self.failure(scene)))
    }

    fn failure(&self, scene: &Scene<'_>) -> Failure {
        let answered = self.panel.standing(Standing::Answered).collect();
        scene.unmet(&self.panel, self.needed, answered, None)
    }
}

/// Merges pages key by key, up to where the first of them ends.
fn merge(pages: &BTreeMap<NodeId, RangePage>) -> Merged {
    let place = |entry: &RangeEntry| (entry.slot, entry.key.clone());
    // A page that says it goes on, but holds nothing, tells nothing: it ends before the first key.
    let ends = pages.values().filter(|page| !page.complete).map(|page| page.entries.last());
    let end = ends.map(|last| last.map(place)).min();
    let mut merged: BTreeMap<(Slot, Bytes), Siblings> = BTreeMap::new();
    for entry in pages.values().flat_map(|page| &page.entries) {
        if end.as_ref().is_none_or(|end| Some(place(entry)) <= *end) {
            // Two values under one dot are noticed, and reported, where they are appended.
            merged.entry(place(entry)).or_default().merge(&entry.state, &mut Vec::new());
        }
    }
    let mut stale = Vec::new();
    for (owner, page) in pages {
        let own: BTreeMap<_, _> =
            page.entries.iter().map(|entry| (place(entry), entry.state.digest())).collect();
        for (index, (place, state)) in merged.iter().enumerate() {
            if own.get(place).copied().unwrap_or_default() != state.digest() {
                stale.push((index, *owner));
            }
        }
    }
    stale.sort_unstable();
    let entries =
        merged.into_iter().map(|((slot, key), state)| RangeEntry { slot, key, state }).collect();
    Merged { entries, complete: end.is_none(), stale }
}
