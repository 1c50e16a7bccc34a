//! The core loop: opens a node, feeds its Core whatever happens, carries out what it says, until the end.

use std::collections::BTreeMap;
use std::future::pending;
use std::path::Path;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use nix::sys::resource::{UsageWho, getrusage};
use nix::sys::time::{TimeVal, TimeValLike as _};
use rand::{Rng, SeedableRng, TryRngCore};
use rand_chacha::ChaCha8Rng;
use tokio::net::{TcpListener, UnixListener};
use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};
use tokio::task::LocalSet;

use crate::cluster::Addresses;
use crate::node::{
    self, Core, CoreConfig, Effect, Event, HintLimits, Limits, Replayed, Severity, StartError,
};
use crate::node_id::NodeId;
use crate::storage::vfs::{Real, Vfs};
use crate::storage::{DirLock, Identity, IdentityError, Recovery, Store};

use super::disk::{Disk, News, Read};
use super::hub::{Hub, Phase};
use super::link::{self, Link};
use super::listen::{self, Door};
use super::signals::{Signals, Wish};
use super::{Ended, Options, RunError, bootstrap, clock, http, joining, takeover};

/// Longest time for the last replies to leave once everything is done.
const FAREWELL: Duration = Duration::from_secs(2);
/// Most news from the disk threads taken at once.
const NEWS_MAX: usize = 1_024;

/// Everything that listens.
struct Listeners {
    peer: TcpListener,
    client: TcpListener,
    http: Option<TcpListener>,
    admin: Option<UnixListener>,
}

/// How a node's life on one disk ended.
enum Life {
    /// The process ends.
    Ended(Ended),
    /// What the disk held is set aside: the node begins again, and finds the other members there.
    Begins(BTreeMap<NodeId, Addresses>),
}

/// What the loop carries along.
struct Drive {
    /// Where members may be found.
    seeds: Vec<String>,
    hub: Rc<Hub>,
    disk: Disk,
    rng: ChaCha8Rng,
    effects: Vec<Effect>,
    /// When Core wants a tick.
    wake: u64,
    is_stopped: bool,
    is_rolled_back: bool,
    is_removed: bool,
}

/// Runs the node in `options.data_dir` until it is told to stop.
/// # Errors
/// [`RunError`]: it cannot start, or cannot go on.
pub fn run(options: &Options) -> Result<Ended, RunError> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|source| RunError::System { what: "start the runtime", source })?;
    let mut signals = runtime.block_on(async { Signals::new() })?;
    let mut others = BTreeMap::new();
    loop {
        // The tasks of a life end with it.
        match LocalSet::new().block_on(&runtime, live(options, &mut signals, &others))? {
            Life::Ended(ended) => return Ok(ended),
            Life::Begins(known) => others = known,
        }
    }
}

async fn live(
    options: &Options,
    signals: &mut Signals,
    others: &BTreeMap<NodeId, Addresses>,
) -> Result<Life, RunError> {
    let dir = &options.data_dir;
    if joining::is_wanted(options) {
        tokio::select! {
            joined = joining::join(options) => joined?,
            () = signals.stop() => return Ok(Life::Ended(Ended::Drained)),
        }
    }
    let (identity, _lock) = take(options).await?;
    bootstrap::finish_setting_aside(dir)?;
    if let Some(others) = bootstrap::set_salvaged_aside(dir)? {
        return Ok(Life::Begins(others));
    }
    let (store, replayed) = open(options)?;
    if bootstrap::is_damaged(&store) {
        let others = node::addresses_on_record(&store);
        bootstrap::set_aside(dir)?;
        return Ok(Life::Begins(others));
    }
    if bootstrap::is_needed(&store)? {
        if !others.is_empty() {
            node::keep_addresses(&store, others).map_err(|error| not_started(options, error))?;
        }
        let begun = bootstrap::begin_again(options, &identity, &store);
        tokio::select! {
            begun = begun => begun?,
            () = signals.stop() => return Ok(Life::Ended(Ended::Drained)),
        }
    }
    let (listeners, addresses) = listen_everywhere(options).await?;
    let mut rng = ChaCha8Rng::from_seed(seed()?);
    let config = core_config(options, identity, addresses);
    let name = config.identity.name.clone();
    let core_rng = ChaCha8Rng::from_rng(&mut rng);
    let core = Core::open(config, Arc::clone(&store), replayed, clock::now(), core_rng)
        .map_err(|source| not_started(options, source))?;
    let (tell, news) = unbounded_channel();
    let disk = Disk::start(&store, &tell)?;
    let hub = Rc::new(Hub::new(core, options.frame_bytes_max));
    welcome_all(&hub, listeners, options.connections);
    tracing::info!(name, peer = options.listen_peer, client = options.listen_client, "ready");
    notify(&[sd_notify::NotifyState::Ready]);
    let mut drive = Drive {
        seeds: options.seeds.clone(),
        hub,
        disk,
        rng,
        effects: Vec::new(),
        wake: 0,
        is_stopped: false,
        is_rolled_back: false,
        is_removed: false,
    };
    let ended = drive.run(news, signals, &options.reload).await;
    let _ = std::fs::remove_file(dir.join(listen::ADMIN_SOCKET));
    match ended? {
        None => {
            drive.disk.stop();
            let others = node::addresses_on_record(&store);
            bootstrap::set_aside(dir)?;
            Ok(Life::Begins(others))
        }
        Some(Ended::Drained) => {
            drive.disk.stop();
            store.close().map_err(|failed| RunError::Fatal(failed.to_string()))?;
            if drive.is_removed {
                return Err(RunError::Removed { dir: dir.clone() });
            }
            Ok(Life::Ended(Ended::Drained))
        }
        Some(ended @ (Ended::Interrupted | Ended::Terminated)) => Ok(Life::Ended(ended)),
    }
}

/// Takes the directory for this process, once it is seen to be this node's.
async fn take(options: &Options) -> Result<(Identity, DirLock), RunError> {
    let dir = &options.data_dir;
    let identity = match Identity::read(&Real, dir) {
        Ok(identity) => identity,
        Err(IdentityError::Missing { .. }) => {
            return Err(RunError::NotFounded { dir: dir.clone() });
        }
        Err(error) => return Err(error.into()),
    };
    check_identity(options, &identity)?;
    Ok((identity, takeover::lock(&Real, dir).await?))
}

fn open(options: &Options) -> Result<(Arc<Store>, Replayed), RunError> {
    let dir = &options.data_dir;
    let vfs: Arc<dyn Vfs> = Arc::new(Real);
    let mut replayed = Replayed::new(clock::now());
    let mut observe = |key: &[u8], value: Option<&[u8]>| replayed.observe(key, value);
    let (store, recovery) = Store::open(vfs, dir, options.store.clone(), &mut observe)
        .map_err(|error| RunError::Store { dir: dir.clone(), source: Box::new(error) })?;
    report(&recovery);
    Ok((Arc::new(store), replayed))
}

/// What recovery found is worth a line, and what it lost a loud one.
fn report(recovery: &Recovery) {
    tracing::info!(records = recovery.records, bytes = recovery.bytes, "recovered the log");
    if let Some(cut) = &recovery.cut {
        tracing::warn!(
            "the log ended in the middle of a record: {} from byte {}, {} bytes; they were never acknowledged",
            cut.file.display(),
            cut.offset,
            cut.bytes
        );
    }
    for damaged in &recovery.damaged {
        tracing::error!("{} is damaged: {}", damaged.file.display(), damaged.reason);
    }
}

fn check_identity(options: &Options, identity: &Identity) -> Result<(), RunError> {
    let wrong = |found: String, expected: String| RunError::WrongIdentity {
        dir: options.data_dir.clone(),
        found,
        expected,
    };
    if identity.cluster_name != options.cluster {
        let found = format!("cluster {} ({})", identity.cluster_name, identity.cluster);
        return Err(wrong(found, format!("cluster {}", options.cluster)));
    }
    if identity.name != options.name {
        return Err(wrong(format!("node {}", identity.name), format!("node {}", options.name)));
    }
    Ok(())
}

pub(super) fn not_started(options: &Options, source: StartError) -> RunError {
    let dir = options.data_dir.clone();
    match source {
        StartError::NotFounded => RunError::NotFounded { dir },
        source => RunError::Start { dir, source: Box::new(source) },
    }
}

async fn listen_everywhere(options: &Options) -> Result<(Listeners, Addresses), RunError> {
    let peer = listen::bind(&options.listen_peer, "nodes").await?;
    let client = listen::bind(&options.listen_client, "clients").await?;
    let http = match &options.listen_http {
        Some(address) => Some(listen::bind(address, "HTTP").await?),
        None => None,
    };
    let admin = match listen::bind_admin(&options.data_dir) {
        Ok(admin) => Some(admin),
        Err(error) => {
            tracing::warn!("no admin socket, so kvctl --socket does not reach this node: {error}");
            None
        }
    };
    let addresses = Addresses {
        peer: told(options.advertise_peer.as_ref().unwrap_or(&options.listen_peer), &peer),
        client: told(options.advertise_client.as_ref().unwrap_or(&options.listen_client), &client),
        http: match (&options.listen_http, &http) {
            (Some(address), Some(listener)) => told(address, listener),
            _ => String::new(),
        },
    };
    Ok((Listeners { peer, client, http, admin }, addresses))
}

/// The address that others are told: as configured, with the port that the system chose where it was asked to.
fn told(configured: &str, listener: &TcpListener) -> String {
    match (configured.strip_suffix(":0"), listener.local_addr()) {
        (Some(host), Ok(bound)) => format!("{host}:{}", bound.port()),
        _ => configured.to_owned(),
    }
}

fn core_config(options: &Options, identity: Identity, addresses: Addresses) -> CoreConfig {
    let data_dir = options.data_dir.clone();
    CoreConfig {
        seeds: options.seeds.clone(),
        timeout: options.timeout,
        pair_max: options.pair_max,
        gossip_interval: options.gossip_interval,
        hints: options.hints,
        repair_rate: options.repair_rate,
        limits: Limits { request_bytes: options.request_bytes, ..Limits::default() },
        disk_space: Arc::new(move || disk_space(&data_dir)),
        cpu_time: Arc::new(cpu_time),
        ..CoreConfig::new(identity, addresses)
    }
}

/// Bytes free for us and bytes in all.
fn disk_space(dir: &Path) -> (u64, u64) {
    nix::sys::statvfs::statvfs(dir).map_or((0, 0), |space| {
        let block = space.fragment_size();
        (space.blocks_available() * block, space.blocks() * block)
    })
}

/// Processor time of all threads of this process.
pub(super) fn cpu_time() -> Duration {
    let span = |time: TimeVal| {
        Duration::from_micros(u64::try_from(time.num_microseconds()).unwrap_or_default())
    };
    getrusage(UsageWho::RUSAGE_SELF)
        .map(|usage| span(usage.user_time()) + span(usage.system_time()))
        .unwrap_or_default()
}

fn welcome_all(hub: &Rc<Hub>, listeners: Listeners, connections: usize) {
    let Listeners { peer, client, http, admin } = listeners;
    let hub = || Rc::clone(hub);
    tokio::task::spawn_local(listen::accept_tcp(hub(), peer, Door::Peers, usize::MAX));
    tokio::task::spawn_local(listen::accept_tcp(hub(), client, Door::Clients, connections));
    if let Some(http) = http {
        tokio::task::spawn_local(http::serve(hub(), http));
    }
    if let Some(admin) = admin {
        // An administrator gets in when clients fill the node.
        tokio::task::spawn_local(listen::accept_admin(hub(), admin, usize::MAX));
    }
}

impl Drive {
    /// How the process ends; `None` where the disk was rolled back, and it must not.
    async fn run(
        &mut self,
        mut news: UnboundedReceiver<News>,
        signals: &mut Signals,
        reload: &dyn Fn() -> Option<HintLimits>,
    ) -> Result<Option<Ended>, RunError> {
        let mut batch = Vec::new();
        self.hub.post(Event::Tick);
        loop {
            self.handle_all()?;
            self.check_verdicts()?;
            if self.is_rolled_back {
                return Ok(None);
            }
            if self.is_stopped || self.is_removed {
                self.say_goodbye().await;
                return Ok(Some(Ended::Drained));
            }
            let hub = Rc::clone(&self.hub);
            tokio::select! {
                biased;
                wish = signals.next() => match wish {
                    Wish::Stop(_) if self.hub.phase.get() == Phase::Serving => self.stop(),
                    Wish::Stop(ended) => return Ok(Some(ended)),
                    Wish::Reload => {
                        if let Some(limits) = reload() {
                            self.hub.post(Event::HintLimits(limits));
                        }
                    }
                },
                () = hub.news.notified() => {}
                _ = news.recv_many(&mut batch, NEWS_MAX) => {}
                () = sleep_until(self.wake) => self.hub.post(Event::Tick),
            }
            for news in batch.drain(..) {
                match news {
                    News::Event(event) => self.hub.post(event),
                    News::Fatal(why) => return Err(RunError::Fatal(why)),
                }
            }
        }
    }

    /// Feeds Core all that waits, and what follows from it.
    fn handle_all(&mut self) -> Result<(), RunError> {
        loop {
            let events = self.hub.take_events();
            if events.is_empty() {
                break;
            }
            if self.wake <= clock::now().monotonic {
                self.wake = u64::MAX;
            }
            for event in events {
                self.hub.core.borrow_mut().handle(clock::now(), event, &mut self.effects);
            }
            let mut effects = std::mem::take(&mut self.effects);
            effects.drain(..).try_for_each(|effect| self.carry_out(effect))?;
            self.effects = effects;
        }
        self.disk.sync_log();
        let pause = self.disk.delay();
        if !pause.is_zero() {
            self.hub.hold_clients(pause);
        }
        Ok(())
    }

    fn carry_out(&mut self, effect: Effect) -> Result<(), RunError> {
        match effect {
            Effect::Reply { caller, reply } => self.hub.reply(caller, reply),
            Effect::Dropped { caller } => self.hub.dropped(caller),
            Effect::Send { to, message } => {
                let link = self.hub.links.borrow().get(&to).cloned();
                if !link.is_some_and(|link| link.push(message)) {
                    self.hub.post(Event::PeerUnreachable(to));
                }
            }
            Effect::Read { token, key } => self.disk.read(Read::Get { token, key }),
            Effect::Scan { token, start, end, entries_max, bytes_max } => {
                self.disk.read(Read::Scan { token, start, end, entries_max, bytes_max });
            }
            Effect::Mend(keys) => self.disk.read(Read::Mend(keys)),
            Effect::Snapshot(work) => self.disk.snapshot(work),
            Effect::Wake(at) => self.wake = self.wake.min(at),
            Effect::Peers(peers) => self.link_up(peers),
            Effect::Introduce { address, message } => {
                tokio::task::spawn_local(link::introduce(Rc::clone(&self.hub), address, message));
            }
            Effect::CloseClients => self.hub.close_clients(),
            Effect::Log(severity, text) => match severity {
                Severity::Info => tracing::info!("{text}"),
                Severity::Warn => tracing::warn!("{text}"),
                Severity::Error => tracing::error!("{text}"),
            },
            Effect::Stopped | Effect::Departed => self.is_stopped = true,
            Effect::Removed => self.is_removed = true,
            Effect::RolledBack(why) => {
                tracing::error!("{why}; all it holds is set aside, and this node begins again");
                self.is_rolled_back = true;
            }
            Effect::Fatal(why) => return Err(RunError::Fatal(why)),
        }
        Ok(())
    }

    /// Dials new peers and those with a new address, and lets go of the others.
    fn link_up(&mut self, peers: Vec<(NodeId, String)>) {
        let wanted: BTreeMap<NodeId, String> = peers.into_iter().collect();
        let mut links = self.hub.links.borrow_mut();
        links.retain(|peer, link| {
            let is_wanted = wanted.get(peer) == Some(&link.address);
            if !is_wanted {
                link.retire();
                self.hub.post(Event::PeerUnreachable(*peer));
            }
            is_wanted
        });
        for (peer, address) in wanted {
            links.entry(peer).or_insert_with(|| {
                let link = Rc::new(Link::new(address));
                let rng = ChaCha8Rng::seed_from_u64(self.rng.random());
                let hub = Rc::clone(&self.hub);
                tokio::task::spawn_local(link::maintain(hub, peer, Rc::clone(&link), rng));
                link
            });
        }
    }

    /// The cluster's members will not have this node: it ends, and says so.
    fn check_verdicts(&self) -> Result<(), RunError> {
        let (verdicts, links) = (self.hub.verdicts.borrow(), self.hub.links.borrow());
        let addresses: Vec<&str> = links.values().map(|link| link.address.as_str()).collect();
        match verdicts.last_word(&addresses, &self.seeds) {
            Some((by, code, reason)) => {
                Err(RunError::Refused { by: by.to_owned(), code, reason: reason.to_owned() })
            }
            None => Ok(()),
        }
    }

    fn stop(&self) {
        tracing::info!("stopping: finishing what is in flight");
        notify(&[sd_notify::NotifyState::Stopping]);
        self.hub.set_phase(Phase::Stopping);
        self.hub.post(Event::Stop);
    }

    /// Lets the last replies leave.
    async fn say_goodbye(&self) {
        self.hub.close_clients();
        let gone = async {
            while self.hub.connections() > 0 {
                self.hub.news.notified().await;
            }
        };
        if tokio::time::timeout(FAREWELL, gone).await.is_err() {
            tracing::warn!("{} clients did not take their last replies", self.hub.connections());
        }
    }
}

async fn sleep_until(monotonic: u64) {
    if monotonic == u64::MAX {
        pending::<()>().await;
    }
    tokio::time::sleep(clock::until(monotonic)).await;
}

/// Without systemd nobody listens.
fn notify(state: &[sd_notify::NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(state) {
        tracing::warn!("cannot notify systemd: {error}");
    }
}

fn seed() -> Result<[u8; 32], RunError> {
    let mut seed = [0; 32];
    rand::rngs::OsRng.try_fill_bytes(&mut seed).map_err(|error| RunError::System {
        what: "draw random bytes",
        source: std::io::Error::other(error),
    })?;
    Ok(seed)
}
