//! A member's weight.

use std::fmt;
use std::str::FromStr;

use serde::de::{self, Unexpected, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// A member's share of the ring, in thousandths; 0 owns nothing. Written as a decimal number (`1.0`) in JSON and TOML.
///
/// From 0 to 1000 in steps of a thousandth; [`super::Ring::validate`] refuses more.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Weight(pub u32);

/// A text or number that is no weight.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is no weight (a decimal number from 0 to 1000 with at most three decimals)")]
pub struct WeightError(String);

impl Weight {
    /// A member that owns nothing: one that leaves.
    pub const ZERO: Self = Self(0);
    /// The usual weight.
    pub const ONE: Self = Self(1_000);
    /// The largest weight.
    pub const MAX: Self = Self(1_000_000);

    /// The weight in thousandths.
    pub const fn thousandths(self) -> u32 {
        self.0
    }
}

impl fmt::Display for Weight {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (whole, thousandths) = (self.0 / 1_000, self.0 % 1_000);
        let decimals = format!("{thousandths:03}");
        let decimals = decimals.trim_end_matches('0');
        write!(f, "{whole}.{}", if decimals.is_empty() { "0" } else { decimals })
    }
}

impl FromStr for Weight {
    type Err = WeightError;

    fn from_str(text: &str) -> Result<Self, WeightError> {
        let (whole, decimals) = text.split_once('.').unwrap_or((text, "0"));
        let digits =
            |part: &str| !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_digit());
        let thousandths = || {
            let whole: u32 = whole.parse().ok()?;
            let decimals: u32 = format!("{decimals:0<3}").parse().ok()?;
            whole.checked_mul(1_000)?.checked_add(decimals)
        };
        Some(())
            .filter(|()| digits(whole) && digits(decimals) && decimals.len() <= 3)
            .and_then(|()| thousandths())
            .map(Self)
            .filter(|weight| *weight <= Self::MAX)
            .ok_or_else(|| WeightError(text.to_owned()))
    }
}

impl Serialize for Weight {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        if serializer.is_human_readable() {
            serializer.serialize_f64(f64::from(self.0) / 1_000.0)
        } else {
            serializer.serialize_u32(self.0)
        }
    }
}

impl<'de> Deserialize<'de> for Weight {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        if deserializer.is_human_readable() {
            deserializer.deserialize_any(Decimal)
        } else {
            u32::deserialize(deserializer).map(Self)
        }
    }
}

/// Reads a weight from a number, whole or not.
struct Decimal;

impl Visitor<'_> for Decimal {
    type Value = Weight;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a weight from 0 to 1000 with at most three decimals")
    }
    fn visit_f64<E: de::Error>(self, number: f64) -> Result<Weight, E> {
        // Rust prints the shortest decimal that reads back as the same number: what the user wrote.
        number.to_string().parse().map_err(|_| E::invalid_value(Unexpected::Float(number), &self))
    }
    fn visit_u64<E: de::Error>(self, number: u64) -> Result<Weight, E> {
        number
            .to_string()
            .parse()
            .map_err(|_| E::invalid_value(Unexpected::Unsigned(number), &self))
    }
    fn visit_i64<E: de::Error>(self, number: i64) -> Result<Weight, E> {
        number.to_string().parse().map_err(|_| E::invalid_value(Unexpected::Signed(number), &self))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(text: &str, thousandths: u32, shown: &str) {
        let weight: Weight = text.parse().unwrap();
        assert_eq!((weight, weight.to_string().as_str()), (Weight(thousandths), shown), "{text}");
        assert_eq!(serde_json::from_str::<Weight>(text).unwrap(), weight, "{text} in JSON");
        assert_eq!(serde_json::to_string(&weight).unwrap(), shown);
        assert_eq!(
            rmp_serde::from_slice::<Weight>(&rmp_serde::to_vec(&weight).unwrap()).unwrap(),
            weight
        );
    }

    #[test]
    fn weights_are_decimal_numbers() {
        check("1.0", 1_000, "1.0");
        check("1", 1_000, "1.0");
        check("0", 0, "0.0");
        check("0.001", 1, "0.001");
        check("2.25", 2_250, "2.25");
        check("1000", 1_000_000, "1000.0");
        check("999.999", 999_999, "999.999");
    }

    #[test]
    fn every_weight_survives_json() {
        for thousandths in (0..=Weight::MAX.0).step_by(7) {
            let text = serde_json::to_string(&Weight(thousandths)).unwrap();
            assert_eq!(
                serde_json::from_str::<Weight>(&text).unwrap(),
                Weight(thousandths),
                "{text}"
            );
        }
    }

    #[test]
    fn what_is_no_weight_is_refused() {
        for text in ["", "-1", "1.", ".5", "1.0001", "1000.001", "1e3", "NaN", "+1", "99999999999"]
        {
            assert!(text.parse::<Weight>().is_err(), "{text} was taken");
        }
        for json in ["-1", "-0.5", "1.0001", "1000.5", "\"1\"", "null"] {
            assert!(serde_json::from_str::<Weight>(json).is_err(), "{json} was taken");
        }
    }
}
