//! A network that misbehaves when told to: a proxy stands where each node is told to be dialled.
//!
//! ```text
//! n1 ──dials n2's advertised address──▶ proxy of n2 ──▶ n2's listener
//! ```
//! A link between nodes carries messages one way, so that a fault of the pair (n1, n2) is one of that direction alone. Who
//! dials is in the first frame. Bytes are never lost inside a connection, as TCP never loses any: what is held comes
//! late, or the connection ends. Messages can be lost, whole frames of a link, as a full queue loses them.

use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use kvkit::wire::codec;
use kvkit::wire::frame::{HANDSHAKE_BYTES_MAX, PREAMBLE};
use kvkit::wire::handshake::{Hello, Role};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::Instant;

use crate::node_fixture::Result;

/// Bytes taken from a connection at once.
const CHUNK_BYTES: usize = 16 << 10;
/// Chunks under way in one direction; a full line holds its sender up, as a full socket does.
const CHUNKS_MAX: usize = 256;
/// Which messages of a connection are lost: it needs not differ from run to run, when they are sent does.
const LOSS_SEED: u64 = 7;

/// What happens to messages of one node to another.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Fault {
    /// They come late.
    Delay(Duration),
    /// They stand still until this ends, and so does a new connection: what packets that vanish look like.
    Hold,
    /// Connections end, and new ones are closed at once.
    Cut,
    /// The receiver sees its connections end, the sender keeps open ones that nobody reads.
    HalfOpen,
    /// Of so many messages one is lost, chosen by chance.
    Lose { one_in: u32 },
}

/// A fault without its measure.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Kind {
    Delay,
    Hold,
    Cut,
    HalfOpen,
    Lose,
}

impl From<Fault> for Kind {
    fn from(fault: Fault) -> Self {
        match fault {
            Fault::Delay(_) => Self::Delay,
            Fault::Hold => Self::Hold,
            Fault::Cut => Self::Cut,
            Fault::HalfOpen => Self::HalfOpen,
            Fault::Lose { .. } => Self::Lose,
        }
    }
}

type Rules = BTreeMap<(String, String), Fault>;
/// How often a pair's connection met a fault, and under `None` how many connections it had.
type Met = BTreeMap<(String, String, Option<Kind>), usize>;

/// The proxies, and what they do to whom.
pub(crate) struct Net {
    rules: watch::Sender<Rules>,
    met: Arc<Mutex<Met>>,
    handle: tokio::runtime::Handle,
    end: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Net {
    /// A sound network without nodes.
    pub(crate) fn start() -> Result<Self> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let handle = runtime.handle().clone();
        let (end, ended) = oneshot::channel();
        let thread = std::thread::spawn(move || {
            // It ends when told to, or when the net is gone.
            let _ = runtime.block_on(ended);
        });
        let (rules, _) = watch::channel(Rules::new());
        let (end, thread) = (Some(end), Some(thread));
        Ok(Self { rules, met: Arc::default(), handle, end, thread })
    }

    /// Puts a proxy before `name`, which listens at `node`; the proxy's address.
    pub(crate) fn proxy(&self, name: &str, node: SocketAddr) -> Result<SocketAddr> {
        let listener = std::net::TcpListener::bind("127.0.0.1:0")?;
        listener.set_nonblocking(true)?;
        let address = listener.local_addr()?;
        let _context = self.handle.enter();
        let listener = TcpListener::from_std(listener)?;
        let line = Line {
            to: name.to_owned(),
            node,
            rules: self.rules.subscribe(),
            met: Arc::clone(&self.met),
        };
        self.handle.spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let line = line.clone();
                // A connection's errors are what the test wants its ends to see.
                tokio::spawn(async move { drop(line.carry(stream).await) });
            }
        });
        Ok(address)
    }

    /// Sets what happens to messages of each of `from` to each of `to`.
    pub(crate) fn set(&self, from: &[&str], to: &[&str], fault: Fault) {
        self.rules.send_modify(|rules| {
            for (from, to) in from.iter().flat_map(|from| to.iter().map(move |to| (from, to))) {
                rules.insert(((*from).to_owned(), (*to).to_owned()), fault);
            }
        });
    }

    /// Parts two groups, both ways.
    pub(crate) fn part(&self, one: &[&str], other: &[&str], fault: Fault) {
        self.set(one, other, fault);
        self.set(other, one, fault);
    }

    /// Ends all faults.
    pub(crate) fn heal(&self) {
        self.rules.send_modify(Rules::clear);
    }

    /// How often connections of `from` to `to` met this kind of fault; with `None` how many connections there were.
    pub(crate) fn met(&self, from: &str, to: &str, kind: Option<Kind>) -> usize {
        let met = self.met.lock().unwrap_or_else(PoisonError::into_inner);
        met.get(&(from.to_owned(), to.to_owned(), kind)).copied().unwrap_or(0)
    }

    /// How often connections met this kind of fault, of all pairs.
    pub(crate) fn met_anywhere(&self, kind: Kind) -> usize {
        let met = self.met.lock().unwrap_or_else(PoisonError::into_inner);
        met.iter().filter(|((_, _, of), _)| *of == Some(kind)).map(|(_, count)| count).sum()
    }
}

impl Drop for Net {
    fn drop(&mut self) {
        drop(self.end.take());
        if let Some(thread) = self.thread.take() {
            // It has panicked only if a test has failed by that.
            let _ = thread.join();
        }
    }
}

/// What a proxy needs to carry connections to its node.
#[derive(Clone)]
struct Line {
    to: String,
    node: SocketAddr,
    rules: watch::Receiver<Rules>,
    met: Arc<Mutex<Met>>,
}

/// The rule of one pair.
#[derive(Clone)]
struct Rule {
    pair: (String, String),
    rules: watch::Receiver<Rules>,
    met: Arc<Mutex<Met>>,
}

impl Rule {
    fn now(&self) -> Option<Fault> {
        self.rules.borrow().get(&self.pair).copied()
    }

    /// Waits until the rule is one that `wanted` takes.
    async fn until(&mut self, wanted: impl Fn(Option<Fault>) -> bool) -> io::Result<Option<Fault>> {
        loop {
            let now = self.rules.borrow_and_update().get(&self.pair).copied();
            if wanted(now) {
                return Ok(now);
            }
            if now.is_some() {
                self.note(now);
            }
            self.rules.changed().await.map_err(|_| io::ErrorKind::ConnectionAborted)?;
        }
    }

    fn note(&self, fault: Option<Fault>) {
        let (from, to) = self.pair.clone();
        let mut met = self.met.lock().unwrap_or_else(PoisonError::into_inner);
        *met.entry((from, to, fault.map(Kind::from))).or_default() += 1;
    }
}

impl Line {
    /// Carries one connection from its first byte to its end.
    async fn carry(&self, mut caller: TcpStream) -> io::Result<()> {
        caller.set_nodelay(true)?;
        let (from, first_bytes) = first_frame(&mut caller).await?;
        let pair = (from, self.to.clone());
        let mut rule = Rule { pair, rules: self.rules.clone(), met: Arc::clone(&self.met) };
        let is_open = |fault| !matches!(fault, Some(Fault::Hold | Fault::HalfOpen));
        if rule.until(is_open).await? == Some(Fault::Cut) {
            rule.note(Some(Fault::Cut));
            return Ok(());
        }
        let mut node = TcpStream::connect(self.node).await?;
        node.set_nodelay(true)?;
        node.write_all(&first_bytes).await?;
        rule.note(None);
        let (caller_reads, caller_writes) = caller.split();
        let (node_reads, node_writes) = node.split();
        let is_broken = |fault| matches!(fault, Some(Fault::Cut | Fault::HalfOpen));
        let breach = tokio::select! {
            _ = pump(caller_reads, node_writes, Some(rule.clone())) => None,
            _ = pump(node_reads, caller_writes, None) => None,
            breach = rule.until(is_broken) => breach?,
        };
        drop(node);
        if breach.is_some() {
            rule.note(breach);
        }
        if breach == Some(Fault::HalfOpen) {
            // The caller's side stays open, and nobody reads it.
            rule.until(|fault| fault != Some(Fault::HalfOpen)).await?;
        }
        Ok(())
    }
}

/// The caller's name, and all bytes read for it.
async fn first_frame(reads: &mut TcpStream) -> io::Result<(String, Vec<u8>)> {
    let mut bytes = vec![0; PREAMBLE.len() + size_of::<u32>()];
    reads.read_exact(&mut bytes).await?;
    let mut length = [0; size_of::<u32>()];
    length.copy_from_slice(&bytes[PREAMBLE.len()..]);
    let length = u32::from_le_bytes(length) as usize;
    if HANDSHAKE_BYTES_MAX < length {
        return Err(io::ErrorKind::InvalidData.into());
    }
    let start = bytes.len();
    bytes.resize(start + length, 0);
    reads.read_exact(&mut bytes[start..]).await?;
    let hello: Hello = codec::decode(&bytes[start..])?;
    let name = match hello.role {
        Role::Peer { name, .. } => name,
        Role::Client { agent } => agent,
    };
    Ok((name, bytes))
}

/// Moves bytes until one end is gone, under the rule where there is one.
async fn pump(
    mut reads: impl AsyncRead + Unpin,
    mut writes: impl AsyncWrite + Unpin,
    mut rule: Option<Rule>,
) -> io::Result<()> {
    let (line, mut far_end) = mpsc::channel::<(Instant, Vec<u8>)>(CHUNKS_MAX);
    let taken_under = rule.clone();
    let take = async move {
        let mut chance = ChaCha8Rng::seed_from_u64(LOSS_SEED);
        loop {
            let chunk = match &taken_under {
                Some(_) => next_frame(&mut reads).await?,
                None => next_bytes(&mut reads).await?,
            };
            let delay = match taken_under.as_ref().and_then(Rule::now) {
                Some(Fault::Lose { one_in }) if chance.random_ratio(1, one_in) => {
                    note(taken_under.as_ref());
                    continue;
                }
                Some(Fault::Delay(delay)) => delay,
                Some(Fault::Hold | Fault::Cut | Fault::HalfOpen | Fault::Lose { .. }) | None => {
                    Duration::ZERO
                }
            };
            if chunk.is_empty() || line.send((Instant::now() + delay, chunk)).await.is_err() {
                return Ok::<(), io::Error>(());
            }
        }
    };
    let give = async {
        while let Some((due, chunk)) = far_end.recv().await {
            if Instant::now() < due {
                tokio::time::sleep_until(due).await;
                note(rule.as_ref());
            }
            if let Some(rule) = &mut rule {
                rule.until(|fault| fault != Some(Fault::Hold)).await?;
            }
            writes.write_all(&chunk).await?;
        }
        Ok(())
    };
    tokio::try_join!(take, give).map(drop)
}

/// The next message of a link, whole; ends with an error between two of them as within one, which ends the link alike.
async fn next_frame(reads: &mut (impl AsyncRead + Unpin)) -> io::Result<Vec<u8>> {
    let length = reads.read_u32_le().await?;
    let mut frame = length.to_le_bytes().to_vec();
    let expected = size_of::<u32>() + length as usize;
    frame.reserve(length as usize);
    while frame.len() < expected {
        let rest = (expected - frame.len()) as u64;
        if reads.take(rest).read_buf(&mut frame).await? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
    }
    Ok(frame)
}

/// What there is, at least a byte; none at the end.
async fn next_bytes(reads: &mut (impl AsyncRead + Unpin)) -> io::Result<Vec<u8>> {
    let mut chunk = vec![0; CHUNK_BYTES];
    let count = reads.read(&mut chunk).await?;
    chunk.truncate(count);
    Ok(chunk)
}

fn note(rule: Option<&Rule>) {
    if let Some(rule) = rule {
        rule.note(rule.now());
    }
}
