//! Clients that read and write all the time and note what they are told.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures_util::StreamExt as _;
use futures_util::stream::FuturesUnordered;
use kvkit::client::{Client, ClientError, ClientOptions, GetOptions, PutOptions};
use kvkit::replication::{Guarantee, Level};
use kvkit::version::{Content, Siblings};
use kvkit::wire::client::{Outcome, PutBasis};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

use crate::history::{History, Moment, Read, Told, Write, story, violations};
use crate::node_fixture::{Result, wait_for};

/// Clients at once, each with one request under way.
const CLIENTS: u64 = 6;
/// Keys that they share.
const KEYS: u32 = 24;
/// The same of a load that comes at a rate: so many that each node owns its part of them.
const KEYS_AT_RATE: u32 = 200;
/// Of so many writes one replaces nothing: a sibling of what is there.
const BLIND_ONE_IN: u32 = 12;
/// Deadline of a request.
const TIMEOUT: Duration = Duration::from_secs(4);
/// Pause behind each write: a history is to be long, not full.
const PAUSE: Duration = Duration::from_millis(2);
/// Pause behind a failure.
const PAUSE_FAILED: Duration = Duration::from_millis(20);

/// How clients reach the cluster.
#[derive(Clone, Debug)]
pub(crate) enum Entry {
    /// These nodes to begin with, then all.
    Hosts(Vec<String>),
    /// One node by its admin socket.
    Socket(PathBuf),
}

/// A request that failed.
pub(crate) struct Failed {
    began: Moment,
    ended: Moment,
    why: String,
}

/// Clients at work.
pub(crate) struct Load {
    shared: Arc<Shared>,
    threads: Vec<JoinHandle<()>>,
}

/// What all clients of a load note.
struct Shared {
    start: Instant,
    prefix: String,
    history: Mutex<History>,
    failed: Mutex<Vec<Failed>>,
    acknowledged: AtomicU64,
    stop: AtomicBool,
    /// How many keys there are.
    keys: u32,
    /// Of a load that comes at a rate.
    ramp: Mutex<Ramp>,
}

/// Rounds of a read and a write each that begin in a second; the rate goes evenly from one to another.
#[derive(Clone, Copy, Debug)]
struct Ramp {
    from: f64,
    to: f64,
    began: Moment,
    ends: Moment,
}

impl Ramp {
    const fn steady(rate: f64) -> Self {
        Self { from: rate, to: rate, began: 0, ends: 0 }
    }

    #[expect(clippy::cast_precision_loss, reason = "microseconds of a minute")]
    fn rate(&self, at: Moment) -> f64 {
        if self.ends <= at {
            return self.to;
        }
        let passed = at.saturating_sub(self.began) as f64 / (self.ends - self.began) as f64;
        self.from + (self.to - self.from) * passed
    }
}

impl Load {
    /// Starts clients at each of these entries. Keys begin with `prefix`, so that loads do not meet.
    pub(crate) fn start(prefix: &str, seed: u64, entries: &[Entry]) -> Self {
        let mut load = Self::of(prefix, KEYS);
        for (number, entry) in (0..).zip(entries.to_vec()) {
            load.spawn(async move |shared| {
                let client = connected(shared, &entry).await;
                let clients = (0..CLIENTS).map(|client_number| {
                    let number = number * CLIENTS + client_number;
                    let chance = ChaCha8Rng::seed_from_u64(seed.wrapping_add(number));
                    work(shared, client.clone(), number, chance)
                });
                futures_util::future::join_all(clients).await;
            });
        }
        load
    }

    /// Starts a load that comes at a rate, however long the answers take: an open loop.
    pub(crate) fn start_at_rate(prefix: &str, seed: u64, entry: Entry, rounds: f64) -> Self {
        let mut load = Self::of(prefix, KEYS_AT_RATE);
        *lock(&load.shared.ramp) = Ramp::steady(rounds);
        load.spawn(async move |shared| {
            let client = connected(shared, &entry).await;
            work_at_rate(shared, &client, ChaCha8Rng::seed_from_u64(seed)).await;
        });
        load
    }

    /// From now on the rate goes to another one, and is there after so long.
    pub(crate) fn ramp_to(&self, rounds: f64, over: Duration) {
        let began = self.now();
        let ends = began + u64::try_from(over.as_micros()).unwrap_or(Moment::MAX / 2);
        let mut ramp = lock(&self.shared.ramp);
        *ramp = Ramp { from: ramp.rate(began), to: rounds, began, ends };
    }

    fn of(prefix: &str, keys: u32) -> Self {
        let shared = Arc::new(Shared {
            start: now(),
            prefix: prefix.to_owned(),
            history: Mutex::default(),
            failed: Mutex::default(),
            acknowledged: AtomicU64::new(0),
            stop: AtomicBool::new(false),
            keys,
            ramp: Mutex::new(Ramp::steady(0.0)),
        });
        Self { shared, threads: Vec::new() }
    }

    fn spawn(&mut self, work: impl AsyncFnOnce(&Shared) + Send + 'static) {
        let shared = Arc::clone(&self.shared);
        self.threads.push(std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
            runtime.expect("a runtime").block_on(work(&shared));
        }));
    }

    /// Writes that were acknowledged by now.
    pub(crate) fn acknowledged(&self) -> u64 {
        self.shared.acknowledged.load(Ordering::Relaxed)
    }

    /// Waits until so many more writes were acknowledged: the cluster makes progress.
    #[track_caller]
    pub(crate) fn wait_for_more(&self, writes: u64, when: &str) {
        let before = self.acknowledged();
        wait_for(&format!("{writes} writes to be acknowledged {when}"), || {
            (before + writes <= self.acknowledged()).then_some(())
        });
    }

    /// This moment, as the history has it.
    pub(crate) fn now(&self) -> Moment {
        self.shared.now()
    }

    /// Stops the clients; what they saw, and what failed.
    pub(crate) fn stop(mut self) -> (History, Vec<Failed>) {
        self.shared.stop.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            thread.join().expect("a client does not panic");
        }
        let history = std::mem::take(&mut *lock(&self.shared.history));
        (history, std::mem::take(&mut *lock(&self.shared.failed)))
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::Relaxed);
    }
}

impl Shared {
    fn now(&self) -> Moment {
        u64::try_from(now().duration_since(self.start).as_micros()).unwrap_or(Moment::MAX)
    }

    fn is_stopped(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
    }

    fn failed(&self, began: Moment, error: &ClientError) {
        let detail = match error {
            ClientError::Reply(reply) => format!(" ({:?}, {:?})", reply.code, reply.failed),
            _ => String::new(),
        };
        let (ended, why) = (self.now(), format!("{error}{detail}"));
        lock(&self.failed).push(Failed { began, ended, why });
    }
}

/// Holds a history against what every key's owners hold now, all of them asked.
pub(crate) fn judge(history: &History, hosts: Vec<String>, again: &str) -> Result<()> {
    let keys: BTreeSet<&String> = history.writes.iter().map(|write| &write.key).collect();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let finals: BTreeMap<String, BTreeSet<String>> = runtime.block_on(async {
        let client = Client::connect(options(Entry::Hosts(hosts))).await?;
        let all = GetOptions { r: Some(Level::All), consistency: None };
        let mut finals = BTreeMap::new();
        for key in keys {
            let got = client.get(Bytes::from(key.clone()), all).await?;
            finals.insert(key.clone(), values(&got.state));
        }
        Ok::<_, ClientError>(finals)
    })?;
    let found = violations(history, &finals);
    let (writes, reads) = (history.writes.len(), history.reads.len());
    let told = found.first().map_or_else(String::new, |violation| story(history, violation.key()));
    assert!(found.is_empty(), "{writes} writes, {reads} reads: {found:#?}; {again}\n{told}");
    assert!(writes > 0 && reads > 0, "nothing was done; {again}");
    Ok(())
}

/// Asserts that no client saw an error.
#[track_caller]
pub(crate) fn assert_none_failed(failed: &[Failed], again: &str) {
    let told: Vec<String> = failed
        .iter()
        .map(|Failed { began, ended, why }| format!("from {began} to {ended} us: {why}"))
        .collect();
    assert!(told.is_empty(), "clients saw {told:#?}; {again}");
}

fn options(entry: Entry) -> ClientOptions {
    let (hosts, socket) = match entry {
        Entry::Hosts(hosts) => (hosts, None),
        Entry::Socket(path) => (Vec::new(), Some(path)),
    };
    ClientOptions { hosts, socket, timeout: TIMEOUT, agent: "kvkit-test".to_owned() }
}

/// Asserts that no client saw an error but in the first second behind these moments.
#[track_caller]
pub(crate) fn assert_failed_only_behind(moments: &[Moment], failed: Vec<Failed>, again: &str) {
    const GRACE: Moment = 1_000_000;
    let is_excused = |failed: &Failed| {
        // It is excused where it began before that second was over and ended behind the moment itself.
        moments.iter().any(|at| failed.began <= at + GRACE && *at <= failed.ended)
    };
    let others: Vec<Failed> = failed.into_iter().filter(|failed| !is_excused(failed)).collect();
    assert_none_failed(&others, again);
}

async fn connected(shared: &Shared, entry: &Entry) -> Client {
    loop {
        let began = shared.now();
        match Client::connect(options(entry.clone())).await {
            Ok(client) => return client,
            Err(error) => shared.failed(began, &error),
        }
        assert!(!shared.is_stopped(), "no node of {entry:?} was ever reached");
        tokio::time::sleep(PAUSE_FAILED).await;
    }
}

/// Reads, writes what replaces what was read, and so on.
async fn work(shared: &Shared, client: Client, number: u64, mut chance: ChaCha8Rng) {
    for round in 0_u64.. {
        if shared.is_stopped() {
            return;
        }
        let done = replace(shared, &client, format!("{number}-{round}"), &mut chance).await;
        tokio::time::sleep(if done { PAUSE } else { PAUSE_FAILED }).await;
    }
}

/// Begins a round each time that one is due, whether those before it have ended or not.
async fn work_at_rate(shared: &Shared, client: &Client, mut chance: ChaCha8Rng) {
    let mut rounds = FuturesUnordered::new();
    let mut due = now();
    for round in 0_u64.. {
        let rate = lock(&shared.ramp).rate(shared.now());
        due += Duration::from_secs_f64(1.0 / rate);
        let until_due = tokio::time::sleep_until(due.into());
        tokio::pin!(until_due);
        loop {
            tokio::select! {
                () = &mut until_due => break,
                Some(_) = rounds.next() => {}
            }
        }
        if shared.is_stopped() {
            break;
        }
        let mut chance = ChaCha8Rng::from_rng(&mut chance);
        rounds
            .push(async move { replace(shared, client, format!("r-{round}"), &mut chance).await });
    }
    while rounds.next().await.is_some() {}
}

/// Reads a key and writes what replaces it, or now and then what replaces nothing; whether both went through.
async fn replace(shared: &Shared, client: &Client, value: String, chance: &mut ChaCha8Rng) -> bool {
    let key = format!("{}{:02}", shared.prefix, chance.random_range(0..shared.keys));
    let is_blind = chance.random_ratio(1, BLIND_ONE_IN);
    let Some(state) = read(shared, client, &key).await else { return false };
    let (basis, saw) = if is_blind {
        (PutBasis::Blind, BTreeSet::new())
    } else {
        (PutBasis::Context(state.clock().clone()), values(&state))
    };
    write(shared, client, key, value, basis, saw).await
}

async fn read(shared: &Shared, client: &Client, key: &str) -> Option<Siblings> {
    let began = shared.now();
    match client.get(Bytes::copy_from_slice(key.as_bytes()), GetOptions::default()).await {
        Ok(got) => {
            let strict = got.guarantee == Guarantee::Strict;
            let (key, values, ended) = (key.to_owned(), values(&got.state), shared.now());
            lock(&shared.history).reads.push(Read { key, values, began, ended, strict });
            Some(got.state)
        }
        Err(error) => {
            shared.failed(began, &error);
            None
        }
    }
}

/// Writes; whether that was acknowledged.
async fn write(
    shared: &Shared,
    client: &Client,
    key: String,
    value: String,
    basis: PutBasis,
    saw: BTreeSet<String>,
) -> bool {
    let (began, bytes) = (shared.now(), Bytes::from(value.clone()));
    let outcome =
        client.put(Bytes::from(key.clone()), Some(bytes), basis, PutOptions::default()).await;
    let ended = shared.now();
    let told = match &outcome {
        Ok(done) => Told::Acknowledged { strict: done.guarantee == Guarantee::Strict },
        Err(ClientError::Reply(reply)) if reply.outcome == Some(Outcome::NotApplied) => {
            Told::NotApplied
        }
        Err(_) => Told::Unknown,
    };
    match &outcome {
        Ok(_) => {
            shared.acknowledged.fetch_add(1, Ordering::Relaxed);
        }
        Err(error) => shared.failed(began, error),
    }
    lock(&shared.history).writes.push(Write { key, value, saw, began, ended, told });
    outcome.is_ok()
}

fn values(state: &Siblings) -> BTreeSet<String> {
    let text = |content: &Content| match content {
        Content::Value(value) => Some(String::from_utf8_lossy(value).into_owned()),
        Content::Tombstone => None,
    };
    state.versions().values().filter_map(|version| text(&version.content)).collect()
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[expect(clippy::disallowed_methods, reason = "a test is a rim: it reads the clock")]
pub(crate) fn now() -> Instant {
    Instant::now()
}
