//! Names of nodes that are no members here: of another cluster, whose states were merged into this one, and of members that
//! went. Their versions stay, and people see by whom each was written.
//!
//! They are for people alone. Nothing is decided by them, and a node that was not told of one shows the node's id instead.

use std::collections::BTreeMap;

use crate::node_id::NodeId;
use crate::ring::Layout;
use crate::storage::{Store, WriteBatch, WriteError};
use crate::wire::client::ErrorCode;

use super::calls::Origin;
use super::core::{Core, Parked};
use super::event::Effect;
use super::meta;
use super::replies::error_reply;
use super::start::StartError;

/// Most names kept. Those of clusters that were merged into each other a hundred times over.
const NAMES_MAX: usize = 1_024;
/// Longest name, bytes.
const NAME_BYTES_MAX: usize = 64;

/// The names that a node knows besides its members'.
#[derive(Debug, Default)]
pub(super) struct Names {
    known: BTreeMap<NodeId, String>,
}

impl Names {
    /// What the store has on record.
    pub(super) fn open(store: &Store) -> Result<Self, StartError> {
        let record = || "names".to_owned();
        let found = store
            .get(&meta::names_key())
            .map_err(|source| StartError::Read { record: record(), source: source.into() })?;
        let known = found.value.map_or(Ok(BTreeMap::new()), |bytes| meta::decode_names(&bytes));
        let known = known.map_err(|source| StartError::Malformed { record: record(), source })?;
        Ok(Self { known })
    }

    /// All of them.
    pub(super) const fn known(&self) -> &BTreeMap<NodeId, String> {
        &self.known
    }

    /// Takes over those that are new; whether any is. What would be too many is left out.
    fn learn(&mut self, told: &BTreeMap<NodeId, String>, layout: &Layout) -> bool {
        let before = self.known.clone();
        for (node, name) in told {
            let is_member = layout.member(*node).is_some();
            let has_room = self.known.len() < NAMES_MAX || self.known.contains_key(node);
            if !is_member && has_room {
                self.known.insert(*node, name.clone());
            }
        }
        self.known != before
    }
}

impl Core {
    /// Keeps names that an operator's command found beside states to be merged.
    pub(super) fn keep_names(
        &mut self,
        origin: Origin,
        told: &BTreeMap<NodeId, String>,
        effects: &mut Vec<Effect>,
    ) {
        let is_name = |name: &String| (1..=NAME_BYTES_MAX).contains(&name.len());
        if NAMES_MAX < told.len() || !told.values().all(is_name) {
            let text = format!("at most {NAMES_MAX} names of 1 to {NAME_BYTES_MAX} bytes are kept");
            return self.reply(origin, error_reply(ErrorCode::Usage, text), effects);
        }
        let mut position = crate::storage::LogPosition::ZERO;
        if self.names.learn(told, &self.layout) {
            match self.write_names(effects) {
                Ok(written) => position = written,
                Err(error) => {
                    let code = match error {
                        WriteError::Full => ErrorCode::DiskFull,
                        _ => ErrorCode::Overloaded,
                    };
                    return self.reply(origin, error_reply(code, error.to_string()), effects);
                }
            }
        }
        let body = self.layout_reply();
        self.once_durable(position, Parked::Reply { origin, body }, effects);
    }

    /// Keeps the names of members that the layout in force has no more.
    pub(super) fn keep_names_of_gone(&mut self, before: &Layout, effects: &mut Vec<Effect>) {
        let members = before.members().map(|member| (member.id, member.name.clone()));
        if self.names.learn(&members.collect(), &self.layout) {
            // What is lost with a full disk is a name for people.
            let _ = self.write_names(effects);
        }
    }

    fn write_names(
        &mut self,
        effects: &mut Vec<Effect>,
    ) -> Result<crate::storage::LogPosition, WriteError> {
        let mut batch = WriteBatch::new();
        batch.put(meta::names_key(), meta::encode_names(self.names.known()));
        self.write(batch, effects)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ring::{Member, Mode, Weight};

    fn id(number: u8) -> NodeId {
        NodeId::from_bytes([number; 16])
    }

    #[test]
    fn members_are_left_out_and_what_is_told_again_is_not_new() {
        let member =
            Member { id: id(1), name: "n1".to_owned(), zone: String::new(), weight: Weight::ONE };
        let layout = Layout::found(32, 3, 2, 2, Mode::Available, vec![member]).unwrap();
        let mut names = Names::default();
        let told = [(1, "other"), (2, "a"), (3, "b")];
        let told: BTreeMap<NodeId, String> =
            told.into_iter().map(|(number, name)| (id(number), name.to_owned())).collect();
        assert!(names.learn(&told, &layout));
        assert_eq!(names.known().values().collect::<Vec<_>>(), ["a", "b"]);
        assert!(!names.learn(&told, &layout));
    }
}
