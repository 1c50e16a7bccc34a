//! What an operator may wish of a ring, as flags.

use clap::Args;

use crate::ring::{Member, Weight, Wish};

/// Flags that say what is to change.
#[derive(Args, Clone, Debug)]
pub(super) struct Wishes {
    /// A further member; may be given repeatedly
    #[arg(long, value_name = "NAME[:ZONE[:WEIGHT]]", value_parser = parse_addition)]
    add: Vec<Wish>,
    /// A member that goes; may be given repeatedly
    #[arg(long, value_name = "NAME")]
    remove: Vec<String>,
    /// Another weight for a member; 0 is one that leaves
    #[arg(long, value_name = "NAME=WEIGHT", value_parser = parse_weight)]
    weight: Vec<Wish>,
    /// Another zone for a member; nothing after the = is none
    #[arg(long, value_name = "NAME=ZONE", value_parser = parse_zone)]
    zone: Vec<Wish>,
    /// Replicas that a key has
    #[arg(long, value_name = "N")]
    n: Option<u8>,
    /// Replies that a read waits for
    #[arg(long, value_name = "R")]
    r: Option<u8>,
    /// Durable acknowledgements that a write waits for
    #[arg(long, value_name = "W")]
    w: Option<u8>,
    /// Partitions, a power of two; their number can only be doubled, once or more
    #[arg(long, value_name = "Q")]
    partitions: Option<u32>,
}

impl Wishes {
    /// All of them, those that name members first.
    pub(super) fn wishes(self) -> Vec<Wish> {
        let Self { mut add, remove, weight, zone, n, r, w, partitions } = self;
        add.extend(remove.into_iter().map(Wish::Remove));
        add.extend(weight);
        add.extend(zone);
        add.extend(n.map(Wish::N));
        add.extend(r.map(Wish::R));
        add.extend(w.map(Wish::W));
        add.extend(partitions.map(Wish::Partitions));
        add
    }
}

/// Parses `n4`, `n4:zone-b`, `n4:zone-b:2`, `n4::2`.
fn parse_addition(text: &str) -> Result<Wish, String> {
    let mut fields = text.splitn(3, ':');
    let name = fields.next().unwrap_or_default().to_owned();
    let zone = fields.next().unwrap_or_default().to_owned();
    let weight = fields.next().map_or(Ok(Weight::ONE), str::parse);
    let weight = weight.map_err(|error| error.to_string())?;
    if !Member::is_name(&name) {
        return Err(format!("`{name}` is no name of a member"));
    }
    checked_zone(zone).map(|zone| Wish::Add { name, zone, weight })
}

fn parse_weight(text: &str) -> Result<Wish, String> {
    let (name, weight) = assignment(text)?;
    let weight = weight.parse().map_err(|error: crate::ring::WeightError| error.to_string())?;
    Ok(Wish::Weigh(name, weight))
}

fn parse_zone(text: &str) -> Result<Wish, String> {
    let (name, zone) = assignment(text)?;
    checked_zone(zone).map(|zone| Wish::Rezone(name, zone))
}

fn assignment(text: &str) -> Result<(String, String), String> {
    let (name, value) =
        text.split_once('=').ok_or_else(|| format!("`{text}` has no = after a member's name"))?;
    Ok((name.to_owned(), value.to_owned()))
}

fn checked_zone(zone: String) -> Result<String, String> {
    if Member::is_zone(&zone) { Ok(zone) } else { Err(format!("`{zone}` is no name of a zone")) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(text: &str, expected: Option<(&str, &str, u32)>) {
        let expected = expected.map(|(name, zone, thousandths)| Wish::Add {
            name: name.to_owned(),
            zone: zone.to_owned(),
            weight: Weight(thousandths),
        });
        assert_eq!(parse_addition(text).ok(), expected, "{text}");
    }

    #[test]
    fn additions_are_read() {
        check("n4", Some(("n4", "", 1_000)));
        check("n4:b", Some(("n4", "b", 1_000)));
        check("n4:b:2.5", Some(("n4", "b", 2_500)));
        check("n4::0.5", Some(("n4", "", 500)));
        for text in ["", ":b", "n4:b:x", "n4:b:2:3", "-n4", "n4:-b", "n4:b:"] {
            check(text, None);
        }
    }

    #[test]
    fn assignments_are_read() {
        assert_eq!(parse_weight("n1=2"), Ok(Wish::Weigh("n1".to_owned(), Weight(2_000))));
        assert_eq!(parse_zone("n1="), Ok(Wish::Rezone("n1".to_owned(), String::new())));
        assert!(parse_weight("n1").is_err() && parse_weight("n1=x").is_err());
        assert!(parse_zone("n1=-").is_err() && parse_zone("n1").is_err());
    }
}
