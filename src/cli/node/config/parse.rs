//! Texts to values: each reading checks its key's form and notes the problem with its place.

use std::net::{IpAddr, Ipv6Addr};
use std::time::Duration;

use crate::ring::Weight;
use crate::storage::SyncMode;

use super::keys::{Form, Key};
use super::sources::Settings;
use super::{ConfigError, Origin, Problem};

/// Thousandths in a weight of one.
const WEIGHT_ONE: u32 = 1_000;
/// Largest weight, thousandths.
const WEIGHT_MAX: u32 = 1_000 * WEIGHT_ONE;

/// Reads settings as values and gathers what is wrong; a wrong one reads as its type's zero.
pub(super) struct Fields<'a> {
    settings: &'a Settings,
    problems: Vec<Problem>,
}

impl<'a> Fields<'a> {
    pub(super) const fn new(settings: &'a Settings) -> Self {
        Self { settings, problems: Vec::new() }
    }

    /// The value, unless something was wrong.
    pub(super) fn finish<T>(self, value: T) -> Result<T, ConfigError> {
        if self.problems.is_empty() { Ok(value) } else { Err(ConfigError::Problems(self.problems)) }
    }

    /// Notes a problem with `path` unless `kept`; only the first problem of a key.
    pub(super) fn demand(&mut self, kept: bool, path: &str, text: impl Into<String>) {
        let origin = self.settings.get(path).map_or(Origin::Default, |set| set.origin.clone());
        let text: String = text.into();
        let text = format!("{path}: {text}");
        let begun = format!("{path}: ");
        let noted = self.problems.iter().any(|problem| problem.text.starts_with(&begun));
        if !kept && !noted {
            self.problems.push(Problem { origin, text });
        }
    }

    pub(super) fn text(&mut self, path: &str) -> String {
        self.settings.get(path).and_then(|set| set.texts.first()).cloned().unwrap_or_default()
    }

    pub(super) fn addresses(&mut self, path: &str) -> Vec<String> {
        let texts = self.settings.get(path).map(|set| set.texts.clone()).unwrap_or_default();
        for text in &texts {
            let message = format!("\"{text}\" is not {}", Form::Address);
            self.demand(split_address(text).is_some(), path, message);
        }
        texts
    }

    pub(super) fn address(&mut self, path: &str) -> String {
        let text = self.text(path);
        self.read(path, |text| split_address(text).map(|_| ()));
        text
    }

    pub(super) fn address_or_none(&mut self, path: &str) -> Option<String> {
        let text = self.text(path);
        if text.is_empty() { None } else { Some(self.address(path)) }
    }

    pub(super) fn span(&mut self, path: &str) -> Duration {
        self.read(path, parse_span)
    }

    pub(super) fn size<T: TryFrom<u64> + Default>(&mut self, path: &str) -> T {
        self.read(path, |text| T::try_from(parse_size(text)?).ok())
    }

    pub(super) fn rate(&mut self, path: &str) -> u64 {
        self.read(path, |text| {
            parse_size(text.trim_end_matches("/s").trim_end()).filter(|bytes| *bytes > 0)
        })
    }

    pub(super) fn count<T: TryFrom<u32> + Default>(&mut self, path: &str) -> T {
        let range = match Key::find(path).map(|key| key.form) {
            Some(Form::Count(least, most)) => least..=most,
            _ => 0..=u32::MAX,
        };
        self.read(path, |text| {
            let number = text.parse().ok().filter(|number| range.contains(number))?;
            T::try_from(number).ok()
        })
    }

    pub(super) fn weight(&mut self, path: &str) -> Weight {
        Weight(self.read(path, parse_weight))
    }

    pub(super) fn sync(&mut self, path: &str) -> SyncMode {
        let text = self.text(path);
        let mode = text.parse();
        self.demand(mode.is_ok(), path, not_form(path, &text));
        mode.unwrap_or(SyncMode::Always)
    }

    /// The value at the chosen text's place in the key's choices.
    pub(super) fn choice<T: Copy>(&mut self, path: &str, values: &[T]) -> T {
        let choices = match Key::find(path).map(|key| key.form) {
            Some(Form::Choice(choices)) => choices,
            _ => &[],
        };
        assert!(choices.len() == values.len(), "{path}: each choice needs its value");
        let text = self.text(path);
        let index = choices.iter().position(|choice| *choice == text);
        self.demand(index.is_some(), path, not_form(path, &text));
        values[index.unwrap_or(0)]
    }

    fn read<T: Default>(&mut self, path: &str, parse: impl FnOnce(&str) -> Option<T>) -> T {
        let text = self.text(path);
        let value = parse(&text);
        self.demand(value.is_some(), path, not_form(path, &text));
        value.unwrap_or_default()
    }
}

/// Whether `address` stands for all of a machine's interfaces.
pub(super) fn is_unspecified(address: &str) -> bool {
    host(address).parse::<IpAddr>().is_ok_and(|ip| ip.is_unspecified())
}

/// Whether only this machine reaches `address`.
pub(super) fn is_loopback(address: &str) -> bool {
    let host = host(address);
    host == "localhost" || host.parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback())
}

/// The host of an address, without brackets.
fn host(address: &str) -> &str {
    let host = split_address(address).map_or("", |(host, _)| host);
    host.trim_start_matches('[').trim_end_matches(']')
}

fn not_form(path: &str, text: &str) -> String {
    Key::find(path).map_or_else(String::new, |key| format!("\"{text}\" is not {}", key.form))
}

/// `host:port`, an IPv6 host in brackets.
fn split_address(text: &str) -> Option<(&str, u16)> {
    let (host, port) = text.rsplit_once(':')?;
    let bracketed = host.strip_prefix('[').and_then(|rest| rest.strip_suffix(']'));
    let plausible = match bracketed {
        Some(ip) => ip.parse::<Ipv6Addr>().is_ok(),
        None => !host.is_empty() && !host.contains(':'),
    };
    plausible.then_some(())?;
    Some((host, port.parse().ok()?))
}

fn parse_span(text: &str) -> Option<Duration> {
    humantime::parse_duration(text).ok().filter(|span| !span.is_zero())
}

/// Bytes of `64MiB`, `10KB`, `512`; 1024-based with an `i`, 1000-based without.
fn parse_size(text: &str) -> Option<u64> {
    let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let factor: u64 = match unit.trim() {
        "" | "B" => 1,
        "KB" => 1_000,
        "MB" => 1_000_000,
        "GB" => 1_000_000_000,
        "KiB" => 1 << 10,
        "MiB" => 1 << 20,
        "GiB" => 1 << 30,
        "TiB" => 1 << 40,
        _ => return None,
    };
    number.parse::<u64>().ok()?.checked_mul(factor)
}

fn parse_weight(text: &str) -> Option<u32> {
    let (whole, decimals) = text.split_once('.').unwrap_or((text, ""));
    if decimals.len() > 3 || !decimals.bytes().all(|digit| digit.is_ascii_digit()) {
        return None;
    }
    let thousandths: u32 = format!("{decimals:0<3}").parse().ok()?;
    let weight = whole.parse::<u32>().ok()?.checked_mul(WEIGHT_ONE)?.checked_add(thousandths)?;
    (weight <= WEIGHT_MAX).then_some(weight)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_read_as_people_write_them() {
        for (text, bytes) in [
            ("64MiB", Some(64 << 20)),
            ("10KB", Some(10_000)),
            ("7", Some(7)),
            ("MiB", None),
            ("1.5MiB", None),
            ("99999999999TiB", None),
        ] {
            assert_eq!(parse_size(text), bytes, "{text}");
        }
    }

    #[test]
    fn weights_are_thousandths() {
        for (text, weight) in [
            ("1.0", Some(1_000)),
            ("2", Some(2_000)),
            ("0.25", Some(250)),
            ("0.0001", None),
            ("-1", None),
            ("1001", None),
        ] {
            assert_eq!(parse_weight(text), weight, "{text}");
        }
    }

    #[test]
    fn an_address_is_host_and_port() {
        for (text, good) in [
            ("127.0.0.1:1", true),
            ("[::1]:80", true),
            ("db-1.lan:7400", true),
            ("::1:80", false),
            (":80", false),
            ("h:70000", false),
            ("h", false),
        ] {
            assert_eq!(split_address(text).is_some(), good, "{text}");
        }
    }
}
