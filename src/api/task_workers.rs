//! `/task_workers`: which task workers are connected, to whatever node.
//!
//! Each node tells the bus of its own, under keys that run out unless it says so again; so those of a node that died are
//! forgotten soon.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use axum::Router;
use axum::extract::State;
use axum::routing::post;
use bytes::Bytes;
use futures_util::StreamExt;
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use tokio::sync::Notify;
use uuid::Uuid;

use crate::api::error::ApiError;
use crate::api::extract::{Embedded, Json};
use crate::app::App;
use crate::clock::Timestamp;
use crate::limits;
use crate::model::json;

/// The route of this file.
pub fn router() -> Router<App> {
    Router::new().route("/task_workers/filter", post(filter))
}

const PREFIX: &str = "task-worker/";

/// Connections that one answer takes in.
const CONNECTIONS_MAX: usize = 10_000;

/// A task worker, as clients see it and as the bus has it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct TaskWorker {
    identifier: String,
    task_keys: Vec<String>,
    /// When its node last said that it is connected.
    #[serde(with = "json::timestamp")]
    timestamp: Timestamp,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct FilterBody {
    task_worker_filter: Option<TaskWorkerFilter>,
}

#[derive(Debug, Deserialize)]
struct TaskWorkerFilter {
    task_keys: Vec<String>,
}

/// List the task workers that are connected, or those of them that serve any of the task keys.
async fn filter(State(app): State<App>, Embedded(body): Embedded<FilterBody>) -> Result<Json<Vec<TaskWorker>>, ApiError> {
    let wanted = body.task_worker_filter.map(|filter| filter.task_keys).unwrap_or_default();
    let now = app.now().timestamp_millis();
    let mut workers: BTreeMap<String, (BTreeSet<String>, Timestamp)> = BTreeMap::new();
    for key in app.bus().keys(PREFIX.as_bytes(), CONNECTIONS_MAX) {
        if key.expires_at.is_some_and(|at| at <= now) {
            continue;
        }
        // What a newer version may have written is left out.
        let Ok(found) = serde_json::from_slice::<TaskWorker>(&key.value) else { continue };
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
    gone: Mutex<Vec<Uuid>>,
    changed: Notify,
}

struct Connected {
    identifier: String,
    keys: Arc<[String]>,
    told: bool,
}

/// A connection; over when dropped.
pub struct Present {
    id: Uuid,
    inner: Arc<Inner>,
}

impl Drop for Present {
    fn drop(&mut self) {
        self.inner.connected.lock().remove(&self.id);
        self.inner.gone.lock().push(self.id);
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
        self.inner.connected.lock().insert(id, Connected { identifier, keys, told: false });
        self.inner.changed.notify_one();
        Present { id, inner: self.inner.clone() }
    }
}

async fn tell(app: App, inner: Arc<Inner>) {
    let stopping = app.tasks().stopping();
    let mut every = tokio::time::interval(limits::TASK_WORKER_TOLD);
    loop {
        let all = tokio::select! {
            () = stopping.cancelled() => break,
            () = inner.changed.notified() => false,
            _ = every.tick() => true,
        };
        tell_once(&app, &inner, all).await;
    }
    // What is not said in time runs out by itself.
    let _timely = tokio::time::timeout(limits::SOCKET_CLOSE, async {
        while !inner.connected.lock().is_empty() {
            inner.changed.notified().await;
        }
        tell_once(&app, &inner, false).await;
    })
    .await;
}

async fn tell_once(app: &App, inner: &Inner, all: bool) {
    let timestamp = app.now();
    let set: Vec<(Uuid, TaskWorker)> = {
        let mut connected = inner.connected.lock();
        let untold = connected.iter_mut().filter(|(_, one)| all || !one.told);
        untold
            .map(|(id, one)| {
                one.told = true;
                (*id, TaskWorker { identifier: one.identifier.clone(), task_keys: one.keys.to_vec(), timestamp })
            })
            .collect()
    };
    let gone = std::mem::take(&mut *inner.gone.lock());
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
