//! Rings for the tests of this tool.

use std::sync::Arc;

use crate::node_id::{ClusterId, NodeId};
use crate::ring::{Layout, Member, Mode, Preferences, Weight};

use super::source::Known;

/// A cluster of `members` equal members named `n1`, `n2`, … over `q` partitions.
pub(super) fn known(members: u8, q: u32) -> Known {
    let members = (1..=members)
        .map(|number| Member {
            id: NodeId::from_bytes([number; 16]),
            name: format!("n{number}"),
            zone: String::new(),
            weight: Weight::ONE,
        })
        .collect();
    let layout = Layout::found(q, 3, 2, 2, Mode::Available, members).unwrap();
    let preferences = Arc::new(Preferences::new(Arc::new(layout.now.clone())));
    Known {
        cluster: ClusterId::from_bits(0x7f3a),
        cluster_name: "test".to_owned(),
        layout: Arc::new(layout),
        preferences,
    }
}
