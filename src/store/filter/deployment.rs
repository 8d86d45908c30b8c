//! [`DeploymentFilter`] as a condition on `deployment`, [`DeploymentScheduleFilter`] on `deployment_schedule`.

use sea_query::{Condition, Expr, ExprTrait, Query};

use super::{Operator, join, part};
use crate::model::filter::deployment::{DeploymentFilter, DeploymentScheduleFilter};
use crate::store::Dialect;
use crate::store::schema as t;

/// The condition.
pub fn condition(filter: &DeploymentFilter, dialect: Dialect) -> Condition {
    let column = |column| Expr::col((t::Deployment::Table, column));
    let either_name = filter.flow_or_deployment_name.as_ref().map(|either| {
        let like = either.like_.as_ref();
        let of_flow = part::like(like, Expr::col(("named", t::Flow::Name)), dialect).map(|flow_name| {
            let flow = Query::select()
                .expr(Expr::val(1))
                .from_as(t::Flow::Table, "named")
                .and_where(Expr::col(("named", t::Flow::Id)).equals((t::Deployment::Table, t::Deployment::FlowId)))
                .and_where(flow_name)
                .take();
            Expr::exists(flow)
        });
        part::given(Operator::Or, [part::like(like, column(t::Deployment::Name), dialect), of_flow])
    });
    join(
        filter.operator,
        [
            part::any_id_or_not(filter.id.as_ref(), column(t::Deployment::Id), dialect),
            part::name(filter.name.as_ref(), column(t::Deployment::Name), dialect),
            either_name,
            part::equal(filter.paused.as_ref(), column(t::Deployment::Paused)),
            part::tags_or_any(filter.tags.as_ref(), column(t::Deployment::Tags), dialect),
            part::any_text(filter.work_queue_name.as_ref(), column(t::Deployment::WorkQueueName)),
        ],
    )
}

/// The condition on schedules.
pub fn schedule_condition(filter: &DeploymentScheduleFilter) -> Condition {
    let active = Expr::col((t::DeploymentSchedule::Table, t::DeploymentSchedule::Active));
    join(filter.operator, [part::equal(filter.active.as_ref(), active)])
}
