//! The body of list, count and paginate requests over flows, runs and deployments: filters side by side, order, page.

use schemars::JsonSchema;
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

/// The bodies of the lists and counts of a resource: `CountBody` holds filters, `ListBody` order and window as well,
/// `PageBody` order and page. What else is sent is passed over unseen, as the reference does.
macro_rules! bodies {
    ($($(#[$doc:meta])* $name:ident: $($filter:ident: $kind:ident as $target:ident),+;)*) => {$(
        $(#[$doc])*
        pub mod $name {
            use super::*;

            /// Filters only. The UI sends order and page too.
            #[derive(Debug, Clone, Default, Deserialize, JsonSchema)]
            #[serde(default)]
            pub struct CountBody {
                $(pub $filter: Option<$kind>,)+
            }

            /// Filters, order, and which part of the list.
            #[derive(Debug, Clone, Default, Deserialize, JsonSchema)]
            #[serde(default)]
            pub struct ListBody<S: Default> {
                // The reference looks at the limit first.
                pub limit: Option<i64>,
                #[serde(deserialize_with = "bounds::non_negative")]
                pub offset: Option<i64>,
                pub sort: S,
                $(pub $filter: Option<$kind>,)+
            }

            /// Filters, order, and which page.
            #[derive(Debug, Clone, Default, Deserialize, JsonSchema)]
            #[serde(default)]
            pub struct PageBody<S: Default> {
                pub limit: Option<i64>,
                #[serde(deserialize_with = "bounds::from_one")]
                pub page: Option<i64>,
                pub sort: S,
                $(pub $filter: Option<$kind>,)+
            }

            impl CountBody {
                /// The filters.
                pub fn into_filters(self) -> Filters {
                    let mut filters = Filters::default();
                    $(filters.$target = self.$filter;)+
                    filters
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

                /// The filters, and the order.
                pub fn into_filters(self) -> (Filters, S) {
                    (CountBody { $($filter: self.$filter,)+ }.into_filters(), self.sort)
                }
            }

            impl<S: Default> PageBody<S> {
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
                    (CountBody { $($filter: self.$filter,)+ }.into_filters(), self.sort)
                }
            }
        }
    )*};
}

bodies! {
    /// Of flows.
    of_flows:
        flows: FlowFilter as flows,
        flow_runs: FlowRunFilter as flow_runs,
        task_runs: TaskRunFilter as task_runs,
        deployments: DeploymentFilter as deployments,
        work_pools: WorkPoolFilter as work_pools;
    /// Of flow runs and of deployments.
    of_queued:
        flows: FlowFilter as flows,
        flow_runs: FlowRunFilter as flow_runs,
        task_runs: TaskRunFilter as task_runs,
        deployments: DeploymentFilter as deployments,
        work_pools: WorkPoolFilter as work_pools,
        work_pool_queues: WorkQueueFilter as work_queues;
    /// Of task runs.
    of_task_runs:
        flows: FlowFilter as flows,
        flow_runs: FlowRunFilter as flow_runs,
        task_runs: TaskRunFilter as task_runs,
        deployments: DeploymentFilter as deployments;
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
