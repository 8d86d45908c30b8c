//! One node: the only file that knows every part. It starts them in order and stops them in the reverse one.
//!
//! The listener and the probes come first, so that a node whose database is away stays up, says so in `/readyz` and
//! answers 503 until it comes back. What can never work (settings, a database of another version) ends the process with
//! a sentence. SIGTERM or SIGINT: not ready, requests in flight end, background work ends, exit 0.

mod group;
mod members;
mod status;

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use anyhow::{Context, bail};
use axum::Router;
use axum::response::IntoResponse;
use chrono::SecondsFormat;
use http::{Request, Response, StatusCode, header};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use serde_json::json;
use tokio::io::AsyncReadExt;
use tokio::signal::unix::{SignalKind, signal};
use tower::ServiceExt;

use crate::api::health::{self, Probes};
use crate::app::App;
use crate::clock::SystemClock;
use crate::cluster::{Cluster, Leaving};
use crate::config::Settings;
use crate::listener::{Body, Limits, Listener};
use crate::services::driver;
use crate::services::status::{Board, ServiceStatus};
use crate::store::open::OpenError;
use crate::store::{self, Store};
use crate::task::{Stopped, Tasks};
use crate::telemetry::readiness::Readiness;
use crate::telemetry::{Telemetry, metrics};

/// Parts as `/readyz` names them.
const DATABASE: &str = "database";
const NODE: &str = "node";
const API: &str = "api";

/// What kind of member a node is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// Serves the API and may lead the services.
    Server,
    /// May lead the services; serves the probes only.
    Services,
}

/// How a node is run.
#[derive(Clone, Copy, Debug)]
pub struct RunOptions {
    /// What kind of member it is.
    pub role: Role,
    /// Stop when standard input ends.
    pub exit_with_parent: bool,
}

/// Runs a node until it is told to stop.
///
/// # Errors
/// What keeps it from working, as a chain of sentences.
pub async fn run(settings: Settings, options: RunOptions) -> anyhow::Result<()> {
    let telemetry = Telemetry::start(&settings.telemetry)?;
    for note in &settings.notes {
        tracing::warn!("settings: {note}");
    }
    let settings = Arc::new(settings);
    let readiness = Readiness::new();
    readiness.not_ready(DATABASE, "not connected yet");
    readiness.not_ready(API, "not open yet");

    let server = &settings.server;
    let listener = Listener::bind(&server.host, server.port)
        .await
        .with_context(|| format!("cannot listen on {}:{}; another process may use it, or give --port", server.host, server.port))?;
    let address = listener.address();

    // One set per step of the stop.
    let requests = Tasks::new();
    let background = Tasks::new();

    let api = Arc::new(OnceLock::new());
    let front =
        Front { probes: health::router(Probes { readiness: readiness.clone(), telemetry: telemetry.clone() }), api: Arc::clone(&api) };
    let limits = Limits { connections_max: server.connections_max, idle: server.keepalive_timeout };
    requests.spawn_vital(
        "http.listen",
        listener.serve("http.connection", limits, requests.clone(), move |request, peer| front.clone().answer(request, peer)),
    );
    announce(&settings, options.role, address);
    readiness.not_ready(group::GROUP, "not started yet");
    let cluster = group::join(&settings, options.role, address).await?;
    background.spawn_vital(
        "node.watch_group",
        group::watch_group(Arc::downgrade(&cluster), readiness.clone(), background.clone(), settings.failpoint),
    );

    let beat = telemetry.clone();
    let stopping = background.stopping();
    background.spawn_vital("telemetry.upkeep", async move {
        let mut every = tokio::time::interval(Duration::from_secs(5));
        while stopping.run_until_cancelled(every.tick()).await.is_some() {
            beat.upkeep();
        }
    });

    let signals = StopSignals::new(options.exit_with_parent)?;
    let (requests_end, background_end) = (requests.stopping(), background.stopping());
    let stop = async {
        tokio::select! {
            () = signals.received() => {}
            () = requests_end.cancelled() => {}
            () = background_end.cancelled() => {}
        }
    };
    tokio::pin!(stop);
    let parts =
        Parts { settings: Arc::clone(&settings), role: options.role, readiness: readiness.clone(), background: background.clone(), api };
    // `None`: told to stop before it was up.
    let started = tokio::select! {
        started = parts.start(&cluster) => Some(started),
        () = &mut stop => None,
    };
    if let Some(Err(error)) = started {
        requests.shutdown(Duration::from_millis(100)).await;
        background.shutdown(Duration::from_secs(1)).await;
        leave(cluster, Leaving::Alone).await;
        return Err(error);
    }
    if started.is_some() {
        stop.await;
    }
    drop(parts);

    readiness.not_ready(NODE, "it is shutting down");
    tracing::info!("shutting down");
    for (step, tasks, grace) in [("requests", &requests, server.shutdown_grace), ("background work", &background, Duration::from_secs(5))] {
        if let Stopped::Dropped(names) = tasks.shutdown(grace).await {
            tracing::warn!("{step} did not end within {} s and was dropped: {}", grace.as_secs(), names.join(", "));
        }
    }
    leave(cluster, signals.leaving()).await;
    if let Some(name) = requests.failed().or(background.failed()) {
        bail!("the node stopped because its task {name} ended");
    }
    tracing::info!("stopped");
    Ok(())
}

/// Leaves the group in good order: what was published is committed, the leads are handed over where the others stay.
async fn leave(cluster: Arc<Cluster>, leaving: Leaving) {
    if let Some(cluster) = Arc::into_inner(cluster) {
        cluster.shutdown(leaving).await;
    } else {
        tracing::warn!("the group is still in use by a request that was dropped; its lead is not handed over");
    }
}

/// What the parts that need the database are made of.
struct Parts {
    settings: Arc<Settings>,
    role: Role,
    readiness: Readiness,
    background: Tasks,
    api: Arc<OnceLock<Router>>,
}

impl Parts {
    /// Starts them, waiting for the database and the founding of the group as long as it takes.
    async fn start(&self, cluster: &Arc<Cluster>) -> anyhow::Result<()> {
        let store = open_database(&self.settings, &self.readiness).await?;
        let background = &self.background;
        let (following, stopping) = (store.clone(), background.stopping());
        background.spawn_vital("node.follow_primary", async move { following.follow_primary(stopping).await });
        let cluster_id = group::founded(cluster).await;
        let app = App::new(
            store,
            cluster.bus(),
            cluster.logs(),
            cluster_id,
            Arc::new(SystemClock),
            Arc::clone(&self.settings),
            background.clone(),
        );
        background.spawn_vital("node.watch_database", watch_database(app.clone(), self.readiness.clone()));

        let board = Board::default();
        let leadership = group::services_leadership(cluster, self.settings.cluster.node_id, background);
        background.spawn_vital("services.driver", driver::run(app.clone(), leadership, board.clone()));
        background.spawn_vital("node.watch_services", watch_services(app.clone(), board.clone(), self.readiness.clone()));

        if self.role == Role::Server && self.settings.server.register_blocks_on_start {
            let (registering, stopping) = (crate::api::block_types::register_on_start(app.clone()), background.stopping());
            // Each type is a transaction of its own, and the next start does them all again.
            background.spawn("blocks.register", async move { stopping.run_until_cancelled(registering).await });
        }
        let status = status::router(status::Sources { cluster: Arc::downgrade(cluster), board, app: app.clone() })
            .merge(members::router(Arc::downgrade(cluster)));
        let api = match self.role {
            Role::Server => {
                let ui = crate::api::UiFiles::find(&self.settings.server).await?;
                crate::api::router(app, status, ui)
            }
            Role::Services => Router::new().fallback(async || (StatusCode::NOT_FOUND, "this member runs services and serves no API\n")),
        };
        self.api.set(api).expect("the API is set once, here");
        self.readiness.ready(API);
        Ok(())
    }
}

/// How often the database is asked whether it is there.
const DATABASE_CHECK: Duration = Duration::from_secs(1);

/// How often `/readyz` takes in how the services do.
const SERVICES_CHECK: Duration = Duration::from_millis(500);

/// Opens the database, however long that takes; only what waiting cannot mend is an error.
async fn open_database(settings: &Settings, readiness: &Readiness) -> anyhow::Result<Store> {
    let mut logged = false;
    loop {
        match store::open::open(&settings.database).await {
            Ok(store) => {
                readiness.ready(DATABASE);
                if logged {
                    tracing::info!("the database is there");
                }
                return Ok(store);
            }
            Err(OpenError::Away(reason)) => {
                if !logged {
                    tracing::warn!("{reason}; this node waits for the database and answers 503 until then");
                    logged = true;
                }
                readiness.not_ready(DATABASE, reason);
            }
            Err(error) => return Err(error.into()),
        }
        tokio::time::sleep(DATABASE_CHECK).await;
    }
}

async fn watch_database(app: App, readiness: Readiness) {
    let stopping = app.tasks().stopping();
    while stopping.run_until_cancelled(tokio::time::sleep(DATABASE_CHECK)).await.is_some() {
        check_database(&app, &readiness).await;
    }
}

/// Gives every service that runs here its line in `/readyz`: one that cannot work cannot look healthy.
async fn watch_services(app: App, board: Board, readiness: Readiness) {
    let stopping = app.tasks().stopping();
    let mut shown: Vec<&'static str> = Vec::new();
    while stopping.run_until_cancelled(tokio::time::sleep(SERVICES_CHECK)).await.is_some() {
        let now = app.now();
        let (services, stuck) = (board.list(now), board.stuck(now));
        for name in shown.extract_if(.., |name| services.iter().all(|service| service.name != *name)) {
            readiness.forget(name);
        }
        for service in services {
            metrics::service_behind(service.name, service.behind_seconds, service.lag);
            if stuck.contains(&service.name) {
                let error = service.error.as_deref().unwrap_or("no error was reported");
                let since = service.last_success.map_or_else(|| "its start".to_owned(), |at| at.to_rfc3339());
                readiness.not_ready(service.name, format!("no success since {since}: {error}"));
            } else {
                readiness.ready(service.name);
                readiness.note(service.name, told(&service));
            }
            if !shown.contains(&service.name) {
                shown.push(service.name);
            }
        }
    }
}

/// How a service does, in a few words for `/readyz?verbose`.
fn told(service: &ServiceStatus) -> String {
    let Some(last) = service.last_success else { return "not due yet".to_owned() };
    let mut text = format!("last success {}, {:.3} s", last.to_rfc3339_opts(SecondsFormat::Millis, true), service.duration_seconds);
    if let Some(lag) = service.lag {
        text.push_str(&format!(", {lag} entries behind"));
    }
    if service.behind_seconds > 0.0 {
        text.push_str(&format!(", {:.1} s behind", service.behind_seconds));
    }
    if let Some(error) = &service.error {
        text.push_str(&format!(", failed last: {error}"));
    }
    text
}

async fn check_database(app: &App, readiness: &Readiness) {
    let select = sea_query::Query::select().expr(sea_query::Expr::val(1)).to_owned();
    let answer = async { app.read("node.check").await?.fetch_one(&select).await };
    let answered = answer.await;
    metrics::store_available(answered.is_ok());
    match answered {
        Ok(_) => readiness.ready(DATABASE),
        Err(error) => readiness.not_ready(DATABASE, format!("it does not answer: {error}")),
    }
}

fn announce(settings: &Settings, role: Role, address: SocketAddr) {
    let node = settings.cluster.node_id;
    let version = env!("CARGO_PKG_VERSION");
    let peers = settings.cluster.listen.as_deref().unwrap_or("none, a group of one");
    let what = match role {
        Role::Server => format!("API at http://{address}{}", settings.server.base_path),
        Role::Services => format!("services member, probes at http://{address}/readyz"),
    };
    tracing::info!(node.id = node, pid = std::process::id(), "praetor {version}, node {node}: {what}, peers: {peers}");
}

/// What answers a connection: probes at once, the API when it is there.
#[derive(Clone)]
struct Front {
    probes: Router,
    api: Arc<OnceLock<Router>>,
}

impl Front {
    async fn answer(self, request: Request<Incoming>, peer: SocketAddr) -> Response<Body> {
        let mut request = request.map(axum::body::Body::new);
        request.extensions_mut().insert(axum::extract::ConnectInfo(peer));
        let router = match request.uri().path() {
            "/livez" | "/readyz" | "/metrics" => Some(&self.probes),
            _ => self.api.get(),
        };
        let response = match router {
            Some(router) => router.clone().oneshot(request).await.unwrap_or_else(|never: Infallible| match never {}),
            None => starting(),
        };
        response.map(|body| Body::new(body.map_err(Into::into)))
    }
}

/// The answer while there is no API yet.
fn starting() -> axum::response::Response {
    let body = json!({"exception_message": "Service Unavailable", "exception_detail": "this node is starting; /readyz?verbose tells what it waits for"});
    (StatusCode::SERVICE_UNAVAILABLE, [(header::RETRY_AFTER, "1")], axum::Json(body)).into_response()
}

/// The signals that ask a node to stop.
struct StopSignals {
    received: tokio_util::sync::CancellationToken,
    /// Told to stop by the end of the parent, which takes the whole group with it.
    parent_ended: Arc<AtomicBool>,
}

impl StopSignals {
    fn new(exit_with_parent: bool) -> anyhow::Result<Self> {
        let received = tokio_util::sync::CancellationToken::new();
        let mut terminate = signal(SignalKind::terminate()).context("cannot listen for SIGTERM")?;
        let mut interrupt = signal(SignalKind::interrupt()).context("cannot listen for SIGINT")?;
        let tasks = Tasks::new();
        let token = received.clone();
        let parent_ended = Arc::new(AtomicBool::new(false));
        let ended = Arc::clone(&parent_ended);
        tasks.spawn("node.signals", async move {
            tokio::select! {
                _ = terminate.recv() => {}
                _ = interrupt.recv() => {}
                () = parent_is_gone(exit_with_parent) => {
                    tracing::info!("the parent process lets go of this node, and of all others");
                    ended.store(true, Ordering::Relaxed);
                }
            }
            token.cancel();
        });
        Ok(Self { received, parent_ended })
    }

    fn leaving(&self) -> Leaving {
        if self.parent_ended.load(Ordering::Relaxed) { Leaving::Together } else { Leaving::Alone }
    }

    async fn received(&self) {
        self.received.cancelled().await;
    }
}

/// Ends when standard input does, which the parent holds open while it lives.
async fn parent_is_gone(watch: bool) {
    if !watch {
        return std::future::pending().await;
    }
    let mut input = tokio::io::stdin();
    let mut buffer = [0; 64];
    while matches!(input.read(&mut buffer).await, Ok(read) if read > 0) {}
}
