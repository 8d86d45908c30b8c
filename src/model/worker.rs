//! Workers (`prefect/server/schemas/{core,responses,filters}.py`).

use chrono::TimeDelta;
use serde::{Deserialize, Serialize};

use crate::clock::Timestamp;
use crate::id::{WorkPoolId, WorkerId};
use crate::model::filter::Operator;
use crate::model::json;
use crate::model::status::WorkerStatus;

/// Seconds between heartbeats of a worker that does not say.
pub const HEARTBEAT_SECONDS: i64 = 30;

/// Heartbeats that a worker may miss before it counts as offline.
pub const INACTIVITY_HEARTBEATS: i64 = 3;

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
    pub status: WorkerStatus,
}

impl Worker {
    /// The worker as clients see it: its status is judged by its last heartbeat, not by what was written.
    #[must_use]
    pub fn shown(mut self, now: Timestamp) -> Self {
        let interval = self.heartbeat_interval_seconds.filter(|seconds| *seconds != 0).unwrap_or(HEARTBEAT_SECONDS);
        let horizon = now - TimeDelta::try_seconds(interval.saturating_mul(INACTIVITY_HEARTBEATS)).unwrap_or(TimeDelta::MAX);
        let online = self.last_heartbeat_time.is_some_and(|last| last > horizon);
        self.status = if online { WorkerStatus::Online } else { WorkerStatus::Offline };
        self
    }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_worker_is_offline_after_three_missed_heartbeats() {
        let now = json::parse_timestamp("2026-01-02T03:04:05Z").expect("valid");
        let worker = |seconds, interval| Worker {
            id: WorkerId::fresh(),
            created: now,
            updated: now,
            name: "w".into(),
            work_pool_id: WorkPoolId::fresh(),
            last_heartbeat_time: Some(now - TimeDelta::seconds(seconds)),
            heartbeat_interval_seconds: interval,
            status: WorkerStatus::Online,
        };
        assert_eq!(worker(89, None).shown(now).status, WorkerStatus::Online);
        assert_eq!(worker(90, None).shown(now).status, WorkerStatus::Offline);
        assert_eq!(worker(29, Some(10)).shown(now).status, WorkerStatus::Online);
        assert_eq!(worker(31, Some(10)).shown(now).status, WorkerStatus::Offline);
    }
}
