//! The join of JSON values: the least tree that holds what each of them says.
//!
//! Why not a three-way merge: siblings have no common ancestor that is still there. So the join is that of a
//! semilattice, commutative, associative and idempotent: whoever merges whatever, in whatever order, ends at the same
//! tree. The price: what one side removed and another kept stays.
//! ```text
//! object ∨ object   by key, each value joined
//! list ∨ list       the same list where they are equal; else the sorted set of both elements
//! other             the greater by null < false < true < numbers < strings < lists < objects
//! ```
//! Numbers go by value, then by spelling, and keep their spelling: none is rounded.

use std::cmp::Ordering;
use std::collections::{BTreeMap, BTreeSet};

use serde_json::value::RawValue;

use crate::cli::json::serialized;

/// Deepest nesting that is looked into: that of `serde_json`.
const DEPTH_MAX: usize = 128;

/// A JSON value. The order of the variants is the order of the kinds.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Json {
    Null,
    Bool(bool),
    Number(Number),
    Text(String),
    List(Vec<Json>),
    Object(BTreeMap<String, Json>),
}

/// A number as it is written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Number(String);

/// Why bytes are no JSON that can be joined.
#[derive(Debug, thiserror::Error)]
pub(in crate::cli::ctl) enum JsonError {
    /// They are none.
    #[error("{0}")]
    Malformed(#[from] serde_json::Error),
    /// They are nested too deeply.
    #[error("it is nested more than {DEPTH_MAX} deep")]
    TooDeep,
}

impl Ord for Number {
    fn cmp(&self, other: &Self) -> Ordering {
        self.by_value(other).then_with(|| self.0.cmp(&other.0))
    }
}

impl PartialOrd for Number {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Number {
    /// By value as far as a double tells, and integers that fit into 128 bits in full.
    fn by_value(&self, other: &Self) -> Ordering {
        let double = |number: &Self| number.0.parse::<f64>().unwrap_or(f64::NAN);
        let whole = |number: &Self| number.0.parse::<i128>().ok();
        double(self).total_cmp(&double(other)).then_with(|| whole(self).cmp(&whole(other)))
    }
}

/// Reads one JSON value.
/// # Errors
/// [`JsonError`].
pub(super) fn parse(bytes: &[u8]) -> Result<Json, JsonError> {
    parse_raw(serde_json::from_slice(bytes)?, 0)
}

fn parse_raw(raw: &RawValue, depth: usize) -> Result<Json, JsonError> {
    if DEPTH_MAX <= depth {
        return Err(JsonError::TooDeep);
    }
    let text = raw.get();
    Ok(match text.as_bytes().first() {
        Some(b'{') => {
            let fields: BTreeMap<String, &RawValue> = serde_json::from_str(text)?;
            let parse = |(key, raw)| Ok((key, parse_raw(raw, depth + 1)?));
            Json::Object(fields.into_iter().map(parse).collect::<Result<_, JsonError>>()?)
        }
        Some(b'[') => {
            let elements: Vec<&RawValue> = serde_json::from_str(text)?;
            let parse = |raw| parse_raw(raw, depth + 1);
            Json::List(elements.into_iter().map(parse).collect::<Result<_, _>>()?)
        }
        Some(b'"') => Json::Text(serde_json::from_str(text)?),
        Some(b't' | b'f') => Json::Bool(serde_json::from_str(text)?),
        Some(b'n') => Json::Null,
        Some(_) | None => Json::Number(Number(text.to_owned())),
    })
}

/// The join of all trees as text without white space; `null` where there are none.
pub(super) fn joined(trees: &[Json]) -> String {
    let joined = trees.iter().cloned().reduce(join).unwrap_or(Json::Null);
    let mut text = String::new();
    write(&joined, &mut text);
    text
}

fn join(left: Json, right: Json) -> Json {
    match (left, right) {
        (Json::Object(mut left), Json::Object(right)) => {
            for (key, theirs) in right {
                let value = match left.remove(&key) {
                    Some(ours) => join(ours, theirs),
                    None => theirs,
                };
                left.insert(key, value);
            }
            Json::Object(left)
        }
        (Json::List(left), Json::List(right)) if left != right => {
            let elements: BTreeSet<Json> = left.into_iter().chain(right).collect();
            Json::List(elements.into_iter().collect())
        }
        (left, right) => left.max(right),
    }
}

fn write(json: &Json, text: &mut String) {
    match json {
        Json::Null => text.push_str("null"),
        Json::Bool(value) => text.push_str(if *value { "true" } else { "false" }),
        Json::Number(Number(number)) => text.push_str(number),
        Json::Text(value) => text.push_str(&serialized(value)),
        Json::List(elements) => {
            text.push('[');
            for (place, element) in elements.iter().enumerate() {
                text.push_str(if place == 0 { "" } else { "," });
                write(element, text);
            }
            text.push(']');
        }
        Json::Object(fields) => {
            text.push('{');
            for (place, (key, value)) in fields.iter().enumerate() {
                text.push_str(if place == 0 { "" } else { "," });
                text.push_str(&serialized(key));
                text.push(':');
                write(value, text);
            }
            text.push('}');
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[track_caller]
    fn check(left: &str, right: &str, expected: &str) {
        let [left, right] = [left, right].map(|text| parse(text.as_bytes()).unwrap());
        assert_eq!(joined(&[left.clone(), right.clone()]), expected);
        assert_eq!(joined(&[right, left]), expected, "mirrored");
    }

    #[test]
    fn objects_join_by_key_and_lists_as_sets() {
        check(r#"{"b":1,"a":{"x":1}}"#, r#"{"a":{"y":2}}"#, r#"{"a":{"x":1,"y":2},"b":1}"#);
        check("[3,1]", "[3, 1]", "[3,1]");
        check("[3,1]", "[2,1]", "[1,2,3]");
        check("[[1],{}]", r#"[null,"a"]"#, r#"[null,"a",[1],{}]"#);
    }

    #[test]
    fn of_other_values_the_greater_stays() {
        for pair in
            ["null", "false", "true", "-1", "0", "1e2", "101", "\"\"", "\"a\"", "\"b\"", "[]", "{}"]
                .windows(2)
        {
            check(pair[0], pair[1], pair[1]);
        }
    }

    #[test]
    fn numbers_keep_their_spelling_and_all_their_digits() {
        check("9007199254740993", "9007199254740992", "9007199254740993");
        check("1", "1.0", "1");
        check("[0.10]", "[0.10]", "[0.10]");
        check("123456789012345678901234567890123", "1", "123456789012345678901234567890123");
    }

    #[test]
    fn what_cannot_be_joined_is_refused() {
        for text in ["", "{", "{}x", "nul", "\"\\ud800\"", "[\"\\ud800\"]", "\u{feff}{}"] {
            assert!(matches!(parse(text.as_bytes()), Err(JsonError::Malformed(_))), "{text}");
        }
        let deep = "[".repeat(DEPTH_MAX + 1) + &"]".repeat(DEPTH_MAX + 1);
        assert!(parse(deep.as_bytes()).is_err());
        let fits = "[".repeat(DEPTH_MAX) + &"]".repeat(DEPTH_MAX);
        assert_eq!(joined(&[parse(fits.as_bytes()).unwrap()]), fits);
    }

    fn trees() -> impl Strategy<Value = Json> {
        let leaf = prop_oneof![
            Just(Json::Null),
            any::<bool>().prop_map(Json::Bool),
            prop::sample::select(vec!["0", "-0", "1", "1.0", "1e0", "2", "9007199254740993"])
                .prop_map(|text| Json::Number(Number(text.to_owned()))),
            "[a-b\"]{0,2}".prop_map(Json::Text),
        ];
        leaf.prop_recursive(3, 24, 4, |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..4).prop_map(Json::List),
                prop::collection::btree_map("[a-c]", inner, 0..4).prop_map(Json::Object),
            ]
        })
    }

    proptest! {
        #[test]
        fn joining_is_commutative_associative_and_idempotent(one in trees(), two in trees(), three in trees()) {
            let both = join(one.clone(), two.clone());
            prop_assert_eq!(&both, &join(two.clone(), one.clone()));
            prop_assert_eq!(join(both.clone(), three.clone()), join(one.clone(), join(two, three)));
            prop_assert_eq!(join(one.clone(), one.clone()), one.clone());
            prop_assert_eq!(join(both.clone(), one), both);
        }

        #[test]
        fn a_tree_reads_back_as_it_was_written(tree in trees()) {
            let text = joined(std::slice::from_ref(&tree));
            prop_assert_eq!(parse(text.as_bytes()).unwrap(), tree);
        }
    }
}
