//! What a node has on record about itself, read from a directory that no store is opened on: a snapshot.

use std::collections::{BTreeMap, BTreeSet};

use crate::node_id::NodeId;
use crate::ring::{Layout, Slot};
use crate::storage::offline::{BadBlock, DirectoryView};

use super::{keys, meta};

/// What stands in keyspace `m` of a directory that who reads its data must know.
#[derive(Clone, Debug, PartialEq)]
pub struct OnRecord {
    /// The layout in force.
    pub layout: Layout,
    /// Slots whose data may be incomplete there.
    pub unsound: BTreeSet<Slot>,
    /// The slots' cut numbers, where they are above 0.
    pub cuts: BTreeMap<Slot, u64>,
    /// Names of nodes, members and others.
    pub names: BTreeMap<NodeId, String>,
}

/// Why a directory says nothing about its node.
#[derive(Debug, thiserror::Error)]
pub enum OnRecordError {
    /// A block of it cannot be read.
    #[error("cannot read the node's own records")]
    Read(#[from] Box<BadBlock>),
    /// No node's records are there.
    #[error("no node's records are in it")]
    NoRecords,
    /// A record is not what a node writes.
    #[error("a node's record of {0} is malformed")]
    Malformed(&'static str),
}

impl OnRecord {
    /// What the directory says.
    /// # Errors
    /// [`OnRecordError`].
    pub fn read(view: &DirectoryView) -> Result<Self, OnRecordError> {
        let value = |key: &[u8]| -> Result<_, OnRecordError> {
            Ok(view.get(key).map_err(Box::new)?.and_then(|found| found.value))
        };
        let register = value(&meta::register_key())?.ok_or(OnRecordError::NoRecords)?;
        let register = meta::decode_register(&register);
        let layout = register.map_err(|_| OnRecordError::Malformed("the layout"))?.chosen;
        let mut names = match value(&meta::names_key())? {
            None => BTreeMap::new(),
            Some(bytes) => {
                meta::decode_names(&bytes).map_err(|_| OnRecordError::Malformed("names"))?
            }
        };
        names.extend(layout.members().map(|member| (member.id, member.name.clone())));
        // What was lost with a table that was set aside may not be marked as lost yet.
        let lost = view.lost_keys().filter_map(|lost| lost.keys);
        let lost = lost.filter_map(|keys| keys::slots_between(&keys.first, &keys.last));
        let mut unsound: BTreeSet<Slot> =
            lost.flat_map(|(first, last)| first.0..=last.0).map(Slot).collect();
        let mut cuts = BTreeMap::new();
        for first in (0..=u16::MAX).step_by(meta::UNSOUND_SLOTS.into()).map(Slot) {
            let (key, _) = meta::encode_unsound(first, std::iter::empty());
            if let Some(bytes) = value(&key)? {
                let slots = meta::decode_unsound(&key, &bytes);
                unsound.extend(slots.map_err(|_| OnRecordError::Malformed("unsound slots"))?);
            }
        }
        for slot in (0..=u16::MAX).map(Slot) {
            let (key, _) = meta::encode_cut(slot, 0);
            if let Some(bytes) = value(&key)? {
                let number = meta::decode_cut(&key, &bytes);
                cuts.extend([number.map_err(|_| OnRecordError::Malformed("cut numbers"))?]);
            }
        }
        Ok(Self { layout: (*layout).clone(), unsound, cuts, names })
    }
}
