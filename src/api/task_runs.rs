//! `/task_runs`. States are set in `api/task_runs/state.rs`.

pub mod state;

use axum::extract::State;
use axum::http::StatusCode;
use axum::response::NoContent;

use crate::api::error::ApiError;
use crate::api::extract::{Embedded, Json, Path};
use crate::api::filters::of_task_runs::{CountBody, ListBody, PageBody};
use crate::api::history::TaskRunHistoryBody;
use crate::api::openapi::{Routes, get, post};
use crate::api::page::Page;
use crate::api::task_queue;
use crate::app::App;
use crate::id::TaskRunId;
use crate::model::run::HistoryInterval;
use crate::model::state::{self as states, StateCreate};
use crate::model::task_run::{PagedTaskRun, TaskRun, TaskRunCreate, TaskRunResponse, TaskRunSort, TaskRunUpdate};
use crate::orchestration::{Context, TaskPolicy, set_task_run_state};
use crate::store::task_deliveries::Rank;
use crate::store::{old, run_labels, task_runs as store};

/// The routes of this file.
pub fn router() -> Routes {
    state::router()
        .route("/task_runs/", post(create))
        .route("/task_runs/count", post(count))
        .route("/task_runs/history", post(history))
        .route("/task_runs/filter", post(filter))
        .route("/task_runs/paginate", post(paginate))
        .route("/task_runs/{id}", get(read).patch(update).delete(delete))
}

/// Create a task run, pending unless a state is given. One of the same flow run, task key and dynamic key is given back
/// as it is.
async fn create(State(app): State<App>, Json(body): Json<TaskRunCreate>) -> Result<(StatusCode, Json<TaskRunResponse>), ApiError> {
    if body.state.as_ref().is_some_and(StateCreate::is_for_task_worker) {
        task_queue::room(&app, &body.task_key, Rank::New).await?;
    }
    let now = app.now();
    let mut tx = app.begin("task_runs.create").await?;
    let given = TaskRun::new(body.flow_run_id, body.task_key, body.dynamic_key, now);
    let run = TaskRun {
        id: body.id.unwrap_or(given.id),
        name: body.name,
        cache_key: body.cache_key,
        cache_expiration: body.cache_expiration,
        task_version: body.task_version,
        empirical_policy: body.empirical_policy,
        tags: body.tags,
        labels: Some(run_labels::of_task_run(&mut tx, body.flow_run_id, body.labels).await?),
        task_inputs: body.task_inputs,
        ..given
    };
    // The unique index does not see task runs without a flow run.
    let existing = match run.flow_run_id {
        None => store::read_by_keys(&mut tx, None, &run.task_key, &run.dynamic_key).await?,
        Some(_) if store::insert(&mut tx, &run).await? => None,
        id => store::read_by_keys(&mut tx, id, &run.task_key, &run.dynamic_key).await?,
    };
    if let Some(existing) = existing {
        return Ok((StatusCode::OK, Json(existing.at(now))));
    }
    if run.flow_run_id.is_none() {
        store::insert(&mut tx, &run).await?;
    }
    let state = body.state.map_or_else(|| states::State::new(states::StateType::Pending, now), |state| state.at(now));
    let context = Context::server(now, &app.settings().orchestration);
    set_task_run_state(&mut tx, &context, run.id, state, TaskPolicy::Minimal).await?;
    let created = store::read(&mut tx, run.id).await?.ok_or_else(|| ApiError::not_found("Task not found"))?;
    tx.commit().await?;
    Ok((StatusCode::CREATED, Json(created.at(app.now()))))
}

/// Change a task run.
async fn update(State(app): State<App>, Path(id): Path<TaskRunId>, Json(body): Json<TaskRunUpdate>) -> Result<NoContent, ApiError> {
    let mut tx = app.begin("task_runs.update").await?;
    if !store::update(&mut tx, id, app.now(), &body).await? {
        return Err(ApiError::not_found("Task run not found"));
    }
    tx.commit().await?;
    Ok(NoContent)
}

/// Count task runs.
async fn count(State(app): State<App>, Embedded(body): Embedded<CountBody>) -> Result<Json<u64>, ApiError> {
    let filters = body.into_filters();
    Ok(Json(store::count(&mut app.read("task_runs.count").await?, &filters).await?))
}

/// Task runs by interval and state.
async fn history(State(app): State<App>, Embedded(body): Embedded<TaskRunHistoryBody>) -> Result<Json<Vec<HistoryInterval>>, ApiError> {
    body.answer(&app).await.map(Json)
}

/// Read a task run.
async fn read(State(app): State<App>, Path(id): Path<TaskRunId>) -> Result<Json<TaskRunResponse>, ApiError> {
    let run = store::read(&mut app.read("task_runs.read").await?, id).await?.ok_or_else(|| ApiError::not_found("Task not found"))?;
    Ok(Json(run.at(app.now())))
}

/// List task runs.
async fn filter(State(app): State<App>, Embedded(body): Embedded<ListBody<TaskRunSort>>) -> Result<Json<Vec<TaskRunResponse>>, ApiError> {
    let (limit, offset) = body.window()?;
    let (filters, sort) = body.into_filters();
    let runs = store::list(&mut app.read("task_runs.filter").await?, &filters, sort, limit, offset).await?;
    let now = app.now();
    Ok(Json(runs.into_iter().map(|run| run.at(now)).collect()))
}

/// List a page of task runs.
async fn paginate(State(app): State<App>, Embedded(body): Embedded<PageBody<TaskRunSort>>) -> Result<Json<Page<PagedTaskRun>>, ApiError> {
    let (limit, page, offset) = body.paged()?;
    let (filters, sort) = body.into_filters();
    let mut tx = app.read("task_runs.paginate").await?;
    let runs = store::list(&mut tx, &filters, sort, limit, offset).await?;
    let count = store::count(&mut tx, &filters).await?;
    let now = app.now();
    Ok(Json(Page::new(runs.into_iter().map(|run| run.at(now).paged()).collect(), count, limit, page)))
}

/// Delete a task run with its states and logs.
async fn delete(State(app): State<App>, Path(id): Path<TaskRunId>) -> Result<NoContent, ApiError> {
    let mut tx = app.begin("task_runs.delete").await?;
    if store::delete(&mut tx, &[id]).await? == 0 {
        return Err(ApiError::not_found("Task not found"));
    }
    old::remember_runs(&mut tx, &[], &[id], app.now()).await?;
    tx.commit().await?;
    Ok(NoContent)
}
