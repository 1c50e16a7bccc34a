//! The ring-aware, pipelined native client: tokio at the caller's rim.
//!
//! A [`Client`] knows the layout, sends each request to an owner of its key over one connection a node, and turns to
//! the next owner when that fails, a put under the same request id (DESIGN §4). `connection` drives one connection,
//! `pool` keeps one for each node, `throttle` paces what a node with too much to do is sent, `route` decides whom to try.

mod connection;
mod pool;
mod route;
#[cfg(test)]
mod tests;
mod throttle;

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::{Duration, Instant};

use bytes::Bytes;
use rand::rngs::OsRng;
use rand::{RngCore, TryRngCore};

use crate::node_id::{ClusterId, NodeId};
use crate::replication::{Consistency, Level};
use crate::ring::{Layout, Preferences};
use crate::version::{RequestId, Siblings};
use crate::wire::client::{
    Done, ErrorReply, Get, Got, LayoutReply, Merge, Put, PutBasis, ReplyBody, RequestBody,
};

use connection::{Address, DialError};
use pool::Pool;
use route::{Journey, Kind, reject};

/// Least time between two looks at where the nodes are because one could not be reached.
const LOOK_PAUSE: Duration = Duration::from_secs(1);

/// A client of one cluster. Cheap to clone; all clones share connections and the session.
#[derive(Clone, Debug)]
pub struct Client {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    options: ClientOptions,
    session: u64,
    puts: AtomicU64,
    view: RwLock<Arc<ClusterView>>,
    refreshing: AtomicBool,
    /// When it looked where the nodes are because one could not be reached.
    looked: Mutex<Option<Instant>>,
    pool: Pool,
}

/// How to connect.
#[derive(Clone, Debug)]
pub struct ClientOptions {
    /// `host:port` of nodes to begin with.
    pub hosts: Vec<String>,
    /// A node's admin socket instead of `hosts`.
    pub socket: Option<std::path::PathBuf>,
    /// The deadline of a request that names none.
    pub timeout: Duration,
    /// Shown in the node's log.
    pub agent: String,
}

/// What the client knows of the cluster.
#[derive(Clone, Debug)]
pub struct ClusterView {
    /// The cluster.
    pub cluster: ClusterId,
    /// Its name.
    pub cluster_name: String,
    /// The layout in force.
    pub layout: Arc<Layout>,
    /// Its walks.
    pub preferences: Arc<Preferences>,
    /// Where clients reach each member.
    pub clients: BTreeMap<NodeId, String>,
    /// Longest key and value together, bytes.
    pub pair_max: u32,
    /// Names of nodes that are no members, as far as the node that was asked knows them.
    pub former: BTreeMap<NodeId, String>,
}

/// Options of a read.
#[derive(Clone, Copy, Debug, Default)]
pub struct GetOptions {
    /// How many owners must answer.
    pub r: Option<Level>,
    /// Whom to count.
    pub consistency: Option<Consistency>,
}

/// Options of a write.
#[derive(Clone, Copy, Debug, Default)]
pub struct PutOptions {
    /// Durable acknowledgements to wait for.
    pub w: Option<Level>,
    /// Whom to count.
    pub consistency: Option<Consistency>,
}

/// Why a call failed.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// No node could be reached.
    #[error("no node reachable: {tried}")]
    NoNode {
        /// Each address tried and why it failed.
        tried: String,
    },
    /// A node refused the connection.
    #[error("{node} refused the connection: {reason}")]
    Refused {
        /// Its address.
        node: String,
        /// For programs.
        code: crate::wire::handshake::RefusalCode,
        /// Its words.
        reason: String,
    },
    /// Bytes that are not our protocol.
    #[error("{node} does not speak the kvkit protocol: {reason}")]
    Protocol {
        /// Its address.
        node: String,
        /// What was wrong.
        reason: String,
    },
    /// The node replied with an error.
    #[error("{}", .0.message)]
    Reply(Box<ErrorReply>),
    /// The deadline passed without a reply.
    #[error("no reply within {timeout:?}")]
    Timeout {
        /// The deadline's span.
        timeout: Duration,
        /// Whether a write was under way, so that its outcome is unknown.
        write: bool,
    },
}

impl Client {
    /// Connects to the first reachable of the options' hosts and learns the layout.
    /// # Errors
    /// [`ClientError::NoNode`], [`ClientError::Refused`], [`ClientError::Protocol`].
    pub async fn connect(options: ClientOptions) -> Result<Self, ClientError> {
        let deadline = now() + options.timeout;
        let pool = Pool::default();
        let mut failures = Failures::default();
        for address in options.addresses() {
            match pool.connection(&address, &options.agent, deadline).await {
                Ok(connection) => match connection.request(RequestBody::Layout, deadline).await {
                    Ok(reply) => {
                        let view = ClusterView::learn(&address, reject(reply.body)?)?;
                        return Ok(Self::new(options, pool, view));
                    }
                    Err(_) => failures.tried.push(format!("{address} (no reply)")),
                },
                Err(error) => failures.add(&address, error),
            }
        }
        Err(failures.into_error())
    }

    fn new(options: ClientOptions, pool: Pool, view: ClusterView) -> Self {
        let shared = Shared {
            options,
            session: OsRng.unwrap_err().next_u64(),
            puts: AtomicU64::new(0),
            view: RwLock::new(Arc::new(view)),
            refreshing: AtomicBool::new(false),
            looked: Mutex::default(),
            pool,
        };
        Self { shared: Arc::new(shared) }
    }

    /// What the client knows of the cluster now; renewed by itself when a reply names a newer layout.
    pub fn cluster(&self) -> Arc<ClusterView> {
        Arc::clone(&self.shared.view.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Reads a key at an owner of it; fails over to the next owner, then to any node.
    /// # Errors
    /// [`ClientError`].
    pub async fn get(&self, key: Bytes, options: GetOptions) -> Result<Got, ClientError> {
        let GetOptions { r, consistency } = options;
        let body = |_| RequestBody::Get(Get { key: key.clone(), r, consistency });
        match reject(Journey::new(self, Kind::Get).travel(Some(&key), body).await?)? {
            ReplyBody::Got(got) => Ok(got),
            other => Err(self.unfitting(&other)),
        }
    }

    /// Writes (or with `None` deletes) a key; fails over with the same request id.
    /// # Errors
    /// [`ClientError`].
    pub async fn put(
        &self,
        key: Bytes,
        value: Option<Bytes>,
        basis: PutBasis,
        options: PutOptions,
    ) -> Result<Done, ClientError> {
        let counter = self.shared.puts.fetch_add(1, Ordering::Relaxed) + 1;
        let put = Put {
            key,
            value,
            basis,
            w: options.w,
            r: None,
            consistency: options.consistency,
            request: RequestId { session: self.shared.session, counter },
            age: 0,
        };
        let body = |age| RequestBody::Put(Put { age, ..put.clone() });
        match reject(Journey::new(self, Kind::Write).travel(Some(&put.key), body).await?)? {
            ReplyBody::Done(done) => Ok(done),
            other => Err(self.unfitting(&other)),
        }
    }

    /// Has the owners of a key merge a state from elsewhere; fails over: done twice it is done once.
    /// # Errors
    /// [`ClientError`].
    pub async fn merge(
        &self,
        key: Bytes,
        state: Siblings,
        options: PutOptions,
    ) -> Result<Done, ClientError> {
        let PutOptions { w, consistency } = options;
        let merge = Merge { key, state, w, consistency };
        let body = |_| RequestBody::Merge(merge.clone());
        match reject(Journey::new(self, Kind::Write).travel(Some(&merge.key), body).await?)? {
            ReplyBody::Done(done) => Ok(done),
            other => Err(self.unfitting(&other)),
        }
    }

    /// Any request, at `node` and nowhere else, or at any reachable node where none is named. Error replies come as
    /// [`ClientError::Reply`].
    /// # Errors
    /// [`ClientError`].
    pub async fn call(
        &self,
        node: Option<NodeId>,
        body: RequestBody,
    ) -> Result<ReplyBody, ClientError> {
        let kind = match &body {
            RequestBody::Put(_) | RequestBody::Merge(_) | RequestBody::Propose { .. } => {
                Kind::Write
            }
            RequestBody::Get(_) => Kind::Get,
            _ => Kind::Other,
        };
        let journey = Journey::new(self, kind);
        let reply = match (node, &body) {
            (Some(node), _) => {
                let address = self.address_of(node).ok_or_else(|| ClientError::NoNode {
                    tried: format!("node {node} (its client address is not known)"),
                })?;
                journey.visit(&address, Some(node), body).await?
            }
            // A retry of a change could be told that its own first try was in the way.
            (None, RequestBody::Propose { .. }) => {
                let addresses = self.addresses(None);
                let address = addresses.first().ok_or_else(|| ClientError::NoNode {
                    tried: "no address is known".to_owned(),
                })?;
                journey.visit(address, None, body).await?
            }
            (None, _) => journey.travel(None, |_| body.clone()).await?,
        };
        reject(reply)
    }

    /// Where a request for `key` goes, in order.
    fn addresses(&self, key: Option<&[u8]>) -> Vec<Address> {
        if let Some(path) = &self.shared.options.socket {
            return vec![Address::Unix(path.clone())];
        }
        let view = self.cluster();
        let known = view.order(key).into_iter().filter_map(|node| view.clients.get(&node));
        let mut addresses: Vec<Address> = known.cloned().map(Address::Tcp).collect();
        if addresses.is_empty() {
            addresses = self.shared.options.addresses();
        }
        // Stable: among the shunned, and among the others, the order stays.
        addresses.sort_by_cached_key(|address| self.shared.pool.is_shunned(address));
        if addresses.first().is_some_and(|address| self.shared.pool.is_shunned(address)) {
            // All of them: they may have moved, and one of the hosts to begin with may still be where it was.
            let hosts = self.shared.options.addresses().into_iter();
            let further: Vec<Address> = hosts.filter(|host| !addresses.contains(host)).collect();
            addresses.extend(further);
        }
        addresses
    }

    fn address_of(&self, node: NodeId) -> Option<Address> {
        self.cluster().clients.get(&node).cloned().map(Address::Tcp)
    }

    /// Learns the layout anew in the background when a node acts on a newer one.
    fn note_layout(&self, version: u64) {
        if self.cluster().layout.version < version {
            self.refresh_behind();
        }
    }

    /// A node could not be reached, or is another one by now: learns in the background, now and then, where they are.
    fn look_around(&self) {
        let mut looked = self.shared.looked.lock().unwrap_or_else(PoisonError::into_inner);
        if looked.is_none_or(|at| LOOK_PAUSE <= now().saturating_duration_since(at)) {
            *looked = Some(now());
            self.refresh_behind();
        }
    }

    fn refresh_behind(&self) {
        if self.shared.refreshing.swap(true, Ordering::AcqRel) {
            return;
        }
        let client = self.clone();
        tokio::spawn(async move {
            client.refresh(now() + client.shared.options.timeout).await;
            client.shared.refreshing.store(false, Ordering::Release);
        });
    }

    /// Asks the nodes in turn until one tells a layout; keeps what is known where none does.
    async fn refresh(&self, deadline: Instant) {
        for address in self.addresses(None) {
            let agent = &self.shared.options.agent;
            let Ok(connection) = self.shared.pool.connection(&address, agent, deadline).await
            else {
                continue;
            };
            let Ok(reply) = connection.request(RequestBody::Layout, deadline).await else {
                continue;
            };
            let Ok(view) = ClusterView::learn(&address, reply.body) else { continue };
            let mut known = self.shared.view.write().unwrap_or_else(PoisonError::into_inner);
            // Another cluster may have taken the address over.
            if known.cluster != view.cluster {
                continue;
            }
            let rank = |layout: &Layout| (layout.generation, layout.version);
            if rank(&known.layout) <= rank(&view.layout) {
                *known = Arc::new(view);
            }
            return;
        }
    }

    fn unfitting(&self, reply: &ReplyBody) -> ClientError {
        let kind =
            format!("{reply:?}").chars().take_while(char::is_ascii_alphabetic).collect::<String>();
        ClientError::Protocol {
            node: self.cluster().cluster_name.clone(),
            reason: format!("the reply `{kind}` does not fit the request"),
        }
    }
}

impl ClientOptions {
    fn addresses(&self) -> Vec<Address> {
        match &self.socket {
            Some(path) => vec![Address::Unix(path.clone())],
            None => self.hosts.iter().cloned().map(Address::Tcp).collect(),
        }
    }
}

impl ClusterView {
    fn learn(address: &Address, reply: ReplyBody) -> Result<Self, ClientError> {
        let malformed =
            |reason: String| ClientError::Protocol { node: address.to_string(), reason };
        let ReplyBody::Layout(reply) = reply else {
            return Err(malformed(
                "it answered a question for the layout with something else".into(),
            ));
        };
        let LayoutReply { cluster, cluster_name, layout, clients, pair_max, former } = reply;
        layout.validate().map_err(|error| malformed(format!("its layout is unusable: {error}")))?;
        let layout = Arc::new(layout);
        let preferences = Arc::new(Preferences::new(Arc::new(layout.now.clone())));
        Ok(Self { cluster, cluster_name, layout, preferences, clients, pair_max, former })
    }
}

/// Why none of the first addresses would do.
#[derive(Default)]
struct Failures {
    tried: Vec<String>,
    telling: Option<ClientError>,
}

impl Failures {
    fn add(&mut self, address: &Address, error: DialError) {
        self.tried.push(format!("{address} ({error})"));
        let node = address.to_string();
        let telling = match error {
            DialError::Io(_) | DialError::Timeout => return,
            DialError::Protocol(reason) => ClientError::Protocol { node, reason },
            DialError::Refused { code, reason } => ClientError::Refused { node, code, reason },
        };
        self.telling.get_or_insert(telling);
    }

    /// A node that answered and said no tells more than those that did not answer.
    fn into_error(self) -> ClientError {
        self.telling.unwrap_or_else(|| ClientError::NoNode { tried: self.tried.join(", ") })
    }
}

#[expect(clippy::disallowed_methods, reason = "the client is a rim: it reads the clock")]
fn now() -> Instant {
    Instant::now()
}
