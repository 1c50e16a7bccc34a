//! Keys on the command line and in pipes: bytes, in whatever coat they come.

use std::ffi::{OsStr, OsString};
use std::io::{self, BufRead, Write};
use std::os::unix::ffi::{OsStrExt, OsStringExt};

use anyhow::Context as _;
use bytes::Bytes;
use clap::Args;
use data_encoding::{BASE64URL_NOPAD, HEXLOWER_PERMISSIVE};

use crate::cli::failure::Failure;

/// How keys are written.
#[derive(Args, Clone, Copy, Debug)]
pub(crate) struct KeyCoding {
    /// Keys are given in hexadecimal
    #[arg(long, conflicts_with = "key_b64")]
    pub(crate) key_hex: bool,
    /// Keys are given in base64url (padding is optional)
    #[arg(long)]
    pub(crate) key_b64: bool,
}

impl KeyCoding {
    /// The key that a word stands for.
    /// # Errors
    /// Exit 2 when it stands for none.
    pub(crate) fn decode(self, word: &OsStr) -> Result<Bytes, Failure> {
        let bytes = word.as_bytes();
        let key = if self.key_hex {
            HEXLOWER_PERMISSIVE.decode(bytes).map_err(|_| {
                Failure::usage(format!("key `{}` is no hexadecimal", word.display()))
            })?
        } else if self.key_b64 {
            BASE64URL_NOPAD
                .decode(word.to_string_lossy().trim_end_matches('=').as_bytes())
                .map_err(|_| Failure::usage(format!("key `{}` is no base64url", word.display())))?
        } else {
            bytes.to_vec()
        };
        if key.is_empty() {
            return Err(Failure::usage("a key has at least one byte"));
        }
        Ok(Bytes::from(key))
    }

    /// The keys given as words; where there are none, or the only one is `-`, those in `input`, one a line or, with
    /// `null`, each ended by a zero byte.
    /// # Errors
    /// Exit 2 for a malformed key; those of the input.
    pub(crate) fn keys(
        self,
        words: &[OsString],
        null: bool,
        input: impl BufRead,
    ) -> anyhow::Result<Vec<Bytes>> {
        let from_input = words.is_empty() || matches!(words, [only] if only == "-");
        if !from_input {
            return Ok(words.iter().map(|word| self.decode(word)).collect::<Result<_, _>>()?);
        }
        let end = if null { 0 } else { b'\n' };
        let mut keys = Vec::new();
        for word in input.split(end) {
            let word = word.context("reading keys from stdin")?;
            if !word.is_empty() {
                keys.push(self.decode(&OsString::from_vec(word))?);
            }
        }
        Ok(keys)
    }
}

/// A key as words of a shell's command line: as it stands, quoted, or in hexadecimal.
pub(crate) fn as_words(key: &[u8]) -> String {
    let is_bare = |byte: &u8| byte.is_ascii_alphanumeric() || b"_:/.,+@%=-".contains(byte);
    match std::str::from_utf8(key) {
        Ok(text) if key.iter().all(is_bare) && !text.starts_with('-') => text.to_owned(),
        Ok(text) if !text.contains(char::is_control) && !text.starts_with('-') => {
            format!("'{}'", text.replace('\'', r"'\''"))
        }
        Ok(_) | Err(_) => format!("--key-hex {}", HEXLOWER_PERMISSIVE.encode(key)),
    }
}

/// Writes a key for a pipe: its bytes, then a line feed or a zero byte.
/// # Errors
/// Those of `out`.
pub(crate) fn write_key(out: &mut dyn Write, key: &[u8], null: bool) -> io::Result<()> {
    out.write_all(key)?;
    out.write_all(if null { b"\0" } else { b"\n" })
}

#[cfg(test)]
mod tests {
    use super::*;

    const PLAIN: KeyCoding = KeyCoding { key_hex: false, key_b64: false };
    const HEX: KeyCoding = KeyCoding { key_hex: true, key_b64: false };
    const B64: KeyCoding = KeyCoding { key_hex: false, key_b64: true };

    #[track_caller]
    fn check(coding: KeyCoding, word: &[u8], expected: Option<&[u8]>) {
        let key = coding.decode(OsStr::from_bytes(word)).ok();
        assert_eq!(key.as_deref(), expected);
    }

    #[test]
    fn keys_come_in_three_coats() {
        check(PLAIN, b"cart:42", Some(b"cart:42"));
        check(PLAIN, b"\xff\n", Some(b"\xff\n"));
        check(PLAIN, b"", None);
        check(HEX, b"00fF", Some(b"\x00\xff"));
        check(HEX, b"0", None);
        check(B64, b"AP8=", Some(b"\x00\xff"));
        check(B64, b"AP8", Some(b"\x00\xff"));
        check(B64, b"?", None);
    }

    #[test]
    fn a_key_is_shown_as_a_shell_takes_it() {
        for (key, expected) in [
            (&b"cart:42"[..], "cart:42"),
            (b"it's $x", r"'it'\''s $x'"),
            (b"-n", "--key-hex 2d6e"),
            (b"\x00\xff", "--key-hex 00ff"),
            ("grün".as_bytes(), "'grün'"),
        ] {
            assert_eq!(as_words(key), expected);
        }
    }

    #[test]
    fn keys_without_words_come_from_the_input() {
        let keys = |words: &[&str], null, input: &[u8]| {
            let words: Vec<OsString> = words.iter().map(OsString::from).collect();
            PLAIN.keys(&words, null, input).unwrap()
        };
        assert_eq!(keys(&[], false, b"a\nb c\n\nd"), ["a", "b c", "d"]);
        assert_eq!(keys(&["-"], true, b"a\nb\0c\0"), ["a\nb", "c"]);
        assert_eq!(keys(&["a", "-"], false, b"x"), ["a", "-"]);
    }
}
