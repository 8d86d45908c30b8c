//! Log lines (`prefect/server/schemas/{core,actions,sorting}.py`).

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::clock::Timestamp;
use crate::id::{FlowRunId, LogId, TaskRunId};
use crate::model::json;

/// A log line.
#[derive(Debug, Clone, PartialEq, Serialize, JsonSchema)]
pub struct Log {
    pub id: LogId,
    #[serde(with = "json::optional_timestamp")]
    pub created: Option<Timestamp>,
    #[serde(with = "json::optional_timestamp")]
    pub updated: Option<Timestamp>,
    /// The logger's name.
    pub name: String,
    /// Python's logging level: 20 is INFO.
    pub level: i32,
    pub message: String,
    #[serde(with = "json::timestamp")]
    pub timestamp: Timestamp,
    pub flow_run_id: Option<FlowRunId>,
    pub task_run_id: Option<TaskRunId>,
}

/// An item of the body of `POST /logs/`.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct LogCreate {
    pub name: String,
    pub level: i32,
    pub message: String,
    #[serde(with = "json::timestamp")]
    pub timestamp: Timestamp,
    #[serde(default)]
    pub flow_run_id: Option<FlowRunId>,
    #[serde(default)]
    pub task_run_id: Option<TaskRunId>,
}

impl LogCreate {
    /// The line with its id. Null bytes, which Postgres cannot hold, are left out.
    pub fn into_log(self, id: LogId) -> Log {
        let clean = |text: String| if text.contains('\0') { text.replace('\0', "") } else { text };
        Log {
            id,
            created: None,
            updated: None,
            name: clean(self.name),
            level: self.level,
            message: clean(self.message),
            timestamp: self.timestamp,
            flow_run_id: self.flow_run_id,
            task_run_id: self.task_run_id,
        }
    }
}

/// Order of a list of log lines.
#[derive(Debug, Clone, Copy, Default, Deserialize, JsonSchema)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum LogSort {
    #[default]
    TimestampAsc,
    TimestampDesc,
}
