//! [`FlowFilter`] as a condition on `flow`.

use sea_query::{Condition, Expr, ExprTrait, Query};

use super::{join, part};
use crate::model::filter::flow::FlowFilter;
use crate::store::Dialect;
use crate::store::schema as t;

/// The condition.
pub fn condition(filter: &FlowFilter, dialect: Dialect) -> Condition {
    let column = |column| Expr::col((t::Flow::Table, column));
    let deployment = filter.deployment.as_ref().map(|deployment| {
        let flows = || Query::select().column(t::Deployment::FlowId).from(t::Deployment::Table).take();
        let with = deployment
            .is_null_
            .map(|null| if null { column(t::Flow::Id).not_in_subquery(flows()) } else { column(t::Flow::Id).in_subquery(flows()) });
        part::given(deployment.operator, [with])
    });
    join(
        filter.operator,
        [
            part::any_id_or_not(filter.id.as_ref(), column(t::Flow::Id), dialect),
            deployment,
            part::name(filter.name.as_ref(), column(t::Flow::Name), dialect),
            part::tags(filter.tags.as_ref(), column(t::Flow::Tags), dialect),
        ],
    )
}
