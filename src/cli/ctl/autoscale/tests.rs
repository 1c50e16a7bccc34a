//! Decisions, by the notation in which they are told.

use std::collections::BTreeSet;

use super::decision::{Step, Stop, decide};
use super::memory::{Doing, Memory, Pending};
use super::policy::Policy;
use super::seen::{NodeLoad, Part, Seen, SeenNode};

const SECOND: u64 = 1_000_000;
/// When everything is seen.
const NOW: u64 = 1_000_000 * SECOND;

/// 3 to 5 members; 100 operations a second are too much, less than 40 too little; two looks out, three in.
fn policy() -> Policy {
    policy_with("operations = { high = 100, low = 40 }", "")
}

fn policy_with(targets: &str, zones: &str) -> Policy {
    let text = format!(
        "[nodes]\nmin = 3\nmax = 5\nname = \"n{{}}\"\nfirst = 4\n{zones}\n\
         [looks]\ninterval = \"1s\"\nout = 2\nin = 3\n\
         [cooldown]\nout = \"10s\"\nin = \"20s\"\n[targets]\n{targets}\n\
         [commands]\nstart = [\"a\"]\nstop = [\"b\"]\njoin_timeout = \"30s\"\n"
    );
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("policy.toml");
    std::fs::write(&file, text).unwrap();
    Policy::read(&file).unwrap()
}

fn load(operations: f64) -> NodeLoad {
    NodeLoad {
        operations,
        cpu: 0.0,
        p99: 0.0,
        disk_used: 0.0,
        disk_total: 100.0,
        data: 0.0,
        hottest: None,
    }
}

/// Members n1, n2, … with so many operations a second each, all up, all done.
fn seen(operations: &[f64]) -> Seen {
    let node = |(number, operations): (usize, &f64)| {
        let load = Some(load(*operations));
        (
            format!("n{number}"),
            SeenNode { zone: String::new(), part: Part::Member, is_up: true, load },
        )
    };
    Seen {
        at: NOW,
        layout: 7,
        n: 3,
        is_changing: false,
        is_done: true,
        hints: 0,
        refilling: Vec::new(),
        staged: Vec::new(),
        waiting: BTreeSet::new(),
        nodes: (1..).zip(operations).map(node).collect(),
    }
}

/// All the looks that are needed either way, and no change ever.
fn patient() -> Memory {
    Memory { high_looks: 9, low_looks: 9, ..Memory::default() }
}

fn pending(node: &str, doing: Doing) -> Memory {
    let (node, zone) = (node.to_owned(), "z".to_owned());
    let pending = Pending { node, zone, doing, since: NOW - SECOND, layout: 7, failures: 0 };
    Memory { pending: Some(pending), ..Memory::default() }
}

/// The step in words.
fn word(step: &Step) -> String {
    match step {
        Step::Hold | Step::Wait => step.name().to_owned(),
        Step::Start { node, zone } | Step::Join { node, zone } if !zone.is_empty() => {
            format!("{} {node} in {zone}", step.name())
        }
        Step::Stop { node, why: Stop::NeverJoined } => format!("give up {node}"),
        Step::Start { node, .. }
        | Step::Join { node, .. }
        | Step::Leave { node }
        | Step::Stop { node, .. } => format!("{} {node}", step.name()),
    }
}

/// Decides, and holds step and explanation against what is expected; what is remembered.
#[track_caller]
fn check_by(policy: &Policy, memory: &Memory, seen: &Seen, step: &str, why: &str) -> Memory {
    let decision = decide(policy, memory, seen);
    let told = decision.why.join("; ");
    assert_eq!(word(&decision.step), step, "{told}");
    assert!(told.contains(why), "{told}");
    decision.memory
}

#[track_caller]
fn check(memory: &Memory, seen: &Seen, step: &str, why: &str) -> Memory {
    check_by(&policy(), memory, seen, step, why)
}

#[test]
fn one_node_above_its_mark_adds_a_node_after_enough_looks() {
    let busy = seen(&[101.0, 20.0, 20.0]);
    let first =
        check(&Memory::default(), &busy, "hold", "operations of n1 101/s, above 100/s; 1 of 2");
    assert_eq!((first.high_looks, first.low_looks), (1, 0));
    let second = check(&first, &busy, "start n4", "operations of n1 101/s");
    let begun = second.pending.unwrap();
    assert_eq!((begun.node.as_str(), begun.doing, begun.since), ("n4", Doing::Starting, NOW));
    let all = seen(&[101.0, 102.0, 103.0]);
    check(&first, &all, "start n4", "operations of n3 103/s, above 100/s (3 of 3 nodes)");
    let calm = check(&first, &seen(&[100.0, 90.0, 90.0]), "hold", "n1 100/s, not below 40/s");
    assert_eq!(calm.high_looks, 0, "looks in a row");
}

#[test]
fn all_nodes_below_all_marks_drain_one_after_enough_looks() {
    let idle = seen(&[10.0, 10.0, 10.0, 10.0, 10.0]);
    let mut memory = Memory::default();
    for look in ["1 of 3 looks", "2 of 3 looks"] {
        memory = check(&memory, &idle, "hold", look);
    }
    let memory = check(&memory, &idle, "leave n5", "operations at most 10/s (n5), below 40/s");
    assert_eq!(memory.pending.unwrap().doing, Doing::Leaving);
    let nearly = seen(&[10.0, 40.0, 10.0, 10.0]);
    let memory = check(&patient(), &nearly, "hold", "operations of n2 40/s, not below 40/s");
    assert_eq!(memory.low_looks, 0);
}

#[test]
fn nobody_is_drained_whose_work_the_others_could_not_take_over() {
    let policy = policy_with("operations = { high = 100, low = 90 }", "");
    let text = "operations would come to 107/s with a node less, above 100/s";
    check_by(&policy, &patient(), &seen(&[80.0, 10.0, 10.0, 10.0]), "hold", text);
    check_by(&policy, &patient(), &seen(&[75.0, 10.0, 10.0, 10.0]), "leave n4", "");
}

#[test]
fn a_change_is_followed_by_a_rest() {
    let after = |seconds: u64| Memory { changed: Some(NOW - seconds * SECOND), ..patient() };
    let (busy, idle) = (seen(&[200.0; 3]), seen(&[1.0; 5]));
    check(&after(9), &busy, "hold", "the last change was 9.0s ago, 1.0s to wait");
    check(&after(10), &busy, "start n4", "");
    check(&after(19), &idle, "hold", "1.0s to wait");
    check(&after(20), &idle, "leave n5", "");
    let ahead = Memory { changed: Some(NOW + 5 * SECOND), ..patient() };
    check(&ahead, &busy, "hold", "10s to wait");
}

#[test]
fn members_stay_between_the_fewest_and_the_most() {
    check(&patient(), &seen(&[200.0; 5]), "hold", "at the maximum of 5 members");
    check(&patient(), &seen(&[1.0; 3]), "hold", "at the minimum of 3 members");
    check(&Memory::default(), &seen(&[1.0; 2]), "start n4", "2 members, fewer than 3");
    let mut alone = policy();
    alone.min = 1;
    check_by(&alone, &patient(), &seen(&[1.0]), "hold", "at the minimum of 1 members");
    let mut more_replicas = seen(&[1.0; 4]);
    more_replicas.n = 4;
    check(&patient(), &more_replicas, "hold", "each key is to have 4 replicas");
    more_replicas.n = 3;
    check(&patient(), &more_replicas, "leave n4", "");
}

#[test]
fn nothing_begins_while_something_is_in_the_way() {
    type Obstacle = (fn(&mut Seen), &'static str);
    let obstacles: [Obstacle; 6] = [
        (|seen| seen.nodes.get_mut("n2").unwrap().is_up = false, "n2 is not up"),
        (|seen| seen.is_changing = true, "a change of the layout runs"),
        (|seen| seen.nodes.get_mut("n2").unwrap().part = Part::Leaving, "n2 leaves"),
        (|seen| seen.is_done = false, "data of the last change still moves"),
        (|seen| seen.staged.push("n2 leaves".to_owned()), "it is staged that n2 leaves"),
        (|seen| seen.nodes.get_mut("n2").unwrap().load = None, "n2 tells no load yet"),
    ];
    for operations in [&[200.0; 4][..], &[1.0; 5], &[1.0; 3]] {
        for (put, why) in obstacles {
            let mut seen = seen(operations);
            put(&mut seen);
            let memory = check(&patient(), &seen, "hold", why);
            assert_eq!((memory.high_looks, memory.low_looks), (0, 0));
        }
    }
}

#[test]
fn nobody_leaves_while_hints_are_held_or_lost_data_comes_back() {
    let mut idle = seen(&[1.0; 5]);
    idle.hints = 3;
    check(&patient(), &idle, "hold", "3 hints are held");
    idle.hints = 0;
    idle.refilling.push("n2".to_owned());
    check(&patient(), &idle, "hold", "n2 gets lost data back");
    let mut busy = seen(&[200.0; 3]);
    (busy.hints, busy.refilling) = (3, vec!["n2".to_owned()]);
    check(&patient(), &busy, "start n4", "");
}

#[test]
fn only_nodes_of_the_policys_names_are_drained_the_last_one_of_the_fullest_zone_first() {
    let zones = |names: &[(&str, &str)]| {
        let mut seen = seen(&[1.0; 0]);
        for (name, zone) in names {
            let (zone, load) = ((*zone).to_owned(), Some(load(1.0)));
            let node = SeenNode { zone, part: Part::Member, is_up: true, load };
            seen.nodes.insert((*name).to_owned(), node);
        }
        seen
    };
    let check = |names: &[(&str, &str)], step: &str| {
        check(&patient(), &zones(names), step, "");
    };
    check(&[("n1", ""), ("n2", ""), ("n4", ""), ("n9", ""), ("n10", "")], "leave n10");
    check(&[("n1", "a"), ("n2", "b"), ("n3", "c"), ("n4", "a"), ("n5", "b")], "leave n5");
    check(&[("n1", "a"), ("n4", "a"), ("n3", "c"), ("n5", "b"), ("n6", "c")], "leave n6");
    check(&[("n1", "a"), ("n4", "a"), ("n2", "a"), ("n5", "b"), ("n6", "c")], "leave n4");
    check(&[("n1", ""), ("n2", ""), ("n3", ""), ("x4", "")], "hold");
}

#[test]
fn a_new_node_goes_to_the_zone_with_the_fewest_members_and_takes_a_free_name() {
    let mut busy = seen(&[200.0; 4]);
    for (node, zone) in busy.nodes.values_mut().zip(["a", "b", "a", "c"]) {
        node.zone = zone.to_owned();
    }
    check(&patient(), &busy, "start n5 in b", "");
    let zones = policy_with("operations = { high = 100, low = 40 }", "zones = [\"a\", \"d\"]");
    check_by(&zones, &patient(), &busy, "start n5 in d", "");
    busy.nodes.remove("n4");
    check(&patient(), &busy, "start n4 in b", "");
    busy.nodes.insert("n4".to_owned(), busy.nodes["n1"].clone());
    busy.nodes.remove("n2");
    check(&patient(), &busy, "start n5 in a", "");
}

#[test]
fn a_hot_key_is_named_and_nothing_is_added_that_does_not_help_it() {
    let mut busy = seen(&[150.0, 20.0, 20.0]);
    let hot = |share: f64| Some(("cart:42".to_owned(), share));
    let hottest = |seen: &mut Seen, node: &str, share: f64| {
        seen.nodes.get_mut(node).unwrap().load.as_mut().unwrap().hottest = hot(share);
    };
    hottest(&mut busy, "n1", 0.8);
    let text = "operations of n1 150/s, above 100/s; the key cart:42 alone makes 80% of the operations of n1";
    let memory = check(&patient(), &busy, "hold", text);
    assert_eq!(memory.high_looks, 0);
    // The rest can be shared.
    hottest(&mut busy, "n1", 0.6);
    check(&patient(), &busy, "start n4", "the key cart:42 alone makes 60% of the operations of n1");
    hottest(&mut busy, "n1", 0.2);
    let decision = decide(&policy(), &patient(), &busy);
    assert!(!decision.why.join("").contains("cart:42"), "{decision:?}");
    // However small its share, by which it is above the mark.
    let mut flooded = seen(&[1_000.0, 20.0, 20.0]);
    hottest(&mut flooded, "n1", 0.15);
    check(&patient(), &flooded, "hold", "the key cart:42 alone makes 15%");
    // Another node is helped.
    let mut both = seen(&[150.0, 120.0, 20.0]);
    hottest(&mut both, "n1", 0.8);
    check(&patient(), &both, "start n4", "(2 of 3 nodes); the key cart:42");
}

#[test]
fn each_signal_has_its_marks() {
    let all = policy_with(
        "cpu = { high = \"80%\", low = \"30%\" }\np99 = { high = \"50ms\", low = \"20ms\" }\n\
         disk = { high = \"75%\", low = \"60%\" }",
        "",
    );
    let with = |change: fn(&mut NodeLoad)| {
        let mut seen = seen(&[500.0; 4]);
        change(seen.nodes.get_mut("n3").unwrap().load.as_mut().unwrap());
        seen
    };
    let check = |change, step: &str, why: &str| {
        check_by(&all, &patient(), &with(change), step, why);
    };
    check(|_| (), "leave n4", "cpu at most 0% (n4), below 30%; p99 at most 0us");
    check(|load| load.cpu = 0.81, "start n5", "cpu of n3 81%, above 80%");
    check(|load| load.cpu = 0.5, "hold", "cpu of n3 50%, not below 30%");
    check(|load| load.p99 = 51_000.0, "start n5", "p99 of n3 51ms, above 50ms");
    check(|load| load.p99 = 20_000.0, "hold", "p99 of n3 20ms, not below 20ms");
    check(|load| load.disk_used = 76.0, "start n5", "disk of n3 76%, above 75%");
    // A third of the data of the node that goes comes to each of the others.
    check(
        |load| (load.disk_used, load.data) = (55.0, 63.0),
        "hold",
        "disk would come to 76% with a node less, above 75%",
    );
    check(|load| (load.disk_used, load.data) = (55.0, 57.0), "leave n4", "");
    // A hot key is no reason for a full disk or for slowness.
    check(
        |load| (load.p99, load.hottest) = (51_000.0, Some(("k".to_owned(), 0.99))),
        "start n5",
        "the key k alone makes 99%",
    );
}

#[test]
fn a_started_node_is_joined_once_it_asks_and_waited_for_until_all_is_done() {
    let memory = pending("n4", Doing::Joining);
    let mut now = seen(&[1.0; 3]);
    check(&memory, &now, "wait", "n4 is started and has not asked to join yet");
    now.waiting.insert("n4".to_owned());
    now.nodes.get_mut("n2").unwrap().is_up = false;
    check(&memory, &now, "wait", "n4 asks to join, but n2 is not up");
    now.nodes.get_mut("n2").unwrap().is_up = true;
    check(&memory, &now, "join n4 in z", "n4 asks to join");
    let mut full = seen(&[1.0; 6]);
    full.nodes.remove("n4");
    full.waiting.insert("n4".to_owned());
    check(&memory, &full, "give up n4", "at the maximum of 5 members");

    now.waiting.clear();
    let mut committed = memory.clone();
    committed.pending.as_mut().unwrap().layout = 8;
    check(&committed, &now, "wait", "n4 joins");
    let joining = SeenNode { part: Part::Joining, ..now.nodes["n1"].clone() };
    now.nodes.insert("n4".to_owned(), joining);
    (now.layout, now.is_changing) = (8, true);
    check(&committed, &now, "wait", "data moves to it");
    now.nodes.get_mut("n4").unwrap().is_up = false;
    check(&committed, &now, "wait", "kvctl cluster abort");
    let node = now.nodes.get_mut("n4").unwrap();
    (node.is_up, node.part) = (true, Part::Member);
    check(&committed, &now, "wait", "n4 is a member;");
    (now.is_changing, now.is_done) = (false, false);
    check(&committed, &now, "wait", "n4 is a member;");
    now.is_done = true;
    let memory = check(&committed, &now, "hold", "n4 is a member, and all is done");
    assert_eq!(memory, Memory { changed: Some(NOW), ..Memory::default() });
}

#[test]
fn a_started_node_that_never_asks_or_is_never_let_in_is_stopped() {
    let mut memory = pending("n4", Doing::Joining);
    let now = seen(&[1.0; 3]);
    memory.pending.as_mut().unwrap().since = NOW - 29 * SECOND;
    check(&memory, &now, "wait", "");
    memory.pending.as_mut().unwrap().since = NOW - 30 * SECOND;
    let stopping = check(&memory, &now, "give up n4", "has not asked to join within 30s");
    assert_eq!(stopping.pending.as_ref().unwrap().doing, Doing::Stopping);
    // One that asks is let in however late.
    let mut asks = now.clone();
    asks.waiting.insert("n4".to_owned());
    check(&memory, &asks, "join n4 in z", "");
    memory.pending.as_mut().unwrap().failures = 5;
    check(&memory, &asks, "give up n4", "could not be let in, 5 times");
    // It is stopped again until that succeeds, but never as a member.
    check(&stopping, &now, "stop n4", "n4 is no member");
    let mut member = now.clone();
    for part in [Part::Member, Part::Joining, Part::Leaving] {
        let node = SeenNode { part, ..now.nodes["n1"].clone() };
        member.nodes.insert("n4".to_owned(), node);
        let memory = check(&stopping, &member, "hold", "is not stopped");
        assert_eq!(memory.pending, None);
    }
}

#[test]
fn a_node_that_was_about_to_be_started_is_started_again() {
    let memory = pending("n4", Doing::Starting);
    let mut now = seen(&[1.0; 3]);
    let again = check(&memory, &now, "start n4 in z", "n4 was about to be started");
    assert_eq!(again, memory, "until that is done");
    now.waiting.insert("n4".to_owned());
    check(&memory, &now, "join n4 in z", "");
    let joining = SeenNode { part: Part::Joining, ..now.nodes["n1"].clone() };
    now.nodes.insert("n4".to_owned(), joining);
    check(&memory, &now, "wait", "n4 joins");
}

#[test]
fn a_leaving_node_is_stopped_once_it_is_gone() {
    let mut memory = pending("n5", Doing::Leaving);
    memory.pending.as_mut().unwrap().layout = 8;
    let mut now = seen(&[1.0; 5]);
    check(&memory, &now, "wait", "n5 is to leave");
    now.layout = 8;
    now.is_changing = true;
    now.nodes.get_mut("n5").unwrap().part = Part::Leaving;
    check(&memory, &now, "wait", "n5 leaves: its data moves to others");
    now.is_changing = false;
    check(&memory, &now, "wait", "n5 leaves");
    now.nodes.remove("n5");
    let stopping = check(&memory, &now, "stop n5", "n5 has left");
    assert_eq!(stopping.pending.unwrap().doing, Doing::Stopping);
    let given_up = seen(&[1.0; 5]);
    memory.pending.as_mut().unwrap().layout = 7;
    let memory = check(&memory, &given_up, "hold", "n5 is to leave no more");
    assert_eq!((memory.pending, memory.changed), (None, Some(NOW)));
}

#[test]
fn a_node_of_ours_that_waits_is_taken_up_though_nobody_remembers_it() {
    let mut now = seen(&[1.0; 3]);
    now.waiting.extend(["n3b".to_owned(), "n4".to_owned()]);
    let memory = check(&Memory::default(), &now, "join n4", "n4 asks to join");
    assert_eq!(memory.pending.unwrap().node, "n4");
    now.waiting.remove("n4");
    check(&Memory::default(), &now, "hold", "at the minimum");
}

/// Whatever comes of each step, from any beginning: the bounds are kept, and it comes to an end.
#[test]
fn loads_that_come_and_go_never_lead_out_of_the_bounds() {
    let policy = policy();
    let mut names = BTreeSet::from(["n1", "n2", "n3"].map(str::to_owned));
    let mut memory = Memory::default();
    let (mut most, mut fewest) = (3, 3);
    for look in 0..2_000_u64 {
        // Up for 500 looks, then down, and so on.
        let total = if (look / 500) % 2 == 0 { 450.0 } else { 60.0 };
        #[expect(clippy::cast_precision_loss, reason = "a handful")]
        let each = total / names.len() as f64;
        let mut now = seen(&[]);
        now.at = NOW + look * SECOND;
        for name in &names {
            let (zone, load) = (String::new(), Some(load(each)));
            let node = SeenNode { zone, part: Part::Member, is_up: true, load };
            now.nodes.insert(name.clone(), node);
        }
        if let Some(Pending { node, doing: Doing::Starting, .. }) = &memory.pending
            && !names.contains(node)
        {
            now.waiting.insert(node.clone());
        }
        let decision = decide(&policy, &memory, &now);
        memory = decision.memory;
        match decision.step {
            Step::Join { node, .. } => assert!(names.insert(node)),
            Step::Leave { node } => assert!(names.remove(&node)),
            Step::Stop { node, .. } => {
                assert!(!names.contains(&node));
                (memory.pending, memory.changed) = (None, Some(now.at));
            }
            Step::Hold | Step::Wait | Step::Start { .. } => {}
        }
        (most, fewest) = (most.max(names.len()), fewest.min(names.len()));
        if look == 499 || look == 1_499 {
            assert_eq!(names.len(), 5, "450 operations are 90 for each of five");
        }
        if look == 999 || look == 1_999 {
            assert_eq!(names.len(), 3);
        }
    }
    assert_eq!((most, fewest), (5, 3));
}
