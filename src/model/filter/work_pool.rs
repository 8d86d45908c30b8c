//! Filter over work pools.

use schemars::JsonSchema;
use serde::Deserialize;

use super::Operator;
use super::part::AnyOf;
use crate::id::WorkPoolId;

/// Which work pools.
#[derive(Debug, Clone, Default, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct WorkPoolFilter {
    pub operator: Operator,
    pub id: Option<AnyOf<WorkPoolId>>,
    pub name: Option<AnyOf<String>>,
    #[serde(rename = "type")]
    pub kind: Option<AnyOf<String>>,
}
