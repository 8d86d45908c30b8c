//! Work queues (`prefect/server/schemas/{core,actions,responses}.py`).

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::clock::Timestamp;
use crate::id::{DeploymentId, WorkPoolId, WorkQueueId};
use crate::model::status::WorkQueueStatus;
use crate::model::work_pool::SlotHolder;
use crate::model::{Patch, bounds, json};

/// A work queue.
#[derive(Debug, Clone, PartialEq, Serialize, JsonSchema)]
pub struct WorkQueue {
    pub id: WorkQueueId,
    #[serde(with = "json::timestamp")]
    pub created: Timestamp,
    #[serde(with = "json::timestamp")]
    pub updated: Timestamp,
    pub name: String,
    pub description: Option<String>,
    pub is_paused: bool,
    pub concurrency_limit: Option<i64>,
    /// From 1, which is served first.
    pub priority: i64,
    pub work_pool_id: Option<WorkPoolId>,
    /// Old queues pick runs by tags and deployments instead of being named by them.
    pub filter: Option<QueueFilter>,
    #[serde(with = "json::optional_timestamp")]
    pub last_polled: Option<Timestamp>,
    pub work_pool_name: Option<String>,
    pub status: Option<WorkQueueStatus>,
    /// Runs that hold a slot; none where the queue has no limit.
    pub active_slots: Option<i64>,
    /// Type of the pool, for events.
    #[serde(skip)]
    pub work_pool_type: Option<String>,
}

/// A work queue without what depends on its pool and its runs, as `work_queue_check` answers it.
#[derive(Debug, Clone, PartialEq, Serialize, JsonSchema)]
pub struct BareWorkQueue {
    pub id: WorkQueueId,
    #[serde(with = "json::timestamp")]
    pub created: Timestamp,
    #[serde(with = "json::timestamp")]
    pub updated: Timestamp,
    pub name: String,
    pub description: Option<String>,
    pub is_paused: bool,
    pub concurrency_limit: Option<i64>,
    pub priority: i64,
    pub work_pool_id: Option<WorkPoolId>,
    pub filter: Option<QueueFilter>,
    #[serde(with = "json::optional_timestamp")]
    pub last_polled: Option<Timestamp>,
}

impl From<WorkQueue> for BareWorkQueue {
    fn from(queue: WorkQueue) -> Self {
        let WorkQueue {
            id,
            created,
            updated,
            name,
            description,
            is_paused,
            concurrency_limit,
            priority,
            work_pool_id,
            filter,
            last_polled,
            ..
        } = queue;
        Self { id, created, updated, name, description, is_paused, concurrency_limit, priority, work_pool_id, filter, last_polled }
    }
}

/// Which runs an old queue picks.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct QueueFilter {
    pub tags: Option<Vec<String>>,
    pub deployment_ids: Option<Vec<DeploymentId>>,
}

/// Body of `POST /work_pools/{name}/queues` and `POST /work_queues/`.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct WorkQueueCreate {
    #[serde(deserialize_with = "bounds::named")]
    pub name: String,
    #[serde(default)]
    pub description: Option<String>,
    #[serde(default)]
    pub is_paused: bool,
    #[serde(default, deserialize_with = "bounds::non_negative")]
    pub concurrency_limit: Option<i64>,
    /// Absent: the first that is free.
    #[serde(default, deserialize_with = "bounds::positive")]
    pub priority: Option<i64>,
    #[serde(default)]
    pub filter: Option<QueueFilter>,
}

impl WorkQueueCreate {
    /// A queue with nothing but a name.
    pub fn named(name: impl Into<String>) -> Self {
        Self { name: name.into(), description: None, is_paused: false, concurrency_limit: None, priority: None, filter: None }
    }
}

/// Body of `PATCH /work_pools/{name}/queues/{queue}` and `PATCH /work_queues/{id}`.
#[derive(Debug, Clone, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct WorkQueueUpdate {
    pub name: Patch<String>,
    pub description: Patch<String>,
    pub is_paused: Patch<bool>,
    #[serde(deserialize_with = "bounds::patched_non_negative")]
    pub concurrency_limit: Patch<i64>,
    #[serde(deserialize_with = "bounds::patched_positive")]
    pub priority: Patch<i64>,
    #[serde(deserialize_with = "bounds::patched_timestamp")]
    pub last_polled: Patch<Timestamp>,
    pub filter: Patch<QueueFilter>,
}

/// What `POST /work_queues/{id}/concurrency_status` answers.
#[derive(Debug, Clone, Serialize, JsonSchema)]
pub struct WorkQueueConcurrencyStatus {
    pub active_slots: i64,
    pub concurrency_limit: Option<i64>,
    pub flow_runs: Vec<SlotHolder>,
    pub count: u64,
    pub limit: u64,
    pub pages: u64,
    pub page: u64,
}

/// What `GET /work_queues/{id}/status` answers.
#[derive(Debug, Clone, PartialEq, Serialize, JsonSchema)]
pub struct WorkQueueStatusDetail {
    pub healthy: bool,
    pub late_runs_count: i64,
    #[serde(with = "json::optional_timestamp")]
    pub last_polled: Option<Timestamp>,
    pub health_check_policy: HealthPolicy,
}

/// When a queue counts as healthy.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, JsonSchema)]
pub struct HealthPolicy {
    pub maximum_late_runs: i64,
    pub maximum_seconds_since_last_polled: i64,
}

impl HealthPolicy {
    /// The policy of every queue.
    pub const DEFAULT: Self = Self { maximum_late_runs: 0, maximum_seconds_since_last_polled: 60 };

    /// Judges a queue.
    pub fn is_healthy(self, late_runs: i64, last_polled: Option<Timestamp>, now: Timestamp) -> bool {
        let limit = chrono::TimeDelta::seconds(self.maximum_seconds_since_last_polled);
        late_runs <= self.maximum_late_runs && last_polled.is_some_and(|polled| now - polled <= limit)
    }
}

/// Gives the queues of a pool priorities such that `wanted` are met, all are unique and the order stays, with as few
/// changes as possible. `queues` are in order of priority; the answer has only those that change.
pub fn arrange(queues: &[(WorkQueueId, i64)], wanted: &[(WorkQueueId, i64)]) -> Vec<(WorkQueueId, i64)> {
    let wish_of = |id: WorkQueueId| wanted.iter().find(|wish| wish.0 == id).map(|wish| wish.1);
    let mut arranged: Vec<(WorkQueueId, i64)> = queues.iter().copied().filter(|queue| wish_of(queue.0).is_none()).collect();
    let mut moved: Vec<(WorkQueueId, i64)> = queues.iter().filter_map(|queue| wish_of(queue.0).map(|wish| (queue.0, wish))).collect();
    moved.sort_by_key(|queue| queue.1);
    for queue in moved {
        let position = arranged.iter().position(|other| other.1 >= queue.1).unwrap_or(arranged.len());
        arranged.insert(position, queue);
    }
    let mut last = 0;
    for queue in &mut arranged {
        if queue.1 <= last {
            queue.1 = last + 1;
        }
        last = queue.1;
    }
    arranged.retain(|queue| !queues.contains(queue));
    arranged
}

/// The first priority that none of `taken` has.
pub fn free_priority(taken: &[i64]) -> i64 {
    let mut sorted = taken.to_vec();
    sorted.sort_unstable();
    let gap = sorted.iter().zip(1..).find(|(taken, rank)| **taken != *rank).map(|(_, rank)| rank);
    gap.unwrap_or_else(|| sorted.last().copied().unwrap_or(0) + 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn priorities_stay_unique_and_change_little() {
        let ids: Vec<WorkQueueId> = (0..4).map(|_| WorkQueueId::fresh()).collect();
        let queues: Vec<(WorkQueueId, i64)> = ids.iter().copied().zip([1, 2, 3, 7]).collect();
        assert_eq!(arrange(&queues, &[]), []);
        assert_eq!(arrange(&queues, &[(ids[0], 5)]), [(ids[0], 5)]);
        assert_eq!(arrange(&queues, &[(ids[2], 1)]), [(ids[2], 1), (ids[0], 2), (ids[1], 3)]);
        assert_eq!(arrange(&queues, &[(ids[3], 2)]), [(ids[3], 2), (ids[1], 3), (ids[2], 4)]);
        let double: Vec<(WorkQueueId, i64)> = ids.iter().copied().zip([1, 1, 2, 9]).collect();
        assert_eq!(arrange(&double, &[]), [(ids[1], 2), (ids[2], 3)]);
    }

    #[test]
    fn the_first_gap_is_taken() {
        assert_eq!(free_priority(&[]), 1);
        assert_eq!(free_priority(&[2, 1]), 3);
        assert_eq!(free_priority(&[1, 3]), 2);
        assert_eq!(free_priority(&[5]), 1);
    }

    #[test]
    fn a_queue_is_healthy_when_polled_lately_and_nothing_is_late() {
        let now = json::parse_timestamp("2026-01-02T03:04:05Z").expect("valid");
        let ago = |seconds| Some(now - chrono::TimeDelta::seconds(seconds));
        assert!(HealthPolicy::DEFAULT.is_healthy(0, ago(60), now));
        assert!(!HealthPolicy::DEFAULT.is_healthy(1, ago(1), now));
        assert!(!HealthPolicy::DEFAULT.is_healthy(0, ago(61), now));
        assert!(!HealthPolicy::DEFAULT.is_healthy(0, None, now));
    }
}
