//! Filters over deployments and their schedules.

use schemars::JsonSchema;
use serde::Deserialize;

use super::Operator;
use super::part::{AnyOf, AnyOfOrNot, Equal, NameLike, TagsOrAny};
use crate::id::DeploymentId;

/// Which deployments.
#[derive(Debug, Clone, Default, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct DeploymentFilter {
    pub operator: Operator,
    pub id: Option<AnyOfOrNot<DeploymentId>>,
    pub name: Option<NameLike>,
    pub flow_or_deployment_name: Option<DeploymentOrFlowNameFilter>,
    pub paused: Option<Equal>,
    pub tags: Option<TagsOrAny>,
    pub work_queue_name: Option<AnyOf<String>>,
    /// Deprecated: accepted, restricts nothing.
    pub concurrency_limit: Option<DeploymentFilterConcurrencyLimit>,
}

/// A case-insensitive part of the deployment's or the flow's name.
#[derive(Debug, Clone, Default, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct DeploymentOrFlowNameFilter {
    pub like_: Option<String>,
}

#[derive(Debug, Clone, Default, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct DeploymentFilterConcurrencyLimit {
    pub ge_: Option<i64>,
    pub le_: Option<i64>,
    pub is_null_: Option<bool>,
}

/// Which schedules of a deployment.
#[derive(Debug, Clone, Default, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct DeploymentScheduleFilter {
    pub operator: Operator,
    pub active: Option<Equal>,
}
