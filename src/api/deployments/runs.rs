//! Runs of deployments: made one by one or in bulk, and handed out to runners.

use std::collections::HashMap;
use std::str::FromStr;

use axum::extract::State;
use axum::http::{HeaderMap, StatusCode};
use base64::Engine as _;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use super::{missing, store};
use crate::api::error::ApiError;
use crate::api::extract::{Embedded, Json, Path};
use crate::api::openapi::{Routes, post};
use crate::api::work_pools::{poll, queues};
use crate::api::{job_variables, page};
use crate::app::App;
use crate::clock::Timestamp;
use crate::id::{DeploymentId, WorkQueueId};
use crate::model::deployment::{Deployment, DeploymentFlowRunCreate, FlowRunCreateResult};
use crate::model::filter::variable::VariableFilter;
use crate::model::flow_run::{CreatedBy, FlowRun, FlowRunResponse};
use crate::model::json as json_values;
use crate::model::labels::merge;
use crate::model::state::{State as RunState, StateType};
use crate::model::variable::VariableSort;
use crate::orchestration::{Context, FlowPolicy, set_flow_run_state};
use crate::parameters::hydrate::{HydrationError, hydrate, needs_hydration};
use crate::parameters::{Invalid, Options, validate};
use crate::store::deployments::Key;
use crate::store::{StoreError, Tx, flow_runs, scheduled_runs, variables};

/// The routes of this file.
pub fn router() -> Routes {
    Routes::tagged("Deployments")
        .route("/deployments/get_scheduled_flow_runs", post(get_scheduled_flow_runs))
        .route("/deployments/{id}/create_flow_run", post(create))
        .route("/deployments/{id}/create_flow_run/bulk", post(create_many))
}

/// Runs of one bulk creation at most, as the reference.
const BULK_RUNS: usize = 100;

/// Variables at hand for parameters at most.
const VARIABLES: u64 = 10_000;

/// The reference's words for a schema that leads back to itself.
pub(super) fn circular() -> ApiError {
    ApiError::detail(StatusCode::UNPROCESSABLE_ENTITY, Invalid::Circular.to_string())
}

/// Fills in parameters; the variables are read only where some parameter needs to be.
pub(super) struct Hydrator(HashMap<String, Value>);

impl Hydrator {
    /// Reads what `parameters` may need.
    pub(super) async fn load<'a>(tx: &mut Tx, parameters: impl IntoIterator<Item = &'a Map<String, Value>>) -> Result<Self, StoreError> {
        if !parameters.into_iter().any(needs_hydration) {
            return Ok(Self(HashMap::new()));
        }
        let all = variables::list(tx, &VariableFilter::default(), VariableSort::default(), VARIABLES, 0).await?;
        Ok(Self(all.into_iter().map(|variable| (variable.name, variable.value)).collect()))
    }

    /// Fills in.
    pub(super) fn hydrate(&self, parameters: &Map<String, Value>) -> Result<Map<String, Value>, HydrationError> {
        if needs_hydration(parameters) { hydrate(parameters, &self.0) } else { Ok(parameters.clone()) }
    }
}

/// Who makes the run, where it is an automation.
fn created_by(headers: &HeaderMap) -> Option<CreatedBy> {
    let text = |name: &str| headers.get(name).and_then(|value| value.to_str().ok());
    let id = uuid::Uuid::from_str(text("prefect-automation-id")?).ok()?;
    let name = base64::engine::general_purpose::STANDARD.decode(text("prefect-automation-name")?).ok()?;
    let name = String::from_utf8(name).ok().filter(|name| !name.is_empty())?;
    Some(CreatedBy { id: Some(id), kind: Some("AUTOMATION".into()), display_value: Some(name) })
}

#[derive(Debug, Deserialize, JsonSchema)]
struct PollBody {
    deployment_ids: Vec<DeploymentId>,
    #[serde(default, with = "json_values::optional_timestamp")]
    scheduled_before: Option<Timestamp>,
    #[serde(default)]
    limit: Option<i64>,
}

/// Get the scheduled runs of deployments, for a runner that serves them.
async fn get_scheduled_flow_runs(
    State(app): State<App>,
    Embedded(body): Embedded<PollBody>,
) -> Result<Json<Vec<FlowRunResponse>>, ApiError> {
    let limit = page::limit(body.limit)?;
    let now = app.now();
    let mut tx = app.read("deployments.get_scheduled_flow_runs").await?;
    let runs = scheduled_runs::of_deployments(&mut tx, &body.deployment_ids, body.scheduled_before, limit).await?;
    drop(tx);
    poll::note(&app, &[], &body.deployment_ids).await;
    Ok(Json(runs.into_iter().map(|run| run.at(now)).collect()))
}

/// Why a run is not made. In bulk that concerns only this run.
enum Refusal {
    Hydration(HydrationError),
    NoSchema,
    Parameters(Invalid),
    NoPool(String),
    /// Worded already.
    Other(ApiError),
}

impl From<StoreError> for Refusal {
    fn from(error: StoreError) -> Self {
        Self::Other(error.into())
    }
}

impl Refusal {
    fn alone(self, deployment: DeploymentId) -> ApiError {
        match self {
            Self::Hydration(error) => ApiError::detail(StatusCode::BAD_REQUEST, format!("Error hydrating flow run parameters: {error}")),
            Self::NoSchema => ApiError::conflict(
                "Error updating deployment: Cannot update parameters because parameter schema enforcement is enabled and the deployment \
                 does not have a valid parameter schema.",
            ),
            Self::Parameters(Invalid::Circular) => circular(),
            Self::Parameters(error) => ApiError::conflict(format!("Error creating flow run: {error}")),
            Self::NoPool(queue) => ApiError::detail(
                StatusCode::BAD_REQUEST,
                format!(
                    "Cannot create flow run in work queue {queue} because deployment {deployment} is not associated with a work pool. \
                     Please remove work_pool_name and try again."
                ),
            ),
            Self::Other(error) => error,
        }
    }

    /// In the words for one of many; an error of the store concerns them all.
    fn among_many(self) -> Result<String, ApiError> {
        Ok(match self {
            Self::Hydration(error) => error.to_string(),
            Self::NoSchema => "Parameter schema enforcement is enabled but deployment has no valid schema.".into(),
            Self::Parameters(Invalid::Circular) => "Invalid schema: circular references detected.".into(),
            Self::Parameters(error) => format!("Parameter validation failed: {error}"),
            Self::NoPool(queue) => {
                format!("Cannot create flow run in work queue {queue} because deployment is not associated with a work pool.")
            }
            Self::Other(ApiError::Detail { detail: Value::String(text), .. }) => text,
            Self::Other(error) => return Err(error),
        })
    }
}

/// Makes a run of a deployment, unless its flow has one with its idempotency key; true where it was made.
async fn make(
    app: &App,
    tx: &mut Tx,
    context: &Context<'_>,
    deployment: &Deployment,
    hydrator: &Hydrator,
    given: DeploymentFlowRunCreate,
    created_by: Option<CreatedBy>,
) -> Result<(FlowRun, bool), Refusal> {
    let now = context.now;
    let mut parameters = deployment.parameters.clone();
    parameters.extend(given.parameters);
    let parameters = hydrator.hydrate(&parameters).map_err(Refusal::Hydration)?;
    if given.enforce_parameter_schema.unwrap_or(deployment.enforce_parameter_schema) {
        let schema = deployment.parameter_openapi_schema.as_ref().filter(|schema| schema.is_object()).ok_or(Refusal::NoSchema)?;
        validate(&Value::Object(parameters.clone()), schema, Options::default()).map_err(Refusal::Parameters)?;
    }
    job_variables::check_flow_run(app, tx, deployment, given.job_variables.as_ref(), "creating").await.map_err(Refusal::Other)?;
    let (queue_id, queue_name): (Option<WorkQueueId>, Option<String>) = match given.work_queue_name.filter(|name| !name.is_empty()) {
        None => (deployment.work_queue_id, deployment.work_queue_name.clone()),
        Some(name) => {
            let Some(queue) = &deployment.queue else { return Err(Refusal::NoPool(name)) };
            let queue = queues::ensure(tx, &queue.work_pool_name, &name, now).await.map_err(Refusal::Other)?;
            (Some(queue.id), Some(name))
        }
    };
    // Each once, those that the deployment names twice too.
    let mut tags = Vec::new();
    for tag in deployment.tags.iter().cloned().chain(given.tags) {
        if !tags.contains(&tag) {
            tags.push(tag);
        }
    }
    let system = Map::from_iter([
        ("prefect.flow.id".to_owned(), json!(deployment.flow_id)),
        ("prefect.deployment.id".to_owned(), json!(deployment.id)),
    ]);
    let idempotency_key = given.idempotency_key.filter(|key| !key.is_empty());
    let run = FlowRun {
        name: given.name,
        deployment_id: Some(deployment.id),
        deployment_version: deployment.version.clone(),
        work_queue_id: queue_id,
        work_queue_name: queue_name,
        parameters,
        context: given.context,
        empirical_policy: given.empirical_policy,
        tags,
        labels: Some(merge([deployment.labels.clone().unwrap_or_default(), system, given.labels])),
        parent_task_run_id: given.parent_task_run_id,
        infrastructure_document_id: given.infrastructure_document_id.or(deployment.infrastructure_document_id),
        // The reference keeps null only where the run has an idempotency key.
        job_variables: if idempotency_key.is_some() { given.job_variables } else { Some(given.job_variables.unwrap_or_default()) },
        idempotency_key,
        created_by,
        ..FlowRun::new(deployment.flow_id, now)
    };
    let gone = || StoreError::Database(sqlx::Error::RowNotFound);
    if !flow_runs::insert(tx, &run).await? {
        let key = run.idempotency_key.as_deref().unwrap_or_default();
        let existing = flow_runs::read_by_idempotency_key(tx, run.flow_id, key).await?.ok_or_else(gone)?;
        return Ok((existing, false));
    }
    let state = given.state.map_or_else(|| RunState::new(StateType::Scheduled, now), |state| state.at(now));
    set_flow_run_state(tx, context, run.id, state, FlowPolicy::Minimal).await.map_err(|error| Refusal::Other(error.into()))?;
    Ok((flow_runs::read(tx, run.id).await?.ok_or_else(gone)?, true))
}

/// Makes a run of a deployment in a transaction of the caller's, unless there is one with its idempotency key; true where
/// it was made.
///
/// # Errors
/// As the request of a client.
pub(crate) async fn create_in(
    app: &App,
    tx: &mut Tx,
    context: &Context<'_>,
    id: DeploymentId,
    given: DeploymentFlowRunCreate,
    created_by: Option<CreatedBy>,
) -> Result<(FlowRun, bool), ApiError> {
    let deployment = store::read(tx, &Key::Id(id)).await?.ok_or_else(missing)?;
    let hydrator = Hydrator::load(tx, [&deployment.parameters, &given.parameters]).await?;
    make(app, tx, context, &deployment, &hydrator, given, created_by).await.map_err(|refusal| refusal.alone(id))
}

/// Create a run of a deployment.
async fn create(
    State(app): State<App>,
    Path(id): Path<DeploymentId>,
    headers: HeaderMap,
    Json(body): Json<DeploymentFlowRunCreate>,
) -> Result<(StatusCode, Json<FlowRunResponse>), ApiError> {
    let now = app.now();
    let context = Context::server(now, &app.settings().orchestration);
    let mut tx = app.begin("deployments.create_flow_run").await?;
    let (run, fresh) = create_in(&app, &mut tx, &context, id, body, created_by(&headers)).await?;
    tx.commit().await?;
    Ok((if fresh { StatusCode::CREATED } else { StatusCode::OK }, Json(run.at(now))))
}

#[derive(Debug, Serialize, JsonSchema)]
#[schemars(rename = "FlowRunBulkCreateResponse")]
struct Created {
    results: Vec<FlowRunCreateResult>,
}

/// Create many runs of a deployment; one that is refused does not keep the others.
async fn create_many(
    State(app): State<App>,
    Path(id): Path<DeploymentId>,
    headers: HeaderMap,
    Json(body): Json<Vec<DeploymentFlowRunCreate>>,
) -> Result<Json<Created>, ApiError> {
    if body.len() > BULK_RUNS {
        return Err(ApiError::detail(StatusCode::BAD_REQUEST, format!("Cannot create more than {BULK_RUNS} flow runs at once.")));
    }
    let context = Context::server(app.now(), &app.settings().orchestration);
    let created_by = created_by(&headers);
    let mut tx = app.begin("deployments.create_flow_runs").await?;
    let deployment = store::read(&mut tx, &Key::Id(id)).await?.ok_or_else(missing)?;
    let parameters = body.iter().map(|run| &run.parameters).chain([&deployment.parameters]);
    let hydrator = Hydrator::load(&mut tx, parameters).await?;
    let mut results = Vec::with_capacity(body.len());
    for given in body {
        let made = make(&app, &mut tx, &context, &deployment, &hydrator, given, created_by.clone()).await;
        results.push(match made {
            Ok((run, _)) => FlowRunCreateResult { flow_run_id: Some(run.id), status: "CREATED", error: None },
            Err(refusal) => FlowRunCreateResult { flow_run_id: None, status: "FAILED", error: Some(refusal.among_many()?) },
        });
    }
    tx.commit().await?;
    Ok(Json(Created { results }))
}
