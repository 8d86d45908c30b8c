//! `/work_pools`: pools, their queues and workers, and the poll for runs.

pub(crate) mod poll;
pub(crate) mod pools;
pub(crate) mod queues;
pub(crate) mod workers;

use crate::api::openapi::{Routes, delete, get, post};

/// The routes of this folder.
pub fn router() -> Routes {
    Routes::tagged("Work Pools")
        .route("/work_pools/", post(pools::create))
        .route("/work_pools/filter", post(pools::filter))
        .route("/work_pools/count", post(pools::count))
        .route("/work_pools/{name}", get(pools::read).patch(pools::update).delete(pools::delete))
        .route("/work_pools/{name}/concurrency_status", post(pools::concurrency_status))
        .route("/work_pools/{name}/get_scheduled_flow_runs", post(poll::get_scheduled_flow_runs))
        .route("/work_pools/{work_pool_name}/queues", post(queues::create))
        .route("/work_pools/{work_pool_name}/queues/filter", post(queues::filter))
        .route("/work_pools/{work_pool_name}/queues/{name}", get(queues::read).patch(queues::update).delete(queues::delete))
        .route("/work_pools/{work_pool_name}/workers/heartbeat", post(workers::heartbeat))
        .route("/work_pools/{work_pool_name}/workers/filter", post(workers::filter))
        .route("/work_pools/{work_pool_name}/workers/{name}", delete(workers::delete))
}
