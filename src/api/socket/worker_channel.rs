//! `/work_pools/{name}/workers/connect`: the channel of a pool's worker (`prefect/server/api/workers.py`,
//! `prefect/server/utilities/worker_channel.py`).
//!
//! The worker says hello, which makes its pool if need be, notes a heartbeat and is answered with a snapshot of the pool.
//! From then on the worker sends heartbeats and what it does about cleanups, and is sent a new snapshot whenever the pool
//! changes and messages to clean up ([`cleanup`]). What it runs it still asks for by REST.
//!
//! Changes made on any node come as hints by the bus; a heartbeat finds a change whose hint got lost. Whatever fails ends
//! the connection with a reason that tells the worker whether to come again.

/// Evaluates an attempt, which gives a `Result<_, Refusal>`, again where another worker made the same pool or the database
/// failed over. (Not a function: an attempt borrows what a closure could not be sent with.)
macro_rules! persistently {
    ($attempt:expr) => {{
        let mut attempts = 1;
        loop {
            match $attempt {
                Err(Refusal::Store(error)) if attempts < limits::TRANSACTION_ATTEMPTS && (error.is_retryable() || error.is_integrity()) => {
                    tokio::time::sleep(limits::CONSUMER_RETRY * attempts).await;
                    attempts += 1;
                }
                other => break other,
            }
        }
    }};
}

mod cleanup;

use std::pin::pin;

use axum::Router;
use axum::extract::ws::{Message, WebSocket, WebSocketUpgrade};
use axum::extract::{Path, State};
use axum::response::Response;
use axum::routing::any;
use sea_query::Cond;
use serde_json::{Value, json};
use tokio::time::Instant;
use uuid::Uuid;

use super::pulse::{Pulse, next_text};
use super::{accept_strictly, close, code, next_json};
use crate::api::error::{ApiError, chain};
use crate::api::job_variables;
use crate::api::work_pools::{pools, workers};
use crate::app::App;
use crate::bus::{Position, ReadLimit, Topic};
use crate::clock::Timestamp;
use crate::id::WorkPoolId;
use crate::limits;
use crate::model::work_pool::{WorkPool, WorkPoolCreate, WorkPoolUpdate};
use crate::model::worker::WorkerHeartbeat;
use crate::model::worker_channel::{
    self as frames, About, CLEANUP_CAPABILITY, Change, CloseReason, Heartbeat, Hello, Inbound, REQUIRED_CAPABILITIES, ResolvedWorkQueue,
};
use crate::store::work_pools::{self, Key};
use crate::store::work_queues::{self, WorkQueueOrder};
use crate::store::{StoreError, Tx, cleanup_messages};
use cleanup::Cleanups;

/// The route of this file.
pub fn router() -> Router<App> {
    Router::new().route("/work_pools/{name}/workers/connect", any(upgrade))
}

async fn upgrade(State(app): State<App>, Path(pool): Path<String>, upgrade: WebSocketUpgrade) -> Response {
    let (_, refusal) = CloseReason::AuthenticationFailed.frame();
    accept_strictly(app, upgrade, "socket.worker_channel", refusal, move |app, socket| serve(app, socket, pool))
}

/// How a connection ended.
enum End {
    /// The worker is gone.
    Gone,
    /// The node stops.
    Stopping,
    Close(CloseReason),
}

impl From<CloseReason> for End {
    fn from(reason: CloseReason) -> Self {
        Self::Close(reason)
    }
}

async fn serve(app: App, mut socket: WebSocket, pool: String) {
    let stopping = app.tasks().stopping();
    let opened = tokio::select! {
        opened = open(&app, &mut socket, &pool) => opened,
        () = stopping.cancelled() => Err(End::Stopping),
    };
    let end = match opened {
        Err(end) => end,
        Ok(mut connection) => match connection.run(&mut socket).await {
            Ok(never) => match never {},
            Err(end) => end,
        },
    };
    match end {
        End::Gone => {}
        End::Stopping => close(&mut socket, code::SERVICE_RESTART, "the server is restarting").await,
        End::Close(reason) => {
            tracing::debug!(work_pool.name = pool, reason = reason.frame().1, "a worker's channel is closed");
            let (code, reason) = reason.frame();
            close(&mut socket, code, reason).await;
        }
    }
}

/// Sends a frame; an error where the worker does not take it in time.
async fn send(socket: &mut WebSocket, kind: &str, now: Timestamp, payload: Value) -> Result<(), End> {
    let text = frames::outbound(kind, crate::id::v7(), now, payload).to_string();
    match tokio::time::timeout(limits::SOCKET_SEND, socket.send(Message::Text(text.into()))).await {
        Ok(Ok(())) => Ok(()),
        Ok(Err(_)) | Err(_) => Err(End::Gone),
    }
}

/// An open channel.
struct Connection {
    app: App,
    pool: WorkPoolId,
    pool_name: String,
    consumer_id: Uuid,
    worker_name: String,
    /// Of the pool as the worker knows it.
    pool_updated: Timestamp,
    next_sequence: u64,
    /// Changes up to here were looked at.
    position: Position,
    /// When to send a snapshot, and why.
    snapshot_due: Option<(Instant, &'static str)>,
    cleanups: Option<Cleanups>,
}

/// Reads the hello and answers it.
async fn open(app: &App, socket: &mut WebSocket, pool_name: &str) -> Result<Connection, End> {
    let message = next_json(socket, limits::SOCKET_HANDSHAKE).await.ok_or(End::Gone)?;
    let hello = match Inbound::read(message) {
        Ok(Inbound::Hello(hello)) => hello,
        Ok(_) => return Err(CloseReason::ProtocolError.into()),
        Err(reason) => {
            tracing::debug!(reason, "a worker's first frame cannot be read");
            return Err(CloseReason::ProtocolError.into());
        }
    };
    if !hello.supported_channel_versions.iter().any(|version| version == frames::VERSION) {
        return Err(CloseReason::UnsupportedVersion.into());
    }
    // Before the pool is read, so that no change is missed.
    let position = app.bus().last(&Topic::WorkPoolSnapshots);
    let Welcome { pool, queues } = persistently!(welcome(app, pool_name, &hello).await).map_err(Refusal::reason)?;
    let concurrency = hello.cleanup_concurrency();
    let mut requested: Vec<&str> = Vec::new();
    for capability in &hello.requested_capabilities {
        if !requested.contains(&capability.as_str()) {
            requested.push(capability);
        }
    }
    let mut accepted: Vec<&str> = REQUIRED_CAPABILITIES.to_vec();
    if concurrency > 0 {
        accepted.push(CLEANUP_CAPABILITY);
    }
    let rejected: Vec<&str> = requested.into_iter().filter(|capability| !accepted.contains(capability)).collect();
    let now = app.now();
    let ready = json!({
        "consumer_id": hello.consumer_id,
        "worker_id": null,
        "selected_channel_version": frames::VERSION,
        "effective_heartbeat_interval_seconds": hello.heartbeat_interval_seconds,
        "accepted_capabilities": accepted,
        "rejected_capabilities": rejected,
        "effective_max_cleanup_concurrency": concurrency,
        "resolved_work_queues": queues,
        "initial_snapshot": snapshot(1, "initial", &pool),
    });
    send(socket, "worker.ready.v1", now, ready).await?;
    let cleanups = (concurrency > 0).then(|| Cleanups::new(&hello, queues.iter().map(|queue| queue.id).collect()));
    Ok(Connection {
        app: app.clone(),
        pool: pool.id,
        pool_name: pool_name.to_owned(),
        consumer_id: hello.consumer_id,
        worker_name: hello.worker_name,
        pool_updated: pool.updated,
        next_sequence: 2,
        position,
        snapshot_due: None,
        cleanups,
    })
}

fn snapshot(sequence: u64, reason: &str, pool: &WorkPool) -> Value {
    json!({"snapshot_sequence": sequence, "reason": reason, "work_pool": pool})
}

/// What a hello is answered from.
struct Welcome {
    pool: WorkPool,
    queues: Vec<ResolvedWorkQueue>,
}

/// Why something could not be done.
enum Refusal {
    Close(CloseReason),
    Store(StoreError),
}

impl Refusal {
    fn reason(self) -> End {
        End::Close(match self {
            Self::Close(reason) => reason,
            Self::Store(error) => {
                tracing::warn!(error = %chain(&error), "a worker's channel could not be served; the worker comes again");
                CloseReason::TransientServerError
            }
        })
    }
}

impl From<StoreError> for Refusal {
    fn from(error: StoreError) -> Self {
        Self::Store(error)
    }
}

async fn welcome(app: &App, name: &str, hello: &Hello) -> Result<Welcome, Refusal> {
    let now = app.now();
    let mut tx = app.begin("worker_channel.open").await?;
    let pool = match work_pools::read(&mut tx, &Key::Name(name.to_owned())).await? {
        Some(pool) => pool,
        None => make_pool(app, &mut tx, name, hello, now).await?,
    };
    let queues = resolve_queues(&mut tx, &pool, hello).await?;
    let template = &hello.default_base_job_template;
    if pool.base_job_template.is_empty() && !template.is_empty() {
        check_template(app, &mut tx, hello).await?;
        let update: WorkPoolUpdate = parsed(json!({"base_job_template": template}))?;
        pools::change(&mut tx, &pool, now, &update, None).await?;
        tx.hint(changed(pool.id));
    }
    beat(&mut tx, &pool, &hello.worker_name, hello.heartbeat_interval_seconds, now).await?;
    let pool = read_pool(&mut tx, pool.id).await?.ok_or(Refusal::Close(CloseReason::TransientServerError))?;
    tx.commit().await?;
    Ok(Welcome { pool, queues })
}

async fn make_pool(app: &App, tx: &mut Tx, name: &str, hello: &Hello, now: Timestamp) -> Result<WorkPool, Refusal> {
    if !hello.create_pool_if_not_found || pools::is_reserved(name) {
        return Err(Refusal::Close(CloseReason::AuthorizationFailed));
    }
    check_template(app, tx, hello).await?;
    let create: WorkPoolCreate =
        parsed(json!({"name": name, "type": hello.worker_type, "base_job_template": hello.default_base_job_template}))?;
    Ok(pools::make(tx, now, &create).await?)
}

/// Reads a body that the reference would read too; what does not fit ends its connection as a failure of the server does.
fn parsed<T: serde::de::DeserializeOwned>(body: Value) -> Result<T, Refusal> {
    serde_json::from_value(body).map_err(|error| {
        tracing::debug!(error = %error, "a worker's pool cannot be made");
        Refusal::Close(CloseReason::TransientServerError)
    })
}

async fn check_template(app: &App, tx: &mut Tx, hello: &Hello) -> Result<(), Refusal> {
    job_variables::check_pool_defaults(app, tx, &hello.default_base_job_template).await.map_err(|error| match error {
        ApiError::Store(error) => Refusal::Store(error),
        _ => Refusal::Close(CloseReason::ProtocolError),
    })
}

async fn resolve_queues(tx: &mut Tx, pool: &WorkPool, hello: &Hello) -> Result<Vec<ResolvedWorkQueue>, Refusal> {
    let all = work_queues::list(tx, Some(pool.id), Cond::all(), WorkQueueOrder::Priority, None, 0).await?;
    let resolved = |queue: &crate::model::work_queue::WorkQueue| ResolvedWorkQueue { id: queue.id, name: queue.name.clone() };
    if hello.work_queue_names.is_empty() {
        return Ok(all.iter().map(resolved).collect());
    }
    let mut queues: Vec<ResolvedWorkQueue> = Vec::new();
    for name in &hello.work_queue_names {
        if queues.iter().any(|queue| queue.name == *name) {
            continue;
        }
        let found = all.iter().find(|queue| queue.name == *name).ok_or(Refusal::Close(CloseReason::AuthorizationFailed))?;
        queues.push(resolved(found));
    }
    Ok(queues)
}

async fn beat(tx: &mut Tx, pool: &WorkPool, worker: &str, interval_seconds: i32, now: Timestamp) -> Result<(), StoreError> {
    let heartbeat = WorkerHeartbeat { name: worker.to_owned(), heartbeat_interval_seconds: Some(interval_seconds) };
    workers::beat(tx, pool, &heartbeat, now).await
}

async fn read_pool(tx: &mut Tx, id: WorkPoolId) -> Result<Option<WorkPool>, StoreError> {
    let Some(pool) = work_pools::read(tx, &Key::Id(id)).await? else { return Ok(None) };
    Ok(work_pools::with_active_slots(tx, vec![pool]).await?.pop().map(WorkPool::shown))
}

/// The hint that a pool changed.
pub(crate) fn changed(pool: WorkPoolId) -> crate::store::Hint {
    crate::store::Hint { stream: cleanup_messages::HINTS, body: Change::pool(pool).to_body() }
}

impl Connection {
    /// Serves the worker until the connection ends.
    async fn run(&mut self, socket: &mut WebSocket) -> Result<std::convert::Infallible, End> {
        let app = self.app.clone();
        let stopping = app.tasks().stopping();
        let mut pulse = Pulse::new(&app);
        loop {
            let snapshot_due = self.snapshot_due.map(|(at, _)| at);
            let cleanup_due = self.cleanups.as_ref().map(Cleanups::due);
            let (mut snapshot_timer, mut cleanup_timer) = (pin!(sleep_until(snapshot_due)), pin!(sleep_until(cleanup_due)));
            tokio::select! {
                biased;
                () = stopping.cancelled() => return Err(End::Stopping),
                text = next_text(socket, &mut pulse) => self.receive(socket, text.ok_or(End::Gone)?).await?,
                moved = app.bus().wait_past(&Topic::WorkPoolSnapshots, self.position) => {
                    let last = moved.map_err(|_| End::Stopping)?;
                    self.hear(last).await;
                }
                () = &mut snapshot_timer => self.send_snapshot(socket).await?,
                () = &mut cleanup_timer => self.deliver_cleanups(socket).await?,
            }
        }
    }

    /// Takes in changes up to `last`.
    async fn hear(&mut self, last: Position) {
        let limit = ReadLimit::default();
        let own = self.pool;
        let read = self.app.bus().read(&Topic::WorkPoolSnapshots, self.position, limit).await;
        let changes: Vec<Change> = if let Ok(entries) = read {
            self.position = entries.last().map_or(last, |entry| entry.position);
            entries.iter().filter_map(|entry| Change::from_body(&entry.payload)).collect()
        } else {
            // Some were missed: look at everything.
            self.position = last;
            vec![Change::pool(own), Change::cleanup(own)]
        };
        for change in changes.into_iter().filter(|change| change.work_pool_id == own) {
            match change.about {
                About::Pool => self.snapshot_soon("work_pool_updated"),
                About::Cleanup => self.cleanups.iter_mut().for_each(Cleanups::look_now),
            }
        }
    }

    fn snapshot_soon(&mut self, reason: &'static str) {
        let at = self.snapshot_due.map_or_else(|| Instant::now() + limits::SNAPSHOT_GATHERING, |(at, _)| at);
        self.snapshot_due = Some((at, reason));
    }

    async fn send_snapshot(&mut self, socket: &mut WebSocket) -> Result<(), End> {
        let Some((_, reason)) = self.snapshot_due.take() else { return Ok(()) };
        let pool = persistently!(self.read_pool().await).map_err(Refusal::reason)?.ok_or(CloseReason::AuthorizationFailed)?;
        self.pool_updated = pool.updated;
        let payload = snapshot(self.next_sequence, reason, &pool);
        self.next_sequence += 1;
        send(socket, "work_pool.snapshot.v1", self.app.now(), payload).await
    }

    async fn receive(&mut self, socket: &mut WebSocket, text: String) -> Result<(), End> {
        let frame = serde_json::from_str(&text).unwrap_or(Value::Null);
        match Inbound::read(frame) {
            Ok(Inbound::Heartbeat(heartbeat)) => self.heartbeat(&heartbeat).await,
            Ok(Inbound::Cleanup(id, operation, request)) => self.cleanup(socket, id, operation, &request).await,
            Ok(Inbound::Hello(_)) => Err(CloseReason::ProtocolError.into()),
            Err(reason) => {
                tracing::debug!(reason, worker = self.worker_name, "a worker's frame cannot be read");
                Err(CloseReason::ProtocolError.into())
            }
        }
    }

    async fn heartbeat(&mut self, heartbeat: &Heartbeat) -> Result<(), End> {
        if heartbeat.consumer_id != self.consumer_id || heartbeat.worker_name != self.worker_name {
            return Err(CloseReason::ProtocolError.into());
        }
        let updated = match persistently!(self.note(heartbeat).await) {
            Ok(updated) => updated,
            Err(Refusal::Close(reason)) => return Err(reason.into()),
            Err(Refusal::Store(error)) => {
                tracing::warn!(error = %chain(&error), worker = self.worker_name, "a worker's heartbeat could not be noted");
                return Err(CloseReason::HeartbeatPersistenceFailed.into());
            }
        };
        if updated != self.pool_updated {
            self.snapshot_soon("heartbeat_reconciliation");
        }
        Ok(())
    }

    /// Notes a heartbeat; gives when the pool was changed last.
    async fn note(&self, heartbeat: &Heartbeat) -> Result<Timestamp, Refusal> {
        let now = self.app.now();
        let mut tx = self.app.begin("worker_channel.heartbeat").await?;
        let pool = work_pools::read(&mut tx, &Key::Name(self.pool_name.clone())).await?;
        let pool = pool.ok_or(Refusal::Close(CloseReason::HeartbeatPersistenceFailed))?;
        beat(&mut tx, &pool, &heartbeat.worker_name, heartbeat.heartbeat_interval_seconds, now).await?;
        tx.commit().await?;
        Ok(pool.updated)
    }

    async fn read_pool(&self) -> Result<Option<WorkPool>, Refusal> {
        Ok(read_pool(&mut self.app.read("worker_channel.snapshot").await?, self.pool).await?)
    }
}

async fn sleep_until(at: Option<Instant>) {
    match at {
        Some(at) => tokio::time::sleep_until(at).await,
        None => std::future::pending().await,
    }
}
