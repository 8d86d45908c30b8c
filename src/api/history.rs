//! The body of `/flow_runs/history` and `/task_runs/history`.

use axum::http::StatusCode;
use serde::Deserialize;

use crate::api::error::ApiError;
use crate::app::App;
use crate::clock::Timestamp;
use crate::model::filter::Filters;
use crate::model::filter::deployment::DeploymentFilter;
use crate::model::filter::flow::FlowFilter;
use crate::model::filter::flow_run::FlowRunFilter;
use crate::model::filter::task_run::TaskRunFilter;
use crate::model::filter::work_pool::WorkPoolFilter;
use crate::model::filter::work_queue::WorkQueueFilter;
use crate::model::json;
use crate::model::run::HistoryInterval;
use crate::store::run_history::{self, Runs};

/// A span of time, the length of its intervals, and which runs.
#[derive(Debug, Clone, Deserialize)]
pub struct HistoryBody {
    #[serde(with = "json::timestamp")]
    history_start: Timestamp,
    #[serde(with = "json::timestamp")]
    history_end: Timestamp,
    /// At least a second.
    #[serde(with = "json::seconds")]
    history_interval_seconds: f64,
    #[serde(default)]
    flows: Option<FlowFilter>,
    #[serde(default)]
    flow_runs: Option<FlowRunFilter>,
    #[serde(default)]
    task_runs: Option<TaskRunFilter>,
    #[serde(default)]
    deployments: Option<DeploymentFilter>,
    #[serde(default)]
    work_pools: Option<WorkPoolFilter>,
    #[serde(default)]
    work_queues: Option<WorkQueueFilter>,
}

impl HistoryBody {
    /// The history that is asked for.
    ///
    /// # Errors
    /// 422 where the intervals are shorter than a second.
    pub async fn answer(self, app: &App, runs: Runs) -> Result<Vec<HistoryInterval>, ApiError> {
        if self.history_interval_seconds < 1.0 {
            return Err(ApiError::detail(StatusCode::UNPROCESSABLE_ENTITY, "History interval must not be less than 1 second."));
        }
        let interval_micros = (self.history_interval_seconds * 1e6).round() as i64;
        let filters = Filters {
            flows: self.flows,
            flow_runs: self.flow_runs,
            task_runs: self.task_runs,
            deployments: self.deployments,
            work_pools: self.work_pools,
            work_queues: self.work_queues,
        };
        let mut tx = app.read("runs.history").await?;
        Ok(run_history::history(&mut tx, runs, &filters, (self.history_start, self.history_end), interval_micros, app.now()).await?)
    }
}
