//! `/task_runs`. States are set in `api/task_runs/state.rs`.

pub mod state;

use axum::Router;
use axum::extract::State;
use axum::http::StatusCode;
use axum::routing::{get, post};

use crate::api::error::ApiError;
use crate::api::extract::{Json, Path};
use crate::api::filters::{CountBody, ListBody};
use crate::api::history::HistoryBody;
use crate::api::page::Page;
use crate::api::run_logs;
use crate::app::App;
use crate::id::TaskRunId;
use crate::model::run::HistoryInterval;
use crate::model::task_run::{TaskRunResponse, TaskRunSort, TaskRunUpdate};
use crate::store::logs::Of;
use crate::store::run_history::Runs;
use crate::store::task_runs as store;

/// The routes of this file.
pub fn router() -> Router<App> {
    state::router()
        .route("/task_runs/count", post(count))
        .route("/task_runs/history", post(history))
        .route("/task_runs/filter", post(filter))
        .route("/task_runs/paginate", post(paginate))
        .route("/task_runs/{id}", get(read).patch(update).delete(delete))
}

/// Change a task run.
async fn update(State(app): State<App>, Path(id): Path<TaskRunId>, Json(body): Json<TaskRunUpdate>) -> Result<StatusCode, ApiError> {
    let mut tx = app.begin("task_runs.update").await?;
    if !store::update(&mut tx, id, app.now(), &body).await? {
        return Err(ApiError::not_found("Task run not found"));
    }
    tx.commit().await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Count task runs.
async fn count(State(app): State<App>, Json(body): Json<CountBody>) -> Result<Json<u64>, ApiError> {
    let (filters, ()) = body.into_filters();
    Ok(Json(store::count(&mut app.read("task_runs.count").await?, &filters).await?))
}

/// Task runs by interval and state.
async fn history(State(app): State<App>, Json(body): Json<HistoryBody>) -> Result<Json<Vec<HistoryInterval>>, ApiError> {
    body.answer(&app, Runs::Task).await.map(Json)
}

/// Read a task run.
async fn read(State(app): State<App>, Path(id): Path<TaskRunId>) -> Result<Json<TaskRunResponse>, ApiError> {
    let run = store::read(&mut app.read("task_runs.read").await?, id).await?.ok_or_else(|| ApiError::not_found("Task not found"))?;
    Ok(Json(run.at(app.now())))
}

/// List task runs.
async fn filter(State(app): State<App>, Json(body): Json<ListBody<TaskRunSort>>) -> Result<Json<Vec<TaskRunResponse>>, ApiError> {
    let (limit, offset) = body.window()?;
    let (filters, sort) = body.into_filters();
    let runs = store::list(&mut app.read("task_runs.filter").await?, &filters, sort, limit, offset).await?;
    let now = app.now();
    Ok(Json(runs.into_iter().map(|run| run.at(now)).collect()))
}

/// List a page of task runs.
async fn paginate(State(app): State<App>, Json(body): Json<ListBody<TaskRunSort>>) -> Result<Json<Page<TaskRunResponse>>, ApiError> {
    let (limit, page, offset) = body.paged()?;
    let (filters, sort) = body.into_filters();
    let mut tx = app.read("task_runs.paginate").await?;
    let runs = store::list(&mut tx, &filters, sort, limit, offset).await?;
    let count = store::count(&mut tx, &filters).await?;
    let now = app.now();
    Ok(Json(Page::new(runs.into_iter().map(|run| run.at(now)).collect(), count, limit, page)))
}

/// Delete a task run with its states and logs.
async fn delete(State(app): State<App>, Path(id): Path<TaskRunId>) -> Result<StatusCode, ApiError> {
    let mut tx = app.begin("task_runs.delete").await?;
    if store::delete(&mut tx, &[id]).await? == 0 {
        return Err(ApiError::not_found("Task not found"));
    }
    tx.commit().await?;
    run_logs::delete_soon(&app, vec![Of::TaskRun(id)]);
    Ok(StatusCode::NO_CONTENT)
}
