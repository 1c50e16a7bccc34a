//! What the wire's codec costs, and what it buys: bytes and nanoseconds of one message in each candidate, and whether
//! a release with a new `#[serde(default)]` field and one without understand each other.
//!
//! ```text
//! cargo run --release --example codec_sizes
//! ```

use std::hint::black_box;
use std::io::Write;
use std::time::Instant;

use bytes::Bytes;
use kvkit::version::RequestId;
use kvkit::wire::client::{Put, PutBasis, Request, RequestBody};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

/// Rounds of each measurement.
const ROUNDS: u32 = 200_000;

/// A release's message.
#[derive(Debug, PartialEq, Serialize, Deserialize)]
struct Old {
    key: Bytes,
    layout: u64,
}

/// The next release's.
#[derive(Debug, PartialEq, Serialize, Deserialize)]
struct New {
    key: Bytes,
    layout: u64,
    #[serde(default)]
    hint: u32,
}

/// A way to write and read messages.
trait Candidate {
    const NAME: &'static str;
    fn write<T: Serialize>(message: &T) -> Vec<u8>;
    fn read<T: DeserializeOwned>(bytes: &[u8]) -> Option<T>;
}

/// `MessagePack` with field names: the wire's.
struct Named;
/// `MessagePack` with structs as arrays: tokio-serde's own `messagepack` feature.
struct Positional;
/// JSON.
struct Json;

impl Candidate for Named {
    const NAME: &'static str = "MessagePack, named";
    fn write<T: Serialize>(message: &T) -> Vec<u8> {
        kvkit::wire::codec::encode(message).expect("a message that can be encoded")
    }
    fn read<T: DeserializeOwned>(bytes: &[u8]) -> Option<T> {
        kvkit::wire::codec::decode(bytes).ok()
    }
}

impl Candidate for Positional {
    const NAME: &'static str = "MessagePack, positional";
    fn write<T: Serialize>(message: &T) -> Vec<u8> {
        rmp_serde::to_vec(message).expect("a message that can be encoded")
    }
    fn read<T: DeserializeOwned>(bytes: &[u8]) -> Option<T> {
        rmp_serde::from_slice(bytes).ok()
    }
}

impl Candidate for Json {
    const NAME: &'static str = "JSON";
    fn write<T: Serialize>(message: &T) -> Vec<u8> {
        serde_json::to_vec(message).expect("a message that can be encoded")
    }
    fn read<T: DeserializeOwned>(bytes: &[u8]) -> Option<T> {
        serde_json::from_slice(bytes).ok()
    }
}

fn main() -> std::io::Result<()> {
    let out = &mut std::io::stdout().lock();
    writeln!(
        out,
        "{:<24} {:>8} {:>8} {:>10} {:>10}  old->new new->old",
        "codec", "0 B", "1000 B", "write ns", "read ns"
    )?;
    row::<Named>(out)?;
    row::<Positional>(out)?;
    row::<Json>(out)
}

fn row<C: Candidate>(out: &mut impl Write) -> std::io::Result<()> {
    let (empty, full) = (put(0), put(1_000));
    let bytes = C::write(&full);
    let write = nanos(|| drop(black_box(C::write(black_box(&full)))));
    let read = nanos(|| drop(black_box(C::read::<Request>(black_box(&bytes)))));
    assert_eq!(C::read::<Request>(&bytes).as_ref(), Some(&full), "{} loses something", C::NAME);
    let key = || Bytes::from_static(b"k");
    let forward = C::read::<New>(&C::write(&Old { key: key(), layout: 1 })).is_some();
    let back = C::read::<Old>(&C::write(&New { key: key(), layout: 1, hint: 7 })).is_some();
    let word = |works| if works { "ok" } else { "FAILS" };
    writeln!(
        out,
        "{:<24} {:>8} {:>8} {write:>10} {read:>10}  {:<8} {}",
        C::NAME,
        C::write(&empty).len(),
        bytes.len(),
        word(forward),
        word(back)
    )
}

/// A put as a client sends it, with a value of so many bytes, all past ASCII.
fn put(value_bytes: usize) -> Request {
    let put = Put {
        key: Bytes::from_static(b"pypi:0x-middlewares"),
        value: Some(Bytes::from(vec![0xc3; value_bytes])),
        basis: PutBasis::Present,
        w: None,
        r: None,
        consistency: None,
        request: RequestId { session: 0x0123_4567_89ab_cdef, counter: 42 },
        age: 0,
    };
    Request { id: 1_000, deadline: 123_456_789_012_345, body: RequestBody::Put(put) }
}

#[expect(clippy::disallowed_methods, reason = "a measurement reads the clock")]
fn nanos(mut job: impl FnMut()) -> u128 {
    let begun = Instant::now();
    (0..ROUNDS).for_each(|_| job());
    begun.elapsed().as_nanos() / u128::from(ROUNDS)
}
