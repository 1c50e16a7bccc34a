//! The SHA-1 of a stream of records, worked out beside it: it costs about as much as all the rest of a record.

use std::panic::resume_unwind;
use std::sync::mpsc::{SyncSender, sync_channel};
use std::thread::{self, JoinHandle};

use sha1_smol::Sha1;

/// Bytes handed over at once.
const CHUNK_BYTES: usize = 256 << 10;
/// Chunks that may wait; then the stream does.
const CHUNKS_WAITING_MAX: usize = 4;

/// A SHA-1 in the making. A short stream needs no thread.
#[derive(Default)]
pub(super) struct Digest {
    chunk: Vec<u8>,
    helper: Option<(SyncSender<Vec<u8>>, JoinHandle<Sha1>)>,
}

impl Digest {
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
        let mut sha1 = match self.helper {
            None => Sha1::new(),
            Some((sender, thread)) => {
                drop(sender);
                thread.join().unwrap_or_else(|panic| resume_unwind(panic))
            }
        };
        sha1.update(&self.chunk);
        sha1.digest().to_string()
    }
}

fn start() -> (SyncSender<Vec<u8>>, JoinHandle<Sha1>) {
    let (sender, chunks) = sync_channel::<Vec<u8>>(CHUNKS_WAITING_MAX);
    let thread = thread::spawn(move || {
        let mut sha1 = Sha1::new();
        for chunk in &chunks {
            sha1.update(&chunk);
        }
        sha1
    });
    (sender, thread)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_of_any_size_give_the_digest_of_the_whole() {
        for (piece, count) in [(1, 0), (1, 5), (1_000, 3), (100_000, 40), (CHUNK_BYTES * 3, 2)] {
            let (mut digest, mut whole) = (Digest::default(), Sha1::new());
            for number in 0..count {
                let bytes = vec![u8::try_from(number).unwrap(); piece];
                digest.update(&bytes);
                whole.update(&bytes);
            }
            assert_eq!(digest.finish(), whole.digest().to_string(), "{count} of {piece}");
        }
    }
}
