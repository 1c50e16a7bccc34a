//! How far the data is that a change of the layout moves: one wording for `status`, `cluster show` and `commit --wait`.

use std::time::Duration;

use crate::cli::human;
use crate::cli::json::Object;
use crate::cli::options::Common;
use crate::wire::client::{Info, Moving};

use super::status::Sight;

/// What is still to be done of a change, by what all members say that answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum HowFar {
    /// It runs: members copy what they gain.
    Copying(Copying),
    /// It is over, and what is left over goes.
    Dropping(Dropping),
    /// Nothing is on its way.
    Rest,
}

/// What is copied, in all.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Copying {
    /// Partitions that are gained, and how many of those are copied.
    gains: u64,
    gained: u64,
    /// The same in slots, of which parts of a partition count.
    slots: u64,
    slots_gained: u64,
    keys: u64,
    bytes: u64,
    /// Bytes a second.
    rate: u64,
    /// Microseconds until the last one is done.
    left: Option<u64>,
    /// Members that gain something, and do not say how far they are.
    silent: usize,
}

/// What is left over, in all.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Dropping {
    /// Slots that may hold something.
    slots: u64,
    /// Slots that were found to.
    found: u64,
    /// Microseconds until the last one is empty.
    left: Option<u64>,
    /// On whom, sorted.
    nodes: Vec<String>,
}

impl HowFar {
    pub(crate) fn of(sight: &Sight) -> Self {
        if let Some(change) = sight.view.change {
            let moving = sight.infos.values().map(|info| info.moving);
            return Self::Copying(Copying::of(moving, change.gainers as usize));
        }
        let dropping = Dropping::of(sight.infos.values());
        if dropping.slots == 0 { Self::Rest } else { Self::Dropping(dropping) }
    }

    /// Parts done, and all of them.
    pub(crate) fn parts(&self) -> (u64, u64) {
        match self {
            Self::Copying(copying) => (copying.slots_gained, copying.slots),
            Self::Dropping(_) | Self::Rest => (1, 1),
        }
    }

    /// For people, in a line.
    pub(crate) fn words(&self, common: &Common) -> String {
        match self {
            Self::Copying(copying) => copying.words(common),
            Self::Dropping(dropping) => dropping.words(common),
            Self::Rest => "all is copied".to_owned(),
        }
    }

    /// For programs.
    pub(crate) fn object(&self, object: Object) -> Object {
        match self {
            Self::Copying(copying) => copying.fields(object.field("step", "copying")),
            Self::Dropping(dropping) => dropping.fields(object.field("step", "dropping")),
            Self::Rest => object.field("step", "rest"),
        }
    }
}

impl Copying {
    fn of(members: impl Iterator<Item = Moving>, gainers: usize) -> Self {
        let mut all = Self { left: Some(0), silent: gainers, ..Self::default() };
        for moving in members.filter(|moving| moving.gains > 0) {
            all.gains += u64::from(moving.gains);
            all.gained += u64::from(moving.gained);
            all.slots += u64::from(moving.slots);
            all.slots_gained += u64::from(moving.slots_gained);
            all.keys += moving.keys;
            all.bytes += moving.bytes;
            all.rate += moving.rate;
            all.left = all.left.zip(moving.left).map(|(one, other)| one.max(other));
            all.silent = all.silent.saturating_sub(1);
        }
        Self { left: all.left.filter(|_| all.silent == 0), ..all }
    }

    fn words(&self, common: &Common) -> String {
        let mut words = format!(
            "{} of {} partitions copied, {}, {}/s, {}",
            common.count(self.gained),
            common.count(self.gains),
            common.size(self.bytes),
            common.size(self.rate),
            left(self.left, common),
        );
        if self.silent > 0 {
            let silent = format!("; {} of those that gain do not answer", self.silent);
            words.push_str(&silent);
        }
        words
    }

    fn fields(&self, object: Object) -> Object {
        object
            .field("gains", self.gains)
            .field("gained", self.gained)
            .field("slots", self.slots)
            .field("slots_gained", self.slots_gained)
            .field("keys", self.keys)
            .field("bytes", self.bytes)
            .field("rate", self.rate)
            .field("left", self.left)
            .field("silent", self.silent)
    }
}

impl Dropping {
    fn of<'a>(members: impl Iterator<Item = &'a Info>) -> Self {
        let mut all = Self { left: Some(0), ..Self::default() };
        for Info { name, moving, .. } in members.filter(|info| info.moving.left_over > 0) {
            all.slots += u64::from(moving.left_over);
            all.found += u64::from(moving.left_over_found);
            all.left = all.left.zip(moving.left_over_left).map(|(one, other)| one.max(other));
            all.nodes.push(name.clone());
        }
        all.nodes.sort();
        all
    }

    /// Whether something was found that is left over.
    pub(crate) const fn is_found(&self) -> bool {
        self.found > 0
    }

    fn words(&self, common: &Common) -> String {
        format!(
            "{} slots left over on {}, {}",
            common.count(self.slots),
            self.nodes.join(", "),
            left(self.left, common)
        )
    }

    fn fields(&self, object: Object) -> Object {
        object
            .field("left_over", self.slots)
            .field("left_over_found", self.found)
            .field("left", self.left)
            .field("nodes", &self.nodes)
    }
}

/// A member's own rate and end, for a table.
pub(crate) fn pace(moving: &Moving, common: &Common) -> [String; 2] {
    if moving.gains == moving.gained {
        return ["-", "-"].map(str::to_owned);
    }
    let rate = common.size(moving.rate);
    let is_bare = common.exact || common.plain;
    let rate = if is_bare { rate } else { format!("{rate}/s") };
    let left = moving.left.map_or_else(|| "?".to_owned(), |micros| span(micros, common));
    [rate, if is_bare || moving.left.is_none() { left } else { format!("about {left}") }]
}

fn left(micros: Option<u64>, common: &Common) -> String {
    match micros {
        None => "end not in sight".to_owned(),
        Some(0) => "nothing left".to_owned(),
        Some(micros) => format!("about {} left", span(micros, common)),
    }
}

fn span(micros: u64, common: &Common) -> String {
    if common.exact || common.plain {
        micros.to_string()
    } else {
        human::about(Duration::from_micros(micros))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const COMMON: Common = Common {
        verbose: 0,
        quiet: false,
        color: crate::cli::options::ColorChoice::Never,
        json: false,
        plain: false,
        exact: false,
    };

    fn member(gained: u32, rate: u64, left: Option<u64>) -> Moving {
        let (gains, slots, slots_gained) = (100, 6_400, gained * 64);
        Moving {
            gains,
            gained,
            slots,
            slots_gained,
            bytes: 3 << 20,
            rate,
            left,
            ..Moving::default()
        }
    }

    #[track_caller]
    fn check(members: &[Moving], gainers: usize, expected: &str) {
        let copying = Copying::of(members.iter().copied(), gainers);
        assert_eq!(copying.words(&COMMON), expected);
    }

    #[test]
    fn the_last_one_tells_the_end() {
        let members = [
            member(40, 10 << 20, Some(7_000_000)),
            Moving::default(),
            member(30, 20 << 20, Some(39_200_000)),
        ];
        check(&members, 2, "70 of 200 partitions copied, 6.0 MiB, 30 MiB/s, about 40s left");
    }

    #[test]
    fn whoever_does_not_tell_hides_the_end() {
        let told = member(40, 10 << 20, Some(7_000_000));
        check(
            &[told, member(30, 0, None)],
            2,
            "70 of 200 partitions copied, 6.0 MiB, 10 MiB/s, end not in sight",
        );
        check(
            &[told],
            2,
            "40 of 100 partitions copied, 3.0 MiB, 10 MiB/s, end not in sight; 1 of those that gain do not answer",
        );
        check(
            &[member(100, 0, Some(0))],
            1,
            "100 of 100 partitions copied, 3.0 MiB, 0 B/s, nothing left",
        );
    }

    #[test]
    fn a_table_shows_a_pace_while_there_is_one() {
        assert_eq!(pace(&member(100, 9, Some(0)), &COMMON), ["-", "-"]);
        assert_eq!(pace(&member(4, 2 << 20, Some(400_000)), &COMMON), ["2.0 MiB/s", "about 1s"]);
        assert_eq!(pace(&member(4, 0, None), &COMMON), ["0 B/s", "?"]);
        let plain = Common { plain: true, ..COMMON };
        assert_eq!(pace(&member(4, 7, Some(400_000)), &plain), ["7", "400000"]);
    }
}
