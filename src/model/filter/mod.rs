//! Filters as clients send them, one file per filtered entity. `store/filter/` turns them into conditions.
//!
//! Every operator is optional; an absent or null one does not restrict. Filter objects with an `operator` join what they
//! hold by it. Unknown keys are refused, as the reference does.

pub mod artifact;
pub mod automation;
pub mod block;
pub mod deployment;
pub mod flow;
pub mod flow_run;
pub mod log;
pub mod part;
pub mod task_run;
pub mod event;
pub mod variable;
pub mod work_pool;
pub mod work_queue;

use schemars::JsonSchema;
use serde::Deserialize;

/// How the parts of a filter object are joined.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize, JsonSchema)]
pub enum Operator {
    /// All must hold.
    #[default]
    #[serde(rename = "and_")]
    And,
    /// One must hold.
    #[serde(rename = "or_")]
    Or,
}

/// Filters on an entity and on what is related to it, as list bodies hold them side by side.
#[derive(Debug, Clone, Default)]
pub struct Filters {
    pub flows: Option<flow::FlowFilter>,
    pub flow_runs: Option<flow_run::FlowRunFilter>,
    pub task_runs: Option<task_run::TaskRunFilter>,
    pub deployments: Option<deployment::DeploymentFilter>,
    pub work_pools: Option<work_pool::WorkPoolFilter>,
    pub work_queues: Option<work_queue::WorkQueueFilter>,
}

/// For fields whose explicit `null` means the same as absent.
///
/// # Errors
/// As `T`.
pub fn null_is_default<'de, D: serde::Deserializer<'de>, T: Deserialize<'de> + Default>(deserializer: D) -> Result<T, D::Error> {
    Option::<T>::deserialize(deserializer).map(Option::unwrap_or_default)
}
