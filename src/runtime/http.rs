//! HTTP for probes and dashboards: GET, five paths, JSON, figures or a word. hyper speaks the protocol.

use std::convert::Infallible;
use std::rc::Rc;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::header::{ACCEPT, ALLOW, CONTENT_TYPE};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use serde_json::json;
use std::sync::Arc;
use tokio::net::TcpListener;
use tokio::sync::Semaphore;

use crate::ring::{Partition, Preferences, Ring};
use crate::wire::client::{Info, MemberHealth, ReplyBody, RequestBody, View};

use super::hub::{Hub, Phase};
use super::metrics;

/// Most connections at once; the next one waits.
const CONNECTIONS_MAX: usize = 64;
/// Longest time for a request's head.
const HEAD_MAX: Duration = Duration::from_secs(5);
/// Pause after accepting failed.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// Answers for as long as the process lives: while it stops, `/readyz` must say so.
pub(super) async fn serve(hub: Rc<Hub>, listener: TcpListener) {
    let room = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    loop {
        // The semaphore is never closed.
        let Ok(place) = Arc::clone(&room).acquire_owned().await else { return };
        match listener.accept().await {
            Ok((stream, _)) => {
                let hub = Rc::clone(&hub);
                tokio::task::spawn_local(async move {
                    let service = service_fn(move |request| answer(Rc::clone(&hub), request));
                    let connection = http1::Builder::new()
                        .timer(TokioTimer::new())
                        .header_read_timeout(HEAD_MAX)
                        .serve_connection(TokioIo::new(stream), service);
                    if let Err(error) = connection.await {
                        tracing::debug!("HTTP: {error}");
                    }
                    drop(place);
                });
            }
            Err(error) => {
                tracing::warn!("cannot accept an HTTP connection: {error}");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

async fn answer(
    hub: Rc<Hub>,
    request: Request<Incoming>,
) -> Result<Response<Full<Bytes>>, Infallible> {
    if request.method() != Method::GET && request.method() != Method::HEAD {
        let mut response = text(StatusCode::METHOD_NOT_ALLOWED, "only GET\n");
        response.headers_mut().insert(ALLOW, hyper::header::HeaderValue::from_static("GET, HEAD"));
        return Ok(response);
    }
    Ok(match request.uri().path() {
        "/livez" => text(StatusCode::OK, "ok\n"),
        "/readyz" => match hub.phase.get() {
            Phase::Serving => text(StatusCode::OK, "ok\n"),
            Phase::Stopping => text(StatusCode::SERVICE_UNAVAILABLE, "stopping\n"),
        },
        "/clusterz" => match (view(&hub).await, info(&hub).await) {
            (Some(view), Some(info)) => clusterz(&view, &info),
            _ => stopped(),
        },
        "/status" => match (view(&hub).await, info(&hub).await) {
            (Some(view), Some(info)) => status(&view, &info),
            _ => stopped(),
        },
        "/metrics" => match (view(&hub).await, info(&hub).await) {
            (Some(view), Some(info)) => metrics(&request, view, info),
            _ => stopped(),
        },
        _ => text(StatusCode::NOT_FOUND, "/livez /readyz /clusterz /status /metrics\n"),
    })
}

async fn view(hub: &Hub) -> Option<View> {
    match hub.ask(RequestBody::View).await?.body {
        ReplyBody::View(view) => Some(view),
        _ => None,
    }
}

async fn info(hub: &Hub) -> Option<Info> {
    match hub.ask(RequestBody::Info).await?.body {
        ReplyBody::Info(info) => Some(*info),
        _ => None,
    }
}

fn status(view: &View, info: &Info) -> Response<Full<Bytes>> {
    let members: Vec<_> = view
        .members
        .iter()
        .map(|member| {
            let name = view.layout.member(member.node).map(|known| known.name.clone());
            json!({"node": member.node, "name": name, "state": member.health,
                "reachable": member.reachable, "since": member.since, "layout": member.layout,
                "peer": member.peer, "client": member.client, "http": member.http})
        })
        .collect();
    let ring = &view.layout.now;
    let body = json!({"v": 1, "type": "status", "cluster": view.cluster, "cluster_name": view.cluster_name,
        "layout": view.layout.version, "n": ring.n, "r": ring.r, "w": ring.w, "mode": ring.mode,
        "change": view.change, "members": members, "alarms": view.alarms, "node": info});
    json_response(StatusCode::OK, &body)
}

/// 200 where every partition has enough members up for the layout's reads and writes. How far a change is, too: by gossip
/// for all, in full for this node.
fn clusterz(view: &View, info: &Info) -> Response<Full<Bytes>> {
    let below = below_quorum(view);
    let status = if below == 0 { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    let body = json!({"v": 1, "type": "clusterz", "layout": view.layout.version,
        "partitions": view.layout.now.q, "below_quorum": below, "change": view.change,
        "moving": info.moving});
    json_response(status, &body)
}

/// In the format that the caller takes; the older one is every collector's second choice.
fn metrics(request: &Request<Incoming>, view: View, info: Info) -> Response<Full<Bytes>> {
    let accepts = |kind: &str| {
        let said = request.headers().get_all(ACCEPT).iter().filter_map(|value| value.to_str().ok());
        said.flat_map(|value| value.split(',')).any(|said| said.trim_start().starts_with(kind))
    };
    let below = below_quorum(&view);
    let body = metrics::openmetrics(view, info, below);
    let (body, kind) = if accepts("application/openmetrics-text") {
        (body, metrics::OPENMETRICS)
    } else {
        (metrics::prometheus(&body), metrics::PROMETHEUS)
    };
    let mut response = Response::new(Full::new(Bytes::from(body)));
    response.headers_mut().insert(CONTENT_TYPE, hyper::header::HeaderValue::from_static(kind));
    response
}

fn below_quorum(view: &View) -> usize {
    let ring: &Ring = &view.layout.now;
    let preferences = Preferences::new(std::sync::Arc::new(ring.clone()));
    let needed = ring.effective_r().max(ring.effective_w());
    let is_up = |node| {
        view.members.iter().any(|member| {
            member.node == node && member.reachable && member.health != MemberHealth::Down
        })
    };
    (0..ring.q)
        .filter(|partition| {
            let owners = preferences.of_partition(Partition(*partition)).owners();
            owners.filter(|owner| is_up(*owner)).count() < needed
        })
        .count()
}

fn stopped() -> Response<Full<Bytes>> {
    text(StatusCode::SERVICE_UNAVAILABLE, "stopping\n")
}

fn text(status: StatusCode, body: &'static str) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(Bytes::from_static(body.as_bytes())));
    *response.status_mut() = status;
    response
}

fn json_response(status: StatusCode, body: &serde_json::Value) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(Bytes::from(format!("{body}\n"))));
    *response.status_mut() = status;
    let kind = hyper::header::HeaderValue::from_static("application/json");
    response.headers_mut().insert(CONTENT_TYPE, kind);
    response
}
