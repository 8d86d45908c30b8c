//! Filter over flow runs.

use schemars::JsonSchema;
use serde::Deserialize;
use uuid::Uuid;

use super::Operator;
use super::part::{AnyOf, AnyOfOrNot, AnyOfOrNull, Between, BetweenOrNull, NameLike, TagsOrAny};
use crate::id::{DeploymentId, FlowRunId, TaskRunId};
use crate::model::state::StateType;

/// Which flow runs.
#[derive(Debug, Clone, Default, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct FlowRunFilter {
    pub operator: Operator,
    pub id: Option<AnyOfOrNot<FlowRunId>>,
    pub name: Option<NameLike>,
    pub tags: Option<TagsOrAny>,
    pub deployment_id: Option<AnyOfOrNull<DeploymentId>>,
    pub work_queue_name: Option<AnyOfOrNull<String>>,
    pub state: Option<FlowRunFilterState>,
    pub flow_version: Option<AnyOf<String>>,
    /// By the expected start time where a run has not started.
    pub start_time: Option<BetweenOrNull>,
    pub end_time: Option<BetweenOrNull>,
    pub expected_start_time: Option<Between>,
    pub next_scheduled_start_time: Option<Between>,
    pub parent_flow_run_id: Option<FlowRunFilterParentFlowRunId>,
    pub parent_task_run_id: Option<AnyOfOrNull<TaskRunId>>,
    pub idempotency_key: Option<AnyOfOrNot<String>>,
    pub created_by: Option<FlowRunFilterCreatedBy>,
}

#[derive(Debug, Clone, Default, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct FlowRunFilterState {
    pub operator: Operator,
    #[serde(rename = "type")]
    pub kind: Option<AnyOfOrNot<StateType>>,
    pub name: Option<AnyOfOrNot<String>>,
}

/// Subflows of these flow runs.
#[derive(Debug, Clone, Default, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct FlowRunFilterParentFlowRunId {
    pub operator: Operator,
    pub any_: Option<Vec<FlowRunId>>,
}

#[derive(Debug, Clone, Default, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct FlowRunFilterCreatedBy {
    pub operator: Operator,
    pub id_: Option<Vec<Uuid>>,
    pub type_: Option<Vec<String>>,
    pub is_null_: Option<bool>,
}

impl FlowRunFilter {
    /// The runs with these ids.
    pub fn with_ids(ids: Vec<FlowRunId>) -> Self {
        Self { id: Some(AnyOfOrNot::of(ids)), ..Self::default() }
    }

    /// The ids asked for, where nothing else is asked: then no statement needs to look at the runs themselves.
    pub fn only_ids(&self) -> Option<&[FlowRunId]> {
        let Self {
            operator: _,
            id,
            name: None,
            tags: None,
            deployment_id: None,
            work_queue_name: None,
            state: None,
            flow_version: None,
            start_time: None,
            end_time: None,
            expected_start_time: None,
            next_scheduled_start_time: None,
            parent_flow_run_id: None,
            parent_task_run_id: None,
            idempotency_key: None,
            created_by: None,
        } = self
        else {
            return None;
        };
        let id = id.as_ref().filter(|id| id.not_any_.as_ref().is_none_or(Vec::is_empty))?;
        id.any_.as_deref().filter(|ids| !ids.is_empty())
    }
}
