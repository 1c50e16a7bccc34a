//! Listeners: peers, clients, and the admin socket in the data directory.

use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::time::Duration;

use futures_util::{SinkExt, StreamExt};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, UnixListener, UnixStream};

use crate::node::Event;
use crate::wire::client::Request;
use crate::wire::frame::{self, Frames, HANDSHAKE_BYTES_MAX};
use crate::wire::handshake::{RefusalCode, Role, Welcome};

use super::hub::{Hub, Phase};
use super::{RunError, clients, clock, handshake, peers};

/// Pause after accepting failed (no file handles left): what is connected goes on meanwhile.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);
/// Name of the admin socket in the data directory.
pub(super) const ADMIN_SOCKET: &str = "admin.sock";

/// Whom a listener takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Door {
    Peers,
    Clients,
}

/// Listens on `address`.
pub(super) async fn bind(address: &str, what: &'static str) -> Result<TcpListener, RunError> {
    TcpListener::bind(address).await.map_err(|source| RunError::Listen {
        address: address.to_owned(),
        what,
        source,
    })
}

/// Why a node has no admin socket.
#[derive(Debug, thiserror::Error)]
pub enum AdminSocketError {
    /// The system's names of sockets are shorter.
    #[error("{} has {bytes} bytes, more than the system takes as a socket's name; a shorter data_dir helps", .path.display())]
    TooLong {
        /// The socket's path.
        path: PathBuf,
        /// Its length.
        bytes: usize,
    },
    /// The system's error.
    #[error("{0}")]
    Io(#[from] io::Error),
}

/// Where the admin socket of `data_dir` is.
/// # Errors
/// [`AdminSocketError::TooLong`] when no socket can have that name.
pub fn admin_socket(data_dir: &Path) -> Result<PathBuf, AdminSocketError> {
    let path = data_dir.join(ADMIN_SOCKET);
    match SocketAddr::from_pathname(&path) {
        Ok(_) => Ok(path),
        Err(_) => Err(AdminSocketError::TooLong { bytes: path.as_os_str().as_bytes().len(), path }),
    }
}

/// Listens on the admin socket of `data_dir`, which this process has locked: what lies there is a dead one's.
pub(super) fn bind_admin(data_dir: &Path) -> Result<UnixListener, AdminSocketError> {
    let path = admin_socket(data_dir)?;
    match std::fs::remove_file(&path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error.into()),
        Ok(()) | Err(_) => {}
    }
    let listener = UnixListener::bind(&path)?;
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600))?;
    Ok(listener)
}

/// Takes connections until the node stops.
pub(super) async fn accept_tcp(hub: Rc<Hub>, listener: TcpListener, door: Door, limit: usize) {
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = hub.stopping() => return,
        };
        match accepted {
            Ok((stream, from)) => {
                // Without it batching is worse, nothing else.
                let _ = stream.set_nodelay(true);
                let (reader, writer) = stream.into_split();
                let guest = meet(Rc::clone(&hub), reader, writer, door, limit, from.to_string());
                tokio::task::spawn_local(guest);
            }
            Err(error) => {
                tracing::warn!("cannot accept a connection: {error}");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

/// Takes administrators on the socket until the node stops: this user and root.
pub(super) async fn accept_admin(hub: Rc<Hub>, listener: UnixListener, limit: usize) {
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = hub.stopping() => return,
        };
        match accepted {
            Ok((stream, _)) if is_administrator(&stream) => {
                let (reader, writer) = stream.into_split();
                let name = "the admin socket".to_owned();
                tokio::task::spawn_local(meet(
                    Rc::clone(&hub),
                    reader,
                    writer,
                    Door::Clients,
                    limit,
                    name,
                ));
            }
            Ok((stream, _)) => {
                tokio::task::spawn_local(refuse_administrator(stream));
            }
            Err(error) => {
                tracing::warn!("cannot accept an administrator: {error}");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

/// Says why. The greeting is taken first: a socket closed before that would fail the caller's write.
async fn refuse_administrator(stream: UnixStream) {
    let (reader, mut writer) = stream.into_split();
    if handshake::greeting(reader, &mut writer).await.is_ok() {
        let reason = "the admin socket takes this node's user and root alone".to_owned();
        let welcome = Welcome::Refused { code: RefusalCode::NotAuthorised, reason };
        // It may not wait for it.
        let _ = handshake::answer(&mut writer, &welcome).await;
    }
}

fn is_administrator(stream: &UnixStream) -> bool {
    let own = nix::unistd::geteuid();
    stream.peer_cred().is_ok_and(|peer| peer.uid() == 0 || peer.uid() == own.as_raw())
}

/// The handshake with whoever connected, then their service.
async fn meet<R, W>(hub: Rc<Hub>, reader: R, mut writer: W, door: Door, limit: usize, from: String)
where
    R: AsyncRead + Unpin + 'static,
    W: AsyncWrite + Unpin + 'static,
{
    let (hello, frames) = match handshake::greeting(reader, &mut writer).await {
        Ok(greeted) => greeted,
        Err(error) => {
            tracing::info!(%from, "no handshake: {error}");
            return;
        }
    };
    let welcome = match (door, &hello.role) {
        (Door::Clients, Role::Client { .. }) if limit <= hub.connections() => refuse(
            RefusalCode::Overloaded,
            "this node has as many clients as limits.connections allows",
        ),
        (Door::Clients, Role::Peer { .. }) => {
            refuse(RefusalCode::Protocol, "this address is for clients; nodes have another one")
        }
        // On the address for nodes a client learns who is there and no more: a member that lost its data asks so.
        (Door::Clients, Role::Client { .. })
        | (Door::Peers, Role::Client { .. } | Role::Peer { .. }) => {
            hub.core.borrow_mut().admit(clock::now(), &hello)
        }
    };
    let answered = handshake::answer(&mut writer, &welcome).await;
    if let Welcome::Refused { reason, .. } = &welcome {
        tracing::warn!(%from, role = ?hello.role, "refused: {reason}");
        return;
    }
    if let Err(error) = answered {
        tracing::info!(%from, "no handshake: {error}");
        return;
    }
    hub.news.notify_one();
    match hello.role {
        Role::Peer { node, incarnation, address, .. } => {
            hub.post(Event::Located { peer: node, incarnation, address });
            peers::serve(&hub, node, frames).await;
        }
        Role::Client { .. } if door == Door::Peers => tell_view(&hub, frames, writer).await,
        Role::Client { .. } if hub.phase.get() == Phase::Serving => {
            clients::serve(hub, frames, writer).await;
        }
        Role::Client { .. } => {}
    }
}

/// Answers one request on the address for nodes: who is there, or that this is the wrong address.
async fn tell_view<R, W>(hub: &Hub, frames: Frames<R>, writer: W)
where
    R: AsyncRead + Unpin,
    W: AsyncWrite + Unpin,
{
    let mut incoming = frame::incoming::<_, Request>(frames, HANDSHAKE_BYTES_MAX);
    let asked = tokio::time::timeout(handshake::HANDSHAKE_MAX, incoming.next()).await;
    if let Ok(Some(Ok(request))) = asked {
        let reply = hub.core.borrow().tell_view(clock::now(), &request);
        let mut outgoing = frame::outgoing(writer, hub.frame_bytes_max);
        // It may not wait for it.
        let _ = tokio::time::timeout(handshake::HANDSHAKE_MAX, outgoing.send(reply)).await;
    }
}

fn refuse(code: RefusalCode, reason: &str) -> Welcome {
    Welcome::Refused { code, reason: reason.to_owned() }
}
