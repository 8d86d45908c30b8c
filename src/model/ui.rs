//! What only the UI sees (`prefect/server/api/ui/*.py`).

use schemars::JsonSchema;
use serde::Serialize;

use crate::clock::Timestamp;
use crate::id::{FlowId, FlowRunId};
use crate::model::json;
use crate::model::state::StateType;

/// A flow run as a bar of a chart.
#[derive(Debug, Clone, PartialEq, Serialize, JsonSchema)]
pub struct SimpleFlowRun {
    pub id: FlowRunId,
    pub state_type: StateType,
    /// When it started, or is expected to.
    #[serde(with = "json::timestamp")]
    pub timestamp: Timestamp,
    /// Seconds.
    pub duration: f64,
    /// Seconds.
    pub lateness: f64,
}

/// The run of a flow that starts next.
#[derive(Debug, Clone, PartialEq, Serialize, JsonSchema)]
pub struct NextFlowRun {
    pub id: FlowRunId,
    pub flow_id: FlowId,
    pub name: String,
    pub state_name: String,
    pub state_type: StateType,
    #[serde(with = "json::timestamp")]
    pub next_scheduled_start_time: Timestamp,
}

/// Task runs that ended in a piece of time.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, JsonSchema)]
pub struct TaskRunCount {
    pub completed: i64,
    pub failed: i64,
}
