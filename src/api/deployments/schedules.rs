//! Schedules of deployments; pausing and resuming. Whatever changes when runs are due takes back the runs to come in the
//! same transaction.

use axum::extract::State;
use axum::http::StatusCode;
use axum::response::NoContent;
use chrono::TimeDelta;
use schemars::JsonSchema;
use serde::{Deserialize, Deserializer};
use serde_json::Value;

use super::{locked, missing, missing_stop};
use crate::api::answer::Created;
use crate::api::error::ApiError;
use crate::api::extract::{Embedded, Json, Path};
use crate::api::openapi::{Routes, get, patch, post};
use crate::app::App;
use crate::clock::Timestamp;
use crate::id::{DeploymentId, DeploymentScheduleId};
use crate::model::deployment::{DeploymentChange, DeploymentSchedule, DeploymentScheduleCreate, DeploymentScheduleUpdate};
use crate::model::{Patch, json};
use crate::store::deployments::{self, Key};
use crate::store::scheduled_runs::{self, Horizon, Which};
use crate::store::{StoreError, Tx, deployment_schedules as store};

/// The routes of this file.
pub fn router() -> Routes {
    Routes::tagged("Deployments")
        .route("/deployments/{id}/schedules", get(list).post(create))
        .route("/deployments/{id}/schedules/{schedule_id}", patch(update).delete(delete))
        .route("/deployments/{id}/schedule", post(schedule))
        .route("/deployments/{id}/pause_deployment", post(pause))
        .route("/deployments/{id}/resume_deployment", post(resume))
}

fn no_schedule() -> ApiError {
    ApiError::not_found("Schedule not found.")
}

/// List the schedules of a deployment.
async fn list(State(app): State<App>, Path(id): Path<DeploymentId>) -> Result<Json<Vec<DeploymentSchedule>>, ApiError> {
    let mut tx = app.read("deployment_schedules.list").await?;
    let deployment = deployments::read(&mut tx, &Key::Id(id)).await?.ok_or_else(missing_stop)?;
    Ok(Json(deployment.schedules))
}

fn conflict(error: StoreError) -> ApiError {
    match error {
        StoreError::Unique { .. } => ApiError::conflict("Schedule slugs must be unique within a deployment."),
        other => other.into(),
    }
}

/// Add schedules to a deployment.
async fn create(
    State(app): State<App>,
    Path(id): Path<DeploymentId>,
    Json(body): Json<Vec<DeploymentScheduleCreate>>,
) -> Result<Created<Vec<DeploymentSchedule>>, ApiError> {
    let now = app.now();
    let mut tx = app.begin("deployment_schedules.create").await?;
    locked(&mut tx, id, missing_stop).await?;
    let created = store::insert(&mut tx, id, now, &body).await.map_err(conflict)?;
    tx.commit().await?;
    Ok(Created(created))
}

/// Change a schedule of a deployment.
async fn update(
    State(app): State<App>,
    Path((id, schedule)): Path<(DeploymentId, DeploymentScheduleId)>,
    Json(body): Json<DeploymentScheduleUpdate>,
) -> Result<NoContent, ApiError> {
    let now = app.now();
    let mut tx = app.begin("deployment_schedules.update").await?;
    locked(&mut tx, id, missing_stop).await?;
    if !store::update(&mut tx, id, schedule, now, &body).await? {
        return Err(no_schedule());
    }
    scheduled_runs::delete(&mut tx, &[id], Which::AutomaticAfter(now)).await?;
    tx.commit().await?;
    Ok(NoContent)
}

/// Delete a schedule of a deployment.
async fn delete(State(app): State<App>, Path((id, schedule)): Path<(DeploymentId, DeploymentScheduleId)>) -> Result<NoContent, ApiError> {
    let mut tx = app.begin("deployment_schedules.delete").await?;
    locked(&mut tx, id, missing_stop).await?;
    if !store::delete(&mut tx, id, schedule).await? {
        return Err(no_schedule());
    }
    scheduled_runs::delete(&mut tx, &[id], Which::Automatic).await?;
    tx.commit().await?;
    Ok(NoContent)
}

#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(default)]
struct ScheduleBody {
    #[serde(deserialize_with = "moment")]
    start_time: Option<Timestamp>,
    #[serde(deserialize_with = "moment")]
    end_time: Option<Timestamp>,
    min_time: Option<f64>,
    min_runs: Option<i64>,
    max_runs: Option<i64>,
}

/// A moment of Python's own type, of which the reference's validator has other findings than of its own type.
fn moment<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Timestamp>, D::Error> {
    let value = Value::deserialize(deserializer)?;
    let (kind, message) = match &value {
        Value::Null => return Ok(None),
        Value::String(_) => ("datetime_from_date_parsing", "Input should be a valid datetime or date"),
        Value::Number(_) => ("datetime_parsing", "Input should be a valid datetime"),
        _ => ("datetime_type", "Input should be a valid datetime"),
    };
    json::timestamp::deserialize(value).map(Some).map_err(|_| json::invalid_with(kind, message, &Value::Null))
}

/// Make the runs of a deployment's schedules for a span of time, which may be over.
async fn schedule(
    State(app): State<App>,
    Path(id): Path<DeploymentId>,
    Embedded(body): Embedded<ScheduleBody>,
) -> Result<Json<()>, ApiError> {
    let now = app.now();
    let settings = &app.settings().services.scheduler;
    let start = body.start_time.unwrap_or(now);
    let span = |duration: std::time::Duration| TimeDelta::from_std(duration).unwrap_or(TimeDelta::MAX);
    let runs = |given: Option<i64>, default: u64| {
        given.map_or(usize::try_from(default).unwrap_or(usize::MAX), |given| usize::try_from(given).unwrap_or(0))
    };
    let horizon = Horizon {
        start,
        end: body.end_time.or_else(|| start.checked_add_signed(span(settings.max_scheduled_time))).unwrap_or(start),
        min_time: body.min_time.map_or(span(settings.min_scheduled_time), |seconds| TimeDelta::microseconds((seconds * 1e6) as i64)),
        min_runs: runs(body.min_runs, settings.min_runs),
        max_runs: runs(body.max_runs, settings.max_runs),
        insert_batch: settings.insert_batch_size,
    };
    let mut tx = app.begin("deployments.schedule").await?;
    let done = scheduled_runs::schedule(&mut tx, &[id], now, &horizon, true).await?;
    if let Some(failed) = done.failed.first() {
        return Err(ApiError::detail(StatusCode::UNPROCESSABLE_ENTITY, format!("A schedule has no dates: {}", failed.error)));
    }
    tx.commit().await?;
    Ok(Json(()))
}

/// Pauses a deployment, and takes back the runs that its schedules made; or resumes it.
///
/// # Errors
/// 404 where there is none.
pub(crate) async fn set_paused(tx: &mut Tx, id: DeploymentId, paused: bool, now: Timestamp) -> Result<(), ApiError> {
    locked(tx, id, missing).await?;
    deployments::update(tx, id, now, &DeploymentChange { paused: Patch::Value(paused), ..DeploymentChange::default() }).await?;
    if paused {
        scheduled_runs::delete(tx, &[id], Which::Automatic).await?;
    }
    Ok(())
}

/// Pause a deployment and take back the runs that its schedules made.
async fn pause(State(app): State<App>, Path(id): Path<DeploymentId>) -> Result<Json<()>, ApiError> {
    let mut tx = app.begin("deployments.pause").await?;
    set_paused(&mut tx, id, true, app.now()).await?;
    tx.commit().await?;
    Ok(Json(()))
}

/// Resume a deployment.
async fn resume(State(app): State<App>, Path(id): Path<DeploymentId>) -> Result<Json<()>, ApiError> {
    let mut tx = app.begin("deployments.resume").await?;
    set_paused(&mut tx, id, false, app.now()).await?;
    tx.commit().await?;
    Ok(Json(()))
}
