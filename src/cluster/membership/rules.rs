//! The rules of one membership, event by event.

use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;

use super::super::testing::{at_ms, entry, node, nodes, tag};
use super::super::{ADDRESS_BYTES_MAX, COUNTER_MAX, Incarnation, MEMBERS_MAX};
use super::*;

/// The membership of `a` among the members called by the letters of `names`.
fn membership(names: &str) -> Membership {
    let config = Config { interval: HEARTBEAT_INTERVAL, seeds: Vec::new() };
    Membership::new(config, at_ms(0), entry('a', 1, 0), &nodes(names).into_iter().collect())
}

fn handle(membership: &mut Membership, ms: u64, event: Event) -> Vec<Effect> {
    let mut effects = Vec::new();
    membership.handle(at_ms(ms), event, &mut ChaCha8Rng::seed_from_u64(0), &mut effects);
    effects
}

/// A message of `from` at `heartbeat` that suspects `suspects`.
fn gossip(from: char, heartbeat: u64, suspects: &[(char, u64)]) -> Event {
    let suspicions = suspects.iter().map(|(suspect, heartbeat)| Suspicion {
        suspect: node(*suspect),
        pulse: Pulse { incarnation: Incarnation(1), heartbeat: *heartbeat },
    });
    let message = Message {
        members: vec![entry(from, 1, heartbeat)],
        suspicions: suspicions.collect(),
        answer: false,
    };
    Event::Received { from: node(from), message }
}

/// Whether `suspect`, known to `a` among `abcde` at heartbeat 10 through relayed gossip, is down once these spoke.
#[track_caller]
fn check(words: &[(char, &[(char, u64)])], suspect: char, is_down: bool) {
    let mut a = membership("abcde");
    for name in "bcde".chars() {
        handle(&mut a, 10, gossip(name, 9, &[]));
    }
    let members = "bcde".chars().map(|name| entry(name, 1, 10)).collect();
    let relayed = Message { members, suspicions: Vec::new(), answer: false };
    handle(&mut a, 20, Event::Received { from: node('b'), message: relayed });
    for (from, suspects) in words {
        handle(&mut a, 30, gossip(*from, 10, suspects));
    }
    handle(&mut a, 40, Event::Tick);
    let health = a.health(node(suspect));
    assert_eq!(matches!(health, Health::Down { .. }), is_down, "{health:?}");
}

#[test]
fn two_that_are_not_suspected_put_a_member_down_and_one_does_not() {
    check(&[('b', &[('d', 10)]), ('c', &[('d', 10)])], 'd', true);
    check(&[('b', &[('d', 10)])], 'd', false);
    check(&[('b', &[('d', 10)]), ('b', &[('d', 10)])], 'd', false);
}

#[test]
fn a_suspicion_at_an_older_heartbeat_does_not_count() {
    check(&[('b', &[('d', 10)]), ('c', &[('d', 9)])], 'd', false);
}

#[test]
fn a_suspicion_that_was_taken_back_does_not_count() {
    check(&[('b', &[('d', 10)]), ('b', &[]), ('c', &[('d', 10)])], 'd', false);
}

#[test]
fn the_word_of_a_suspect_does_not_count() {
    check(
        &[('b', &[('d', 10), ('c', 10)]), ('c', &[('d', 10)]), ('b', &[('d', 10), ('c', 10)])],
        'd',
        true,
    );
    check(&[('c', &[('d', 10)]), ('b', &[('d', 10), ('c', 11)]), ('e', &[('c', 11)])], 'd', false);
}

#[test]
fn a_member_that_speaks_refutes_what_is_said_of_its_last_heartbeat() {
    let mut a = membership("abcd");
    "bcd".chars().for_each(|name| drop(handle(&mut a, 10, gossip(name, 10, &[]))));
    handle(&mut a, 20, Event::Heard(node('d')));
    handle(&mut a, 30, gossip('b', 11, &[('d', 10)]));
    handle(&mut a, 40, gossip('c', 11, &[('d', 10)]));
    assert_eq!(a.health(node('d')), Health::Up);
}

#[test]
fn strangers_leave_no_trace() {
    let mut a = membership("ab");
    assert_eq!(handle(&mut a, 10, gossip('z', 10, &[('b', 0)])), []);
    let members = vec![entry('b', 1, 1), entry('z', 1, 1)];
    let message = Message { members, suspicions: Vec::new(), answer: false };
    handle(&mut a, 20, Event::Received { from: node('b'), message });
    assert_eq!(a.peers().map(|(id, ..)| id).collect::<Vec<_>>(), nodes("b"));
    handle(&mut a, 30, Event::LayoutChanged { tag: tag(2), members: BTreeSet::from([node('a')]) });
    assert_eq!((a.peers().count(), a.me().layout), (0, tag(2)));
}

#[test]
fn the_larger_pulse_wins_and_a_new_life_beats_any_heartbeat() {
    let mut a = membership("abc");
    handle(&mut a, 10, gossip('b', 90, &[]));
    for (count, heartbeat, expected) in [(1, 89, 90), (1, 91, 91), (2, 1, 1), (1, 99, 1)] {
        let message = Message {
            members: vec![entry('b', count, heartbeat)],
            suspicions: Vec::new(),
            answer: false,
        };
        handle(&mut a, 20, Event::Received { from: node('c'), message });
        assert_eq!(a.entry(node('b')).unwrap().heartbeat, expected);
    }
}

#[test]
fn its_own_word_stays_the_freshest() {
    let mut a = membership("ab");
    let message =
        Message { members: vec![entry('a', 1, 50)], suspicions: Vec::new(), answer: false };
    assert_eq!(
        handle(&mut a, 10, Event::Received { from: node('b'), message }).len(),
        2,
        "up, and an answer"
    );
    handle(&mut a, 250, Event::Tick);
    assert_eq!(a.me().heartbeat, 51);
}

#[test]
fn news_of_another_layout_is_passed_on_from_its_holder_only() {
    let mut a = membership("abc");
    let newer = |name| MemberEntry { layout: tag(2), ..entry(name, 1, 1) };
    let message =
        Message { members: vec![newer('b'), newer('c')], suspicions: Vec::new(), answer: false };
    let effects = handle(&mut a, 10, Event::Received { from: node('b'), message });
    let news = effects.into_iter().filter(|effect| matches!(effect, Effect::LayoutNews { .. }));
    assert_eq!(news.collect::<Vec<_>>(), [Effect::LayoutNews { peer: node('b'), tag: tag(2) }]);
}

#[test]
fn what_a_peer_makes_up_is_dropped_whole() {
    let long = "x".repeat(ADDRESS_BYTES_MAX + 1);
    let mut endless = entry('b', 1, 1);
    endless.addresses.http = long;
    let cases = [
        vec![endless],
        vec![entry('b', 1, COUNTER_MAX + 1)],
        vec![entry('b', COUNTER_MAX + 1, 1)],
        vec![entry('b', 1, 1); MEMBERS_MAX + 1],
    ];
    for members in cases {
        let mut a = membership("ab");
        let message = Message { members, suspicions: Vec::new(), answer: true };
        let effects = handle(&mut a, 10, Event::Received { from: node('b'), message });
        assert!(matches!(&effects[..], [Effect::Alarm(Alarm::Malformed { .. })]), "{effects:?}");
        assert_eq!(a.health(node('b')), Health::Unknown);
    }
}

#[test]
fn a_message_survives_messagepack() {
    let Event::Received { message, .. } = gossip('b', 3, &[('c', 2)]) else { unreachable!() };
    let bytes = rmp_serde::to_vec_named(&message).unwrap();
    assert_eq!(rmp_serde::from_slice::<Message>(&bytes).unwrap(), message);
}
