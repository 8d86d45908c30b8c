//! Filter over flows.

use schemars::JsonSchema;
use serde::Deserialize;

use super::Operator;
use super::part::{AnyOfOrNot, NameLike, Tags};
use crate::id::FlowId;

/// Which flows.
#[derive(Debug, Clone, Default, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct FlowFilter {
    pub operator: Operator,
    pub id: Option<AnyOfOrNot<FlowId>>,
    pub deployment: Option<FlowFilterDeployment>,
    pub name: Option<NameLike>,
    pub tags: Option<Tags>,
}

/// Flows with or without deployments.
#[derive(Debug, Clone, Default, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct FlowFilterDeployment {
    pub operator: Operator,
    pub is_null_: Option<bool>,
}
