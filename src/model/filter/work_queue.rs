//! Filter over work queues.

use schemars::JsonSchema;
use serde::Deserialize;

use super::Operator;
use super::part::AnyOf;
use crate::id::WorkQueueId;

/// Which work queues.
#[derive(Debug, Clone, Default, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct WorkQueueFilter {
    pub operator: Operator,
    pub id: Option<AnyOf<WorkQueueId>>,
    pub name: Option<WorkQueueFilterName>,
}

#[derive(Debug, Clone, Default, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct WorkQueueFilterName {
    pub any_: Option<Vec<String>>,
    /// Case-insensitive beginnings, with SQL wildcards.
    pub startswith_: Option<Vec<String>>,
}
