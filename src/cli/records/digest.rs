//! The SHA-1 of a stream of records: what a footer says, what an import that goes on compares.
//!
//! Two crates work out SHA-1 here. `sha1_smol` hashes keys for the ring (`ring::token`): short texts, no dependencies.
//! A stream is hundreds of megabytes, and there `sha1` takes the processor's own instructions where it finds them at run
//! time: three times as fast. Who writes a stream has it hashed beside, so that it costs little where there are none, too.

use std::panic::resume_unwind;
use std::sync::mpsc::{SyncSender, sync_channel};
use std::thread::{self, JoinHandle};

use data_encoding::HEXLOWER;
use sha1::{Digest as _, Sha1};

/// Bytes handed over at once.
const CHUNK_BYTES: usize = 256 << 10;
/// Chunks that may wait; then the stream does.
const CHUNKS_WAITING_MAX: usize = 4;

/// A SHA-1 in the making.
#[derive(Clone, Debug, Default)]
pub(crate) struct Digest(Sha1);

/// The same on a thread of its own. A short stream needs none.
#[derive(Default)]
pub(super) struct DigestBeside {
    chunk: Vec<u8>,
    helper: Option<(SyncSender<Vec<u8>>, JoinHandle<Digest>)>,
}

impl Digest {
    /// Adds bytes.
    pub(crate) fn update(&mut self, bytes: &[u8]) {
        self.0.update(bytes);
    }

    /// The digest of all bytes so far, in hexadecimal.
    pub(crate) fn hex(&self) -> String {
        HEXLOWER.encode(&self.0.clone().finalize())
    }
}

impl DigestBeside {
    /// Adds bytes.
    pub(super) fn update(&mut self, bytes: &[u8]) {
        self.chunk.extend_from_slice(bytes);
        if self.chunk.len() < CHUNK_BYTES {
            return;
        }
        let chunk = std::mem::replace(&mut self.chunk, Vec::with_capacity(CHUNK_BYTES * 2));
        let (sender, _) = self.helper.get_or_insert_with(start);
        // It ends before us only when it panics, and that shows at the end.
        let _ = sender.send(chunk);
    }

    /// The digest of all bytes, in hexadecimal.
    pub(super) fn finish(self) -> String {
        let mut digest = match self.helper {
            None => Digest::default(),
            Some((sender, thread)) => {
                drop(sender);
                thread.join().unwrap_or_else(|panic| resume_unwind(panic))
            }
        };
        digest.update(&self.chunk);
        digest.hex()
    }
}

fn start() -> (SyncSender<Vec<u8>>, JoinHandle<Digest>) {
    let (sender, chunks) = sync_channel::<Vec<u8>>(CHUNKS_WAITING_MAX);
    let thread = thread::spawn(move || {
        let mut digest = Digest::default();
        for chunk in &chunks {
            digest.update(&chunk);
        }
        digest
    });
    (sender, thread)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_of_any_size_give_the_digest_that_the_rings_sha1_gives_of_the_whole() {
        for (piece, count) in [(1, 0), (1, 5), (64, 2), (100_000, 40), (CHUNK_BYTES * 3, 2)] {
            let (mut here, mut beside) = (Digest::default(), DigestBeside::default());
            let mut whole = sha1_smol::Sha1::new();
            for number in 0..count {
                let bytes = vec![number; piece];
                here.update(&bytes);
                beside.update(&bytes);
                whole.update(&bytes);
            }
            let expected = whole.digest().to_string();
            assert_eq!(here.hex(), expected, "{count} of {piece}");
            assert_eq!(beside.finish(), expected, "{count} of {piece}");
        }
    }
}
