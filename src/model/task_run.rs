//! Task runs (`prefect/server/schemas/{core,actions,sorting}.py`).

use indexmap::IndexMap;
use schemars::JsonSchema;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_json::Value;
use uuid::Uuid;

use crate::clock::Timestamp;
use crate::id::{FlowRunId, StateId, TaskRunId};
use crate::model::Patch;
use crate::model::check::{self, Checker};
use crate::model::json::{self, invalid};
use crate::model::labels::{self, Labels};
use crate::model::policy::{self, TaskRunPolicy};
use crate::model::run::{self, Moments};
use crate::model::state::{State, StateCreate, StateType};

/// Characters of a cache key at most (`PREFECT_API_TASK_CACHE_KEY_MAX_LENGTH`).
pub const CACHE_KEY_CHARACTERS: usize = 2000;

/// Where an input of a task run comes from.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, JsonSchema)]
#[serde(tag = "input_type", rename_all = "snake_case")]
#[schemars(try_from = "GivenInput")]
pub enum RunInput {
    TaskRun {
        id: TaskRunId,
    },
    FlowRun {
        id: FlowRunId,
    },
    Parameter {
        name: String,
    },
    Constant {
        #[serde(rename = "type")]
        kind: String,
    },
}

/// What the document of the API says of it: without a type, the first form that fits is taken.
#[derive(JsonSchema)]
#[expect(dead_code, reason = "only its schema is looked at")]
struct GivenInput {
    input_type: Option<String>,
    id: Option<Uuid>,
    name: Option<String>,
    #[serde(rename = "type")]
    kind: Option<String>,
}

impl<'de> Deserialize<'de> for RunInput {
    /// Reads the first of the forms that fits. Where none does, tells what each of them lacks.
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        fn form<T>(
            checker: &mut Checker,
            given: &Value,
            kind: &str,
            key: &str,
            read: impl FnOnce(&mut Checker, &Value) -> Option<T>,
        ) -> Option<T> {
            let fields = checker.object(given)?;
            let of_kind = fields.literal(checker, "input_type", kind);
            let read = fields.required(checker, key, read);
            of_kind.and(read)
        }
        let given = Value::deserialize(deserializer)?;
        let mut checker = Checker::below(Vec::new());
        let read = checker.union(&[
            ("TaskRunResult", &|checker| form(checker, &given, "task_run", "id", check::uuid).map(|id| Self::TaskRun { id: id.into() })),
            ("FlowRunResult", &|checker| form(checker, &given, "flow_run", "id", check::uuid).map(|id| Self::FlowRun { id: id.into() })),
            ("Parameter", &|checker| form(checker, &given, "parameter", "name", check::string).map(|name| Self::Parameter { name })),
            ("Constant", &|checker| form(checker, &given, "constant", "type", check::string).map(|kind| Self::Constant { kind })),
        ]);
        checker.finish(read).map_err(check::complain)
    }
}

/// Sources of the inputs of a task run, by parameter.
pub type TaskInputs = IndexMap<String, Vec<RunInput>>;

/// A task run with its current state.
#[derive(Debug, Clone, PartialEq)]
pub struct TaskRun {
    pub id: TaskRunId,
    pub created: Timestamp,
    pub updated: Timestamp,
    pub name: String,
    pub flow_run_id: Option<FlowRunId>,
    pub task_key: String,
    pub dynamic_key: String,
    pub cache_key: Option<String>,
    pub cache_expiration: Option<Timestamp>,
    pub task_version: Option<String>,
    pub empirical_policy: TaskRunPolicy,
    pub tags: Vec<String>,
    pub labels: Option<Labels>,
    pub state_id: Option<StateId>,
    pub task_inputs: TaskInputs,
    pub state_type: Option<StateType>,
    pub state_name: Option<String>,
    pub state_timestamp: Option<Timestamp>,
    pub run_count: i64,
    /// Which retry of the flow run this task run belongs to.
    pub flow_run_run_count: i64,
    pub expected_start_time: Option<Timestamp>,
    pub next_scheduled_start_time: Option<Timestamp>,
    pub start_time: Option<Timestamp>,
    pub end_time: Option<Timestamp>,
    /// Seconds in running states that are over.
    pub total_run_time: f64,
    /// Read only: the current state.
    pub state: Option<State>,
}

impl TaskRun {
    /// A task run with a fresh id, a generated name and nothing else.
    pub fn new(flow_run_id: Option<FlowRunId>, task_key: impl Into<String>, dynamic_key: impl Into<String>, now: Timestamp) -> Self {
        Self {
            id: TaskRunId::fresh(),
            created: now,
            updated: now,
            name: run::generated_name(),
            flow_run_id,
            task_key: task_key.into(),
            dynamic_key: dynamic_key.into(),
            cache_key: None,
            cache_expiration: None,
            task_version: None,
            empirical_policy: TaskRunPolicy::default(),
            tags: Vec::new(),
            labels: Some(Labels::new()),
            state_id: None,
            task_inputs: TaskInputs::new(),
            state_type: None,
            state_name: None,
            state_timestamp: None,
            run_count: 0,
            flow_run_run_count: 0,
            expected_start_time: None,
            next_scheduled_start_time: None,
            start_time: None,
            end_time: None,
            total_run_time: 0.0,
            state: None,
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
    pub fn at(self, now: Timestamp) -> TaskRunResponse {
        TaskRunResponse { run: self, now }
    }
}

/// A task run as clients see it at a moment.
#[derive(Debug, Clone, PartialEq, JsonSchema)]
#[schemars(rename = "TaskRun", with = "Shown<'static>")]
pub struct TaskRunResponse {
    pub run: TaskRun,
    pub now: Timestamp,
}

impl TaskRunResponse {
    /// What a page of task runs has of it.
    pub fn paged(self) -> PagedTaskRun {
        let Self { run, now } = self;
        let moments = run.moments();
        PagedTaskRun {
            id: run.id,
            created: run.created,
            updated: run.updated,
            name: run.name,
            flow_run_id: run.flow_run_id,
            task_key: run.task_key,
            state_id: run.state_id,
            state: run.state,
            task_version: run.task_version,
            task_inputs: run.task_inputs,
            empirical_policy: run.empirical_policy,
            tags: run.tags,
            start_time: run.start_time,
            end_time: run.end_time,
            total_run_time: run.total_run_time,
            estimated_run_time: moments.estimated_run_time(now),
            estimated_start_time_delta: moments.estimated_start_time_delta(now),
        }
    }
}

/// A task run in a page of them: less than elsewhere, as the reference has it.
#[derive(Debug, Clone, PartialEq, Serialize, JsonSchema)]
pub struct PagedTaskRun {
    pub id: TaskRunId,
    #[serde(with = "json::timestamp")]
    pub created: Timestamp,
    #[serde(with = "json::timestamp")]
    pub updated: Timestamp,
    pub name: String,
    pub flow_run_id: Option<FlowRunId>,
    pub task_key: String,
    pub state_id: Option<StateId>,
    pub state: Option<State>,
    pub task_version: Option<String>,
    pub task_inputs: TaskInputs,
    pub empirical_policy: TaskRunPolicy,
    pub tags: Vec<String>,
    #[serde(with = "json::optional_timestamp")]
    pub start_time: Option<Timestamp>,
    #[serde(with = "json::optional_timestamp")]
    pub end_time: Option<Timestamp>,
    /// Seconds in running states that are over.
    pub total_run_time: f64,
    /// Seconds, with those of the running state.
    pub estimated_run_time: f64,
    /// Seconds that it started late, or is late.
    pub estimated_start_time_delta: f64,
}

/// A task run as the UI reads it.
#[derive(Debug, Clone, PartialEq, Serialize, JsonSchema)]
pub struct UiTaskRun {
    #[serde(flatten)]
    pub run: TaskRunResponse,
    pub flow_run_name: Option<String>,
}

/// A [`TaskRunResponse`], in the reference's order.
#[derive(Serialize, JsonSchema)]
struct Shown<'a> {
    id: TaskRunId,
    #[serde(with = "json::timestamp")]
    created: Timestamp,
    #[serde(with = "json::timestamp")]
    updated: Timestamp,
    name: &'a str,
    flow_run_id: Option<FlowRunId>,
    task_key: &'a str,
    dynamic_key: &'a str,
    cache_key: Option<&'a str>,
    #[serde(with = "json::optional_timestamp")]
    cache_expiration: Option<Timestamp>,
    task_version: Option<&'a str>,
    empirical_policy: &'a TaskRunPolicy,
    tags: &'a [String],
    #[schemars(with = "Option<labels::Form>")]
    labels: Option<&'a Labels>,
    state_id: Option<StateId>,
    task_inputs: &'a TaskInputs,
    state_type: Option<StateType>,
    state_name: Option<&'a str>,
    run_count: i64,
    /// Which retry of the flow run this task run belongs to.
    flow_run_run_count: i64,
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
    state: Option<&'a State>,
}

impl Serialize for TaskRunResponse {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let run = &self.run;
        let moments = run.moments();
        let shown = Shown {
            id: run.id,
            created: run.created,
            updated: run.updated,
            name: &run.name,
            flow_run_id: run.flow_run_id,
            task_key: &run.task_key,
            dynamic_key: &run.dynamic_key,
            cache_key: run.cache_key.as_deref(),
            cache_expiration: run.cache_expiration,
            task_version: run.task_version.as_deref(),
            empirical_policy: &run.empirical_policy,
            tags: &run.tags,
            labels: run.labels.as_ref(),
            state_id: run.state_id,
            task_inputs: &run.task_inputs,
            state_type: run.state_type,
            state_name: run.state_name.as_deref(),
            run_count: run.run_count,
            flow_run_run_count: run.flow_run_run_count,
            expected_start_time: run.expected_start_time,
            next_scheduled_start_time: run.next_scheduled_start_time,
            start_time: run.start_time,
            end_time: run.end_time,
            total_run_time: run.total_run_time,
            estimated_run_time: moments.estimated_run_time(self.now),
            estimated_start_time_delta: moments.estimated_start_time_delta(self.now),
            state: run.state.as_ref(),
        };
        shown.serialize(serializer)
    }
}

/// Body of `POST /task_runs/`.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct TaskRunCreate {
    #[serde(default)]
    pub id: Option<TaskRunId>,
    #[serde(default)]
    pub state: Option<StateCreate>,
    /// Empty, null and absent are the same: a name is made up.
    #[serde(default = "run::generated_name", deserialize_with = "run::name_or_generated")]
    #[schemars(default)]
    pub name: String,
    #[serde(default)]
    pub flow_run_id: Option<FlowRunId>,
    pub task_key: String,
    pub dynamic_key: String,
    #[serde(default, deserialize_with = "cache_key")]
    pub cache_key: Option<String>,
    #[serde(default, with = "json::optional_timestamp")]
    pub cache_expiration: Option<Timestamp>,
    #[serde(default)]
    pub task_version: Option<String>,
    #[serde(default, deserialize_with = "policy::of_task_body")]
    pub empirical_policy: TaskRunPolicy,
    #[serde(default)]
    pub tags: Vec<String>,
    #[serde(default, deserialize_with = "labels::deserialize")]
    #[schemars(with = "labels::Form")]
    pub labels: Labels,
    #[serde(default)]
    pub task_inputs: TaskInputs,
}

fn cache_key<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<String>, D::Error> {
    let key = Option::<String>::deserialize(deserializer)?;
    if key.as_ref().is_some_and(|key| key.chars().count() > CACHE_KEY_CHARACTERS) {
        return Err(invalid(
            "value_error",
            format_args!("Cache key exceeded maximum allowed length of {CACHE_KEY_CHARACTERS} characters."),
        ));
    }
    Ok(key)
}

/// Body of `PATCH /task_runs/{id}`.
#[derive(Debug, Clone, Default, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct TaskRunUpdate {
    #[serde(deserialize_with = "crate::model::flow_run::patched_name")]
    pub name: Patch<String>,
}

/// Order of a list of task runs.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum TaskRunSort {
    #[default]
    IdDesc,
    ExpectedStartTimeAsc,
    ExpectedStartTimeDesc,
    NameAsc,
    NameDesc,
    NextScheduledStartTimeAsc,
    EndTimeDesc,
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn inputs_keep_their_type() {
        let id = uuid::Uuid::nil();
        let cases = [
            (json!({"input_type": "task_run", "id": id}), json!({"input_type": "task_run", "id": id})),
            (json!({"id": id}), json!({"input_type": "task_run", "id": id})),
            (json!({"input_type": "flow_run", "id": id}), json!({"input_type": "flow_run", "id": id})),
            (json!({"name": "x"}), json!({"input_type": "parameter", "name": "x"})),
            (json!({"input_type": "constant", "type": "int"}), json!({"input_type": "constant", "type": "int"})),
        ];
        for (given, written) in cases {
            let input: RunInput = serde_json::from_value(given).expect("valid");
            assert_eq!(serde_json::to_string(&input).expect("serializes"), written.to_string());
        }
        assert!(serde_json::from_value::<RunInput>(json!({"input_type": "constant", "name": "x"})).is_err());
    }
}
