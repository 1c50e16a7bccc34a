//! Schedules that broke a register, and the rules of one node, message by message.

use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;

use super::super::testing::{at_ms, layout, node};
use super::*;
use crate::cluster::COUNTER_MAX;
use crate::cluster::change::{Change, apply};
use crate::ring::Mode;

/// The register of `name`, which knows `chosen`.
fn register(name: char, chosen: &Arc<Layout>) -> Register {
    Register::new(at_ms(0), node(name), RegisterState::new(Arc::clone(chosen)), &mut rng())
}

fn rng() -> ChaCha8Rng {
    ChaCha8Rng::seed_from_u64(0)
}

fn handle(register: &mut Register, ms: u64, event: Event) -> Vec<Effect> {
    let mut effects = Vec::new();
    register.handle(at_ms(ms), event, &mut rng(), &mut effects);
    effects
}

/// What `register` sends on a message of `from`.
fn replies(register: &mut Register, from: char, message: Message) -> Vec<Message> {
    sent(handle(register, 100, Event::Received { from: node(from), message }))
}

fn sent(effects: Vec<Effect>) -> Vec<Message> {
    let message = |effect| match effect {
        Effect::Send { message, .. } => Some(message),
        _ => None,
    };
    effects.into_iter().filter_map(message).collect()
}

fn ballot(round: u64, name: char) -> Ballot {
    Ballot { round, node: node(name) }
}

fn renamed(from: &Layout, member: char, name: &str) -> Arc<Layout> {
    Arc::new(apply(from, &Change::Rename { member: node(member), name: name.to_owned() }).unwrap())
}

fn propose(id: u64, layout: &Arc<Layout>) -> Event {
    let expect_version = layout.version - 1;
    Event::Propose {
        id: ProposalId(id),
        expect_version,
        layout: Arc::clone(layout),
        deadline: at_ms(5_000),
    }
}

#[test]
fn l4_a_value_accepted_by_one_brings_no_new_acceptors_for_the_version_after_it() {
    let first = Arc::new(layout(1, "abc"));
    let wider = Arc::new(layout(2, "abcde"));
    let mut a = register('a', &first);
    // {A} alone accepts version 2 = {A..E}.
    let accept = Message::Accept { ballot: ballot(1, 'b'), layout: Arc::clone(&wider) };
    assert!(matches!(replies(&mut a, 'b', accept)[..], [Message::Accepted { version: 2, .. }]));
    // {B, C} choose another version 2.
    let (mut b, mut c) = (register('b', &first), register('c', &first));
    let other = renamed(&first, 'b', "other");
    let prepare = sent(handle(&mut b, 0, propose(1, &other)));
    let promise = replies(&mut c, 'b', prepare[0].clone()).remove(0);
    let accept = replies(&mut b, 'c', promise);
    let accepted = replies(&mut c, 'b', accept[0].clone()).remove(0);
    assert!(
        matches!(&replies(&mut b, 'c', accepted)[..], [Message::Chosen(chosen), ..] if *chosen == other)
    );
    // A may not go on to version 3, and neither D nor E votes for it on A's word.
    let third = renamed(&wider, 'a', "third");
    let refused = handle(&mut a, 200, propose(2, &third));
    let stale = Effect::ProposalDone { id: ProposalId(2), outcome: Outcome::Stale { current: 1 } };
    assert_eq!(refused, [stale]);
    for name in ['d', 'e'] {
        let mut joiner = register(name, &first);
        let accept = Message::Accept { ballot: ballot(9, 'a'), layout: Arc::clone(&third) };
        assert_eq!(replies(&mut joiner, 'a', accept), [Message::Fetch { have: 1 }]);
        let prepare = Message::Prepare { ballot: ballot(9, 'a'), chosen: Arc::clone(&first) };
        assert_eq!(replies(&mut joiner, 'a', prepare), []);
    }
    // Nor does an acceptor of version 2 that does not know which one was chosen.
    let mut c_before = register('c', &first);
    let accept = Message::Accept { ballot: ballot(9, 'a'), layout: third };
    assert_eq!(replies(&mut c_before, 'a', accept), [Message::Fetch { have: 1 }]);
    assert_eq!(c_before.state.vote.accepted, None);
    // A takes up its accepted value, and is told what was chosen.
    let retry = sent(handle(&mut a, 10_000, Event::Tick));
    let told = replies(&mut c, 'a', retry[0].clone());
    assert!(told.is_empty() || matches!(&told[..], [Message::Promise { .. } | Message::Chosen(_)]));
    let told = replies(&mut b, 'a', retry[0].clone()).remove(0);
    handle(&mut a, 10_100, Event::Received { from: node('b'), message: told });
    assert_eq!(*a.chosen(), other);
}

#[test]
fn who_knows_the_version_answers_any_message_about_it_with_the_layout() {
    let first = Arc::new(layout(1, "abc"));
    let second = renamed(&first, 'a', "second");
    let mut a = register('a', &second);
    let messages = [
        Message::Prepare { ballot: ballot(9, 'b'), chosen: Arc::clone(&first) },
        Message::Promise { version: 2, ballot: ballot(9, 'a'), accepted: None },
        Message::Refuse { version: 2, ballot: ballot(9, 'a'), promised: ballot(10, 'c') },
        Message::Accept { ballot: ballot(9, 'b'), layout: renamed(&first, 'a', "other") },
        Message::Accepted { version: 2, ballot: ballot(9, 'a') },
        Message::Chosen(Arc::clone(&first)),
        Message::Fetch { have: 1 },
    ];
    for message in messages {
        assert_eq!(
            replies(&mut a, 'b', message.clone()),
            [Message::Chosen(Arc::clone(&second))],
            "{message:?}"
        );
    }
    assert_eq!(replies(&mut a, 'b', Message::Fetch { have: 2 }), []);
}

#[test]
fn each_vote_waits_for_its_state_to_be_durable_also_when_it_is_repeated() {
    let first = Arc::new(layout(1, "abc"));
    let mut a = register('a', &first);
    let prepare = Message::Prepare { ballot: ballot(1, 'b'), chosen: Arc::clone(&first) };
    let accept = Message::Accept { ballot: ballot(1, 'b'), layout: renamed(&first, 'a', "second") };
    for message in [prepare.clone(), prepare, accept.clone(), accept] {
        let effects = handle(&mut a, 0, Event::Received { from: node('b'), message });
        let [Effect::Persist(state), Effect::Send { .. }] = &effects[..] else {
            panic!("{effects:?}")
        };
        assert_eq!(*state, a.state);
    }
}

#[test]
fn a_proposer_makes_its_own_promise_and_acceptance_durable_before_it_asks_others() {
    let first = Arc::new(layout(1, "abc"));
    let wanted = renamed(&first, 'a', "wanted");
    let mut a = register('a', &first);
    let own = ballot(1, 'a');
    let effects = handle(&mut a, 0, propose(1, &wanted));
    let [Effect::Persist(state), Effect::Send { .. }, Effect::Send { .. }] = &effects[..] else {
        panic!("{effects:?}")
    };
    assert_eq!(state.vote.promised, Some(own));
    let promise = Message::Promise { version: 2, ballot: own, accepted: None };
    let effects = handle(&mut a, 10, Event::Received { from: node('b'), message: promise });
    let [Effect::Persist(state), Effect::Send { .. }, Effect::Send { .. }] = &effects[..] else {
        panic!("{effects:?}")
    };
    assert_eq!(state.vote.accepted, Some(AcceptedLayout { ballot: own, layout: wanted }));
    // After a restart it opens a ballot that it did not use before.
    let restarted =
        RegisterState { vote: Vote { accepted: None, ..state.vote.clone() }, ..state.clone() };
    let mut a = Register::new(at_ms(20), node('a'), restarted, &mut rng());
    let asked = sent(handle(&mut a, 20, propose(2, &renamed(&first, 'a', "another"))));
    assert!(matches!(asked[0], Message::Prepare { ballot, .. } if own < ballot), "{asked:?}");
}

#[test]
fn a_proposer_that_promised_a_higher_ballot_does_not_count_itself() {
    let first = Arc::new(layout(1, "abcde"));
    let wanted = renamed(&first, 'a', "wanted");
    let (mut a, own) = (register('a', &first), ballot(1, 'a'));
    handle(&mut a, 0, propose(1, &wanted));
    let higher = Message::Prepare { ballot: ballot(9, 'b'), chosen: Arc::clone(&first) };
    assert!(matches!(replies(&mut a, 'b', higher)[..], [Message::Promise { .. }]));
    for from in ['c', 'd'] {
        replies(&mut a, from, Message::Promise { version: 2, ballot: own, accepted: None });
    }
    assert_eq!(a.state.vote.accepted, None);
    for (from, is_chosen) in [('c', false), ('d', false), ('e', true)] {
        replies(&mut a, from, Message::Accepted { version: 2, ballot: own });
        assert_eq!(*a.chosen() == wanted, is_chosen, "after {from} accepted");
    }
}

#[test]
fn a_lower_ballot_is_refused_and_a_ballot_of_somebody_else_ignored() {
    let first = Arc::new(layout(1, "abc"));
    let mut a = register('a', &first);
    let prepare =
        |round, name| Message::Prepare { ballot: ballot(round, name), chosen: Arc::clone(&first) };
    assert!(matches!(replies(&mut a, 'b', prepare(5, 'b'))[..], [Message::Promise { .. }]));
    let refuse = Message::Refuse { version: 2, ballot: ballot(4, 'c'), promised: ballot(5, 'b') };
    assert_eq!(replies(&mut a, 'c', prepare(4, 'c')), [refuse]);
    assert_eq!(replies(&mut a, 'c', prepare(9, 'b')), [], "not its ballot");
    assert_eq!(replies(&mut a, 'z', prepare(9, 'z')), [], "no acceptor");
    assert_eq!(replies(&mut a, 'c', prepare(COUNTER_MAX + 1, 'c')), [], "made up to end counting");
}

#[test]
fn a_proposer_finishes_the_value_that_it_finds_and_reports_a_conflict() {
    let first = Arc::new(layout(1, "abc"));
    let (found, wanted) = (renamed(&first, 'b', "found"), renamed(&first, 'a', "wanted"));
    let mut a = register('a', &first);
    handle(&mut a, 0, propose(1, &wanted));
    let accepted = Some(AcceptedLayout { ballot: ballot(0, 'c'), layout: Arc::clone(&found) });
    let own = ballot(1, 'a');
    let asked = replies(&mut a, 'c', Message::Promise { version: 2, ballot: own, accepted });
    assert!(
        asked
            .iter()
            .all(|message| matches!(message, Message::Accept { layout, .. } if *layout == found))
    );
    let accepted = Message::Accepted { version: 2, ballot: own };
    let effects = handle(&mut a, 200, Event::Received { from: node('c'), message: accepted });
    let done =
        Effect::ProposalDone { id: ProposalId(1), outcome: Outcome::Conflict(Arc::clone(&found)) };
    assert!(effects.contains(&done) && effects.contains(&Effect::Chosen(found)), "{effects:?}");
}

#[test]
fn an_accepted_value_without_news_is_taken_up_after_two_to_four_seconds_also_after_a_restart() {
    let first = Arc::new(layout(1, "abc"));
    let mut a = register('a', &first);
    let value = renamed(&first, 'b', "value");
    let accept = Message::Accept { ballot: ballot(1, 'b'), layout: value };
    handle(&mut a, 0, Event::Received { from: node('b'), message: accept });
    let restarted = Register::new(at_ms(0), node('a'), a.state.clone(), &mut rng());
    for mut register in [a, restarted] {
        let due = register.wake_at().unwrap();
        assert!(at_ms(2_000) <= due && due <= at_ms(4_000), "{due:?}");
        assert_eq!(handle(&mut register, 1_999, Event::Tick), []);
        let asked = sent(handle(&mut register, 4_000, Event::Tick));
        assert!(
            matches!(asked[..], [Message::Prepare { .. }, Message::Prepare { .. }]),
            "{asked:?}"
        );
    }
}

#[test]
fn one_version_with_two_hashes_is_an_alarm() {
    let first = Arc::new(layout(1, "abc"));
    let mut a = register('a', &renamed(&first, 'a', "one"));
    let other = renamed(&first, 'a', "other");
    let theirs = LayoutTag::of(&other);
    let alarm = Effect::Alarm(Alarm::TwoLayouts { peer: node('b'), ours: a.tag(), theirs });
    assert_eq!(
        handle(&mut a, 0, Event::News { peer: node('b'), tag: theirs }),
        std::slice::from_ref(&alarm)
    );
    let chosen = Message::Chosen(other);
    assert_eq!(handle(&mut a, 0, Event::Received { from: node('b'), message: chosen }), [alarm]);
}

#[test]
fn news_of_a_higher_version_is_fetched_and_a_layout_that_cannot_be_is_refused() {
    let first = Arc::new(layout(1, "abc"));
    let mut a = register('a', &first);
    let mut broken = layout(3, "abc");
    let news = Event::News { peer: node('b'), tag: LayoutTag::of(&broken) };
    assert_eq!(sent(handle(&mut a, 1_000, news)), [Message::Fetch { have: 1 }]);
    broken.now.owner[0] = 9;
    let chosen = Message::Chosen(Arc::new(broken));
    let effects = handle(&mut a, 1_100, Event::Received { from: node('b'), message: chosen });
    assert!(matches!(effects[..], [Effect::Alarm(Alarm::Malformed { .. })]), "{effects:?}");
    let third = Arc::new(layout(3, "abc"));
    let chosen = Message::Chosen(Arc::clone(&third));
    let effects = handle(&mut a, 1_200, Event::Received { from: node('b'), message: chosen });
    let persist = Effect::Persist(RegisterState::new(Arc::clone(&third)));
    assert_eq!(
        effects,
        [persist, Effect::Chosen(third)],
        "versions may be skipped; synced, then acted on"
    );
}

#[test]
fn a_proposal_that_needs_two_steps_is_refused() {
    let first = Arc::new(layout(1, "abc"));
    let mut a = register('a', &first);
    let effects = handle(&mut a, 0, propose(1, &Arc::new(layout(2, "abcd"))));
    let [Effect::ProposalDone { outcome: Outcome::Refused(error), .. }] = &effects[..] else {
        panic!("{effects:?}")
    };
    assert!(error.to_string().contains("takes two steps"), "{error}");
}

#[test]
fn messages_and_state_survive_messagepack() {
    let chosen = Arc::new(layout(1, "abc"));
    let mut second = (*chosen).clone();
    second.now.mode = Mode::Consistent;
    let accepted = Some(AcceptedLayout { ballot: ballot(1, 'b'), layout: Arc::new(second) });
    let message =
        Message::Promise { version: 2, ballot: ballot(3, 'c'), accepted: accepted.clone() };
    let bytes = rmp_serde::to_vec_named(&message).unwrap();
    assert_eq!(rmp_serde::from_slice::<Message>(&bytes).unwrap(), message);
    let mut state = RegisterState::new(chosen);
    state.vote.accepted = accepted;
    let bytes = rmp_serde::to_vec_named(&state).unwrap();
    assert_eq!(rmp_serde::from_slice::<RegisterState>(&bytes).unwrap(), state);
}
