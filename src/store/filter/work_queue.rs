//! [`WorkQueueFilter`] as a condition on `work_queue`.

use sea_query::{Condition, Expr, ExprTrait};

use super::{Operator, join, part};
use crate::model::filter::work_queue::{WorkQueueFilter, WorkQueueFilterName};
use crate::store::Dialect;
use crate::store::schema as t;

/// The condition.
pub fn condition(filter: &WorkQueueFilter, dialect: Dialect) -> Condition {
    let id = Expr::col((t::WorkQueue::Table, t::WorkQueue::Id));
    join(filter.operator, [part::any_id(filter.id.as_ref(), id, dialect), filter.name.as_ref().map(|name| self::name(name, dialect))])
}

fn name(filter: &WorkQueueFilterName, dialect: Dialect) -> Condition {
    let column = || Expr::col((t::WorkQueue::Table, t::WorkQueue::Name));
    let any = filter.any_.as_ref().map(|any| column().is_in(any));
    let starts = filter.startswith_.as_ref().and_then(|starts| {
        let each = starts.iter().map(|start| dialect.ilike(column(), format!("{start}%")));
        each.reduce(ExprTrait::or)
    });
    part::given(Operator::And, [any, starts])
}
