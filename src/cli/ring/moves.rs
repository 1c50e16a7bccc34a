//! What moves between members, as `plan` and `diff` tell it: slots for each pair, and bytes where they can be estimated.

use std::collections::BTreeMap;

use crate::cli::json::Object;
use crate::cli::options::Common;
use crate::cli::table::{Side, Table};
use crate::node_id::NodeId;
use crate::ring::{Balance, Movement, Preferences, Ring, SLOTS};

/// How many bytes a replica of a slot is, as far as is known.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct SlotBytes {
    of_node: BTreeMap<NodeId, f64>,
    mean: Option<f64>,
}

/// Slots that one member hands to another.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Move {
    /// Who gives; none where the slots gain an owner and lose none.
    from: Option<String>,
    to: String,
    slots: usize,
    bytes: Option<u64>,
}

impl SlotBytes {
    /// All replicas of all slots together are so many bytes.
    pub(super) fn of_total(bytes: u64, ring: &Ring) -> Self {
        let replicas = SLOTS * ring.effective_n();
        Self { of_node: BTreeMap::new(), mean: Some(real(bytes) / count(replicas)) }
    }

    /// Each of these nodes holds so many bytes; for the others the mean of these counts.
    pub(super) fn of_nodes(data: &BTreeMap<NodeId, u64>, preferences: &Preferences) -> Self {
        let ring = preferences.ring();
        let (held, width) = (Balance::of(preferences).replicas, SLOTS / ring.owner.len());
        let known = ring.members.iter().zip(held).filter_map(|(member, replicas)| {
            let bytes = data.get(&member.id)?;
            Some((member.id, *bytes, replicas * width)).filter(|(_, _, slots)| *slots > 0)
        });
        let known: Vec<(NodeId, u64, usize)> = known.collect();
        let bytes = known.iter().map(|(_, bytes, _)| real(*bytes)).sum::<f64>();
        let slots: usize = known.iter().map(|(_, _, slots)| slots).sum();
        Self {
            of_node: known
                .iter()
                .map(|(node, bytes, slots)| (*node, real(*bytes) / count(*slots)))
                .collect(),
            mean: (slots > 0).then(|| bytes / count(slots)),
        }
    }

    /// Bytes of so many slots of a member; of anybody where it is none.
    fn of(&self, from: Option<NodeId>, slots: usize) -> Option<u64> {
        let each = from.and_then(|node| self.of_node.get(&node).copied()).or(self.mean)?;
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "a part of a number of bytes, rounded"
        )]
        Some((each * count(slots)).round() as u64)
    }
}

impl Move {
    /// Who gives, `-` for nobody.
    pub(super) fn giver(&self) -> &str {
        self.from.as_deref().unwrap_or("-")
    }
    /// Who receives.
    pub(super) fn receiver(&self) -> &str {
        &self.to
    }
    /// How many slots.
    pub(super) const fn slots(&self) -> usize {
        self.slots
    }
}

/// The moves of a movement, by who receives, then who gives.
pub(super) fn moves(
    movement: &Movement,
    (before, after): (&Ring, &Ring),
    bytes: &SlotBytes,
) -> Vec<Move> {
    let name = |node: NodeId| {
        let member = after.member(node).or_else(|| before.member(node));
        member.map_or_else(|| node.to_string(), |member| member.name.clone())
    };
    let pairs = movement.slots.iter().map(|((from, to), slots)| Move {
        from: from.map(name),
        to: name(*to),
        slots: *slots,
        bytes: bytes.of(*from, *slots),
    });
    let mut moves: Vec<Move> = pairs.collect();
    let order = |name: &str| (name.len(), name.to_owned());
    moves.sort_by_key(|moved| (order(&moved.to), moved.from.as_deref().map(order)));
    moves
}

/// The bytes of all moves, where those of each are known.
pub(super) fn bytes_of(moves: &[Move]) -> Option<u64> {
    moves.iter().map(|moved| moved.bytes).sum()
}

/// A row for each move; `replicas` are those of all slots.
pub(super) fn table(moves: &[Move], replicas: usize, common: &Common) -> Table {
    let mut table = Table::new(&[
        ("FROM", Side::Left),
        ("TO", Side::Left),
        ("SLOTS", Side::Right),
        ("SHARE", Side::Right),
        ("DATA", Side::Right),
    ]);
    for moved in moves {
        table.row([
            moved.giver().to_owned(),
            moved.to.clone(),
            moved.slots.to_string(),
            share(moved.slots, replicas),
            moved.bytes.map_or_else(|| "-".to_owned(), |bytes| common.size(bytes)),
        ]);
    }
    table
}

/// The moves as objects.
pub(super) fn objects(moves: &[Move]) -> impl Iterator<Item = Object> {
    moves.iter().map(|Move { from, to, slots, bytes }| {
        Object::bare()
            .maybe("from", from.as_ref())
            .field("to", to)
            .field("slots", slots)
            .maybe("bytes", *bytes)
    })
}

/// A share in percent with three digits, cut off, so that 100.000% is all and not nearly all.
pub(super) fn share(part: usize, whole: usize) -> String {
    let thousandths = part * 100_000 / whole.max(1);
    format!("{}.{:03}%", thousandths / 1_000, thousandths % 1_000)
}

/// A number of slots, members or replicas to divide by.
#[expect(clippy::cast_precision_loss, reason = "at most 2^16 slots times 255 replicas")]
pub(super) const fn count(number: usize) -> f64 {
    number as f64
}

#[expect(clippy::cast_precision_loss, reason = "an estimate needs no more than 52 bits")]
const fn real(bytes: u64) -> f64 {
    bytes as f64
}

#[cfg(test)]
mod tests {
    use crate::ring::{Weight, Wish, plan};

    use super::super::sample;
    use super::*;

    #[test]
    fn shares_are_never_rounded_up_to_all() {
        assert_eq!(share(1, 3), "33.333%");
        assert_eq!(share(SLOTS - 1, SLOTS), "99.998%");
        assert_eq!(share(SLOTS, SLOTS), "100.000%");
        assert_eq!(share(0, 0), "0.000%");
    }

    #[test]
    fn bytes_are_estimated_from_what_members_hold() {
        let known = sample::known(3, 32);
        let before = &known.layout.now;
        let add = Wish::Add { name: "n4".to_owned(), zone: String::new(), weight: Weight::ONE };
        let planned = plan(before, &[add]).unwrap();
        let movement = Movement::between(&known.preferences, &planned.preferences());
        let rings = (before, &planned.ring);
        let sum = |bytes: &SlotBytes| bytes_of(&moves(&movement, rings, bytes));
        assert_eq!(sum(&SlotBytes::default()), None);
        // Each slot's replica is ten bytes, whoever says so.
        let each = 10;
        let total = SlotBytes::of_total(3 * SLOTS as u64 * each, before);
        let moved = Some(movement.moved() as u64 * each);
        assert_eq!(sum(&total), moved);
        let data: BTreeMap<NodeId, u64> =
            before.members.iter().map(|member| (member.id, SLOTS as u64 * each)).collect();
        assert_eq!(sum(&SlotBytes::of_nodes(&data, &known.preferences)), moved);
        let one = data.into_iter().take(1).collect();
        assert_eq!(
            sum(&SlotBytes::of_nodes(&one, &known.preferences)),
            moved,
            "the mean of those known"
        );
        assert_eq!(sum(&SlotBytes::of_nodes(&BTreeMap::new(), &known.preferences)), None);
    }

    #[test]
    fn moves_are_listed_by_who_receives() {
        let known = sample::known(3, 32);
        let wishes = ["n4", "n10"].map(|name| Wish::Add {
            name: name.to_owned(),
            zone: String::new(),
            weight: Weight::ONE,
        });
        let planned = plan(&known.layout.now, &wishes).unwrap();
        let movement = Movement::between(&known.preferences, &planned.preferences());
        let moves = moves(&movement, (&known.layout.now, &planned.ring), &SlotBytes::default());
        let receivers: Vec<&str> = moves.iter().map(|moved| moved.to.as_str()).collect();
        assert!(receivers.is_sorted_by_key(|name| name.len()), "{receivers:?}");
        assert_eq!(moves.iter().map(|moved| moved.slots).sum::<usize>(), movement.moved());
    }
}
