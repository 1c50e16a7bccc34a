//! Which tables to merge next: a pure function from what is there to a plan.
//!
//! Leveled: when level 0 holds enough tables, the oldest go into level 1; when a deeper level is larger than its bound,
//! the table of it that drags the fewest bytes along goes one deeper. What overlaps in the target level goes with it.
//! The level that is fullest by its bound comes first.
//!
//! A level between the first and the deepest is bounded by its share of the deepest one (dynamic level sizes, as in
//! RocksDB): else what is overwritten there could be as much as what is live.
//! A damaged table of level 0 takes that level down before it is full; a deeper one is written anew where it is.

use std::cmp::Reverse;
use std::collections::BTreeSet;

use serde::Serialize;

use super::manifest::TableMeta;
use super::options::Options;
use super::table::KeyRange;

/// Tables to be merged into one level.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Plan {
    /// Their numbers, newest first; those of the target level last, in key order.
    pub inputs: Vec<u64>,
    /// The level that the result belongs to.
    pub target: u64,
    /// Bytes of the inputs.
    pub bytes: u64,
}

/// When a level is full.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Bounds {
    level0_tables: usize,
    level1_bytes: u64,
    factor: u64,
}

impl Bounds {
    pub(crate) const fn new(options: &Options) -> Self {
        let Options { level0_tables, level1_bytes, level_factor, .. } = *options;
        Self { level0_tables, level1_bytes, factor: level_factor }
    }

    /// Bytes that `level` may hold before some go deeper, where the deepest level holds `deepest_bytes`.
    fn level_bytes_max(self, level: u64, (deepest, deepest_bytes): (u64, u64)) -> u64 {
        let power =
            |levels: u64| self.factor.saturating_pow(u32::try_from(levels).unwrap_or(u32::MAX));
        let fixed = self.level1_bytes.saturating_mul(power(level.saturating_sub(1)));
        if level == deepest {
            return fixed;
        }
        let share = deepest_bytes / power(deepest - level).max(1);
        share.clamp(self.level1_bytes, fixed)
    }
}

/// How many bytes each level holds, and may hold: what plan and pace agree on.
#[derive(Debug)]
pub(crate) struct Fill {
    /// Bytes by level, level 0 first.
    bytes: Vec<u64>,
    bounds: Bounds,
}

impl Fill {
    pub(crate) fn of<'a>(tables: impl IntoIterator<Item = &'a TableMeta>, bounds: Bounds) -> Self {
        let mut bytes: Vec<u64> = Vec::new();
        for table in tables {
            let level = usize::try_from(table.level).unwrap_or(usize::MAX);
            if bytes.len() <= level {
                bytes.resize(level + 1, 0);
            }
            bytes[level] += table.bytes;
        }
        Self { bytes, bounds }
    }

    /// Levels from 1 on, each with the bytes it holds and those it may hold.
    fn levels(&self) -> impl Iterator<Item = (u64, u64, u64)> + '_ {
        let deepest = (self.bytes.len() as u64).saturating_sub(1);
        let deepest_bytes = self.bytes.last().copied().unwrap_or_default();
        (0..).zip(&self.bytes).skip(1).map(move |(level, bytes)| {
            (level, *bytes, self.bounds.level_bytes_max(level, (deepest, deepest_bytes)))
        })
    }

    /// Bytes that have still to go deeper.
    pub(crate) fn overdue(&self) -> u64 {
        self.levels().map(|(_, bytes, most)| bytes.saturating_sub(most)).sum()
    }

    /// Bytes in all levels.
    pub(crate) fn total(&self) -> u64 {
        self.bytes.iter().sum()
    }
}

/// The next merge, or `None` while every level is within bounds and no table is known to be `damaged`: such a table goes
/// first. Reads no file.
pub(crate) fn choose(
    tables: &[&TableMeta],
    bounds: Bounds,
    damaged: &BTreeSet<u64>,
) -> Option<Plan> {
    let at = |level| tables.iter().copied().filter(move |table| table.level == level);
    let is_damaged = |table: &&TableMeta| damaged.contains(&table.number);
    let mut level0: Vec<_> = at(0).collect();
    level0.sort_by_key(|table| Reverse(table.number));
    if level0.iter().any(is_damaged) {
        return Some(merge_down(tables, &level0, 0));
    }
    if let Some(table) = tables.iter().copied().find(is_damaged) {
        return Some(Plan { inputs: vec![table.number], target: table.level, bytes: table.bytes });
    }
    let fill = Fill::of(tables.iter().copied(), bounds);
    let score = |part: u64, whole: u64| u128::from(part) * 1_000 / u128::from(whole.max(1));
    let is_level0_due = bounds.level0_tables <= level0.len();
    let level0_score = score(level0.len() as u64, bounds.level0_tables as u64);
    let deeper = fill.levels().filter(|(_, bytes, most)| most < bytes);
    let due = is_level0_due.then_some((0, level0_score)).into_iter();
    let due = due.chain(deeper.map(|(level, bytes, most)| (level, score(bytes, most))));
    let (fullest, _) = due.max_by_key(|(level, score)| (*score, Reverse(*level)))?;
    if fullest == 0 {
        let oldest = &level0[level0.len() - bounds.level0_tables..];
        return Some(merge_down(tables, oldest, 0));
    }
    let plans = at(fullest).map(|table| merge_down(tables, &[table], fullest));
    plans.min_by_key(|plan| plan.bytes)
}

/// Merges these tables of `level` into the next one.
fn merge_down(tables: &[&TableMeta], chosen: &[&TableMeta], level: u64) -> Plan {
    let first = chosen.iter().map(|table| &table.first).min().cloned().unwrap_or_default();
    let last = chosen.iter().map(|table| &table.last).max().cloned().unwrap_or_default();
    let keys = KeyRange { first, last };
    let target = level + 1;
    let mut below: Vec<_> = tables
        .iter()
        .copied()
        .filter(|table| table.level == target && table.overlaps(&keys))
        .collect();
    below.sort_by(|left, right| left.first.cmp(&right.first));
    let inputs: Vec<_> = chosen.iter().chain(&below).collect();
    Plan {
        bytes: inputs.iter().map(|table| table.bytes).sum(),
        inputs: inputs.iter().map(|table| table.number).collect(),
        target,
    }
}

/// The key ranges of tables deeper than `target`: only where none of them may hold a key can its delete be forgotten.
pub(crate) fn older(tables: &[&TableMeta], target: u64) -> Vec<KeyRange> {
    let deeper = tables.iter().filter(|table| target < table.level);
    deeper.map(|table| table.keys()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const BOUNDS: Bounds = Bounds { level0_tables: 2, level1_bytes: 100, factor: 10 };

    /// `number:level:first-last`, each of 60 bytes.
    fn tables(text: &str) -> Vec<TableMeta> {
        let table = |text: &str| {
            let (number, rest) = text.split_once(':').unwrap();
            let (level, keys) = rest.split_once(':').unwrap();
            let (first, last) = keys.split_once('-').unwrap();
            TableMeta {
                number: number.parse().unwrap(),
                level: level.parse().unwrap(),
                bytes: 60,
                footer_checksum: 0,
                entries: 1,
                deletes: 0,
                first: first.to_owned().into(),
                last: last.to_owned().into(),
                holes: Vec::new(),
            }
        };
        text.split_whitespace().map(table).collect()
    }

    #[track_caller]
    fn check(text: &str, damaged: &[u64], expected: Option<(&[u64], u64)>) {
        let tables = tables(text);
        let tables: Vec<_> = tables.iter().collect();
        let plan = choose(&tables, BOUNDS, &damaged.iter().copied().collect());
        assert_eq!(plan.as_ref().map(|plan| (&*plan.inputs, plan.target)), expected, "{text}");
    }

    #[test]
    fn the_oldest_of_level_0_go_down_newest_first_with_what_overlaps() {
        check("", &[], None);
        check("1:0:a-c", &[], None);
        check("1:0:a-c 2:0:b-d 3:1:d-e", &[], Some((&[2, 1, 3], 1)));
        check("1:0:a-c 2:0:b-d 3:1:e-g", &[], Some((&[2, 1], 1)));
        check("1:0:a-c 2:0:b-d 4:0:a-z 3:1:d-e", &[], Some((&[2, 1, 3], 1)));
    }

    #[test]
    fn a_full_level_gives_the_cheapest_table_down() {
        check("1:1:a-c 2:1:d-f 3:2:a-b 4:2:c-d", &[], Some((&[2, 4], 2)));
        check("1:1:a-c 2:2:d-f 3:2:g-h 4:2:i-j", &[], None);
    }

    #[test]
    fn the_fullest_level_comes_first() {
        check("1:0:a-c 2:0:b-d 3:1:d-e 4:1:f-g 5:1:h-i", &[], Some((&[3], 2)));
        check("1:0:a-c 2:0:b-d 6:0:b-d 7:0:b-d 4:1:f-g 5:1:h-i", &[], Some((&[2, 1], 1)));
    }

    #[test]
    fn a_level_is_bounded_by_its_share_of_the_deepest() {
        check("1:2:a-c 2:2:d-f", &[], None);
        check("1:2:a-c 2:2:d-f 3:3:a-b 4:3:g-h", &[], Some((&[2], 3)));
    }

    #[test]
    fn a_damaged_table_goes_first() {
        check("1:0:a-c 3:1:d-e", &[1], Some((&[1], 1)));
        check("1:1:a-c 2:2:d-f", &[2], Some((&[2], 2)));
        check("1:1:a-c 2:1:d-f 3:2:a-b 4:2:c-d", &[3], Some((&[3], 2)));
        check("1:0:a-c 2:0:b-d 3:1:d-e", &[3], Some((&[3], 1)));
    }

    #[test]
    fn only_deeper_levels_are_older() {
        let tables = tables("1:0:a-z 2:1:b-c 3:2:d-e");
        let tables: Vec<_> = tables.iter().collect();
        let keys = KeyRange { first: "d".into(), last: "e".into() };
        assert_eq!(older(&tables, 1), [keys]);
        assert_eq!(older(&tables, 2), []);
    }
}
