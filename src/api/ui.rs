//! `/ui/*`: what only the UI asks for.

use std::collections::HashMap;
use std::hash::Hash;

use axum::extract::State;
use axum::http::StatusCode;
use chrono::{DurationRound, TimeDelta};
use indexmap::IndexMap;
use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::json;

use crate::api::error::ApiError;
use crate::api::extract::{Embedded, Json, Path};
use crate::api::filters::{of_flows, of_task_runs};
use crate::api::openapi::{Routes, get, post};
use crate::api::page;
use crate::app::App;
use crate::clock::Timestamp;
use crate::id::{FlowId, FlowRunId, TaskRunId};
use crate::limits;
use crate::model::filter::Filters;
use crate::model::filter::deployment::DeploymentFilter;
use crate::model::filter::flow::FlowFilter;
use crate::model::filter::flow_run::FlowRunFilter;
use crate::model::filter::part::AnyOf;
use crate::model::filter::task_run::{TaskRunFilter, TaskRunFilterState};
use crate::model::filter::work_pool::WorkPoolFilter;
use crate::model::filter::work_queue::WorkQueueFilter;
use crate::model::flow_run::FlowRunSort;
use crate::model::run::CountByState;
use crate::model::state::StateType;
use crate::model::task_run::UiTaskRun;
use crate::model::ui::{NextFlowRun, SimpleFlowRun, TaskRunCount};
use crate::store::{task_runs, ui as store};

/// Bars of a chart at most and by default.
const BARS: i64 = 1000;
/// Pieces of the dashboard's chart of task runs.
const PIECES: usize = 20;

/// The routes of this file.
pub fn router() -> Routes {
    Routes::tagged("UI")
        .route("/ui/flow_runs/history", post(flow_run_history))
        .route("/ui/flow_runs/count-task-runs", post(count_task_runs))
        .route("/ui/flows/count-deployments", post(count_deployments))
        .route("/ui/flows/next-runs", post(next_runs))
        .route("/ui/task_runs/dashboard/counts", post(dashboard_counts))
        .route("/ui/task_runs/count", post(count_by_state))
        .route("/ui/task_runs/{id}", get(read_task_run))
}

/// Flow runs as bars of a chart.
async fn flow_run_history(
    State(app): State<App>,
    Embedded(body): Embedded<of_flows::ListBody<Option<FlowRunSort>>>,
) -> Result<Json<Vec<SimpleFlowRun>>, ApiError> {
    let given = body.limit.unwrap_or(BARS);
    if given > BARS {
        let message = format!("Input should be less than or equal to {BARS}");
        return Err(ApiError::invalid("less_than_equal", &["body", "limit"], message, json!(given)));
    }
    let (limit, offset) = (u64::try_from(given).unwrap_or(0), page::offset(body.offset)?);
    let (filters, sort) = body.into_filters();
    let sort = sort.unwrap_or(FlowRunSort::ExpectedStartTimeDesc);
    let runs = store::flow_run_moments(&mut app.read("ui.flow_runs.history").await?, &filters, sort, limit, offset).await?;
    let now = app.now();
    let bars = runs.into_iter().filter_map(|(id, moments)| {
        Some(SimpleFlowRun {
            id,
            state_type: moments.state_type?,
            timestamp: moments.start_time.or(moments.expected_start_time)?,
            duration: moments.estimated_run_time(now),
            lateness: moments.estimated_start_time_delta(now),
        })
    });
    Ok(Json(bars.collect()))
}

fn check_items<T>(ids: &[T], name: &str) -> Result<(), ApiError> {
    if ids.len() as u64 > limits::PAGE_ITEMS {
        let message = format!("List should have at most {} items after validation, not {}", limits::PAGE_ITEMS, ids.len());
        return Err(ApiError::invalid("too_long", &["body", name], message, json!(ids.len())));
    }
    Ok(())
}

/// One entry for each id asked for, in that order.
fn for_each<K: Copy + Eq + Hash, V: Clone, R>(ids: &[K], found: &HashMap<K, V>, shape: impl Fn(Option<V>) -> R) -> IndexMap<K, R> {
    ids.iter().map(|id| (*id, shape(found.get(id).cloned()))).collect()
}

#[derive(Debug, Deserialize, JsonSchema)]
struct FlowRunIds {
    flow_run_ids: Vec<FlowRunId>,
}

/// Count the task runs of flow runs.
async fn count_task_runs(State(app): State<App>, Embedded(body): Embedded<FlowRunIds>) -> Result<Json<IndexMap<FlowRunId, i64>>, ApiError> {
    check_items(&body.flow_run_ids, "flow_run_ids")?;
    let counts = store::count_task_runs(&mut app.read("ui.flow_runs.count_task_runs").await?, &body.flow_run_ids).await?;
    Ok(Json(for_each(&body.flow_run_ids, &counts, Option::unwrap_or_default)))
}

#[derive(Debug, Deserialize, JsonSchema)]
struct FlowIds {
    flow_ids: Vec<FlowId>,
}

/// Count the deployments of flows.
async fn count_deployments(State(app): State<App>, Embedded(body): Embedded<FlowIds>) -> Result<Json<IndexMap<FlowId, i64>>, ApiError> {
    check_items(&body.flow_ids, "flow_ids")?;
    let counts = store::count_deployments(&mut app.read("ui.flows.count_deployments").await?, &body.flow_ids).await?;
    Ok(Json(for_each(&body.flow_ids, &counts, Option::unwrap_or_default)))
}

/// The next run of each flow.
async fn next_runs(
    State(app): State<App>,
    Embedded(body): Embedded<FlowIds>,
) -> Result<Json<IndexMap<FlowId, Option<NextFlowRun>>>, ApiError> {
    check_items(&body.flow_ids, "flow_ids")?;
    let runs = store::next_runs(&mut app.read("ui.flows.next_runs").await?, &body.flow_ids).await?;
    Ok(Json(for_each(&body.flow_ids, &runs, |run| run)))
}

fn minute(at: Timestamp) -> Timestamp {
    at.duration_trunc(TimeDelta::minutes(1)).unwrap_or(at)
}

#[derive(Debug, Deserialize, JsonSchema)]
struct DashboardBody {
    task_runs: TaskRunFilter,
    #[serde(default)]
    flows: Option<FlowFilter>,
    #[serde(default)]
    flow_runs: Option<FlowRunFilter>,
    #[serde(default)]
    deployments: Option<DeploymentFilter>,
    #[serde(default)]
    work_pools: Option<WorkPoolFilter>,
    #[serde(default)]
    work_queues: Option<WorkQueueFilter>,
}

/// Ended task runs in pieces of the time asked for.
async fn dashboard_counts(State(app): State<App>, Embedded(body): Embedded<DashboardBody>) -> Result<Json<Vec<TaskRunCount>>, ApiError> {
    let DashboardBody { mut task_runs, flows, flow_runs, deployments, work_pools, work_queues } = body;
    let Some(after) = task_runs.start_time.as_ref().and_then(|time| time.after_) else {
        return Err(ApiError::detail(StatusCode::UNPROCESSABLE_ENTITY, "task_runs.start_time.after_ is required"));
    };
    let before = task_runs.start_time.as_ref().and_then(|time| time.before_).unwrap_or_else(|| app.now());
    task_runs.state = Some(TaskRunFilterState { kind: Some(AnyOf::of(StateType::TERMINAL.to_vec())), ..TaskRunFilterState::default() });
    let filters = Filters { task_runs: Some(task_runs), flows, flow_runs, deployments, work_pools, work_queues };
    let (start, end) = (minute(after), minute(before) + TimeDelta::minutes(1));
    // Rounded up, so that the last moment is in the last piece.
    let width_micros = ((end - start).num_microseconds().unwrap_or(0).max(0) as u64).div_ceil(PIECES as u64).max(1) as i64;
    let mut pieces = vec![TaskRunCount::default(); PIECES];
    for ended in store::count_ended(&mut app.read("ui.task_runs.dashboard").await?, &filters, start, width_micros).await? {
        if let Some(piece) = usize::try_from(ended.bucket).ok().and_then(|bucket| pieces.get_mut(bucket)) {
            *piece = TaskRunCount { completed: ended.completed, failed: ended.failed };
        }
    }
    Ok(Json(pieces))
}

/// Count task runs by the type of their state.
async fn count_by_state(State(app): State<App>, Embedded(body): Embedded<of_task_runs::CountBody>) -> Result<Json<CountByState>, ApiError> {
    let filters = body.into_filters();
    Ok(Json(task_runs::count_by_state(&mut app.read("ui.task_runs.count").await?, &filters).await?))
}

/// Read a task run and the name of its flow run.
async fn read_task_run(State(app): State<App>, Path(id): Path<TaskRunId>) -> Result<Json<UiTaskRun>, ApiError> {
    let found = task_runs::read_with_flow_run_name(&mut app.read("ui.task_runs.read").await?, id).await?;
    let (run, flow_run_name) = found.ok_or_else(|| ApiError::not_found("Task not found"))?;
    Ok(Json(UiTaskRun { run: run.at(app.now()), flow_run_name }))
}
