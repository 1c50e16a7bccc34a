//! JSON text without the white space between its tokens, and nothing else changed.

/// Removes the blanks, tabs and line ends that stand outside strings. `json` is one valid JSON value; order, spelling
/// and duplicates stay as they are.
pub(super) fn compact(json: &str) -> Vec<u8> {
    let mut text = Vec::with_capacity(json.len());
    let mut in_string = false;
    let mut escaped = false;
    for byte in json.bytes() {
        match (in_string, byte) {
            (false, b' ' | b'\t' | b'\n' | b'\r') => continue,
            (false, b'"') => in_string = true,
            (true, b'"') if !escaped => in_string = false,
            (false | true, _) => {}
        }
        escaped = in_string && byte == b'\\' && !escaped;
        text.push(byte);
    }
    text
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[track_caller]
    fn check(json: &str, expected: &str) {
        assert_eq!(String::from_utf8(compact(json)).unwrap(), expected);
    }

    #[test]
    fn only_white_space_between_tokens_goes() {
        check(r#"{ "b" : [ 1 , 2.50e+1 ] ,"a":"x  y" }"#, r#"{"b":[1,2.50e+1],"a":"x  y"}"#);
        check("{\"a\":1,\t\"a\":2}\r\n", r#"{"a":1,"a":2}"#);
        check(r#""say \" and \\" "#, r#""say \" and \\""#);
        check(r#"["\\", " "]"#, r#"["\\"," "]"#);
        check(" null ", "null");
        check("\"\u{e9} \\u00e9\"", "\"\u{e9} \\u00e9\"");
    }

    proptest! {
        #[test]
        fn the_value_stays_the_same(texts: Vec<String>, number: f64) {
            let value = serde_json::json!({"texts": texts, "number": number, "none": null});
            let pretty = serde_json::to_string_pretty(&value).unwrap();
            prop_assert_eq!(compact(&pretty), serde_json::to_vec(&value).unwrap());
        }
    }
}
