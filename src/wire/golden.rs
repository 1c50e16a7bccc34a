//! Golden frames: the payloads of protocol version 1, kept in `tests/golden/wire/`. A release that writes other bytes
//! for them, or does not read these, cannot talk to the ones before it.
//!
//! With `KVKIT_WRITE_GOLDEN=1` a missing file is written; one that is there is never changed.

use std::fmt::Debug;
use std::path::Path;

use bytes::Bytes;
use data_encoding::HEXLOWER;
use serde::{Serialize, de::DeserializeOwned};

use super::client::{
    Done, ErrorCode, ErrorReply, Failed, Get, HotKey, HotKeysReply, Merge, Outcome, Put, PutBasis,
    Reply, ReplyBody, Request, RequestBody, SnapshotFacts, SnapshotFailure, SnapshotFailureCode,
    SnapshotFlaw, SnapshotPart, SnapshotReply, SnapshotRequest,
};
use super::handshake::{Hello, RefusalCode, Role, Welcome};
use super::peer::{PeerFrame, PeerMessage};
use super::{codec, frame};
use crate::node_id::{ClusterId, NodeId};
use crate::replication::{self, Consistency, Envelope, Guarantee, Level, OpId, PutTag};
use crate::version::{
    Actor, Basis, Content, Dot, Epoch, RequestId, Siblings, Timestamp, VectorClock, Version,
};

const NODE: NodeId = NodeId::from_bytes(*b"0123456789abcdef");
const DOT: Dot =
    Dot { actor: Actor { node: NODE, epoch: Epoch { counter: 1, random: 7 } }, counter: 3 };
const REQUEST: RequestId = RequestId { session: 0x0123_4567_89ab_cdef, counter: 42 };
const KEY: Bytes = Bytes::from_static(b"cart:42");
/// Hexadecimal digits a line.
const LINE: usize = 64;

#[track_caller]
fn check<T: Serialize + DeserializeOwned + PartialEq + Debug>(name: &str, message: &T) {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/wire").join(name);
    let payload = codec::encode(message).unwrap();
    if !file.exists() && std::env::var_os("KVKIT_WRITE_GOLDEN").is_some() {
        let digits = HEXLOWER.encode(&payload);
        let lines: Vec<&str> = (0..digits.len())
            .step_by(LINE)
            .map(|at| &digits[at..digits.len().min(at + LINE)])
            .collect();
        std::fs::write(&file, lines.join("\n") + "\n").unwrap();
    }
    let text = std::fs::read_to_string(&file).unwrap_or_else(|error| panic!("{name}: {error}"));
    let golden = HEXLOWER.decode(text.replace('\n', "").as_bytes()).unwrap();
    assert_eq!(codec::decode::<T>(&golden).unwrap(), *message, "{name} reads as something else");
    assert_eq!(HEXLOWER.encode(&payload), HEXLOWER.encode(&golden), "{name} is written otherwise");
}

fn clock() -> VectorClock {
    let mut clock = VectorClock::new();
    clock.observe(DOT);
    clock
}

fn state() -> Siblings {
    let mut state = Siblings::new();
    let content = Content::Value(Bytes::from_static(b"\xff\x00"));
    let version = Version { timestamp: Timestamp::from_bits(1 << 40), request: REQUEST, content };
    state.write(DOT.actor, &Basis::Blind, 2, version).unwrap();
    state
}

#[test]
fn the_preamble_stays() {
    assert_eq!(frame::PREAMBLE, [0x8b, b'k', b'v', b'k', b'i', b't', b'\r', b'\n']);
}

#[test]
fn handshakes_stay() {
    let peer = Role::Peer {
        cluster: ClusterId::from_bits(0x7f3a),
        node: NODE,
        name: "n1".into(),
        incarnation: 2,
        nonce: 9,
        layout: 12,
        generation: 0,
        address: String::new(),
    };
    let hello = |role| Hello {
        protocol_min: 1,
        protocol_max: 1,
        features: vec!["x".into()],
        role,
        sent: 5,
    };
    check("hello-peer.hex", &hello(peer));
    check("hello-client.hex", &hello(Role::Client { agent: "kvctl 0.1.0".into() }));
    let accepted = Welcome::Accepted {
        protocol: 1,
        features: Vec::new(),
        cluster: ClusterId::from_bits(0x7f3a),
        node: NODE,
        name: "n1".into(),
        incarnation: 2,
        nonce: 9,
        layout: 12,
        sent: 1 << 40,
    };
    check("welcome-accepted.hex", &accepted);
    let refused = Welcome::Refused { code: RefusalCode::WrongCluster, reason: "why".into() };
    check("welcome-refused.hex", &refused);
}

#[test]
fn client_messages_stay() {
    let request = |body| Request { id: 1, deadline: 1 << 40, body };
    let get = Get { key: KEY, r: Some(Level::Quorum), consistency: Some(Consistency::Strict) };
    check("request-get.hex", &request(RequestBody::Get(get)));
    let put = Put {
        key: KEY,
        value: Some(Bytes::from_static(b"\xff\x00")),
        basis: PutBasis::IfContext(clock()),
        w: Some(Level::Count(2)),
        r: None,
        consistency: None,
        request: REQUEST,
        age: 0,
    };
    check("request-put.hex", &request(RequestBody::Put(put)));
    let merge = Merge { key: KEY, state: state(), w: Some(Level::Quorum), consistency: None };
    check("request-merge.hex", &request(RequestBody::Merge(merge)));
    let create = SnapshotRequest::Create { name: "nightly".into(), id: 9, layout: 12 };
    check("request-snapshot.hex", &request(RequestBody::Snapshot(create)));
    check("request-layout.hex", &request(RequestBody::Layout));
    let reply = |body| Reply { id: 1, sent: 7, layout: 12, body };
    let done = Done {
        dot: Some(DOT),
        clock: clock(),
        siblings: 1,
        acked: vec![NODE],
        needed: 1,
        stand_ins: Vec::new(),
        guarantee: Guarantee::Overlap,
        coordinator: NODE,
        micros: 250,
    };
    check("reply-done.hex", &reply(ReplyBody::Done(done)));
    let facts = SnapshotFacts {
        id: "0000000000000009".into(),
        created: "2026-11-22T10:00:00Z".into(),
        layout: 12,
        keys: 3,
        bytes: 99,
    };
    let part = |state| SnapshotPart { name: "nightly".into(), state };
    let parts = vec![part(Ok(facts)), part(Err(SnapshotFlaw::Damaged("why".into())))];
    check("reply-snapshots.hex", &reply(ReplyBody::Snapshot(SnapshotReply::List(parts))));
    let failure = SnapshotFailure {
        code: SnapshotFailureCode::Damaged,
        message: "1 files are damaged".into(),
        files: vec![("sst/00000001.sst".into(), "it is gone".into())],
    };
    check("reply-snapshot-failed.hex", &reply(ReplyBody::Snapshot(SnapshotReply::Failed(failure))));
    let error = ErrorReply {
        code: ErrorCode::QuorumUnmet,
        message: "too few".into(),
        needed: 2,
        acked: vec![NODE],
        failed: vec![Failed { node: NODE, why: "down".into() }],
        outcome: Some(Outcome::Unknown),
        retry: true,
    };
    check("reply-error.hex", &reply(ReplyBody::Error(error)));
    check("request-hot-keys.hex", &request(RequestBody::HotKeys));
    let hot = HotKey { key: KEY, key_bytes: 7, token: 1 << 60, gets: 40, puts: 2, error: 1 };
    let hot = HotKeysReply { window: 12, gets: 90, puts: 10, unseen_max: 3, keys: vec![hot] };
    check("reply-hot-keys.hex", &reply(ReplyBody::HotKeys(hot)));
}

#[test]
fn peer_messages_stay() {
    let merge = replication::Request::Merge {
        key: KEY,
        state: state(),
        put: Some(PutTag { request: REQUEST, dot: DOT, plain: true }),
    };
    let envelope = Envelope { layout: 12, op: OpId(5), cut: None, body: merge };
    let message = PeerMessage::Request { deadline: 1 << 40, envelope };
    check("peer-merge.hex", &PeerFrame { sent: 7, message });
    let answer = replication::Answer::State(state());
    let message =
        PeerMessage::Answer(Envelope { layout: 12, op: OpId(5), cut: None, body: answer });
    check("peer-state.hex", &PeerFrame { sent: 7, message });
}
