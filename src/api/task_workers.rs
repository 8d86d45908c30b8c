//! `/task_workers`: which task workers are connected, to whatever node.
//!
//! Each node tells the bus of its own, under keys that run out unless it says so again; so those of a node that died are
//! forgotten soon. A worker whose connection ended without a `quit` stays for a moment: it may be on its way to another
//! node, and the reference, which looks once a second, lists it as long.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;

use axum::Extension;
use axum::extract::State;
use bytes::Bytes;
use futures_util::StreamExt;
use parking_lot::Mutex;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use tokio::sync::Notify;
use tokio::time::Instant;
use uuid::Uuid;

use crate::api::error::ApiError;
use crate::api::extract::{Embedded, Json};
use crate::api::openapi::{Routes, post};
use crate::app::App;
use crate::clock::Timestamp;
use crate::limits;
use crate::model::json;

/// The route of this file.
pub fn router() -> Routes {
    Routes::tagged("Task Workers").route("/task_workers/filter", post(filter))
}

const PREFIX: &str = "task-worker/";

/// Connections that one answer takes in.
const CONNECTIONS_MAX: usize = 10_000;

/// A task worker, as clients see it and as the bus has it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
struct TaskWorker {
    identifier: String,
    task_keys: Vec<String>,
    /// When its node last said that it is connected.
    #[serde(with = "json::timestamp")]
    timestamp: Timestamp,
}

#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(default)]
struct FilterBody {
    task_worker_filter: Option<TaskWorkerFilter>,
}

#[derive(Debug, Deserialize, JsonSchema)]
struct TaskWorkerFilter {
    task_keys: Vec<String>,
}

/// List the task workers that are connected, or those of them that serve any of the task keys.
async fn filter(
    State(app): State<App>,
    Extension(presence): Extension<Presence>,
    Embedded(body): Embedded<FilterBody>,
) -> Result<Json<Vec<TaskWorker>>, ApiError> {
    let wanted = body.task_worker_filter.map(|filter| filter.task_keys).unwrap_or_default();
    let now = app.now();
    let keys = app.bus().keys(PREFIX.as_bytes(), CONNECTIONS_MAX);
    let current = keys.iter().filter(|key| key.expires_at.is_none_or(|at| at > now.timestamp_millis()));
    // What a newer version may have written is left out.
    let told = current.filter_map(|key| serde_json::from_slice::<TaskWorker>(&key.value).ok());
    let mut workers: BTreeMap<String, (BTreeSet<String>, Timestamp)> = BTreeMap::new();
    // The bus may not know yet of those of this node.
    for found in told.chain(presence.here(now)) {
        let (keys, timestamp) = workers.entry(found.identifier).or_insert_with(|| (BTreeSet::new(), found.timestamp));
        keys.extend(found.task_keys);
        *timestamp = found.timestamp.max(*timestamp);
    }
    let shown = workers
        .into_iter()
        .filter(|(_, (keys, _))| wanted.is_empty() || wanted.iter().any(|key| keys.contains(key)))
        .map(|(identifier, (keys, timestamp))| TaskWorker { identifier, task_keys: keys.into_iter().collect(), timestamp });
    Ok(Json(shown.collect()))
}

/// Tells the bus of the task workers of this node. Clones are the same.
#[derive(Clone)]
pub struct Presence {
    inner: Arc<Inner>,
}

#[derive(Default)]
struct Inner {
    connected: Mutex<HashMap<Uuid, Connected>>,
    changed: Notify,
}

impl Inner {
    /// When the next one is to be forgotten.
    fn next_leaves_at(&self) -> Option<Instant> {
        self.connected.lock().values().filter_map(|one| one.leaves_at).min()
    }

    /// Forgets those that left by then.
    fn forget(&self, by: Instant) -> Vec<Uuid> {
        self.connected.lock().extract_if(|_, one| one.leaves_at.is_some_and(|at| at <= by)).map(|(id, _)| id).collect()
    }
}

struct Connected {
    identifier: String,
    keys: Arc<[String]>,
    told: bool,
    /// When to forget it: its connection is over.
    leaves_at: Option<Instant>,
}

impl Connected {
    fn as_of(&self, timestamp: Timestamp) -> TaskWorker {
        TaskWorker { identifier: self.identifier.clone(), task_keys: self.keys.to_vec(), timestamp }
    }
}

/// A connection; over when dropped.
pub struct Present {
    id: Uuid,
    inner: Arc<Inner>,
    /// How long the worker is listed after that.
    lingers: Duration,
}

impl Present {
    /// The worker said that it leaves: it is forgotten at once.
    pub fn quit(mut self) {
        self.lingers = Duration::ZERO;
    }
}

impl Drop for Present {
    fn drop(&mut self) {
        if let Some(connected) = self.inner.connected.lock().get_mut(&self.id) {
            connected.leaves_at = Some(Instant::now() + self.lingers);
        }
        self.inner.changed.notify_one();
    }
}

impl Presence {
    /// Starts telling.
    pub fn start(app: &App) -> Self {
        let presence = Self { inner: Arc::default() };
        app.tasks().spawn_vital("task_workers.presence", tell(app.clone(), presence.inner.clone()));
        presence
    }

    /// A task worker is connected.
    pub fn enter(&self, identifier: String, keys: Arc<[String]>) -> Present {
        let id = crate::id::v4();
        self.inner.connected.lock().insert(id, Connected { identifier, keys, told: false, leaves_at: None });
        self.inner.changed.notify_one();
        Present { id, inner: self.inner.clone(), lingers: limits::TASK_WORKER_LINGERS }
    }

    /// The task workers of this node.
    fn here(&self, now: Timestamp) -> Vec<TaskWorker> {
        self.inner.connected.lock().values().map(|one| one.as_of(now)).collect()
    }
}

async fn tell(app: App, inner: Arc<Inner>) {
    let stopping = app.tasks().stopping();
    let mut every = tokio::time::interval(limits::TASK_WORKER_TOLD);
    loop {
        let next_leaves_at = inner.next_leaves_at();
        let all = tokio::select! {
            () = stopping.cancelled() => break,
            () = inner.changed.notified() => false,
            () = tokio::time::sleep_until(next_leaves_at.unwrap_or_else(Instant::now)), if next_leaves_at.is_some() => false,
            _ = every.tick() => true,
        };
        let gone = inner.forget(Instant::now());
        tell_once(&app, &inner, gone, all).await;
    }
    // What is not said in time runs out by itself.
    let _timely = tokio::time::timeout(limits::SOCKET_CLOSE, async {
        while inner.connected.lock().values().any(|one| one.leaves_at.is_none()) {
            inner.changed.notified().await;
        }
        let gone = inner.connected.lock().drain().map(|(id, _)| id).collect();
        tell_once(&app, &inner, gone, false).await;
    })
    .await;
}

async fn tell_once(app: &App, inner: &Inner, gone: Vec<Uuid>, all: bool) {
    let timestamp = app.now();
    let set: Vec<(Uuid, TaskWorker)> = {
        let mut connected = inner.connected.lock();
        let untold = connected.iter_mut().filter(|(_, one)| all || !one.told);
        untold
            .map(|(id, one)| {
                one.told = true;
                (*id, one.as_of(timestamp))
            })
            .collect()
    };
    let key = |id: Uuid| Bytes::from(format!("{PREFIX}{id}"));
    let bus = app.bus();
    let set = set.into_iter().map(|(id, worker)| async move {
        let value = serde_json::to_vec(&worker).expect("only string keys");
        bus.set_key(key(id), value.into(), limits::TASK_WORKER_PRESENCE).await
    });
    let mut told = futures_util::stream::iter(set).buffer_unordered(limits::TASK_WORKERS_TOLD_AT_ONCE);
    while let Some(result) = told.next().await {
        if let Err(error) = result {
            tracing::info!(error = %error, "a task worker could not be told of; it will be again");
        }
    }
    // After the keys are set: a worker may have gone meanwhile.
    let mut forgotten =
        futures_util::stream::iter(gone.into_iter().map(|id| bus.delete_key(key(id)))).buffer_unordered(limits::TASK_WORKERS_TOLD_AT_ONCE);
    while let Some(result) = forgotten.next().await {
        if let Err(error) = result {
            tracing::info!(error = %error, "a task worker that is gone is listed until that runs out");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_worker_stays_for_a_moment_unless_it_said_that_it_leaves() {
        let presence = Presence { inner: Arc::default() };
        let enter = |name: &str| presence.enter(name.to_owned(), Arc::new(["a".to_owned()]));
        let listed = || -> BTreeSet<String> { presence.here(Timestamp::UNIX_EPOCH).into_iter().map(|one| one.identifier).collect() };
        let (stays, leaves, quits) = (enter("stays"), enter("leaves"), enter("quits"));
        assert_eq!(presence.inner.next_leaves_at(), None);
        drop(leaves);
        quits.quit();
        let now = Instant::now();
        assert_eq!(presence.inner.forget(now).len(), 1);
        assert_eq!(listed(), ["leaves", "stays"].map(str::to_owned).into());
        assert!(presence.inner.next_leaves_at().is_some_and(|at| at > now));
        assert_eq!(presence.inner.forget(now + limits::TASK_WORKER_LINGERS).len(), 1);
        assert_eq!(listed(), ["stays"].map(str::to_owned).into());
        drop(stays);
    }
}
