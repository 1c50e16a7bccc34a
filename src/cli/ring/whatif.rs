//! `whatif`: what stays available while some members are down, and the odds of random failures.

use std::collections::BTreeSet;
use std::io::Write;

use clap::Args;
use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;

use crate::cli::ctl::{check_level, parse_level};
use crate::cli::exit::Exit;
use crate::cli::failure::Failure;
use crate::cli::json::Object;
use crate::cli::options::{Common, Format};
use crate::cli::table::{Side, Table};
use crate::replication::{Consistency, Level, owners_needed};
use crate::ring::{Odds, Ring, SLOTS, Survival};

use super::moves::share;
use super::source::Known;

/// Up to so many sets of failures, all are looked at.
const EXACT_OUTCOMES_MAX: u64 = 1_000_000;

#[derive(Args, Clone, Debug)]
pub(super) struct WhatifArgs {
    /// Members that are down, and zones all of whose members are; zone:NAME where a member has the same name
    #[arg(
        long,
        value_name = "NAME|ZONE",
        value_delimiter = ',',
        required_unless_present = "random"
    )]
    kill: Vec<String>,
    /// How likely it is that so many random failures (beyond --kill) lose a quorum, or all replicas, of some key
    #[arg(long, value_name = "FAILURES")]
    random: Option<usize>,
    /// Judge as if the layout's R were this
    #[arg(short, long, value_name = "N|one|quorum|all", value_parser = parse_level)]
    r: Option<Level>,
    /// Judge as if the layout's W were this
    #[arg(short, long, value_name = "N|one|quorum|all", value_parser = parse_level)]
    w: Option<Level>,
    /// Random failures that are tried where there are more than a million ways for them to fall
    #[arg(long, value_name = "COUNT", default_value_t = 100_000, value_parser = clap::value_parser!(u64).range(1..))]
    samples: u64,
    /// Where the random failures begin: the same seed, the same failures
    #[arg(long, default_value_t = 1)]
    seed: u64,
}

/// A ring with members down.
struct Scene {
    ring: Ring,
    survival: Survival,
    down: BTreeSet<u16>,
    /// Slots by how many of their owners are up, from 0.
    slots: Vec<usize>,
    /// A change runs, to another ring than this one.
    is_changing: bool,
}

/// A kind of request, and what it needs.
#[derive(Clone, Copy, Debug)]
struct Need {
    request: &'static str,
    consistency: Consistency,
    /// Owners that must be up; members, where stand-ins count.
    up: usize,
}

/// What can be lost, once so many owners of a key are down.
#[derive(Clone, Copy, Debug)]
struct Loss {
    what: &'static str,
    owners_down: usize,
}

/// `whatif`.
pub(super) fn whatif(
    args: &WhatifArgs,
    known: &Known,
    common: &Common,
    out: &mut dyn Write,
) -> anyhow::Result<Exit> {
    let ring = judged(&known.layout.now, args)?;
    let down = chosen(&ring, &args.kill)?;
    let survival = Survival::of(&known.preferences);
    let slots = survival.slots_by_owners_up(&down);
    let is_changing = known.layout.next.is_some();
    let scene = Scene { ring, survival, down, slots, is_changing };
    let odds = args.random.map(|failures| scene.odds(args, failures)).transpose()?;
    match common.format() {
        Format::Json => {
            writeln!(out, "{}", scene.object().finish())?;
            if let Some(odds) = &odds {
                writeln!(out, "{}", scene.odds_object(args, odds).finish())?;
            }
        }
        Format::Plain => scene.write_plain(args, odds.as_ref(), out)?,
        Format::Human => {
            if !args.kill.is_empty() {
                scene.write(out)?;
            }
            if let Some(odds) = &odds {
                scene.write_odds(args, odds, out)?;
            }
            if is_changing {
                writeln!(out, "a change is in progress; this is the ring before it")?;
            }
        }
    }
    Ok(Exit::Done)
}

/// The ring with the quorum that it is judged by.
fn judged(ring: &Ring, args: &WhatifArgs) -> Result<Ring, Failure> {
    check_level("r", args.r, ring)?;
    check_level("w", args.w, ring)?;
    let n = ring.effective_n();
    let resolved = |level: Option<Level>, present: u8| {
        let count = level.and_then(|level| level.resolve(n));
        count.and_then(|count| u8::try_from(count).ok()).unwrap_or(present)
    };
    Ok(Ring { r: resolved(args.r, ring.r), w: resolved(args.w, ring.w), ..ring.clone() })
}

/// The indexes of members by their names and zones.
fn chosen(ring: &Ring, words: &[String]) -> Result<BTreeSet<u16>, Failure> {
    let all = || (0..).zip(&ring.members);
    let mut chosen = BTreeSet::new();
    for word in words {
        let named = all().find(|(_, member)| member.name == *word).map(|(index, _)| index);
        let zone = word.strip_prefix("zone:").unwrap_or(word);
        let in_zone = all().filter(|(_, member)| !zone.is_empty() && member.zone == zone);
        let in_zone: Vec<u16> = in_zone.map(|(index, _)| index).collect();
        match named {
            Some(index) => drop(chosen.insert(index)),
            None if in_zone.is_empty() => {
                return Err(Failure::usage(format!("no member and no zone is named `{zone}`")));
            }
            None => chosen.extend(in_zone),
        }
    }
    Ok(chosen)
}

impl Scene {
    /// Members that are up and may own something.
    fn members_up(&self) -> usize {
        let active =
            |index: &&u16| self.ring.members[usize::from(**index)].weight.thousandths() > 0;
        self.survival.members() - self.down.iter().filter(active).count()
    }

    fn needs(&self) -> [Need; 4] {
        let of = |consistency| {
            let (get, put) = owners_needed(&self.ring, consistency);
            [("get", get), ("put", put)].map(|(request, up)| Need { request, consistency, up })
        };
        let [[strict_get, strict_put], [sloppy_get, sloppy_put]] =
            [Consistency::Strict, Consistency::Sloppy].map(of);
        [strict_get, strict_put, sloppy_get, sloppy_put]
    }

    fn losses(&self) -> [Loss; 3] {
        let n = self.ring.effective_n();
        let (get, put) = owners_needed(&self.ring, Consistency::Strict);
        [
            Loss { what: "strict_get", owners_down: n - get + 1 },
            Loss { what: "strict_put", owners_down: n - put + 1 },
            Loss { what: "every_replica", owners_down: n },
        ]
    }

    /// Slots that keep at least so many owners.
    fn slots_with(&self, owners: usize) -> usize {
        self.slots[owners..].iter().sum()
    }

    /// Slots for whose keys a request succeeds.
    fn slots_served(&self, need: Need) -> usize {
        match need.consistency {
            Consistency::Strict => self.slots_with(need.up),
            Consistency::Sloppy if need.up <= self.members_up() => SLOTS,
            Consistency::Sloppy => 0,
        }
    }

    fn odds(&self, args: &WhatifArgs, failures: usize) -> Result<Odds, Failure> {
        let up = self.members_up();
        if up < failures {
            let message = format!("{failures} failures: only {up} members are up");
            return Err(Failure::usage(message));
        }
        let outcomes = self.survival.outcomes(&self.down, failures);
        if outcomes.is_some_and(|outcomes| outcomes <= EXACT_OUTCOMES_MAX) {
            return Ok(self.survival.exact(&self.down, failures));
        }
        let mut random = ChaCha8Rng::seed_from_u64(args.seed);
        Ok(self.survival.sampled(&self.down, failures, args.samples, &mut random))
    }

    /// The share of keys that suffer a loss on average; known where nothing is down before.
    fn keys_hit(&self, args: &WhatifArgs, loss: Loss) -> Option<f64> {
        let failures = args.random.filter(|_| self.down.is_empty())?;
        Some(self.survival.share_hit(failures, loss.owners_down))
    }

    fn headline(&self) -> String {
        let names: Vec<&str> = self.names_down().collect();
        format!(
            "{} of {} members down ({}); N={} R={} W={}",
            names.len(),
            self.ring.members.len(),
            names.join(" "),
            self.ring.effective_n(),
            self.ring.effective_r(),
            self.ring.effective_w(),
        )
    }

    fn names_down(&self) -> impl Iterator<Item = &str> {
        self.down.iter().map(|index| self.ring.members[usize::from(*index)].name.as_str())
    }

    fn write(&self, out: &mut dyn Write) -> anyhow::Result<()> {
        writeln!(out, "{}", self.headline())?;
        let mut levels = Table::new(&[
            ("OWNERS UP", Side::Right),
            ("SHARE OF KEYS", Side::Right),
            ("AT LEAST", Side::Right),
        ]);
        for (owners, slots) in self.slots.iter().enumerate().rev() {
            let at_least = share(self.slots_with(owners), SLOTS);
            levels.row([owners.to_string(), share(*slots, SLOTS), at_least]);
        }
        levels.write(out)?;
        let mut requests = Table::new(&[
            ("REQUEST", Side::Left),
            ("NEEDS UP", Side::Left),
            ("SHARE OF KEYS", Side::Right),
        ]);
        for need in self.needs() {
            let (mode, whom) = words(need.consistency);
            requests.row([
                format!("{mode} {}", need.request),
                format!("{} {whom}", need.up),
                share(self.slots_served(need), SLOTS),
            ]);
        }
        requests.write(out)?;
        if self.slots[0] > 0 {
            let lost = share(self.slots[0], SLOTS);
            writeln!(out, "{lost} of the keys have no owner up: what they held cannot be read")?;
        }
        Ok(())
    }

    fn write_odds(
        &self,
        args: &WhatifArgs,
        odds: &Odds,
        out: &mut dyn Write,
    ) -> anyhow::Result<()> {
        let failures = args.random.unwrap_or(0);
        let up = self.members_up();
        let how = if odds.is_exact {
            format!("all {} outcomes", odds.outcomes())
        } else {
            format!("{} samples, seed {}, 95% intervals", odds.outcomes(), args.seed)
        };
        let sets = self.survival.owner_sets();
        writeln!(
            out,
            "{failures} random failures among {up} members, {sets} sets of owners: {how}"
        )?;
        let mut table = Table::new(&[
            ("LOST FOR SOME KEY", Side::Left),
            ("ODDS", Side::Right),
            ("FROM", Side::Right),
            ("TO", Side::Right),
            ("SHARE OF KEYS", Side::Right),
        ]);
        for loss in self.losses() {
            let (low, high) = odds.interval(loss.owners_down);
            let keys = self.keys_hit(args, loss);
            table.row([
                loss.what.replace('_', " "),
                odds_text(odds.probability(loss.owners_down)),
                odds_text(low),
                odds_text(high),
                keys.map_or_else(|| "-".to_owned(), odds_text),
            ]);
        }
        Ok(table.write(out)?)
    }

    /// Lines whose first field says what they are: `owners`, a request, or a loss.
    fn write_plain(
        &self,
        args: &WhatifArgs,
        odds: Option<&Odds>,
        out: &mut dyn Write,
    ) -> anyhow::Result<()> {
        for (owners, slots) in self.slots.iter().enumerate().rev() {
            writeln!(out, "owners\t{owners}\t{slots}\t{}", self.slots_with(owners))?;
        }
        for need in self.needs() {
            let (mode, _) = words(need.consistency);
            let Need { request, up, .. } = need;
            writeln!(out, "{mode}_{request}\t{up}\t{}", self.slots_served(need))?;
        }
        for (loss, odds) in self.losses().into_iter().filter_map(|loss| Some((loss, odds?))) {
            let (low, high) = odds.interval(loss.owners_down);
            let probability = odds.probability(loss.owners_down);
            let keys = self.keys_hit(args, loss).map_or_else(String::new, |keys| keys.to_string());
            writeln!(out, "odds_{}\t{probability}\t{low}\t{high}\t{keys}", loss.what)?;
        }
        Ok(())
    }

    fn object(&self) -> Object {
        let owners = self.slots.iter().enumerate().map(|(owners, slots)| {
            Object::bare()
                .field("owners", owners)
                .field("slots", slots)
                .field("slots_at_least", self.slots_with(owners))
        });
        let requests = self.needs().map(|need| {
            let (mode, whom) = words(need.consistency);
            Object::bare()
                .field("request", need.request)
                .field("consistency", mode)
                .field("needs", need.up)
                .field("of", whom)
                .field("slots", self.slots_served(need))
        });
        Object::new("whatif")
            .field("down", self.names_down().collect::<Vec<_>>())
            .field("members_up", self.members_up())
            .field("changing", self.is_changing)
            .field("n", self.ring.effective_n())
            .field("r", self.ring.effective_r())
            .field("w", self.ring.effective_w())
            .field("slots", SLOTS)
            .list("owners_up", owners)
            .list("requests", requests)
    }

    fn odds_object(&self, args: &WhatifArgs, odds: &Odds) -> Object {
        let losses = self.losses().map(|loss| {
            let (low, high) = odds.interval(loss.owners_down);
            Object::bare()
                .field("lost", loss.what)
                .field("owners_down", loss.owners_down)
                .field("odds", odds.probability(loss.owners_down))
                .field("odds_low", low)
                .field("odds_high", high)
                .maybe("keys", self.keys_hit(args, loss))
        });
        Object::new("odds")
            .maybe("failures", args.random)
            .field("members_up", self.members_up())
            .field("owner_sets", self.survival.owner_sets())
            .field("exact", odds.is_exact)
            .field("outcomes", odds.outcomes())
            .maybe("seed", (!odds.is_exact).then_some(args.seed))
            .list("losses", losses)
    }
}

/// How a request counts, and whom.
const fn words(consistency: Consistency) -> (&'static str, &'static str) {
    match consistency {
        Consistency::Strict => ("strict", "owners"),
        Consistency::Sloppy => ("sloppy", "members"),
    }
}

/// A probability: in percent, and where that would be all zeros as a power of ten.
fn odds_text(odds: f64) -> String {
    const SHOWN_MIN: f64 = 1e-5;
    if odds == 0.0 || odds >= SHOWN_MIN {
        format!("{:.3}%", odds * 100.0)
    } else {
        format!("{odds:.1e}")
    }
}

#[cfg(test)]
mod tests {
    use super::super::sample;
    use super::*;

    #[test]
    fn members_and_zones_are_chosen_by_name() {
        let mut ring = sample::known(4, 32).layout.now.clone();
        for (member, zone) in ring.members.iter_mut().zip(["a", "a", "n1", ""]) {
            member.zone = zone.to_owned();
        }
        let check = |words: &[&str], expected: Option<&[u16]>| {
            let words: Vec<String> = words.iter().map(|word| (*word).to_owned()).collect();
            let found = chosen(&ring, &words).ok();
            assert_eq!(
                found,
                expected.map(|indexes| indexes.iter().copied().collect()),
                "{words:?}"
            );
        };
        check(&["a"], Some(&[0, 1]));
        check(&["n1"], Some(&[0]));
        check(&["zone:n1"], Some(&[2]));
        check(&["n4", "a", "n1"], Some(&[0, 1, 3]));
        check(&["zone:"], None);
        check(&["b"], None);
    }

    #[test]
    fn odds_are_shown_without_false_zeros() {
        assert_eq!(odds_text(0.0), "0.000%");
        assert_eq!(odds_text(0.123_456), "12.346%");
        assert_eq!(odds_text(1e-7), "1.0e-7");
    }
}
