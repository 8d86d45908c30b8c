//! Filter over task runs.

use schemars::JsonSchema;
use serde::Deserialize;

use super::Operator;
use super::part::{AnyOf, Between, BetweenOrNull, NameLike, Tags};
use crate::id::{FlowRunId, TaskRunId};
use crate::model::state::StateType;

/// Which task runs.
#[derive(Debug, Clone, Default, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct TaskRunFilter {
    pub operator: Operator,
    pub id: Option<AnyOf<TaskRunId>>,
    pub name: Option<NameLike>,
    pub tags: Option<Tags>,
    pub state: Option<TaskRunFilterState>,
    pub start_time: Option<BetweenOrNull>,
    pub end_time: Option<BetweenOrNull>,
    pub expected_start_time: Option<Between>,
    pub subflow_runs: Option<TaskRunFilterSubFlowRuns>,
    pub flow_run_id: Option<TaskRunFilterFlowRunId>,
}

#[derive(Debug, Clone, Default, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct TaskRunFilterState {
    pub operator: Operator,
    #[serde(rename = "type")]
    pub kind: Option<AnyOf<StateType>>,
    pub name: Option<AnyOf<String>>,
}

/// Task runs that stand for a subflow, or that do not.
#[derive(Debug, Clone, Default, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct TaskRunFilterSubFlowRuns {
    pub exists_: Option<bool>,
}

/// `is_null_` is false unless given: without `any_`, task runs of any flow run.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct TaskRunFilterFlowRunId {
    pub operator: Operator,
    pub any_: Option<Vec<FlowRunId>>,
    pub is_null_: Option<bool>,
}

impl Default for TaskRunFilterFlowRunId {
    fn default() -> Self {
        Self { operator: Operator::And, any_: None, is_null_: Some(false) }
    }
}
