//! One JSON object a line, its fields in the order they are given (`v` and `type` first).

use std::borrow::Cow;

use data_encoding::BASE64URL_NOPAD;
use serde::Serialize;

/// Version of every object that the programs print.
pub const OBJECT_VERSION: u32 = 1;

/// A JSON object under construction: its text, written field by field into one buffer.
#[derive(Clone, Debug)]
pub struct Object {
    text: Vec<u8>,
}

impl Object {
    /// An object of a line, which says what it is.
    pub fn new(kind: &str) -> Self {
        Self::new_in(Vec::new(), kind)
    }

    /// The same in a buffer that was used before, whose bytes go: a stream of objects then needs no memory but this.
    pub fn new_in(buffer: Vec<u8>, kind: &str) -> Self {
        Self::bare_in(buffer).field("v", OBJECT_VERSION).text("type", kind)
    }

    /// An object inside another.
    pub fn bare() -> Self {
        Self::bare_in(Vec::new())
    }

    fn bare_in(mut text: Vec<u8>) -> Self {
        text.clear();
        text.push(b'{');
        Self { text }
    }

    /// Adds a field.
    #[must_use]
    pub fn field(mut self, name: &str, value: impl Serialize) -> Self {
        self.name(name, "");
        put(&mut self.text, &value);
        self
    }

    /// Adds a field where there is a value.
    #[must_use]
    pub fn maybe(self, name: &str, value: Option<impl Serialize>) -> Self {
        match value {
            Some(value) => self.field(name, value),
            None => self,
        }
    }

    /// Adds bytes: as a string named `name` where they are UTF-8, else as base64url named `name_b64`.
    #[must_use]
    pub fn bytes(self, name: &str, bytes: &[u8]) -> Self {
        match std::str::from_utf8(bytes) {
            Ok(text) => self.text(name, text),
            Err(_) => self.base64(name, bytes),
        }
    }

    /// Adds a text: what [`Self::field`] does, at a fifth of the cost for a long one.
    #[must_use]
    pub fn text(mut self, name: &str, text: &str) -> Self {
        self.name(name, "");
        put_text(&mut self.text, text);
        self
    }

    /// Adds bytes as base64url named `name_b64`.
    #[must_use]
    pub fn base64(mut self, name: &str, bytes: &[u8]) -> Self {
        self.name(name, "_b64");
        self.text.push(b'"');
        let start = self.text.len();
        self.text.resize(start + BASE64URL_NOPAD.encode_len(bytes.len()), 0);
        BASE64URL_NOPAD.encode_mut(bytes, &mut self.text[start..]);
        self.text.push(b'"');
        self
    }

    /// Adds an object.
    #[must_use]
    pub fn object(mut self, name: &str, object: Self) -> Self {
        self.name(name, "");
        self.text.extend(object.into_bytes());
        self
    }

    /// Adds a list of objects.
    #[must_use]
    pub fn list(mut self, name: &str, objects: impl IntoIterator<Item = Self>) -> Self {
        self.name(name, "");
        self.text.push(b'[');
        for (index, object) in objects.into_iter().enumerate() {
            if index > 0 {
                self.text.push(b',');
            }
            self.text.extend(object.into_bytes());
        }
        self.text.push(b']');
        self
    }

    /// Adds a field whose value is JSON text already.
    #[must_use]
    pub fn raw(mut self, name: &str, json: &str) -> Self {
        self.name(name, "");
        self.text.extend_from_slice(json.as_bytes());
        self
    }

    /// The object's text.
    pub fn finish(self) -> String {
        String::from_utf8(self.into_bytes()).expect("JSON is UTF-8")
    }

    /// The object's text as bytes.
    pub fn into_bytes(mut self) -> Vec<u8> {
        self.text.push(b'}');
        self.text
    }

    fn name(&mut self, name: &str, suffix: &str) {
        if self.text.len() > 1 {
            self.text.push(b',');
        }
        put_text(&mut self.text, name);
        self.text.pop();
        self.text.extend_from_slice(suffix.as_bytes());
        self.text.extend_from_slice(b"\":");
    }
}

/// Appends a text as JSON, byte for byte as `serde_json` does. What needs no escape, nearly all, is copied in runs.
fn put_text(out: &mut Vec<u8>, text: &str) {
    let mut rest = text.as_bytes();
    out.reserve(rest.len() + 2);
    out.push(b'"');
    while let Some(plain) = before_escape(rest) {
        out.extend_from_slice(&rest[..plain]);
        put_escape(out, rest[plain]);
        rest = &rest[plain + 1..];
    }
    out.extend_from_slice(rest);
    out.push(b'"');
}

/// How many bytes stand before the first one that JSON escapes; `None` when there is none.
///
/// Eight bytes are looked at as one number: the upper bit of each byte of `hits` says that the byte is one. A
/// subtraction may borrow from the byte above, but only out of one that is a hit itself, so that the lowest is true.
fn before_escape(bytes: &[u8]) -> Option<usize> {
    const ONES: u64 = u64::MAX / 0xff;
    const UPPER_BITS: u64 = ONES << 7;
    const fn below(word: u64, limit: u8) -> u64 {
        word.wrapping_sub(ONES * limit as u64) & !word
    }
    let (words, tail) = bytes.as_chunks::<{ size_of::<u64>() }>();
    for (index, word) in words.iter().enumerate() {
        let word = u64::from_le_bytes(*word);
        let is = |byte: u8| below(word ^ (ONES * u64::from(byte)), 1);
        let hits = (below(word, b' ') | is(b'"') | is(b'\\')) & UPPER_BITS;
        if hits != 0 {
            return Some(index * size_of::<u64>() + hits.trailing_zeros() as usize / 8);
        }
    }
    let in_tail = tail.iter().position(|byte| matches!(byte, ..b' ' | b'"' | b'\\'))?;
    Some(bytes.len() - tail.len() + in_tail)
}

fn put_escape(out: &mut Vec<u8>, byte: u8) {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    let short = match byte {
        b'"' | b'\\' => byte,
        b'\n' => b'n',
        b'\r' => b'r',
        b'\t' => b't',
        0x08 => b'b',
        0x0c => b'f',
        _ => {
            let [high, low] = [byte >> 4, byte & 0x0f].map(|digit| DIGITS[usize::from(digit)]);
            out.extend_from_slice(&[b'\\', b'u', b'0', b'0', high, low]);
            return;
        }
    };
    out.extend_from_slice(&[b'\\', short]);
}

/// Appends a value as JSON.
fn put(text: &mut Vec<u8>, value: &impl Serialize) {
    let start = text.len();
    // What we hand in has string keys and no failing `Serialize`.
    if serde_json::to_writer(&mut *text, value).is_err() {
        text.truncate(start);
        text.extend_from_slice(b"null");
    }
}

/// A value as JSON text.
pub fn serialized(value: &impl Serialize) -> Cow<'static, str> {
    // What we hand in has string keys and no failing `Serialize`.
    serde_json::to_string(value).map_or(Cow::Borrowed("null"), Cow::Owned)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[track_caller]
    fn check_text(text: &str) {
        let mut out = Vec::new();
        put_text(&mut out, text);
        assert_eq!(String::from_utf8(out).unwrap(), serde_json::to_string(text).unwrap());
    }

    #[test]
    fn every_character_is_escaped_alike_at_every_place() {
        for character in (0..0x300).filter_map(char::from_u32) {
            for before in 0..20 {
                let mut text = "x".repeat(before);
                text.extend([character; 2]);
                check_text(&(text + &"y".repeat(19 - before)));
            }
        }
    }

    proptest! {
        #[test]
        fn any_text_is_written_as_serde_json_writes_it(text in "(\\PC|[\0-\"\\\\\x7f]){0,60}") {
            check_text(&text);
        }
    }

    #[test]
    fn fields_keep_their_order_and_bytes_their_form() {
        let object = Object::new("kv")
            .bytes("key", b"a\"b")
            .bytes("value", b"\x00\xff")
            .maybe("ts", None::<u8>)
            .list("siblings", [Object::bare(), Object::bare().field("n", 1)]);
        let expected =
            r#"{"v":1,"type":"kv","key":"a\"b","value_b64":"AP8","siblings":[{},{"n":1}]}"#;
        assert_eq!(object.finish(), expected);
    }
}
