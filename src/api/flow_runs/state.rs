//! Set states of flow runs.

use axum::extract::State;
use axum::http::StatusCode;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::api::caller::Caller;
use crate::api::error::{ApiError, chain};
use crate::api::extract::{Embedded, Json, Path};
use crate::api::filters::{bulk_items, bulk_limit};
use crate::api::openapi::{Routes, post};
use crate::app::App;
use crate::clock::Timestamp;
use crate::id::FlowRunId;
use crate::model::filter::Filters;
use crate::model::filter::flow_run::FlowRunFilter;
use crate::model::flow_run::FlowRunSort;
use crate::model::state::{self, OrchestrationResult, SetStateStatus, StateCreate, StateResponseDetails};
use crate::orchestration::{Context, FlowPolicy, OrchestrationError, set_flow_run_state};
use crate::store::flow_runs as store;

/// The routes of this file.
pub fn router() -> Routes {
    Routes::tagged("Flow Runs").route("/flow_runs/bulk_set_state", post(bulk_set_state)).route("/flow_runs/{id}/set_state", post(set_state))
}

/// 201 where the answer's state was made by this request.
pub fn status(result: &OrchestrationResult, now: Timestamp) -> StatusCode {
    if result.state.as_ref().is_some_and(|state| state.timestamp >= now) { StatusCode::CREATED } else { StatusCode::OK }
}

#[derive(Debug, Deserialize, JsonSchema)]
struct SetStateBody {
    state: StateCreate,
    #[serde(default)]
    force: bool,
}

/// Propose a state for a flow run.
async fn set_state(
    State(app): State<App>,
    Path(id): Path<FlowRunId>,
    caller: Caller,
    Embedded(body): Embedded<SetStateBody>,
) -> Result<(StatusCode, Json<OrchestrationResult>), ApiError> {
    let now = app.now();
    let context = caller.context(&app, now);
    let mut tx = app.begin("flow_runs.set_state").await?;
    let result = set_flow_run_state(&mut tx, &context, id, body.state.at(now), FlowPolicy::of_request(body.force)).await?;
    tx.commit().await?;
    Ok((status(&result, now), Json(result)))
}

#[derive(Debug, Deserialize, JsonSchema)]
struct BulkSetStateBody {
    #[serde(default)]
    flow_runs: Option<FlowRunFilter>,
    state: StateCreate,
    #[serde(default)]
    force: bool,
    #[serde(default)]
    #[serde(deserialize_with = "bulk_items")]
    limit: Option<i64>,
}

#[derive(Debug, Serialize, JsonSchema)]
#[schemars(rename = "FlowRunOrchestrationResult")]
struct BulkResult {
    flow_run_id: FlowRunId,
    status: SetStateStatus,
    state: Option<state::State>,
    details: StateResponseDetails,
}

#[derive(Debug, Serialize, JsonSchema)]
#[schemars(rename = "FlowRunBulkSetStateResponse")]
struct BulkResults {
    results: Vec<BulkResult>,
}

/// Propose a state for each flow run of a filter, each in a transaction of its own: what goes wrong with one is its
/// result, and the others go on.
async fn bulk_set_state(
    State(app): State<App>,
    caller: Caller,
    Embedded(body): Embedded<BulkSetStateBody>,
) -> Result<Json<BulkResults>, ApiError> {
    let limit = bulk_limit(body.limit);
    let filters = Filters { flow_runs: body.flow_runs, ..Filters::default() };
    let runs = store::list(&mut app.read("flow_runs.bulk_set_state").await?, &filters, FlowRunSort::default(), limit, 0).await?;
    let policy = FlowPolicy::of_request(body.force);
    let context = caller.context(&app, app.now());
    let mut results = Vec::with_capacity(runs.len());
    for run in runs {
        let now = app.now();
        let context = Context { now, ..context.clone() };
        let result = set_one(&app, &context, run.id, body.state.clone().at(now), policy).await;
        let (status, state, details) = match result {
            Ok(result) => (result.status, result.state, result.details),
            Err(error) => (SetStateStatus::Abort, None, StateResponseDetails::Abort { reason: Some(chain(&error)) }),
        };
        results.push(BulkResult { flow_run_id: run.id, status, state, details });
    }
    Ok(Json(BulkResults { results }))
}

async fn set_one(
    app: &App,
    context: &Context<'_>,
    id: FlowRunId,
    state: state::State,
    policy: FlowPolicy,
) -> Result<OrchestrationResult, OrchestrationError> {
    let mut tx = app.begin("flow_runs.bulk_set_state").await?;
    let result = set_flow_run_state(&mut tx, context, id, state, policy).await?;
    tx.commit().await?;
    Ok(result)
}
