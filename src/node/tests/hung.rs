//! A node that stands still (SIGSTOP): its connections stay, and it says nothing.

use std::time::Duration;

use super::cluster::{Cluster, get_body, values};
use crate::wire::client::{PutBasis, ReplyBody};

/// What a request may take once the others have noticed; messages take a millisecond.
const QUICK: Duration = Duration::from_millis(10);
/// Until they have, one that meets the hung node takes this at most.
const AT_FIRST: Duration = Duration::from_millis(450);
/// How many keys are tried.
const KEYS: usize = 30;

fn key(number: usize) -> Vec<u8> {
    format!("key{number}").into_bytes()
}

/// The longest put and get, over all keys, sent to `node`.
fn longest(cluster: &mut Cluster, node: usize) -> (Duration, Duration) {
    let (mut puts, mut gets) = (Duration::ZERO, Duration::ZERO);
    for number in 0..KEYS {
        let body = cluster.put_body(&key(number), "x", PutBasis::Present, 2);
        let (reply, took) = cluster.call(node, body);
        assert!(matches!(reply, ReplyBody::Done(_)), "{reply:?}");
        puts = puts.max(took);
        let (reply, took) = cluster.call(node, get_body(&key(number), 2));
        let ReplyBody::Got(got) = reply else { panic!("{reply:?}") };
        assert_eq!(values(&got.state), "x");
        gets = gets.max(took);
    }
    (puts, gets)
}

#[test]
fn a_hung_node_holds_up_neither_puts_nor_gets_of_the_others() {
    let mut cluster = Cluster::new(3, (3, 2, 2));
    cluster.hang(2);
    let (puts, gets) = longest(&mut cluster, 0);
    assert!(puts <= QUICK && gets <= 2 * QUICK, "{puts:?} {gets:?} at first");
    cluster.pass(Duration::from_millis(300));
    let (puts, gets) = longest(&mut cluster, 1);
    assert!(puts <= QUICK && gets <= 2 * QUICK, "{puts:?} {gets:?}");
    let (puts, gets) = longest(&mut cluster, 0);
    assert!(puts <= QUICK && gets <= QUICK, "{puts:?} {gets:?} once noticed");
}

#[test]
fn what_is_passed_on_goes_around_a_hung_owner() {
    let mut cluster = Cluster::new(5, (3, 2, 2));
    let first = cluster.walk(&key(0))[0];
    let stranger = *cluster.walk(&key(0)).last().unwrap();
    cluster.hang(first);
    let (reply, took) = cluster.call(stranger, get_body(&key(0), 2));
    assert!(matches!(reply, ReplyBody::Got(_)), "{reply:?}");
    assert!(took <= AT_FIRST + QUICK, "{took:?}");
    let body = cluster.put_body(&key(0), "x", PutBasis::Present, 2);
    let (reply, took) = cluster.call(stranger, body);
    assert!(matches!(reply, ReplyBody::Done(_)), "{reply:?}");
    assert!(took <= QUICK, "{took:?}");
}

#[test]
fn a_node_that_goes_on_is_asked_again() {
    let mut cluster = Cluster::new(3, (3, 2, 2));
    let walk = cluster.walk(&key(0));
    cluster.hang(walk[1]);
    longest(&mut cluster, walk[0]);
    cluster.pass(Duration::from_millis(300));
    cluster.go_on(walk[1]);
    cluster.pass(Duration::from_secs(3));
    let (reply, _) = cluster.call(walk[0], get_body(&key(0), 2));
    let ReplyBody::Got(got) = reply else { panic!("{reply:?}") };
    assert_eq!(got.answered.len(), 2);
    let id = cluster.id(walk[1]);
    assert!(got.answered.contains(&id), "the second owner answers for itself again");
}
