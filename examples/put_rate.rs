//! Puts per second through the client library: `put_rate HOSTS COUNT IN_FLIGHT VALUE_BYTES`.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use kvkit::client::{Client, ClientOptions, GetOptions, PutOptions};
use kvkit::wire::client::PutBasis;

#[tokio::main(flavor = "current_thread")]
async fn main() {
    let args: Vec<String> = std::env::args().collect();
    let hosts = args[1].split(',').map(str::to_owned).collect();
    let (count, in_flight, size): (u64, u64, usize) =
        (args[2].parse().unwrap(), args[3].parse().unwrap(), args[4].parse().unwrap());
    let options = ClientOptions {
        hosts,
        socket: None,
        timeout: Duration::from_secs(5),
        agent: "put_rate".into(),
    };
    let client = Client::connect(options).await.unwrap();
    let next = Arc::new(AtomicU64::new(0));
    let failed = Arc::new(AtomicU64::new(0));
    for what in ["put", "get"] {
        next.store(0, Ordering::Relaxed);
        let begun = Instant::now();
        let tasks: Vec<_> = (0..in_flight)
            .map(|_| {
                let (client, next, failed) = (client.clone(), next.clone(), failed.clone());
                tokio::spawn(async move {
                    let value = Bytes::from(vec![7; size]);
                    loop {
                        let i = next.fetch_add(1, Ordering::Relaxed);
                        if i >= count {
                            return;
                        }
                        let key = Bytes::from(format!("key:{i}"));
                        let result = if what == "put" {
                            client
                                .put(
                                    key,
                                    Some(value.clone()),
                                    PutBasis::Present,
                                    PutOptions::default(),
                                )
                                .await
                                .map(drop)
                        } else {
                            client.get(key, GetOptions::default()).await.map(drop)
                        };
                        if let Err(error) = result {
                            if failed.fetch_add(1, Ordering::Relaxed) < 5 {
                                eprintln!("{error}");
                            }
                        }
                    }
                })
            })
            .collect();
        for task in tasks {
            task.await.unwrap();
        }
        let took = begun.elapsed();
        println!(
            "{what}: {count} in {took:?}: {:.0}/s, {} failed",
            count as f64 / took.as_secs_f64(),
            failed.load(Ordering::Relaxed)
        );
    }
}
