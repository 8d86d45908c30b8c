//! Filters over artifacts and collections of artifacts.

use schemars::JsonSchema;
use serde::Deserialize;

use super::Operator;
use super::part::{AnyOf, AnyOfOrNot};
use crate::id::{ArtifactId, FlowRunId, TaskRunId};

/// Which artifacts.
#[derive(Debug, Clone, Default, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct ArtifactFilter {
    pub operator: Operator,
    pub id: Option<AnyOf<ArtifactId>>,
    pub key: Option<ArtifactFilterKey>,
    pub flow_run_id: Option<AnyOf<FlowRunId>>,
    pub task_run_id: Option<AnyOf<TaskRunId>>,
    pub r#type: Option<AnyOfOrNot<String>>,
}

/// Which collections.
#[derive(Debug, Clone, Default, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct ArtifactCollectionFilter {
    pub operator: Operator,
    pub latest_id: Option<AnyOf<ArtifactId>>,
    pub key: Option<ArtifactFilterKey>,
    pub flow_run_id: Option<AnyOf<FlowRunId>>,
    pub task_run_id: Option<AnyOf<TaskRunId>>,
    pub r#type: Option<AnyOfOrNot<String>>,
}

#[derive(Debug, Clone, Default, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct ArtifactFilterKey {
    pub any_: Option<Vec<String>>,
    /// Case-insensitive part of the key, with SQL wildcards.
    pub like_: Option<String>,
    pub exists_: Option<bool>,
}
