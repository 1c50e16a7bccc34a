use std::sync::Arc;

use super::*;
use crate::ring::{Layout, Member, Mode, Weight};

const ME: NodeId = NodeId::from_bytes([1; 16]);
const B: NodeId = NodeId::from_bytes([2; 16]);
const C: NodeId = NodeId::from_bytes([3; 16]);
const Q: u32 = 64;
const RATE: u64 = 1 << 40;

fn preferences(nodes: &[NodeId], n: u8, r: u8, w: u8) -> Preferences {
    let member = |id: &NodeId| Member {
        id: *id,
        name: id.to_string(),
        zone: String::new(),
        weight: Weight(1_000),
    };
    let members = nodes.iter().map(member).collect();
    let layout = Layout::found(Q, n, r, w, Mode::Available, members).unwrap();
    Preferences::new(Arc::new(layout.now))
}

fn at(seconds: u64) -> Time {
    Time { monotonic: seconds * 1_000_000_000, wall: seconds * 1_000_000 }
}

fn handle(
    refill: &mut Refill,
    now: Time,
    event: Event,
    preferences: &Preferences,
    down: &[NodeId],
) -> Vec<Effect> {
    handle_beside(ForegroundLoad::default(), refill, (now, event), preferences, down)
}

fn handle_beside(
    foreground: ForegroundLoad,
    refill: &mut Refill,
    (now, event): (Time, Event),
    preferences: &Preferences,
    down: &[NodeId],
) -> Vec<Effect> {
    let mut effects = Vec::new();
    let reachable = |node| node != ME && !down.contains(&node);
    let (reachable, is_numbered) = (&reachable, &|_| now.monotonic > at(20).monotonic);
    let known = Known { me: ME, preferences, reachable, is_numbered, rate: RATE, foreground };
    refill.handle(now, event, &known, &mut effects);
    effects
}

fn merged(source: NodeId, next: Option<(Slot, Bytes)>) -> Event {
    Event::Merged { partition: Partition(0), source, next, bytes: 10 }
}

#[test]
fn as_many_owners_give_as_a_quorum_may_have_relied_on() {
    let needed = |nodes: &[NodeId], n, r, w| sources_needed(preferences(nodes, n, r, w).ring());
    assert_eq!(needed(&[ME, B, C], 3, 2, 2), 2);
    assert_eq!(needed(&[ME, B, C], 3, 1, 3), 1);
    assert_eq!(needed(&[ME, B, C], 3, 2, 3), 2, "half-written states that a read answered");
    assert_eq!(needed(&[ME, B, C], 3, 1, 1), 2);
    assert_eq!(needed(&[ME, B], 2, 1, 1), 1);
    assert_eq!(needed(&[ME], 1, 1, 1), 0, "nobody is there to ask");
}

#[test]
fn pages_of_one_owner_follow_each_other_and_then_the_next_owner_gives() {
    let preferences = preferences(&[ME, B, C], 3, 2, 2);
    let mut refill = Refill::default();
    refill.begin(Q, [Slot(3), Slot(9)]);
    assert!(refill.is_unsound(Q, Slot(3)) && !refill.is_unsound(Q, Slot(4)));
    let asked = handle(&mut refill, at(1), Event::Tick, &preferences, &[]);
    let [Effect::Fetch { source: first, slots, after: None, wants: Wants::Lost }] = &asked[..]
    else {
        panic!("{asked:?}")
    };
    assert_eq!(*slots, (Slot(3), Slot(9)));
    let next = Some((Slot(3), Bytes::from_static(b"k")));
    let asked = handle(&mut refill, at(2), merged(*first, next.clone()), &preferences, &[]);
    assert!(
        matches!(&asked[..], [Effect::Fetch { source, after, .. }] if source == first && *after == next)
    );
    let asked = handle(&mut refill, at(3), merged(*first, None), &preferences, &[]);
    let [Effect::Fetch { source: second, .. }] = &asked[..] else { panic!("{asked:?}") };
    assert_ne!(first, second);
    assert!(refill.is_unsound(Q, Slot(3)), "two owners are needed");
    let asked = handle(&mut refill, at(4), merged(*second, None), &preferences, &[]);
    assert_eq!(asked, [Effect::Refilled(vec![Slot(3), Slot(9)])]);
    refill.end(Q, &[Slot(3), Slot(9)]);
    assert!(refill.is_empty());
}

#[test]
fn too_few_sound_owners_leave_it_unsound_until_they_are_back() {
    let preferences = preferences(&[ME, B, C], 3, 2, 2);
    let mut refill = Refill::default();
    refill.begin(Q, [Slot(0)]);
    handle(&mut refill, at(1), Event::Tick, &preferences, &[C]);
    let asked = handle(&mut refill, at(2), merged(B, None), &preferences, &[C]);
    assert_eq!(asked, []);
    assert!(refill.wake_at(at(2)).is_some());
    let asked = handle(&mut refill, at(9), Event::Tick, &preferences, &[]);
    assert!(matches!(asked[..], [Effect::Fetch { source: C, .. }]));
    let failed = Event::Failed { partition: Partition(0), source: C };
    assert_eq!(handle(&mut refill, at(9), failed, &preferences, &[]), []);
    assert!(matches!(handle(&mut refill, at(10), Event::Tick, &preferences, &[])[..], [_]));
}

#[test]
fn of_a_slot_that_is_anothers_only_the_cut_number_is_asked_for() {
    let preferences = preferences(&[ME, B, C], 1, 1, 1);
    let own = |partition: &Partition| preferences.of_partition(*partition).owners().next();
    let other = (0..Q).map(Partition).find(|partition| own(partition) == Some(B)).unwrap();
    let mut refill = Refill::default();
    let slot = Slot((other.0 * (65_536 / Q)).try_into().unwrap());
    refill.begin(Q, [slot]);
    let asked = handle(&mut refill, at(1), Event::Tick, &preferences, &[]);
    assert!(matches!(asked[..], [Effect::Fetch { source: B, after: None, .. }]), "{asked:?}");
    let numbered = Event::Merged { partition: other, source: B, next: None, bytes: 0 };
    let asked = handle(&mut refill, at(21), numbered, &preferences, &[]);
    assert_eq!(asked, [Effect::Refilled(vec![slot])]);
}

/// Found by the simulator (seed 4850): two owners that refilled asked each other first, for ever.
#[test]
fn an_owner_that_gives_nothing_comes_behind_the_others() {
    let preferences = preferences(&[ME, B, C], 3, 2, 2);
    let mut refill = Refill::default();
    refill.begin(Q, [Slot(0)]);
    let mut asked = Vec::new();
    for second in [1, 3, 6] {
        let effects = handle(&mut refill, at(second), Event::Tick, &preferences, &[]);
        let [Effect::Fetch { source, .. }] = effects[..] else { panic!("{effects:?}") };
        asked.push(source);
        let failed = Event::Failed { partition: Partition(0), source };
        handle(&mut refill, at(second), failed, &preferences, &[]);
    }
    assert!(asked[0] != asked[1] && asked[0] == asked[2], "{asked:?}");
}

fn gained(source: NodeId, next: Option<(Slot, Bytes)>) -> Event {
    Event::Merged { partition: Partition(0), source, next, bytes: 10 }
}

/// A node that gains partition 0 from the place of `from`, or of so many owners.
fn gaining(first: Option<NodeId>, needed: usize) -> Refill {
    gaining_from(Sources::Owners { first, needed })
}

fn gaining_from(sources: Sources) -> Refill {
    let mut refill = Refill::default();
    refill.gain(Partition(0), (Slot(0), Slot(1_023)), sources);
    refill
}

fn wanted_of(effects: &[Effect]) -> NodeId {
    let [Effect::Fetch { source, wants: Wants::Gained, .. }] = effects else {
        panic!("{effects:?}")
    };
    *source
}

#[test]
fn all_of_the_owner_that_loses_a_partition_is_enough() {
    let preferences = preferences(&[B, C], 2, 1, 1);
    let mut refill = gaining(Some(C), 2);
    assert_eq!(wanted_of(&handle(&mut refill, at(1), Event::Tick, &preferences, &[])), C);
    assert!(!refill.is_unsound(Q, Slot(0)), "what is gained answers with what it has");
    let next = Some((Slot(3), Bytes::from_static(b"k")));
    let asked = handle(&mut refill, at(1), gained(C, next.clone()), &preferences, &[]);
    assert!(matches!(&asked[..], [Effect::Fetch { source: C, after, .. }] if *after == next));
    let done = handle(&mut refill, at(1), gained(C, None), &preferences, &[]);
    assert_eq!(done, [Effect::Gained(Partition(0))]);
    assert!(refill.has_gained_all());
}

#[test]
fn without_it_as_many_owners_give_as_a_quorum_may_have_relied_on() {
    let preferences = preferences(&[B, C], 2, 1, 1);
    let mut refill = gaining(Some(C), 2);
    assert_eq!(wanted_of(&handle(&mut refill, at(1), Event::Tick, &preferences, &[C])), B);
    assert_eq!(handle(&mut refill, at(2), gained(B, None), &preferences, &[C]), []);
    assert!(!refill.has_gained_all(), "one of two");
    assert_eq!(wanted_of(&handle(&mut refill, at(9), Event::Tick, &preferences, &[])), C);
    let done = handle(&mut refill, at(9), gained(C, None), &preferences, &[]);
    assert_eq!(done, [Effect::Gained(Partition(0))]);
}

#[test]
fn an_owner_that_takes_its_time_over_a_page_is_left_alone_for_as_long() {
    let preferences = preferences(&[B, C], 2, 1, 1);
    let mut refill = gaining(Some(C), 2);
    handle(&mut refill, at(1), Event::Tick, &preferences, &[]);
    let next = Some((Slot(3), Bytes::from_static(b"k")));
    assert_eq!(handle(&mut refill, at(3), gained(C, next.clone()), &preferences, &[]), []);
    assert_eq!(handle(&mut refill, at(4), Event::Tick, &preferences, &[]), []);
    let asked = handle(&mut refill, at(5), Event::Tick, &preferences, &[]);
    assert!(matches!(&asked[..], [Effect::Fetch { source: C, after, .. }] if *after == next));
}

#[test]
fn beside_clients_one_page_is_under_way_and_each_is_followed_by_a_pause() {
    let preferences = preferences(&[B, C], 2, 1, 1);
    let mut refill = gaining(Some(C), 2);
    let sources = Sources::Owners { first: Some(C), needed: 2 };
    refill.gain(Partition(1), (Slot(1_024), Slot(2_047)), sources);
    let busy = ForegroundLoad::per_second(1_000);
    let mut handle = |millis: u64, event| {
        let now = Time::default().after(Duration::from_millis(millis));
        handle_beside(busy, &mut refill, (now, event), &preferences, &[])
    };
    assert_eq!(wanted_of(&handle(1_000, Event::Tick)), C);
    assert_eq!(handle(1_010, Event::Tick), [], "the other partition waits");
    let next = Some((Slot(3), Bytes::from_static(b"k")));
    assert_eq!(handle(1_010, gained(C, next)), [], "a page of 10 ms is followed by 90 ms");
    assert_eq!(handle(1_099, Event::Tick), []);
    assert_eq!(wanted_of(&handle(1_100, Event::Tick)), C);
}

#[test]
fn damage_begins_a_gain_anew() {
    let preferences = preferences(&[B, C], 2, 1, 1);
    let mut refill = gaining(None, 1);
    let first = wanted_of(&handle(&mut refill, at(1), Event::Tick, &preferences, &[]));
    refill.begin(Q, [Slot(5)]);
    assert_eq!(handle(&mut refill, at(2), gained(first, None), &preferences, &[]).len(), 1);
    assert!(!refill.has_gained_all(), "what came may be lost");
}

#[test]
fn in_a_recovery_everyone_gives_owner_or_not_and_what_was_lost_is_filled_with_it() {
    // D owns nothing: there are more members than owners.
    let d = NodeId::from_bytes([4; 16]);
    let preferences = preferences(&[ME, B], 2, 2, 2);
    let mut refill = gaining_from(Sources::Everyone(Arc::new(BTreeSet::from([B, d]))));
    refill.begin(Q, [Slot(5)]);
    let first = wanted_of(&handle(&mut refill, at(1), Event::Tick, &preferences, &[d]));
    assert_eq!(first, B);
    let next = Some((Slot(3), Bytes::from_static(b"k")));
    let asked = handle(&mut refill, at(1), gained(B, next.clone()), &preferences, &[d]);
    assert!(matches!(&asked[..], [Effect::Fetch { source: B, after, .. }] if *after == next));
    assert_eq!(handle(&mut refill, at(1), gained(B, None), &preferences, &[d]), []);
    assert_eq!(wanted_of(&handle(&mut refill, at(9), Event::Tick, &preferences, &[])), d);
    let done = handle(&mut refill, at(9), gained(d, None), &preferences, &[]);
    assert_eq!(done, [Effect::Refilled(vec![Slot(5)]), Effect::Gained(Partition(0))]);
    refill.end(Q, &[Slot(5)]);
    assert!(refill.is_empty() && refill.has_gained_all());
}

#[test]
fn who_survives_alone_has_all_there_is() {
    let preferences = preferences(&[ME], 3, 2, 2);
    let mut refill = gaining_from(Sources::Everyone(Arc::default()));
    refill.begin(Q, [Slot(5)]);
    let done = handle(&mut refill, at(1), Event::Tick, &preferences, &[]);
    assert_eq!(done, [Effect::Refilled(vec![Slot(5)]), Effect::Gained(Partition(0))]);
}

#[test]
fn an_owner_that_says_nothing_is_asked_again_and_its_late_word_does_not_count_twice() {
    let preferences = preferences(&[ME, B], 2, 1, 1);
    let mut refill = Refill::default();
    refill.begin(Q, [Slot(0)]);
    handle(&mut refill, at(1), Event::Tick, &preferences, &[]);
    assert_eq!(handle(&mut refill, at(12), Event::Tick, &preferences, &[]), []);
    assert_eq!(handle(&mut refill, at(12), merged(B, None), &preferences, &[]), []);
    assert!(matches!(handle(&mut refill, at(14), Event::Tick, &preferences, &[])[..], [_]));
}

#[test]
fn new_damage_begins_anew_what_was_refilled_in_part() {
    let preferences = preferences(&[ME, B, C], 3, 2, 2);
    let mut refill = Refill::default();
    refill.begin(Q, [Slot(0)]);
    handle(&mut refill, at(1), Event::Tick, &preferences, &[C]);
    handle(&mut refill, at(2), merged(B, None), &preferences, &[C]);
    refill.begin(Q, [Slot(1)]);
    let asked = handle(&mut refill, at(9), Event::Tick, &preferences, &[C]);
    assert!(matches!(asked[..], [Effect::Fetch { source: B, .. }]), "{asked:?}");
}

#[test]
fn parts_of_a_partition_count_while_it_is_gained() {
    let preferences = preferences(&[B, C], 2, 1, 1);
    let page = |slot| Some((Slot(slot), Bytes::from_static(b"k")));
    let mut refill = gaining(Some(C), 2);
    assert_eq!(refill.slots_gained(), 0);
    handle(&mut refill, at(1), Event::Tick, &preferences, &[]);
    handle(&mut refill, at(1), gained(C, page(256)), &preferences, &[]);
    assert_eq!(refill.slots_gained(), 256, "all of one owner is enough");
    handle(&mut refill, at(2), gained(C, page(u16::MAX)), &preferences, &[]);
    assert_eq!(refill.slots_gained(), 1_024, "whatever it says, a partition has no more");

    let mut refill = gaining(None, 2);
    let first = wanted_of(&handle(&mut refill, at(1), Event::Tick, &preferences, &[]));
    handle(&mut refill, at(1), gained(first, page(512)), &preferences, &[]);
    assert_eq!(refill.slots_gained(), 256, "two are needed");
    let second = wanted_of(&handle(&mut refill, at(1), gained(first, None), &preferences, &[]));
    assert_eq!(refill.slots_gained(), 512);
    handle(&mut refill, at(1), gained(second, page(512)), &preferences, &[]);
    assert_eq!(refill.slots_gained(), 768);
}
