//! Reading records: generous in what it takes, exact in what it says about the rest.

use bytes::Bytes;
use data_encoding::BASE64URL_NOPAD;
use serde::{Deserialize, Deserializer};
use serde_json::value::RawValue;

use super::compact_json::compact;

/// What a line holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Parsed {
    /// A record.
    Record(Record),
    /// The header.
    Header,
    /// The footer.
    Footer,
    /// Nothing but white space.
    Blank,
}

/// A key and what to store under it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Record {
    /// The key.
    pub(crate) key: Bytes,
    /// Its values.
    pub(crate) value: RecordValue,
    /// The context token, not looked into.
    pub(crate) context: Option<String>,
}

/// What a record stores; `None` for a delete.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum RecordValue {
    /// One version.
    One(Option<Bytes>),
    /// Concurrent versions, at least one.
    Siblings(Vec<Option<Bytes>>),
}

/// Why a line is no record.
#[derive(Debug, thiserror::Error)]
pub(crate) enum RecordError {
    /// The line is longer than any record.
    #[error("the line is too long")]
    TooLong,
    /// It is some other JSON value.
    #[error("no JSON object")]
    NotAnObject,
    /// It is no JSON, or one of our fields stands there twice.
    #[error("no JSON object")]
    Json(#[source] serde_json::Error),
    /// A field that every record needs.
    #[error("no `{0}`")]
    Missing(&'static str),
    /// A field and its `_b64` twin.
    #[error("both `{0}` and `{0}_b64`")]
    Twice(&'static str),
    /// A field of the wrong form.
    #[error("`{0}` {1}")]
    Field(&'static str, &'static str),
    /// A state that cannot be made of what the record says.
    #[error("{0}")]
    State(String),
    /// An entry of a file that is not part of the data.
    #[error("a `{0}` entry cannot be imported")]
    NotData(String),
}

/// The fields that count, still as JSON text: a field is looked into only where it counts.
#[derive(Deserialize)]
struct Fields<'a> {
    #[serde(borrow, default, rename = "type", deserialize_with = "present")]
    kind: Option<&'a RawValue>,
    #[serde(borrow, default, deserialize_with = "present")]
    key: Option<&'a RawValue>,
    #[serde(borrow, default, deserialize_with = "present")]
    key_b64: Option<&'a RawValue>,
    #[serde(borrow, default, deserialize_with = "present")]
    value: Option<&'a RawValue>,
    #[serde(borrow, default, deserialize_with = "present")]
    value_b64: Option<&'a RawValue>,
    #[serde(borrow, default, deserialize_with = "present")]
    siblings: Option<&'a RawValue>,
    #[serde(borrow, default, deserialize_with = "present")]
    tombstone: Option<&'a RawValue>,
    #[serde(borrow, default, deserialize_with = "present")]
    ctx: Option<&'a RawValue>,
}

/// One of a record's siblings.
#[derive(Deserialize)]
struct SiblingFields<'a> {
    #[serde(borrow, default, deserialize_with = "present")]
    value: Option<&'a RawValue>,
    #[serde(borrow, default, deserialize_with = "present")]
    value_b64: Option<&'a RawValue>,
    #[serde(borrow, default, deserialize_with = "present")]
    tombstone: Option<&'a RawValue>,
}

/// A field that is there, `null` included.
pub(super) fn present<'de: 'a, 'a, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<Option<&'a RawValue>, D::Error> {
    <&RawValue>::deserialize(deserializer).map(Some)
}

/// Reads one line. Only `key` and `value` are needed; fields that are not ours are left alone.
/// # Errors
/// [`RecordError`] where the line cannot be stored.
pub(crate) fn parse(line: &[u8]) -> Result<Parsed, RecordError> {
    if line.trim_ascii().is_empty() {
        return Ok(Parsed::Blank);
    }
    // A derived struct would also be read from a list, by position.
    if !line.trim_ascii_start().starts_with(b"{") {
        return Err(RecordError::NotAnObject);
    }
    let fields: Fields<'_> = serde_json::from_slice(line).map_err(RecordError::Json)?;
    let kind = fields.kind.and_then(|kind| string(kind).ok());
    match kind.as_deref() {
        Some("header") if fields.key.is_none() => return Ok(Parsed::Header),
        Some("footer") if fields.key.is_none() => return Ok(Parsed::Footer),
        Some(kind @ ("hint" | "meta")) => return Err(RecordError::NotData(kind.to_owned())),
        Some(_) | None => {}
    }
    let key = key_of(fields.key, fields.key_b64)?;
    let context = match fields.ctx {
        None => None,
        Some(ctx) => Some(string(ctx).map_err(|()| RecordError::Field("ctx", "is no string"))?),
    };
    Ok(Parsed::Record(Record { key, value: value_of(&fields)?, context }))
}

pub(super) fn key_of(
    key: Option<&RawValue>,
    key_b64: Option<&RawValue>,
) -> Result<Bytes, RecordError> {
    let key = match (key, key_b64) {
        (Some(_), Some(_)) => return Err(RecordError::Twice("key")),
        (None, None) => return Err(RecordError::Missing("key")),
        (None, Some(key)) => base64("key_b64", key)?,
        (Some(key), None) => match key.get().as_bytes().first() {
            Some(b'"') => {
                let text = string(key).map_err(|()| RecordError::Field("key", "is no string"))?;
                Bytes::from(text)
            }
            Some(b'-' | b'0'..=b'9') => Bytes::copy_from_slice(key.get().as_bytes()),
            Some(_) | None => {
                return Err(RecordError::Field("key", "is neither a string nor a number"));
            }
        },
    };
    if key.is_empty() {
        return Err(RecordError::Field("key", "is empty"));
    }
    Ok(key)
}

fn value_of(fields: &Fields<'_>) -> Result<RecordValue, RecordError> {
    if let Some(siblings) = fields.siblings {
        if fields.value.is_some() || fields.value_b64.is_some() {
            return Err(RecordError::Field("siblings", "stands beside a value"));
        }
        let no_list = || RecordError::Field("siblings", "is no list of objects");
        let siblings: Vec<&RawValue> =
            serde_json::from_str(siblings.get()).map_err(|_| no_list())?;
        if siblings.is_empty() {
            return Err(RecordError::Field("siblings", "is empty"));
        }
        return siblings
            .iter()
            .map(|text| {
                let object = Some(text.get()).filter(|text| text.starts_with('{'));
                let one: SiblingFields<'_> =
                    object.and_then(|text| serde_json::from_str(text).ok()).ok_or_else(no_list)?;
                one_value(one.value, one.value_b64, one.tombstone)
            })
            .collect::<Result<_, _>>()
            .map(RecordValue::Siblings);
    }
    one_value(fields.value, fields.value_b64, fields.tombstone).map(RecordValue::One)
}

pub(super) fn one_value(
    value: Option<&RawValue>,
    value_b64: Option<&RawValue>,
    tombstone: Option<&RawValue>,
) -> Result<Option<Bytes>, RecordError> {
    let deleted = match tombstone.map(RawValue::get) {
        None | Some("false") => false,
        Some("true") => true,
        Some(_) => return Err(RecordError::Field("tombstone", "is neither true nor false")),
    };
    match (value, value_b64) {
        (Some(_), Some(_)) => Err(RecordError::Twice("value")),
        (None, None) if deleted => Ok(None),
        (None, None) => Err(RecordError::Missing("value")),
        _ if deleted => Err(RecordError::Field("tombstone", "stands beside a value")),
        (None, Some(value)) => base64("value_b64", value).map(Some),
        (Some(value), None) if value.get().starts_with('"') => string(value)
            .map(|text| Some(Bytes::from(text)))
            .map_err(|()| RecordError::Field("value", "is no string of Unicode text")),
        (Some(value), None) => Ok(Some(Bytes::from(compact(value.get())))),
    }
}

pub(super) fn string(value: &RawValue) -> Result<String, ()> {
    serde_json::from_str(value.get()).map_err(drop)
}

pub(super) fn base64(name: &'static str, value: &RawValue) -> Result<Bytes, RecordError> {
    let text = string(value).map_err(|()| RecordError::Field(name, "is no string"))?;
    BASE64URL_NOPAD
        .decode(text.trim_end_matches('=').as_bytes())
        .map(Bytes::from)
        .map_err(|_| RecordError::Field(name, "is no base64url"))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[track_caller]
    fn check(line: &str, key: &[u8], value: Option<&[u8]>) {
        match parse(line.as_bytes()) {
            Ok(Parsed::Record(record)) => {
                assert_eq!(record.key, key, "{line}");
                let value = value.map(Bytes::copy_from_slice);
                assert_eq!(record.value, RecordValue::One(value), "{line}");
            }
            other => panic!("{line}: {other:?}"),
        }
    }

    #[track_caller]
    fn check_refused(line: &str, expected: &str) {
        let error = parse(line.as_bytes()).expect_err(line);
        assert_eq!(error.to_string(), expected, "{line}");
    }

    #[test]
    fn key_and_value_are_enough() {
        check(r#"{"key":"a","value":"b"}"#, b"a", Some(b"b"));
        check(r#"{"value":"","key":"a","type":7,"records":"x"}"#, b"a", Some(b""));
        check(r#"{"key_b64":"AP8","value_b64":"AP8="}"#, b"\x00\xff", Some(b"\x00\xff"));
        check(r#"{"key":"a","tombstone":true}"#, b"a", None);
        check("{\"key\":\"caf\\u00e9\",\"value\":\"\\n\"}\n", "caf\u{e9}".as_bytes(), Some(b"\n"));
    }

    #[test]
    fn any_other_value_is_its_own_text() {
        check(
            r#"{"key":1.50,"value":{"b": 1, "a": [1.0, 2e3], "b": 2}}"#,
            b"1.50",
            Some(br#"{"b":1,"a":[1.0,2e3],"b":2}"#),
        );
        check(r#"{"key":"a","value":null}"#, b"a", Some(b"null"));
        check(r#"{"key":"a","value": -0.0 }"#, b"a", Some(b"-0.0"));
        check(r#"{"key":"a","value":true}"#, b"a", Some(b"true"));
    }

    #[test]
    fn what_cannot_be_stored_is_named() {
        check_refused("[]", "no JSON object");
        check_refused("{", "no JSON object");
        check_refused(r#"["kv","a",null,"b"]"#, "no JSON object");
        check_refused(r#"{"key":"a","siblings":[["b"]]}"#, "`siblings` is no list of objects");
        check_refused(r#"{"key":"a","key":"b","value":1}"#, "no JSON object");
        check_refused("{}", "no `key`");
        check_refused(r#"{"key":"a"}"#, "no `value`");
        check_refused(r#"{"key":"","value":1}"#, "`key` is empty");
        check_refused(r#"{"key":null,"value":1}"#, "`key` is neither a string nor a number");
        check_refused(r#"{"key":"a","key_b64":"YQ","value":1}"#, "both `key` and `key_b64`");
        check_refused(r#"{"key":"a","value_b64":"?"}"#, "`value_b64` is no base64url");
        check_refused(
            r#"{"key":"a","value":1,"tombstone":true}"#,
            "`tombstone` stands beside a value",
        );
        check_refused(r#"{"key":"a","siblings":[]}"#, "`siblings` is empty");
        check_refused(
            r#"{"type":"meta","key":"a","value":1}"#,
            "a `meta` entry cannot be imported",
        );
    }

    #[test]
    fn frames_blanks_and_siblings_are_told_apart() {
        assert_eq!(parse(b" \n").unwrap(), Parsed::Blank);
        assert_eq!(
            parse(br#"{"v":1,"type":"header","format":"kv-records/1"}"#).unwrap(),
            Parsed::Header
        );
        assert_eq!(parse(br#"{"v":1,"type":"footer","records":4}"#).unwrap(), Parsed::Footer);
        let line = br#"{"key":"k","siblings":[{"value":"a"},{"tombstone":true}],"ctx":"c1.x"}"#;
        let expected = Record {
            key: Bytes::from_static(b"k"),
            value: RecordValue::Siblings(vec![Some(Bytes::from_static(b"a")), None]),
            context: Some("c1.x".to_owned()),
        };
        assert_eq!(parse(line).unwrap(), Parsed::Record(expected));
    }

    proptest! {
        #[test]
        fn any_bytes_parse_without_panic(line: Vec<u8>) {
            let _ = parse(&line);
        }
    }
}
