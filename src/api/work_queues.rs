//! `/work_queues`: queues by their own id, as agents know them. Queues made here belong to the default agent pool.

use std::convert::Infallible;

use axum::extract::{FromRequestParts, State};
use axum::http::request::Parts;
use axum::response::NoContent;
use schemars::JsonSchema;
use serde::Deserialize;

use crate::api::answer::Created;
use crate::api::error::ApiError;
use crate::api::extract::{Embedded, Json, Path};
use crate::api::openapi::describe::{Input, Operation};
use crate::api::openapi::{Routes, Schemas, get, post};
use crate::api::page;
use crate::api::work_pools::{poll, pools, queues};
use crate::app::App;
use crate::clock::Timestamp;
use crate::events::work_pool as events;
use crate::id::WorkQueueId;
use crate::model::filter::work_queue::WorkQueueFilter;
use crate::model::flow_run::{FlowRun, FlowRunResponse};
use crate::model::json;
use crate::model::work_pool::{AGENT_POOL_TYPE, DEFAULT_AGENT_POOL, StorageConfiguration, WorkPool, WorkPoolCreate};
use crate::model::work_queue::{
    HealthPolicy, WorkQueue, WorkQueueConcurrencyStatus, WorkQueueCreate, WorkQueueStatusDetail, WorkQueueUpdate,
};
use crate::store::filter::work_queue::condition;
use crate::store::work_pools::{self, Key};
use crate::store::work_queues::{self as store, Counting, WorkQueueOrder};
use crate::store::{StoreError, Tx, scheduled_runs};

/// The routes of this file.
pub fn router() -> Routes {
    Routes::tagged("Work Queues")
        .route("/work_queues/", post(create))
        .route("/work_queues/filter", post(filter))
        .route("/work_queues/name/{name}", get(read_by_name))
        .route("/work_queues/{id}", get(read).patch(update).delete(delete))
        .route("/work_queues/{id}/get_runs", post(get_runs))
        .route("/work_queues/{id}/concurrency_status", post(concurrency_status))
        .route("/work_queues/{id}/status", get(status))
}

fn missing() -> ApiError {
    ApiError::not_found("work queue not found")
}

/// The pool of queues made without one, where it exists.
async fn agent_pool(tx: &mut Tx) -> Result<Option<WorkPool>, StoreError> {
    work_pools::read(tx, &Key::Name(DEFAULT_AGENT_POOL.into())).await
}

async fn make_agent_pool(tx: &mut Tx, now: Timestamp) -> Result<WorkPool, StoreError> {
    let create = WorkPoolCreate {
        name: DEFAULT_AGENT_POOL.into(),
        description: None,
        kind: AGENT_POOL_TYPE.into(),
        base_job_template: serde_json::Map::new(),
        is_paused: false,
        concurrency_limit: None,
        storage_configuration: StorageConfiguration::default(),
    };
    pools::make(tx, now, &create).await
}

async fn default_queue(tx: &mut Tx, pool: &WorkPool) -> Result<WorkQueue, StoreError> {
    let queue = match pool.default_queue_id {
        Some(id) => store::read(tx, id).await?,
        None => None,
    };
    queue.ok_or(StoreError::Database(sqlx::Error::RowNotFound))
}

/// Makes a queue in the default agent pool, which is made where missing.
async fn make(tx: &mut Tx, now: Timestamp, create: &WorkQueueCreate) -> Result<WorkQueue, StoreError> {
    let pool = if let Some(pool) = agent_pool(tx).await? {
        pool
    } else {
        let pool = make_agent_pool(tx, now).await?;
        if create.name == "default" {
            return default_queue(tx, &pool).await;
        }
        pool
    };
    queues::make(tx, pool.id, now, create).await
}

/// The queue of that name which deployments without a pool use, made where missing.
pub(crate) async fn ensure(tx: &mut Tx, name: &str, now: Timestamp) -> Result<WorkQueue, StoreError> {
    let pool = agent_pool(tx).await?;
    if let Some(queue) = store::read_by_name(tx, pool.as_ref().map(|pool| pool.id), name).await? {
        return Ok(queue);
    }
    match pool {
        Some(pool) if name == "default" => default_queue(tx, &pool).await,
        _ => make(tx, now, &WorkQueueCreate { priority: Some(1), ..WorkQueueCreate::named(name) }).await,
    }
}

/// Create a work queue.
async fn create(State(app): State<App>, Json(body): Json<WorkQueueCreate>) -> Result<Created<WorkQueue>, ApiError> {
    let now = app.now();
    let mut tx = app.begin("work_queues.create").await?;
    let mut queue = make(&mut tx, now, &body).await.map_err(|error| match error {
        error if error.is_integrity() => ApiError::conflict("A work queue with this name already exists."),
        other => other.into(),
    })?;
    tx.commit().await?;
    queue.active_slots = queue.concurrency_limit.map(|_| 0);
    Ok(Created(queue))
}

async fn with_slots(tx: &mut Tx, queue: Option<WorkQueue>) -> Result<Json<WorkQueue>, ApiError> {
    let queues = store::with_active_slots(tx, vec![queue.ok_or_else(missing)?], Counting::Agents).await?;
    queues.into_iter().next().map(Json).ok_or_else(missing)
}

/// Read a work queue by id.
async fn read(State(app): State<App>, Path(id): Path<WorkQueueId>) -> Result<Json<WorkQueue>, ApiError> {
    let mut tx = app.read("work_queues.read").await?;
    let queue = store::read(&mut tx, id).await?;
    with_slots(&mut tx, queue).await
}

/// Read a work queue by name.
async fn read_by_name(State(app): State<App>, Path(name): Path<String>) -> Result<Json<WorkQueue>, ApiError> {
    let mut tx = app.read("work_queues.read").await?;
    let pool = agent_pool(&mut tx).await?.map(|pool| pool.id);
    let queue = store::read_by_name(&mut tx, pool, &name).await?;
    with_slots(&mut tx, queue).await
}

#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(default)]
struct FilterBody {
    work_queues: Option<WorkQueueFilter>,
    limit: Option<i64>,
    #[serde(deserialize_with = "crate::model::bounds::non_negative")]
    offset: Option<i64>,
}

/// List work queues.
async fn filter(State(app): State<App>, Embedded(body): Embedded<FilterBody>) -> Result<Json<Vec<WorkQueue>>, ApiError> {
    let (limit, offset) = (page::limit(body.limit)?, page::offset(body.offset)?);
    let mut tx = app.read("work_queues.filter").await?;
    let condition = condition(&body.work_queues.unwrap_or_default(), tx.dialect());
    let queues = store::list(&mut tx, None, condition, WorkQueueOrder::Name, Some(limit), offset).await?;
    Ok(Json(store::with_active_slots(&mut tx, queues, Counting::Agents).await?))
}

/// Change a work queue.
async fn update(State(app): State<App>, Path(id): Path<WorkQueueId>, Json(body): Json<WorkQueueUpdate>) -> Result<NoContent, ApiError> {
    let now = app.now();
    let missing = || ApiError::not_found(format!("Work Queue {id} not found"));
    let mut tx = app.begin("work_queues.update").await?;
    let before = store::read(&mut tx, id).await?.ok_or_else(missing)?;
    if !queues::change(&mut tx, &before, now, &body, false).await? {
        return Err(missing());
    }
    tx.commit().await?;
    Ok(NoContent)
}

/// Delete a work queue.
async fn delete(State(app): State<App>, Path(id): Path<WorkQueueId>) -> Result<NoContent, ApiError> {
    let now = app.now();
    let mut tx = app.begin("work_queues.delete").await?;
    let queue = store::read(&mut tx, id).await?.ok_or_else(missing)?;
    tx.emit(events::queue_deleted(&queue, now));
    store::delete(&mut tx, id).await?;
    tx.commit().await?;
    Ok(NoContent)
}

#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(default)]
struct RunsBody {
    limit: Option<i64>,
    #[serde(with = "json::optional_timestamp")]
    scheduled_before: Option<Timestamp>,
}

/// Tells a look of the UI from a poll, by a header.
struct IsUi(bool);

impl IsUi {
    const HEADER: &'static str = "x-prefect-ui";
}

impl<S: Send + Sync> FromRequestParts<S> for IsUi {
    type Rejection = Infallible;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Infallible> {
        let value = parts.headers.get(Self::HEADER).and_then(|value| value.to_str().ok()).unwrap_or_default();
        Ok(Self(["1", "true", "t", "yes", "y", "on"].contains(&value.to_lowercase().as_str())))
    }
}

impl Input for IsUi {
    fn describe(operation: &mut Operation, schemas: &mut Schemas) {
        operation.parameter("header", Self::HEADER, false, schemas.input::<bool>());
    }
}

/// Get the runs of a work queue that are due.
async fn get_runs(
    State(app): State<App>,
    Path(id): Path<WorkQueueId>,
    IsUi(is_ui): IsUi,
    Embedded(body): Embedded<RunsBody>,
) -> Result<Json<Vec<FlowRunResponse>>, ApiError> {
    let limit = page::limit(body.limit)?;
    let now = app.now();
    let mut tx = app.begin("work_queues.get_runs").await?;
    let queue = store::read(&mut tx, id).await?.ok_or_else(|| ApiError::ObjectNotFound(format!("Work queue with id {id} not found.")))?;
    let runs = scheduled_runs::of_queue(&mut tx, &queue, body.scheduled_before, limit).await?;
    tx.commit().await?;
    if !is_ui {
        poll::note(&app, &[id], &[]).await;
    }
    // The reference does not load the pools of these runs, and says that they have none.
    Ok(Json(runs.into_iter().map(|run| FlowRun { queue: None, ..run }.at(now)).collect()))
}

#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(default)]
struct ConcurrencyBody {
    #[serde(deserialize_with = "crate::model::bounds::from_one")]
    page: Option<i64>,
    limit: Option<i64>,
}

/// Read which runs hold the slots of a work queue.
async fn concurrency_status(
    State(app): State<App>,
    Path(id): Path<WorkQueueId>,
    Embedded(body): Embedded<ConcurrencyBody>,
) -> Result<Json<WorkQueueConcurrencyStatus>, ApiError> {
    let (page, limit) = (page::page(body.page)?, page::limit(body.limit)?);
    let mut tx = app.read("work_queues.concurrency_status").await?;
    let queue = store::read(&mut tx, id).await?.ok_or_else(|| ApiError::not_found("Work queue not found."))?;
    let active_slots = store::count_slot_holders(&mut tx, id).await?;
    let flow_runs = store::slot_holders(&mut tx, id, app.now(), limit, (page - 1).saturating_mul(limit)).await?;
    let count = active_slots.unsigned_abs();
    let pages = if limit == 0 { 0 } else { count.div_ceil(limit) };
    Ok(Json(WorkQueueConcurrencyStatus { active_slots, concurrency_limit: queue.concurrency_limit, flow_runs, count, limit, pages, page }))
}

/// Read how a work queue is doing.
async fn status(State(app): State<App>, Path(id): Path<WorkQueueId>) -> Result<Json<WorkQueueStatusDetail>, ApiError> {
    let mut tx = app.read("work_queues.status").await?;
    let queue = store::read(&mut tx, id).await?.ok_or_else(|| ApiError::ObjectNotFound(format!("Work queue with id {id} not found")))?;
    let late_runs_count = store::count_late(&mut tx, id).await?;
    let policy = HealthPolicy::DEFAULT;
    Ok(Json(WorkQueueStatusDetail {
        healthy: policy.is_healthy(late_runs_count, queue.last_polled, app.now()),
        late_runs_count,
        last_polled: queue.last_polled,
        health_check_policy: policy,
    }))
}
