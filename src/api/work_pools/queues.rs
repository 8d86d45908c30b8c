//! `/work_pools/{name}/queues`

use axum::extract::State;
use axum::response::NoContent;
use chrono::TimeDelta;
use schemars::JsonSchema;
use serde::Deserialize;

use super::pools;
use crate::api::answer::Created;
use crate::api::error::ApiError;
use crate::api::extract::{Embedded, Json, Path};
use crate::api::page;
use crate::app::App;
use crate::clock::Timestamp;
use crate::events::work_pool as events;
use crate::id::WorkPoolId;
use crate::model::filter::work_queue::WorkQueueFilter;
use crate::model::status::WorkQueueStatus;
use crate::model::work_queue::{WorkQueue, WorkQueueCreate, WorkQueueUpdate};
use crate::store::filter::work_queue::condition;
use crate::store::work_queues::{self as store, Counting, WorkQueueOrder};
use crate::store::{StoreError, Tx};

/// A queue that was polled within this time is ready when it is resumed.
const POLLED_LATELY: TimeDelta = TimeDelta::seconds(60);

/// Makes a queue and tells of it.
pub(crate) async fn make(tx: &mut Tx, pool: WorkPoolId, now: Timestamp, create: &WorkQueueCreate) -> Result<WorkQueue, StoreError> {
    let queue = store::insert(tx, pool, now, create).await?;
    tx.emit(events::queue_created(&queue, now));
    Ok(queue)
}

/// The queue of that name in the pool of that name, made where the pool lacks it.
pub(crate) async fn ensure(tx: &mut Tx, pool: &str, name: &str, now: Timestamp) -> Result<WorkQueue, ApiError> {
    if let Some(queue) = store::read_in_pool(tx, pool, name).await? {
        return Ok(queue);
    }
    let pool = pools::by_name(tx, pool).await?;
    Ok(make(tx, pool.id, now, &WorkQueueCreate::named(name)).await?)
}

/// Changes a queue and tells of what changed. `make_room` moves the other queues of the pool out of its priority's way.
pub(crate) async fn change(
    tx: &mut Tx,
    before: &WorkQueue,
    now: Timestamp,
    update: &WorkQueueUpdate,
    make_room: bool,
) -> Result<bool, StoreError> {
    let paused = before.status == Some(WorkQueueStatus::Paused);
    let status = match update.is_paused.as_value() {
        Some(true) if !paused => Some(WorkQueueStatus::Paused),
        Some(false) if paused => {
            let last_polled = update.last_polled.clone().into_option().unwrap_or(before.last_polled);
            let lately = last_polled.is_some_and(|at| now - at <= POLLED_LATELY);
            Some(if lately { WorkQueueStatus::Ready } else { WorkQueueStatus::NotReady })
        }
        _ => None,
    };
    if !store::update(tx, before.id, now, update, status).await? {
        return Ok(false);
    }
    let Some(after) = store::read(tx, before.id).await? else { return Ok(false) };
    let changes = store::changes(before, &after);
    if !changes.is_empty() {
        tx.emit(events::queue_updated(&after, changes, now));
    }
    if let (true, Some(priority), Some(pool)) = (make_room, update.priority.as_value(), after.work_pool_id) {
        store::rearrange(tx, pool, now, &[(after.id, *priority)]).await?;
    }
    if let Some(event) = status.and_then(|_| events::queue_status(&after, now)) {
        tx.emit(event);
    }
    Ok(true)
}

fn missing(pool: &str, name: &str) -> ApiError {
    ApiError::not_found(format!("Work pool queue '{pool}/{name}' not found."))
}

/// Reads a queue by its pool's name and its own.
pub(super) async fn by_name(tx: &mut Tx, pool: &str, name: &str) -> Result<WorkQueue, ApiError> {
    store::read_in_pool(tx, pool, name).await?.ok_or_else(|| missing(pool, name))
}

/// Create a queue of a work pool.
pub(super) async fn create(
    State(app): State<App>,
    Path(pool): Path<String>,
    Json(body): Json<WorkQueueCreate>,
) -> Result<Created<WorkQueue>, ApiError> {
    let now = app.now();
    let mut tx = app.begin("work_queues.create").await?;
    let pool = pools::by_name(&mut tx, &pool).await?;
    let mut queue = make(&mut tx, pool.id, now, &body).await.map_err(|error| match error {
        // The reference forgets to fill in the pool's name.
        error if error.is_integrity() => ApiError::conflict("A work queue with this name already exists in work pool {work_pool_name!r}."),
        other => other.into(),
    })?;
    tx.commit().await?;
    queue.active_slots = queue.concurrency_limit.map(|_| 0);
    Ok(Created(queue))
}

/// Read a queue of a work pool.
pub(super) async fn read(State(app): State<App>, Path((pool, name)): Path<(String, String)>) -> Result<Json<WorkQueue>, ApiError> {
    let mut tx = app.read("work_queues.read").await?;
    let queue = by_name(&mut tx, &pool, &name).await?;
    let queues = store::with_active_slots(&mut tx, vec![queue], Counting::Workers).await?;
    queues.into_iter().next().map(Json).ok_or_else(|| missing(&pool, &name))
}

#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(default)]
pub(super) struct FilterBody {
    work_queues: Option<WorkQueueFilter>,
    limit: Option<i64>,
    #[serde(deserialize_with = "crate::model::bounds::non_negative")]
    offset: Option<i64>,
}

/// List the queues of a work pool.
pub(super) async fn filter(
    State(app): State<App>,
    Path(pool): Path<String>,
    Embedded(body): Embedded<FilterBody>,
) -> Result<Json<Vec<WorkQueue>>, ApiError> {
    let (limit, offset) = (page::limit(body.limit)?, page::offset(body.offset)?);
    let mut tx = app.read("work_queues.filter").await?;
    let pool = pools::by_name(&mut tx, &pool).await?;
    let condition = condition(&body.work_queues.unwrap_or_default(), tx.dialect());
    let queues = store::list(&mut tx, Some(pool.id), condition, WorkQueueOrder::Priority, Some(limit), offset).await?;
    Ok(Json(store::with_active_slots(&mut tx, queues, Counting::Workers).await?))
}

/// Change a queue of a work pool.
pub(super) async fn update(
    State(app): State<App>,
    Path((pool, name)): Path<(String, String)>,
    Json(body): Json<WorkQueueUpdate>,
) -> Result<NoContent, ApiError> {
    let now = app.now();
    let mut tx = app.begin("work_queues.update").await?;
    pools::by_name(&mut tx, &pool).await?;
    let before = by_name(&mut tx, &pool, &name).await?;
    change(&mut tx, &before, now, &body, true).await?;
    tx.commit().await?;
    Ok(NoContent)
}

/// Delete a queue of a work pool.
pub(super) async fn delete(State(app): State<App>, Path((pool, name)): Path<(String, String)>) -> Result<NoContent, ApiError> {
    let now = app.now();
    let mut tx = app.begin("work_queues.delete").await?;
    let pool_row = pools::by_name(&mut tx, &pool).await?;
    let queue = by_name(&mut tx, &pool, &name).await?;
    tx.emit(events::queue_deleted(&queue, now));
    store::delete(&mut tx, queue.id).await?;
    store::rearrange(&mut tx, pool_row.id, now, &[]).await?;
    tx.commit().await?;
    Ok(NoContent)
}
