//! How a connection begins, on both sides, each step under a deadline.

use std::io;
use std::time::Duration;

use futures_util::StreamExt;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

use crate::wire::codec;
use crate::wire::frame::{self, Frames, HANDSHAKE_BYTES_MAX, PREAMBLE};
use crate::wire::handshake::{Hello, RefusalCode, Welcome};

/// A caller that has not greeted by then is closed; a called node that has not answered by then is unreachable.
pub(super) const HANDSHAKE_MAX: Duration = Duration::from_secs(5);

/// Why a handshake came to nothing.
#[derive(Debug, thiserror::Error)]
pub(super) enum HandshakeError {
    /// The connection failed.
    #[error("{0}")]
    Io(#[from] io::Error),
    /// It took too long.
    #[error("no greeting within {HANDSHAKE_MAX:?}")]
    Timeout,
    /// The other side speaks something else.
    #[error("{0}")]
    Garbage(String),
}

/// The called side: the caller's greeting. What is no greeting of ours is answered with a refusal.
pub(super) async fn greeting<R, W>(
    mut reader: R,
    writer: &mut W,
) -> Result<(Hello, Frames<R>), HandshakeError>
where
    R: AsyncRead + Unpin,
    W: AsyncWrite + Unpin,
{
    let read = async {
        let mut preamble = [0; PREAMBLE.len()];
        reader.read_exact(&mut preamble).await?;
        frame::check_preamble(&preamble)
            .map_err(|error| HandshakeError::Garbage(error.to_string()))?;
        let mut frames = frame::read_frames(reader, HANDSHAKE_BYTES_MAX);
        let hello = read_message(&mut frames).await?;
        Ok((hello, frames))
    };
    let result = within(read).await;
    if let Err(error @ HandshakeError::Garbage(_)) = &result {
        let welcome = Welcome::Refused { code: RefusalCode::Protocol, reason: error.to_string() };
        // It may not even read it.
        let _ = answer(writer, &welcome).await;
        let _ = within(async { Ok(writer.shutdown().await?) }).await;
    }
    result
}

/// The called side: its answer.
pub(super) async fn answer<W: AsyncWrite + Unpin>(
    writer: &mut W,
    welcome: &Welcome,
) -> Result<(), HandshakeError> {
    let mut bytes = PREAMBLE.to_vec();
    frame::append(&mut bytes, welcome).map_err(io::Error::from)?;
    within(async { Ok(writer.write_all(&bytes).await?) }).await
}

/// The calling side: greets and takes the answer.
pub(super) async fn greet<R, W>(
    mut reader: R,
    writer: &mut W,
    hello: &Hello,
) -> Result<(Welcome, Frames<R>), HandshakeError>
where
    R: AsyncRead + Unpin,
    W: AsyncWrite + Unpin,
{
    let mut bytes = PREAMBLE.to_vec();
    frame::append(&mut bytes, hello).map_err(io::Error::from)?;
    let talk = async {
        writer.write_all(&bytes).await?;
        let mut preamble = [0; PREAMBLE.len()];
        reader.read_exact(&mut preamble).await?;
        frame::check_preamble(&preamble)
            .map_err(|error| HandshakeError::Garbage(error.to_string()))?;
        let mut frames = frame::read_frames(reader, HANDSHAKE_BYTES_MAX);
        let welcome = read_message(&mut frames).await?;
        Ok((welcome, frames))
    };
    within(talk).await
}

async fn read_message<R: AsyncRead + Unpin, T: serde::de::DeserializeOwned>(
    frames: &mut Frames<R>,
) -> Result<T, HandshakeError> {
    let payload = match frames.next().await {
        Some(Ok(payload)) => payload,
        Some(Err(error)) if error.kind() == io::ErrorKind::InvalidData => {
            return Err(HandshakeError::Garbage(format!("greeting: {error}")));
        }
        Some(Err(error)) => return Err(error.into()),
        None => return Err(io::Error::from(io::ErrorKind::UnexpectedEof).into()),
    };
    codec::decode(&payload).map_err(|error| HandshakeError::Garbage(format!("greeting: {error}")))
}

async fn within<T>(
    step: impl Future<Output = Result<T, HandshakeError>>,
) -> Result<T, HandshakeError> {
    tokio::time::timeout(HANDSHAKE_MAX, step).await.map_err(|_| HandshakeError::Timeout)?
}
