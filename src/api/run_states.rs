//! `/flow_run_states` and `/task_run_states`: the states that runs have been in.

use axum::extract::State;
use schemars::JsonSchema;
use serde::Deserialize;

use crate::api::error::ApiError;
use crate::api::extract::{Json, Path, Query};
use crate::api::openapi::{Routes, get};
use crate::app::App;
use crate::id::{FlowRunId, StateId, TaskRunId};
use crate::model::state;
use crate::store::states::{self as store, Of, Owner};

/// The routes of this file.
pub fn router() -> Routes {
    Routes::tagged("Flow Run States")
        .route("/flow_run_states/", get(list_of_flow_run))
        .route("/flow_run_states/{id}", get(read_of_flow_run))
        .merge(
            Routes::tagged("Task Run States")
                .route("/task_run_states/", get(list_of_task_run))
                .route("/task_run_states/{id}", get(read_of_task_run)),
        )
}

async fn read(app: &App, of: Of, id: StateId, missing: &str) -> Result<Json<state::State>, ApiError> {
    store::read(&mut app.read("states.read").await?, of, id).await?.map(Json).ok_or_else(|| ApiError::not_found(missing))
}

/// Read a state of a flow run.
async fn read_of_flow_run(State(app): State<App>, Path(id): Path<StateId>) -> Result<Json<state::State>, ApiError> {
    read(&app, Of::FlowRun, id, "Flow run state not found").await
}

/// Read a state of a task run.
async fn read_of_task_run(State(app): State<App>, Path(id): Path<StateId>) -> Result<Json<state::State>, ApiError> {
    // The reference says so.
    read(&app, Of::TaskRun, id, "Flow run state not found").await
}

#[derive(Debug, Deserialize, JsonSchema)]
struct OfFlowRun {
    flow_run_id: FlowRunId,
}

/// List the states of a flow run, oldest first.
async fn list_of_flow_run(State(app): State<App>, Query(query): Query<OfFlowRun>) -> Result<Json<Vec<state::State>>, ApiError> {
    let owner = Owner::FlowRun(query.flow_run_id);
    Ok(Json(store::list(&mut app.read("states.list").await?, owner).await?))
}

#[derive(Debug, Deserialize, JsonSchema)]
struct OfTaskRun {
    task_run_id: TaskRunId,
}

/// List the states of a task run, oldest first.
async fn list_of_task_run(State(app): State<App>, Query(query): Query<OfTaskRun>) -> Result<Json<Vec<state::State>>, ApiError> {
    let owner = Owner::TaskRun { id: query.task_run_id, flow_run_id: None };
    Ok(Json(store::list(&mut app.read("states.list").await?, owner).await?))
}
