//! Rings for the tests of this tool.

use std::sync::Arc;

use crate::node_id::{ClusterId, NodeId};
use crate::ring::{Layout, Member, Mode, Preferences, Weight};

use super::source::Known;

/// A cluster of `members` equal members named `n1`, `n2`, … over `q` partitions.
pub(super) fn known(members: u8, q: u32) -> Known {
    let names: Vec<String> = (1..=members).map(|number| format!("n{number}")).collect();
    named(&names, q)
}

/// A cluster of equal members with these names, in the order of their ids.
pub(super) fn named(names: &[impl AsRef<str>], q: u32) -> Known {
    let members = (1..)
        .zip(names)
        .map(|(number, name)| Member {
            id: NodeId::from_bytes([number; 16]),
            name: name.as_ref().to_owned(),
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
