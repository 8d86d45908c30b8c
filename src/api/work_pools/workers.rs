//! `/work_pools/{name}/workers`

use axum::extract::State;
use axum::response::NoContent;
use schemars::JsonSchema;
use serde::Deserialize;

use super::pools;
use crate::api::error::ApiError;
use crate::api::extract::{Embedded, Json, Path};
use crate::api::page;
use crate::app::App;
use crate::clock::Timestamp;
use crate::model::status::WorkPoolStatus;
use crate::model::work_pool::{WorkPool, WorkPoolUpdate};
use crate::model::worker::{Worker, WorkerFilter, WorkerHeartbeat};
use crate::store::workers as store;
use crate::store::{StoreError, Tx};

/// Notes a heartbeat; a pool that had no worker online is ready from then on.
pub(crate) async fn beat(tx: &mut Tx, pool: &WorkPool, heartbeat: &WorkerHeartbeat, now: Timestamp) -> Result<(), StoreError> {
    store::heartbeat(tx, pool.id, &heartbeat.name, heartbeat.heartbeat_interval_seconds, now).await?;
    if pool.status == Some(WorkPoolStatus::NotReady) {
        pools::change(tx, pool, now, &WorkPoolUpdate::default(), Some(WorkPoolStatus::Ready)).await?;
    }
    Ok(())
}

/// Record that a worker is alive.
pub(super) async fn heartbeat(
    State(app): State<App>,
    Path(pool): Path<String>,
    Embedded(body): Embedded<WorkerHeartbeat>,
) -> Result<NoContent, ApiError> {
    let now = app.now();
    let mut tx = app.begin("workers.heartbeat").await?;
    let pool = pools::by_name(&mut tx, &pool).await?;
    beat(&mut tx, &pool, &body, now).await?;
    tx.commit().await?;
    Ok(NoContent)
}

#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(default)]
pub(super) struct FilterBody {
    workers: Option<WorkerFilter>,
    limit: Option<i64>,
    #[serde(deserialize_with = "crate::model::bounds::non_negative")]
    offset: Option<i64>,
}

/// List the workers of a pool.
pub(super) async fn filter(
    State(app): State<App>,
    Path(pool): Path<String>,
    Embedded(body): Embedded<FilterBody>,
) -> Result<Json<Vec<Worker>>, ApiError> {
    let (limit, offset) = (page::limit(body.limit)?, page::offset(body.offset)?);
    let mut tx = app.read("workers.filter").await?;
    let pool = pools::by_name(&mut tx, &pool).await?;
    let workers = store::list(&mut tx, pool.id, &body.workers.unwrap_or_default(), limit, offset).await?;
    Ok(Json(workers))
}

/// Forget a worker.
pub(super) async fn delete(State(app): State<App>, Path((pool, name)): Path<(String, String)>) -> Result<NoContent, ApiError> {
    let mut tx = app.begin("workers.delete").await?;
    let pool = pools::by_name(&mut tx, &pool).await?;
    if !store::delete(&mut tx, pool.id, &name).await? {
        return Err(ApiError::not_found("Worker not found."));
    }
    tx.commit().await?;
    Ok(NoContent)
}
