//! Clients that send garbage, say nothing, read nothing, or are too many: the others do not suffer.

use std::io::{ErrorKind, Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use bytes::Bytes;
use kvkit::wire::client::{Get, Reply, Request, RequestBody};
use kvkit::wire::frame::{self, PREAMBLE};
use kvkit::wire::handshake::{Hello, PROTOCOL, Role};
use predicates::prelude::*;
use predicates::str::{contains, is_empty};

use crate::live::json;
use crate::lone_node::{Alone, http_get};
use crate::node_fixture::{PATIENCE, Result, wait_for};

/// A connection that shook hands as a client.
fn connected(node: &Alone) -> Result<TcpStream> {
    let mut stream = TcpStream::connect(node.address("client")?)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    let hello = Hello {
        protocol_min: PROTOCOL.0,
        protocol_max: PROTOCOL.1,
        features: Vec::new(),
        role: Role::Client { agent: "test".to_owned() },
        sent: 0,
    };
    let mut bytes = PREAMBLE.to_vec();
    frame::append(&mut bytes, &hello)?;
    stream.write_all(&bytes)?;
    let mut answer = [0; PREAMBLE.len() + 4];
    stream.read_exact(&mut answer)?;
    let (preamble, length) = answer.split_at(PREAMBLE.len());
    assert_eq!(preamble, PREAMBLE);
    let mut welcome = vec![0; u32::from_le_bytes(length.try_into()?) as usize];
    stream.read_exact(&mut welcome)?;
    let welcome = String::from_utf8_lossy(&welcome).into_owned();
    assert!(welcome.contains("Accepted"), "{welcome}");
    Ok(stream)
}

/// Another client is served.
#[track_caller]
fn check_served(node: &Alone) -> Result<()> {
    node.kvctl(&["put", "other", "v"])?.assert().success().stderr(is_empty());
    node.kvctl(&["get", "other"])?.assert().success().stdout("v");
    Ok(())
}

#[test]
fn garbage_is_answered_with_a_refusal_and_closed_and_the_node_lives_on() -> Result<()> {
    let mut node = Alone::founded()?;
    node.start(&[])?;
    let preamble = kvkit::wire::frame::PREAMBLE;
    let huge = [&preamble[..], &[0xff; 4]].concat();
    let nonsense = [&preamble[..], &[3, 0, 0, 0, 0xc1, 0xc1, 0xc1]].concat();
    for door in ["client", "peer"] {
        let address = node.address(door)?;
        for garbage in [b"GET / HTTP/1.1\r\n\r\n".to_vec(), huge.clone(), nonsense.clone()] {
            let mut stream = TcpStream::connect(&address)?;
            stream.set_read_timeout(Some(PATIENCE))?;
            stream.write_all(&garbage)?;
            let mut answer = Vec::new();
            // What was not read of our garbage may turn the close into a reset.
            let _ = stream.read_to_end(&mut answer);
            assert!(answer.starts_with(&preamble), "{door}: {answer:?}");
            let text = String::from_utf8_lossy(&answer).into_owned();
            assert!(text.contains("refused") || text.contains("Refused"), "{door}: {text}");
        }
    }
    assert_eq!(http_get(&node.address("http")?, "/livez")?.0, 200);
    Ok(())
}

#[test]
fn garbage_behind_the_handshake_closes_that_connection_alone() -> Result<()> {
    let mut node = Alone::founded()?;
    node.start(&[])?;
    for garbage in [&[0xff; 4][..], &[3, 0, 0, 0, 0xc1, 0xc1, 0xc1]] {
        let mut stream = connected(&node)?;
        stream.write_all(garbage)?;
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer)?;
        let text = String::from_utf8_lossy(&answer).into_owned();
        assert!(text.contains("the connection is closed"), "{text}");
        check_served(&node)?;
    }
    Ok(())
}

#[test]
fn a_silent_connection_is_closed() -> Result<()> {
    let mut node = Alone::founded()?;
    node.start(&[])?;
    let mut stream = TcpStream::connect(node.address("client")?)?;
    stream.set_read_timeout(Some(PATIENCE.max(Duration::from_secs(10))))?;
    assert_eq!(stream.read(&mut [0; 8])?, 0, "closed without a word");
    Ok(())
}

#[test]
fn a_client_that_reads_nothing_disturbs_nobody_and_holds_up_no_stop() -> Result<()> {
    let mut node = Alone::founded()?;
    node.start(&[])?;
    node.kvctl(&["put", "large", "-"])?.write_stdin(vec![b'x'; 10_000]).assert().success();
    let mut stream = connected(&node)?;
    stream.set_write_timeout(Some(Duration::from_millis(500)))?;
    // Until the node reads no more of it: its replies are stuck, and it keeps no more of them than a connection may have.
    let mut sent = 0_u64;
    let stuck = loop {
        let mut bytes = Vec::new();
        for id in sent..sent + 100 {
            let key = Bytes::from_static(b"large");
            let body = RequestBody::Get(Get { key, r: None, consistency: None });
            frame::append(&mut bytes, &Request { id, deadline: 0, body })?;
        }
        match stream.write_all(&bytes) {
            Ok(()) => sent += 100,
            Err(error) => break error,
        }
        assert!(sent < 1_000_000, "the node reads on and on");
    };
    assert!(matches!(stuck.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut), "{stuck}");
    check_served(&node)?;
    assert_eq!(node.stop()?, Some(0), "{}", node.log());
    Ok(())
}

#[test]
fn clients_past_the_limit_are_told_to_try_again() -> Result<()> {
    let mut node = Alone::founded_with("[limits]\nconnections = 2\n")?;
    node.start(&[])?;
    let held = [connected(&node)?, connected(&node)?];
    node.kvctl(&["get", "k"])?
        .assert()
        .code(75)
        .stdout(is_empty())
        .stderr(contains("as many clients as limits.connections allows"));
    let refused = node.kvctl(&["get", "k", "--json"])?.assert().code(75).stdout(is_empty());
    let refused = json(&String::from_utf8_lossy(&refused.get_output().stderr));
    assert_eq!((&refused["code"], &refused["why"]), (&"refused".into(), &"overloaded".into()));
    // The administrator's door is another one.
    let socket = node.data_dir().join("admin.sock");
    let socket = socket.to_str().ok_or("a path")?;
    node.kvctl(&["status", "--plain", "--socket", socket])?
        .assert()
        .success()
        .stdout(contains("n1\tup").or(contains("n1\tUNREACHABLE")));
    drop(held);
    wait_for("room for a client", || {
        node.kvctl(&["put", "k", "v"]).ok()?.output().ok()?.status.success().then_some(())
    });
    check_served(&node)
}

/// A reply of the connection, as text: its number is all that matters.
fn next_reply(stream: &mut TcpStream) -> Result<Reply> {
    let mut length = [0; 4];
    stream.read_exact(&mut length)?;
    let mut payload = vec![0; u32::from_le_bytes(length) as usize];
    stream.read_exact(&mut payload)?;
    Ok(kvkit::wire::codec::decode(&payload)?)
}

/// What is dropped unread has no reply, and must not hold a place among the requests in flight for ever.
#[test]
fn a_connection_whose_requests_came_too_late_is_served_afterwards() -> Result<()> {
    const LATE: u64 = 5_000;
    let mut node = Alone::founded()?;
    node.start(&[])?;
    let mut stream = connected(&node)?;
    let get = |id, deadline| {
        let get = Get { key: Bytes::from_static(b"k"), r: None, consistency: None };
        Request { id, deadline, body: RequestBody::Get(get) }
    };
    let mut bytes = Vec::new();
    for id in 1..=LATE {
        // The first nanosecond since the machine started.
        frame::append(&mut bytes, &get(id, 1))?;
    }
    frame::append(&mut bytes, &get(LATE + 1, 0))?;
    stream.write_all(&bytes)?;
    assert_eq!(next_reply(&mut stream)?.id, LATE + 1);
    Ok(())
}
