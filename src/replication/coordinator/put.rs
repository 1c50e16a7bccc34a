//! A put or a delete: minted on the own state, sent merged to all other owners at once, done when enough of them hold it
//! durably.
//!
//! ```text
//!            retry, or with a condition                            an owner held what a put without
//! begun ─────────────────────────────▶ recalling ──▶ minting       a context did not cover
//!   │                                      │  known     │  known   ┌────────────▶ minting (fold) ─▶ spreading ─▶ done
//!   └──────────────▶ minting ──────────────┼────────────┼──▶ spreading ────────────────────────────────────────▶ done
//!                                          └────────────┴──▶ spreading the known state ────────────────────────▶ done
//! ```
//! A put without a context replaces what is there. *What is there* is what max(R, W) owners held: where one of them held
//! a version that the put did not cover, everything heard is folded into a second version, once. The fold covers what
//! this put has seen and no more: what others wrote here in between stays a sibling.
//!
//! Where no owner can be reached, a sloppy put may be coordinated by who stands in for the first of them: its own state
//! is all that it holds of the key, and what it mints goes into its hint.
//!
//! A retry is recalled first: where any of max(R, W) owners knows it, it is done already, and the merged state is sent
//! instead of a new version. Where none does and their memory reaches back to the first try, it is an ordinary put;
//! where it does not, the put is written beside what is there.

use std::time::Duration;

use bytes::Bytes;

use crate::node_id::NodeId;
use crate::planted::{self, Bug};
use crate::replication::quorum::Terms;
use crate::replication::{
    Acknowledgement, Answer, Consistency, Done, FailedWhy, Failure, FailureKind, Known, Level,
    Mint, MintAnswer, MintKind, Outcome, PutBasis, PutTag, Reachability, Refusal, Request,
    WriteOutcome,
};
use crate::ring::Token;
use crate::version::{Basis, Content, Dot, MintError, RequestId, Siblings, VectorClock};

use super::panel::{Panel, Standing};
use super::scene::{Happening, Machine, Progress, Scene, count};
use super::{HeldFor, RETRY_AFTER};

/// When a put looks whether owners have gone silent that others may stand in for.
const LOOK_AGAIN_AFTER: Duration = Duration::from_millis(100);

/// What the client wants.
#[derive(Debug)]
pub(super) struct Wanted {
    pub(super) key: Bytes,
    pub(super) content: Content,
    pub(super) basis: PutBasis,
    pub(super) w: Option<Level>,
    pub(super) r: Option<Level>,
    pub(super) consistency: Option<Consistency>,
    pub(super) request: RequestId,
    pub(super) age: Duration,
}

/// What a put has to do with under one layout.
#[derive(Debug)]
struct Resolved {
    terms: Terms,
    panel: Panel,
    fallbacks: Vec<NodeId>,
    stands_in_for: Option<NodeId>,
}

/// One put.
#[derive(Debug)]
pub(super) struct Put {
    wanted: Wanted,
    /// Set once it has begun.
    writing: Option<Writing>,
}

#[derive(Debug)]
struct Writing {
    terms: Terms,
    panel: Panel,
    /// Who may stand in for an owner, nearest first; nobody in a strict put.
    fallbacks: Vec<NodeId>,
    /// The owner that this node, which is none, stands in for as it coordinates.
    stands_in_for: Option<NodeId>,
    phase: Phase,
    /// Whether a version of this put was minted here.
    minted: bool,
    /// In whose hint the last mint was asked to write.
    held_for: Option<NodeId>,
    /// The client has its reply; owners may still answer.
    finished: bool,
}

#[derive(Debug)]
enum Phase {
    /// Asking what is there, and whether the put is known.
    Recalling(Recalled),
    /// Waiting for the own state's new version.
    Minting { round: u8, kind: Minting },
    /// Waiting for acknowledgements.
    Spreading(Spread),
}

#[derive(Debug)]
struct Recalled {
    state: Siblings,
    known: bool,
    memory: Duration,
}

/// Which version of a put is minted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Minting {
    /// One that is folded once where it did not cover what was there.
    Foldable,
    /// The only one, or the fold.
    Final,
}

/// A state on its way to all owners.
#[derive(Debug)]
struct Spread {
    state: Siblings,
    /// The version that is spread; `None` for a put that was known already.
    minted: Option<Version>,
    /// What owners held that the version did not cover.
    uncovered: Option<Siblings>,
    /// Whether an owner knew the put under another name.
    known: bool,
}

#[derive(Clone, Copy, Debug)]
struct Version {
    dot: Dot,
    kind: Minting,
    /// The round its mint was asked for under.
    round: u8,
    /// In whose hint it stands; `None` in the own data.
    held_for: Option<NodeId>,
    /// Whether the own state is durable.
    durable: bool,
}

impl Put {
    pub(super) const fn new(wanted: Wanted) -> Self {
        Self { wanted, writing: None }
    }

    fn begin(&mut self, scene: &mut Scene<'_>) -> Progress {
        let wanted = &self.wanted;
        let Resolved { terms, panel, fallbacks, stands_in_for } = match wanted.resolve(scene) {
            Ok(resolved) => resolved,
            Err(failure) => return Progress::Finished(Err(failure)),
        };
        let nothing = Recalled { state: Siblings::new(), known: false, memory: Duration::MAX };
        let phase = Phase::Recalling(nothing);
        let (minted, finished) = (false, false);
        let writing = Writing {
            terms,
            panel,
            fallbacks,
            stands_in_for,
            phase,
            minted,
            held_for: None,
            finished,
        };
        let writing = self.writing.insert(writing);
        scene.next_round();
        if writing.possible(scene) < writing.needed(wanted) {
            return writing.unmet(wanted, scene);
        }
        if !wanted.is_recalled() {
            return writing.mint(wanted, scene, wanted.first_mint());
        }
        writing.ask_all(scene, &wanted.recall());
        writing.ask_in_stead(wanted, scene, scene.view().me);
        writing.ask_stand_ins(wanted, scene);
        writing.look_again(scene);
        Progress::Waiting
    }

    /// Goes on under another layout: what was minted stays, every acknowledgement is asked for anew.
    fn start_over(&mut self, scene: &mut Scene<'_>) -> Progress {
        let wanted = &self.wanted;
        let Some(writing) = self.writing.as_mut().filter(|writing| !writing.is_recalling()) else {
            return self.begin(scene);
        };
        match wanted.resolve(scene) {
            Ok(Resolved { terms, panel, fallbacks, stands_in_for }) => {
                (writing.terms, writing.panel) = (terms, panel);
                (writing.fallbacks, writing.stands_in_for) = (fallbacks, stands_in_for);
            }
            Err(failure) => {
                let outcome = Some(writing.outcome(wanted));
                return Progress::Finished(Err(Failure { outcome, ..failure }));
            }
        }
        match &mut writing.phase {
            Phase::Recalling(_) | Phase::Minting { .. } => return Progress::Waiting,
            Phase::Spreading(spread) => (spread.uncovered, spread.known) = (None, false),
        }
        writing.spread(wanted, scene)
    }
}

impl Machine for Put {
    fn handle(&mut self, scene: &mut Scene<'_>, happening: Happening) -> Progress {
        let Self { wanted, writing } = self;
        let Some(writing) = writing else { return self.begin(scene) };
        match happening {
            Happening::Begun => self.begin(scene),
            Happening::LayoutChanged => self.start_over(scene),
            Happening::Minted(answer) => writing.minted(wanted, scene, answer),
            Happening::MintDurable { .. } if writing.finished => {
                writing.linger(wanted, scene, scene.view().me, Standing::Answered)
            }
            Happening::MintDurable { is_sound } => writing.mint_durable(wanted, scene, is_sound),
            Happening::Failed { why, .. } if writing.is_minting_under(scene.came_under()) => {
                writing.mint_failed(wanted, scene, why)
            }
            Happening::Failed { why, .. } if writing.is_minted_under(scene.came_under()) => {
                writing.failed(wanted, scene, scene.view().me, why)
            }
            Happening::Answered { .. } | Happening::Failed { .. } if !scene.is_present() => {
                Progress::Waiting
            }
            Happening::Answered { from, answer: Answer::Merged(_) } if writing.finished => {
                writing.linger(wanted, scene, from, Standing::Answered)
            }
            Happening::Answered { from, answer: Answer::Refused(refusal) } if writing.finished => {
                writing.linger(wanted, scene, from, Standing::Failed(FailedWhy::from(&refusal)))
            }
            Happening::Failed { from, why } if writing.finished => {
                writing.linger(wanted, scene, from, Standing::Failed(why))
            }
            Happening::Unreachable(node) if writing.finished && writing.panel.is_pending(node) => {
                writing.linger(wanted, scene, node, Standing::Failed(FailedWhy::Unreachable))
            }
            Happening::Timer if writing.finished => Progress::Waiting,
            Happening::Answered { from, answer } => writing.answered(wanted, scene, from, answer),
            Happening::Failed { from, why } => writing.failed(wanted, scene, from, why),
            Happening::Unreachable(node) if writing.panel.is_pending(node) => {
                writing.failed(wanted, scene, node, FailedWhy::Unreachable)
            }
            Happening::Unreachable(_) => Progress::Waiting,
            Happening::Timer => writing.ask_again(wanted, scene),
        }
    }

    fn expired(&mut self, scene: &mut Scene<'_>) -> Result<Outcome, Failure> {
        let Self { wanted, writing } = self;
        let not_begun =
            || Failure::refused(FailureKind::QuorumUnmet, Some(wanted.outcome_before()));
        Err(writing.as_ref().map_or_else(not_begun, |writing| writing.failure(wanted, scene)))
    }

    fn abandoned(&mut self, scene: &mut Scene<'_>) {
        let Some(writing) = &self.writing else { return };
        for node in writing.panel.pending().collect::<Vec<_>>() {
            let owner = writing.panel.stands_in_for(node).unwrap_or(node);
            writing.hold(&self.wanted, scene, owner);
        }
    }
}

impl Wanted {
    fn is_plain(&self) -> bool {
        self.basis == PutBasis::Present
    }

    const fn is_retry(&self) -> bool {
        !self.age.is_zero()
    }

    /// Whether owners are asked before anything is written.
    fn is_recalled(&self) -> bool {
        self.is_retry() || matches!(self.basis, PutBasis::IfContext(_))
    }

    /// What became of this put before this try did anything: an earlier try may have written it.
    const fn outcome_before(&self) -> WriteOutcome {
        if self.is_retry() { WriteOutcome::Unknown } else { WriteOutcome::NotApplied }
    }

    fn resolve(&self, scene: &Scene<'_>) -> Result<Resolved, Failure> {
        let view = scene.view();
        let refused = |kind| Failure::refused(kind, Some(self.outcome_before()));
        let terms = Terms::of_put(view.preferences.ring(), self.w, self.r, self.consistency)
            .map_err(|text| refused(FailureKind::Usage(text)))?;
        let walk = view.preferences.of_slot(Token::of(&self.key).slot());
        let fallbacks: Vec<NodeId> =
            if terms.takes_stand_ins() { walk.fallbacks().collect() } else { Vec::new() };
        let mut panel = Panel::new(&view, walk.owners());
        let mut stands_in_for = None;
        if !walk.owns(view.me) {
            let is_reachable = |owner| view.reachability(owner) == Reachability::Up;
            if walk.owners().any(is_reachable) || !fallbacks.contains(&view.me) {
                return Err(refused(FailureKind::NotCoordinator));
            }
            stands_in_for = walk.owners().next();
        }
        if let Some(owner) = stands_in_for {
            panel.seat(view.me, owner, Standing::Asked);
        }
        Ok(Resolved { terms, panel, fallbacks, stands_in_for })
    }

    fn recall(&self) -> Request {
        let (key, request) = (self.key.clone(), self.request);
        Request::Recall { key, request, plain: self.is_plain() }
    }

    /// Whether a conditional put must not be done beside `state`.
    fn is_stale_beside(&self, state: &Siblings) -> bool {
        match &self.basis {
            PutBasis::IfContext(clock) => {
                state.versions().keys().any(|version| !clock.covers(*version))
            }
            PutBasis::Present | PutBasis::Context(_) | PutBasis::Blind => false,
        }
    }

    /// The mint of a first try without a condition.
    fn first_mint(&self) -> (Minting, Basis, Option<Siblings>) {
        match &self.basis {
            PutBasis::Present => (Minting::Foldable, Basis::Own, None),
            PutBasis::Context(clock) | PutBasis::IfContext(clock) => {
                (Minting::Final, Basis::Clock(clock.clone()), None)
            }
            PutBasis::Blind => (Minting::Final, Basis::Blind, None),
        }
    }

    /// The mint of a put that none of those recalled knows.
    fn recalled_mint(&self, recalled: &Recalled) -> (Minting, Basis, Option<Siblings>) {
        if !self.is_plain() {
            return self.first_mint();
        }
        if recalled.memory < self.age {
            return (Minting::Final, Basis::Blind, None);
        }
        let state = recalled.state.clone();
        (Minting::Foldable, Basis::Clock(state.clock().clone()), Some(state))
    }
}

impl Writing {
    const fn is_recalling(&self) -> bool {
        matches!(self.phase, Phase::Recalling(_))
    }

    const fn is_minting_under(&self, came_under: u8) -> bool {
        matches!(self.phase, Phase::Minting { round, .. } if round == came_under)
    }

    const fn is_minted_under(&self, came_under: u8) -> bool {
        match &self.phase {
            Phase::Spreading(Spread { minted: Some(version), .. }) => version.round == came_under,
            Phase::Recalling(_) | Phase::Minting { .. } | Phase::Spreading(_) => false,
        }
    }

    /// Owners that must answer, or acknowledge, for this phase to end.
    fn needed(&self, wanted: &Wanted) -> usize {
        let asks = match &self.phase {
            Phase::Recalling(_) => wanted.is_plain() || wanted.is_recalled(),
            Phase::Minting { kind, .. } => *kind == Minting::Foldable,
            Phase::Spreading(spread) => {
                spread.minted.is_none_or(|version| version.kind == Minting::Foldable)
            }
        };
        let needed = if asks { self.terms.put_answers() } else { self.terms.w };
        if planted::is_on(Bug::AcknowledgedBeforeQuorum) { needed.max(2) - 1 } else { needed }
    }

    /// What this phase asks of the owners.
    fn question(&self, wanted: &Wanted) -> Option<Request> {
        match &self.phase {
            Phase::Recalling(_) => Some(wanted.recall()),
            Phase::Spreading(spread) => Some(spread.question(wanted)),
            Phase::Minting { .. } => None,
        }
    }

    fn ask_all(&mut self, scene: &mut Scene<'_>, request: &Request) {
        let idle: Vec<NodeId> = self.panel.standing(Standing::Idle).collect();
        for owner in idle {
            if scene.view().can_ask(owner) {
                self.panel.set(owner, Standing::Asked);
                scene.ask(owner, request.clone());
            }
        }
    }

    /// Has others stand in for the owners that cannot be reached or have failed, as far as the quorum wants them.
    fn ask_stand_ins(&mut self, wanted: &Wanted, scene: &mut Scene<'_>) {
        if self.needed(wanted) <= self.panel.likely(&scene.view())
            || self.question(wanted).is_none()
        {
            return;
        }
        let fallbacks = self.fallbacks.iter().copied();
        for (node, _) in self.panel.seat_stand_ins(&scene.view(), fallbacks) {
            self.ask_in_stead(wanted, scene, node);
        }
    }

    /// Asks `node` what this phase asks of who stands in for an owner, if it does.
    fn ask_in_stead(&self, wanted: &Wanted, scene: &mut Scene<'_>, node: NodeId) {
        let owner = self.panel.stands_in_for(node);
        if let Some(request) = owner.and_then(|owner| self.question_in_stead_of(wanted, owner)) {
            scene.ask(node, request);
        }
    }

    /// For how many owners an answer is there or may come, theirs or a stand-in's that could be asked.
    fn possible(&self, scene: &Scene<'_>) -> usize {
        let mut panel = self.panel.clone();
        panel.seat_stand_ins(&scene.view(), self.fallbacks.iter().copied());
        panel.possible(&scene.view())
    }

    /// What this phase asks of who stands in for `owner`.
    fn question_in_stead_of(&self, wanted: &Wanted, owner: NodeId) -> Option<Request> {
        let key = wanted.key.clone();
        match &self.phase {
            Phase::Recalling(_) => Some(Request::ReadHeld { key }),
            Phase::Spreading(spread) => {
                let (state, put) = (spread.state.clone(), spread.tag(wanted));
                Some(Request::Hold { key, state, put, target: owner, w: count(self.terms.w) })
            }
            Phase::Minting { .. } => None,
        }
    }

    /// Keeps a hint here for an owner that has not answered and that nobody stands in for. It counts for nothing.
    fn hold(&self, wanted: &Wanted, scene: &mut Scene<'_>, owner: NodeId) {
        let Phase::Spreading(spread) = &self.phase else { return };
        if owner == scene.view().me
            || self.panel.stood_in().iter().any(|(absent, _)| *absent == owner)
        {
            return;
        }
        let (key, state) = (wanted.key.clone(), spread.state.clone());
        let hold = Request::Hold { key, state, put: None, target: owner, w: 0 };
        scene.keep_hint(hold);
    }

    /// The client has its reply: hints for who will not answer, patience for the others.
    fn finish(&mut self, wanted: &Wanted, scene: &mut Scene<'_>, done: Done) -> Progress {
        for owner in self.panel.absent(&scene.view()) {
            self.hold(wanted, scene, owner);
        }
        self.finished = true;
        let result = Ok(Outcome::Done(done));
        if self.is_awaited() { Progress::Lingering(result) } else { Progress::Finished(result) }
    }

    /// An owner or a stand-in answered, or failed, after the client had its reply.
    fn linger(
        &mut self,
        wanted: &Wanted,
        scene: &mut Scene<'_>,
        from: NodeId,
        standing: Standing,
    ) -> Progress {
        self.panel.set(from, standing);
        match standing {
            Standing::Failed(_) => {
                let owner = self.panel.stands_in_for(from).unwrap_or(from);
                self.hold(wanted, scene, owner);
            }
            Standing::Idle | Standing::Asked | Standing::Behind | Standing::Answered => {}
        }
        if self.is_awaited() { Progress::Waiting } else { Progress::Over }
    }

    fn is_awaited(&self) -> bool {
        self.panel.pending().next().is_some()
    }

    fn mint(
        &mut self,
        wanted: &Wanted,
        scene: &mut Scene<'_>,
        (minting, basis, merge): (Minting, Basis, Option<Siblings>),
    ) -> Progress {
        if scene.deadline() <= scene.view().now {
            return self.unmet(wanted, scene);
        }
        let kind = match (self.minted, wanted.is_plain()) {
            (true, _) => MintKind::Fold,
            (false, true) => MintKind::Plain,
            (false, false) => MintKind::Named,
        };
        let mint = Mint {
            key: wanted.key.clone(),
            merge,
            basis,
            exact: matches!(wanted.basis, PutBasis::IfContext(_)),
            content: wanted.content.clone(),
            request: wanted.request,
            kind,
            deadline: scene.deadline(),
        };
        let w = count(self.terms.w);
        let round = scene.mint(mint, self.stands_in_for.map(|target| HeldFor { target, w }));
        self.held_for = self.stands_in_for;
        self.phase = Phase::Minting { round, kind: minting };
        Progress::Waiting
    }

    fn minted(&mut self, wanted: &Wanted, scene: &mut Scene<'_>, answer: MintAnswer) -> Progress {
        let Phase::Minting { round, kind } = self.phase else { return Progress::Waiting };
        if round != scene.came_under() {
            return Progress::Waiting;
        }
        match answer {
            MintAnswer::Minted { state, dot, .. } => {
                self.minted = true;
                let held_for = self.held_for;
                let minted = Some(Version { dot, kind, round, held_for, durable: false });
                self.phase =
                    Phase::Spreading(Spread { state, minted, uncovered: None, known: false });
                self.spread(wanted, scene)
            }
            MintAnswer::Known { state } => self.spread_known(wanted, scene, state),
            MintAnswer::Stale => self.mint_refused(wanted, FailureKind::StaleContext),
            MintAnswer::Expired => self.mint_failed(wanted, scene, FailedWhy::Timeout),
            MintAnswer::Overloaded => self.mint_refused(wanted, FailureKind::Overloaded),
            MintAnswer::EpochMustRise => self.mint_failed(wanted, scene, FailedWhy::Overloaded),
            MintAnswer::Refused(MintError::TooManySiblings(_)) => {
                self.mint_refused(wanted, FailureKind::TooManySiblings)
            }
            MintAnswer::Refused(error @ MintError::Counter) => {
                self.mint_refused(wanted, FailureKind::Usage(error.to_string()))
            }
        }
    }

    fn mint_durable(&mut self, wanted: &Wanted, scene: &mut Scene<'_>, is_sound: bool) -> Progress {
        let me = scene.view().me;
        let Phase::Spreading(Spread { minted: Some(version), .. }) = &mut self.phase else {
            return Progress::Waiting;
        };
        if version.round != scene.came_under() {
            return Progress::Waiting;
        }
        version.durable = true;
        if version.held_for == self.stands_in_for {
            // It is held; but what may be folded needs the word of owners that know all that stands.
            let standing = match version.kind {
                Minting::Foldable if !is_sound => Standing::Failed(FailedWhy::Refilling),
                Minting::Foldable | Minting::Final => Standing::Answered,
            };
            self.panel.set(me, standing);
        }
        self.advance(wanted, scene)
    }

    fn mint_refused(&self, wanted: &Wanted, kind: FailureKind) -> Progress {
        let outcome = self.outcome_without_mint(wanted);
        Progress::Finished(Err(Failure::refused(kind, Some(outcome))))
    }

    fn mint_failed(&self, wanted: &Wanted, scene: &Scene<'_>, why: FailedWhy) -> Progress {
        let failed = vec![(scene.view().me, why)];
        let outcome = Some(self.outcome_without_mint(wanted));
        let failure = Failure::refused(FailureKind::of_failures(&failed), outcome);
        let needed = count(self.needed(wanted));
        Progress::Finished(Err(Failure { needed, failed, ..failure }))
    }

    /// Sends what is known of a put that was done before.
    fn spread_known(
        &mut self,
        wanted: &Wanted,
        scene: &mut Scene<'_>,
        state: Siblings,
    ) -> Progress {
        self.phase = Phase::Spreading(Spread { state, minted: None, uncovered: None, known: true });
        self.spread(wanted, scene)
    }

    /// Sends the state to all owners, in a round of its own. This node holds what it minted where it minted it; it is asked
    /// for the rest.
    fn spread(&mut self, wanted: &Wanted, scene: &mut Scene<'_>) -> Progress {
        let Phase::Spreading(spread) = &self.phase else { return Progress::Waiting };
        let request = spread.question(wanted);
        let me = scene.view().me;
        let standing = spread.minted.filter(|version| version.held_for == self.stands_in_for);
        let counts_at_once = planted::is_on(Bug::OwnWriteCountsAtOnce);
        let standing = standing.map(|version| {
            if version.durable || counts_at_once { Standing::Answered } else { Standing::Asked }
        });
        scene.next_round();
        self.panel = Panel::new(&scene.view(), self.panel.owners());
        match (self.stands_in_for, standing) {
            (None, None) => {}
            (None, Some(standing)) => {
                self.panel.set(me, standing);
            }
            (Some(owner), Some(standing)) => self.panel.seat(me, owner, standing),
            (Some(owner), None) => {
                self.panel.seat(me, owner, Standing::Asked);
                self.ask_in_stead(wanted, scene, me);
            }
        }
        self.ask_all(scene, &request);
        self.look_again(scene);
        self.advance(wanted, scene)
    }

    /// Has a look at the owners a while later, where others may stand in for them.
    fn look_again(&self, scene: &mut Scene<'_>) {
        if !self.fallbacks.is_empty() {
            scene.wake_after(LOOK_AGAIN_AFTER);
        }
    }

    fn answered(
        &mut self,
        wanted: &Wanted,
        scene: &mut Scene<'_>,
        from: NodeId,
        answer: Answer,
    ) -> Progress {
        match (&mut self.phase, answer) {
            (_, Answer::Refused(Refusal::Layout { .. }))
                if self.panel.stands_in_for(from).is_none() =>
            {
                self.panel.set(from, Standing::Behind);
                scene.wake_after(RETRY_AFTER);
                return Progress::Waiting;
            }
            (_, Answer::Refused(refusal)) => {
                return self.failed(wanted, scene, from, FailedWhy::from(&refusal));
            }
            (Phase::Recalling(recalled), Answer::Recalled { state, known, memory }) => {
                // Two values under one dot are noticed, and reported, where they are appended.
                recalled.state.merge(&state, &mut Vec::new());
                recalled.known |= known;
                recalled.memory = recalled.memory.min(Duration::from_micros(memory));
            }
            (Phase::Recalling(recalled), Answer::State(state)) => {
                // A stand-in remembers no puts but by the states that it holds.
                recalled.known |= state.dot_of(wanted.request).is_some();
                recalled.state.merge(&state, &mut Vec::new());
                recalled.memory = Duration::ZERO;
            }
            (Phase::Spreading(spread), Answer::Merged(acknowledgement)) => {
                if let Some(state) = spread.acknowledged(acknowledgement) {
                    let (key, put) = (wanted.key.clone(), None);
                    scene.ask_aside(
                        scene.view().me,
                        match self.stands_in_for {
                            None => Request::Merge { key, state, put },
                            Some(target) => Request::Hold { key, state, put, target, w: 0 },
                        },
                    );
                }
            }
            (Phase::Recalling(_) | Phase::Minting { .. } | Phase::Spreading(_), _) => {
                return Progress::Waiting;
            }
        }
        self.panel.set(from, Standing::Answered);
        self.advance(wanted, scene)
    }

    fn failed(
        &mut self,
        wanted: &Wanted,
        scene: &mut Scene<'_>,
        from: NodeId,
        why: FailedWhy,
    ) -> Progress {
        self.panel.set(from, Standing::Failed(why));
        self.advance(wanted, scene)
    }

    /// Asks those again whose layout was another, and others in stead of those that have gone silent.
    fn ask_again(&mut self, wanted: &Wanted, scene: &mut Scene<'_>) -> Progress {
        let Some(request) = self.question(wanted) else { return Progress::Waiting };
        let behind: Vec<NodeId> = self.panel.standing(Standing::Behind).collect();
        for owner in behind {
            self.panel.set(owner, Standing::Asked);
            scene.ask(owner, request.clone());
        }
        self.ask_stand_ins(wanted, scene);
        self.look_again(scene);
        Progress::Waiting
    }

    /// Goes on once enough owners answered; ends once they cannot.
    fn advance(&mut self, wanted: &Wanted, scene: &mut Scene<'_>) -> Progress {
        if self.panel.answered() < self.needed(wanted) {
            if self.possible(scene) < self.needed(wanted) {
                return self.unmet(wanted, scene);
            }
            // An owner may have become reachable since the round began.
            if self.panel.next_idle(&scene.view()).is_some()
                && let Some(request) = self.question(wanted)
            {
                self.ask_all(scene, &request);
            }
            self.ask_stand_ins(wanted, scene);
            return Progress::Waiting;
        }
        match &self.phase {
            Phase::Minting { .. } => Progress::Waiting,
            Phase::Recalling(recalled) => {
                if recalled.known {
                    let state = recalled.state.clone();
                    return self.spread_known(wanted, scene, state);
                }
                if wanted.is_stale_beside(&recalled.state) {
                    return self.mint_refused(wanted, FailureKind::StaleContext);
                }
                let mint = wanted.recalled_mint(recalled);
                self.mint(wanted, scene, mint)
            }
            Phase::Spreading(spread) => {
                if let Some(mint) = spread.fold() {
                    return self.mint(wanted, scene, mint);
                }
                let done = self.done(wanted, spread);
                self.finish(wanted, scene, done)
            }
        }
    }

    fn done(&self, wanted: &Wanted, spread: &Spread) -> Done {
        let standing = || spread.state.dot_of(wanted.request);
        Done {
            dot: spread.minted.map_or_else(standing, |version| Some(version.dot)),
            clock: spread.state.clock().clone(),
            siblings: u32::try_from(spread.state.siblings()).unwrap_or(u32::MAX),
            acked: self.panel.standing(Standing::Answered).collect(),
            needed: count(self.terms.w),
            stand_ins: self.panel.stood_in(),
            guarantee: self.terms.of_write(self.panel.stood_in().len()),
        }
    }

    fn unmet(&self, wanted: &Wanted, scene: &Scene<'_>) -> Progress {
        Progress::Finished(Err(self.failure(wanted, scene)))
    }

    fn failure(&self, wanted: &Wanted, scene: &Scene<'_>) -> Failure {
        let acked = match &self.phase {
            // Who was recalled acknowledged nothing.
            Phase::Recalling(_) | Phase::Minting { .. } => Vec::new(),
            Phase::Spreading(_) => self.panel.standing(Standing::Answered).collect(),
        };
        scene.unmet(&self.panel, self.needed(wanted), acked, Some(self.outcome(wanted)))
    }

    /// What became of the put, as far as this try can tell. A mint that was asked for may be done any moment.
    fn outcome(&self, wanted: &Wanted) -> WriteOutcome {
        match &self.phase {
            Phase::Recalling(_) => self.outcome_without_mint(wanted),
            Phase::Minting { .. } | Phase::Spreading(_) => WriteOutcome::Unknown,
        }
    }

    const fn outcome_without_mint(&self, wanted: &Wanted) -> WriteOutcome {
        if self.minted { WriteOutcome::Unknown } else { wanted.outcome_before() }
    }
}

impl Spread {
    fn question(&self, wanted: &Wanted) -> Request {
        let (key, state) = (wanted.key.clone(), self.state.clone());
        Request::Merge { key, state, put: self.tag(wanted) }
    }

    fn tag(&self, wanted: &Wanted) -> Option<PutTag> {
        self.minted.map(|version| PutTag {
            request: wanted.request,
            dot: version.dot,
            plain: version.kind == Minting::Foldable,
        })
    }

    /// Takes note of one acknowledgement; returns the state of an owner that knew the put under another name.
    fn acknowledged(&mut self, acknowledgement: Acknowledgement) -> Option<Siblings> {
        if let Some(state) = acknowledgement.uncovered {
            self.uncovered.get_or_insert_default().merge(&state, &mut Vec::new());
        }
        match acknowledgement.known {
            Known::No { .. } => None,
            Known::Done(state) => {
                self.known = true;
                Some(state)
            }
        }
    }

    /// The version that replaces what owners held beside the first one. Where an owner knew the put, it was done before,
    /// and what stands there may be younger: nothing is replaced then.
    fn fold(&self) -> Option<(Minting, Basis, Option<Siblings>)> {
        let uncovered = self.uncovered.as_ref()?;
        let foldable = self.minted.is_some_and(|version| version.kind == Minting::Foldable);
        if self.known || !foldable {
            return None;
        }
        let mut seen: VectorClock = self.state.clock().clone();
        seen.merge(uncovered.clock());
        Some((Minting::Final, Basis::Clock(seen), Some(uncovered.clone())))
    }
}
