//! Stand-ins that coordinate, and hints that outlive their patience, on real Cores.

use std::time::Duration;

use super::cluster::{Cluster, get_body, values};
use crate::node::HintLimits;
use crate::version::Dot;
use crate::wire::client::{Done, PutBasis, ReplyBody};

const KEY: &[u8] = b"k";
/// Long enough for hints to reach a target that is back.
const HANDED_OVER: Duration = Duration::from_secs(10);

#[track_caller]
fn put(cluster: &mut Cluster, node: usize, text: &str, basis: PutBasis, w: u8) -> Done {
    let body = cluster.put_body(KEY, text, basis, w);
    match cluster.call(node, body).0 {
        ReplyBody::Done(done) => done,
        other => panic!("{other:?}"),
    }
}

#[track_caller]
fn read(cluster: &mut Cluster, node: usize, r: u8) -> String {
    match cluster.call(node, get_body(KEY, r)).0 {
        ReplyBody::Got(got) => values(&got.state),
        other => panic!("{other:?}"),
    }
}

/// Five nodes: the owners of the key, then its fallbacks.
fn five() -> (Cluster, [usize; 3], [usize; 2]) {
    let cluster = Cluster::new(5, (3, 2, 2));
    let walk = cluster.walk(KEY);
    (cluster, walk[..3].try_into().unwrap(), walk[3..].try_into().unwrap())
}

#[test]
fn any_node_takes_a_put_though_no_owner_can_be_reached() {
    let (mut cluster, owners, [d, e]) = five();
    cluster.kill_all(owners);
    // Sent to the second fallback, done by the first.
    let done = put(&mut cluster, e, "x", PutBasis::Present, 2);
    assert_eq!(done.stand_ins.len(), 2);
    assert_eq!(read(&mut cluster, d, 2), "x");
    let done = put(&mut cluster, d, "y", PutBasis::Present, 2);
    assert!(done.dot.is_some());
    cluster.start_all(owners);
    cluster.pass(HANDED_OVER);
    for owner in owners {
        assert_eq!(values(&cluster.stored(owner, KEY)), "y");
    }
    assert_eq!((cluster.hints(d), cluster.hints(e)), (0, 0));
}

/// V3: a stand-in S mints S:1, hands over, drops; coordinates the key again: S:1 again. Or only its superseded entry is
/// in the dropped clock.
#[test]
fn a_stand_in_mints_no_dot_twice_whatever_it_handed_over() {
    for superseded in [false, true] {
        let (mut cluster, owners, [d, e]) = five();
        cluster.kill_all(owners);
        let mut dots: Vec<Dot> = Vec::new();
        dots.extend(put(&mut cluster, d, "1", PutBasis::Blind, 2).dot);
        if superseded {
            cluster.kill(d);
            dots.extend(put(&mut cluster, e, "2", PutBasis::Present, 1).dot);
            cluster.start(d);
            cluster.pass(HANDED_OVER);
        }
        cluster.start_all(owners);
        cluster.pass(HANDED_OVER);
        assert_eq!(cluster.hints(d), 0);
        cluster.kill_all(owners);
        dots.extend(put(&mut cluster, d, "3", PutBasis::Blind, 1).dot);
        let mut distinct = dots.clone();
        distinct.sort();
        distinct.dedup();
        assert_eq!(distinct.len(), dots.len(), "{dots:?}");
        cluster.start_all(owners);
        cluster.pass(HANDED_OVER);
        let expected = if superseded { "2 3" } else { "1 3" };
        for owner in owners {
            assert_eq!(
                values(&cluster.stored(owner, KEY)),
                expected,
                "blind puts stand side by side"
            );
        }
    }
}

/// A restart in between forgets nothing that the hints remember.
#[test]
fn a_stand_in_that_restarts_goes_on_from_its_hints() {
    let (mut cluster, owners, [d, e]) = five();
    cluster.kill_all(owners);
    cluster.kill(e);
    put(&mut cluster, d, "1", PutBasis::Present, 1);
    cluster.kill(d);
    cluster.start(d);
    cluster.pass(Duration::from_secs(2));
    assert_eq!(read(&mut cluster, d, 1), "1");
    put(&mut cluster, d, "2", PutBasis::Present, 1);
    cluster.start_all(owners);
    cluster.pass(HANDED_OVER);
    assert_eq!(values(&cluster.stored(owners[0], KEY)), "2");
}

/// H3's cousin: what a stand-in holds of a W=2 put goes on to two owners before it may go, though its target stays away.
#[test]
fn a_hint_that_counted_outlives_its_patience_until_enough_owners_have_it() {
    let hints = HintLimits { ttl: Duration::from_secs(30), ..HintLimits::default() };
    let mut cluster = Cluster::with_hints(4, (3, 2, 2), hints);
    let [a, b, c, d] = cluster.walk(KEY).try_into().unwrap();
    cluster.kill(a);
    cluster.kill(b);
    cluster.kill(c);
    // Only `d` and nobody else: one acknowledgement that is a stand-in's.
    put(&mut cluster, d, "x", PutBasis::Present, 1);
    cluster.start(c);
    cluster.pass(Duration::from_secs(20));
    assert_eq!(values(&cluster.stored(c, KEY)), "x", "c's hint went there");
    assert!(cluster.hints(d) > 0, "a and b have not got theirs");
    cluster.pass(Duration::from_mins(2));
    assert_eq!(cluster.hints(d), 0, "one owner has what counted for one");
}
