//! Frames: where a message begins and ends on a connection, and how a connection begins.
//!
//! The module above draws the bytes. The length is checked against the limit before any room is made for the payload.
#![warn(clippy::indexing_slicing)]

use serde::Serialize;
use tokio_util::codec::{FramedRead, FramedWrite, LengthDelimitedCodec};

use super::codec::{self, Codec, CodecError};

/// The first bytes of each side of a connection. The first is no ASCII and no UTF-8, so that text protocols differ at
/// once; CR LF shows a connection that mangles line ends.
pub const PREAMBLE: [u8; 8] = *b"\x8bkvkit\r\n";
/// Largest payload of a frame unless configured otherwise, bytes.
pub const FRAME_BYTES_MAX: usize = 8 << 20;
/// Smallest limit that may be configured, bytes: a layout of 65,536 partitions must fit.
pub const FRAME_BYTES_MIN: usize = 1 << 20;
/// Largest handshake frame, bytes: a stranger can make us hold so much and no more.
pub const HANDSHAKE_BYTES_MAX: usize = 16 << 10;

/// Bytes that a writer collects before it must write: what is ready in one wake-up goes out in one system call.
const WRITE_BATCH_BYTES: usize = 256 << 10;
/// Bytes that a reader takes in one system call.
const READ_BATCH_BYTES: usize = 64 << 10;

/// Frames of a connection's reading half, still to be decoded.
pub type Frames<R> = FramedRead<R, LengthDelimitedCodec>;
/// Messages of a connection's reading half.
pub type Incoming<R, T> = tokio_serde::Framed<Frames<R>, T, (), Codec>;
/// Messages for a connection's writing half.
pub type Outgoing<W, T> = tokio_serde::Framed<FramedWrite<W, LengthDelimitedCodec>, (), T, Codec>;

/// Why a connection did not begin as it must.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the connection does not begin with the kvkit preamble")]
pub struct PreambleError;

/// Cuts a connection into frames of at most `frame_bytes_max`.
pub fn frames(frame_bytes_max: usize) -> LengthDelimitedCodec {
    LengthDelimitedCodec::builder()
        .little_endian()
        .length_field_type::<u32>()
        .max_frame_length(frame_bytes_max)
        .new_codec()
}

/// Reads `half` as frames, for the handshake.
pub fn read_frames<R>(half: R, frame_bytes_max: usize) -> Frames<R> {
    FramedRead::with_capacity(half, frames(frame_bytes_max), READ_BATCH_BYTES)
}

/// Goes on behind the handshake: messages of at most `frame_bytes_max`, first those that were read along with it.
pub fn incoming<R, T>(mut rest: Frames<R>, frame_bytes_max: usize) -> Incoming<R, T> {
    rest.decoder_mut().set_max_frame_length(frame_bytes_max);
    tokio_serde::Framed::new(rest, Codec)
}

/// Writes messages to `half`; what is fed before a flush goes out together.
pub fn outgoing<W, T>(half: W, frame_bytes_max: usize) -> Outgoing<W, T> {
    let mut frames = FramedWrite::new(half, frames(frame_bytes_max));
    frames.set_backpressure_boundary(WRITE_BATCH_BYTES);
    tokio_serde::Framed::new(frames, Codec)
}

/// Appends `message` as a frame, for the handshake.
/// # Errors
/// [`CodecError::Encode`].
pub fn append<T: Serialize>(out: &mut Vec<u8>, message: &T) -> Result<(), CodecError> {
    let payload = codec::encode(message)?;
    let length = u32::try_from(payload.len()).unwrap_or(u32::MAX);
    out.extend_from_slice(&length.to_le_bytes());
    out.extend_from_slice(&payload);
    Ok(())
}

/// Checks the first bytes of a connection.
/// # Errors
/// [`PreambleError`] when they are no preamble.
pub fn check_preamble(bytes: &[u8]) -> Result<(), PreambleError> {
    if bytes == PREAMBLE { Ok(()) } else { Err(PreambleError) }
}

#[cfg(test)]
mod tests {
    use bytes::{Bytes, BytesMut};
    use tokio_util::codec::{Decoder, Encoder};

    use super::*;

    #[test]
    fn a_frame_is_its_length_and_its_payload() {
        let mut bytes = BytesMut::new();
        frames(16).encode(Bytes::from_static(b"abc"), &mut bytes).unwrap();
        assert_eq!(&bytes[..], b"\x03\0\0\0abc");
        assert_eq!(frames(16).decode(&mut bytes).unwrap().unwrap(), &b"abc"[..]);
    }

    #[test]
    fn a_length_past_the_limit_is_refused_before_the_payload_comes() {
        let mut bytes = BytesMut::from(&[0xff, 0xff, 0xff, 0x7f][..]);
        let error = frames(FRAME_BYTES_MAX).decode(&mut bytes).unwrap_err();
        assert_eq!(error.kind(), std::io::ErrorKind::InvalidData);
        assert!(bytes.capacity() < FRAME_BYTES_MAX, "room was made for a refused frame");
    }

    #[test]
    fn text_protocols_are_no_preamble() {
        for bytes in [&b"GET / HT"[..], b"*1\r\n$4\r\n", b"", &PREAMBLE[..7]] {
            assert_eq!(check_preamble(bytes), Err(PreambleError));
        }
        assert_eq!(check_preamble(&PREAMBLE), Ok(()));
    }
}
