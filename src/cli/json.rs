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
        Self::bare_in(buffer).field("v", OBJECT_VERSION).field("type", kind)
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
            Ok(text) => self.field(name, text),
            Err(_) => self.base64(name, bytes),
        }
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
        put(&mut self.text, &name);
        self.text.pop();
        self.text.extend_from_slice(suffix.as_bytes());
        self.text.extend_from_slice(b"\":");
    }
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
    use super::*;

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
