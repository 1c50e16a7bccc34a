//! The client against nodes that say what the test wants.

use std::sync::{Arc, Mutex};

use futures_util::{SinkExt, StreamExt};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

use super::*;
use crate::ring::{Member, Mode, Token, Weight};
use crate::version::{Siblings, VectorClock};
use crate::wire::client::{ErrorCode, Reply, Request};
use crate::wire::handshake::{Hello, Welcome};
use crate::wire::{codec, frame};

/// What a fake node does with a request that is not for the layout.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Manner {
    /// Replies.
    Replies,
    /// Reads it and hangs up.
    HangsUp,
    /// Reads it and says nothing.
    Silent,
    /// Replies that it is not ready.
    NotReady,
}

/// A cluster of fake nodes, and what they were asked.
struct Fakes {
    layout: Layout,
    clients: BTreeMap<NodeId, String>,
    asked: Arc<Mutex<Vec<(NodeId, Request)>>>,
}

impl Fakes {
    /// One node for each manner; the first ones come first in the walk of `key`.
    async fn start(key: &[u8], manners: &[Manner]) -> Self {
        let members = (1..=manners.len()).map(|number| Member {
            id: NodeId::from_bytes([u8::try_from(number).unwrap(); 16]),
            name: format!("n{number}"),
            zone: String::new(),
            weight: Weight(1_000),
        });
        let n = u8::try_from(manners.len()).unwrap();
        let layout = Layout::found(32, n, 1, 1, Mode::Available, members.collect()).unwrap();
        let preferences = Preferences::new(Arc::new(layout.now.clone()));
        let owners: Vec<NodeId> = preferences.of_slot(Token::of(key).slot()).owners().collect();
        let mut listeners = Vec::new();
        let mut clients = BTreeMap::new();
        for owner in &owners {
            let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
            clients.insert(*owner, listener.local_addr().unwrap().to_string());
            listeners.push(listener);
        }
        let fakes = Self { layout, clients, asked: Arc::default() };
        for ((owner, listener), manner) in owners.into_iter().zip(listeners).zip(manners) {
            tokio::spawn(serve(
                owner,
                listener,
                *manner,
                fakes.layout_reply(),
                Arc::clone(&fakes.asked),
            ));
        }
        fakes
    }

    fn layout_reply(&self) -> LayoutReply {
        LayoutReply {
            cluster: ClusterId::from_bits(1),
            cluster_name: "fake".to_owned(),
            layout: self.layout.clone(),
            clients: self.clients.clone(),
            pair_max: 10_240,
            former: BTreeMap::new(),
        }
    }

    async fn client(&self, timeout: Duration) -> Client {
        let hosts = self.clients.values().cloned().collect();
        let options = ClientOptions { hosts, socket: None, timeout, agent: "test".to_owned() };
        Client::connect(options).await.unwrap()
    }

    fn asked(&self) -> Vec<(NodeId, Request)> {
        self.asked.lock().unwrap().clone()
    }
}

async fn serve(
    node: NodeId,
    listener: TcpListener,
    manner: Manner,
    layout: LayoutReply,
    asked: Arc<Mutex<Vec<(NodeId, Request)>>>,
) {
    loop {
        let (mut stream, _) = listener.accept().await.unwrap();
        let (layout, asked) = (layout.clone(), Arc::clone(&asked));
        tokio::spawn(async move {
            let mut preamble = [0; 8];
            stream.read_exact(&mut preamble).await.unwrap();
            assert_eq!(preamble, frame::PREAMBLE);
            let (reader, mut writer) = stream.into_split();
            let mut frames = frame::read_frames(reader, frame::HANDSHAKE_BYTES_MAX);
            let hello = frames.next().await.unwrap().unwrap();
            codec::decode::<Hello>(&hello).unwrap();
            let mut bytes = frame::PREAMBLE.to_vec();
            frame::append(&mut bytes, &welcome(node)).unwrap();
            writer.write_all(&bytes).await.unwrap();
            let mut incoming = frame::incoming::<_, Request>(frames, 1 << 20);
            let mut outgoing = frame::outgoing::<_, Reply>(writer, 1 << 20);
            while let Some(Ok(request)) = incoming.next().await {
                let id = request.id;
                let body = if request.body == RequestBody::Layout {
                    ReplyBody::Layout(layout.clone())
                } else {
                    asked.lock().unwrap().push((node, request));
                    match manner {
                        Manner::Replies => ReplyBody::Got(got(node)),
                        Manner::HangsUp => return,
                        Manner::Silent => continue,
                        Manner::NotReady => ReplyBody::Error(not_ready()),
                    }
                };
                outgoing.send(Reply { id, sent: 1, layout: 1, body }).await.unwrap();
            }
        });
    }
}

fn welcome(node: NodeId) -> Welcome {
    Welcome::Accepted {
        protocol: 1,
        features: Vec::new(),
        cluster: ClusterId::from_bits(1),
        node,
        name: String::new(),
        incarnation: 1,
        nonce: 1,
        layout: 1,
        sent: 5_000_000_000,
    }
}

fn got(coordinator: NodeId) -> Got {
    Got {
        state: Siblings::new(),
        answered: vec![coordinator],
        absent: 1,
        needed: 1,
        stale: Vec::new(),
        stand_ins: Vec::new(),
        guarantee: crate::replication::Guarantee::Eventual,
        coordinator,
        micros: 1,
    }
}

fn not_ready() -> ErrorReply {
    ErrorReply {
        code: ErrorCode::NotReady,
        message: "the node starts".to_owned(),
        needed: 0,
        acked: Vec::new(),
        failed: Vec::new(),
        outcome: None,
        retry: true,
    }
}

fn run<T>(test: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(test)
}

const KEY: &[u8] = b"cart:42";
const LONG: Duration = Duration::from_mins(1);

#[track_caller]
fn check_get(manners: &[Manner], asked: usize) {
    run(async {
        let fakes = Fakes::start(KEY, manners).await;
        let client = fakes.client(LONG).await;
        // No hedges: a slow machine would ask one node more than it must.
        while client.shared.pool.take_extra() {}
        let got = client.get(Bytes::from_static(KEY), GetOptions::default()).await.unwrap();
        let order = client.cluster().order(Some(KEY));
        assert_eq!(got.coordinator, order[asked - 1], "{manners:?}");
        let whom: Vec<NodeId> = fakes.asked().iter().map(|(node, _)| *node).collect();
        assert_eq!(whom, order[..asked], "{manners:?}");
    });
}

#[test]
fn a_request_goes_to_the_first_owner_and_on_while_that_fails() {
    check_get(&[Manner::Replies, Manner::Replies, Manner::Replies], 1);
    check_get(&[Manner::HangsUp, Manner::Replies, Manner::Replies], 2);
    check_get(&[Manner::NotReady, Manner::HangsUp, Manner::Replies], 3);
}

#[test]
fn a_node_that_hangs_is_hedged_and_then_turned_to_last() {
    run(async {
        let fakes = Fakes::start(KEY, &[Manner::Silent, Manner::Replies, Manner::Replies]).await;
        let client = fakes.client(LONG).await;
        let order = client.cluster().order(Some(KEY));
        let begun = now();
        let got = client.get(Bytes::from_static(KEY), GetOptions::default()).await.unwrap();
        assert_ne!(got.coordinator, order[0]);
        assert!(begun.elapsed() < LONG / 4, "the get waited for {:?}", begun.elapsed());
        let hung = client.address_of(order[0]).unwrap();
        while !client.shared.pool.is_silent(&hung) {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        let put = PutBasis::Context(VectorClock::new());
        // The fakes' replies fit no put.
        let _ = client.put(Bytes::from_static(KEY), None, put, PutOptions::default()).await;
        let asked = fakes.asked();
        let puts = asked.iter().filter(|(_, request)| matches!(request.body, RequestBody::Put(_)));
        assert_eq!(puts.map(|(node, _)| *node).collect::<Vec<_>>(), [order[1]]);
        // It answers the question whether it is back.
        while client.shared.pool.is_silent(&hung) {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    });
}

#[test]
fn a_put_fails_over_under_the_same_id_with_a_growing_age() {
    run(async {
        let fakes = Fakes::start(KEY, &[Manner::HangsUp, Manner::HangsUp, Manner::NotReady]).await;
        let client = fakes.client(Duration::from_millis(300)).await;
        let put = client.put(
            Bytes::from_static(KEY),
            None,
            PutBasis::Context(VectorClock::new()),
            PutOptions::default(),
        );
        // The third node refused it, but what became of it at the first two nobody knows.
        let put = put.await;
        assert!(matches!(put, Err(ClientError::Timeout { write: true, .. })), "{put:?}");
        let puts: Vec<Put> = fakes
            .asked()
            .into_iter()
            .filter_map(|(_, request)| match request.body {
                RequestBody::Put(put) => Some(put),
                _ => None,
            })
            .collect();
        assert!(3 <= puts.len(), "{puts:?}");
        assert!(puts.iter().all(|put| put.request == puts[0].request), "{puts:?}");
        assert_eq!(puts[0].age, 0);
        assert!(0 < puts[1].age && puts[1].age <= puts[2].age, "{puts:?}");
    });
}

#[test]
fn deadlines_are_told_in_the_nodes_time() {
    run(async {
        let fakes = Fakes::start(KEY, &[Manner::Replies]).await;
        let client = fakes.client(Duration::from_secs(2)).await;
        client.get(Bytes::from_static(KEY), GetOptions::default()).await.unwrap();
        let (_, request) = fakes.asked().remove(0);
        // The reply with the layout said 1 ns; at most two seconds are left, less the margin.
        assert!((1..=2_000_000_000).contains(&request.deadline), "{}", request.deadline);
    });
}

#[test]
fn silence_is_a_timeout_that_says_whether_a_write_is_open() {
    run(async {
        let fakes = Fakes::start(KEY, &[Manner::Silent]).await;
        let client = fakes.client(Duration::from_millis(50)).await;
        let got = client.get(Bytes::from_static(KEY), GetOptions::default()).await;
        assert!(matches!(got, Err(ClientError::Timeout { write: false, .. })), "{got:?}");
        let put =
            client.put(Bytes::from_static(KEY), None, PutBasis::Blind, PutOptions::default()).await;
        assert!(matches!(put, Err(ClientError::Timeout { write: true, .. })), "{put:?}");
    });
}

#[test]
fn nobody_there_names_every_address() {
    run(async {
        let free = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
        let options = ClientOptions {
            hosts: vec![free.to_string(), "127.0.0.1:1".to_owned()],
            socket: None,
            timeout: LONG,
            agent: "test".to_owned(),
        };
        let error = Client::connect(options).await.unwrap_err().to_string();
        assert!(error.contains(&free.to_string()) && error.contains("127.0.0.1:1 ("), "{error}");
    });
}

#[test]
fn what_is_no_kvkit_node_is_named_so() {
    run(async {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let host = listener.local_addr().unwrap().to_string();
        tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            stream.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n").await.unwrap();
            let _ = stream.read(&mut [0; 64]).await;
        });
        let options = ClientOptions {
            hosts: vec![host],
            socket: None,
            timeout: LONG,
            agent: "test".to_owned(),
        };
        let error = Client::connect(options).await.unwrap_err();
        assert!(matches!(error, ClientError::Protocol { .. }), "{error}");
    });
}
