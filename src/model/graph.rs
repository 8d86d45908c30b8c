//! Graphs of a flow run's task runs and subflow runs (`prefect/server/schemas/graph.py`).

use schemars::JsonSchema;
use serde::Serialize;
use serde_json::Value;
use uuid::Uuid;

use crate::clock::Timestamp;
use crate::id::{ArtifactId, StateId, TaskRunId};
use crate::model::json;
use crate::model::state::{State, StateType};
use crate::model::task_run::{RunInput, TaskRun};

/// The graph that the UI draws.
#[derive(Debug, Clone, PartialEq, Serialize, JsonSchema)]
pub struct Graph {
    #[serde(with = "json::optional_timestamp")]
    pub start_time: Option<Timestamp>,
    #[serde(with = "json::optional_timestamp")]
    pub end_time: Option<Timestamp>,
    pub root_node_ids: Vec<Uuid>,
    pub nodes: Vec<(Uuid, Node)>,
    pub artifacts: Vec<GraphArtifact>,
    pub states: Vec<GraphState>,
}

/// What a node stands for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum NodeKind {
    FlowRun,
    TaskRun,
}

/// A task run, or the flow run that a task run stands for.
#[derive(Debug, Clone, PartialEq, Serialize, JsonSchema)]
pub struct Node {
    pub kind: NodeKind,
    pub id: Uuid,
    pub label: String,
    pub state_type: StateType,
    #[serde(with = "json::timestamp")]
    pub start_time: Timestamp,
    #[serde(with = "json::optional_timestamp")]
    pub end_time: Option<Timestamp>,
    pub parents: Vec<Edge>,
    pub children: Vec<Edge>,
    pub encapsulating: Vec<Edge>,
    pub artifacts: Vec<GraphArtifact>,
}

/// The other end of an edge.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, JsonSchema)]
pub struct Edge {
    pub id: Uuid,
}

/// An artifact made by a node or by the flow run itself.
#[derive(Debug, Clone, PartialEq, Serialize, JsonSchema)]
pub struct GraphArtifact {
    pub id: ArtifactId,
    #[serde(with = "json::timestamp")]
    pub created: Timestamp,
    pub key: Option<String>,
    #[serde(rename = "type")]
    pub kind: Option<String>,
    pub is_latest: bool,
    /// Of progress artifacts only.
    pub data: Option<Value>,
}

/// A state of the flow run.
#[derive(Debug, Clone, PartialEq, Serialize, JsonSchema)]
pub struct GraphState {
    pub id: StateId,
    #[serde(with = "json::timestamp")]
    pub timestamp: Timestamp,
    #[serde(rename = "type")]
    pub kind: StateType,
    pub name: String,
}

impl From<State> for GraphState {
    fn from(state: State) -> Self {
        Self { id: state.id, timestamp: state.timestamp, kind: state.kind, name: state.name }
    }
}

/// A task run that another one waits for.
#[derive(Debug, Clone, PartialEq, Serialize, JsonSchema)]
pub struct Upstream {
    /// Always `task_run`.
    pub input_type: &'static str,
    pub id: TaskRunId,
}

/// A task run and what it waits for: the first form of the graph.
#[derive(Debug, Clone, PartialEq, Serialize, JsonSchema)]
pub struct Dependencies {
    pub id: TaskRunId,
    pub name: String,
    pub upstream_dependencies: Vec<Upstream>,
    pub state: Option<State>,
    #[serde(with = "json::optional_timestamp")]
    pub expected_start_time: Option<Timestamp>,
    #[serde(with = "json::optional_timestamp")]
    pub start_time: Option<Timestamp>,
    #[serde(with = "json::optional_timestamp")]
    pub end_time: Option<Timestamp>,
    pub total_run_time: f64,
    pub estimated_run_time: f64,
    pub untrackable_result: bool,
}

impl Dependencies {
    /// Of a task run at `now`; each dependency once.
    pub fn of(run: TaskRun, now: Timestamp) -> Self {
        let mut upstream_dependencies: Vec<Upstream> = Vec::new();
        for input in run.task_inputs.values().flatten() {
            let RunInput::TaskRun { id } = input else { continue };
            if upstream_dependencies.iter().all(|known| known.id != *id) {
                upstream_dependencies.push(Upstream { input_type: "task_run", id: *id });
            }
        }
        let estimated_run_time = run.moments().estimated_run_time(now);
        Self {
            id: run.id,
            name: run.name,
            upstream_dependencies,
            expected_start_time: run.expected_start_time,
            start_time: run.start_time,
            end_time: run.end_time,
            total_run_time: run.total_run_time,
            estimated_run_time,
            untrackable_result: run.state.as_ref().is_some_and(|state| state.state_details.untrackable_result),
            state: run.state,
        }
    }
}
