//! A bounded accept loop for HTTP, used by the API and by the front door of `praetor dev`.
//!
//! It promises: never more than `connections_max` open connections (new ones wait in the kernel's queue), a time limit
//! for each request's head and for an idle connection, and a stop which lets requests in flight end.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use http_body_util::combinators::UnsyncBoxBody;
use hyper::body::{Bytes, Incoming};
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto::Builder;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;

use crate::task::Tasks;
use crate::telemetry::metrics;

/// A body that an answer may have.
pub type Body = UnsyncBoxBody<Bytes, Box<dyn std::error::Error + Send + Sync>>;

/// How much a listener takes.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Open connections.
    pub connections_max: usize,
    /// The longest time a connection may stand idle or take over a request's head.
    pub idle: Duration,
}

/// A bound socket, not yet served.
pub struct Listener {
    socket: TcpListener,
    address: SocketAddr,
}

impl Listener {
    /// Binds `host:port`; port 0 takes any free one.
    ///
    /// # Errors
    /// The system's, such as an address in use.
    pub async fn bind(host: &str, port: u16) -> io::Result<Self> {
        let socket = TcpListener::bind((host.trim_matches(['[', ']']), port)).await?;
        let address = socket.local_addr()?;
        Ok(Self { socket, address })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Accepts and answers until the stop begins; then lets open connections end their request and returns. The set's
    /// hard stop drops those that do not.
    pub async fn serve<H, F>(self, name: &'static str, limits: Limits, tasks: Tasks, handler: H)
    where
        H: Fn(Request<Incoming>, SocketAddr) -> F + Clone + Send + Sync + 'static,
        F: Future<Output = Response<Body>> + Send + 'static,
    {
        let stopping = tasks.stopping();
        let places = Arc::new(Semaphore::new(limits.connections_max));
        loop {
            let place = tokio::select! {
                () = stopping.cancelled() => break,
                place = Arc::clone(&places).acquire_owned() => place.expect("the semaphore is never closed"),
            };
            let accepted = tokio::select! {
                () = stopping.cancelled() => break,
                accepted = self.socket.accept() => accepted,
            };
            let (stream, peer) = match accepted {
                Ok(accepted) => accepted,
                Err(error) => {
                    // Out of descriptors, or a peer that left at once: neither may end the loop nor spin it.
                    tracing::warn!(%error, "a connection could not be accepted");
                    tokio::time::sleep(Duration::from_millis(20)).await;
                    continue;
                }
            };
            let connection = connection(stream, peer, limits, tasks.clone(), handler.clone());
            tasks.spawn(name, async move {
                metrics::http_connections(1.0);
                connection.await;
                metrics::http_connections(-1.0);
                drop(place);
            });
        }
        drop(self.socket);
        // All places back means that every connection ended.
        let all = u32::try_from(limits.connections_max).unwrap_or(u32::MAX);
        let _ended = places.acquire_many(all).await;
    }
}

async fn connection<H, F>(stream: TcpStream, peer: SocketAddr, limits: Limits, tasks: Tasks, handler: H)
where
    H: Fn(Request<Incoming>, SocketAddr) -> F + Clone + Send + Sync + 'static,
    F: Future<Output = Response<Body>> + Send + 'static,
{
    if let Err(error) = stream.set_nodelay(true) {
        tracing::debug!(%error, "a connection ended before it began");
        return;
    }
    let service = service_fn(move |request| {
        let answer = handler(request, peer);
        async move { Ok::<_, std::convert::Infallible>(answer.await) }
    });
    let mut builder = Builder::new(TokioExecutor::new());
    builder.http1().timer(TokioTimer::new()).header_read_timeout(limits.idle);
    builder.http2().timer(TokioTimer::new()).keep_alive_interval(limits.idle).max_concurrent_streams(256);
    let serving = builder.serve_connection_with_upgrades(TokioIo::new(stream), service);
    tokio::pin!(serving);
    let stopping = tasks.stopping();
    let ended = tokio::select! {
        ended = serving.as_mut() => ended,
        () = stopping.cancelled() => {
            serving.as_mut().graceful_shutdown();
            serving.await
        }
    };
    if let Err(error) = ended {
        // A client that goes away is no event of ours.
        tracing::debug!(error = %error, peer = %peer, "a connection ended early");
    }
}
