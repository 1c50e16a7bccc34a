//! What clients saw of a cluster, and whether it can have been so.
//!
//! Every write has a value of its own and replaces exactly what a read of its client had shown, so that the history
//! holds each write's causal past explicitly, whatever the cluster's clocks say:
//! ```text
//! past(write) = what it saw, and the past of each of those
//! ```
//! A value may be gone only if something that stands has it in its past.

use std::collections::{BTreeMap, BTreeSet};

/// A moment, in microseconds of one clock that all clients share.
pub(crate) type Moment = u64;

/// What became of a write, as its client was told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Told {
    /// It is done, and strictly so or not.
    Acknowledged { strict: bool },
    /// It may be.
    Unknown,
    /// It is not.
    NotApplied,
}

/// A put by a context.
#[derive(Clone, Debug)]
pub(crate) struct Write {
    pub(crate) key: String,
    pub(crate) value: String,
    /// The values that its client had read, and that it replaces.
    pub(crate) saw: BTreeSet<String>,
    pub(crate) began: Moment,
    pub(crate) ended: Moment,
    pub(crate) told: Told,
}

/// A get that was answered.
#[derive(Clone, Debug)]
pub(crate) struct Read {
    pub(crate) key: String,
    pub(crate) values: BTreeSet<String>,
    pub(crate) began: Moment,
    pub(crate) ended: Moment,
    pub(crate) strict: bool,
}

/// All that clients saw.
#[derive(Clone, Debug, Default)]
pub(crate) struct History {
    pub(crate) writes: Vec<Write>,
    pub(crate) reads: Vec<Read>,
}

/// Something that must not be.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Violation {
    /// A value that nobody wrote, or nobody had begun to write, or whose client was told that it was not written.
    Invented { key: String, value: String },
    /// An acknowledged write that neither stands at the end nor was seen by what stands.
    Lost { key: String, value: String },
    /// A value that stands at the end though another one that stands has replaced it.
    Resurrected { key: String, value: String },
    /// A strict read that began after this value was acknowledged, or read strictly, and does not know of it.
    Stale { key: String, value: String, began: Moment, read: BTreeSet<String> },
}

impl Violation {
    /// The key that it is about.
    pub(crate) fn key(&self) -> &str {
        match self {
            Self::Invented { key, .. }
            | Self::Lost { key, .. }
            | Self::Resurrected { key, .. }
            | Self::Stale { key, .. } => key,
        }
    }
}

/// All that clients saw of a key, a line each, by when it began: for whoever looks for the cause of a violation.
pub(crate) fn story(history: &History, key: &str) -> String {
    let writes = history.writes.iter().filter(|write| write.key == key);
    let reads = history.reads.iter().filter(|read| read.key == key);
    let mut lines: Vec<(Moment, String)> =
        writes.map(|write| (write.began, format!("{write:?}\n"))).collect();
    lines.extend(reads.map(|read| (read.began, format!("{read:?}\n"))));
    lines.sort();
    lines.into_iter().map(|(_, line)| line).collect()
}

/// What is wrong with a history at whose end each key holds these values; sorted, without repetition.
pub(crate) fn violations(
    history: &History,
    finals: &BTreeMap<String, BTreeSet<String>>,
) -> Vec<Violation> {
    let mut keys: BTreeMap<&str, OfKey<'_>> = BTreeMap::new();
    for write in &history.writes {
        keys.entry(&write.key).or_default().writes.push(write);
    }
    for read in &history.reads {
        keys.entry(&read.key).or_default().reads.push(read);
    }
    let nothing = BTreeSet::new();
    for key in finals.keys() {
        keys.entry(key).or_default();
    }
    let mut found = BTreeSet::new();
    for (key, of_key) in &mut keys {
        let last = finals.get(*key).unwrap_or(&nothing);
        found.extend(of_key.violations(key, last));
    }
    found.into_iter().collect()
}

/// The part of a history that is about one key.
#[derive(Default)]
struct OfKey<'a> {
    writes: Vec<&'a Write>,
    reads: Vec<&'a Read>,
}

/// Writes of one key, each a bit by its place.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Writes(Vec<u64>);

impl Writes {
    fn insert(&mut self, place: usize) {
        let word = place / 64;
        if self.0.len() <= word {
            self.0.resize(word + 1, 0);
        }
        self.0[word] |= 1 << (place % 64);
    }

    fn contains(&self, place: usize) -> bool {
        self.0.get(place / 64).is_some_and(|word| word & (1 << (place % 64)) != 0)
    }

    fn add(&mut self, other: &Self) {
        if self.0.len() < other.0.len() {
            self.0.resize(other.0.len(), 0);
        }
        for (word, more) in self.0.iter_mut().zip(&other.0) {
            *word |= more;
        }
    }

    /// The first that is here and not in `other`.
    fn first_beyond(&self, other: &Self) -> Option<usize> {
        let missing = |(at, word): (usize, &u64)| {
            let missing = word & !other.0.get(at).copied().unwrap_or(0);
            (missing != 0).then(|| at * 64 + missing.trailing_zeros() as usize)
        };
        self.0.iter().enumerate().find_map(missing)
    }
}

/// What strict requests had shown by some moment.
struct Known {
    at: Moment,
    writes: Writes,
}

impl OfKey<'_> {
    fn violations(&mut self, key: &str, last: &BTreeSet<String>) -> Vec<Violation> {
        // What a write saw had begun before it.
        self.writes.sort_by_key(|write| write.began);
        let places: BTreeMap<&str, usize> =
            (0..).zip(&self.writes).map(|(place, write)| (write.value.as_str(), place)).collect();
        let pasts = self.pasts(&places);
        let key = || key.to_owned();
        let mut found = Vec::new();
        let end = Moment::MAX;
        let sightings = self.reads.iter().map(|read| (&read.values, read.ended));
        for (values, by) in sightings.chain([(last, end)]) {
            let invented = values.iter().filter(|value| !self.may_be_seen(&places, value, by));
            found.extend(
                invented.map(|value| Violation::Invented { key: key(), value: value.clone() }),
            );
        }
        let known_at_end = known(&places, &pasts, last);
        for (place, write) in self.writes.iter().enumerate() {
            let value = || write.value.clone();
            if matches!(write.told, Told::Acknowledged { .. }) && !known_at_end.contains(place) {
                found.push(Violation::Lost { key: key(), value: value() });
            }
            let replaced = |other: &String| {
                places.get(other.as_str()).is_some_and(|other| pasts[*other].contains(place))
            };
            if last.contains(&write.value) && last.iter().any(replaced) {
                found.push(Violation::Resurrected { key: key(), value: value() });
            }
        }
        let stale = self.stale(&places, &pasts).into_iter();
        found.extend(stale.map(|(value, read)| {
            let (key, began, read) = (key(), read.began, read.values.clone());
            Violation::Stale { key, value, began, read }
        }));
        found
    }

    /// What each write had seen, by place; itself not.
    fn pasts(&self, places: &BTreeMap<&str, usize>) -> Vec<Writes> {
        let mut pasts: Vec<Writes> = Vec::new();
        for write in &self.writes {
            let mut past = Writes::default();
            for place in write.saw.iter().filter_map(|value| places.get(value.as_str())) {
                past.insert(*place);
                if let Some(before) = pasts.get(*place) {
                    past.add(before);
                }
            }
            pasts.push(past);
        }
        pasts
    }

    fn may_be_seen(&self, places: &BTreeMap<&str, usize>, value: &str, by: Moment) -> bool {
        places.get(value).is_some_and(|place| {
            let write = self.writes[*place];
            write.began <= by && write.told != Told::NotApplied
        })
    }

    /// Strict reads that had to know of a value and did not: one such value, and the read.
    fn stale(&self, places: &BTreeMap<&str, usize>, pasts: &[Writes]) -> Vec<(String, &Read)> {
        let mut shown: Vec<Known> = Vec::new();
        for (place, write) in self.writes.iter().enumerate() {
            if write.told == (Told::Acknowledged { strict: true }) {
                let mut writes = pasts[place].clone();
                writes.insert(place);
                shown.push(Known { at: write.ended, writes });
            }
        }
        let mut strict: Vec<(&Read, Writes)> = Vec::new();
        for read in self.reads.iter().filter(|read| read.strict) {
            let writes = known(places, pasts, &read.values);
            shown.push(Known { at: read.ended, writes: writes.clone() });
            strict.push((read, writes));
        }
        shown.sort_by_key(|known| known.at);
        strict.sort_by_key(|(read, _)| read.began);
        let (mut due, mut next) = (Writes::default(), 0);
        let mut stale = Vec::new();
        for (read, writes) in strict {
            while let Some(known) = shown.get(next).filter(|known| known.at < read.began) {
                due.add(&known.writes);
                next += 1;
            }
            if let Some(place) = due.first_beyond(&writes) {
                stale.push((self.writes[place].value.clone(), read));
            }
        }
        stale
    }
}

/// The writes of these values, and all that they had seen.
fn known(places: &BTreeMap<&str, usize>, pasts: &[Writes], values: &BTreeSet<String>) -> Writes {
    let mut known = Writes::default();
    for place in values.iter().filter_map(|value| places.get(value.as_str())) {
        known.insert(*place);
        known.add(&pasts[*place]);
    }
    known
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A history of key `k`, a step a moment: `w1:a,b` writes `1` having seen `a` and `b`, acknowledged (`?` behind it:
    /// unknown, `!`: not applied, `~`: acknowledged, not strictly); `r1,2` is a strict read (`~r`: another). A step ends
    /// before the next begins; one with `+` before it begins with the one before it.
    fn history(steps: &str) -> History {
        let mut history = History::default();
        let mut now = 0;
        for step in steps.split_whitespace() {
            let (beside, step) = step.strip_prefix('+').map_or((0, step), |step| (10, step));
            now += 10;
            let (began, ended) = (now - beside, now + 5);
            let values = |text: &str| {
                text.split(',').filter(|value| !value.is_empty()).map(str::to_owned).collect()
            };
            if let Some(write) = step.strip_prefix('w') {
                let told = match step.chars().last() {
                    Some('?') => Told::Unknown,
                    Some('!') => Told::NotApplied,
                    Some('~') => Told::Acknowledged { strict: false },
                    _ => Told::Acknowledged { strict: true },
                };
                let (value, saw) = write.trim_end_matches(['?', '!', '~']).split_once(':').unwrap();
                let (key, value) = ("k".to_owned(), value.to_owned());
                history.writes.push(Write { key, value, saw: values(saw), began, ended, told });
            } else {
                let (strict, read) = (step.starts_with('r'), step.trim_start_matches(['~', 'r']));
                let (key, values) = ("k".to_owned(), values(read));
                history.reads.push(Read { key, values, began, ended, strict });
            }
        }
        history
    }

    #[track_caller]
    fn check(steps: &str, last: &str, expected: &[&str]) {
        let last = last.split_whitespace().map(str::to_owned).collect();
        let found = violations(&history(steps), &BTreeMap::from([("k".to_owned(), last)]));
        let told: Vec<String> = found
            .iter()
            .map(|violation| match violation {
                Violation::Invented { value, .. } => format!("invented {value}"),
                Violation::Lost { value, .. } => format!("lost {value}"),
                Violation::Resurrected { value, .. } => format!("resurrected {value}"),
                Violation::Stale { value, .. } => format!("stale {value}"),
            })
            .collect();
        assert_eq!(told, expected, "{steps}");
    }

    #[test]
    fn what_may_be_is_let_pass() {
        check("", "", &[]);
        check("w1: r1 w2:1 r2", "2", &[]);
        check("w1: +w2: r1,2 w3:1,2 r3", "3", &[]);
        check("w1: w2:1? r1 r2", "2", &[]);
        check("w1: w2:1? r1", "1", &[]);
        check("w1: w2:1! r1", "1", &[]);
        // Two wrote beside each other and nobody has resolved it.
        check("w1: w2:1 +w3:1 r2,3", "2 3", &[]);
        // Read while it was being written.
        check("w1: +r w2:1 +r1", "2", &[]);
        // Reads that promise less may be behind.
        check("w1: w2:1 ~r1 ~r", "2", &[]);
        check("w1: w2:1~ r1", "2", &[]);
    }

    #[test]
    fn an_acknowledged_write_that_is_gone_is_lost() {
        check("w1:", "", &["lost 1"]);
        check("w1: w2:1", "1", &["lost 2"]);
        check("w1: +w2:", "1", &["lost 2"]);
        check("w1: w2:1~", "", &["lost 1", "lost 2"]);
        // What replaced it is gone too, though nobody was promised that one.
        check("w1: w2:1?", "", &["lost 1"]);
        check("w1:? w2:1?", "", &[]);
    }

    #[test]
    fn what_was_replaced_and_stands_is_resurrected() {
        check("w1: w2:1", "1 2", &["resurrected 1"]);
        check("w1: w2:1? w3:2", "1 3", &["resurrected 1"]);
    }

    #[test]
    fn what_nobody_wrote_is_invented() {
        check("w1: ~r1,9", "1", &["invented 9"]);
        check("w1:", "1 9", &["invented 9"]);
        check("w1:! ~r1", "", &["invented 1"]);
        check("~r1 w1:", "1", &["invented 1"]);
    }

    #[test]
    fn a_strict_read_that_goes_back_is_stale() {
        check("w1: r", "1", &["stale 1"]);
        check("w1: w2:1 r1", "2", &["stale 2"]);
        // What a strict read showed, no later one may lack.
        check("w1: w2:1? r2 r1", "2", &["stale 2"]);
        check("w1: +w2: r1", "1 2", &["stale 2"]);
    }

    #[test]
    fn sets_of_writes_grow_over_words() {
        let mut writes = Writes::default();
        writes.insert(130);
        assert!(writes.contains(130) && !writes.contains(2) && !writes.contains(4_000));
        let mut all = Writes::default();
        all.insert(2);
        assert_eq!((writes.first_beyond(&all), all.first_beyond(&writes)), (Some(130), Some(2)));
        all.add(&writes);
        assert_eq!(writes.first_beyond(&all), None);
    }
}
