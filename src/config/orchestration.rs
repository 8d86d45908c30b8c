//! What the rules of run orchestration and the queries beside them are tuned by.

use std::time::Duration;

use super::reader::Reader;

/// Settings of orchestration.
#[derive(Clone, Debug)]
pub struct OrchestrationSettings {
    /// `PREFECT_SERVER_TASKS_TAG_CONCURRENCY_SLOT_WAIT_SECONDS`: how long a task run without a slot is told to wait;
    /// default 10.
    pub tag_concurrency_slot_wait: Duration,
    /// `PREFECT_SERVER_DEPLOYMENTS_CONCURRENCY_SLOT_WAIT_SECONDS`: the same for a run of a deployment; default 30.
    pub deployment_concurrency_slot_wait: Duration,
    /// `PREFECT_SERVER_CONCURRENCY_INITIAL_DEPLOYMENT_LEASE_DURATION`: seconds of the first lease, 30 to 3600;
    /// default 300.
    pub initial_deployment_lease: Duration,
    /// `PREFECT_SERVER_CONCURRENCY_MAXIMUM_CONCURRENCY_SLOT_WAIT_SECONDS`: the longest wait told; default 30.
    pub maximum_concurrency_slot_wait: Duration,
    /// `PREFECT_SERVER_TASKS_MAX_CACHE_KEY_LENGTH`: characters of a cache key; default 2000.
    pub max_cache_key_length: usize,
    /// `PREFECT_SERVER_TASKS_SCHEDULING_MAX_SCHEDULED_QUEUE_SIZE`: background tasks waiting per key; default 1000.
    pub max_scheduled_queue_size: usize,
    /// `PREFECT_SERVER_TASKS_SCHEDULING_MAX_RETRY_QUEUE_SIZE`: the same for retries; default 100.
    pub max_retry_queue_size: usize,
    /// `PREFECT_SERVER_TASKS_SCHEDULING_PENDING_TASK_TIMEOUT`: after how long a pending background task is offered
    /// again; default 0 (never).
    pub pending_task_timeout: Duration,
    /// `PREFECT_SERVER_DEPLOYMENT_SCHEDULE_MAX_SCHEDULED_RUNS`: runs made ahead per schedule; default 50.
    pub max_scheduled_runs: u64,
    /// `PREFECT_SERVER_FLOW_RUN_GRAPH_MAX_NODES`: default 10,000.
    pub graph_max_nodes: usize,
    /// `PREFECT_SERVER_FLOW_RUN_GRAPH_MAX_ARTIFACTS`: default 10,000.
    pub graph_max_artifacts: usize,
    /// `PREFECT_SERVER_WORKER_CHANNEL_CLEANUP_LEASE_SECONDS`: how long a worker may take over a cleanup; default 30.
    pub cleanup_lease: Duration,
    /// `PREFECT_SERVER_WORKER_CHANNEL_CLEANUP_MAX_DELIVERY_ATTEMPTS`: default 3.
    pub cleanup_max_delivery_attempts: u32,
}

impl OrchestrationSettings {
    pub(super) fn read(reader: &mut Reader<'_>) -> Self {
        let seconds = Duration::from_secs;
        Self {
            tag_concurrency_slot_wait: reader.value(
                &["PREFECT_SERVER_TASKS_TAG_CONCURRENCY_SLOT_WAIT_SECONDS", "PREFECT_TASK_RUN_TAG_CONCURRENCY_SLOT_WAIT_SECONDS"],
                seconds(10),
            ),
            deployment_concurrency_slot_wait: reader.value(
                &["PREFECT_SERVER_DEPLOYMENTS_CONCURRENCY_SLOT_WAIT_SECONDS", "PREFECT_DEPLOYMENT_CONCURRENCY_SLOT_WAIT_SECONDS"],
                seconds(30),
            ),
            initial_deployment_lease: Duration::from_secs_f64(reader.within(
                &["PREFECT_SERVER_CONCURRENCY_INITIAL_DEPLOYMENT_LEASE_DURATION"],
                300.0,
                30.0,
                3600.0,
            )),
            maximum_concurrency_slot_wait: reader.value(&["PREFECT_SERVER_CONCURRENCY_MAXIMUM_CONCURRENCY_SLOT_WAIT_SECONDS"], seconds(30)),
            max_cache_key_length: reader
                .value(&["PREFECT_SERVER_TASKS_MAX_CACHE_KEY_LENGTH", "PREFECT_API_TASK_CACHE_KEY_MAX_LENGTH"], 2000),
            max_scheduled_queue_size: reader.value(
                &["PREFECT_SERVER_TASKS_SCHEDULING_MAX_SCHEDULED_QUEUE_SIZE", "PREFECT_TASK_SCHEDULING_MAX_SCHEDULED_QUEUE_SIZE"],
                1000,
            ),
            max_retry_queue_size: reader
                .value(&["PREFECT_SERVER_TASKS_SCHEDULING_MAX_RETRY_QUEUE_SIZE", "PREFECT_TASK_SCHEDULING_MAX_RETRY_QUEUE_SIZE"], 100),
            pending_task_timeout: reader.value(
                &["PREFECT_SERVER_TASKS_SCHEDULING_PENDING_TASK_TIMEOUT", "PREFECT_TASK_SCHEDULING_PENDING_TASK_TIMEOUT"],
                Duration::ZERO,
            ),
            max_scheduled_runs: reader
                .value(&["PREFECT_SERVER_DEPLOYMENT_SCHEDULE_MAX_SCHEDULED_RUNS", "PREFECT_DEPLOYMENT_SCHEDULE_MAX_SCHEDULED_RUNS"], 50),
            graph_max_nodes: reader.value(&["PREFECT_SERVER_FLOW_RUN_GRAPH_MAX_NODES", "PREFECT_API_MAX_FLOW_RUN_GRAPH_NODES"], 10_000),
            graph_max_artifacts: reader
                .value(&["PREFECT_SERVER_FLOW_RUN_GRAPH_MAX_ARTIFACTS", "PREFECT_API_MAX_FLOW_RUN_GRAPH_ARTIFACTS"], 10_000),
            cleanup_lease: reader.positive(&["PREFECT_SERVER_WORKER_CHANNEL_CLEANUP_LEASE_SECONDS"], 30.0),
            cleanup_max_delivery_attempts: reader.within(&["PREFECT_SERVER_WORKER_CHANNEL_CLEANUP_MAX_DELIVERY_ATTEMPTS"], 3, 1, 1000),
        }
    }
}
