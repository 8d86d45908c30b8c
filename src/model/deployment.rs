//! Deployments and their schedules (`prefect/server/schemas/{core,actions,responses}.py`).

use std::borrow::Cow;

use schemars::JsonSchema;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_json::{Map, Value, json};

use crate::clock::Timestamp;
use crate::id::{
    BlockDocumentId, ConcurrencyLimitId, DeploymentId, DeploymentScheduleId, FlowId, FlowRunId, TaskRunId, WorkPoolId, WorkQueueId,
};
use crate::model::concurrency::{ConcurrencyOptions, GlobalConcurrencyLimit};
use crate::model::flow_run::CreatedBy;
use crate::model::json::{self, invalid};
use crate::model::labels::{self, Labels};
use crate::model::policy::{self, FlowRunPolicy};
use crate::model::schedule::Schedule;
use crate::model::state::StateCreate;
use crate::model::status::DeploymentStatus;
use crate::model::{Patch, bounds, run};

/// Runs that one schedule may have at most (`PREFECT_DEPLOYMENT_SCHEDULE_MAX_SCHEDULED_RUNS`).
const SCHEDULED_RUNS: i64 = 50;

/// A deployment with its schedules, and what it shows of its queue, pool and concurrency limit.
#[derive(Debug, Clone, PartialEq, JsonSchema)]
#[schemars(rename = "DeploymentResponse", with = "Shown<'static>")]
pub struct Deployment {
    pub id: DeploymentId,
    pub created: Timestamp,
    pub updated: Timestamp,
    pub name: String,
    pub version: Option<String>,
    pub description: Option<String>,
    pub flow_id: FlowId,
    pub paused: bool,
    /// Latest change first.
    pub schedules: Vec<DeploymentSchedule>,
    pub global_concurrency_limit: Option<GlobalConcurrencyLimit>,
    pub concurrency_limit_id: Option<ConcurrencyLimitId>,
    pub concurrency_options: Option<ConcurrencyOptions>,
    pub job_variables: Map<String, Value>,
    pub parameters: Map<String, Value>,
    pub tags: Vec<String>,
    pub labels: Option<Labels>,
    /// The column; clients see the name of the queue behind `work_queue_id` where there is one.
    pub work_queue_name: Option<String>,
    pub work_queue_id: Option<WorkQueueId>,
    pub last_polled: Option<Timestamp>,
    pub parameter_openapi_schema: Option<Value>,
    pub path: Option<String>,
    pub pull_steps: Option<Value>,
    pub entrypoint: Option<String>,
    pub storage_document_id: Option<BlockDocumentId>,
    pub infrastructure_document_id: Option<BlockDocumentId>,
    pub created_by: Option<CreatedBy>,
    pub updated_by: Option<CreatedBy>,
    pub status: DeploymentStatus,
    pub enforce_parameter_schema: bool,
    /// Read only: the name of its flow.
    pub flow_name: Option<String>,
    /// Read only: its queue, where it still exists.
    pub queue: Option<DeploymentQueue>,
}

/// What a deployment shows of its queue and pool.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeploymentQueue {
    pub name: String,
    pub work_pool_id: WorkPoolId,
    pub work_pool_name: String,
    pub work_pool_type: String,
}

/// A [`Deployment`] as clients see it, in the reference's order.
#[derive(Serialize, JsonSchema)]
struct Shown<'a> {
    id: DeploymentId,
    #[serde(with = "json::timestamp")]
    created: Timestamp,
    #[serde(with = "json::timestamp")]
    updated: Timestamp,
    name: &'a str,
    version: Option<&'a str>,
    description: Option<&'a str>,
    flow_id: FlowId,
    paused: bool,
    /// Latest change first.
    schedules: &'a [DeploymentSchedule],
    /// Deprecated, and always null.
    concurrency_limit: Option<i64>,
    global_concurrency_limit: Option<&'a GlobalConcurrencyLimit>,
    concurrency_options: Option<&'a ConcurrencyOptions>,
    job_variables: &'a Map<String, Value>,
    parameters: &'a Map<String, Value>,
    tags: &'a [String],
    #[schemars(with = "labels::Form")]
    labels: Cow<'a, Labels>,
    work_queue_name: Option<&'a str>,
    work_queue_id: Option<WorkQueueId>,
    #[serde(with = "json::optional_timestamp")]
    last_polled: Option<Timestamp>,
    parameter_openapi_schema: Option<&'a Value>,
    path: Option<&'a str>,
    #[schemars(with = "Option<Vec<Map<String, Value>>>")]
    pull_steps: Option<&'a Value>,
    entrypoint: Option<&'a str>,
    storage_document_id: Option<BlockDocumentId>,
    infrastructure_document_id: Option<BlockDocumentId>,
    created_by: Option<&'a CreatedBy>,
    updated_by: Option<&'a CreatedBy>,
    work_pool_name: Option<&'a str>,
    status: DeploymentStatus,
    enforce_parameter_schema: bool,
}

impl Serialize for Deployment {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let queue = self.queue.as_ref();
        let shown = Shown {
            id: self.id,
            created: self.created,
            updated: self.updated,
            name: &self.name,
            version: self.version.as_deref(),
            description: self.description.as_deref(),
            flow_id: self.flow_id,
            paused: self.paused,
            schedules: &self.schedules,
            concurrency_limit: None,
            global_concurrency_limit: self.global_concurrency_limit.as_ref(),
            concurrency_options: self.concurrency_options.as_ref(),
            job_variables: &self.job_variables,
            parameters: &self.parameters,
            tags: &self.tags,
            labels: self.labels.as_ref().map_or_else(|| Cow::Owned(Labels::new()), Cow::Borrowed),
            work_queue_name: queue.map(|queue| queue.name.as_str()).or(self.work_queue_name.as_deref()),
            work_queue_id: self.work_queue_id,
            last_polled: self.last_polled,
            parameter_openapi_schema: self.parameter_openapi_schema.as_ref(),
            path: self.path.as_deref(),
            pull_steps: self.pull_steps.as_ref(),
            entrypoint: self.entrypoint.as_deref(),
            storage_document_id: self.storage_document_id,
            infrastructure_document_id: self.infrastructure_document_id,
            created_by: self.created_by.as_ref(),
            updated_by: self.updated_by.as_ref(),
            work_pool_name: queue.map(|queue| queue.work_pool_name.as_str()),
            status: self.status,
            enforce_parameter_schema: self.enforce_parameter_schema,
        };
        shown.serialize(serializer)
    }
}

/// A schedule of a deployment.
#[derive(Debug, Clone, PartialEq, Serialize, JsonSchema)]
pub struct DeploymentSchedule {
    pub id: DeploymentScheduleId,
    #[serde(with = "json::timestamp")]
    pub created: Timestamp,
    #[serde(with = "json::timestamp")]
    pub updated: Timestamp,
    pub deployment_id: Option<DeploymentId>,
    pub schedule: Schedule,
    pub active: bool,
    pub max_scheduled_runs: Option<i64>,
    /// Over the deployment's.
    pub parameters: Map<String, Value>,
    /// Unique in the deployment.
    pub slug: Option<String>,
}

/// A schedule to make.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct DeploymentScheduleCreate {
    #[serde(default = "yes")]
    pub active: bool,
    pub schedule: Schedule,
    #[serde(default, deserialize_with = "scheduled_runs")]
    pub max_scheduled_runs: Option<i64>,
    #[serde(default)]
    pub parameters: Map<String, Value>,
    #[serde(default)]
    pub slug: Option<String>,
    /// The slug of the schedule that this one replaces; for updates of a deployment.
    #[serde(default)]
    pub replaces: Option<String>,
}

/// A schedule to change, or to make in an update of a deployment.
#[derive(Debug, Clone, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct DeploymentScheduleUpdate {
    pub active: Option<bool>,
    pub schedule: Option<Schedule>,
    #[serde(deserialize_with = "scheduled_runs")]
    pub max_scheduled_runs: Option<i64>,
    /// Absent means none, as the reference has it.
    pub parameters: Map<String, Value>,
    pub slug: Option<String>,
    pub replaces: Option<String>,
}

impl DeploymentScheduleUpdate {
    /// The schedule to make of it; none where it does not say when.
    pub fn as_create(&self) -> Option<DeploymentScheduleCreate> {
        Some(DeploymentScheduleCreate {
            active: self.active.unwrap_or(true),
            schedule: self.schedule.clone()?,
            max_scheduled_runs: None,
            parameters: self.parameters.clone(),
            slug: self.slug.clone(),
            replaces: None,
        })
    }
}

/// Body of `POST /deployments/`. What is absent keeps its value where the deployment exists.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct DeploymentCreate {
    #[serde(deserialize_with = "deployment_name")]
    pub name: String,
    pub flow_id: FlowId,
    #[serde(default)]
    pub paused: Patch<bool>,
    #[serde(default)]
    pub schedules: Vec<DeploymentScheduleCreate>,
    #[serde(default, deserialize_with = "bounds::patched_positive")]
    pub concurrency_limit: Patch<i64>,
    #[serde(default)]
    pub concurrency_options: Patch<ConcurrencyOptions>,
    #[serde(default)]
    pub global_concurrency_limit_id: Patch<ConcurrencyLimitId>,
    #[serde(default)]
    pub enforce_parameter_schema: Patch<bool>,
    #[serde(default, deserialize_with = "parameter_schema")]
    pub parameter_openapi_schema: Patch<Value>,
    #[serde(default, deserialize_with = "run::sized_parameters")]
    pub parameters: Map<String, Value>,
    #[serde(default)]
    pub tags: Patch<Vec<String>>,
    #[serde(default, deserialize_with = "labels::deserialize")]
    #[schemars(with = "labels::Form")]
    pub labels: Labels,
    #[serde(default)]
    pub pull_steps: Patch<Vec<Map<String, Value>>>,
    #[serde(default)]
    pub work_queue_name: Patch<String>,
    #[serde(default)]
    pub work_pool_name: Patch<String>,
    #[serde(default)]
    pub storage_document_id: Patch<BlockDocumentId>,
    #[serde(default)]
    pub infrastructure_document_id: Patch<BlockDocumentId>,
    #[serde(default)]
    pub description: Patch<String>,
    #[serde(default)]
    pub path: Patch<String>,
    #[serde(default)]
    pub version: Patch<String>,
    #[serde(default)]
    pub entrypoint: Patch<String>,
    #[serde(default)]
    pub job_variables: Map<String, Value>,
    /// Taken and not kept, as the reference does.
    #[serde(default)]
    pub version_info: Option<VersionInfo>,
}

/// Body of `PATCH /deployments/{id}`.
#[derive(Debug, Clone, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct DeploymentUpdate {
    pub version: Patch<String>,
    pub description: Patch<String>,
    pub paused: Patch<bool>,
    pub schedules: Patch<Vec<DeploymentScheduleUpdate>>,
    #[serde(deserialize_with = "bounds::patched_positive")]
    pub concurrency_limit: Patch<i64>,
    pub concurrency_options: Patch<ConcurrencyOptions>,
    pub global_concurrency_limit_id: Patch<ConcurrencyLimitId>,
    #[serde(deserialize_with = "patched_parameters")]
    pub parameters: Patch<Map<String, Value>>,
    #[serde(deserialize_with = "parameter_schema")]
    pub parameter_openapi_schema: Patch<Value>,
    pub tags: Patch<Vec<String>>,
    pub work_queue_name: Patch<String>,
    pub work_pool_name: Patch<String>,
    pub path: Patch<String>,
    pub job_variables: Option<Map<String, Value>>,
    pub pull_steps: Patch<Vec<Map<String, Value>>>,
    pub entrypoint: Patch<String>,
    pub storage_document_id: Patch<BlockDocumentId>,
    pub infrastructure_document_id: Patch<BlockDocumentId>,
    pub enforce_parameter_schema: Patch<bool>,
    /// Taken and not kept, as the reference does.
    pub version_info: Option<VersionInfo>,
}

/// What a client says of the version; other keys are ignored.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
pub struct VersionInfo {
    #[serde(rename = "type")]
    pub kind: String,
    pub version: String,
}

/// Columns to write, by an upsert or an update.
#[derive(Debug, Clone, Default)]
pub struct DeploymentChange {
    pub version: Patch<String>,
    pub description: Patch<String>,
    pub paused: Patch<bool>,
    pub concurrency_options: Patch<ConcurrencyOptions>,
    pub concurrency_limit_id: Patch<ConcurrencyLimitId>,
    pub parameters: Patch<Map<String, Value>>,
    pub parameter_openapi_schema: Patch<Value>,
    pub tags: Patch<Vec<String>>,
    pub labels: Patch<Labels>,
    pub work_queue_name: Patch<String>,
    pub work_queue_id: Patch<WorkQueueId>,
    pub path: Patch<String>,
    pub job_variables: Patch<Map<String, Value>>,
    pub pull_steps: Patch<Vec<Map<String, Value>>>,
    pub entrypoint: Patch<String>,
    pub storage_document_id: Patch<BlockDocumentId>,
    pub infrastructure_document_id: Patch<BlockDocumentId>,
    pub enforce_parameter_schema: Patch<bool>,
}

/// Empty job variables change nothing.
fn job_variables(given: Option<Map<String, Value>>) -> Patch<Map<String, Value>> {
    given.filter(|variables| !variables.is_empty()).map_or(Patch::Absent, Patch::Value)
}

impl From<DeploymentCreate> for DeploymentChange {
    fn from(create: DeploymentCreate) -> Self {
        Self {
            version: create.version,
            description: create.description,
            paused: create.paused,
            concurrency_options: create.concurrency_options,
            concurrency_limit_id: create.global_concurrency_limit_id,
            parameters: Patch::Value(create.parameters),
            parameter_openapi_schema: create.parameter_openapi_schema,
            tags: create.tags,
            labels: Patch::Value(create.labels),
            work_queue_name: create.work_queue_name,
            work_queue_id: Patch::Absent,
            path: create.path,
            job_variables: job_variables(Some(create.job_variables)),
            pull_steps: create.pull_steps,
            entrypoint: create.entrypoint,
            storage_document_id: create.storage_document_id,
            infrastructure_document_id: create.infrastructure_document_id,
            enforce_parameter_schema: create.enforce_parameter_schema,
        }
    }
}

impl From<DeploymentUpdate> for DeploymentChange {
    fn from(update: DeploymentUpdate) -> Self {
        Self {
            version: update.version,
            description: update.description,
            paused: update.paused,
            concurrency_options: update.concurrency_options,
            concurrency_limit_id: update.global_concurrency_limit_id,
            parameters: update.parameters,
            parameter_openapi_schema: update.parameter_openapi_schema,
            tags: update.tags,
            labels: Patch::Absent,
            work_queue_name: update.work_queue_name,
            work_queue_id: Patch::Absent,
            path: update.path,
            job_variables: job_variables(update.job_variables),
            pull_steps: update.pull_steps,
            entrypoint: update.entrypoint,
            storage_document_id: update.storage_document_id,
            infrastructure_document_id: update.infrastructure_document_id,
            enforce_parameter_schema: update.enforce_parameter_schema,
        }
    }
}

/// Body of `POST /deployments/{id}/create_flow_run`.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct DeploymentFlowRunCreate {
    #[serde(default)]
    pub state: Option<StateCreate>,
    /// Empty, null and absent are the same: a name is made up.
    #[serde(default = "run::generated_name", deserialize_with = "run::name_or_generated")]
    #[schemars(default)]
    pub name: String,
    #[serde(default, deserialize_with = "run::sized_parameters")]
    pub parameters: Map<String, Value>,
    #[serde(default)]
    pub enforce_parameter_schema: Option<bool>,
    #[serde(default)]
    pub context: Map<String, Value>,
    #[serde(default)]
    pub infrastructure_document_id: Option<BlockDocumentId>,
    #[serde(default, deserialize_with = "policy::of_body")]
    pub empirical_policy: FlowRunPolicy,
    #[serde(default)]
    pub tags: Vec<String>,
    #[serde(default)]
    pub idempotency_key: Option<String>,
    #[serde(default, deserialize_with = "labels::deserialize")]
    #[schemars(with = "labels::Form")]
    pub labels: Labels,
    #[serde(default)]
    pub parent_task_run_id: Option<TaskRunId>,
    #[serde(default)]
    pub work_queue_name: Option<String>,
    #[serde(default = "no_variables")]
    pub job_variables: Option<Map<String, Value>>,
}

/// What became of one run of a bulk creation.
#[derive(Debug, Clone, PartialEq, Serialize, JsonSchema)]
pub struct FlowRunCreateResult {
    pub flow_run_id: Option<FlowRunId>,
    /// `CREATED` or `FAILED`.
    pub status: &'static str,
    pub error: Option<String>,
}

/// Order of a list of deployments.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum DeploymentSort {
    CreatedDesc,
    UpdatedDesc,
    #[default]
    NameAsc,
    NameDesc,
}

fn yes() -> bool {
    true
}

#[expect(clippy::unnecessary_wraps, reason = "the default of an optional field")]
fn no_variables() -> Option<Map<String, Value>> {
    Some(Map::new())
}

fn deployment_name<'de, D: Deserializer<'de>>(deserializer: D) -> Result<String, D::Error> {
    let given = String::deserialize(deserializer)?;
    // The reference checks this only after the body, but in the same words.
    if crate::model::name::banned_character(&given).is_some() {
        return Err(invalid("string_pattern_mismatch", "String should match pattern '^[^/%&><]*$'"));
    }
    Ok(given)
}

fn scheduled_runs<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<i64>, D::Error> {
    match bounds::positive(deserializer)? {
        Some(runs) if runs > SCHEDULED_RUNS => {
            Err(invalid("value_error", format_args!("`max_scheduled_runs` must be less than or equal to {SCHEDULED_RUNS}.")))
        }
        runs => Ok(runs),
    }
}

fn parameter_schema<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Patch<Value>, D::Error> {
    match Option::<Map<String, Value>>::deserialize(deserializer)? {
        None => Ok(Patch::Null),
        Some(schema) if schema.is_empty() => Ok(Patch::Value(json!({"type": "object", "properties": {}}))),
        Some(schema) => Ok(Patch::Value(Value::Object(schema))),
    }
}

fn patched_parameters<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Patch<Map<String, Value>>, D::Error> {
    #[derive(Deserialize)]
    struct Sized(#[serde(deserialize_with = "run::sized_parameters")] Map<String, Value>);
    Ok(Option::<Sized>::deserialize(deserializer)?.map_or(Patch::Null, |parameters| Patch::Value(parameters.0)))
}
