//! The graph of a flow run, in both forms.

use axum::extract::State;
use axum::http::StatusCode;
use schemars::JsonSchema;
use serde::Deserialize;

use crate::api::error::ApiError;
use crate::api::extract::{Json, Path, Query};
use crate::api::openapi::{Routes, get};
use crate::app::App;
use crate::clock::Timestamp;
use crate::id::FlowRunId;
use crate::model::filter::Filters;
use crate::model::filter::flow_run::FlowRunFilter;
use crate::model::graph::{Dependencies, Graph};
use crate::model::json;
use crate::model::task_run::TaskRunSort;
use crate::store::graph::{self as store, Bounds, Outcome};
use crate::store::{flow_runs, task_runs};

/// The routes of this file.
pub fn router() -> Routes {
    Routes::tagged("Flow Runs").route("/flow_runs/{id}/graph", get(dependencies)).route("/flow_runs/{id}/graph-v2", get(graph))
}

/// The task runs of a flow run and what each waits for.
async fn dependencies(State(app): State<App>, Path(id): Path<FlowRunId>) -> Result<Json<Vec<Dependencies>>, ApiError> {
    let mut tx = app.read("flow_runs.graph").await?;
    if flow_runs::labels(&mut tx, id).await?.is_none() {
        return Err(ApiError::ObjectNotFound(format!("Flow run with id {id} not found")));
    }
    let filters = Filters { flow_runs: Some(FlowRunFilter::with_ids(vec![id])), ..Filters::default() };
    let limit = app.settings().orchestration.graph_max_nodes as u64;
    let runs = task_runs::list(&mut tx, &filters, TaskRunSort::default(), limit, 0).await?;
    let now = app.now();
    Ok(Json(runs.into_iter().map(|run| Dependencies::of(run, now)).collect()))
}

#[derive(Debug, Deserialize, JsonSchema)]
struct GraphQuery {
    /// Leaves out nodes that ended before.
    #[serde(default, with = "json::optional_timestamp")]
    since: Option<Timestamp>,
}

/// Task runs and subflow runs of a flow run, with their edges, artifacts and states.
async fn graph(State(app): State<App>, Path(id): Path<FlowRunId>, Query(query): Query<GraphQuery>) -> Result<Json<Graph>, ApiError> {
    let settings = &app.settings().orchestration;
    let bounds = Bounds { nodes: settings.graph_max_nodes, artifacts: settings.graph_max_artifacts };
    match store::read(&mut app.read("flow_runs.graph").await?, id, query.since, bounds).await? {
        Outcome::Found(graph) => Ok(Json(graph)),
        Outcome::NoSuchRun => Err(ApiError::ObjectNotFound(format!("Flow run {id} not found"))),
        Outcome::TooLarge => {
            Err(ApiError::detail(StatusCode::BAD_REQUEST, format!("The graph of flow run {id} has more than {} nodes.", bounds.nodes)))
        }
    }
}
