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
//!
//! A state from elsewhere (an exact import, a restore) is spread as it is: nothing is recalled, minted or folded.
//!
//! While a change of the layout runs a put goes to the owners by either ring. A strict one needs its quorum in each of the
//! two sets, a sloppy one in that of the ring in force; owners by that ring alone coordinate.

mod asking;
mod spread;
mod wanted;

use std::time::Duration;

use crate::node_id::NodeId;
use crate::planted::{self, Bug};
use crate::replication::quorum::{Tally, Terms};
use crate::replication::{
    Answer, Done, FailedWhy, Failure, FailureKind, Mint, MintAnswer, MintKind, Outcome, PutBasis,
    Refusal, Request, WriteOutcome,
};
use crate::ring::Token;
use crate::version::{Basis, MintError, Siblings};

use super::panel::{Panel, Standing};
use super::scene::{Happening, Machine, Progress, Scene, count};
use super::{HeldFor, RETRY_AFTER};
use spread::{Spread, Version};
pub(super) use wanted::{Aim, Wanted, Write};
use wanted::{Minting, Recalled, Resolved};

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
        if !writing.possible(scene).meets(writing.needed(wanted)) {
            return writing.unmet(wanted, scene);
        }
        match &wanted.aim {
            Aim::State(state) => return writing.spread_known(wanted, scene, state.clone()),
            Aim::Write(write) if !write.is_recalled() => {
                return writing.mint(wanted, scene, write.first_mint());
            }
            Aim::Write(_) => {}
        }
        writing.ask_in_stead(wanted, scene, scene.view().me);
        writing.ask_all(wanted, scene);
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
        for node in writing.panel.pending_of_now().collect::<Vec<_>>() {
            let owner = writing.panel.stands_in_for(node).unwrap_or(node);
            writing.hold(&self.wanted, scene, owner);
        }
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
    fn needed(&self, wanted: &Wanted) -> Tally {
        let asks = match &self.phase {
            Phase::Recalling(_) => wanted.is_plain() || wanted.is_recalled(),
            Phase::Minting { kind, .. } => *kind == Minting::Foldable,
            Phase::Spreading(Spread { minted: Some(version), .. }) => {
                version.kind == Minting::Foldable
            }
            Phase::Spreading(Spread { minted: None, .. }) => match wanted.aim {
                Aim::Write(_) => true,
                Aim::State(_) => false,
            },
        };
        let needed = if asks { self.terms.put_answers() } else { self.terms.acknowledgements() };
        if planted::is_on(Bug::AcknowledgedBeforeQuorum) {
            return Tally { now: needed.now.max(2) - 1, ..needed };
        }
        needed
    }

    /// Keeps a hint here for an owner by the ring in force that has not answered and that nobody stands in for. It counts
    /// for nothing. Who gains the key needs none: it gets what the others hold by the change itself.
    fn hold(&self, wanted: &Wanted, scene: &mut Scene<'_>, owner: NodeId) {
        let Phase::Spreading(spread) = &self.phase else { return };
        if owner == scene.view().me
            || !self.panel.owns_now(owner)
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
        for owner in self.panel.absent_of_now(&scene.view()) {
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
        self.panel.pending_of_now().next().is_some()
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
        let Write { content, basis: replaces, request, age: _ } = wanted.minted();
        let mint = Mint {
            key: wanted.key.clone(),
            merge,
            basis,
            exact: matches!(replaces, PutBasis::IfContext(_)),
            content: content.clone(),
            request: *request,
            kind,
            deadline: scene.deadline(),
        };
        let w = count(self.terms.now.w);
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
        let needed = count(self.needed(wanted).now);
        Progress::Finished(Err(Failure { needed, failed, ..failure }))
    }

    /// Sends what is known of a put that was done before, or a state from elsewhere.
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
        let me = scene.view().me;
        let standing = spread.minted.filter(|version| version.held_for == self.stands_in_for);
        let counts_at_once = planted::is_on(Bug::OwnWriteCountsAtOnce);
        let standing = standing.map(|version| {
            if version.durable || counts_at_once { Standing::Answered } else { Standing::Asked }
        });
        scene.next_round();
        self.panel = Panel::of_both(&scene.view(), Token::of(&wanted.key).slot());
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
        self.ask_all(wanted, scene);
        self.look_again(scene);
        self.advance(wanted, scene)
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
                let stands = |request| state.dot_of(request).is_some();
                recalled.known |= wanted.request().is_some_and(stands);
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
        let needed = self.needed(wanted);
        if !self.panel.answered().meets(needed) {
            if !self.possible(scene).meets(needed) {
                return self.unmet(wanted, scene);
            }
            // An owner may have become reachable since the round began.
            self.ask_all(wanted, scene);
            return Progress::Waiting;
        }
        match &self.phase {
            Phase::Minting { .. } => Progress::Waiting,
            Phase::Recalling(recalled) => {
                if recalled.known {
                    let state = recalled.state.clone();
                    return self.spread_known(wanted, scene, state);
                }
                let write = wanted.minted();
                if write.is_stale_beside(&recalled.state) {
                    return self.mint_refused(wanted, FailureKind::StaleContext);
                }
                let mint = write.recalled_mint(recalled);
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
        let standing = || spread.state.dot_of(wanted.request()?);
        Done {
            dot: spread.minted.map_or_else(standing, |version| Some(version.dot)),
            clock: spread.state.clock().clone(),
            siblings: u32::try_from(spread.state.siblings()).unwrap_or(u32::MAX),
            acked: self.panel.standing(Standing::Answered).collect(),
            needed: count(self.terms.now.w),
            stand_ins: self.panel.stood_in(),
            guarantee: self.terms.of_write(self.panel.answered(), self.panel.stood_in().len()),
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

    fn outcome_without_mint(&self, wanted: &Wanted) -> WriteOutcome {
        if self.minted { WriteOutcome::Unknown } else { wanted.outcome_before() }
    }
}
