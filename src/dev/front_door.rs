//! One address for all nodes: an HTTP/1.1 proxy with streaming bodies and WebSockets, which knows who is ready.
//!
//! It retries nothing that is not safe to retry: a request goes to another node when it certainly was not sent, or when
//! it is a GET or HEAD without a body of which no byte of the answer was seen. Anything else that breaks is answered 502
//! with the word *unknown*. While no node is ready a request waits for a few seconds, then is answered 503.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use http::header::{self, HeaderMap, HeaderName, HeaderValue};
use http::{Method, Request, Response, StatusCode, Uri};
use http_body_util::{BodyExt, Empty, Full};
use hyper::body::{Body as _, Bytes, Incoming};
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper_util::rt::TokioIo;
use parking_lot::Mutex;
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio::time::{Instant, timeout};

use crate::listener::Body;
use crate::task::Tasks;

/// How long a request waits for a node to become ready.
const READY_WITHIN: Duration = Duration::from_secs(10);
/// How long a connection to a node on this machine may take.
const CONNECT_WITHIN: Duration = Duration::from_secs(1);
/// How often each node is asked whether it is ready.
const PROBE_EVERY: Duration = Duration::from_millis(200);
/// How long it may take to say so.
const PROBE_WITHIN: Duration = Duration::from_secs(1);
/// Idle connections kept per node.
const IDLE_CONNECTIONS: usize = 64;

/// The proxy; clones are the same.
#[derive(Clone)]
pub struct FrontDoor {
    inner: Arc<Inner>,
}

struct Inner {
    nodes: Vec<Arc<Node>>,
    /// Rises with each change of a node's readiness.
    changes: watch::Sender<u64>,
    next: AtomicUsize,
    tasks: Tasks,
}

struct Node {
    address: SocketAddr,
    ready: AtomicBool,
    in_flight: AtomicUsize,
    idle: Mutex<Vec<SendRequest<Body>>>,
}

/// Counts a request of a node until it is dropped.
struct Place(Arc<Node>);

/// How one attempt at one node went wrong.
enum Failure {
    /// Certainly not sent; here it is again.
    NotSent(Box<Request<Body>>),
    /// Perhaps sent.
    Unknown(String),
}

impl FrontDoor {
    /// A door to the nodes at `addresses`, none of them ready yet; `tasks` runs the probes.
    pub fn new(addresses: &[SocketAddr], tasks: Tasks) -> Self {
        let node = |address: &SocketAddr| {
            Arc::new(Node {
                address: *address,
                ready: AtomicBool::new(false),
                in_flight: AtomicUsize::new(0),
                idle: Mutex::new(Vec::new()),
            })
        };
        let nodes: Vec<Arc<Node>> = addresses.iter().map(node).collect();
        let door = Self { inner: Arc::new(Inner { nodes, changes: watch::Sender::new(0), next: AtomicUsize::new(0), tasks }) };
        for node in &door.inner.nodes {
            door.inner.tasks.spawn("front_door.probe", probe(door.clone(), Arc::clone(node)));
        }
        door
    }

    /// Waits until a node is ready.
    pub async fn ready(&self) {
        let mut changes = self.inner.changes.subscribe();
        while !self.inner.nodes.iter().any(|node| node.ready.load(Ordering::Acquire)) {
            if changes.changed().await.is_err() {
                return;
            }
        }
    }

    /// Answers one request by way of a node.
    pub async fn answer(self, mut request: Request<Incoming>, peer: SocketAddr) -> Response<Body> {
        let wants_upgrade = upgrade_of(request.headers());
        let client = wants_upgrade.is_some().then(|| hyper::upgrade::on(&mut request));
        let may_repeat = matches!(*request.method(), Method::GET | Method::HEAD) && request.body().is_end_stream();
        let Some(mut outgoing) = outgoing(request, peer.ip(), wants_upgrade.as_ref()) else {
            return refusal(StatusCode::BAD_REQUEST, "the request's address cannot be read");
        };
        let spare = may_repeat.then(|| (outgoing.uri().clone(), outgoing.method().clone(), outgoing.headers().clone()));
        let deadline = Instant::now() + READY_WITHIN;
        let mut tried: Vec<SocketAddr> = Vec::new();
        loop {
            let Some(place) = self.choose(&mut tried, deadline).await else {
                return refusal(StatusCode::SERVICE_UNAVAILABLE, "no node is ready");
            };
            match place.0.send(outgoing, &self.inner.tasks).await {
                Ok(response) => return self.deliver(response, client, place),
                Err(Failure::NotSent(back)) => {
                    self.report(&place.0, false);
                    outgoing = *back;
                }
                Err(Failure::Unknown(reason)) => {
                    let Some((uri, method, headers)) = &spare else {
                        tracing::warn!(node = %place.0.address, "a request's outcome is unknown: {reason}");
                        return refusal(
                            StatusCode::BAD_GATEWAY,
                            "the node went away while it worked on this request; its outcome is unknown",
                        );
                    };
                    let mut again = Request::new(empty());
                    *again.uri_mut() = uri.clone();
                    *again.method_mut() = method.clone();
                    *again.headers_mut() = headers.clone();
                    outgoing = again;
                }
            }
            tried.push(place.0.address);
        }
    }

    /// The ready node with the fewest requests, those not tried yet first, taking turns among equals; waits for one.
    async fn choose(&self, tried: &mut Vec<SocketAddr>, deadline: Instant) -> Option<Place> {
        let mut changes = self.inner.changes.subscribe();
        loop {
            let count = self.inner.nodes.len();
            let turn = self.inner.next.fetch_add(1, Ordering::Relaxed);
            let best = (0..count)
                .map(|step| &self.inner.nodes[(turn + step) % count])
                .filter(|node| node.ready.load(Ordering::Acquire) && !tried.contains(&node.address))
                .min_by_key(|node| node.in_flight.load(Ordering::Relaxed));
            if let Some(node) = best {
                node.in_flight.fetch_add(1, Ordering::Relaxed);
                return Some(Place(Arc::clone(node)));
            }
            // All ready ones failed, or none is ready: a new round begins with the next change, or soon.
            tried.clear();
            if Instant::now() >= deadline {
                return None;
            }
            let soon = (Instant::now() + PROBE_EVERY).min(deadline);
            // Either way the nodes are looked at again.
            drop(tokio::time::timeout_at(soon, changes.changed()).await);
        }
    }

    fn report(&self, node: &Node, ready: bool) {
        if node.ready.swap(ready, Ordering::AcqRel) != ready {
            if !ready {
                node.idle.lock().clear();
            }
            self.inner.changes.send_modify(|number| *number += 1);
        }
    }

    /// Passes the answer on; after a 101 the two connections are joined until either ends.
    fn deliver(&self, mut response: Response<Incoming>, client: Option<hyper::upgrade::OnUpgrade>, place: Place) -> Response<Body> {
        if response.status() == StatusCode::SWITCHING_PROTOCOLS {
            let node = hyper::upgrade::on(&mut response);
            if let Some(client) = client {
                self.inner.tasks.spawn("front_door.socket", join(client, node, place, self.inner.tasks.stopping()));
            }
            let (mut parts, _) = response.into_parts();
            let upgrade = parts.headers.get(header::UPGRADE).cloned();
            strip(&mut parts.headers);
            if let Some(upgrade) = upgrade {
                parts.headers.insert(header::UPGRADE, upgrade);
                parts.headers.insert(header::CONNECTION, HeaderValue::from_static("upgrade"));
            }
            return Response::from_parts(parts, empty());
        }
        strip(response.headers_mut());
        response.map(|body| {
            // The place is given back when the body has been passed on.
            let counted = body.map_err(move |error| {
                let _held = &place;
                error.into()
            });
            Body::new(counted)
        })
    }
}

impl Node {
    async fn send(self: &Arc<Self>, mut request: Request<Body>, tasks: &Tasks) -> Result<Response<Incoming>, Failure> {
        loop {
            let pooled = self.idle.lock().pop();
            let was_pooled = pooled.is_some();
            let mut sender = match pooled {
                Some(sender) if sender.is_closed() => continue,
                Some(sender) => sender,
                None => match self.connect(tasks).await {
                    Ok(sender) => sender,
                    Err(error) => {
                        tracing::debug!(node = %self.address, %error, "a node cannot be reached");
                        return Err(Failure::NotSent(Box::new(request)));
                    }
                },
            };
            match sender.try_send_request(request).await {
                Ok(response) => {
                    self.keep(sender, tasks);
                    return Ok(response);
                }
                Err(mut error) => match error.take_message() {
                    // The node closed this idle connection meanwhile: another one to the same node.
                    Some(back) if was_pooled => request = back,
                    Some(back) => return Err(Failure::NotSent(Box::new(back))),
                    None => return Err(Failure::Unknown(error.into_error().to_string())),
                },
            }
        }
    }

    async fn connect(&self, tasks: &Tasks) -> anyhow::Result<SendRequest<Body>> {
        let stream = timeout(CONNECT_WITHIN, TcpStream::connect(self.address)).await??;
        stream.set_nodelay(true)?;
        let (sender, connection) = handshake(TokioIo::new(stream)).await?;
        tasks.spawn("front_door.connection", async move {
            if let Err(error) = connection.with_upgrades().await {
                tracing::debug!(%error, "a connection to a node ended");
            }
        });
        Ok(sender)
    }

    /// Takes a connection back once its answer has been read.
    fn keep(self: &Arc<Self>, mut sender: SendRequest<Body>, tasks: &Tasks) {
        let node = Arc::clone(self);
        tasks.spawn("front_door.keep", async move {
            if sender.ready().await.is_ok() && node.ready.load(Ordering::Acquire) {
                let mut idle = node.idle.lock();
                if idle.len() < IDLE_CONNECTIONS {
                    idle.push(sender);
                }
            }
        });
    }

    async fn is_ready(&self) -> anyhow::Result<bool> {
        let stream = TcpStream::connect(self.address).await?;
        let (mut sender, connection) = handshake::<_, Empty<Bytes>>(TokioIo::new(stream)).await?;
        let request = Request::get("/readyz").header(header::HOST, self.address.to_string()).body(Empty::new())?;
        // The connection is driven here, so that nothing is left of it.
        tokio::select! {
            response = sender.send_request(request) => Ok(response?.status().is_success()),
            ended = connection => { ended?; Ok(false) }
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.0.in_flight.fetch_sub(1, Ordering::Relaxed);
    }
}

async fn probe(door: FrontDoor, node: Arc<Node>) {
    let stopping = door.inner.tasks.stopping();
    let mut every = tokio::time::interval(PROBE_EVERY);
    every.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    while stopping.run_until_cancelled(every.tick()).await.is_some() {
        let ready = matches!(timeout(PROBE_WITHIN, node.is_ready()).await, Ok(Ok(true)));
        door.report(&node, ready);
    }
}

async fn join(
    client: hyper::upgrade::OnUpgrade,
    node: hyper::upgrade::OnUpgrade,
    place: Place,
    stopping: tokio_util::sync::CancellationToken,
) {
    let (Ok(client), Ok(node)) = tokio::join!(client, node) else { return };
    let (mut client, mut node) = (TokioIo::new(client), TokioIo::new(node));
    let copied = stopping.run_until_cancelled(tokio::io::copy_bidirectional(&mut client, &mut node)).await;
    if let Some(Err(error)) = copied {
        tracing::debug!(%error, "a socket ended");
    }
    drop(place);
}

/// The request as the node gets it: its path, end-to-end headers, where it came from.
fn outgoing(request: Request<Incoming>, peer: IpAddr, upgrade: Option<&HeaderValue>) -> Option<Request<Body>> {
    let (mut parts, body) = request.into_parts();
    let path = parts.uri.path_and_query().map_or("/", http::uri::PathAndQuery::as_str);
    let host = parts.headers.get(header::HOST).cloned().or_else(|| HeaderValue::from_str(parts.uri.authority()?.as_str()).ok());
    parts.uri = path.parse::<Uri>().ok()?;
    parts.version = http::Version::HTTP_11;
    strip(&mut parts.headers);
    if let Some(upgrade) = upgrade {
        parts.headers.insert(header::UPGRADE, upgrade.clone());
        parts.headers.insert(header::CONNECTION, HeaderValue::from_static("upgrade"));
    }
    if let Some(host) = host {
        parts.headers.entry("x-forwarded-host").or_insert_with(|| host.clone());
        parts.headers.insert(header::HOST, host);
    }
    parts.headers.entry("x-forwarded-proto").or_insert(HeaderValue::from_static("http"));
    let before = parts.headers.get("x-forwarded-for").and_then(|value| value.to_str().ok());
    let chain = before.map_or_else(|| peer.to_string(), |before| format!("{before}, {peer}"));
    parts.headers.insert("x-forwarded-for", HeaderValue::from_str(&chain).ok()?);
    Some(Request::from_parts(parts, Body::new(body.map_err(Into::into))))
}

/// What the client wants to upgrade to, if anything.
fn upgrade_of(headers: &HeaderMap) -> Option<HeaderValue> {
    let connection = headers.get_all(header::CONNECTION).iter().filter_map(|value| value.to_str().ok());
    let asked = connection.flat_map(|value| value.split(',')).any(|token| token.trim().eq_ignore_ascii_case("upgrade"));
    if asked { headers.get(header::UPGRADE).cloned() } else { None }
}

/// Removes what concerns one connection only.
fn strip(headers: &mut HeaderMap) {
    let named: Vec<HeaderName> = headers
        .get_all(header::CONNECTION)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .filter_map(|name| name.trim().parse().ok())
        .collect();
    let fixed = [
        header::CONNECTION,
        HeaderName::from_static("keep-alive"),
        header::PROXY_AUTHENTICATE,
        header::PROXY_AUTHORIZATION,
        header::TE,
        header::TRAILER,
        header::TRANSFER_ENCODING,
        header::UPGRADE,
    ];
    for name in named.into_iter().chain(fixed) {
        headers.remove(name);
    }
}

fn refusal(status: StatusCode, reason: &'static str) -> Response<Body> {
    let body = serde_json::json!({ "detail": reason }).to_string();
    let mut response = Response::new(Body::new(Full::from(body).map_err(|never| match never {})));
    *response.status_mut() = status;
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from_static("1"));
    response
}

fn empty() -> Body {
    Body::new(Empty::new().map_err(|never| match never {}))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headers_of_one_connection_are_not_passed_on() {
        let mut headers = HeaderMap::new();
        headers.insert(header::CONNECTION, HeaderValue::from_static("keep-alive, X-Secret"));
        headers.insert("x-secret", HeaderValue::from_static("1"));
        headers.insert("keep-alive", HeaderValue::from_static("timeout=5"));
        headers.insert(header::TRANSFER_ENCODING, HeaderValue::from_static("chunked"));
        headers.insert("x-prefect-api-version", HeaderValue::from_static("0.8.4"));
        strip(&mut headers);
        assert_eq!(headers.len(), 1, "{headers:?}");
        assert!(headers.contains_key("x-prefect-api-version"));
    }

    #[test]
    fn an_upgrade_needs_both_headers() {
        let mut headers = HeaderMap::new();
        headers.insert(header::UPGRADE, HeaderValue::from_static("websocket"));
        assert_eq!(upgrade_of(&headers), None);
        headers.insert(header::CONNECTION, HeaderValue::from_static("keep-alive, Upgrade"));
        assert_eq!(upgrade_of(&headers), Some(HeaderValue::from_static("websocket")));
    }
}
