//! What a cluster does under more load than it can bear: puts come at a fixed rate, whether answered or not (an open
//! loop), at the cluster's capacity and at a multiple of it.
//!
//! ```text
//! taskset --cpu-list 0 kvnode dev --nodes 3 --detach
//! taskset --cpu-list 1 cargo run --release --example overload -- 127.0.0.1:7401 3
//! ```
//! The processors are kept apart, since the nodes of a real cluster do not share theirs with those who overload them.
//!
//! First 64 workers put as fast as they are answered: that is the capacity. Then come three times as many, or what the
//! second argument says, for ten seconds; then half of the capacity. A put that is not acknowledged within a second is
//! of no use. What counts is the share of the capacity that is acknowledged in time under the load (goodput), and how
//! many seconds after it all puts are again.

use std::cell::RefCell;
use std::io::Write;
use std::rc::Rc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use kvkit::client::{Client, ClientOptions, PutOptions};
use kvkit::wire::client::PutBasis;
use tokio::task::LocalSet;

/// How long a put may take.
const TIMEOUT: Duration = Duration::from_secs(1);
/// Keys that are put, one after the other.
const KEYS: u64 = 100_000;
/// Bytes of a value.
const VALUE_BYTES: usize = 1_024;
/// Workers that measure the capacity, and for how long.
const WORKERS: u64 = 64;
const MEASURED: Duration = Duration::from_secs(5);
/// How long more comes than can be borne, and how long less does.
const OVERLOADED: u64 = 10;
const RECOVERING: u64 = 10;
/// How often an open loop starts what is due.
const BEAT: Duration = Duration::from_millis(5);

/// What became of the puts that began in one second.
#[derive(Clone, Copy, Debug, Default)]
struct Second {
    offered: u64,
    acknowledged: u64,
}

#[expect(clippy::disallowed_methods, reason = "a benchmark reads the clock")]
fn now() -> Instant {
    Instant::now()
}

async fn put(client: &Client, number: u64) -> bool {
    let key = Bytes::from(format!("overload:{}", number % KEYS));
    let value = Some(Bytes::from(vec![b'x'; VALUE_BYTES]));
    client.put(key, value, PutBasis::Blind, PutOptions::default()).await.is_ok()
}

/// Puts a second that are acknowledged while each worker waits for its last one.
async fn capacity(client: &Client) -> u64 {
    let (done, end) = (Rc::new(RefCell::new(0_u64)), now() + MEASURED);
    let workers = (0..WORKERS).map(|worker| {
        let (client, done) = (client.clone(), Rc::clone(&done));
        tokio::task::spawn_local(async move {
            let mut number = worker;
            while now() < end {
                *done.borrow_mut() += u64::from(put(&client, number).await);
                number += WORKERS;
            }
        })
    });
    for worker in workers.collect::<Vec<_>>() {
        let _ = worker.await;
    }
    let done = *done.borrow();
    done / MEASURED.as_secs()
}

/// Begins `rate` puts a second for so many seconds; what became of each second's.
async fn open_loop(client: &Client, rate: u64, seconds: u64) -> Vec<Second> {
    let length = usize::try_from(seconds).unwrap_or(usize::MAX);
    let log = Rc::new(RefCell::new(vec![Second::default(); length]));
    let (begun, mut number) = (now(), 0);
    loop {
        let passed = now().saturating_duration_since(begun);
        if passed.as_secs() >= seconds {
            break;
        }
        let second = usize::try_from(passed.as_secs()).unwrap_or(0);
        let due = u64::try_from(passed.as_micros()).unwrap_or(u64::MAX) * rate / 1_000_000;
        while number < due {
            number += 1;
            log.borrow_mut()[second].offered += 1;
            let (client, log) = (client.clone(), Rc::clone(&log));
            tokio::task::spawn_local(async move {
                if put(&client, number).await
                    // One that is answered later than it may take is not counted: the log is gone by then.
                    && let Some(second) = log.borrow_mut().get_mut(second)
                {
                    second.acknowledged += 1;
                }
            });
        }
        tokio::time::sleep(BEAT).await;
    }
    tokio::time::sleep(TIMEOUT + BEAT).await;
    log.take()
}

fn show(out: &mut impl Write, title: &str, capacity: u64, seconds: &[Second]) {
    let _ = writeln!(out, "{title}");
    for (number, Second { offered, acknowledged }) in seconds.iter().enumerate() {
        let share = acknowledged * 100 / capacity.max(1);
        let _ = writeln!(
            out,
            "  second {number:>2}: {offered:>7} offered {acknowledged:>7} acknowledged in time, {share:>3} % of the capacity"
        );
    }
}

async fn run(host: String, factor: u64) {
    let options = ClientOptions {
        hosts: vec![host],
        socket: None,
        timeout: TIMEOUT,
        agent: "overload".to_owned(),
    };
    let client = Client::connect(options).await.expect("a cluster is there");
    let mut out = std::io::stdout().lock();
    let capacity = capacity(&client).await;
    let _ = writeln!(out, "capacity: {capacity} puts a second from {WORKERS} workers");
    let loaded = open_loop(&client, capacity * factor, OVERLOADED).await;
    show(&mut out, &format!("{factor} times the capacity"), capacity, &loaded);
    let after = open_loop(&client, capacity / 2, RECOVERING).await;
    show(&mut out, "half of the capacity", capacity, &after);
    let goodput: u64 = loaded.iter().map(|second| second.acknowledged).sum();
    let sound = |second: &Second| second.acknowledged * 100 >= second.offered * 99;
    let recovered = after.iter().position(sound);
    let _ = writeln!(
        out,
        "goodput {} % of the capacity; sound again after {} s",
        goodput * 100 / (capacity * OVERLOADED).max(1),
        recovered.map_or("?".to_owned(), |seconds| seconds.to_string()),
    );
}

fn main() {
    let mut arguments = std::env::args().skip(1);
    let host = arguments.next().unwrap_or_else(|| "127.0.0.1:7401".to_owned());
    let factor = arguments.next().and_then(|text| text.parse().ok()).unwrap_or(3);
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    LocalSet::new().block_on(&runtime, run(host, factor));
}
