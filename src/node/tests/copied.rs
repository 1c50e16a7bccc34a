//! Two directories with one identity, started one right after the other.

use std::time::Duration;

use super::cluster::Cluster;
use crate::wire::handshake::{RefusalCode, Welcome};

#[test]
fn a_copy_started_right_after_the_original_is_refused_before_a_heartbeat_was_heard() {
    let mut cluster = Cluster::new(3, (3, 2, 2));
    cluster.kill(0);
    cluster.pass(Duration::from_mins(1));
    cluster.start(0);
    // Nothing but the handshake has reached the others yet.
    let (copy, now) = (cluster.hello_of_a_copy(0), cluster.now());
    let answer = cluster.core(1).admit(now, &copy);
    assert!(
        matches!(answer, Welcome::Refused { code: RefusalCode::CopiedIdentity, .. }),
        "{answer:?}"
    );
    cluster.kill(0);
    cluster.pass(Duration::from_mins(1));
    let now = cluster.now();
    let answer = cluster.core(1).admit(now, &copy);
    assert!(matches!(answer, Welcome::Accepted { .. }), "nobody else lives: {answer:?}");
}
