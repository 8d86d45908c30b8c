//! Read, change and delete flow runs.

use axum::extract::State;
use axum::http::StatusCode;
use axum::response::NoContent;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::missing;
use crate::api::error::ApiError;
use crate::api::extract::{Embedded, Json, Path};
use crate::api::filters::{bulk_items, bulk_limit};
use crate::api::job_variables;
use crate::api::openapi::{Routes, get, patch, post};
use crate::app::App;
use crate::config::planted;
use crate::id::FlowRunId;
use crate::model::Patch;
use crate::model::filter::Filters;
use crate::model::filter::flow_run::FlowRunFilter;
use crate::model::flow_run::{FlowRun, FlowRunResponse, FlowRunSort, FlowRunUpdate};
use crate::model::labels::{self, Labels, merge};
use crate::model::state::StateType;
use crate::orchestration::{Context, give_back_slot};
use crate::store::{StoreError, Tx, deployments, flow_runs as store, old};

/// The routes of this file.
pub fn router() -> Routes {
    Routes::tagged("Flow Runs")
        .route("/flow_runs/bulk_delete", post(bulk_delete))
        .route("/flow_runs/{id}", get(read).patch(update).delete(delete))
        .route("/flow_runs/{id}/labels", patch(update_labels))
}

/// Read a flow run.
async fn read(State(app): State<App>, Path(id): Path<FlowRunId>) -> Result<Json<FlowRunResponse>, ApiError> {
    let run = store::read(&mut app.read("flow_runs.read").await?, id).await?.ok_or_else(missing)?;
    let run = planted::stale(|| format!("flow_runs {id:?}"), run);
    Ok(Json(run.at(app.now())))
}

/// Change a flow run; its job variables only while it is scheduled.
async fn update(State(app): State<App>, Path(id): Path<FlowRunId>, Json(body): Json<FlowRunUpdate>) -> Result<NoContent, ApiError> {
    let mut tx = app.begin("flow_runs.update").await?;
    if let Patch::Value(variables) = &body.job_variables {
        let run = store::read(&mut tx, id).await?.ok_or_else(missing)?;
        let refused = |detail: &str| ApiError::detail(StatusCode::BAD_REQUEST, detail);
        match run.state.as_ref().map(|state| state.kind) {
            None => return Err(refused("Flow run state is required to update job variables but none exists")),
            Some(StateType::Scheduled) => {}
            Some(kind) => return Err(refused(&format!("Job variables for a flow run in state {kind} cannot be updated"))),
        }
        let deployment = match run.deployment_id {
            Some(id) => deployments::read(&mut tx, &deployments::Key::Id(id)).await?,
            None => None,
        };
        let deployment = deployment.ok_or_else(|| refused("A deployment for the flow run could not be found"))?;
        job_variables::check_flow_run(&app, &mut tx, &deployment, Some(variables), "updating").await?;
    }
    if !store::update(&mut tx, id, app.now(), &body).await? {
        return Err(missing());
    }
    tx.commit().await?;
    Ok(NoContent)
}

/// Delete a flow run with its task runs, states and logs.
async fn delete(State(app): State<App>, Path(id): Path<FlowRunId>) -> Result<NoContent, ApiError> {
    let mut tx = app.begin("flow_runs.delete").await?;
    delete_in(&app, &mut tx, id).await?;
    tx.commit().await?;
    Ok(NoContent)
}

/// Deletes a flow run in a transaction of the caller's; its log lines go soon after.
///
/// # Errors
/// 404 where there is none.
pub(crate) async fn delete_in(app: &App, tx: &mut Tx, id: FlowRunId) -> Result<(), ApiError> {
    let run = store::read_for_update(tx, id).await?.ok_or_else(missing)?;
    give_back_slots(app, tx, &[run]).await?;
    store::delete(tx, &[id]).await?;
    Ok(old::remember_runs(tx, &[id], &[], app.now()).await?)
}

/// Gives back the slots that runs hold of their deployments' concurrency limits.
async fn give_back_slots(app: &App, tx: &mut Tx, runs: &[FlowRun]) -> Result<(), StoreError> {
    let context = Context::server(app.now(), &app.settings().orchestration);
    for run in runs.iter().filter(|run| run.deployment_id.is_some()) {
        let Some(state) = &run.state else { continue };
        if matches!(state.kind, StateType::Pending | StateType::Running | StateType::Cancelling) {
            give_back_slot(tx, &context, run.id, run.deployment_id, state.state_details.deployment_concurrency_lease_id).await?;
        }
    }
    Ok(())
}

#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(default)]
struct BulkDeleteBody {
    flow_runs: Option<FlowRunFilter>,
    #[serde(deserialize_with = "bulk_items")]
    limit: Option<i64>,
}

#[derive(Debug, Serialize, JsonSchema)]
#[schemars(rename = "FlowRunBulkDeleteResponse")]
struct BulkDeleted {
    deleted: Vec<FlowRunId>,
}

/// Delete flow runs that match.
async fn bulk_delete(State(app): State<App>, Embedded(body): Embedded<BulkDeleteBody>) -> Result<Json<BulkDeleted>, ApiError> {
    let limit = bulk_limit(body.limit);
    let filters = Filters { flow_runs: body.flow_runs, ..Filters::default() };
    let mut tx = app.begin("flow_runs.bulk_delete").await?;
    let runs = store::list(&mut tx, &filters, FlowRunSort::default(), limit, 0).await?;
    let deleted: Vec<FlowRunId> = runs.iter().map(|run| run.id).collect();
    give_back_slots(&app, &mut tx, &runs).await?;
    store::delete(&mut tx, &deleted).await?;
    old::remember_runs(&mut tx, &deleted, &[], app.now()).await?;
    tx.commit().await?;
    Ok(Json(BulkDeleted { deleted }))
}

/// Add labels to a flow run, or change them.
async fn update_labels(State(app): State<App>, Path(id): Path<FlowRunId>, Json(body): Json<LabelsBody>) -> Result<NoContent, ApiError> {
    let mut tx = app.begin("flow_runs.update_labels").await?;
    // The row is locked, so that two changes at once both last.
    let run =
        store::read_for_update(&mut tx, id).await?.ok_or_else(|| ApiError::ObjectNotFound(format!("Flow run with id {id} not found")))?;
    let merged = merge([run.labels.unwrap_or_default(), body.0]);
    store::update_labels(&mut tx, id, app.now(), &merged).await?;
    tx.commit().await?;
    Ok(NoContent)
}

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(transparent)]
struct LabelsBody(#[schemars(with = "labels::Form")] Labels);
