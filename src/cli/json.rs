//! One JSON object a line, its fields in the order they are given (`v` and `type` first).

use std::borrow::Cow;

use data_encoding::BASE64URL_NOPAD;
use serde::Serialize;

/// Version of every object that the programs print.
pub const OBJECT_VERSION: u32 = 1;

/// A JSON object under construction.
#[derive(Clone, Debug)]
pub struct Object {
    text: String,
}

impl Object {
    /// An object of a line, which says what it is.
    pub fn new(kind: &str) -> Self {
        Self::bare().field("v", OBJECT_VERSION).field("type", kind)
    }

    /// An object inside another.
    pub fn bare() -> Self {
        Self { text: "{".to_owned() }
    }

    /// Adds a field.
    #[must_use]
    pub fn field(self, name: &str, value: impl Serialize) -> Self {
        self.raw(name, &serialized(&value))
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
            Err(_) => self.field(&format!("{name}_b64"), BASE64URL_NOPAD.encode(bytes)),
        }
    }

    /// Adds an object.
    #[must_use]
    pub fn object(self, name: &str, object: Self) -> Self {
        self.raw(name, &object.finish())
    }

    /// Adds a list of objects.
    #[must_use]
    pub fn list(self, name: &str, objects: impl IntoIterator<Item = Self>) -> Self {
        let items: Vec<String> = objects.into_iter().map(Self::finish).collect();
        self.raw(name, &format!("[{}]", items.join(",")))
    }

    /// Adds a field whose value is JSON text already.
    #[must_use]
    pub fn raw(mut self, name: &str, json: &str) -> Self {
        if self.text.len() > 1 {
            self.text.push(',');
        }
        self.text.push_str(&serialized(&name));
        self.text.push(':');
        self.text.push_str(json);
        self
    }

    /// The object's text.
    pub fn finish(mut self) -> String {
        self.text.push('}');
        self.text
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
