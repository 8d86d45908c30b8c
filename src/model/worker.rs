//! Workers (`prefect/server/schemas/{core,responses,filters}.py`).

use serde::{Deserialize, Serialize};

use crate::clock::Timestamp;
use crate::id::{WorkPoolId, WorkerId};
use crate::model::filter::Operator;
use crate::model::json;
use crate::model::status::WorkerStatus;

/// A worker.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Worker {
    pub id: WorkerId,
    #[serde(with = "json::timestamp")]
    pub created: Timestamp,
    #[serde(with = "json::timestamp")]
    pub updated: Timestamp,
    pub name: String,
    pub work_pool_id: WorkPoolId,
    #[serde(with = "json::optional_timestamp")]
    pub last_heartbeat_time: Option<Timestamp>,
    pub heartbeat_interval_seconds: Option<i64>,
    /// As last written: the foreman notes who has gone silent.
    pub status: WorkerStatus,
}

/// Body of `POST /work_pools/{name}/workers/heartbeat`.
#[derive(Debug, Clone, Deserialize)]
pub struct WorkerHeartbeat {
    pub name: String,
    #[serde(default)]
    pub heartbeat_interval_seconds: Option<i32>,
}

/// Which workers.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub struct WorkerFilter {
    pub operator: Operator,
    pub last_heartbeat_time: Option<WorkerFilterHeartbeat>,
    pub status: Option<WorkerFilterStatus>,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub struct WorkerFilterHeartbeat {
    #[serde(with = "json::optional_timestamp")]
    pub before_: Option<Timestamp>,
    #[serde(with = "json::optional_timestamp")]
    pub after_: Option<Timestamp>,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub struct WorkerFilterStatus {
    pub any_: Option<Vec<WorkerStatus>>,
    pub not_any_: Option<Vec<WorkerStatus>>,
}
