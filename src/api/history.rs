//! The body of `/flow_runs/history` and `/task_runs/history`.

use axum::http::StatusCode;
use schemars::JsonSchema;
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
macro_rules! bodies {
    ($($(#[$doc:meta])* $name:ident, $runs:ident: $($filter:ident: $kind:ident),+;)*) => {$(
        $(#[$doc])*
        #[derive(Debug, Clone, Deserialize, JsonSchema)]
        pub struct $name {
            #[serde(with = "json::timestamp")]
            history_start: Timestamp,
            #[serde(with = "json::timestamp")]
            history_end: Timestamp,
            /// At least a second.
            #[serde(with = "json::seconds")]
            history_interval_seconds: f64,
            $(#[serde(default)]
            $filter: Option<$kind>,)+
        }

        impl $name {
            /// The history that is asked for.
            ///
            /// # Errors
            /// 422 where the intervals are shorter than a second.
            pub async fn answer(self, app: &App) -> Result<Vec<HistoryInterval>, ApiError> {
                let mut filters = Filters::default();
                $(filters.$filter = self.$filter;)+
                answer(app, Runs::$runs, &filters, (self.history_start, self.history_end), self.history_interval_seconds).await
            }
        }
    )*};
}

bodies! {
    /// Of flow runs.
    FlowRunHistoryBody, Flow:
        flows: FlowFilter,
        flow_runs: FlowRunFilter,
        task_runs: TaskRunFilter,
        deployments: DeploymentFilter,
        work_pools: WorkPoolFilter,
        work_queues: WorkQueueFilter;
    /// Of task runs.
    TaskRunHistoryBody, Task:
        flows: FlowFilter,
        flow_runs: FlowRunFilter,
        task_runs: TaskRunFilter,
        deployments: DeploymentFilter;
}

async fn answer(
    app: &App,
    runs: Runs,
    filters: &Filters,
    span: (Timestamp, Timestamp),
    interval_seconds: f64,
) -> Result<Vec<HistoryInterval>, ApiError> {
    if interval_seconds < 1.0 {
        return Err(ApiError::detail(StatusCode::UNPROCESSABLE_ENTITY, "History interval must not be less than 1 second."));
    }
    let interval_micros = (interval_seconds * 1e6).round() as i64;
    let mut tx = app.read("runs.history").await?;
    Ok(run_history::history(&mut tx, runs, filters, span, interval_micros, app.now()).await?)
}
