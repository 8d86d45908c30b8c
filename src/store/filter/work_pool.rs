//! [`WorkPoolFilter`] as a condition on `work_pool`.

use sea_query::{Condition, Expr};

use super::{join, part};
use crate::model::filter::work_pool::WorkPoolFilter;
use crate::store::Dialect;
use crate::store::schema as t;

/// The condition.
pub fn condition(filter: &WorkPoolFilter, dialect: Dialect) -> Condition {
    let column = |column| Expr::col((t::WorkPool::Table, column));
    join(
        filter.operator,
        [
            part::any_id(filter.id.as_ref(), column(t::WorkPool::Id), dialect),
            part::any_text(filter.name.as_ref(), column(t::WorkPool::Name)),
            part::any_text(filter.kind.as_ref(), column(t::WorkPool::Type)),
        ],
    )
}
