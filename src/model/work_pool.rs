//! Work pools (`prefect/server/schemas/{core,actions,responses}.py`).

use std::collections::BTreeSet;
use std::sync::LazyLock;

use regex::Regex;
use schemars::JsonSchema;
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::{Map, Value};
use uuid::Uuid;

use crate::clock::Timestamp;
use crate::id::{BlockDocumentId, FlowRunId, WorkPoolId, WorkQueueId};
use crate::model::json::{self, invalid};
use crate::model::status::WorkPoolStatus;
use crate::model::{Patch, bounds};

/// The type of pools which agents, not workers, serve; such a pool has no status.
pub const AGENT_POOL_TYPE: &str = "prefect-agent";

/// The pool that takes queues made without one.
pub const DEFAULT_AGENT_POOL: &str = "default-agent-pool";

/// A work pool.
#[derive(Debug, Clone, PartialEq, Serialize, JsonSchema)]
pub struct WorkPool {
    pub id: WorkPoolId,
    #[serde(with = "json::timestamp")]
    pub created: Timestamp,
    #[serde(with = "json::timestamp")]
    pub updated: Timestamp,
    pub name: String,
    pub description: Option<String>,
    #[serde(rename = "type")]
    pub kind: String,
    pub base_job_template: Map<String, Value>,
    pub is_paused: bool,
    pub concurrency_limit: Option<i64>,
    /// Always there in the store; clients see none for a pool of agents.
    pub status: Option<WorkPoolStatus>,
    pub default_queue_id: Option<WorkQueueId>,
    pub storage_configuration: StorageConfiguration,
    /// Runs that are pending or running; none where the pool has no limit.
    pub active_slots: Option<i64>,
    /// When the status changed.
    #[serde(skip)]
    pub last_transitioned_status_at: Option<Timestamp>,
    /// The event that told of it.
    #[serde(skip)]
    pub last_status_event_id: Option<Uuid>,
}

impl WorkPool {
    /// The pool as clients see it.
    #[must_use]
    pub fn shown(mut self) -> Self {
        if self.kind == AGENT_POOL_TYPE {
            self.status = None;
        }
        self
    }
}

/// Where bundles and results of a pool's runs go.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct StorageConfiguration {
    #[serde(default)]
    pub bundle_upload_step: Option<Map<String, Value>>,
    #[serde(default)]
    pub bundle_execution_step: Option<Map<String, Value>>,
    #[serde(default)]
    pub default_result_storage_block_id: Option<BlockDocumentId>,
}

/// Body of `POST /work_pools/`.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct WorkPoolCreate {
    #[serde(deserialize_with = "pool_name")]
    pub name: String,
    #[serde(default)]
    pub description: Option<String>,
    #[serde(default = "agent_type", rename = "type")]
    pub kind: String,
    #[serde(default, deserialize_with = "job_template")]
    pub base_job_template: Map<String, Value>,
    #[serde(default)]
    pub is_paused: bool,
    #[serde(default, deserialize_with = "bounds::non_negative")]
    pub concurrency_limit: Option<i64>,
    #[serde(default)]
    pub storage_configuration: StorageConfiguration,
}

/// Body of `PATCH /work_pools/{name}`.
#[derive(Debug, Clone, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct WorkPoolUpdate {
    pub description: Patch<String>,
    pub is_paused: Patch<bool>,
    #[serde(deserialize_with = "patched_job_template")]
    pub base_job_template: Patch<Map<String, Value>>,
    #[serde(deserialize_with = "bounds::patched_non_negative")]
    pub concurrency_limit: Patch<i64>,
    pub storage_configuration: Patch<StorageConfiguration>,
}

/// A run that holds a concurrency slot.
#[derive(Debug, Clone, PartialEq, Serialize, JsonSchema)]
pub struct SlotHolder {
    pub id: FlowRunId,
    pub name: String,
    pub state_type: Option<String>,
    pub state_name: Option<String>,
    #[serde(with = "json::optional_timestamp")]
    pub start_time: Option<Timestamp>,
    #[serde(with = "json::optional_timestamp")]
    pub state_timestamp: Option<Timestamp>,
    /// Seconds.
    pub time_in_current_state: Option<f64>,
}

/// What `POST /work_pools/{name}/concurrency_status` answers.
#[derive(Debug, Clone, Serialize, JsonSchema)]
pub struct WorkPoolConcurrencyStatus {
    pub active_slots: i64,
    pub concurrency_limit: Option<i64>,
    pub queues: Vec<WorkQueueConcurrency>,
    pub count: u64,
    pub limit: u64,
    pub pages: u64,
    pub page: u64,
}

/// One queue of [`WorkPoolConcurrencyStatus`].
#[derive(Debug, Clone, Serialize, JsonSchema)]
pub struct WorkQueueConcurrency {
    pub queue_id: WorkQueueId,
    pub queue_name: String,
    pub active_slots: i64,
    pub concurrency_limit: Option<i64>,
    pub flow_runs: Vec<SlotHolder>,
    pub flow_run_count: Option<i64>,
}

fn agent_type() -> String {
    AGENT_POOL_TYPE.to_owned()
}

fn pool_name<'de, D: Deserializer<'de>>(deserializer: D) -> Result<String, D::Error> {
    let given = String::deserialize(deserializer)?;
    if given.trim_matches([' ', '\'', '"']).is_empty() {
        return Err(invalid("value_error", "name cannot be an empty string"));
    }
    bounds::check_name(given)
}

fn job_template<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Map<String, Value>, D::Error> {
    let template = Map::deserialize(deserializer)?;
    check_job_template(&template).map_err(|message| invalid("value_error", message))?;
    Ok(template)
}

fn patched_job_template<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Patch<Map<String, Value>>, D::Error> {
    match Option::<Map<String, Value>>::deserialize(deserializer)? {
        None => Ok(Patch::Null),
        Some(template) => {
            check_job_template(&template).map_err(|message| invalid("value_error", message))?;
            Ok(Patch::Value(template))
        }
    }
}

/// A placeholder as the reference's templating finds it: `{{ name }}`.
static PLACEHOLDER: LazyLock<Regex> = LazyLock::new(|| Regex::new(r"\{\{\s*([\w\.\-\[\]$]+)\s*\}\}").expect("the pattern is a constant"));

fn is_filled(value: Option<&Value>) -> bool {
    match value {
        None | Some(Value::Null | Value::Bool(false)) => false,
        Some(Value::Object(map)) => !map.is_empty(),
        Some(Value::Array(items)) => !items.is_empty(),
        Some(Value::String(text)) => !text.is_empty(),
        Some(_) => true,
    }
}

/// A template that is not empty names every variable that it uses.
fn check_job_template(template: &Map<String, Value>) -> Result<(), String> {
    if template.is_empty() {
        return Ok(());
    }
    let (configuration, variables) = (template.get("job_configuration"), template.get("variables"));
    if !(is_filled(configuration) && is_filled(variables)) {
        return Err("The `base_job_template` must contain both a `job_configuration` key and a `variables` key.".into());
    }
    let used: BTreeSet<String> = configuration
        .and_then(Value::as_object)
        .into_iter()
        .flat_map(Map::values)
        .flat_map(|part| {
            let text = part.to_string();
            PLACEHOLDER.captures_iter(&text).map(|found| found[1].to_owned()).collect::<Vec<_>>()
        })
        .collect();
    let declared = variables.and_then(|variables| variables.get("properties")).and_then(Value::as_object);
    let missing: Vec<String> =
        used.into_iter().filter(|variable| !declared.is_some_and(|declared| declared.contains_key(variable))).collect();
    if missing.is_empty() {
        return Ok(());
    }
    Err(format!(
        "The variables specified in the job configuration template must be present as properties in the variables schema. Your \
         job configuration uses the following undeclared variable(s): {}.",
        missing.join(" ,")
    ))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn issue(body: Value) -> String {
        WorkPoolCreate::deserialize(body).expect_err("must be refused").to_string()
    }

    #[test]
    fn names_and_templates_are_checked() {
        assert!(WorkPoolCreate::deserialize(json!({"name": "a pool"})).is_ok());
        assert!(issue(json!({"name": "' \""})).contains("cannot be an empty string"));
        assert!(issue(json!({"name": "a/b"})).contains("should match pattern"));
        let body = |configuration| json!({"name": "a", "base_job_template": {"job_configuration": configuration, "variables": {"properties": {"x": {}}}}});
        assert!(WorkPoolCreate::deserialize(body(json!({"command": ["{{ x }}"]}))).is_ok());
        assert!(issue(body(json!({"command": "{{ y }}"}))).contains("undeclared variable(s): y."));
        assert!(issue(json!({"name": "a", "base_job_template": {"variables": {"a": 1}}})).contains("must contain both"));
    }
}
