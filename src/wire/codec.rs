//! The codec of all frames: `MessagePack` with field names, behind tokio-serde's traits.
//!
//! Why names: an old and a new release must talk to each other, in both directions, when a struct gains a field with
//! `#[serde(default)]`. Positional codecs fail one way or the other; `examples/codec_sizes.rs` shows what the names
//! cost. Byte strings travel as bin: `bytes::Bytes` and the identities serialize that way by themselves.
#![warn(clippy::indexing_slicing)]

use std::io::{self, ErrorKind};
use std::pin::Pin;

use bytes::{Bytes, BytesMut};
use rmp_serde::decode::Error;
use serde::de::{DeserializeOwned, IgnoredAny};
use serde::{Deserialize, Serialize};

/// Nested values that a payload may have; foreign bytes cannot drive the decoder deeper into the stack.
const DEPTH_MAX: usize = 64;

/// The codec. Holds nothing; one value serves any number of connections.
#[derive(Clone, Copy, Debug, Default)]
pub struct Codec;

/// Why a payload could not be written or read.
#[derive(Debug, thiserror::Error)]
pub enum CodecError {
    /// The message does not fit the format: our own bug.
    #[error("cannot encode a message: {0}")]
    Encode(#[from] rmp_serde::encode::Error),
    /// The bytes are no such message.
    #[error("malformed message: {0}")]
    Decode(#[from] rmp_serde::decode::Error),
    /// Bytes follow the message.
    #[error("malformed message: bytes left over behind it")]
    Trailing,
}

/// The transport's errors are I/O errors; a bad message on it is bad data.
impl From<CodecError> for io::Error {
    fn from(error: CodecError) -> Self {
        Self::new(ErrorKind::InvalidData, error)
    }
}

/// The payload that carries `message`.
/// # Errors
/// [`CodecError::Encode`].
pub fn encode<T: Serialize>(message: &T) -> Result<Vec<u8>, CodecError> {
    Ok(rmp_serde::to_vec_named(message)?)
}

/// The message that `payload` carries, all of it.
/// # Errors
/// [`CodecError::Decode`], [`CodecError::Trailing`].
pub fn decode<T: DeserializeOwned>(payload: &[u8]) -> Result<T, CodecError> {
    // Reading from a slice borrows the field names; reading from a stream would copy each.
    let mut decoder = rmp_serde::Deserializer::from_read_ref(payload);
    decoder.set_max_depth(DEPTH_MAX);
    let message = T::deserialize(&mut decoder)?;
    match IgnoredAny::deserialize(&mut decoder) {
        Err(Error::InvalidMarkerRead(end)) if end.kind() == ErrorKind::UnexpectedEof => Ok(message),
        Ok(_) | Err(_) => Err(CodecError::Trailing),
    }
}

impl<T: Serialize> tokio_serde::Serializer<T> for Codec {
    type Error = CodecError;

    fn serialize(self: Pin<&mut Self>, message: &T) -> Result<Bytes, CodecError> {
        encode(message).map(Bytes::from)
    }
}

impl<T: DeserializeOwned> tokio_serde::Deserializer<T> for Codec {
    type Error = CodecError;

    fn deserialize(self: Pin<&mut Self>, payload: &BytesMut) -> Result<T, CodecError> {
        decode(payload)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::wire::client::{Reply, Request};
    use crate::wire::handshake::{Hello, Welcome};
    use crate::wire::peer::PeerFrame;

    #[derive(Debug, PartialEq, Serialize, Deserialize)]
    struct Old {
        key: Bytes,
    }

    #[derive(Debug, PartialEq, Serialize, Deserialize)]
    struct New {
        key: Bytes,
        #[serde(default)]
        hint: u32,
    }

    #[test]
    fn a_release_with_a_new_field_and_one_without_understand_each_other() {
        let key = Bytes::from_static(b"k");
        let old = encode(&Old { key: key.clone() }).unwrap();
        assert_eq!(decode::<New>(&old).unwrap(), New { key: key.clone(), hint: 0 });
        let new = encode(&New { key: key.clone(), hint: 7 }).unwrap();
        assert_eq!(decode::<Old>(&new).unwrap(), Old { key });
    }

    #[test]
    fn byte_strings_cost_their_length() {
        let value = Bytes::from(vec![0xff; 1_000]);
        let payload = encode(&Old { key: value }).unwrap();
        assert!(payload.len() < 1_012, "{} bytes for a value of 1000", payload.len());
    }

    #[test]
    fn bytes_behind_a_message_are_refused() {
        let mut payload = encode(&Old { key: Bytes::new() }).unwrap();
        payload.push(0xc0);
        assert!(matches!(decode::<Old>(&payload), Err(CodecError::Trailing)));
    }

    #[test]
    fn deep_nesting_is_refused_instead_of_overflowing_the_stack() {
        let payload = vec![0x91; 1 << 20];
        assert!(decode::<Request>(&payload).is_err());
    }

    proptest! {
        #[test]
        fn any_bytes_decode_without_panic(payload: Vec<u8>) {
            let _ = decode::<Request>(&payload);
            let _ = decode::<Reply>(&payload);
            let _ = decode::<PeerFrame>(&payload);
            let _ = decode::<Hello>(&payload);
            let _ = decode::<Welcome>(&payload);
        }
    }
}
