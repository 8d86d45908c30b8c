//! Flow runs (`prefect/server/schemas/{core,actions,responses,sorting}.py`).
//!
//! [`FlowRun`] is the row with its current state and work queue; clients get a [`FlowRunResponse`], which adds the
//! estimates as of a moment.

use std::borrow::Cow;

use schemars::JsonSchema;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_json::{Map, Value};

use crate::clock::Timestamp;
use crate::id::{BlockDocumentId, DeploymentId, FlowId, FlowRunId, FlowRunInputId, StateId, TaskRunId, WorkPoolId, WorkQueueId};
use crate::model::json::{self, invalid};
use crate::model::labels::{self, Labels};
use crate::model::policy::{self, FlowRunPolicy};
use crate::model::run::{self, Moments};
use crate::model::state::{State, StateCreate, StateType};
use crate::model::{Patch, name};

/// Who made or changed an object.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct CreatedBy {
    #[serde(default)]
    pub id: Option<uuid::Uuid>,
    /// `DEPLOYMENT`, `SCHEDULE`, `AUTOMATION`, ...
    #[serde(default, rename = "type")]
    pub kind: Option<String>,
    #[serde(default)]
    pub display_value: Option<String>,
}

/// A flow run with its current state, and the names that its work queue gives it.
#[derive(Debug, Clone, PartialEq)]
pub struct FlowRun {
    pub id: FlowRunId,
    pub created: Timestamp,
    pub updated: Timestamp,
    pub name: String,
    pub flow_id: FlowId,
    pub state_id: Option<StateId>,
    pub deployment_id: Option<DeploymentId>,
    pub deployment_version: Option<String>,
    pub work_queue_id: Option<WorkQueueId>,
    /// The column; [`FlowRunResponse`] prefers the name of the queue behind `work_queue_id`.
    pub work_queue_name: Option<String>,
    pub flow_version: Option<String>,
    pub parameters: Map<String, Value>,
    pub idempotency_key: Option<String>,
    pub context: Map<String, Value>,
    pub empirical_policy: FlowRunPolicy,
    pub tags: Vec<String>,
    pub labels: Option<Labels>,
    pub parent_task_run_id: Option<TaskRunId>,
    pub state_type: Option<StateType>,
    pub state_name: Option<String>,
    pub state_timestamp: Option<Timestamp>,
    pub run_count: i64,
    pub expected_start_time: Option<Timestamp>,
    pub next_scheduled_start_time: Option<Timestamp>,
    pub start_time: Option<Timestamp>,
    pub end_time: Option<Timestamp>,
    /// Seconds in running states that are over.
    pub total_run_time: f64,
    pub auto_scheduled: bool,
    pub infrastructure_document_id: Option<BlockDocumentId>,
    pub infrastructure_pid: Option<String>,
    pub created_by: Option<CreatedBy>,
    pub job_variables: Option<Map<String, Value>>,
    /// Read only: the current state.
    pub state: Option<State>,
    /// Read only: the work queue, where it still exists.
    pub queue: Option<FlowRunQueue>,
}

/// What a flow run shows of its work queue.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FlowRunQueue {
    pub name: String,
    pub work_pool_id: WorkPoolId,
    pub work_pool_name: String,
}

impl FlowRun {
    /// A run of a flow with a fresh id, a generated name and nothing else.
    pub fn new(flow_id: FlowId, now: Timestamp) -> Self {
        Self {
            id: FlowRunId::fresh(),
            created: now,
            updated: now,
            name: run::generated_name(),
            flow_id,
            state_id: None,
            deployment_id: None,
            deployment_version: None,
            work_queue_id: None,
            work_queue_name: None,
            flow_version: None,
            parameters: Map::new(),
            idempotency_key: None,
            context: Map::new(),
            empirical_policy: FlowRunPolicy::new(),
            tags: Vec::new(),
            labels: Some(Labels::new()),
            parent_task_run_id: None,
            state_type: None,
            state_name: None,
            state_timestamp: None,
            run_count: 0,
            expected_start_time: None,
            next_scheduled_start_time: None,
            start_time: None,
            end_time: None,
            total_run_time: 0.0,
            auto_scheduled: false,
            infrastructure_document_id: None,
            infrastructure_pid: None,
            created_by: None,
            job_variables: Some(Map::new()),
            state: None,
            queue: None,
        }
    }

    /// From what run time and lateness are estimated.
    pub fn moments(&self) -> Moments {
        Moments {
            state_type: self.state_type,
            state_timestamp: self.state_timestamp,
            start_time: self.start_time,
            expected_start_time: self.expected_start_time,
            total_run_time: self.total_run_time,
        }
    }

    /// What clients see of it at `now`.
    pub fn at(self, now: Timestamp) -> FlowRunResponse {
        FlowRunResponse { run: self, now }
    }
}

/// A flow run as clients see it at a moment.
#[derive(Debug, Clone, PartialEq, JsonSchema)]
#[schemars(with = "Shown<'static>")]
pub struct FlowRunResponse {
    pub run: FlowRun,
    pub now: Timestamp,
}

impl FlowRunResponse {
    /// What a worker gets that asks for work: without the pool, which it knows, and without the state, which the
    /// reference does not load there.
    pub fn polled(self) -> PolledFlowRun {
        PolledFlowRun(self)
    }
}

/// A flow run as a worker gets it.
#[derive(Debug, Clone, PartialEq, JsonSchema)]
#[schemars(with = "Polled<'static>")]
pub struct PolledFlowRun(FlowRunResponse);

/// What every answer shows of a flow run, in the reference's order.
#[derive(Serialize, JsonSchema)]
struct Core<'a> {
    id: FlowRunId,
    #[serde(with = "json::timestamp")]
    created: Timestamp,
    #[serde(with = "json::timestamp")]
    updated: Timestamp,
    name: &'a str,
    flow_id: FlowId,
    state_id: Option<StateId>,
    deployment_id: Option<DeploymentId>,
    deployment_version: Option<&'a str>,
    work_queue_id: Option<WorkQueueId>,
    work_queue_name: Option<&'a str>,
    flow_version: Option<&'a str>,
    parameters: &'a Map<String, Value>,
    idempotency_key: Option<&'a str>,
    context: &'a Map<String, Value>,
    empirical_policy: &'a FlowRunPolicy,
    tags: &'a [String],
    #[schemars(with = "labels::Form")]
    labels: Cow<'a, Labels>,
    parent_task_run_id: Option<TaskRunId>,
    state_type: Option<StateType>,
    state_name: Option<&'a str>,
    run_count: i64,
    #[serde(with = "json::optional_timestamp")]
    expected_start_time: Option<Timestamp>,
    #[serde(with = "json::optional_timestamp")]
    next_scheduled_start_time: Option<Timestamp>,
    #[serde(with = "json::optional_timestamp")]
    start_time: Option<Timestamp>,
    #[serde(with = "json::optional_timestamp")]
    end_time: Option<Timestamp>,
    /// Seconds in running states that are over.
    total_run_time: f64,
    /// Seconds, with those of the running state.
    estimated_run_time: f64,
    /// Seconds that it started late, or is late.
    estimated_start_time_delta: f64,
    auto_scheduled: bool,
    infrastructure_document_id: Option<BlockDocumentId>,
    infrastructure_pid: Option<&'a str>,
    created_by: Option<&'a CreatedBy>,
}

/// A [`FlowRunResponse`].
#[derive(Serialize, JsonSchema)]
struct Shown<'a> {
    #[serde(flatten)]
    core: Core<'a>,
    work_pool_id: Option<WorkPoolId>,
    work_pool_name: Option<&'a str>,
    state: Option<&'a State>,
    job_variables: Option<&'a Map<String, Value>>,
}

/// A [`PolledFlowRun`].
#[derive(Serialize, JsonSchema)]
struct Polled<'a> {
    #[serde(flatten)]
    core: Core<'a>,
    /// Always null.
    state: Option<&'a State>,
    job_variables: Option<&'a Map<String, Value>>,
}

impl<'a> From<&'a FlowRunResponse> for Core<'a> {
    fn from(FlowRunResponse { run, now }: &'a FlowRunResponse) -> Self {
        let moments = run.moments();
        Self {
            id: run.id,
            created: run.created,
            updated: run.updated,
            name: &run.name,
            flow_id: run.flow_id,
            state_id: run.state_id,
            deployment_id: run.deployment_id,
            deployment_version: run.deployment_version.as_deref(),
            work_queue_id: run.work_queue_id,
            work_queue_name: run.queue.as_ref().map(|queue| queue.name.as_str()).or(run.work_queue_name.as_deref()),
            flow_version: run.flow_version.as_deref(),
            parameters: &run.parameters,
            idempotency_key: run.idempotency_key.as_deref(),
            context: &run.context,
            empirical_policy: &run.empirical_policy,
            tags: &run.tags,
            labels: run.labels.as_ref().map_or_else(|| Cow::Owned(Labels::new()), Cow::Borrowed),
            parent_task_run_id: run.parent_task_run_id,
            state_type: run.state_type,
            state_name: run.state_name.as_deref(),
            run_count: run.run_count,
            expected_start_time: run.expected_start_time,
            next_scheduled_start_time: run.next_scheduled_start_time,
            start_time: run.start_time,
            end_time: run.end_time,
            total_run_time: run.total_run_time,
            estimated_run_time: moments.estimated_run_time(*now),
            estimated_start_time_delta: moments.estimated_start_time_delta(*now),
            auto_scheduled: run.auto_scheduled,
            infrastructure_document_id: run.infrastructure_document_id,
            infrastructure_pid: run.infrastructure_pid.as_deref(),
            created_by: run.created_by.as_ref(),
        }
    }
}

impl Serialize for FlowRunResponse {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let run = &self.run;
        let shown = Shown {
            core: self.into(),
            work_pool_id: run.queue.as_ref().map(|queue| queue.work_pool_id),
            work_pool_name: run.queue.as_ref().map(|queue| queue.work_pool_name.as_str()),
            state: run.state.as_ref(),
            job_variables: run.job_variables.as_ref(),
        };
        shown.serialize(serializer)
    }
}

impl Serialize for PolledFlowRun {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        Polled { core: (&self.0).into(), state: None, job_variables: self.0.run.job_variables.as_ref() }.serialize(serializer)
    }
}

/// Body of `POST /flow_runs/`.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct FlowRunCreate {
    #[serde(default)]
    pub state: Option<StateCreate>,
    /// Empty, null and absent are the same: a name is made up.
    #[serde(default = "run::generated_name", deserialize_with = "run::name_or_generated")]
    #[schemars(default)]
    pub name: String,
    pub flow_id: FlowId,
    #[serde(default)]
    pub flow_version: Option<String>,
    #[serde(default, deserialize_with = "run::sized_parameters")]
    pub parameters: Map<String, Value>,
    #[serde(default)]
    pub context: Map<String, Value>,
    #[serde(default)]
    pub parent_task_run_id: Option<TaskRunId>,
    #[serde(default)]
    pub infrastructure_document_id: Option<BlockDocumentId>,
    #[serde(default = "FlowRunPolicy::new", deserialize_with = "policy::of_body")]
    pub empirical_policy: FlowRunPolicy,
    #[serde(default)]
    pub tags: Vec<String>,
    #[serde(default, deserialize_with = "labels::deserialize")]
    #[schemars(with = "labels::Form")]
    pub labels: Labels,
    #[serde(default)]
    pub idempotency_key: Option<String>,
    #[serde(default)]
    pub work_pool_name: Option<String>,
    #[serde(default)]
    pub work_queue_name: Option<String>,
    #[serde(default)]
    pub job_variables: Option<Map<String, Value>>,
    /// Deprecated: runs of a deployment are made under `/deployments`.
    #[serde(default)]
    pub deployment_id: Option<DeploymentId>,
}

/// Body of `PATCH /flow_runs/{id}`.
#[derive(Debug, Clone, Default, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct FlowRunUpdate {
    #[serde(deserialize_with = "patched_name")]
    pub name: Patch<String>,
    pub flow_version: Patch<String>,
    #[serde(deserialize_with = "patched_parameters")]
    pub parameters: Patch<Map<String, Value>>,
    #[serde(deserialize_with = "policy::patch_of_body")]
    pub empirical_policy: Patch<FlowRunPolicy>,
    pub tags: Patch<Vec<String>>,
    pub infrastructure_pid: Patch<String>,
    pub job_variables: Patch<Map<String, Value>>,
}

/// A present but empty or null name is replaced by a generated one.
pub(crate) fn patched_name<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Patch<String>, D::Error> {
    run::name_or_generated(deserializer).map(Patch::Value)
}

fn patched_parameters<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Patch<Map<String, Value>>, D::Error> {
    run::sized_parameters(deserializer).map(Patch::Value)
}

/// Order of a list of flow runs.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum FlowRunSort {
    #[default]
    IdDesc,
    StartTimeAsc,
    StartTimeDesc,
    ExpectedStartTimeAsc,
    ExpectedStartTimeDesc,
    NameAsc,
    NameDesc,
    NextScheduledStartTimeAsc,
    EndTimeDesc,
}

/// A value that was sent to a flow run.
#[derive(Debug, Clone, PartialEq, Serialize, JsonSchema)]
pub struct FlowRunInput {
    pub id: FlowRunInputId,
    #[serde(with = "json::timestamp")]
    pub created: Timestamp,
    #[serde(with = "json::timestamp")]
    pub updated: Timestamp,
    pub flow_run_id: FlowRunId,
    pub key: String,
    pub value: String,
    pub sender: Option<String>,
}

/// Reads the key of an input.
pub fn input_key<'de, D: Deserializer<'de>>(deserializer: D) -> Result<String, D::Error> {
    let key = String::deserialize(deserializer)?;
    if key.is_empty() || !name::is_lowercase_dashes(&key) {
        return Err(invalid("value_error", "value must only contain lowercase letters, numbers, and dashes."));
    }
    Ok(key)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn absent_null_and_empty_names_are_generated() {
        let id = uuid::Uuid::nil();
        for body in [json!({"flow_id": id}), json!({"flow_id": id, "name": null}), json!({"flow_id": id, "name": ""})] {
            let create: FlowRunCreate = serde_json::from_value(body).expect("valid");
            assert_eq!(create.name.split('-').count(), 2, "{}", create.name);
        }
        assert!(serde_json::from_value::<FlowRunCreate>(json!({"flow_id": id, "id": id})).is_err());
    }
}
