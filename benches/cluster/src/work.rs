//! The work: closed-loop clients that put and get for a while, each with one request under way.

use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use bytes::Bytes;
use hdrhistogram::Histogram;
use serde::{Deserialize, Serialize};
use tokio::task::JoinSet;

use crate::keys::{Random, Values, Zipf, key};
use crate::system::{Client, Cluster, Name};
use crate::usage::Usage;

/// Bytes of a value.
pub(crate) const VALUE_BYTES: usize = 1 << 10;
/// Clients that share connections: gRPC multiplexes, and up to so many do not get into each other's way.
const CLIENTS_A_CONNECTION: usize = 16;
/// Clients that load the data set.
const LOADERS: usize = 128;
/// The part of a row's time that is run before anything is counted.
const WARM_UP: f64 = 0.2;
/// Digits of a latency that are kept.
const DIGITS: u8 = 3;

/// What a row's clients do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Mix {
    Put,
    Get,
    /// One put to one get.
    Mixed,
}

/// A row of the table.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub(crate) struct Row {
    pub(crate) mix: Mix,
    pub(crate) clients: usize,
}

/// How much is done.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Scale {
    pub(crate) keys: u64,
    pub(crate) time: Duration,
}

/// What a row came to.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Outcome {
    pub(crate) system: Name,
    pub(crate) row: Row,
    pub(crate) round: u32,
    pub(crate) operations: u64,
    pub(crate) seconds: f64,
    pub(crate) p50_micros: f64,
    pub(crate) p99_micros: f64,
    /// Of all three processes.
    pub(crate) server_cpu_seconds: f64,
    /// Of this process: what the load itself took.
    pub(crate) client_cpu_seconds: f64,
    pub(crate) resident_peak_bytes: u64,
}

impl Row {
    pub(crate) fn all() -> Vec<Self> {
        let mixes = [Mix::Put, Mix::Get, Mix::Mixed];
        let row = |mix| [1, 32, 128].map(|clients| Self { mix, clients });
        mixes.into_iter().flat_map(row).collect()
    }

    pub(crate) fn name(self) -> String {
        let mix = match self.mix {
            Mix::Put => "put",
            Mix::Get => "get",
            Mix::Mixed => "mixed",
        };
        format!("{mix}/{}", self.clients)
    }
}

/// Puts every key once.
pub(crate) async fn load(cluster: &Cluster, keys: u64) -> Result<()> {
    let (mut loaders, values) = (JoinSet::new(), Values::new(VALUE_BYTES));
    for (client, first) in clients(cluster, LOADERS).await?.into_iter().zip(0..) {
        let mut values = values.clone();
        loaders.spawn(async move {
            for number in (first..keys).step_by(LOADERS) {
                put(&client, number, 0, &mut values).await?;
            }
            anyhow::Ok(())
        });
    }
    while let Some(loader) = loaders.join_next().await {
        loader??;
    }
    Ok(())
}

/// Runs a row.
pub(crate) async fn run(
    cluster: &Cluster,
    row: Row,
    round: u32,
    scale: Scale,
    zipf: &Arc<Zipf>,
) -> Result<Outcome> {
    let (clients, values) = (clients(cluster, row.clients).await?, Values::new(VALUE_BYTES));
    cluster.forget_peak()?;
    let start = Instant::now();
    let counted = start + scale.time.mul_f64(WARM_UP);
    let end = counted + scale.time;
    let mut tasks = JoinSet::new();
    for (client, stream) in clients.into_iter().zip(0_u64..) {
        let draw = Draw {
            random: Random::new(u64::from(round), stream),
            zipf: Arc::clone(zipf),
            values: values.clone(),
        };
        tasks.spawn(work(client, row.mix, draw, Times { counted, end }));
    }
    tokio::time::sleep_until(counted.into()).await;
    let before = (cluster.usage()?, Usage::of(std::process::id())?);
    tokio::time::sleep_until(end.into()).await;
    let after = (cluster.usage()?, Usage::of(std::process::id())?);
    let mut latencies = histogram()?;
    while let Some(task) = tasks.join_next().await {
        latencies.add(task??)?;
    }
    let micros = |quantile: f64| {
        Duration::from_nanos(latencies.value_at_quantile(quantile)).as_secs_f64() * 1e6
    };
    Ok(Outcome {
        system: cluster.name,
        row,
        round,
        operations: latencies.len(),
        seconds: scale.time.as_secs_f64(),
        p50_micros: micros(0.5),
        p99_micros: micros(0.99),
        server_cpu_seconds: after.0.cpu.saturating_sub(before.0.cpu).as_secs_f64(),
        client_cpu_seconds: after.1.cpu.saturating_sub(before.1.cpu).as_secs_f64(),
        resident_peak_bytes: after.0.resident_peak_bytes,
    })
}

/// When a client's requests count.
#[derive(Clone, Copy)]
struct Times {
    counted: Instant,
    end: Instant,
}

/// What a client asks for.
struct Draw {
    random: Random,
    zipf: Arc<Zipf>,
    values: Values,
}

async fn work(client: Client, mix: Mix, draw: Draw, times: Times) -> Result<Histogram<u64>> {
    let Draw { mut random, zipf, mut values } = draw;
    let mut latencies = histogram()?;
    let mut began = Instant::now();
    for version in 1_u64.. {
        let number = zipf.draw(&mut random);
        let is_put = match mix {
            Mix::Put => true,
            Mix::Get => false,
            Mix::Mixed => random.below(2) == 0,
        };
        if is_put {
            put(&client, number, version, &mut values).await?;
        } else {
            let found = client.get(Bytes::copy_from_slice(&key(number))).await?;
            ensure!(found == Some(VALUE_BYTES), "key {number} has {found:?} bytes");
        }
        let ended = Instant::now();
        if times.end <= ended {
            break;
        }
        if times.counted <= began {
            latencies.record(nanos(ended - began))?;
        }
        began = ended;
    }
    Ok(latencies)
}

async fn put(client: &Client, number: u64, version: u64, values: &mut Values) -> Result<()> {
    let value = Bytes::copy_from_slice(values.of(number, version));
    client.put(Bytes::copy_from_slice(&key(number)), value).await.context("a put failed")
}

/// One client a loop; some share their connections.
async fn clients(cluster: &Cluster, count: usize) -> Result<Vec<Client>> {
    let mut clients = Vec::new();
    while clients.len() < count {
        let client = cluster.client().await?;
        let more = CLIENTS_A_CONNECTION.min(count - clients.len());
        clients.extend(std::iter::repeat_n(client, more));
    }
    Ok(clients)
}

fn histogram() -> Result<Histogram<u64>> {
    Ok(Histogram::new(DIGITS)?)
}

fn nanos(span: Duration) -> u64 {
    u64::try_from(span.as_nanos()).unwrap_or(u64::MAX)
}
