//! What an outage does to clients: gets and puts come at a fixed rate, whether answered or not (an open loop), and each
//! second's latencies and failures are told as a line of JSON. Stop or kill a node meanwhile:
//!
//! ```text
//! kvnode dev --nodes 3 --data d --detach
//! cargo run --release --example latency -- 127.0.0.1:7401 2000 30 & sleep 10; kill -STOP $(cat d/n3/LOCK)
//! ```
//! Latency counts from the moment at which a request was due, so that what waits behind a stall is not left out.

use std::cell::RefCell;
use std::io::Write;
use std::rc::Rc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use kvkit::client::{Client, ClientOptions, GetOptions, PutOptions};
use kvkit::wire::client::PutBasis;
use tokio::task::LocalSet;

/// How long a request may take.
const TIMEOUT: Duration = Duration::from_secs(5);
/// Keys, put once at the beginning.
const KEYS: u64 = 10_000;
/// Bytes of a value.
const VALUE_BYTES: usize = 1_024;
/// Keys put at once at the beginning.
const LOADERS: u64 = 32;
/// How often an open loop starts what is due.
const BEAT: Duration = Duration::from_millis(1);

/// What became of the requests that were due in one second.
#[derive(Clone, Debug, Default)]
struct Second {
    micros: Vec<u64>,
    failed: u64,
}

#[expect(clippy::disallowed_methods, reason = "a benchmark reads the clock")]
fn now() -> Instant {
    Instant::now()
}

/// Key `number`, spread so that neighbours meet other owners.
fn key(number: u64) -> Bytes {
    Bytes::from(format!("latency:{}", number.wrapping_mul(7_919) % KEYS))
}

async fn put(client: &Client, number: u64) -> bool {
    let value = Some(Bytes::from(vec![b'x'; VALUE_BYTES]));
    client.put(key(number), value, PutBasis::Present, PutOptions::default()).await.is_ok()
}

async fn get(client: &Client, number: u64) -> bool {
    client.get(key(number), GetOptions::default()).await.is_ok()
}

async fn load(client: &Client) {
    let loaders = (0..LOADERS).map(|loader| async move {
        for number in (loader..KEYS).step_by(usize::try_from(LOADERS).unwrap_or(1)) {
            assert!(put(client, number).await, "the cluster takes no puts");
        }
    });
    futures_util::future::join_all(loaders).await;
}

/// Every other request is a put.
async fn open_loop(client: &Client, rate: u64, seconds: u64) {
    let length = usize::try_from(seconds).unwrap_or(usize::MAX);
    let log = Rc::new(RefCell::new(vec![Second::default(); length]));
    let (begun, mut number) = (now(), 0);
    for second in 0..seconds {
        while now() < begun + Duration::from_secs(second + 1) {
            while Duration::from_micros(number * 1_000_000 / rate) <= begun.elapsed() {
                let due = begun + Duration::from_micros(number * 1_000_000 / rate);
                let (client, log) = (client.clone(), Rc::clone(&log));
                let own = usize::try_from(number / rate).unwrap_or(length).min(length - 1);
                tokio::task::spawn_local(async move {
                    let is_done = match number % 2 {
                        0 => put(&client, number).await,
                        _ => get(&client, number).await,
                    };
                    let took = u64::try_from(due.elapsed().as_micros()).unwrap_or(u64::MAX);
                    let second = &mut log.borrow_mut()[own];
                    second.micros.push(took);
                    second.failed += u64::from(!is_done);
                });
                number += 1;
            }
            tokio::time::sleep(BEAT).await;
        }
    }
    tokio::time::sleep(TIMEOUT).await;
    for (second, Second { mut micros, failed }) in log.take().into_iter().enumerate() {
        micros.sort_unstable();
        let at = |share: usize| micros.get(micros.len() * share / 1_000).copied().unwrap_or(0);
        let line = serde_json::json!({
            "second": second, "requests": micros.len(), "failed": failed,
            "p50_us": at(500), "p99_us": at(990), "max_us": micros.last(),
        });
        let _ = writeln!(std::io::stdout(), "{line}");
    }
}

async fn run(host: String, rate: u64, seconds: u64) {
    let agent = "latency".to_owned();
    let options = ClientOptions { hosts: vec![host], socket: None, timeout: TIMEOUT, agent };
    let client = Client::connect(options).await.expect("a cluster is there");
    load(&client).await;
    open_loop(&client, rate, seconds).await;
}

fn main() {
    let mut arguments = std::env::args().skip(1);
    let host = arguments.next().unwrap_or_else(|| "127.0.0.1:7401".to_owned());
    let mut number = |otherwise| {
        arguments.next().and_then(|text| text.parse().ok()).filter(|n| *n > 0).unwrap_or(otherwise)
    };
    let (rate, seconds) = (number(1_000), number(30));
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    LocalSet::new().block_on(&runtime, run(host, rate, seconds));
}
