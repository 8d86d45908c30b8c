//! The body of list, count and paginate requests over flows, runs and deployments: filters side by side, order, page.

use serde::{Deserialize, Deserializer};

use crate::api::error::ApiError;
use crate::api::page;
use crate::model::bounds;
use crate::model::filter::Filters;
use crate::model::filter::deployment::DeploymentFilter;
use crate::model::filter::flow::FlowFilter;
use crate::model::filter::flow_run::FlowRunFilter;
use crate::model::filter::task_run::TaskRunFilter;
use crate::model::filter::work_pool::WorkPoolFilter;
use crate::model::filter::work_queue::WorkQueueFilter;

/// What the body may hold; a route ignores what it has no use for, as the reference does.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub struct ListBody<S: Default> {
    // The reference looks at the limit first.
    pub limit: Option<i64>,
    #[serde(deserialize_with = "crate::model::bounds::non_negative")]
    pub offset: Option<i64>,
    #[serde(deserialize_with = "crate::model::bounds::from_one")]
    pub page: Option<i64>,
    pub sort: S,
    pub flows: Option<FlowFilter>,
    pub flow_runs: Option<FlowRunFilter>,
    pub task_runs: Option<TaskRunFilter>,
    pub deployments: Option<DeploymentFilter>,
    pub work_pools: Option<WorkPoolFilter>,
    /// On work queues.
    pub work_pool_queues: Option<WorkQueueFilter>,
}

/// The body of a count: filters only. The UI sends order and page too, which are passed over unseen, as the reference
/// does.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub struct CountBody {
    pub flows: Option<FlowFilter>,
    pub flow_runs: Option<FlowRunFilter>,
    pub task_runs: Option<TaskRunFilter>,
    pub deployments: Option<DeploymentFilter>,
    pub work_pools: Option<WorkPoolFilter>,
    /// On work queues.
    pub work_pool_queues: Option<WorkQueueFilter>,
}

impl CountBody {
    /// The filters.
    pub fn into_filters(self) -> Filters {
        Filters {
            flows: self.flows,
            flow_runs: self.flow_runs,
            task_runs: self.task_runs,
            deployments: self.deployments,
            work_pools: self.work_pools,
            work_queues: self.work_pool_queues,
        }
    }
}

impl<S: Default> ListBody<S> {
    /// The checked limit and offset.
    ///
    /// # Errors
    /// 422.
    pub fn window(&self) -> Result<(u64, u64), ApiError> {
        Ok((page::limit(self.limit)?, page::offset(self.offset)?))
    }

    /// The checked limit and page, and the page's offset.
    ///
    /// # Errors
    /// 422.
    pub fn paged(&self) -> Result<(u64, u64, u64), ApiError> {
        let (limit, page) = (page::limit(self.limit)?, page::page(self.page)?);
        Ok((limit, page, (page - 1).saturating_mul(limit)))
    }

    /// The filters, and the order.
    pub fn into_filters(self) -> (Filters, S) {
        let filters = Filters {
            flows: self.flows,
            flow_runs: self.flow_runs,
            task_runs: self.task_runs,
            deployments: self.deployments,
            work_pools: self.work_pools,
            work_queues: self.work_pool_queues,
        };
        (filters, self.sort)
    }
}

/// Objects that one bulk operation touches, at most and by default.
pub const BULK_ITEMS: i64 = 50;

/// Reads the limit of a bulk operation: from 1 to [`BULK_ITEMS`].
pub fn bulk_items<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<i64>, D::Error> {
    let limit = Option::<i64>::deserialize(deserializer)?;
    limit.map(|limit| bounds::at_least(limit, 1).and_then(|limit| bounds::at_most(limit, BULK_ITEMS))).transpose()
}

/// The limit of a bulk operation, as [`bulk_items`] has read it.
pub fn bulk_limit(given: Option<i64>) -> u64 {
    given.unwrap_or(BULK_ITEMS).unsigned_abs()
}
