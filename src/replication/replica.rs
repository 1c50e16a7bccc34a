//! What an owner does with one request about one key: pure functions of its own state.
//!
//! `node` calls them between reading the key's state and appending the new one, one after the other per key, and sends
//! the answer once the state it speaks of is durable. It has checked layout, ownership and deadline before.
//!
//! A put is *known* here when the state holds its id or the [`RequestMemory`] does; for a put without a context a later
//! put of its session counts too. (Puts with a context or none at all may stand beside later ones of their session, so
//! for them only the very id counts: else of two blind puts in flight at once one could be lost.)

use bytes::Bytes;

use crate::cluster::Time;
use crate::planted::{self, Bug};
use crate::version::{
    Actor, Basis, Content, Dot, HybridClock, MintError, RequestId, Siblings, Version,
};

use super::{Acknowledgement, Answer, Known, PutTag, ReadWant, Request, RequestMemory};

/// What a replica brings along besides the key's state.
#[derive(Debug)]
pub struct Local<'a> {
    /// The present.
    pub now: Time,
    /// Under which actor it mints.
    pub actor: Actor,
    /// The actor's floor.
    pub floor: u64,
    /// The puts it knows.
    pub memory: &'a mut RequestMemory,
    /// Its timestamps.
    pub clock: &'a mut HybridClock,
}

/// What one request leads to.
#[derive(Clone, Debug, PartialEq)]
pub struct Step<A> {
    /// The key's new state, to be appended; `None` when it did not change.
    pub state: Option<Siblings>,
    /// The answer, to be sent once the state it speaks of is durable.
    pub answer: A,
    /// Dots met with two value hashes.
    pub alarms: Vec<Dot>,
    /// A peer's state shows this replica's present actor above all it minted itself: its epoch must rise before the
    /// next mint.
    pub actor_ahead: bool,
}

/// One write to be done at the coordinator.
#[derive(Clone, Debug, PartialEq)]
pub struct Mint {
    /// The key.
    pub key: Bytes,
    /// States heard of other owners, merged into the own one first.
    pub merge: Option<Siblings>,
    /// What the write replaces.
    pub basis: Basis,
    /// Whether it is refused where a version stands that `basis` does not cover.
    pub exact: bool,
    /// What is written.
    pub content: Content,
    /// The client's name for it.
    pub request: RequestId,
    /// When the put counts as known.
    pub kind: MintKind,
    /// Past this nothing is minted.
    pub deadline: Time,
}

/// How a mint treats puts that the replica knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MintKind {
    /// A put without a context: known by its id or a later one of its session.
    Plain,
    /// A put with a context, or blind: known by its id alone.
    Named,
    /// The second version of a put that its coordinator minted already.
    Fold,
}

/// What became of a [`Mint`].
#[derive(Clone, Debug, PartialEq)]
pub enum MintAnswer {
    /// Written.
    Minted {
        /// The state after it.
        state: Siblings,
        /// Its name.
        dot: Dot,
        /// How many siblings stand now.
        siblings: usize,
    },
    /// The put is known here: nothing was minted.
    Known {
        /// The state.
        state: Siblings,
    },
    /// A version stands that the context does not cover: nothing was minted.
    Stale,
    /// The deadline had passed: nothing was minted.
    Expired,
    /// The memory of puts is full: nothing was minted.
    Overloaded,
    /// The states heard show the present actor ahead ([`Step::actor_ahead`]): nothing was minted. `node` lets the epoch
    /// rise and mints again; the coordinator never sees this.
    EpochMustRise,
    /// Nothing was minted.
    Refused(MintError),
}

/// Answers a read, a recall or a merge of one key; for a state to be held, `own` is the hint that stands, and for what
/// is held all of it, merged. A range has no single state: it is `node`'s to answer.
pub fn answer(key: &[u8], own: &Siblings, request: &Request, mut local: Local<'_>) -> Step<Answer> {
    match request {
        Request::Read { want: ReadWant::State, .. } | Request::ReadHeld { .. } => {
            unchanged(Answer::State(own.clone()))
        }
        Request::Read { want: ReadWant::Digest, .. } => {
            unchanged(Answer::Digest { digest: own.digest(), absent: !own.has_value() })
        }
        Request::Recall { request, plain, .. } => unchanged(Answer::Recalled {
            state: own.clone(),
            known: !planted::is_on(Bug::KnownPutWrittenAgain)
                && !known_under(key, own, *request, *plain, local.memory).is_empty(),
            memory: micros(local.memory.reach(local.now)),
        }),
        Request::Merge { state, put, .. } | Request::Hold { state, put, .. } => {
            merge(key, own, state, put.as_ref(), &mut local)
        }
        Request::ReadRange { .. } | Request::Compare(_) | Request::Cut(_) => {
            unreachable!("a range is read by node, key by key")
        }
    }
}

/// Does one write on the own state.
#[expect(clippy::needless_pass_by_value, reason = "what a replica brings along serves one request")]
pub fn mint(own: &Siblings, mint: &Mint, local: Local<'_>) -> Step<MintAnswer> {
    if mint.deadline <= local.now {
        return unchanged(MintAnswer::Expired);
    }
    let mut step = unchanged(MintAnswer::Stale);
    let mut state = own.clone();
    if let Some(heard) = &mint.merge {
        step.actor_ahead = is_ahead(own, heard, &local);
        if step.actor_ahead {
            return Step { answer: MintAnswer::EpochMustRise, ..step };
        }
        state.merge(heard, &mut step.alarms);
        observe(heard, &local.now, local.clock);
    }
    let plain = match mint.kind {
        MintKind::Plain => true,
        MintKind::Named | MintKind::Fold => false,
    };
    if mint.kind != MintKind::Fold
        && !planted::is_on(Bug::KnownPutWrittenAgain)
        && !known_under(&mint.key, &state, mint.request, plain, local.memory).is_empty()
    {
        // What was heard is not kept: the coordinator sends it to every owner, this one among them.
        return Step { answer: MintAnswer::Known { state }, ..step };
    }
    if plain && local.memory.is_full() {
        return Step { answer: MintAnswer::Overloaded, ..step };
    }
    if mint.exact && !covers_all(&mint.basis, &state) {
        return step;
    }
    let version = Version {
        timestamp: local.clock.next(local.now.wall),
        request: mint.request,
        content: mint.content.clone(),
    };
    match state.write(local.actor, &mint.basis, local.floor, version) {
        Ok(minted) => {
            for gone in [Some(own), mint.merge.as_ref()].into_iter().flatten() {
                learn_departed(&mint.key, gone, &state, local.memory, local.now);
            }
            step.state = Some(state.clone());
            let answer = MintAnswer::Minted { state, dot: minted.dot, siblings: minted.siblings };
            Step { answer, ..step }
        }
        Err(error) => Step { answer: MintAnswer::Refused(error), ..step },
    }
}

/// Whether `state` holds a version that `other` has never seen.
pub(super) fn is_uncovered(state: &Siblings, other: &Siblings) -> bool {
    state.versions().keys().any(|dot| !other.clock().covers(*dot))
}

fn merge(
    key: &[u8],
    own: &Siblings,
    theirs: &Siblings,
    put: Option<&PutTag>,
    local: &mut Local<'_>,
) -> Step<Answer> {
    let mut step = unchanged(());
    step.actor_ahead = is_ahead(own, theirs, local);
    let memory = micros(local.memory.reach(local.now));
    let mut acknowledgement = Acknowledgement { uncovered: None, known: Known::No { memory } };
    if let Some(tag) = put {
        let known = known_under(key, own, tag.request, tag.plain, local.memory);
        let is_known = known.iter().any(|known| known.later || known.actor != tag.dot.actor);
        if is_known && !planted::is_on(Bug::KnownPutWrittenAgain) {
            acknowledgement.known = Known::Done(own.clone());
            return step.with(Answer::Merged(acknowledgement));
        }
        if tag.plain && is_uncovered(own, theirs) {
            acknowledgement.uncovered = Some(own.clone());
        }
    }
    let mut state = own.clone();
    observe(theirs, &local.now, local.clock);
    if state.merge(theirs, &mut step.alarms) {
        step.state = Some(state.clone());
    }
    learn_departed(key, own, &state, local.memory, local.now);
    learn_departed(key, theirs, &state, local.memory, local.now);
    step.with(Answer::Merged(acknowledgement))
}

/// Under whom a put is known.
#[derive(Clone, Copy, Debug)]
struct KnownUnder {
    actor: Actor,
    /// It is not the put itself that is known, but a later one of its session.
    later: bool,
}

fn known_under(
    key: &[u8],
    own: &Siblings,
    request: RequestId,
    plain: bool,
    memory: &RequestMemory,
) -> Vec<KnownUnder> {
    let standing = own
        .versions()
        .iter()
        .filter(|(_, version)| version.request.session == request.session)
        .map(|(dot, version)| (version.request.counter, dot.actor));
    let remembered =
        memory.knows(key, request).map(|remembered| (remembered.counter, remembered.actor));
    standing
        .chain(remembered)
        .map(|(counter, actor)| (counter, KnownUnder { actor, later: request.counter < counter }))
        .filter(|(counter, known)| *counter == request.counter || (plain && known.later))
        .map(|(_, known)| known)
        .collect()
}

/// Whether `theirs` shows the present actor above all that this replica minted.
fn is_ahead(own: &Siblings, theirs: &Siblings, local: &Local<'_>) -> bool {
    own.clock().get(local.actor).max(local.floor) < theirs.clock().get(local.actor)
}

fn covers_all(basis: &Basis, state: &Siblings) -> bool {
    match basis {
        Basis::Own => true,
        Basis::Clock(clock) => state.versions().keys().all(|dot| clock.covers(*dot)),
        Basis::Blind => state.versions().is_empty(),
    }
}

/// Remembers the puts of `before` whose version does not stand in `after`.
fn learn_departed(
    key: &[u8],
    before: &Siblings,
    after: &Siblings,
    memory: &mut RequestMemory,
    now: Time,
) {
    for (dot, version) in before.versions() {
        if !after.versions().contains_key(dot) {
            memory.learn(key, version.request, *dot, now);
        }
    }
}

fn observe(state: &Siblings, now: &Time, clock: &mut HybridClock) {
    for version in state.versions().values() {
        clock.observe(version.timestamp, now.wall);
    }
}

const fn unchanged<A>(answer: A) -> Step<A> {
    Step { state: None, answer, alarms: Vec::new(), actor_ahead: false }
}

impl Step<()> {
    fn with<A>(self, answer: A) -> Step<A> {
        Step { state: self.state, answer, alarms: self.alarms, actor_ahead: self.actor_ahead }
    }
}

fn micros(span: std::time::Duration) -> u64 {
    u64::try_from(span.as_micros()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::version::notation::{actor, clock, dot, state};

    const NOW: Time = Time { monotonic: 60_000_000_000, wall: 0 };

    /// Runs `step` at replica `a`, whose floor is given.
    fn at_a<A>(floor: u64, step: impl FnOnce(Local<'_>) -> A) -> A {
        let (mut memory, mut clock) = (RequestMemory::new(Time::default()), HybridClock::default());
        let actor = actor("a");
        step(Local { now: NOW, actor, floor, memory: &mut memory, clock: &mut clock })
    }

    fn write(merge: Option<&str>, basis: Basis) -> Mint {
        Mint {
            key: Bytes::from_static(b"k"),
            merge: merge.map(state),
            basis,
            exact: false,
            content: Content::Tombstone,
            request: RequestId { session: 42, counter: 1 },
            kind: MintKind::Plain,
            deadline: NOW.after(std::time::Duration::from_secs(1)),
        }
    }

    #[track_caller]
    fn check_merge(own: &str, theirs: &str, after: Option<&str>, ahead: bool, alarms: &[&str]) {
        let (key, theirs) = (Bytes::from_static(b"k"), state(theirs));
        let request = Request::Merge { key: key.clone(), state: theirs, put: None };
        let step = at_a(2, |local| answer(&key, &state(own), &request, local));
        assert_eq!(step.state, after.map(state), "{own} and {request:?}");
        assert_eq!(step.actor_ahead, ahead, "{own} and {request:?}");
        assert_eq!(step.alarms, alarms.iter().map(|name| dot(name)).collect::<Vec<_>>());
    }

    #[test]
    fn a_merge_tells_what_to_append_and_what_is_wrong() {
        check_merge("a1:x", "b1:y", Some("a1:x b1:y"), false, &[]);
        check_merge("a1:x", "a1:x", None, false, &[]);
        check_merge("", "a2:x", Some("a2:x"), false, &[]);
        check_merge("", "a3:x", Some("a3:x"), true, &[]);
        check_merge("a5:x", "a5:x b1:y", Some("a5:x b1:y"), false, &[]);
        let step = at_a(0, |local| {
            let put = Request::Merge { key: Bytes::new(), state: state("b1:y"), put: None };
            answer(b"", &state("b1:x"), &put, local)
        });
        assert_eq!(step.alarms, [dot("b1")], "one dot, two writes");
    }

    #[test]
    fn a_mint_is_put_off_until_the_epoch_rose_where_peers_know_more_of_it() {
        let heard = write(Some("a7:x"), Basis::Clock(clock("a7")));
        let step = at_a(6, |local| mint(&state("a1:w"), &heard, local));
        assert_eq!((step.state, step.answer), (None, MintAnswer::EpochMustRise));
        assert!(step.actor_ahead);
        let step = at_a(7, |local| mint(&state("a1:w"), &heard, local));
        assert!(
            matches!(step.answer, MintAnswer::Minted { dot: minted, .. } if minted == dot("a8"))
        );
    }

    #[test]
    fn a_known_put_is_not_minted_and_its_state_goes_unchanged() {
        let mut again = write(None, Basis::Own);
        again.request = RequestId { session: 1, counter: 3 };
        let own = state("b3:x");
        let step = at_a(0, |local| mint(&own, &again, local));
        assert_eq!((step.state, step.answer), (None, MintAnswer::Known { state: own.clone() }));
        again.request.counter = 2;
        let step = at_a(0, |local| mint(&own, &again, local));
        assert_eq!(step.answer, MintAnswer::Known { state: own.clone() }, "a later one is known");
        again.kind = MintKind::Named;
        let step = at_a(0, |local| mint(&own, &again, local));
        assert!(matches!(step.answer, MintAnswer::Minted { .. }), "a later one does not count");
    }
}
