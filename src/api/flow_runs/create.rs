//! Create flow runs.

use axum::extract::State;
use axum::http::StatusCode;
use sea_query::{Expr, ExprTrait, Query};

use super::missing;
use crate::api::caller::Caller;
use crate::api::error::ApiError;
use crate::api::extract::Json;
use crate::api::openapi::{Routes, post};
use crate::api::provenance::Creator;
use crate::app::App;
use crate::id::WorkQueueId;
use crate::model::flow_run::{FlowRun, FlowRunCreate, FlowRunResponse};
use crate::model::state::{self, StateType};
use crate::orchestration::{Context, FlowPolicy, set_flow_run_state};
use crate::store::schema as t;
use crate::store::{StoreError, Tx, flow_runs as store, run_labels};

/// The route of this file.
pub fn router() -> Routes {
    Routes::tagged("Flow Runs").route("/flow_runs/", post(create))
}

/// Create a flow run, pending unless a state is given. One of the same flow and idempotency key is given back as it is.
async fn create(
    State(app): State<App>,
    caller: Caller,
    Creator(created_by): Creator,
    Json(body): Json<FlowRunCreate>,
) -> Result<(StatusCode, Json<FlowRunResponse>), ApiError> {
    let now = app.now();
    let context = caller.context(&app, now);
    let mut tx = app.begin("flow_runs.create").await?;
    let work_queue_id = match &body.work_pool_name {
        Some(pool) if !pool.is_empty() => Some(queue_of_pool(&mut tx, pool, body.work_queue_name.as_deref()).await?),
        _ => None,
    };
    let run = FlowRun {
        name: body.name,
        flow_version: body.flow_version,
        parameters: body.parameters,
        context: body.context,
        parent_task_run_id: body.parent_task_run_id,
        infrastructure_document_id: body.infrastructure_document_id,
        empirical_policy: body.empirical_policy,
        tags: body.tags,
        labels: Some(body.labels),
        work_queue_id,
        work_queue_name: body.work_queue_name,
        // The reference keeps null only where the run has an idempotency key.
        job_variables: if body.idempotency_key.is_some() { body.job_variables } else { Some(body.job_variables.unwrap_or_default()) },
        deployment_id: body.deployment_id,
        idempotency_key: body.idempotency_key,
        created_by,
        ..FlowRun::new(body.flow_id, now)
    };
    let state = body.state.map_or_else(|| state::State::new(StateType::Pending, now), |state| state.at(now));
    let (created, run) = insert(&mut tx, &context, run, state).await?;
    tx.commit().await?;
    Ok((if created { StatusCode::CREATED } else { StatusCode::OK }, Json(run.at(app.now()))))
}

/// Inserts a run with the labels that it inherits, and sets its first state; gives the run as it is then. Where its flow
/// has seen its idempotency key, that run is given back (`false`), and nothing is changed.
pub async fn insert(tx: &mut Tx, context: &Context<'_>, mut run: FlowRun, state: state::State) -> Result<(bool, FlowRun), ApiError> {
    let given = run.labels.take().unwrap_or_default();
    run.labels = Some(run_labels::of_flow_run(tx, run.flow_id, run.deployment_id, given).await?);
    if !store::insert(tx, &run).await? {
        let key = run.idempotency_key.as_deref().unwrap_or_default();
        let existing = store::read_by_idempotency_key(tx, run.flow_id, key).await?;
        return existing.map(|run| (false, run)).ok_or_else(missing);
    }
    set_flow_run_state(tx, context, run.id, state, FlowPolicy::Minimal).await?;
    Ok((true, store::read(tx, run.id).await?.ok_or_else(missing)?))
}

/// The queue of this name in a pool, or the pool's default queue.
async fn queue_of_pool(tx: &mut Tx, pool: &str, queue: Option<&str>) -> Result<WorkQueueId, ApiError> {
    let no_pool = || ApiError::not_found(format!("Work pool \"{pool}\" not found."));
    let mut select = Query::select();
    select
        .columns([t::WorkPool::Id, t::WorkPool::DefaultQueueId])
        .from(t::WorkPool::Table)
        .and_where(Expr::col(t::WorkPool::Name).eq(pool));
    let found = tx.fetch_optional(&select).await?;
    let no_queue = |queue: &str| ApiError::not_found(format!("Work pool queue '{pool}/{queue}' not found."));
    let (found, queue) = match (found, queue.filter(|queue| !queue.is_empty())) {
        (Some(found), queue) => (found, queue),
        (None, Some(queue)) => return Err(no_queue(queue)),
        (None, None) => return Err(no_pool()),
    };
    let Some(queue) = queue else {
        return found.get::<Option<WorkQueueId>>("default_queue_id")?.ok_or_else(no_pool);
    };
    let mut select = Query::select();
    select
        .column(t::WorkQueue::Id)
        .from(t::WorkQueue::Table)
        .and_where(Expr::col(t::WorkQueue::WorkPoolId).eq(found.get::<crate::id::WorkPoolId>("id")?))
        .and_where(Expr::col(t::WorkQueue::Name).eq(queue));
    let found: Option<Result<WorkQueueId, StoreError>> = tx.fetch_optional(&select).await?.map(|row| row.get("id"));
    found.transpose()?.ok_or_else(|| no_queue(queue))
}
